"""Edited prompts go to the worker, and its answer changes what it should, and not one voxel or mark besides."""

from __future__ import annotations

import errno
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_client import FakeClient
from P2SAMSlicerLib.edited_contour import apply_to_mask
from P2SAMSlicerLib.edited_prompts import EDITED, EditedPrompts
from P2SAMSlicerLib.errors import InputError, OutputError
from P2SAMSlicerLib.handover_file import hand_over_segmentation, read_handed_segmentation, read_handed_volume
from P2SAMSlicerLib.mrml.prompt_nodes import NEGATIVE_ROLE, POSITIVE_ROLE, edited_prompts, show_prompts
from P2SAMSlicerLib.mrml.prompt_update import ModelChoice, PromptUpdates
from P2SAMSlicerLib.mrml.propagation_run import PropagationRun, RunRequest
from P2SAMSlicerLib.mrml.record_nodes import RECORD_ROLE, record_of
from P2SAMSlicerLib.mrml.review_nodes import contours_to_review, mark_seen, review_state, seen, touched_segments
from P2SAMSlicerLib.mrml.sample_visits import add_phantom_visits
from P2SAMSlicerLib.mrml.segment_masks import read_mask, write_mask
from P2SAMSlicerLib.mrml.slice_places import SlicePlaces
from P2SAMSlicerLib.mrml.volume_nodes import volume_from_node
from P2SAMSlicerLib.options import PropagationOptions
from P2SAMSlicerLib.result import SliceResult
from P2SAMSlicerLib.worker.client import WorkerClient
from P2SAMSlicerLib.worker.messages import Refused, Update, Updated, WorkerFailed
from prompted_results import followup_of, result_in_scene, two_lesions, visit
from scene_content import add_transform, oblique

pytestmark = pytest.mark.usefixtures("scene")

MODEL = ModelChoice("lite_medsam", device="cpu")
#: A run of the real worker that decodes little.
FEW = PropagationOptions(registration="none", max_parts=1, negatives=(1,))


@pytest.fixture(autouse=True)
def temporary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder for temporary files, in which nothing may be left."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def client() -> FakeClient:
    return FakeClient()


@pytest.fixture
def updates(client: FakeClient) -> Iterator[PromptUpdates]:
    made = PromptUpdates(client)  # type: ignore[arg-type]
    yield made
    made.close()


def with_contour(each: SliceResult, radius: float = 20.0) -> SliceResult:
    """The slice with a new chosen contour, a disc about the middle of the old one."""
    (first, *_) = each.candidates
    rows, columns = np.indices(first.mask.shape)
    y, x = np.argwhere(first.mask).mean(axis=0)
    disc = np.hypot(columns - x, rows - y) < radius
    made = replace(first, origin=EDITED, mask=disc)
    return replace(each, candidates=(*each.candidates, made), chosen=len(each.candidates), review_priority=0.9)


def answer(client: FakeClient, *changed: SliceResult, notes: tuple[str, ...] = ()) -> Path:
    """What the worker makes of the latest request: these slices with their new contour."""
    request = client.request
    assert isinstance(request, Update)
    contour = read_handed_segmentation(request.mask)
    mask = apply_to_mask(contour.segments[0].mask, contour.grid, changed, request.slices)
    request.out.mkdir(parents=True, exist_ok=True)
    path = request.out / f"contour_{client.number}.p2sam-segments"
    hand_over_segmentation(replace(contour, segments=(replace(contour.segments[0], mask=mask),)), path)
    client.events.append(Updated(client.number, changed, path, notes, 0.25, 0))
    return path


def an_edit(each: SliceResult) -> EditedPrompts:
    return EditedPrompts(each.index, np.array([[9.0, 9.0]], np.float32), np.array([1]), None, each.lesion)


def contour_of(node: Any) -> Any:
    (identifier,) = contours_to_review(node)
    return read_mask(node, identifier, followup_of(node))


def identifier_of(node: Any) -> str:
    (identifier,) = contours_to_review(node)
    return identifier


def test_the_record_has_the_figures_of_the_contour_now_and_the_judgement_of_its_neighbours(
    client: FakeClient, updates: PromptUpdates
) -> None:
    volume, mask, slices = visit()
    node = result_in_scene(volume, mask, slices)
    identifier = identifier_of(node)
    for each in slices:
        mark_seen(node, identifier, each.index)
    recorded = record_of(node)
    assert recorded is not None
    (before,) = recorded.summary["segments"]
    updates.start(node, identifier, [an_edit(slices[1])], MODEL)
    judged = replace(slices[2], review_priority=0.97)
    answer(client, with_contour(slices[1]))
    told = client.events[-1]
    assert isinstance(told, Updated)
    client.events[-1] = replace(told, judged=(judged,))
    updates.poll()
    assert updates.error is None
    record = record_of(node)
    assert record is not None
    (entry,) = record.summary["segments"]
    drawn = contour_of(node)
    assert entry["volume_ml"] == pytest.approx(drawn.sum() * volume.grid.voxel_ml)
    assert entry["volume_change_percent"] == pytest.approx(100 * (entry["volume_ml"] / before["prior_volume_ml"] - 1))
    assert len(entry["centroid_shift_mm"]) == 3
    assert entry["review_priority"] >= 0.9
    assert {key: entry[key] for key in ("segment", "outcome", "reasons")} == {
        key: before[key] for key in ("segment", "outcome", "reasons")
    }
    found = {each.index: each.review_priority for each in record.slices["GTV"]}
    assert found[slices[1].index] == 0.9
    assert found[slices[2].index] == 0.97
    # Its contour is as it was: whoever looked at it need not look again.
    assert seen(node, identifier) == {each.index for each in slices} - {slices[1].index}


@pytest.mark.parametrize("storage", [((0, 1, 2), (False,) * 3), ((2, 0, 1), (True, False, True))])
def test_only_the_slice_and_its_neighbour_change_to_the_voxel(client: FakeClient, updates: PromptUpdates, storage: Any) -> None:
    volume, mask, slices = visit(storage=storage)
    node = result_in_scene(volume, mask, slices, add_transform(oblique(4, (1.0, 1.0, 1.0))))
    identifier = identifier_of(node)
    for each in slices:
        mark_seen(node, identifier, each.index)
    before = contour_of(node)
    updates.start(node, identifier, [an_edit(slices[1])], MODEL)
    assert updates.running
    sent = client.request
    assert [each.index for each in sent.slices] == [each.index for each in slices]
    assert sent.edits[0].index == slices[1].index
    assert (sent.model, sent.device) == ("lite_medsam", "cpu")
    followup = read_handed_volume(sent.followup)
    np.testing.assert_array_equal(followup.array, volume.array)
    assert followup.grid.same_as(volume.grid, 1e-2)
    np.testing.assert_array_equal(read_handed_segmentation(sent.mask).segments[0].mask, mask)
    updates.poll()
    assert updates.running
    changed = (with_contour(slices[1]), with_contour(slices[2], 15.0))
    path = answer(client, *changed, notes=("slice 3: told",))
    updates.poll()
    assert not updates.running
    assert (updates.error, updates.notes, updates.seconds, updates.encoded) == (None, ("slice 3: told",), 0.25, 0)
    assert not path.exists()
    after = contour_of(node)
    np.testing.assert_array_equal(after, apply_to_mask(before, followup.grid, changed, slices))
    axis = SlicePlaces.of(followup_of(node)).axis
    touched = np.flatnonzero((after != before).any(axis=tuple(a for a in range(3) if a != axis)))
    assert sorted(touched) == sorted((slices[1].index, slices[2].index))
    # The registered contour for comparison stays what it was.
    record = record_of(node)
    assert record is not None
    assert [each.best is not None and each.best.origin for each in record.slices["GTV"]] == ["parts 2 + box", EDITED, EDITED]
    assert [each.review_priority for each in record.slices["GTV"]] == [0.5, 0.9, 0.9]
    assert seen(node, identifier) == {slices[0].index}
    assert review_state(node, identifier).edited
    assert touched_segments(node) == ["GTV"]


def test_a_record_keeps_the_other_lesion_of_a_changed_slice(client: FakeClient, updates: PromptUpdates) -> None:
    volume, mask, slices = two_lesions()
    node = result_in_scene(volume, mask, slices)
    second = next(each for each in slices if each.lesion == 2)
    updates.start(node, identifier_of(node), [an_edit(second)], MODEL)
    answer(client, with_contour(second))
    updates.poll()
    record = record_of(node)
    assert record is not None
    kept = {(each.lesion, each.index): each for each in record.slices["GTV"]}
    assert len(kept) == len(slices)
    edited = {key for key, each in kept.items() if each.best is not None and each.best.origin == EDITED}
    assert edited == {(2, second.index)}


def test_a_followup_is_handed_over_once_and_again_only_after_it_changed(client: FakeClient, updates: PromptUpdates) -> None:
    import slicer.util

    volume, mask, slices = visit()
    parent = add_transform(np.eye(4))
    node = result_in_scene(volume, mask, slices, parent)
    files = []

    def update() -> Path:
        updates.start(node, identifier_of(node), [an_edit(slices[0])], MODEL)
        given = client.request.followup
        files.append((given, given.stat().st_mtime_ns))
        answer(client, with_contour(slices[0]))
        updates.poll()
        assert updates.error is None
        return Path(given)

    first = update()
    assert update() == first
    assert files[0] == files[1]
    values = slicer.util.arrayFromVolume(followup_of(node))
    values[0, 0, 0] = 77
    slicer.util.arrayFromVolumeModified(followup_of(node))
    second = update()
    assert read_handed_volume(second).array[0, 0, 0] == 77
    assert not first.exists()
    slicer.util.updateTransformMatrixFromArray(parent, np.array([[1, 0, 0, 5], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]))
    third = update()
    assert read_handed_volume(third).grid.same_as(volume_from_node(followup_of(node)).grid)
    assert len(list(third.parent.glob("*.p2sam-volume"))) == 1


def test_what_a_person_painted_while_the_worker_answered_is_not_lost(client: FakeClient, updates: PromptUpdates) -> None:
    volume, mask, slices = visit()
    node = result_in_scene(volume, mask, slices)
    updates.start(node, identifier_of(node), [an_edit(slices[1])], MODEL)
    painted = contour_of(node)
    painted[0, 50:55, 3:8] = True
    painted[4] = False
    write_mask(painted, node, identifier_of(node), followup_of(node))
    answer(client, with_contour(slices[1]))
    updates.poll()
    after = contour_of(node)
    np.testing.assert_array_equal(after[[0, 1, 2, 4, 5, 6]], painted[[0, 1, 2, 4, 5, 6]])
    assert (after[3] != painted[3]).any()


def test_nothing_edited_no_record_a_second_update_and_a_lost_followup_are_refused(
    client: FakeClient, updates: PromptUpdates, scene: Any, temporary: Path
) -> None:
    volume, mask, slices = visit()
    node = result_in_scene(volume, mask, slices)
    identifier = identifier_of(node)
    with pytest.raises(InputError, match="no point or box was changed"):
        updates.start(node, identifier, [], MODEL)
    updates.start(node, identifier, [an_edit(slices[0])], MODEL)
    with pytest.raises(InputError, match="an update is under way"):
        updates.start(node, identifier, [an_edit(slices[0])], MODEL)
    answer(client, with_contour(slices[0]))
    updates.poll()
    scene.RemoveNode(followup_of(node))
    with pytest.raises(InputError, match="its follow-up volume is no longer in the scene"):
        updates.start(node, identifier, [an_edit(slices[0])], MODEL)
    scene.RemoveNode(node.GetNodeReference(RECORD_ROLE))
    with pytest.raises(InputError, match="nothing is recorded of its prompts"):
        updates.start(node, identifier, [an_edit(slices[0])], MODEL)
    assert len(client.requests) == 1
    updates.close()
    assert list(temporary.iterdir()) == []


def test_a_followup_that_was_turned_over_since_is_refused(client: FakeClient, updates: PromptUpdates) -> None:
    import slicer.util

    volume, mask, slices = visit()
    parent = add_transform(np.eye(4))
    node = result_in_scene(volume, mask, slices, parent)
    slicer.util.updateTransformMatrixFromArray(parent, np.diag([1.0, -1.0, -1.0, 1.0]))
    with pytest.raises(InputError, match="was turned or resized since"):
        updates.start(node, identifier_of(node), [an_edit(slices[0])], MODEL)
    assert client.requests == []


def test_a_full_disk_is_told_and_the_next_update_works(
    client: FakeClient, updates: PromptUpdates, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume, mask, slices = visit()
    node = result_in_scene(volume, mask, slices)

    def full(*_args: Any, **_kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(np.lib.format, "write_array", full)
        with pytest.raises(OutputError, match="no space left"):
            updates.start(node, identifier_of(node), [an_edit(slices[0])], MODEL)
    assert not updates.running
    updates.start(node, identifier_of(node), [an_edit(slices[0])], MODEL)
    answer(client, with_contour(slices[0]))
    updates.poll()
    assert updates.error is None


def remove_node(node: Any) -> None:
    import slicer

    slicer.mrmlScene.RemoveNode(node)


def remove_segment(node: Any) -> None:
    node.GetSegmentation().RemoveSegment(identifier_of(node))


def remove_followup(node: Any) -> None:
    remove_node(followup_of(node))


def replace_followup(node: Any) -> None:
    import slicer.util

    slicer.util.updateVolumeFromArray(followup_of(node), np.zeros((3, 4, 5), np.int16))


def remove_record(node: Any) -> None:
    remove_node(node.GetNodeReference(RECORD_ROLE))


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (remove_node, "the contour was removed from the scene meanwhile"),
        (remove_segment, "the contour was removed from the scene meanwhile"),
        (remove_followup, "visit propagated: its follow-up was removed from the scene meanwhile"),
        (replace_followup, "visit propagated: its follow-up was replaced meanwhile"),
        (remove_record, "visit propagated: nothing is recorded of 'GTV'"),
    ],
)
def test_an_answer_without_its_place_is_told_and_changes_nothing(
    client: FakeClient, updates: PromptUpdates, harm: Callable[[Any], None], words: str
) -> None:
    volume, mask, slices = visit()
    node = result_in_scene(volume, mask, slices)
    updates.start(node, identifier_of(node), [an_edit(slices[1])], MODEL)
    answer(client, with_contour(slices[1]))
    harm(node)
    updates.poll()
    assert not updates.running
    assert updates.error == words
    assert updates.seconds is None
    if harm is remove_record:
        np.testing.assert_array_equal(contour_of(node), mask)


def test_an_answer_does_not_go_to_a_node_of_another_scene_with_the_same_id(
    client: FakeClient, updates: PromptUpdates, scene: Any
) -> None:
    volume, mask, slices = visit()
    node = result_in_scene(volume, mask, slices)
    updates.start(node, identifier_of(node), [an_edit(slices[1])], MODEL)
    answer(client, with_contour(slices[1]))
    identifier = node.GetID()
    scene.Clear(False)
    other = result_in_scene(volume, mask, slices)
    assert other.GetID() == identifier
    updates.poll()
    assert updates.error == "the contour was removed from the scene meanwhile"
    np.testing.assert_array_equal(contour_of(other), mask)


@pytest.mark.parametrize(("damage", "words"), [("missing", "no such file"), ("cut short", "cannot be read (damaged)")])
def test_an_answer_that_cannot_be_read_is_told_as_a_failure(
    client: FakeClient, updates: PromptUpdates, damage: str, words: str
) -> None:
    volume, mask, slices = visit()
    node = result_in_scene(volume, mask, slices)
    updates.start(node, identifier_of(node), [an_edit(slices[1])], MODEL)
    path = answer(client, with_contour(slices[1]))
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-9])
    updates.poll()
    assert updates.error is not None
    assert words in updates.error
    assert updates.seconds is None
    np.testing.assert_array_equal(contour_of(node), mask)
    record = record_of(node)
    assert record is not None
    assert all(each.best is None or each.best.origin != EDITED for each in record.slices["GTV"])


def test_a_refusal_and_a_dead_worker_are_told_and_those_of_other_requests_are_not(
    client: FakeClient, updates: PromptUpdates
) -> None:
    volume, mask, slices = visit()
    node = result_in_scene(volume, mask, slices)
    updates.start(node, identifier_of(node), [an_edit(slices[1])], MODEL)
    client.events += [WorkerFailed((), "died before"), Refused(3, "InputError", "of another"), Refused(None, "InputError", "?")]
    updates.poll()
    assert updates.running
    client.events.append(Refused(client.number, "InputError", "slice 3, lesion 1: the box is empty"))
    updates.poll()
    assert updates.error == "slice 3, lesion 1: the box is empty"
    updates.start(node, identifier_of(node), [an_edit(slices[1])], MODEL)
    assert updates.error is None
    client.events.append(WorkerFailed((client.number,), "the worker has ended", ("out of memory",)))
    updates.poll()
    assert updates.error == "the worker has ended\nout of memory"
    assert not updates.running
    np.testing.assert_array_equal(contour_of(node), mask)


def test_closing_ends_what_is_under_way_and_leaves_no_folder(
    client: FakeClient, updates: PromptUpdates, temporary: Path
) -> None:
    volume, mask, slices = visit()
    node = result_in_scene(volume, mask, slices)
    updates.start(node, identifier_of(node), [an_edit(slices[1])], MODEL)
    answer(client, with_contour(slices[1]))
    updates.close()
    updates.close()
    # A worker that goes on would make the folder again, with a patient's contour in it.
    assert client.cancelled == 1
    assert list(temporary.iterdir()) == []
    updates.poll()
    np.testing.assert_array_equal(contour_of(node), mask)
    updates.start(node, identifier_of(node), [an_edit(slices[1])], MODEL)
    answer(client, with_contour(slices[1]))
    updates.poll()
    assert updates.error is None


@pytest.mark.long  # Testing/gui/test_module_real_worker.py does the same by clicks
def test_the_real_worker_carries_the_phantom_and_updates_a_slice_without_encoding_again(temporary: Path) -> None:
    prior, contours, followup = add_phantom_visits()
    with WorkerClient(sys.executable) as worker:
        run = PropagationRun(worker, RunRequest(prior, contours, (followup,), options=FEW, device="cpu"))
        wait_for(lambda: run.running, run.poll)
        assert run.error is None, run.error
        assert run.problems == []
        (node,) = run.nodes
        truth = read_mask(contours, contours.GetSegmentation().GetNthSegmentID(0), prior)
        before = contour_of(node)
        assert 2.0 * (before & truth).sum() / (before.sum() + truth.sum()) > 0.85
        record = record_of(node)
        assert record is not None
        slices = record.slices["tumour"]
        middle = slices[len(slices) // 2]
        show_prompts(node, slices)
        assert edited_prompts(node, slices, None) == []
        # A click in the tumour, and one just outside of it on the left.
        node.GetNodeReference(POSITIVE_ROLE).AddControlPointWorld(*SlicePlaces.of(followup).centre(middle.index, before))
        right, anterior, superior = SlicePlaces.of(followup).centre(middle.index, before)
        node.GetNodeReference(NEGATIVE_ROLE).AddControlPointWorld(right - 22.0, anterior, superior)
        edits = edited_prompts(node, slices, None)
        assert [each.index for each in edits] == [middle.index]
        updates = PromptUpdates(worker)
        updates.start(
            node, identifier_of(node), edits, ModelChoice(RunRequest(prior, contours, (followup,)).model, device="cpu")
        )
        wait_for(lambda: updates.running, updates.poll)
        assert updates.error is None, updates.error
        assert updates.encoded == 0
        updates.close()
        after = contour_of(node)
        changed = np.flatnonzero((after != before).any(axis=(1, 2)))
        assert set(changed) <= {middle.index - 1, middle.index, middle.index + 1}
        record = record_of(node)
        assert record is not None
        (now,) = [each for each in record.slices["tumour"] if each.index == middle.index]
        assert now.best is not None
        assert now.best.origin == EDITED
    assert list(temporary.iterdir()) == []


def wait_for(running: Callable[[], bool], poll: Callable[[], None], seconds: float = 600.0) -> None:
    deadline = time.monotonic() + seconds
    while running():
        assert time.monotonic() < deadline, "the worker does not answer"
        poll()
        time.sleep(0.02)
