"""Visits of the phantom in the scene, and results for them as the engine would give them, made by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.intensity import WINDOWS, GreyScale
from P2SAMSlicerLib.mrml.volume_nodes import volume_from_node
from P2SAMSlicerLib.result import Candidate, Outcome, SegmentResult, SliceResult, VisitResult
from P2SAMSlicerLib.volume import BoolArray, Segment
from small_visits import segment_result, visit_result, without_contour

GREYS = GreyScale(WINDOWS["soft tissue"], 7.25)
#: Slices with a contour in :func:`carried`, and how doubtful each is: the first to look at is 8, then 6.
PRIORITIES = {5: 0.10, 6: 0.80, 7: 0.20, 8: 0.90, 9: 0.15}
#: Of a slice's chosen candidate, in pixels of the whole slice.
POSITIVE, NEGATIVE, BOX = (24.0, 23.0), (30.0, 31.0), (20.0, 19.0, 28.0, 27.0)


def add_visits(followups: int = 1, slice_mm: float = 4.0) -> tuple[Any, Any, list[Any]]:
    """The phantom's prior, its segmentation, and so many follow-ups."""
    import slicer.util
    from P2SAMSlicerLib.mrml.sample_visits import add_phantom_visits

    prior, segmentation, first = add_phantom_visits(slice_mm)
    nodes = [first]
    for number in range(2, followups + 1):
        copy = slicer.util.addVolumeFromArray(slicer.util.arrayFromVolume(first), name=f"Phantom follow-up CT {number}")
        copy.CopyOrientation(first)
        nodes.append(copy)
    return prior, segmentation, nodes


def add_segment(segmentation: Any, volume: Any, name: str, identifier: str = "") -> str:
    """Another segment on the prior, a box beside the tumour; its id."""
    import slicer.util

    mask = np.zeros(slicer.util.arrayFromVolume(volume).shape, dtype=np.uint8)
    mask[6:9, 10:14, 10:14] = 1
    identifier = str(segmentation.GetSegmentation().AddEmptySegment(identifier, name))
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask, segmentation, identifier, volume)
    return identifier


def disc(radius: float = 4.0) -> BoolArray:
    """A contour in the middle of a slice."""
    rows, columns = np.mgrid[:48, :48]
    inside: BoolArray = np.hypot(columns - 24, rows - 23) <= radius
    return inside


def contour(radius: float = 4.0) -> BoolArray:
    """The contour of :func:`carried` on the phantom's voxels."""
    mask = np.zeros((16, 48, 48), dtype=np.bool_)
    mask[list(PRIORITIES)] = disc(radius)
    return mask


def slice_result(index: int, priority: float, radius: float = 4.0) -> SliceResult:
    """A slice with a positive and a negative point and a box."""
    chosen = Candidate(
        "parts 1 + box",
        disc(radius),
        np.array([POSITIVE, NEGATIVE], dtype=np.float32),
        np.array([1, 0], dtype=np.int64),
        np.array(BOX, dtype=np.float32),
        1.0,
        1.0,
        0.9,
    )
    return SliceResult(index, 4.0 * index - 30.0, (chosen,), 0, priority, {"blurred border": priority}, 1, None, GREYS)


def carried(followup: Any, *names: str, gone: bool = False, **fields: Any) -> VisitResult:
    """The result of a run to a phantom's follow-up.

    :param names: of the prior's segments; the tumour if none.
    :param gone: no lesion was found.
    :param fields: of every :class:`SegmentResult`.
    """
    grid: Grid = volume_from_node(followup).grid
    found = [_segment(name, grid, gone, fields) for name in names or ("tumour",)]
    return replace(visit_result(*found, name="follow-up", grid=grid))


def _segment(name: str, grid: Grid, gone: bool, fields: dict[str, Any]) -> SegmentResult:
    source = Segment(name, contour(5.0), (0.9, 0.2, 0.2))
    if gone:
        return without_contour(source, Outcome.NO_LESION, "nothing there looks like it", registered_mask=contour(5.0))
    values: dict[str, Any] = {
        "mask": contour(),
        "registered_mask": contour(5.0),
        "prior_volume_ml": 10.0,
        "volume_ml": float(contour().sum()) * grid.voxel_ml,
        "centroid_shift_mm": (3.0, 4.0, 0.0),
        "review_priority": 0.9,
        "slices": tuple(slice_result(index, priority) for index, priority in PRIORITIES.items()),
        **fields,
    }
    return segment_result(source, grid, **values)
