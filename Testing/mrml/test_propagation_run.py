"""A run from nodes to nodes, with a worker that says what the test wants: nothing is shown wrongly, lost or left behind."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from fake_client import FakeClient
from P2SAMSlicerLib.errors import InputError, OutputError
from P2SAMSlicerLib.handover_file import read_handed_segmentation, read_handed_volume
from P2SAMSlicerLib.mrml.prompt_nodes import show_prompts
from P2SAMSlicerLib.mrml.propagation_run import PropagationRun, RunRequest
from P2SAMSlicerLib.mrml.record_nodes import record_of
from P2SAMSlicerLib.mrml.result_nodes import PRIOR_ROLE, is_result
from P2SAMSlicerLib.mrml.review_nodes import contours_to_review
from P2SAMSlicerLib.mrml.segment_nodes import segment_ids
from P2SAMSlicerLib.mrml.volume_nodes import matrix_from_grid, volume_from_node
from P2SAMSlicerLib.options import PropagationOptions
from P2SAMSlicerLib.worker.messages import Progress, Propagate, Refused, WorkerFailed
from prompted_results import prompted
from recorded_slices import followup as small_followup
from recorded_slices import recorded
from runs_in_scene import carried, drawn, finished, visits
from scene_content import add_bent_transform, add_segmentation, add_transform, add_volume, blob, oblique, voxels

pytestmark = pytest.mark.usefixtures("scene")


@pytest.fixture(autouse=True)
def temporary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder for temporary files, in which nothing may be left."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def left_in(folder: Path) -> list[Path]:
    return list(folder.rglob("*"))


def test_the_worker_is_given_what_the_scene_shows(temporary: Path) -> None:
    turned = add_transform(oblique(9, (1.0, 1.0, 1.0)))
    request = visits(2)
    for node in (request.prior, request.segmentation, request.followups[1]):
        node.SetAndObserveTransformNodeID(turned.GetID())
    request = replace(request, model="sam_vit_b", device="cpu", options=PropagationOptions(margin_mm=31.0))
    client = FakeClient()
    run = PropagationRun(client, request)  # type: ignore[arg-type]
    sent = client.request
    assert isinstance(sent, Propagate)
    prior, contours = read_handed_volume(sent.job.prior_ct), read_handed_segmentation(sent.job.prior_seg)
    assert prior.grid.same_as(volume_from_node(request.prior).grid)
    np.testing.assert_array_equal(prior.array, voxels())
    assert contours.names() == ["GTV"]
    assert contours.grid.same_as(prior.grid)
    np.testing.assert_array_equal(contours.segments[0].mask, blob())
    for number, node in enumerate(request.followups):
        followup = read_handed_volume(sent.job.followups[number])
        assert followup.grid.same_as(volume_from_node(node).grid)
        np.testing.assert_array_equal(followup.array, voxels(number + 1))
    assert (sent.job.model, sent.job.device, sent.job.options.margin_mm) == ("sam_vit_b", "cpu", 31.0)
    assert all(temporary in path.parents for path in (sent.job.out, sent.records, sent.job.prior_ct))
    run.cancel()


def test_results_come_to_their_followup_with_their_record_whichever_comes_first(temporary: Path) -> None:
    request, client = visits(3), FakeClient()
    told: list[tuple[str, int, int, str]] = []
    run = PropagationRun(client, request, lambda *step: told.append(step))  # type: ignore[arg-type]
    client.events.append(Progress(client.number, "encode", 3, 9, "slice 3"))
    records = [client.tell_visit(number, carried(request.followups[number], roll=number)) for number in (2, 0)]
    run.poll()
    assert run.running
    assert told == [("encode", 3, 9, "slice 3")]
    assert [node.GetName() for node in run.nodes] == ["visit 3 propagated", "visit 1 propagated"]
    assert not any(record.exists() for record in records if record is not None)
    client.tell_visit(1, None, "visit_2: no body on it")
    client.tell_end("the prior is coarse")
    run.poll()
    assert not run.running
    assert (run.error, run.warnings, run.encoded) == (None, ("the prior is coarse",), 7)
    assert run.problems == ["visit 2: visit_2: no body on it"]
    for node, number in zip(run.nodes, (2, 0), strict=True):
        assert node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole()) == request.followups[number]
        np.testing.assert_array_equal(drawn(node), np.roll(blob(), number, axis=2))
        record = record_of(node)
        assert record is not None
        assert record.summary["segments"][0]["segment"] == "GTV"
    assert left_in(temporary) == []


def wrong(change: Callable[[RunRequest], RunRequest], match: str) -> Any:
    return pytest.param(change, match, id=match[:40])


def with_segment_of_the_same_name(request: RunRequest) -> RunRequest:
    request.segmentation.GetSegmentation().AddEmptySegment("", "GTV")
    return request


def under(node: Callable[[RunRequest], Any]) -> Callable[[RunRequest], RunRequest]:
    def change(request: RunRequest) -> RunRequest:
        node(request).SetAndObserveTransformNodeID(add_bent_transform().GetID())
        return request

    return change


def moved_already(request: RunRequest) -> RunRequest:
    above = add_transform(np.eye(4))
    request.prior.SetAndObserveTransformNodeID(add_transform(np.eye(4), above).GetID())
    return replace(request, transform=above)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        wrong(lambda r: replace(r, prior=None), "choose the prior CT"),
        wrong(lambda r: replace(r, segmentation=None), "choose the segmentation of the prior CT"),
        wrong(lambda r: replace(r, followups=()), "choose at least one follow-up CT"),
        wrong(lambda r: replace(r, followups=(None,)), "choose at least one follow-up CT"),
        wrong(lambda r: replace(r, followups=(*r.followups, r.prior)), "prior visit: is the prior; choose another"),
        wrong(lambda r: replace(r, followups=r.followups * 2), "a follow-up is chosen twice"),
        wrong(lambda r: replace(r, segments=()), "choose at least one segment to carry"),
        wrong(lambda r: replace(r, segments=("nothing",)), "contours: it has no segment 'nothing'"),
        wrong(lambda r: replace(r, segments=tuple(segment_ids(r.segmentation)) * 2), "segment 'GTV' is chosen twice"),
        wrong(with_segment_of_the_same_name, "two segments are called 'GTV': rename one of them"),
        wrong(lambda r: replace(r, options=PropagationOptions(with_model=("GTX",))), "no segment named 'GTX' is carried"),
        wrong(lambda r: replace(r, options=PropagationOptions(margin_mm=-1.0)), "margin-mm"),
        wrong(under(lambda r: r.followups[0]), "visit 1: its parent transform is not linear"),
        wrong(under(lambda r: r.followups[0]), "choose 'Harden transform'$"),
        wrong(lambda r: under(lambda x: x.followups[0])(replace(r, harden=True)), "not linear; harden it first: in the module"),
        wrong(lambda r: under(lambda x: x.followups[0])(replace(r, harden=True)), "choose 'Harden transform'$"),
        wrong(under(lambda r: r.prior), "prior visit: its parent transform is not linear; harden it first"),
        wrong(under(lambda r: r.prior), r"or switch on '.*' \(section Advanced; harden=True in a script\)$"),
        wrong(under(lambda r: r.segmentation), "contours: its parent transform is not linear"),
        wrong(moved_already, "would be moved twice"),
    ],
)
def test_a_wrong_request_is_refused_before_anything_is_written(
    change: Callable[[RunRequest], RunRequest], match: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "mkdtemp", Mock(side_effect=AssertionError("something was written")))
    client = FakeClient()
    with pytest.raises(InputError, match=match):
        PropagationRun(client, change(visits()))  # type: ignore[arg-type]
    assert client.requests == []


def test_a_segmentation_without_segments_or_with_an_empty_one_is_refused(temporary: Path) -> None:
    request = visits()
    request.segmentation.GetSegmentation().RemoveAllSegments()
    with pytest.raises(InputError, match="contours: no segment to carry"):
        PropagationRun(FakeClient(), request)  # type: ignore[arg-type]
    request.segmentation.GetSegmentation().AddEmptySegment("", "GTV")
    with pytest.raises(InputError, match="GTV"):
        PropagationRun(FakeClient(), request)  # type: ignore[arg-type]
    assert left_in(temporary) == []


def test_a_bent_prior_is_refused_or_taken_in_on_request(temporary: Path) -> None:
    request = visits()
    bent = add_bent_transform()
    for node in (request.prior, request.segmentation):
        node.SetAndObserveTransformNodeID(bent.GetID())
    with pytest.raises(InputError, match="prior visit: its parent transform is not linear"):
        PropagationRun(FakeClient(), request)  # type: ignore[arg-type]
    assert left_in(temporary) == []
    client = FakeClient()
    run = PropagationRun(client, replace(request, harden=True))  # type: ignore[arg-type]
    sent = client.request.job
    prior, contours = read_handed_volume(sent.prior_ct), read_handed_segmentation(sent.prior_seg)
    assert prior.grid.same_as(volume_from_node(request.prior, harden=True).grid)
    # The transform moves both by the same length: the contour is on the voxels that it was drawn on.
    straight = volume_from_node(add_volume(oblique(1))).grid
    moved = np.subtract(straight.to_physical(np.zeros((1, 3))), [3.0, 0.0, 0.0])  # 3 mm to the right
    i, j, k = np.rint(prior.grid.to_index(moved)).astype(int)[0]
    lesion = np.argwhere(contours.segments[0].mask).mean(axis=0) - (k, j, i)
    np.testing.assert_allclose(lesion, np.argwhere(blob()).mean(axis=0), atol=0.6)
    assert request.prior.GetParentTransformNode() == request.segmentation.GetParentTransformNode() == bent
    run.cancel()


def test_a_full_disk_at_hand_over_is_told_and_nothing_is_left(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, calls = np.lib.format.write_array, []

    def full(*args: Any, **kwargs: Any) -> None:
        calls.append(args)
        if len(calls) == 3:  # the follow-up: prior and contours were written
            raise OSError(errno.ENOSPC, "No space left on device")
        write(*args, **kwargs)

    monkeypatch.setattr(np.lib.format, "write_array", full)
    client = FakeClient()
    with pytest.raises(OutputError, match="no space left"):
        PropagationRun(client, visits())  # type: ignore[arg-type]
    assert client.requests == []
    assert left_in(temporary) == []


@pytest.mark.parametrize("fault", [InputError("the worker cannot be started"), KeyboardInterrupt(), MemoryError()])
def test_whatever_goes_wrong_when_the_request_is_sent_leaves_nothing_behind(temporary: Path, fault: BaseException) -> None:
    def fail(_request: Any) -> None:
        raise fault

    with pytest.raises(type(fault)):
        PropagationRun(FakeClient(fail), visits())  # type: ignore[arg-type]
    assert left_in(temporary) == []


@pytest.mark.parametrize("end", ["refused", "failed", "cancelled"])
def test_a_run_that_ends_early_says_why_and_keeps_what_was_shown(temporary: Path, end: str) -> None:
    request, client = visits(2), FakeClient()
    run = PropagationRun(client, request)  # type: ignore[arg-type]
    client.tell_visit(0, carried(request.followups[0]))
    run.poll()
    if end == "refused":
        client.events.append(Refused(client.number, "ModelError", "lite_medsam: its weights are not on this computer"))
    elif end == "failed":
        client.events.append(WorkerFailed((client.number,), "the worker has ended", ("line 1", "line 2")))
    else:
        run.cancel()
        run.cancel()
    run.poll()
    assert not run.running
    words = {"refused": "lite_medsam: its weights", "failed": "the worker has ended\nline 1\nline 2", "cancelled": "cancelled"}
    assert run.error is not None
    assert run.error.startswith(words[end])
    assert client.cancelled == (1 if end == "cancelled" else 0)
    assert [node.GetName() for node in run.nodes] == ["visit 1 propagated"]
    assert left_in(temporary) == []


def test_what_was_said_of_other_requests_is_not_taken_for_this_one() -> None:
    request, client = visits(), FakeClient()
    run = PropagationRun(client, request)  # type: ignore[arg-type]
    # A worker that was killed while nothing was asked; the next request started a new one.
    client.events += [WorkerFailed((), "the worker has ended: it was killed"), WorkerFailed((7,), "the worker has ended")]
    client.events += [Refused(7, "InputError", "too late"), Refused(None, "InputError", "not read"), Progress(7, "x", 1, 1)]
    run.poll()
    assert run.running
    client.tell_visit(0, carried(request.followups[0]))
    client.tell_end()
    run.poll()
    assert run.error is None
    assert len(run.nodes) == 1


def test_a_followup_that_was_removed_is_told_and_the_others_are_shown(scene: Any, temporary: Path) -> None:
    request, client = visits(2), FakeClient()
    run = PropagationRun(client, request)  # type: ignore[arg-type]
    answers = [carried(node) for node in request.followups]
    scene.RemoveNode(request.followups[0])
    for number, answer in enumerate(answers):
        client.tell_visit(number, answer)
    client.tell_end()
    run.poll()
    assert run.problems == ["visit 1: was removed from the scene during the run, and so was its result"]
    assert [node.GetName() for node in run.nodes] == ["visit 2 propagated"]
    assert left_in(temporary) == []


def test_a_result_is_not_shown_on_a_node_of_another_scene_that_got_the_same_id(scene: Any) -> None:
    request, client = visits(), FakeClient()
    run = PropagationRun(client, request)  # type: ignore[arg-type]
    answer, identifier = carried(request.followups[0]), request.followups[0].GetID()
    scene.Clear(False)
    others = [add_volume(oblique(50), name="another patient") for _ in range(2)]
    assert identifier in [node.GetID() for node in others]
    client.tell_visit(0, answer)
    client.tell_end()
    run.poll()
    assert run.nodes == []
    assert run.problems == ["visit 1: was removed from the scene during the run, and so was its result"]


def test_without_the_priors_segmentation_the_contours_are_shown_all_the_same(scene: Any) -> None:
    request, client = visits(), FakeClient()
    run = PropagationRun(client, request)  # type: ignore[arg-type]
    scene.RemoveNode(request.segmentation)
    client.tell_visit(0, carried(request.followups[0]))
    client.tell_end()
    run.poll()
    (node,) = run.nodes
    assert run.problems == []
    assert len(contours_to_review(node)) == 1
    assert is_result(node)  # and no contour that a physician drew


def test_a_result_stays_one_when_its_prior_is_removed_later(scene: Any) -> None:
    request = visits()
    (node,) = finished(request, FakeClient()).nodes
    scene.RemoveNode(request.segmentation)
    assert node.GetNodeReferenceID(PRIOR_ROLE) is None
    assert is_result(node)
    assert not is_result(add_segmentation(request.prior, {"GTV": blob()}))


@pytest.mark.parametrize("damage", ["missing", "cut short", "of other voxels"])
def test_a_result_that_cannot_be_shown_is_told_and_the_run_goes_on_to_its_end(scene: Any, temporary: Path, damage: str) -> None:
    request, client = visits(2), FakeClient()
    run = PropagationRun(client, request)  # type: ignore[arg-type]
    record = client.tell_visit(0, carried(request.followups[0]))
    assert record is not None
    if damage == "missing":
        record.unlink()
    elif damage == "cut short":
        record.write_bytes(record.read_bytes()[:-200])
    else:
        import slicer.util

        slicer.util.updateVolumeFromArray(request.followups[0], np.zeros((3, 4, 5), dtype=np.int16))
    client.tell_visit(1, carried(request.followups[1]))
    client.tell_end()
    run.poll()
    assert not run.running
    assert len(run.problems) == 1
    assert run.problems[0].startswith("visit 1: its result cannot be shown; ")
    assert [node.GetName() for node in run.nodes] == ["visit 2 propagated"]
    assert scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 2
    assert left_in(temporary) == []


def test_a_parent_transform_that_changes_during_the_run_leaves_the_contour_on_its_voxels() -> None:
    import slicer.util

    request, client = visits(), FakeClient()
    parent = add_transform(oblique(5, (1.0, 1.0, 1.0)))
    (followup,) = request.followups
    followup.SetAndObserveTransformNodeID(parent.GetID())
    run = PropagationRun(client, request)  # type: ignore[arg-type]
    client.tell_visit(0, carried(followup))
    slicer.util.updateTransformMatrixFromArray(parent, oblique(8, (1.0, 1.0, 1.0)))
    client.tell_end()
    run.poll()
    assert run.problems == []
    (node,) = run.nodes
    np.testing.assert_array_equal(drawn(node), np.roll(blob(), 1, axis=2))
    assert node.GetTransformNodeID() == parent.GetID()


def test_slices_recorded_before_a_followup_was_turned_over_are_not_shown_mirrored() -> None:
    import slicer.util

    volume = small_followup()
    parent = add_transform(np.eye(4))
    prior = add_volume(oblique(1), name="prior visit")
    followup = add_volume(matrix_from_grid(volume.grid), parent, volume.array)
    request, client = RunRequest(prior, add_segmentation(prior, {"GTV": blob()}), (followup,)), FakeClient()
    run = PropagationRun(client, request)  # type: ignore[arg-type]
    slices = tuple(prompted(each) for each in recorded(volume))
    mask = np.zeros(volume.grid.shape, dtype=bool)
    mask[3, 25:35, 20:30] = True
    client.tell_visit(0, carried(followup, slices=slices, mask=mask, registered_mask=mask))
    client.tell_end()
    slicer.util.updateTransformMatrixFromArray(parent, np.diag([-1.0, 1.0, -1.0, 1.0]))
    run.poll()
    (node,) = run.nodes
    with pytest.raises(InputError, match="was turned or resized since the contours were carried"):
        show_prompts(node, slices)


def test_a_scene_that_is_closed_in_the_midst_gets_nothing_and_the_run_comes_to_its_end(scene: Any, temporary: Path) -> None:
    request, client = visits(2), FakeClient()
    run = PropagationRun(client, request)  # type: ignore[arg-type]
    answers = [carried(node) for node in request.followups]
    client.tell_visit(0, answers[0])
    run.poll()
    scene.Clear(True)
    client.tell_visit(1, answers[1])
    client.tell_end()
    run.poll()
    assert not run.running
    assert run.problems == ["visit 2: was removed from the scene during the run, and so was its result"]
    assert scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 0
    assert left_in(temporary) == []
