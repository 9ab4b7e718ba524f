"""``p2sam benchmark speed``: what it refuses, what it writes, and that its peers are real."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from P2SAMSlicerLib.cli import main
from P2SAMSlicerLib.errors import P2SAMError
from P2SAMSlicerLib.models import load_model
from P2SAMSlicerLib.segmentation import PaperOptions
from P2SAMSlicerLib.speed import hardware
from P2SAMSlicerLib.speed.authors_loop import SlicePair, authors_loop
from P2SAMSlicerLib.speed.cold_start import ColdStartFindings
from P2SAMSlicerLib.speed.encoder import COMPILED, EncoderFindings, EncoderTiming, measure_encoder
from P2SAMSlicerLib.speed.findings import SpeedFindings
from P2SAMSlicerLib.speed.followup import FollowupFindings
from P2SAMSlicerLib.speed.growth import GrowthRow
from P2SAMSlicerLib.speed.hardware import Hardware, computes_in_bfloat16, measure_hardware
from P2SAMSlicerLib.speed.plain_process import PlainProcess
from P2SAMSlicerLib.speed.prompt_edit import EditFindings
from P2SAMSlicerLib.speed.report import markdown, record, write_report

ENCODER = EncoderFindings(
    "lite_medsam",
    "own",
    "cpu",
    2,
    plain_seconds=2.0,
    flop=75e9,
    moved_bytes=8e9,
    hardware=Hardware("a processor", {"float32": 150e9}, 10e9),
    timings=(
        EncoderTiming("this product, float32", 1, 1.0, 2.0, 0.0, 3e-6),
        EncoderTiming("this product, float32", 4, 0.9, 2.25, 0.0, 3e-6),
        EncoderTiming(COMPILED, 1, 0.6, 3.3, 60.0, 4e-6),
    ),
    left_out=("OpenVINO, float32: openvino not installed",),
)
FOLLOWUP = FollowupFindings(
    case="a case",
    model="lite_medsam",
    device="cpu",
    slices=10,
    references=8,
    pairs=3,
    registration_seconds=20.0,
    authors_seconds=100.0,
    paper_seconds=20.0,
    ratio=5.0,
    differing_slices=0,
    shared_seconds=80.0,
    shared_ratio=4.0,
    differing_voxels=0,
    authors_steps={"encode": 40.0},
    paper_steps={"encode": 18.0},
    clinical={"all": 50.0},
)
FINDINGS = SpeedFindings(
    {"hardware": "a processor", "device": "cpu", "threads": 2, "model": "lite_medsam", "versions": "torch 2"},
    (ENCODER,),
    FOLLOWUP,
    EditFindings(5, 50.0, 0.2, 3.0, 20.0),
    ColdStartFindings({"reading": 0.5, "model": 2.0}, 60.0, 1.2, 2.4),
    tuple(
        GrowthRow(name, size, float(size), 2 * size, 2 * size, 9 * size, 1)
        for name in ("slices", "lesions", "visits", "parts")
        for size in (1, 2, 4)
    ),
)


def test_the_tables_say_the_ratios_first_and_what_the_limit_is() -> None:
    text = markdown(FINDINGS)
    assert "| this product, float32 | 4 | 2.25 | 0.90 s |  | 3e-06 |" in text
    assert "500 ms an image is the limit; this product, float32 reaches 56% of it" in text.replace("0.50 s", "500 ms")
    assert f"{COMPILED} has paid for its setting up after 200 images." in text
    assert "Left out: OpenVINO, float32: openvino not installed." in text
    joined = " ".join(text.split())
    assert "Paper mode is **5.00 times** as fast as the authors' loop with the model's package alone;" in joined
    assert (
        "4.00 times as fast as that loop with this product's encoder, decoder and k-means (80 s): the masks are the same."
        in joined
    )
    assert "encoder and decoder, which differ by rounding, the masks are the same, too." in joined
    assert "2.40 GiB at most: 1.20 GiB above." in text
    assert "- lesions: for each unit the last step took 1.00 times as long as the step before (timed once), with 1.00 " in text
    lines = text.splitlines()
    rules = [number for number, line in enumerate(lines) if line.startswith("| ---")]
    assert len(rules) == 5
    assert all(lines[number - 1].count("|") == lines[number].count("|") == lines[number + 1].count("|") for number in rules)


def test_masks_that_differ_are_not_passed_over() -> None:
    from dataclasses import replace

    text = markdown(SpeedFindings(FINDINGS.provenance, followup=replace(FOLLOWUP, differing_voxels=7, differing_slices=2)))
    assert "MASKS DIFFER in 7 voxels" in text
    assert "2 of 10 slices have another mask (" in " ".join(text.split())


def test_tables_and_strict_json_are_written_together(tmp_path: Path) -> None:
    files = write_report(tmp_path / "out", FINDINGS)
    assert [file.name for file in files] == ["speed.md", "speed.json"]
    content = json.loads(files[1].read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert content["format"] == "P2SAMSlicer benchmark speed"
    assert content["encoders"][0]["timings"][1]["ratio"] == 2.25
    assert record(SpeedFindings())["followup"] is None


def test_a_report_that_is_there_is_not_replaced_and_an_unknown_model_is_refused_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_report(tmp_path, FINDINGS)
    assert main(["benchmark", "speed", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        "p2sam: error: speed.md: there already in the folder for the report; use --overwrite to replace\n"
    )
    assert main(["benchmark", "speed", "--out", str(tmp_path / "b"), "--encoder", "sam_vit_x"]) == 2
    assert "sam_vit_x" in capsys.readouterr().err
    assert main(["benchmark", "speed", "--out", str(tmp_path / "b"), "--precision", "bfloat16"]) == 2
    assert "--precision: the encoder is measured in every precision" in capsys.readouterr().err
    assert main(["benchmark", "speed", "--out", str(tmp_path / "b"), "--case", str(tmp_path / "none"), "--part", "edit"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "p2sam: error: none: no such folder"
    assert not (tmp_path / "b").exists()


def test_a_peer_that_cannot_load_its_model_says_why() -> None:
    with pytest.raises(P2SAMError, match="the peer's process failed: unknown model 'nothing'"):
        PlainProcess("nothing", None, None, "cpu", 1).__enter__()


def test_the_measured_limits_of_the_processor_are_of_its_order() -> None:
    found = measure_hardware(torch.device("cpu"), ("float32",))
    assert found.name
    assert 1e9 < found.flops["float32"] < 1e14
    assert 1e8 < found.bytes_per_second < 1e13


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
    monkeypatch.setattr(hardware, "_PROCESSORS", tmp_path / "cpuinfo")
    assert computes_in_bfloat16(torch.device("cpu")) is expected


def test_where_the_system_does_not_say_it_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "_PROCESSORS", tmp_path / "nothing")
    assert not computes_in_bfloat16(torch.device("cpu"))
    assert not computes_in_bfloat16(torch.device("mps"))


@pytest.mark.long
def test_the_plain_encoder_is_the_packages_own_and_gives_the_loop_the_same_masks() -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(2)]
    mask = np.zeros((64, 64), dtype=bool)
    mask[20:40, 24:44] = True
    pairs, options = [SlicePair(images[0], mask, images[1])], PaperOptions(positive=(1, 2), negative=(2, 2))
    with PlainProcess("lite_medsam", None, 0, "cpu", 1) as plain:
        assert plain.encode_seconds(1) > 0
        flop, moved = plain.work()
        masks, steps = plain.loop(pairs, options)
    assert math.isclose(flop, 75e9, rel_tol=0.05)
    assert moved > 1e9
    own: Any = load_model("lite_medsam", "cpu", seed_weights=0)
    assert np.array_equal(np.stack(masks), np.stack(authors_loop(own, pairs, options)))
    assert steps["encode"] > 0
    assert steps["decode"] > 0
    assert steps["k-means"] > 0
    assert all(seconds >= 0 for seconds in steps.values())


@pytest.mark.long
def test_an_encoder_is_measured_against_its_packages_own() -> None:
    found = measure_encoder("lite_medsam", "cpu", 1, 1, tell=lambda _text: None)
    ways = {(each.way, each.batch): each for each in found.timings}
    assert {("this product, float32", 1), ("this product, float32", 4)} <= set(ways)
    assert all(0 <= each.difference < 1e-4 for each in found.timings)
    assert all(each.seconds > 0 and each.ratio > 0 for each in found.timings)
