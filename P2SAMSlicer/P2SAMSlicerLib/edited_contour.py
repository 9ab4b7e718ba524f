"""Slices that were decoded again, in the segment's 3-D contour: they are replaced, and nothing else."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.edited_prompts import SliceKey
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

    On such a slice all that lies within its window and is nearer to its lesion than to another one of the segment is replaced.
    Everything else stays as it is, to the voxel.

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


def shown_contours(
    mask: BoolArray, grid: Grid, slices: Sequence[SliceResult], wanted: Collection[SliceKey]
) -> dict[SliceKey, BoolArray]:
    """What a segment shows on slices whose chosen contour it is not, because the engine removed parts or somebody painted.

    :param mask: the segment's present contour on the follow-up's stored grid.
    :param slices: all slices of the segment.
    :param wanted: lesion and stored number of the slices to look at.
    :returns: masks on the slices' images; slices that show their chosen contour to the voxel are left out.
    """
    orientation, working = working_grid(grid)
    canonical = orientation.canonical_view(mask)
    result = {}
    for each in slices:
        if (each.lesion, each.index) not in wanted or not each.candidates:
            continue
        own, plane = _distance_mm(each, working), canonical[canonical_index(grid, each)]
        differs = (plane != (own > 0)) & _within_window(each, working)
        for other in slices:
            if other.index == each.index and other.lesion != each.lesion:
                differs &= own >= _distance_mm(other, working)
        if differs.any():
            chosen = np.zeros_like(each.candidates[0].mask) if each.best is None else each.best.mask
            seen, there = (_nearest(part, each, working) for part in (differs, plane))
            result[each.lesion, each.index] = np.where(seen, there, chosen)
    return result


def _nearest(plane: BoolArray, result: SliceResult, working: Grid) -> BoolArray:
    """A slice's voxels on its image, each pixel with the nearest voxel's value."""
    if result.region is None:
        return np.array(plane)
    region, (_, ny, nx) = result.region, working.shape
    middles = (np.arange(region.pixels) + 0.5) * region.pixel_mm
    rows = np.clip(np.rint((region.top + middles) / working.spacing[1]), 0, ny - 1).astype(int)
    columns = np.clip(np.rint((region.left + middles) / working.spacing[0]), 0, nx - 1).astype(int)
    return np.array(plane[rows[:, None], columns[None]])


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
