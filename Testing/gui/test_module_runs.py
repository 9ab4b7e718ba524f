"""Runs from the panel: progress, several follow-ups, failures, what happens to the scene meanwhile. The worker is a fake."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from P2SAMSlicerLib.worker.client import WorkerClient
from phantom_results import add_segment, add_visits, carried
from scripted_worker import FakeWorker, answer, methods_of


@pytest.fixture
def visits(user: Any) -> tuple[Any, Any, list[Any]]:
    """The phantom's visits, chosen in the panel: one follow-up."""
    prior, segmentation, followups = add_visits()
    user.choose(prior, segmentation, *followups)
    return prior, segmentation, followups


def results() -> list[Any]:
    """The segmentation nodes that are results."""
    import slicer.util
    from P2SAMSlicerLib.mrml.result_nodes import is_result

    return [node for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode") if is_result(node)]


def kinds_of_nodes() -> dict[str, int]:
    """How many nodes of each class the scene has."""
    import slicer

    scene = slicer.mrmlScene
    return dict(Counter(scene.GetNthNode(number).GetClassName() for number in range(scene.GetNumberOfNodes())))


def test_the_fake_worker_can_nothing_that_the_real_one_cannot() -> None:
    helpers = {"asked", "asked_update", "tell", "progress", "visit", "finish", "refuse", "fail", "update"}
    assert methods_of(FakeWorker) - helpers <= methods_of(WorkerClient)


def test_a_run_tells_how_far_it_is_and_ends_with_a_contour_to_review(user: Any, visits: Any) -> None:
    _prior, _segmentation, (followup,) = visits
    user.apply()
    assert user.ui.applyButton.text == "Cancel"
    assert not user.ui.progressBar.isHidden()
    user.worker.progress("encode", 3, 10, "Phantom, tumour")
    user.host.wait_until(lambda: "encoding slices 3 of 10" in user.status)
    share = user.ui.progressBar.value
    assert 30 < share < 60
    assert "s left" in user.status
    user.worker.progress("decode", 10, 10)
    user.host.wait_until(lambda: user.ui.progressBar.value > share)
    user.worker.visit(0, carried(followup))
    user.worker.finish("the prior's slices are thick")
    user.wait()
    assert user.status == "done: look at every contour before you use it\nthe prior's slices are thick"
    assert user.ui.progressBar.isHidden()
    assert user.table() == [["Phantom follow-up CT", "tumour", "10.0", "6.1", "-39 %", "5.0", "0.90", "found", "unreviewed"]]
    assert user.widget.panel._review.row is not None
    (node,) = results()
    assert node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole()) is followup


def test_the_worker_is_asked_for_what_the_panel_shows(user: Any, visits: Any) -> None:
    user.ui.deviceSelector.setCurrentText("cpu")
    user.parameters.parts = 7
    user.parameters.allowOtherPatient = True
    user.apply()
    job = user.worker.asked.job
    assert (job.device, job.options.max_parts, job.options.negatives) == ("cpu", 7, None)
    assert job.options.allow_other_patient
    assert job.model == "p2sam_medsam_ct" or job.model
    assert all(path.exists() for path in (job.prior_ct, job.prior_seg, *job.followups))
    user.click("applyButton")
    assert not job.prior_ct.exists()


def test_a_failed_follow_up_does_not_take_the_others_with_it(user: Any) -> None:
    prior, segmentation, followups = add_visits(3)
    user.choose(prior, segmentation, *followups)
    user.run(carried(followups[0]), "it is another part of the body", carried(followups[2], gone=True))
    assert user.status.splitlines()[1:] == ["Phantom follow-up CT 2: it is another part of the body"]
    assert [row[0] for row in user.table()] == ["Phantom follow-up CT", "Phantom follow-up CT 3"]
    assert [row[7] for row in user.table()] == ["found", "no lesion found"]
    assert user.widget.panel._review.row.followup is followups[0]


def test_a_refused_request_is_told(user: Any, visits: Any) -> None:
    user.apply()
    user.worker.refuse("the CTs name different patients")
    user.wait()
    assert user.status == "the CTs name different patients"
    assert user.table() == []
    assert user.ui.applyButton.enabled


def test_a_worker_that_died_is_told_with_its_log_and_finished_follow_ups_stay(user: Any) -> None:
    prior, segmentation, followups = add_visits(2)
    user.choose(prior, segmentation, *followups)
    user.apply()
    user.worker.visit(0, carried(followups[0]))
    user.worker.fail("the worker has ended: it was killed", "loading", "last words")
    user.wait()
    assert user.status == "the worker has ended: it was killed\nloading\nlast words"
    assert len(user.table()) == 1
    user.run(carried(followups[0]), carried(followups[1]))
    assert len(user.table()) == 2


def test_cancel_ends_the_worker_at_once(user: Any, visits: Any) -> None:
    user.apply()
    user.click("applyButton")
    assert user.worker.cancelled == 1
    assert (user.status, user.ui.applyButton.text) == ("cancelled", "Propagate")
    assert results() == []
    user.worker.tell()
    user.host.process_events()
    assert not user.logic.running


def test_a_record_that_cannot_be_read_ends_the_run_in_words(user: Any, visits: Any, tmp_path: Path) -> None:
    broken = tmp_path / "broken.json.gz"
    broken.write_bytes(b"nothing")
    user.apply()
    user.worker.visit(0, broken)
    user.worker.finish()
    user.wait()
    assert "the record of a visit is missing or damaged" in user.status
    assert results() == []


def test_an_unforeseen_error_with_one_result_does_not_hang_the_run(
    user: Any, visits: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from P2SAMSlicerLib.mrml import propagation_run

    def fails(*_arguments: Any) -> None:
        raise KeyError("something of the patient's")

    monkeypatch.setattr(propagation_run, "attach_record", fails)
    user.run(carried(visits[2][0]))
    assert "unexpected KeyError" in user.status
    assert "patient" not in user.status


def test_a_follow_up_that_is_removed_during_the_run_is_told(user: Any) -> None:
    import slicer

    prior, segmentation, followups = add_visits(2)
    user.choose(prior, segmentation, *followups)
    user.apply()
    result = [carried(node) for node in followups]
    slicer.mrmlScene.RemoveNode(followups[0])
    answer(user.worker, *result)
    user.wait()
    assert "Phantom follow-up CT: was removed from the scene during the run" in user.status
    assert [row[0] for row in user.table()] == ["Phantom follow-up CT 2"]


def test_a_follow_up_with_other_voxels_than_before_gets_no_contour(user: Any, visits: Any) -> None:
    import numpy as np
    import slicer.util

    (followup,) = visits[2]
    user.apply()
    result = carried(followup)
    slicer.util.updateVolumeFromArray(followup, np.zeros((4, 48, 48)))
    answer(user.worker, result)
    user.wait()
    assert "its result cannot be shown; the contours are not on the follow-up's voxels" in user.status
    assert results() == []


def test_the_result_is_shown_although_the_priors_segmentation_was_removed_during_the_run(user: Any, visits: Any) -> None:
    import slicer

    user.apply()
    slicer.mrmlScene.RemoveNode(visits[1])
    answer(user.worker, carried(visits[2][0]))
    user.wait()
    assert len(results()) == len(user.table()) == 1


def test_results_stay_reviewable_when_the_priors_segmentation_is_removed_afterwards(user: Any, visits: Any) -> None:
    import slicer

    user.run(carried(visits[2][0]))
    slicer.mrmlScene.RemoveNode(visits[1])
    user.host.process_events()
    assert len(user.table()) == 1
    user.click_row("resultsTable", 0)
    user.click("plotButton")


def test_closing_the_scene_ends_the_run_and_leaves_a_working_panel(user: Any, visits: Any) -> None:
    user.apply()
    user.host.close_scene()
    assert user.worker.cancelled == 1
    assert not user.logic.running
    assert user.table() == []
    assert user.hint == "choose the prior CT"
    prior, segmentation, (followup,) = add_visits()
    user.choose(prior, segmentation, followup)
    user.run(carried(followup))
    assert len(user.table()) == 1
    followup = prior = segmentation = None
    user.host.close_scene()
    assert user.table() == []
    assert user.table("slicesTable") == []


def test_a_result_never_lands_in_the_next_scene(host: Any, user: Any) -> None:
    """Nodes of the next scene have the ids of those of the last one."""
    from types import ModuleType

    import P2SAMSlicer as module

    assert isinstance(module, ModuleType)
    logic = module.P2SAMSlicerLogic()
    logic._client = worker = FakeWorker()
    prior, segmentation, (followup,) = add_visits()
    ids = [node.GetID() for node in (prior, segmentation, followup)]
    logic.propagate(prior, segmentation, followup, waitForCompletion=False)
    result = carried(followup)
    prior = segmentation = followup = None
    host.close_scene()
    assert [node.GetID() for node in (*add_visits()[:2], add_visits()[2][0])][:2] == ids[:2]
    answer(worker, result)
    host.wait_until(lambda: not logic.running)
    assert "was removed from the scene" in logic.lastRun.problems[0]
    assert results() == []
    logic.close()


def test_reloading_the_module_ends_the_run_and_the_new_panel_works(user: Any, visits: Any) -> None:
    user.apply()
    user.take(user.host.reload(user.widget))
    assert (user.worker.cancelled, user.worker.closed) == (1, 1)
    assert user.ui.applyButton.text == "Propagate"
    assert user.widget._parameterNode.priorVolume is visits[0]
    user.run(carried(visits[2][0]))
    assert len(user.table()) == 1


def test_leaving_the_module_does_not_end_the_run(user: Any, visits: Any) -> None:
    user.apply()
    user.host.select("SegmentEditor")
    answer(user.worker, carried(visits[2][0]))
    user.host.wait_until(lambda: not user.logic.running)
    user.host.select("P2SAMSlicer")
    assert user.ui.applyButton.text == "Propagate"
    assert len(user.table()) == 1


def test_a_second_run_takes_the_place_of_what_nobody_reviewed(user: Any, visits: Any) -> None:
    user.run(carried(visits[2][0]))
    before = kinds_of_nodes()
    user.run(carried(visits[2][0]))
    user.host.process_events()
    assert len(results()) == 1
    after = kinds_of_nodes()
    assert after == before
    assert user.host.dialogs.texts() == []


def test_a_panel_with_results_has_nothing_to_do_while_nobody_touches_it(user: Any, visits: Any) -> None:
    user.run(carried(visits[2][0]))
    for _ in range(5):
        user.host.process_events()
    done: list[int] = []
    read_again = user.widget.panel._review._results.show

    def counted() -> None:
        done.append(1)
        read_again()

    user.widget.panel._review._results.show = counted
    before = kinds_of_nodes()
    user.widget.panel.refresh_soon()
    end = time.monotonic() + 0.5
    user.host.wait_until(lambda: time.monotonic() > end)
    assert len(done) == 1
    assert kinds_of_nodes() == before


def test_a_second_run_of_another_segment_leaves_the_first_ones_contour(user: Any, visits: Any) -> None:
    import qt

    prior, segmentation, (followup,) = visits
    add_segment(segmentation, prior, "node")
    user.widget.enter()
    table = user.ui.carryTable
    table.item(1, 0).setCheckState(qt.Qt.Unchecked)
    user.run(carried(followup, "tumour"))
    table.item(1, 0).setCheckState(qt.Qt.Checked)
    table.item(0, 0).setCheckState(qt.Qt.Unchecked)
    user.run(carried(followup, "node"))
    assert sorted(row[1] for row in user.table()) == ["node", "tumour"]


@pytest.mark.parametrize("edited", [False, True])
def test_an_accepted_or_edited_contour_is_asked_about_and_kept(user: Any, visits: Any, edited: bool) -> None:
    import qt
    import slicer.util
    from P2SAMSlicerLib.mrml.review_nodes import Decision, contours_to_review, decide

    (followup,) = visits[2]
    user.run(carried(followup))
    (kept,) = results()
    (identifier,) = contours_to_review(kept)
    if edited:
        mask = slicer.util.arrayFromSegmentBinaryLabelmap(kept, identifier, followup)
        mask[5] = 0
        slicer.util.updateSegmentBinaryLabelmapFromArray(mask, kept, identifier, followup)
    else:
        user.widget.panel._review.look_at(8)
        user.widget.panel._review.look_at(6)
        decide(kept, identifier, Decision.ACCEPTED, "A. B.", user.widget.panel._review.row.slices)
    user.host.dialogs.answer("message", qt.QMessageBox.Cancel)
    user.click("applyButton")
    assert not user.logic.running
    assert "Phantom follow-up CT propagated: tumour" in user.host.dialogs.texts()[-1]
    assert len(user.worker.sent) == 1
    user.host.dialogs.answer("message", qt.QMessageBox.Ok)
    user.run(carried(followup))
    assert len(results()) == 2
    assert results()[0] is kept
    user.host.dialogs.answer("message", qt.QMessageBox.Ok)
    user.run(carried(followup))
    assert len(results()) == 2
    assert results()[0] is kept


def test_a_contour_carried_from_a_reviewed_result_begins_unreviewed(user: Any) -> None:
    from P2SAMSlicerLib.mrml.review_nodes import Decision, contours_to_review, decide, mark_seen, seen

    prior, segmentation, followups = add_visits(2)
    user.choose(prior, segmentation, followups[0])
    user.run(carried(followups[0]))
    (first,) = results()
    (identifier,) = contours_to_review(first)
    for index in (8, 6):
        mark_seen(first, identifier, index)
    decide(first, identifier, Decision.ACCEPTED, "A. B.", user.widget.panel._review.row.slices)
    user.choose(followups[0], first, followups[1])
    user.host.select("SegmentEditor")  # nothing is looked at while the result comes
    user.host.select("P2SAMSlicer")
    user.widget.panel._review.look_at_next = lambda: None
    user.run(carried(followups[1]))
    second = next(node for node in results() if node is not first)
    (contour,) = contours_to_review(second)
    assert seen(second, contour) == frozenset()
    assert [row[8] for row in user.table() if row[0] == followups[1].GetName()] == ["unreviewed"]


def test_another_run_is_refused_while_one_is_under_way(user: Any, visits: Any) -> None:
    user.apply()
    with pytest.raises(ValueError, match="another run is under way"):
        user.logic.start(user.widget.panel.request(), lambda _progress: None)
    assert len(user.worker.sent) == 1
    user.click("applyButton")


def test_a_full_disk_is_told_and_nothing_runs(user: Any, visits: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from P2SAMSlicerLib.errors import OutputError
    from P2SAMSlicerLib.mrml import propagation_run

    def full(*_arguments: Any) -> None:
        raise OutputError("prior: no space left on the disk")

    monkeypatch.setattr(propagation_run, "hand_over_volume", full)
    user.click("applyButton")
    assert "no space left on the disk" in user.refused()
    assert not user.logic.running
    assert user.ui.applyButton.text == "Propagate"
    assert user.ui.progressBar.isHidden()
