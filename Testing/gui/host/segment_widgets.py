"""Slicer's widgets to choose segments: a selector and a table."""

from __future__ import annotations

from typing import Any

from PySide6 import QtWidgets

from host import signals
from host.ctk_values import row
from host.mrml_widgets import Observers, qMRMLWidget, set_scene
from host.node_combo_box import qMRMLNodeComboBox
from host.standin import HostProperty, setter, standin


def segment_ids(node: Any) -> list[str]:
    """IDs of a segmentation node's segments in their order."""
    if node is None:
        return []
    segmentation = node.GetSegmentation()
    return [segmentation.GetNthSegmentID(i) for i in range(segmentation.GetNumberOfSegments())]


def watch_segments(observers: Observers, node: Any, changed: Any) -> None:
    """Call ``changed`` when segments come, go or are renamed."""
    import slicer

    observers.clear()
    if node is not None:
        kind = slicer.vtkSegmentation
        for event in (kind.SegmentAdded, kind.SegmentRemoved, kind.SegmentModified):
            observers.add(node.GetSegmentation(), event, lambda _caller, _event: changed())


@standin(
    "slicer",
    (
        "currentNodeChanged(vtkMRMLNode*)",
        "currentNodeChanged(bool)",
        "currentSegmentChanged(QString)",
        "segmentSelectionChanged(QStringList)",
    ),
)
class qMRMLSegmentSelectorWidget(qMRMLWidget):
    """Choose a segmentation and one of its segments, or several."""

    editEnabled = HostProperty(False)
    horizontalLayout = HostProperty(False)
    multiSelection = HostProperty(False)
    noneEnabled = HostProperty(False, lambda owner: owner._h_selector_none())
    segmentationNodeSelectorVisible = HostProperty(True, lambda owner: owner._h_selector_shown())
    selectNodeUponCreation = HostProperty(False)

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._h_nodes = qMRMLNodeComboBox()
        self._h_nodes.nodeTypes = ["vtkMRMLSegmentationNode"]
        self._h_segments = QtWidgets.QComboBox()
        layout = row(self)
        layout.addWidget(self._h_nodes)
        layout.addWidget(self._h_segments)
        self._h_selected: tuple[str, ...] = ()
        self._h_observers = Observers(self)
        self._h_nodes.currentNodeChanged.connect(self._h_node_changed)
        self._h_segments.connect("currentIndexChanged(int)", lambda _index: self._h_segment_changed())

    def setMRMLScene(self, scene: Any) -> None:
        """Assign the scene."""
        set_scene(self, scene)
        self._h_nodes.setMRMLScene(scene)

    def currentNode(self) -> Any:
        """The chosen segmentation."""
        return self._h_nodes.currentNode()

    def currentNodeID(self) -> str:
        """Its ID."""
        return str(self._h_nodes.currentNodeID)

    def setCurrentNode(self, node: Any) -> None:
        """Choose a segmentation."""
        self._h_nodes.setCurrentNode(node)

    def setCurrentNodeID(self, node_id: str) -> None:
        """Choose a segmentation by its ID."""
        self._h_nodes.setCurrentNodeID(node_id)

    def currentSegmentID(self) -> str:
        """The chosen segment, empty for none."""
        return str(QtWidgets.QComboBox.currentData(self._h_segments) or "")

    def setCurrentSegmentID(self, segment_id: str) -> None:
        """Choose a segment."""
        self._h_segments.setCurrentIndex(self._h_segments.findData(segment_id))

    def segmentIDs(self) -> tuple[str, ...]:
        """All segments of the chosen segmentation."""
        return tuple(segment_ids(self.currentNode()))

    def selectedSegmentIDs(self) -> tuple[str, ...]:
        """The chosen segments with ``multiSelection``."""
        return tuple(s for s in self.segmentIDs() if s in self._h_selected)

    def setSelectedSegmentIDs(self, chosen: Any) -> None:
        """Choose segments with ``multiSelection``."""
        self._h_selected = tuple(chosen)
        signals.emit(self, "segmentSelectionChanged(QStringList)", self.selectedSegmentIDs())

    def _h_selector_none(self) -> None:
        self._h_nodes.noneEnabled = self.noneEnabled
        self._h_fill()

    def _h_selector_shown(self) -> None:
        self._h_nodes.setVisible(self.segmentationNodeSelectorVisible)

    def _h_node_changed(self, node: Any) -> None:
        watch_segments(self._h_observers, node, self._h_fill)
        self._h_fill()
        signals.emit(self, "currentNodeChanged(vtkMRMLNode*)", node)
        signals.emit(self, "currentNodeChanged(bool)", node is not None)

    def _h_fill(self) -> None:
        before = self.currentSegmentID()
        blocked = self._h_segments.blockSignals(True)
        self._h_segments.clear()
        if self.noneEnabled:
            self._h_segments.addItem("None", "")
        for one in self.segmentIDs():
            self._h_segments.addItem(self.currentNode().GetSegmentation().GetSegment(one).GetName(), one)
        place = self._h_segments.findData(before)
        if place >= 0:
            self._h_segments.setCurrentIndex(place)
        self._h_segments.blockSignals(blocked)
        if self.currentSegmentID() != before:
            self._h_segment_changed()

    def _h_segment_changed(self) -> None:
        signals.emit(self, "currentSegmentChanged(QString)", self.currentSegmentID())


@standin("slicer", ("selectionChanged(QItemSelection,QItemSelection)",))
class qMRMLSegmentsTableView(qMRMLWidget):
    """The segments of a segmentation as rows that can be selected."""

    selectionMode = HostProperty(3, lambda owner: owner._h_mode())
    headerVisible = HostProperty(True, lambda owner: owner._h_headers())
    visibilityColumnVisible = HostProperty(True)
    colorColumnVisible = HostProperty(True)
    opacityColumnVisible = HostProperty(True)
    statusColumnVisible = HostProperty(False)
    layerColumnVisible = HostProperty(False)
    filterBarVisible = HostProperty(False)
    readOnly = HostProperty(False)
    textFilter = HostProperty("")
    jumpToSelectedSegmentEnabled = HostProperty(False)
    useTerminologySelector = HostProperty(True)

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._h_node: Any = None
        self._h_ids: list[str] = []
        self._h_hidden: tuple[str, ...] = ()
        self._h_observers = Observers(self)
        self._h_table = QtWidgets.QTableWidget(0, 1)
        self._h_table.setSelectionBehavior(QtWidgets.QAbstractItemView.SelectionBehavior.SelectRows)
        self._h_table.setHorizontalHeaderLabels(["Name"])
        QtWidgets.QHeaderView.setStretchLastSection(QtWidgets.QTableView.horizontalHeader(self._h_table), True)
        QtWidgets.QWidget.setMinimumHeight(self._h_table, 60)
        row(self).addWidget(self._h_table)
        chosen = self._h_table.selectionModel()
        signature = "selectionChanged(QItemSelection,QItemSelection)"
        chosen.connect(signature, lambda new, old: signals.emit(self, signature, new, old))

    @property
    def segmentCount(self) -> int:
        """How many segments are shown."""
        return len(self._h_ids)

    def segmentationNode(self) -> Any:
        """The segmentation shown."""
        return self._h_node

    def setSegmentationNode(self, node: Any) -> None:
        """Show the segments of a node, and follow them."""
        self._h_node = node
        watch_segments(self._h_observers, node, self._h_fill)
        self._h_fill()

    def displayedSegmentIDs(self) -> tuple[str, ...]:
        """IDs of the rows."""
        return tuple(self._h_ids)

    def hideSegments(self) -> tuple[str, ...]:
        """IDs that are never shown."""
        return self._h_hidden

    def setHideSegments(self, hidden: Any) -> None:
        """IDs that are never shown."""
        self._h_hidden = tuple(hidden)
        self._h_fill()

    def rowForSegmentID(self, segment_id: str) -> int:
        """The row of a segment, -1 for none."""
        return self._h_ids.index(segment_id) if segment_id in self._h_ids else -1

    def segmentIDForRow(self, place: int) -> str:
        """The segment of a row."""
        return self._h_ids[place] if 0 <= place < len(self._h_ids) else ""

    def selectedSegmentIDs(self) -> tuple[str, ...]:
        """The chosen segments."""
        rows = {i.row() for i in QtWidgets.QTableView.selectedIndexes(self._h_table)}
        return tuple(s for place, s in enumerate(self._h_ids) if place in rows)

    def setSelectedSegmentIDs(self, chosen: Any) -> None:
        """Choose segments."""
        from PySide6 import QtCore

        flags = QtCore.QItemSelectionModel.SelectionFlag
        places = [self.rowForSegmentID(s) for s in chosen]
        picked = QtCore.QItemSelection()
        for place in [p for p in places if p >= 0]:
            index = self._h_table.model().index(place, 0)
            picked.select(index, index)
        self._h_table.selectionModel().select(picked, flags.ClearAndSelect | flags.Rows)

    def clearSelection(self) -> None:
        """Choose nothing."""
        self._h_table.clearSelection()

    setSelectionMode = setter("selectionMode")
    setHeaderVisible = setter("headerVisible")

    setReadOnly = setter("readOnly")

    def tableWidget(self) -> Any:
        """The table inside."""
        return self._h_table

    def _h_mode(self) -> None:
        mode = self.selectionMode
        number = getattr(QtWidgets.QAbstractItemView.SelectionMode, mode.rpartition("::")[2]) if type(mode) is str else mode
        self._h_table.setSelectionMode(QtWidgets.QAbstractItemView.SelectionMode(int(number)))

    def _h_headers(self) -> None:
        QtWidgets.QTableView.horizontalHeader(self._h_table).setVisible(self.headerVisible)

    def _h_fill(self) -> None:
        chosen = self.selectedSegmentIDs()
        self._h_ids = [s for s in segment_ids(self._h_node) if s not in self._h_hidden]
        self._h_table.setRowCount(len(self._h_ids))
        for place, one in enumerate(self._h_ids):
            name = self._h_node.GetSegmentation().GetSegment(one).GetName()
            self._h_table.setItem(place, 0, QtWidgets.QTableWidgetItem(name))
        self.setSelectedSegmentIDs(chosen)
