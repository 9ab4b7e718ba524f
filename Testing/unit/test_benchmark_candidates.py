"""Contours from candidates, and how well the choice among them was: against what can be counted by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from benchmark_cases import GRID, candidate, registered_and, slice_of, square
from P2SAMSlicerLib.benchmark.candidate_contours import contour_of, pick_parts, pick_retrieved
from P2SAMSlicerLib.benchmark.choice_quality import choice_quality
from P2SAMSlicerLib.candidates import ABSENT, REGISTERED
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.result import SliceResult

UPSIDE_DOWN = replace(GRID, direction=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, -1.0))


@pytest.mark.parametrize("grid", [GRID, UPSIDE_DOWN], ids=["usual", "slices stored downwards"])
def test_picked_candidates_lie_on_their_own_slices_as_they_are(grid: Grid) -> None:
    slices = [slice_of(index, registered_and(), REGISTERED) for index in (1, 2)]
    found = contour_of(slices, grid, lambda each: each.best if each.index == 2 else None)
    expected = np.zeros(GRID.shape, dtype=np.bool_)
    expected[2] = square(5, 14)
    assert np.array_equal(found, expected)


def parts_slice(box: str = " + box", **distances: float) -> SliceResult:
    """A slice with answers of 1 to 3 parts, squares that grow with the number."""
    own = [candidate(REGISTERED, square(5, 14))]
    own += [candidate(f"parts {n}, negatives 1{box}", square(8 - n, 11 + n), distances.get(f"d{n}", 1.0)) for n in (1, 2, 3)]
    return replace(slice_of(2, registered_and(), None), candidates=tuple(own))


@pytest.mark.parametrize("box", ["", " + box"])
def test_a_fixed_number_of_parts_takes_its_own_candidate_and_retrieval_the_nearest(box: str) -> None:
    each = parts_slice(box, d1=0.5, d2=0.2, d3=0.3)
    for pick, count in ((pick_parts(1, 1), 1), (pick_parts(3, 1), 3), (pick_parts(5, 1), 3), (pick_retrieved(3, 1), 2)):
        picked = pick(each)
        assert picked is not None
        assert picked.origin == f"parts {count}, negatives 1{box}"
    assert pick_parts(1, 45)(each) is None


def test_points_alone_are_preferred_to_points_with_the_box() -> None:
    each = parts_slice()
    each = replace(each, candidates=(*each.candidates, candidate("parts 1, negatives 1", square(1, 2))))
    picked = pick_parts(1, 1)(each)
    assert picked is not None
    assert picked.origin == "parts 1, negatives 1"


def test_parts_are_not_drawn_beyond_the_registered_contours_slices() -> None:
    each = parts_slice()
    beyond = replace(each, candidates=(candidate(REGISTERED, square(5, 4)), *each.candidates[1:]))
    assert pick_parts(2, 1)(beyond) is None
    assert pick_retrieved(2, 1)(beyond) is None


def test_the_oracles_and_the_share_of_best_choices_are_those_counted_by_hand() -> None:
    true, small = square(4, 15), square(7, 10)
    slices = [
        slice_of(0, registered_and(box=small), "box"),  # beyond the tumour's end: nothing would have been best
        slice_of(1, registered_and(box=true, parts=small), "box"),
        slice_of(2, registered_and(box=true, parts=small), REGISTERED),
        slice_of(3, registered_and(box=small, parts=true), "box"),
        slice_of(4, registered_and(box=small), None),  # nothing there, and nothing chosen
    ]
    truth = np.zeros(GRID.shape, dtype=np.bool_)
    truth[1:4] = true

    quality = choice_quality(slices, truth, GRID)

    assert [each.best for each in quality.slices] == [ABSENT, "box", "box", "parts"]
    assert [each.took_best for each in quality.slices] == [False, True, False, False]
    assert [each.candidates for each in quality.slices] == [2, 3, 3, 3]
    assert quality.model_share == 0.75  # three of the four slices that have a contour
    assert quality.slice_oracle_dice == 1.0
    # One kind for all five slices: the box has 2 right slices of 144 pixels, 16 of 144 on the third, and 32 too many.
    assert quality.lesion_kinds == {1: "box"}
    assert quality.lesion_oracle_dice == pytest.approx(2 * 304 / (432 + 336))
    assert quality.chosen_dice == pytest.approx(2 * (144 + 100 + 16) / (432 + 16 + 144 + 100 + 16))


def test_a_choice_almost_as_good_as_the_best_is_told_from_a_bad_one() -> None:
    true = square(4, 15)
    almost = true.copy()
    almost[4, 4] = False
    slices = [slice_of(1, registered_and(box=true, parts=almost), "parts")]
    truth = np.zeros(GRID.shape, dtype=np.bool_)
    truth[1] = true
    (judged,) = choice_quality(slices, truth, GRID).slices
    assert (judged.took_best, judged.nearly) == (False, True)
    assert judged.registered_dice == pytest.approx(200 / 244)
