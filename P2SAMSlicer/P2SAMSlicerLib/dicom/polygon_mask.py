"""Polygons to masks: which voxel centres lie inside of closed contours, by the even-odd rule.

A voxel belongs to a structure if its centre lies inside of an odd number of the plane's contours; a contour within a contour is
so a hole, one within that hole an island, and the two banks of a keyhole's channel cancel out. The result depends neither on
the order of the contours nor on the direction or the first point of any of them.

Centres that lie exactly on an edge: the mask is half-open along both axes. A centre on an edge is inside if the inside lies on
the side of larger index (x for edges that are not parallel to the rows, y for those that are), else outside. So two structures
that share an edge neither overlap nor leave a gap. What is nearer to an edge than :data:`SNAP` of a voxel lies on it: decimal
coordinates and direction cosines are rounded, and their last digits must not decide.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.volume import BoolArray

#: Polygon corners, ``(n, 2)`` as ``(x, y)`` in voxel indices: integers are voxel centres. The last corner joins the first.
Polygon = NDArray[np.float64]

#: Corners and crossings are rounded to this part of a voxel.
SNAP = 1e-6

#: Crossings of edges with rows of voxels that are worked on together; bounds memory.
_TOGETHER = 1 << 20

#: What a crossing costs, in voxels of the box that is filled.
_CROSSING = 8


@dataclass(frozen=True)
class FilledPolygon:
    """One polygon's voxels.

    :param box: the rows and columns of the image that it can reach.
    :param mask: ``(y, x)`` within the box.
    :param winds_twice: it goes around a voxel's centre more than once, so that it crosses itself; there it is not inside, if
        it goes around an even number of times.
    """

    box: tuple[slice, slice]
    mask: BoolArray
    winds_twice: bool


def fill_polygon(polygon: Polygon, shape: tuple[int, int]) -> FilledPolygon | None:
    """The voxels whose centres a polygon goes around an odd number of times; None where it lies beside the image.

    :param polygon: see :data:`Polygon`; it may reach beyond the image and cross itself.
    :param shape: rows and columns ``(y, x)`` of the image.
    """
    box = _box(polygon, shape)
    if box is None:
        return None
    winding = _turns(polygon, box)
    np.cumsum(winding, axis=1, out=winding)
    return FilledPolygon(box, winding & 1 != 0, bool(winding.size) and bool(max(winding.max(), -winding.min()) > 1))


def fill_even_odd(polygons: Iterable[Polygon], shape: tuple[int, int]) -> BoolArray:
    """The voxels whose centres lie inside of an odd number of polygons.

    :param polygons: of one plane.
    :returns: ``(y, x)``.
    """
    return joined((fill_polygon(polygon, shape) for polygon in polygons), shape)


def joined(polygons: Iterable[FilledPolygon | None], shape: tuple[int, int]) -> BoolArray:
    """The voxels that an odd number of filled polygons hold, ``(y, x)`` of the whole image."""
    mask = np.zeros(shape, dtype=np.bool_)
    for each in polygons:
        if each is not None:
            mask[each.box] ^= each.mask
    return mask


def work(polygon: Polygon, shape: tuple[int, int]) -> int:
    """What filling a polygon takes, in voxels of about 10 ns; to be known before it is begun."""
    box = _box(polygon, shape)
    if box is None:
        return 0
    _, _, first, past, _ = _edges(polygon, 0, shape[0])
    rows, columns = box
    crossings = int((past - first).sum())
    return int(_CROSSING * crossings + (rows.stop - rows.start) * (columns.stop - columns.start))


def area(polygon: Polygon) -> float:
    """Area that a polygon encloses, in voxels; of one that crosses itself, the difference of its parts."""
    x, y = (polygon - polygon[0]).T
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)


def share_outside(polygon: Polygon, shape: tuple[int, int]) -> float:
    """Share of a polygon's area that lies beyond the outer voxel edges of an image."""
    low, high = polygon.min(axis=0), polygon.max(axis=0)
    limits = np.array([shape[1], shape[0]]) - 0.5
    if (low >= -0.5).all() and (high <= limits).all():
        return 0.0
    if (high <= -0.5).any() or (low >= limits).any():
        return 1.0
    whole = area(polygon)
    if not whole:
        return 0.0
    clipped = polygon
    for axis in (0, 1):
        clipped = _clip(clipped, axis, -0.5, 1.0)
        clipped = _clip(clipped, axis, limits[axis], -1.0)
    return min(1.0, max(0.0, 1 - (area(clipped) if len(clipped) else 0.0) / whole))


def _clip(polygon: Polygon, axis: int, limit: float, side: float) -> Polygon:
    """The part of a polygon on one side of a line (Sutherland and Hodgman); seams along the line add no area."""
    if not len(polygon):
        return polygon
    distance = side * (polygon[:, axis] - limit)
    following, next_distance = np.roll(polygon, -1, axis=0), np.roll(distance, -1)
    crossing = (distance >= 0) != (next_distance >= 0)
    span = np.where(crossing, distance - next_distance, 1.0)
    between = polygon + (following - polygon) * (distance / span)[:, None]
    corners = np.stack([polygon, between], axis=1).reshape(-1, 2)
    kept: Polygon = corners[np.stack([distance >= 0, crossing], axis=1).ravel()]
    return kept


def _snapped(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.rint(values / SNAP) * SNAP


def _box(polygon: Polygon, shape: tuple[int, int]) -> tuple[slice, slice] | None:
    """The rows and columns that a polygon can reach, or None."""
    (x0, y0), (x1, y1) = polygon.min(axis=0), polygon.max(axis=0)
    rows = slice(int(min(max(math.floor(y0), 0), shape[0])), int(min(max(math.ceil(y1) + 1, 0), shape[0])))
    columns = slice(int(min(max(math.floor(x0), 0), shape[1])), int(min(max(math.ceil(x1) + 1, 0), shape[1])))
    return (rows, columns) if rows.start < rows.stop and columns.start < columns.stop else None


_Numbers = NDArray[np.float64]


def _edges(
    polygon: Polygon, top: int, bottom: int
) -> tuple[_Numbers, _Numbers, NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Edges with their end of smaller y first, and the rows that each crosses.

    An edge crosses a row where ``y0 <= row < y1``: a corner on a row belongs to one of its two edges if the polygon passes
    through the row there, and to both or none where it only touches.

    :returns: ends ``(n, 2)`` of smaller and of larger y; first row and the row past the last one; 1 for edges that run towards
        larger y, else -1.
    """
    start = _snapped(polygon)
    end = np.roll(start, -1, axis=0)
    turned = start[:, 1] > end[:, 1]
    upper, lower = np.where(turned[:, None], end, start), np.where(turned[:, None], start, end)
    # Compared as real numbers: far outside of the image they would not fit into an integer.
    first = np.clip(np.ceil(upper[:, 1]), top, bottom).astype(np.int64)
    past = np.clip(np.ceil(lower[:, 1]), top, bottom).astype(np.int64)
    return upper, lower, first, past, np.where(turned, -1, 1)


def _turns(polygon: Polygon, box: tuple[slice, slice]) -> NDArray[np.int64]:
    """How many edges pass between each voxel's centre (exclusive) and its left neighbour's (inclusive), by their direction.

    Edges to the left of the box count for its first column, those to its right not at all. The sum from the left is how often
    the polygon goes around a centre; whether that is odd is the even-odd rule.
    """
    rows, columns = box
    height, width = rows.stop - rows.start, columns.stop - columns.start
    counts = np.zeros(height * (width + 1), dtype=np.int64)
    upper, lower, first, past, sign = _edges(polygon, rows.start, rows.stop)
    for edge, row in _rows(first, past):
        along = (row - upper[edge, 1]) / (lower[edge, 1] - upper[edge, 1])
        x = _snapped(upper[edge, 0] + along * (lower[edge, 0] - upper[edge, 0]))
        column = np.clip(np.ceil(x) - columns.start, 0, width).astype(np.int64)
        place = (row - rows.start) * (width + 1) + column
        if len(place) * 8 < counts.size:
            np.add.at(counts, place, sign[edge])
        else:
            counts += np.bincount(place, weights=sign[edge], minlength=counts.size).astype(np.int64)
    return counts.reshape(height, width + 1)[:, :width]


def _rows(first: NDArray[np.int64], past: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Every pair of edge and row that it crosses, so many together as memory allows."""
    count = past - first
    crossing = np.flatnonzero(count > 0)
    total = np.cumsum(count[crossing])
    begin = 0
    while begin < len(crossing):
        before = int(total[begin - 1]) if begin else 0
        end = max(begin + 1, int(np.searchsorted(total, before + _TOGETHER, side="right")))
        edges = crossing[begin:end]
        edge = np.repeat(edges, count[edges])
        within = np.arange(len(edge)) - np.repeat(np.cumsum(count[edges]) - count[edges], count[edges])
        yield edge, first[edge] + within
        begin = end
