"""The voxel grid of a DICOM segmentation: told by where its frames lie, as no header states it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.dicom.header import whole_items
from P2SAMSlicerLib.dicom.plane_axes import plane_axes
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.geometry import Grid

if TYPE_CHECKING:
    from pydicom import Dataset

#: A frame may lie this far (mm) from its place on an even, straight stack: positions are rounded.
POSITION_TOLERANCE_MM = 0.05

MOST_SLICES = 20_000


@dataclass(frozen=True)
class FramePlaces:
    """Where frames lie.

    :param slices: for each frame the number of its slice, from 0.
    """

    grid: Grid
    slices: NDArray[np.int64]


def place_frames(header: Dataset, frames: int, what: str) -> FramePlaces:
    """The grid that holds all frames, and each frame's slice. Slices without frames in between are part of the grid.

    The z axis runs along row direction x column direction, whatever the order of the frames.

    :param frames: their number.
    :raises InputError: frames without position, of several orientations or sizes, tilted, shifted or unevenly spaced.
    """
    groups = list(_groups(header, frames, what))
    orientation = _shared(groups, "PlaneOrientationSequence", "ImageOrientationPatient", 6, what)
    pixel = _shared(groups, "PixelMeasuresSequence", "PixelSpacing", 2, what)
    positions = np.array([_numbers(each, "PlanePositionSequence", "ImagePositionPatient", 3, what) for each in groups])
    axes = plane_axes(orientation, f"{what}: the rows and columns of its frames")
    normal = axes[:, 2]
    along = positions @ normal
    sideways = positions - along[:, None] * normal
    if np.abs(sideways - sideways[0]).max() > POSITION_TOLERANCE_MM:
        raise InputError(f"{what}: its frames are stacked at an angle to their normal (tilted), or shifted against each other")
    step = _step(np.sort(along), groups, what)
    slices = np.rint((along - along.min()) / step).astype(np.int64)
    first = positions[int(along.argmin())]
    size = (int(slices.max()) + 1, int(header.get("Rows") or 0), int(header.get("Columns") or 0))
    grid = Grid(
        size,
        (float(pixel[1]), float(pixel[0]), step),
        (float(first[0]), float(first[1]), float(first[2])),
        tuple(float(value) for value in axes.ravel()),
    )
    grid.check(what)
    return FramePlaces(grid, slices)


_Group = tuple["Dataset", "Dataset"]


def _groups(header: Dataset, frames: int, what: str) -> Iterator[_Group]:
    """For each frame its own functional groups and those that all share."""
    shared = whole_items(header, "SharedFunctionalGroupsSequence")
    own = whole_items(header, "PerFrameFunctionalGroupsSequence")
    if len(own) != frames:
        # A number that no file has frames of is something else, and may be a date.
        raise InputError(f"{what}: describes {len(own)} frames and holds {frames if frames < 10**6 else 'a million or more'}")
    from pydicom import Dataset

    return zip(own, chain(shared[:1], repeat(Dataset())) if not shared else repeat(shared[0]), strict=False)


def _numbers(group: _Group, sequence: str, keyword: str, count: int, what: str) -> NDArray[np.float64]:
    """Numbers of one frame.

    :raises InputError: absent, too few, or no numbers.
    """
    for source in group:
        for item in whole_items(source, sequence)[:1]:
            try:
                values = np.array([float(value) for value in item.get(keyword)], dtype=np.float64)
            except Exception:  # absent, or text that is no number
                values = np.empty(0)
            if values.shape == (count,) and np.isfinite(values).all() and np.abs(values).max() < 1e6:
                return values
    raise InputError(f"{what}: its frames have no usable {keyword}, so that they have no place in the patient")


def _shared(groups: Sequence[_Group], sequence: str, keyword: str, count: int, what: str) -> NDArray[np.float64]:
    """Numbers that are the same for all frames."""
    values = np.array([_numbers(each, sequence, keyword, count, what) for each in groups])
    if np.abs(values - values[0]).max() > 1e-4:
        raise InputError(f"{what}: its frames differ in {keyword}; they are not one stack")
    first: NDArray[np.float64] = values[0]
    return first


def _step(along: NDArray[np.float64], groups: Sequence[_Group], what: str) -> float:
    """Distance of slices in mm: the stated one if all positions fit, else the smallest distance of frames.

    :raises InputError: unevenly spaced frames.
    """
    places = along[np.concatenate([[True], np.diff(along) > POSITION_TOLERANCE_MM])]
    stated = _optional(groups[0], "SpacingBetweenSlices")
    candidates = [abs(stated)] if stated else []
    if len(places) > 1:
        candidates.append(float(np.diff(places).min()))
    elif thickness := _optional(groups[0], "SliceThickness"):
        candidates.append(thickness)
    for step in candidates:
        if not step > POSITION_TOLERANCE_MM:
            continue
        last = round(float(places[-1] - places[0]) / step)
        if last > MOST_SLICES:
            raise InputError(f"{what}: its frames lie farther apart than any patient is long")
        even = float(places[-1] - places[0]) / last if last else step
        numbers = np.rint((places - places[0]) / even)
        if np.abs(places - places[0] - numbers * even).max() <= POSITION_TOLERANCE_MM and (np.diff(numbers) >= 1).all():
            return even
    raise InputError(f"{what}: its frames are not evenly spaced" if len(places) > 1 else f"{what}: states no slice distance")


def _optional(group: _Group, keyword: str) -> float | None:
    """A number among a frame's measures, or None."""
    for source in group:
        for item in whole_items(source, "PixelMeasuresSequence")[:1]:
            try:
                value = float(item.get(keyword))
            except Exception:  # absent, or text that is no number
                continue
            if np.isfinite(value) and value != 0:
                return value
    return None
