"""``p2sam patient``: what it prints, its exit status, and that nothing tells who the patient is."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import pytest
from fake_engine import errors_in
from P2SAMSlicerLib.cli import main
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.result import Outcome
from P2SAMSlicerLib.volume import Segment, Volume
from patient_phantom import CopyEngine, gtv, write_dicom_visit, write_visit
from small_visits import without_contour


@pytest.fixture
def patient(tmp_path: Path) -> list[str]:
    """The command line on three visits, the first contoured."""
    folder = tmp_path / "Doe Jane"
    write_visit(folder / "2024-01-01", [gtv(), gtv(6.0, "GTVn")])
    for month in (2, 3):
        write_visit(folder / f"2024-0{month}-01")
    return ["patient", str(folder), "--out", str(tmp_path / "out")]


def test_a_table_the_notes_and_the_files_are_printed(
    copy_engine: CopyEngine, patient: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def one_is_gone(reference: str, source: Segment, followup: Volume) -> object:
        if source.name == "GTVn":
            return without_contour(source, Outcome.NO_LESION, "nothing looks like it", registered_mask=source.mask)
        return copy_engine.copied(reference, source, followup)

    copy_engine.answer = one_is_gone  # type: ignore[assignment]
    assert main([*patient, "--prior", "2024-01-01"]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert lines[0] == "3 visits found; carried from visit_1"
    assert lines[1].split() == ["follow-up,", "segment", "outcome", "prior", "ml", "now", "ml", "change", "review", "priority"]
    assert lines[3].split()[:3] == ["visit_2,", "GTV", "found"]
    assert lines[4].split()[:5] == ["visit_2,", "GTVn", "no", "lesion", "found"]
    assert "- visit_2, GTVn: nothing looks like it" in lines
    assert f"written: {tmp_path / 'out' / 'visit_3'}" in lines
    assert f"written: {tmp_path / 'out' / 'report.html'}" in lines
    assert lines[-3].startswith("For research use only. The contours are unreviewed")


def test_a_second_run_says_what_it_kept(
    copy_engine: CopyEngine, patient: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(patient) == main(patient) == 0
    out = capsys.readouterr().out
    assert out.count(f"kept, finished by an earlier run: {tmp_path / 'out' / 'visit_2'}") == 1
    assert copy_engine.loaded == 1
    assert main([*patient, "--segment", "GTV"]) == 2
    assert errors_in(capsys.readouterr().err) == [
        "p2sam: error: visit_2: there are results already, made from other files or with other settings, or changed since;"
        " use --overwrite to replace them, or choose another folder"
    ]
    assert main([*patient, "--segment", "GTV", "--overwrite"]) == 0


def test_a_failed_visit_is_told_and_makes_the_exit_status_1(
    copy_engine: CopyEngine, patient: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    copy_engine.faults = {"visit_2": InputError("visit_2: it shows no body")}
    assert main(patient) == 1
    told = capsys.readouterr()
    assert errors_in(told.err) == ["p2sam: error: visit_2: it shows no body"]
    assert "failed" in told.out
    assert "visit_3, GTV" in told.out


def test_an_unexpected_fault_shows_its_traceback_only_if_asked(
    copy_engine: CopyEngine, patient: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    copy_engine.faults = {"visit_2": ZeroDivisionError("Doe")}
    assert main(patient) == 1
    assert "Doe" not in capsys.readouterr().err
    assert main(["--debug", *patient]) == 1
    assert "ZeroDivisionError: Doe" in capsys.readouterr().err


WRONG: list[tuple[list[str], str]] = [
    (["--prior", "8"], "--prior: there is no visit '8'; there are: visit_1 (day 0), visit_2 (day 31), visit_3 (day 60)"),
    (["--prior", "2024-05-05"], "--prior: there is no visit of that date; there are:"),
    (["--followup", "visit_1"], "--followup: visit_1 is the prior itself"),
    (["--segment", "PTV"], "no contour named 'PTV' to carry to visit_2; there are: GTV, GTVn"),
    (["--from", "next"], "argument --from: invalid choice"),
    (["--registration-only", "PTV"], "no segment named 'PTV' is carried; there are: GTV, GTVn"),
    (["--registration", "absent.tfm"], "--registration absent.tfm: neither rigid, deformable or none, nor a file"),
    (["--margin-mm", "-3"], "argument --margin-mm"),
]


@pytest.mark.parametrize(("more", "message"), WRONG)
def test_a_wrong_command_line_is_refused_in_one_line(
    copy_engine: CopyEngine,
    patient: list[str],
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    message: str,
) -> None:
    assert main([*patient, *more]) == 2
    (line,) = errors_in(capsys.readouterr().err)
    assert message in line
    assert "Doe" not in line
    assert copy_engine.loaded == 0
    assert not Path(patient[-1]).exists()


def test_a_folder_that_is_not_there_or_holds_no_visit_is_refused(
    copy_engine: CopyEngine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    for name, message in (("absent", "the patient's folder is not there"), ("empty", "no CT below the patient's folder")):
        assert main(["patient", str(tmp_path / name), "--out", str(tmp_path / "out")]) == 2
        (line,) = errors_in(capsys.readouterr().err)
        assert message in line
    assert copy_engine.loaded == 0


def test_overrides_are_taken_and_recorded(copy_engine: CopyEngine, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    del copy_engine
    write_visit(tmp_path / "p" / "2024-01-01")
    write_visit(tmp_path / "p" / "2024-02-01", [gtv()])
    arguments = ["patient", str(tmp_path / "p"), "--out", str(tmp_path / "out"), "--followup", "1"]
    assert main(arguments) == 2
    assert "visit_1 is older than the prior, visit_2 (--allow-older-followup" in capsys.readouterr().err
    assert main([*arguments, "--allow-older-followup"]) == 0
    assert "- visit_1: visit_1: it was acquired before visit_2" in capsys.readouterr().out


def test_neither_progress_nor_output_tells_who_the_patient_is(
    copy_engine: CopyEngine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    del copy_engine
    write_dicom_visit(tmp_path / "Doe" / "a", date(2024, 1, 10), [gtv()])
    write_dicom_visit(tmp_path / "Doe" / "b", date(2024, 2, 20))
    assert main(["patient", str(tmp_path / "Doe"), "--out", str(tmp_path / "out"), "--json-progress", "--no-dicom"]) == 0
    told = capsys.readouterr()
    events = [json.loads(line) for line in told.err.splitlines()]
    assert {event["stage"] for event in events} == {"index", "checking", "model", "registration", "writing"}
    assert not list((tmp_path / "out").rglob("*.dcm"))
    for secret in ("Doe", "DOE-77", "20240", "2024-0"):
        assert secret not in told.out + told.err


def test_dicom_comes_out_where_dicom_went_in(copy_engine: CopyEngine, tmp_path: Path) -> None:
    del copy_engine
    write_dicom_visit(tmp_path / "p" / "a", date(2024, 1, 10), [gtv()])
    write_dicom_visit(tmp_path / "p" / "b", date(2024, 2, 20))
    assert main(["patient", str(tmp_path / "p"), "--out", str(tmp_path / "out"), "--identified"]) == 0
    assert sorted(path.name for path in (tmp_path / "out").rglob("*.dcm")) == ["visit_2_RTSTRUCT.dcm", "visit_2_SEG.dcm"]
    assert "DOE-77" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
