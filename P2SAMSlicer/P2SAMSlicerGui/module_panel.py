"""The whole panel: its parts, and what one of them has to know of another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
import slicer
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.mrml.contour_watch import ContourWatch
from P2SAMSlicerLib.mrml.prompt_update import ModelChoice
from P2SAMSlicerLib.mrml.propagation_run import RunRequest
from P2SAMSlicerLib.mrml.result_nodes import is_result
from P2SAMSlicerLib.mrml.result_removal import remove_leftovers
from P2SAMSlicerLib.options import PropagationOptions
from slicer.i18n import tr as _

from P2SAMSlicerGui.carry_table import CarryTable
from P2SAMSlicerGui.model_panel import ModelPanel
from P2SAMSlicerGui.packages_panel import PackagesPanel
from P2SAMSlicerGui.prompts_panel import PromptsPanel
from P2SAMSlicerGui.results_table import ResultRow
from P2SAMSlicerGui.review_panel import ReviewPanel
from P2SAMSlicerGui.run_panel import RunPanel


class ModulePanel:
    """Makes the parts and passes on what happens.

    :param ui: all widgets by name.
    :param logic: the module's logic.
    :param parameters: gives the parameter node, or None while there is none.
    """

    def __init__(self, ui: Any, logic: Any, parameters: Callable[[], Any]) -> None:
        self._ui, self._parameters = ui, parameters
        self._choosing = self._carrying = False
        self._carry = CarryTable(ui.carryTable, self._on_carry)
        self._packages = PackagesPanel(ui, self._on_packages)
        self._model = ModelPanel(ui, parameters, self._refresh_run_if_made)
        self._run = RunPanel(ui, logic, self.request, self._on_run_began, self._on_run_ended)
        self._prompts = PromptsPanel(ui, logic, self.model_choice, self._on_updating, self._on_updated)
        self._review = ReviewPanel(ui, logic, self._prompts.show, self._on_redrawn)
        ui.followUpSelector.connect("checkedNodesChanged()", self._on_followups)
        self._watch = ContourWatch(lambda _node, _ids: self._on_redrawn())
        self._mode = "clinical"
        self._soon = qt.QTimer()
        self._soon.setSingleShot(True)
        self._soon.setInterval(0)
        self._soon.connect("timeout()", self.refresh)
        self._lacking = self._packages.refresh()

    def refresh(self) -> None:
        """Read scene and computer again."""
        self._lacking = self._packages.refresh()
        self._model.refresh()
        remove_leftovers()
        self._watch.start()
        self._review.refresh()
        if self._review.row is None:
            self._prompts.hide()
        self.parameters_changed()

    def watch(self) -> None:
        """Contours came into the scene: an edit takes their decisions back at once, whichever module is shown."""
        self._watch.start()

    def refresh_soon(self) -> None:
        """Refresh when the application has done what it does, and once for all of it."""
        self._soon.start()

    def parameters_changed(self) -> None:
        """Something was chosen, here or by a loaded scene."""
        parameters = self._parameters()
        if parameters is None:
            return
        if parameters.mode != self._mode:
            self._take_mode(parameters)
        self._model.take(parameters)
        if not self._carrying:
            self._carry.show(parameters.priorSegmentation, parameters.carryChoice)
        self._check_followups(parameters)
        own = parameters.registration == "transform"
        self._ui.transformSelector.enabled = own
        self._refresh_run()

    def parameters_replaced(self) -> None:
        """Other settings are there, with the numbers that belong to their mode."""
        self._mode = self._parameters().mode
        self.parameters_changed()

    def choose_first_volumes(self) -> None:
        """In a scene with one contoured CT and others, choose them: the person only has to look and to click."""
        parameters = self._parameters()
        contours = [
            node
            for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
            if not is_result(node) and node.GetSegmentation().GetNumberOfSegments()
        ]
        volumes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
        volumes = [node for node in volumes if node.GetClassName() == "vtkMRMLScalarVolumeNode"]
        if len(contours) != 1:
            return
        prior = contours[0].GetNodeReference(contours[0].GetReferenceImageGeometryReferenceRole())
        if prior is None:
            return
        parameters.priorVolume, parameters.priorSegmentation = prior, contours[0]
        others = [node for node in volumes if node != prior]
        if len(others) == 1:
            parameters.followUpVolumes = others

    def scene_closes(self) -> None:
        """End what works on this scene."""
        self._run.stop()
        self._watch.stop()
        self._review.close()
        self._prompts.close()
        self._carry.show(None)

    def close(self) -> None:
        """End everything."""
        self._soon.stop()
        self.scene_closes()
        self._model.close()

    def request(self) -> RunRequest:
        """What the person chose.

        :raises InputError: it cannot be run.
        """
        parameters = self._parameters()
        if parameters is None:
            raise InputError("no scene")
        own = parameters.registration == "transform"
        if own and parameters.transform is None:
            raise InputError(_("choose the transform (section Advanced)"))
        choice = self.model_choice()
        usual = PropagationOptions(mode=parameters.mode)
        options = PropagationOptions(
            mode=parameters.mode,
            registration="deformable" if own else parameters.registration,
            modality=parameters.modality,
            max_parts=None if parameters.parts == usual.parts else parameters.parts,
            negatives=None if (parameters.negatives,) == usual.negative_counts else (parameters.negatives,),
            margin_mm=parameters.marginMm,
            plausible_mm=parameters.plausibleMm,
            registration_only=self._carry.registration_only(),
            with_model=self._carry.with_model(),
            allow_other_patient=parameters.allowOtherPatient,
            allow_older_followup=parameters.allowOlderFollowUp,
        )
        return RunRequest(
            parameters.priorVolume,
            parameters.priorSegmentation,
            tuple(self._ui.followUpSelector.checkedNodes()),
            self._carry.chosen(),
            options,
            parameters.transform if own else None,
            parameters.harden,
            choice.model,
            choice.checkpoint,
            choice.allow_unverified,
            choice.device,
        )

    def model_choice(self) -> ModelChoice:
        """The model that was chosen; a file that a person chose here is taken at that person's word."""
        parameters, checkpoint = self._parameters(), self._model.checkpoint
        device = "auto" if parameters is None else parameters.device
        return ModelChoice(self._model.model, checkpoint, self._model.own_word, device)

    def _refresh_run(self) -> None:
        self._run.refresh(self._lacking or self._model.lacking)

    def _on_packages(self) -> None:
        """Packages came: what needs them can be told now."""
        self.refresh()

    def _refresh_run_if_made(self) -> None:
        """The parts tell of changes while the panel is still being made, too."""
        if hasattr(self, "_soon"):
            self._lacking = self._packages.refresh()
            self._refresh_run()

    def _on_carry(self) -> None:
        parameters = self._parameters()
        if parameters is not None:
            self._carrying = True  # the table is what was changed: it is not filled anew for that
            parameters.carryChoice = self._carry.saved()
            self._carrying = False
        self._refresh_run()

    def _on_followups(self) -> None:
        parameters = self._parameters()
        if parameters is not None and not self._choosing:
            parameters.followUpVolumes = list(self._ui.followUpSelector.checkedNodes())
            self._refresh_run()

    def _check_followups(self, parameters: Any) -> None:
        """The check marks of the selector are not bound to the parameter node by Slicer."""
        selector, wanted = self._ui.followUpSelector, [node for node in parameters.followUpVolumes if node is not None]
        self._choosing = True
        for number in range(selector.nodeCount()):
            node = selector.nodeFromIndex(number)
            state = qt.Qt.Checked if node in wanted else qt.Qt.Unchecked
            if selector.checkState(node) != state:
                selector.setCheckState(node, state)
        self._choosing = False

    def _take_mode(self, parameters: Any) -> None:
        """Each mode has its own usual numbers; what a person changed beyond them is set back with the mode."""
        self._mode = parameters.mode
        if slicer.mrmlScene.IsImporting():
            return  # a loaded scene has its own numbers
        usual = PropagationOptions(mode=parameters.mode)
        parameters.parts, parameters.negatives = usual.parts, usual.negative_counts[0]

    def _on_run_began(self) -> None:
        self._prompts.refresh()

    def _on_run_ended(self, nodes: list[Any]) -> None:
        self._watch.start()
        self._review.refresh()
        self._prompts.refresh()
        # Slices that are shown count as looked at: not while the person works in another module.
        if nodes and self._parameters() is not None:
            first = [row for row in self._review.rows if row.node == nodes[0]]
            if first:
                self._review.choose(first[0])

    def _on_redrawn(self) -> None:
        """While another module is shown nothing is read again with every stroke of a brush: entering this one does it."""
        if self._parameters() is not None:
            self.refresh_soon()

    def _on_updating(self) -> None:
        self._refresh_run()
        self._review.refresh_buttons()

    def _on_updated(self) -> None:
        shown: tuple[ResultRow | None, int | None] = (self._review.row, self._review.index)
        self._review.refresh()
        self._refresh_run()
        if self._review.row is not None and shown[1] is not None and self._parameters() is not None:
            self._review.look_at(shown[1])
