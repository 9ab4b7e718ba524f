"""What the worker keeps between requests is never another patient's, nor an earlier model's."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from P2SAMSlicerLib.cli.job import PropagationJob
from P2SAMSlicerLib.handover_file import VOLUME_SUFFIX, hand_over_volume
from P2SAMSlicerLib.models import store
from P2SAMSlicerLib.volume import Volume
from P2SAMSlicerLib.worker import server
from P2SAMSlicerLib.worker.kept_volumes import KeptVolumes
from P2SAMSlicerLib.worker.messages import Clear
from small_visits import FOLLOWUP_GRID, phantom
from stub_model import BrightnessModel

NOWHERE = Path()


def ct(value: int) -> Volume:
    return replace(phantom(FOLLOWUP_GRID), array=np.full(FOLLOWUP_GRID.shape, value, np.int16))


def test_a_ct_that_was_read_is_not_read_again(tmp_path: Path) -> None:
    path, kept = tmp_path / f"a{VOLUME_SUFFIX}", KeptVolumes(10**9)
    hand_over_volume(ct(1), path)
    assert kept.read(path) is kept.read(path)
    kept.clear()
    assert kept.read(path).array[0, 0, 0] == 1


def test_a_file_that_was_replaced_within_the_same_moment_is_read_again(tmp_path: Path) -> None:
    """Some disks keep times in steps of two seconds, and two CTs of one scanner are of one size."""
    path, kept = tmp_path / f"a{VOLUME_SUFFIX}", KeptVolumes(10**9)
    hand_over_volume(ct(1), path)
    assert kept.read(path).array[0, 0, 0] == 1
    before = path.stat()
    hand_over_volume(ct(2), path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert kept.read(path).array[0, 0, 0] == 2


def test_what_was_used_longest_ago_is_forgotten_first_and_one_that_is_too_large_is_given_all_the_same(tmp_path: Path) -> None:
    size = ct(0).array.nbytes
    kept, paths = KeptVolumes(2 * size), [tmp_path / f"{number}{VOLUME_SUFFIX}" for number in range(3)]
    for number, path in enumerate(paths):
        hand_over_volume(ct(number), path)
    first, second = kept.read(paths[0]), kept.read(paths[1])
    assert kept.read(paths[0]) is first
    kept.read(paths[2])
    assert kept.read(paths[0]) is first
    assert kept.read(paths[1]) is not second
    small = KeptVolumes(size - 1)
    assert small.read(paths[2]).array[0, 0, 0] == 2
    assert small.read(paths[2]) is not small.read(paths[2])


class Silent:
    """Pipes to nobody."""

    def tell(self, event: Any) -> None:
        """Nothing."""


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The default model's weights as a small file; loading gives a new small model."""
    file = tmp_path / "weights.pth"
    file.write_bytes(b"1" * 100)
    monkeypatch.setattr(store, "find", lambda _model: file)
    monkeypatch.setattr(server, "load_job_model", lambda _job: BrightnessModel())
    return file


def test_a_model_is_loaded_once_and_again_when_its_file_its_name_or_the_device_changes(weights: Path, tmp_path: Path) -> None:
    worker = server.Worker(Silent())  # type: ignore[arg-type]
    job = PropagationJob(NOWHERE, NOWHERE, (), NOWHERE)
    first = worker._model_of(job)
    assert worker._model_of(job) is first
    assert worker._model_of(replace(job, out=tmp_path, segments=("x",))) is first
    before = weights.stat()
    shutil.copy2(weights, tmp_path / "new")  # of the same size and time, as a download or a bundle may bring it
    (tmp_path / "new").write_bytes(b"2" * 100)
    os.utime(tmp_path / "new", ns=(before.st_atime_ns, before.st_mtime_ns))
    (tmp_path / "new").replace(weights)
    second = worker._model_of(job)
    assert second is not first
    own = tmp_path / "own.safetensors"
    own.write_bytes(b"3")
    third = worker._model_of(replace(job, checkpoint=own))
    assert third is not second
    own.write_bytes(b"44")
    assert worker._model_of(replace(job, checkpoint=own)) is not third
    assert worker._model_of(replace(job, device="cpu")) is not worker._model_of(job)


def test_clearing_forgets_the_model_with_all_that_it_remembers(weights: Path) -> None:
    worker, job = server.Worker(Silent()), PropagationJob(NOWHERE, NOWHERE, (), NOWHERE)  # type: ignore[arg-type]
    first = worker._model_of(job)
    first.encode([np.zeros((16, 16, 3), np.uint8)])
    assert weights.is_file()
    worker.answer(1, Clear())
    assert worker._model_of(job) is not first
    assert worker._encoded() == 0
