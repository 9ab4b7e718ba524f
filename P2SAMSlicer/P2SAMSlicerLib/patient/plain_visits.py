"""A patient as plain files: a sub-folder a visit, with one CT file and perhaps contours."""

from __future__ import annotations

import re
from pathlib import Path

from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.patient.contour_facts import ContourFacts, contour_facts
from P2SAMSlicerLib.patient.found_visit import FoundVisit, date_in, natural_order
from P2SAMSlicerLib.patient.visit_folder import VISIT_NAME
from P2SAMSlicerLib.patient.visit_order import ContourSource, CtSource
from P2SAMSlicerLib.volume_header import short_name, volume_suffix

LAYOUT = (
    "wanted is DICOM, or a sub-folder for each visit, called by its date (YYYY-MM-DD), with one CT file (.nii.gz, .nrrd, .mha)"
    " and perhaps contours (.seg.nrrd, or a label map with 'seg', 'contour' or 'mask' in its name)"
)


def plain_visits(folder: Path, *, dated_only: bool = False) -> list[FoundVisit]:
    """The visits in the sub-folders of a folder, by name; folders without such files are passed over.

    :param dated_only: only sub-folders with a date in their name: beside DICOM, others hold anything.
    :raises InputError: a sub-folder holds several CTs, or contours without a CT. It is told by its number: names may hold a
        patient's.
    """
    try:
        below = sorted((path for path in folder.iterdir() if path.is_dir()), key=lambda path: natural_order(path.name))
    except OSError as error:
        raise InputError(f"the patient's folder cannot be opened ({(error.strerror or 'unknown reason').lower()})") from error
    found = []
    for number, each in enumerate(below, start=1):
        if each.name.startswith(".") or (each / VISIT_NAME).exists() or (dated_only and date_in(each.name) is None):
            continue
        visit = _visit(each, f"sub-folder {number} of {len(below)}")
        if visit is not None:
            found.append(visit)
    return found


def _visit(folder: Path, where: str) -> FoundVisit | None:
    try:
        files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    except OSError as error:
        raise InputError(f"{where}: cannot be opened ({(error.strerror or 'unknown reason').lower()})") from error
    files = [path for path in files if volume_suffix(path)]
    contours = [path for path in files if _is_contours(path)]
    cts = [path for path in files if path not in contours]
    if len(cts) > 1:
        raise InputError(f"{where}: holds {len(cts)} CT files, where a visit has one; {LAYOUT}")
    if contours and not cts:
        raise InputError(f"{where}: holds contours and no CT file; {LAYOUT}")
    if not cts:
        return None
    sources = [(path, _facts(path, where)) for path in contours]
    return FoundVisit(
        acquired=date_in(folder.name),
        folder=folder.name,
        ct=CtSource((cts[0],), dicom=False),
        contours=tuple(ContourSource(path, facts.approved) for path, facts in sources if facts.names and not facts.drawn_here),
    )


def _facts(path: Path, where: str) -> ContourFacts:
    try:
        return contour_facts(path)
    except InputError as error:
        raise InputError(str(error).replace(path.name, f"{where}, contours")) from error


def _is_contours(path: Path) -> bool:
    name = path.name.lower()
    return name.endswith(".seg.nrrd") or re.search("seg|contour|mask", short_name(path).lower()) is not None
