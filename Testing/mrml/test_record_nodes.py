"""Prompts, candidates and provenance stay with the contours through saving and loading the scene."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.mrml.record_nodes import RECORD_ROLE, attach_record, record_of
from small_visits import visit_result

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
