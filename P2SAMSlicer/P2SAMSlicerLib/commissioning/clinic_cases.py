"""The clinic's own cases: CTs with a contoured tumour, each known by a number, so that what is written names no patient.

Below the clinic's folder, a case is a sub-folder with a CT file and a contour file, or a DICOM CT series (anywhere below) with
the structure sets or segmentations that were drawn on it. A sub-folder may hold ``case.json`` with its ``site``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from P2SAMSlicerLib.case_folder import read_facts
from P2SAMSlicerLib.commissioning.tolerances import SITE_NAME
from P2SAMSlicerLib.errors import InputError, P2SAMError
from P2SAMSlicerLib.intensity import check_hounsfield
from P2SAMSlicerLib.patient.contour_facts import contour_facts
from P2SAMSlicerLib.patient.visit_order import CtSource
from P2SAMSlicerLib.progress import Progress, silent
from P2SAMSlicerLib.structure_role import is_margin_or_organ
from P2SAMSlicerLib.volume import BoolArray, Segment, VisitIdentity, Volume
from P2SAMSlicerLib.volume_file import read_volume
from P2SAMSlicerLib.volume_header import short_name, volume_suffix

if TYPE_CHECKING:
    from P2SAMSlicerLib.dicom.ct_reference import CtReference

UNKNOWN_SITE = "unknown"
#: What every case's structure is called from the moment when it was chosen.
TUMOUR = "GTV"
#: Words in the name of a file that say that it holds contours; ``.seg.nrrd`` always does.
CONTOUR_WORDS = re.compile(r"seg|mask|contour|label|struct|roi|gtv|tumou?r", re.IGNORECASE)
#: A case that ``p2sam simulate`` made is taken as it was before: its own follow-up is no visit of the clinic's.
FOLLOWUP_FILES = "followup"

_NO_MASK: BoolArray = np.zeros((0, 0, 0), dtype=np.bool_)

LAYOUT = "sub-folders with a CT and its contours (.nii.gz, .nrrd, .mha, .seg.nrrd), or DICOM CT series with RTSTRUCT or SEG"


@dataclass(frozen=True)
class ClinicCase:
    """One contoured CT, not read yet.

    :param name: ``case_001``, ``case_002``, ...: the only name that is ever shown.
    :param patient: ``1``, ``2``, ...: the same for CTs of one patient.
    :param contours: files that were drawn on this CT, those that were approved first.
    :param place: its folder below the clinic's, and the patient's id where DICOM tells it: for the private list of names only.
    """

    name: str
    patient: str
    site: str
    ct: CtSource
    contours: tuple[Path, ...]
    place: str

    def without_names(self, text: str) -> str:
        """A message with the names of this case's files and folders taken out, as they may be a patient's."""
        names: set[str] = set()
        for path in (*self.ct.paths, *self.contours):
            names |= {path.name, short_name(path), path.stem, path.parent.name}
        names |= {part for part in re.split(r"[/\\]| \| ", self.place) if part}
        for name in sorted(names, key=len, reverse=True):
            # A name of one or two letters would be found in any word.
            pattern = re.escape(name) if len(name) > 2 else rf"(?<!\w){re.escape(name)}(?!\w)"
            text = re.sub(pattern, self.name, text) if name else text
        return " ".join(re.sub(rf"{self.name}(\W+{self.name})+", self.name, text).split())


@dataclass(frozen=True)
class ClinicData:
    """A case's CT and its tumour.

    :param segment: mask on the CT's grid.
    """

    ct: Volume
    segment: Segment
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Found:
    """A case without its number."""

    patient: str
    site: str
    ct: CtSource
    contours: tuple[Path, ...]
    place: str


def find_clinic_cases(folder: Path, site: str | None = None, progress: Progress = silent) -> list[ClinicCase]:
    """All cases of the clinic's folder, numbered: first those in files by their folders' names, then those in DICOM.

    :param site: of all cases; None for what the sub-folders' ``case.json`` tell.
    :raises InputError: the folder is not there or holds no case; a sub-folder in which it is not clear which file is which.
    """
    if not folder.is_dir():
        raise InputError(f"{folder.name or folder}: not a folder of cases")
    found: list[_Found] = []
    dicom = False
    for number, sub in enumerate(_subfolders(folder), start=1):
        in_files = _in_files(sub, number)
        found += [in_files] if in_files else []
        dicom = dicom or in_files is None
    if dicom or any(path.is_file() for path in folder.iterdir()):
        found += _in_dicom(folder, {each.place for each in found}, progress)
    if not found:
        raise InputError(f"the folder of cases holds none: it needs {LAYOUT}")
    patients: dict[str, str] = {}
    cases = []
    for number, each in enumerate(found, start=1):
        patient = patients.setdefault(each.patient, str(len(patients) + 1))
        own = each.site if site is None else site
        cases.append(ClinicCase(f"case_{number:03d}", patient, own, each.ct, each.contours, each.place))
    return cases


def read_clinic_case(case: ClinicCase, names: Sequence[str] = ()) -> ClinicData:
    """Read a case's CT and the tumour on it.

    :param names: of the tumour's structure: the first of these that the case has. Without names the case's only structure, or
        the only one that is neither a margin nor an organ.
    :raises InputError: not readable, no such structure, or not clear which one; without any name of a file or folder.
    """
    from P2SAMSlicerLib.dicom.read_contours import segments_from

    try:
        path, name = _tumour(case.contours, names)
        ct, reference = _read_ct(case)
        (segment, *_), warnings = segments_from(path, ct, reference, [name])
        if is_margin_or_organ(segment) and not _nameless(path, name):
            raise InputError(f"'{name}' is a margin or an organ, for which no model is asked: tumours are measured")
        told = [*ct.warnings, *check_hounsfield(ct), *warnings]
    except P2SAMError as error:
        raise InputError(case.without_names(str(error))) from error
    # Its own name decided what it is; from here on it is the tumour.
    return ClinicData(
        replace(ct, name=case.name, identity=VisitIdentity()),
        Segment(TUMOUR, segment.mask),
        tuple(case.without_names(each) for each in told),
    )


def _read_ct(case: ClinicCase) -> tuple[Volume, CtReference | None]:
    if not case.ct.dicom:
        return read_volume(case.ct.paths[0]), None
    from P2SAMSlicerLib.dicom.series import read_ct_series

    series = read_ct_series(case.ct.paths, case.name)
    return series.volume, series.reference


def _tumour(contours: Sequence[Path], names: Sequence[str]) -> tuple[Path, str]:
    """The file and the name of the structure that is measured, told by headers.

    :raises InputError: none, or more than one.
    """
    there: list[tuple[Path, str]] = []
    refusals = []
    for path in contours:
        try:
            facts = contour_facts(path)
        except InputError as error:
            refusals.append(error)
            continue
        # What this tool drew is no truth to measure it by.
        there += [] if facts.drawn_here else [(path, name) for name in facts.names]
    for wanted in names:
        found = [each for each in there if each[1] == wanted]
        if found:
            return found[0]  # of several files the one that was approved stands first
    listed = ", ".join(dict.fromkeys(name for _, name in there)) or "none"
    if names:
        raise (
            refusals[0]
            if not there and refusals
            else InputError(f"has no structure named {' or '.join(names)}; it has: {listed}")
        )
    tumours = [(path, name) for path, name in there if _nameless(path, name) or not is_margin_or_organ(Segment(name, _NO_MASK))]
    if len(tumours) == 1:
        return tumours[0]
    if tumours:
        raise InputError(f"which structure is the tumour? Name it with --segment: {', '.join(name for _, name in tumours)}")
    raise refusals[0] if refusals else InputError(f"holds no tumour; it has: {listed}")


def _nameless(path: Path, name: str) -> bool:
    """Whether a structure is only called by its file, as that of a label map is."""
    return name == short_name(path)


def _subfolders(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")]


def _in_files(folder: Path, number: int) -> _Found | None:
    """The case of a sub-folder with image files; None if there are none, so that it may hold DICOM.

    :raises InputError: it is not clear which file is the CT.
    """
    images = [
        path
        for path in sorted(folder.iterdir())
        if path.is_file() and volume_suffix(path) and not path.name.lower().startswith((FOLLOWUP_FILES, "."))
    ]
    if not images:
        return None
    contours = [path for path in images if path.name.lower().endswith(".seg.nrrd") or CONTOUR_WORDS.search(short_name(path))]
    cts = [path for path in images if path not in contours]
    # By number: the folder's name may be the patient's.
    where = f"sub-folder {number} (by name)"
    if len(cts) != 1 or not contours:
        raise InputError(
            f"{where}: holds {len(cts)} image files that may be the CT and {len(contours)} with contours; one CT is needed, and"
            " contours whose file's name ends in .seg.nrrd or says so (seg, mask, contour, gtv)"
        )
    return _Found(folder.name, _site_of(folder, where), CtSource((cts[0],), False), tuple(contours), folder.name)


def _in_dicom(folder: Path, taken: Collection[str], progress: Progress) -> list[_Found]:
    """The contoured CT series anywhere below a folder.

    :param taken: names of sub-folders whose case is in files of another format.
    """
    from P2SAMSlicerLib.dicom.folder_index import index_folder
    from P2SAMSlicerLib.dicom.indexed_series import SeriesKind

    index = index_folder(folder, progress)
    known = {file.sop_instance_uid for series in index.of_kind(SeriesKind.CT) for file in series.files}
    found = []
    for number, series in enumerate(index.of_kind(SeriesKind.CT)):
        images = {file.sop_instance_uid for file in series.files}
        drawn = [
            each
            for each in index.contours_on(series)
            # Of several phases in one series, those of the one whose images they name.
            if each.referenced_instances & images or not each.referenced_instances & known
        ]
        drawn.sort(key=lambda each: each.approval != "APPROVED")
        contours = tuple(path for each in drawn for path in each.paths)
        parts = _parts(series.paths[0], folder)
        if not contours or parts[0] in taken:
            continue
        site = _site_of(folder / parts[0] if len(parts) > 1 else folder, "a sub-folder with DICOM files")
        # A series without a patient's id is a patient of its own: nothing tells whose it is.
        patient = f"DICOM {number}" if series.patient_id is None else f"DICOM id {series.patient_id}"
        place = f"{'/'.join(parts[:-1])} | {series.patient_id or ''}"
        found.append(_Found(patient, site, CtSource(series.paths, True), contours, place))
    return found


def _parts(path: Path, folder: Path) -> tuple[str, ...]:
    """The folders below the clinic's that lead to a file, and its name."""
    try:
        return path.absolute().relative_to(folder.absolute()).parts
    except ValueError:  # by a link
        return (path.name,)


def _site_of(folder: Path, where: str) -> str:
    """The site that a folder's ``case.json`` tells."""
    try:
        site = read_facts(folder).get("site", UNKNOWN_SITE)
    except InputError as error:
        raise InputError(f"{where}: case.json is not readable") from error
    return check_site(site, f"{where}: case.json")


def check_site(site: object, where: str) -> str:
    """A site's name as reports may show it.

    :raises InputError: not a short plain word.
    """
    if not isinstance(site, str) or not SITE_NAME.fullmatch(site):
        raise InputError(f"{where}: the site must be a short word of letters, digits, spaces and dashes, such as lung")
    return site
