"""What is said of a contour: found, flagged and why, too small, or no lesion found."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.result import Outcome
from P2SAMSlicerLib.volume import BoolArray, Volume

#: Below this share of the registered contour's volume nothing worth the name was found.
GONE_SHARE = 0.03
#: Changes beyond these are possible, but a person has to look: treatment rarely does more between two visits.
MAX_GROWTH_PERCENT = 50.0
MAX_SHRINK_PERCENT = -60.0
MAX_SHIFT_MM = 12.0
#: Share of the segment that may lie outside the follow-up's field of view before the visit is flagged.
MAX_OUTSIDE_SHARE = 0.01


@dataclass(frozen=True)
class ContourFigures:
    """Figures of one contour against the registered prior contour.

    :param shift_lps_mm: from the registered contour's centroid to the result's.
    """

    volume_ml: float
    change_percent: float
    shift_lps_mm: tuple[float, float, float]


def figures(mask: BoolArray, registered: BoolArray, prior_ml: float, grid: Grid) -> ContourFigures:
    """Volume, change against the prior's volume, and centroid shift. Both masks are not empty."""
    volume = float(mask.sum()) * grid.voxel_ml
    centres = [grid.to_physical(np.argwhere(m)[:, ::-1].mean(axis=0, keepdims=True))[0] for m in (mask, registered)]
    shift = centres[0] - centres[1]
    return ContourFigures(volume, 100.0 * (volume / prior_ml - 1.0), (float(shift[0]), float(shift[1]), float(shift[2])))


def decide(
    mask: BoolArray,
    registered: BoolArray,
    found: ContourFigures | None,
    too_small: bool,
    outside_share: float,
    visit_reasons: tuple[str, ...],
    followup: Volume,
) -> tuple[Outcome, tuple[str, ...]]:
    """Outcome and reasons of one segment.

    :param found: None if the mask is empty.
    :param outside_share: share of the prior's lesion that was carried outside the follow-up's field of view.
    :param visit_reasons: why the whole visit is doubtful (registration, modality, overrides).
    """
    if not registered.any():
        return Outcome.NO_LESION, (*visit_reasons, "the registered prior contour lies outside the follow-up's field of view")
    if too_small:
        return Outcome.TOO_SMALL, (*visit_reasons, "the lesion covers too few feature cells for the model to see its shape")
    if found is None or mask.sum() < GONE_SHARE * registered.sum():
        return Outcome.NO_LESION, (*visit_reasons, "nothing at the registered place looks like the prior's lesion")
    reasons = list(visit_reasons)
    if found.change_percent > MAX_GROWTH_PERCENT or found.change_percent < MAX_SHRINK_PERCENT:
        reasons.append(f"volume changes by {found.change_percent:+.0f} %")
    shift = float(np.linalg.norm(found.shift_lps_mm))
    if shift > MAX_SHIFT_MM:
        reasons.append(f"centroid lies {shift:.0f} mm from the registered contour's")
    if outside_share > MAX_OUTSIDE_SHARE:
        reasons.append(f"{100 * outside_share:.0f} % of the lesion lies outside the follow-up's field of view")
    if _at_edge(mask, followup):
        reasons.append("the contour touches the edge of the follow-up's field of view")
    return (Outcome.FLAGGED if reasons else Outcome.FOUND), tuple(reasons)


def _at_edge(mask: BoolArray, followup: Volume) -> bool:
    """Whether the contour reaches the volume's edge, or voxels that were never measured (padding)."""
    from scipy import ndimage

    for axis in range(3):
        ends = np.take(mask, [0, -1], axis=axis)
        if ends.any():
            return True
    rim = ndimage.binary_dilation(mask) & ~mask
    padding = followup.array <= -1000
    return bool((rim & padding).sum() > 0.2 * rim.sum())
