"""How well clinical mode chose among its candidates, and what an oracle that knows the truth would have had from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.benchmark.candidate_contours import contour_of, in_registered_extent, named
from P2SAMSlicerLib.candidates import ABSENT, REGISTERED, WITHOUT_MODEL
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.metrics import volumetric_dice
from P2SAMSlicerLib.orientation import canonical_orientation
from P2SAMSlicerLib.result import Candidate, SliceResult
from P2SAMSlicerLib.volume import BoolArray

#: A candidate this near to the best one's Dice is as good as the best.
NEARLY = 0.02


@dataclass(frozen=True)
class SliceChoice:
    """One slice of one lesion: what was chosen, and what would have been best.

    :param index: stored slice index.
    :param chosen: origin of the chosen candidate; :data:`~P2SAMSlicerLib.candidates.ABSENT` if none.
    :param best: origin of the candidate of the highest Dice, the chosen one if it is among several.
    :param chosen_dice: 2-D Dice of the chosen candidate with the truth in the region of interest; 1 if both are empty.
    :param candidates: how many there were.
    """

    index: int
    lesion: int
    chosen: str
    best: str
    chosen_dice: float
    best_dice: float
    registered_dice: float
    candidates: int

    @property
    def took_best(self) -> bool:
        """Whether none was better than the chosen one."""
        return self.chosen_dice >= self.best_dice

    @property
    def nearly(self) -> bool:
        """Whether none was better by more than :data:`NEARLY`."""
        return self.chosen_dice >= self.best_dice - NEARLY


@dataclass(frozen=True)
class ChoiceQuality:
    """The choice on one case. Dice figures are volumetric; candidates are placed as the model gave them.

    :param slices: those on which the truth has a contour or a candidate was chosen.
    :param chosen_dice: of the chosen candidates, before smoothing, weighing and clean-up.
    :param lesion_oracle_dice: of the best single kind of candidate for all slices of a lesion, within the registered
        contour's slices (the registered contour where a slice has none of that kind).
    :param slice_oracle_dice: of the best candidate of every slice, or none where the truth has no contour.
    :param lesion_kinds: number of the lesion -> that single kind.
    """

    slices: tuple[SliceChoice, ...]
    chosen_dice: float
    lesion_oracle_dice: float
    slice_oracle_dice: float
    lesion_kinds: Mapping[int, str]

    @property
    def model_share(self) -> float:
        """Share of the contoured slices on which a candidate of the model was chosen, and none that no model made."""
        contoured = [each for each in self.slices if each.chosen != ABSENT]
        won = [each for each in contoured if each.chosen not in WITHOUT_MODEL]
        return len(won) / len(contoured) if contoured else float("nan")


def choice_quality(slices: Sequence[SliceResult], truth: BoolArray, grid: Grid) -> ChoiceQuality:
    """Judge the choice.

    :param slices: of all lesions, as clinical mode left them, not empty.
    :param truth: ``(z, y, x)`` on the stored grid, not empty.
    :param grid: the follow-up's stored grid.
    """
    shown = _truth_on_regions(slices, truth, grid)
    judged = [_judge(each, true) for each, true in zip(slices, shown, strict=True)]
    best = {id(each): named(each, choice.best) for each, choice in zip(slices, judged, strict=True)}
    numbers = sorted({each.lesion for each in slices})
    kinds = {
        number: _best_kind([(s, t) for s, t in zip(slices, shown, strict=True) if s.lesion == number]) for number in numbers
    }
    counted = [c for c, true in zip(judged, shown, strict=True) if true.any() or c.chosen != ABSENT]

    def one_kind(each: SliceResult) -> Candidate | None:
        return of_kind(each, kinds[each.lesion])

    return ChoiceQuality(
        slices=tuple(counted),
        chosen_dice=volumetric_dice(contour_of(slices, grid, lambda each: each.best), truth),
        lesion_oracle_dice=volumetric_dice(contour_of(slices, grid, one_kind), truth),
        slice_oracle_dice=volumetric_dice(contour_of(slices, grid, lambda each: best[id(each)]), truth),
        lesion_kinds=kinds,
    )


def of_kind(each: SliceResult, origin: str) -> Candidate | None:
    """A slice's candidate of one kind within the registered contour's slices; the registered contour if it has none."""
    return (named(each, origin) or named(each, REGISTERED)) if in_registered_extent(each) else None


def _truth_on_regions(slices: Sequence[SliceResult], truth: BoolArray, grid: Grid) -> list[BoolArray]:
    """The truth of each slice on its region."""
    orientation = canonical_orientation(grid)
    true = orientation.to_canonical(truth)
    planes = []
    for each in slices:
        plane = true[orientation.stored_slice_index(each.index)]
        planes.append(plane if each.region is None else each.region.crop(plane, orientation.grid, outside=0.0) > 0.5)
    return planes


def _judge(each: SliceResult, true: BoolArray) -> SliceChoice:
    dice = {candidate.origin: _dice(candidate.mask, true) for candidate in each.candidates}
    dice[ABSENT] = 0.0 if true.any() else 1.0
    chosen = ABSENT if each.best is None else each.best.origin
    best = max(dice, key=lambda origin: (dice[origin], origin == chosen))
    return SliceChoice(
        index=each.index,
        lesion=each.lesion,
        chosen=chosen,
        best=best,
        chosen_dice=dice[chosen],
        best_dice=dice[best],
        registered_dice=dice.get(REGISTERED, float("nan")),
        candidates=len(each.candidates),
    )


def _best_kind(slices: Sequence[tuple[SliceResult, BoolArray]]) -> str:
    """The kind whose masks on the regions agree best with the truth over all slices together; the first of equals."""
    origins = dict.fromkeys(candidate.origin for each, _ in slices for candidate in each.candidates)

    def agreement(origin: str) -> float:
        common, total = 0, 0
        for each, true in slices:
            candidate = of_kind(each, origin)
            total += np.count_nonzero(true)
            if candidate is not None:
                common += np.count_nonzero(candidate.mask & true)
                total += np.count_nonzero(candidate.mask)
        return 2.0 * common / total if total else 1.0

    return max(origins, key=agreement)


def _dice(mask: NDArray[np.bool_], true: NDArray[np.bool_]) -> float:
    total = np.count_nonzero(mask) + np.count_nonzero(true)
    return 2.0 * np.count_nonzero(mask & true) / total if total else 1.0
