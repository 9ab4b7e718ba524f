"""Where voxels lie in the patient: shape, spacing, origin and direction of a regular grid, in LPS millimetres."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.errors import InputError

#: Directions whose pairwise products differ from the identity by more than this are not orthonormal. Real DICOM headers
#: carry direction cosines with six decimals, so a few 1e-6 are normal.
ORTHONORMAL_TOLERANCE = 1e-3

IDENTITY_DIRECTION = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


@dataclass(frozen=True)
class Grid:
    """A regular voxel grid.

    :param shape: number of voxels ``(z, y, x)``, the order of numpy arrays.
    :param spacing: distance of voxel centres in mm ``(x, y, z)``.
    :param origin: LPS position in mm of the centre of voxel ``[0, 0, 0]``.
    :param direction: nine direction cosines, row-major as in SimpleITK; column ``a`` of the 3x3 matrix is the LPS
        direction of array axis ``x, y, z`` for ``a = 0, 1, 2``.
    """

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    direction: tuple[float, ...] = IDENTITY_DIRECTION

    @property
    def direction_matrix(self) -> NDArray[np.float64]:
        """The 3x3 matrix whose columns are the LPS directions of the x, y and z array axes."""
        return np.asarray(self.direction, dtype=np.float64).reshape(3, 3)

    @property
    def index_to_physical(self) -> NDArray[np.float64]:
        """4x4 matrix that maps homogeneous voxel indices ``(x, y, z, 1)`` to LPS millimetres."""
        matrix = np.eye(4)
        matrix[:3, :3] = self.direction_matrix * np.asarray(self.spacing)
        matrix[:3, 3] = self.origin
        return matrix

    @property
    def spacing_zyx(self) -> tuple[float, float, float]:
        """Spacing in mm in the order of the array axes."""
        return (self.spacing[2], self.spacing[1], self.spacing[0])

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return float(np.prod(self.spacing)) / 1000.0

    def to_physical(self, index_xyz: NDArray[np.floating]) -> NDArray[np.float64]:
        """LPS millimetres ``(n, 3)`` of continuous voxel indices ``(n, 3)`` given as ``(x, y, z)``."""
        matrix = self.index_to_physical
        points: NDArray[np.float64] = np.asarray(index_xyz, dtype=np.float64) @ matrix[:3, :3].T + matrix[:3, 3]
        return points

    def to_index(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """Continuous voxel indices ``(x, y, z)`` of LPS points, both ``(n, 3)``."""
        matrix = np.linalg.inv(self.index_to_physical)
        index: NDArray[np.float64] = np.asarray(points, dtype=np.float64) @ matrix[:3, :3].T + matrix[:3, 3]
        return index

    def corners(self) -> NDArray[np.float64]:
        """The eight LPS corner points of the grid's outer voxel edges, ``(8, 3)``."""
        nz, ny, nx = self.shape
        ends = np.array([[x, y, z] for z in (-0.5, nz - 0.5) for y in (-0.5, ny - 0.5) for x in (-0.5, nx - 0.5)])
        return self.to_physical(ends)

    def same_as(self, other: Grid, tolerance_mm: float = 1e-3) -> bool:
        """Whether both grids have the same shape and all corners agree within ``tolerance_mm``."""
        return self.shape == other.shape and bool(np.abs(self.corners() - other.corners()).max() <= tolerance_mm)

    def check(self, name: str) -> None:
        """Refuse a grid on which millimetres mean nothing.

        :param name: the file or node, for the message.
        :raises InputError: not 3-D, an empty axis, zero or non-finite spacing, or directions that are not orthonormal.
        """
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise InputError(f"{name}: not a 3-D volume (shape {self.shape})")
        numbers = np.concatenate([self.spacing, self.origin, self.direction])
        if not np.isfinite(numbers).all():
            raise InputError(f"{name}: spacing, origin or direction is not finite")
        if min(self.spacing) <= 0:
            raise InputError(f"{name}: spacing {tuple(self.spacing)} mm is not positive")
        matrix = self.direction_matrix
        if np.abs(matrix.T @ matrix - np.eye(3)).max() > ORTHONORMAL_TOLERANCE:
            raise InputError(f"{name}: the axis directions are not orthonormal (sheared or gantry-tilted grid)")
