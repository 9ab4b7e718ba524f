"""Where the acquired slices of a volume lie in the world, and which of them a slice view shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.mrml.volume_nodes import RAS_TO_LPS, grid_from_matrix, voxels_to_world
from P2SAMSlicerLib.orientation import acquisition_slice_axis
from P2SAMSlicerLib.volume import BoolArray

#: A view shows acquired slices if it is turned against them by less than this; beyond, it cuts through many.
MOST_TURNED_DEG = 5.0


@dataclass(frozen=True)
class SlicePlaces:
    """The acquired slices of one volume.

    :param grid: of the volume's voxels in the world, LPS millimetres.
    :param axis: array axis (numpy order) along which the slices were acquired, as
        :class:`~P2SAMSlicerLib.result.SliceResult` counts them.
    """

    grid: Grid
    axis: int

    @classmethod
    def of(cls, volume_node: Any) -> SlicePlaces:
        """The slices of a volume node, through its parent transforms.

        :raises InputError: a parent transform that is not linear.
        """
        i, j, k = volume_node.GetImageData().GetDimensions()
        grid = grid_from_matrix(voxels_to_world(volume_node), (k, j, i), volume_node.GetName())
        return cls(grid, acquisition_slice_axis(grid))

    @property
    def count(self) -> int:
        """Number of slices."""
        return self.grid.shape[self.axis]

    @property
    def spacing_mm(self) -> float:
        """Distance of neighbouring slices."""
        return self.grid.spacing_zyx[self.axis]

    def centre(self, index: int, mask: BoolArray | None = None) -> tuple[float, float, float]:
        """A point in the middle of a slice, RAS millimetres.

        :param mask: a contour on the voxels; the point is in the middle of what it shows on the slice, or, where it shows
            nothing there, in the middle of all of it.
        :raises InputError: there is no such slice.
        """
        if not 0 <= index < self.count:
            raise InputError(f"there is no slice {index}: the volume has {self.count}")
        voxel = (np.asarray(self.grid.shape, dtype=float) - 1.0) / 2.0
        if mask is not None and mask.any():
            plane = np.take(mask, index, axis=self.axis)
            shown = np.argwhere(plane if plane.any() else mask.any(axis=self.axis))
            voxel[[axis for axis in range(3) if axis != self.axis]] = shown.mean(axis=0)
        voxel[self.axis] = index
        x, y, z = (RAS_TO_LPS[:3, :3] @ self.grid.to_physical(voxel[::-1][None])[0]).tolist()
        return float(x), float(y), float(z)

    def index_at(self, ras: NDArray[np.float64] | tuple[float, float, float]) -> int | None:
        """The slice that a point lies on (within half of the slices' distance), or None outside of the volume."""
        lps = RAS_TO_LPS[:3, :3] @ np.asarray(ras, dtype=float)
        position = float(self.grid.to_index(lps[None])[0][::-1][self.axis])
        index = int(np.floor(position + 0.5))
        return index if 0 <= index < self.count else None

    def shown_in(self, slice_node: Any) -> int | None:
        """The slice that a slice view shows, or None if the view is turned against the slices or is outside of them.

        :param slice_node: ``vtkMRMLSliceNode``.
        """
        matrix = slice_node.GetSliceToRAS()
        normal = np.array([matrix.GetElement(row, 2) for row in range(3)])
        position = np.array([matrix.GetElement(row, 3) for row in range(3)])
        along = RAS_TO_LPS[:3, :3] @ self.grid.direction_matrix.T[::-1][self.axis]
        if abs(float(normal @ along)) < np.cos(np.radians(MOST_TURNED_DEG)) * np.linalg.norm(normal):
            return None
        # The view's own centre may lie beside the volume: only its place along the slices counts.
        centre = np.asarray(self.centre(0))
        return self.index_at(tuple((centre + along * float((position - centre) @ along)).tolist()))
