"""The encoder's arithmetic: half precision only where it is asked for."""

from __future__ import annotations

import pytest
import torch
from P2SAMSlicerLib.cli import main
from P2SAMSlicerLib.errors import ModelError
from P2SAMSlicerLib.models import load_model
from P2SAMSlicerLib.models.batch_size import BatchSize, fitting
from P2SAMSlicerLib.models.precision import encoder_precision

CPU = torch.device("cpu")


def test_what_is_asked_for_is_taken_and_recorded_in_the_card() -> None:
    assert encoder_precision("float16") == "float16"
    assert encoder_precision("auto") == "float32"  # half precision changes contours: never unasked
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
