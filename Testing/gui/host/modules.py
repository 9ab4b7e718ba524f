"""``slicer.modules``: Slicer's own modules by name, and scripted modules as Slicer's factory loads them."""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

from PySide6 import QtWidgets

from host import qt_types, signals
from host.mrml_widgets import qSlicerWidget
from host.refusals import HostLacksError, RefusedNameError
from host.standin import HostProperty, StrictObject, standin

LOGICS = {
    "Colors": "vtkSlicerColorLogic",
    "Volumes": "vtkSlicerVolumesLogic",
    "Segmentations": "vtkSlicerSegmentationsModuleLogic",
    "SubjectHierarchy": "vtkSlicerSubjectHierarchyModuleLogic",
    "Markups": "vtkSlicerMarkupsLogic",
    "Plots": "vtkSlicerPlotsLogic",
    "Tables": "vtkSlicerTablesLogic",
    "Terminologies": "vtkSlicerTerminologiesModuleLogic",
    "Transforms": "vtkSlicerTransformLogic",
    "Units": "vtkSlicerUnitsLogic",
    "Sequences": "vtkSlicerSequencesLogic",
    "Cameras": "vtkSlicerCamerasModuleLogic",
    "Models": "vtkSlicerModelsLogic",
    "Texts": "vtkSlicerTextsLogic",
}


class Modules:
    """``slicer.modules``; a name that neither Slicer nor a loaded file brought is refused."""

    def __getattr__(self, name: str) -> Any:
        known = {n.lower(): n for n in qt_types.current_facts().modules()}
        if name.startswith("__"):
            raise AttributeError(name)
        if name in known:
            raise HostLacksError(f"slicer.modules.{name} is in Slicer, but not in the host")
        raise RefusedNameError(f"slicer.modules has no module '{name}'")


class Module(StrictObject):
    """One of Slicer's own modules."""

    _table = "qSlicerAbstractCoreModule"

    def __init__(self, name: str, logic: Any) -> None:
        object.__setattr__(self, "_name", name)
        self._logic = logic
        self._representation: Any = None

    def _fallback(self, name: str) -> Any:
        if name in ("name", "title"):
            return self._name
        return super()._fallback(name)

    def logic(self) -> Any:
        """The C++ logic."""
        return self._logic

    def mrmlScene(self) -> Any:
        """The scene."""
        import slicer

        return slicer.mrmlScene


class OwnModule(Module):
    """A module of Slicer's own, with the Python additions of the application."""

    _table = "qSlicerAbstractModule"

    def widgetRepresentation(self) -> Any:
        """The panel; the host has none for Slicer's own modules."""
        raise HostLacksError(f"the host has no panel of module {self._name}")


class qSlicerScriptedLoadableModule(Module):
    """What a scripted module's class gets as ``parent``."""

    _table = "qSlicerScriptedLoadableModule"

    def __init__(self, name: str, path: Path) -> None:
        super().__init__(name, None)
        object.__setattr__(self, "path", str(path))
        self._python: types.ModuleType | None = None
        self._path_added = False

    def _fallback(self, name: str) -> Any:
        defaults: dict[str, Any] = {
            "title": self._name,
            "categories": (),
            "contributors": (),
            "dependencies": (),
            "associatedNodeTypes": (),
            "helpText": "",
            "acknowledgementText": "",
            "hidden": False,
            "index": -1,
        }
        return defaults[name] if name in defaults else super()._fallback(name)

    def __setattr__(self, name: str, value: Any) -> None:
        lists = ("categories", "contributors", "dependencies", "associatedNodeTypes")
        texts = ("title", "helpText", "acknowledgementText")
        if name in lists and (type(value) is str or not all(type(one) is str for one in value)):
            raise AttributeError(f"{name} of a module is a list of texts, not {value!r}")
        if name in texts and type(value) is not str:
            raise AttributeError(f"{name} of a module is a text, not {value!r}")
        super().__setattr__(name, tuple(value) if name in lists else value)

    def widgetRepresentation(self) -> Any:
        """The panel, made at the first call."""
        if self._representation is None:
            import slicer

            made = qSlicerScriptedLoadableModuleWidget()
            made.setLayout(QtWidgets.QVBoxLayout())
            made._h_module = self
            made.setMRMLScene(slicer.mrmlScene)
            self._representation = made
            made.reload()
        return self._representation

    def createNewWidgetRepresentation(self) -> Any:
        """A second panel."""
        raise HostLacksError("a second panel of a module")


@standin("slicer")
class qSlicerScriptedLoadableModuleWidget(qSlicerWidget):
    """The panel of a scripted module, parent of the Python widget's children."""

    moduleName = HostProperty("")

    @property
    def isEntered(self) -> bool:
        """Whether the module is shown."""
        return bool(signals.store(self).get("entered"))

    def self(self) -> Any:
        """The module's Python widget."""
        return self._h_widget

    def reload(self) -> None:
        """Make the Python widget and let it set up the panel."""
        import slicer

        name = self._h_module._name
        python = sys.modules[name]
        made = getattr(python, f"{name}Widget")(self)
        self._h_widget = made
        setattr(slicer.modules, f"{name}Widget", made)
        made.setup()

    def enter(self) -> None:
        """The module is shown."""
        self._h_enter()

    def exit(self) -> None:
        """The module is left."""
        self._h_exit()

    def _h_enter(self) -> None:
        signals.store(self)["entered"] = True
        getattr(self._h_widget, "enter", lambda: None)()

    def _h_exit(self) -> None:
        signals.store(self)["entered"] = False
        getattr(self._h_widget, "exit", lambda: None)()


def add_own_modules(holder: Modules, manager: Any, application_logic: Any, scene: Any) -> None:
    """All of Slicer's modules; those whose logic slicer-core has, with it."""
    import slicer
    import vtk

    shown = vtk.vtkObject.GetGlobalWarningDisplay()
    # The logics miss the application's folder of colour tables and terminologies, and say so at length.
    vtk.vtkObject.GlobalWarningDisplayOff()
    for name, kind in qt_types.current_facts().modules().items():
        logic = None
        if name in LOGICS and hasattr(slicer, LOGICS[name]):
            logic = getattr(slicer, LOGICS[name])()
            logic.SetMRMLApplicationLogic(application_logic)
            logic.SetMRMLScene(scene)
            application_logic.SetModuleLogic(name, logic)
            if name == "Colors":
                logic.AddDefaultColorNodes()
        if kind != "cli":
            module = OwnModule(name, logic)
            setattr(holder, name.lower(), module)
            manager._known[name] = module
    vtk.vtkObject.SetGlobalWarningDisplay(shown)


def load(path: Path) -> Any:
    """Load a scripted module's file as Slicer's factory does; the module object, its panel not yet made."""
    import slicer

    name = path.stem
    added = str(path.parent) not in sys.path
    if added:
        sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"no Python file: {path}")
    python = importlib.util.module_from_spec(spec)
    sys.modules[name] = python
    spec.loader.exec_module(python)
    module = qSlicerScriptedLoadableModule(name, path)
    module._python = python
    module._path_added = added
    made = getattr(python, name)(module)
    setattr(slicer.modules, f"{name}Instance", made)
    setattr(slicer.modules, name.lower(), module)
    manager = slicer.app.moduleManager()
    manager._known[name] = module
    if callable(getattr(made, "setup", None)):
        made.setup()
    manager._emit("moduleLoaded(QString)", name)
    return module


def unload(module: Any) -> None:
    """As at the end of the application: the widget cleans up, the panel goes."""
    import slicer

    name = module._name
    slicer.app.moduleManager()._emit("moduleAboutToBeUnloaded(QString)", name)
    slicer.app.moduleManager()._known.pop(name, None)
    for attribute in (name.lower(), f"{name}Widget", f"{name}Instance"):
        vars(slicer.modules).pop(attribute, None)
    if module._representation is not None:
        signals.store(module._representation).clear()
        module._representation.delete()
        module._representation = None
    sys.modules.pop(name, None)
    folder = str(Path(module.path).parent)
    if module._path_added and folder in sys.path:
        sys.path.remove(folder)
