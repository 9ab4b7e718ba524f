"""The logic from the Python console, without the panel."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from panel_user import MODULE
from phantom_results import add_segment, add_visits, carried
from scripted_worker import FakeWorker, answer


@pytest.fixture
def logic(host: Any) -> Iterator[Any]:
    """A logic of its own, with a fake worker."""
    module = sys.modules.get("P2SAMSlicer")
    spec = importlib.util.spec_from_file_location("P2SAMSlicer", MODULE)
    assert spec is not None
    assert spec.loader is not None
    python = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(python)
    assert module is sys.modules.get("P2SAMSlicer"), "loading the file changed what is loaded"
    made = python.P2SAMSlicerLogic()
    made._client = FakeWorker()
    yield made
    made.close()


def answer_when_asked(logic: Any, *answers: Callable[[FakeWorker], None]) -> None:
    """Let the fake worker answer with each poll in turn: a script waits inside of ``propagate``."""
    left = list(answers)
    poll = logic._client.poll

    def polled() -> list[Any]:
        if left:
            left.pop(0)(logic._client)
        events: list[Any] = poll()
        return events

    logic._client.poll = polled


def test_propagate_waits_and_gives_the_nodes(logic: Any) -> None:
    prior, segmentation, followups = add_visits(2)
    told: list[Any] = []
    results = [carried(node) for node in followups]
    answer_when_asked(logic, lambda worker: worker.progress("encode", 1, 4), lambda worker: answer(worker, *results))
    nodes = logic.propagate(prior, segmentation, followups, progressCallback=told.append)
    assert [node.GetName() for node in nodes] == ["Phantom follow-up CT propagated", "Phantom follow-up CT 2 propagated"]
    assert [(each.stage, each.done, each.total) for each in told] == [("encoding slices", 1, 4)]
    assert 0 < told[0].share < 1


def test_what_the_panel_has_under_advanced_can_be_said_in_a_script(logic: Any) -> None:
    prior, segmentation, (followup,) = add_visits()
    answer_when_asked(logic, lambda worker: answer(worker, carried(followup)))
    logic.propagate(prior, segmentation, followup, device="cpu", model="sam_vit_b")
    job = logic._client.asked.job
    assert (job.device, job.model) == ("cpu", "sam_vit_b")
    with pytest.raises(TypeError, match="devise"):
        logic.propagate(prior, segmentation, followup, devise="cpu")
    assert not logic.running


def test_propagate_returns_at_once_if_it_shall_not_wait(host: Any, logic: Any) -> None:
    prior, segmentation, (followup,) = add_visits()
    assert logic.propagate(prior, segmentation, followup, waitForCompletion=False) == []
    assert logic.running
    answer(logic._client, carried(followup))
    host.wait_until(lambda: not logic.running)
    (node,) = logic.lastRun.nodes
    assert node.GetName() == "Phantom follow-up CT propagated"
    host.wait_until(lambda: logic._timer is None)


def test_segments_may_be_chosen_by_id_one_or_several(logic: Any) -> None:
    prior, segmentation, (followup,) = add_visits()
    identifier = add_segment(segmentation, prior, "node")
    for given in (identifier, [identifier], (identifier,)):
        answer_when_asked(logic, lambda worker: answer(worker, carried(followup, "node")))
        logic.propagate(prior, segmentation, followup, segmentIDs=given)
        assert logic.lastRun._ids == {"node": identifier}


@pytest.mark.parametrize("absent", [0, 1, 2, 3])
def test_what_cannot_be_run_is_a_value_error(logic: Any, absent: int) -> None:
    prior, segmentation, (followup,) = add_visits()
    given = [prior, segmentation, followup]
    if absent < 3:
        given[absent] = None
    else:
        given[2] = []
    with pytest.raises(ValueError, match="choose"):
        logic.propagate(*given)
    assert not logic.running
    assert logic._client.sent == []


def test_unknown_segments_and_options_are_value_errors(logic: Any) -> None:
    from P2SAMSlicerLib.options import PropagationOptions

    prior, segmentation, (followup,) = add_visits()
    with pytest.raises(ValueError, match="it has no segment 'tumor'"):
        logic.propagate(prior, segmentation, followup, segmentIDs=["tumor"])
    with pytest.raises(ValueError, match="no segment named 'Heart' is carried"):
        logic.propagate(prior, segmentation, followup, options=PropagationOptions(registration_only=("Heart",)))
    with pytest.raises(ValueError, match="a follow-up is chosen twice"):
        logic.propagate(prior, segmentation, [followup, followup])


def test_a_follow_up_without_result_is_a_runtime_error_and_the_others_are_kept(logic: Any) -> None:
    prior, segmentation, followups = add_visits(2)
    result = carried(followups[1])
    answer_when_asked(logic, lambda worker: answer(worker, "it is another part of the body", result))
    with pytest.raises(RuntimeError, match="Phantom follow-up CT: it is another part of the body"):
        logic.propagate(prior, segmentation, followups)
    assert [node.GetName() for node in logic.lastRun.nodes] == ["Phantom follow-up CT 2 propagated"]


def test_a_worker_that_dies_is_a_runtime_error_with_its_last_words(logic: Any) -> None:
    prior, segmentation, (followup,) = add_visits()
    answer_when_asked(logic, lambda worker: worker.fail("the worker has ended", "last words"))
    with pytest.raises(RuntimeError, match="the worker has ended\nlast words"):
        logic.propagate(prior, segmentation, followup)


def test_an_error_in_the_scripts_own_callback_reaches_it_and_does_not_lose_the_run(host: Any, logic: Any) -> None:
    prior, segmentation, (followup,) = add_visits()

    def broken(_progress: Any) -> None:
        raise ZeroDivisionError("in the script")

    result = carried(followup)

    def told(worker: FakeWorker) -> None:
        worker.progress("encode", 1, 4)
        answer(worker, result)

    answer_when_asked(logic, told)
    with pytest.raises(ZeroDivisionError):
        logic.propagate(prior, segmentation, followup, progressCallback=broken)
    assert len(logic.waitForRun()) == 1


def test_a_script_that_is_interrupted_can_cancel(logic: Any) -> None:
    prior, segmentation, (followup,) = add_visits()

    def interrupted(_worker: FakeWorker) -> None:
        raise KeyboardInterrupt

    answer_when_asked(logic, interrupted)
    with pytest.raises(KeyboardInterrupt):
        logic.propagate(prior, segmentation, followup)
    logic.cancel()
    assert logic._client.cancelled == 1
    answer_when_asked(logic, lambda worker: answer(worker, carried(followup)))
    assert len(logic.propagate(prior, segmentation, followup)) == 1


def test_a_patients_contours_are_carried_to_all_later_visits(logic: Any) -> None:
    import slicer

    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    patient = hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), "somebody")
    prior, segmentation, followups = add_visits(2)
    date = slicer.vtkMRMLSubjectHierarchyConstants.GetDICOMStudyDateAttributeName()
    for number, nodes in enumerate(((followups[1],), (prior, segmentation), (followups[0],))):
        study = hierarchy.CreateStudyItem(patient, f"study {number}")
        hierarchy.SetItemAttribute(study, date, ("20240301", "20240101", "20240201")[number])
        for node in nodes:
            hierarchy.CreateItem(study, node)
    results = [carried(followups[0]), carried(followups[1])]
    answer_when_asked(logic, lambda worker: answer(worker, *results))
    nodes = logic.propagatePatient("somebody")
    assert [node.GetName() for node in nodes] == ["Phantom follow-up CT propagated", "Phantom follow-up CT 2 propagated"]
    for node, followup in zip(nodes, followups, strict=True):
        item = hierarchy.GetItemByDataNode(node)
        assert hierarchy.GetItemParent(item) == hierarchy.GetItemParent(hierarchy.GetItemByDataNode(followup))
    with pytest.raises(ValueError, match="0 patients of that name"):
        logic.propagatePatient("nobody")


def test_a_run_at_a_time(logic: Any) -> None:
    prior, segmentation, (followup,) = add_visits()
    logic.propagate(prior, segmentation, followup, waitForCompletion=False)
    with pytest.raises(ValueError, match="another run is under way"):
        logic.propagate(prior, segmentation, followup, waitForCompletion=False)
    assert len(logic._client.sent) == 1
