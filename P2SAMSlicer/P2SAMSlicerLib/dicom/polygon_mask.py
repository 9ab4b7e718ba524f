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

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.volume import BoolArray

#: Polygon corners, ``(n, 2)`` as ``(x, y)`` in voxel indices: integers are voxel centres. The last corner joins the first.
Polygon = NDArray[np.float64]

#: Corners and crossings are rounded to this part of a voxel.
SNAP = 1e-6

#: Crossings of edges with rows of voxels that are worked on together; bounds memory.
_TOGETHER = 1 << 20


def fill_even_odd(polygons: Sequence[Polygon], shape: tuple[int, int]) -> BoolArray:
    """The voxels whose centres lie inside of an odd number of polygons.

    :param polygons: of one plane, see :data:`Polygon`; they may reach beyond the image, cross themselves and each other.
    :param shape: rows and columns ``(y, x)`` of the image.
    :returns: ``(y, x)``.
    """
    mask = np.zeros(shape, dtype=np.bool_)
    box = _box(polygons, shape)
    if box is not None:
        mask[box] = _toggles(polygons, box, signed=False).cumsum(axis=1) % 2 == 1
    return mask


def winds_twice(polygon: Polygon, shape: tuple[int, int]) -> bool:
    """Whether a polygon goes around any voxel centre more than once; it crosses itself there, and twice counts as outside."""
    box = _box([polygon], shape)
    return box is not None and bool((np.abs(_toggles([polygon], box, signed=True).cumsum(axis=1)) > 1).any())


def crossings(polygon: Polygon, shape: tuple[int, int]) -> int:
    """How many crossings of edges with rows a polygon has: the work that it makes, to be known before it is done."""
    _, _, first, past = _edges(polygon, 0, shape[0])
    return int((past - first).sum())


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


def _box(polygons: Sequence[Polygon], shape: tuple[int, int]) -> tuple[slice, slice] | None:
    """The rows and columns that the polygons can reach, or None."""
    if not len(polygons):
        return None
    low = np.min([polygon.min(axis=0) for polygon in polygons], axis=0)
    high = np.max([polygon.max(axis=0) for polygon in polygons], axis=0)
    size = np.array([shape[1], shape[0]])
    first = np.clip(np.floor(low), 0, size).astype(int)
    past = np.clip(np.ceil(high) + 1, 0, size).astype(int)
    return None if (past <= first).any() else (slice(first[1], past[1]), slice(first[0], past[0]))


def _edges(
    polygon: Polygon, top: int, bottom: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Edges with their end of smaller y first, and the rows that each crosses.

    An edge crosses a row where ``y0 <= row < y1``: a corner on a row belongs to one of its two edges if the polygon passes
    through the row there, and to both or none where it only touches.

    :returns: ends ``(n, 2)`` of smaller and of larger y; first row and the row past the last one.
    """
    start = _snapped(polygon)
    end = np.roll(start, -1, axis=0)
    turned = (start[:, 1] > end[:, 1])[:, None]
    upper, lower = np.where(turned, end, start), np.where(turned, start, end)
    # Compared as real numbers: far outside of the image they would not fit into an integer.
    first = np.clip(np.ceil(upper[:, 1]), top, bottom).astype(np.int64)
    past = np.clip(np.ceil(lower[:, 1]), top, bottom).astype(np.int64)
    return upper, lower, first, past


def _toggles(polygons: Sequence[Polygon], box: tuple[slice, slice], *, signed: bool) -> NDArray[np.int64]:
    """For each voxel of a box how many edges pass between its left neighbour's centre (inclusive) and its own (exclusive) ...

    ... taken together, edges to the left of the box count for its first column, and those to its right not at all.

    :param signed: edges that run towards smaller y count as -1.
    """
    rows, columns = box
    height, width = rows.stop - rows.start, columns.stop - columns.start
    counts = np.zeros(height * (width + 1), dtype=np.int64)
    parts = [_edges(polygon, rows.start, rows.stop) for polygon in polygons]
    upper, lower = np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])
    first, past = np.concatenate([part[2] for part in parts]), np.concatenate([part[3] for part in parts])
    starts = np.concatenate([_snapped(polygon)[:, 1] for polygon in polygons])
    sign = np.where(starts == upper[:, 1], 1, -1)
    for edge, row in _rows(first, past):
        along = (row - upper[edge, 1]) / (lower[edge, 1] - upper[edge, 1])
        x = _snapped(upper[edge, 0] + along * (lower[edge, 0] - upper[edge, 0]))
        column = np.clip(np.ceil(x) - columns.start, 0, width).astype(np.int64)
        place = (row - rows.start) * (width + 1) + column
        if signed:
            np.add.at(counts, place, sign[edge])
        else:
            counts += np.bincount(place, minlength=counts.size)
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
