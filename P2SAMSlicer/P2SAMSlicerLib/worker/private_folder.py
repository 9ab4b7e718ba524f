"""A private folder for what goes between a program and its worker; nothing in it outlives the program.

It holds CTs and who they are of. Only the user may look into it, and it is removed when the program is done with it. What a
program that was killed left is removed by its worker, which outlives it by some moments, or else when the next one makes its
own: a lock in the folder, which the system opens when its holder ends however it ends, says whether somebody still needs it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from P2SAMSlicerLib.errors import OutputError

#: Begins the name of every such folder.
PREFIX = "p2samslicer-"
LOCK_NAME = "in-use"
#: A folder without a lock was left by a program that ended while it made it; one that is younger than this, in seconds, may
#: just be being made.
MAKING_SECONDS = 3600.0
#: Nobody else knows a folder that was just made; a file system that takes longer to lock a file in it does not lock.
LOCK_SECONDS = 10.0
#: A program that ends closes its pipes and opens its locks one after the other: how long, in seconds, to wait for the latter.
ENDING_SECONDS = 0.5


class PrivateFolder:
    """Makes the folder, and removes it with all that is in it at the end of a ``with`` block, or by :meth:`remove`.

    :param parent: where to make it; the system's folder for temporary files if None.
    :raises OutputError: it cannot be made.
    """

    def __init__(self, parent: Path | None = None) -> None:
        from filelock import FileLock

        home = Path(tempfile.gettempdir()) if parent is None else parent
        remove_leftovers(home)
        made: Path | None = None
        try:
            # Made for its owner alone (mode 0700); on Windows the folder for temporary files is the user's own.
            self.path = made = Path(tempfile.mkdtemp(prefix=PREFIX, dir=home))
            # Of the process and not of a thread: whichever thread removes the folder has to open the lock.
            self._lock = FileLock(made / LOCK_NAME, thread_local=False)
            self._lock.acquire(timeout=LOCK_SECONDS)
        except (OSError, NotImplementedError) as error:  # the latter: a network folder that knows no locks
            if made is not None:
                shutil.rmtree(made, ignore_errors=True)
            reason = (getattr(error, "strerror", None) or "it cannot be locked").lower()
            raise OutputError(f"no folder for temporary files can be made ({reason})") from error

    def __enter__(self) -> PrivateFolder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.remove()

    def remove(self) -> None:
        """Remove the folder; again is no fault."""
        self._lock.release(force=True)
        shutil.rmtree(self.path, ignore_errors=True)


def remove_leftovers(parent: Path) -> None:
    """Remove this user's private folders that nobody needs any more. What cannot be looked at is left alone."""
    with suppress(OSError):
        for path in list(parent.glob(f"{PREFIX}*")):
            if _is_own(path) and _is_left(path):
                shutil.rmtree(path, ignore_errors=True)


def remove_abandoned() -> None:
    """Remove what a program that has just ended, or is ending, left in the system's folder for temporary files."""
    time.sleep(ENDING_SECONDS)
    remove_leftovers(Path(tempfile.gettempdir()))


def _is_own(path: Path) -> bool:
    """Whether it is a folder, no link, of this user."""
    try:
        return path.is_dir() and not path.is_symlink() and (os.name == "nt" or path.stat().st_uid == os.getuid())
    except OSError:
        return False


def _is_left(path: Path) -> bool:
    """Whether whoever made the folder has ended."""
    from filelock import FileLock, Timeout

    try:
        if not (path / LOCK_NAME).exists():
            return time.time() - path.stat().st_mtime > MAKING_SECONDS
        lock = FileLock(path / LOCK_NAME)
        lock.acquire(timeout=0)
        lock.release(force=True)
    except (Timeout, OSError, NotImplementedError):
        return False
    return True
