"""Writing results so that nobody ever sees half of one: a file, or a set of files, appears whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from P2SAMSlicerLib.errors import OutputError, P2SAMError

#: Every temporary name begins with this. After a killed process such an entry may be left; it can be deleted.
TEMPORARY_PREFIX = ".p2sam-"

#: A temporary file keeps the end of the target's name, because writers choose the format by it; a longer end is no format.
LONGEST_SUFFIX = 16


@contextmanager
def atomic_write(path: Path | str) -> Iterator[Path]:
    """Write one file through a temporary sibling that takes the target's name only when it is complete.

    The caller writes to the yielded path inside the ``with`` block (and does nothing else there that may fail with an
    ``OSError``). At the end the data is flushed to the disk and the temporary file replaces the target in one step. After any
    exception, a keyboard interrupt included, the temporary file is gone and what was there before is untouched.

    :param path: the file to write; its folder must exist.
    :raises OutputError: no space, no permission, no such folder.
    """
    target = Path(path)
    temporary = target.parent / f"{_temporary_name()}{_suffix(target)}"
    try:
        # Created here rather than by the tempfile module, whose files are closed to everyone but their owner.
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        yield temporary
        _flush_file(temporary)
        temporary.replace(target)
        _flush_folder(target.parent)
    except P2SAMError:
        raise
    except OSError as error:
        raise _output_error(target, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(out_dir: Path | str, last: str = "") -> Iterator[Path]:
    """Write a set of files into a folder: all of them or none.

    The caller writes into the yielded hidden folder, which lies on the same file system as ``out_dir``. At the end of the
    ``with`` block a folder that does not exist yet appears in one step; into an existing one the files move one by one, where
    files of the same name are replaced and others stay, and a failure on the way puts everything back. After any exception,
    a keyboard interrupt included, ``out_dir`` is as it was. A process that is killed leaves at most a hidden folder
    ``.p2sam-*``, or, killed during the moves themselves, some files new and the others old, each of them whole.

    :param out_dir: the folder for the results; it and its parents are made if needed.
    :param last: name of the file that says that the others are there: it moves after them, so that it never says so too soon.
    :raises OutputError: no space, no permission, or a file stands in the way.
    """
    target = Path(out_dir)
    made: list[Path] = []
    work: Path | None = None
    done = False
    try:
        _make_folders(target.parent, made)
        if target.exists() and not target.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "a file of that name is in the way")
        # Inside an existing target, because that may be a mount point, with its parent on another file system.
        home = target if target.is_dir() else target.parent
        work = home / _temporary_name()
        stage = work / "new"
        stage.mkdir(parents=True)
        yield stage
        for file in stage.rglob("*"):
            if file.is_file():
                _flush_file(file)
        if target.exists():
            _move_into(stage, target, work / "old", last)
        else:
            stage.replace(target)
        _flush_folder(target)
        done = True
    except P2SAMError:
        raise
    except OSError as error:
        raise _output_error(target, error) from error
    finally:
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)
        if not done:
            _undo([folder.rmdir for folder in made])


def check_writable(out_dir: Path | str, need_bytes: int = 0) -> None:
    """Refuse, before any work is done, a folder into which the results cannot be written later.

    :param out_dir: the folder for the results; it need not exist yet.
    :param need_bytes: room that the results will need.
    :raises OutputError: not a folder, no permission, or less free space than needed.
    """
    target = Path(out_dir)
    try:
        folder = target.absolute()
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "it is, or lies below, a file")
        # Permission bits say too little (network folders, access lists, Windows): only trying tells.
        probe = folder / _temporary_name()
        os.close(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        probe.unlink()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise _output_error(target, error) from error
    if free < need_bytes:
        raise OutputError(f"{_name(target)}: not enough space, {need_bytes / 1e6:.0f} MB needed and {free / 1e6:.0f} MB free")


def remove_temporary(folder: Path, process: int) -> None:
    """Remove what a process that was killed left of its unfinished writing in a folder.

    :param process: its id; it must have ended.
    """
    with suppress(OSError):
        for path in list(folder.glob(f"{_temporary_name(process)}*")):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with suppress(OSError):
                    path.unlink()


def _temporary_name(process: int | None = None) -> str:
    """A name that nobody else takes; without its random end, the beginning of all those of a process that is named."""
    if process is not None:
        return f"{TEMPORARY_PREFIX}{process}-"
    return f"{_temporary_name(os.getpid())}{secrets.token_hex(6)}"


def _suffix(path: Path) -> str:
    """The end of the name that tells the format, such as ``.nii.gz``; in lower case, as some writers know no other."""
    for suffix in ("".join(path.suffixes[-2:]), path.suffix):
        if len(suffix) <= LONGEST_SUFFIX:
            return suffix.lower()
    return ""


def _name(path: Path) -> str:
    """The last part of a path, for messages: full paths may hold a patient's name."""
    return path.name or path.absolute().name or str(path)


def _output_error(path: Path, error: OSError) -> OutputError:
    reason = error.strerror or type(error).__name__
    return OutputError(f"{_name(path)}: cannot be written ({reason[:1].lower()}{reason[1:]})")


def _flush_file(path: Path) -> None:
    """Have the system put a file's data on the disk; only then may it replace another."""
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def _flush_folder(path: Path) -> None:
    """Have the system put a folder's entries on the disk, where it can (Windows cannot); the files are safe either way."""
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _make_folders(folder: Path, made: list[Path]) -> None:
    """Make a folder and its parents; those that were not there before are appended to ``made``."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for each in reversed(missing):
        each.mkdir()
        made.append(each)


def _move_into(stage: Path, target: Path, backups: Path, last: str) -> None:
    """Move everything below ``stage`` to the same place below ``target``, the file named ``last`` at the end; or nothing."""
    backups.mkdir()
    undo: list[Callable[[], object]] = []
    try:
        for number, source in enumerate(sorted(stage.rglob("*"), key=lambda path: (path == stage / last, path))):
            goal = target / source.relative_to(stage)
            if source.is_dir():
                if not goal.is_dir():
                    goal.mkdir()
                    undo.append(goal.rmdir)
                continue
            if goal.is_dir():
                raise IsADirectoryError(errno.EISDIR, f"{goal.name} is a folder there")
            if os.path.lexists(goal):
                backup = backups / str(number)
                _keep(goal, backup)
                undo.append(_replacing(backup, goal))
            else:
                undo.append(goal.unlink)
            source.replace(goal)
    except BaseException:
        _undo(undo)
        raise


def _keep(file: Path, backup: Path) -> None:
    """A second name for a file, so that replacing the first leaves no moment without it; a copy where there are no links."""
    try:
        os.link(file, backup, follow_symlinks=False)
    except (OSError, NotImplementedError):
        shutil.copy2(file, backup, follow_symlinks=False)


def _replacing(source: Path, goal: Path) -> Callable[[], object]:
    return lambda: source.replace(goal)


def _undo(steps: list[Callable[[], object]]) -> None:
    """Take steps back, the last one first; one that cannot be taken back does not stop the others."""
    for step in reversed(steps):
        with suppress(OSError):
            step()
