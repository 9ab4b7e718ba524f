"""The folder of a cohort's results: who may write into it, and whether a run continues an earlier one.

::

    OUT/cohort.json     which table of patients it belongs to (a hash), so that another one is not mixed with it
    OUT/p0001/visit_2/  a visit's folder; p0001 is in row 2 of the table
    OUT/p0001/report.html, report.json
    OUT/results.csv, results.parquet, cohort.html
    OUT/.orders/        while it runs: what the tasks are about, for the user's eyes only
    OUT/.lock           while it runs
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from P2SAMSlicerLib.atomic_file import TEMPORARY_PREFIX, atomic_write, check_writable
from P2SAMSlicerLib.cohort.manifest import ManifestRow, fingerprint
from P2SAMSlicerLib.cohort.results_table import CSV_NAME, PARQUET_NAME, REPORTS, VISIT_NAME
from P2SAMSlicerLib.errors import InputError, OutputError

MARKER_NAME, LOCK_NAME, PAGE_NAME = "cohort.json", ".lock", "cohort.html"
FORMAT, FORMAT_VERSION = "P2SAMSlicer cohort", 1
_PATIENT = re.compile(r"p[0-9]{4,}")
#: Results are some megabytes a patient; less room than this is not worth beginning.
LEAST_BYTES = 50_000_000


@contextmanager
def cohort_folder(out: Path, rows: Sequence[ManifestRow], *, resume: bool, overwrite: bool) -> Iterator[Path]:
    """The folder, checked, and ours alone for the length of a ``with`` block.

    :param resume: go on with what an earlier run of the same table began; more rows may have been added at its end.
    :param overwrite: remove what an earlier run wrote.
    :raises InputError: it holds something else, or results that are neither to be resumed nor replaced.
    :raises OutputError: no permission, no space, or another run is writing into it.
    """
    out = out.absolute()
    _check(out, rows, resume=resume, overwrite=overwrite)
    check_writable(out, LEAST_BYTES)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{out.name}: cannot be made ({(error.strerror or 'disk').lower()})") from error
    with _locked(out):
        if overwrite:
            remove_results(out)
        remove_unfinished(out)
        _mark(out, rows)
        try:
            yield out
        except BaseException:
            with suppress(OSError):  # nothing came of it, so nothing has to be resumed
                if not any(path.name not in (MARKER_NAME, LOCK_NAME) for path in out.iterdir()):
                    (out / MARKER_NAME).unlink()
            raise
        finally:
            remove_unfinished(out)


def remove_results(out: Path) -> None:
    """Remove what an earlier run wrote, and nothing else.

    :raises OutputError: it cannot be removed.
    """
    try:
        for name in (CSV_NAME, PARQUET_NAME, PAGE_NAME):
            (out / name).unlink(missing_ok=True)
        for patient in _patients(out):
            for visit in list(patient.iterdir()):
                if visit.is_dir() and not visit.is_symlink() and (visit / VISIT_NAME).is_file():
                    shutil.rmtree(visit)
            for name in REPORTS:
                (patient / name).unlink(missing_ok=True)
            with suppress(OSError):  # something of someone else's is in it
                patient.rmdir()
    except OSError as error:
        raise OutputError(f"{out.name}: earlier results cannot be removed ({(error.strerror or 'disk').lower()})") from error


def remove_unfinished(out: Path) -> None:
    """Remove what workers that were killed left of their unfinished writing."""
    for folder in (out, *_patients(out)):
        with suppress(OSError):
            for path in list(folder.glob(f"{TEMPORARY_PREFIX}*")):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)


def _patients(out: Path) -> list[Path]:
    return [path for path in out.iterdir() if _PATIENT.fullmatch(path.name) and path.is_dir() and not path.is_symlink()]


def _check(out: Path, rows: Sequence[ManifestRow], *, resume: bool, overwrite: bool) -> None:
    """Refuse a folder that holds anything else than results of this table."""
    if not out.exists():
        return
    if not out.is_dir():
        raise OutputError(f"{out.name}: is a file, where a folder for the results is wanted")
    try:
        names = [path.name for path in out.iterdir() if not path.name.startswith(".")]
    except OSError as error:
        raise OutputError(f"{out.name}: cannot be read ({(error.strerror or 'disk').lower()})") from error
    if not names:
        return
    marker = _marker(out)
    if marker is None:
        raise InputError(f"{out.name}: holds files that are no cohort's results; choose another folder for --out")
    if overwrite:
        return
    if not resume:
        raise InputError(f"{out.name}: holds a cohort's results; --resume goes on with them, --overwrite replaces them")
    count = marker.get("rows")
    if not isinstance(count, int) or not 0 < count <= len(rows) or marker.get("sha256") != fingerprint(rows[:count]):
        raise InputError(
            f"{out.name}: was begun with another table of patients (only rows at its end may be added);"
            " choose another folder, or --overwrite"
        )


def _marker(out: Path) -> dict[str, Any] | None:
    try:
        found = json.loads((out / MARKER_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.get("format") == FORMAT else None


def _mark(out: Path, rows: Sequence[ManifestRow]) -> None:
    content = {"format": FORMAT, "format_version": FORMAT_VERSION, "rows": len(rows), "sha256": fingerprint(rows)}
    with atomic_write(out / MARKER_NAME) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Keep a second run out; the system opens the lock however this one ends."""
    from filelock import FileLock, Timeout

    lock = FileLock(out / LOCK_NAME, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise OutputError(f"{out.name}: another run is writing into it") from error
    except (OSError, NotImplementedError):  # a network folder that knows no locks
        yield
        return
    try:
        yield
    finally:
        lock.release(force=True)
        with suppress(OSError):
            (out / LOCK_NAME).unlink(missing_ok=True)
