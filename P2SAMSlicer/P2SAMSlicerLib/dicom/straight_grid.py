"""A leaning or unevenly spaced stack of slices brought to a straight, even grid.

The planes of the slices stay as they are. A gantry tilt moved each slice sideways within its own plane, so it is moved back
within it: no tissue of one slice is mixed into another, and contours that are drawn on the result lie on stored slices. Only
an uneven spacing needs values between two slices.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.dicom.pixels import PADDING_HU
from P2SAMSlicerLib.dicom.slice_stack import SPACING_TOLERANCE_MM, SliceStack
from P2SAMSlicerLib.geometry import Grid


def straighten(array: NDArray[Any], stack: SliceStack) -> tuple[NDArray[Any], Grid]:
    """HU on a straight, even grid, by linear interpolation; of the type of ``array``.

    :param array: HU ``(z, y, x)`` of the stack's slices as they are stored.
    :returns: values and grid. It is wider than the slices by as much as they are shifted, so that nothing is cut off, and
        :data:`~P2SAMSlicerLib.dicom.pixels.PADDING_HU` where nothing was imaged. Its slices lie at the smallest distance that
        the stack has, from the first slice to the last.
    """
    moved, first_xy = _without_shift(array.astype(np.float32), stack)
    places = _even_places(stack.along)
    values = _between_slices(moved, stack.along, places)
    origin = stack.slices[0].position + stack.axes[:, :2] @ first_xy
    grid = Grid(
        shape=(values.shape[0], values.shape[1], values.shape[2]),
        spacing=(*stack.pixel_mm, float(places[-1]) / (len(places) - 1)),
        origin=(float(origin[0]), float(origin[1]), float(origin[2])),
        direction=tuple(float(value) for value in stack.axes.ravel()),
    )
    if array.dtype.kind == "i":
        values = np.rint(values)
    return values.astype(array.dtype), grid


def _without_shift(values: NDArray[np.float32], stack: SliceStack) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """All slices on the pixels of one plane; and where the first pixel lies, in mm along x and y from the first slice's."""
    from scipy.ndimage import shift

    pixels = stack.sideways / np.asarray(stack.pixel_mm)
    low, high = np.floor(pixels.min(axis=0)).astype(int), np.ceil(pixels.max(axis=0)).astype(int)
    rows, columns = stack.size
    shape = (len(values), rows + int(high[1] - low[1]), columns + int(high[0] - low[0]))
    moved = np.full(shape, PADDING_HU, dtype=np.float32)
    for index, (x, y) in enumerate(pixels - low):
        whole_x, whole_y = int(x), int(y)
        # Room for the value that a fraction of a pixel moves beyond the edge.
        plane = np.full((rows + 1, columns + 1), PADDING_HU, dtype=np.float32)
        plane[:rows, :columns] = values[index]
        plane = shift(plane, (y - whole_y, x - whole_x), order=1, mode="grid-constant", cval=PADDING_HU)
        target = moved[index, whole_y : whole_y + rows + 1, whole_x : whole_x + columns + 1]
        target[...] = plane[: target.shape[0], : target.shape[1]]
    return moved, low * np.asarray(stack.pixel_mm)


def _even_places(along: NDArray[np.float64]) -> NDArray[np.float64]:
    """Positions at even distances from the first slice to the last, about the smallest distance that there is."""
    gaps = np.diff(along)
    if np.abs(along - np.linspace(0, along[-1], len(along))).max() <= SPACING_TOLERANCE_MM:
        return along  # only leaning: each slice keeps its place
    steps = max(1, round(float(along[-1] / gaps.min())))
    return np.linspace(0.0, float(along[-1]), steps + 1)


def _between_slices(
    values: NDArray[np.float32], along: NDArray[np.float64], places: NDArray[np.float64]
) -> NDArray[np.float32]:
    if places is along:
        return values
    above = np.clip(np.searchsorted(along, places), 1, len(along) - 1)
    weight = ((places - along[above - 1]) / (along[above] - along[above - 1])).astype(np.float32)
    result = np.empty((len(places), *values.shape[1:]), dtype=np.float32)
    for index, (upper, share) in enumerate(zip(above, weight, strict=True)):
        result[index] = (1 - share) * values[upper - 1] + share * values[upper]
    return result
