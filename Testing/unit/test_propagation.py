"""One visit to the next, with a model that answers from brightness: what is carried, what is said of it, what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from P2SAMSlicerLib.candidates import EXPECTED, REGISTERED
from P2SAMSlicerLib.errors import Cancelled, InputError
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.options import PropagationOptions
from P2SAMSlicerLib.progress import ProgressEvent
from P2SAMSlicerLib.propagation import carry_segments, propagate, register_visits
from P2SAMSlicerLib.result import Outcome, SegmentResult, VisitResult
from P2SAMSlicerLib.volume import BoolArray, Segment, Volume
from scipy import ndimage
from scipy.spatial.transform import Rotation
from small_body import GRID, LESION, MUSCLE, body, dice, ellipsoid, followup_of, prior_visit
from stub_model import BrightnessModel

STILL = PropagationOptions(registration="none")


def still(*lesions: BoolArray, seed: int = 5) -> Volume:
    """The body with these lesions, unmoved."""
    return replace(body(lesions, GRID, seed), name="followup")


def carry(
    prior: Volume,
    masks: BoolArray | Sequence[BoolArray],
    followup: Volume,
    options: PropagationOptions = STILL,
) -> SegmentResult:
    """The result of the first segment."""
    segments = [Segment(f"GTV {n}", mask) for n, mask in enumerate([masks] if isinstance(masks, np.ndarray) else masks)]
    return propagate(BrightnessModel(), prior, segments, followup, options).segments[0]


def check_result(result: SegmentResult, grid: Grid) -> None:
    """What must hold of every result, whatever was found."""
    contoured = result.outcome in (Outcome.FOUND, Outcome.FLAGGED)
    assert result.registered_mask.shape == grid.shape
    assert result.registered_mask.dtype == np.bool_
    assert (result.mask is not None) == contoured
    for value in (result.volume_ml, result.volume_change_percent, result.centroid_shift_mm):
        assert (value is not None) == contoured
    assert bool(result.reasons) == (result.outcome is not Outcome.FOUND)
    assert 0.0 <= result.review_priority <= 1.0
    if result.mask is not None:
        assert result.mask.any()
        assert result.mask.shape == grid.shape
        assert result.volume_ml == pytest.approx(result.mask.sum() * grid.voxel_ml)
    for each in result.slices:
        assert 0.0 <= each.review_priority <= 1.0
        assert each.chosen is None or 0 <= each.chosen < len(each.candidates)


# -------------------------------------------------------------------------------------------------- the tumour changes
@pytest.mark.parametrize(("change", "least"), [("shrink", 0.88), ("grow", 0.88), ("stable", 0.88)])
def test_a_lesion_that_changed_is_followed_better_than_by_its_registered_contour(change: Any, least: float) -> None:
    prior, segment = prior_visit()
    followup, truth = followup_of(change)
    result = carry(prior, segment.mask, followup, PropagationOptions(registration="rigid"))
    check_result(result, followup.grid)
    assert result.mask is not None
    assert dice(result.mask, truth) > max(least, dice(result.registered_mask, truth) - 0.02)


def test_a_lesion_whose_centre_darkened_keeps_its_contour_and_is_flagged() -> None:
    prior, segment = prior_visit()
    followup, truth = followup_of("necrosis")
    result = carry(prior, segment.mask, followup)
    assert result.outcome is Outcome.FLAGGED
    assert any("its centre changed by -" in reason for reason in result.reasons)
    assert result.mask is not None
    assert dice(result.mask, truth) > 0.75


def test_a_lesion_that_vanished_is_not_found_and_has_no_contour() -> None:
    prior, segment = prior_visit()
    followup, truth = followup_of("vanish")
    assert not truth.any()
    result = carry(prior, segment.mask, followup, PropagationOptions(registration="rigid"))
    check_result(result, followup.grid)
    assert result.outcome is Outcome.NO_LESION
    assert result.registered_mask.any()
    assert result.slices, "what was considered is kept although nothing was chosen"


def test_a_contour_can_grow_well_beyond_the_carried_one_on_every_side() -> None:
    small = ellipsoid(GRID, radii=(10.0, 10.0, 12.0))
    large = ellipsoid(GRID, radii=(17.0, 17.0, 18.0))
    result = carry(body([small]), small, still(large))
    assert result.mask is not None
    grown = result.mask & ~ndimage.binary_dilation(small, iterations=1)
    places = np.argwhere(grown) - np.argwhere(small).mean(axis=0)
    assert (places.min(axis=0) < 0).all()
    assert (places.max(axis=0) > 0).all()
    assert dice(result.mask, large) > dice(result.registered_mask, large) + 0.05
    assert result.volume_change_percent is not None
    assert result.volume_change_percent > 50
    assert result.outcome is Outcome.FLAGGED  # so much growth needs a person
    assert any("volume" in reason for reason in result.reasons)


def test_growth_does_not_depend_on_how_fine_the_voxels_are() -> None:
    fine = Grid((20, 150, 150), (0.7, 0.7, 4.0), (-34.0, -66.0, -36.0))
    small, large = (ellipsoid(fine, radii=(radius, radius, 14.0)) for radius in (9.0, 16.0))
    result = carry(body([small], fine), small, replace(body([large], fine), name="followup"))
    assert result.mask is not None
    # Seven millimetres are ten of these voxels.
    assert dice(result.mask, large) > dice(small, large) + 0.05


def test_a_lesion_that_grew_past_the_last_slice_looked_at_is_flagged() -> None:
    short, long = (ellipsoid(GRID, radii=(14.0, 13.0, half)) for half in (12.0, 45.0))
    result = carry(body([short]), short, still(long))
    assert result.outcome is Outcome.FLAGGED
    assert any("last slice looked at, 12.0 mm beyond" in reason for reason in result.reasons)


def test_no_contour_leaves_the_plausible_distance_and_reaching_it_is_flagged() -> None:
    small, huge = ellipsoid(GRID, radii=(9.0, 9.0, 12.0)), ellipsoid(GRID, radii=(30.0, 30.0, 16.0))
    result = carry(body([small]), small, still(huge), replace(STILL, plausible_mm=6.0))
    assert result.mask is not None
    assert result.outcome is Outcome.FLAGGED
    assert any("reaches the limit of the search, 6 mm from the registered contour" in reason for reason in result.reasons)
    for z in np.flatnonzero(small.any(axis=(1, 2))):
        distance = ndimage.distance_transform_edt(~small[z], (2.0, 2.0))
        assert distance[result.mask[z]].max(initial=0.0) <= 6.0 + 2.0 * GRID.spacing[0]


def test_a_lesion_whose_lost_tissued_is_flagged_though_it_lies_where_it_was() -> None:
    prior, segment = prior_visit()
    same, changed = still(segment.mask), still(segment.mask)
    changed.array[segment.mask] -= 20  # still brighter than muscle, so the model finds it
    results = [carry(prior, segment.mask, followup) for followup in (same, changed)]
    for result in results:
        assert result.mask is not None
        assert dice(result.mask, segment.mask) > 0.75
        assert result.lost_tissue_share is not None
    said = [any("no longer looks like the prior's lesion" in reason for reason in result.reasons) for result in results]
    assert said == [False, True]


# --------------------------------------------------------------------------------------------- lesions of several pieces
FAR_APART = ((-20.0, -30.0, -25.0), (30.0, -20.0, 25.0))


def test_lesions_far_apart_stay_apart_and_are_all_followed() -> None:
    first, second = (ellipsoid(GRID, centre, (11.0, 11.0, 13.0)) for centre in FAR_APART)
    smaller = ellipsoid(GRID, FAR_APART[1], (8.0, 8.0, 10.0))
    result = carry(body([first, second]), first | second, still(first, smaller))
    check_result(result, GRID)
    assert result.mask is not None
    assert ndimage.label(result.mask)[1] == 2
    assert dice(result.mask, first | smaller) > 0.85
    assert (result.mask & first).any()
    assert (result.mask & smaller).any()


def test_slices_say_which_of_several_lesions_they_show() -> None:
    """The lesions lie side by side, so that every slice shows both."""
    first, second = (ellipsoid(GRID, (x, -20.0, 0.0), (11.0, 11.0, 13.0)) for x in (-35.0, 30.0))
    result = carry(body([first, second]), first | second, still(first, second))
    numbers = {number: {s.index for s in result.slices if s.lesion == number} for number in (1, 2)}
    assert {s.lesion for s in result.slices} == {1, 2}
    assert numbers[1] & numbers[2] >= set(np.flatnonzero(first.any(axis=(1, 2))))
    assert len({(s.lesion, s.index) for s in result.slices}) == len(result.slices)


def test_a_lesion_that_the_model_was_not_asked_for_keeps_its_number() -> None:
    """Lesion 1 lies below the follow-up's field of view, and reasons and slices number the other alike."""
    first, second = (ellipsoid(GRID, centre, (11.0, 11.0, 11.0)) for centre in ((-20.0, -30.0, -40.0), (30.0, -20.0, 30.0)))
    grid = replace(GRID, shape=(16, 80, 90), origin=(-89.0, -79.0, -58.0 + 4.0 * 14))
    result = carry(
        body([first, second]), first | second, body([ellipsoid(grid, (30.0, -20.0, 30.0), (11.0, 11.0, 11.0))], grid)
    )
    assert any(reason.startswith("lesion 1 of 2: ") for reason in result.reasons)
    assert {s.lesion for s in result.slices} == {2}


def test_one_of_two_lesions_that_vanished_is_flagged_and_the_other_kept() -> None:
    first, second = (ellipsoid(GRID, centre, (11.0, 11.0, 13.0)) for centre in FAR_APART)
    result = carry(body([first, second]), first | second, still(first))
    check_result(result, GRID)
    assert result.outcome is Outcome.FLAGGED
    assert result.mask is not None
    assert dice(result.mask, first) > 0.85
    assert not (result.mask & second).any()
    assert any("lesion" in reason and "2" in reason for reason in result.reasons)


def big_and_small() -> tuple[BoolArray, BoolArray]:
    """Lesions of about 48 and 10 ml that lie more than 20 mm apart."""
    return ellipsoid(GRID, (-25.0, -25.0, -20.0), (22.0, 20.0, 26.0)), ellipsoid(GRID, (35.0, -20.0, 28.0), (13.0, 13.0, 15.0))


def test_a_large_lesion_does_not_hide_that_a_small_one_was_replaced() -> None:
    big, small = big_and_small()
    followup = still(big, small)
    followup.array[small] -= 28  # still brighter than muscle, so the model finds it
    result = carry(body([big, small]), big | small, followup)
    (told,) = [reason for reason in result.reasons if "no longer looks like the prior's lesion" in reason]
    assert told.startswith("lesion 2 of 2: ")
    assert result.lost_tissue_share is not None
    assert result.lost_tissue_share > 0.5, "it is the worst lesion's"


def test_segments_are_carried_one_by_one_in_their_order_with_their_looks() -> None:
    first, second = (ellipsoid(GRID, centre, (11.0, 11.0, 13.0)) for centre in FAR_APART)
    segments = [Segment("b", second, color=(0.1, 0.2, 0.3), tags={"k": "v"}), Segment("a", first)]
    result = propagate(BrightnessModel(), body([first, second]), segments, still(first, second), STILL)
    assert [each.source for each in result.segments] == segments
    for each, truth in zip(result.segments, (second, first), strict=True):
        assert each.mask is not None
        assert dice(each.mask, truth) > 0.85
        assert each.prior_volume_ml == pytest.approx(truth.sum() * GRID.voxel_ml)


def test_overlapping_segments_do_not_disturb_each_other() -> None:
    lesion, core = ellipsoid(GRID), ellipsoid(GRID, radii=(9.0, 9.0, 10.0))
    prior = body([lesion])
    alone = propagate(BrightnessModel(), prior, [Segment("GTV", lesion)], still(lesion), STILL).segments[0]
    both = propagate(BrightnessModel(), prior, [Segment("core", core), Segment("GTV", lesion)], still(lesion), STILL)
    np.testing.assert_array_equal(both.segments[1].mask, alone.mask)


def test_a_cavity_stays_a_cavity_and_is_reported() -> None:
    whole, hole = ellipsoid(GRID, radii=(19.0, 19.0, 19.0)), ellipsoid(GRID, radii=(8.0, 8.0, 9.0))
    prior = body([whole & ~hole])
    # The follow-up's hole has filled with tissue as bright as the lesion, so only the prior says that there is one.
    result = carry(prior, whole & ~hole, still(whole))
    check_result(result, GRID)
    assert result.mask is not None
    assert result.mask[hole].mean() < 0.1
    assert dice(result.mask, whole & ~hole) > 0.85
    assert any("cavity" in text and " ml" in text for text in result.removals)


def test_a_hole_that_the_prior_did_not_have_is_filled_and_reported() -> None:
    whole, hole = ellipsoid(GRID, radii=(19.0, 19.0, 19.0)), ellipsoid(GRID, (24.0, -14.0, 3.0), (5.0, 5.0, 8.0))
    followup = still(whole & ~hole)
    result = carry(body([whole]), whole, followup)
    assert result.mask is not None
    assert ndimage.binary_fill_holes(result.mask).sum() == result.mask.sum()
    assert any("holes filled" in text and " ml" in text for text in result.removals)
    assert result.mask[hole].mean() > 0.9


# ------------------------------------------------------------------------------------------------- small, cut, far away
def test_a_lesion_of_two_voxels_is_too_small_and_keeps_its_registered_contour() -> None:
    lesion = np.zeros(GRID.shape, dtype=np.bool_)
    lesion[13:17, 30:32, 50:51] = True
    result = carry(body([lesion]), lesion, still(lesion))
    check_result(result, GRID)
    assert result.outcome is Outcome.TOO_SMALL
    assert result.registered_mask.any()


def test_a_single_voxel_between_the_followups_voxels_is_too_small() -> None:
    lesion = np.zeros(GRID.shape, dtype=np.bool_)
    lesion[14, 30, 50] = True
    followup = followup_of("stable")[0]
    result = carry(body([lesion]), lesion, followup)
    check_result(result, followup.grid)
    assert result.outcome is Outcome.TOO_SMALL


def test_a_lesion_thinner_than_the_followups_slices_keeps_a_registered_contour_where_it_lies() -> None:
    prior, _ = prior_visit()
    lesion = np.zeros(GRID.shape, dtype=np.bool_)
    lesion[14, 30:42, 50:62] = True  # 4 mm thick, half way between slices of 12 mm
    grid = replace(GRID, shape=(10, 80, 90), spacing=(2.0, 2.0, 12.0), origin=(-89.0, -79.0, -58.0 + 4.0 * 14 - 54.0))
    followup = body([], grid)
    result = carry(prior, lesion, followup)
    check_result(result, grid)
    assert result.outcome is Outcome.TOO_SMALL
    assert any("thinner" in reason and "touches" in reason for reason in result.reasons)
    assert not any("view" in reason for reason in result.reasons), "it lies well within the field of view"
    assert result.registered_mask.any(axis=(1, 2)).tolist() == [z in (4, 5) for z in range(10)]
    assert result.registered_mask.any(axis=0).sum() == pytest.approx(12 * 12, abs=50)


def test_a_lesion_outside_the_followups_field_of_view_is_not_found() -> None:
    prior, segment = prior_visit()
    upper = replace(GRID, shape=(7, 80, 90), origin=(-89.0, -79.0, -58.0 + 23 * 4.0))
    result = carry(prior, segment.mask, replace(prior, array=prior.array[23:], grid=upper))
    check_result(result, upper)
    assert result.outcome is Outcome.NO_LESION
    assert not result.registered_mask.any()
    assert any("field of view" in reason for reason in result.reasons)


def test_a_lesion_just_outside_the_field_of_view_is_not_called_too_small() -> None:
    prior, segment = prior_visit()
    above = int(np.flatnonzero(segment.mask.any(axis=(1, 2)))[-1]) + 1
    bottom = -58.0 + 4.0 * above - 1.0  # one millimetre nearer than the first slice without lesion
    grid = replace(GRID, shape=(8, 80, 90), origin=(-89.0, -79.0, bottom))
    result = carry(prior, segment.mask, body([], grid))
    check_result(result, grid)
    assert not result.registered_mask.any()
    assert result.outcome is Outcome.NO_LESION
    assert any("field of view" in reason for reason in result.reasons)


@pytest.mark.parametrize("kept", [slice(0, 16), slice(14, 30)])
def test_a_lesion_cut_by_the_field_of_view_is_flagged_with_its_share(kept: slice) -> None:
    prior, segment = prior_visit()
    grid = replace(GRID, shape=(16, 80, 90), origin=(-89.0, -79.0, -58.0 + 4.0 * kept.start))
    result = carry(prior, segment.mask, replace(prior, array=prior.array[kept], grid=grid))
    check_result(result, grid)
    assert result.outcome is Outcome.FLAGGED
    assert any("edge" in reason for reason in result.reasons)
    share = 100 * (1.0 - segment.mask[kept].sum() / segment.mask.sum())
    said = [float(word) for reason in result.reasons if "outside" in reason for word in reason.split() if word.isdigit()]
    assert said[-1] == pytest.approx(share, abs=4)


@pytest.mark.parametrize("slices", [1, 3, 5])
def test_a_followup_of_very_few_slices_does_not_crash_the_registration(slices: int) -> None:
    prior, segment = prior_visit()
    first = 15 - slices // 2
    grid = replace(GRID, shape=(slices, 80, 90), origin=(-89.0, -79.0, -58.0 + 4.0 * first))
    followup = replace(prior, array=prior.array[first : first + slices], grid=grid)
    result = carry(prior, segment.mask, followup, PropagationOptions())
    check_result(result, grid)
    assert result.outcome is not Outcome.FOUND


# ------------------------------------------------------------------------------------------------------------ the record
def usual(options: PropagationOptions = STILL, **fields: Any) -> VisitResult:
    """The usual visit with the follow-up's fields changed."""
    prior, segment = prior_visit()
    followup = replace(still(ellipsoid(GRID)), **fields)
    return propagate(BrightnessModel(), prior, [segment], followup, options)


def test_all_candidates_are_kept_and_the_registered_contour_is_the_first() -> None:
    result = usual().segments[0]
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
    result = usual().segments[0]
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
        once, again = propagate(model, prior, [segment], followup, options), carry_segments(model, visits, options)
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
    assert any("points are always combined with a box" in note for note in usual().notes)


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
    first, second = (usual().segments[0] for _ in range(2))
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
    propagate(BrightnessModel(), prior, [named], still(segment.mask), PropagationOptions(registration="rigid"), events.append)
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


# ------------------------------------------------------------------------------------------------------ transform files
def moved_lesion(shift: tuple[float, float, float]) -> tuple[Volume, BoolArray]:
    """The body and its lesion, both shifted in the patient's frame by moving the grid the other way and back."""
    prior, segment = prior_visit()
    origin = np.asarray(GRID.origin) + np.asarray(shift)
    return replace(prior, grid=replace(GRID, origin=(origin[0], origin[1], origin[2])), name="followup"), segment.mask


@pytest.mark.parametrize("turned", [False, True])
def test_a_transform_file_is_obeyed_in_lps_from_followup_to_prior(tmp_path: Path, turned: bool) -> None:
    import SimpleITK as sitk

    shift = (23.0, -11.0, 40.0)
    followup, lesion = moved_lesion(shift)
    prior, segment = prior_visit()
    matrix = np.eye(3)
    if turned:  # the follow-up lies in a frame of its own; the file is still in LPS
        matrix = Rotation.from_euler("zyx", [20, 5, -8], degrees=True).as_matrix()
        origin = matrix @ np.asarray(followup.grid.origin)
        turned_grid = replace(followup.grid, origin=(origin[0], origin[1], origin[2]), direction=tuple(matrix.ravel().tolist()))
        followup = replace(followup, grid=turned_grid)
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(matrix.T.ravel().tolist())
    transform.SetTranslation([-value for value in shift])
    path = tmp_path / "to_prior.tfm"
    sitk.WriteTransform(transform, str(path))
    options = PropagationOptions(registration="file", transform_file=path)
    result = propagate(BrightnessModel(), prior, [segment], followup, options)
    found = result.segments[0]
    assert dice(found.registered_mask, lesion) > 0.98
    assert found.mask is not None
    assert dice(found.mask, lesion) > 0.9
    assert result.registration["kind"] == "file"
    assert result.provenance["options"]["transform_file"] == "to_prior.tfm"


def test_an_identity_transform_file_is_the_same_as_no_registration(tmp_path: Path) -> None:
    import SimpleITK as sitk

    path = tmp_path / "identity.tfm"
    sitk.WriteTransform(sitk.Euler3DTransform(), str(path))
    by_file = usual(PropagationOptions(registration="file", transform_file=path)).segments[0]
    by_none = usual().segments[0]
    np.testing.assert_array_equal(by_file.registered_mask, by_none.registered_mask)
    np.testing.assert_array_equal(by_file.mask, by_none.mask)


def test_the_phantoms_lesion_is_brighter_than_its_muscle_and_still_within_the_window() -> None:
    prior, segment = prior_visit()
    around = ndimage.binary_dilation(segment.mask, iterations=2) & ~ndimage.binary_dilation(segment.mask)
    assert float(np.median(prior.array[segment.mask])) == pytest.approx(LESION, abs=5)
    assert float(np.median(prior.array[around])) == pytest.approx(MUSCLE, abs=25)


def test_a_lesion_of_one_slice_that_falls_between_the_followups_slices_in_part_is_flagged() -> None:
    lesion = np.zeros(GRID.shape, dtype=np.bool_)
    lesion[14, 30:42, 50:62] = True
    aside = replace(GRID, origin=(-89.0, -79.0, -58.0 + 1.6))
    result = carry(body([lesion]), lesion, replace(body([lesion], aside), name="followup"))
    assert result.registered_mask.any(axis=(1, 2)).sum() == 1
    assert any("% of it falls between the follow-up's voxels" in reason for reason in result.reasons)
