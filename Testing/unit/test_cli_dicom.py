"""``p2sam dicom``: what a folder holds, told of nobody, and a CT series as a volume file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ct_files import PATIENT, SECRETS, hu_array, make_series, save
from P2SAMSlicerLib import cli
from P2SAMSlicerLib.volume_file import read_volume
from test_dicom_index import structure_set

NAMES = ("Doe", *SECRETS, "1.9", "Thorax", "Plan A")


@pytest.fixture
def clinic(tmp_path: Path) -> Path:
    """Two visits of one patient, the first with contours, and one of another; in folders that are named after them."""
    folder = tmp_path / "clinic"
    first = make_series(SeriesDescription="Thorax of Doe")
    (folder / "Doe").mkdir(parents=True)
    save(folder / "Doe" / "1", [*first, structure_set(first)])
    save(folder / "Doe" / "2", make_series(StudyInstanceUID="1.9", SeriesInstanceUID="1.9.1", AcquisitionDate="20240321"))
    save(folder / "other", make_series(count=2, PatientID="SECRET-2", SeriesInstanceUID="1.9.2", Modality="MR"))
    (folder / "Doe" / "letter.txt").write_text("Dear Ms Doe")
    return folder


def output(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert cli.main(["dicom", *arguments]) == 0
    captured = capsys.readouterr()
    assert all(line.startswith("{") for line in captured.err.splitlines())
    return captured.out


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert cli.main(["dicom", *arguments]) == 2
    captured = capsys.readouterr()
    (line,) = [line for line in captured.err.splitlines() if not line.startswith("{")]
    assert captured.out == ""
    assert not [name for name in NAMES if name in line]
    return line


def test_a_list_numbers_patients_and_days_and_names_nobody(clinic: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert cli.main(["dicom", "list", str(clinic)]) == 0
    captured = capsys.readouterr()
    assert not [name for name in NAMES if name in captured.out + captured.err]
    rows = [line.split() for line in captured.out.splitlines()[2:]]
    assert [row[:5] for row in rows[:4]] == [
        ["1", "1", "+0", "CT", "5"],
        ["2", "2", "+0", "MR", "2"],
        ["3", "1", "+5", "RTSTRUCT", "-"],
        ["4", "1", "+21", "CT", "5"],
    ]
    assert rows[0][-1] == "3"
    assert " ".join(rows[2][6:]) == "on series 1 (approved)"
    assert captured.out.splitlines()[-1] == "left aside: 1 files that are not DICOM"


def test_an_identified_list_shows_who_it_is(clinic: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = output(capsys, "list", str(clinic), "--identified")
    for name in (PATIENT, "SECRET-2", "20240321101530", "Thorax of Doe", "Plan A"):
        assert name in text


def test_a_list_for_programs_holds_the_same(clinic: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = output(capsys, "list", str(clinic), "--json")
    assert not [name for name in NAMES if name in text]
    content = json.loads(text)
    assert [row["kind"] for row in content["series"]] == ["ct", "other", "rtstruct", "ct"]
    assert content["series"][0] | {"contours": [3], "day": 0, "slices": 5, "phase": None} == content["series"][0]
    assert content["series"][2]["drawn_on"] == [1]
    assert content["left_aside"] == {"files that are not DICOM": 1}
    identified = json.loads(output(capsys, "list", str(clinic), "--json", "--identified"))
    assert identified["series"][0]["patient_id"] == PATIENT


def test_phases_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for phase in (0, 50):
        save(tmp_path / str(phase), make_series(count=2, SeriesDescription=f"T{phase}", SeriesInstanceUID=f"1.9.{phase}"))
    lines = output(capsys, "list", str(tmp_path)).splitlines()
    assert "0 % (4D 1)" in lines[2]
    assert "50 % (4D 1)" in lines[3]


@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_words_of_a_file_neither_steer_the_terminal_nor_hide_as_codes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path, make_series(count=2, SeriesDescription="a\x1b[2Jb", Modality="MR"))
    save(tmp_path / "b", make_series(count=2, Modality="Doe Jane", SeriesInstanceUID="1.9.7"))
    text = output(capsys, "list", str(tmp_path), "--identified")
    assert "\x1b" not in text
    assert "a?[2Jb" in text
    assert "Jane" not in output(capsys, "list", str(tmp_path))


def test_a_folder_without_dicom_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    assert (
        output(capsys, "list", str(tmp_path)) == "no DICOM series below this folder\nleft aside: 1 files that are not DICOM\n"
    )


def test_a_series_becomes_a_volume_file(clinic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = output(capsys, "convert", str(clinic), "--series", "4", "--out", str(tmp_path / "ct.nrrd"))
    assert text == "ct.nrrd: 6 x 7 x 5 voxels of 0.9 x 0.7 x 2.5 mm\n"
    volume = read_volume(tmp_path / "ct.nrrd")
    np.testing.assert_array_equal(volume.array, hu_array())
    assert volume.grid.origin == (-123.5, 40.25, 7.0)


def test_a_series_beside_a_damaged_file_is_converted_with_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = save(tmp_path / "s", make_series())
    last = sorted(folder.iterdir())[-1]
    last.write_bytes(last.read_bytes()[:300])
    assert cli.main(["dicom", "convert", str(folder), "--out", str(tmp_path / "ct.nii.gz")]) == 0
    warned = "p2sam: warning: left aside: 1 damaged DICOM files; slices or contours may be missing"
    assert warned in capsys.readouterr().err.splitlines()


def test_a_tilted_series_is_converted_only_when_resampling_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tilted: list[Any] = make_series((1, 0, 0, 0, 0.8, -0.6))
    for k, each in enumerate(tilted):
        each.ImagePositionPatient = [0, 0, 2.5 * k]
    folder = save(tmp_path / "s", tilted)
    arguments = ["convert", str(folder), "--out", str(tmp_path / "ct.nii.gz")]
    assert "36.9 degrees to their normal (gantry tilt" in refusal(capsys, *arguments)
    assert not (tmp_path / "ct.nii.gz").exists()
    assert cli.main(["dicom", *arguments, "--resample"]) == 0
    captured = capsys.readouterr()
    assert "p2sam: warning: series 1: resampled to a straight, even grid" in captured.err
    assert read_volume(tmp_path / "ct.nii.gz").grid.spacing[2] == pytest.approx(2.0)


def test_conversions_that_cannot_be_are_refused_in_one_line(
    clinic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "ct.nrrd"
    assert "2 CT series below this folder; choose one with --series" in refusal(
        capsys, "convert", str(clinic), "--out", str(out)
    )
    for number in ("2", "3", "9"):
        line = refusal(capsys, "convert", str(clinic), "--out", str(out), "--series", number)
        assert f"--series {number}: not the number of a CT series" in line
    assert "is not there" in refusal(capsys, "list", str(tmp_path / "Doe"))
    assert "cannot write this kind of file" in refusal(
        capsys, "convert", str(clinic), "--series", "1", "--out", str(tmp_path / "ct.dcm")
    )
    assert not out.exists()
    out.write_text("mine")
    assert "use --overwrite" in refusal(capsys, "convert", str(clinic), "--series", "1", "--out", str(out))
    assert out.read_text() == "mine"
    output(capsys, "convert", str(clinic), "--series", "1", "--out", str(out), "--overwrite")
    assert read_volume(out).grid.shape == (5, 7, 6)
