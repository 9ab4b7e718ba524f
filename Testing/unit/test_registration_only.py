"""Margins and organs: no model is asked for them, and their contour is the registered one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from carried_visit import STILL, still
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.options import PropagationOptions
from P2SAMSlicerLib.outcome import registration_only
from P2SAMSlicerLib.propagation import propagate
from P2SAMSlicerLib.result import Outcome, VisitResult
from P2SAMSlicerLib.result_files import followup_segments, write_results
from P2SAMSlicerLib.segmentation_file import read_segmentation
from P2SAMSlicerLib.volume import BoolArray, Segment
from small_body import GRID, ellipsoid, prior_visit
from stub_model import BrightnessModel


class UnaskedModel(BrightnessModel):
    """A model that must not be asked."""

    def encode(self, images: Any) -> Any:
        raise AssertionError(f"the model was asked about {len(images)} images")


def carried(name: str, options: PropagationOptions = STILL, model: Any = None, mask: BoolArray | None = None) -> VisitResult:
    """The phantom's lesion under this name, carried to a visit that stands still and on which it shrank."""
    prior, segment = prior_visit()
    segments = [Segment(name, segment.mask if mask is None else mask)]
    followup = still(ellipsoid(GRID, radii=(9.0, 9.0, 9.0)))
    return propagate(model or UnaskedModel(), prior, segments, followup, options)


@pytest.mark.parametrize("name", ["PTV", "CTVp", "Heart", "Lung_L"])
def test_a_margin_or_an_organ_is_carried_without_asking_the_model(name: str) -> None:
    result = carried(name).segments[0]
    _, segment = prior_visit()
    assert result.outcome is Outcome.REGISTRATION_ONLY
    assert result.mask is None
    assert result.reasons == ()
    assert result.slices == ()
    assert result.review_priority == 0.5  # nothing is known of its slices, and it must not hide the tumours
    np.testing.assert_array_equal(result.registered_mask, segment.mask)


def test_the_user_may_say_otherwise_in_both_directions() -> None:
    named = replace(STILL, registration_only=("GTV",))
    assert carried("GTV", named).segments[0].outcome is Outcome.REGISTRATION_ONLY
    asked = carried("Heart", replace(STILL, with_model=("Heart",)), BrightnessModel()).segments[0]
    assert asked.outcome in (Outcome.FOUND, Outcome.FLAGGED)
    with pytest.raises(InputError, match="segment 'GTV': either with the model or by registration only"):
        replace(named, with_model=("GTV",)).check()


def test_a_tumour_beside_an_organ_is_still_segmented() -> None:
    prior, segment = prior_visit()
    segments = [Segment("Heart", ellipsoid(GRID, radii=(20.0, 20.0, 20.0))), Segment("GTV", segment.mask)]
    visit = propagate(BrightnessModel(), prior, segments, still(segment.mask), STILL)
    assert [each.outcome for each in visit.segments] == [Outcome.REGISTRATION_ONLY, Outcome.FOUND]


def test_the_file_labels_the_contour_as_registered_and_it_waits_for_review(tmp_path: Path) -> None:
    visit = carried("PTV")
    (segment,) = followup_segments(visit)
    assert segment.name == "PTV registered prior"
    assert "(registration)" in segment.tags["DICOM.SegmentAlgorithmName"]
    assert segment.tags["Segmentation.Status"] == "inprogress"
    files = write_results(tmp_path, [visit])
    assert read_segmentation(files[0]).names() == ["PTV registered prior"]
    assert '"outcome": "registration only"' in (tmp_path / "summary.json").read_text()


def test_an_organ_that_lies_partly_outside_is_flagged_with_its_share() -> None:
    prior, segment = prior_visit()
    followup = still(segment.mask)
    middle = int(np.median(np.flatnonzero(segment.mask.any(axis=(1, 2)))))
    cut = replace(followup, array=followup.array[:middle], grid=replace(GRID, shape=(middle, *GRID.shape[1:])))
    visit = propagate(UnaskedModel(), prior, [Segment("Heart", segment.mask)], cut, STILL)
    assert any("of it lies outside the follow-up's field of view" in reason for reason in visit.segments[0].reasons)
    assert followup_segments(visit)[0].tags["Segmentation.Status"] == "flagged"
    assert visit.segments[0].review_priority == 1.0


@pytest.mark.parametrize("option", ["registration_only", "with_model"])
def test_a_name_that_no_structure_has_is_refused_and_not_overlooked(option: str) -> None:
    options: Any = {option: ("Haert",)}
    with pytest.raises(InputError, match="no segment named 'Haert' is carried; there are: Heart"):
        carried("Heart", replace(STILL, **options))


def test_what_speaks_against_the_registration_speaks_against_the_contour() -> None:
    outcome, reasons = registration_only([], ("the registration is doubtful",))
    assert outcome is Outcome.REGISTRATION_ONLY
    assert reasons == ("the registration is doubtful",)


def test_an_organ_of_one_voxel_between_the_followups_voxels_keeps_a_contour() -> None:
    speck = np.zeros(GRID.shape, dtype=np.bool_)
    speck[15, 40, 45] = True
    assert carried("Cochlea_L", mask=speck).segments[0].registered_mask.any()
