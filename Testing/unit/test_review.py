"""Review priority sorts slices and segments and calls nothing safe."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray
from P2SAMSlicerLib.candidates import EXPECTED_MASK, REGISTERED, Proposal
from P2SAMSlicerLib.models.protocol import PromptSet
from P2SAMSlicerLib.result import Outcome, SliceResult
from P2SAMSlicerLib.review import (
    LARGE_CHANGE,
    LARGE_DOUBT,
    NOT_SMALL_MM,
    OWN_DOUBT,
    RECORDED_LEVELS,
    SHARP_HU,
    change_to_record,
    priority,
    priority_of_segment,
    recorded_change,
    segment_priority,
    slice_signals,
)

Mask = NDArray[np.bool_]

DISAGREE, ALONG, SMALL = "answers to boxes disagree", "differs from neighbouring slices", "small on this slice"
REGISTERED_SIGNAL, BLURRED = "differs from the registered contour", "blurred border"
CHANGED = "the visits differ along the border"


def disc(radius: float, x: float = 16.0) -> Mask:
    rows, columns = np.indices((32, 32))
    mask: Mask = (rows - 16) ** 2 + (columns - x) ** 2 <= radius**2
    return mask


def proposal(mask: Mask, origin: str = "box x1") -> Proposal:
    box = None if origin == REGISTERED else np.array([8, 8, 24, 24], np.float32)
    return Proposal(origin, PromptSet(box=box), np.where(mask, 1.0, -1.0).astype(np.float32), 0.9)


def signals(
    chosen: Mask,
    others: list[Mask] | None = None,
    neighbours: list[Mask] | None = None,
    registered: Mask | None = None,
    step_hu: float = 500.0,
    pixel_mm: float = 3.0,
    change: float | None = 0.0,
) -> dict[str, float]:
    proposals = [proposal(mask) for mask in ([chosen] if others is None else others)]
    hu = np.where(chosen, step_hu, 0.0).astype(np.float32)
    return slice_signals(
        chosen,
        proposals,
        [chosen] if neighbours is None else neighbours,
        chosen if registered is None else registered,
        hu,
        pixel_mm,
        None if change is None else np.full(chosen.shape, change, np.float32),
    )


masks = npst.arrays(np.bool_, (12, 12))


@given(
    masks,
    st.lists(masks, max_size=3),
    st.lists(masks, max_size=2),
    masks,
    st.floats(-1000, 3000),
    st.floats(0.1, 3),
    st.none() | st.floats(0, 50),
)
def test_every_signal_and_the_priority_lie_between_0_and_1(
    chosen: Mask,
    others: list[Mask],
    neighbours: list[Mask],
    registered: Mask,
    step_hu: float,
    pixel_mm: float,
    change: float | None,
) -> None:
    found = signals(chosen, others, neighbours, registered, step_hu, pixel_mm, change)
    known = {DISAGREE, ALONG, REGISTERED_SIGNAL, BLURRED, SMALL} | (set() if change is None else {CHANGED})
    if chosen.any():
        assert set(found) == known
    else:
        assert set(found) <= known
    assert all(0.0 <= value <= 1.0 for value in found.values())
    assert 0.0 <= priority(found) <= 1.0


def test_a_slice_where_all_agrees_is_quiet() -> None:
    assert all(value == pytest.approx(0.0, abs=1e-6) for value in signals(disc(8)).values())


def test_each_doubt_raises_its_own_signal_and_no_other() -> None:
    quiet, mask, far = signals(disc(8)), disc(8), disc(6, 26)
    loud = {
        DISAGREE: signals(mask, others=[mask, far]),
        CHANGED: signals(mask, change=2.0),
        ALONG: signals(mask, neighbours=[mask, far]),
        REGISTERED_SIGNAL: signals(mask, registered=far),
        BLURRED: signals(mask, step_hu=10.0),
    }
    for name, found in loud.items():
        assert found[name] > quiet[name] + 0.3
        assert priority(found) > priority(quiet)
        assert all(found[other] == pytest.approx(quiet[other]) for other in quiet if other != name)


def test_the_signals_have_their_analytic_values() -> None:
    left, right = np.zeros((10, 10), bool), np.zeros((10, 10), bool)
    left[2:6, 2:6], right[2:6, 4:8] = True, True  # Dice 1/2
    found = signals(left, [right, left], [left, right], right, step_hu=SHARP_HU / 4, pixel_mm=2.0, change=LARGE_CHANGE / 5)
    assert found[DISAGREE] == pytest.approx(0.5)
    assert found[SMALL] == pytest.approx(1.0 - 8.0 / NOT_SMALL_MM)
    assert found[CHANGED] == pytest.approx(0.2)
    assert found[ALONG] == pytest.approx(0.5)
    assert found[REGISTERED_SIGNAL] == pytest.approx(0.5)
    assert found[BLURRED] == pytest.approx(0.75)


def test_a_dark_lesion_has_as_sharp_a_border_as_a_bright_one() -> None:
    assert signals(disc(8), step_hu=-60.0)[BLURRED] == pytest.approx(signals(disc(8), step_hu=60.0)[BLURRED])


def test_the_registered_contour_is_not_an_answer_of_the_model() -> None:
    mask, hu = disc(8), np.zeros((32, 32), np.float32)
    only = slice_signals(mask, [proposal(mask, REGISTERED)], [], mask, hu, 1.0)
    assert only[DISAGREE] == 1.0
    ignored = slice_signals(mask, [proposal(mask), proposal(disc(4, 27), REGISTERED)], [], mask, hu, 1.0)
    assert ignored[DISAGREE] == 0.0


def test_answers_to_points_are_not_compared() -> None:
    mask, hu = disc(8), np.zeros((32, 32), np.float32)
    point = PromptSet(np.zeros((1, 2), np.float32), np.ones(1, np.int64), np.array([8, 8, 24, 24], np.float32))
    elsewhere = Proposal("parts 1, negatives 0 + box", point, proposal(disc(4, 27)).logits, 0.9)
    assert slice_signals(mask, [proposal(mask), elsewhere], [], mask, hu, 1.0)[DISAGREE] == 0.0


def test_a_lesion_that_is_absent_beside_slices_that_have_it_calls_for_a_look() -> None:
    found = signals(np.zeros((32, 32), bool), others=[disc(8)], neighbours=[disc(8)], registered=disc(8))
    assert found[ALONG] == found[REGISTERED_SIGNAL] == found[DISAGREE] == found[BLURRED] == 1.0
    assert priority(found) > 0.8


def test_a_slice_where_no_lesion_was_expected_and_none_is_drawn_does_not_come_first() -> None:
    nothing = np.zeros((32, 32), bool)
    assert priority(signals(nothing, others=[disc(8)], neighbours=[nothing])) < 0.5


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_a_segment_ranks_by_its_doubtful_slices_and_never_below_the_middle_if_flagged(values: list[float]) -> None:
    plain, flagged = segment_priority(values, False), segment_priority(values, True)
    assert np.mean(values) - 1e-9 <= plain <= max(values) + 1e-9
    assert flagged == max(plain, 0.5)


def test_one_bad_slice_of_ten_counts_half_of_the_two_worst() -> None:
    assert segment_priority([0.1] * 9 + [0.9], False) == pytest.approx(0.5)
    assert segment_priority([0.9], False) == pytest.approx(0.9)


def test_a_segment_of_which_nothing_is_known_comes_first() -> None:
    assert segment_priority([], False) == segment_priority([], True) == 1.0


def test_no_signal_speaks_of_a_right_or_safe_contour() -> None:
    words = " ".join(signals(disc(8))).lower()
    assert not any(word in words for word in ("safe", "correct", "good", "approved", "right"))


def asked_with_the_expected_contour(predicted_iou: float) -> dict[str, float]:
    """Signals of a slice on which all agrees, where the model was asked with a mask and thought so much of its answer."""
    mask, hu = disc(8), np.where(disc(8), 500.0, 0.0).astype(np.float32)
    prompt = PromptSet(box=np.array([8, 8, 24, 24], np.float32), mask_logits=torch.zeros(1, 32, 32))
    answer = Proposal(EXPECTED_MASK, prompt, proposal(mask).logits, predicted_iou)
    return slice_signals(mask, [proposal(mask), answer], [mask], mask, hu, 3.0)


def test_a_model_that_knows_masks_tells_its_own_doubt_which_counts_half() -> None:
    sure, unsure = asked_with_the_expected_contour(1.0), asked_with_the_expected_contour(1.0 - LARGE_DOUBT / 2)
    assert sure[OWN_DOUBT] == 0.0
    assert unsure[OWN_DOUBT] == pytest.approx(0.5)
    others = {name: value for name, value in unsure.items() if name != OWN_DOUBT}
    assert priority(unsure) == pytest.approx(0.25 + 0.5 * priority(others))
    assert priority({**others, OWN_DOUBT: 0.0}) == pytest.approx(0.5 * priority(others))


@pytest.mark.parametrize("predicted_iou", [-3.0, 0.0, 1.7])
def test_an_estimate_out_of_range_is_a_doubt_within_0_and_1(predicted_iou: float) -> None:
    assert asked_with_the_expected_contour(predicted_iou)[OWN_DOUBT] == float(predicted_iou < 1)


def test_an_estimate_that_is_no_number_is_no_signal() -> None:
    assert OWN_DOUBT not in asked_with_the_expected_contour(float("nan"))


@given(st.integers(1, 70), st.integers(1, 70), st.integers(0, 99))
def test_a_recorded_change_is_that_of_its_surroundings_and_never_more_than_a_large_one(ny: int, nx: int, seed: int) -> None:
    strength = (5.0 * np.random.default_rng(seed).random((ny, nx))).astype(np.float32)
    found = recorded_change(change_to_record(strength), (ny, nx))
    assert found.shape == (ny, nx)
    assert found.min() >= 0.0
    assert found.max() <= LARGE_CHANGE * (1 + 1e-6)
    whole = np.minimum(strength, LARGE_CHANGE)[: ny // 4 * 4, : nx // 4 * 4]
    assert found[: whole.shape[0], : whole.shape[1]].sum() == pytest.approx(
        whole.sum(), abs=whole.size * LARGE_CHANGE / (2 * RECORDED_LEVELS) + 1e-3
    )
    with pytest.raises(ValueError, match="recorded in"):
        recorded_change(change_to_record(strength), (ny + 4, nx))


def test_a_smooth_change_is_recorded_well_enough_for_the_signal_of_any_contour() -> None:
    rows, columns = np.indices((128, 128))
    change = (1.5 + 1.5 * np.sin(rows / 9.0) * np.cos(columns / 7.0)).astype(np.float32)
    kept = recorded_change(change_to_record(change), change.shape)
    for radius in (4.0, 10.0, 25.0):
        mask: Mask = np.hypot(rows - 60, columns - 70) < radius
        exact, found = (slice_signals(mask, [], [], mask, change, 0.8, each)[CHANGED] for each in (change, kept))
        assert found == pytest.approx(exact, abs=0.02)


def test_a_segments_priority_is_that_of_the_slices_that_count() -> None:
    def one(index: int, value: float, chosen: int | None) -> SliceResult:
        return SliceResult(index, 0.0, (), chosen, value)

    slices = [one(0, 0.0, None), one(1, 0.9, None), one(2, 0.3, 0), one(3, 0.0, 0)]
    assert priority_of_segment(slices, Outcome.FOUND, ()) == pytest.approx(0.9)  # the most doubtful fifth of three
    assert priority_of_segment(slices[2:], Outcome.FOUND, ()) == pytest.approx(0.3)
    assert priority_of_segment(slices[2:], Outcome.FLAGGED, ("x",)) == 0.5
    assert priority_of_segment([], Outcome.REGISTRATION_ONLY, ()) == 0.5
    assert priority_of_segment([], Outcome.REGISTRATION_ONLY, ("x",)) == 1.0
