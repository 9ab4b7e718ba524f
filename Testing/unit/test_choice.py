"""Scores of candidates, and the cheapest sequence over the slices against plain enumeration."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from P2SAMSlicerLib.candidates import Proposal
from P2SAMSlicerLib.choice import (
    DISTANCE_WEIGHT,
    PARTS_COST,
    REGISTERED_CREDIT,
    SWITCH_COST,
    UNUSUAL_BOX_COST,
    Scored,
    cells_of,
    choose_sequence,
    own_spread,
    score,
)
from P2SAMSlicerLib.models.protocol import PromptSet
from P2SAMSlicerLib.retrieval import EMPTY_DISTANCE, wasserstein

ORIGINS = ("registered contour", "box x1", "parts 1 + box", "widened box")


def proposal(origin: str, mask: NDArray[np.bool_] | None = None) -> Proposal:
    inside = np.ones((2, 2), dtype=bool) if mask is None else mask
    return Proposal(origin, PromptSet(), np.where(inside, 1.0, -1.0).astype(np.float32), 0.9)


def scored(origin: str, value: float) -> Scored:
    return Scored(proposal(origin), 0.0, value)


def slices_of(*rows: dict[str, float]) -> list[list[Scored]]:
    return [[scored(origin, value) for origin, value in row.items()] for row in rows]


def cost_of(slices: list[list[Scored]], chosen: tuple[int | None, ...], switch_cost: float) -> float:
    """What a sequence costs, written out plainly; an absent slice costs nothing but the switch to it and from it."""
    kinds = ["absent" if c is None else row[c].proposal.origin for row, c in zip(slices, chosen, strict=True)]
    own = sum(0.0 if c is None else row[c].score for row, c in zip(slices, chosen, strict=True))
    return own + switch_cost * sum(a != b for a, b in itertools.pairwise(kinds))


def cheapest(slices: list[list[Scored]], switch_cost: float) -> float:
    choices = [[None, *range(len(row))] for row in slices]
    return min(cost_of(slices, sequence, switch_cost) for sequence in itertools.product(*choices))


problems = st.lists(
    st.dictionaries(st.sampled_from(ORIGINS), st.floats(-3, 3) | st.just(float("inf")), min_size=1, max_size=4),
    min_size=1,
    max_size=5,
)


@settings(max_examples=150)
@given(problems, st.sampled_from([0.0, 0.1, SWITCH_COST, 2.0, 50.0]))
def test_the_choice_costs_as_little_as_the_best_of_all_sequences(rows: list[dict[str, float]], switch: float) -> None:
    """Kinds that only some slices have, and impossible ones, included."""
    slices = slices_of(*rows)
    chosen = choose_sequence(slices, switch_cost=switch)
    assert cost_of(slices, tuple(chosen), switch) == pytest.approx(cheapest(slices, switch), abs=1e-9)


@settings(max_examples=50)
@given(problems)
def test_the_order_of_the_proposals_does_not_change_the_cost(rows: list[dict[str, float]]) -> None:
    slices = slices_of(*rows)
    backwards = [row[::-1] for row in slices]
    assert cost_of(slices, tuple(choose_sequence(slices)), SWITCH_COST) == pytest.approx(
        cost_of(backwards, tuple(choose_sequence(backwards)), SWITCH_COST), abs=1e-9
    )


def test_where_every_score_is_positive_the_lesion_is_absent_everywhere() -> None:
    slices = slices_of(*[{origin: 0.01 + 0.1 * k for k, origin in enumerate(ORIGINS)}] * 4)
    assert choose_sequence(slices) == [None] * 4


def test_empty_masks_alone_leave_the_lesion_absent() -> None:
    assert choose_sequence(slices_of({"box x1": np.inf}, {"box x1": np.inf})) == [None, None]


def test_one_doubtful_slice_inside_the_lesion_is_bridged_and_a_bad_one_is_not() -> None:
    good, doubtful, bad = {"box x1": -2.0}, {"box x1": SWITCH_COST}, {"box x1": 2 * SWITCH_COST + 0.1}
    assert choose_sequence(slices_of(good, doubtful, good)) == [0, 0, 0]
    assert choose_sequence(slices_of(good, bad, good)) == [0, None, 0]


def test_a_small_gain_on_one_slice_does_not_change_the_kind_of_candidate() -> None:
    usual, tempting = {"box x1": -1.0, "widened box": 0.5}, {"box x1": -1.0, "widened box": -1.0 - SWITCH_COST}
    assert choose_sequence(slices_of(usual, tempting, usual)) == [0, 0, 0]
    convincing = {"box x1": -1.0, "widened box": -1.1 - 2 * SWITCH_COST}
    assert choose_sequence(slices_of(usual, convincing, usual)) == [0, 1, 0]


def test_an_index_points_into_its_own_slice_whatever_the_order_there() -> None:
    slices = slices_of({"box x1": 1.0, "widened box": -1.0}, {"widened box": -1.0, "box x1": 1.0}, {"widened box": -1.0})
    assert choose_sequence(slices) == [1, 0, 0]


# ----------------------------------------------------------------------------------------------------------- scores


def features_of(left: float, right: float) -> NDArray[np.float32]:
    """A 4 x 4 grid of two features: the left half of one kind, the right half of another."""
    features = np.zeros((4, 4, 2), dtype=np.float32)
    features[:, :2] = left
    features[:, 2:] = right
    return features


def half(left: bool) -> NDArray[np.bool_]:
    mask = np.zeros((16, 16), dtype=bool)
    mask[:, :8] = left
    mask[:, 8:] = not left
    return mask


def test_the_score_is_the_cost_of_the_distance_less_the_evidence_inside() -> None:
    foreground = np.array([[1, 1], [1.2, 1], [1, 0.8], [0.9, 1]], dtype=np.float32)
    features, evidence = features_of(1.0, 3.0), np.full((16, 16), 0.25, np.float32)
    left, right = score(
        [proposal("l", half(True)), proposal("r", half(False))], features, evidence, foreground, 2.0, 64.0, 0.0, 0
    )
    for got, value in ((left, 1.0), (right, 3.0)):
        distance = wasserstein(foreground, np.full((8, 2), value, np.float32))
        assert got.distance == pytest.approx(distance)
        excess = min(max(distance / 2.0 - 1, 0), 10) * 128 / 64
        assert got.score == pytest.approx(DISTANCE_WEIGHT * excess - 0.25 * 128 / 64, rel=1e-5)
    assert left.score < right.score


def test_an_empty_mask_is_infinitely_bad_and_a_negative_place_is_worse_than_none() -> None:
    foreground, features = np.ones((5, 2), np.float32), features_of(1.0, 1.0)
    evidence = np.full((16, 16), -1.0, np.float32)
    empty, full = score(
        [proposal("e", np.zeros((16, 16), bool)), proposal("f", half(True))], features, evidence, foreground, 1.0, 64.0, 0.0, 0
    )
    assert empty.score == np.inf
    assert empty.distance == EMPTY_DISTANCE
    assert full.score == pytest.approx(2.0)


def test_a_distance_without_bound_costs_a_bounded_amount() -> None:
    foreground, features = np.ones((5, 2), np.float32), features_of(1e4, 1e4)
    (far,) = score([proposal("f", half(True))], features, np.zeros((16, 16), np.float32), foreground, 1e-6, 128.0, 0.0, 0)
    assert far.score == pytest.approx(DISTANCE_WEIGHT * 10)


def test_cells_are_those_covered_by_half_or_else_the_fullest() -> None:
    mask = np.zeros((16, 16), dtype=bool)
    mask[0:4, 0:4] = True
    mask[4:6, 0:4] = True  # half of the next cell
    mask[0:4, 4] = True  # a quarter of the one beside
    expected = np.zeros((4, 4), dtype=bool)
    expected[0, 0] = expected[1, 0] = True
    np.testing.assert_array_equal(cells_of(mask, 4), expected)
    speck = np.zeros((16, 16), dtype=bool)
    speck[9, 9] = speck[9, 10] = speck[13, 1] = True
    assert np.argwhere(cells_of(speck, 4)).tolist() == [[2, 2]]
    assert not cells_of(np.zeros((16, 16), bool), 4).any()


def test_the_own_spread_is_positive_repeatable_and_grows_with_the_scatter() -> None:
    points = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    assert own_spread(points, 3) == own_spread(points, 3) > 0
    assert own_spread(3 * points, 3) == pytest.approx(9 * own_spread(points, 3), rel=1e-4)
    assert own_spread(np.ones((50, 3), np.float32), 0) > 0
    assert own_spread(points[:3], 0) == 1.0


def test_a_box_of_unusual_size_and_an_empty_slice_need_evidence_where_the_lesion_is_expected() -> None:
    foreground, features = np.ones((5, 2), np.float32), features_of(1.0, 1.0)
    evidence = np.zeros((16, 16), np.float32)
    offered = [proposal("box x1", half(True)), proposal("box x1.25", half(True)), proposal("box x0.7", half(True))]
    usual, wide, narrow = score(offered, features, evidence, foreground, 1.0, 64.0, 32.0, 0)
    assert wide.score - usual.score == pytest.approx(UNUSUAL_BOX_COST * 0.5)
    assert narrow.score == pytest.approx(wide.score)
    slices = slices_of({"box x1": 0.2})
    assert choose_sequence(slices) == [None]
    assert choose_sequence(slices, [0.3]) == [0]


def test_an_answer_to_parts_has_to_explain_clearly_more_than_the_expected_contour() -> None:
    foreground, features = np.ones((5, 2), np.float32), features_of(1.0, 1.0)
    names = ["expected contour", "parts 1, negatives 1", "parts 5, negatives 8 + expected mask", "expected mask + box"]
    offered = [proposal(name, half(True)) for name in names]
    plain, points, pointed, boxed = score(offered, features, np.zeros((16, 16), np.float32), foreground, 1.0, 64.0, 32.0, 0)
    assert points.score - plain.score == pytest.approx(PARTS_COST * 0.5)
    assert pointed.score == points.score
    assert boxed.score == plain.score


def test_another_candidate_has_to_explain_clearly_more_than_the_registered_contour() -> None:
    foreground, features = np.ones((5, 2), np.float32), features_of(1.0, 1.0)
    offered = [proposal("registered contour", half(True)), proposal("expected contour", half(True))]
    registered, expected = score(offered, features, np.zeros((16, 16), np.float32), foreground, 1.0, 64.0, 32.0, 0)
    assert expected.score - registered.score == pytest.approx(REGISTERED_CREDIT * 0.5)
