"""One canonical axis order for every stored volume, and the working frame in which the engine computes.

A patient can be stored in 48 axis orders, and in any oblique frame. The engine sees none of that: each array is
permuted and flipped (never resampled) so that axis 0 runs along the acquisition's slice axis, and coordinates are
expressed in the follow-up's own frame. So the same patient gives the same contour however the file is stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.geometry import IDENTITY_DIRECTION, Grid
from P2SAMSlicerLib.volume import Volume

_Scalar = TypeVar("_Scalar", bound=np.generic)

#: Coordinates of the working frame are rounded to these steps, so that the last bits of a stored direction cosine cannot
#: change a contour. Both are far below anything that a voxel can show.
_DIRECTION_DECIMALS = 8
_MILLIMETRE_DECIMALS = 5

#: In-plane target directions (rows, columns) in LPS, by the patient axis nearest the slice normal (0 L, 1 P, 2 S):
#: axial slices have rows running to posterior and columns to left, coronal and sagittal ones rows running to inferior.
_IN_PLANE = {
    2: (np.array([0.0, 1.0, 0.0]), np.array([1.0, 0.0, 0.0])),
    1: (np.array([0.0, 0.0, -1.0]), np.array([1.0, 0.0, 0.0])),
    0: (np.array([0.0, 0.0, -1.0]), np.array([0.0, 1.0, 0.0])),
}


def acquisition_slice_axis(grid: Grid) -> int:
    """Array axis (0, 1 or 2, in numpy's z, y, x order) along which the scanner acquired its slices.

    It is the axis whose spacing differs from the two others, if those two agree (the pixels of a CT slice are square);
    else the axis nearest superior-inferior, as for axial CT.
    """
    spacing = np.asarray(grid.spacing_zyx)
    for axis in range(3):
        others = np.delete(spacing, axis)
        if np.ptp(others) <= 0.01 * others.max() and np.abs(spacing[axis] - others).min() > 0.1 * others.max():
            return axis
    superior = np.abs(grid.direction_matrix[2])  # |S component| of the x, y and z array axes
    return 2 - int(np.argmax(superior))


@dataclass(frozen=True)
class Orientation:
    """A permutation and flips of array axes.

    :param permutation: canonical axis ``a`` is stored axis ``permutation[a]`` (numpy order).
    :param flips: whether canonical axis ``a`` runs against the stored one.
    :param stored: the grid as stored.
    :param grid: the same voxels as a canonical grid.
    """

    permutation: tuple[int, int, int]
    flips: tuple[bool, bool, bool]
    stored: Grid
    grid: Grid

    def to_canonical(self, array: NDArray[_Scalar]) -> NDArray[_Scalar]:
        """The stored array in canonical axis order, contiguous; the array itself where it is so already."""
        return np.ascontiguousarray(self.canonical_view(array))

    def canonical_view(self, array: NDArray[_Scalar]) -> NDArray[_Scalar]:
        """The stored array itself, shown in canonical axis order: nothing is copied."""
        return np.flip(np.transpose(array, self.permutation), tuple(a for a in range(3) if self.flips[a]))

    def to_stored(self, array: NDArray[_Scalar]) -> NDArray[_Scalar]:
        """A canonical array back in the stored axis order (contiguous copy)."""
        result = np.flip(array, tuple(a for a in range(3) if self.flips[a]))
        return np.ascontiguousarray(np.transpose(result, np.argsort(self.permutation)))

    def stored_slice_index(self, canonical_index: int) -> int:
        """Number of a canonical slice, counted along the stored slice axis."""
        return self.grid.shape[0] - 1 - canonical_index if self.flips[0] else canonical_index

    def canonical_slice_index(self, stored_index: int) -> int:
        """Number of the canonical slice that has this number along the stored slice axis."""
        return self.stored_slice_index(stored_index)  # turning an axis round twice changes nothing


def canonical_orientation(grid: Grid) -> Orientation:
    """How to bring a grid into canonical order: slices first (towards superior for axial CT), rows, columns."""
    directions = grid.direction_matrix.T[::-1]  # LPS direction of numpy axes 0, 1, 2
    slice_axis = acquisition_slice_axis(grid)
    normal = directions[slice_axis]
    patient_axis = int(np.argmax(np.abs(normal)))
    rows, columns = _IN_PLANE[patient_axis]
    first, second = (axis for axis in range(3) if axis != slice_axis)
    straight = abs(directions[first] @ rows) + abs(directions[second] @ columns)
    swapped = abs(directions[second] @ rows) + abs(directions[first] @ columns)
    row_axis, column_axis = (first, second) if straight >= swapped else (second, first)
    permutation = (slice_axis, row_axis, column_axis)
    targets = (np.eye(3)[patient_axis], rows, columns)
    flips = tuple(bool(directions[axis] @ target < 0) for axis, target in zip(permutation, targets, strict=True))
    return Orientation(permutation, flips, grid, _reoriented(grid, permutation, flips))  # type: ignore[arg-type]


def _reoriented(grid: Grid, permutation: tuple[int, ...], flips: tuple[bool, ...]) -> Grid:
    spacing = [grid.spacing_zyx[axis] for axis in permutation]
    shape = [grid.shape[axis] for axis in permutation]
    stored_axes = grid.direction_matrix.T[::-1]
    axes = [stored_axes[axis] * (-1.0 if flip else 1.0) for axis, flip in zip(permutation, flips, strict=True)]
    corner = np.zeros(3)  # stored index (z, y, x) of the canonical voxel [0, 0, 0]
    for axis, flip in zip(permutation, flips, strict=True):
        corner[axis] = grid.shape[axis] - 1 if flip else 0
    origin = grid.to_physical(corner[::-1][None])[0]
    return Grid(
        shape=(shape[0], shape[1], shape[2]),
        spacing=(spacing[2], spacing[1], spacing[0]),
        origin=(float(origin[0]), float(origin[1]), float(origin[2])),
        direction=tuple(float(v) for v in np.stack(axes[::-1], axis=1).ravel()),
    )


@dataclass(frozen=True)
class WorkingFrame:
    """Rigid change of coordinates from LPS to the follow-up's own axes: ``work = rotation.T @ (lps - origin)``.

    :param rotation: columns are the LPS directions of the follow-up's canonical x, y, z axes.
    :param origin: LPS position of the follow-up's first canonical voxel.
    """

    rotation: NDArray[np.float64]
    origin: NDArray[np.float64]

    @classmethod
    def of(cls, grid: Grid) -> WorkingFrame:
        """The frame of a canonical grid."""
        return cls(grid.direction_matrix, np.asarray(grid.origin))

    def grid(self, grid: Grid) -> Grid:
        """A canonical grid in working coordinates."""
        direction = np.round(self.rotation.T @ grid.direction_matrix, _DIRECTION_DECIMALS) + 0.0
        origin = np.round(self.rotation.T @ (np.asarray(grid.origin) - self.origin), _MILLIMETRE_DECIMALS) + 0.0
        is_identity = np.abs(direction - np.eye(3)).max() < 1e-6
        return Grid(
            shape=grid.shape,
            spacing=tuple(float(v) for v in np.round(grid.spacing, _MILLIMETRE_DECIMALS)),  # type: ignore[arg-type]
            origin=tuple(float(v) for v in origin),  # type: ignore[arg-type]
            direction=IDENTITY_DIRECTION if is_identity else tuple(float(v) for v in direction.ravel()),
        )

    def vectors_to_lps(self, vectors: NDArray[np.floating]) -> NDArray[np.float64]:
        """Displacements ``(n, 3)`` in mm of the working frame as LPS displacements."""
        lps: NDArray[np.float64] = np.asarray(vectors, dtype=np.float64) @ self.rotation.T
        return lps

    def points_to_lps(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """Points ``(n, 3)`` of the working frame as LPS points."""
        return self.vectors_to_lps(points) + self.origin

    def points_from_lps(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """LPS points ``(n, 3)`` as points of the working frame."""
        work: NDArray[np.float64] = (np.asarray(points, dtype=np.float64) - self.origin) @ self.rotation
        return work


def to_working_frame(volume: Volume, frame: WorkingFrame | None = None) -> tuple[Volume, Orientation, WorkingFrame]:
    """A volume in canonical order and working coordinates.

    :param frame: the follow-up's frame; None makes the frame of this volume (which then has identity directions).
    :returns: the volume, its orientation (to bring masks back) and the frame.
    """
    orientation = canonical_orientation(volume.grid)
    frame = frame or WorkingFrame.of(orientation.grid)
    array = orientation.to_canonical(volume.array)
    working = Volume(array, frame.grid(orientation.grid), volume.name, volume.identity, volume.warnings)
    return working, orientation, frame
