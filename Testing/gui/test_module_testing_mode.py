"""In Slicer's testing mode nobody answers: no dialog of the module waits, and errors are raised."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from panel_user import PanelUser
from phantom_results import add_visits, carried


def test_no_dialog_waits_in_testing_mode(start_host: Callable[..., Any]) -> None:
    from P2SAMSlicerLib.mrml.review_nodes import touched_segments

    host = start_host(testing=True)
    user = PanelUser(host)
    prior, segmentation, (followup,) = add_visits()
    user.choose(prior, segmentation, followup)
    user.run(carried(followup))
    user.ui.reviewerEdit.text = "A. B."
    for _ in range(3):
        user.click("nextDoubtfulButton")
    user.click("acceptButton")
    (kept,) = user.logic.lastRun.nodes
    assert touched_segments(kept) == ["tumour"]
    # It asks, as a contour was accepted. Slicer's own function means to say yes in this mode and says no; nothing waits for it.
    user.click("applyButton")
    assert not user.logic.running
    assert "They are kept" in host.dialogs.texts()[-1]
    user.click("editPromptsButton")
    user.click("updateButton")
    assert [type(error).__name__ for error in host.errors.take()] == ["InputError"]


def test_the_module_works_without_a_main_window(start_host: Callable[..., Any]) -> None:
    host = start_host(main_window=False)
    user = PanelUser(host)
    prior, segmentation, (followup,) = add_visits()
    user.choose(prior, segmentation, followup)
    user.run(carried(followup))
    assert len(user.table()) == 1
    user.click_row("slicesTable", 1)
    assert [each[2] for each in user.table("slicesTable")][:2] == ["yes", "yes"]
