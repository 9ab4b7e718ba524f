"""The benchmark's run from the command line, and its files."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmark_cases import GRID, case_named, findings_of, registered_and, row_of, slice_of, square, write_case
from P2SAMSlicerLib.benchmark.case_contours import CaseContours, MethodContour
from P2SAMSlicerLib.benchmark.choice_quality import choice_quality
from P2SAMSlicerLib.benchmark.findings import AccuracyFindings
from P2SAMSlicerLib.benchmark.methods import METHODS
from P2SAMSlicerLib.benchmark.ranking_quality import RankedSlice
from P2SAMSlicerLib.benchmark.report import NAMES, write_report
from P2SAMSlicerLib.candidates import REGISTERED
from P2SAMSlicerLib.cli import main
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.resample import resample_mask
from P2SAMSlicerLib.result_files import FailedVisit
from PIL import Image


def everything() -> AccuracyFindings:
    """Findings with all that there can be: an empty result, a vanished lesion, a choice, an order, a failure, a note."""
    cases = [
        case_named("a", "grow"),
        case_named("b", patient="a"),
        case_named("c", site="sarcoma"),
        case_named("gone", "vanish"),
    ]
    truth = np.zeros(GRID.shape, dtype=np.bool_)
    truth[1] = square(4, 15)
    choice = choice_quality([slice_of(1, registered_and(box=square(4, 15)), REGISTERED)], truth, GRID)
    findings = findings_of(
        {"copy": (6.0, 0.0, 9.0), "registered": (9.0, 10.0, 12.0), "clinical": (12.0, 11.0, 12.0)},
        cases[:3],
        choices={"a": choice},
        rankings={"a": tuple(RankedSlice(n, 0.1 * n, 1.0 - 0.1 * n) for n in range(6))},
        failures=(FailedVisit("d", "prior_ct.nii.gz: empty", ""),),
        notes=("itk-elastix is not installed",),
        provenance={"model": {"id": "stub"}, "device": "cpu", "threads": 1},
    )
    vanished = tuple(row_of(cases[3], method, 6.0 if method == "copy" else 0.0, 0.0) for method in findings.methods)
    return replace(findings, cases=tuple(cases), rows=(*findings.rows, *vanished))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report")
    assert sorted(path.name for path in write_report(out, everything())) == sorted(NAMES)
    return out


def test_the_tables_hold_every_method_site_change_and_case(written: Path) -> None:
    text = (written / "accuracy.md").read_text()
    for heading in (
        "Site: lung",
        "Site: sarcoma",
        "Change: grow",
        "Change: shrink",
        "Dice of every case",
        "Targets",
        "Methods",
    ):
        assert f"## {heading}\n" in text
    assert text.count("No clinical claim") == 1 + 2 + 3, "with every group of cases"
    assert "3 cases with a lesion" in text
    assert "- d: not measured: prior_ct.nii.gz: empty" in text
    assert "- itk-elastix is not installed" in text
    lines = text.splitlines()
    tables = [line for line in lines if line.startswith("|")]
    assert all(line.count("|") == lines[lines.index(line)].count("|") for line in tables)
    copied = next(line for line in lines if line.startswith("| copy |"))
    assert copied.split("|")[4].strip() == "infinite", "an empty result is not skipped in the mean of distances"


def test_a_vanished_lesion_is_in_no_mean_and_told_apart(written: Path) -> None:
    lines = (written / "accuracy.md").read_text().splitlines()
    start = lines.index("| method | contoured | mean ml |")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[start + 2 : start + 5]]
    assert [row[:2] for row in rows] == [["copy", "1 of 1"], ["own registered contour", "0 of 1"], ["clinical mode", "0 of 1"]]
    assert rows[1][2] == "-"
    first = next(line for line in lines if line.startswith("| clinical mode |"))
    dice = np.mean([row.metrics.volumetric_dice for row in everything().of("clinical")])
    assert first.split("|")[2].strip() == f"{dice:.3f}"


def test_the_rows_and_the_record_agree_and_name_no_patient(written: Path) -> None:
    with (written / "accuracy.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    record = json.loads((written / "accuracy.json").read_text())
    assert len(rows) == len(record["rows"]) == 12
    assert [row["patient"] for row in rows[:3]] == ["1", "1", "2"]
    assert float(rows[8]["volumetric_dice"]) == record["rows"][8]["volumetric_dice"]
    empty = next(row for row in record["rows"] if row["case"] == "b" and row["method"] == "copy")
    assert (empty["hd95_mm"], empty["empty"]) == (None, ["result"])
    assert set(record["clinical_minus"]) == {"copy", "registered"}
    assert record["choices"]["a"]["slice_oracle_dice"] == 1.0
    assert record["rankings"]["a"]["spearman"] == pytest.approx(1.0)
    assert {goal["met"] for goal in record["targets"]} == {True, False, None}


def test_the_plot_shows_something(written: Path) -> None:
    picture = np.asarray(Image.open(written / "accuracy.png").convert("L"))
    assert picture.shape[1] > 1000
    assert 0.01 < (picture < 128).mean() < 0.5


# ----------------------------------------------------------------------------------------------------------- command line
def command(tmp_path: Path, *more: str) -> list[str]:
    return ["benchmark", "accuracy", "--cases", str(tmp_path / "cases"), "--out", str(tmp_path / "out"), *more]


@pytest.mark.usefixtures("own_threads")
def test_copying_is_measured_without_any_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("P2SAMSlicerLib.models.load_model", lambda *_, **__: pytest.fail("a model was loaded"))
    for name in ("lung_a", "lung_b"):
        write_case(tmp_path / "cases" / name, change="shrink", seed=1)
    assert main(command(tmp_path, "--method", "copy", "--case", "lung_b")) == 0
    out = capsys.readouterr().out
    assert "| copy | 0." in out
    assert "written: " in out
    (row,) = json.loads((tmp_path / "out" / "accuracy.json").read_text())["rows"]
    assert (row["case"], row["method"], row["site"]) == ("lung_b", "copy", "lung")
    assert 0.5 < row["volumetric_dice"] < 1.0
    assert row["missed_fraction"] == pytest.approx(0.0, abs=0.1)


@pytest.mark.usefixtures("own_threads")
def test_a_case_that_cannot_be_used_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def contours(_model: Any, data: Any, methods: Any, *_: Any) -> CaseContours:
        if data.truth.sum() > 200:
            raise InputError("followup_ct.nii.gz: its values are not HU")
        mask = resample_mask(data.segment.mask, data.prior.grid, data.followup.grid)
        return CaseContours({method: MethodContour(mask, 1.0) for method in methods})

    monkeypatch.setattr("P2SAMSlicerLib.benchmark.accuracy.own_contours", contours)
    write_case(tmp_path / "cases" / "a", truth_radius=16.0)
    write_case(tmp_path / "cases" / "b", truth_radius=8.0)
    assert main(command(tmp_path, "--method", "copy")) == 1
    captured = capsys.readouterr()
    assert "p2sam: error: a: followup_ct.nii.gz: its values are not HU" in captured.err
    assert "Traceback" not in captured.err
    record = json.loads((tmp_path / "out" / "accuracy.json").read_text())
    assert [row["case"] for row in record["rows"]] == ["b"]
    assert record["failures"] == [{"case": "a", "reason": "followup_ct.nii.gz: its values are not HU"}]


@pytest.mark.usefixtures("own_threads")
def test_without_elastix_its_rows_are_left_out_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("P2SAMSlicerLib.benchmark.elastix.is_installed", lambda: False)
    write_case(tmp_path / "cases" / "a")
    assert main(command(tmp_path, "--method", "copy", "--method", "elastix")) == 0
    out = capsys.readouterr().out
    assert "- itk-elastix is not installed" in out
    assert "elastix B-spline |" not in out
    assert main(command(tmp_path, "--method", "elastix", "--overwrite")) == 2
    assert "itk-elastix is not installed" in capsys.readouterr().err


@pytest.mark.usefixtures("own_threads")
def test_a_report_that_is_there_and_unknown_methods_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_case(tmp_path / "cases" / "a")
    assert main(command(tmp_path, "--method", "magic")) == 2
    assert "--method: 'magic' is none of copy, rigid" in capsys.readouterr().err
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "accuracy.csv").write_text("mine")
    assert main(command(tmp_path, "--method", "copy")) == 2
    assert "accuracy.csv: there already" in capsys.readouterr().err
    assert (tmp_path / "out" / "accuracy.csv").read_text() == "mine"


def test_the_help_defines_every_method(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", "accuracy", "--help"]) == 0
    text = capsys.readouterr().out
    for method in METHODS:
        assert f"\n  {method}: " in text
