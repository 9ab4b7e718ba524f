"""The button that writes a report to sign, and DICOM, from the results in the scene."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import qt
import slicer.util
from P2SAMSlicerLib.mrml.volume_chart import results_by_visit
from slicer.i18n import tr as _

from P2SAMSlicerGui.results_table import ResultRow


class ReportButton:
    """Enabled while there is something to report on.

    :param button: the ``QPushButton``.
    :param logic: the module's logic.
    """

    def __init__(self, button: Any, logic: Any) -> None:
        self._button, self._logic = button, logic
        self._hint = str(button.toolTip)
        self._nodes: list[Any] = []
        button.connect("clicked(bool)", lambda _checked=False: self._export())

    def refresh(self, rows: Sequence[ResultRow], chosen: ResultRow | None) -> None:
        """Take the results of the chosen contour's prior; else the tooltip says why there is nothing to report on.

        :param rows: all contours of the scene.
        """
        shown = [each for each in rows if not each.obstacle]
        first = chosen or (shown[0] if shown else None)
        self._nodes = results_by_visit([each.node for each in shown], first.node) if first is not None else []
        why = "" if self._nodes else _("No result to report on: carry contours to a follow-up first.")
        if self._logic.updating:
            why = _("A contour is being segmented again: wait for it.")
        self._button.enabled, self._button.toolTip = not why, why or self._hint

    def _export(self) -> None:
        with slicer.util.tryWithErrorDisplay(_("The report was not written.")):
            folder = qt.QFileDialog.getExistingDirectory(self._button, _("Folder for the report"))
            if not folder:
                return
            made = self._logic.exportReport(self._nodes, folder)
            words = [_("Written: {0}, and a folder for each of {1} visit(s).").format(made.report[0], len(made.visits))]
            words.append(_("What nobody accepted says UNREVIEWED. The report names no patient."))
            slicer.util.infoDisplay("\n".join([*words, *made.notes]))
