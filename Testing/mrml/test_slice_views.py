"""The views show one visit with its own contours and prompts, and go where they are sent."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from P2SAMSlicerLib.mrml.prompt_nodes import BOX_ROLE, NEGATIVE_ROLE, POSITIVE_ROLE, show_box, show_prompts
from P2SAMSlicerLib.mrml.segment_nodes import segment_ids
from P2SAMSlicerLib.mrml.slice_views import emphasize, go_to, show_visit
from prompted_results import followup_of, result_in_scene, visit
from scene_content import add_segmentation, add_volume, blob, oblique

pytestmark = pytest.mark.usefixtures("scene")

ROLES = (POSITIVE_ROLE, NEGATIVE_ROLE, BOX_ROLE)


def add_views(scene: Any) -> tuple[list[Any], list[Any]]:
    """Three slice views and what they show."""
    import slicer

    for kind in (slicer.vtkMRMLSliceNode, slicer.vtkMRMLSliceCompositeNode):
        scene.RegisterNodeClass(kind())
    slices, composites = [], []
    for name in ("Red", "Yellow", "Green"):
        node = slicer.vtkMRMLSliceNode()
        node.SetLayoutName(name)
        node.SetName(name)
        slices.append(scene.AddNode(node))
        composite = slicer.vtkMRMLSliceCompositeNode()
        composite.SetLayoutName(name)
        composites.append(scene.AddNode(composite))
    return slices, composites


def shown(node: Any) -> bool:
    return bool(node.GetDisplayNode().GetVisibility())


def test_only_this_visits_contours_and_prompts_stay_shown(scene: Any) -> None:
    _, composites = add_views(scene)
    volume, mask, slices = visit()
    first, second = (result_in_scene(volume, mask, slices, name=name) for name in ("visit 1", "visit 2"))
    drawn_by_hand = add_segmentation(followup_of(second), {"mine": mask})
    elsewhere = add_segmentation(add_volume(oblique(1)), {"GTV": blob()})
    for node in (first, second):
        show_prompts(node, slices)
        show_box(node, slices[0])
    show_visit(followup_of(second), second)
    assert {each.GetBackgroundVolumeID() for each in composites} == {followup_of(second).GetID()}
    assert [shown(node) for node in (first, second, drawn_by_hand, elsewhere)] == [False, True, False, False]
    assert [first.GetNodeReference(role).GetDisplayVisibility() for role in ROLES] == [0, 0, 0]
    assert [second.GetNodeReference(role).GetDisplayVisibility() for role in ROLES] == [1, 1, 1]
    show_visit(followup_of(first), first)
    show_prompts(first, slices)
    assert [shown(node) for node in (first, second)] == [True, False]
    assert [first.GetNodeReference(role).GetDisplayVisibility() for role in ROLES[:2]] == [1, 1]
    assert [second.GetNodeReference(role).GetDisplayVisibility() for role in ROLES] == [0, 0, 0]


def test_a_segmentation_without_display_is_no_obstacle(scene: Any) -> None:
    add_views(scene)
    bare = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    volume, mask, slices = visit()
    node = result_in_scene(volume, mask, slices)
    show_visit(followup_of(node), node)
    assert bare.GetDisplayNode() is None
    assert shown(node)


def test_one_contour_is_drawn_clearly_and_the_others_faintly() -> None:
    segmentation = add_segmentation(add_volume(oblique(1)), {"GTV": blob(), "node": blob()})
    gtv, node = segment_ids(segmentation)
    display = segmentation.GetDisplayNode()
    emphasize(segmentation, gtv)
    assert display.GetSegmentOpacity2DOutline(gtv) == 1.0
    assert display.GetSegmentOpacity2DOutline(node) == 0.25
    emphasize(segmentation, node, opacity=0.5)
    assert (display.GetSegmentOpacity2DOutline(gtv), display.GetSegmentOpacity2DOutline(node)) == (0.5, 1.0)


def test_all_views_are_centred_on_the_place(scene: Any) -> None:
    import slicer.util

    slices, _ = add_views(scene)
    slices[1].GetSliceToRAS().DeepCopy(slicer.util.vtkMatrixFromArray(oblique(3, (1.0, 1.0, 1.0))))
    go_to((12.5, -34.0, 56.25))
    for node in slices:
        matrix = node.GetSliceToRAS()
        np.testing.assert_allclose([matrix.GetElement(row, 3) for row in range(3)], (12.5, -34.0, 56.25), atol=1e-6)
