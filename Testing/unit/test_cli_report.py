"""``p2sam report``: decisions from segmentations that 3D Slicer saved, believed only while they hold."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from P2SAMSlicerLib.cli import main
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.mrml import review_nodes as tags
from P2SAMSlicerLib.mrml.result_nodes import SOURCE_TAG
from P2SAMSlicerLib.result import Outcome
from P2SAMSlicerLib.result_files import is_comparison
from P2SAMSlicerLib.segmentation_file import read_segmentation, write_segmentation
from P2SAMSlicerLib.volume import BoolArray, Segment, Segmentation
from small_visits import FOLLOWUP_GRID, ball, segment, visit_result, without_contour
from visit_folders import small_result, write_failed_visit, write_visit_folder

SMALLER = ball(FOLLOWUP_GRID, 8.0)


@pytest.fixture
def patient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A patient's folder with two visits that are done and one that failed; plots are not drawn."""
    monkeypatch.setattr("P2SAMSlicerLib.report.trends._draw", lambda *_: b"\x89PNG\r\n\x1a\n")
    out = tmp_path / "out"
    write_visit_folder(out, small_result("visit_2"), number=2)
    write_failed_visit(out, 3)
    gone = without_contour(segment(), Outcome.NO_LESION, "nothing like it is there", registered_mask=ball(FOLLOWUP_GRID, 9.5))
    write_visit_folder(out, visit_result(gone, name="visit_10"), number=10, day=90)
    return out


def reviewed(
    patient: Path, *, label: str = "visit_2", mask: BoolArray | None = None, rename: str | None = None, **changed: str | None
) -> Path:
    """A visit's contours as 3D Slicer saves them after they were accepted.

    :param mask: the contour that was accepted; the tool's own if None.
    :param rename: a person's own name for the contour.
    :param changed: tags by the last part of their name that are other ones, or None for none.
    """
    found = read_segmentation(patient / label / f"{label}.seg.nrrd")
    drawn = found.segments[0]
    now = drawn.mask if mask is None else mask
    own = {
        SOURCE_TAG: "GTV",
        tags.DRAWN_TAG: tags.fingerprint(drawn.mask),
        tags.DECISION_TAG: "accepted",
        tags.REVIEWER_TAG: "A. Ж.",
        tags.TIME_TAG: "2026-01-01T10:00:00+00:00",
        tags.DECIDED_TAG: tags.fingerprint(now),
    }
    for key, value in changed.items():
        own = {name: each for name, each in own.items() if name != f"P2SAM.{key}"}
        if value is not None:
            own[f"P2SAM.{key}"] = value
    first = replace(drawn, mask=now, name=rename or drawn.name, tags={**drawn.tags, **own})
    path = patient.parent / "reviewed.seg.nrrd"
    write_segmentation(Segmentation(found.grid, (first, *found.segments[1:])), path)
    return path


def content_of(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "report.json").read_text(encoding="utf-8")))


def review_in(out: Path, label: str = "visit_2") -> dict[str, Any]:
    """The review of the only segment of a visit."""
    (visit,) = [each for each in content_of(out)["visits"] if each["label"] == label]
    return dict(visit["segments"][0]["review"])


def failure(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line that a command says that refuses its input."""
    assert main(["report", *words]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


def test_without_a_review_everything_is_unreviewed(patient: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(patient)]) == 0
    content = content_of(patient)
    assert [each["label"] for each in content["visits"]] == ["visit_2", "visit_3", "visit_10"]
    assert (content["contours"], content["unreviewed"]) == (2, 2)
    assert f"written: {patient / 'report.html'}" in capsys.readouterr().out


def test_an_accepted_contour_is_told_with_who_and_when(patient: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(patient), "--reviewed", str(reviewed(patient))]) == 0
    review = review_in(patient)
    assert (review["decision"], review["reviewer"], review["time"]) == ("accepted", "A. Ж.", "2026-01-01T10:00:00+00:00")
    assert (review["accepted"], review["edited"], review["dice"], review["mean_surface_mm"]) == (True, False, 1.0, 0.0)
    assert "visit_2, GTV: accepted by A. Ж." in capsys.readouterr().out
    assert content_of(patient)["unreviewed"] == 1


def test_a_contour_that_was_edited_and_then_accepted_is_compared_with_what_the_tool_drew(patient: Path) -> None:
    path = reviewed(patient, mask=SMALLER, rename="my tumour")
    assert main(["report", str(patient), "--reviewed", str(path)]) == 0
    review = review_in(patient)
    assert (review["accepted"], review["edited"]) == (True, True)
    assert review["volume_after_ml"] == pytest.approx(np.count_nonzero(SMALLER) * FOLLOWUP_GRID.voxel_ml)
    assert review["volume_after_ml"] < review["volume_before_ml"]
    assert 0.5 < review["dice"] < 1.0
    assert 0.0 < review["mean_surface_mm"] < review["hd95_mm"] < 10.0


@pytest.mark.parametrize(
    "changed",
    [
        {"DecidedContour": "0" * 64},
        {"DecidedContour": None},
        {"DecisionTakenBack": "1"},
        {"Decision": "approved"},
        {"Decision": None},
        {"Reviewer": " "},
        {"Reviewer": None},
    ],
)
def test_a_decision_that_does_not_hold_leaves_the_contour_unreviewed(patient: Path, changed: dict[str, Any]) -> None:
    assert main(["report", str(patient), "--reviewed", str(reviewed(patient, **changed))]) == 0
    review = review_in(patient)
    assert (review["decision"], review["accepted"], review["reviewer"], review["time"]) == ("unreviewed", False, "", "")


def test_a_contour_that_was_edited_after_it_was_accepted_is_unreviewed(patient: Path) -> None:
    drawn = read_segmentation(patient / "visit_2" / "visit_2.seg.nrrd").segments[0].mask
    path = reviewed(patient, mask=SMALLER, DecidedContour=tags.fingerprint(drawn))
    assert main(["report", str(patient), "--reviewed", str(path)]) == 0
    review = review_in(patient)
    assert (review["decision"], review["edited"]) == ("unreviewed", True)


@pytest.mark.parametrize("decision", ["rejected", "flagged"])
def test_other_decisions_are_told_and_count_as_unreviewed(patient: Path, decision: str) -> None:
    assert main(["report", str(patient), "--reviewed", str(reviewed(patient, Decision=decision))]) == 0
    assert review_in(patient)["decision"] == decision
    assert f"UNREVIEWED ({decision})" in (patient / "report.html").read_text(encoding="utf-8")


def test_where_there_is_only_the_registered_contour_that_one_is_judged(patient: Path) -> None:
    assert main(["report", str(patient), "--reviewed", str(reviewed(patient, label="visit_10"))]) == 0
    assert review_in(patient, "visit_10")["accepted"]
    assert not review_in(patient)["accepted"]


def test_a_file_that_slicer_cropped_is_put_back_on_the_voxels_of_the_visit(patient: Path) -> None:
    path = reviewed(patient)
    found = read_segmentation(path)
    grid = found.grid
    origin = grid.to_physical(np.array([[3.0, 4.0, 1.0]]))[0]
    small = Grid((8, 22, 20), grid.spacing, (float(origin[0]), float(origin[1]), float(origin[2])), grid.direction)
    cropped = [replace(each, mask=each.mask[1:9, 4:26, 3:23]) for each in found.segments]
    assert all(each.mask.sum() == other.mask.sum() for each, other in zip(cropped, found.segments, strict=True))
    write_segmentation(Segmentation(small, tuple(cropped)), path)
    assert main(["report", str(patient), "--reviewed", str(path)]) == 0
    assert review_in(patient)["accepted"]
    assert not review_in(patient)["edited"]


def test_the_visit_can_be_named_where_the_file_does_not_tell_it(patient: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = reviewed(patient, DrawnContour="f" * 64)  # as after an update with edited prompts
    assert "were drawn for no visit here; say which it is" in failure(capsys, str(patient), "--reviewed", str(path))
    assert main(["report", str(patient), "--reviewed", f"visit_2={path}"]) == 0
    assert review_in(patient)["accepted"]


def test_files_that_fit_no_visit_are_refused_in_one_line(patient: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(reviewed(patient))
    folder = str(patient)
    assert "no contours of visit_3; there are those of: visit_2, visit_10" in failure(
        capsys, folder, "--reviewed", f"visit_3={path}"
    )
    assert "is the second reviewed segmentation of visit_2" in failure(capsys, folder, "--reviewed", path, "--reviewed", path)
    own = str(patient / "visit_2" / "visit_2.seg.nrrd")
    assert "remembers no contour of this tool" in failure(capsys, folder, "--reviewed", own)
    assert "no such file" in failure(capsys, folder, "--reviewed", str(patient / "absent.seg.nrrd"))
    far = Grid(FOLLOWUP_GRID.shape, FOLLOWUP_GRID.spacing, (900.0, 0.0, 0.0))
    write_segmentation(Segmentation(far, (Segment("GTV", SMALLER),)), Path(path))
    assert "lies outside of the CT of visit_2" in failure(capsys, folder, "--reviewed", f"visit_2={path}")
    assert not (patient / "report.html").exists()


def test_segments_that_are_not_the_tools_are_left_alone(patient: Path) -> None:
    path = reviewed(patient)
    found = read_segmentation(path)
    write_segmentation(Segmentation(found.grid, (*found.segments, Segment("couch", SMALLER))), path)
    assert main(["report", str(patient), "--reviewed", str(path)]) == 0
    assert len(content_of(patient)["visits"][0]["segments"]) == 1
    assert any(is_comparison(each) for each in found.segments)


def test_a_report_that_is_there_is_kept_unless_told_otherwise(patient: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(patient)]) == 0
    before = (patient / "report.html").read_bytes()
    path = str(reviewed(patient))
    capsys.readouterr()
    assert "--overwrite" in failure(capsys, str(patient), "--reviewed", path)
    assert (patient / "report.html").read_bytes() == before
    assert main(["report", str(patient), "--reviewed", path, "--out", str(patient.parent / "signed")]) == 0
    assert review_in(patient.parent / "signed")["accepted"]
    assert main(["report", str(patient), "--reviewed", path, "--overwrite"]) == 0
    assert review_in(patient)["accepted"]


def test_what_an_earlier_report_said_of_the_first_visit_is_kept(patient: Path) -> None:
    assert main(["report", str(patient)]) == 0
    content = content_of(patient)
    content["prior"].update(approved=True, day=0, warnings=["a warning"])
    (patient / "report.json").write_text(json.dumps(content), encoding="utf-8")
    assert main(["report", str(patient), "--overwrite"]) == 0
    assert content_of(patient)["prior"] == content["prior"]
    (patient / "report.json").write_text('{"format": "P2SAMSlicer patient report", "prior": 3}', encoding="utf-8")
    assert main(["report", str(patient), "--overwrite"]) == 0
    assert content_of(patient)["prior"]["approved"] is None


def test_the_identity_comes_from_the_patients_own_files(
    patient: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from small_visits import PRIOR_GRID, phantom, write_dicom

    studies = patient.parent / "studies"
    for number, date in enumerate(("20260101", "20260131", "20260302")):
        write_dicom(studies / str(number), phantom(PRIOR_GRID), "PID-4711", date)
    from P2SAMSlicerLib.patient.visit_order import CtSource, PatientVisit

    found = [
        PatientVisit(n, f"visit_{n}", day, date, CtSource((studies / str(n - 1) / "000.dcm",), True))
        for n, day, date in ((1, 0, "20260101"), (2, 30, "20260131"), (3, 60, "20260302"), (10, 90, "20260401"))
    ]
    monkeypatch.setattr("P2SAMSlicerLib.patient.visits.find_visits", lambda *_, **__: tuple(found))
    assert main(["report", str(patient), "--identified", str(studies)]) == 0
    page = (patient / "report.html").read_text(encoding="utf-8")
    for words in ("IDENTIFIED", "Doe^Jane", "PID-4711", "2026-01-31", "2026-04-01"):
        assert words in page
    found[1] = replace(found[1], day=31)
    capsys.readouterr()
    assert "holds other visits" in failure(capsys, str(patient), "--identified", str(studies), "--overwrite")


def test_a_folder_without_visits_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "holds no visit's folder" in failure(capsys, str(tmp_path))
    assert "no such folder" in failure(capsys, str(tmp_path / "absent"))
