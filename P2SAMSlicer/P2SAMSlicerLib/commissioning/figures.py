"""The figures that a tolerance may be set on, each defined; and how the figures of many visits become one."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

#: Whether a larger figure is a better one.
Better = Literal["more", "less"]


@dataclass(frozen=True)
class Figure:
    """One figure.

    :param id: as in the tolerance file.
    :param title: for tables.
    :param unit: of the figure and of its limit; empty for a share or a ratio.
    :param meaning: what exactly it is, in a sentence.
    :param low, high: limits beyond these are a slip of the pen.
    :param each: every visit has one, of which a statistic is judged; else there is one figure for all visits.
    """

    id: str
    title: str
    unit: str
    better: Better
    meaning: str
    low: float
    high: float
    each: bool = True

    @property
    def word(self) -> str:
        """How a limit on it is written."""
        return "at_least" if self.better == "more" else "at_most"


FAILED, FLAGGED, GONE, VANISHED = "failed_visits", "flagged_share", "called_gone_share", "vanished_contoured_share"

_ALL = (
    Figure("dice", "Dice", "", "more", "volumetric Dice of the product's contour with the truth; 0 without a contour", 0, 1),
    Figure(
        *("surface_dice", "surface Dice 2 mm", "", "more"),
        "share of the surface voxels of both contours within 2 mm of the other's surface; 0 without a contour",
        *(0, 1),
    ),
    Figure(
        *("mean_surface_distance_mm", "mean surface distance", "mm", "less"),
        "mean distance from the surface voxels of both contours to the other's surface; infinite without a contour",
        *(0, 100),
    ),
    Figure(
        *("hd95_mm", "HD95", "mm", "less"),
        "larger of the two directed 95th percentiles of the surface distances; infinite without a contour",
        *(0, 200),
    ),
    Figure(
        *("volume_error_percent", "volume error", "%", "less"),
        "absolute difference of the contour's volume to the truth's, in percent of the truth's",
        *(0, 300),
    ),
    Figure(
        *("missed_fraction", "missed", "", "less"),
        "share of the true tumour that the contour leaves out; 1 without a contour",
        *(0, 1),
    ),
    Figure(
        *("over_contoured_fraction", "over-contoured", "", "less"),
        "volume of the contour outside the true tumour, as a share of the truth's",
        *(0, 10),
    ),
    Figure(
        *("registration_error_mm", "registration error", "mm", "less"),
        "mean distance, over the voxels of the true tumour, between where the registration maps them and where the simulation"
        " put them (target registration error)",
        *(0, 100),
    ),
    Figure(
        *("inverse_consistency_mm", "inverse consistency", "mm", "less"),
        "mean distance by which the voxels of the true tumour miss themselves, mapped to the prior and back by a second"
        " registration in the other direction; measured only where the tolerances ask for it",
        *(0, 100),
    ),
    Figure(
        *("folded_share", "negative Jacobian", "", "less"),
        "share of voxels near the tumour where the Jacobian determinant of the registration is not positive",
        *(0, 1),
    ),
    Figure(
        *("seconds", "time a visit", "s", "less"),
        "wall time of carrying one contour to one visit on this computer, registration included, without loading the model",
        *(0, 86400),
    ),
    Figure(
        *(FLAGGED, "flagged", "", "less"),
        "share of the visits with a tumour whose contour the product flagged for a stated reason",
        *(0, 1, False),
    ),
    Figure(
        *(GONE, "without a contour", "", "less"),
        "share of the visits with a tumour for which the product gave no contour (no lesion found, or too small)",
        *(0, 1, False),
    ),
    Figure(
        *(VANISHED, "vanished, yet contoured", "", "less"),
        "share of the visits whose tumour has vanished on which the product drew a contour and did not flag it",
        *(0, 1, False),
    ),
    Figure(
        *(FAILED, "failed visits", "", "less"),
        "visits that the product could not read or carry to, with an error; judged in any case, with 0 if no limit is set",
        *(0, 100000, False),
    ),
)
#: By their ids, in the order of the tables.
FIGURES = {figure.id: figure for figure in _ALL}

STATISTICS = (
    "mean, median, worst, or a percentile of the visits: p90 is the figure that at least 90 % of the visits reach or better,"
    " and so the worst but for a tenth of them"
)


def is_statistic(name: str) -> bool:
    """Whether a word names a statistic: ``mean``, ``median``, ``worst``, ``p1`` to ``p99``."""
    return name in ("mean", "median", "worst") or re.fullmatch(r"p[1-9][0-9]?", name) is not None


def statistic_of(name: str, values: Sequence[float], better: Better) -> float:
    """One figure of many visits. A better figure of any visit never gives a worse one.

    A figure that is not known (NaN) counts as infinitely bad, so that no failure is skipped; an infinite one is kept.

    :param name: see :func:`is_statistic`.
    :param values: at least one.
    """
    sign = -1.0 if better == "more" else 1.0
    # As costs: smaller is better, and the worst comes last.
    costs = sorted(math.inf if math.isnan(value) else sign * value for value in values)
    if name == "mean":
        found = math.fsum(costs) / len(costs) if all(map(math.isfinite, costs)) else costs[-1]
    elif name == "worst":
        found = costs[-1]
    else:
        share = 0.5 if name == "median" else int(name[1:]) / 100
        # The smallest rank that this share of the visits reaches: no interpolation between a good visit and a bad one.
        found = costs[max(0, math.ceil(share * len(costs) - 1e-9) - 1)]
    return sign * found
