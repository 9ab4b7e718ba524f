"""What a run leaves behind holds everything, hides nothing, and names nobody."""

from __future__ import annotations

import csv
import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import P2SAMSlicerLib
import pytest
from P2SAMSlicerLib import result_files
from P2SAMSlicerLib.errors import OutputError
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.options import PropagationOptions
from P2SAMSlicerLib.result import Outcome, VisitResult
from P2SAMSlicerLib.result_files import FailedVisit, is_comparison, plain, result_names, unique_names, write_results
from P2SAMSlicerLib.segmentation_file import read_segmentation
from scipy.spatial.transform import Rotation
from small_visits import (
    FOLLOWUP_GRID,
    TERMINOLOGY,
    ball,
    segment,
    segment_result,
    visit_result,
    without_contour,
)

ISSUE_KEYS = {
    *("outcome", "reasons", "review_priority", "volume_ml", "prior_volume_ml", "volume_change_percent", "centroid_shift_mm"),
    "slices",
}
SLICE_KEYS = {
    *("lesion", "index", "position_mm", "chosen_candidate", "distance", "n_positive", "n_negative", "predicted_iou"),
    "review_priority",
}


def refuse_constant(name: str) -> Any:
    raise AssertionError(f"{name} is no JSON")


def summary_of(folder: Path) -> dict[str, Any]:
    text = (folder / "summary.json").read_text(encoding="utf-8")
    content: dict[str, Any] = json.loads(text, parse_constant=refuse_constant)
    return content


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_found_contour_is_written_with_the_registered_prior_contour_beside_it(tmp_path: Path) -> None:
    files = write_results(tmp_path / "out", [visit_result()])
    assert files == [tmp_path / "out" / name for name in ("followup.seg.nrrd", "summary.json", "slices.csv")]
    assert names_in(tmp_path / "out") == ["followup.seg.nrrd", "slices.csv", "summary.json"]
    contour, comparison = read_segmentation(files[0]).segments
    assert (contour.name, comparison.name) == ("GTV", "GTV registered prior")
    assert np.array_equal(contour.mask, ball(FOLLOWUP_GRID, 9.0))
    assert np.array_equal(comparison.mask, ball(FOLLOWUP_GRID, 10.0))
    assert contour.color == (1.0, 0.5, 0.0)
    assert contour.terminology == comparison.terminology == TERMINOLOGY
    version = P2SAMSlicerLib.__version__
    assert contour.tags == {
        "Clinic.Id": "7",
        "DICOM.SegmentAlgorithmType": "AUTOMATIC",
        "DICOM.SegmentAlgorithmName": f"P2SAMSlicer {version} (lite_medsam)",
        "Segmentation.Status": "inprogress",
    }
    assert not is_comparison(contour)
    assert is_comparison(comparison)
    assert comparison.tags["DICOM.SegmentAlgorithmName"] == f"P2SAMSlicer {version} (registration)"
    assert comparison.tags["Segmentation.Status"] == "notstarted"


def test_the_comparison_has_a_muted_colour(tmp_path: Path) -> None:
    files = write_results(tmp_path, [visit_result(segment_result(segment()), segment_result(segment("B", color=None)))])
    _, _, first, second = read_segmentation(files[0]).segments
    assert first.color is not None
    assert np.ptp(first.color) < 0.5 * np.ptp((1.0, 0.5, 0.0))
    assert second.color is not None
    assert np.ptp(second.color) == 0


def test_the_file_lies_exactly_on_the_grid_of_an_oblique_follow_up(tmp_path: Path) -> None:
    direction = Rotation.from_euler("xyz", [10, -25, 40], degrees=True).as_matrix()
    grid = Grid((5, 6, 7), (0.9765625, 1.1, 2.5), (-123.456789012345, 98.7, -1000.1), tuple(direction.ravel().tolist()))
    mask = np.zeros(grid.shape, dtype=np.bool_)
    mask[2, 3, 1:5] = True
    files = write_results(tmp_path, [visit_result(segment_result(segment(), mask=mask, registered_mask=mask), grid=grid)])
    written = read_segmentation(files[0])
    assert written.grid.shape == grid.shape
    assert np.abs(written.grid.corners() - grid.corners()).max() < 1e-9
    assert np.array_equal(written.segments[0].mask, mask)


def test_a_flagged_contour_is_marked_as_flagged(tmp_path: Path) -> None:
    visit = visit_result(segment_result(segment(), outcome=Outcome.FLAGGED, reasons=("the volume halved",)))
    files = write_results(tmp_path, [visit])
    assert read_segmentation(files[0]).segments[0].tags["Segmentation.Status"] == "flagged"
    assert summary_of(tmp_path)["followups"][0]["segments"][0]["reasons"] == ["the volume halved"]


@pytest.mark.parametrize("outcome", [Outcome.TOO_SMALL, Outcome.NO_LESION])
def test_without_a_contour_only_the_registered_prior_is_written_and_flagged(tmp_path: Path, outcome: Outcome) -> None:
    files = write_results(tmp_path, [visit_result(without_contour(segment(), outcome, "it is gone"))])
    (only,) = read_segmentation(files[0]).segments
    assert only.name == "GTV registered prior"
    assert only.tags["Segmentation.Status"] == "flagged"
    entry = summary_of(tmp_path)["followups"][0]
    assert entry["written_segments"] == ["GTV registered prior"]
    assert entry["segments"][0]["outcome"] == outcome.value
    assert entry["segments"][0]["reasons"] == ["it is gone"]
    assert entry["segments"][0]["volume_ml"] is None


def test_a_registered_contour_outside_of_the_follow_up_is_not_written_and_that_is_said(tmp_path: Path) -> None:
    nothing = np.zeros(FOLLOWUP_GRID.shape, dtype=np.bool_)
    gone = without_contour(segment(), Outcome.NO_LESION, "outside", registered_mask=nothing)
    (tmp_path / "followup.seg.nrrd").write_text("of an earlier run")
    files = write_results(tmp_path, [visit_result(gone)])
    assert [file.name for file in files] == ["summary.json", "slices.csv"]
    assert names_in(tmp_path) == ["slices.csv", "summary.json"]
    entry = summary_of(tmp_path)["followups"][0]
    assert entry["file"] is None
    assert entry["segments"][0]["reasons"][0] == "outside"
    assert "not written" in entry["segments"][0]["reasons"][1]


def contradictions() -> dict[str, VisitResult]:
    nothing = np.zeros(FOLLOWUP_GRID.shape, dtype=np.bool_)
    return {
        "empty contour": visit_result(segment_result(segment(), mask=nothing)),
        "contradict each other": visit_result(segment_result(segment(), outcome=Outcome.NO_LESION)),
        "contour contradict": visit_result(without_contour(segment(), Outcome.FOUND, "")),
        "not on the follow-up's grid": visit_result(segment_result(segment(), mask=np.ones((2, 2, 2), dtype=np.bool_))),
        r"shape \(2, 2, 2\)": visit_result(segment_result(segment(), registered_mask=np.ones((2, 2, 2), dtype=np.bool_))),
    }


@pytest.mark.parametrize("message", list(contradictions()))
def test_a_result_that_contradicts_itself_is_never_written(tmp_path: Path, message: str) -> None:
    (tmp_path / "summary.json").write_text("earlier")
    with pytest.raises(ValueError, match=message):
        write_results(tmp_path, [visit_result(name="good"), contradictions()[message]])
    assert names_in(tmp_path) == ["summary.json"]
    assert (tmp_path / "summary.json").read_text() == "earlier"


def test_the_summary_has_all_that_the_specification_asks_for(tmp_path: Path) -> None:
    visit = visit_result(
        segment_result(segment(), registration={"shift_mm": 2.5, "reasons": ["poor"]}),
        warnings=("metal",),
        overrides=("another patient id",),
        notes=("points with a box",),
    )
    write_results(tmp_path, [visit], inputs={"prior_ct": "a"})
    summary = summary_of(tmp_path)
    assert summary["files"] == ["followup.seg.nrrd", "summary.json", "slices.csv"]
    assert summary["inputs"] == {"prior_ct": "a"}
    statement = " ".join(summary["statement"])
    for words in ("research use only", "unreviewed", "New lesions are not sought", "never says that a contour is right"):
        assert words in statement
    (followup,) = summary["followups"]
    assert followup["outcome"] == "done"
    assert followup["file"] == "followup.seg.nrrd"
    assert followup["model"] == {"id": "lite_medsam"}
    assert followup["device"] == "cpu"
    assert followup["options"] == {"mode": "clinical"}
    assert followup["versions"].keys() > {"P2SAMSlicer", "python", "torch", "SimpleITK", "numpy"}
    assert followup["stage_seconds"] == {"registration": 1.5, "model": 0.5}
    assert followup["registration"] == {"kind": "deformable", "similarity": 0.9, "residual_mm": None}
    assert (followup["warnings"], followup["overrides"]) == (["metal"], ["another patient id"])
    assert followup["notes"] == ["points with a box"]
    (entry,) = followup["segments"]
    assert entry.keys() > ISSUE_KEYS
    assert entry["segment"] == "GTV"
    assert entry["centroid_shift_mm"] == [0.5, -0.25, 0.0]
    assert entry["removals"] == ["a speck of 0.02 ml"]
    assert entry["registration"] == {"shift_mm": 2.5, "reasons": ["poor"]}
    chosen, none = entry["slices"]
    assert chosen.keys() > SLICE_KEYS
    assert {key: chosen[key] for key in SLICE_KEYS} == {
        "lesion": 1,
        "index": 4,
        "position_mm": -4.0,
        "chosen_candidate": "parts 2 + box",
        "distance": 3.5,
        "n_positive": 2,
        "n_negative": 1,
        "predicted_iou": 0.75,
        "review_priority": 0.25,
    }
    assert chosen["candidates"][0] == {"origin": "registered contour", "distance": 3.5, "score": 3.25, "predicted_iou": None}
    assert chosen["signals"] == {"disagreement": 0.25}
    assert none["chosen_candidate"] is None
    assert none["candidates"][0]["distance"] is None
    assert none["review_priority"] == 0.75


def test_the_slices_table_has_a_row_for_each_follow_up_segment_and_slice(tmp_path: Path) -> None:
    both = visit_result(segment_result(segment()), segment_result(segment('Käse, "2"\n=A1')), name="week 1")
    write_results(tmp_path, [both, FailedVisit("week 2", "no body"), visit_result()])
    with (tmp_path / "slices.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["followup"], row["segment"], row["index"]) for row in rows] == [
        (followup, name, index)
        for followup, name in (("week 1", "GTV"), ("week 1", 'Käse, "2"\n=A1'), ("followup", "GTV"))
        for index in ("4", "5")
    ]
    assert set(rows[0]) >= SLICE_KEYS
    assert [row["lesion"] for row in rows[:2]] == ["1", "2"]
    assert rows[0]["chosen_candidate"] == "parts 2 + box"
    assert rows[1]["chosen_candidate"] == rows[1]["distance"] == ""


def test_nothing_in_the_files_tells_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "Miller John 1950"
    options = PropagationOptions(registration="file", transform_file=folder / "motion.tfm")
    provenance = {"model": {"id": "m", "file": folder / "w.pth"}, "device": "cpu", "options": vars(options)}
    write_results(folder, [visit_result(provenance=provenance)])
    for file in folder.iterdir():
        assert b"Miller" not in file.read_bytes()
    assert summary_of(folder)["followups"][0]["options"]["transform_file"] == "motion.tfm"


def test_a_failed_follow_up_is_recorded_and_its_contour_of_an_earlier_run_is_removed(tmp_path: Path) -> None:
    write_results(tmp_path, [visit_result(name="a"), visit_result(name="b")])
    files = write_results(tmp_path, [visit_result(name="a"), FailedVisit("b", "the CT shows no body", "Traceback: /home/x")])
    assert names_in(tmp_path) == ["a.seg.nrrd", "slices.csv", "summary.json"]
    assert [file.name for file in files] == ["a.seg.nrrd", "summary.json", "slices.csv"]
    summary = summary_of(tmp_path)
    assert [entry["outcome"] for entry in summary["followups"]] == ["done", "failed"]
    assert summary["followups"][1]["reason"] == "the CT shows no body"
    assert "Traceback" not in json.dumps(summary)


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_results(tmp_path, [visit_result()])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def no_space(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(result_files, "_write_slices", no_space)
    with pytest.raises(OutputError, match="no space left"):
        write_results(tmp_path, [visit_result(segment_result(segment(), mask=ball(FOLLOWUP_GRID, 5.0)))])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_earlier_contour_that_cannot_be_removed_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.seg.nrrd").mkdir()
    with pytest.raises(OutputError, match=r"a\.seg\.nrrd: is of an earlier run"):
        write_results(tmp_path, [FailedVisit("a", "no body")])


def test_segments_that_would_have_the_same_name_are_told_apart(tmp_path: Path) -> None:
    sources = [segment("GTV"), segment("GTV registered prior", tags={"P2SAM.ComparisonOnly": "1"})]
    files = write_results(tmp_path, [visit_result(*map(segment_result, sources))])
    segments = read_segmentation(files[0]).segments
    assert [each.name for each in segments] == [
        *("GTV", "GTV registered prior", "GTV registered prior 2", "GTV registered prior registered prior"),
    ]
    # A result of its own is no comparison, whatever its source was.
    assert [is_comparison(each) for each in segments] == [False, False, True, True]


def test_names_that_come_again_get_a_number_and_never_that_of_another() -> None:
    assert unique_names(["ct", "CT", "ct_2", "ct"]) == ["ct", "CT_3", "ct_2", "ct_4"]
    assert result_names(["a", "a"]) == ["a.seg.nrrd", "a_2.seg.nrrd", "summary.json", "slices.csv"]


def test_two_follow_ups_of_one_name_do_not_overwrite_each_other(tmp_path: Path) -> None:
    small = visit_result(segment_result(segment(), mask=ball(FOLLOWUP_GRID, 5.0)))
    files = write_results(tmp_path, [visit_result(), small])
    assert [file.name for file in files[:2]] == ["followup.seg.nrrd", "followup_2.seg.nrrd"]
    assert np.array_equal(read_segmentation(files[1]).segments[0].mask, ball(FOLLOWUP_GRID, 5.0))
    assert [each["name"] for each in summary_of(tmp_path)["followups"]] == ["followup", "followup_2"]


def test_values_become_plain_ones() -> None:
    value = {
        1: np.float32("nan"),
        "a": np.array([[1.5, np.inf]]),
        "b": (np.int64(3), True, None, Outcome.TOO_SMALL),
        "c": Path("/home/someone/x.tfm"),
        "d": -float("inf"),
        "e": np.bool_(False),
    }
    assert plain(value) == {
        "1": None,
        "a": [[1.5, None]],
        "b": [3, True, None, "too small"],
        "c": "x.tfm",
        "d": None,
        "e": False,
    }
    assert type(plain(np.int64(3))) is int
    assert type(plain(np.bool_(False))) is bool


def test_a_file_name_that_is_no_unicode_can_be_written(tmp_path: Path) -> None:
    name = os.fsdecode(b"visit\xff")
    write_results(tmp_path, [FailedVisit(name, "no body"), visit_result()])
    assert summary_of(tmp_path)["followups"][0]["name"] == name
