"""A person at the module's panel: chooses, clicks, reads."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from P2SAMSlicerLib.result import VisitResult
from scripted_worker import FakeWorker, answer

MODULE = Path(__file__).resolve().parents[2] / "P2SAMSlicer" / "P2SAMSlicer.py"


def forget_panel_files() -> None:
    """The files of the panel hold the application's ``qt``: every application reads them anew."""
    for name in [each for each in sys.modules if each.split(".")[0] == "P2SAMSlicerGui"]:
        del sys.modules[name]


class PanelUser:
    """The panel with a fake worker, or with the real one.

    :param host: the application.
    :param real_worker: leave the worker as it is.
    """

    def __init__(self, host: Any, real_worker: bool = False, file: Path = MODULE) -> None:
        forget_panel_files()
        self.host = host
        self.worker = FakeWorker()
        self._real = real_worker
        self.widget: Any = None
        self.take(host.load_module(file))

    def take(self, widget: Any) -> None:
        """Go on with this Python widget, for example after a reload."""
        self.widget = widget
        if not self._real:
            widget.logic._client = self.worker
            # It answers at once, and a person is not there to wait a tenth of a second for it.
            widget.panel._run._timer.setInterval(10)

    @property
    def ui(self) -> Any:
        """The panel's widgets by name."""
        return self.widget.ui

    @property
    def logic(self) -> Any:
        """The module's logic."""
        return self.widget.logic

    @property
    def parameters(self) -> Any:
        """The parameter node."""
        return self.widget._parameterNode

    @property
    def hint(self) -> str:
        """What the tooltip of Apply says; it has to be disabled."""
        assert not self.ui.applyButton.enabled
        return str(self.ui.applyButton.toolTip)

    @property
    def status(self) -> str:
        """What is said below the progress bar."""
        return str(self.ui.statusLabel.text)

    def choose(self, prior: Any, segmentation: Any, *followups: Any) -> None:
        """Choose the visits with the selectors; these follow-ups and no others."""
        self.ui.priorVolumeSelector.setCurrentNode(prior)
        self.ui.priorSegmentationSelector.setCurrentNode(segmentation)
        for node in list(self.ui.followUpSelector.checkedNodes()):
            if node not in followups:
                self.ui.followUpSelector.uncheck(node)
        for node in followups:
            self.ui.followUpSelector.check(node)

    def click(self, name: str) -> None:
        """Click a button, as far as a person could."""
        if name in self._advanced():
            self.ui.advancedSection.collapsed = False
        self.host.click(getattr(self.ui, name))

    def apply(self) -> None:
        """Click Apply; a run has to begin."""
        assert self.ui.applyButton.text == "Propagate"
        self.click("applyButton")
        assert self.logic.running

    def wait(self) -> None:
        """Until the run is over."""
        self.host.wait_until(lambda: not self.logic.running, 120.0, "the run does not end")
        self.host.wait_until(lambda: self.ui.applyButton.text == "Propagate", 5.0, "the panel does not notice the end")

    def run(self, *found: VisitResult | str) -> None:
        """Apply, and the fake worker answers with these."""
        self.apply()
        answer(self.worker, *found)
        self.wait()

    def table(self, name: str = "resultsTable") -> list[list[str]]:
        """The texts of a table."""
        table = getattr(self.ui, name)
        columns = range(table.columnCount)
        return [[table.item(row, column).text() for column in columns] for row in range(table.rowCount)]

    def click_row(self, name: str, row: int) -> None:
        """Click a row of a table."""
        getattr(self.ui, name).cellClicked(row, 0)
        self.host.process_events()

    def refused(self) -> str:
        """What the last dialog told, which was an error; as in Slicer it went to the console, too."""
        assert self.host.errors.take()
        return str(self.host.dialogs.texts()[-1])

    def _advanced(self) -> tuple[str, ...]:
        return (
            "downloadButton",
            "verifyButton",
            "checkpointButton",
            "modelFolderButton",
            "clearModelButton",
            "weightsFolderButton",
        )
