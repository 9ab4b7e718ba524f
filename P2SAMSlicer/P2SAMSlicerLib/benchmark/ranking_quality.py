"""Whether the review priority puts the slices that need a look first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.orientation import acquisition_slice_axis
from P2SAMSlicerLib.result import SliceResult
from P2SAMSlicerLib.volume import BoolArray

#: A slice below this Dice wants a correction, and this share of the slices is looked at first.
BAD_DICE = 0.7
FIRST_SHARE = 0.2


@dataclass(frozen=True)
class RankedSlice:
    """One slice on which the result or the truth has a contour.

    :param index: stored slice index.
    :param priority: review priority; 0 for a slice that was not looked at, which no list of slices shows.
    :param dice: 2-D Dice of the result's contour with the truth; the slice's error is 1 less this.
    """

    index: int
    priority: float
    dice: float


@dataclass(frozen=True)
class RankingQuality:
    """How well the priorities of a set of slices sort them. NaN where there is nothing to sort.

    :param spearman: rank correlation of priority and error.
    :param bad: number of slices below :data:`BAD_DICE`.
    :param held: share of those that the first :data:`FIRST_SHARE` of the slices hold.
    :param attainable: the same share if the slices were sorted by their true error.
    """

    slices: int
    spearman: float
    bad: int
    held: float
    attainable: float


def ranked_slices(slices: Sequence[SliceResult], result: BoolArray, truth: BoolArray, grid: Grid) -> list[RankedSlice]:
    """Priority and error of every slice of one case.

    :param slices: of all lesions; a slice that shows several counts with its highest priority.
    :param result: the written contour ``(z, y, x)`` on the stored grid.
    :param truth: on the same grid.
    """
    axis = acquisition_slice_axis(grid)
    in_plane = tuple(other for other in range(3) if other != axis)
    common = (result & truth).sum(axis=in_plane)
    total = result.sum(axis=in_plane) + truth.sum(axis=in_plane)
    priorities: dict[int, float] = {}
    for each in slices:
        priorities[each.index] = max(each.review_priority, priorities.get(each.index, 0.0))
    return [
        RankedSlice(int(index), priorities.get(int(index), 0.0), float(2.0 * common[index] / total[index]))
        for index in np.flatnonzero(total)
    ]


def ranking_quality(slices: Sequence[RankedSlice]) -> RankingQuality:
    """Judge the order. Of slices of the same priority the worst is taken to come last, so a constant sorts nothing."""
    from scipy import stats

    priorities = [each.priority for each in slices]
    errors = [1.0 - each.dice for each in slices]
    sortable = len(set(priorities)) > 1 and len(set(errors)) > 1
    first = max(1, round(FIRST_SHARE * len(slices)))
    bad = sum(each.dice < BAD_DICE for each in slices)
    ordered = sorted(slices, key=lambda each: (-each.priority, -each.dice))[:first]
    held = sum(each.dice < BAD_DICE for each in ordered)
    return RankingQuality(
        slices=len(slices),
        spearman=float(stats.spearmanr(priorities, errors).statistic) if sortable else math.nan,
        bad=bad,
        held=held / bad if bad else math.nan,
        attainable=min(first, bad) / bad if bad else math.nan,
    )
