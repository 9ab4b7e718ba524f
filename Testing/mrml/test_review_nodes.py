"""What a reviewer says of a contour is kept with it, and holds only for the contour that was reviewed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.mrml.result_nodes import show_result
from P2SAMSlicerLib.mrml.review_nodes import (
    Decision,
    contour_volume_ml,
    contours_to_review,
    decide,
    mark_seen,
    remember_drawn,
    review_state,
    seen,
    touched_segments,
    unseen,
)
from P2SAMSlicerLib.mrml.segment_nodes import segment_ids, tag_of
from P2SAMSlicerLib.mrml.volume_nodes import volume_from_node
from P2SAMSlicerLib.result import Outcome, SliceResult
from P2SAMSlicerLib.volume import Segment
from scene_content import add_segmentation, add_volume, blob, oblique
from small_visits import segment_result, visit_result, without_contour

pytestmark = pytest.mark.usefixtures("scene")


def slices(*priorities: float) -> tuple[SliceResult, ...]:
    """Contoured slices 0, 1, ... of these priorities."""
    return tuple(SliceResult(number, 0.0, (), 0, priority) for number, priority in enumerate(priorities))


def result_node(*, registration_only: bool = False) -> Any:
    """A result as a run leaves it, with one contour to review."""
    volume = add_volume(oblique(1), name="second visit")
    grid = volume_from_node(volume).grid
    prior = add_segmentation(volume, {"GTV": blob()})
    segment = Segment("GTV", blob())
    if registration_only:
        result = without_contour(segment, Outcome.REGISTRATION_ONLY, "organ", registered_mask=blob())
    else:
        result = segment_result(segment, mask=np.roll(blob(), 1, axis=2), registered_mask=blob(), slices=())
    return show_result(replace(visit_result(result), grid=grid), volume, prior, {"GTV": segment_ids(prior)[0]})


def redraw(node: Any, identifier: str, mask: Any) -> None:
    """What a person does in the Segment Editor."""
    import slicer.util

    volume = node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole())
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask.astype(np.uint8), node, identifier, volume)


def status(node: Any, identifier: str) -> int:
    import slicer

    return int(slicer.vtkSlicerSegmentationsModuleLogic.GetSegmentStatus(node.GetSegmentation().GetSegment(identifier)))


def test_a_contour_cannot_be_accepted_before_its_doubtful_slices_were_seen() -> None:
    node = result_node()
    (contour,) = contours_to_review(node)
    judged = slices(0.1, 0.6, 0.9, 0.2)
    assert unseen(node, contour, judged) == [2, 1]
    mark_seen(node, contour, 2)
    with pytest.raises(InputError, match=r"GTV: 1 doubtful slice"):
        decide(node, contour, Decision.ACCEPTED, "A. B.", judged)
    assert review_state(node, contour).decision is None
    mark_seen(node, contour, 1)
    assert decide(node, contour, Decision.ACCEPTED, "A. B.", judged).decision is Decision.ACCEPTED


def test_an_accepted_contour_has_the_applications_status_completed_and_names_reviewer_and_time() -> None:
    import slicer

    node = result_node()
    (contour,) = contours_to_review(node)
    mark_seen(node, contour, 0)
    state = decide(node, contour, Decision.ACCEPTED, "  A. B. ", slices(0.1))
    assert status(node, contour) == slicer.vtkSlicerSegmentationsModuleLogic.Completed
    assert state.reviewer == "A. B."
    assert state.time.startswith("20")
    assert state.time.endswith("+00:00")
    assert state.in_words() == "accepted"


@pytest.mark.parametrize("decision", [Decision.REJECTED, Decision.FLAGGED])
def test_rejecting_and_flagging_need_no_look_at_every_slice_and_show_as_flagged(decision: Decision) -> None:
    import slicer

    node = result_node()
    (contour,) = contours_to_review(node)
    assert decide(node, contour, decision, "A. B.", slices(0.9, 0.9)).decision is decision
    assert status(node, contour) == slicer.vtkSlicerSegmentationsModuleLogic.Flagged


@pytest.mark.parametrize("reviewer", ["", "   "])
def test_a_decision_without_a_reviewer_is_refused(reviewer: str) -> None:
    node = result_node()
    (contour,) = contours_to_review(node)
    with pytest.raises(InputError, match="who reviews"):
        decide(node, contour, Decision.FLAGGED, reviewer, ())


def test_an_acceptance_ends_when_the_contour_is_changed() -> None:
    import slicer

    node = result_node()
    (contour,) = contours_to_review(node)
    mark_seen(node, contour, 0)
    decide(node, contour, Decision.ACCEPTED, "A. B.", slices(0.1))
    redraw(node, contour, blob())
    state = review_state(node, contour)
    assert state.decision is None
    assert state.changed_since
    assert state.in_words() == "changed since the decision, edited"
    assert status(node, contour) == slicer.vtkSlicerSegmentationsModuleLogic.InProgress


def test_an_edited_contour_is_told_from_a_drawn_one_and_its_volumes_are_known() -> None:
    node = result_node()
    (contour,) = contours_to_review(node)
    before = contour_volume_ml(node, contour)
    assert touched_segments(node) == []
    edited = blob()
    edited[2:4] = False
    redraw(node, contour, edited)
    assert touched_segments(node) == ["GTV"]
    state = review_state(node, contour)
    assert state.edited
    assert state.drawn_ml == pytest.approx(before, abs=1e-4)
    assert contour_volume_ml(node, contour) < before
    remember_drawn(node, contour)
    assert touched_segments(node) == []


def test_an_emptied_contour_cannot_be_accepted() -> None:
    node = result_node()
    (contour,) = contours_to_review(node)
    redraw(node, contour, np.zeros_like(blob()))
    mark_seen(node, contour, 0)
    with pytest.raises(InputError, match="empty"):
        decide(node, contour, Decision.ACCEPTED, "A. B.", slices(0.1))


def test_an_organ_that_no_model_judged_is_accepted_after_its_ends_and_middle_were_seen() -> None:
    node = result_node(registration_only=True)
    (organ,) = contours_to_review(node)
    wanted = unseen(node, organ, ())
    assert len(wanted) == 3
    for index in wanted:
        with pytest.raises(InputError, match="have not been looked at"):
            decide(node, organ, Decision.ACCEPTED, "A. B.", ())
        mark_seen(node, organ, index)
    assert decide(node, organ, Decision.ACCEPTED, "A. B.", ()).decision is Decision.ACCEPTED


def test_the_registered_contour_for_comparison_is_not_up_for_review() -> None:
    node = result_node()
    assert len(segment_ids(node)) == 2
    assert len(contours_to_review(node)) == 1


def test_a_saved_segmentation_keeps_the_review(tmp_path: Path) -> None:
    import slicer

    node = result_node()
    (contour,) = contours_to_review(node)
    mark_seen(node, contour, 3)
    decide(node, contour, Decision.FLAGGED, "Ärztin Ö.", ())
    volume = node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole())
    storage = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationStorageNode")
    storage.SetFileName(str(tmp_path / "review.seg.nrrd"))
    assert storage.WriteData(node) == 1
    again = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    assert storage.ReadData(again) == 1
    again.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    (kept,) = contours_to_review(again)
    state = review_state(again, kept)
    assert (state.decision, state.reviewer, state.edited) == (Decision.FLAGGED, "Ärztin Ö.", False)
    assert seen(again, kept) == {3}


def test_damaged_tags_are_no_decision() -> None:
    node = result_node()
    (contour,) = contours_to_review(node)
    segment = node.GetSegmentation().GetSegment(contour)
    segment.SetTag("P2SAM.Decision", "yes")
    segment.SetTag("P2SAM.SeenSlices", "1 x 2")
    segment.SetTag("P2SAM.DrawnVolumeMl", "much")
    state = review_state(node, contour)
    assert (state.decision, state.drawn_ml) == (None, None)
    assert seen(node, contour) == {1, 2}
    assert tag_of(segment, "P2SAM.Decision") == "yes"


def test_without_its_followup_a_contour_is_not_judged() -> None:
    import slicer

    node = result_node()
    (contour,) = contours_to_review(node)
    slicer.mrmlScene.RemoveNode(node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole()))
    with pytest.raises(InputError, match="no longer in the scene"):
        review_state(node, contour)
