"""The clinic's own cases: CTs with a contoured tumour, each known by a number, so that what is written names no patient.

Below the clinic's folder, a case is a sub-folder with a CT file and a contour file, or a DICOM CT series (anywhere below) with
the structure sets or segmentations that were drawn on it. A sub-folder may hold ``case.json`` with its ``site``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from P2SAMSlicerLib.case_folder import read_facts
from P2SAMSlicerLib.commissioning.tolerances import SITE_NAME
from P2SAMSlicerLib.errors import InputError, P2SAMError
from P2SAMSlicerLib.intensity import check_hounsfield
from P2SAMSlicerLib.patient.visit_order import CtSource
from P2SAMSlicerLib.progress import Progress, silent
from P2SAMSlicerLib.resample import segments_on_grid
from P2SAMSlicerLib.segmentation_file import read_segmentation
from P2SAMSlicerLib.structure_role import is_margin_or_organ
from P2SAMSlicerLib.volume import Segment, Volume
from P2SAMSlicerLib.volume_file import read_volume
from P2SAMSlicerLib.volume_header import short_name, volume_suffix

UNKNOWN_SITE = "unknown"
#: What every case's structure is called from the moment when it was chosen.
TUMOUR = "GTV"
#: Words in the name of a file that say that it holds contours; ``.seg.nrrd`` always does.
CONTOUR_WORDS = re.compile(r"seg|mask|contour|label|struct|roi|gtv|tumou?r", re.IGNORECASE)
#: A case that ``p2sam simulate`` made is taken as it was before: its own follow-up is no visit of the clinic's.
FOLLOWUP_FILES = "followup"

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
        found += _in_dicom(folder, progress)
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
    try:
        ct, segment, warnings = _read_dicom(case, names) if case.ct.dicom else _read_files(case, names)
        warnings = [*ct.warnings, *check_hounsfield(ct), *warnings]
    except P2SAMError as error:
        raise InputError(case.without_names(str(error))) from error
    # Its own name decided what it is; from here on it is the tumour.
    tumour = Segment(TUMOUR, segment.mask)
    return ClinicData(replace(ct, name=case.name), tumour, tuple(case.without_names(each) for each in warnings))


def _read_files(case: ClinicCase, names: Sequence[str]) -> tuple[Volume, Segment, list[str]]:
    ct = read_volume(case.ct.paths[0])
    refusals = []
    for path in case.contours:
        segmentation = read_segmentation(path)
        nameless = len(segmentation.segments) == 1 and segmentation.names() == [short_name(path)]
        if nameless and not names:
            chosen = segmentation.segments[0].name
        else:
            try:
                chosen = _tumour(segmentation.segments, names)
            except InputError as error:
                refusals.append(error)
                continue
        segments, warnings = segments_on_grid(segmentation, [chosen], ct.grid)
        return ct, segments[0], warnings
    raise refusals[0]


def _read_dicom(case: ClinicCase, names: Sequence[str]) -> tuple[Volume, Segment, list[str]]:
    from P2SAMSlicerLib.dicom.read_contours import segments_from
    from P2SAMSlicerLib.dicom.series import read_ct_series

    series = read_ct_series(case.ct.paths, case.name)
    refusals = []
    for path in case.contours:
        # One by one: a structure set may hold a hundred structures, each as large as the CT.
        for wanted in [[name] for name in names] or [[]]:
            try:
                segments, warnings = segments_from(path, series.volume, series.reference, wanted)
                chosen = _tumour(segments, wanted)
            except InputError as error:
                refusals.append(error)
                continue
            return series.volume, next(each for each in segments if each.name == chosen), list(warnings)
    raise refusals[0]


def _tumour(segments: Sequence[Segment], names: Sequence[str]) -> str:
    """Name of the structure that is measured.

    :raises InputError: none, or more than one.
    """
    there = [segment.name for segment in segments]
    if names:
        chosen = [name for name in names if name in there][:1]
        if not chosen:
            raise InputError(f"has no structure named {' or '.join(names)}; it has: {', '.join(there) or 'none'}")
        (segment,) = [each for each in segments if each.name == chosen[0]][:1]
        if is_margin_or_organ(segment):
            raise InputError(f"'{segment.name}' is a margin or an organ, which no model is asked for: measure tumours")
        return segment.name
    tumours = [segment.name for segment in segments if not is_margin_or_organ(segment)]
    if len(tumours) != 1:
        several = f"which structure is the tumour? Name it with --segment: {', '.join(tumours)}"
        raise InputError(several if tumours else f"holds no tumour; it has: {', '.join(there) or 'nothing'}")
    return tumours[0]


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


def _in_dicom(folder: Path, progress: Progress) -> list[_Found]:
    """The contoured CT series anywhere below a folder."""
    from P2SAMSlicerLib.dicom.folder_index import index_folder
    from P2SAMSlicerLib.dicom.indexed_series import SeriesKind

    index = index_folder(folder, progress)
    found = []
    for number, series in enumerate(index.of_kind(SeriesKind.CT)):
        drawn = sorted(index.contours_on(series), key=lambda each: each.approval != "APPROVED")
        contours = tuple(path for each in drawn for path in each.paths)
        if not contours:
            continue
        parts = series.paths[0].relative_to(folder).parts
        top = folder / parts[0] if len(parts) > 1 else folder
        site = _site_of(top, "a sub-folder with DICOM files")
        # A series without a patient's id is a patient of its own: nothing tells whose it is.
        patient = f"DICOM {number}" if series.patient_id is None else f"DICOM id {series.patient_id}"
        place = f"{'/'.join(parts[:-1])} | {series.patient_id or ''}"
        found.append(_Found(patient, site, CtSource(series.paths, True), contours, place))
    return found


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
