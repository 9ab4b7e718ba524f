"""``qMRMLNodeComboBox`` and its checkable form, bound to the scene."""

from __future__ import annotations

from typing import Any

from PySide6 import QtWidgets

from host import signals
from host.ctk_values import row
from host.mrml_widgets import Observers
from host.standin import HostProperty, standin

NODE_CHANGED = "currentNodeChanged(vtkMRMLNode*)"


def refill(owner: Any) -> None:
    """After a property that decides which nodes are shown."""
    owner._h_refresh()


@standin(
    "slicer",
    (
        NODE_CHANGED,
        "currentNodeChanged(bool)",
        "currentNodeIDChanged(QString)",
        "nodeActivated(vtkMRMLNode*)",
        "nodeAdded(vtkMRMLNode*)",
        "nodeAddedByUser(vtkMRMLNode*)",
        "nodeAboutToBeRemoved(vtkMRMLNode*)",
        "currentNodeRenamed(QString)",
    ),
)
class qMRMLNodeComboBox(QtWidgets.QWidget):
    """Choose a node of the scene. It follows nodes that come, go and are renamed.

    As Qt's combo box does: when the chosen node goes, the next one of the list is chosen, and without ``noneEnabled`` the first
    node that comes is chosen.
    """

    nodeTypes = HostProperty((), refill)
    hideChildNodeTypes = HostProperty((), refill)
    showChildNodeTypes = HostProperty(True, refill)
    showHidden = HostProperty(False, refill)
    noneEnabled = HostProperty(False, refill)
    noneDisplay = HostProperty("None", refill)
    addEnabled = HostProperty(True)
    removeEnabled = HostProperty(True)
    editEnabled = HostProperty(False)
    renameEnabled = HostProperty(False)
    selectNodeUponCreation = HostProperty(True)
    baseName = HostProperty("")
    interactionNodeSingletonTag = HostProperty("")
    sizeAdjustPolicy = HostProperty(0)

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._h_scene: Any = None
        self._h_nodes: list[Any] = []
        self._h_node: Any = None
        self._h_filters: list[tuple[str, str, Any]] = []
        self._h_labels: dict[str, str] = {}
        self._h_observers = Observers(self)
        self._h_renames = Observers(self)
        self._h_closing = False
        self._h_filling = False
        self._h_combo = QtWidgets.QComboBox()
        row(self).addWidget(self._h_combo)
        self._h_combo.connect("currentIndexChanged(int)", self._h_chosen)

    @property
    def currentNodeID(self) -> str:
        """ID of the chosen node, empty for none."""
        return "" if self._h_node is None else str(self._h_node.GetID())

    @currentNodeID.setter
    def currentNodeID(self, node_id: str) -> None:
        self.setCurrentNodeID(node_id)

    @property
    def currentNodeId(self) -> str:
        """The same under its old name."""
        return self.currentNodeID

    def mrmlScene(self) -> Any:
        """The scene."""
        return self._h_scene

    def setMRMLScene(self, scene: Any) -> None:
        """Assign the scene; without one there are no nodes."""
        import slicer

        self._h_observers.clear()
        self._h_scene = scene
        if scene is not None:
            watch = self._h_observers
            watch.add_node_event(scene, slicer.vtkMRMLScene.NodeAddedEvent, self._h_added)
            watch.add_node_event(scene, slicer.vtkMRMLScene.NodeAboutToBeRemovedEvent, self._h_going)
            watch.add_node_event(scene, slicer.vtkMRMLScene.NodeRemovedEvent, lambda _node: self._h_refresh())
            watch.add(scene, slicer.vtkMRMLScene.StartCloseEvent, lambda _caller, _event: self._h_close(True))
            watch.add(scene, slicer.vtkMRMLScene.EndCloseEvent, lambda _caller, _event: self._h_close(False))
            for event in (slicer.vtkMRMLScene.EndImportEvent, slicer.vtkMRMLScene.EndBatchProcessEvent):
                watch.add(scene, event, lambda _caller, _event: self._h_refresh())
        self._h_refresh()

    def currentNode(self) -> Any:
        """The chosen node, or None."""
        return self._h_node

    def setCurrentNode(self, node: Any) -> None:
        """Choose a node, given as object or ID; one that is not in the list means none."""
        if type(node) is str:
            node = None if self._h_scene is None else self._h_scene.GetNodeByID(node)
        self._h_choose(node if node in self._h_nodes else None)

    def setCurrentNodeID(self, node_id: str) -> None:
        """Choose a node by its ID."""
        self.setCurrentNode(str(node_id or ""))

    def setCurrentNodeIndex(self, index: int) -> None:
        """Choose the node at a place of the list."""
        self._h_choose(self.nodeFromIndex(index))

    def nodeCount(self) -> int:
        """How many nodes are in the list."""
        return len(self._h_nodes)

    def nodeFromIndex(self, index: int) -> Any:
        """The node at a place of the list."""
        return self._h_nodes[index] if 0 <= index < len(self._h_nodes) else None

    def addAttribute(self, node_type: str, name: str, value: Any = None) -> None:
        """Show nodes of a type only with this attribute, and of this value where one is given."""
        self._h_filters.append((node_type, name, value))
        self._h_refresh()

    def removeAttribute(self, node_type: str, name: str) -> None:
        """Undo ``addAttribute``."""
        self._h_filters = [f for f in self._h_filters if f[:2] != (node_type, name)]
        self._h_refresh()

    def setNodeTypeLabel(self, label: str, node_type: str) -> None:
        """How the menu calls a type of node."""
        self._h_labels[node_type] = label

    def nodeTypeLabel(self, node_type: str) -> str:
        """How the menu calls a type of node."""
        return self._h_labels.get(node_type, "")

    def addNode(self, node_type: str = "") -> Any:
        """Make a node, as the menu entry does."""
        kind = node_type or self.nodeTypes[0]
        name = self._h_scene.GenerateUniqueName(self.baseName) if self.baseName else ""
        node = self._h_scene.AddNewNodeByClass(kind, name)
        if self.selectNodeUponCreation:
            self._h_choose(node)
        signals.emit(self, "nodeAddedByUser(vtkMRMLNode*)", node)
        return node

    def removeCurrentNode(self) -> None:
        """Remove the chosen node from the scene."""
        if self._h_node is not None:
            self._h_scene.RemoveNode(self._h_node)

    def _h_matching(self, nodes: list[Any]) -> list[Any]:
        """Those of the nodes that are shown. Properties are read once for all nodes: each reading looks into the tables."""
        types, children, hidden = self.nodeTypes, self.showChildNodeTypes, self.showHidden
        without, filters = self.hideChildNodeTypes, self._h_filters

        def matches(node: Any) -> bool:
            if node is None or (node.GetHideFromEditors() and not hidden):
                return False
            exact = node.GetClassName() in types
            if not exact and not (children and any(node.IsA(t) for t in types)):
                return False
            if any(node.IsA(t) for t in without):
                return False
            for kind, name, value in filters:
                held = node.GetAttribute(name)
                if node.IsA(kind) and (held is None or (value is not None and held != str(value))):
                    return False
            return True

        return [node for node in nodes if matches(node)]

    def _h_added(self, node: Any) -> None:
        self._h_refresh()
        if node in self._h_nodes:
            signals.emit(self, "nodeAdded(vtkMRMLNode*)", node)

    def _h_going(self, node: Any) -> None:
        if node in self._h_nodes:
            signals.emit(self, "nodeAboutToBeRemoved(vtkMRMLNode*)", node)

    def _h_close(self, closing: bool) -> None:
        self._h_closing = closing
        self._h_refresh()

    def _h_refresh(self) -> None:
        """Fill the list again; signals come when the chosen node is another."""
        scene = self._h_scene
        before = list(self._h_nodes)
        nodes: list[Any] = []
        if scene is not None and not self._h_closing:
            nodes = self._h_matching([scene.GetNthNode(i) for i in range(scene.GetNumberOfNodes())])
        self._h_nodes = nodes
        self._h_watch_names()
        if self._h_node is not None and self._h_node in nodes:
            chosen = self._h_node
        elif self._h_node is not None and self._h_node in before and nodes:
            place = before.index(self._h_node)
            chosen = nodes[min(place, len(nodes) - 1)]
        else:
            chosen = None if self.noneEnabled or not nodes else nodes[0]
        self._h_show(chosen)
        self._h_choose(chosen)

    def _h_watch_names(self) -> None:
        import vtk

        self._h_renames.clear()
        for node in self._h_nodes:
            self._h_renames.add(node, vtk.vtkCommand.ModifiedEvent, lambda caller, _event: self._h_renamed(caller))

    def _h_renamed(self, node: Any) -> None:
        if not self._h_matching([node]):
            self._h_refresh()
            return
        place = self._h_nodes.index(node) + bool(self.noneEnabled) if node in self._h_nodes else -1
        if place >= 0 and self._h_combo.itemText(place) != (node.GetName() or ""):
            self._h_combo.setItemText(place, node.GetName() or "")
            if node is self._h_node:
                signals.emit(self, "currentNodeRenamed(QString)", node.GetName())

    def _h_show(self, chosen: Any) -> None:
        self._h_filling = True
        self._h_combo.clear()
        if self.noneEnabled:
            self._h_combo.addItem(self.noneDisplay)
        for node in self._h_nodes:
            self._h_combo.addItem(node.GetName() or "")
        self._h_place(chosen)
        self._h_filling = False

    def _h_place(self, node: Any) -> None:
        offset = int(bool(self.noneEnabled))
        none = 0 if offset else -1
        self._h_combo.setCurrentIndex(self._h_nodes.index(node) + offset if node is not None else none)

    def _h_chosen(self, index: int) -> None:
        if not self._h_filling:
            self._h_choose(self.nodeFromIndex(index - int(bool(self.noneEnabled))))

    def _h_choose(self, node: Any) -> None:
        filling, self._h_filling = self._h_filling, True
        self._h_place(node)
        self._h_filling = filling
        if node is self._h_node:
            return
        self._h_node = node
        signals.emit(self, NODE_CHANGED, node)
        signals.emit(self, "currentNodeChanged(bool)", node is not None)
        signals.emit(self, "currentNodeIDChanged(QString)", self.currentNodeID)


@standin("slicer", ("checkedNodesChanged()",))
class qMRMLCheckableNodeComboBox(qMRMLNodeComboBox):
    """Choose several nodes."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._h_checked: list[Any] = []

    def checkedNodes(self) -> tuple[Any, ...]:
        """The chosen nodes in the order of the list."""
        return tuple(n for n in self._h_nodes if n in self._h_checked)

    def uncheckedNodes(self) -> tuple[Any, ...]:
        """The other nodes."""
        return tuple(n for n in self._h_nodes if n not in self._h_checked)

    def allChecked(self) -> bool:
        """Whether all are chosen."""
        return not self.uncheckedNodes()

    def noneChecked(self) -> bool:
        """Whether none is chosen."""
        return not self.checkedNodes()

    def checkState(self, node: Any) -> int:
        """2 for a chosen node, else 0."""
        return 2 if node in self._h_checked else 0

    def setCheckState(self, node: Any, state: Any) -> None:
        """Choose a node or not."""
        if node not in self._h_nodes or (int(state) == 2) == (node in self._h_checked):
            return
        if int(state) == 2:
            self._h_checked.append(node)
        else:
            self._h_checked.remove(node)
        self._h_place(None)
        signals.emit(self, "checkedNodesChanged()")

    def _h_place(self, _node: Any) -> None:
        """CTK draws the names of the chosen, and not the current one's."""
        names = [node.GetName() or "" for node in self.checkedNodes()] if hasattr(self, "_h_checked") else []
        QtWidgets.QComboBox.setCurrentIndex(self._h_combo, -1)
        QtWidgets.QComboBox.setPlaceholderText(self._h_combo, ", ".join(names) or "None")

    def check(self, node: Any) -> None:
        """Choose a node."""
        self.setCheckState(node, 2)

    def uncheck(self, node: Any) -> None:
        """Choose a node no longer."""
        self.setCheckState(node, 0)

    def setUserCheckable(self, _node: Any, _checkable: bool) -> None:
        """Whether the user may choose a node; the host has no user."""

    def _h_refresh(self) -> None:
        super()._h_refresh()
        held = getattr(self, "_h_checked", [])
        gone = [n for n in held if n not in self._h_nodes]
        for node in gone:
            held.remove(node)
        if gone:
            self._h_place(None)
            signals.emit(self, "checkedNodesChanged()")
