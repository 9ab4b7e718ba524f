"""What was carried becomes a segmentation on the follow-up, ready for review."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.mrml.result_nodes import show_result
from P2SAMSlicerLib.mrml.review_nodes import contours_to_review
from P2SAMSlicerLib.mrml.segment_masks import write_mask
from P2SAMSlicerLib.mrml.segment_nodes import segment_ids, segments_from_node, tag_of
from P2SAMSlicerLib.mrml.volume_nodes import volume_from_node
from P2SAMSlicerLib.result import Outcome, VisitResult
from P2SAMSlicerLib.volume import Segment
from scene_content import SHAPE, add_bent_transform, add_segmentation, add_transform, add_volume, axis_orders, blob, oblique
from small_visits import segment_result, visit_result, without_contour

TERMINOLOGY = (
    "Segmentation category and type - 3D Slicer General Anatomy list~SCT^49755003^Morphologically Altered Structure"
    "~SCT^4147007^Mass~^^~Anatomic codes - DICOM master list~^^~^^"
)

pytestmark = pytest.mark.usefixtures("scene")


def carried(volume: Any, *, gone: bool = False) -> tuple[VisitResult, Any, dict[str, str]]:
    """A result on a volume's voxels, the prior's segmentation, and its ids by name."""
    grid = volume_from_node(volume).grid
    prior = add_segmentation(volume, {"GTV": blob()})
    source = prior.GetSegmentation().GetNthSegment(0)
    source.SetColor(0.25, 0.5, 0.75)
    source.SetTag("TerminologyEntry", TERMINOLOGY)
    source.SetTag("Clinic.Id", "7")
    segment = Segment("GTV", blob(), (0.25, 0.5, 0.75))
    shifted = np.roll(blob(), 1, axis=2)
    if gone:
        result = without_contour(segment, Outcome.NO_LESION, "nothing there", registered_mask=blob())
    else:
        result = segment_result(segment, mask=shifted, registered_mask=blob(), slices=())
    visit = replace(visit_result(result), grid=grid)
    return visit, prior, {"GTV": segment_ids(prior)[0]}


def masks_of(node: Any, volume: Any) -> list[Any]:
    """All masks on the volume's voxels."""
    return [segment.mask for segment in segments_from_node(node, volume, volume_from_node(volume))[0]]


def test_in_all_48_axis_orders_the_contours_are_written_bit_by_bit(scene: Any) -> None:
    for matrix in axis_orders():
        volume = add_volume(matrix, name="second visit")
        node = show_result(carried(volume)[0], volume, *carried(volume)[1:])
        contour, registered = masks_of(node, volume)
        np.testing.assert_array_equal(contour, np.roll(blob(), 1, axis=2))
        np.testing.assert_array_equal(registered, blob())
        scene.Clear(False)


@pytest.mark.parametrize("seed", range(4))
def test_under_a_turned_parent_the_contours_stay_with_the_followup(seed: int) -> None:
    volume = add_volume(oblique(seed), add_transform(oblique(seed + 40, (1.0, 1.0, 1.0))))
    visit, prior, ids = carried(volume)
    node = show_result(visit, volume, prior, ids)
    assert node.GetTransformNodeID() == volume.GetTransformNodeID()
    np.testing.assert_array_equal(masks_of(node, volume)[0], np.roll(blob(), 1, axis=2))
    volume.GetParentTransformNode().ApplyTransformMatrix(moved(30.0))
    np.testing.assert_array_equal(masks_of(node, volume)[0], np.roll(blob(), 1, axis=2))


def moved(mm: float) -> Any:
    """A shift to the right."""
    import vtk

    matrix = vtk.vtkMatrix4x4()
    matrix.SetElement(0, 3, mm)
    return matrix


def test_the_contour_keeps_the_priors_look_and_says_who_made_it() -> None:
    volume = add_volume(np.eye(4), name="second visit")
    visit, prior, ids = carried(volume)
    node = show_result(visit, volume, prior, ids)
    assert node.GetName() == "second visit propagated"
    contour, registered = (node.GetSegmentation().GetNthSegment(n) for n in (0, 1))
    assert contour.GetName() == "GTV"
    assert contour.GetColor() == pytest.approx((0.25, 0.5, 0.75))
    assert tag_of(contour, "TerminologyEntry") == TERMINOLOGY
    assert tag_of(contour, "Clinic.Id") == "7"
    assert tag_of(contour, "DICOM.SegmentAlgorithmType") == "AUTOMATIC"
    assert (tag_of(contour, "DICOM.SegmentAlgorithmName") or "").startswith("P2SAMSlicer ")
    logic = scene_logic()
    assert logic.GetSegmentStatus(contour) == logic.InProgress
    assert registered.GetName().startswith("GTV ")
    assert tag_of(registered, "TerminologyEntry") == TERMINOLOGY


def scene_logic() -> Any:
    """The class that knows the statuses."""
    import slicer

    return slicer.vtkSlicerSegmentationsModuleLogic


def test_the_registered_contour_is_hidden_unless_it_is_all_that_there_is() -> None:
    volume = add_volume(np.eye(4))
    for gone, shown in ((False, [True, False]), (True, [True])):
        visit, prior, ids = carried(volume, gone=gone)
        node = show_result(visit, volume, prior, ids)
        display = node.GetDisplayNode()
        assert [bool(display.GetSegmentVisibility(each)) for each in segment_ids(node)] == shown
    logic = scene_logic()
    assert logic.GetSegmentStatus(node.GetSegmentation().GetNthSegment(0)) == logic.Flagged


def test_an_organ_that_no_model_may_segment_says_that_it_was_carried_by_the_registration() -> None:
    volume = add_volume(np.eye(4))
    visit, prior, _ids = carried(volume)
    prior.GetSegmentation().GetNthSegment(0).SetName("SpinalCord")
    organ = Segment("SpinalCord", blob())
    result = replace(without_contour(organ, Outcome.REGISTRATION_ONLY, "", registered_mask=blob()), reasons=())
    node = show_result(replace(visit, segments=(result,)), volume, prior, {"SpinalCord": segment_ids(prior)[0]})
    (identifier,) = segment_ids(node)
    segment = node.GetSegmentation().GetSegment(identifier)
    assert segment.GetName() == "SpinalCord registered prior"
    assert (tag_of(segment, "DICOM.SegmentAlgorithmName") or "").endswith("(registration)")
    assert tag_of(segment, "P2SAM.ComparisonOnly") == "1"
    assert node.GetDisplayNode().GetSegmentVisibility(identifier)
    assert scene_logic().GetSegmentStatus(segment) == scene_logic().InProgress
    assert contours_to_review(node) == [identifier]


def test_the_result_lies_in_the_followups_study(scene: Any) -> None:
    import slicer

    volume = add_volume(np.eye(4))
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    study = hierarchy.CreateStudyItem(hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), "somebody"), "second visit")
    hierarchy.CreateItem(study, volume)
    visit, prior, ids = carried(volume)
    node = show_result(visit, volume, prior, ids)
    assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node)) == study


def test_a_saved_segmentation_keeps_masks_status_and_tags(tmp_path: Path) -> None:
    import slicer

    volume = add_volume(oblique(2))
    visit, prior, ids = carried(volume)
    node = show_result(visit, volume, prior, ids)
    storage = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationStorageNode")
    storage.SetFileName(str(tmp_path / "result.seg.nrrd"))
    assert storage.WriteData(node) == 1
    again = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    assert storage.ReadData(again) == 1
    np.testing.assert_array_equal(masks_of(again, volume)[0], np.roll(blob(), 1, axis=2))
    contour = again.GetSegmentation().GetNthSegment(0)
    assert tag_of(contour, "TerminologyEntry") == TERMINOLOGY
    assert scene_logic().GetSegmentStatus(contour) == scene_logic().InProgress
    assert tag_of(contour, "DICOM.SegmentAlgorithmType") == "AUTOMATIC"


@pytest.mark.parametrize("seed", range(4))
def test_under_a_turned_parent_a_saved_contour_is_the_one_that_was_shown(tmp_path: Path, seed: int) -> None:
    import slicer

    volume = add_volume(oblique(seed), add_transform(oblique(seed + 40, (1.0, 1.0, 1.0))))
    visit, prior, ids = carried(volume)
    node = show_result(visit, volume, prior, ids)
    storage = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationStorageNode")
    storage.SetFileName(str(tmp_path / "result.seg.nrrd"))
    assert storage.WriteData(node) == 1
    again = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    assert storage.ReadData(again) == 1
    again.SetAndObserveTransformNodeID(volume.GetTransformNodeID())
    contour, registered = masks_of(again, volume)
    np.testing.assert_array_equal(contour, np.roll(blob(), 1, axis=2))
    np.testing.assert_array_equal(registered, blob())


def test_a_contour_that_cannot_be_written_leaves_no_half_result(scene: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from P2SAMSlicerLib.mrml import result_nodes

    volume = add_volume(np.eye(4))
    visit, prior, ids = carried(volume)
    calls: list[Any] = []

    def fail(*args: Any) -> None:
        calls.append(args)
        if len(calls) == 2:  # the contour was written, its registered one is next
            raise MemoryError
        write_mask(*args)

    nodes = scene.GetNumberOfNodes()
    monkeypatch.setattr(result_nodes, "write_mask", fail)
    with pytest.raises(MemoryError):
        show_result(visit, volume, prior, ids)
    assert scene.GetNumberOfNodes() == nodes


def test_of_a_prior_that_was_itself_carried_and_reviewed_nothing_is_said_of_the_new_contour() -> None:
    volume = add_volume(np.eye(4))
    visit, prior, ids = carried(volume)
    source = prior.GetSegmentation().GetNthSegment(0)
    for name in ("Decision", "Reviewer", "ReviewTime", "SeenSlices", "DecidedContour", "DecisionTakenBack", "ComparisonOnly"):
        source.SetTag(f"P2SAM.{name}", "1")
    source.SetTag("P2SAM.Source", "of the visit before")
    node = show_result(visit, volume, prior, ids)
    contour, registered = (node.GetSegmentation().GetNthSegment(n) for n in (0, 1))
    for name in ("Decision", "Reviewer", "ReviewTime", "SeenSlices", "DecidedContour", "DecisionTakenBack", "ComparisonOnly"):
        assert tag_of(contour, f"P2SAM.{name}") is None
    assert tag_of(contour, "P2SAM.Source") == "GTV"
    assert tag_of(registered, "P2SAM.ComparisonOnly") == "1"
    assert tag_of(registered, "P2SAM.Decision") is None


def test_a_followup_that_is_bent_or_has_other_voxels_gets_no_contour() -> None:
    volume = add_volume(np.eye(4))
    visit, prior, ids = carried(volume)
    other = add_volume(np.eye(4), array=np.zeros((3, 4, 5), np.int16))
    with pytest.raises(ValueError, match="not on the follow-up's voxels"):
        show_result(visit, other, prior, ids)
    volume.SetAndObserveTransformNodeID(add_bent_transform().GetID())
    with pytest.raises(InputError, match="its parent transform is not linear"):
        show_result(visit, volume, prior, ids)


def test_a_mask_off_the_followups_voxels_is_a_fault_and_leaves_no_node(scene: Any) -> None:
    volume = add_volume(np.eye(4))
    visit, prior, ids = carried(volume)
    cropped = replace(visit.segments[0], mask=np.ones((SHAPE[0] - 1, *SHAPE[1:]), dtype=np.bool_))
    nodes = scene.GetNumberOfNodes()
    with pytest.raises(ValueError, match="not on the follow-up's grid"):
        show_result(replace(visit, segments=(cropped,)), volume, prior, ids)
    assert scene.GetNumberOfNodes() == nodes
