"""A patient's visits as the files that a person names one by one, instead of a folder that is searched."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from P2SAMSlicerLib.dicom.indexed_series import IndexedSeries, SeriesKind
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.patient.contour_facts import contour_facts
from P2SAMSlicerLib.patient.found_visit import FoundVisit, days_of
from P2SAMSlicerLib.patient.visit_order import ContourSource, CtSource, PatientVisit


@dataclass(frozen=True)
class GivenFiles:
    """What shall be carried where.

    :param prior_ct: a CT file, or a folder with one DICOM CT series.
    :param prior_contours: RTSTRUCT, DICOM SEG, ``.seg.nrrd`` or label map; or a folder with one RTSTRUCT or SEG.
    :param followups: CTs like the prior's, the earliest first.
    """

    prior_ct: Path
    prior_contours: Path
    followups: tuple[Path, ...]


def visits_of_files(files: GivenFiles) -> tuple[PatientVisit, ...]:
    """The visits, in the order in which they were given; the first is the prior.

    Whether a follow-up is older than the prior, or of another patient, is told where contours are carried to it.

    :raises InputError: no follow-up, a folder without exactly one CT series, contours that cannot be read or that this tool
        drew and nobody accepted.
    """
    from P2SAMSlicerLib.dicom.read_contours import contour_file

    if not files.followups:
        raise InputError("no follow-up CT is given")
    contours = contour_file(files.prior_contours)[1]
    facts = contour_facts(contours)
    if facts.drawn_here:
        raise InputError("the prior's contours were drawn by this tool, and nobody has accepted them")
    found = [_visit(files.prior_ct, "the prior's CT", (ContourSource(contours, facts.approved),))]
    found += [_visit(path, f"the CT of follow-up {number}") for number, path in enumerate(files.followups, start=1)]
    days = days_of([visit.acquired for visit in found])
    return tuple(
        PatientVisit(number, f"visit_{number}", day, visit.acquired, visit.ct, visit.contours, visit.notes)
        for number, (visit, day) in enumerate(zip(found, days, strict=True), start=1)
    )


def _visit(path: Path, what: str, contours: tuple[ContourSource, ...] = ()) -> FoundVisit:
    if not path.exists():
        raise InputError(f"{what}: no such file or folder")
    if not path.is_dir():
        return FoundVisit(None, "", CtSource((path,), dicom=False), contours)
    series, lost = _only_series(path, what)
    notes = (f"in its folder {lost}",) if lost else ()
    return FoundVisit(series.acquired, "", CtSource(series.paths, dicom=True), contours, notes)


def _only_series(folder: Path, what: str) -> tuple[IndexedSeries, str]:
    """The CT series of a folder, and what could not be read there."""
    from P2SAMSlicerLib.dicom.folder_index import index_folder

    index = index_folder(folder)
    series = index.of_kind(SeriesKind.CT)
    if len(series) != 1:
        raise InputError(f"{what}: its folder holds {len(series) or 'no'} DICOM CT series, where one is needed")
    return series[0], index.lost()
