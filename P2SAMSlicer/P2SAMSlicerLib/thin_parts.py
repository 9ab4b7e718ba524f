"""Parts of a contour that are thinner than the prior's lesion is anywhere: rims and tongues that are no lesion.

Where a tumour shrank, a rim of its old outline is easily left over: too thin for the comparison of the visits, which allows for
misregistration, and too like its surroundings for the model. A physician's contour has no such rims, and how thin its own parts
are is known: the contour on the follow-up is opened with the largest ball that leaves the prior's own contour as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from P2SAMSlicerLib.contour import bounding_box, cavities
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.volume import BoolArray

#: Radii of balls that are tried, in mm.
RADII_MM = (2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 10.0, 12.0)
#: Share of the prior's contour that a ball may take away: corners of voxels, and what the hand left rough. On simulated visits
#: of training patients any share from 0.02 to 0.05 does as well.
LOST_SHARE = 0.03


@dataclass(frozen=True)
class Thinness:
    """How thin the prior's lesion is.

    :param radius_mm: of the largest ball that fits nearly everywhere in it; 0 if none of those tried does.
    :param thin_pieces: separate pieces of it that no such ball fits into at all: satellites.
    """

    radius_mm: float
    thin_pieces: int = 0


def thinness_of(lesion: BoolArray, grid: Grid) -> Thinness:
    """Measure the prior's lesion.

    :param lesion: the prior's contour of it ``(z, y, x)``, not empty.
    """
    low, high = 0, len(RADII_MM)  # RADII_MM[:low] fit, RADII_MM[high:] do not: a larger ball takes more away
    thin_pieces = 0
    while low < high:
        middle = (low + high) // 2
        pieces = list(_pieces(lesion, grid, RADII_MM[middle]))
        lost = sum(np.count_nonzero(piece & ~opened) for _place, piece, opened in pieces)
        if lost <= LOST_SHARE * np.count_nonzero(lesion):
            low = middle + 1
            thin_pieces = sum(not opened.any() for _place, _piece, opened in pieces)
        else:
            high = middle
    return Thinness(RADII_MM[low - 1], thin_pieces) if low else Thinness(0.0)


def without_thin_parts(mask: BoolArray, grid: Grid, thinness: Thinness, kept_slices: Sequence[int] = ()) -> BoolArray:
    """A contour without what no ball of the prior's thinness reaches from inside.

    Walls of a cavity count with the cavity. Of separate pieces that are thin altogether, the largest stay, as many as the prior
    had; where there is nothing else, all stay.

    :param mask: the contour ``(z, y, x)``.
    :param kept_slices: slices that stay as they are.
    """
    result: BoolArray = mask.copy()
    if thinness.radius_mm <= 0 or not mask.any():
        return result
    pieces = list(_pieces(mask, grid, thinness.radius_mm))
    thin = sorted((each for each in pieces if not each[2].any()), key=lambda each: -np.count_nonzero(each[1]))
    if len(thin) == len(pieces):
        return result
    for place, piece, opened in pieces:
        result[place] &= ~(piece & ~opened)
    for place, piece, _opened in thin[: thinness.thin_pieces]:
        result[place] |= piece & mask[place]
    for index in kept_slices:
        result[index] = mask[index]
    return result


def _pieces(mask: BoolArray, grid: Grid, radius_mm: float) -> Iterator[tuple[tuple[slice, ...], BoolArray, BoolArray]]:
    """Where each separate piece lies, the piece with its cavities filled, and what balls of a radius reach of it."""
    from scipy import ndimage

    box = bounding_box(mask)
    inner = mask[box]
    labels, _ = ndimage.label(inner | cavities(inner))
    for number, place in enumerate(ndimage.find_objects(labels), start=1):
        piece = labels[place] == number
        opened = _opened(_with_surroundings(piece, box, place, mask.shape), grid, radius_mm)[1:-1, 1:-1, 1:-1]
        absolute = tuple(slice(o.start + i.start, o.start + i.stop) for o, i in zip(box, place, strict=True))
        yield absolute, piece, opened


def _with_surroundings(piece: BoolArray, box: Sequence[slice], place: Sequence[slice], shape: Sequence[int]) -> BoolArray:
    """A piece with one more voxel on every side: nothing, or, at the volume's edge, what lies at the edge, because a lesion
    that the field of view cuts off is not thin there."""
    padded = np.pad(piece, 1)
    for axis, (outer, inner) in enumerate(zip(box, place, strict=True)):
        view = np.moveaxis(padded, axis, 0)
        if outer.start + inner.start == 0:
            view[0] = view[1]
        if outer.start + inner.stop == shape[axis]:
            view[-1] = view[-2]
    return padded


def _opened(padded: BoolArray, grid: Grid, radius_mm: float) -> BoolArray:
    """All points of the balls of a radius that lie within a piece."""
    from scipy import ndimage

    if padded.all():
        return padded  # nothing lies beyond it
    core = ndimage.distance_transform_edt(padded, sampling=grid.spacing_zyx) > radius_mm
    if not core.any():
        return np.zeros_like(padded)
    reached = ndimage.distance_transform_edt(~core, sampling=grid.spacing_zyx) <= radius_mm
    result: BoolArray = reached & padded
    return result
