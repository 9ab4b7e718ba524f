"""``p2sam commission`` from the command line: exit statuses, what is refused before any work, and what its files name."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from clinic_folder import PATIENTS, true_contours, write_clinic
from P2SAMSlicerLib.benchmark.case_contours import CaseContours
from P2SAMSlicerLib.benchmark.cases import CaseData
from P2SAMSlicerLib.cli import main
from P2SAMSlicerLib.commissioning.commissioning_report import NAMES
from P2SAMSlicerLib.commissioning.figures import FIGURES
from stub_model import BrightnessModel

pytestmark = pytest.mark.usefixtures("own_threads")

REGISTRATION = {"folded_share": 0.0, "registration_error_mm": 1.0, "inverse_consistency_mm": 1.0}


@pytest.fixture
def product(monkeypatch: pytest.MonkeyPatch) -> None:
    """A product that finds the truth, and a model that is there."""
    monkeypatch.setattr("P2SAMSlicerLib.cli.commission._model", lambda _arguments: BrightnessModel())
    monkeypatch.setattr("P2SAMSlicerLib.commissioning.measure.own_contours", true_contours)
    monkeypatch.setattr("P2SAMSlicerLib.commissioning.measure._registration", lambda *_: dict(REGISTRATION))


def command(tmp_path: Path, *more: str) -> list[str]:
    usual = ["--change", "shrink", "--methods", "copy"]
    return ["commission", str(tmp_path / "clinic"), "--out", str(tmp_path / "out"), *usual, *more]


@pytest.mark.usefixtures("product")
def test_tolerances_that_are_kept_end_with_0_and_no_file_names_anybody(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_clinic(tmp_path / "clinic", site="lung")
    assert main(command(tmp_path)) == 0
    told = capsys.readouterr()
    assert "PASS: every tolerance was kept on these simulated visits." in told.out
    assert "| lung | Dice, mean at least 0.8 | 1 | pass | 5 | 5 |" in told.out
    assert "not from scans of patients" in told.out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted((*NAMES, "visits"))
    everything = told.out.replace(str(tmp_path), "") + told.err
    everything += "".join(path.read_text(encoding="utf-8") for path in (tmp_path / "out").rglob("*") if path.is_file())
    everything = re.sub(r"base64,[A-Za-z0-9+/=]+", "", everything)  # pictures may hold any letters
    for patient in PATIENTS:
        for part in patient.split("_"):
            assert part not in everything
    record = json.loads((tmp_path / "out" / "commissioning.json").read_text())
    assert (record["result"], len(record["visits"]), record["measured_by_an_earlier_run"]) == ("pass", 5, 0)


@pytest.mark.usefixtures("product")
def test_a_stricter_file_fails_on_the_figures_that_were_measured_already(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_clinic(tmp_path / "clinic")
    limits = tmp_path / "limits.toml"
    limits.write_text("[inverse_consistency_mm]\nmean_at_most = 2.0")
    assert main(command(tmp_path, "--tolerances", str(limits))) == 0
    monkeypatch.setattr("P2SAMSlicerLib.commissioning.measure.own_contours", lambda *_: pytest.fail("measured again"))
    limits.write_text("[inverse_consistency_mm]\nmean_at_most = 0.5")
    assert main(command(tmp_path, "--tolerances", str(limits))) == 2
    assert "commissioning.html: there already" in capsys.readouterr().err
    assert main(command(tmp_path, "--tolerances", str(limits), "--overwrite")) == 1
    assert "FAIL: at least one tolerance was not kept." in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "commissioning.json").read_text())["measured_by_an_earlier_run"] == 5


@pytest.mark.usefixtures("product")
def test_too_few_patients_are_no_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_clinic(tmp_path / "clinic", PATIENTS[:4])
    assert main(command(tmp_path)) == 1
    assert "NOT JUDGED" in capsys.readouterr().out


@pytest.mark.usefixtures("product")
def test_a_failed_case_is_told_by_number_and_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_clinic(tmp_path / "clinic")

    def contours(model: Any, data: CaseData, *rest: Any) -> CaseContours:
        if data.prior.name == "case_003":
            raise RuntimeError(f"in {tmp_path}/Roe_Rick")
        return true_contours(model, data, *rest)

    monkeypatch.setattr("P2SAMSlicerLib.commissioning.measure.own_contours", contours)
    assert main(command(tmp_path)) == 1
    told = capsys.readouterr()
    assert "p2sam: error: case_003_shrink_1: carrying: unexpected RuntimeError" in told.err
    assert "Traceback" not in told.err
    assert "Roe" not in told.err
    record = json.loads((tmp_path / "out" / "commissioning.json").read_text())
    failed = next(each for each in record["verdicts"] if each["figure"] == "failed_visits")
    assert (failed["verdict"], failed["value"]) == ("fail", 1.0)


@pytest.mark.usefixtures("product")
def test_the_list_of_names_is_only_written_on_request_and_only_for_its_writer(tmp_path: Path) -> None:
    write_clinic(tmp_path / "clinic", PATIENTS[:2])
    assert main(command(tmp_path, "--identified")) == 1
    names = tmp_path / "out" / "private_case_names.csv"
    with names.open(newline="", encoding="utf-8") as file:
        assert [row[:1] + row[2:] for row in csv.reader(file)][1:] == [["case_001", PATIENTS[0]], ["case_002", PATIENTS[1]]]
    if os.name == "posix":
        assert stat.S_IMODE(names.stat().st_mode) == 0o600
    for name in NAMES:
        (tmp_path / "out" / name).unlink()
    assert main(command(tmp_path, "--identified")) == 2, "it is replaced no more than a report is"


# ----------------------------------------------------------------------------------------------------------------- refused
@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--methods", "magic"], "'magic' is none of"),
        (["--site", "<b>"], "--site: the site must be a short word"),
        (["--tolerances", "nowhere.toml"], "nowhere.toml: cannot be read"),
        (["--visits", "0"], "not a whole number"),
        (["--change", "explode"], "invalid choice"),
        (["--model", "magic"], "magic"),
        (["--precision", "float16"], "half precision flags every contour"),
    ],
)
def test_bad_input_ends_with_2_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], words: str
) -> None:
    write_clinic(tmp_path / "clinic", PATIENTS[:1])
    assert main(command(tmp_path, *more)) == 2
    told = capsys.readouterr().err
    assert words in told
    assert "Doe" not in told
    assert not (tmp_path / "out").exists()


def test_what_is_missing_or_lies_in_the_clinics_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["commission"]) == 2
    assert main(["commission", str(tmp_path / "clinic")]) == 2
    assert main(command(tmp_path)) == 2
    assert "not a folder of cases" in capsys.readouterr().err
    write_clinic(tmp_path / "clinic", PATIENTS[:1])
    assert main(command(tmp_path, "--out", str(tmp_path / "clinic" / "out"))) == 2
    assert "lies in the folder of cases, which is only read" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "clinic").iterdir()) == [PATIENTS[0]]


def test_the_help_defines_every_figure_and_the_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["commission", "--help"]) == 0
    text = capsys.readouterr().out
    for figure in FIGURES:
        assert f"\n  {figure} (at_" in text
    for words in ("exit status: 0 every tolerance", "1 a tolerance failed or could not be judged", "starting points"):
        assert words in text
    assert all(len(line) <= 100 for line in text.splitlines())


# ------------------------------------------------------------------------------------------------------------------ killed
#: A run that hangs in the third case. Its model is none, so that torch need not be loaded, but says what the other one says.
KILLED = """
import sys, time
from types import SimpleNamespace
sys.path[:0] = {paths!r}
from clinic_folder import true_contours
from P2SAMSlicerLib.models.protocol import ModelCard
import P2SAMSlicerLib.cli.commission as commission
import P2SAMSlicerLib.commissioning.measure as measure
commission._model = lambda _arguments: SimpleNamespace(card={card!r}, device="cpu")
commission.use_threads = lambda count: count or 1
measure._registration = lambda *_: {registration!r}
def contours(model, data, *rest):
    if data.prior.name == "case_003":
        print("third", flush=True)
        time.sleep(600)
    return true_contours(model, data, *rest)
measure.own_contours = contours
from P2SAMSlicerLib.cli import main
main({arguments!r})
"""


@pytest.mark.usefixtures("product")
def test_a_run_that_was_killed_leaves_whole_files_and_goes_on_where_it_was(tmp_path: Path) -> None:
    write_clinic(tmp_path / "clinic")
    paths = [path for path in sys.path if path]
    card = BrightnessModel().card
    text = KILLED.format(paths=paths, card=card, registration=REGISTRATION, arguments=command(tmp_path))
    with subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == b"third"
        process.kill()
    assert process.returncode in (-signal.SIGKILL, 1)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["visits"]
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "visits").iterdir()}
    assert len(kept) == 2
    assert main(command(tmp_path)) == 0
    record = json.loads((tmp_path / "out" / "commissioning.json").read_text())
    assert (record["measured_by_an_earlier_run"], len(record["visits"])) == (2, 5)
    assert all(path.stat().st_mtime_ns == before for path, before in kept.items())
