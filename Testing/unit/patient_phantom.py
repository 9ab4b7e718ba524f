"""A small patient in plain files: visits of the small body with a lesion that shrinks, and orders that are quick to carry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.options import PropagationOptions
from P2SAMSlicerLib.patient.visit_order import ContourSource, CtSource, PatientVisit, VisitOrder
from P2SAMSlicerLib.segmentation_file import write_segmentation
from P2SAMSlicerLib.volume import BoolArray, Segment, Segmentation
from P2SAMSlicerLib.volume_file import write_volume
from small_body import GRID, LESION_AT, LESION_RADII, body, ellipsoid

#: Unmoved visits and few parts: a second a visit.
QUICK = PropagationOptions(registration="none", max_parts=1)


def lesion(shrunk_mm: float = 0.0, grid: Grid = GRID) -> BoolArray:
    """The lesion, smaller by this much on each side."""
    return ellipsoid(grid, LESION_AT, [radius - shrunk_mm for radius in LESION_RADII])


def write_visit(folder: Path, shrunk_mm: float = 0.0, contours: Sequence[Segment] = (), seed: int = 5) -> Path:
    """Write ``ct.nrrd``, and ``contours.seg.nrrd`` if there are any, into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_volume(body([lesion(shrunk_mm)], GRID, seed), folder / "ct.nrrd")
    if contours:
        write_segmentation(Segmentation(GRID, tuple(contours)), folder / "contours.seg.nrrd")
    return folder


def gtv(shrunk_mm: float = 0.0, **fields: Any) -> Segment:
    """The lesion's contour."""
    return Segment("GTV", lesion(shrunk_mm), **fields)


def visit(folder: Path, number: int, *, approved: bool = False, **fields: Any) -> PatientVisit:
    """The visit of a folder that :func:`write_visit` has written."""
    path = folder / "contours.seg.nrrd"
    values: dict[str, Any] = {
        "number": number,
        "label": f"visit_{number}",
        "day": 28 * (number - 1),
        "acquired": f"2024{number:02d}01",
        "ct": CtSource((folder / "ct.nrrd",), dicom=False),
        "contours": (ContourSource(path, approved),) if path.exists() else (),
        **fields,
    }
    return PatientVisit(**values)


def order(references: Sequence[PatientVisit], followup: PatientVisit, out: Path, **fields: Any) -> VisitOrder:
    """An order that is quick to carry."""
    made = VisitOrder(tuple(references), followup, out / followup.label, options=QUICK)
    return replace(made, **fields)
