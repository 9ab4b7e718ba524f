"""The panel and the console with the real worker process and the default model, on the phantom."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from P2SAMSlicerLib.mrml.prompt_nodes import POSITIVE_ROLE
from P2SAMSlicerLib.mrml.review_nodes import seen
from P2SAMSlicerLib.mrml.slice_places import SlicePlaces
from P2SAMSlicerLib.worker.private_folder import PREFIX
from panel_user import PanelUser
from phantom_results import add_visits

#: A path of a temporary folder as some have it: with other letters, a blank, and longer than Windows likes.
FOLDER_NAME = "Пациент é 患者 " + "x" * 120


@pytest.fixture
def unusual_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder for temporary files, with a long path of several alphabets."""
    folder = tmp_path / FOLDER_NAME / "temporary"
    folder.mkdir(parents=True)
    for name in ("TMPDIR", "TEMP", "TMP"):
        monkeypatch.setenv(name, str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield folder
    tempfile.tempdir = None


@pytest.fixture
def chosen(host: Any) -> PanelUser:
    """A panel with the phantom's visits chosen, and the real worker. Four slices of 8 mm show the tumour: slices take time."""
    user = PanelUser(host, real_worker=True)
    prior, segmentation, (followup,) = add_visits(slice_mm=8.0)
    user.choose(prior, segmentation, followup)
    return user


def worker_process(user: PanelUser) -> psutil.Process:
    """The worker's process."""
    own = psutil.Process()
    user.host.wait_until(lambda: _workers(own), 30.0, "no worker was started")
    return _workers(own)[0]


def _workers(own: psutil.Process) -> list[psutil.Process]:
    return [each for each in own.children() if any("P2SAMSlicerLib" in word for word in each.cmdline())]


def mask(row: Any) -> Any:
    """The contour's voxels now."""
    import slicer.util

    return slicer.util.arrayFromSegmentBinaryLabelmap(row.node, row.identifier, row.followup) > 0


@pytest.mark.slow
def test_a_contour_is_carried_corrected_and_accepted(chosen: PanelUser, unusual_folder: Path) -> None:
    """One run for all that needs a real one: it takes most of a minute on a slow machine."""
    user = chosen
    user.ui.partsSpinBox.value = 1  # the others take half of the time, and are treated alike
    user.apply()
    user.host.wait_until(lambda: not user.logic.running, 300.0, "the run does not end")
    user.wait()
    assert (user.logic.lastRun.error, user.logic.lastRun.problems) == (None, [])
    ((visit, name, before, _now, _change, _shift, _priority, outcome, status),) = user.table()
    assert (visit, name, status) == ("Phantom follow-up CT", "tumour", "unreviewed")
    assert outcome in ("found", "flagged")
    assert float(before) == pytest.approx(17.8, abs=0.1)  # a ball of 16 mm on slices of 8 mm
    row = user.widget.panel._review.row
    truth = np.linalg.norm(voxel_places(row.followup), axis=-1) < 16.0
    assert 2 * (mask(row) & truth).sum() / (mask(row).sum() + truth.sum()) > 0.8

    index = next(each.index for each in row.slices if each.candidates and each.best is not None)
    user.widget.panel._review.look_at(index)
    user.click("editPromptsButton")
    points = row.node.GetNodeReference(POSITIVE_ROLE)
    x, y, z = SlicePlaces.of(row.followup).centre(index, mask(row))
    points.AddControlPointWorld(x, y, z)
    drawn = mask(row)
    user.click("updateButton")
    user.host.wait_until(lambda: not user.logic.updating, 120.0, "no answer to edited prompts")
    user.host.wait_until(lambda: "updated in" in user.status)
    assert user.logic.updates.encoded == 0
    assert user.logic.updates.seconds < 8.0  # under 2 on two idle cores (screenshots.py prints it); here tests run beside it
    changed = np.flatnonzero((drawn != mask(row)).any(axis=(1, 2)))
    assert set(changed) <= {index - 1, index, index + 1}
    row = user.widget.panel._review.row
    assert [each.best.origin for each in row.slices if each.index == index] == ["edited prompts"]

    user.ui.reviewerEdit.text = "A. B."
    for _ in range(row.followup.GetImageData().GetDimensions()[2]):
        user.click("nextDoubtfulButton")
    user.click("acceptButton")
    assert user.table()[0][8].startswith("accepted")
    assert index in seen(row.node, row.identifier)
    assert own_folders(unusual_folder), "the files of the update are not where they should be"
    user.logic.close()
    assert own_folders(unusual_folder) == []


def own_folders(folder: Path) -> list[Path]:
    """What of a folder for temporary files is ours; torch has its own there."""
    return list(folder.glob(f"{PREFIX}*"))


def voxel_places(volume: Any) -> Any:
    """Where the voxels lie, LPS."""
    grid = SlicePlaces.of(volume).grid
    z, y, x = np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij")
    return grid.to_physical(np.stack([x, y, z], axis=-1).reshape(-1, 3).astype(float)).reshape(*grid.shape, 3)


@pytest.mark.slow
def test_cancel_ends_the_whole_process_tree_and_a_killed_worker_is_told(chosen: PanelUser, unusual_folder: Path) -> None:
    user = chosen
    user.apply()
    process = worker_process(user)
    tree = [process, *process.children(recursive=True)]
    user.click("applyButton")
    gone, alive = psutil.wait_procs(tree, timeout=5.0)
    assert not alive
    assert gone
    assert user.status == "cancelled"
    assert user.table() == []
    assert own_folders(unusual_folder) == []

    user.apply()
    second = worker_process(user)
    assert second.pid != process.pid
    user.host.wait_until(lambda: user.status != "starting", 60.0, "the worker tells nothing")
    second.kill()
    user.host.wait_until(lambda: not user.logic.running, 30.0, "the worker's end is not noticed")
    user.wait()
    assert "the worker has ended" in user.status
    assert "killed" in user.status or os.name == "nt"
    assert own_folders(unusual_folder) == []
    user.apply()
    third = worker_process(user)
    user.host.wait_until(lambda: user.status != "starting", 60.0, "the third worker tells nothing")
    user.host.close_scene()
    psutil.wait_procs([third], timeout=5.0)
    assert not third.is_running()


@pytest.mark.long  # shorter: the next one; what the worker's engine does is in the first of this file
def test_the_self_test_passes(chosen: PanelUser) -> None:
    import slicer

    slicer.selfTests["P2SAMSlicer"]()
    assert chosen.host.dialogs.texts()[-1] == "Test passed"


def test_the_self_test_passes_with_a_worker_whose_engine_answers_at_once(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import fake_worker
    import slicer
    from P2SAMSlicerLib.worker.client import WorkerClient

    file = Path(fake_worker.__file__)
    paths = os.pathsep.join([str(file.parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])

    def quick_worker(_python: Any) -> WorkerClient:
        return WorkerClient([sys.executable, file, "quick"], {**os.environ, "PYTHONPATH": paths})

    monkeypatch.setattr("P2SAMSlicerLib.worker.client.WorkerClient", quick_worker)
    PanelUser(host, real_worker=True)
    slicer.selfTests["P2SAMSlicer"]()
    assert host.dialogs.texts()[-1] == "Test passed"


def test_the_self_test_without_torch_tests_what_it_can(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import slicer
    from P2SAMSlicerLib import packages

    monkeypatch.setattr(packages, "missing_packages", lambda: packages.MissingPackages(("torch",), (), ()))
    PanelUser(host)
    slicer.selfTests["P2SAMSlicer"]()
    assert host.dialogs.texts() == ["Not all was tested: missing: torch"]
