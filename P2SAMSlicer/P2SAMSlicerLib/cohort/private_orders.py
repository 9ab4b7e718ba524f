"""What a task is about lies in a file that only its owner may read; the task itself carries nothing but a random token.

So neither the scheduler nor its logs nor anything else between the program and its workers learns of a patient. The folder is
``OUT/.orders`` (mode 0700, files 0600). The worker also leaves there how often a task was begun, and what came of it. The
folder is removed at the end of a run; what a killed run left is removed by the next.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from P2SAMSlicerLib.errors import OutputError

FOLDER_NAME = ".orders"
_TOKEN = re.compile(r"[0-9a-f]{32}")
ORDER, STARTS, OUTCOME = ".order", ".starts", ".outcome"


class PrivateOrders:
    """The driver's end: orders are put in, and outcomes taken out.

    :param out: folder of the cohort's results, which exists.
    :raises OutputError: the folder cannot be made.
    """

    def __init__(self, out: Path) -> None:
        self.path = out / FOLDER_NAME
        try:
            shutil.rmtree(self.path, ignore_errors=True)
            self.path.mkdir(mode=0o700)
        except OSError as error:
            raise OutputError(f"{FOLDER_NAME}: cannot be made in the folder for the results ({error.strerror})") from error

    def put(self, order: Mapping[str, Any]) -> str:
        """Keep an order for a worker.

        :param order: plain values.
        :returns: its token.
        :raises OutputError: no space, no permission.
        """
        token = secrets.token_hex(16)
        try:
            _write_private(self.path / f"{token}{ORDER}", json.dumps(order))
        except OSError as error:
            raise OutputError(f"{FOLDER_NAME}: an order cannot be written ({(error.strerror or 'disk').lower()})") from error
        return token

    def starts(self, token: str) -> int:
        """How often a worker began it."""
        try:
            return (self.path / f"{token}{STARTS}").stat().st_size
        except OSError:
            return 0

    def outcome(self, token: str) -> dict[str, Any] | None:
        """What came of it; None if no worker said."""
        try:
            found = json.loads((self.path / f"{token}{OUTCOME}").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def drop(self, token: str) -> None:
        """Remove everything about it."""
        for suffix in (ORDER, STARTS, OUTCOME):
            with suppress(OSError):
                (self.path / f"{token}{suffix}").unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the folder; again is no fault."""
        shutil.rmtree(self.path, ignore_errors=True)


@dataclass(frozen=True)
class BegunOrder:
    """An order that a worker has taken.

    :param starts: how often it was begun, this time included.
    """

    content: dict[str, Any]
    starts: int


def begin_order(folder: Path, token: str) -> BegunOrder:
    """The worker's end: note that a task is begun, and read its order.

    :raises OSError: the folder cannot be read or written from here.
    :raises ValueError: no token, or a damaged order.
    """
    _check_token(token)
    path = folder / f"{token}{ORDER}"
    order = json.loads(path.read_text(encoding="utf-8"))
    with _open_private(folder / f"{token}{STARTS}", os.O_APPEND) as file:
        file.write(b".")
        file.flush()
        starts = os.fstat(file.fileno()).st_size
    if not path.exists():
        # Dropped in the meantime, after a worker before had ended: nobody would remove the note.
        (folder / f"{token}{STARTS}").unlink(missing_ok=True)
        raise FileNotFoundError(errno.ENOENT, "the order was dropped")
    if not isinstance(order, dict):
        raise ValueError("an order is an object")
    return BegunOrder(order, starts)


def finish_order(folder: Path, token: str, outcome: Mapping[str, Any]) -> None:
    """The worker's end: say what came of a task; whole or not at all.

    :raises OSError: the folder is no longer there or cannot be written.
    """
    _check_token(token)
    temporary = folder / f"{token}.{secrets.token_hex(4)}"
    _write_private(temporary, json.dumps(outcome))
    temporary.replace(folder / f"{token}{OUTCOME}")


def _check_token(token: str) -> None:
    # It becomes part of a path.
    if not _TOKEN.fullmatch(token):
        raise ValueError("no token")


def _write_private(path: Path, text: str) -> None:
    with _open_private(path, os.O_EXCL) as file:
        file.write(text.encode("utf-8"))


def _open_private(path: Path, flags: int) -> Any:
    return os.fdopen(os.open(path, os.O_CREAT | os.O_WRONLY | flags, 0o600), "wb")
