"""Prompts are shown where the model saw them, and read back as a person left them: no edit is lost, and none is made up."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from P2SAMSlicerLib.edited_prompts import EditedPrompts
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.mrml.prompt_nodes import (
    BOX_ROLE,
    GREEN,
    NEGATIVE_ROLE,
    POSITIVE_ROLE,
    RED,
    edited_prompts,
    hide_prompts,
    place_point,
    prompts_are_shown,
    show_box,
    show_prompts,
    unlock,
)
from P2SAMSlicerLib.mrml.slice_places import SlicePlaces
from P2SAMSlicerLib.result import SliceResult
from P2SAMSlicerLib.slice_plane import prompts_from_lps, prompts_to_lps
from prompted_results import followup_of, result_in_scene, two_lesions, visit
from recorded_slices import SECOND
from scene_content import add_bent_transform, add_transform, oblique
from scipy.spatial.transform import Rotation

pytestmark = pytest.mark.usefixtures("scene")

STORAGES = [(order, flips) for order in permutations(range(3)) for flips in product((False, True), repeat=3)]
FLIP = np.array([-1.0, -1.0, 1.0])


def shown_points(node: Any, role: str) -> NDArray[np.float64]:
    """LPS places of the points in the scene."""
    points = node.GetNodeReference(role)
    places = [list(points.GetNthControlPointPositionWorld(n)) for n in range(points.GetNumberOfControlPoints())]
    lps: NDArray[np.float64] = np.array(places).reshape(-1, 3) * FLIP
    return lps


def place_in_world(node: Any, each: SliceResult, pixel: tuple[float, float]) -> NDArray[np.float64]:
    """RAS place of a pixel of a slice."""
    grid = SlicePlaces.of(followup_of(node)).grid
    ras: NDArray[np.float64] = prompts_to_lps(np.array([pixel]), each, grid)[0] * FLIP
    return ras


def add_point(node: Any, role: str, ras: NDArray[np.float64]) -> None:
    """What a click in a view does."""
    node.GetNodeReference(role).AddControlPointWorld(*ras.tolist())


def prompts_of(each: SliceResult, label: int) -> NDArray[np.float32]:
    assert each.best is not None
    points: NDArray[np.float32] = each.best.points[each.best.labels == label]
    return points


def box_of(each: SliceResult | EditedPrompts) -> NDArray[np.float32]:
    chosen = each if isinstance(each, EditedPrompts) else each.best
    assert chosen is not None
    box = chosen.box
    assert box is not None
    return box


def check_no_edit(node: Any, slices: list[SliceResult]) -> None:
    """Shown and read back without a touch, nothing has changed, whichever box is shown."""
    show_prompts(node, slices)
    assert edited_prompts(node, slices, None) == []
    for each in slices:
        show_box(node, each)
        assert edited_prompts(node, slices, each.index) == []


def the_edit(node: Any, slices: list[SliceResult], shown: int | None = None) -> EditedPrompts:
    (edit,) = edited_prompts(node, slices, shown)
    return edit


def test_in_all_48_axis_orders_nothing_is_edited_and_points_lie_where_the_patient_has_them(scene: Any) -> None:
    _, _, usual = visit()
    (volume, _, _) = visit()
    expected = {label: [prompts_to_lps(prompts_of(each, label), each, volume.grid) for each in usual] for label in (1, 0)}
    for storage in STORAGES:
        found = visit(storage=storage)
        # The prompts of the same slice of the patient, however it is counted.
        slices = [replace(each, candidates=same.candidates) for each, same in zip(found[2], usual, strict=True)]
        node = result_in_scene(found[0], found[1], slices)
        check_no_edit(node, slices)
        for role, label in ((POSITIVE_ROLE, 1), (NEGATIVE_ROLE, 0)):
            np.testing.assert_allclose(shown_points(node, role), np.concatenate(expected[label]), atol=1e-3)
        scene.Clear(False)


def test_points_inside_and_outside_are_told_apart_without_their_colours() -> None:
    node = result_in_scene(*visit())
    show_prompts(node, visit()[2])
    glyphs = {node.GetNodeReference(role).GetDisplayNode().GetGlyphType() for role in (POSITIVE_ROLE, NEGATIVE_ROLE)}
    assert len(glyphs) == 2


@pytest.mark.parametrize("seed", range(6))
def test_oblique_visits_under_turned_parents_read_back_what_was_shown(seed: int) -> None:
    storage = STORAGES[7 * seed + 3]
    rotation = Rotation.from_euler("xyz", (13.0 * seed - 40.0, 25.0 - 9.0 * seed, 7.0 * seed), degrees=True).as_matrix()
    parent = add_transform(oblique(seed, (1.0, 1.0, 1.0)), add_transform(oblique(seed + 20, (1.0, 1.0, 1.0))))
    volume, mask, slices = visit(storage=storage, rotation=rotation)
    node = result_in_scene(volume, mask, slices, parent)
    check_no_edit(node, slices)
    expected = np.concatenate([prompts_to_lps(prompts_of(each, 1), each, volume.grid) for each in slices])
    np.testing.assert_allclose(shown_points(node, POSITIVE_ROLE), expected, atol=2e-3)
    show_box(node, slices[1])
    roi = node.GetNodeReference(BOX_ROLE)
    corners = prompts_to_lps(box_of(slices[1]).reshape(2, 2), slices[1], volume.grid)
    np.testing.assert_allclose(np.array(roi.GetCenterWorld()) * FLIP, corners.mean(axis=0), atol=2e-3)


@pytest.mark.parametrize("whole", [False, True])
def test_a_moved_an_added_and_a_removed_point_are_each_one_edit_of_their_slice(whole: bool) -> None:
    volume, mask, slices = visit(storage=STORAGES[29], whole=whole)
    node = result_in_scene(volume, mask, slices)
    first, middle, last = slices
    # moved
    show_prompts(node, slices)
    target = place_in_world(node, middle, (20.0, 31.5))
    positive = node.GetNodeReference(POSITIVE_ROLE)
    positive.SetNthControlPointPositionWorld(3, *target.tolist())
    edit = the_edit(node, slices)
    assert (edit.index, edit.lesion) == (middle.index, 1)
    np.testing.assert_allclose(edit.points[edit.labels == 1], [prompts_of(middle, 1)[0], (20.0, 31.5)], atol=0.05)
    np.testing.assert_allclose(edit.points[edit.labels == 0], prompts_of(middle, 0), atol=0.05)
    assert middle.best is not None
    np.testing.assert_array_equal(edit.box, middle.best.box)
    # added
    show_prompts(node, slices)
    add_point(node, NEGATIVE_ROLE, place_in_world(node, last, (11.0, 12.0)))
    edit = the_edit(node, slices)
    assert edit.index == last.index
    np.testing.assert_allclose(edit.points[edit.labels == 0][-1], (11.0, 12.0), atol=0.05)
    assert len(edit.points) == 5
    # removed
    show_prompts(node, slices)
    positive.RemoveNthControlPoint(0)
    edit = the_edit(node, slices)
    assert (edit.index, (edit.labels == 1).sum(), (edit.labels == 0).sum()) == (first.index, 1, 2)


def test_a_point_that_is_carried_to_another_slice_edits_both() -> None:
    volume, mask, slices = visit()
    node = result_in_scene(volume, mask, slices)
    show_prompts(node, slices)
    pixel = tuple(prompts_of(slices[0], 1)[0].tolist())
    node.GetNodeReference(POSITIVE_ROLE).SetNthControlPointPositionWorld(0, *place_in_world(node, slices[2], pixel).tolist())
    edits = edited_prompts(node, slices, None)
    assert [(each.index, int((each.labels == 1).sum())) for each in edits] == [(slices[0].index, 1), (slices[2].index, 3)]


def test_a_point_that_hardly_moved_was_not_moved_and_one_within_its_slices_thickness_neither() -> None:
    volume, mask, slices = visit()
    node = result_in_scene(volume, mask, slices)
    show_prompts(node, slices)
    points = node.GetNodeReference(POSITIVE_ROLE)
    here = np.array(points.GetNthControlPointPositionWorld(0))
    points.SetNthControlPointPositionWorld(0, *np.add(here, [0.0, 0.0, 1.9]).tolist())  # slices are 4 mm apart
    assert edited_prompts(node, slices, None) == []
    points.SetNthControlPointPositionWorld(0, *np.add(here, [0.001, 0.0, 0.0]).tolist())
    assert edited_prompts(node, slices, None) == []


def test_points_beside_every_slice_and_points_that_are_not_placed_yet_do_not_count() -> None:
    volume, mask, slices = visit()
    node = result_in_scene(volume, mask, slices)
    show_prompts(node, slices)
    over = place_in_world(node, slices[-1], (30.0, 30.0)) + np.array([0.0, 0.0, 4.0])
    add_point(node, POSITIVE_ROLE, over)  # a slice of the CT without the contour
    add_point(node, NEGATIVE_ROLE, over + np.array([0.0, 0.0, 5000.0]))
    points = node.GetNodeReference(POSITIVE_ROLE)
    number = points.AddControlPointWorld(*place_in_world(node, slices[0], (30.0, 30.0)).tolist())
    points.SetNthControlPointPositionMissing(number)
    assert edited_prompts(node, slices, None) == []


def test_recorded_points_of_two_lesions_on_one_slice_stay_with_their_lesion() -> None:
    volume, mask, slices = two_lesions()
    # Background that the model was told of for the first lesion: the middle of the second one.
    there = {each.index: prompts_to_lps(prompts_of(each, 1)[:1], each, volume.grid) for each in slices if each.lesion == 2}
    mixed = []
    for each in slices:
        if each.lesion == 1:
            assert each.best is not None
            points = np.array(each.best.points)
            points[3] = prompts_from_lps(there[each.index], each, volume.grid)[0]
            each = replace(each, candidates=(each.candidates[0], replace(each.best, points=points)))
        mixed.append(each)
    node = result_in_scene(volume, mask, mixed)
    check_no_edit(node, mixed)
    # One of them removed is an edit of its own lesion alone.
    negative = node.GetNodeReference(NEGATIVE_ROLE)
    negative.RemoveNthControlPoint(1)
    edit = the_edit(node, mixed)
    assert (edit.lesion, edit.index, len(edit.points)) == (1, mixed[0].index, 3)


def test_a_new_point_belongs_to_the_nearest_lesion_of_its_slice() -> None:
    volume, mask, slices = two_lesions()
    node = result_in_scene(volume, mask, slices)
    one, other = (next(each for each in slices if each.lesion == number) for number in (1, 2))
    for each in (one, other):
        show_prompts(node, slices)
        middle = np.argwhere(each.candidates[0].mask).mean(axis=0)[::-1]
        add_point(node, POSITIVE_ROLE, place_in_world(node, each, (middle[0] + 2.0, middle[1])))
        edit = the_edit(node, slices)
        assert (edit.lesion, edit.index) == (each.lesion, each.index)
        np.testing.assert_allclose(edit.points[edit.labels == 1][-1], (middle[0] + 2.0, middle[1]), atol=0.05)


def test_a_new_point_on_a_slice_without_a_contour_or_without_candidates_is_an_edit_of_it() -> None:
    volume, mask, slices = visit(absent=(3,))
    slices[2] = replace(slices[2], candidates=(), chosen=None)
    node = result_in_scene(volume, mask, slices)
    check_no_edit(node, slices)
    for each in slices[1:]:
        show_prompts(node, slices)
        add_point(node, POSITIVE_ROLE, place_in_world(node, each, (128.0, 128.0)))
        edit = the_edit(node, slices)
        assert (edit.index, edit.labels.tolist(), edit.box) == (each.index, [1], None)


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("storage", [STORAGES[0], STORAGES[13], STORAGES[46]])
def test_a_box_that_is_moved_and_resized_is_read_back_in_pixels(storage: Any, whole: bool) -> None:
    volume, mask, slices = visit(storage=storage, whole=whole)
    node = result_in_scene(volume, mask, slices, add_transform(oblique(2, (1.0, 1.0, 1.0))))
    each = slices[1]
    assert each.best is not None
    show_prompts(node, slices)
    show_box(node, each)
    roi = node.GetNodeReference(BOX_ROLE)
    here, there = place_in_world(node, each, (30.0, 30.0)), place_in_world(node, each, (33.0, 28.0))
    roi.SetCenterWorld(*(np.array(roi.GetCenterWorld()) + there - here).tolist())
    edit = the_edit(node, slices, each.index)
    assert edit.index == each.index
    np.testing.assert_allclose(box_of(edit), np.add(box_of(each), [3.0, -2.0, 3.0, -2.0]), atol=0.05)
    np.testing.assert_allclose(edit.points, each.best.points, atol=0.05)
    # twice as wide about its middle
    show_box(node, each)
    width, height, depth = roi.GetSize()
    roi.SetSize(2.0 * width, height, depth)
    x0, y0, x1, y1 = box_of(each).tolist()
    half = (x1 - x0) / 2.0
    edit = the_edit(node, slices, each.index)
    np.testing.assert_allclose(box_of(edit), [max(0.0, x0 - half), y0, x1 + half, y1], atol=0.05)
    # seen from another slice the box does not count
    assert edited_prompts(node, slices, slices[0].index) == []
    assert edited_prompts(node, slices, None) == []


def test_a_box_that_is_dragged_outside_is_kept_inside_the_image() -> None:
    volume, mask, slices = visit()
    node = result_in_scene(volume, mask, slices)
    each = slices[1]
    show_prompts(node, slices)
    show_box(node, each)
    roi = node.GetNodeReference(BOX_ROLE)
    roi.SetSize(4000.0, 4000.0, 4.0)
    edit = the_edit_of_box(node, slices, each)
    np.testing.assert_allclose(box_of(edit), [0.0, 0.0, 255.0, 255.0])
    roi.SetCenterWorld(9000.0, 0.0, 0.0)
    edit = the_edit_of_box(node, slices, each)
    assert box_of(edit)[0] == box_of(edit)[2]  # empty, which the worker refuses in words


def the_edit_of_box(node: Any, slices: list[SliceResult], each: SliceResult) -> EditedPrompts:
    return next(edit for edit in edited_prompts(node, slices, each.index) if edit.index == each.index)


def test_the_box_of_one_lesion_is_not_taken_for_that_of_another_on_the_same_slice() -> None:
    volume, mask, slices = two_lesions()
    node = result_in_scene(volume, mask, slices)
    check_no_edit(node, slices)
    other = next(each for each in slices if each.lesion == 2)
    show_box(node, other)
    roi = node.GetNodeReference(BOX_ROLE)
    width, height, depth = roi.GetSize()
    roi.SetSize(1.5 * width, height, depth)
    edit = the_edit(node, slices, other.index)
    assert (edit.lesion, edit.index) == (2, other.index)


def test_a_slice_without_a_box_hides_the_box_and_is_not_edited() -> None:
    volume, mask, slices = visit(absent=(4,))
    assert slices[0].best is not None
    slices[0] = replace(slices[0], candidates=(*slices[0].candidates[:1], replace(slices[0].best, box=None)))
    node = result_in_scene(volume, mask, slices)
    show_prompts(node, slices)
    for nothing in (None, slices[0], slices[2]):
        show_box(node, nothing)
        assert node.GetNodeReference(BOX_ROLE) is None
    show_box(node, slices[1])
    roi = node.GetNodeReference(BOX_ROLE)
    assert roi.GetDisplayVisibility()
    for nothing in (None, slices[0], slices[2]):
        show_box(node, nothing)
        assert not roi.GetDisplayVisibility()
        assert edited_prompts(node, slices, None if nothing is None else nothing.index) == []


def test_prompts_are_coloured_locked_until_edited_and_shown_again_in_the_same_nodes(scene: Any) -> None:
    volume, mask, slices = visit()
    node = result_in_scene(volume, mask, slices)
    show_prompts(node, slices)
    show_box(node, slices[0])
    roles = (POSITIVE_ROLE, NEGATIVE_ROLE, BOX_ROLE)
    nodes = [node.GetNodeReference(role) for role in roles]
    assert nodes[0].GetDisplayNode().GetSelectedColor() == pytest.approx(GREEN)
    assert nodes[1].GetDisplayNode().GetSelectedColor() == pytest.approx(RED)
    assert [each.GetLocked() for each in nodes] == [1, 1, 1]
    unlock(node, True)
    assert [each.GetLocked() for each in nodes] == [0, 0, 0]
    unlock(node, False)
    assert [each.GetLocked() for each in nodes] == [1, 1, 1]
    hide_prompts(node)
    assert [each.GetDisplayVisibility() for each in nodes] == [0, 0, 0]
    count = scene.GetNumberOfNodes()
    show_prompts(node, slices[1:])
    assert scene.GetNumberOfNodes() == count
    assert [nodes[0].GetNumberOfControlPoints(), nodes[1].GetNumberOfControlPoints()] == [4, 4]
    assert nodes[0].GetDisplayVisibility()


@pytest.mark.parametrize("role", [POSITIVE_ROLE, NEGATIVE_ROLE])
def test_points_whose_node_a_person_removed_are_not_taken_for_edits_of_every_slice(scene: Any, role: str) -> None:
    volume, mask, slices = visit()
    node = result_in_scene(volume, mask, slices)
    assert not prompts_are_shown(node)
    show_prompts(node, slices)
    assert prompts_are_shown(node)
    scene.RemoveNode(node.GetNodeReference(role))
    assert not prompts_are_shown(node)
    for use in (lambda: edited_prompts(node, slices, None), lambda: place_point(node, True)):
        with pytest.raises(InputError, match="its points were removed from the scene; choose the contour again"):
            use()
    check_no_edit(node, slices)
    # All points of a list taken away one by one are an edit of each slice.
    node.GetNodeReference(role).RemoveAllControlPoints()
    assert [each.index for each in edited_prompts(node, slices, None)] == [each.index for each in slices]


def test_a_box_whose_node_a_person_removed_is_not_edited_and_is_shown_again(scene: Any) -> None:
    volume, mask, slices = visit()
    node = result_in_scene(volume, mask, slices)
    show_prompts(node, slices)
    show_box(node, slices[1])
    scene.RemoveNode(node.GetNodeReference(BOX_ROLE))
    assert edited_prompts(node, slices, slices[1].index) == []
    check_no_edit(node, slices)
    assert node.GetNodeReference(BOX_ROLE).GetDisplayVisibility()


def test_the_next_click_places_a_point_of_the_wanted_kind() -> None:
    import slicer

    volume, mask, slices = visit()
    node = result_in_scene(volume, mask, slices)
    show_prompts(node, slices)
    logic = slicer.app.applicationLogic()
    for positive, role in ((False, NEGATIVE_ROLE), (True, POSITIVE_ROLE)):
        place_point(node, positive)
        assert logic.GetSelectionNode().GetActivePlaceNodeID() == node.GetNodeReferenceID(role)
        interaction = logic.GetInteractionNode()
        assert interaction.GetCurrentInteractionMode() == interaction.Place


def test_prompts_and_their_roles_and_locks_survive_the_scene_being_saved_and_loaded(scene: Any, tmp_path: Path) -> None:
    import slicer

    for kind in (slicer.vtkMRMLMarkupsJsonStorageNode, slicer.vtkMRMLMarkupsROIJsonStorageNode):
        scene.RegisterNodeClass(kind())
    volume, mask, slices = two_lesions()
    node = result_in_scene(volume, mask, slices, name="Besuch ä")
    show_prompts(node, slices)
    show_box(node, slices[4])
    unlock(node, False)
    node.GetNodeReference(POSITIVE_ROLE).SetLocked(False)
    for role in (POSITIVE_ROLE, NEGATIVE_ROLE, BOX_ROLE):
        prompts = node.GetNodeReference(role)
        storage = prompts.CreateDefaultStorageNode()
        scene.AddNode(storage)
        storage.SetFileName(str(tmp_path / f"{role}.mrk.json"))
        prompts.SetAndObserveStorageNodeID(storage.GetID())
        assert storage.WriteData(prompts) == 1
    volume_node = followup_of(node)
    keep_file(volume_node, slicer.vtkMRMLVolumeArchetypeStorageNode(), tmp_path / "visit.nrrd")
    keep_file(node, slicer.vtkMRMLSegmentationStorageNode(), tmp_path / "result.seg.nrrd")
    scene.SetURL(str(tmp_path / "scene.mrml"))
    assert scene.Commit() == 1
    scene.Clear(True)
    assert scene.Connect() == 1
    again = scene.GetFirstNodeByName("Besuch ä propagated")
    assert [again.GetNodeReference(role).GetLocked() for role in (POSITIVE_ROLE, NEGATIVE_ROLE, BOX_ROLE)] == [0, 1, 1]
    assert again.GetNodeReference(NEGATIVE_ROLE).GetDisplayNode().GetSelectedColor() == pytest.approx(RED)
    assert edited_prompts(again, slices, slices[4].index) == []


def keep_file(node: Any, storage: Any, path: Path) -> None:
    """Save a node with the scene."""
    import slicer

    slicer.mrmlScene.AddNode(storage)
    storage.SetFileName(str(path))
    node.SetAndObserveStorageNodeID(storage.GetID())
    assert storage.WriteData(node) == 1


def test_points_and_box_stay_with_a_followup_that_is_moved_afterwards() -> None:
    import slicer.util

    parent = add_transform(oblique(2, (1.0, 1.0, 1.0)))
    volume, mask, slices = visit()
    node = result_in_scene(volume, mask, slices, parent)
    show_prompts(node, slices)
    show_box(node, slices[1])
    turned = Rotation.from_euler("xyz", (5.0, -7.0, 4.0), degrees=True).as_matrix()
    moved = slicer.util.arrayFromTransformMatrix(parent)
    nudge = np.eye(4)
    nudge[:3, :3], nudge[:3, 3] = turned, (30.0, -20.0, 50.0)
    slicer.util.updateTransformMatrixFromArray(parent, nudge @ moved)
    assert edited_prompts(node, slices, slices[1].index) == []


def test_slices_are_not_read_on_a_followup_that_was_turned_over_since() -> None:
    import slicer.util

    parent = add_transform(np.eye(4))
    volume, mask, slices = visit()
    node = result_in_scene(volume, mask, slices, parent)
    show_prompts(node, slices)
    slicer.util.updateTransformMatrixFromArray(parent, np.diag([-1.0, -1.0, 1.0, 1.0]))  # 180 degrees about the long axis
    for read in (
        lambda: edited_prompts(node, slices, None),
        lambda: show_prompts(node, slices),
        lambda: show_box(node, slices[0]),
    ):
        with pytest.raises(InputError, match="was turned or resized since the contours were carried"):
            read()
    slicer.util.updateTransformMatrixFromArray(parent, np.eye(4))
    assert edited_prompts(node, slices, None) == []


def test_a_followup_that_is_gone_or_bent_is_told_in_words() -> None:
    import slicer

    volume, mask, slices = visit()
    node = result_in_scene(volume, mask, slices)
    followup_of(node).SetAndObserveTransformNodeID(add_bent_transform().GetID())
    with pytest.raises(InputError, match="its parent transform is not linear"):
        show_prompts(node, slices)
    slicer.mrmlScene.RemoveNode(followup_of(node))
    for read in (lambda: edited_prompts(node, slices, None), lambda: show_box(node, slices[0])):
        with pytest.raises(InputError, match="its follow-up volume is no longer in the scene"):
            read()


def test_slices_of_another_volume_are_refused() -> None:
    volume, mask, slices = visit(SECOND)
    node = result_in_scene(volume, mask, slices)
    with pytest.raises(InputError, match="slice 99: there are only 7"):
        show_prompts(node, [replace(slices[0], index=99)])
