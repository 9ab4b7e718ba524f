"""A scene that is saved to one file (MRB) and loaded again, elsewhere and later, is the same review."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.mrml.contour_watch import ContourWatch
from P2SAMSlicerLib.mrml.prompt_nodes import BOX_ROLE, NEGATIVE_ROLE, POSITIVE_ROLE, edited_prompts, show_box, show_prompts
from P2SAMSlicerLib.mrml.record_nodes import FORMAT_VERSION, RECORD_ROLE, record_of
from P2SAMSlicerLib.mrml.result_nodes import PRIOR_ROLE, SOURCE_TAG, is_result
from P2SAMSlicerLib.mrml.result_removal import remove_result
from P2SAMSlicerLib.mrml.review_nodes import (
    Decision,
    contours_to_review,
    decide,
    mark_seen,
    review_state,
    seen,
    touched_segments,
    unseen,
)
from P2SAMSlicerLib.mrml.segment_masks import read_mask, write_mask
from P2SAMSlicerLib.mrml.segment_nodes import tag_of
from prompted_results import followup_of, result_in_scene, visit
from scene_content import add_transform, oblique

pytestmark = pytest.mark.usefixtures("scene")

REVIEWER = 'Ärztin Ö|B: 50% ~ "x" <y>'


@pytest.fixture
def whole_scene(scene: Any) -> Any:
    """A scene that can read and write what the application's can."""
    import slicer

    kinds = ("MarkupsJson", "MarkupsROIJson", "Text", "Segmentation", "VolumeArchetype", "Transform")
    for kind in kinds:
        scene.RegisterNodeClass(getattr(slicer, f"vtkMRML{kind}StorageNode")())
    return scene


def save_and_load(scene: Any, file: Path, change: Any = None) -> list[Any]:
    """The results of a scene after it was saved, closed and loaded.

    :param change: called with the results before they are saved.
    """
    import slicer
    import slicer.util

    if change is not None:
        change([node for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode") if is_result(node)])
    assert scene.WriteToMRB(str(file))
    scene.Clear(True)
    with tempfile.TemporaryDirectory(dir=file.parent) as cache:
        files, remembered = slicer.vtkDataIOManager(), slicer.vtkCacheManager()
        remembered.SetRemoteCacheDirectory(cache)
        remembered.SetMRMLScene(scene)
        files.SetCacheManager(remembered)
        scene.SetDataIOManager(files)
        scene.SetCacheManager(remembered)
        assert scene.ReadFromMRB(str(file), True)
        scene.SetDataIOManager(None)
        scene.SetCacheManager(None)
    return [node for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode") if is_result(node)]


def reviewed(name: str, parent: Any = None, decision: Decision = Decision.ACCEPTED) -> tuple[Any, list[Any]]:
    """A result whose prompts are shown and whose contour a person has decided on."""
    volume, mask, slices = visit()
    node = result_in_scene(volume, mask, slices, parent, name=name)
    show_prompts(node, slices)
    show_box(node, slices[1])
    (contour,) = contours_to_review(node)
    for each in slices:
        mark_seen(node, contour, each.index)
    decide(node, contour, decision, REVIEWER, slices)
    return node, slices


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("name", ["visit 2", 'Besuch ä/ü: 2*? "日本" %'])
def test_contour_status_prompts_candidates_and_provenance_come_back(
    whole_scene: Any, tmp_path: Path, turned: bool, name: str
) -> None:
    above = add_transform(oblique(4, (1.0, 1.0, 1.0)))
    node, slices = reviewed(name, add_transform(oblique(2, (1.0, 1.0, 1.0)), above) if turned else None)
    (contour,) = contours_to_review(node)
    mask, before = read_mask(node, contour, followup_of(node)), review_state(node, contour)
    summary = dict(record_of(node).summary)  # type: ignore[union-attr]
    (again,) = save_and_load(whole_scene, tmp_path / "Szene ä.mrb")
    assert again.GetName() == f"{name} propagated"
    (contour,) = contours_to_review(again)
    np.testing.assert_array_equal(read_mask(again, contour, followup_of(again)), mask)
    assert review_state(again, contour) == before
    assert (before.decision, before.reviewer) == (Decision.ACCEPTED, REVIEWER)
    assert seen(again, contour) == {each.index for each in slices}
    record = record_of(again)
    assert record is not None
    assert record.summary == summary
    assert [[c.origin for c in each.candidates] for each in record.slices["GTV"]] == [
        [c.origin for c in each.candidates] for each in slices
    ]
    assert edited_prompts(again, record.slices["GTV"], slices[1].index) == []
    assert [again.GetNodeReference(role).GetNumberOfControlPoints() for role in (POSITIVE_ROLE, NEGATIVE_ROLE)] == [6, 6]
    assert again.GetNodeReference(BOX_ROLE).GetDisplayVisibility()
    assert again.GetNodeReference(PRIOR_ROLE).GetName() == "contours"
    again.GetNodeReference(POSITIVE_ROLE).RemoveNthControlPoint(0)
    assert [each.index for each in edited_prompts(again, record.slices["GTV"], None)] == [slices[0].index]


def test_a_volume_that_slicer_stores_the_other_way_round_is_not_accepted_on_slices_that_were_counted_from_the_other_end(
    whole_scene: Any, tmp_path: Path
) -> None:
    # Own axes that are left-handed: Slicer's reader turns the slices of such a volume round. Slice 2 is then another one.
    _node, slices = reviewed("visit", add_transform(np.diag([1.0, 1.0, -1.0, 1.0])), Decision.FLAGGED)
    (again,) = save_and_load(whole_scene, tmp_path / "scene.mrb")
    (contour,) = contours_to_review(again)
    assert unseen(again, contour, slices) == []
    with pytest.raises(InputError, match="was turned or resized since the contours were carried"):
        decide(again, contour, Decision.ACCEPTED, "A. B.", slices)
    with pytest.raises(InputError, match="was turned or resized since the contours were carried"):
        edited_prompts(again, slices, None)
    decide(again, contour, Decision.REJECTED, "A. B.", slices)


def test_two_results_of_one_name_come_back_with_their_own_reviews(whole_scene: Any, tmp_path: Path) -> None:
    for decision in (Decision.ACCEPTED, Decision.REJECTED):
        reviewed("visit", decision=decision)
    nodes = save_and_load(whole_scene, tmp_path / "scene.mrb")
    states = [review_state(node, contours_to_review(node)[0]).decision for node in nodes]
    assert states == [Decision.ACCEPTED, Decision.REJECTED]
    assert len({node.GetNodeReferenceID(RECORD_ROLE) for node in nodes}) == 2
    remove_result(nodes[0])
    assert record_of(nodes[1]) is not None


def test_a_loaded_contour_is_watched_as_the_one_that_was_saved(whole_scene: Any, tmp_path: Path) -> None:
    reviewed("visit", add_transform(oblique(2, (1.0, 1.0, 1.0))))
    (node,) = save_and_load(whole_scene, tmp_path / "scene.mrb")
    told: list[Any] = []
    watch = ContourWatch(lambda changed, _ids: told.append(changed))
    watch.start()
    assert told == []
    node.GetSegmentation().ClearSegment(contours_to_review(node)[0])
    assert told == [node]
    watch.stop()


def test_a_segment_whose_name_a_file_would_cut_short_keeps_its_record(whole_scene: Any, tmp_path: Path) -> None:
    from P2SAMSlicerLib.mrml.segment_nodes import put_tag

    node, _slices = reviewed("visit")
    segment = node.GetSegmentation().GetSegment(contours_to_review(node)[0])
    for name in ("GTV|p", "50%", "%7C|%25", "a:b|"):
        put_tag(segment, SOURCE_TAG, name)
        assert tag_of(segment, SOURCE_TAG) == name
    put_tag(segment, SOURCE_TAG, "GTV|p%7C 50%")
    (again,) = save_and_load(whole_scene, tmp_path / "scene.mrb")
    segment = again.GetSegmentation().GetSegment(contours_to_review(again)[0])
    assert tag_of(segment, SOURCE_TAG) == "GTV|p%7C 50%"


def of_a_newer_version(nodes: list[Any]) -> None:
    (node,) = nodes
    text = node.GetNodeReference(RECORD_ROLE)
    content = json.loads(text.GetText())
    content["format_version"] = FORMAT_VERSION + 1
    content["slices"] = {"GTV": "in some other way"}
    text.SetText(json.dumps(content))


def cut_short(nodes: list[Any]) -> None:
    text = nodes[0].GetNodeReference(RECORD_ROLE)
    text.SetText(text.GetText()[: len(text.GetText()) // 2])


@pytest.mark.parametrize(("damage", "match"), [(of_a_newer_version, "newer version"), (cut_short, "damaged")])
def test_a_scene_whose_record_cannot_be_read_keeps_contour_and_decision_and_asks_for_every_slice(
    whole_scene: Any, tmp_path: Path, damage: Any, match: str
) -> None:
    reviewed("visit", decision=Decision.FLAGGED)
    (node,) = save_and_load(whole_scene, tmp_path / "scene.mrb", damage)
    with pytest.raises(InputError, match=match):
        record_of(node)
    (contour,) = contours_to_review(node)
    record = node.GetNodeReferenceID(RECORD_ROLE)
    assert review_state(node, contour).decision is Decision.FLAGGED
    assert touched_segments(node) == []
    # Which slices were doubtful is not known any more: all of them have to be looked at. All were, before it was saved.
    assert unseen(node, contour, ()) == []
    node.GetSegmentation().GetSegment(contour).RemoveTag("P2SAM.SeenSlices")
    mask = read_mask(node, contour, followup_of(node))
    mask[5:7, 3:6, 4:9] = True
    write_mask(mask, node, contour, followup_of(node))
    assert sorted(unseen(node, contour, ())) == [2, 3, 4, 5, 6]
    node.RemoveNodeReferenceIDs(RECORD_ROLE)  # where there never was a record, no model judged the slices
    assert sorted(unseen(node, contour, ())) == [2, 4, 6]
    node.SetNodeReferenceID(RECORD_ROLE, record)
    with pytest.raises(InputError, match="have not been looked at"):
        decide(node, contour, Decision.ACCEPTED, "A. B.", ())


def test_a_scene_that_is_added_to_another_keeps_both_reviews_apart(whole_scene: Any, tmp_path: Path) -> None:
    import slicer.util

    reviewed("visit")
    (first,) = save_and_load(whole_scene, tmp_path / "scene.mrb")
    # Ids of the second are taken by the first when it is added.
    assert first.GetID() is not None
    other, _slices = reviewed("visit", decision=Decision.REJECTED)
    nodes = [node for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode") if is_result(node)]
    assert nodes == [first, other]
    assert [review_state(node, contours_to_review(node)[0]).decision for node in nodes] == [
        Decision.ACCEPTED,
        Decision.REJECTED,
    ]
    assert first.GetNodeReferenceID(RECORD_ROLE) != other.GetNodeReferenceID(RECORD_ROLE)
