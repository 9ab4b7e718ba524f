"""Editing the prompts of the slice that is shown, and having it segmented again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
import slicer.util
from P2SAMSlicerLib.mrml.prompt_nodes import (
    edited_box,
    edited_prompts,
    place_point,
    prompts_are_shown,
    show_box,
    show_prompts,
    slice_with_box,
    unlock,
)
from P2SAMSlicerLib.mrml.prompt_update import ModelChoice
from slicer.i18n import tr as _

from P2SAMSlicerGui.results_table import ResultRow

POLL_MS = 30


class PromptsPanel:
    """The buttons below the table of slices.

    :param ui: ``editPromptsButton``, ``addPositiveButton``, ``addNegativeButton``, ``updateButton`` and ``statusLabel``.
    :param logic: the module's logic.
    :param model: which model answers.
    :param updating: called when an answer begins to be waited for.
    :param updated: called after a contour changed, or when there will be no answer.
    """

    def __init__(
        self,
        ui: Any,
        logic: Any,
        model: Callable[[], ModelChoice],
        updating: Callable[[], None],
        updated: Callable[[], None],
    ) -> None:
        self._ui, self._logic, self._model, self._updating, self._updated = ui, logic, model, updating, updated
        names = ("editPromptsButton", "addPositiveButton", "addNegativeButton", "updateButton")
        self._hints = {name: str(getattr(ui, name).toolTip) for name in names}
        self._row: ResultRow | None = None
        self._index: int | None = None
        self._revision: tuple[str, str, int] | None = None
        # Boxes that were changed on slices that are not shown now, by lesion and slice.
        self._boxes: dict[tuple[int, int], Any] = {}
        self._timer = qt.QTimer()
        self._timer.setInterval(POLL_MS)
        self._timer.connect("timeout()", self._poll)
        ui.editPromptsButton.connect("toggled(bool)", self._on_edit)
        ui.addPositiveButton.connect("clicked(bool)", lambda _checked=False: self._place(True))
        ui.addNegativeButton.connect("clicked(bool)", lambda _checked=False: self._place(False))
        ui.updateButton.connect("clicked(bool)", self._on_update)
        self.refresh()

    def show(self, row: ResultRow, index: int) -> None:
        """Another slice is shown."""
        # What a person has moved and not yet updated stays while the same contour is looked through.
        if row.revision != self._revision or not prompts_are_shown(row.node):
            show_prompts(row.node, row.slices)
            self._revision, self._boxes = row.revision, {}
        elif self._row is not None:
            changed = edited_box(row.node, self._row.slices, self._index)
            if changed is not None:
                self._boxes[changed[0].lesion, changed[0].index] = changed[1]
        self._row, self._index = row, index
        self._show_box()
        unlock(row.node, bool(self._ui.editPromptsButton.checked))
        self.refresh()

    def hide(self) -> None:
        """Nothing is reviewed any more."""
        self._row = self._index = self._revision = None
        self._boxes = {}
        self._ui.editPromptsButton.checked = False
        self.refresh()

    def close(self) -> None:
        """Stop waiting; an answer that is still to come is for contours that are gone."""
        self._timer.stop()
        self._logic.stopUpdate()
        self.hide()

    def refresh(self) -> None:
        """Enable what can be clicked."""
        there = self._row is not None and any(each.candidates for each in self._row.slices)
        why = self._obstacle(there)
        editing = bool(self._ui.editPromptsButton.checked)
        for name, hint in self._hints.items():
            button = getattr(self._ui, name)
            needs_editing = name != "editPromptsButton"
            button.enabled = not why and (editing or not needs_editing)
            button.toolTip = why or (_("First click Edit prompts.") if needs_editing and not editing else hint)
        update = self._ui.updateButton
        update.text = _("Cancel") if self._logic.updating else _("Update")
        if self._logic.updating:
            update.enabled, update.toolTip = True, _("Give up segmenting this slice again.")

    def _obstacle(self, there: bool) -> str:
        """Why prompts cannot be edited now; empty if they can."""
        if self._row is None:
            return str(_("Click a contour in the table first."))
        if not there:
            return str(_("No model was asked for this contour: it has no prompts. Correct it in the Segment Editor."))
        if self._logic.running:
            return str(_("A run is under way: wait for it, or cancel it."))
        return str(_("A contour is being segmented again: wait for it.")) if self._logic.updating else ""

    def _show_box(self) -> None:
        if self._row is None:
            return
        owner = slice_with_box(self._row.slices, self._index)
        show_box(self._row.node, owner, None if owner is None else self._boxes.get((owner.lesion, owner.index)))

    def _on_edit(self, editing: bool) -> None:
        if self._row is not None:
            unlock(self._row.node, editing)
        self.refresh()

    def _place(self, positive: bool) -> None:
        with slicer.util.tryWithErrorDisplay(_("No point can be added."), waitCursor=False):
            if self._row is not None:
                place_point(self._row.node, positive)
                unlock(self._row.node, True)

    def _on_update(self, _checked: bool = False) -> None:
        with slicer.util.tryWithErrorDisplay(_("The slice could not be segmented again."), waitCursor=False):
            if self._logic.updating:
                self._logic.stopUpdate()
                self._poll()
                return
            row = self._row
            if row is None:
                return
            edits = edited_prompts(row.node, row.slices, self._index, self._boxes)
            self._logic.startUpdate(row.node, row.identifier, edits, self._model())
            self._ui.statusLabel.text = _("segmenting again")
            self._timer.start()
            self.refresh()
            self._updating()

    def _poll(self) -> None:
        self._logic.pollUpdate()
        if self._logic.updating:
            return
        self._timer.stop()
        updates = self._logic.updates
        if updates is None or (updates.seconds is None and not updates.error):  # given up, here or from the console
            self._ui.statusLabel.text = _("cancelled: the contour is as it was")
        elif updates.error:
            self._ui.statusLabel.text = updates.error
            slicer.util.errorDisplay(updates.error)
        else:
            words = [_("updated in {0:.1f} s").format(updates.seconds), *updates.notes]
            self._ui.statusLabel.text = "\n".join(words)
        self._updated()
        self.refresh()
