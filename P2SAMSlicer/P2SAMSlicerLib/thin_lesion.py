"""The registered contour of a lesion that fits between the follow-up's voxel centres, so that no target is dropped."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.registration import carry_distance
from P2SAMSlicerLib.volume import BoolArray

if TYPE_CHECKING:
    import SimpleITK as sitk

#: Points looked at along one of the prior's voxels, so that a lesion of a single voxel is met; and their limit in one of the
#: follow-up's voxels, which bounds memory.
POINTS_PER_PRIOR_VOXEL = 3
MOST_POINTS = 16


def touched_voxels(
    lesion: BoolArray, grid: Grid, onto: Grid, transform: sitk.Transform, distance_mm: NDArray[np.float32]
) -> BoolArray:
    """The follow-up's voxels that a lesion touches, although it holds the centre of none; at least one.

    Their volume is larger than the lesion's: this marks a place and is no measure.

    :param lesion: on the prior's grid, not empty.
    :param onto: the follow-up's grid.
    :param transform: from follow-up points to prior points.
    :param distance_mm: see :func:`~P2SAMSlicerLib.registration.carry_distance`; negative everywhere.
    """
    # No voxel is touched whose centre is farther away than its corners are.
    farthest = min(float(distance_mm.max()), -0.5 * float(np.linalg.norm(onto.spacing)))
    box = [slice(int(places.min()), int(places.max()) + 1) for places in np.nonzero(distance_mm >= farthest)]
    step = min(grid.spacing) / POINTS_PER_PRIOR_VOXEL
    points = [int(np.clip(np.ceil(spacing / step), 2, MOST_POINTS)) for spacing in onto.spacing_zyx]
    sizes = [places.stop - places.start for places in box]
    first = np.array([places.start - 0.5 + 0.5 / n for places, n in zip(box, points, strict=True)])
    x, y, z = (float(value) for value in onto.to_physical(first[None, ::-1])[0])
    sx, sy, sz = (spacing / n for spacing, n in zip(onto.spacing, points[::-1], strict=True))
    nz, ny, nx = (size * n for size, n in zip(sizes, points, strict=True))
    fine = replace(onto, shape=(nz, ny, nx), spacing=(sx, sy, sz), origin=(x, y, z))
    met = carry_distance(lesion, grid, fine, transform) >= 0
    blocks = met.reshape(sizes[0], points[0], sizes[1], points[1], sizes[2], points[2])
    touched = np.zeros(onto.shape, dtype=bool)
    touched[tuple(box)] = blocks.any(axis=(1, 3, 5))
    return touched if touched.any() else distance_mm == distance_mm.max()
