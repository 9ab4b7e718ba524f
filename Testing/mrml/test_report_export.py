"""From results in the scene to visits' folders, DICOM and the report: contours as drawn and as reviewed, and no name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_client import FakeClient
from P2SAMSlicerLib.cli import main
from P2SAMSlicerLib.errors import InputError, OutputError
from P2SAMSlicerLib.mrml.record_nodes import RECORD_ROLE, attach_record, drawn_contours
from P2SAMSlicerLib.mrml.report_export import export_report
from P2SAMSlicerLib.mrml.result_nodes import show_result
from P2SAMSlicerLib.mrml.result_visit import scene_visit
from P2SAMSlicerLib.mrml.review_nodes import Decision, contours_to_review, decide, mark_seen
from P2SAMSlicerLib.mrml.segment_masks import read_mask, write_mask
from P2SAMSlicerLib.report.reviewed_file import drawn_visit, review_of_file
from P2SAMSlicerLib.result import Outcome
from P2SAMSlicerLib.segmentation_file import read_segmentation
from runs_in_scene import carried, finished, visits
from scene_content import add_transform, blob, oblique

pytestmark = pytest.mark.usefixtures("scene", "quick")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is drawn; other tests show that."""
    png = b"\x89PNG\r\n\x1a\n"
    monkeypatch.setattr("P2SAMSlicerLib.report.trends._draw", lambda *_: png)
    monkeypatch.setattr("P2SAMSlicerLib.report.pictures.overlay_png", lambda *_: png)
    monkeypatch.setattr("P2SAMSlicerLib.report.pictures._small", lambda content: content)


def results(count: int = 1, **fields: Any) -> list[Any]:
    """Result nodes of finished runs."""
    request = visits(count)
    return list(finished(request, FakeClient(), **fields).nodes)


def followup_of(node: Any) -> Any:
    return node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole())


def redraw(node: Any) -> Any:
    """Add a slice to the contour, as with a brush."""
    (contour,) = contours_to_review(node)
    mask = read_mask(node, contour, followup_of(node))
    mask[6] = mask[4]
    write_mask(mask, node, contour, followup_of(node))
    return mask


def accept(node: Any, decision: Decision = Decision.ACCEPTED) -> None:
    (contour,) = contours_to_review(node)
    for index in range(10):
        mark_seen(node, contour, index)
    decide(node, contour, decision, "A. Ж.|%", ())


def content_of(folder: Path, name: str = "report.json") -> dict[str, Any]:
    return dict(json.loads((folder / name).read_text(encoding="utf-8")))


def test_everything_is_written_and_says_unreviewed(tmp_path: Path) -> None:
    made = export_report(results(2), tmp_path / "out")
    assert [path.name for path in (*made.report, *made.visits)] == ["report.html", "report.json", "visit_2", "visit_3"]
    assert all(path.exists() for path in (*made.report, *made.visits))
    content = content_of(tmp_path / "out")
    assert (content["contours"], content["unreviewed"]) == (2, 2)
    assert "UNREVIEWED" in made.report[0].read_text(encoding="utf-8")
    facts = content_of(made.visits[0], "visit.json")
    names = {path.relative_to(made.visits[0]).as_posix() for path in made.visits[0].rglob("*") if path.is_file()}
    assert set(facts["files"]) | {"visit.json"} == names
    assert "pictures/segment_1_slice_0003.png" in names
    assert any("did not come from Slicer's DICOM database" in note for note in made.notes)


def test_the_volumes_names_are_nowhere(tmp_path: Path) -> None:
    request = visits(1)
    request.followups[0].SetName("Doe Jane 1956")
    request.prior.SetName("Doe Jane")
    words = "Doe Jane 1956: its patient id is not that of Doe Jane"
    (node,) = finished(request, FakeClient(), outcome=Outcome.FLAGGED, reasons=(words,)).nodes
    made = export_report([node], tmp_path / "out")
    for path in (tmp_path / "out").rglob("*"):
        assert "Doe" not in path.name
        assert not path.is_file() or b"Doe" not in path.read_bytes()
    assert "visit_2: its patient id is not that of visit_1" in made.report[0].read_text(encoding="utf-8")


def test_an_edited_and_accepted_contour_is_told_with_what_was_changed(tmp_path: Path) -> None:
    (node,) = results()
    now = redraw(node)
    accept(node)
    made = export_report([node], tmp_path)
    (visit,) = content_of(tmp_path)["visits"]
    review = visit["segments"][0]["review"]
    assert (review["decision"], review["reviewer"], review["edited"]) == ("accepted", "A. Ж.|%", True)
    assert review["volume_after_ml"] > review["volume_before_ml"]
    assert 0 < review["mean_surface_mm"] < review["hd95_mm"]
    drawn = drawn_visit(made.visits[0], "visit_2")
    assert drawn is not None
    np.testing.assert_array_equal(drawn.masks["GTV"], np.roll(blob(), 1, axis=2))
    reviewed = read_segmentation(made.visits[0] / "visit_2_reviewed.seg.nrrd").segments[0]
    np.testing.assert_array_equal(reviewed.mask, now)
    label, (record,) = review_of_file(made.visits[0] / "visit_2_reviewed.seg.nrrd", {"visit_2": drawn})
    assert label == "visit_2"
    assert record.as_dict() == {key: value for key, value in review.items() if key != "accepted"}


def test_a_contour_that_was_changed_after_it_was_accepted_is_unreviewed(tmp_path: Path) -> None:
    (node,) = results()
    accept(node)
    redraw(node)
    export_report([node], tmp_path)
    review = content_of(tmp_path)["visits"][0]["segments"][0]["review"]
    assert (review["decision"], review["reviewer"], review["edited"]) == ("unreviewed", "", True)


def test_the_command_makes_the_same_report_from_what_was_exported(tmp_path: Path) -> None:
    (node,) = results()
    redraw(node)
    accept(node)
    export_report([node], tmp_path)
    before = content_of(tmp_path)
    file = tmp_path / "visit_2" / "visit_2_reviewed.seg.nrrd"
    assert main(["report", str(tmp_path), "--reviewed", str(file), "--overwrite"]) == 0
    assert content_of(tmp_path) == before


def test_where_there_is_no_lesion_the_registered_contour_is_reported_and_reviewed(tmp_path: Path) -> None:
    nothing: dict[str, Any] = dict.fromkeys(("mask", "volume_ml", "volume_change_percent", "centroid_shift_mm"))
    (node,) = results(outcome=Outcome.NO_LESION, reasons=("nothing like it is there",), **nothing)
    accept(node)
    made = export_report([node], tmp_path)
    (segment,) = content_of(tmp_path)["visits"][0]["segments"]
    assert (segment["outcome"], segment["review"]["accepted"], segment["volume_ml"]) == ("no lesion found", True, None)
    (only,) = read_segmentation(made.visits[0] / "visit_2_reviewed.seg.nrrd").segments
    assert only.name == "GTV registered prior"


def test_a_record_that_cannot_be_read_takes_figures_away_and_not_the_contour(tmp_path: Path) -> None:
    (node,) = results()
    node.GetNodeReference(RECORD_ROLE).SetText("{")
    assert drawn_contours(node) == {}
    made = export_report([node], tmp_path)
    (segment,) = content_of(tmp_path)["visits"][0]["segments"]
    assert segment["outcome"] == "flagged"
    assert segment["volume_ml"] is not None
    assert any("cannot be read" in note for note in made.notes)


def test_a_contour_whose_first_state_was_not_kept_is_reported_with_what_is_known() -> None:
    (node,) = results()
    text = node.GetNodeReference(RECORD_ROLE)
    content = json.loads(text.GetText())
    del content["drawn"]  # a record of an earlier version
    text.SetText(json.dumps(content))
    assert scene_visit(node, "visit_2", {}).notes == ()
    before = scene_visit(node, "visit_2", {}).reviews["GTV"].volume_after_ml
    redraw(node)
    visit = scene_visit(node, "visit_2", {})
    review = visit.reviews["GTV"]
    assert (review.edited, review.dice) == (True, None)
    assert review.volume_before_ml == pytest.approx(before, abs=1e-3)
    assert "how the tool drew it was not kept" in visit.notes[0]


def test_without_the_prior_there_are_no_pictures_and_that_is_said(tmp_path: Path, scene: Any) -> None:
    request = visits(1)
    (node,) = finished(request, FakeClient()).nodes
    scene.RemoveNode(request.prior)
    made = export_report([node], tmp_path)
    assert any("no pictures, because the prior" in note for note in made.notes)
    assert not (made.visits[0] / "pictures").exists()


def test_days_are_counted_from_the_prior_and_the_patient_is_named_on_request_only(tmp_path: Path) -> None:
    import slicer

    request = visits(2)
    nodes = finished(request, FakeClient()).nodes
    constants = slicer.vtkMRMLSubjectHierarchyConstants
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    patient = hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), "Doe^Jane")
    for attribute, text in (
        (constants.GetDICOMPatientNameAttributeName(), "Doe^Jane"),
        (constants.GetDICOMPatientIDAttributeName(), "PID-4711"),
    ):
        hierarchy.SetItemAttribute(patient, attribute, text)
    # The second follow-up was scanned first.
    for node, day in zip((request.prior, *request.followups), ("20260101", "20260301", "20260131"), strict=True):
        study = hierarchy.CreateStudyItem(patient, day)
        hierarchy.SetItemAttribute(study, constants.GetDICOMStudyDateAttributeName(), day)
        hierarchy.CreateItem(study, node)
    export_report(nodes, tmp_path / "anonymous")
    content = content_of(tmp_path / "anonymous")
    assert [(each["label"], each["day"]) for each in content["visits"]] == [("visit_2", 30), ("visit_3", 59)]
    page = (tmp_path / "anonymous" / "report.html").read_text(encoding="utf-8")
    assert "Doe" not in page
    assert "2026" not in page
    export_report(nodes, tmp_path / "named", identified=True)
    page = (tmp_path / "named" / "report.html").read_text(encoding="utf-8")
    for words in ("IDENTIFIED", "Doe^Jane", "PID-4711", "2026-01-31"):
        assert words in page


def test_what_cannot_be_reported_on_is_refused_and_nothing_is_left(tmp_path: Path, scene: Any) -> None:
    with pytest.raises(InputError, match="no result to report on"):
        export_report([None], tmp_path / "out")
    (first,), (second,) = results(), results()
    with pytest.raises(InputError, match="several priors"):
        export_report([first, second], tmp_path / "out")
    scene.RemoveNode(followup_of(first))
    with pytest.raises(InputError, match="no longer in the scene"):
        export_report([first], tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_export_is_kept_unless_told_otherwise(tmp_path: Path) -> None:
    (node,) = results()
    made = export_report([node], tmp_path)
    before = made.report[1].read_bytes()
    accept(node)
    with pytest.raises(OutputError, match="is in that folder already"):
        export_report([node], tmp_path)
    assert made.report[1].read_bytes() == before
    export_report([node], tmp_path, overwrite=True)
    assert content_of(tmp_path)["unreviewed"] == 0


def test_a_failure_half_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("P2SAMSlicerLib.mrml.report_export.write_patient_report", full)
    with pytest.raises(OutputError):
        export_report(results(2), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_of_several_results_on_one_follow_up_the_last_counts(tmp_path: Path) -> None:
    request = visits(1)
    (first,) = finished(request, FakeClient()).nodes
    followup = request.followups[0]
    second = show_result(carried(followup, roll=2), followup, request.segmentation, {})
    attach_record(second, carried(followup, roll=2))
    made = export_report([second, first], tmp_path)
    assert len(made.visits) == 1
    assert any("has several results" in note for note in made.notes)
    drawn = drawn_visit(made.visits[0], "visit_2")
    assert drawn is not None
    np.testing.assert_array_equal(drawn.masks["GTV"], np.roll(blob(), 2, axis=2))


@pytest.mark.parametrize("moved", [False, True])
def test_contours_as_they_are_now_become_dicom_wherever_the_volume_was_moved(
    moved: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pydicom
    import slicer
    from P2SAMSlicerLib.dicom.series import read_ct_series
    from small_visits import FOLLOWUP_GRID, ball, phantom, write_dicom

    files = sorted(write_dicom(tmp_path / "ct", phantom(FOLLOWUP_GRID), "PID-4711", "20260101").iterdir())
    series = read_ct_series(files, "visit")
    node = result_on(series, moved)
    uids = {str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID): path for path in files}
    followup_of(node).SetAttribute("DICOM.instanceUIDs", " ".join(uids))
    monkeypatch.setattr(slicer, "dicomDatabase", SimpleNamespace(fileForInstance=lambda uid: str(uids[uid])), raising=False)
    (contour,) = contours_to_review(node)
    write_mask(ball(FOLLOWUP_GRID, 7.0), node, contour, followup_of(node))
    accept(node)
    made = export_report([node], tmp_path / "out")
    exports = content_of(made.visits[0], "visit.json")["exports"]
    assert [each["file"] for each in exports] == ["visit_2_RTSTRUCT.dcm", "visit_2_SEG.dcm"]
    volume = np.count_nonzero(ball(FOLLOWUP_GRID, 7.0)) * FOLLOWUP_GRID.voxel_ml
    for each in exports:
        trip = each["round_trip"][0]
        assert trip["volume_ml"] == pytest.approx(volume)
        assert trip["dice"] > 0.9
    structures = pydicom.dcmread(made.visits[0] / "visit_2_RTSTRUCT.dcm")
    assert structures.ApprovalStatus == "UNAPPROVED"
    assert structures.StructureSetROISequence[0].ROIGenerationAlgorithm == "SEMIAUTOMATIC"
    assert str(tmp_path) not in made.report[0].read_text(encoding="utf-8")
    # A volume that was cropped is not that of its files.
    followup_of(node).SetSpacing(3.0, 2.7, 4.0)
    assert any("does not have the voxels" in note for note in export_report([node], tmp_path / "again").notes)


def result_on(series: Any, moved: bool) -> Any:
    """A result on a DICOM series that Slicer loaded, perhaps under a transform."""
    from P2SAMSlicerLib.mrml.followup_moves import lay_on
    from prompted_results import result_in_scene
    from small_visits import ball

    node = result_in_scene(series.volume, ball(series.volume.grid, 9.0), ())
    if moved:
        followup_of(node).SetAndObserveTransformNodeID(add_transform(oblique(4, (1.0, 1.0, 1.0))).GetID())
        lay_on(node, followup_of(node))
    return node


def test_a_file_that_is_gone_from_the_database_gives_no_dicom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import slicer

    (node,) = results()
    followup_of(node).SetAttribute("DICOM.instanceUIDs", "1.2.3")
    gone: Callable[[str], str] = lambda _uid: str(tmp_path / "gone.dcm")  # noqa: E731
    monkeypatch.setattr(slicer, "dicomDatabase", SimpleNamespace(fileForInstance=gone), raising=False)
    made = export_report([node], tmp_path / "out")
    assert content_of(made.visits[0], "visit.json")["exports"] == []
