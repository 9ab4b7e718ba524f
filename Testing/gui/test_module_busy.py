"""What cannot be done now is disabled, and its tooltip says why; nothing of it ends in an error. The worker is a fake."""

from __future__ import annotations

from typing import Any

import pytest
from P2SAMSlicerLib.mrml.prompt_nodes import POSITIVE_ROLE
from phantom_results import add_visits, carried, contour, slice_result

PROMPTS = ("editPromptsButton", "addPositiveButton", "addNegativeButton", "updateButton")
DECISIONS = ("acceptButton", "rejectButton", "flagButton")


@pytest.fixture
def editing(user: Any) -> Any:
    """A finished run whose slice 8 is shown, with Edit prompts on and a point added."""
    prior, segmentation, (followup,) = add_visits()
    user.choose(prior, segmentation, followup)
    user.run(carried(followup))
    user.click("editPromptsButton")
    points = user.widget.panel._review.row.node.GetNodeReference(POSITIVE_ROLE)
    points.AddControlPointWorld(*points.GetNthControlPointPositionWorld(3))
    return user


def hints(user: Any, *names: str) -> set[str]:
    """Tooltips of buttons that have to be disabled."""
    assert [name for name in names if getattr(user.ui, name).enabled] == []
    return {str(getattr(user.ui, name).toolTip) for name in names}


def test_without_a_contour_the_buttons_say_that_one_has_to_be_chosen(user: Any) -> None:
    names = (*PROMPTS, *DECISIONS, "nextDoubtfulButton", "segmentEditorButton")
    assert hints(user, *names) == {"Click a contour in the table first."}


def test_points_are_added_only_after_a_click_on_edit_prompts(editing: Any) -> None:
    editing.click("editPromptsButton")
    assert hints(editing, *PROMPTS[1:]) == {"First click Edit prompts."}
    editing.click("editPromptsButton")
    assert editing.ui.updateButton.toolTip == "Segments this slice and its neighbours again with the edited prompts."


def test_during_an_update_nothing_else_can_be_started_or_decided(editing: Any) -> None:
    editing.click("updateButton")
    assert hints(editing, "applyButton") == {"A contour is being segmented again: wait for it."}
    assert hints(editing, *PROMPTS[:3]) == {"A contour is being segmented again: wait for it."}
    assert hints(editing, *DECISIONS) == {"This contour is being segmented again: wait for it."}
    editing.widget.enter()
    assert not editing.ui.applyButton.enabled
    editing.worker.update(contour(), slice_result(8, 0.3))
    editing.host.wait_until(lambda: not editing.logic.updating)
    editing.host.wait_until(lambda: "updated in" in editing.status)
    for name in ("applyButton", *PROMPTS, *DECISIONS):
        assert getattr(editing.ui, name).enabled, name


def test_an_update_can_be_cancelled_and_is_not_called_a_success(editing: Any) -> None:
    editing.click("updateButton")
    assert editing.ui.updateButton.text == "Cancel"
    editing.click("updateButton")
    assert editing.worker.cancelled == 1
    assert editing.status == "cancelled: the contour is as it was"
    assert (editing.ui.updateButton.text, editing.ui.applyButton.enabled) == ("Update", True)
    editing.click("updateButton")
    editing.worker.update(contour(), slice_result(8, 0.3))
    editing.host.wait_until(lambda: "updated in" in editing.status)


def test_an_update_that_is_cancelled_from_the_console_is_not_called_a_success(editing: Any) -> None:
    editing.click("updateButton")
    editing.logic.cancel()
    editing.host.wait_until(lambda: editing.ui.updateButton.text == "Update")
    assert editing.status == "cancelled: the contour is as it was"


def test_during_a_run_prompts_wait_and_earlier_contours_can_be_reviewed(editing: Any) -> None:
    followup = editing.widget.panel._review.row.followup
    editing.apply()
    assert hints(editing, *PROMPTS) == {"A run is under way: wait for it, or cancel it."}
    assert all(getattr(editing.ui, name).enabled for name in DECISIONS)
    editing.click_row("slicesTable", 1)
    assert hints(editing, *PROMPTS) == {"A run is under way: wait for it, or cancel it."}
    editing.worker.visit(0, carried(followup))
    editing.worker.finish()
    editing.wait()
    assert editing.ui.editPromptsButton.enabled
