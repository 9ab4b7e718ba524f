"""Features on disk: the same to the last bit in a later run, private, limited, and never half of one, whoever is killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import stat
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from P2SAMSlicerLib.cli import main
from P2SAMSlicerLib.errors import OutputError
from P2SAMSlicerLib.models.disk_cache import DiskCache, DiskUse
from P2SAMSlicerLib.models.encode_cache import EncodeCache
from stub_model import BrightnessModel


class Named(BrightnessModel):
    """The stub with weights that have a hash, as a loaded file has."""

    def __init__(self, **changes: Any) -> None:
        super().__init__()
        self.card = replace(self.card, **{"sha256": "ab" * 32, **changes})


def image(number: int) -> NDArray[np.uint8]:
    return np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)


IMAGES = [image(number) for number in range(4)]


def test_a_later_run_has_the_features_of_the_first_to_the_last_bit_without_encoding(tmp_path: Path) -> None:
    first = EncodeCache(Named(), disk=DiskCache(tmp_path / "features")).encode(IMAGES)
    model = Named()
    later = EncodeCache(model, disk=DiskCache(tmp_path / "features"))
    assert torch.equal(later.encode([IMAGES[2], IMAGES[0]]), first[[2, 0]])
    assert model.encoded == 0
    assert torch.equal(later.encode([IMAGES[1], image(9)])[:1], first[1:2])
    assert model.encoded == 1


@pytest.mark.parametrize(
    "changes", [{"sha256": "cd" * 32}, {"precision": "bfloat16"}, {"source": "another base"}, {"input_size": 1024}]
)
def test_features_of_other_weights_or_of_another_precision_are_not_taken(tmp_path: Path, changes: dict[str, Any]) -> None:
    EncodeCache(Named(), disk=DiskCache(tmp_path / "features")).encode(IMAGES)
    other = Named(**changes)
    EncodeCache(other, disk=DiskCache(tmp_path / "features")).encode(IMAGES)
    assert other.encoded == len(IMAGES)


def test_random_weights_have_no_name_and_are_never_kept(tmp_path: Path) -> None:
    disk = DiskCache(tmp_path / "features")
    EncodeCache(Named(sha256=""), disk=disk).encode(IMAGES)
    assert disk.use() == DiskUse(0, 0)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such permission bits")
def test_folder_and_files_are_their_owners_alone_and_no_name_says_whose_they_are(tmp_path: Path) -> None:
    folder = tmp_path / "features"
    before = os.umask(0)
    try:
        EncodeCache(Named(), disk=DiskCache(folder)).encode(IMAGES)
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o600}
    folder.chmod(0o750)
    with pytest.raises(OutputError, match=r"^features: others may look into this folder.*chmod 700"):
        DiskCache(folder)


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="no folder for features can be made there"):
        DiskCache(tmp_path / "file" / "features")


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "pickle"])
def test_a_damaged_file_is_no_feature_and_goes(tmp_path: Path, damage: str) -> None:
    disk = DiskCache(tmp_path / "features")
    EncodeCache(Named(), disk=disk).encode(IMAGES[:1])
    (file,) = (tmp_path / "features").iterdir()
    content = bytearray(file.read_bytes())
    if damage == "flipped":
        content[-1] ^= 1
    file.write_bytes({"cut": bytes(content[:-100]), "empty": b"", "pickle": b"\x80\x04."}.get(damage, bytes(content)))
    model = Named()
    again = EncodeCache(model, disk=disk).encode(IMAGES[:1])
    assert model.encoded == 1
    assert torch.equal(again, Named().encode(IMAGES[:1]))
    later = Named()
    EncodeCache(later, disk=disk).encode(IMAGES[:1])
    assert later.encoded == 0


def test_what_was_not_asked_for_the_longest_goes_first(tmp_path: Path) -> None:
    EncodeCache(Named(), disk=DiskCache(tmp_path / "features")).encode(IMAGES[:1])
    (first,) = (tmp_path / "features").iterdir()
    disk = DiskCache(tmp_path / "features", 2 * first.stat().st_size)
    os.utime(first, (1, 1))
    EncodeCache(Named(), disk=disk).encode(IMAGES[1:2])
    EncodeCache(Named(), disk=disk).encode(IMAGES[:1])  # asked for: now the second is the oldest
    second = next(file for file in (tmp_path / "features").iterdir() if file != first)
    os.utime(second, (2, 2))
    EncodeCache(Named(), disk=disk).encode(IMAGES[2:3])
    assert disk.use() == DiskUse(2, 2 * first.stat().st_size)
    assert first.exists()
    assert not second.exists()
    small = DiskCache(tmp_path / "none", first.stat().st_size - 1)
    EncodeCache(Named(), disk=small).encode(IMAGES)
    assert small.use() == DiskUse(0, 0)


def test_a_full_disk_is_no_fault_of_the_run_and_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from P2SAMSlicerLib.cli.feature_cache import report_cache

    disk = DiskCache(tmp_path / "features")

    def full(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("P2SAMSlicerLib.models.disk_cache.os.open", full)
    assert torch.equal(EncodeCache(Named(), disk=disk).encode(IMAGES), Named().encode(IMAGES))
    report_cache(disk)
    assert capsys.readouterr().err == "p2sam: features could not be kept on disk: no space left on device\n"
    assert disk.use() == DiskUse(0, 0)


def test_the_command_tells_what_a_folder_holds_and_clears_that_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "features"
    EncodeCache(Named(), disk=DiskCache(folder)).encode(IMAGES)
    (folder / "notes.txt").write_text("mine")
    (folder / f".{'0' * 64}.features.{'0' * 12}").write_text("a killed process's")
    assert main(["cache", str(folder)]) == 0
    assert capsys.readouterr().out == "4 images, 0 MB\n"
    assert main(["cache", str(folder), "--clear"]) == 0
    assert capsys.readouterr().out == "4 images, 0 MB removed\n"
    assert [file.name for file in folder.iterdir()] == ["notes.txt"]
    assert main(["cache", str(tmp_path / "nothing")]) == 2
    assert capsys.readouterr().err == "p2sam: error: nothing: no such folder\n"


def _write_for_ever(folder: str) -> None:
    number = 0
    while True:
        cache = EncodeCache(Named(), disk=DiskCache(Path(folder), 20 * 120_000))
        cache.encode([image(number % 40)])
        number += 1


def test_two_processes_share_a_folder_and_one_that_is_killed_leaves_no_half_feature(tmp_path: Path) -> None:
    folder = tmp_path / "features"
    context = multiprocessing.get_context("spawn")
    others = [context.Process(target=_write_for_ever, args=(str(folder),), daemon=True) for _ in range(2)]
    for other in others:
        other.start()
    expected = {number: Named().encode([image(number)]) for number in range(40)}
    end = time.monotonic() + 90
    taken = 0
    while taken < 80:
        assert time.monotonic() < end, f"only {taken} features of the other processes were found"
        for number, own in expected.items():
            model = Named()
            assert torch.equal(EncodeCache(model, disk=DiskCache(folder, 20 * 120_000)).encode([image(number)]), own)
            taken += 1 - model.encoded
    for other in others:
        os.kill(other.pid or 0, signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
        other.join(20)
    for number, own in expected.items():
        assert torch.equal(EncodeCache(Named(), disk=DiskCache(folder)).encode([image(number)]), own)
    DiskCache(folder).clear()
    assert list(folder.iterdir()) == []
