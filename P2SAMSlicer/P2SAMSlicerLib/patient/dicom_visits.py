"""A patient as DICOM: series become visits, and of each visit's CT series the one that is meant is chosen."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from P2SAMSlicerLib.dicom.indexed_series import DicomIndex, IndexedSeries, SeriesKind
from P2SAMSlicerLib.dicom.phases import PAIRING_TOLERANCE
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.patient.contour_facts import contour_facts
from P2SAMSlicerLib.patient.found_visit import FoundVisit
from P2SAMSlicerLib.patient.visit_order import ContourSource, CtSource

#: A series with at most this share of the slices of the longest one is a scout, or a reconstruction with thicker slices.
LESSER_SHARE = 0.6

#: Words in the description of an average over a 4D study; and of a projection, which is no CT: it shows a tumour everywhere
#: where it has been.
_AVERAGE = re.compile(r"(?<![a-z])(ave|avg|avip|aip|average|averaged|mean)(?![a-z])", re.IGNORECASE)
_PROJECTION = re.compile(r"(?<![a-z])(mip|mipi|minip|maxip|maximum|minimum)(?![a-z])", re.IGNORECASE)

_HOW_TO_CHOOSE = "leave only the one that is meant below the patient's folder, or name the files themselves in a script"

_Contours = Mapping[Path, Sequence[ContourSource]]


#: ``ApprovalStatus`` of contours that a physician found wrong.
REJECTED = "REJECTED"


def key_of(series: IndexedSeries) -> Path:
    """What tells one series from another; their UIDs do not, where one held several phases."""
    return series.paths[0]


def dicom_visits(index: DicomIndex, folder: Path, *, allow_other_patient: bool = False) -> list[FoundVisit]:
    """The visits of an indexed folder: a study on a date each.

    :raises InputError: several patients, or it is not plain which CT series of a visit is meant.
    """
    patients = {each for each in index.patient_ids() if each}
    if len(patients) > 1 and not allow_other_patient:
        raise InputError(
            f"the folder holds {len(patients)} patients; give the folder of one (--allow-other-patient takes all as one,"
            " and records it)"
        )
    groups: dict[tuple[str, str], list[IndexedSeries]] = {}
    for series in index.of_kind(SeriesKind.CT):
        groups.setdefault(((series.acquired or "")[:8], series.study_uid), []).append(series)
    contours: dict[Path, list[ContourSource]] = {}
    for number, (_, group) in enumerate(sorted(groups.items()), start=1):
        try:
            contours.update({key_of(series): _contours_of(index, series) for series in group})
        except InputError as error:
            raise InputError(f"visit {number} of {len(groups)} by date, its contours: {error}") from error
    # Contoured visits first: they say which phase of a 4D study the others have to show.
    phase: float | None = None
    chosen: dict[tuple[str, str], IndexedSeries] = {}
    notes: dict[tuple[str, str], list[str]] = {}
    for contoured in (True, False):
        for key, group in sorted(groups.items()):
            if any(contours[key_of(series)] for series in group) is not contoured:
                continue
            chosen[key] = choose_ct(group, contours, phase)
            notes[key] = _notes(chosen[key], group, contours, phase) + _rejected_note(index, group)
            if phase is None and contoured:
                phase = chosen[key].phase
    if len({each.patient_id for each in chosen.values()} - patients) and patients:
        for key, series in chosen.items():
            if series.patient_id is None:
                notes[key].append("its CT names no patient, others do: whether they are of the same one was not checked")
    return [_visit(chosen[key], contours[key_of(chosen[key])], folder, notes[key]) for key in sorted(groups)]


def _visit(series: IndexedSeries, contours: Sequence[ContourSource], folder: Path, notes: Sequence[str]) -> FoundVisit:
    own = _own_folder(series.paths, folder)
    return FoundVisit(series.acquired, own, CtSource(series.paths, dicom=True), tuple(contours), tuple(notes))


def _notes(taken: IndexedSeries, group: Sequence[IndexedSeries], contours: _Contours, phase: float | None) -> list[str]:
    """Which of several CT series was taken, and why, in words; nothing where there is only one."""
    if len(group) == 1:
        return []
    what = f"one of {len(group)} CT series on this date was taken"
    if contours[key_of(taken)]:
        return [f"{what}: the one that has contours"]
    if taken.phase is not None:
        return [f"{what}: phase {taken.phase:g} % of a 4D study, as the contours are on {phase or 0:g} %"]
    if not any(series.phase is not None for series in group):
        return [f"{what}: the one with most slices, of {_counts(group)}"]
    other = "" if phase is None else f", though the contours are on phase {phase:g} %: its 4D study has no such phase"
    return [f"{what}: {'the average' if _is_average(taken) else 'the one that is no phase'} of a 4D study{other}"]


def _own_folder(paths: Sequence[Path], folder: Path) -> str:
    """The folder right below the patient's that holds all files of a series; empty if there is none."""
    names = set()
    for path in paths:
        try:
            parts = path.absolute().relative_to(folder.absolute()).parts
        except ValueError:
            parts = ()
        names.add(parts[0] if len(parts) > 1 else "")
    return names.pop() if len(names) == 1 else ""


def _contours_of(index: DicomIndex, ct: IndexedSeries) -> list[ContourSource]:
    """A physician's contours on a CT; never what this tool wrote, nor what a physician rejected."""
    found = []
    images = {file.sop_instance_uid for file in ct.files}
    known = {file.sop_instance_uid for series in index.of_kind(SeriesKind.CT) for file in series.files}
    for series in index.contours_on(ct):
        if series.approval == REJECTED:
            continue
        # Of several phases in one series, the one whose images they name.
        if series.referenced_instances & known and not series.referenced_instances & images:
            continue
        for path in series.paths:
            facts = contour_facts(path)
            if not facts.drawn_here and facts.names:
                found.append(ContourSource(path, facts.approved))
    return found


def _rejected_note(index: DicomIndex, group: Sequence[IndexedSeries]) -> list[str]:
    rejected = {key_of(each) for ct in group for each in index.contours_on(ct) if each.approval == REJECTED}
    return [f"{len(rejected)} of its structure sets not used, because rejected (ApprovalStatus)"] if rejected else []


def choose_ct(group: Sequence[IndexedSeries], contours: _Contours, phase: float | None = None) -> IndexedSeries:
    """The CT series that is meant of those of one visit.

    The only one; else the only one with contours, or with approved ones; of a 4D study the phase that was contoured on another
    visit, else the average; else the one with most slices, if all others have clearly fewer.

    :param contours: of each series, by :func:`key_of`.
    :param phase: in percent, of the contoured CT of another visit; None if that is an average or no 4D study.
    :raises InputError: it is not plain which one is meant.
    """
    if len(group) == 1:
        return group[0]
    contoured = [series for series in group if contours[key_of(series)]]
    approved = [series for series in contoured if any(each.approved for each in contours[key_of(series)])]
    for some in (contoured, approved, [series for series in contoured if _is_average(series)]):
        if len(some) == 1:
            return some[0]
    if contoured:
        raise InputError(f"a visit has contours on {len(contoured)} CT series; {_HOW_TO_CHOOSE}, or approve one")
    if any(series.phase is not None for series in group):
        return _of_four_dimensions(group, phase)
    most = max(_slices(series) for series in group)
    longest = [series for series in group if _slices(series) > LESSER_SHARE * most]
    if len(longest) > 1:
        raise InputError(
            f"a visit has {len(group)} CT series that could be meant, with {_counts(group)} slices; {_HOW_TO_CHOOSE}"
        )
    return longest[0]


def _of_four_dimensions(group: Sequence[IndexedSeries], phase: float | None) -> IndexedSeries:
    same = [series for series in group if phase is not None and series.phase is not None and _near(series.phase, phase)]
    averages = [series for series in group if series.phase is None and _is_average(series)]
    most = max(_slices(series) for series in group)
    still = [series for series in group if series.phase is None and not _PROJECTION.search(series.label)]
    whole = [series for series in still if _slices(series) > LESSER_SHARE * most]
    for some in (same, averages, whole):
        if len(some) == 1:
            return some[0]
    phases = sum(series.phase is not None for series in group)
    raise InputError(f"a visit has a 4D study of {phases} phases and no one average; {_HOW_TO_CHOOSE}")


def _near(first: float, second: float) -> bool:
    """Whether two places in the breathing cycle are the same; 0 and 100 % are."""
    apart = abs(first - second) % 100.0
    return min(apart, 100.0 - apart) <= PAIRING_TOLERANCE


def _is_average(series: IndexedSeries) -> bool:
    return _AVERAGE.search(series.label) is not None


def _slices(series: IndexedSeries) -> int:
    return sum(file.frames for file in series.files)


def _counts(group: Sequence[IndexedSeries]) -> str:
    numbers = sorted((_slices(series) for series in group), reverse=True)
    return ", ".join(str(number) for number in numbers[:-1]) + f" and {numbers[-1]}"
