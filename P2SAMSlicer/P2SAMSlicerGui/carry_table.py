"""The table of the prior's segments: which to carry, and whether a model is asked or the registration carries them alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import qt
from P2SAMSlicerLib.mrml.segment_nodes import describe, segment_ids
from P2SAMSlicerLib.structure_role import by_registration_only
from slicer.i18n import tr as _

_WITH_MODEL, _REGISTRATION_ONLY = 0, 1


class CarryTable:
    """Fills a ``QTableWidget`` with a segmentation's segments.

    :param table: two columns: segment (with a check box), and how it is carried.
    :param changed: called when the person changes something.
    """

    def __init__(self, table: Any, changed: Callable[[], None]) -> None:
        self._table, self._changed = table, changed
        self._rows: list[tuple[str, str, bool, Any]] = []
        self._shown: str | None = None
        self._filling = False
        table.setHorizontalHeaderLabels([_("Segment"), _("Carried")])
        table.horizontalHeader().setSectionResizeMode(0, qt.QHeaderView.Stretch)
        table.horizontalHeader().setSectionResizeMode(1, qt.QHeaderView.ResizeToContents)
        table.verticalHeader().setVisible(False)
        table.setSelectionMode(qt.QAbstractItemView.NoSelection)
        table.connect("itemChanged(QTableWidgetItem*)", self._on_change)

    def show(self, segmentation: Any, saved: str = "") -> None:
        """Show a segmentation's segments as they are now.

        :param saved: what :meth:`saved` gave after the person's latest change; it counts if it was of this segmentation:
            ids of segments are the same in many.
        """
        node_id = None if segmentation is None else str(segmentation.GetID())
        # Only what a person changed is kept: a segment with a new name may be carried in another way.
        unchecked, chosen = _read(saved, node_id)
        self._shown = node_id
        self._filling = True
        self._rows = []
        ids = [] if segmentation is None else segment_ids(segmentation)
        self._table.setRowCount(0)
        self._table.setRowCount(len(ids))
        for row, identifier in enumerate(ids):
            segment = segmentation.GetSegmentation().GetSegment(identifier)
            alone = by_registration_only(describe(segment))
            how = chosen.get(identifier, _usual(alone))
            self._add(row, identifier, str(segment.GetName()), alone, how, identifier not in unchecked)
        self._filling = False

    def saved(self) -> str:
        """What a person changed, to be kept with the scene; empty if nothing."""
        unchecked = [identifier for row, (identifier, *_rest) in enumerate(self._rows) if not self._checked(row)]
        ways = {
            identifier: self._how(row)
            for row, (identifier, _name, alone, _box) in enumerate(self._rows)
            if self._how(row) != _usual(alone)
        }
        return json.dumps({"of": self._shown, "unchecked": unchecked, "carried": ways}) if unchecked or ways else ""

    def chosen(self) -> tuple[str, ...]:
        """Ids of the segments to carry."""
        return tuple(identifier for row, (identifier, *_rest) in enumerate(self._rows) if self._checked(row))

    def registration_only(self) -> tuple[str, ...]:
        """Names of chosen segments that no model shall be asked for although it usually is."""
        return self._otherwise(usually_alone=False)

    def with_model(self) -> tuple[str, ...]:
        """Names of chosen segments that a model shall be asked for although it usually is not."""
        return self._otherwise(usually_alone=True)

    def _otherwise(self, usually_alone: bool) -> tuple[str, ...]:
        wanted = _WITH_MODEL if usually_alone else _REGISTRATION_ONLY
        return tuple(
            name
            for row, (_identifier, name, alone, _box) in enumerate(self._rows)
            if alone == usually_alone and self._how(row) == wanted and self._checked(row)
        )

    def _add(self, row: int, identifier: str, name: str, alone: bool, how: int, checked: bool) -> None:
        item = qt.QTableWidgetItem(name)
        item.setFlags(qt.Qt.ItemIsUserCheckable | qt.Qt.ItemIsEnabled)
        item.setCheckState(qt.Qt.Checked if checked else qt.Qt.Unchecked)
        box = qt.QComboBox()
        box.addItem(_("with the model"))
        box.addItem(_("by registration only"))
        box.setCurrentIndex(how)
        box.toolTip = _("Usually by registration only: a margin or an organ.") if alone else _("Usually with the model.")
        box.connect("currentIndexChanged(int)", self._on_change)
        self._table.setItem(row, 0, item)
        self._table.setCellWidget(row, 1, box)
        self._rows.append((identifier, name, alone, box))

    def _checked(self, row: int) -> bool:
        item = self._table.item(row, 0)
        return item is not None and item.checkState() == qt.Qt.Checked

    def _how(self, row: int) -> int:
        return int(self._rows[row][3].currentIndex)

    def _on_change(self, _what: Any = None) -> None:
        if not self._filling:
            self._changed()


def _read(saved: str, node_id: str | None) -> tuple[set[str], dict[str, int]]:
    """The segments not to carry, and how to carry others, of what was saved; nothing if it is of another segmentation."""
    try:
        content = json.loads(saved or "{}")
        if not isinstance(content, Mapping) or content.get("of") != node_id:
            return set(), {}
        ways = {str(each): int(how) for each, how in content["carried"].items() if how in (_WITH_MODEL, _REGISTRATION_ONLY)}
        return {str(each) for each in content["unchecked"]}, ways
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return set(), {}  # the table shows what is carried


def _usual(alone: bool) -> int:
    return _REGISTRATION_ONLY if alone else _WITH_MODEL
