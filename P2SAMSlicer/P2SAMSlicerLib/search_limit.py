"""Whether a contour reaches a limit of the search: the lesion may go on where nothing was looked for."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.clinical import REGION_PIXELS, LesionContour
from P2SAMSlicerLib.contour import BLEND_LIMIT_MM
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.options import PropagationOptions
from P2SAMSlicerLib.region import Region, region_around
from P2SAMSlicerLib.volume import BoolArray

#: A border this near to the limit was probably cut by it.
NEAR_LIMIT_MM = 1.0
#: Share of a lesion's border, over all its slices, that may lie at the limit: one that grew to one side has more of it there,
#: a spike on a single slice has less.
MOST_AT_LIMIT = 0.02
#: Area on the last slice looked at, relative to the registered contour's median slice, from which on the contour has not merely
#: tapered off there.
LEAST_LAST_AREA = 0.25


def search_limits(
    found: LesionContour, mask: BoolArray, distance_mm: NDArray[np.float32], grid: Grid, options: PropagationOptions
) -> tuple[str, ...]:
    """Reasons to look beyond the contour of one lesion; empty if it keeps clear of every limit.

    Judged by the chosen candidates, because the written border is drawn towards the registered contour and never quite
    reaches the limit. Paper mode searches whole slices and no others than the registered contour's: nothing is said there.

    :param found: slices with candidates on the region of interest.
    :param mask: the lesion's contour after clean-up, on the follow-up's canonical grid.
    :param distance_mm: signed distance to the registered contour on the same grid, positive inside.
    """
    if options.mode == "paper" or not mask.any() or not found.slices:
        return ()
    limit = options.plausible_mm  # options.check() keeps it within what the registration carries
    region = region_around(distance_mm >= 0, grid, options.margin_mm, REGION_PIXELS)
    at_limit, at_edge, all_of_it = _border(found, mask, distance_mm, grid, region, limit)
    reasons = []
    if at_limit > MOST_AT_LIMIT * all_of_it:
        reasons.append(f"the contour reaches the limit of the search, {limit:g} mm from the registered contour")
    if at_edge > MOST_AT_LIMIT * all_of_it:
        reasons.append(f"the contour reaches the edge of what the model saw, {options.margin_mm:g} mm around the lesion")
    beyond = _beyond_the_ends(found, mask, distance_mm)
    if beyond:
        reasons.append(
            f"the contour reaches the last slice looked at, {beyond * grid.spacing[2]:.1f} mm beyond the registered contour's"
            " end; the lesion may go on there"
        )
    return tuple(reasons)


def _border(
    found: LesionContour, mask: BoolArray, distance_mm: NDArray[np.float32], grid: Grid, region: Region, limit: float
) -> tuple[int, int, int]:
    """Pixels of the chosen candidates' borders at the limit of distance, at the region's edge, and in all."""
    from scipy import ndimage

    at_limit = at_edge = all_of_it = 0
    for each in found.slices:
        if each.chosen is None or not mask[each.index].any():
            continue
        chosen = each.candidates[each.chosen].mask
        border = chosen & ~ndimage.binary_erosion(chosen)
        all_of_it += int(border.sum())
        # What clean-up took away again reaches nowhere.
        drawn = region.crop(mask[each.index], grid, outside=0.0) >= 0.5
        kept = ndimage.distance_transform_edt(~drawn) * region.pixel_mm <= BLEND_LIMIT_MM + NEAR_LIMIT_MM
        border &= kept
        distance = region.crop(distance_mm[each.index], grid, outside=-1000.0)
        at_limit += int((border & (distance <= NEAR_LIMIT_MM - limit)).sum())
        edge = np.ones_like(border)
        edge[1:-1, 1:-1] = False
        at_edge += int((border & edge).sum())
    return at_limit, at_edge, all_of_it


def _beyond_the_ends(found: LesionContour, mask: BoolArray, distance_mm: NDArray[np.float32]) -> int:
    """Slices between the registered contour's end and the last one looked at, if the contour is still large there; else 0.

    A last slice of the whole volume does not count: that is the field of view's limit, and a reason of its own.
    """
    areas = (distance_mm >= 0).sum(axis=(1, 2))
    registered = np.flatnonzero(areas)
    least = max(1.0, LEAST_LAST_AREA * float(np.median(areas[registered])))
    reached = []
    for end, last, volume_end in (
        (int(registered[0]), found.slices[0].index, 0),
        (int(registered[-1]), found.slices[-1].index, mask.shape[0] - 1),
    ):
        if last not in (end, volume_end) and mask[last].sum() >= least:
            reached.append(abs(last - end))
    return max(reached, default=0)
