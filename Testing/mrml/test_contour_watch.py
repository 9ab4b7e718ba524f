"""A decision is taken back in the moment in which its contour is edited, and by nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from fake_client import FakeClient
from P2SAMSlicerLib.handover_file import SEGMENTATION_SUFFIX, hand_over_segmentation
from P2SAMSlicerLib.mrml.contour_watch import ContourWatch, own_writes
from P2SAMSlicerLib.mrml.prompt_update import ModelChoice, PromptUpdates
from P2SAMSlicerLib.mrml.result_removal import remove_result
from P2SAMSlicerLib.mrml.review_nodes import (
    COMPLETED,
    Decision,
    contours_to_review,
    decide,
    forget_seen,
    mark_seen,
    review_state,
)
from P2SAMSlicerLib.mrml.segment_masks import read_mask, voxels_of, write_mask
from P2SAMSlicerLib.mrml.segment_nodes import tag_of
from P2SAMSlicerLib.mrml.volume_nodes import volume_from_node
from P2SAMSlicerLib.result_files import STATUS_TAG
from P2SAMSlicerLib.volume import Segment, Segmentation
from P2SAMSlicerLib.worker.messages import Updated
from prompted_results import followup_of, result_in_scene, visit
from scene_content import add_segmentation

pytestmark = pytest.mark.usefixtures("scene")

Told = list[tuple[Any, list[str]]]


@pytest.fixture
def told() -> Told:
    return []


@pytest.fixture
def watch(told: Told) -> Iterator[ContourWatch]:
    made = ContourWatch(lambda node, ids: told.append((node, list(ids))))
    yield made
    made.stop()


def accepted(name: str = "visit", decision: Decision = Decision.ACCEPTED) -> tuple[Any, str]:
    """A result with a contour on which a person has decided."""
    volume, mask, slices = visit()
    node = result_in_scene(volume, mask, slices, name=name)
    (contour,) = contours_to_review(node)
    for each in slices:
        mark_seen(node, contour, each.index)
    decide(node, contour, decision, "A. B.", slices)
    return node, contour


def status(node: Any, contour: str) -> str | None:
    """Slicer's own status of the segment, which the Segment Editor shows: read from the tag, which asks nothing of us."""
    return tag_of(node.GetSegmentation().GetSegment(contour), STATUS_TAG)


def stroke(node: Any, contour: str, slice_number: int = 5) -> None:
    """What an effect of the Segment Editor does at the end of a stroke."""
    import slicer

    logic = slicer.vtkSlicerSegmentationsModuleLogic
    image = logic.CreateOrientedImageDataFromVolumeNode(followup_of(node), node.GetParentTransformNode())
    image.UnRegister(None)
    image.AllocateScalars(3, 1)  # unsigned char
    voxels = voxels_of(image)
    voxels[:] = 0
    voxels[slice_number, 5:9, 5:9] = node.GetSegmentation().GetSegment(contour).GetLabelValue()
    assert logic.SetBinaryLabelmapToSegment(image, node, contour, logic.MODE_MERGE_MAX, image.GetExtent(), False, [contour])


def paint_by_script(node: Any, contour: str) -> None:
    mask = read_mask(node, contour, followup_of(node))
    mask[0, 0, 0] = True
    write_mask(mask, node, contour, followup_of(node))


def clear(node: Any, contour: str) -> None:
    node.GetSegmentation().ClearSegment(contour)


def move_alone(node: Any, _contour: str) -> None:
    """The segmentation is shifted against its CT, and that is hardened."""
    import slicer.util
    import vtk

    shift = np.eye(4)
    shift[0, 3] = 6.0
    transform = vtk.vtkTransform()
    transform.SetMatrix(slicer.util.vtkMatrixFromArray(shift))
    node.GetSegmentation().ApplyLinearTransform(transform)


@pytest.mark.parametrize("edit", [stroke, paint_by_script, clear, move_alone])
@pytest.mark.parametrize("decision", list(Decision))
def test_an_edit_takes_the_decision_back_at_once(
    watch: ContourWatch, told: Told, edit: Callable[[Any, str], None], decision: Decision
) -> None:
    node, contour = accepted(decision=decision)
    watch.start()
    assert told == []
    edit(node, contour)
    assert told == [(node, [contour])]
    assert status(node, contour) != COMPLETED
    state = review_state(node, contour)
    assert (state.decision, state.reviewer, state.changed_since) == (None, "", True)
    assert state.touched


def test_without_a_watch_the_status_stays_until_somebody_asks() -> None:
    node, contour = accepted()
    stroke(node, contour)
    assert status(node, contour) == COMPLETED
    review_state(node, contour)
    assert status(node, contour) != COMPLETED


def test_further_strokes_are_not_told_again_and_cost_no_reading(
    watch: ContourWatch, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    from P2SAMSlicerLib.mrml import review_nodes

    node, contour = accepted()
    watch.start()
    stroke(node, contour)
    assert len(told) == 1
    monkeypatch.setattr(review_nodes, "read_mask", lambda *_args: pytest.fail("the voxels were read"))
    stroke(node, contour, 6)
    paint = read_mask(node, contour, followup_of(node))
    write_mask(~paint, node, contour, followup_of(node))
    assert len(told) == 1


def test_an_edit_that_is_undone_leaves_the_decision_taken_back_until_the_next_one(watch: ContourWatch, told: Told) -> None:
    node, contour = accepted()
    before = read_mask(node, contour, followup_of(node))
    watch.start()
    stroke(node, contour)
    write_mask(before, node, contour, followup_of(node))
    state = review_state(node, contour)
    assert (state.decision, state.changed_since, state.edited) == (None, True, False)
    assert status(node, contour) != COMPLETED
    decide(node, contour, Decision.ACCEPTED, "A. B.", visit()[2])
    assert review_state(node, contour).decision is Decision.ACCEPTED
    assert status(node, contour) == COMPLETED
    assert len(told) == 1
    stroke(node, contour)
    assert len(told) == 2


def test_names_colours_views_tags_and_surfaces_are_no_edits(watch: ContourWatch, told: Told) -> None:
    node, contour = accepted()
    watch.start()
    segment = node.GetSegmentation().GetSegment(contour)
    segment.SetName("GTV neu")
    segment.SetColor(0.1, 0.2, 0.3)
    segment.SetTag("Clinic.Id", "8")
    mark_seen(node, contour, 99)
    forget_seen(node, contour, [99])
    node.GetDisplayNode().SetSegmentVisibility(contour, False)
    node.CreateClosedSurfaceRepresentation()
    node.RemoveClosedSurfaceRepresentation()
    node.GetSegmentation().AddEmptySegment("", "mine")
    assert told == []
    assert review_state(node, contour).decision is Decision.ACCEPTED
    assert status(node, contour) == COMPLETED


def test_the_voxels_of_an_accepted_contour_are_read_again_only_when_they_may_have_changed(
    watch: ContourWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    from P2SAMSlicerLib.mrml import review_nodes

    node, contour = accepted()
    watch.start()
    reads: list[str] = []

    def read(*args: Any) -> Any:
        reads.append(args[1])
        return read_mask(*args)

    monkeypatch.setattr(review_nodes, "read_mask", read)
    for number in range(20):
        node.GetSegmentation().GetSegment(contour).SetName(f"GTV {number}")
        mark_seen(node, contour, 100 + number)
        watch.start()
    assert reads == []
    stroke(node, contour)
    assert reads == [contour]


def test_a_decision_that_is_made_while_it_is_watched_holds(watch: ContourWatch, told: Told) -> None:
    volume, mask, slices = visit()
    node = result_in_scene(volume, mask, slices)
    (contour,) = contours_to_review(node)
    watch.start()
    for each in slices:
        mark_seen(node, contour, each.index)
    for decision in (Decision.REJECTED, Decision.ACCEPTED, Decision.FLAGGED, Decision.ACCEPTED):
        assert decide(node, contour, decision, "A. B.", slices).decision is decision
    paint_by_script(node, contour)
    assert len(told) == 1
    assert decide(node, contour, Decision.ACCEPTED, "A. B.", slices).decision is Decision.ACCEPTED
    assert len(told) == 1


def test_an_edit_of_another_segment_in_the_same_label_map_is_not_taken_for_one_of_this(watch: ContourWatch, told: Told) -> None:
    node, contour = accepted()
    other = node.GetSegmentation().AddEmptySegment("", "mine")
    far = np.zeros_like(read_mask(node, contour, followup_of(node)))
    far[6, 50:55, 3:8] = True
    write_mask(far, node, other, followup_of(node))
    node.GetSegmentation().CollapseBinaryLabelmaps()
    shared = node.GetSegmentation().GetLayerIndex(contour) == node.GetSegmentation().GetLayerIndex(other)
    assert shared, "the test needs a shared label map"
    watch.start()
    stroke(node, other)
    assert told == []
    assert review_state(node, contour).decision is Decision.ACCEPTED
    stroke(node, contour)
    assert told == [(node, [contour])]


def test_only_the_edited_one_of_two_results_of_the_same_visit_loses_its_decision(watch: ContourWatch, told: Told) -> None:
    first, contour = accepted()
    volume, mask, slices = visit()
    second, same = accepted()
    watch.start()
    assert watch.nodes == [first, second]
    stroke(second, same)
    assert told == [(second, [same])]
    assert review_state(first, contour).decision is Decision.ACCEPTED
    assert (volume.grid.shape, len(slices)) == (mask.shape, 3)


def test_what_was_edited_before_the_watch_began_is_found_when_it_begins(watch: ContourWatch, told: Told) -> None:
    node, contour = accepted()
    stroke(node, contour)
    watch.start()
    assert told == [(node, [contour])]
    assert status(node, contour) != COMPLETED


def test_results_that_come_later_are_watched_after_the_next_start_and_removed_ones_let_go(
    watch: ContourWatch, told: Told
) -> None:
    first, first_contour = accepted("one")
    watch.start()
    second, contour = accepted("two")
    watch.start()
    watch.start()
    stroke(second, contour)
    assert told == [(second, [contour])]
    remove_result(first)
    watch.start()
    assert watch.nodes == [second]
    clear(first, first_contour)
    assert told == [(second, [contour])]


def test_contours_that_a_physician_drew_are_not_watched(watch: ContourWatch) -> None:
    node, contour = accepted()
    drawn = add_segmentation(followup_of(node), {"GTV": read_mask(node, contour, followup_of(node))})
    watch.start()
    assert drawn not in watch.nodes


def test_after_stop_and_after_the_scene_was_closed_nothing_is_told(watch: ContourWatch, told: Told, scene: Any) -> None:
    node, contour = accepted()
    watch.start()
    watch.stop()
    stroke(node, contour)
    assert told == []
    assert watch.nodes == []
    other, contour = accepted("other")
    watch.start()
    del told[:]
    scene.Clear(False)
    other.GetSegmentation().ClearSegment(contour)
    assert told == []
    watch.start()
    assert watch.nodes == []


def test_without_its_followup_an_edit_takes_the_decision_back_too(watch: ContourWatch, told: Told, scene: Any) -> None:
    node, contour = accepted()
    watch.start()
    scene.RemoveNode(followup_of(node))
    assert told == []
    clear(node, contour)
    assert told == [(node, [contour])]
    assert status(node, contour) != COMPLETED


def test_an_own_write_is_not_told_as_an_edit(watch: ContourWatch, told: Told) -> None:
    node, contour = accepted()
    watch.start()
    with own_writes():
        paint_by_script(node, contour)
    assert told == []
    with pytest.raises(KeyError), own_writes():
        raise KeyError
    second, same = accepted("two")
    watch.start()
    stroke(second, same)
    assert (second, [same]) in told


def test_an_update_of_prompts_is_not_told_as_an_edit_but_what_was_accepted_was_another_contour(
    watch: ContourWatch, told: Told
) -> None:
    from test_prompt_update import an_edit, with_contour

    node, contour = accepted()
    watch.start()
    client = FakeClient()
    updates = PromptUpdates(client)  # type: ignore[arg-type]
    slices = visit()[2]
    mask = read_mask(node, contour, followup_of(node))
    for number, expected in ((0, Decision.ACCEPTED), (1, None)):
        updates.start(node, contour, [an_edit(slices[1])], ModelChoice("lite_medsam", device="cpu"))
        mask[3, 10:14, 10:14] |= bool(number)  # the first answer is the same contour again
        client.request.out.mkdir(parents=True, exist_ok=True)
        path = client.request.out / f"contour_{client.number}{SEGMENTATION_SUFFIX}"
        grid = volume_from_node(followup_of(node)).grid
        hand_over_segmentation(Segmentation(grid, (Segment("GTV", mask),), "contour"), path)
        client.events.append(Updated(client.number, (with_contour(slices[1]),), path, (), 0.1, 0))
        updates.poll()
        assert updates.error is None
        assert told == []
        assert (status(node, contour) == COMPLETED) == (expected is not None)
        assert review_state(node, contour).decision is expected
    updates.close()
