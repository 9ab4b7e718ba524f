"""The region of interest: a square window around the propagated contour, sampled at the resolution that the encoder sees.

A SAM cell on a whole 500 mm slice is 8 mm wide, so a small lesion has hardly a cell of its own. Sampling a window of the
lesion's size instead gives every lesion some tens of cells across (named option: ``margin_mm``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.volume import BoolArray

#: A window is never narrower than this: below it the image shows voxels instead of anatomy.
MIN_SIDE_MM = 64.0
PADDING_HU = -1024.0


@dataclass(frozen=True)
class Region:
    """A square window in the plane of the slices, the same on every slice.

    Plane coordinates are millimetres from the centre of voxel ``[., 0, 0]`` along the columns (x) and rows (y).

    :param left: x of the window's left edge, mm.
    :param top: y of the window's upper edge, mm.
    :param side: side of the window, mm.
    :param pixels: side of the sampled image, pixels.
    """

    left: float
    top: float
    side: float
    pixels: int

    @property
    def pixel_mm(self) -> float:
        """Size of a pixel of the sampled image, mm."""
        return self.side / self.pixels

    def _pixel_centres(self, spacing: float, edge: float) -> NDArray[np.float64]:
        """Continuous voxel indices of the image's pixel centres along one axis."""
        centres = edge + (np.arange(self.pixels, dtype=np.float64) + 0.5) * self.pixel_mm
        return centres / spacing

    def crop(self, plane: NDArray[np.generic], grid: Grid, outside: float = PADDING_HU) -> NDArray[np.float32]:
        """One slice ``(ny, nx)`` sampled on the window, ``(pixels, pixels)``, averaged where pixels are coarser than voxels."""
        from scipy import ndimage

        values = plane.astype(np.float32)
        coarseness = self.pixel_mm / np.array([grid.spacing[1], grid.spacing[0]])
        if coarseness.max() > 1.0:
            values = ndimage.gaussian_filter(values, np.where(coarseness > 1.0, 0.4 * coarseness, 0.0))
        rows = self._pixel_centres(grid.spacing[1], self.top)
        columns = self._pixel_centres(grid.spacing[0], self.left)
        return _bilinear(values, rows, columns, outside)

    def place(self, image: NDArray[np.float32], grid: Grid, outside: float) -> NDArray[np.float32]:
        """An image on the window brought back to the slice's voxels ``(ny, nx)``; ``outside`` beyond the window."""
        _, ny, nx = grid.shape
        rows = (np.arange(ny, dtype=np.float64) * grid.spacing[1] - self.top) / self.pixel_mm - 0.5
        columns = (np.arange(nx, dtype=np.float64) * grid.spacing[0] - self.left) / self.pixel_mm - 0.5
        return _bilinear(image, rows, columns, outside)


def _bilinear(
    plane: NDArray[np.float32], rows: NDArray[np.float64], columns: NDArray[np.float64], outside: float
) -> NDArray[np.float32]:
    """Values of a plane on a raster: bilinear, and ``outside`` beyond its first and last voxel centres.

    The raster lies along the plane's axes, so that one axis after the other is enough: a tenth of the time that it takes point
    by point.
    """
    inside = [(at >= 0.0) & (at <= size - 1) for at, size in zip((rows, columns), plane.shape, strict=True)]
    result = np.full((len(rows), len(columns)), outside, dtype=np.float32)
    if not (inside[0].any() and inside[1].any()):
        return result
    along_rows = _linear(plane.astype(np.float64), rows[inside[0]])
    result[np.ix_(*inside)] = _linear(along_rows.T, columns[inside[1]]).T
    return result


def _linear(values: NDArray[np.float64], at: NDArray[np.float64]) -> NDArray[np.float64]:
    """Between neighbouring rows of ``values``, at fractional row numbers that lie inside."""
    low = np.minimum(at.astype(np.intp), max(len(values) - 2, 0))
    high = np.minimum(low + 1, len(values) - 1)
    share = (at - low)[:, None]
    between: NDArray[np.float64] = values[low] * (1.0 - share) + values[high] * share
    return between


def extent_mm(mask: BoolArray, grid: Grid) -> tuple[float, float, float, float]:
    """Smallest and largest x, then y, of a mask's voxel centres over all slices, in plane millimetres."""
    rows, columns = np.nonzero(mask.any(axis=0))
    sx, sy, _ = grid.spacing
    return float(columns.min()) * sx, float(columns.max()) * sx, float(rows.min()) * sy, float(rows.max()) * sy


def region_around(mask: BoolArray, grid: Grid, margin_mm: float, pixels: int, side_mm: float | None = None) -> Region:
    """The window centred on a mask.

    :param mask: the propagated contour ``(z, y, x)``, not empty.
    :param margin_mm: tissue shown on every side of it.
    :param side_mm: the window's side, where it must equal that of another visit (features depend on magnification).
    """
    x0, x1, y0, y1 = extent_mm(mask, grid)
    side = side_mm or max(x1 - x0 + 2 * margin_mm, y1 - y0 + 2 * margin_mm, MIN_SIDE_MM)
    return Region((x0 + x1 - side) / 2, (y0 + y1 - side) / 2, side, pixels)
