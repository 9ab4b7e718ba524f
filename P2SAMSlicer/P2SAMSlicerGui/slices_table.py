"""The slices of one contour, the most doubtful first, and which of them were looked at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
from P2SAMSlicerLib.mrml.review_nodes import seen, unseen
from P2SAMSlicerLib.result import SliceResult
from slicer.i18n import tr as _

from P2SAMSlicerGui.results_table import ResultRow


class SlicesTable:
    """Fills a ``QTableWidget`` with the slices of a contour.

    :param table: four columns.
    :param clicked: called with the number of the slice that the person clicked.
    """

    def __init__(self, table: Any, clicked: Callable[[int], None]) -> None:
        self._table, self._clicked = table, clicked
        self._indices: list[int] = []
        table.setHorizontalHeaderLabels([_("Slice"), _("Priority"), _("Looked at"), _("Most doubtful because")])
        table.setSelectionBehavior(qt.QAbstractItemView.SelectRows)
        table.setSelectionMode(qt.QAbstractItemView.SingleSelection)
        table.setEditTriggers(qt.QAbstractItemView.NoEditTriggers)
        table.verticalHeader().setVisible(False)
        table.horizontalHeader().setSectionResizeMode(qt.QHeaderView.ResizeToContents)
        table.connect("cellClicked(int,int)", self._on_click)

    def show(self, row: ResultRow | None) -> None:
        """Show the slices of a contour, or none."""
        if row is None or row.obstacle:
            self._indices = []
            self._table.setRowCount(0)
            return
        looked_at, wanted = seen(row.node, row.identifier), unseen(row.node, row.identifier, row.slices)
        lines = {each.index: (f"{each.review_priority:.2f}", strongest_signal(each)) for each in doubtful_first(row.slices)}
        if not row.slices:  # nothing tells which slices are doubtful, but ends and middle have to be looked at all the same
            lines = {index: ("", _("no doubt is recorded")) for index in (*wanted, *sorted(looked_at - set(wanted)))}
        self._indices = list(lines)
        self._table.setRowCount(len(lines))
        for number, (index, (priority, why)) in enumerate(lines.items()):
            state = _("yes") if index in looked_at else _("must be") if index in wanted else ""
            texts = [str(index), priority, state, why]
            for column, text in enumerate(texts):
                self._table.setItem(number, column, qt.QTableWidgetItem(text))

    def select(self, index: int) -> None:
        """Mark a slice as shown, without calling back."""
        if index in self._indices:
            row = self._indices.index(index)
            self._table.selectRow(row)
            self._table.scrollToItem(self._table.item(row, 0))

    def _on_click(self, number: int, _column: int) -> None:
        if number < len(self._indices):
            self._clicked(self._indices[number])


def doubtful_first(slices: tuple[SliceResult, ...]) -> list[SliceResult]:
    """The slices with a contour, or on which one was expected; of several lesions on a slice the most doubtful."""
    worst: dict[int, SliceResult] = {}
    for each in slices:
        if each.chosen is None and each.review_priority == 0:
            continue
        if each.index not in worst or each.review_priority > worst[each.index].review_priority:
            worst[each.index] = each
    return sorted(worst.values(), key=lambda each: (-each.review_priority, each.index))


def strongest_signal(found: SliceResult) -> str:
    """The signal that speaks loudest for looking at a slice; empty if none does."""
    if not found.signals:
        return ""
    name, value = max(found.signals.items(), key=lambda item: item[1])
    return f"{name} ({value:.2f})" if value > 0 else ""
