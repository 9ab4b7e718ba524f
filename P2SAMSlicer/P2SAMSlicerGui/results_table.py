"""The table of what was carried: one row a visit and contour."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import qt
import slicer
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.mrml.record_nodes import RECORD_ROLE, check_lies_as_recorded, record_of
from P2SAMSlicerLib.mrml.result_nodes import SOURCE_TAG, is_result
from P2SAMSlicerLib.mrml.review_nodes import contour_volume_ml, contours_to_review, review_state
from P2SAMSlicerLib.mrml.segment_nodes import tag_of
from P2SAMSlicerLib.mrml.slice_places import SlicePlaces
from P2SAMSlicerLib.result import SliceResult
from slicer.i18n import tr as _


@dataclass(frozen=True)
class ResultRow:
    """One contour that was carried.

    :param node: segmentation node of the result.
    :param identifier: of the segment in it.
    :param entry: the segment's entry in the record's summary; empty if there is no record.
    :param slices: from the record.
    :param fault: why the record cannot be read, in words; empty if it can, or if there is none.
    """

    node: Any
    identifier: str
    entry: Mapping[str, Any]
    slices: tuple[SliceResult, ...]
    fault: str = ""

    @property
    def followup(self) -> Any:
        """Volume node of the visit; None if it was removed."""
        return self.node.GetNodeReference(self.node.GetReferenceImageGeometryReferenceRole())

    @property
    def obstacle(self) -> str:
        """Why the contour cannot be looked at now, in words; empty if nothing is in the way."""
        try:
            check_lies_as_recorded(self.node, SlicePlaces.of(self.followup).grid)
        except InputError as error:
            return str(error)
        return ""

    @property
    def revision(self) -> tuple[str, str, int]:
        """Changes when another contour is meant, or when its record changed."""
        record = self.node.GetNodeReference(RECORD_ROLE)
        return str(self.node.GetID()), self.identifier, 0 if record is None else int(record.GetMTime())

    @property
    def segment(self) -> Any:
        """The ``vtkSegment``."""
        return self.node.GetSegmentation().GetSegment(self.identifier)

    @property
    def reasons(self) -> tuple[str, ...]:
        """What speaks against the contour, in words."""
        return tuple(self.entry.get("reasons", ()))


def result_rows() -> list[ResultRow]:
    """All contours of the scene that were carried and whose follow-up is still there, by visit."""
    rows = []
    for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode"):
        if not is_result(node):
            continue
        fault = ""
        try:
            record = record_of(node)
        except InputError as error:
            record, fault = None, str(error)  # a damaged record takes figures away, not the contour
        for identifier in contours_to_review(node):
            name = tag_of(node.GetSegmentation().GetSegment(identifier), SOURCE_TAG) or ""
            entries = [] if record is None else [e for e in record.summary["segments"] if e["segment"] == name]
            slices = () if record is None else record.slices.get(name, ())
            row = ResultRow(node, identifier, entries[0] if entries else {}, slices, fault)
            if row.followup is not None:
                rows.append(row)
    return rows


class ResultsTable:
    """Fills a ``QTableWidget`` with the scene's results.

    :param table: nine columns.
    :param chosen: called with the row that the person clicked.
    """

    def __init__(self, table: Any, chosen: Callable[[ResultRow], None]) -> None:
        self._table, self._chosen = table, chosen
        self.rows: list[ResultRow] = []
        table.setHorizontalHeaderLabels(
            [
                *(_("Visit"), _("Segment"), _("Before\nml"), _("Now\nml"), _("Change"), _("Shift\nmm")),
                *(_("Review\npriority"), _("Outcome"), _("Status")),
            ]
        )
        table.setSelectionBehavior(qt.QAbstractItemView.SelectRows)
        table.setSelectionMode(qt.QAbstractItemView.SingleSelection)
        table.setEditTriggers(qt.QAbstractItemView.NoEditTriggers)
        table.verticalHeader().setVisible(False)
        table.horizontalHeader().setSectionResizeMode(qt.QHeaderView.ResizeToContents)
        table.horizontalHeader().setSectionResizeMode(0, qt.QHeaderView.Interactive)
        # A narrow panel shows the first columns only: what was found and decided has to be among them.
        for column, place in ((8, 2), (7, 3)):
            table.horizontalHeader().moveSection(table.horizontalHeader().visualIndex(column), place)
        table.connect("cellClicked(int,int)", self._on_click)

    def show(self) -> None:
        """Read the scene again."""
        self.rows = result_rows()
        self._table.setRowCount(len(self.rows))
        for number, row in enumerate(self.rows):
            for column, text in enumerate(_texts(row)):
                item = qt.QTableWidgetItem(text)
                item.setToolTip("\n".join(row.reasons))
                self._table.setItem(number, column, item)

    def select(self, row: ResultRow) -> None:
        """Mark a row as chosen, without calling back."""
        for number, each in enumerate(self.rows):
            if each.node == row.node and each.identifier == row.identifier:
                self._table.selectRow(number)

    def _on_click(self, number: int, _column: int) -> None:
        if number < len(self.rows):
            self._chosen(self.rows[number])


def _texts(row: ResultRow) -> list[str]:
    if row.obstacle:
        return [str(row.followup.GetName()), str(row.segment.GetName()), *[""] * 6, row.obstacle]
    state = review_state(row.node, row.identifier)
    now = contour_volume_ml(row.node, row.identifier)
    before, shift = row.entry.get("prior_volume_ml"), row.entry.get("centroid_shift_mm")
    change = "" if not before else f"{100.0 * (now / before - 1.0):+.0f} %"
    priority = row.entry.get("review_priority")
    return [
        str(row.followup.GetName()),
        str(row.segment.GetName()),
        "" if before is None else f"{before:.1f}",
        f"{now:.1f}",
        change,
        "" if shift is None else f"{float(np.linalg.norm(shift)):.1f}",
        "" if priority is None else f"{priority:.2f}",
        str(row.entry.get("outcome", "")),
        state.in_words(),
    ]
