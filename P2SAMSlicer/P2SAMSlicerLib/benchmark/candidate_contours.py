"""Contours put together from the candidates of one run of clinical mode: one candidate a slice, as the model gave it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from P2SAMSlicerLib.candidates import REGISTERED
from P2SAMSlicerLib.expected import signed_pixels_mm
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.orientation import canonical_orientation
from P2SAMSlicerLib.result import Candidate, SliceResult
from P2SAMSlicerLib.volume import BoolArray

#: Borders are placed between voxels by their distance, up to here in mm.
REACH_MM = 8.0

#: Picks a slice's mask among its candidates; None where the slice is to stay empty.
Pick = Callable[[SliceResult], "Candidate | None"]


def contour_of(slices: Sequence[SliceResult], grid: Grid, pick: Pick) -> BoolArray:
    """The picked candidates as one contour, without smoothing along the slices and without clean-up.

    :param slices: of one or several lesions, as clinical mode left them.
    :param grid: the follow-up's stored grid.
    :returns: ``(z, y, x)`` on it.
    """
    orientation = canonical_orientation(grid)
    found = np.zeros(orientation.grid.shape, dtype=np.bool_)
    for each in slices:
        candidate = pick(each)
        if candidate is None or not candidate.mask.any():
            continue
        # The canonical index of a stored one is found in the same way as the stored index of a canonical one.
        plane = found[orientation.stored_slice_index(each.index)]
        if each.region is None:
            plane |= candidate.mask
        else:
            distance = signed_pixels_mm(candidate.mask, each.region.pixel_mm, REACH_MM)
            plane |= each.region.place(distance, orientation.grid, outside=-REACH_MM) > 0
    return orientation.to_stored(found)


def named(each: SliceResult, origin: str) -> Candidate | None:
    """A slice's candidate of this origin, if it has one."""
    return next((candidate for candidate in each.candidates if candidate.origin == origin), None)


def in_registered_extent(each: SliceResult) -> bool:
    """Whether the registered contour has an area on the slice: a method without its own idea of the ends keeps to it."""
    registered = named(each, REGISTERED)
    return registered is not None and bool(registered.mask.any())


def parts_candidates(each: SliceResult, most: int, negatives: int) -> list[Candidate]:
    """A slice's answers to 1 to ``most`` parts, in that order; without the box if the model was asked so.

    A lesion of few distinct features has fewer.
    """
    found = []
    for count in range(1, most + 1):
        name = f"parts {count}, negatives {negatives}"
        candidate = named(each, name) or named(each, f"{name} + box")
        if candidate is not None:
            found.append(candidate)
    return found


def pick_parts(count: int, negatives: int) -> Pick:
    """Always the same number of parts, or the most that there are."""

    def pick(each: SliceResult) -> Candidate | None:
        found = parts_candidates(each, count, negatives) if in_registered_extent(each) else []
        return found[-1] if found else None

    return pick


def pick_retrieved(most: int, negatives: int) -> Pick:
    """The number of parts of the smallest distribution distance (section 3.2, equation 3), the first of equals."""

    def pick(each: SliceResult) -> Candidate | None:
        found = parts_candidates(each, most, negatives) if in_registered_extent(each) else []
        return min(found, key=lambda candidate: candidate.distance, default=None)

    return pick
