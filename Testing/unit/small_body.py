"""A small body with a lesion for the tests of the engine, its follow-up, and the same visit stored in other ways."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np
from numpy.typing import NDArray
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.simulation.visit import Change, SimulationOptions, simulate_followup
from P2SAMSlicerLib.volume import BoolArray, Segment, Volume
from scipy import ndimage

#: Shape (z, y, x) and spacing (x, y, z): 180 x 160 x 120 mm.
GRID = Grid((30, 80, 90), (2.0, 2.0, 4.0), (-89.0, -79.0, -58.0))
MUSCLE, FAT, BONE, LESION = 40.0, -100.0, 400.0, 90.0
LESION_AT, LESION_RADII = (18.0, -14.0, 3.0), (15.0, 13.0, 17.0)


def points_of(grid: Grid) -> NDArray[np.float64]:
    """LPS points ``(z, y, x, 3)`` of all voxel centres."""
    z, y, x = np.indices(grid.shape)
    return grid.to_physical(np.stack([x, y, z], axis=-1).reshape(-1, 3).astype(float)).reshape(*grid.shape, 3)


def ellipsoid(grid: Grid, centre: Sequence[float] = LESION_AT, radii: Sequence[float] = LESION_RADII) -> BoolArray:
    """Voxels whose centres lie in an ellipsoid along the patient's axes."""
    inside: BoolArray = (((points_of(grid) - np.asarray(centre)) / np.asarray(radii)) ** 2).sum(axis=-1) <= 1.0
    return inside


def body(lesions: Sequence[BoolArray], grid: Grid = GRID, seed: int = 5) -> Volume:
    """Muscle in a rim of fat, two bones that narrow and bend along the body, smooth texture, and lesions.

    Nothing is the same at two heights, so that a registration has something to hold on to in every direction.
    """
    points = points_of(grid)
    x, y, z = points[..., 0], points[..., 1], points[..., 2]
    width = 1.0 + 0.0015 * z
    out = np.hypot(x / (76.0 * width), y / (64.0 * width))
    hu = np.where(out < 0.86, MUSCLE, np.where(out < 1.0, FAT, -1000.0))
    for x0, y0, lean in ((-34.0, 12.0, 0.12), (26.0, 34.0, -0.2)):
        hu[np.hypot(x - x0 - lean * z, y - y0) < 9.0 + 0.05 * z] = BONE
    noise = np.random.default_rng(seed).standard_normal(grid.shape)
    texture = ndimage.gaussian_filter(noise, [8.0 / s for s in grid.spacing_zyx])
    fine = ndimage.gaussian_filter(np.random.default_rng(seed + 1).standard_normal(grid.shape), [0.5, 0.8, 0.8])
    for lesion in lesions:
        hu[lesion] = LESION
    hu = np.where(out < 1.0, hu + 14.0 * texture / texture.std() * (hu < 80.0) + 5.0 * fine / fine.std(), hu)
    smooth = ndimage.gaussian_filter(hu, [0.0, 0.5, 0.5])
    return Volume(np.rint(smooth).astype(np.int16), grid, "prior")


@cache
def prior_visit() -> tuple[Volume, Segment]:
    """The usual prior CT and its one lesion."""
    lesion = ellipsoid(GRID)
    return body([lesion]), Segment("GTV", lesion)


@cache
def followup_of(change: Change = "shrink", seed: int = 3, fraction: float | None = None) -> tuple[Volume, BoolArray]:
    """A follow-up of the usual prior, and the true lesion on it."""
    prior, segment = prior_visit()
    options = SimulationOptions(
        change, fraction, rotation_deg=2.0, shift_mm=5.0, deform_mm=2.0, spacing=(2.2, 2.2, 4.0), noise_hu=4.0, seed=seed
    )
    visit = simulate_followup(prior, segment.mask, options)
    return replace(visit.followup, name="followup"), visit.mask


def stored_grid(grid: Grid, order: Sequence[int], flipped: Sequence[bool]) -> Grid:
    """The grid of an array whose axes were permuted by ``order`` and then flipped; the patient stays where he is."""
    matrix = grid.index_to_physical
    # Columns of numpy axes 0, 1, 2 are columns 2, 1, 0 of the matrix, which is in x, y, z order.
    steps = [matrix[:3, 2 - axis] for axis in order]
    shape = [grid.shape[axis] for axis in order]
    corner = matrix[:3, 3].copy()
    for axis in range(3):
        if flipped[axis]:
            corner = corner + steps[axis] * (shape[axis] - 1)
            steps[axis] = -steps[axis]
    spacing = [grid.spacing_zyx[axis] for axis in order]
    columns = [step / length for step, length in zip(steps, spacing, strict=True)]
    return Grid(
        (shape[0], shape[1], shape[2]),
        (spacing[2], spacing[1], spacing[0]),
        (float(corner[0]), float(corner[1]), float(corner[2])),
        tuple(float(v) for v in np.stack(columns[::-1], axis=1).ravel()),
    )


def stored_array(array: NDArray[np.generic], order: Sequence[int], flipped: Sequence[bool]) -> NDArray[np.generic]:
    """The array that goes with :func:`stored_grid`."""
    return np.ascontiguousarray(np.flip(np.transpose(array, order), tuple(axis for axis in range(3) if flipped[axis])))


def usual_array(array: NDArray[np.generic], order: Sequence[int], flipped: Sequence[bool]) -> NDArray[np.generic]:
    """The inverse of :func:`stored_array`."""
    turned = np.flip(array, tuple(axis for axis in range(3) if flipped[axis]))
    return np.ascontiguousarray(np.transpose(turned, [list(order).index(axis) for axis in range(3)]))


def stored(volume: Volume, order: Sequence[int], flipped: Sequence[bool]) -> Volume:
    """The same patient, stored in another axis order."""
    return replace(volume, array=stored_array(volume.array, order, flipped), grid=stored_grid(volume.grid, order, flipped))


def moved_frame(volume: Volume, rotation: NDArray[np.float64], shift: Sequence[float]) -> Volume:
    """The same voxels in a frame that is rotated about the origin and then shifted."""
    grid = volume.grid
    x, y, z = (float(v) for v in rotation @ np.asarray(grid.origin) + np.asarray(shift))
    direction = rotation @ grid.direction_matrix
    moved = replace(grid, origin=(x, y, z), direction=tuple(float(v) for v in direction.ravel()))
    return replace(volume, grid=moved)


def dice(first: BoolArray, second: BoolArray) -> float:
    """Dice of two masks of which at least one is not empty."""
    return 2.0 * float((first & second).sum()) / float(first.sum() + second.sum())
