"""Review: choose a contour, look at its doubtful slices, decide. Every contour is decided on by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
import slicer
import slicer.util
import vtk
from P2SAMSlicerLib.mrml.result_nodes import SOURCE_TAG
from P2SAMSlicerLib.mrml.review_nodes import Decision, decide, mark_seen, review_state, unseen
from P2SAMSlicerLib.mrml.segment_masks import read_mask
from P2SAMSlicerLib.mrml.segment_nodes import tag_of
from P2SAMSlicerLib.mrml.slice_places import SlicePlaces
from P2SAMSlicerLib.mrml.slice_views import emphasize, go_to, show_registered, show_visit
from P2SAMSlicerLib.mrml.volume_chart import make_chart, results_by_visit
from slicer.i18n import tr as _

from P2SAMSlicerGui.report_button import ReportButton
from P2SAMSlicerGui.results_table import ResultRow, ResultsTable
from P2SAMSlicerGui.slices_table import SlicesTable

#: A slice that is scrolled to counts as looked at when it stays for so long, in milliseconds.
DWELL_MS = 400
#: Setting in which the reviewer's name is kept for the next time.
REVIEWER_SETTING = "P2SAMSlicer/Reviewer"


class ReviewPanel:
    """Tables and buttons of the review.

    :param ui: the widgets of the section *Review*.
    :param logic: the module's logic.
    :param slice_shown: called with the chosen row and the slice whenever another slice of it is shown.
    :param redrawn: called when a contour was changed by something else, for example undo: figures and decisions are stale.
    """

    def __init__(self, ui: Any, logic: Any, slice_shown: Callable[[ResultRow, int], None], redrawn: Callable[[], None]) -> None:
        self._ui, self._logic, self._slice_shown, self._redrawn = ui, logic, slice_shown, redrawn
        names = ("acceptButton", "rejectButton", "flagButton", "nextDoubtfulButton", "segmentEditorButton")
        self._hints = {name: str(getattr(ui, name).toolTip) for name in names}
        self._contours: list[tuple[Any, int]] = []
        self._results = ResultsTable(ui.resultsTable, self.choose)
        self._slices = SlicesTable(ui.slicesTable, self.look_at)
        self._report = ReportButton(ui.reportButton, logic)
        self._observed: list[tuple[Any, int]] = []
        self._scrolled_to: int | None = None
        self._dwell = qt.QTimer()
        self._dwell.setSingleShot(True)
        self._dwell.setInterval(DWELL_MS)
        self._dwell.connect("timeout()", self._on_stayed)
        self.row: ResultRow | None = None
        self.index: int | None = None
        ui.reviewerEdit.text = slicer.util.settingsValue(REVIEWER_SETTING, "")
        ui.nextDoubtfulButton.connect("clicked(bool)", lambda _checked=False: self.look_at_next())
        for button, decision in (
            (ui.acceptButton, Decision.ACCEPTED),
            (ui.rejectButton, Decision.REJECTED),
            (ui.flagButton, Decision.FLAGGED),
        ):
            button.connect("clicked(bool)", lambda _checked=False, decision=decision: self._decide(decision))
        ui.segmentEditorButton.connect("clicked(bool)", lambda _checked=False: self._open_editor())
        ui.plotButton.connect("clicked(bool)", lambda _checked=False: self._plot())
        ui.showRegisteredCheckBox.connect("toggled(bool)", self._show_registered)
        self._shortcut = qt.QShortcut(ui.reviewSection)
        self._shortcut.setKey(qt.QKeySequence("N"))
        self._shortcut.connect("activated()", self.look_at_next)
        self.refresh()

    @property
    def rows(self) -> list[ResultRow]:
        """All contours that can be reviewed."""
        return self._results.rows

    def refresh(self) -> None:
        """Read the scene again; the chosen contour stays chosen while it is there."""
        chosen = self.row
        self._results.show()
        self._observe_contours()
        same = [each for each in self._results.rows if chosen is not None and _same(each, chosen) and not each.obstacle]
        self.row = same[0] if same else None
        if self.row is not None:
            self._results.select(self.row)
        self._show_row()

    def choose(self, row: ResultRow) -> None:
        """Show a contour and its most doubtful slice that was not looked at."""
        self._results.select(row)
        if row.obstacle:
            self.close()
            self._ui.reasonsLabel.text = row.obstacle
            return
        self.row, self.index = row, None
        show_visit(row.followup, row.node)
        emphasize(row.node, row.identifier)
        self._show_registered(bool(self._ui.showRegisteredCheckBox.checked))
        self._show_row()
        self._observe()
        self.look_at_next()

    def look_at(self, index: int) -> None:
        """Go to a slice of the chosen contour in all views; it counts as looked at."""
        with slicer.util.tryWithErrorDisplay(_("The slice cannot be shown."), waitCursor=False):
            self._go_to(index)

    def _go_to(self, index: int) -> None:
        if self.row is None:
            return
        mask = read_mask(self.row.node, self.row.identifier, self.row.followup)
        go_to(SlicePlaces.of(self.row.followup).centre(index, mask))
        self._seen(index)

    def look_at_next(self) -> None:
        """Go to the most doubtful slice that was not looked at; where all were, to the most doubtful one."""
        if self.row is None:
            return
        left = unseen(self.row.node, self.row.identifier, self.row.slices)
        first = left or [each.index for each in sorted(self.row.slices, key=lambda each: -each.review_priority)]
        if first:
            self.look_at(first[0])

    def close(self) -> None:
        """Let go of the scene."""
        self._forget()
        self._forget_contours()
        self._dwell.stop()
        self.row = self.index = None
        self._show_row()

    def _show_row(self) -> None:
        row = self.row
        self._slices.show(row)
        self._ui.reasonsLabel.text = "" if row is None else _told(row)
        self.refresh_buttons()

    def refresh_buttons(self) -> None:
        """Enable what can be clicked; else the tooltip says why it cannot."""
        none = _("Click a contour in the table first.") if self.row is None else ""
        busy = _("This contour is being segmented again: wait for it.") if self._logic.updating else ""
        for name, hint in self._hints.items():
            why = none or (busy if name in ("acceptButton", "rejectButton", "flagButton") else "")
            button = getattr(self._ui, name)
            button.enabled, button.toolTip = not why, why or hint
        self._ui.plotButton.enabled = any(not each.obstacle for each in self._results.rows)
        self._report.refresh(self._results.rows, self.row)

    def _seen(self, index: int) -> None:
        assert self.row is not None
        self._dwell.stop()
        self.index, self._scrolled_to = index, None
        if mark_seen(self.row.node, self.row.identifier, index):
            self._slices.show(self.row)
        self._slices.select(index)
        self._slice_shown(self.row, index)

    def _observe(self) -> None:
        """A slice that a person scrolls to was looked at, too."""
        self._forget()
        for node in slicer.util.getNodesByClass("vtkMRMLSliceNode"):
            self._observed.append((node, node.AddObserver(vtk.vtkCommand.ModifiedEvent, self._on_scrolled)))

    def _forget(self) -> None:
        for node, tag in self._observed:
            node.RemoveObserver(tag)
        self._observed = []

    def _observe_contours(self) -> None:
        """What is said of a contour holds for what was drawn: look again when it is drawn anew."""
        self._forget_contours()
        for node in {each.node for each in self._results.rows}:
            drawn = node.GetSegmentation()
            tag = drawn.AddObserver(slicer.vtkSegmentation.SourceRepresentationModified, lambda *_words: self._redrawn())
            self._contours.append((drawn, tag))

    def _forget_contours(self) -> None:
        for drawn, tag in self._contours:
            drawn.RemoveObserver(tag)
        self._contours = []

    def _on_scrolled(self, slice_node: Any, _event: str) -> None:
        index = self._shown_in(slice_node)
        if index is not None and index != self._scrolled_to:
            self._scrolled_to = index
            self._dwell.start()

    def _on_stayed(self) -> None:
        index, self._scrolled_to = self._scrolled_to, None
        if self.row is None or index is None or index == self.index:
            return
        # A view may have been scrolled past the volume meanwhile.
        if index in [self._shown_in(node) for node, _tag in self._observed]:
            self._seen(index)

    def _shown_in(self, slice_node: Any) -> int | None:
        """The slice of the chosen contour's follow-up that a view shows, or None."""
        row = self.row
        if row is None or row.node.GetScene() is None or row.followup is None or row.obstacle:
            return None
        # With another CT in the view, or the contour hidden, nobody sees whether the contour is right.
        logic = slicer.app.applicationLogic().GetSliceLogic(slice_node)
        layers = None if logic is None else logic.GetSliceCompositeNode()
        if layers is None or layers.GetBackgroundVolumeID() != row.followup.GetID():
            return None
        display = row.node.GetDisplayNode()
        if not (display.GetVisibility() and display.GetSegmentVisibility(row.identifier)):
            return None
        return SlicePlaces.of(row.followup).shown_in(slice_node)

    def _decide(self, decision: Decision) -> None:
        with slicer.util.tryWithErrorDisplay(_("The decision was not recorded."), waitCursor=False):
            row = self.row
            if row is None:
                return
            decide(row.node, row.identifier, decision, self._ui.reviewerEdit.text, row.slices)
            slicer.app.settings().setValue(REVIEWER_SETTING, self._ui.reviewerEdit.text)
            row.node.GetDisplayNode().SetSegmentVisibility(row.identifier, decision is not Decision.REJECTED)
            self.refresh()

    def _open_editor(self) -> None:
        row = self.row
        if row is None:
            return
        slicer.util.selectModule("SegmentEditor")
        editor = slicer.modules.segmenteditor.widgetRepresentation().self().editor
        editor.setSegmentationNode(row.node)
        editor.setSourceVolumeNode(row.followup)
        editor.setCurrentSegmentID(row.identifier)

    def _show_registered(self, visible: bool) -> None:
        if self.row is not None:
            show_registered(self.row.node, tag_of(self.row.segment, SOURCE_TAG) or "", visible)

    def _plot(self) -> None:
        with slicer.util.tryWithErrorDisplay(_("The volumes could not be plotted.")):
            first = self.row or self._results.rows[0]
            nodes = results_by_visit([each.node for each in self._results.rows if not each.obstacle], first.node)
            slicer.modules.plots.logic().ShowChartInLayout(make_chart(nodes))


def _same(one: ResultRow, other: ResultRow) -> bool:
    return bool(one.node == other.node and one.identifier == other.identifier)


def _told(row: ResultRow) -> str:
    """What is said of the chosen contour: why it is flagged, who decided."""
    state = review_state(row.node, row.identifier)
    words = [row.fault] if row.fault else []
    words += [_("Why it is flagged: {0}").format(reason) for reason in row.reasons]
    if state.reviewer:
        words.append(f"{state.decision.value if state.decision else ''}, {state.reviewer}, {state.time}")
    return "\n".join(words)
