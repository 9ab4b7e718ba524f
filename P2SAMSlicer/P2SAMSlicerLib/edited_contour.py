"""Slices that were decoded again, in the segment's 3-D contour: they are replaced, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.expected import signed_pixels_mm
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.result import SliceResult
from P2SAMSlicerLib.slice_plane import canonical_index, working_grid
from P2SAMSlicerLib.volume import BoolArray

#: Beyond a lesion's window nothing is near it, in mm.
FAR_MM = 1000.0


def apply_to_mask(mask: BoolArray, grid: Grid, changed: Sequence[SliceResult], slices: Sequence[SliceResult]) -> BoolArray:
    """A segment's contour with the chosen contours of changed slices.

    On such a slice all that lies within its window and is nearer to its lesion than to another one of the segment is replaced,
    also what a person painted there. Everything else stays as it is, to the voxel.

    :param mask: the segment's present contour on the follow-up's stored grid.
    :param grid: that grid.
    :param changed: slices as they are now.
    :param slices: all slices of the segment as they were before.
    :returns: a new mask; may be empty.
    :raises InputError: the mask is not on the grid, or the grid has no such slice.
    """
    if mask.shape != grid.shape:
        raise InputError(f"the contour {mask.shape} is not on the follow-up's grid {grid.shape}")
    orientation, working = working_grid(grid)
    result = np.array(orientation.canonical_view(mask), order="C")  # always a copy: the caller's own stays
    before = {(each.lesion, each.index): each for each in slices}
    now = {**before, **{(each.lesion, each.index): each for each in changed}}
    for each in changed:
        new = _distance_mm(each, working)
        own = np.maximum(new, _distance_mm(before.get((each.lesion, each.index), each), working))
        replaced = _within_window(each, working)
        for other in now.values():
            if other.index == each.index and other.lesion != each.lesion:
                replaced &= own >= _distance_mm(other, working)
        plane = result[canonical_index(grid, each)]
        plane[replaced] = False
        plane |= new > 0
    return orientation.to_stored(result)


def _distance_mm(result: SliceResult, working: Grid) -> NDArray[np.float32]:
    """Signed distance to a slice's chosen contour on the slice's voxels, positive inside."""
    if result.best is None:
        return np.full(working.shape[1:], -FAR_MM, dtype=np.float32)
    if result.region is None:
        pixel_mm = float(np.sqrt(working.spacing[0] * working.spacing[1]))
        return signed_pixels_mm(result.best.mask, pixel_mm, FAR_MM)
    distance = signed_pixels_mm(result.best.mask, result.region.pixel_mm, FAR_MM)
    return result.region.place(distance, working, outside=-FAR_MM)


def _within_window(result: SliceResult, working: Grid) -> BoolArray:
    """The voxels whose centres lie within what the model saw."""
    _, ny, nx = working.shape
    if result.region is None:
        return np.ones((ny, nx), dtype=bool)
    region = result.region
    x = np.arange(nx) * working.spacing[0] - region.left
    y = np.arange(ny) * working.spacing[1] - region.top
    inside: BoolArray = ((y >= 0) & (y <= region.side))[:, None] & ((x >= 0) & (x <= region.side))[None]
    return inside
