"""Slicer's widgets that know the scene: the base classes, tables and plots."""

from __future__ import annotations

import weakref
from typing import Any

import shiboken6
from PySide6 import QtCore, QtGui, QtWidgets

from host import signals
from host.ctk_values import ctkSliderWidget, row
from host.standin import HostProperty, standin

SCENE_CHANGED = "mrmlSceneChanged(vtkMRMLScene*)"


_EVERY: weakref.WeakSet[Observers] = weakref.WeakSet()


def stop_all_observers() -> None:
    """At the end of the application: VTK must not call Python while its objects are collected as garbage."""
    for one in list(_EVERY):
        one.clear()


class Observers:
    """Observers of VTK objects, silent from when their widget is deleted."""

    def __init__(self, widget: Any) -> None:
        self._widget = widget
        self._held: list[tuple[Any, int]] = []
        _EVERY.add(self)

    def add(self, observed: Any, event: Any, function: Any) -> None:
        """Observe."""

        def receive(caller: Any, name: str) -> None:
            if self._lives():
                function(caller, name)

        self._held.append((observed, observed.AddObserver(event, receive)))

    def add_node_event(self, scene: Any, event: Any, function: Any) -> None:
        """Observe a scene event that brings its node along."""
        import vtk

        def receive(_caller: Any, _event: str, node: Any) -> None:
            if self._lives():
                function(node)

        receive.CallDataType = vtk.VTK_OBJECT  # type: ignore[attr-defined]
        self._held.append((scene, scene.AddObserver(event, receive)))

    def _lives(self) -> bool:
        # A scene that is collected as garbage still calls, when this object has lost its attributes.
        widget = vars(self).get("_widget")
        return widget is not None and shiboken6.isValid(widget)

    def clear(self) -> None:
        """Stop all."""
        for observed, tag in self._held:
            observed.RemoveObserver(tag)
        self._held.clear()


def set_scene(owner: Any, scene: Any) -> None:
    """Keep a scene and say so."""
    if signals.store(owner).get("scene") is scene:
        return
    signals.store(owner)["scene"] = scene
    signals.emit(owner, SCENE_CHANGED, scene)


class KnowsScene:
    """Keeps the scene and tells when it is another one; whether Python sees these methods, the tables say."""

    def mrmlScene(self) -> Any:
        """The scene."""
        return signals.store(self).get("scene")

    def setMRMLScene(self, scene: Any) -> None:
        """Assign the scene."""
        set_scene(self, scene)


@standin("slicer", (SCENE_CHANGED,))
class qMRMLWidget(KnowsScene, QtWidgets.QWidget):
    """A widget that hands its scene on."""


@standin("slicer", (SCENE_CHANGED,))
class qSlicerWidget(KnowsScene, QtWidgets.QWidget):
    """A widget that hands its scene on; other than a qMRMLWidget it does not tell it."""


@standin("slicer")
class qMRMLSliderWidget(ctkSliderWidget):
    """A slider in the scene's units."""

    quantity = HostProperty("")
    unitAwareProperties = HostProperty(0)
    orientation = HostProperty(1)

    def mrmlScene(self) -> Any:
        """The scene."""
        return signals.store(self).get("scene")

    def setMRMLScene(self, scene: Any) -> None:
        """Assign the scene."""
        signals.store(self)["scene"] = scene


@standin("slicer", (SCENE_CHANGED, "selectionChanged()"))
class qMRMLTableView(KnowsScene, QtWidgets.QTableView):
    """The rows of a table node."""

    transposed = HostProperty(False)
    firstRowLocked = HostProperty(False, lambda owner: owner._h_fill())
    firstColumnLocked = HostProperty(False)

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._h_node: Any = None
        self._h_observers = Observers(self)
        QtWidgets.QTableView.setModel(self, QtGui.QStandardItemModel(self))
        self._h_watch_selection()

    def mrmlTableNode(self) -> Any:
        """The node shown."""
        return self._h_node

    def setMRMLTableNode(self, node: Any) -> None:
        """Show a table node, and follow its changes."""
        import vtk

        self._h_observers.clear()
        self._h_node = node
        if node is not None:
            self._h_observers.add(node, vtk.vtkCommand.ModifiedEvent, lambda _caller, _event: self._h_fill())
        self._h_fill()

    def tableModel(self) -> Any:
        """The model; the host does not sort, so it is the view's own."""
        return QtWidgets.QTableView.model(self)

    def _h_fill(self) -> None:
        model = QtWidgets.QTableView.model(self)
        QtGui.QStandardItemModel.clear(model)
        table = None if self._h_node is None else self._h_node.GetTable()
        if table is None:
            return
        columns = table.GetNumberOfColumns()
        names = [self._h_node.GetColumnName(c) for c in range(columns)]
        if not self.firstRowLocked:
            QtGui.QStandardItemModel.setHorizontalHeaderLabels(model, [n or "" for n in names])
        for line in range(table.GetNumberOfRows()):
            cells = [QtGui.QStandardItem(table.GetValue(line, c).ToString()) for c in range(columns)]
            QtGui.QStandardItemModel.appendRow(model, cells)

    def _h_watch_selection(self) -> None:
        chosen = QtWidgets.QTableView.selectionModel(self)
        chosen.connect("selectionChanged(QItemSelection,QItemSelection)", lambda: signals.emit(self, "selectionChanged()"))


@standin("slicer", (SCENE_CHANGED,))
class qMRMLPlotView(KnowsScene, QtWidgets.QWidget):
    """The chart of a plot view node; in the host a note of what it was given, and its title."""

    title = HostProperty("")

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._h_node: Any = None

    def setMRMLPlotViewNode(self, node: Any) -> None:
        """Show the chart of a view node."""
        self._h_node = node

    def fitToContent(self) -> None:
        """Show all of the chart."""

    def _h_chart(self) -> Any:
        return None if self._h_node is None else self._h_node.GetPlotChartNode()


@standin("slicer")
class qMRMLPlotWidget(qMRMLWidget):
    """A plot view with its controls."""

    viewLabel = HostProperty("")

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._h_view = qMRMLPlotView()
        row(self).addWidget(self._h_view)

    def setMRMLScene(self, scene: Any) -> None:
        """Assign the scene."""
        set_scene(self, scene)
        self._h_view.setMRMLScene(scene)

    def setMRMLPlotViewNode(self, node: Any) -> None:
        """Show the chart of a view node."""
        self._h_view.setMRMLPlotViewNode(node)

    def mrmlPlotViewNode(self) -> Any:
        """The view node shown."""
        return self._h_view._h_node

    def plotView(self) -> Any:
        """The view without its controls."""
        return self._h_view


@standin("slicer", ("currentItemChanged(vtkIdType)",))
class qMRMLSubjectHierarchyTreeView(QtWidgets.QTreeView):
    """The items of the subject hierarchy as a tree."""

    nodeTypes = HostProperty(())
    levelFilter = HostProperty(())
    multiSelection = HostProperty(False)
    contextMenuEnabled = HostProperty(True)
    editMenuActionVisible = HostProperty(True)
    colorColumnVisible = HostProperty(True)
    idColumnVisible = HostProperty(False)
    visibilityColumnVisible = HostProperty(True)
    transformColumnVisible = HostProperty(True)
    descriptionColumnVisible = HostProperty(False)

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._h_item = 0
        QtWidgets.QTreeView.setModel(self, QtGui.QStandardItemModel(self))

    def mrmlScene(self) -> Any:
        """The scene."""
        return signals.store(self).get("scene")

    def setMRMLScene(self, scene: Any) -> None:
        """Assign the scene and fill the tree."""
        import slicer

        signals.store(self)["scene"] = scene
        model = QtWidgets.QTreeView.model(self)
        QtGui.QStandardItemModel.clear(model)
        if scene is not None:
            hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
            self._h_fill(hierarchy, hierarchy.GetSceneItemID(), QtGui.QStandardItemModel.invisibleRootItem(model))

    def subjectHierarchyNode(self) -> Any:
        """The hierarchy of the scene."""
        import slicer

        return slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(self.mrmlScene())

    def currentItem(self) -> int:
        """The chosen item; 0 is none."""
        return self._h_item

    def setCurrentItem(self, item: int) -> None:
        """Choose an item."""
        if item != self._h_item:
            self._h_item = item
            signals.emit(self, "currentItemChanged(vtkIdType)", item)

    def _h_fill(self, hierarchy: Any, item: int, above: Any) -> None:
        import vtk

        children = vtk.vtkIdList()
        hierarchy.GetItemChildren(item, children)
        for position in range(children.GetNumberOfIds()):
            child = children.GetId(position)
            shown = QtGui.QStandardItem(hierarchy.GetItemName(child))
            QtGui.QStandardItem.setData(shown, child, QtCore.Qt.ItemDataRole.UserRole)
            QtGui.QStandardItem.appendRow(above, shown)
            self._h_fill(hierarchy, child, shown)
