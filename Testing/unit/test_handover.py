"""What is handed to the worker comes back to the last bit, privately, and nothing of it is left."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from P2SAMSlicerLib.cli.job import PropagationJob, check_job
from P2SAMSlicerLib.errors import InputError, OutputError
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.handover_file import (
    SEGMENTATION_SUFFIX,
    VOLUME_SUFFIX,
    hand_over_segmentation,
    hand_over_volume,
    read_handed_segmentation,
    read_handed_volume,
)
from P2SAMSlicerLib.volume import Segmentation, VisitIdentity, Volume
from P2SAMSlicerLib.worker.handover import hand_over_job
from P2SAMSlicerLib.worker.private_folder import LOCK_NAME, MAKING_SECONDS, PrivateFolder, remove_leftovers
from small_visits import FOLLOWUP_GRID, PRIOR_GRID, phantom, segment
from test_visit_record import assert_equal

ODD = Grid((2, 3, 4), (1 / 3, 0.1 + 0.2, np.pi), (1e-17, -1 / 7, 5e8), tuple((np.eye(3) * (1 - 2**-53)).ravel().tolist()))


@pytest.mark.parametrize("kind", ["int16", ">i2", "uint16", "int32", "float32", "float64", "bool"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_a_volume_comes_back_to_the_last_bit(kind: str, order: str, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 2**15, ODD.shape).astype(kind)
    volume = Volume(np.array(values, order=order), ODD, "名 / ü", VisitIdentity("4711 ü", "20240131"), ("w",))  # type: ignore[call-overload]
    hand_over_volume(volume, tmp_path / f"ct{VOLUME_SUFFIX}")
    assert_equal(read_handed_volume(tmp_path / f"ct{VOLUME_SUFFIX}"), volume)


def test_segments_come_back_with_overlaps_any_names_tags_and_empty_masks(tmp_path: Path) -> None:
    names = ["GTV", "GTV", "名|:~^\n", "", "a" * 10_000]
    masks = [np.random.default_rng(number).random(PRIOR_GRID.shape) < 0.25 * number for number in range(5)]
    segments = tuple(segment(name, mask, tags={"x|:": "\r\n"}) for name, mask in zip(names, masks, strict=True))
    before = Segmentation(PRIOR_GRID, segments, "ü")
    hand_over_segmentation(before, tmp_path / f"s{SEGMENTATION_SUFFIX}")
    assert_equal(read_handed_segmentation(tmp_path / f"s{SEGMENTATION_SUFFIX}"), before)


def test_damaged_files_and_the_wrong_kind_are_refused(tmp_path: Path) -> None:
    path, other = tmp_path / f"ct{VOLUME_SUFFIX}", tmp_path / f"s{SEGMENTATION_SUFFIX}"
    hand_over_volume(phantom(PRIOR_GRID), path)
    hand_over_segmentation(Segmentation(PRIOR_GRID, (segment(),)), other)
    content = path.read_bytes()
    for harmed in (content[:-1], content + b"x", content[:40], b"", b"{}\n", b"[]\n", other.read_bytes()):
        path.write_bytes(harmed)
        with pytest.raises(InputError, match=r"ct\.p2sam-volume: what was handed over cannot be read"):
            read_handed_volume(path)
    with pytest.raises(InputError, match="no such file"):
        read_handed_segmentation(tmp_path / f"none{SEGMENTATION_SUFFIX}")
    objects = replace(phantom(PRIOR_GRID), array=np.full(PRIOR_GRID.shape, None, dtype=object))
    with pytest.raises(InputError, match="no numbers"):
        hand_over_volume(objects, path)


def job_of(folder: Path, patient: str = "A", date: str = "20250101") -> PropagationJob:
    prior = replace(phantom(PRIOR_GRID, "prior CT"), identity=VisitIdentity("A", "20240101"))
    followup = replace(phantom(FOLLOWUP_GRID, "later CT"), identity=VisitIdentity(patient, date))
    return hand_over_job(folder, prior, Segmentation(PRIOR_GRID, (segment("A"), segment("B"))), [followup], segments=("B",)).job


def test_a_job_reads_what_was_handed_over(tmp_path: Path) -> None:
    checked = check_job(job_of(tmp_path))
    assert checked.prior.identity.patient_id == "A"
    assert [each.name for each in checked.segments] == ["B"]
    assert [each.name for each in checked.followups] == ["followup_1"]
    assert checked.followups[0].volume is not None
    assert checked.followups[0].volume.grid == FOLLOWUP_GRID
    np.testing.assert_array_equal(checked.followups[0].volume.array, phantom(FOLLOWUP_GRID).array)


@pytest.mark.parametrize(
    ("patient", "date", "message"),
    [
        ("B", "20250101", "later CT: its patient id is not that of prior CT"),
        ("A", "20231231", "later CT: it was acquired before"),
    ],
)
def test_a_mix_up_of_patients_or_dates_is_still_refused(patient: str, date: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        check_job(job_of(tmp_path, patient, date))


@pytest.mark.skipif(sys.platform == "win32", reason="file size limits are POSIX's")
def test_a_full_disk_is_told_in_words_and_leaves_no_file(tmp_path: Path) -> None:
    code = (
        "import resource, signal, sys; from pathlib import Path; from test_handover import job_of\n"
        "from P2SAMSlicerLib.errors import OutputError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (9500, 9500))\n"
        f"try: job_of(Path({str(tmp_path)!r}))\n"
        "except OutputError as error: sys.exit(str(error))\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 1, done.stderr
    assert "p2sam-volume" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_private_folder_is_its_owners_alone_and_gone_after_an_error(tmp_path: Path) -> None:
    folder = PrivateFolder(tmp_path)
    if sys.platform != "win32":
        assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    (folder.path / "sub").mkdir()
    (folder.path / "sub" / "ct").write_text("x")
    with pytest.raises(InputError), folder:
        read_handed_volume(folder.path / "none.p2sam-volume")
    assert list(tmp_path.iterdir()) == []
    folder.remove()


def test_what_a_killed_program_left_is_removed_at_the_next_start_and_what_is_in_use_stays(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path\n"
        "from P2SAMSlicerLib.worker.private_folder import PrivateFolder\n"
        f"folder = PrivateFolder(Path({str(tmp_path)!r})); (folder.path / 'ct').write_text('x')\n"
        "print(folder.path, flush=True); time.sleep(600)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
    with other:
        assert other.stdout is not None
        left = Path(other.stdout.readline().strip())
        with PrivateFolder(tmp_path) as own:
            remove_leftovers(tmp_path)
            assert (left / "ct").is_file()
            assert own.path.is_dir()
        other.kill()
    with PrivateFolder(tmp_path) as own:
        assert list(tmp_path.iterdir()) == [own.path]


def test_a_folder_that_is_just_being_made_a_strangers_and_a_link_stay(tmp_path: Path) -> None:
    (tmp_path / "p2samslicer-new").mkdir()
    (tmp_path / "p2samslicer-old").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / LOCK_NAME).touch()
    (tmp_path / "p2samslicer-link").symlink_to(tmp_path / "elsewhere")
    past = time.time() - 2 * MAKING_SECONDS
    os.utime(tmp_path / "p2samslicer-old", (past, past))
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "p2samslicer-link", "p2samslicer-new"]
    assert (tmp_path / "elsewhere" / LOCK_NAME).exists()


def test_no_private_folder_where_none_can_be_made(tmp_path: Path) -> None:
    shutil.rmtree(tmp_path)
    with pytest.raises(OutputError, match="no folder for temporary files"):
        PrivateFolder(tmp_path)


def test_a_disk_that_knows_no_locks_is_told_and_no_folder_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unlockable(_lock: FileLock, **_options: object) -> None:
        raise NotImplementedError("FileSystem does not appear to support flock")

    monkeypatch.setattr(FileLock, "acquire", unlockable)
    with pytest.raises(OutputError, match=r"no folder for temporary files can be made \(it cannot be locked\)"):
        PrivateFolder(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_any_thread_may_remove_the_folder(tmp_path: Path) -> None:
    """Its lock is opened then, too: on Windows the locked file could not be removed."""
    folder = PrivateFolder(tmp_path)
    thread = threading.Thread(target=folder.remove)
    thread.start()
    thread.join()
    assert not folder._lock.is_locked
    assert list(tmp_path.iterdir()) == []
