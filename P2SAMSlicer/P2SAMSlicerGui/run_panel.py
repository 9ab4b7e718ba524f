"""Apply, Cancel and the progress of a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
import slicer.util
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.mrml.propagation_run import RunRequest, reviewed_results
from P2SAMSlicerLib.run_progress import RunProgress
from slicer.i18n import tr as _

#: How often the panel asks the worker, in milliseconds.
POLL_MS = 100


class RunPanel:
    """The Apply button with what belongs to it.

    :param ui: widgets ``applyButton``, ``progressBar`` and ``statusLabel``.
    :param logic: the module's logic.
    :param request: makes what the person chose; raises :class:`InputError` where that cannot be run.
    :param began: called when a run has begun.
    :param ended: called with the new nodes when a run has ended, also by a fault.
    """

    def __init__(
        self,
        ui: Any,
        logic: Any,
        request: Callable[[], RunRequest],
        began: Callable[[], None],
        ended: Callable[[list[Any]], None],
    ) -> None:
        self._ui, self._logic, self._request, self._began, self._ended = ui, logic, request, began, ended
        self._lacking = ""
        self._timer = qt.QTimer()
        self._timer.setInterval(POLL_MS)
        self._timer.connect("timeout()", self._poll)
        ui.applyButton.connect("clicked(bool)", self._on_click)

    def refresh(self, lacking: str = "") -> None:
        """Enable Apply if there is something to run; else its tooltip says what is missing.

        :param lacking: what is missing besides nodes, for example packages; empty if nothing.
        """
        self._lacking = lacking
        button = self._ui.applyButton
        if self._logic.running:
            button.text, button.enabled, button.toolTip = _("Cancel"), True, _("End this run.")
            return
        button.text = _("Propagate")
        if self._logic.updating:
            button.enabled, button.toolTip = False, _("A contour is being segmented again: wait for it.")
            return
        try:
            if lacking:
                raise InputError(lacking)
            self._request().check()
        except InputError as error:
            button.enabled, button.toolTip = False, str(error)
        else:
            button.enabled, button.toolTip = True, _("Carry the chosen segments to the chosen follow-ups.")

    def stop(self) -> None:
        """Cancel what runs, for example because the scene closes."""
        self._timer.stop()
        if self._logic.running:
            self._logic.cancel()
            self._finish()

    def _on_click(self, _checked: bool = False) -> None:
        with slicer.util.tryWithErrorDisplay(_("The contours could not be carried."), waitCursor=False):
            if self._logic.running:
                self.stop()
                return
            request = self._request()
            if not self._confirmed(request):
                return
            self._ui.statusLabel.text = _("starting")
            self._ui.progressBar.value = 0
            self._ui.progressBar.visible = True
            try:
                with slicer.util.WaitCursor():  # the CTs are handed over
                    self._logic.start(request, self._show)
            except Exception:
                self._ui.progressBar.visible = False
                self._ui.statusLabel.text = ""
                raise
            self._timer.start()
            self.refresh(self._lacking)
            self._began()

    def _confirmed(self, request: RunRequest) -> bool:
        """What a person accepted or edited is kept beside the new contours, and that is said first."""
        kept = reviewed_results(request)
        if not kept:
            return True
        lines = [f"{node}: {', '.join(names)}" for node, names in kept.items()]
        text = _("These contours were accepted or edited. They are kept, and new ones are added beside them:")
        return bool(slicer.util.confirmOkCancelDisplay("\n".join((text, *lines))))

    def _show(self, progress: RunProgress) -> None:
        self._ui.progressBar.value = round(100 * progress.share)
        self._ui.statusLabel.text = progress.in_words()

    def _poll(self) -> None:
        self._logic.poll()
        if not self._logic.running:
            self._timer.stop()
            self._finish()

    def _finish(self) -> None:
        run = self._logic.lastRun
        self._ui.progressBar.visible = False
        words = [*run.warnings, *run.problems]
        if run.error:
            words.insert(0, run.error)
        elif run.nodes:
            words.insert(0, _("done: look at every contour before you use it"))
        self._ui.statusLabel.text = "\n".join(words)
        self.refresh(self._lacking)
        self._ended(run.nodes)
