"""One contour out of several references' contours, and what is said of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from P2SAMSlicerLib.patient.several_references import BAND_MM, CarriedReference, combine_references, mean_contour
from P2SAMSlicerLib.result import Outcome, SegmentResult
from P2SAMSlicerLib.volume import BoolArray
from small_visits import FOLLOWUP_GRID as GRID
from small_visits import ball, segment, segment_result, visit_result, without_contour

SOURCE = segment()


def found(mask: BoolArray | None = None, correlation: float | None = 0.9, **fields: Any) -> SegmentResult:
    """A segment that was found."""
    drawn = ball(GRID, 9.0) if mask is None else mask
    registration: dict[str, Any] = {"local_correlation": correlation, "reasons": []}
    return segment_result(SOURCE, GRID, **{"mask": drawn, "registered_mask": drawn, "registration": registration, **fields})


def nothing(outcome: Outcome = Outcome.NO_LESION, **fields: Any) -> SegmentResult:
    registration = {"local_correlation": 0.9, "reasons": []}
    return without_contour(SOURCE, outcome, "it is gone", **{"registration": registration, **fields})


def combined(*results: SegmentResult) -> tuple[SegmentResult, Any]:
    parts = [CarriedReference(f"visit_{number}", visit_result(each)) for number, each in enumerate(results, start=1)]
    visit, agreements = combine_references(parts)
    return visit.segments[0], agreements.get("GTV")


def test_one_reference_is_taken_as_it_is() -> None:
    result = visit_result(found())
    assert combine_references([CarriedReference("visit_1", result)]) == (result, {})


def test_the_mean_of_two_balls_is_the_ball_between_them() -> None:
    grid = replace(GRID, shape=(40, 40, 40), spacing=(1.0, 1.0, 1.0), origin=(-20.0, -20.0, -20.0))
    small, large, between = (ball(grid, radius) for radius in (8.0, 14.0, 11.0))
    mean = mean_contour([(small, 0.5), (large, 0.5)], grid)
    assert (mean ^ between).sum() < 0.06 * between.sum()
    heavier = mean_contour([(small, 0.9), (large, 0.1)], grid)
    assert small.sum() <= heavier.sum() < mean.sum()


def test_distances_are_in_millimetres_and_not_in_voxels() -> None:
    grid = replace(GRID, shape=(20, 60, 60), spacing=(1.0, 1.0, 3.0), origin=(-30.0, -30.0, -28.5))
    mean = mean_contour([(ball(grid, 8.0), 0.5), (ball(grid, 14.0), 0.5)], grid)
    points = np.argwhere(mean)[:, ::-1]
    extent = (points.max(axis=0) - points.min(axis=0) + 1) * np.asarray(grid.spacing)
    assert extent == pytest.approx([22.0, 22.0, 22.0], abs=3.1)


def test_a_stray_contour_far_away_does_not_take_the_others_along() -> None:
    grid = replace(GRID, shape=(60, 60, 60), spacing=(2.0, 2.0, 2.0), origin=(-59.0, -59.0, -59.0))
    here, far = ball(grid, 12.0), ball(grid, 12.0, (40.0, 0.0, 0.0))
    assert BAND_MM < 40.0 - 12.0
    mean = mean_contour([(here, 0.4), (here, 0.4), (far, 0.2)], grid)
    assert mean.any()
    assert not (mean & far).any()


def test_references_that_agree_give_a_found_contour_and_their_agreement() -> None:
    segment_, agreement = combined(found(), found())
    assert segment_.outcome is Outcome.FOUND
    assert segment_.reasons == ()
    assert segment_.mask is not None
    assert np.array_equal(segment_.mask, ball(GRID, 9.0))
    assert segment_.volume_ml == pytest.approx(ball(GRID, 9.0).sum() * GRID.voxel_ml)
    assert (agreement.mean_dice, agreement.mean_hd95_mm, agreement.contours) == (1.0, 0.0, 2)
    assert agreement.references == ("visit_1", "visit_2")
    assert agreement.weights == (0.5, 0.5)


def test_references_that_disagree_flag_the_contour() -> None:
    segment_, agreement = combined(found(ball(GRID, 5.0)), found(ball(GRID, 20.0)))
    assert segment_.outcome is Outcome.FLAGGED
    assert "its contours from 2 references agree little (mean Dice 0." in segment_.reasons[-1]
    assert agreement.mean_dice < 0.7
    assert segment_.review_priority >= 0.5


def test_volume_and_change_are_told_against_the_oldest_reference() -> None:
    segment_, _ = combined(found(prior_volume_ml=10.0), found(prior_volume_ml=2.0))
    assert segment_.prior_volume_ml == 10.0
    assert segment_.volume_ml is not None
    assert segment_.volume_change_percent == pytest.approx(100.0 * (segment_.volume_ml / 10.0 - 1.0))


def test_one_flagged_reference_flags_the_contour_and_is_named() -> None:
    other = replace(found(), outcome=Outcome.FLAGGED, reasons=("volume changes by +80 %",))
    segment_, agreement = combined(found(), other)
    assert segment_.outcome is Outcome.FLAGGED
    assert segment_.reasons == ("from visit_2: volume changes by +80 %",)
    assert agreement.outcomes == ("found", "flagged")


def test_a_reason_of_all_references_is_told_once() -> None:
    other = replace(found(), outcome=Outcome.FLAGGED, reasons=("CBCT", "own"))
    segment_, _ = combined(other, replace(other, reasons=("CBCT",)))
    assert segment_.reasons == ("CBCT", "from visit_1: own")


def test_most_references_have_to_give_a_contour() -> None:
    most, _ = combined(found(), found(), nothing())
    assert most.outcome is Outcome.FLAGGED
    assert most.mask is not None
    assert most.reasons == ("from visit_3: it is gone", "1 of 3 references give no contour")
    half, agreement = combined(found(), nothing())
    assert half.outcome is Outcome.NO_LESION
    assert half.mask is None
    assert half.volume_ml is None
    assert half.registered_mask.any()
    assert half.reasons[-1] == "only 1 of 2 references give a contour"
    assert agreement.mean_dice is None


@pytest.mark.parametrize(
    ("outcomes", "worst"),
    [
        ((Outcome.TOO_SMALL, Outcome.NO_LESION), Outcome.NO_LESION),
        ((Outcome.TOO_SMALL, Outcome.TOO_SMALL), Outcome.TOO_SMALL),
        ((Outcome.REGISTRATION_ONLY, Outcome.TOO_SMALL), Outcome.TOO_SMALL),
        ((Outcome.REGISTRATION_ONLY, Outcome.REGISTRATION_ONLY), Outcome.REGISTRATION_ONLY),
    ],
)
def test_without_a_contour_the_worst_outcome_counts(outcomes: tuple[Outcome, ...], worst: Outcome) -> None:
    assert combined(*(nothing(each) for each in outcomes))[0].outcome is worst


def test_organs_of_two_references_are_combined_and_compared_by_their_registered_contours() -> None:
    organs = [
        replace(nothing(Outcome.REGISTRATION_ONLY, registered_mask=ball(GRID, radius)), reasons=()) for radius in (8.0, 12.0)
    ]
    segment_, agreement = combined(*organs)
    assert segment_.outcome is Outcome.REGISTRATION_ONLY
    assert ball(GRID, 8.0).sum() < segment_.registered_mask.sum() < ball(GRID, 12.0).sum()
    assert agreement.mean_dice is not None
    assert agreement.contours == 0


def test_contours_that_lie_apart_are_no_contour() -> None:
    apart = [found(ball(GRID, 4.0, (x, 0.0, 0.0)), registered_mask=ball(GRID, 9.0)) for x in (-22.0, 22.0)]
    segment_, agreement = combined(*apart)
    assert segment_.outcome is Outcome.NO_LESION
    assert segment_.mask is None
    assert "the references' contours lie apart, so they have no contour in common" in segment_.reasons
    assert agreement.mean_dice == 0.0


def test_a_reference_out_of_view_adds_nothing_and_does_not_fail() -> None:
    empty = np.zeros(GRID.shape, dtype=np.bool_)
    segment_, _ = combined(found(), nothing(registered_mask=empty), nothing(registered_mask=empty))
    assert segment_.outcome is Outcome.NO_LESION
    assert (segment_.registered_mask == ball(GRID, 9.0)).all()
    both, _ = combined(nothing(registered_mask=empty), nothing(registered_mask=empty))
    assert not both.registered_mask.any()


@pytest.mark.parametrize("correlation", [None, float("nan"), -0.4])
def test_a_reference_whose_registration_fits_nothing_hardly_counts(correlation: float | None) -> None:
    _, agreement = combined(found(), found(correlation=correlation))
    assert agreement.weights == (pytest.approx(0.9474, abs=1e-3), pytest.approx(0.0526, abs=1e-3))


def test_the_worst_registration_and_every_reason_are_told() -> None:
    first = found(registration={"local_correlation": 0.9, "shift_mm": 1.0, "reasons": ["a"]})
    second = found(registration={"local_correlation": 0.4, "shift_mm": 7.0, "reasons": ["b"]})
    segment_, _ = combined(first, second)
    assert segment_.registration == {"local_correlation": 0.4, "shift_mm": 7.0, "reasons": ["a", "b"]}


def test_of_a_slice_that_several_references_show_the_most_doubtful_is_told() -> None:
    first, second = found(), found()
    calm, doubtful = (replace(each, review_priority=p) for each, p in zip(first.slices, (0.1, 0.2), strict=True))
    second = replace(second, slices=(replace(calm, review_priority=0.8), replace(doubtful, index=9)))
    segment_, _ = combined(replace(first, slices=(calm, doubtful)), second)
    assert [(each.index, each.review_priority) for each in segment_.slices] == [(4, 0.8), (5, 0.2), (9, 0.2)]


def test_structures_of_one_reference_only_are_kept_beside_the_combined_ones() -> None:
    other = segment_result(segment("GTV2"), GRID)
    parts = [
        CarriedReference("visit_1", visit_result(found(), other, warnings=("w",), notes=("n",))),
        CarriedReference("visit_2", visit_result(found(), warnings=("w", "v"), overrides=("o",))),
    ]
    result, agreements = combine_references(parts)
    assert [each.source.name for each in result.segments] == ["GTV", "GTV2"]
    assert result.segments[1] is other
    assert list(agreements) == ["GTV"]
    assert (result.warnings, result.overrides) == (("w", "v"), ("o",))
    assert result.notes[0] == "n"
    assert "mean of their signed distances" in result.notes[1]
    assert result.stage_seconds == {"registration": 3.0, "model": 1.0}
    assert set(result.registration["references"]) == {"visit_1", "visit_2"}
