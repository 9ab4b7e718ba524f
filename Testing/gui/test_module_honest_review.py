"""The panel does not say more than is true: what changed is read again, and what nobody saw does not count as seen."""

from __future__ import annotations

import time
import warnings
from typing import Any

import pytest
from P2SAMSlicerLib.mrml.review_nodes import seen
from P2SAMSlicerLib.mrml.segment_nodes import tag_of
from P2SAMSlicerLib.result_files import STATUS_TAG
from phantom_results import add_segment, add_visits, carried


@pytest.fixture
def reviewed(user: Any) -> Any:
    """A finished run whose slice 8 is shown."""
    prior, segmentation, (followup,) = add_visits()
    user.choose(prior, segmentation, followup)
    user.run(carried(followup))
    return user


def looked_at(user: Any) -> set[int]:
    """Slices of the chosen contour that count as looked at."""
    row = user.widget.panel._review.row
    return set(seen(row.node, row.identifier))


def scroll_and_stay(user: Any, index: int) -> None:
    """Scroll the axial view and let time go by."""
    import slicer

    slicer.app.layoutManager().sliceWidget("Red").sliceLogic().SetSliceOffset(4.0 * index - 30.0)
    end = time.monotonic() + 0.7
    user.host.wait_until(lambda: time.monotonic() > end)


def redraw(user: Any) -> None:
    """Take the contour away from a slice."""
    import slicer.util

    row = user.widget.panel._review.row
    mask = slicer.util.arrayFromSegmentBinaryLabelmap(row.node, row.identifier, row.followup)
    mask[5] = 0
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask, row.node, row.identifier, row.followup)


def test_a_contour_that_changes_under_the_panel_is_no_longer_called_accepted(reviewed: Any) -> None:
    reviewed.ui.reviewerEdit.text = "A. B."
    for _ in range(2):
        reviewed.click("nextDoubtfulButton")
    reviewed.click("acceptButton")
    volume = float(reviewed.table()[0][3])
    assert reviewed.table()[0][8] == "accepted"
    redraw(reviewed)
    reviewed.host.wait_until(lambda: reviewed.table()[0][8] == "changed since the decision, edited")
    assert float(reviewed.table()[0][3]) < volume


def test_an_acceptance_is_taken_back_at_once_also_while_another_module_is_shown(reviewed: Any) -> None:
    from P2SAMSlicerLib.mrml.review_nodes import Decision, review_state

    reviewed.ui.reviewerEdit.text = "A. B."
    for _ in range(2):
        reviewed.click("nextDoubtfulButton")
    reviewed.click("acceptButton")
    row = reviewed.widget.panel._review.row
    assert review_state(row.node, row.identifier).decision is Decision.ACCEPTED
    assert tag_of(row.segment, STATUS_TAG) == "completed"
    reviewed.host.select("SegmentEditor")
    redraw(reviewed)
    # Slicer's own table of segments shows this, whatever module is open, and so does a saved file.
    assert tag_of(row.segment, STATUS_TAG) != "completed"
    reviewed.host.select("P2SAMSlicer")
    assert reviewed.table()[0][8] == "changed since the decision, edited"


def test_strokes_in_another_module_are_read_when_this_one_is_entered(reviewed: Any) -> None:
    reviewed.host.select("SegmentEditor")
    redraw(reviewed)
    reviewed.host.process_events()
    assert reviewed.table()[0][8] == "unreviewed"
    reviewed.host.select("P2SAMSlicer")
    assert reviewed.table()[0][8] == "unreviewed, edited"


def test_scrolling_through_another_ct_is_no_look_at_the_contour(reviewed: Any) -> None:
    import slicer.util

    followup = reviewed.widget.panel._review.row.followup
    slicer.util.setSliceViewerLayers(background=reviewed.ui.priorVolumeSelector.currentNode())
    scroll_and_stay(reviewed, 6)
    assert looked_at(reviewed) == {8}
    slicer.util.setSliceViewerLayers(background=followup)
    scroll_and_stay(reviewed, 7)
    assert looked_at(reviewed) == {7, 8}


def test_scrolling_while_the_contour_is_hidden_is_no_look_at_it(reviewed: Any) -> None:
    row = reviewed.widget.panel._review.row
    row.node.GetDisplayNode().SetVisibility(False)
    scroll_and_stay(reviewed, 6)
    assert looked_at(reviewed) == {8}


def test_a_run_that_ends_while_another_module_is_shown_moves_no_view_and_counts_no_look(user: Any) -> None:
    from P2SAMSlicerLib.mrml.review_nodes import contours_to_review
    from scripted_worker import answer

    prior, segmentation, (followup,) = add_visits()
    user.choose(prior, segmentation, followup)
    user.apply()
    user.host.select("SegmentEditor")
    answer(user.worker, carried(followup))
    user.wait()
    (node,) = user.logic.lastRun.nodes
    (identifier,) = contours_to_review(node)
    assert seen(node, identifier) == frozenset()
    assert segmentation.GetDisplayVisibility()
    user.host.select("P2SAMSlicer")
    user.click_row("resultsTable", 0)
    assert seen(node, identifier) == {8}


def test_slices_to_look_at_are_listed_for_a_contour_that_no_model_judged(user: Any) -> None:
    prior, segmentation, (followup,) = add_visits()
    add_segment(segmentation, prior, "PTV")
    user.choose(prior, segmentation, followup)
    user.run(carried(followup, "PTV", slices=()))
    lines = [each[:3] for each in user.table("slicesTable")]
    assert lines == [["5", "", "must be"], ["9", "", "must be"], ["7", "", "yes"]]
    user.click_row("slicesTable", 0)
    assert looked_at(user) == {5, 7}
    assert user.ui.editPromptsButton.toolTip.startswith("No model was asked for this contour")


def test_leaving_and_reloading_remove_every_observer_and_none_that_is_not_there(reviewed: Any) -> None:
    import slicer

    before, panel = reviewed.widget, reviewed.widget.panel
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # slicer.util warns of observers that are there twice or not at all
        for _ in range(2):
            reviewed.host.select("SegmentEditor")
            reviewed.host.select("P2SAMSlicer")
        reviewed.host.close_scene()
        reviewed.take(reviewed.host.reload(before))
    assert not any(methods for events in _observations(before).values() for methods in events.values())
    assert (panel._review._observed, panel._review._contours) == ([], [])
    node = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceNode()
    node.JumpSliceByCentering(0.0, 0.0, 10.0)
    assert not panel._review._dwell.isActive()


def _observations(widget: Any) -> dict[Any, dict[Any, dict[Any, Any]]]:
    """What VTKObservationMixin keeps: methods by event by object."""
    found: dict[Any, dict[Any, dict[Any, Any]]] = widget._VTKObservationMixin__observations
    return dict(found)


def test_a_panel_that_cannot_be_made_has_nothing_to_undo(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import slicer
    from panel_user import PanelUser
    from slicer import parameterNodeWrapper

    user = PanelUser(host)

    def broken(*_words: Any) -> None:
        raise RuntimeError("a widget of another type")

    monkeypatch.setattr(type(user.parameters), "connectParametersToGui", broken)
    assert parameterNodeWrapper.isParameterNodeWrapper(user.parameters)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeError, match="another type"):
            user.widget.enter()
        user.widget.cleanup()
    assert slicer.mrmlScene is not None
