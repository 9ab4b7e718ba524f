"""``slicer.app``, its layout manager and its main window."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from PySide6 import QtCore, QtWidgets

from host import qt_types, signals
from host.standin import StrictObject, standin

VIEW_NAMES = ("Red", "Green", "Yellow")
ORIENTATIONS = {"Red": "Axial", "Green": "Coronal", "Yellow": "Sagittal"}


class SliceView(StrictObject):
    """``qMRMLSliceView`` of one slice node."""

    _table = "qMRMLSliceView"

    def __init__(self, widget: SliceWidget) -> None:
        self._widget = widget

    def mrmlSliceNode(self) -> Any:
        """The slice node."""
        return self._widget.mrmlSliceNode()

    def scheduleRender(self) -> None:
        """Draw later; pictures of the host are drawn when they are asked for."""

    def forceRender(self) -> None:
        """Draw now."""


class SliceWidget(StrictObject):
    """``qMRMLSliceWidget``: a slice node with its logic."""

    _table = "qMRMLSliceWidget"

    def __init__(self, logic: Any) -> None:
        self._logic = logic
        self._view = SliceView(self)

    def sliceLogic(self) -> Any:
        """The slice logic."""
        return self._logic

    logic = sliceLogic

    def mrmlSliceNode(self) -> Any:
        """The slice node."""
        return self._logic.GetSliceNode()

    def mrmlSliceCompositeNode(self) -> Any:
        """Which volumes are shown."""
        return self._logic.GetSliceCompositeNode()

    def sliceView(self) -> Any:
        """The view."""
        return self._view

    def fitSliceToBackground(self) -> None:
        """Show the whole volume."""
        self._logic.FitSliceToBackground()


class LayoutManager(StrictObject):
    """``qSlicerLayoutManager`` with the three standard slice views and, of other views, only the wish for them."""

    _table = "qSlicerLayoutManager"
    _own_signals = ("layoutChanged(int)",)

    def __init__(self, scene: Any, application_logic: Any) -> None:
        import slicer
        import vtk

        self._scene = scene
        self._logics = vtk.vtkCollection()
        self._widgets: dict[str, SliceWidget] = {}
        for name in VIEW_NAMES:
            logic = slicer.vtkMRMLSliceLogic()
            logic.SetMRMLApplicationLogic(application_logic)
            logic.SetMRMLScene(scene)
            node = logic.AddSliceNode(name)
            node.SetOrientation(ORIENTATIONS[name])
            node.SetLayoutLabel(name[0])
            node.SetDimensions(512, 512, 1)
            self._logics.AddItem(logic)
            self._widgets[name] = SliceWidget(logic)
        application_logic.SetSliceLogics(self._logics)
        self._node = scene.GetFirstNodeByClass("vtkMRMLLayoutNode") or scene.AddNode(slicer.vtkMRMLLayoutNode())

    @property
    def layout(self) -> int:
        """Number of the layout, as ``slicer.vtkMRMLLayoutNode.SlicerLayout...``."""
        return int(self._node.GetViewArrangement())

    def setLayout(self, layout: int) -> None:
        """Change the layout."""
        if int(layout) == self.layout:
            return
        self._node.SetViewArrangement(int(layout))
        self._emit("layoutChanged(int)", int(layout))

    def mrmlScene(self) -> Any:
        """The scene."""
        return self._scene

    def sliceViewNames(self) -> tuple[str, ...]:
        """Names of the slice views."""
        return tuple(self._widgets)

    def sliceWidget(self, name: str) -> Any:
        """A slice view by its name, or None."""
        return self._widgets.get(name)

    def mrmlSliceLogics(self) -> Any:
        """The logics of all slice views."""
        return self._logics

    @property
    def threeDViewCount(self) -> int:
        """The host has no 3-D view."""
        return 0

    @property
    def plotViewCount(self) -> int:
        """Plot views of the layout; the host makes none."""
        return 0

    @property
    def tableViewCount(self) -> int:
        """Table views of the layout; the host makes none."""
        return 0

    def resetSliceViews(self) -> None:
        """Show the whole volumes."""
        for widget in self._widgets.values():
            widget.fitSliceToBackground()

    def resetThreeDViews(self) -> None:
        """The host has no 3-D view."""


class ModuleManager(StrictObject):
    """``qSlicerModuleManager``."""

    _table = "qSlicerModuleManager"
    _own_signals = ("moduleLoaded(QString)", "moduleAboutToBeUnloaded(QString)")

    def __init__(self) -> None:
        self._known: dict[str, Any] = {}

    def module(self, name: str) -> Any:
        """A module by its name, or None."""
        return self._known.get(name)

    def modulesNames(self) -> tuple[str, ...]:
        """Names of all modules."""
        return tuple(self._known)


class Application(StrictObject):
    """``slicer.app``; what belongs to Qt's application is asked of Qt's own."""

    _table = "qSlicerApplication"
    _own_signals = (
        "startupCompleted()",
        "mrmlSceneChanged(vtkMRMLScene*)",
        "renderPaused(bool)",
        "usageEventLogged(QString,QString)",
    )

    def __init__(self, folder: Path, scene: Any, application_logic: Any, testing: bool = True) -> None:
        self._delegate = QtWidgets.QApplication.instance()
        self._folder = folder
        self._logic = application_logic
        self._scene = scene
        self._testing = testing
        self._paused = 0
        self._modules = ModuleManager()
        self._layouts: LayoutManager | None = None
        QtCore.QSettings.setPath(QtCore.QSettings.Format.IniFormat, QtCore.QSettings.Scope.UserScope, str(folder))
        self._settings = QtCore.QSettings()
        self._values = {
            "temporaryPath": str(folder / "temporary"),
            "slicerHome": str(folder / "Slicer"),
            "cachePath": str(folder / "cache"),
            "defaultScenePath": str(folder),
            "extensionsInstallPath": str(folder / "extensions"),
            "slicerUserSettingsFilePath": str(folder / "Slicer.ini"),
            "mainApplicationName": "Slicer",
            "os": {"nt": "win"}.get(os.name, "linux"),
            "platform": "linux-amd64",
            "isInstalled": True,
            "revision": "34000",
            "repositoryRevision": "34000",
            "releaseType": "Stable",
            "applicationLocale": None,
            "documentationBaseUrl": "https://slicer.readthedocs.io/en/latest/",
        }
        for key in ("temporaryPath", "slicerHome", "cachePath"):
            Path(str(self._values[key])).mkdir(parents=True, exist_ok=True)

    def _fallback(self, name: str) -> Any:
        release = qt_types.current_facts().release.partition("-")[0].split(".")
        numbers = {"majorVersion": int(release[0]), "minorVersion": int(release[1])}
        numbers |= {
            "mainApplicationMajorVersion": numbers["majorVersion"],
            "mainApplicationMinorVersion": numbers["minorVersion"],
        }
        if name in numbers:
            return numbers[name]
        if name == "applicationVersion":
            return f"{'.'.join(release)}-2026-01-01"
        if name == "applicationName":
            return "Slicer"
        if self._values.get(name) is not None:
            return self._values[name]
        return super()._fallback(name)

    def applicationLogic(self) -> Any:
        """The logic of the application."""
        return self._logic

    def mrmlScene(self) -> Any:
        """The scene."""
        return self._scene

    def testingEnabled(self) -> bool:
        """Whether dialogs are skipped."""
        return self._testing

    def processEvents(self) -> None:
        """Handle what waits."""
        QtWidgets.QApplication.processEvents()

    def layoutManager(self) -> Any:
        """The views; None where the application runs without a main window."""
        return self._layouts

    def moduleManager(self) -> Any:
        """All modules."""
        return self._modules

    def moduleLogic(self, name: str) -> Any:
        """The C++ logic of a module."""
        module = self._modules.module(name)
        return None if module is None else module.logic()

    def userSettings(self) -> Any:
        """Settings of the user, kept in the host's own folder."""
        return self._settings

    def settings(self) -> Any:
        """The same; the host does not separate users from revisions."""
        return self._settings

    def revisionUserSettings(self) -> Any:
        """The same; the host does not separate users from revisions."""
        return self._settings

    def pauseRender(self) -> None:
        """Stop drawing until ``resumeRender``."""
        self._paused += 1

    def resumeRender(self) -> None:
        """Draw again."""
        if self._paused == 0:
            raise AssertionError("resumeRender without pauseRender")
        self._paused -= 1

    def setRenderPaused(self, pause: bool) -> None:
        """One of the two above."""
        (self.pauseRender if pause else self.resumeRender)()

    def startupEnvironment(self) -> Any:
        """The environment before Slicer's launcher changed it."""
        return QtCore.QProcessEnvironment.systemEnvironment()

    def moduleDocumentationUrl(self, name: str) -> str:
        """Where a module is described."""
        return f"https://slicer.readthedocs.io/en/latest/user_guide/modules/{name.lower()}.html"

    def logUsageEvent(self, component: str, event: str) -> None:
        """Count a use; nothing is sent."""
        self._emit("usageEventLogged(QString,QString)", component, event)


@standin("slicer", ("moduleSelected(QString)",))
class qSlicerModuleSelectorToolBar(QtWidgets.QToolBar):
    """Chooses the module that is shown."""

    _h_selected = ""

    @property
    def selectedModule(self) -> str:
        """Name of the module shown."""
        return self._h_selected

    def selectModule(self, name: str) -> None:
        """Leave the module shown and enter another."""
        import slicer

        module = slicer.app.moduleManager().module(name)
        if module is None:
            raise RuntimeError(f"there is no module {name}")
        if name == self._h_selected:
            return
        before = slicer.app.moduleManager().module(self._h_selected)
        for one, method in ((before, "exit"), (module, "enter")):
            if one is not None and one._representation is not None:
                getattr(one._representation, f"_h_{method}")()
        self._h_selected = name
        signals.emit(self, "moduleSelected(QString)", name)


@standin("slicer")
class qSlicerMainWindow(QtWidgets.QMainWindow):
    """The main window: a place for the module's panel and the module selector."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self.setObjectName("qSlicerMainWindow")
        self._h_selector = qSlicerModuleSelectorToolBar()
        QtWidgets.QMainWindow.addToolBar(self, self._h_selector)

    def moduleSelector(self) -> Any:
        """The tool bar that chooses the module."""
        return self._h_selector
