"""Prompts as markups: shown, locked, edited, and sent to the worker, which is a fake here."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from P2SAMSlicerLib.edited_prompts import EDITED
from P2SAMSlicerLib.mrml.prompt_nodes import BOX_ROLE, NEGATIVE_ROLE, POSITIVE_ROLE
from P2SAMSlicerLib.mrml.slice_places import SlicePlaces
from phantom_results import BOX, NEGATIVE, POSITIVE, add_visits, carried, contour, slice_result


@pytest.fixture
def editing(user: Any) -> Any:
    """A finished run whose slice 8 is shown, with Edit prompts on."""
    prior, segmentation, (followup,) = add_visits()
    user.choose(prior, segmentation, followup)
    user.run(carried(followup))
    user.click("editPromptsButton")
    assert user.ui.editPromptsButton.checked
    return user


def markups(user: Any, role: str) -> Any:
    """The markups of one kind."""
    return user.widget.panel._review.row.node.GetNodeReference(role)


def place(user: Any, x: float, y: float, index: int) -> tuple[float, float, float]:
    """Where a pixel of a slice lies, RAS."""
    grid = SlicePlaces.of(user.widget.panel._review.row.followup).grid
    left, posterior, superior = grid.to_physical(np.array([[x, y, index]], dtype=float))[0]
    return -left, -posterior, superior


def point_of_slice(points: Any, user: Any, index: int) -> int:
    """Number of the first point that lies on a slice."""
    wanted = place(user, 0, 0, index)[2]
    for number in range(points.GetNumberOfControlPoints()):
        if points.GetNthControlPointPositionWorld(number)[2] == pytest.approx(wanted):
            return number
    raise AssertionError(f"no point on slice {index}")


def test_the_prompts_of_the_chosen_contour_are_shown_and_locked(user: Any) -> None:
    prior, segmentation, (followup,) = add_visits()
    user.choose(prior, segmentation, followup)
    user.run(carried(followup))
    positive, negative, box = (markups(user, role) for role in (POSITIVE_ROLE, NEGATIVE_ROLE, BOX_ROLE))
    assert (positive.GetNumberOfControlPoints(), negative.GetNumberOfControlPoints()) == (5, 5)
    number = point_of_slice(positive, user, 8)
    np.testing.assert_allclose(positive.GetNthControlPointPositionWorld(number), place(user, *POSITIVE, 8), atol=1e-4)
    number = point_of_slice(negative, user, 8)
    np.testing.assert_allclose(negative.GetNthControlPointPositionWorld(number), place(user, *NEGATIVE, 8), atol=1e-4)
    middle = ((BOX[0] + BOX[2]) / 2, (BOX[1] + BOX[3]) / 2)
    np.testing.assert_allclose(box.GetCenterWorld(), place(user, *middle, 8), atol=1e-4)
    assert box.GetDisplayVisibility()
    assert all(each.GetLocked() for each in (positive, negative, box))
    red, green, _blue = positive.GetDisplayNode().GetSelectedColor()
    assert green > red
    red, green, _blue = negative.GetDisplayNode().GetSelectedColor()
    assert red > green
    for name in ("addPositiveButton", "addNegativeButton", "updateButton"):
        assert not getattr(user.ui, name).enabled
    user.click("editPromptsButton")
    assert not any(each.GetLocked() for each in (positive, negative, box))
    user.click("editPromptsButton")
    assert all(each.GetLocked() for each in (positive, negative, box))


def test_nothing_edited_is_told_and_nothing_is_sent(editing: Any) -> None:
    editing.click("updateButton")
    assert "no point or box was changed" in editing.refused()
    assert len(editing.worker.sent) == 1


def test_moved_added_and_removed_points_are_sent_and_nothing_else(editing: Any) -> None:
    positive, negative = markups(editing, POSITIVE_ROLE), markups(editing, NEGATIVE_ROLE)
    positive.SetNthControlPointPositionWorld(point_of_slice(positive, editing, 8), *place(editing, 26, 24, 8))
    positive.AddControlPointWorld(*place(editing, 21, 22, 6))
    negative.RemoveNthControlPoint(point_of_slice(negative, editing, 5))
    editing.click("updateButton")
    sent = {edit.index: edit for edit in editing.worker.asked_update.edits}
    assert sorted(sent) == [5, 6, 8]
    np.testing.assert_allclose(sent[8].points[sent[8].labels == 1], [(26, 24)], atol=1e-3)
    np.testing.assert_allclose(sent[8].points[sent[8].labels == 0], [NEGATIVE], atol=1e-3)
    np.testing.assert_allclose(sorted(sent[6].points[sent[6].labels == 1].tolist()), [(21, 22), POSITIVE], atol=1e-3)
    np.testing.assert_allclose(sent[5].points, [POSITIVE], atol=1e-3)
    for edit in sent.values():
        np.testing.assert_allclose(edit.box, BOX)
    assert len(editing.worker.asked_update.slices) == 5


def test_an_added_point_is_placed_by_the_next_click_in_a_view(editing: Any) -> None:
    import slicer

    for name, role in (("addPositiveButton", POSITIVE_ROLE), ("addNegativeButton", NEGATIVE_ROLE)):
        editing.click(name)
        logic = slicer.app.applicationLogic()
        assert logic.GetSelectionNode().GetActivePlaceNodeID() == markups(editing, role).GetID()
        interaction = logic.GetInteractionNode()
        assert interaction.GetCurrentInteractionMode() == interaction.Place
        assert not interaction.GetPlaceModePersistence()


def test_a_moved_box_is_sent(editing: Any) -> None:
    box = markups(editing, BOX_ROLE)
    x, y, z = box.GetSize()
    box.SetSize(x + 5.0, y, z)  # two pixels of 2.5 mm, one on either side
    editing.click("updateButton")
    (edit,) = editing.worker.asked_update.edits
    assert edit.index == 8
    np.testing.assert_allclose(edit.box, (BOX[0] - 1, BOX[1], BOX[2] + 1, BOX[3]), atol=1e-3)


def test_edits_survive_looking_at_other_slices(editing: Any) -> None:
    positive, box = markups(editing, POSITIVE_ROLE), markups(editing, BOX_ROLE)
    positive.AddControlPointWorld(*place(editing, 22, 22, 8))
    x, y, z = box.GetSize()
    box.SetSize(x + 5.0, y, z)
    editing.click_row("slicesTable", 1)
    editing.click_row("slicesTable", 2)
    assert positive.GetNumberOfControlPoints() == 6
    editing.click_row("slicesTable", 0)
    assert box.GetSize()[0] == pytest.approx(8 * 2.5 + 5.0)
    editing.click_row("slicesTable", 3)
    editing.click("updateButton")
    (edit,) = editing.worker.asked_update.edits
    assert edit.index == 8
    assert len(edit.points) == 3
    np.testing.assert_allclose(edit.box, (BOX[0] - 1, BOX[1], BOX[2] + 1, BOX[3]), atol=1e-3)


def test_a_box_of_one_lesion_is_not_taken_for_another_lesions_on_the_same_slice(user: Any) -> None:
    from dataclasses import replace

    prior, segmentation, (followup,) = add_visits()
    user.choose(prior, segmentation, followup)
    first = slice_result(8, 0.9)
    best = first.best
    assert best is not None
    assert best.box is not None
    second = replace(first, lesion=2, candidates=(replace(best, box=best.box + 9.0, points=best.points + 9.0),))
    user.run(carried(followup, slices=(first, second)))
    user.click("editPromptsButton")
    user.click("updateButton")
    assert "no point or box was changed" in user.refused()


def test_the_answer_goes_into_the_contour_the_record_and_the_tables(editing: Any) -> None:
    row = editing.widget.panel._review.row
    positive = markups(editing, POSITIVE_ROLE)
    positive.AddControlPointWorld(*place(editing, 22, 22, 8))
    editing.click("updateButton")
    assert editing.ui.updateButton.text == "Cancel"
    mask = contour()
    mask[8] = contour(6.0)[8]
    changed = slice_result(8, 0.3, 6.0)
    changed.candidates[0].__dict__["origin"] = EDITED
    editing.worker.update(mask, changed, slice_result(7, 0.6, 5.0), notes=("slice 8: it does not follow one point",))
    editing.host.wait_until(lambda: not editing.logic.updating)
    editing.host.wait_until(lambda: editing.ui.updateButton.text == "Update")
    import slicer.util

    now = slicer.util.arrayFromSegmentBinaryLabelmap(row.node, row.identifier, row.followup)
    np.testing.assert_array_equal(now > 0, mask)
    assert editing.status == "updated in 0.2 s\nslice 8: it does not follow one point"
    assert editing.table()[0][8] == "unreviewed, edited"
    assert [each[:3] for each in editing.table("slicesTable")][:3] == [
        ["6", "0.80", "must be"],
        ["7", "0.60", "must be"],
        ["8", "0.30", "yes"],
    ]
    assert positive.GetNumberOfControlPoints() == 5  # as the record has them now
    assert not positive.GetLocked()
    assert editing.widget.panel._review.index == 8


def test_a_refused_update_is_told_and_the_edits_stay(editing: Any) -> None:
    positive = markups(editing, POSITIVE_ROLE)
    positive.AddControlPointWorld(*place(editing, 22, 22, 8))
    editing.click("updateButton")
    editing.worker.refuse("slice 8: the box is empty")
    editing.host.wait_until(lambda: not editing.logic.updating)
    editing.host.wait_until(lambda: editing.status == "slice 8: the box is empty")
    assert editing.host.dialogs.texts()[-1] == "slice 8: the box is empty"
    assert positive.GetNumberOfControlPoints() == 6
    assert editing.ui.updateButton.enabled
    assert editing.table()[0][8] == "unreviewed"


def test_a_worker_that_dies_during_an_update_is_told_and_the_next_update_works(editing: Any) -> None:
    markups(editing, POSITIVE_ROLE).AddControlPointWorld(*place(editing, 22, 22, 8))
    editing.click("updateButton")
    editing.worker.fail("the worker has ended", "last words")
    editing.host.wait_until(lambda: editing.status == "the worker has ended\nlast words")
    editing.click("updateButton")
    editing.worker.update(contour(), slice_result(8, 0.3))
    editing.host.wait_until(lambda: "updated in" in editing.status)


def test_an_answer_that_does_not_fit_is_no_success(editing: Any) -> None:
    import slicer.util

    row = editing.widget.panel._review.row
    markups(editing, POSITIVE_ROLE).AddControlPointWorld(*place(editing, 22, 22, 8))
    editing.click("updateButton")
    other = contour()
    other[8] = contour(6.0)[8]
    editing.worker.update(other, slice_result(8, 0.3))
    row.node.GetNodeReference("P2SAMSlicer.record").SetText("damaged meanwhile")
    editing.host.wait_until(lambda: not editing.logic.updating)
    editing.host.wait_until(lambda: "segmenting again" not in editing.status)
    assert "updated" not in editing.status
    assert "record cannot be read" in editing.status
    now = slicer.util.arrayFromSegmentBinaryLabelmap(row.node, row.identifier, row.followup)
    np.testing.assert_array_equal(now > 0, contour())


def test_a_result_that_is_removed_during_an_update_is_told(editing: Any) -> None:
    import slicer

    markups(editing, POSITIVE_ROLE).AddControlPointWorld(*place(editing, 22, 22, 8))
    editing.click("updateButton")
    editing.worker.update(contour(), slice_result(8, 0.3))
    slicer.mrmlScene.RemoveNode(editing.widget.panel._review.row.node)
    editing.host.wait_until(lambda: not editing.logic.updating)
    editing.host.wait_until(lambda: editing.status == "the contour was removed from the scene meanwhile")
    assert editing.table() == []


def test_a_scene_that_is_closed_during_an_update_does_not_block_the_next_run(editing: Any) -> None:
    markups(editing, POSITIVE_ROLE).AddControlPointWorld(*place(editing, 22, 22, 8))
    editing.click("updateButton")
    editing.host.close_scene()
    prior, segmentation, (followup,) = add_visits()
    editing.choose(prior, segmentation, followup)
    editing.run(carried(followup))
    assert len(editing.table()) == 1
    assert not editing.ui.editPromptsButton.checked
