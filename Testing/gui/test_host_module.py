"""A scripted module in the headless host: loaded, clicked, reloaded, its scene closed, its parameters saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

EXAMPLE = Path(__file__).parent / "host_example" / "HostExample" / "HostExample.py"


def add_case() -> tuple[Any, Any]:
    """A CT and contours of two segments."""
    import slicer.util

    volume = slicer.util.addVolumeFromArray(np.zeros((4, 5, 6)), name="CT prior")
    contours = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "contours")
    contours.CreateDefaultDisplayNodes()
    for name in ("GTV", "Lung"):
        contours.GetSegmentation().AddEmptySegment("", name)
    return volume, contours


@pytest.fixture
def module(host: Any) -> Any:
    """The example module's Python widget."""
    return host.load_module(EXAMPLE)


def test_choosing_nodes_enables_apply_and_a_click_runs_it(host: Any, module: Any) -> None:
    volume, contours = add_case()
    assert not module.ui.applyButton.enabled
    module.ui.priorSelector.setCurrentNode(volume)
    module.ui.segmentationSelector.setCurrentNode(contours)
    assert module.ui.segmentsTable.segmentCount == 2
    host.click(module.ui.applyButton)
    assert module.ui.stageLabel.text == "Done"
    assert [module.ui.resultTable.item(row, 0).text() for row in range(2)] == ["GTV", "Lung"]


def test_a_disabled_button_can_not_be_clicked(host: Any, module: Any) -> None:
    with pytest.raises(AssertionError, match="Choose a volume"):
        host.click(module.ui.applyButton)


def test_a_button_in_a_collapsed_section_can_not_be_clicked(host: Any, module: Any) -> None:
    with pytest.raises(AssertionError, match="hidden"):
        host.click(module.ui.negativesCheck)
    module.ui.advancedSection.collapsed = False
    host.click(module.ui.negativesCheck)
    assert module._parameterNode.negatives is False


def test_widgets_and_parameters_follow_each_other(host: Any, module: Any) -> None:
    module.ui.marginSlider.value = 12.5
    module.ui.deviceCombo.setCurrentText("cpu")
    assert (module._parameterNode.margin, module._parameterNode.device) == (12.5, "cpu")
    module._parameterNode.parts = 7
    module._parameterNode.note = "späť"
    assert (module.ui.partsSpin.value, module.ui.noteEdit.text) == (7, "späť")


def test_an_exception_in_a_slot_is_kept_for_the_end_of_the_test(host: Any, module: Any) -> None:
    def broken() -> None:
        raise ZeroDivisionError("in a slot")

    module.ui.expandButton.connect("clicked()", broken)
    host.click(module.ui.expandButton)
    assert [type(e) for e in host.errors.take()] == [ZeroDivisionError]


def test_an_error_of_the_logic_is_shown_and_does_not_end_anything(host: Any, module: Any) -> None:
    volume, contours = add_case()
    contours.GetSegmentation().RemoveAllSegments()
    module.ui.priorSelector.setCurrentNode(volume)
    module.ui.segmentationSelector.setCurrentNode(contours)
    host.click(module.ui.applyButton)
    assert any("no segments" in text for text in host.dialogs.texts())
    # slicer.util.tryWithErrorDisplay shows an error and raises it again, into the console.
    assert [type(e) for e in host.errors.take()] == [ValueError]


def test_closing_the_scene_and_reloading_leave_a_working_panel(host: Any, module: Any) -> None:
    import slicer

    add_case()
    host.close_scene()
    assert slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLScalarVolumeNode") is None
    again = host.reload(module)
    assert again is not module
    volume, contours = add_case()
    again.ui.priorSelector.setCurrentNode(volume)
    again.ui.segmentationSelector.setCurrentNode(contours)
    host.click(again.ui.applyButton)
    assert again.ui.stageLabel.text == "Done"


def test_parameters_live_in_the_saved_scene(host: Any, module: Any, tmp_path: Path) -> None:
    import slicer

    volume, _contours = add_case()
    module._parameterNode.prior = volume
    module._parameterNode.followUps = [volume, volume]
    module._parameterNode.labels = ["a", "b"]
    module._parameterNode.labels.append("c")
    text = save_and_read(tmp_path / "scene.mrml")
    assert volume.GetID() in text
    node = slicer.util.getNodesByClass("vtkMRMLScriptedModuleNode")[0]
    held = type(module._parameterNode)(node)
    assert held.prior is volume
    assert (list(held.followUps), list(held.labels)) == ([volume, volume], ["a", "b", "c"])


def save_and_read(path: Path) -> str:
    """The scene as text."""
    import slicer

    slicer.mrmlScene.SetURL(str(path))
    assert slicer.mrmlScene.Commit() == 1
    return path.read_text(encoding="utf-8")


def test_the_panel_can_be_left_and_entered_again(host: Any, module: Any) -> None:
    host.select("SegmentEditor")
    assert not module.parent.isEntered
    host.select("HostExample")
    assert module.parent.isEntered


def test_the_self_test_of_a_module_runs(host: Any, module: Any) -> None:
    import slicer

    module.onTest()
    assert slicer.selfTests["HostExample"]
    assert not any("Test failed" in text for text in host.dialogs.texts())
