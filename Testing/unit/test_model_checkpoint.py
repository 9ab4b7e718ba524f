"""Hostile, damaged and wrong weights files end in one line, and never run code."""

from __future__ import annotations

import argparse
import datetime
import errno
import hashlib
import io
import json
import os
import pickle
import random
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from P2SAMSlicerLib.errors import ModelError
from P2SAMSlicerLib.models.checkpoint import architecture_of, check_file, load_weights, read_state_dict, sha256_of


class Malicious:
    """Makes a folder when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.trace),)


def saved(content: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def state() -> dict[str, torch.Tensor]:
    return {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.zeros(2)}


@contextmanager
def suppress_refusal() -> Iterator[list[str]]:
    """Let a file be read or refused; the refusal is in the list afterwards. Any other exception goes on."""
    messages: list[str] = []
    try:
        yield messages
    except ModelError as error:
        messages.append(str(error))


def refusal(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        read_state_dict(path)
    message = str(caught.value)
    assert "\n" not in message
    # The name alone: the folders above may name a patient.
    assert message.startswith(f"{path.name}: ")
    assert str(path.parent) not in message
    return message


@pytest.mark.parametrize("wrapper", [None, "model", "state_dict"])
def test_plain_and_wrapped_weights_are_read(tmp_path: Path, wrapper: str | None) -> None:
    path = tmp_path / "good.pth"
    path.write_bytes(saved(state() if wrapper is None else {wrapper: state(), "epoch": 3}))
    read = read_state_dict(path)
    assert read.keys() == state().keys()
    assert torch.equal(read["weight"], state()["weight"])


@pytest.mark.parametrize("kind", ["zip", "legacy", "bare pickle"])
def test_pickled_code_is_never_run(tmp_path: Path, kind: str) -> None:
    trace, path = tmp_path / "trace", tmp_path / "malicious.pth"
    content = {"weight": torch.zeros(1), "more": Malicious(trace)}
    if kind == "bare pickle":
        path.write_bytes(pickle.dumps(Malicious(trace), protocol=2))
    else:
        path.write_bytes(saved(content, _use_new_zipfile_serialization=kind == "zip"))
    message = refusal(path)
    assert not trace.exists()
    if kind != "bare pickle":
        assert "holds a pickled" in message
    # The file does run code where it is trusted: the test can fail.
    torch.load(path, weights_only=False) if kind != "bare pickle" else pickle.loads(path.read_bytes())
    assert trace.exists()


def test_other_objects_than_tensors_are_named(tmp_path: Path) -> None:
    path = tmp_path / "training.pth"
    path.write_bytes(saved({"model": state(), "started": datetime.date(2025, 1, 1)}))
    assert "datetime.date" in refusal(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_training_scripts_options_are_read_over(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "training.pth"
    options = argparse.Namespace(lora=True, lora_rank=1, lr=1e-4, opt_betas=None, enable=[True, False], more={"name": "x"})
    path.write_bytes(saved({"model": state(), "args": options}, _use_new_zipfile_serialization=zipped))
    read = read_state_dict(path)
    assert read.keys() == state().keys()
    assert torch.equal(read["weight"], state()["weight"])


@pytest.mark.parametrize("zipped", [True, False])
def test_options_that_hold_code_are_refused_and_the_code_is_not_run(tmp_path: Path, zipped: bool) -> None:
    trace, path = tmp_path / "trace", tmp_path / "training.pth"
    hostile = argparse.Namespace(rank=1, nested=argparse.Namespace(paths=[Malicious(trace)]))
    path.write_bytes(saved({"model": state(), "args": hostile}, _use_new_zipfile_serialization=zipped))
    assert "holds a pickled" in refusal(path)
    assert not trace.exists()
    torch.load(path, weights_only=False)
    assert trace.exists()


def test_options_are_allowed_while_a_file_is_read_and_not_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "training.pth"
    path.write_bytes(saved({"model": state(), "args": argparse.Namespace()}))
    read_state_dict(path)
    assert argparse.Namespace not in torch.serialization.get_safe_globals()
    with torch.serialization.safe_globals([argparse.Namespace]):
        read_state_dict(path)
        # Whoever allowed it for the whole program is not overruled.
        assert argparse.Namespace in torch.serialization.get_safe_globals()


def test_options_alone_are_no_weights(tmp_path: Path) -> None:
    path = tmp_path / "options.pth"
    options = argparse.Namespace(weight=1)
    for content, fault in ((options, "no named weights"), ({"args": options}, "other things")):
        path.write_bytes(saved(content))
        assert fault in refusal(path)


def test_before_torch_2_5_options_are_refused_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.serialization, "safe_globals")
    path = tmp_path / "training.pth"
    path.write_bytes(saved({"model": state(), "args": argparse.Namespace(rank=1)}))
    assert "needs PyTorch 2.5 or newer" in refusal(path)
    path.write_bytes(saved({"model": state(), "epoch": 1}))
    assert read_state_dict(path).keys() == state().keys()


@pytest.mark.parametrize("kind", ["meta", "sparse", "nested"])
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_tensors_that_hold_no_plain_numbers_are_refused(tmp_path: Path, kind: str) -> None:
    odd = {
        "meta": lambda: torch.zeros(2, 3, device="meta"),
        "sparse": lambda: torch.eye(3).to_sparse(),
        "nested": lambda: torch.nested.nested_tensor([torch.zeros(3), torch.zeros(2)]),
    }[kind]()
    path = tmp_path / "odd.pth"
    path.write_bytes(saved({"bias": torch.zeros(2), "weight": odd}))
    assert "'weight' is no plain dense tensor" in refusal(path)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (saved(state())[:500], "damaged"),
        (saved(state(), _use_new_zipfile_serialization=False)[:100], "not"),
        (b"some text " * 100, "not a PyTorch checkpoint"),
        (bytes(4096), "not a PyTorch checkpoint"),
        (random.Random(0).randbytes(4096), "not a PyTorch checkpoint"),
        (saved([torch.zeros(2)]), "no named weights"),
        (saved(torch.zeros(2)), "no named weights"),
        (saved({}), "no named weights"),
        (saved({"weight": 3}), "other things"),
        (saved({1: torch.zeros(2)}), "other things"),
        (saved({"model": {"weight": "text"}}), "other things"),
    ],
)
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes, fault: str) -> None:
    path = tmp_path / "strange.pth"
    path.write_bytes(content)
    assert fault in refusal(path)


def test_archives_of_other_programs_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "archive.pth", "w") as archive:
        archive.writestr("readme.txt", "nothing")
    refusal(tmp_path / "archive.pth")
    with (tmp_path / "numpy.pth").open("wb") as file:
        np.savez(file, weight=np.zeros(3))
    refusal(tmp_path / "numpy.pth")


@pytest.mark.parametrize("legacy", [False, True])
def test_no_flipped_byte_escapes_as_another_exception(tmp_path: Path, legacy: bool) -> None:
    good = saved(state(), _use_new_zipfile_serialization=not legacy)
    path = tmp_path / "flipped.pth"
    refused = 0
    for seed in range(60):
        draw = random.Random(seed)
        content = bytearray(good)
        for _ in range(6):
            content[draw.randrange(len(content))] = draw.randrange(256)
        path.write_bytes(content)
        with suppress_refusal() as refusals:
            read_state_dict(path)
        refused += len(refusals)
        assert "\n" not in "".join(refusals)
    assert refused > 20


def test_files_that_are_plainly_something_else_are_recognised_without_torch(tmp_path: Path) -> None:
    header = json.dumps({"weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    for name, content, what in (
        ("tensors.pth", struct.pack("<Q", len(header)) + header + bytes(4), "a safetensors file"),
        ("page.pth", b"\n <!DOCTYPE html><html>Sign in</html>", "a web page"),
        ("pointer.pth", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer"),
        ("nothing.pth", b"", "an empty file"),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(ModelError, match=rf"^{name}: is {what}, not a PyTorch checkpoint"):
            check_file(path, "0" * 64)


def test_a_wrong_hash_names_both_hashes(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(saved(state()))
    actual = hashlib.sha256(path.read_bytes()).hexdigest()
    assert check_file(path, actual.upper()) == actual
    assert check_file(path, None) == actual
    with pytest.raises(ModelError, match=f"^weights.pth: SHA-256 is {actual}, expected {'0' * 64}"):
        check_file(path, "0" * 64)


def test_a_file_that_changes_is_hashed_again(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(b"one")
    first = sha256_of(path)
    path.write_bytes(b"two!")
    assert sha256_of(path) == hashlib.sha256(b"two!").hexdigest() != first


def test_an_unreadable_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "closed.pth"
    path.write_bytes(b"x")
    # Not by permission bits: whoever runs the tests may be allowed everything.
    monkeypatch.setattr(Path, "open", Mock(side_effect=PermissionError(errno.EACCES, "Permission denied")))
    with pytest.raises(ModelError, match=r"^closed\.pth: cannot be read \(Permission denied\)"):
        check_file(path, None)


def layer() -> torch.nn.Linear:
    return torch.nn.Linear(3, 2)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"weight": None}, "1 missing, 0 unexpected .*no 'weight'"),
        ({"extra": torch.zeros(1)}, "0 missing, 1 unexpected .*unexpected 'extra'"),
        ({"weight": torch.zeros(3, 2)}, r"'weight' has shape \(3, 2\), vit_b needs \(2, 3\)"),
        ({"bias": torch.tensor([0.0, float("nan")])}, "'bias' holds NaN"),
        ({"bias": torch.tensor([0.0, float("inf")])}, "'bias' holds NaN or infinite"),
        ({"bias": torch.tensor([0.0, 1e300], dtype=torch.float64)}, "'bias' holds NaN or infinite"),
        ({"bias": torch.zeros(2, dtype=torch.int64)}, r"'bias' holds torch\.int64"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_key(change: dict[str, Any], fault: str) -> None:
    changed = {key: value for key, value in {**state(), **change}.items() if value is not None}
    with pytest.raises(ModelError, match=rf"^w\.pth: .*{fault}"):
        load_weights(layer(), changed, Path("folder/w.pth"), "vit_b")


def test_half_precision_weights_are_loaded_as_float32() -> None:
    network = layer()
    load_weights(network, {key: value.half() for key, value in state().items()}, Path("w.pth"), "vit_b")
    assert network.weight.dtype == torch.float32
    assert torch.equal(network.weight, state()["weight"])


def test_architectures_are_told_by_the_encoders_width() -> None:
    for width, name in ((768, "vit_b"), (1024, "vit_l"), (1280, "vit_h"), (5, None)):
        assert architecture_of({"image_encoder.pos_embed": torch.zeros(1, 2, 2, width)}) == name
    assert architecture_of({"image_encoder.patch_embed.seq.0.c.weight": torch.zeros(1)}) == "tiny_vit"
    assert architecture_of(state()) is None
