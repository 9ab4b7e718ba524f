"""What writing contours to a DICOM object and reading them back changes: measured every time, on what was written."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.volume import BoolArray


@dataclass(frozen=True)
class RoundTrip:
    """One contour, written and read back by this library's own reader.

    :param name: full name of the contour.
    :param roi_name: its name in the file.
    :param volume_ml: that was written.
    :param read_back_ml: that the file gives.
    :param change_percent: of the volume, by the round trip.
    :param dice: of both masks.
    """

    name: str
    roi_name: str
    volume_ml: float
    read_back_ml: float
    change_percent: float
    dice: float


def round_trip(name: str, roi_name: str, mask: BoolArray, read_back: BoolArray, grid: Grid) -> RoundTrip:
    """Compare a contour with what the file gives.

    :param mask: what was written; not empty.
    :param read_back: on the same grid.
    """
    before, after = int(np.count_nonzero(mask)), int(np.count_nonzero(read_back))
    both = int(np.count_nonzero(mask & read_back))
    return RoundTrip(
        name,
        roi_name,
        before * grid.voxel_ml,
        after * grid.voxel_ml,
        100.0 * (after - before) / before,
        2.0 * both / (before + after),
    )


def comes_back(mask: BoolArray, read_back: BoolArray) -> bool:
    """Whether the file holds the contour: every voxel of its slices is as it was.

    Slices between contoured ones are not looked at: a structure set cannot say that a slice was left out on purpose, and
    readers, this library's among them, may close evenly spaced gaps. The figures of :class:`RoundTrip` tell what that changes.
    """
    contoured = np.asarray(mask.any(axis=(1, 2)))
    places = np.flatnonzero(contoured)
    beyond = bool(read_back[: places[0]].any()) or bool(read_back[places[-1] + 1 :].any())
    return not beyond and bool((mask[contoured] == read_back[contoured]).all())
