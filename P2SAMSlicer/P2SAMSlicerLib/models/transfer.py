"""One file over HTTP into a part file: resumed after a cut, never larger than the disk, never taken for complete too early.

The standard library does it: nothing more to install in Slicer, and ``urllib`` honours the proxies of the environment and of
the operating system.
"""

from __future__ import annotations

import errno
import http.client
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from P2SAMSlicerLib import __version__
from P2SAMSlicerLib.errors import ModelError, OutputError

#: Bytes read at once; progress is told and an interrupt is noticed this often.
BLOCK = 1 << 20

#: Seconds without any byte after which a connection counts as dead.
TIMEOUT_S = 30.0

#: Broken connections in a row, none of which got further, after which a download is given up; seconds between two.
ATTEMPTS = 4
RETRY_WAIT_S = 2.0

#: HTTP status of trouble that may pass: time-out, too many requests, an overloaded or restarting server.
PASSING_TROUBLE = (408, 429, 500, 502, 503, 504)

#: Room that must stay free on the disk.
SPARE_BYTES = 64 << 20

#: Told how many bytes are there, and of how many (0 if the server does not say).
ByteProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class _Body:
    """What a server is about to send.

    :param stream: its bytes.
    :param start: where in the file they begin.
    :param total: size of the whole file, or None.
    """

    stream: IO[bytes]
    start: int
    total: int | None


def fetch(url: str, part: Path, name: str, expected_bytes: int | None, progress: ByteProgress, *, resume: bool) -> None:
    """Download a file, going on where ``part`` ends.

    A connection that breaks is made again a few times. Whatever ends the download, a keyboard interrupt included, ``part``
    stays for the next try, except after a full disk.

    :param part: where the bytes go; it is complete when this function returns.
    :param name: the model, for messages.
    :param expected_bytes: size of the whole file, or None.
    :param resume: go on with what an earlier call left in ``part``, instead of beginning anew.
    :raises ModelError: the server cannot be reached, refuses, or keeps breaking off.
    :raises OutputError: the disk is full or cannot be written.
    """
    host = urlsplit(url).hostname or url
    try:
        if not resume:
            part.unlink(missing_ok=True)
        best, failures = _size(part), 0
        while not _fetch_once(url, part, name, expected_bytes, progress):
            # A long download over a bad line may break off often; it is given up only where it no longer gets ahead.
            failures = 0 if _size(part) > best else failures + 1
            best = max(best, _size(part))
            if failures >= ATTEMPTS:
                kept = _megabytes(_size(part))
                raise ModelError(
                    f"{name}: the connection to {host} keeps breaking off; {kept} are kept, download again to go on"
                )
            time.sleep(RETRY_WAIT_S)
    except urllib.error.HTTPError as error:
        with error:
            reason = "there is no such file" if error.code == http.client.NOT_FOUND else f"the server refuses: {error.reason}"
        raise ModelError(f"{name}: cannot be downloaded from {host} (HTTP {error.code}, {reason})") from None
    except urllib.error.URLError as error:
        raise ModelError(
            f"{name}: cannot reach {host} ({_reason(error.reason)}); is there a network, or a proxy to set?"
        ) from None
    except OutputError:
        raise
    except OSError as error:
        if error.errno == errno.ENOSPC:
            part.unlink(missing_ok=True)
        raise OutputError(f"{part.parent}: cannot be written ({_reason(error)})") from None


def _fetch_once(url: str, part: Path, name: str, expected_bytes: int | None, progress: ByteProgress) -> bool:
    """One connection; whether the file is complete after it."""
    have = _size(part)
    if have and have == expected_bytes:
        return True
    try:
        response = _open(url, have)
    except urllib.error.HTTPError as error:
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            # The part is as long as the file, or longer: complete if the server confirms its size, worthless if not.
            with error:
                complete = error.headers.get("Content-Range", "").strip() == f"bytes */{have}"
            if not complete:
                part.unlink()
            return complete
        if error.code not in PASSING_TROUBLE:
            raise
        error.close()
        return False
    except urllib.error.URLError as error:
        if isinstance(error.reason, (ConnectionResetError, TimeoutError)):
            return False
        raise
    except (http.client.HTTPException, OSError):
        return False
    with response:
        body = _body(response, have)
        if body is None:
            return False
        _check_space(part.parent, name, (body.total or expected_bytes or 0) - body.start)
        with part.open("ab" if body.start else "wb") as file:
            return _copy(body, file, progress)


def _open(url: str, start: int) -> Any:
    headers = {"User-Agent": f"P2SAMSlicer/{__version__}", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    # A new opener each time: urlopen keeps the proxies that were set when the process first used it.
    return urllib.request.build_opener().open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S)


def _body(response: Any, have: int) -> _Body | None:
    """Where the answer begins: a server may ignore the wish for a range and send everything. None for another range."""
    length = response.headers.get("Content-Length")
    length = int(length) if length is not None and length.isdigit() else None
    if response.status == http.client.PARTIAL_CONTENT:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", "").strip())
        if match is None or int(match[1]) != have:
            return None
        return _Body(response, have, None if match[2] == "*" else int(match[2]))
    return _Body(response, 0, length)


def _copy(body: _Body, file: IO[bytes], progress: ByteProgress) -> bool:
    """Whether all bytes came. ``read`` ends quietly when a connection is cut, so the length has the last word."""
    done = body.start
    progress(done, body.total or 0)
    while block := _read(body.stream):
        file.write(block)
        done += len(block)
        progress(done, body.total or 0)
    return body.total is None or done == body.total


def _read(stream: IO[bytes]) -> bytes:
    """The next bytes; none at the end, and none where the connection breaks."""
    try:
        return stream.read(BLOCK)
    except (http.client.HTTPException, OSError):
        return b""


def _check_space(folder: Path, name: str, need: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < need + SPARE_BYTES:
        raise OutputError(f"{folder}: not enough space for {name}, {_megabytes(need)} needed and {_megabytes(free)} free")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.0f} MB"


def _reason(error: object) -> str:
    """A system's or a library's reason on one line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__
