"""What a run makes of the results of earlier ones: a person's work is kept, everything else gives way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fake_client import FakeClient
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.mrml.prompt_nodes import show_box, show_prompts
from P2SAMSlicerLib.mrml.propagation_run import PropagationRun, RunRequest, reviewed_results
from P2SAMSlicerLib.mrml.record_nodes import record_of
from P2SAMSlicerLib.mrml.review_nodes import Decision, contours_to_review, decide, mark_seen, review_state
from P2SAMSlicerLib.mrml.segment_nodes import segment_ids
from runs_in_scene import carried, drawn, finished, visits
from scene_content import add_segmentation, blob

pytestmark = pytest.mark.usefixtures("scene")


def test_an_unreviewed_result_gives_way_to_the_next_with_all_that_belongs_to_it(scene: Any) -> None:
    request = visits()
    (first,) = finished(request, FakeClient()).nodes
    show_prompts(first, ())
    count = scene.GetNumberOfNodes()
    for roll in (2, 3):
        (node,) = finished(request, FakeClient(), roll=roll).nodes
        show_prompts(node, ())
        show_box(node, None)
        np.testing.assert_array_equal(drawn(node), np.roll(blob(), roll, axis=2))
    assert not scene.IsNodePresent(first)
    assert scene.GetNumberOfNodes() == count
    assert reviewed_results(request) == {}


@pytest.mark.parametrize("work", ["edited", "accepted"])
def test_what_a_person_worked_on_is_kept_beside_the_new_result(scene: Any, work: str) -> None:
    import slicer.util

    request = visits()
    (first,) = finished(request, FakeClient()).nodes
    first.SetName("mine")
    (contour,) = contours_to_review(first)
    if work == "edited":
        painted = drawn(first)
        painted[0, 0, 0] = True
        slicer.util.updateSegmentBinaryLabelmapFromArray(painted.astype(np.uint8), first, contour, request.followups[0])
    else:
        for index in range(10):
            mark_seen(first, contour, index)
        decide(first, contour, Decision.ACCEPTED, "A. B.", ())
    assert reviewed_results(request) == {"mine": ["GTV"]}
    before = drawn(first)
    (second,) = finished(request, FakeClient(), roll=2).nodes
    assert scene.IsNodePresent(first)
    np.testing.assert_array_equal(drawn(first), before)
    np.testing.assert_array_equal(drawn(second), np.roll(blob(), 2, axis=2))
    assert review_state(second, contours_to_review(second)[0]).decision is None
    assert record_of(first) is not None


def test_results_that_are_kept_beside_each_other_can_be_told_apart_and_all_are_named(scene: Any) -> None:
    request = visits()
    names = []
    for roll in (1, 2, 3):
        (node,) = finished(request, FakeClient(), roll=roll).nodes
        (contour,) = contours_to_review(node)
        for index in range(10):
            mark_seen(node, contour, index)
        decide(node, contour, Decision.ACCEPTED, "A. B.", ())
        names.append(node.GetName())
    assert names[0] == "visit 1 propagated"
    assert len(set(names)) == 3
    assert reviewed_results(request) == {name: ["GTV"] for name in names}
    for node in scene.GetNodesByName(names[1]), scene.GetNodesByName(names[2]):
        node.GetItemAsObject(0).SetName(names[0])
    assert reviewed_results(request) == {names[0]: ["GTV", "GTV", "GTV"]}


def test_a_name_is_used_again_when_its_result_gave_way() -> None:
    request = visits()
    for roll in (1, 2):
        (node,) = finished(request, FakeClient(), roll=roll).nodes
        assert node.GetName() == "visit 1 propagated"


def rename_source(request: RunRequest) -> None:
    request.segmentation.GetSegmentation().GetNthSegment(0).SetName("renamed by a person")


def remove_source(request: RunRequest) -> None:
    request.segmentation.GetSegmentation().RemoveSegment(segment_ids(request.segmentation)[0])


@pytest.mark.parametrize("harm", [rename_source, remove_source])
def test_a_prior_segment_that_was_renamed_or_removed_during_the_run_is_no_obstacle(
    harm: Callable[[RunRequest], None],
) -> None:
    request, client = visits(), FakeClient()
    run = PropagationRun(client, request)  # type: ignore[arg-type]
    harm(request)
    client.tell_visit(0, carried(request.followups[0]))
    client.tell_end()
    run.poll()
    assert (run.error, run.problems) == (None, [])
    (node,) = run.nodes
    np.testing.assert_array_equal(drawn(node), np.roll(blob(), 1, axis=2))
    record = record_of(node)
    assert record is not None
    assert list(record.slices) == ["GTV"]


def test_a_contour_that_a_person_renames_keeps_its_record_and_one_that_is_removed_is_not_up_for_review() -> None:
    request = visits()
    (node,) = finished(request, FakeClient()).nodes
    (contour,) = contours_to_review(node)
    node.GetSegmentation().GetSegment(contour).SetName("GTV after two cycles")
    assert reviewed_results(request) == {}
    decide(node, contour, Decision.FLAGGED, "A. B.", ())
    node.GetSegmentation().RemoveSegment(contour)
    assert contours_to_review(node) == []
    with pytest.raises(InputError, match="it has no segment"):
        review_state(node, contour)
    assert reviewed_results(request) == {}
    (again,) = finished(request, FakeClient(), roll=2).nodes
    assert len(contours_to_review(again)) == 1


def touched_in(request: RunRequest) -> Any:
    return reviewed_results(request)


def test_results_from_other_contours_or_of_other_visits_are_left_alone(scene: Any) -> None:
    request = visits(2)
    both = finished(request, FakeClient()).nodes
    elsewhere = replace(request, segmentation=add_segmentation(request.prior, {"GTV": blob()}), followups=request.followups[:1])
    finished(elsewhere, FakeClient())
    assert all(scene.IsNodePresent(node) for node in both)
    finished(replace(request, followups=request.followups[1:]), FakeClient())
    assert [bool(scene.IsNodePresent(node)) for node in both] == [True, False]


def test_a_followup_that_failed_keeps_the_result_of_the_run_before(scene: Any) -> None:
    request, client = visits(), FakeClient()
    (first,) = finished(request, FakeClient()).nodes
    run = PropagationRun(client, request)  # type: ignore[arg-type]
    client.tell_visit(0, None, "not enough memory")
    client.tell_end()
    run.poll()
    assert run.problems == ["visit 1: not enough memory"]
    assert scene.IsNodePresent(first)
