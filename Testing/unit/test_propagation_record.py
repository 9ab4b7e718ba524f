"""What a result records of a visit: candidates, models, options, timings, progress; and that a run can be cancelled."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from carried_visit import FAR_APART, STILL, check_result, still, usual, usual_once
from P2SAMSlicerLib.candidates import EXPECTED, REGISTERED
from P2SAMSlicerLib.errors import Cancelled, InputError
from P2SAMSlicerLib.options import PropagationOptions
from P2SAMSlicerLib.progress import ProgressEvent
from P2SAMSlicerLib.propagation import carry_segments, propagate, register_visits
from P2SAMSlicerLib.result import Outcome
from P2SAMSlicerLib.review import UNJUDGED
from P2SAMSlicerLib.volume import Segment
from scipy import ndimage
from small_body import GRID, body, dice, ellipsoid, prior_visit
from stub_model import BrightnessModel


def test_all_candidates_are_kept_and_the_registered_contour_is_the_first() -> None:
    result = usual_once().segments[0]
    assert len(result.slices) > 5
    assert [s.index for s in result.slices] == list(range(result.slices[0].index, result.slices[-1].index + 1))
    for each in result.slices:
        origins = [candidate.origin for candidate in each.candidates]
        assert origins[0] == REGISTERED
        assert len(set(origins)) == len(origins) > 5
        assert any("parts" in origin for origin in origins)
        assert np.isnan(each.candidates[0].predicted_iou)
        assert origins[1] == EXPECTED
        assert all(np.isfinite(candidate.predicted_iou) for candidate in each.candidates[2:])
    looked_at = {s.index for s in result.slices}
    assert set(np.flatnonzero(result.registered_mask.any(axis=(1, 2)))) < looked_at, "slices beyond the ends are looked at too"


def test_candidates_placed_where_their_region_says_lie_where_the_contours_lie() -> None:
    result = usual_once().segments[0]
    for each in result.slices:
        assert each.region is not None
        placed = each.region.place(each.candidates[0].mask.astype(np.float32), GRID, outside=0.0) > 0.5
        registered = result.registered_mask[each.index]
        if registered.any():
            assert dice(placed, registered) > 0.95


def test_visits_that_were_registered_once_can_be_carried_in_both_modes() -> None:
    prior, segment = prior_visit()
    followup, model = still(ellipsoid(GRID)), BrightnessModel()
    paper = replace(STILL, mode="paper", negatives=(2,))
    visits = register_visits(prior, [segment], followup, STILL)
    for options in (STILL, paper):
        once = usual_once() if options is STILL else propagate(model, prior, [segment], followup, options)
        again = carry_segments(model, visits, options)
        assert (again.name, again.grid, again.notes) == (once.name, once.grid, once.notes)
        first, second = once.segments[0], again.segments[0]
        assert (first.outcome, first.reasons) == (second.outcome, second.reasons)
        assert first.mask is not None
        assert np.array_equal(first.mask, np.asarray(second.mask))
        assert np.array_equal(first.registered_mask, second.registered_mask)
    assert all(each.region is None for each in second.slices), "paper mode's candidates lie on whole slices"


def test_visits_are_not_carried_with_another_registration_than_they_have() -> None:
    prior, segment = prior_visit()
    visits = register_visits(prior, [segment], still(ellipsoid(GRID)), STILL)
    with pytest.raises(InputError, match="registration: the visits were registered with another one"):
        carry_segments(BrightnessModel(), visits, PropagationOptions())


def test_a_box_only_model_is_never_given_points_alone() -> None:
    for prompts, alone in ((("box",), False), (("box", "points"), True)):
        prior, segment = prior_visit()
        result = propagate(BrightnessModel(prompts), prior, [segment], still(segment.mask), STILL).segments[0]
        without_box = [c for s in result.slices for c in s.candidates if len(c.points) and c.box is None]
        assert bool(without_box) is alone


def test_paper_mode_with_a_box_only_model_says_that_it_was_not_trained_for_it() -> None:
    result = usual(replace(STILL, mode="paper", negatives=(2,))).segments[0]
    assert any("points" in reason for reason in result.reasons)


def test_registration_reasons_are_told_of_the_segment_that_they_concern() -> None:
    first, second = (ellipsoid(GRID, centre, (11.0, 11.0, 13.0)) for centre in FAR_APART)
    followup = still(first, second)
    near = ndimage.distance_transform_edt(~second, GRID.spacing_zyx)
    spoilt = (near > 0) & (near < 28.0)
    followup.array[spoilt] = np.random.default_rng(0).permutation(followup.array[spoilt])
    segments = [Segment("good", first), Segment("bad", second)]
    result = propagate(BrightnessModel(), body([first, second]), segments, followup, STILL)
    good, bad = result.segments
    assert not any("agree poorly" in reason for reason in good.reasons)
    assert any("agree poorly near the lesion" in reason for reason in bad.reasons)
    assert good.registration["local_correlation"] > 0.9 > bad.registration["local_correlation"]
    assert result.registration["reasons"] == [f"segment 'bad': {reason}" for reason in bad.registration["reasons"]]
    assert result.registration["body_correlation"] > 0.75


def test_the_result_says_how_it_was_made() -> None:
    assert any("points are always combined with a box" in note for note in usual_once().notes)


def test_the_result_names_its_model_versions_and_options() -> None:
    result = usual(replace(STILL, seed=5))
    assert result.name == "followup"
    assert result.grid == GRID
    assert result.provenance["model"]["id"] == "stub"
    assert result.provenance["options"]["seed"] == 5
    assert result.registration["kind"] == "none"
    assert set(result.stage_seconds) == {"prepare", "registration", "segmentation"}
    assert result.overrides == ()


def test_the_same_input_twice_gives_the_same_result() -> None:
    first, second = usual_once().segments[0], usual().segments[0]
    np.testing.assert_array_equal(first.mask, second.mask)
    assert (first.reasons, first.review_priority) == (second.reasons, second.review_priority)
    for one, other in zip(first.slices, second.slices, strict=True):
        assert [c.score for c in one.candidates] == [c.score for c in other.candidates]


def test_arrays_of_the_caller_are_not_changed() -> None:
    prior, segment = prior_visit()
    followup = still(segment.mask)
    copies = [array.copy() for array in (prior.array, segment.mask, followup.array)]
    propagate(BrightnessModel(), prior, [segment], followup, STILL)
    for array, copy in zip((prior.array, segment.mask, followup.array), copies, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_progress_counts_up_in_every_stage_and_names_no_segment() -> None:
    events: list[ProgressEvent] = []
    prior, segment = prior_visit()
    named = replace(segment, name="DOE JANE")
    options = PropagationOptions(registration="rigid", max_parts=1)
    propagate(BrightnessModel(), prior, [named], still(segment.mask), options, events.append)
    stages = list(dict.fromkeys(event.stage for event in events))
    assert stages[0] == "registration"
    assert len(stages) >= 4
    for stage in stages:
        counts = [(event.done, event.total) for event in events if event.stage == stage]
        assert [done for done, _ in counts] == sorted(done for done, _ in counts)
        assert counts[-1][0] == counts[-1][1], stage
    assert not any("DOE" in str(event) for event in events)


@pytest.mark.parametrize("stage", ["registration", "encode", "decode", "choose"])
def test_a_run_can_be_cancelled_in_every_stage(stage: str) -> None:
    def stop(event: ProgressEvent) -> None:
        if event.stage == stage:
            raise Cancelled("stopped")

    prior, segment = prior_visit()
    with pytest.raises(Cancelled):
        propagate(BrightnessModel(), prior, [segment], still(segment.mask), STILL, stop)


def test_a_cbct_is_always_flagged_and_its_values_may_be_anything() -> None:
    prior, segment = prior_visit()
    followup = still(segment.mask)
    odd = replace(followup, array=(0.5 * (followup.array.astype(np.float32) + 1000.0)).astype(np.float32))
    with pytest.raises(InputError, match="Hounsfield"):
        propagate(BrightnessModel(), prior, [segment], odd, STILL)
    result = propagate(BrightnessModel(), prior, [segment], odd, replace(STILL, modality="cbct"))
    assert result.segments[0].outcome is not Outcome.FOUND
    assert any("CBCT" in reason for reason in result.segments[0].reasons)
    assert result.segments[0].lost_tissue_share is None, "its values are no HU"
    assert result.warnings
    check_result(result.segments[0], GRID)


def test_contours_of_an_encoder_in_half_precision_are_flagged_with_that_reason() -> None:
    prior, segment = prior_visit()
    model = BrightnessModel()
    model.card = replace(model.card, precision="bfloat16")
    (half,) = propagate(model, prior, [segment], prior, PropagationOptions(registration="none")).segments
    (full,) = propagate(BrightnessModel(), prior, [segment], prior, PropagationOptions(registration="none")).segments
    assert half.outcome == Outcome.FLAGGED
    assert "the encoder computed in bfloat16, which changes contours, and loses some" in half.reasons
    assert full.outcome == Outcome.FOUND


def test_a_structure_that_no_model_drew_is_not_flagged_for_the_models_precision() -> None:
    prior, segment = prior_visit()
    model = BrightnessModel()
    model.card = replace(model.card, precision="bfloat16")
    options = PropagationOptions(registration="none", registration_only=(segment.name,))
    (alone,) = propagate(model, prior, [segment], prior, options).segments
    assert not any("bfloat16" in reason for reason in alone.reasons)
    assert alone.review_priority == UNJUDGED
