"""Prompts, candidates and provenance stay with the contours through saving and loading the scene."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.mrml.record_nodes import RECORD_ROLE, attach_record, check_lies_as_recorded, record_of, replace_slices
from small_visits import FOLLOWUP_GRID, visit_result

pytestmark = pytest.mark.usefixtures("scene")


def segmentation_node() -> Any:
    """A bare segmentation node."""
    import slicer

    return slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "second visit propagated")


def test_prompts_candidates_and_provenance_come_back() -> None:
    node, visit = segmentation_node(), visit_result()
    attach_record(node, visit)
    record = record_of(node)
    assert record is not None
    assert record.summary["model"]["id"] == "lite_medsam"
    assert record.summary["segments"][0]["outcome"] == "found"
    before = visit.segments[0].slices
    after = record.slices["GTV"]
    assert [each.index for each in after] == [each.index for each in before]
    assert [each.chosen for each in after] == [each.chosen for each in before]
    for one, other in zip(after[0].candidates, before[0].candidates, strict=True):
        np.testing.assert_array_equal(one.points, other.points)
        np.testing.assert_array_equal(one.mask, other.mask)


def test_the_record_survives_the_scene_being_saved_and_loaded(scene: Any, tmp_path: Path) -> None:
    import slicer

    node = segmentation_node()
    attach_record(node, visit_result())
    text = node.GetNodeReference(RECORD_ROLE)
    storage = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTextStorageNode")
    storage.SetFileName(str(tmp_path / "record.json"))
    text.SetAndObserveStorageNodeID(storage.GetID())
    assert storage.WriteData(text) == 1
    scene.SetURL(str(tmp_path / "scene.mrml"))
    assert scene.Commit() == 1
    scene.Clear(True)
    assert scene.Connect() == 1
    again = scene.GetFirstNodeByName("second visit propagated")
    record = record_of(again)
    assert record is not None
    assert record.slices["GTV"][0].best is not None
    assert record.summary["options"] == {"mode": "clinical"}


def test_a_second_run_replaces_the_record_and_adds_no_node(scene: Any) -> None:
    node = segmentation_node()
    attach_record(node, visit_result())
    nodes = scene.GetNumberOfNodes()
    attach_record(node, visit_result(name="third visit"))
    assert scene.GetNumberOfNodes() == nodes
    record = record_of(node)
    assert record is not None
    assert record.summary["name"] == "third visit"


def test_a_segmentation_of_somebody_else_has_no_record() -> None:
    assert record_of(segmentation_node()) is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"its record cannot be read \(damaged\)"),
        ("[]", r"its record cannot be read \(damaged\)"),
        (json.dumps({"format": "something else"}), r"its record cannot be read \(damaged\)"),
        (json.dumps({"format": "P2SAMSlicer record", "format_version": 99}), "was written by a newer version"),
        (
            json.dumps({"format": "P2SAMSlicer record", "format_version": 1, "summary": {}, "slices": {"GTV": [{}]}}),
            "second visit propagated: the record of a slice cannot be read",
        ),
    ],
)
def test_a_damaged_record_is_told_in_words(content: str, message: str) -> None:
    node = segmentation_node()
    attach_record(node, visit_result())
    node.GetNodeReference(RECORD_ROLE).SetText(content)
    with pytest.raises(InputError, match=message):
        record_of(node)


def hostile(change: Callable[[dict[str, Any]], None]) -> str:
    """The text of a record with something in it that no run writes."""
    node = segmentation_node()
    attach_record(node, visit_result())
    content = json.loads(node.GetNodeReference(RECORD_ROLE).GetText())
    change(content)
    return json.dumps(content)


def put(*path: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    """A change of one value of the record."""

    def change(content: Any) -> None:
        for each in path[:-1]:
            content = content[each]
        content[path[-1]] = value

    return change


SLICE, CANDIDATE = ("slices", "GTV", 0), ("slices", "GTV", 0, "candidates", 0)


@pytest.mark.parametrize(
    "change",
    [
        put("slices", value="none"),
        put("slices", "GTV", value={"a": 1}),
        put(*SLICE, "index", value=float("inf")),
        put(*SLICE, "position_mm", value=10**400),
        put(*SLICE, "chosen", value=7),
        put(*SLICE, "region", value={"left": 1}),
        put(*CANDIDATE, "labels", value=[10**30]),
        put(*CANDIDATE, "mask", "shape", value=[100000, 100000]),
        put(*CANDIDATE, "mask", "shape", value=[-1, -1]),
        put(*CANDIDATE, "mask", "bits", value="A" * 1000),
        put("summary", value=[]),
        put("summary", "segments", value=[1, 2]),
        put("summary", "segments", 0, "segment", value=None),
        put("summary", "segments", 0, "prior_volume_ml", value="much"),
        put("summary", "segments", 0, "review_priority", value=[1]),
        put("summary", "segments", 0, "centroid_shift_mm", value="far"),
        put("summary", "segments", 0, "reasons", value=[{"a": 1}]),
        put("summary", "segments", 0, "outcome", value=3),
        put("format_version", value="2"),
    ],
)
def test_what_no_run_writes_is_refused_in_words_and_not_with_a_fault(change: Callable[[dict[str, Any]], None]) -> None:
    text = hostile(change)
    node = segmentation_node()
    attach_record(node, visit_result())
    node.GetNodeReference(RECORD_ROLE).SetText(text)
    with pytest.raises(InputError, match="second visit propagated: "):
        record_of(node)


def test_a_record_that_is_nested_beyond_measure_is_refused_in_words() -> None:
    node = segmentation_node()
    attach_record(node, visit_result())
    node.GetNodeReference(RECORD_ROLE).SetText("[" * 200_000)
    with pytest.raises(InputError, match=r"its record cannot be read \(damaged\)"):
        record_of(node)


def test_changed_slices_take_the_place_of_their_own_lesion_and_number_and_the_rest_of_the_record_stays() -> None:
    node, visit = segmentation_node(), visit_result()
    attach_record(node, visit)
    first, second = visit.segments[0].slices
    before = json.loads(node.GetNodeReference(RECORD_ROLE).GetText())
    changed = replace(first, chosen=0, review_priority=1.0, signals={"edited points not obeyed": 1.0})
    beside = replace(second, lesion=1)  # the same number, but another lesion
    replace_slices(node, "GTV", [changed, beside])
    record = record_of(node)
    assert record is not None
    kept = [(each.lesion, each.index, each.chosen, each.review_priority) for each in record.slices["GTV"]]
    assert kept == [(1, 4, 0, 1.0), (2, 5, None, 0.75), (1, 5, None, 0.75)]
    after = json.loads(node.GetNodeReference(RECORD_ROLE).GetText())
    assert {**after, "slices": None} == {**before, "slices": None}


def test_slices_of_a_segment_that_was_not_recorded_are_refused() -> None:
    node = segmentation_node()
    with pytest.raises(InputError, match="nothing is recorded of 'GTV'"):
        replace_slices(node, "GTV", visit_result().segments[0].slices)
    attach_record(node, visit_result())
    with pytest.raises(InputError, match="nothing is recorded of 'PTV'"):
        replace_slices(node, "PTV", ())
    node.GetNodeReference(RECORD_ROLE).SetText("{")
    with pytest.raises(InputError, match="its record cannot be read"):
        replace_slices(node, "GTV", ())


def test_a_moved_followup_lies_as_recorded_and_a_mirrored_or_resized_one_does_not() -> None:
    node = segmentation_node()
    check_lies_as_recorded(node, FOLLOWUP_GRID)  # nothing is known
    attach_record(node, visit_result())
    check_lies_as_recorded(node, replace(FOLLOWUP_GRID, origin=(500.0, 1.0, -3.0)))
    turned: Grid = replace(FOLLOWUP_GRID, direction=(-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0))
    for grid in (turned, replace(FOLLOWUP_GRID, spacing=(2.5, 2.7, 5.0))):
        with pytest.raises(InputError, match="second visit propagated: its follow-up was turned or resized"):
            check_lies_as_recorded(node, grid)
