"""A server of weights on this machine, which does what a test wants of it."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

CONTENT = np.random.default_rng(0).bytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Server:
    """What the server does, and what it was asked.

    :param cuts: after how many bytes of the body each further connection is cut.
    """

    address: str = ""
    content: bytes = CONTENT
    status: int = 200
    ignores_range: bool = False
    wrong_range: bool = False
    hides_length: bool = False
    delay_s: float = 0.0
    cuts: list[int] = field(default_factory=list)
    requests: list[tuple[str, str | None]] = field(default_factory=list)

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        wanted = handler.headers.get("Range")
        self.requests.append((handler.path, wanted))
        time.sleep(self.delay_s)
        start = 0 if wanted is None or self.ignores_range else int(wanted[len("bytes=") : -1])
        total = len(self.content)
        if self.status != 200:
            handler.send_error(self.status)
            return
        if start >= total:
            handler.send_response(416)
            handler.send_header("Content-Range", f"bytes */{total}")
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        handler.send_response(206 if start else 200)
        if start:
            first = 0 if self.wrong_range else start
            handler.send_header("Content-Range", f"bytes {first}-{total - 1}/{total}")
        if not self.hides_length:
            handler.send_header("Content-Length", str(total - start))
        handler.end_headers()
        body = self.content[start:]
        if self.cuts:
            body = body[: self.cuts.pop(0)]
        handler.wfile.write(body)


@contextmanager
def serving() -> Iterator[Server]:
    """A server that listens until the end of the block."""
    behaviour = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            behaviour.answer(self)

        def log_message(self, *args: Any) -> None:
            """Silent."""

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    behaviour.address = f"http://127.0.0.1:{listening.server_port}"
    yield behaviour
    listening.shutdown()
    listening.server_close()
    thread.join(timeout=10)
