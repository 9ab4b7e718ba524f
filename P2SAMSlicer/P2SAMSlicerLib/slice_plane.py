"""A recorded slice in its volume again: the picture that the model saw, and where its pixels lie in the patient."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.orientation import Orientation, WorkingFrame, canonical_orientation
from P2SAMSlicerLib.region import Region
from P2SAMSlicerLib.result import SliceResult
from P2SAMSlicerLib.volume import Volume


@lru_cache(maxsize=8)
def working_grid(grid: Grid) -> tuple[Orientation, Grid]:
    """A stored grid's orientation, and its voxels as the engine computes on them."""
    orientation = canonical_orientation(grid)
    return orientation, WorkingFrame.of(orientation.grid).grid(orientation.grid)


def slice_hu(volume: Volume, result: SliceResult) -> NDArray[np.float32]:
    """The values of a recorded slice on its region of interest ``(pixels, pixels)``, or of the whole slice ``(rows, columns)``.

    :raises InputError: the volume has no such slice, so that it is not the one that was recorded.
    """
    orientation, grid = working_grid(volume.grid)
    z = canonical_index(volume.grid, result)
    plane: NDArray[Any] = np.ascontiguousarray(orientation.canonical_view(volume.array)[z])
    return plane.astype(np.float32) if result.region is None else result.region.crop(plane, grid)


def canonical_index(grid: Grid, result: SliceResult) -> int:
    """Number of a recorded slice in canonical order.

    :raises InputError: the grid has no such slice.
    """
    orientation, working = working_grid(grid)
    if not 0 <= result.index < working.shape[0]:
        raise InputError(f"slice {result.index}: there are only {working.shape[0]}; is it of another volume?")
    return orientation.canonical_slice_index(result.index)


def prompts_to_lps(points: NDArray[np.floating], result: SliceResult, grid: Grid) -> NDArray[np.float64]:
    """Where points of a slice's image lie in the patient.

    :param points: ``(n, 2)`` as ``(x, y)`` in pixels of the image on which the slice's candidates lie; a box is two of them.
    :param grid: the follow-up's stored grid.
    :returns: LPS millimetres ``(n, 3)``, in the plane of the slice's voxel centres.
    :raises InputError: the grid has no such slice.
    """
    orientation, working = working_grid(grid)
    plane = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    if result.region is not None:
        corner, spacing = _window(result.region, working)
        plane = (corner + (plane + 0.5) * result.region.pixel_mm) / spacing
    z = np.full((len(plane), 1), float(canonical_index(grid, result)))
    return orientation.grid.to_physical(np.hstack([plane, z]))


def prompts_from_lps(points: NDArray[np.floating], result: SliceResult, grid: Grid) -> NDArray[np.float64]:
    """Points of the patient as points of a slice's image; the inverse of :func:`prompts_to_lps`.

    :param points: LPS millimetres ``(n, 3)``; how far they lie off the slice's plane does not count, see :func:`slice_numbers`.
    :param grid: the follow-up's stored grid.
    :returns: ``(n, 2)`` as ``(x, y)`` in pixels; may lie outside the image.
    """
    orientation, working = working_grid(grid)
    plane = orientation.grid.to_index(np.asarray(points, dtype=np.float64).reshape(-1, 3))[:, :2]
    if result.region is not None:
        corner, spacing = _window(result.region, working)
        plane = (plane * spacing - corner) / result.region.pixel_mm - 0.5
    return plane


def slice_numbers(points: NDArray[np.floating], grid: Grid) -> NDArray[np.int64]:
    """Stored number of the slice nearest to each LPS point ``(n, 3)``; may lie outside the volume."""
    orientation, working = working_grid(grid)
    found = np.rint(orientation.grid.to_index(np.asarray(points, dtype=np.float64).reshape(-1, 3))[:, 2]).astype(np.int64)
    return working.shape[0] - 1 - found if orientation.flips[0] else found


def _window(region: Region, working: Grid) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The window's upper left corner in plane millimetres, and the spacing of the slice's voxels, both ``(x, y)``."""
    return np.array([region.left, region.top]), np.array(working.spacing[:2])
