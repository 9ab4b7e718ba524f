"""The choice of a model and its weights is saved with the scene; what a scene asks for and is not there is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from P2SAMSlicerLib.models.catalogue import catalogue, default_model
from phantom_results import add_segment, add_visits


@pytest.fixture
def ready(user: Any) -> Any:
    """A panel in which all is chosen."""
    prior, segmentation, followups = add_visits()
    user.choose(prior, segmentation, *followups)
    user.ui.advancedSection.collapsed = False
    return user


def choose_file(user: Any, file: Path) -> None:
    """Choose weights of one's own."""
    user.host.dialogs.answer("path", str(file))
    user.click("checkpointButton")


def saved_and_loaded(user: Any, folder: Path) -> None:
    """Save the scene's settings, close the scene, load them."""
    import slicer

    for node in slicer.util.getNodesByClass("vtkMRMLVolumeNode"):
        slicer.mrmlScene.RemoveNode(node)  # their data are not saved here
    slicer.mrmlScene.SetURL(str(folder / "scene.mrml"))
    assert slicer.mrmlScene.Commit() == 1
    user.host.close_scene()
    assert user.widget.panel.model_choice().model == default_model()
    assert user.widget.panel.model_choice().checkpoint is None
    assert slicer.mrmlScene.Connect() == 1
    user.host.process_events()


def test_model_and_file_come_back_with_the_scene(ready: Any, tmp_path: Path) -> None:
    other = next(number for number, entry in enumerate(catalogue()) if not entry.default)
    file = tmp_path / "weights é.pth"
    file.touch()
    ready.ui.modelSelector.setCurrentIndex(other)
    choose_file(ready, file)
    saved_and_loaded(ready, tmp_path)
    choice = ready.widget.panel.model_choice()
    assert (choice.model, choice.checkpoint, choice.allow_unverified) == (catalogue()[other].id, file, True)
    assert ready.ui.modelSelector.currentIndex == other
    assert "weights é.pth; nothing is known of its accuracy" in ready.ui.modelLabel.text


def test_what_is_carried_and_how_comes_back_with_the_scenes_settings(user: Any) -> None:
    import qt
    import slicer

    def segments() -> Any:
        prior, segmentation, followups = add_visits()
        for name in ("Heart", "CTV", "GTVn"):
            add_segment(segmentation, prior, name, name)
        user.choose(prior, segmentation, *followups)
        return segmentation

    table = user.ui.carryTable

    def shown() -> list[tuple[str, bool, int]]:
        items = [table.item(row, 0) for row in range(table.rowCount)]
        ways = [table.cellWidget(row, 1).currentIndex for row in range(table.rowCount)]
        return [(item.text(), item.checkState() == qt.Qt.Checked, way) for item, way in zip(items, ways, strict=True)]

    segmentation = segments()
    usual = shown()
    table.item(1, 0).setCheckState(qt.Qt.Unchecked)
    table.cellWidget(2, 1).setCurrentIndex(0)
    table.cellWidget(3, 1).setCurrentIndex(1)
    changed = shown()
    assert [one != other for one, other in zip(usual, changed, strict=True)] == [False, True, True, True]
    another = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "another")
    user.ui.priorSegmentationSelector.setCurrentNode(another)
    user.ui.priorSegmentationSelector.setCurrentNode(segmentation)
    assert shown() == changed
    kept = user.parameters.carryChoice
    user.host.close_scene()
    assert user.parameters.carryChoice == ""
    segments()
    assert shown() == usual
    user.parameters.carryChoice = kept
    assert shown() == changed
    assert user.widget.panel.request().segments[1:] == ("CTV", "GTVn")


@pytest.mark.parametrize(
    "saved", ["{", "[]", "7", '{"of": "vtkMRMLSegmentationNode1"}', '{"of": "x", "unchecked": 3, "carried": []}']
)
def test_a_damaged_choice_of_segments_is_the_usual_one(user: Any, saved: str) -> None:
    prior, segmentation, followups = add_visits()
    user.parameters.carryChoice = saved.replace('"x"', f'"{segmentation.GetID()}"')
    user.choose(prior, segmentation, *followups)
    assert user.ui.applyButton.enabled


def test_a_file_that_only_the_scene_names_is_not_used_until_a_person_chooses_it(ready: Any, tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    file.touch()
    ready.parameters.weightsFile = str(file)
    assert ready.hint.startswith("weights.pth: the scene names this file of weights: choose it again, or Clear")
    assert ready.ui.modelLabel.text == ready.hint
    assert not ready.ui.applyButton.enabled
    assert not ready.widget.panel.model_choice().allow_unverified  # an update asks with it, too
    choose_file(ready, file)
    assert ready.ui.applyButton.enabled
    assert ready.widget.panel.model_choice().allow_unverified


def test_a_file_that_is_gone_is_told_and_can_be_cleared(ready: Any, tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    file.touch()
    choose_file(ready, file)
    file.unlink()
    ready.host.select("SegmentEditor")
    ready.host.select("P2SAMSlicer")
    assert ready.hint.startswith("weights.pth: this file of weights is no longer there")
    assert ready.ui.modelLabel.text == ready.hint
    assert str(tmp_path) not in ready.hint
    ready.click("clearModelButton")
    assert ready.ui.applyButton.enabled
    assert ready.parameters.weightsFile == ""


def test_a_model_that_is_not_known_here_is_told_and_another_can_be_chosen(ready: Any) -> None:
    ready.parameters.model = "of a later version"
    assert "the model of a later version, which is not known here" in ready.hint
    assert ready.ui.modelLabel.text == ready.hint
    ready.ui.modelSelector.setCurrentIndex([entry.id for entry in catalogue()].index(default_model()))
    assert ready.ui.applyButton.enabled
    assert ready.parameters.model == default_model()


def test_weights_are_taken_from_a_folder_where_all_packages_are_there(
    ready: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hashlib import sha256

    from P2SAMSlicerLib.models import bundle, store

    monkeypatch.setenv(store.ENVIRONMENT, str(tmp_path / "models"))
    folder = tmp_path / "offline é"
    folder.mkdir()
    absent = next(n for n, each in enumerate(catalogue()) if store.find(each.id) is None and each.url and each.sha256)
    entry = catalogue()[absent]
    ready.ui.modelSelector.setCurrentIndex(absent)
    assert ready.ui.modelLabel.text == "not on this computer"
    ready.host.dialogs.answer("path", "")
    ready.click("weightsFolderButton")
    assert ready.host.dialogs.texts() == ["Folder with weights"]
    ready.host.dialogs.answer("path", str(folder))
    ready.click("weightsFolderButton")
    assert ready.host.dialogs.texts()[-1] == "the folder holds no weights that are missing here"
    (folder / entry.file_name).write_bytes(b"not the right ones")
    ready.host.dialogs.answer("path", str(folder))
    ready.click("weightsFolderButton")
    assert entry.file_name in ready.refused()
    assert not ready.ui.applyButton.enabled
    assert len(sha256(b"").hexdigest()) == len(str(entry.sha256))

    def take(source: Path) -> list[str]:
        store.path(entry.id).parent.mkdir(parents=True, exist_ok=True)
        (source / entry.file_name).rename(store.path(entry.id))
        return [entry.id]

    import sys

    assert bundle.take_weights is sys.modules["P2SAMSlicerGui.model_panel"].take_weights
    monkeypatch.setattr(sys.modules["P2SAMSlicerGui.model_panel"], "take_weights", take)
    ready.host.dialogs.answer("path", str(folder))
    ready.click("weightsFolderButton")
    assert ready.host.dialogs.texts()[-1] == f"now on this computer: {entry.id}"
    assert "on this computer (downloaded)" in ready.ui.modelLabel.text
    assert ready.ui.applyButton.enabled


def test_downloaded_weights_are_removed_only_after_a_question(
    ready: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import qt
    from P2SAMSlicerLib.models import store

    monkeypatch.setenv(store.ENVIRONMENT, str(tmp_path / "models"))
    absent = next(number for number, entry in enumerate(catalogue()) if store.find(entry.id) is None)
    file = store.path(catalogue()[absent].id)
    file.parent.mkdir()
    file.write_bytes(b"weights")
    ready.ui.modelSelector.setCurrentIndex(absent)
    ready.host.dialogs.answer("message", qt.QMessageBox.Cancel)
    ready.click("clearModelButton")
    assert file.exists()
    ready.host.dialogs.answer("message", qt.QMessageBox.Ok)
    ready.click("clearModelButton")
    assert not file.exists()
    assert ready.ui.modelLabel.text == "not on this computer"
