"""What carrying contours to one visit needs, as plain paths and options: an order that another process can take."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from P2SAMSlicerLib.models.catalogue import default_model
from P2SAMSlicerLib.options import PropagationOptions


@dataclass(frozen=True)
class CtSource:
    """Where a visit's CT lies: the files of one DICOM series, or one file of another format.

    :param paths: all files of the series, or the one file.
    :param dicom: they are DICOM.
    :param resample: bring slices that are stacked at an angle or unevenly to a straight, even grid; refused otherwise.
    """

    paths: tuple[Path, ...]
    dicom: bool
    resample: bool = False


@dataclass(frozen=True)
class ContourSource:
    """Where contours lie.

    :param path: RTSTRUCT, DICOM SEG, ``.seg.nrrd`` or label map.
    :param approved: a person said that they are right (``ApprovalStatus`` APPROVED, or accepted in a review).
    """

    path: Path
    approved: bool = False


@dataclass(frozen=True)
class PatientVisit:
    """One visit.

    :param number: from 1, by date.
    :param label: ``visit_1``, ``visit_2``, ...: its name in files and messages, which tells no date.
    :param day: days since the first visit; None if it has no date.
    :param acquired: date, which names a patient: never printed unless asked for.
    :param contours: drawn on this CT, those of a physician; empty for a visit that only has a CT.
    :param notes: what was decided where several CTs could be meant, or their order is not certain; in words, without names.
    """

    number: int
    label: str
    day: int | None
    acquired: str | None
    ct: CtSource
    contours: tuple[ContourSource, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class VisitOrder:
    """Carry contours to one follow-up and write what came of it into a folder of its own.

    :param references: contoured visits from which it is carried, the oldest first. For ``approved`` each structure is carried
        from all that have it, and combined; for ``previous`` from the last that has it. Contours that an earlier order writes
        need not be there: that visit is then passed over.
    :param followup: the visit to which the contours are carried; contours of its own are left alone.
    :param out: folder for this visit; it appears whole or not at all.
    :param segments: names of the structures; all if empty.
    :param carried_from: ``prior``, ``previous`` or ``approved``; how the references were chosen, for the record.
    :param unreviewed: labels of references whose contours nobody has reviewed, as they came from this tool.
    :param dicom: write RTSTRUCT and SEG, where the follow-up is DICOM.
    """

    references: tuple[PatientVisit, ...]
    followup: PatientVisit
    out: Path
    segments: tuple[str, ...] = ()
    carried_from: str = "prior"
    unreviewed: tuple[str, ...] = ()
    options: PropagationOptions = field(default_factory=PropagationOptions)
    model: str = field(default_factory=default_model)
    checkpoint: Path | None = None
    allow_unverified: bool = False
    device: str = "auto"
    precision: str = "auto"
    threads: int | None = None
    dicom: bool = True
