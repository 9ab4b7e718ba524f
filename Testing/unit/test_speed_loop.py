"""The peers of the speed benchmark do the same work, so that only the time differs; and what is counted is what was done."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from P2SAMSlicerLib.intensity import PAPER_WINDOW
from P2SAMSlicerLib.models.sam_family import SamFamilyModel
from P2SAMSlicerLib.options import PropagationOptions
from P2SAMSlicerLib.paper_visit import paper_options, segment_in_paper_mode
from P2SAMSlicerLib.prompts import part_features
from P2SAMSlicerLib.propagation import register_visits
from P2SAMSlicerLib.speed import authors_loop as speed_loop
from P2SAMSlicerLib.speed.authors_loop import authors_loop, plain_parts
from P2SAMSlicerLib.speed.counting import CountingModel
from P2SAMSlicerLib.speed.followup import _paper_masks, _present, _slice_pairs
from P2SAMSlicerLib.speed.growth import SIZES, GrowthRow, measure_growth, phantom, steepness
from P2SAMSlicerLib.speed.steps import PAPER_STEPS, REST, _watched, step_seconds, timed
from P2SAMSlicerLib.volume import Segment
from stub_model import BrightnessModel


@pytest.fixture(scope="module")
def both() -> Any:
    """A phantom's visits, and the pairs of its slices; the follow-up is one slice shorter than the prior's lesion."""
    prior, mask = phantom(5, 1, seed=0)
    options = PropagationOptions(mode="paper", registration="none", negatives=(4,))
    followup = phantom(5, 1, seed=1)[0]
    visits = register_visits(prior, [Segment("lesion", mask)], followup, options)
    return visits, options


def test_the_authors_loop_has_the_masks_of_paper_mode_and_twice_the_encodes(both: Any) -> None:
    visits, options = both
    pairs, references = _slice_pairs(visits)
    assert (len(pairs), references) == (5, 5)
    loop, paper = CountingModel(BrightnessModel(("points", "box"))), CountingModel(BrightnessModel(("points", "box")))
    expected = authors_loop(loop, pairs, paper_options(options), part_features)
    case, (carried, indices) = visits.case, _present(visits)
    windows = (PAPER_WINDOW, PAPER_WINDOW)
    found = segment_in_paper_mode(
        paper, case.prior, case.masks[0], case.followup, carried, windows, options, lambda *_: None
    ).mask
    assert np.stack(expected).any()
    assert np.array_equal(found[indices], np.stack(expected))
    assert (loop.encoded, paper.encoded) == (10, 10)
    # Two candidates a slice, three decodes each: one by one, and both at once.
    assert (loop.decode_calls, paper.decode_calls) == (5 * 2 * 3, 5 * 3)
    assert loop.prompt_sets == paper.prompt_sets == 5 * 2 * 3


def test_a_reference_that_several_slices_share_is_encoded_once_in_paper_mode_and_each_time_in_the_loop() -> None:
    prior, mask = phantom(5, 1, seed=0)
    mask[:, :, :] = False
    mask[6, 70:90, 70:90] = True  # one slice of the prior
    followup = phantom(5, 1, seed=1)[0]
    thin = PropagationOptions(mode="paper", registration="none", negatives=(1,))
    visits = register_visits(prior, [Segment("lesion", mask)], followup, thin)
    case = visits.case
    carried = np.zeros(case.followup.grid.shape, dtype=bool)
    carried[4:8] = True
    model = CountingModel(BrightnessModel(("points", "box")))
    windows = (PAPER_WINDOW, PAPER_WINDOW)
    segment_in_paper_mode(model, case.prior, case.masks[0], case.followup, carried, windows, thin, lambda *_: None)
    assert model.encoded == 1 + 4


def test_steps_take_together_the_whole_time_and_leave_the_functions_as_they_were(both: Any) -> None:
    visits, options = both
    pairs, _ = _slice_pairs(visits)
    before = vars(speed_loop)["similarity_maps"]
    model = BrightnessModel(("points", "box"))
    (masks, steps), whole = timed(lambda: step_seconds(lambda: authors_loop(model, pairs[:1], paper_options(options))))
    assert len(masks) == 1
    assert all(seconds >= 0.0 for seconds in steps.values())
    assert steps["k-means"] > 0.0
    assert steps["similarity maps"] > 0.0
    assert steps["encode"] == 0.0, "the model of this test is another class"
    assert sum(steps.values()) <= whole
    assert set(steps) == {*PAPER_STEPS, REST}
    assert vars(speed_loop)["similarity_maps"] is before


def test_the_steps_of_paper_mode_are_seen_too(both: Any) -> None:
    visits, options = both
    _, steps = step_seconds(lambda: _paper_masks(BrightnessModel(("points", "box")), visits, options))
    assert all(steps[step] > 0.0 for step in ("k-means", "similarity maps", "points", "distance"))


@pytest.mark.parametrize("name", [*PAPER_STEPS["encode"], *PAPER_STEPS["decode"]])
def test_the_models_own_steps_are_methods_that_the_clock_stands_around(name: str) -> None:
    method = name.split(".")[-1]
    original = vars(SamFamilyModel)[method]
    with _watched(name, "step", {"step": 0.0}):
        assert vars(SamFamilyModel)[method] is not original
    assert vars(SamFamilyModel)[method] is original


def test_plain_parts_are_the_products_parts_for_few_and_for_equal_features() -> None:
    rng = np.random.default_rng(0)
    for points in (rng.normal(size=(40, 6)), np.ones((5, 6)), np.zeros((3, 6)), rng.normal(size=(1, 6))):
        features = points.astype(np.float32)
        for count in (1, 2, 4):
            np.testing.assert_allclose(plain_parts(features, count, 0), part_features(features, count, 0), atol=1e-6)


def test_the_steps_of_a_failed_run_leave_the_functions_as_they_were() -> None:
    before = vars(speed_loop)["similarity_maps"]

    def fails() -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        step_seconds(fails)
    assert vars(speed_loop)["similarity_maps"] is before


@pytest.mark.long
def test_work_grows_in_proportion_with_one_encode_a_crop_however_many_candidates() -> None:
    rows = measure_growth(BrightnessModel(("points", "box", "mask")), tell=lambda _text: None)
    assert [(row.grows, row.size) for row in rows] == [(name, size) for name, sizes in SIZES.items() for size in sizes]
    for grows in SIZES:
        own = [row for row in rows if row.grows == grows]
        if grows == "parts":
            assert len({row.encoded for row in own}) == 1
        assert all(row.encoded == row.distinct for row in own)
        # The prior's slices are at most ten, whatever the lesion's length: encodes grow less than in proportion.
        assert steepness(own, lambda row: row.prompt_sets) == pytest.approx(1.0, abs=0.2)
        assert not steepness(own, lambda row: row.encoded) > 1.01


def test_lesions_that_are_near_each_other_share_their_crops() -> None:
    prior, mask = phantom(6, 1, seed=0)
    both = mask | np.roll(mask, 18, axis=2)  # 3 mm between them
    prior.array[both & ~mask] = 90
    options = PropagationOptions(registration="none")
    counts = []
    for shown in (mask, both):
        model = CountingModel(BrightnessModel())
        followup = phantom(6, 1, seed=1)[0]
        from P2SAMSlicerLib.propagation import propagate

        propagate(model, prior, [Segment("lesion", shown)], followup, options)
        counts.append(model.encoded)
    assert counts[0] == counts[1]


def test_growth_is_one_where_it_is_in_proportion_and_more_where_it_is_not() -> None:
    def rows(*values: float) -> list[GrowthRow]:
        return [GrowthRow("slices", size, value, 0, 0, 0, 0) for size, value in zip((1, 2, 4), values, strict=True)]

    assert steepness(rows(5, 6, 8), lambda row: row.seconds) == pytest.approx(1.0)
    assert steepness(rows(1, 4, 16), lambda row: row.seconds) == pytest.approx(2.0)


def test_a_counting_model_answers_as_the_one_that_it_counts() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    model = CountingModel(BrightnessModel())
    assert torch.equal(model.encode([image, image]), BrightnessModel().encode([image, image]))
    assert (model.encoded, model.distinct) == (2, 1)
    assert model.card == BrightnessModel().card
