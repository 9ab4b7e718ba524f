"""A small follow-up with one or two bright lesions, and its slices as a run would have recorded them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from P2SAMSlicerLib.candidates import REGISTERED
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.intensity import WINDOWS, GreyScale
from P2SAMSlicerLib.region import region_around
from P2SAMSlicerLib.result import Candidate, SliceResult
from P2SAMSlicerLib.slice_plane import working_grid
from P2SAMSlicerLib.volume import BoolArray, Volume
from small_body import stored

GRID = Grid((7, 60, 80), (1.5, 1.5, 4.0), (-60.0, -45.0, -12.0))
#: Middle of a lesion ``(x, y)`` in voxels; its radius in the CT and in the recorded contour, in voxels.
FIRST, SECOND = (25.0, 30.0), (46.0, 30.0)
RADIUS, RECORDED_RADIUS = 8.0, 6.0
SLICES = (2, 3, 4)
GREYS = GreyScale(WINDOWS["soft tissue"], 7.25)


def disc(middle: tuple[float, float], radius: float) -> BoolArray:
    rows, columns = np.mgrid[: GRID.shape[1], : GRID.shape[2]]
    inside: BoolArray = np.hypot(columns - middle[0], rows - middle[1]) <= radius
    return inside


def followup(*lesions: tuple[float, float]) -> Volume:
    """Soft tissue with bright discs on the recorded slices."""
    array = np.full(GRID.shape, 0, dtype=np.int16)
    for middle in lesions or (FIRST,):
        for z in SLICES:
            array[z][disc(middle, RADIUS)] = 120 + z  # no two slices are the same
    return Volume(array, GRID, "followup")


def present_mask(*lesions: tuple[float, float]) -> BoolArray:
    """The contour that the slices were recorded with."""
    mask = np.zeros(GRID.shape, dtype=bool)
    for middle in lesions or (FIRST,):
        for z in SLICES:
            mask[z] |= disc(middle, RECORDED_RADIUS)
    return mask


def recorded(
    volume: Volume, *lesions: tuple[float, float], absent: Sequence[int] = (), whole: bool = False
) -> list[SliceResult]:
    """The slices of a follow-up stored in any way: on each the registered contour, which is chosen."""
    orientation, working = working_grid(volume.grid)
    result = []
    for number, middle in enumerate(lesions or (FIRST,), start=1):
        mask = np.zeros(GRID.shape, dtype=bool)
        mask[list(SLICES)] = disc(middle, RECORDED_RADIUS)
        region = region_around(mask, working, 25.0, 256)
        for z in SLICES:
            plane = mask[z] if whole else region.crop(mask[z].astype(np.float32), working, outside=0.0) > 0.5
            contour = Candidate(
                REGISTERED, plane, np.zeros((0, 2), np.float32), np.zeros(0, np.int64), None, 1.0, 1.0, float("nan")
            )
            index = orientation.stored_slice_index(z)
            chosen = None if z in absent else 0
            result.append(SliceResult(index, 4.0 * z, (contour,), chosen, 0.5, {}, number, None if whole else region, GREYS))
    return result


def in_storage(volume: Volume, order: Sequence[int], flips: Sequence[bool]) -> Volume:
    """The same patient stored in another axis order."""
    return stored(volume, order, flips)
