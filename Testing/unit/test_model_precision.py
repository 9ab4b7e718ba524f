"""The encoder's arithmetic: half precision only where it is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from P2SAMSlicerLib.cli import main
from P2SAMSlicerLib.errors import ModelError
from P2SAMSlicerLib.models import load_model, precision
from P2SAMSlicerLib.models.batch_size import BatchSize, fitting
from P2SAMSlicerLib.models.precision import computes_in_bfloat16, encoder_precision

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("flags\t\t: fpu avx2 avx512f avx512_bf16 fma", True),
        ("flags\t\t: fpu amx_bf16", True),
        ("Features\t: fp asimd bf16 sve", True),
        ("flags\t\t: fpu avx2 avx512f avx512_bf16x", False),
        ("model name\t: avx512_bf16", False),
        ("", False),
    ],
)
def test_a_processor_says_whether_it_multiplies_bfloat16(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str, expected: bool
) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{flags}\nbugs\t: none\n")
    monkeypatch.setattr(precision, "_PROCESSORS", tmp_path / "cpuinfo")
    assert computes_in_bfloat16(CPU) is expected
    # Half precision changes contours: it is never taken unasked.
    assert encoder_precision("auto") == "float32"


def test_where_the_system_does_not_say_it_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_PROCESSORS", tmp_path / "nothing")
    assert not computes_in_bfloat16(CPU)
    assert not computes_in_bfloat16(torch.device("mps"))


def test_what_is_asked_for_is_taken_and_recorded_in_the_card() -> None:
    assert encoder_precision("float16") == "float16"
    assert load_model("lite_medsam", "cpu", seed_weights=0).card.precision == "float32"
    assert load_model("lite_medsam", "cpu", seed_weights=0, precision="bfloat16").card.precision == "bfloat16"


def test_an_unknown_precision_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ModelError, match="unknown precision 'int8'; known are: auto, float32, bfloat16, float16"):
        load_model("lite_medsam", "cpu", seed_weights=0, precision="int8")
    assert main(["segment-image", "--precision", "int8"]) == 2
    assert "--precision: invalid choice: 'int8'" in capsys.readouterr().err


def test_a_first_batch_is_what_an_accelerators_free_memory_is_reckoned_to_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (4 * 2**30, 8 * 2**30))
    cuda = torch.device("cuda", 0)
    assert fitting(cuda, 2**30, 8) == 2
    assert fitting(cuda, 2**20, 8) == 8
    assert fitting(cuda, 2**40, 8) == 1
    assert fitting(CPU, 2**40, 8) == 8
    with pytest.raises(ValueError, match="at least one member"):
        BatchSize(0)
