"""A body with texture at every place, which a known rigid motion can move exactly."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.volume import BoolArray, Volume
from scipy import ndimage
from scipy.spatial.transform import Rotation

Points = NDArray[np.float64]

#: Texture lies on a lattice of this distance; smooth enough that 3 mm voxels show all of it.
LATTICE_MM = 3.0
AIR, LESION_HU = -1000.0, 160.0


@cache
def _lattice(seed: int, z_mm: float) -> NDArray[np.float64]:
    """HU of the texture and of the lungs' worth of air on the lattice."""
    rng = np.random.default_rng(seed)
    count = int(z_mm / LATTICE_MM) + 1, 61, 61
    texture = ndimage.gaussian_filter(rng.normal(size=count), 3.0)
    texture *= 45.0 / texture.std()
    coarse = ndimage.gaussian_filter(rng.normal(size=count), 7.0)
    cavity = coarse > 1.1 * coarse.std()
    lattice: NDArray[np.float64] = ndimage.gaussian_filter(np.where(cavity, -750.0, 40.0 + texture), 0.7)
    return lattice


@dataclass(frozen=True)
class Body:
    """An elliptic cylinder with a fat layer, two lungs' worth of air, texture, and a spherical lesion, centred on 0.

    :param seed: of the texture; another seed is another patient.
    :param z_mm: length of the patient.
    """

    seed: int = 0
    z_mm: float = 300.0
    lesion_at: tuple[float, float, float] = (18.0, -10.0, 6.0)
    lesion_mm: float = 12.0

    def hu(self, points: Points) -> NDArray[np.float64]:
        """HU at points ``(n, 3)``."""
        lattice = _lattice(self.seed, self.z_mm)
        index = points[:, ::-1] / LATTICE_MM + (np.array(lattice.shape)[:, None].T - 1) / 2
        values = ndimage.map_coordinates(lattice, index.T, order=1, mode="nearest")
        values = np.where(self.inside_lesion(points), LESION_HU, values)
        radius = np.hypot(points[:, 0] / 70.0, points[:, 1] / 52.0)
        values = np.where(radius > 0.9, -100.0, values)
        return np.asarray(np.where((radius > 1) | (np.abs(points[:, 2]) > self.z_mm / 2), AIR, values), dtype=np.float64)

    def inside_lesion(self, points: Points) -> BoolArray:
        """Whether points ``(n, 3)`` lie in the lesion."""
        inside: BoolArray = np.linalg.norm(points - np.array(self.lesion_at), axis=1) < self.lesion_mm
        return inside


@dataclass(frozen=True)
class Motion:
    """``prior = R p + t`` for follow-up points p."""

    degrees: tuple[float, float, float] = (0.0, 0.0, 0.0)
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __call__(self, points: Points) -> Points:
        turned: Points = Rotation.from_euler("xyz", self.degrees, degrees=True).apply(points)
        return np.asarray(turned + np.array(self.shift), dtype=np.float64)


def voxel_points(grid: Grid) -> Points:
    """LPS points ``(n, 3)`` of all voxel centres, in the order of the flattened array."""
    return grid.to_physical(np.indices(grid.shape).reshape(3, -1).T[:, ::-1].astype(np.float64))


def grid_around(
    centre_z: float = 0.0, length_z: float = 105.0, spacing: tuple[float, float, float] = (3.0, 3.0, 3.0), half_mm: float = 78.0
) -> Grid:
    """A field of view around the body's axis."""
    nx, ny, nz = int(2 * half_mm / spacing[0]), int(2 * half_mm / spacing[1]), int(length_z / spacing[2])
    origin = (-half_mm, -half_mm, centre_z - (nz - 1) * spacing[2] / 2)
    return Grid((nz, ny, nx), spacing, origin)


def scan(body: Body, grid: Grid, motion: Motion | None = None, noise_seed: int = 1) -> tuple[Volume, BoolArray]:
    """A CT of the moved body on a grid, and its lesion."""
    points = voxel_points(grid)
    if motion is not None:
        points = motion(points)
    noise = np.random.default_rng(noise_seed).normal(0, 8.0, len(points))
    hu = np.rint(body.hu(points) + noise).astype(np.int16).reshape(grid.shape)
    return Volume(hu, grid, "phantom"), body.inside_lesion(points).reshape(grid.shape)
