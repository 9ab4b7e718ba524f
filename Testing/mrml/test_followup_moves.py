"""Contours and prompts stay on their follow-up's voxels when it is put under another transform or that is hardened."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from P2SAMSlicerLib.mrml.contour_watch import ContourWatch
from P2SAMSlicerLib.mrml.followup_moves import LAID_ATTRIBUTE
from P2SAMSlicerLib.mrml.prompt_nodes import (
    BOX_ROLE,
    NEGATIVE_ROLE,
    POSITIVE_ROLE,
    edited_box,
    edited_prompts,
    show_box,
    show_prompts,
)
from P2SAMSlicerLib.mrml.review_nodes import Decision, contours_to_review, decide, mark_seen, review_state
from P2SAMSlicerLib.mrml.segment_masks import read_mask
from prompted_results import followup_of, result_in_scene, visit
from scene_content import add_bent_transform, add_transform
from scipy.spatial.transform import Rotation

pytestmark = pytest.mark.usefixtures("scene")

ROLES = (POSITIVE_ROLE, NEGATIVE_ROLE, BOX_ROLE)


def a_little_turned(seed: int, parent: Any = None) -> Any:
    """As a person aligns a visit with another one: some degrees and millimetres."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", (4.0 + seed, -5.0, 3.0 * seed), degrees=True).as_matrix()
    matrix[:3, 3] = (12.0, -30.0 + seed, 45.0)
    return add_transform(matrix, parent)


@pytest.fixture
def watch() -> Iterator[ContourWatch]:
    made = ContourWatch()
    yield made
    made.stop()


def shown(parent: Any = None) -> tuple[Any, list[Any]]:
    """An accepted result whose prompts and box are shown, and its slices."""
    volume, mask, slices = visit()
    node = result_in_scene(volume, mask, slices, parent)
    show_prompts(node, slices)
    show_box(node, slices[1])
    (contour,) = contours_to_review(node)
    for each in slices:
        mark_seen(node, contour, each.index)
    decide(node, contour, Decision.ACCEPTED, "A. B.", slices)
    return node, slices


def voxels_of_points(node: Any) -> Any:
    """Where Slicer itself has the points on the follow-up's voxels."""
    import slicer.util
    import vtk

    followup = followup_of(node)
    to_ijk = vtk.vtkMatrix4x4()
    followup.GetRASToIJKMatrix(to_ijk)
    found = []
    for role in (POSITIVE_ROLE, NEGATIVE_ROLE):
        points = node.GetNodeReference(role)
        to_volume = vtk.vtkGeneralTransform()
        slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(
            points.GetParentTransformNode(), followup.GetParentTransformNode(), to_volume
        )
        for number in range(points.GetNumberOfControlPoints()):
            ras = to_volume.TransformPoint(points.GetNthControlPointPosition(number))
            found.append((slicer.util.arrayFromVTKMatrix(to_ijk) @ [*ras, 1.0])[:3])
    return np.array(found)


def under(volume: Any, transform: Any) -> None:
    volume.SetAndObserveTransformNodeID(None if transform is None else transform.GetID())


@pytest.mark.parametrize("before", [False, True])
def test_prompts_are_where_they_were_on_the_voxels_although_nobody_watched(before: bool) -> None:
    node, slices = shown(a_little_turned(1) if before else None)
    voxels = voxels_of_points(node)
    for transform in (a_little_turned(2), a_little_turned(3, a_little_turned(2)), None):
        under(followup_of(node), transform)
        assert edited_box(node, slices, slices[1].index) is None
        assert edited_prompts(node, slices, slices[1].index) == []
        np.testing.assert_allclose(voxels_of_points(node), voxels, atol=1e-4)


def test_what_a_person_moved_before_the_followup_was_put_elsewhere_is_still_that_edit() -> None:
    node, slices = shown()
    points = node.GetNodeReference(POSITIVE_ROLE)
    here = np.array(points.GetNthControlPointPositionWorld(2))
    points.SetNthControlPointPositionWorld(2, *np.add(here, [6.0, 3.0, 0.0]).tolist())
    (edit,) = edited_prompts(node, slices, None)
    under(followup_of(node), a_little_turned(2))
    (again,) = edited_prompts(node, slices, None)
    assert again.index == edit.index
    np.testing.assert_allclose(again.points, edit.points, atol=1e-2)


def check_all_lies_right(node: Any, slices: list[Any], mask: Any, voxels: Any) -> None:
    (contour,) = contours_to_review(node)
    np.testing.assert_array_equal(read_mask(node, contour, followup_of(node)), mask)
    np.testing.assert_allclose(voxels_of_points(node), voxels, atol=1e-3)
    assert edited_prompts(node, slices, slices[1].index) == []
    assert review_state(node, contour).decision is Decision.ACCEPTED


@pytest.mark.parametrize("before", [False, True])
def test_contour_prompts_and_acceptance_go_along_at_once_while_it_is_watched(watch: ContourWatch, before: bool) -> None:
    node, slices = shown(a_little_turned(1) if before else None)
    (contour,) = contours_to_review(node)
    mask, voxels = read_mask(node, contour, followup_of(node)), voxels_of_points(node)
    watch.start()
    for transform in (a_little_turned(2), a_little_turned(3, a_little_turned(2)), None, a_little_turned(1)):
        under(followup_of(node), transform)
        parts = [node, *(node.GetNodeReference(role) for role in ROLES)]
        assert {each.GetTransformNodeID() for each in parts} == {followup_of(node).GetTransformNodeID()}
        check_all_lies_right(node, slices, mask, voxels)


def test_a_transform_that_is_hardened_leaves_all_where_it_is_and_the_next_one_takes_all_along(watch: ContourWatch) -> None:
    parent = a_little_turned(1, a_little_turned(4))
    node, slices = shown(parent)
    (contour,) = contours_to_review(node)
    mask, voxels = read_mask(node, contour, followup_of(node)), voxels_of_points(node)
    watch.start()
    followup_of(node).HardenTransform()
    check_all_lies_right(node, slices, mask, voxels)
    parent.Inverse()  # moves nothing any more
    check_all_lies_right(node, slices, mask, voxels)
    under(followup_of(node), a_little_turned(2))
    check_all_lies_right(node, slices, mask, voxels)


def test_a_contour_that_a_person_moved_alone_is_not_moved_back_and_does_not_stay_accepted(watch: ContourWatch) -> None:
    node, _slices = shown()
    (contour,) = contours_to_review(node)
    watch.start()
    own = a_little_turned(1)
    under(node, own)
    assert node.GetParentTransformNode() == own
    under(followup_of(node), a_little_turned(5))
    assert node.GetParentTransformNode() == own
    assert review_state(node, contour).decision is None


def test_a_followup_under_a_bent_transform_drags_nothing_along(watch: ContourWatch) -> None:
    node, slices = shown()
    (contour,) = contours_to_review(node)
    mask, voxels = read_mask(node, contour, followup_of(node)), voxels_of_points(node)
    watch.start()
    under(followup_of(node), add_bent_transform())
    assert node.GetParentTransformNode() is None
    under(followup_of(node), None)
    check_all_lies_right(node, slices, mask, voxels)


@pytest.mark.parametrize("text", ["", "no matrix", "[1, 2]", "null"])
def test_a_damaged_note_of_where_it_lay_moves_nothing(watch: ContourWatch, text: str) -> None:
    node, _slices = shown()
    node.SetAttribute(LAID_ATTRIBUTE, text)
    watch.start()
    under(followup_of(node), a_little_turned(2))
    assert node.GetParentTransformNode() is None
