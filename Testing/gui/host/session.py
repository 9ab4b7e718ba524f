"""One run of the application: everything that a module finds after ``import slicer, qt, ctk``, and its end."""

from __future__ import annotations

import gc
import inspect
import os
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from PySide6 import QtCore, QtWidgets

from host import (
    application,
    ctk_choices,
    ctk_containers,
    ctk_values,
    dialogs,
    modules,
    mrml_widgets,
    node_combo_box,
    packages,
    parameter_node,
    qt_module,
    scripted_module,
    segment_widgets,
    slots,
)
from host.facts import FIRST_RELEASE, Facts
from host.standin import REGISTERED, check_names

STANDIN_FILES = (ctk_containers, ctk_values, ctk_choices, mrml_widgets, node_combo_box, segment_widgets, application, modules)
"""Files whose classes stand in for Slicer's and CTK's; importing them registers the classes."""

_kept: dict[str, Any] = {}


def qt_application() -> Any:
    """The one QApplication of the process."""
    if "application" not in _kept:
        QtCore.QSettings.setDefaultFormat(QtCore.QSettings.Format.IniFormat)
        _kept["application"] = QtWidgets.QApplication.instance() or QtWidgets.QApplication(["Slicer"])
        QtCore.QCoreApplication.setOrganizationName("NA-MIC")
        QtCore.QCoreApplication.setApplicationName("Slicer")
        QtWidgets.QApplication.setStyle("Fusion")
        dialogs.patch_qt()
    return _kept["application"]


class Host:
    """The application from its start to its end.

    :param folder: an empty folder for settings and temporary files.
    :param facts_folder: where the tables lie.
    :param release: the Slicer release that is played.
    :param pytorch: whether the PyTorch extension is installed.
    :param main_window: False for Slicer started with ``--no-main-window``.
    :param testing: Slicer's testing mode, in which errors are raised and no question is asked.
    """

    def __init__(
        self,
        folder: Path,
        facts_folder: Path,
        release: str = FIRST_RELEASE,
        pytorch: bool = True,
        main_window: bool = True,
        testing: bool = False,
    ) -> None:
        qt_application()
        self.facts = Facts(facts_folder, release)
        self.packaging = packages.Calls()
        self.torch = packages.Calls()
        self.dialogs = dialogs.BOOK
        self.errors = slots.Collector()
        self.folder = folder
        self._closed = False
        self._loaded: list[Any] = []
        self._before: dict[str, Any] = {}
        self._slicer_before: dict[str, Any] = {}
        self._util_before: dict[str, Any] = {}
        self._start(pytorch, main_window, testing)

    def load_module(self, path: Path | str, enter: bool = True) -> Any:
        """Load a module file, make its panel, enter it; the module's Python widget."""
        module = modules.load(Path(path))
        self._loaded.append(module)
        panel = module.widgetRepresentation()
        QtWidgets.QWidget.resize(panel, 460, 900)
        if enter:
            self.select(module.name)
        return panel.self()

    def reload(self, widget: Any) -> Any:
        """Reload a module as its developer's button does; the new Python widget."""
        widget.onReload()
        import slicer

        return slicer.modules.__getattribute__(f"{widget.moduleName}Widget")

    def select(self, name: str) -> None:
        """Show a module: the one before is left."""
        import slicer

        if self.window is not None:
            slicer.util.selectModule(name)
        else:
            slicer.app.moduleManager().module(name)._representation._h_enter()

    def panel(self, widget: Any) -> Any:
        """The panel that a Python widget fills."""
        return widget.parent

    def close_scene(self) -> None:
        """Close the scene as the application does; singleton nodes stay."""
        import slicer

        slicer.mrmlScene.Clear(0)
        self.process_events()

    def click(self, button: Any) -> None:
        """Click, as a user can: the button has to be enabled and not hidden."""
        if not QtWidgets.QWidget.isEnabled(button):
            name = QtCore.QObject.objectName(button)
            raise AssertionError(f"{name} is disabled: {QtWidgets.QWidget.toolTip(button)}")
        panel = QtWidgets.QWidget.window(button)
        if QtWidgets.QWidget.isHidden(button) or not QtWidgets.QWidget.isVisibleTo(button, panel):
            raise AssertionError(f"{QtCore.QObject.objectName(button)} is hidden")
        QtWidgets.QAbstractButton.click(button)
        self.process_events()

    def process_events(self) -> None:
        """Handle what waits, deferred deletions included."""
        QtWidgets.QApplication.processEvents()
        QtCore.QCoreApplication.sendPostedEvents(None, QtCore.QEvent.Type.DeferredDelete)

    def wait_until(self, condition: Callable[[], Any], timeout: float = 30.0, why: str = "") -> None:
        """Run the event loop until a condition holds.

        :raises AssertionError: it did not within ``timeout`` seconds.
        """
        end = time.monotonic() + timeout
        while not condition():
            if self.errors.caught:
                raise AssertionError(f"an exception in a slot:\n{self.errors.text()}")
            if time.monotonic() > end:
                raise AssertionError(f"not within {timeout} s: {why or inspect.getsource(condition).strip()}")
            QtWidgets.QApplication.processEvents(QtCore.QEventLoop.ProcessEventsFlag.AllEvents, 10)
            time.sleep(0.005)
        self.process_events()

    def close(self) -> None:
        """End the application: modules clean up, all modules of Python are as before."""
        import slicer

        if self._closed:
            return
        self._closed = True
        for module in reversed(self._loaded):
            modules.unload(module)
        self._loaded.clear()
        mrml_widgets.stop_all_observers()
        end_scene(slicer.mrmlScene, lambda: end_logics(slicer))
        gc.unfreeze()
        self.process_events()
        if self.window is not None:
            self.window.delete()
        self.errors.remove()
        for name, held in self._before.items():
            if held is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = held
        restore(vars(slicer), self._slicer_before)
        restore(vars(slicer.util), self._util_before)

    def _start(self, pytorch: bool, main_window: bool, testing: bool) -> None:
        import slicer
        import slicer.util

        # What there was before is not looked through at the end, which would take half a second of every test.
        gc.freeze()
        qt = qt_module.make_qt(self.facts)
        wrong = check_names(self.facts)
        if wrong:
            raise AssertionError(f"the host has names that Slicer {self.facts.release} does not have: {wrong}")
        dialogs.clear()
        self._slicer_before = dict(vars(slicer))
        self._util_before = dict(vars(slicer.util))
        self._fit_util(slicer.util)
        scene = slicer.vtkMRMLScene()
        slicer.mrmlScene = scene
        logic = slicer.vtkSlicerApplicationLogic()
        logic.SetMRMLScene(scene)
        app = application.Application(self.folder, scene, logic, testing)
        slicer.app = app
        slicer.modules = modules.Modules()
        self._install(qt, slicer, pytorch)
        modules.add_own_modules(slicer.modules, app.moduleManager(), logic, scene)
        self.window = application.qSlicerMainWindow() if main_window else None
        if main_window:
            app._layouts = application.LayoutManager(scene, logic)
        self.errors.install()

    def _install(self, qt: types.ModuleType, slicer: Any, pytorch: bool) -> None:
        for name, kind in REGISTERED["slicer"].items():
            setattr(slicer, name, kind)
        slicer.qSlicerScriptedLoadableModule = modules.qSlicerScriptedLoadableModule
        packaging = packages.make_packaging(self.facts, self.packaging)
        found: dict[str, Any] = {
            "qt": qt,
            "ctk": packages.make_ctk(REGISTERED["ctk"], self.facts.namespace("ctk")),
            "slicer.ScriptedLoadableModule": scripted_module,
            "slicer.parameterNodeWrapper": parameter_node,
            "slicer.i18n": packages.make_i18n(),
            "slicer.packaging": packaging,
            "SampleData": packages.make_sample_data(self.facts),
            "PyTorchUtils": packages.make_pytorch(self.torch) if pytorch else None,
        }
        for name, module in found.items():
            self._before[name] = sys.modules.get(name)
            if module is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = module
            if name.startswith("slicer.") and module is not None:
                setattr(slicer, name.partition(".")[2], module)

    def _fit_util(self, util: Any) -> None:
        """``slicer.util`` is the newest; take away what the release does not have, answer its dialogs from the book."""
        for name in self.facts.absent_names("slicer.util"):
            vars(util).pop(name, None)
        for name in self.facts.differing_functions("slicer.util"):
            allowed = self.facts.parameters("slicer.util", name)
            if allowed is not None and hasattr(util, name):
                setattr(util, name, with_parameters(getattr(util, name), allowed))
        util._messageDisplay = dialogs.message_display
        util.messageBox = dialogs.message_box
        util.delayDisplay = dialogs.delay_display


def end_scene(scene: Any, end_observers: Callable[[], None] = lambda: None) -> None:
    """Empty a scene and cut its ties to Python, which VTK would else call while it is collected as garbage.

    :param end_observers: ends what observes the nodes from within VTK. It has to go first: VTK's broker of events would keep
        pointers to nodes whose observers were removed behind its back, and follow them when the observer ends.
    """
    nodes = [scene.GetNthNode(i) for i in range(scene.GetNumberOfNodes())]
    scene.Clear(True)
    end_observers()
    for one in (*nodes, scene):
        one.RemoveAllObservers()


def end_logics(application: Any) -> None:
    """Take all logics from the scene, and let those of the modules go while the application's is there, to which they speak.

    :param application: the module ``slicer``.
    """
    manager, logic = application.app.moduleManager(), application.app.applicationLogic()
    vars(application).pop("modules", None)
    if application.app._layouts is not None:
        for widget in application.app._layouts._widgets.values():
            widget._logic.SetMRMLScene(None)
    for module in manager._known.values():
        if module._logic is not None:
            logic.SetModuleLogic(module._name, None)
            module._logic = None
    manager._known.clear()
    logic.SetMRMLScene(None)
    gc.collect()


def with_parameters(function: Any, allowed: set[str]) -> Any:
    """A function with the parameters of an older release only."""
    names = list(inspect.signature(function).parameters)

    def narrowed(*arguments: Any, **keywords: Any) -> Any:
        given = set(names[: len(arguments)]) | set(keywords)
        if not given <= allowed:
            raise TypeError(f"{function.__name__} does not have {sorted(given - allowed)} in this release of Slicer")
        return function(*arguments, **keywords)

    return narrowed


def restore(held: dict[str, Any], before: dict[str, Any]) -> None:
    """A module's names as they were."""
    for name in [n for n in held if n not in before]:
        del held[name]
    held.update(before)
