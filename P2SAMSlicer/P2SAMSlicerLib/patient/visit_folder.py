"""The folder of one visit that was carried: ``visit.json`` says what is in it and from what it was made.

``visit.json`` is strict JSON: ``format``, ``format_version``, ``key`` (:func:`P2SAMSlicerLib.patient.visit_key.visit_key`),
``label``, ``number``, ``day`` (since the first visit, or null), ``carried_from``, ``references`` (labels of the visits whose
contours were carried), ``unreviewed_references`` (those of them that nobody has reviewed), ``reference_of`` (for each structure
its references), ``outcome`` (``done`` or ``failed``). A visit that is done has ``exports``, ``pictures``,
``reference_agreement`` (null, or for each structure that several references have), ``notes`` and ``files`` (SHA-256 of every
other file in the folder); one that failed has ``reason`` and no other file. Nothing in it names a patient, a date or a path.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from P2SAMSlicerLib.atomic_file import atomic_folder
from P2SAMSlicerLib.errors import InputError, OutputError
from P2SAMSlicerLib.models.checkpoint import hash_file
from P2SAMSlicerLib.patient.visit_key import visit_key
from P2SAMSlicerLib.patient.visit_order import VisitOrder
from P2SAMSlicerLib.result_files import write_json

VISIT_NAME = "visit.json"
FORMAT = "P2SAMSlicer visit folder"
FORMAT_VERSION = 1
DONE, FAILED = "done", "failed"


def read_visit_folder(folder: Path | str) -> dict[str, Any]:
    """The content of a visit folder's ``visit.json``.

    :raises InputError: there is none, or it is none of this format.
    """
    folder = Path(folder)
    try:
        content = json.loads((folder / VISIT_NAME).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{folder.name}: no visit folder (it has no {VISIT_NAME})") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{folder.name}: its {VISIT_NAME} cannot be read") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT or content.get("outcome") not in (DONE, FAILED):
        raise InputError(f"{folder.name}: its {VISIT_NAME} is not one that this program writes")
    if content.get("format_version") != FORMAT_VERSION:
        raise InputError(f"{folder.name}: its {VISIT_NAME} is of another version of this program")
    files = content.get("files", {})
    if not isinstance(files, dict) or not all(_is_inside(name) for name in files):
        raise InputError(f"{folder.name}: its {VISIT_NAME} is damaged")
    return content


def _is_inside(name: Any) -> bool:
    """Whether a file's name stays within its folder, whatever system wrote it."""
    return (
        isinstance(name, str)
        and bool(name)
        and not set(name) & set("\\:\0")
        and not PurePosixPath(name).is_absolute()
        and ".." not in PurePosixPath(name).parts
    )


def is_finished(folder: Path | str, order: VisitOrder) -> bool:
    """Whether a folder holds, unchanged, what carrying this order would write.

    :raises InputError: an input of the order cannot be read.
    """
    try:
        content = read_visit_folder(folder)
    except InputError:
        return False
    if content["outcome"] != DONE or content.get("key") != visit_key(order):
        return False
    return files_unchanged(Path(folder), content)


def is_done(folder: Path) -> bool:
    """Whether a folder holds the results of a visit, of whatever run."""
    try:
        return bool(read_visit_folder(folder)["outcome"] == DONE)
    except InputError:
        return False


def files_unchanged(folder: Path, content: dict[str, Any]) -> bool:
    """Whether all files of a finished visit are there as they were written."""
    try:
        return all(hash_file(folder / name) == digest for name, digest in content.get("files", {}).items())
    except OSError:
        return False


def head_of(order: VisitOrder) -> dict[str, Any]:
    """What ``visit.json`` says of every visit, done or failed, without the key."""
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "label": order.followup.label,
        "number": order.followup.number,
        "day": order.followup.day,
        "carried_from": order.carried_from,
        "references": [visit.label for visit in order.references],
        "unreviewed_references": list(order.unreviewed),
    }


def write_failed_visit(order: VisitOrder, reason: str) -> dict[str, Any]:
    """Record that nothing could be carried to a visit; results of an earlier run in its folder go.

    :param reason: in one line; without names, dates and paths.
    :returns: the content of ``visit.json``.
    :raises OutputError: it cannot be written.
    """
    check_visit_folder(order.out)
    content = {**head_of(order), "outcome": FAILED, "reason": " ".join(reason.split())}
    before = written_files(order.out)
    with atomic_folder(order.out) as stage:
        write_json(stage / VISIT_NAME, content)
    remove_files(order.out, before)
    return content


def check_visit_folder(folder: Path) -> None:
    """Refuse to write a visit into a folder that holds something else.

    :raises InputError: it is there and is neither empty nor a visit folder.
    """
    if not os.path.lexists(folder):
        return
    if not folder.is_dir():
        raise InputError(f"{folder.name}: is there already and is no folder; choose another one for --out")
    if any(not each.name.startswith(".p2sam-") for each in folder.iterdir()):
        try:
            read_visit_folder(folder)
        except InputError:
            raise InputError(
                f"{folder.name}: is in the folder for the results already and is none of them; choose another one for --out"
            ) from None


def written_files(folder: Path) -> list[str]:
    """Files of a visit folder that its ``visit.json`` lists; none if there is no such folder."""
    try:
        return list(read_visit_folder(folder).get("files", {}))
    except InputError:
        return []


def remove_files(folder: Path, names: list[str]) -> None:
    """Remove files of an earlier run, so that nothing stands beside a record that knows nothing of it.

    :raises OutputError: one cannot be removed.
    """
    for name in names:
        try:
            (folder / name).unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"{folder.name}: a file of an earlier run cannot be removed; do not use it") from error
    for name in sorted({str(PurePosixPath(name).parent) for name in names} - {"."}, reverse=True):
        with suppress(OSError):
            (folder / name).rmdir()


def hashes_of(stage: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder, by its name in it."""
    files = sorted(path for path in stage.rglob("*") if path.is_file())
    return {path.relative_to(stage).as_posix(): hash_file(path) for path in files}
