"""The known motion between a prior CT and its simulated follow-up: set-up error and smooth anatomical deformation.

The map takes follow-up points to prior points (ITK's fixed-to-moving sense), in LPS millimetres::

    prior = R (p + u(p) - c) + c + t

``R`` and ``t`` are the set-up error about ``c`` and ``u`` is a uniform cubic B-spline, hence twice differentiable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.geometry import Grid

FloatArray = NDArray[np.float64]

#: Tissue may be squeezed to this part of its volume at most. Below it, and long before folding, it is no anatomy any more.
SMALLEST_JACOBIAN = 0.2

#: Steps of the fixed-point inverse. The error falls by the field's slope (< 0.5 where the Jacobian check passes) each time.
INVERSE_STEPS = 60
INVERSE_MM = 1e-7


@dataclass(frozen=True)
class SmoothField:
    """A smooth vector field over LPS space: uniform cubic B-splines on a lattice of control points.

    :param axes: 3x3, columns are the LPS directions of the lattice's x, y and z axes.
    :param first: position of the first control point along these axes, in mm ``(x, y, z)``.
    :param knot_mm: distance of control points in mm.
    :param coefficients: ``(components, nz, ny, nx)``; beyond the lattice the border's value goes on.
    """

    axes: FloatArray
    first: FloatArray
    knot_mm: float
    coefficients: FloatArray

    def __call__(self, points: FloatArray) -> FloatArray:
        """Values ``(n, components)`` at LPS points ``(n, 3)``."""
        from scipy.ndimage import map_coordinates

        along = points @ self.axes
        index_zyx = np.stack([self._index(along[:, axis], axis) for axis in (2, 1, 0)])
        columns = [map_coordinates(part, index_zyx, order=3, prefilter=False) for part in self.coefficients]
        return np.stack(columns, axis=1)

    def on_grid(self, grid: Grid) -> FloatArray:
        """Values ``(z, y, x, components)`` at all voxel centres of a grid that lies along the field's axes; far faster."""
        start = np.asarray(grid.origin) @ self.axes
        values: FloatArray = self.coefficients
        for axis, count in enumerate((grid.shape[2], grid.shape[1], grid.shape[0])):
            index = self._index(start[axis] + np.arange(count) * grid.spacing[axis], axis)
            reach = np.abs(index[:, None] - np.arange(self.coefficients.shape[3 - axis]))
            inner = 2 / 3 - reach**2 + reach**3 / 2
            weights = np.where(reach < 1, inner, np.where(reach < 2, (2 - reach) ** 3 / 6, 0.0))
            values = np.moveaxis(np.tensordot(values, weights, axes=(3 - axis, 1)), -1, 3 - axis)
        return np.asarray(np.moveaxis(values, 0, -1))

    def _index(self, along: FloatArray, axis: int) -> FloatArray:
        """Continuous lattice index, kept where all four control points exist."""
        count = self.coefficients.shape[3 - axis]
        return np.asarray(np.clip((along - self.first[axis]) / self.knot_mm, 1.0, count - 2.0))

    def scaled(self, factor: float) -> SmoothField:
        """The same field times ``factor``."""
        return replace(self, coefficients=self.coefficients * factor)


def draw_field(
    rng: np.random.Generator, axes: FloatArray, corners: FloatArray, knot_mm: float, margin_mm: float
) -> SmoothField:
    """Draw a smooth vector field with normally distributed control points.

    :param axes: 3x3 LPS directions of the lattice, in columns.
    :param corners: LPS points ``(n, 3)``; their box along ``axes``, and ``margin_mm`` more, is covered.
    :param knot_mm: distance of control points, the scale on which the field varies, in mm.
    """
    along = corners @ axes
    low, high = along.min(axis=0) - margin_mm, along.max(axis=0) + margin_mm
    counts = np.ceil((high - low) / knot_mm).astype(int) + 5
    coefficients = rng.standard_normal((3, counts[2], counts[1], counts[0]))
    return SmoothField(axes, low - 2 * knot_mm, knot_mm, coefficients)


def rotation_matrix(degrees_xyz: Sequence[float]) -> FloatArray:
    """The rotation about the LPS x axis, then y, then z, in degrees: ``Rz Ry Rx``."""
    x, y, z = np.deg2rad(np.asarray(degrees_xyz, dtype=np.float64))
    about_x = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    about_z = np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
    return np.asarray(about_z @ about_y @ about_x)


@dataclass(frozen=True)
class VisitMotion:
    """The true map from follow-up points to prior points; call it with LPS points ``(n, 3)`` in mm.

    :param rotation_deg: rotation about LPS x, then y, then z, in degrees.
    :param shift_mm: LPS translation ``t``.
    :param centre: LPS point ``c`` about which is rotated.
    :param deformation: the displacement ``u`` in mm over follow-up points, or None for a rigid map.
    """

    rotation_deg: tuple[float, float, float]
    shift_mm: tuple[float, float, float]
    centre: tuple[float, float, float]
    deformation: SmoothField | None = None

    @property
    def rigid_matrix(self) -> FloatArray:
        """The 4x4 set-up part alone, follow-up to prior."""
        matrix = np.eye(4)
        matrix[:3, :3] = rotation_matrix(self.rotation_deg)
        matrix[:3, 3] = np.asarray(self.centre) + np.asarray(self.shift_mm) - matrix[:3, :3] @ np.asarray(self.centre)
        return matrix

    def __call__(self, points: NDArray[np.floating]) -> FloatArray:
        """Prior points of follow-up points, both LPS ``(n, 3)``."""
        moved = np.asarray(points, dtype=np.float64)
        if self.deformation is not None:
            moved = moved + self.deformation(moved)
        matrix = self.rigid_matrix
        return np.asarray(moved @ matrix[:3, :3].T + matrix[:3, 3])

    def on_grid(self, grid: Grid) -> FloatArray:
        """Prior points ``(z, y, x, 3)`` of all voxel centres of a follow-up grid along the deformation's axes."""
        matrix = self.rigid_matrix
        scale = grid.index_to_physical
        axes = [np.arange(n, dtype=np.float64) for n in grid.shape]
        steps = matrix[:3, :3] @ scale[:3, :3]
        start = matrix[:3, :3] @ scale[:3, 3] + matrix[:3, 3]
        points = (
            start
            + axes[0][:, None, None, None] * steps[:, 2]
            + axes[1][None, :, None, None] * steps[:, 1]
            + axes[2][None, None, :, None] * steps[:, 0]
        )
        if self.deformation is not None:
            points += self.deformation.on_grid(grid) @ matrix[:3, :3].T
        return np.asarray(points)

    def inverse(self, points: NDArray[np.floating]) -> FloatArray:
        """Follow-up points of prior points, both LPS ``(n, 3)``, to better than a micrometre."""
        matrix = np.linalg.inv(self.rigid_matrix)
        target = np.asarray(points, dtype=np.float64) @ matrix[:3, :3].T + matrix[:3, 3]
        if self.deformation is None:
            return np.asarray(target)
        found = target
        for _ in range(INVERSE_STEPS):
            before, found = found, target - self.deformation(found)
            if np.abs(found - before).max(initial=0.0) < INVERSE_MM:
                break
        return np.asarray(found)

    def jacobian(self, points: NDArray[np.floating], step_mm: float = 0.5) -> FloatArray:
        """Jacobian determinant ``(n,)`` of the map at follow-up points ``(n, 3)``, by central differences."""
        points = np.asarray(points, dtype=np.float64)
        columns = [(self(points + step) - self(points - step)) / (2 * step_mm) for step in np.eye(3) * step_mm]
        return np.asarray(np.linalg.det(np.stack(columns, axis=2)))

    def check(self, grid: Grid) -> tuple[float, float]:
        """The smallest and the largest Jacobian determinant over a follow-up grid.

        :raises InputError: the deformation folds tissue, or squeezes it to less than :data:`SMALLEST_JACOBIAN`.
        """
        if self.deformation is None:
            return 1.0, 1.0
        determinants = self.jacobian(grid_samples(grid, self.deformation.knot_mm / 4))
        smallest = float(determinants.min())
        if smallest < SMALLEST_JACOBIAN:
            raise InputError(
                f"deform_mm: the deformation would fold or crush tissue (smallest Jacobian {smallest:.2f}); "
                f"use less, or a deform_scale_mm above {self.deformation.knot_mm:g}"
            )
        return smallest, float(determinants.max())


def draw_motion(
    rng: np.random.Generator,
    prior: Grid,
    centre: FloatArray,
    rotation_deg: float,
    shift_mm: float,
    deform_mm: float,
    scale_mm: float,
) -> VisitMotion:
    """Draw a set-up error and a deformation.

    :param prior: the prior's grid; the deformation reaches ``deform_mm`` somewhere in it.
    :param centre: LPS point about which is rotated.
    :param rotation_deg: largest rotation about each axis, in degrees; drawn uniformly in plus or minus that.
    :param shift_mm: largest shift along each axis, in mm; drawn uniformly in plus or minus that.
    :param deform_mm: length in mm of the longest displacement vector.
    :param scale_mm: distance of the deformation's control points in mm.
    :raises InputError: the deformation would fold tissue, or squeeze it to less than :data:`SMALLEST_JACOBIAN`.
    """
    rotation, shift = rng.uniform(-1, 1, 3) * rotation_deg, rng.uniform(-1, 1, 3) * shift_mm
    field = draw_field(rng, prior.direction_matrix, prior.corners(), scale_mm, shift_mm)
    rigid = VisitMotion(_triple(rotation), _triple(shift), _triple(centre))
    if deform_mm == 0:
        return rigid
    lengths = np.linalg.norm(field(grid_samples(prior, scale_mm / 4)), axis=1)
    motion = replace(rigid, deformation=field.scaled(deform_mm / float(lengths.max())))
    motion.check(prior)
    return motion


def _triple(values: FloatArray) -> tuple[float, float, float]:
    return (float(values[0]), float(values[1]), float(values[2]))


def grid_samples(grid: Grid, step_mm: float) -> FloatArray:
    """LPS points ``(n, 3)`` over a grid, at most ``step_mm`` apart along its axes, its outer voxels included."""
    counts = (grid.shape[2], grid.shape[1], grid.shape[0])
    axes = [
        np.linspace(0, n - 1, max(2, int(np.ceil((n - 1) * s / step_mm)) + 1))
        for n, s in zip(counts, grid.spacing, strict=True)
    ]
    return grid.to_physical(np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3))
