"""A patient's visits below a folder: DICOM however it lies, or plain files in a sub-folder a visit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from P2SAMSlicerLib.dicom.indexed_series import SeriesKind
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.patient.dicom_visits import dicom_visits
from P2SAMSlicerLib.patient.found_visit import in_order
from P2SAMSlicerLib.patient.plain_visits import LAYOUT, plain_visits
from P2SAMSlicerLib.patient.visit_order import PatientVisit
from P2SAMSlicerLib.progress import Progress, silent


def find_visits(
    folder: Path | str, progress: Progress = silent, *, allow_other_patient: bool = False
) -> tuple[PatientVisit, ...]:
    """The visits of one patient, numbered by date.

    DICOM: a visit is a study on a date; see :func:`P2SAMSlicerLib.patient.dicom_visits.choose_ct` for which of its CT series
    is taken. Contours are structure sets and segmentations that say they were drawn on that series, but never those that this
    tool wrote or that were rejected. Plain files: see :data:`P2SAMSlicerLib.patient.plain_visits.LAYOUT`; without dates the
    visits are in the order of the folders' names and have no day.

    :param allow_other_patient: take several patients as one; the override is recorded where contours are carried.
    :raises InputError: no visit, several patients, CTs of which it is not plain which is meant, or visits whose order is not
        known. The message tells no name, date or path.
    """
    from P2SAMSlicerLib.dicom.folder_index import index_folder

    folder = Path(folder)
    if not folder.is_dir():
        raise InputError("the patient's folder is not there, or is no folder")
    index = index_folder(folder, progress)
    is_dicom = bool(index.of_kind(SeriesKind.CT))
    plain = plain_visits(folder, dated_only=is_dicom)
    if plain and is_dicom:
        raise InputError("the folder holds both DICOM CTs and visits as CT files of other formats; give one kind")
    if not plain and not is_dicom:
        raise InputError(f"no CT below the patient's folder; {LAYOUT}")
    if plain:
        return in_order(plain)
    found = dicom_visits(index, folder, allow_other_patient=allow_other_patient)
    # Of which visit they are cannot be told. A first or last slice that is lost leaves no gap.
    notes = (f"below the patient's folder {told}",) if (told := index.lost()) else ()
    return in_order([replace(each, notes=(*each.notes, *notes)) for each in found])
