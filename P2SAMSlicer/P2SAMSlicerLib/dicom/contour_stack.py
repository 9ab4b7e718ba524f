"""The contours of one structure, drawn on planes, as voxels of a stack of slices.

Contours are planes without thickness. Each slice takes the contours of the plane nearest to its centre, if that is at most half
the slice distance away (of two slices at exactly half of it, the one of larger index). Where a structure was drawn on

* the CT's own slices: that is all. A slice without contours between contoured ones stays empty, and is named: it may be a gap
  between two lesions as well as one that was forgotten.
* finer planes than the CT's slices: each slice takes the nearest plane, the others are left out, and that is said.
* evenly spaced coarser planes (every second slice, or another CT's thicker slices): the slices between two neighbouring planes
  are interpolated between the two shapes (signed distances), and that is said. Wider distances than the usual one stay gaps.
  Nothing is added beyond the first and the last plane.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.dicom.polygon_mask import FilledPolygon, Polygon, area, fill_polygon, joined, share_outside
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.resample import OUTSIDE_ERROR, OUTSIDE_WARNING
from P2SAMSlicerLib.volume import BoolArray

#: A contour's points may lie this far (mm) from its plane, and from a plane that is parallel to the slices, ...
PLANE_TOLERANCE_MM = 0.1
#: ... or this share of the slice distance, where that is more.
PLANE_TOLERANCE = 0.05

#: Planes that lie further (share of the slice distance) from a slice's centre than this are worth a word.
BETWEEN_SLICES = 0.1

#: A distance of planes beyond this many slices leaves a slice out.
SKIPPED = 1.5

#: Coarser planes are interpolated if at least so many distances are the usual one ...
LEAST_EVEN_GAPS = 2
#: ... which is at most so many mm.
WIDEST_GAP_MM = 15.0

#: Contours of one plane that are compared with each other.
_MOST_COMPARED = 12


@dataclass
class Plane:
    """Contours of one plane.

    :param place: slice index, continuous.
    """

    place: float
    polygons: list[Polygon] = field(default_factory=list)
    filled: list[FilledPolygon] = field(default_factory=list)


@dataclass
class StackMask:
    """A structure's voxels, and what is to be known about them."""

    mask: BoolArray
    notes: list[str]


def contours_to_mask(contours: Sequence[NDArray[np.float64]], grid: Grid) -> StackMask:
    """Voxels of a structure.

    :param contours: closed ones, each ``(n, 3)`` LPS millimetres, at least three points.
    :param grid: of the CT; its slices are perpendicular to its z axis.
    :returns: mask ``(z, y, x)`` on the grid, never empty; notes in words, as ends of a sentence that begins with the structure.
    :raises InputError: contours that are not parallel to the slices, more than half of the structure outside of the CT, or
        nothing left of it on the CT's voxels. The message is such an end of a sentence, too.
    """
    notes: list[str] = []
    planes = _planes(contours, grid, notes)
    _check_inside(planes, grid, notes)
    for plane in planes:
        plane.filled = [each for polygon in plane.polygons if (each := fill_polygon(polygon, grid.shape[1:]))]
    _check_overlaps(planes, notes)
    mask = np.zeros(grid.shape, dtype=np.bool_)
    taken, between = _assign(planes, grid, notes)
    empty = 0
    for index, plane in taken.items():
        mask[index] = joined(plane.filled, grid.shape[1:])
        empty += not mask[index].any()
    for index, (lower, upper, share) in between.items():
        mask[index] = _interpolated(lower, upper, share, grid)
    if not mask.any():
        raise InputError("is too small for the CT's voxels: no voxel's centre lies inside of it")
    if empty:
        notes.append(f"on {empty} of its planes the contours hold no voxel's centre")
    return StackMask(mask, notes)


def _planes(contours: Sequence[NDArray[np.float64]], grid: Grid, notes: list[str]) -> list[Plane]:
    """The contours by plane, in the order of the slices."""
    tolerance = max(PLANE_TOLERANCE_MM / grid.spacing[2], PLANE_TOLERANCE)
    placed: list[tuple[float, Polygon]] = []
    oblique = doubled = 0
    seen: set[bytes] = set()
    ends = np.cumsum([len(points) for points in contours])[:-1]
    for points, index in zip(contours, np.split(grid.to_index(np.concatenate(contours)), ends), strict=True):
        middle = float((index[:, 2].min() + index[:, 2].max()) / 2)
        if np.ptp(index[:, 2]) > 2 * tolerance:
            oblique += 1
            continue
        key = np.rint(points * 1e3).astype(np.int64).tobytes()
        if key in seen:
            doubled += 1
            continue
        seen.add(key)
        placed.append((middle, index[:, :2]))
    if oblique:
        raise InputError(
            f"has {oblique} of {len(contours)} contours in planes that are not parallel to the CT's slices (an oblique or"
            " reformatted view?)"
        )
    if doubled:
        notes.append(f"{doubled} contours are in the file twice, and were taken once")
    planes: list[Plane] = []
    for place, polygon in sorted(placed, key=lambda each: each[0]):
        if not planes or place - planes[-1].place > tolerance:
            planes.append(Plane(place))
        planes[-1].polygons.append(polygon)
    return planes


def _check_inside(planes: Sequence[Plane], grid: Grid, notes: list[str]) -> None:
    """Refuse a structure that lies mostly outside of the CT."""
    whole = outside = 0.0
    for plane in planes:
        beyond = not -0.5 - PLANE_TOLERANCE <= plane.place <= grid.shape[0] - 0.5 + PLANE_TOLERANCE
        for polygon in plane.polygons:
            size = area(polygon)
            whole += size
            outside += size * (1.0 if beyond else share_outside(polygon, grid.shape[1:]))
    share = outside / whole if whole else 0.0
    if share > 1 - 1e-6:
        raise InputError("lies wholly outside of the CT; are both of the same patient and the same visit?")
    if share > OUTSIDE_ERROR:
        raise InputError(f"lies mostly ({share:.0%}) outside of the CT")
    if share > OUTSIDE_WARNING:
        notes.append(f"{share:.0%} of it lies outside of the CT and is left out")


def _check_overlaps(planes: Sequence[Plane], notes: list[str]) -> None:
    """Say where the even-odd rule takes something away that is not plainly a hole."""
    twice = overlapping = 0
    for plane in planes:
        twice += sum(each.winds_twice for each in plane.filled)
        overlapping += 1 < len(plane.filled) <= _MOST_COMPARED and _overlap_partly(plane.filled)
    if twice:
        what = "one of its contours crosses itself" if twice == 1 else f"{twice} of its contours cross themselves"
        notes.append(f"{what}; places that are gone around twice were left out (even-odd rule)")
    if overlapping:
        notes.append(
            f"on {overlapping} planes contours overlap, none holding the other; what they share was left out (even-odd rule)"
        )


def _overlap_partly(polygons: Sequence[FilledPolygon]) -> bool:
    """Whether two of these overlap, and each has voxels of its own, too."""
    sizes = [np.count_nonzero(each.mask) for each in polygons]
    for i, one in enumerate(polygons):
        for j, other in enumerate(polygons[:i]):
            low = [max(a.start, b.start) for a, b in zip(one.box, other.box, strict=True)]
            high = [min(a.stop, b.stop) for a, b in zip(one.box, other.box, strict=True)]
            if low[0] >= high[0] or low[1] >= high[1]:
                continue
            here, there = (
                each.mask[tuple(slice(a - own.start, b - own.start) for a, b, own in zip(low, high, each.box, strict=True))]
                for each in (one, other)
            )
            if 0 < np.count_nonzero(here & there) < min(sizes[i], sizes[j]):
                return True
    return False


_Between = tuple[Plane, Plane, float]


def _assign(planes: Sequence[Plane], grid: Grid, notes: list[str]) -> tuple[dict[int, Plane], dict[int, _Between]]:
    """Which plane's contours each slice takes, and which slices lie between two planes and are interpolated."""
    millimetres = grid.spacing[2]
    places = np.array([round(plane.place, 3) for plane in planes])
    taken: dict[int, Plane] = {}
    for index in range(max(0, int(places[0]) - 1), min(grid.shape[0], int(places[-1]) + 3)):
        # Of two planes as near as each other the lower one.
        nearest = int(np.abs(places - index).argmin())
        offset = index - places[nearest]
        above = int(np.searchsorted(places, index))
        closed = 0 < above < len(places) and places[above] - places[above - 1] <= SKIPPED
        if -0.5 < offset <= 0.5 or closed:
            taken[index] = planes[nearest]
    used = {id(plane) for plane in taken.values()}
    inside = (places > -0.5) & (places <= grid.shape[0] - 0.5)
    left = sum(id(plane) not in used for plane, here in zip(planes, inside, strict=True) if here)
    if left:
        notes.append(f"it was drawn on finer planes than the CT's slices: {left} of {len(planes)} planes were left out")
    off = np.abs(places - np.rint(places))[inside]
    if off.size and off.max() > BETWEEN_SLICES:
        notes.append(
            f"{np.count_nonzero(off > BETWEEN_SLICES)} of its planes lie between the CT's slices (up to"
            f" {off.max() * millimetres:.2g} mm off) and were taken for the nearest slice"
        )
    return taken, _gaps(planes, places, taken, grid, notes)


def _gaps(
    planes: Sequence[Plane], places: NDArray[np.float64], taken: dict[int, Plane], grid: Grid, notes: list[str]
) -> dict[int, _Between]:
    """The slices between coarser planes, interpolated; those of other gaps are only named."""
    gaps = np.diff(places)
    usual = float(np.median(gaps)) if gaps.size else 0.0
    even = np.abs(gaps - usual) <= 0.1 * usual
    coarse = (
        usual > SKIPPED
        and usual * grid.spacing[2] <= WIDEST_GAP_MM
        and np.count_nonzero(even) >= LEAST_EVEN_GAPS
        and float(gaps.min()) >= 0.9 * usual
    )
    between: dict[int, _Between] = {}
    empty: list[int] = []
    for lower, upper, gap, is_even in zip(planes, planes[1:], gaps, even, strict=False):
        skipped = [k for k in range(int(np.ceil(lower.place)), int(np.floor(upper.place)) + 1) if k not in taken]
        skipped = [k for k in skipped if 0 <= k < grid.shape[0]]
        if coarse and is_even:
            between |= {k: (lower, upper, (k - lower.place) / (upper.place - lower.place)) for k in skipped}
        elif gap > SKIPPED:
            empty += skipped
    if between:
        notes.append(
            f"it was drawn on planes {usual * grid.spacing[2]:.3g} mm apart, and the CT's slices are {grid.spacing[2]:.3g} mm"
            f" apart: {len(between)} slices between them were interpolated"
        )
    if empty:
        notes.append(f"{len(empty)} slices between its contours have none and stay empty (slices {_ranges(empty)} of the CT)")
    return between


def _interpolated(lower: Plane, upper: Plane, share: float, grid: Grid) -> BoolArray:
    """The shape at a share of the way from one plane to the next: linear in the signed distance from the outline."""
    masks = [joined(plane.filled, grid.shape[1:]) for plane in (lower, upper)]
    occupied = np.nonzero(masks[0] | masks[1])
    result = np.zeros(grid.shape[1:], dtype=np.bool_)
    if masks[0].any() and masks[1].any():
        box = tuple(slice(max(0, int(axis.min()) - 1), int(axis.max()) + 2) for axis in occupied)
        first, second = (_signed_distance(mask[box], grid) for mask in masks)
        result[box] = (1 - share) * first + share * second >= 0
    return result


def _signed_distance(mask: BoolArray, grid: Grid) -> NDArray[np.float64]:
    """Distance from the outline in mm, positive inside; counted from voxel edges, so that both sides are alike."""
    from scipy.ndimage import distance_transform_edt

    sampling = grid.spacing_zyx[1:]
    # Beyond the image lies nothing.
    padded = np.pad(mask, 1)
    distance: NDArray[np.float64] = distance_transform_edt(padded, sampling) - distance_transform_edt(~padded, sampling)
    return distance[1:-1, 1:-1]


def _ranges(numbers: Sequence[int], most: int = 4) -> str:
    """Slice numbers, from 1, in words: ``3-5, 9``."""
    ordered = sorted(set(numbers))
    runs: list[list[int]] = []
    for number in ordered:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    shown = [f"{run[0] + 1}-{run[-1] + 1}" if len(run) > 1 else str(run[0] + 1) for run in runs[:most]]
    return ", ".join(shown) + (f" and {len(runs) - most} more places" if len(runs) > most else "")
