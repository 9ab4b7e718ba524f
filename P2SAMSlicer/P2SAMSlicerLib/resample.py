"""Masks from one grid to another, and the segments that a run needs on the CT's own grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.volume import BoolArray, Segment, Segmentation

#: Grids whose voxel centres agree to this fraction of a voxel are the same lattice: single precision and rounded headers.
LATTICE_TOLERANCE = 0.01

#: Linear interpolation of a mask gives exactly one half where two grids are shifted by half a voxel. Rounding must not decide
#: there, so values down to this count as inside: rather one voxel more than a lost target.
INSIDE = 0.5 - 1e-4

#: Share of a segment outside of the CT that is worth a word ...
OUTSIDE_WARNING = 0.01
#: ... and that is too much to go on with.
OUTSIDE_ERROR = 0.5


def resample_mask(mask: BoolArray, grid: Grid, onto: Grid) -> BoolArray:
    """A mask on another grid.

    Between grids of one lattice (the same grid, a cropped or larger one as 3D Slicer stores segments, permuted or flipped
    axes) voxels are copied; else the mask is interpolated linearly and thresholded at one half. Outside of its grid a mask is
    False.

    :param mask: ``(z, y, x)`` on ``grid``.
    :param onto: the grid of the result.
    :returns: a new array, ``(z, y, x)`` on ``onto``.
    """
    copied = _copy_on_lattice(mask, grid, onto)
    return _interpolate(mask, grid, onto) if copied is None else copied


def segments_on_grid(segmentation: Segmentation, names: Sequence[str] | None, grid: Grid) -> tuple[list[Segment], list[str]]:
    """The segments of these names (all if None) on the CT's grid, ready to be carried to another visit.

    :param segmentation: as read; its grid need not be the CT's.
    :param names: names of segments, in the order wanted.
    :param grid: the CT's grid.
    :returns: segments with masks on ``grid``, and warnings in words.
    :raises InputError: no such segment (the message lists those that are there), two of that name, none at all; an empty one;
        one that lies wholly or more than half outside of the CT, or is too small for its voxels.
    """
    where = segmentation.name
    chosen = segmentation.select(names)
    if not chosen:
        raise InputError(f"{where}: the segmentation has no segments")
    found, warnings = [], []
    for segment in chosen:
        if sum(other.name == segment.name for other in segmentation.segments) > 1:
            raise InputError(f"{where}: two segments are named '{segment.name}'; rename one")
        if not segment.mask.any():
            raise InputError(f"{where}: segment '{segment.name}' is empty")
        outside = outside_share(segment.mask, segmentation.grid, grid)
        if outside == 1:
            question = "are both of the same patient and the same visit?"
            raise InputError(f"{where}: segment '{segment.name}' lies wholly outside of the CT; {question}")
        if outside > OUTSIDE_ERROR:
            raise InputError(f"{where}: segment '{segment.name}' lies mostly ({outside:.0%}) outside of the CT")
        if outside > OUTSIDE_WARNING:
            warnings.append(f"{where}: {outside:.0%} of segment '{segment.name}' lies outside of the CT and is left out")
        mask = resample_mask(segment.mask, segmentation.grid, grid)
        if not mask.any():
            raise InputError(f"{where}: segment '{segment.name}' is too small for the CT's voxels")
        found.append(replace(segment, mask=mask))
    return found, warnings


def outside_share(mask: BoolArray, grid: Grid, other: Grid) -> float:
    """Share of a mask's voxels whose centres lie outside of another grid's voxels; 0 for an empty mask."""
    total = np.count_nonzero(mask)
    if total == 0:
        return 0.0
    matrix = np.linalg.inv(other.index_to_physical) @ grid.index_to_physical
    x, y = np.arange(grid.shape[2]), np.arange(grid.shape[1])[:, None]
    inside = 0
    for z in np.flatnonzero(mask.any(axis=(1, 2))):
        within = mask[z]
        for axis, size in enumerate(other.shape[::-1]):
            index = matrix[axis, 0] * x + (matrix[axis, 1] * y + (matrix[axis, 2] * z + matrix[axis, 3]))
            # Points on the very edge belong to the grid, however they were rounded.
            within = within & (index >= -0.5 - LATTICE_TOLERANCE) & (index <= size - 0.5 + LATTICE_TOLERANCE)
        inside += np.count_nonzero(within)
    return float(total - inside) / total


def _copy_on_lattice(mask: BoolArray, grid: Grid, onto: Grid) -> BoolArray | None:
    """The mask's voxels copied to where they lie on the other grid, or None if the voxels do not coincide."""
    matrix = np.linalg.inv(onto.index_to_physical) @ grid.index_to_physical
    turn, shift = np.rint(matrix[:3, :3]), np.rint(matrix[:3, 3])
    if (np.abs(turn).sum(axis=0) != 1).any() or (np.abs(turn).sum(axis=1) != 1).any():
        return None
    last = np.array(grid.shape[::-1]) - 1
    ends = np.array([[x, y, z] for x in (0, last[0]) for y in (0, last[1]) for z in (0, last[2])], dtype=np.float64)
    if np.abs(ends @ (matrix[:3, :3] - turn).T + matrix[:3, 3] - shift).max() > LATTICE_TOLERANCE:
        return None
    # Axis a of the target (x, y, z) runs along axis source[a] of the mask, backwards where the sign is negative.
    source = np.abs(turn).argmax(axis=1)
    sign = turn[np.arange(3), source]
    start = np.where(sign > 0, shift, shift - last[source]).astype(int)
    turned = mask.transpose([2 - int(source[a]) for a in (2, 1, 0)])
    turned = np.flip(turned, axis=tuple(2 - a for a in range(3) if sign[a] < 0))
    result = np.zeros(onto.shape, dtype=np.bool_)
    here, there = [], []
    for axis in range(3):
        first, length = int(start[2 - axis]), turned.shape[axis]
        low, high = max(first, 0), min(first + length, onto.shape[axis])
        here.append(slice(low, max(high, low)))
        there.append(slice(low - first, max(high, low) - first))
    result[tuple(here)] = turned[tuple(there)]
    return result


def _interpolate(mask: BoolArray, grid: Grid, onto: Grid) -> BoolArray:
    """Linear interpolation at the voxel centres of the other grid, one half or more being inside."""
    import SimpleITK

    result = np.zeros(onto.shape, dtype=np.bool_)
    occupied = np.nonzero(mask)
    if not occupied[0].size:
        return result
    low = np.array([axis.min() for axis in occupied[::-1]])
    high = np.array([axis.max() for axis in occupied[::-1]])
    # Only the mask's own box, with a rim of zeros, and the part of the target that it can reach.
    box = mask[low[2] : high[2] + 1, low[1] : high[1] + 1, low[0] : high[0] + 1]
    ends = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)]) * (high - low + 2) + low - 1
    reached = onto.to_index(grid.to_physical(ends.astype(np.float64)))
    size = np.array(onto.shape[::-1])
    first = np.clip(np.floor(reached.min(axis=0)).astype(int), 0, size)
    past = np.clip(np.ceil(reached.max(axis=0)).astype(int) + 1, first, size)
    if (past == first).any():
        return result
    image: Any = SimpleITK.GetImageFromArray(np.pad(box, 1).astype(np.float32))
    image.SetSpacing(grid.spacing)
    image.SetDirection(grid.direction)
    image.SetOrigin(_point(grid, low - 1))
    resampler: Any = SimpleITK.ResampleImageFilter()
    resampler.SetInterpolator(SimpleITK.sitkLinear)
    resampler.SetSize([int(n) for n in past - first])
    resampler.SetOutputSpacing(onto.spacing)
    resampler.SetOutputDirection(onto.direction)
    resampler.SetOutputOrigin(_point(onto, first))
    values = SimpleITK.GetArrayFromImage(resampler.Execute(image))
    result[first[2] : past[2], first[1] : past[1], first[0] : past[0]] = values >= INSIDE
    return result


def _point(grid: Grid, index: NDArray[np.integer[Any]]) -> list[float]:
    """LPS millimetres of one voxel index ``(x, y, z)``."""
    return [float(value) for value in grid.to_physical(index[None].astype(np.float64))[0]]
