"""Copies of the module with one invented name each fail in the host: a green test means that Slicer has the names."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from panel_user import MODULE, PanelUser
from phantom_results import add_visits, carried

PANEL = "P2SAMSlicerGui"
MRML = "P2SAMSlicerLib/mrml"

MUTATIONS = {
    "a property of the module": ("P2SAMSlicer.py", "self.parent.helpText", "self.parent.helpWords"),
    "an event of the scene": ("P2SAMSlicer.py", "slicer.mrmlScene.EndCloseEvent", "slicer.mrmlScene.ClosedEvent"),
    "a parameter of sample data": ("P2SAMSlicer.py", "sampleName=", "sampleTitle="),
    "a signal of slicer.app": ("P2SAMSlicer.py", "startupCompleted()", "startupIsOver()"),
    "a method of the parameter node": ("P2SAMSlicer.py", ".connectParametersToGui(", ".connectParametersWith("),
    "a function of slicer.util": ("P2SAMSlicer.py", "slicer.util.childWidgetVariables", "slicer.util.childWidgetNames"),
    "a parameter name of the .ui": ("Resources/UI/P2SAMSlicer.ui", ">marginMm<", ">marginInMm<"),
    "a widget class of the .ui": ("Resources/UI/P2SAMSlicer.ui", "qMRMLCheckableNodeComboBox", "qMRMLCheckedNodeComboBox"),
    "a property of the .ui": ("Resources/UI/P2SAMSlicer.ui", '"showChildNodeTypes"', '"showDerivedNodeTypes"'),
    "the name of a widget": (f"{PANEL}/run_panel.py", "self._ui.applyButton", "self._ui.propagateButton"),
    "a property of a button": (
        f"{PANEL}/run_panel.py",
        "button.enabled, button.toolTip = True",
        "button.on, button.toolTip = True",
    ),
    "a property of a bar": (f"{PANEL}/run_panel.py", "progressBar.value = 0", "progressBar.val = 0"),
    "a signal of a button": (f"{PANEL}/run_panel.py", '"clicked(bool)"', '"pushed(bool)"'),
    "a signal of a timer": (f"{PANEL}/run_panel.py", '"timeout()"', '"timedOut()"'),
    "a signal of a table": (f"{PANEL}/results_table.py", '"cellClicked(int,int)"', '"rowClicked(int,int)"'),
    "a method of a table": (f"{PANEL}/results_table.py", ".selectRow(", ".chooseRow("),
    "a method of an item": (f"{PANEL}/results_table.py", "item.setToolTip(", "item.setHint("),
    "a method of a header": (f"{PANEL}/slices_table.py", ".setSectionResizeMode(", ".setSectionSizing("),
    "a Qt class": (f"{PANEL}/carry_table.py", "qt.QComboBox()", "qt.QChoiceBox()"),
    "a signal of the selector": (f"{PANEL}/module_panel.py", '"checkedNodesChanged()"', '"nodesChecked()"'),
    "a method of the selector": (f"{PANEL}/module_panel.py", ".checkedNodes()", ".chosenNodes()"),
    "a property of a combo box": (f"{PANEL}/model_panel.py", "modelSelector.currentIndex)", "modelSelector.chosenIndex)"),
    "a method of the settings": (f"{PANEL}/review_panel.py", "settings().setValue(", "settings().assign("),
    "a Qt method": (f"{PANEL}/review_panel.py", "self._shortcut.setKey(", "self._shortcut.setKeys_("),
    "a signal of a shortcut": (f"{PANEL}/review_panel.py", '"activated()"', '"pressed()"'),
    "a module of Slicer": (f"{PANEL}/review_panel.py", "slicer.modules.plots", "slicer.modules.plotting"),
    "a signal of a check button": (f"{PANEL}/prompts_panel.py", '"toggled(bool)"', '"switched(bool)"'),
    "a method of a display node": (f"{MRML}/slice_views.py", ".SetSegmentOpacity2DFill(", ".SetSegmentOpacityFill("),
    "a method of a slice node": (f"{MRML}/slice_views.py", ".JumpSliceByCentering(", ".JumpSliceAndCentre("),
    "a method of markups": (f"{MRML}/prompt_nodes.py", ".SetNthControlPointDescription(", ".SetNthPointDescription("),
    "a method of a segmentation": (f"{MRML}/result_nodes.py", ".SetSegmentVisibility(", ".ShowSegment("),
    "a method of a table node": (f"{MRML}/volume_chart.py", ".AddColumn(", ".AppendColumn("),
}


def copied(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The module with its panel and the library's part on the scene, in another folder; they are imported from there."""
    import P2SAMSlicerLib.mrml as mrml

    target = folder / "P2SAMSlicer"
    ignored = shutil.ignore_patterns("__pycache__", "*.safetensors", "*.pth", "models")
    for name in (PANEL, MRML, "Resources/UI"):
        shutil.copytree(MODULE.parent / name, target / name, ignore=ignored)
    shutil.copy(MODULE, target / MODULE.name)
    monkeypatch.setattr(mrml, "__path__", [str(target / MRML)])
    for name in [each for each in sys.modules if each.startswith("P2SAMSlicerLib.mrml.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(target))
    return target / MODULE.name


@pytest.fixture(autouse=True)
def _library_as_before() -> Any:
    """What a test imported from its copy is forgotten."""
    before = {name: held for name, held in sys.modules.items() if name.startswith("P2SAMSlicerLib.mrml.")}
    yield
    for name in [each for each in sys.modules if each.startswith(("P2SAMSlicerLib.mrml.", PANEL))]:
        del sys.modules[name]
    sys.modules.update(before)
    # The package remembers its modules by itself, too: "from package import module" asks it and not sys.modules.
    import P2SAMSlicerLib.mrml as package

    for name in [each for each in vars(package) if f"P2SAMSlicerLib.mrml.{each}" in before]:
        setattr(package, name, before[f"P2SAMSlicerLib.mrml.{name}"])


def exercise(host: Any, file: Path) -> None:
    """Load a copy and do what a person does."""
    import slicer

    user = PanelUser(host, file=file)
    slicer.app._emit("startupCompleted()")
    prior, segmentation, (followup,) = add_visits()
    user.choose(prior, segmentation, followup)
    user.run(carried(followup))
    user.click_row("slicesTable", 1)
    user.click("editPromptsButton")
    user.ui.reviewerEdit.text = "A. B."
    user.click("nextDoubtfulButton")
    user.click("acceptButton")
    user.click("plotButton")
    host.select("Volumes")
    if host.errors.caught:
        raise host.errors.caught[0]


def test_an_unchanged_copy_passes(host: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exercise(host, copied(tmp_path, monkeypatch))
    assert Path(sys.modules["P2SAMSlicerLib.mrml.slice_views"].__file__ or "").is_relative_to(tmp_path)
    assert Path(sys.modules["P2SAMSlicerGui.run_panel"].__file__ or "").is_relative_to(tmp_path)


@pytest.mark.parametrize("kind", list(MUTATIONS))
def test_a_copy_with_one_invented_name_fails(host: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    name, old, new = MUTATIONS[kind]
    file = copied(tmp_path, monkeypatch)
    path = file.parent / name
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises((AttributeError, TypeError, ValueError, AssertionError, ImportError, RuntimeError)) as caught:
        exercise(host, file)
    host.errors.take()
    assert caught.value is not None
