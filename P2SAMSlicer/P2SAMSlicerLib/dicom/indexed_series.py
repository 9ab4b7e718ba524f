"""What a folder of DICOM files holds, told by headers alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

#: Reasons why a file is in no series though it may have been one's.
DAMAGED = "damaged DICOM files"
UNREADABLE = "files that cannot be opened"
LOST = (DAMAGED, UNREADABLE)


class SeriesKind(str, Enum):
    """What can be done with a series."""

    CT = "ct"
    STRUCTURE_SET = "rtstruct"
    SEGMENTATION = "seg"
    OTHER = "other"


@dataclass(frozen=True)
class DicomFile:
    """One file of a series.

    :param frames: number of frames; 1 for a classic slice.
    """

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    frames: int = 1


@dataclass(frozen=True)
class IndexedSeries:
    """One series of a study. Ids, texts and dates name a patient: never print them.

    :param acquired: ``YYYYMMDD`` or ``YYYYMMDDHHMMSS`` of acquisition, else of series, else of study; None if absent.
    :param label: series description, or the structure set's label.
    :param files: sorted by path; for a CT series in no particular order.
    :param referenced_series: UIDs of the series that a structure set or segmentation says it was drawn on.
    :param referenced_instances: UIDs of the images that it was drawn on.
    :param approval: ``ApprovalStatus`` of a structure set (``APPROVED``, ``UNAPPROVED``, ``REJECTED``), else empty.
    :param phase: place in the breathing cycle in percent, where the header tells one of a 4D study; else None.
    :param phase_group: the same text for the series of one 4D study, else empty.
    """

    kind: SeriesKind
    modality: str
    patient_id: str | None
    study_uid: str
    series_uid: str
    frame_of_reference_uid: str
    acquired: str | None
    label: str
    files: tuple[DicomFile, ...]
    referenced_series: frozenset[str] = frozenset()
    referenced_instances: frozenset[str] = frozenset()
    approval: str = ""
    phase: float | None = None
    phase_group: str = ""

    @property
    def paths(self) -> tuple[Path, ...]:
        """Where the files lie."""
        return tuple(file.path for file in self.files)


@dataclass(frozen=True)
class DicomIndex:
    """All series below a folder.

    :param series: by acquisition, those without a date last.
    :param left_aside: why files are in none of them, with how many there are; no file's name is told.
    """

    series: tuple[IndexedSeries, ...]
    left_aside: Mapping[str, int] = field(default_factory=dict)

    def of_kind(self, kind: SeriesKind) -> tuple[IndexedSeries, ...]:
        """The series of one kind, in order."""
        return tuple(each for each in self.series if each.kind is kind)

    def lost(self) -> str:
        """How many files could not be read that might have been a slice or contours, in words; empty if there are none."""
        counts = [f"{count} {reason}" for reason, count in self.left_aside.items() if reason in LOST]
        return f"left aside: {', '.join(counts)}; slices or contours may be missing" if counts else ""

    def patient_ids(self) -> tuple[str | None, ...]:
        """The patients' ids, in the order in which they first come."""
        return tuple(dict.fromkeys(each.patient_id for each in self.series))

    def contours_on(self, ct: IndexedSeries) -> tuple[IndexedSeries, ...]:
        """Structure sets and segmentations that say they were drawn on this CT series.

        Those that name the series or one of its images; those that name neither but share patient and frame of reference.
        """
        images = {file.sop_instance_uid for file in ct.files}
        found = []
        for each in self.series:
            if each.kind not in (SeriesKind.STRUCTURE_SET, SeriesKind.SEGMENTATION) or each.patient_id != ct.patient_id:
                continue
            named = ct.series_uid in each.referenced_series or bool(images & each.referenced_instances)
            names_none = not each.referenced_series and not each.referenced_instances
            same_frame = bool(ct.frame_of_reference_uid) and each.frame_of_reference_uid == ct.frame_of_reference_uid
            if named or (names_none and same_frame):
                found.append(each)
        return tuple(found)
