"""The host refuses what Slicer does not have: every stand-in by itself, and copies of a module with one invented name."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from host.refusals import HostLacksError, RefusedNameError, RefusedSignalError
from host.session import STANDIN_FILES
from host.standin import REGISTERED

EXAMPLE = Path(__file__).parent / "host_example" / "HostExample"
assert STANDIN_FILES  # Their import registers the stand-ins.
STANDINS = [(module, name) for module, kinds in REGISTERED.items() for name in kinds]
QT_CLASSES = ("QPushButton", "QLabel", "QTableWidget", "QComboBox", "QTimer", "QProcess", "QSettings", "QVBoxLayout", "QAction")


def made(module: str, name: str) -> Any:
    """An object of a stand-in or Qt class."""
    import ctk
    import qt
    import slicer

    return getattr({"ctk": ctk, "slicer": slicer, "qt": qt}[module], name)()


def refuses(one: Any) -> None:
    """Check that an object refuses an unknown attribute, setter, property and signal."""
    for name in ("inventedName", "setInventedName", "isInventedName"):
        with pytest.raises(RefusedNameError, match="no attribute"):
            getattr(one, name)
    with pytest.raises(RefusedNameError, match="can not be assigned"):
        one.inventedName = 1
    with pytest.raises(RefusedSignalError, match="no signal"):
        one.connect("inventedSignal(int)", print)
    with pytest.raises(RefusedNameError):
        one.inventedSignal.connect(print)
    with pytest.raises(RefusedSignalError, match="no signature"):
        one.connect("destroyed", print)


@pytest.mark.parametrize(("module", "name"), STANDINS + [("qt", name) for name in QT_CLASSES])
def test_every_widget_refuses_unknown_names(host: Any, module: str, name: str) -> None:
    refuses(made(module, name))


def test_what_only_cpp_can_call_is_refused(host: Any) -> None:
    refused = 0
    for module, name in STANDINS:
        hidden = set(host.facts._slicer["classes"][name].get("cpp_public_not_in_python", ())) - host.facts.visible(name)
        one = made(module, name) if hidden else None
        for member in hidden:
            with pytest.raises(RefusedNameError):
                getattr(one, member)
            refused += 1
    assert refused > 50, "the tables name hardly any such method: this shows nothing"


@pytest.mark.parametrize(("module", "name"), STANDINS)
def test_a_name_that_slicer_has_is_there_or_the_host_says_that_it_lacks_it(host: Any, module: str, name: str) -> None:
    one = made(module, name)
    # A class without names of its own has at least those of every object.
    own = sorted(host.facts.own(name)) or ["connect", "name"]
    for member in own:
        try:
            getattr(one, member)
        except HostLacksError:
            continue
        except RefusedNameError as error:
            pytest.fail(f"{name}.{member} exists in Slicer: {error}")


def test_the_application_and_its_parts_refuse_unknown_names(host: Any) -> None:
    import slicer

    layouts = slicer.app.layoutManager()
    for one in (slicer.app, layouts, layouts.sliceWidget("Red"), layouts.sliceWidget("Red").sliceView()):
        refuses(one)
    for one in (slicer.app.moduleManager(), slicer.modules.segmenteditor):
        refuses(one)
    with pytest.raises(RefusedNameError):
        _ = slicer.modules.inventedmodule


def table_of(host: Any, module: str) -> tuple[set[str], dict[str, set[str]]]:
    """Names of a Python module of Slicer, and those of each of its classes with what these inherit."""
    entry = host.facts.python_module(module)
    assert entry is not None
    classes = {name: {*held["methods"], *held.get("attributes", ())} for name, held in entry["classes"].items()}
    return {*entry["functions"], *classes, *entry.get("__all__", ())}, classes


def public(held: Any) -> set[str]:
    """Names without an underscore."""
    return {name for name in vars(held) if not name.startswith("_")}


def test_the_base_classes_of_a_module_have_nothing_that_slicers_do_not_have(host: Any) -> None:
    from host import scripted_module

    names, classes = table_of(host, "slicer.ScriptedLoadableModule")
    assert set(scripted_module.__all__) <= names
    checked = 0
    for name in scripted_module.__all__:
        members = public(getattr(scripted_module, name))
        assert members <= classes[name], name
        checked += len(members)
    assert checked > 10
    for name in ("ScriptedLoadableModuleLogic", "ScriptedLoadableModuleTest"):
        with pytest.raises(AttributeError):
            getattr(scripted_module, name)().inventedName()


def test_the_other_python_modules_have_nothing_that_slicers_do_not_have(host: Any) -> None:
    import slicer.i18n
    import slicer.parameterNodeWrapper as wrapped
    from host import parameter_node
    from host.parameter_node import validators

    assert public(slicer.i18n) <= table_of(host, "slicer.i18n")[0]
    assert public(sys.modules["SampleData"]) <= table_of(host, "SampleData")[0]
    assert public(sys.modules["SampleData"].SampleDataLogic) <= table_of(host, "SampleData")[1]["SampleDataLogic"]
    parts = [table_of(host, f"slicer.parameterNodeWrapper.{part}") for part in ("wrapper", "validators", "default", "util")]
    parts.append(table_of(host, "slicer.parameterNodeWrapper.guiConnectors"))
    parts.append(table_of(host, "slicer.parameterNodeWrapper.parameterInfo"))
    parts.append(table_of(host, "slicer.parameterNodeWrapper.guiCreation"))
    # A constant, of which the tables have no list; Slicer's own documentation names it.
    every = set().union(*(names for names, _classes in parts)) | {"SlicerParameterNamePropertyName"}
    assert set(parameter_node.__all__) - every == set()
    for name, members in parts[1][1].items():
        if hasattr(validators, name):
            assert public(getattr(validators, name)) <= members | {"validate"}, name
    with pytest.raises(AttributeError, match="in Slicer"):
        _ = wrapped.InventedValidator
    with pytest.raises(AttributeError):
        _ = slicer.i18n.inventedFunction
    with pytest.raises(AttributeError):
        sys.modules["SampleData"].SampleDataLogic().inventedMethod()
    with pytest.raises(AttributeError, match="no attribute"):
        sys.modules["PyTorchUtils"].PyTorchUtilsLogic().inventedMethod()


def test_the_parameter_node_refuses_unknown_parameters_and_methods(host: Any) -> None:
    import slicer
    from slicer.parameterNodeWrapper import parameterNodeWrapper

    class Parameters:
        """Annotated below, as annotations would be texts here."""

    Parameters.__annotations__ = {"size": int}
    held = parameterNodeWrapper(Parameters)(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScriptedModuleNode"))
    known = {name for name in dir(type(held)) if not name.startswith("_")} - {"size"}
    # What Slicer's decorator adds to a class, as its table of functions and documentation names it.
    real = {"default", "isCached", "dataType", "getValue", "setValue", "connectGui", "connectParametersToGui", "disconnectGui"}
    assert known <= real | {"StartModify", "EndModify", "AddObserver", "RemoveObserver", "Modified", "allParameters"}
    for name in ("inventedName", "setSize"):
        with pytest.raises(AttributeError):
            getattr(held, name)
    for function in (held.default, held.isCached, held.dataType):
        with pytest.raises(ValueError, match="Cannot find"):
            function("inventedName")


@pytest.mark.parametrize(
    "name", ["qt.QInvented", "ctk.ctkInvented", "qt.qInvented", "slicer.util.inventedFunction", "slicer.qMRMLInvented"]
)
def test_modules_refuse_unknown_names(host: Any, name: str) -> None:
    import ctk
    import qt
    import slicer

    with pytest.raises(AttributeError):
        eval(name, {"qt": qt, "ctk": ctk, "slicer": slicer})


@pytest.mark.parametrize(
    "line",
    [
        "qt.QPushButton('a').text()",
        "qt.QPushButton(text='a')",
        "qt.QTimer(parent=None)",
        "qt.QLabel().setText(text='a')",
        "qt.QSpinBox().setValue('2')",
        "setattr(qt.QLabel(), 'tooltip', 'a')",
        "qt.QComboBox().connect('currentIndexChanged(QString)', print)",
        "ctk.ctkCollapsibleButton().setCollapsed(True)",
        "slicer.qMRMLNodeComboBox().setNodeTypes(['vtkMRMLNode'])",
        "slicer.util.launchConsoleProcess(['x'], blocking=False)",
    ],
)
def test_what_pyside_forgives_and_pythonqt_does_not_is_refused(host: Any, line: str) -> None:
    import ctk
    import qt
    import slicer.util

    with pytest.raises((AttributeError, TypeError, ValueError, AssertionError)):
        eval(line, {"qt": qt, "ctk": ctk, "slicer": slicer})


def test_objects_are_instances_of_their_exact_class_only(host: Any) -> None:
    import qt

    button = qt.QPushButton()
    assert isinstance(button, qt.QPushButton)
    assert type(button) is qt.QPushButton
    assert not isinstance(button, qt.QWidget)
    assert button.inherits("QWidget")


def test_names_of_a_later_release_exist_only_there(start_host: Callable[..., Any]) -> None:
    later = start_host(release="5.13-dev")
    import slicer.packaging

    with pytest.raises(HostLacksError):
        _ = slicer.qMRMLNodeComboBox().nodeAddedByUserAction

    slicer.packaging.pip_ensure("numpy", prompt_install=False)
    assert later.packaging.names() == ["pip_ensure"]
    with pytest.raises(TypeError):
        slicer.packaging.pip_ensure("numpy", quiet=True)


def test_the_oldest_release_has_no_packaging_and_no_later_names(host: Any) -> None:
    import slicer.util

    assert "slicer.packaging" not in sys.modules
    assert not hasattr(slicer.util, "LazyImport")
    with pytest.raises(RefusedNameError):
        _ = slicer.qMRMLNodeComboBox().nodeAddedByUserAction


def exercise(host: Any, file: Path) -> None:
    """Load a copy of the example and do what a user does."""
    import slicer.util

    widget = host.load_module(file)
    volume = slicer.util.addVolumeFromArray(np.zeros((4, 5, 6)))
    contours = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    contours.GetSegmentation().AddEmptySegment("", "GTV")
    widget.ui.priorSelector.setCurrentNode(volume)
    widget.ui.segmentationSelector.setCurrentNode(contours)
    host.click(widget.ui.applyButton)
    host.select("Volumes")
    host.close_scene()
    caught = host.errors.take()
    if caught:
        raise caught[0]


MUTATIONS = {
    "a property of a widget": ("HostExample.py", "applyButton.enabled = ready", "applyButton.active = ready"),
    "a Qt method": ("HostExample.py", ".setStretchLastSection(True)", ".setStretchTheLast(True)"),
    "a property called": ("HostExample.py", "stageLabel.text = _(", "stageLabel.text(_("),
    "a function of slicer.util": ("HostExample.py", "slicer.util.tryWithErrorDisplay", "slicer.util.tryAndShowErrors"),
    "a method of slicer.app": ("HostExample.py", 'slicer.app.connect("startup', 'slicer.app.onEvent("startup'),
    "a signal of slicer.app": ("HostExample.py", "startupCompleted()", "startupFinished()"),
    "a signal": ("HostExample.py", '"clicked(bool)"', '"wasClicked(bool)"'),
    "the arguments of a signal": ("HostExample.py", '"clicked(bool)"', '"clicked(QString)"'),
    "a signal of a node selector": ("HostExample.py", "currentNodeChanged(vtkMRMLNode*)", "nodeSelected(vtkMRMLNode*)"),
    "a method of a node": ("HostExample.py", ".GetNumberOfSegments()", ".GetSegmentCount()"),
    "a method of a segments table": ("HostExample.py", ".setSegmentationNode(node)", ".setSegmentation(node)"),
    "a Qt class": ("HostExample.py", "qt.QTableWidgetItem(", "qt.QTableItem("),
    "a property of the module": ("HostExample.py", "self.parent.helpText", "self.parent.help_text"),
    "an annotation": ("HostExample.py", "import Choice, Default", "import Choices as Choice, Default"),
    "a parameter of sample data": ("HostExample.py", "checksums=", "checksum="),
    "a parameter name in the .ui": ("HostExample.ui", ">margin<", ">marginInMm<"),
    "a widget class of the .ui": ("HostExample.ui", "ctkSliderWidget", "ctkSliderBox"),
    "a property of the .ui": ("HostExample.ui", 'name="noneEnabled"', 'name="noneAllowed"'),
    "a signal of the .ui": ("HostExample.ui", "mrmlSceneChanged(", "mrmlSceneReplaced("),
    "a slot of the .ui": ("HostExample.ui", "setMRMLScene(", "useMRMLScene("),
}


def copy_of_example(folder: Path) -> Path:
    """The example under its own name in another folder."""
    target = folder / "HostExample"
    shutil.copytree(EXAMPLE, target, ignore=shutil.ignore_patterns("__pycache__"))
    return target


def test_an_unchanged_copy_of_the_module_passes(host: Any, tmp_path: Path) -> None:
    import slicer

    exercise(host, copy_of_example(tmp_path) / "HostExample.py")
    slicer.app._emit("startupCompleted()")
    assert not host.errors.caught


@pytest.mark.parametrize("kind", list(MUTATIONS))
def test_a_copy_of_the_module_with_one_invented_name_fails(host: Any, tmp_path: Path, kind: str) -> None:
    import slicer

    file, old, new = MUTATIONS[kind]
    target = copy_of_example(tmp_path)
    path = target / "Resources" / "UI" / file if file.endswith(".ui") else target / file
    text = path.read_text(encoding="utf-8")
    assert old in text
    changed = text.replace(old, new)
    path.write_text(changed.replace('_("Done")', '_("Done"))') if kind == "a property called" else changed, encoding="utf-8")
    with pytest.raises((AttributeError, TypeError, ValueError, AssertionError, ImportError, RuntimeError)):  # noqa: PT012
        exercise(host, target / "HostExample.py")
        slicer.app._emit("startupCompleted()")
        if host.errors.caught:
            raise host.errors.caught[0]
    host.errors.take()


def test_the_host_leaves_python_as_it_was(start_host: Callable[..., Any]) -> None:
    import slicer.util

    before = set(vars(slicer.util))
    one = start_host()
    assert "qt" in sys.modules
    one.close()
    assert "qt" not in sys.modules
    assert before == set(vars(slicer.util))
