"""One visit to the next, with a model that answers from brightness: what is carried, what is said of it, what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from carried_visit import FAR_APART, STILL, check_result, still, usual, usual_once
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.options import PropagationOptions
from P2SAMSlicerLib.propagation import propagate
from P2SAMSlicerLib.result import Outcome, SegmentResult
from P2SAMSlicerLib.volume import BoolArray, Segment, Volume
from scipy import ndimage
from scipy.spatial.transform import Rotation
from small_body import GRID, LESION, MUSCLE, body, dice, ellipsoid, followup_of, prior_visit
from stub_model import BrightnessModel


def carry(
    prior: Volume,
    masks: BoolArray | Sequence[BoolArray],
    followup: Volume,
    options: PropagationOptions = STILL,
) -> SegmentResult:
    """The result of the first segment."""
    segments = [Segment(f"GTV {n}", mask) for n, mask in enumerate([masks] if isinstance(masks, np.ndarray) else masks)]
    return propagate(BrightnessModel(), prior, segments, followup, options).segments[0]


# -------------------------------------------------------------------------------------------------- the tumour changes
# The usual number of parts once; three parts less take half of the time.
@pytest.mark.parametrize(
    ("change", "least", "parts"),
    [("shrink", 0.88, None), ("grow", 0.88, 2), pytest.param("stable", 0.88, 2, marks=pytest.mark.long)],
)
def test_a_lesion_that_changed_is_followed_better_than_by_its_registered_contour(
    change: Any, least: float, parts: int | None
) -> None:
    prior, segment = prior_visit()
    followup, truth = followup_of(change)
    result = carry(prior, segment.mask, followup, PropagationOptions(registration="rigid", max_parts=parts))
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
    result = carry(prior, segment.mask, followup, PropagationOptions(registration="rigid", max_parts=2))
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
    by_none = usual_once().segments[0]
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
