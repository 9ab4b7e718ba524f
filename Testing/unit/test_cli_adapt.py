"""``p2sam adapt``: from folders to an adapter that ``p2sam`` can use, and every refusal in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import small_network
from annotated_cases import write_patients
from P2SAMSlicerLib.adaptation import examples, training, validation
from P2SAMSlicerLib.cli import main
from P2SAMSlicerLib.models.adapter import read_card


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A short training of the small network on two patients."""
    small_network.install(monkeypatch, tmp_path / "models")
    monkeypatch.setattr(training, "use_threads", lambda count: count or 1)
    monkeypatch.setattr(examples, "PLACEMENTS", 1)
    monkeypatch.setattr(validation, "SLICES", 1)
    train = write_patients(tmp_path / "train", 2)
    out = tmp_path / "a.safetensors"
    usual = ["--base", small_network.MODEL, "--epochs", "1", "--iterations", "0", "--batch", "4", "--device", "cpu"]
    return ["adapt", "--train", str(train), "--out", str(out), "--validation", "0.4", *usual]


def test_the_command_writes_an_adapter_and_prints_what_it_reaches_on_other_patients(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--data", "two small bodies", "--licence", "CC0-1.0", "--title", "Small"]
    assert main([*command, *words]) == 0
    out, err = capsys.readouterr()
    assert "contour + box" in out
    assert "1 patient(s) not trained on" in out
    assert {json.loads(line)["stage"] for line in err.splitlines()} >= {"read", "encode", "train"}
    card = read_card(tmp_path / "a.safetensors")
    assert (card.data, card.licence, card.title, card.method) == ("two small bodies", "CC0-1.0", "Small", "decoder")
    assert card.training["patients"] == card.training["validation_patients"] == 1


def test_a_held_out_patient_alone_validates_and_features_can_be_shared(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--hold-out", "P1", "--features", str(tmp_path / "shared"), "--precision", "bfloat16"]
    assert main([*command, *words]) == 0
    assert read_card(tmp_path / "a.safetensors").training["validation_patients"] == 1
    assert len(list((tmp_path / "shared").glob("*.npy"))) == 2
    assert not (tmp_path / "a.features").exists()
    words[1] = "P0"
    capsys.readouterr()
    assert main([*command, "--overwrite", *words]) == 0
    assert '"encode"' not in capsys.readouterr().err


def test_without_validation_it_is_said_that_nothing_is_known(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    command[command.index("--validation") + 1] = "0"
    assert main(command) == 0
    assert "nothing is known of what the adapter reaches" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("extra", "fault"),
    [
        (["--out", "a.pth"], "a.pth: the adapter's file name must end with .safetensors"),
        (["--epochs", "0"], "'0' is not a whole number of at least 1"),
        (["--learning-rate", "nan"], "'nan' is not a number"),
        (["--validation", "1"], "--validation is 1"),
        (["--share", "0"], "--share is 0, must lie above 0 and not above 1"),
        (["--share", "1.1"], "--share is 1.1"),
        (["--hold-out", "P7"], "--hold-out: there is no patient 'P7'; there are: P0, P1"),
        (["--precision", "int8"], "invalid choice: 'int8'"),
        (["--train", "nowhere"], "nowhere: not a folder of training cases"),
        (["--base", "sam_vit_x"], "unknown model 'sam_vit_x'"),
        (["--resume"], "--resume: a.state.pt is not there"),
        (["--method", "all"], "invalid choice: 'all'"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(
    command: list[str], extra: list[str], fault: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main([*command, *extra]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("{")]
    assert fault in line
    assert not list(tmp_path.glob("*.safetensors"))


def test_an_adapter_that_is_there_is_not_replaced_unasked(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"mine")
    assert main(command) == 2
    assert "a.safetensors: is there already" in capsys.readouterr().err
    assert (tmp_path / "a.safetensors").read_bytes() == b"mine"
    assert main([*command, "--overwrite"]) == 0
    assert read_card(tmp_path / "a.safetensors").base == small_network.MODEL
