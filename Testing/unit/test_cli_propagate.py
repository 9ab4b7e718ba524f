"""``p2sam propagate``: from files to files, with a fake engine in between."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_engine import Engine, errors_in, names_in, summary_of
from P2SAMSlicerLib import cli, models
from P2SAMSlicerLib.cli import job
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.options import PropagationOptions
from P2SAMSlicerLib.result import Outcome
from P2SAMSlicerLib.segmentation_file import read_segmentation
from P2SAMSlicerLib.volume import Volume
from P2SAMSlicerLib.volume_file import write_volume
from small_visits import (
    FOLLOWUP_GRID,
    PRIOR_GRID,
    phantom,
    segment,
    segment_result,
    visit_result,
    without_contour,
    write_dicom,
    write_visits,
)


def test_a_run_writes_three_files_and_prints_what_came_out(
    visits: list[str], tmp_path: Path, engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(visits) == 0
    assert names_in(tmp_path / "out") == ["followup.seg.nrrd", "slices.csv", "summary.json"]
    written = read_segmentation(tmp_path / "out" / "followup.seg.nrrd")
    ((prior, segments, followup, options),) = engine.calls
    # NIfTI keeps its geometry in single precision: the result lies on the grid as read, not on that of the phantom.
    assert written.grid.same_as(followup.grid, 1e-9)
    assert prior.grid.shape == PRIOR_GRID.shape
    assert [each.name for each in segments] == ["GTV"]
    assert np.array_equal(segments[0].mask, segment().mask)
    assert options == PropagationOptions()
    printed = capsys.readouterr().out
    assert re.search(r"followup, GTV +found +4\.00 +3\.00 +-25\.0 % +0\.50", printed)
    assert f"written: {tmp_path / 'out' / 'followup.seg.nrrd'}" in printed
    assert "New lesions are not sought" in printed
    assert "research use only" in printed
    summary = summary_of(tmp_path / "out")
    assert summary["inputs"]["prior_ct"] == "prior_ct.nii.gz"
    assert summary["inputs"]["followups"] == ["followup.nii.gz"]
    assert str(tmp_path) not in json.dumps(summary)


def test_every_option_reaches_the_engine(visits: list[str], tmp_path: Path, engine: Engine) -> None:
    import SimpleITK

    transform = tmp_path / "motion.tfm"
    SimpleITK.WriteTransform(SimpleITK.TranslationTransform(3, (1.0, 2.0, 3.0)), str(transform))
    words = ["--mode", "paper", "--registration", str(transform), "--modality", "cbct", "--parts", "5", "--negatives", "0:3"]
    words += ["--margin-mm", "30", "--plausible-mm", "12.5", "--seed", "7", "--allow-other-patient", "--allow-older-followup"]
    words += ["--registration-only", "GTV"]
    assert cli.main([*visits, *words, "--device", "cpu", "--precision", "float32", "--threads", "2"]) == 0
    assert engine.calls[0][3] == PropagationOptions(
        mode="paper",
        registration="file",
        transform_file=transform,
        modality="cbct",
        max_parts=5,
        negatives=(0, 1, 2, 3),
        margin_mm=30.0,
        plausible_mm=12.5,
        registration_only=("GTV",),
        seed=7,
        allow_other_patient=True,
        allow_older_followup=True,
    )
    assert engine.loaded == [("lite_medsam_ct", "cpu", None, {"allow_unverified": False, "precision": "float32"})]


def test_a_checkpoint_of_your_own_reaches_the_model_when_allowed(visits: list[str], tmp_path: Path, engine: Engine) -> None:
    weights = tmp_path / "own.pth"
    weights.write_bytes(b"PK" + bytes(1000))
    assert cli.main([*visits, "--checkpoint", str(weights), "--allow-unverified"]) == 0
    assert engine.loaded == [("lite_medsam_ct", "auto", weights, {"allow_unverified": True, "precision": "auto"})]


def test_only_the_named_segments_are_carried_each_once(tmp_path: Path, engine: Engine) -> None:
    line = write_visits(tmp_path, segment("A"), segment("B"), segment("C"))
    assert cli.main([*line, "--out", str(tmp_path / "out"), "--segment", "C", "--segment", "A", "--segment", "C"]) == 0
    assert [each.name for each in engine.calls[0][1]] == ["C", "A"]


def test_a_result_serves_as_the_prior_of_the_next_visit_without_its_comparisons(
    visits: list[str], tmp_path: Path, engine: Engine
) -> None:
    assert cli.main(visits) == 0
    again = ["propagate", "--prior-ct", str(tmp_path / "followup.nii.gz"), "--followup-ct", str(tmp_path / "prior_ct.nii.gz")]
    again += ["--prior-seg", str(tmp_path / "out" / "followup.seg.nrrd"), "--out", str(tmp_path / "next")]
    assert cli.main(again) == 0
    assert [each.name for each in engine.calls[1][1]] == ["GTV"]
    assert "not carried, because for comparison only: 1 of the segments" in " ".join(summary_of(tmp_path / "next")["warnings"])


def test_each_follow_up_has_its_file_and_one_that_fails_leaves_the_others_theirs(
    visits: list[str], tmp_path: Path, engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "week2").mkdir()
    for name in ("week2/followup.nii.gz", "broken.nii.gz"):
        write_volume(phantom(FOLLOWUP_GRID), tmp_path / name)
    engine.faults["broken"] = InputError("the CT shows no body\n(nothing above -400 HU)")
    more = [word for name in ("broken.nii.gz", "week2/followup.nii.gz") for word in ("--followup-ct", str(tmp_path / name))]
    assert cli.main([*visits, *more]) == 1
    assert names_in(tmp_path / "out") == ["followup.seg.nrrd", "followup_2.seg.nrrd", "slices.csv", "summary.json"]
    entries = summary_of(tmp_path / "out")["followups"]
    assert [(each["name"], each["outcome"]) for each in entries] == [
        *(("followup", "done"), ("broken", "failed"), ("followup_2", "done")),
    ]
    assert entries[1]["reason"] == "the CT shows no body (nothing above -400 HU)"
    captured = capsys.readouterr()
    assert errors_in(captured.err) == ["p2sam: error: broken: the CT shows no body (nothing above -400 HU)"]
    assert re.search(r"broken +failed", captured.out)
    assert len(engine.loaded) == 1


def test_an_unexpected_fault_in_one_follow_up_is_told_without_its_own_words(
    visits: list[str], tmp_path: Path, engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    engine.faults["followup"] = RuntimeError("cannot open /home/miller/scan")
    assert cli.main(visits) == 1
    entry = summary_of(tmp_path / "out")["followups"][0]
    assert entry["outcome"] == "failed"
    assert entry["reason"].startswith("unexpected RuntimeError: a fault of this program (p2sam --debug shows the traceback")
    assert errors_in(capsys.readouterr().err) == [f"p2sam: error: followup: {entry['reason']}"]
    assert "miller" not in entry["reason"]
    assert cli.main([*visits, "--overwrite", "--debug"]) == 1
    assert "RuntimeError: cannot open /home/miller/scan" in capsys.readouterr().err
    assert "miller" not in (tmp_path / "out" / "summary.json").read_text()


def test_a_follow_up_that_vanished_since_the_check_counts_as_failed(
    visits: list[str], tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "KEPT_BYTES", 0)

    def load_model(*arguments: Any, **options: Any) -> Any:
        (tmp_path / "followup.nii.gz").unlink()
        return engine.load_model(*arguments, **options)

    monkeypatch.setattr(models, "load_model", load_model)
    assert cli.main(visits) == 1
    assert summary_of(tmp_path / "out")["followups"][0]["reason"] == "followup.nii.gz: no such file or folder"


def test_follow_ups_that_do_not_fit_into_memory_are_read_again(
    visits: list[str], engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "KEPT_BYTES", 0)
    assert cli.main(visits) == 0
    assert np.array_equal(engine.calls[0][2].array, phantom(FOLLOWUP_GRID).array)


def test_results_that_are_there_are_refused_before_any_work_and_replaced_on_request(
    visits: list[str], tmp_path: Path, engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "slices.csv").write_text("mine")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    assert cli.main(visits) == 2
    expected = "p2sam: error: slices.csv: there already in the folder for the results; use --overwrite to replace"
    assert errors_in(capsys.readouterr().err) == [expected]
    assert not engine.loaded
    assert (tmp_path / "out" / "slices.csv").read_text() == "mine"
    assert cli.main([*visits, "--overwrite"]) == 0
    assert names_in(tmp_path / "out") == ["followup.seg.nrrd", "notes.txt", "slices.csv", "summary.json"]
    assert (tmp_path / "out" / "slices.csv").read_text() != "mine"


def test_an_input_is_never_replaced_not_even_on_request(
    tmp_path: Path, engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    line = write_visits(tmp_path)
    seg = (tmp_path / "prior.seg.nrrd").rename(tmp_path / "followup.seg.nrrd")
    content = seg.read_bytes()
    line[line.index(str(tmp_path / "prior.seg.nrrd"))] = str(seg)
    assert cli.main([*line, "--out", str(tmp_path), "--overwrite"]) == 2
    assert re.match(r"p2sam: error: followup\.seg\.nrrd: is an input", errors_in(capsys.readouterr().err)[0])
    assert seg.read_bytes() == content
    assert not engine.loaded


def test_warnings_of_readers_and_engine_are_told_once(
    tmp_path: Path, engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    line = write_visits(tmp_path)
    dicom = write_dicom(tmp_path / "dicom", phantom(FOLLOWUP_GRID), "SECRET-1", "20240101")
    (dicom / "readme.txt").write_text("hello")
    line[-1] = str(dicom)
    engine.answer = lambda segments, followup: visit_result(
        *(segment_result(each, followup.grid) for each in segments), grid=followup.grid, warnings=followup.warnings
    )
    assert cli.main([*line, "--out", str(tmp_path / "out")]) == 0
    (entry,) = summary_of(tmp_path / "out")["followups"]
    assert entry["name"] == "dicom"
    assert sum("left aside" in warning for warning in entry["warnings"]) == 1
    captured = capsys.readouterr()
    assert captured.out.count("left aside") == 1
    for text in (captured.out, captured.err, *(path.read_text("latin-1") for path in (tmp_path / "out").iterdir())):
        assert "SECRET" not in text
        assert "Doe" not in text


def test_an_outcome_without_contour_is_printed_with_its_reason(
    visits: list[str], engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    engine.answer = lambda segments, followup: visit_result(
        *(without_contour(each, Outcome.NO_LESION, "nothing like it is there") for each in segments), grid=followup.grid
    )
    assert cli.main(visits) == 0
    printed = capsys.readouterr().out
    assert re.search(r"followup, GTV +no lesion found +4\.00 +- +-", printed)
    assert "- followup, GTV: nothing like it is there" in printed


def test_notes_on_the_method_are_printed_once_and_are_no_objections(
    visits: list[str], engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_volume(phantom(FOLLOWUP_GRID), tmp_path / "second.nii.gz")
    engine.answer = lambda segments, followup: visit_result(
        *(segment_result(each, followup.grid) for each in segments), grid=followup.grid, notes=("points with a box",)
    )
    assert cli.main([*visits, "--followup-ct", str(tmp_path / "second.nii.gz")]) == 0
    assert capsys.readouterr().out.splitlines().count("note: points with a box") == 1


def test_progress_goes_to_standard_error_as_lines_of_json(
    visits: list[str], engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_volume(phantom(FOLLOWUP_GRID), tmp_path / "second.nii.gz")
    assert cli.main([*visits, "--followup-ct", str(tmp_path / "second.nii.gz"), "--json-progress"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [each["stage"] for each in events].count("registration") == 2
    assert events[-1]["message"] == "follow-up 2 of 2"
    reading = [(each["done"], each["total"]) for each in events if each["stage"] == "reading"]
    assert reading == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]
    assert len(engine.calls) == 2


def test_a_cbct_that_is_no_ct_is_taken_only_when_it_is_called_one(visits: list[str], tmp_path: Path, engine: Engine) -> None:
    cbct = Volume(phantom(FOLLOWUP_GRID).array + np.int16(1100), FOLLOWUP_GRID)
    write_volume(cbct, tmp_path / "followup.nii.gz")
    assert cli.main(visits) == 2
    assert cli.main([*visits, "--modality", "cbct"]) == 0
    assert [call[3].modality for call in engine.calls] == ["cbct"]


def test_the_follow_up_in_the_present_folder_gets_the_folder_s_name(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = write_visits(tmp_path)
    monkeypatch.chdir(write_dicom(tmp_path / "week 3", phantom(FOLLOWUP_GRID), "A", "20240101"))
    line[-1] = "."
    assert cli.main([*line, "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "week 3.seg.nrrd").is_file()
    assert engine.calls[0][2].name == "week 3"


@pytest.mark.parametrize("option", ["--registration-only", "--with-model"])
def test_a_structure_that_is_not_carried_is_refused_before_any_work(
    visits: list[str], engine: Engine, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    assert cli.main([*visits, option, "Haert"]) == 2
    assert errors_in(capsys.readouterr().err) == ["p2sam: error: no segment named 'Haert' is carried; there are: GTV"]
    assert not engine.loaded
