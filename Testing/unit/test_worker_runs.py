"""Runs and updates in the worker: the engine's own result, and nothing is encoded twice."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from P2SAMSlicerLib import review
from P2SAMSlicerLib.edited_prompts import EDITED, EditedPrompts
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.handover_file import (
    SEGMENTATION_SUFFIX,
    VOLUME_SUFFIX,
    hand_over_segmentation,
    hand_over_volume,
    read_handed_segmentation,
)
from P2SAMSlicerLib.options import PropagationOptions
from P2SAMSlicerLib.propagation import propagate
from P2SAMSlicerLib.result import SegmentResult, SliceResult
from P2SAMSlicerLib.slice_plane import canonical_index
from P2SAMSlicerLib.visit_record import read_visit
from P2SAMSlicerLib.volume import Segment, Segmentation, Volume
from P2SAMSlicerLib.worker.client import WorkerClient
from P2SAMSlicerLib.worker.handover import hand_over_job
from P2SAMSlicerLib.worker.messages import Clear, Event, Finished, Propagate, Refused, Update, Updated
from small_body import body, ellipsoid
from stub_model import BrightnessModel
from test_visit_record import assert_equal

FAKE = Path(__file__).with_name("fake_worker.py")
SECONDS = 300.0
#: A body of few slices: thick ones.
THICK = Grid((15, 80, 90), (2.0, 2.0, 8.0), (-89.0, -79.0, -58.0))
STILL = PropagationOptions(registration="none", max_parts=2)


@pytest.fixture(scope="module")
def visit() -> tuple[Volume, Segmentation, Volume]:
    lesion = ellipsoid(THICK)
    return (
        body([lesion], THICK),
        Segmentation(THICK, (Segment("GTV", lesion),)),
        replace(body([lesion], THICK, seed=8), name="later"),
    )


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def answer(client: WorkerClient, request: Propagate | Update | Clear) -> Event:
    client.send(request)
    return client.wait(SECONDS)[-1]


def segment_of(event: Event) -> SegmentResult:
    assert isinstance(event, Finished), event
    record = event.visits[0].record
    assert record is not None
    return read_visit(record).segments[0]


def update_of(folder: Path, result: SegmentResult, grid: Grid, edits: Sequence[EditedPrompts]) -> Update:
    """Hand the present contour over."""
    assert result.mask is not None
    mask = folder / f"present{SEGMENTATION_SUFFIX}"
    hand_over_segmentation(Segmentation(grid, (replace(result.source, mask=result.mask),)), mask)
    return Update(folder / f"followup_1{VOLUME_SUFFIX}", result.slices, tuple(edits), mask, folder / "updates")


def click(result: SegmentResult) -> EditedPrompts:
    """A point in the lesion's middle and one outside, on its middle slice."""
    chosen = [each for each in result.slices if each.best is not None and each.best.mask.any()]
    middle = chosen[len(chosen) // 2]
    assert middle.best is not None
    rows, columns = np.nonzero(middle.best.mask)
    points = np.array([[columns.mean(), rows.mean()], [3.0, 3.0]], np.float32)
    box = np.array([columns.min(), rows.min(), columns.max(), rows.max()], np.float32)
    return EditedPrompts(middle.index, points, np.array([1, 0]), box, middle.lesion)


def slice_of(result: SegmentResult, index: int) -> SliceResult:
    return next(each for each in result.slices if each.index == index)


def assert_a_smaller_box_has_the_neighbours_judged_again(
    client: WorkerClient, folder: Path, result: SegmentResult, edit: EditedPrompts
) -> None:
    """A contour that becomes smaller on one slice differs from those beside it, which stay."""
    assert edit.box is not None
    middle, side = edit.box.reshape(2, 2).mean(axis=0), np.diff(edit.box.reshape(2, 2), axis=0)[0]
    box = np.concatenate([middle - side / 4, middle + side / 4]).astype(np.float32)
    nothing = EditedPrompts(edit.index, np.zeros((0, 2), np.float32), np.zeros(0, np.int64), box, edit.lesion)
    event = answer(client, update_of(folder, result, THICK, [nothing]))
    assert isinstance(event, Updated), event
    assert event.slices[0].best is not None
    assert edit.index in {each.index for each in event.slices}
    untouched = {edit.index - 1, edit.index + 1} - {each.index for each in event.slices}
    assert event.judged  # a slice at the end differs from the empty one beyond it anyway
    assert {each.index for each in event.judged} <= untouched
    for each in event.judged:
        before = slice_of(result, each.index)
        assert each.signals[review.NEIGHBOURS] != before.signals[review.NEIGHBOURS]
        assert {**each.signals, review.NEIGHBOURS: 0.0} == {**before.signals, review.NEIGHBOURS: 0.0}
        assert_equal(replace(each, signals=before.signals, review_priority=before.review_priority), before)
    mask = read_handed_segmentation(event.mask).segments[0].mask
    assert result.mask is not None
    places = [canonical_index(THICK, each) for each in event.slices]
    np.testing.assert_array_equal(np.delete(mask, places, axis=0), np.delete(result.mask, places, axis=0))


def assert_what_was_painted_away_from_the_points_stays(
    client: WorkerClient, folder: Path, result: SegmentResult, edit: EditedPrompts
) -> None:
    each = slice_of(result, edit.index)
    assert edit.box is not None
    assert each.region is not None
    assert result.mask is not None
    beyond = np.array([[edit.box[2] + 6.0, edit.points[0, 1]]], np.float32)
    wider = replace(edit, points=np.concatenate([edit.points[:1], beyond]), labels=np.array([1, 1]), box=None)
    painted, z = result.mask.copy(), canonical_index(THICK, each)
    x, y = (round((edge + 0.06 * each.region.side) / 2.0) for edge in (each.region.left, each.region.top))
    painted[z, y : y + 3, x : x + 3] = True
    event = answer(client, update_of(folder, replace(result, mask=painted), THICK, [wider]))
    assert isinstance(event, Updated), event
    mask = read_handed_segmentation(event.mask).segments[0].mask
    assert mask[z, y : y + 3, x : x + 3].all()
    assert (mask[z] != painted[z]).any()


def test_the_recorded_change_of_the_visits_gives_the_signal_of_the_run_again(
    visit: tuple[Volume, Segmentation, Volume],
) -> None:
    prior, segmentation, followup = visit
    result = propagate(BrightnessModel(), prior, segmentation.segments, followup, STILL).segments[0]
    told = [each for each in result.slices if each.best is not None and each.best.mask.any()]
    assert len(told) > 2
    for each in told:
        assert each.best is not None
        assert each.change is not None
        assert each.region is not None
        change = review.recorded_change(each.change, each.best.mask.shape)
        signals = review.slice_signals(each.best.mask, [], [], each.best.mask, change, each.region.pixel_mm, change)
        assert each.signals[review.VISITS_DIFFER] > 0.03
        assert signals[review.VISITS_DIFFER] == pytest.approx(each.signals[review.VISITS_DIFFER], abs=0.01)


def test_runs_are_the_engines_own_and_a_second_run_other_parts_and_an_update_encode_nothing(
    visit: tuple[Volume, Segmentation, Volume], tmp_path: Path
) -> None:
    prior, segmentation, followup = visit
    request = hand_over_job(tmp_path, prior, segmentation, [followup], options=STILL, overwrite=True)
    with WorkerClient([sys.executable, FAKE, "engine"], environment()) as client:
        first = answer(client, request)
        result = segment_of(first)
        assert isinstance(first, Finished)
        assert first.encoded > 0
        expected = propagate(BrightnessModel(), prior, segmentation.segments, replace(followup, name="followup_1"), STILL)
        assert_equal(result, expected.segments[0])
        second = answer(client, request)
        assert isinstance(second, Finished)
        assert second.encoded == 0
        fewer = replace(request, job=replace(request.job, options=replace(STILL, max_parts=1)))
        third = answer(client, fewer)
        assert isinstance(third, Finished)
        assert third.encoded == 0
        edit = click(result)
        updated = answer(client, update_of(tmp_path, result, THICK, [edit]))
        assert isinstance(updated, Updated), updated
        assert updated.encoded == 0
        (changed,) = updated.slices
        assert changed.best is not None
        assert changed.best.origin == EDITED
        assert {each.index for each in updated.judged} <= {changed.index - 1, changed.index + 1}
        np.testing.assert_array_equal(changed.change, slice_of(result, changed.index).change)
        mask = read_handed_segmentation(updated.mask).segments[0].mask
        assert result.mask is not None
        edited = canonical_index(THICK, changed)
        np.testing.assert_array_equal(np.delete(mask, edited, axis=0), np.delete(result.mask, edited, axis=0))
        assert_a_smaller_box_has_the_neighbours_judged_again(client, tmp_path, result, edit)
        assert_what_was_painted_away_from_the_points_stays(client, tmp_path, result, edit)
        answer(client, Clear())
        again = answer(client, update_of(tmp_path, result, THICK, [edit]))
        assert isinstance(again, Updated)
        assert again.encoded == 1
        np.testing.assert_array_equal(read_handed_segmentation(again.mask).segments[0].mask, mask)


def test_an_update_that_cannot_be_done_is_refused_in_words(visit: tuple[Volume, Segmentation, Volume], tmp_path: Path) -> None:
    prior, segmentation, followup = visit
    result = propagate(BrightnessModel(), prior, segmentation.segments, followup, STILL).segments[0]
    hand_over_volume(followup, tmp_path / f"followup_1{VOLUME_SUFFIX}")
    with WorkerClient([sys.executable, FAKE, "engine"], environment()) as client:
        nowhere = answer(client, update_of(tmp_path, result, THICK, [replace(click(result), index=99)]))
        assert isinstance(nowhere, Refused)
        assert "the model was not asked there" in nowhere.message
        good = update_of(tmp_path, result, THICK, [click(result)])
        hand_over_segmentation(Segmentation(replace(THICK, spacing=(2.0, 2.0, 8.1)), segmentation.segments), good.mask)
        elsewhere = answer(client, good)
        assert isinstance(elsewhere, Refused)
        assert "not on the voxels of later" in elsewhere.message
        assert client.running


@pytest.mark.long  # Testing/gui/test_module_real_worker.py shows it by clicks
def test_the_default_model_runs_in_a_worker_and_answers_an_edit_from_what_it_remembers(
    visit: tuple[Volume, Segmentation, Volume], tmp_path: Path
) -> None:
    prior, segmentation, followup = visit
    options = replace(STILL, max_parts=1)
    request = hand_over_job(tmp_path, prior, segmentation, [followup], options=options, device="cpu")
    with WorkerClient(sys.executable, environment()) as client:
        result = segment_of(answer(client, request))
        assert result.mask is not None
        update = replace(update_of(tmp_path, result, THICK, [click(result)]), device="cpu")
        updated = answer(client, update)
        assert isinstance(updated, Updated), updated
        assert updated.encoded == 0
        assert updated.notes == ()
        print(f"an edit with what is remembered: {updated.seconds:.2f} s")
        answer(client, Clear())
        again = answer(client, update)
        assert isinstance(again, Updated)
        assert again.encoded == 1
        assert [each.index for each in again.slices] == [each.index for each in updated.slices]
        print(f"an edit with nothing remembered, the model's loading included: {again.seconds:.2f} s, {again.encoded} images")
