"""``p2sam dicom export``: contours of an earlier run as RTSTRUCT and SEG."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_contours import PATIENT, written_ct
from P2SAMSlicerLib.cli import main
from P2SAMSlicerLib.dicom.ct_writer import write_ct_series
from P2SAMSlicerLib.dicom.series import dicom_ct_of
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.mrml import review_nodes as tags
from P2SAMSlicerLib.mrml.segment_nodes import written_tag
from P2SAMSlicerLib.result import Outcome
from P2SAMSlicerLib.result_files import FailedVisit, write_results
from P2SAMSlicerLib.segmentation_file import read_segmentation, write_segmentation
from P2SAMSlicerLib.volume import Segment, Segmentation, Volume
from P2SAMSlicerLib.volume_fingerprint import volume_fingerprint
from small_visits import FOLLOWUP_GRID, ball, segment, segment_result, visit_result, without_contour

WRITTEN = ["week3_RTSTRUCT.dcm", "week3_SEG.dcm"]


@pytest.fixture(scope="module")
def ct(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The follow-up's CT as DICOM slices."""
    folder = tmp_path_factory.mktemp("Doe^Jane") / "slices"
    written_ct(folder, FOLLOWUP_GRID)
    return folder


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """The folder of a run: one structure found, and one gone."""
    gone = without_contour(segment("GTVn"), Outcome.NO_LESION, "looks like lung")
    write_results(tmp_path / "run", [visit_result(segment_result(segment()), gone, name="week3")])
    return tmp_path / "run"


def export(result: Path, ct: Path, out: Path, *more: str) -> int:
    return main(["dicom", "export", "--result", str(result), "--ct", str(ct), "--out", str(out), *more])


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def said(path: Path) -> dict[str, str]:
    """The description of each structure of a structure set."""
    return {each.ROIName: each.ROIDescription for each in pydicom.dcmread(path).StructureSetROISequence}


def test_a_runs_folder_gives_both_objects_and_says_what_happened(
    results: Path, ct: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(results, ct, tmp_path / "out") == 0
    assert files(tmp_path / "out") == WRITTEN
    descriptions = said(tmp_path / "out" / WRITTEN[0])
    assert list(descriptions) == ["GTV", "GTV_regPrior", "GTVn_regPrior"]
    assert "No lesion found: looks like lung. No new contour" in descriptions["GTVn_regPrior"]
    assert all("UNREVIEWED" in each for each in descriptions.values())
    printed = capsys.readouterr().out
    assert "3 of 3 contours are UNREVIEWED" in printed
    assert "0.00 %" in printed


def test_the_file_alone_is_enough(results: Path, ct: Path, tmp_path: Path) -> None:
    assert export(results / "week3.seg.nrrd", ct, tmp_path / "out") == 0
    assert files(tmp_path / "out") == WRITTEN


def test_a_second_export_replaces_the_first_on_request_only(results: Path, ct: Path, tmp_path: Path) -> None:
    assert export(results, ct, tmp_path / "out") == 0
    before = (tmp_path / "out" / WRITTEN[0]).read_bytes()
    assert export(results, ct, tmp_path / "out") == 2
    assert (tmp_path / "out" / WRITTEN[0]).read_bytes() == before
    assert export(results, ct, tmp_path / "out", "--overwrite") == 0
    assert (tmp_path / "out" / WRITTEN[0]).read_bytes() != before


def test_one_object_that_cannot_be_written_keeps_the_other_away(
    results: Path, ct: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / WRITTEN[1]).write_text("somebody's own")
    assert export(results, ct, tmp_path / "out", "--overwrite") == 2
    assert files(tmp_path / "out") == [WRITTEN[1]]
    assert capsys.readouterr().err.strip().count("\n") == 0


def test_another_ct_is_refused(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shifted = replace(FOLLOWUP_GRID, origin=(-32.0, -38.0, -20.0))
    written_ct(tmp_path / "other", shifted)
    assert export(results, tmp_path / "other", tmp_path / "out") == 2
    assert "is it another one" in capsys.readouterr().err
    assert files(tmp_path / "out") == []


def values_of(ct: Path) -> dict[str, str]:
    """What a run on this CT remembers of it."""
    return {"followup_values": volume_fingerprint(dicom_ct_of(ct).volume)}


def test_another_phase_on_the_same_voxels_is_refused(ct: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grid = FOLLOWUP_GRID
    noise = np.random.default_rng(0).normal(0.0, 20.0, grid.shape).astype(np.int16)
    write_ct_series(tmp_path / "phase", Volume(noise, grid, "ct"), PATIENT, date(2024, 1, 2), "phase")
    write_results(tmp_path / "run", [visit_result(name="week3", provenance=values_of(tmp_path / "phase"))])
    assert export(tmp_path / "run", ct, tmp_path / "out") == 2
    assert "another phase" in capsys.readouterr().err
    assert files(tmp_path / "out") == []
    assert export(tmp_path / "run", tmp_path / "phase", tmp_path / "out") == 0
    assert "values" not in capsys.readouterr().err


def test_a_run_that_does_not_remember_its_cts_values_is_exported_with_a_warning(
    results: Path, ct: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(results, ct, tmp_path / "out") == 0
    assert "told from where its voxels lie, not from their values" in capsys.readouterr().err


def with_tags(path: Path, saved: Path, change: dict[str, dict[str, str]], grid: Grid | None = None) -> Path:
    """The result's file as 3D Slicer may have saved it."""
    found = read_segmentation(path)
    segments = tuple(replace(each, tags={**each.tags, **change.get(each.name, {})}) for each in found.segments)
    write_segmentation(Segmentation(grid or found.grid, segments), saved)
    return saved


def accepted(path: Path, name: str) -> dict[str, dict[str, str]]:
    mask = next(each.mask for each in read_segmentation(path).segments if each.name == name)
    decided = {tags.DECISION_TAG: "accepted", tags.REVIEWER_TAG: "Dr A", tags.DECIDED_TAG: tags.fingerprint(mask)}
    return {name: {**decided, tags.DRAWN_TAG: tags.fingerprint(mask), tags.TIME_TAG: "2024-03-01"}}


def test_a_review_in_slicer_counts_for_the_contour_that_was_reviewed(results: Path, ct: Path, tmp_path: Path) -> None:
    source = results / "week3.seg.nrrd"
    with_tags(source, tmp_path / "week3.seg.nrrd", accepted(source, "GTV"))
    assert export(tmp_path / "week3.seg.nrrd", ct, tmp_path / "out") == 0
    assert "Reviewed (accepted) by Dr A" in said(tmp_path / "out" / WRITTEN[0])["GTV"]


def test_a_reviewers_name_comes_out_as_it_was_typed(results: Path, ct: Path, tmp_path: Path) -> None:
    source, name = results / "week3.seg.nrrd", "Dr A | 100% sure"
    review = accepted(source, "GTV")
    review["GTV"][tags.REVIEWER_TAG] = written_tag(name)  # as put_tag leaves it in the file
    with_tags(source, tmp_path / "week3.seg.nrrd", review)
    assert export(tmp_path / "week3.seg.nrrd", ct, tmp_path / "out") == 0
    assert f"by {name}," in said(tmp_path / "out" / WRITTEN[0])["GTV"]


@pytest.mark.parametrize("change", [{tags.DECIDED_TAG: "another"}, {tags.TAKEN_BACK_TAG: "1"}, {tags.REVIEWER_TAG: ""}])
def test_a_review_of_another_contour_does_not_count(results: Path, ct: Path, tmp_path: Path, change: dict[str, str]) -> None:
    source = results / "week3.seg.nrrd"
    review = accepted(source, "GTV")
    review["GTV"].update(change)
    with_tags(source, tmp_path / "week3.seg.nrrd", review)
    assert export(tmp_path / "week3.seg.nrrd", ct, tmp_path / "out") == 0
    assert "UNREVIEWED" in said(tmp_path / "out" / WRITTEN[0])["GTV"]


def test_an_edited_contour_is_semiautomatic(results: Path, ct: Path, tmp_path: Path) -> None:
    with_tags(results / "week3.seg.nrrd", tmp_path / "week3.seg.nrrd", {"GTV": {tags.DRAWN_TAG: "as it was drawn"}})
    assert export(tmp_path / "week3.seg.nrrd", ct, tmp_path / "out") == 0
    rois = pydicom.dcmread(tmp_path / "out" / WRITTEN[0]).StructureSetROISequence
    assert [each.ROIGenerationAlgorithm for each in rois][:2] == ["SEMIAUTOMATIC", "AUTOMATIC"]


def test_segments_of_somebody_else_are_left_out_and_named(
    results: Path, ct: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = read_segmentation(results / "week3.seg.nrrd")
    own = Segment("by hand", ball(FOLLOWUP_GRID, 5.0))
    write_segmentation(Segmentation(found.grid, (*found.segments, own)), tmp_path / "week3.seg.nrrd")
    assert export(tmp_path / "week3.seg.nrrd", ct, tmp_path / "out") == 0
    assert "by_hand" not in said(tmp_path / "out" / WRITTEN[0])
    assert "by hand" in capsys.readouterr().err
    write_segmentation(Segmentation(found.grid, (own,)), tmp_path / "hand.seg.nrrd")
    assert export(tmp_path / "hand.seg.nrrd", ct, tmp_path / "other") == 2
    assert files(tmp_path / "other") == []


def test_a_cropped_file_as_slicer_saves_it_lies_where_it_did(results: Path, ct: Path, tmp_path: Path) -> None:
    found = read_segmentation(results / "week3.seg.nrrd")
    box = (slice(2, 8), slice(5, 23), slice(4, 22))
    x, y, z = (float(each) for each in found.grid.to_physical(np.array([[4.0, 5.0, 2.0]]))[0])
    grid = replace(found.grid, shape=(6, 18, 18), origin=(x, y, z))
    cropped = tuple(replace(each, mask=np.ascontiguousarray(each.mask[box])) for each in found.segments)
    write_segmentation(Segmentation(grid, cropped), tmp_path / "week3.seg.nrrd")
    assert export(tmp_path / "week3.seg.nrrd", ct, tmp_path / "out") == 0
    volume = pydicom.dcmread(tmp_path / "out" / WRITTEN[0]).StructureSetROISequence[0].ROIVolume
    assert float(volume) == pytest.approx(cropped[0].mask.sum() * grid.voxel_ml)


@pytest.mark.parametrize(
    ("summary", "more", "words"),
    [
        (None, (), "summary.json"),
        ("{", (), "summary.json"),
        ("[]", (), "not the summary"),
        (
            json.dumps({"format": "P2SAMSlicer summary", "followups": [{"name": "week3", "file": "../../x.seg.nrrd"}]}),
            (),
            "no contour",
        ),
        (json.dumps({"format": "P2SAMSlicer summary", "followups": [{"name": 3}]}), (), "damaged"),
        ("same", ("--followup", "week9"), "no follow-up 'week9'"),
    ],
)
def test_a_folder_that_is_no_run_is_refused_in_a_line(
    results: Path,
    ct: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    summary: str | None,
    more: tuple[str, ...],
    words: str,
) -> None:
    if summary is None:
        (results / "summary.json").unlink()
    elif summary != "same":
        (results / "summary.json").write_text(summary)
    assert export(results, ct, tmp_path / "out", *more) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.strip().count("\n") == 0
    assert "Doe" not in error
    assert files(tmp_path / "out") == []


def test_of_several_follow_ups_one_is_chosen(ct: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_results(tmp_path / "run", [visit_result(name="week2"), visit_result(name="week3"), FailedVisit("week4", "no reason")])
    assert export(tmp_path / "run", ct, tmp_path / "out") == 2
    assert "week2, week3" in capsys.readouterr().err
    assert export(tmp_path / "run", ct, tmp_path / "out", "--followup", "week4") == 2
    assert "no contour" in capsys.readouterr().err
    assert export(tmp_path / "run", ct, tmp_path / "out", "--followup", "week3") == 0
    assert files(tmp_path / "out") == WRITTEN
