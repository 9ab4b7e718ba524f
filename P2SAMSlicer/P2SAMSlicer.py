"""The Slicer module P2SAMSlicer: carries contours of a prior CT to follow-up CTs, and has them reviewed.

This file only wires: the panel's parts are in ``P2SAMSlicerGui``, everything else is in ``P2SAMSlicerLib``.
"""

import os
import time
from pathlib import Path
from typing import Annotated, Any

import qt
import slicer
import slicer.util
import vtk
from slicer import vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode, vtkMRMLTransformNode
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.parameterNodeWrapper import Choice, WithinRange, parameterNodeWrapper
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

#: How often a script that waits looks for the worker's answers, in seconds.
POLL_SECONDS = 0.02


class P2SAMSlicer(ScriptedLoadableModule):
    """What Slicer's module list says."""

    def __init__(self, parent: Any) -> None:
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = "P2SAMSlicer"
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Radiotherapy")]
        self.parent.dependencies = []
        self.parent.contributors = ["P2SAMSlicer developers"]
        self.parent.helpText = _(
            "Carries a tumour contour from a prior CT to follow-up CTs of the same patient with the Part-aware Prompted Segment"
            " Anything Model (P2SAM), and has every contour reviewed. For research use only. Every contour is unreviewed until"
            " a person has reviewed it; new lesions are not sought. The README of the extension has a tutorial."
        )
        self.parent.acknowledgementText = _(
            "Method: Zhao and Shen, Part-aware Prompted Segment Anything Model for Adaptive Segmentation, TMLR 2025."
            " Weights: LiteMedSAM (Ma et al.)."
        )
        slicer.app.connect("startupCompleted()", registerSampleData)


def registerSampleData() -> None:
    """Offer the demonstration's visits in the module Sample Data; the files' SHA-256 are checked before they are read."""
    import SampleData
    from P2SAMSlicerLib.mrml.sample_visits import add_lung_visits

    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category="P2SAMSlicer",
        sampleName="P2SAMSlicerLung",
        customDownloader=lambda _source: add_lung_visits(),
    )


@parameterNodeWrapper
class P2SAMSlicerParameterNode:
    """What the panel was set to; saved with the scene. See :class:`P2SAMSlicerLib.options.PropagationOptions`.

    ``carryChoice`` is what :class:`P2SAMSlicerGui.carry_table.CarryTable` keeps;
    ``model`` is an id of the catalogue, empty for the usual one; ``weightsFile`` a file in place of its weights, or empty.
    """

    priorVolume: vtkMRMLScalarVolumeNode
    priorSegmentation: vtkMRMLSegmentationNode
    followUpVolumes: list[vtkMRMLScalarVolumeNode]
    transform: vtkMRMLTransformNode
    carryChoice: str = ""
    model: str = ""
    weightsFile: str = ""
    device: Annotated[str, Choice(["auto", "cuda", "mps", "cpu"])] = "auto"
    registration: Annotated[str, Choice(["deformable", "rigid", "none", "transform"])] = "deformable"
    mode: Annotated[str, Choice(["clinical", "paper"])] = "clinical"
    modality: Annotated[str, Choice(["ct", "cbct"])] = "ct"
    parts: Annotated[int, WithinRange(1, 10)] = 5
    negatives: Annotated[int, WithinRange(0, 45)] = 1
    marginMm: Annotated[float, WithinRange(5, 100)] = 25.0
    plausibleMm: Annotated[float, WithinRange(1, 40)] = 15.0
    harden: bool = False
    allowOtherPatient: bool = False
    allowOlderFollowUp: bool = False


class P2SAMSlicerWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The module's panel."""

    def __init__(self, parent: Any = None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic: Any = None
        self.panel: Any = None
        self._parameterNode: Any = None
        self._parameterNodeGuiTag: Any = None

    def setup(self) -> None:
        """Build the panel; nothing is installed or computed."""
        from P2SAMSlicerGui.module_panel import ModulePanel

        ScriptedLoadableModuleWidget.setup(self)
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/P2SAMSlicer.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self.logic = P2SAMSlicerLogic()
        self.panel = ModulePanel(self.ui, self.logic, lambda: self._parameterNode)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndImportEvent, self.onSceneEndImport)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.NodeRemovedEvent, self.onNodeRemoved)
        self.initializeParameterNode()

    def cleanup(self) -> None:
        """The module goes away, or is loaded again."""
        self._setParameterNode(None)
        self.removeObservers()
        if self.panel is not None:  # the panel could be made
            self.panel.close()
            self.logic.close()

    def enter(self) -> None:
        """The module is shown."""
        self.initializeParameterNode()
        self.panel.refresh()

    def exit(self) -> None:
        """Another module is shown; a run goes on."""
        self._setParameterNode(None)

    def onSceneStartClose(self, _caller: Any = None, _event: Any = None) -> None:
        """Everything of this scene ends, a run too."""
        self.panel.scene_closes()
        self._setParameterNode(None)

    def onSceneEndClose(self, _caller: Any = None, _event: Any = None) -> None:
        """A new scene begins."""
        if self.parent.isEntered:
            self.initializeParameterNode()
        self.panel.refresh()

    def onSceneEndImport(self, _caller: Any = None, _event: Any = None) -> None:
        """A scene was loaded, perhaps with results of earlier runs."""
        if self.parent.isEntered:
            self.initializeParameterNode()
            self.panel.refresh()
        else:
            self.panel.watch()

    @vtk.calldata_type(vtk.VTK_OBJECT)  # type: ignore[untyped-decorator]
    def onNodeRemoved(self, _caller: Any = None, _event: Any = None, node: Any = None) -> None:
        """A result or its follow-up may be gone: look when all of it is."""
        if node is not None and node.GetClassName() in ("vtkMRMLSegmentationNode", "vtkMRMLScalarVolumeNode"):
            self.panel.refresh_soon()

    def initializeParameterNode(self) -> None:
        """Take the scene's settings, or begin with the usual ones."""
        self._setParameterNode(self.logic.getParameterNode())
        if self._parameterNode.priorVolume is None:
            self.panel.choose_first_volumes()

    def _setParameterNode(self, parameterNode: Any) -> None:
        if self._parameterNode is not None:
            self._parameterNode.disconnectGui(self._parameterNodeGuiTag)
            self.removeObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self._onParameters)
        self._parameterNode = None
        if parameterNode is not None:
            # Not connectGui: it gives no tag, so nothing could undo it, and a widget that is bound for the second time, when
            # the module is entered again, would be filled anew and set the parameter back to its first value.
            named = {widget.property("SlicerParameterName"): widget for widget in vars(self.ui).values()}
            named.pop(None, None)
            self._parameterNodeGuiTag = parameterNode.connectParametersToGui(named)
            self.addObserver(parameterNode, vtk.vtkCommand.ModifiedEvent, self._onParameters)
            self._parameterNode = parameterNode  # not before: what failed half-way has nothing to undo
            self.panel.parameters_replaced()

    def _onParameters(self, _caller: Any = None, _event: Any = None) -> None:
        if self._parameterNode is not None:
            self.panel.parameters_changed()


class P2SAMSlicerLogic(ScriptedLoadableModuleLogic):
    """Carries contours; usable from the Python console without the panel."""

    def __init__(self) -> None:
        ScriptedLoadableModuleLogic.__init__(self)
        self._client: Any = None
        self._timer: Any = None
        #: Updates of contours with edited prompts (:class:`P2SAMSlicerLib.mrml.prompt_update.PromptUpdates`), or None.
        self.updates: Any = None
        #: The latest run (:class:`P2SAMSlicerLib.mrml.propagation_run.PropagationRun`, of files
        #: :class:`P2SAMSlicerLib.mrml.patient_run.PatientRun`), or None.
        self.lastRun: Any = None

    def getParameterNode(self) -> Any:
        """The scene's settings."""
        return P2SAMSlicerParameterNode(super().getParameterNode())  # type: ignore[call-arg]  # the wrapper's

    @property
    def client(self) -> Any:
        """The worker process; started when the first run needs it."""
        if self._client is None:
            from P2SAMSlicerLib.mrml.slicer_python import python_executable
            from P2SAMSlicerLib.worker.client import WorkerClient

            self._client = WorkerClient(python_executable())
        return self._client

    @property
    def running(self) -> bool:
        """Whether a run is under way."""
        return self.lastRun is not None and self.lastRun.running

    def propagate(
        self,
        priorVolumeNode: Any,
        priorSegmentationNode: Any,
        followUpVolumeNodes: Any,
        segmentIDs: Any = None,
        options: Any = None,
        waitForCompletion: bool = True,
        progressCallback: Any = None,
        **settings: Any,
    ) -> list[Any]:
        """Carry segments of a prior CT to follow-up CTs of the same patient.

        :param priorVolumeNode: CT of the prior visit.
        :param priorSegmentationNode: segmentation on it.
        :param followUpVolumeNodes: CTs of later visits: a node, or several.
        :param segmentIDs: ids of the segments to carry; all if None.
        :param options: :class:`P2SAMSlicerLib.options.PropagationOptions`; the usual ones if None.
        :param waitForCompletion: False returns at once; :attr:`lastRun` then tells when it is done, and has the nodes.
        :param progressCallback: called with each :class:`P2SAMSlicerLib.run_progress.RunProgress`.
        :param settings: ``device``, ``model``, ``checkpoint``, ``transform``, ``harden``, ``allow_unverified`` as of
            :class:`P2SAMSlicerLib.mrml.propagation_run.RunRequest`.
        :return: segmentation nodes, one a follow-up for which there is a result; every contour in them is unreviewed.
        :raises ValueError: the nodes or options cannot be used.
        :raises RuntimeError: the worker failed, or a follow-up could not be carried to; ``lastRun.nodes`` has the others.
        """
        from P2SAMSlicerLib.mrml.propagation_run import RunRequest
        from P2SAMSlicerLib.options import PropagationOptions

        followUps = tuple(followUpVolumeNodes) if isinstance(followUpVolumeNodes, (list, tuple)) else (followUpVolumeNodes,)
        request = RunRequest(
            priorVolumeNode,
            priorSegmentationNode,
            followUps,
            (segmentIDs,) if isinstance(segmentIDs, str) else None if segmentIDs is None else tuple(segmentIDs),
            PropagationOptions() if options is None else options,
            **settings,
        )
        self.start(request, progressCallback or (lambda _progress: None))
        if not waitForCompletion:
            self._timer = qt.QTimer()
            self._timer.setInterval(round(1000 * POLL_SECONDS))
            self._timer.connect("timeout()", self.poll)
            self._timer.start()
            return []
        return self.waitForRun()

    def propagatePatient(
        self,
        patient: Any = None,
        segmentIDs: Any = None,
        options: Any = None,
        progressCallback: Any = None,
        out: Any = None,
        priorCt: Any = None,
        priorContours: Any = None,
        followUps: Any = None,
        load: bool = True,
        overwrite: bool = False,
        **settings: Any,
    ) -> list[Any]:
        """Carry a patient's contours to all later visits: visits in the scene, or files as ``p2sam patient`` takes them.

        :param patient: item of the subject hierarchy, or its name: the earliest visit with a segmentation is the prior. Or the
            path of a folder with the patient's visits, where ``out`` is given; or None, where the files are named.
        :param segmentIDs: ids of the segments to carry; for files the structures' names; all if None.
        :param out: folder for the results; for files only.
        :param priorCt: a CT file or DICOM folder, with ``priorContours`` on it and ``followUps`` like it.
        :param load: show the follow-ups of files and what was carried to them in the scene.
        :param overwrite: replace results that were made from other files or settings.
        :param settings: as of :meth:`propagate`; for files those of :class:`P2SAMSlicerLib.patient.plan.PatientSettings`:
            ``prior``, ``followups``, ``carried_from``, ``dicom``, ``identified`` and those of the model.
        :return: as of :meth:`propagate`; for files also ``lastRun.visits`` and ``lastRun.report`` tell where the results are.
        :raises ValueError: it is not plain which CT is which visit's, or the files cannot be used.
        :raises RuntimeError: as of :meth:`propagate`.
        """
        if out is not None:
            from P2SAMSlicerLib.mrml.patient_run import patient_request

            names = (segmentIDs,) if isinstance(segmentIDs, str) else tuple(segmentIDs or ())
            named = any(each is not None for each in (priorCt, priorContours, followUps))
            given = (priorCt, priorContours, followUps) if named else None
            request = patient_request(patient, given, out, names, options, overwrite=overwrite, **settings)
            self.startPatient(request, progressCallback or (lambda _progress: None), load=load)
            return self.waitForRun()
        text = str(patient) if isinstance(patient, (str, os.PathLike)) else ""
        is_folder = isinstance(patient, os.PathLike) or text.startswith("~") or Path(text).is_absolute()
        if is_folder or any(each is not None for each in (priorCt, priorContours, followUps)):
            raise ValueError("name the folder for the results (out) of a patient in files")
        from P2SAMSlicerLib.mrml.patient_visits import visits_of

        visits = visits_of(patient)
        settings["progressCallback"] = progressCallback
        return self.propagate(visits.prior, visits.segmentation, visits.followups, segmentIDs, options, **settings)

    def startPatient(self, request: Any, progressCallback: Any, load: bool = True) -> None:
        """Begin a run on a patient in files; :meth:`poll` takes it on.

        :param request: :class:`P2SAMSlicerLib.worker.messages.CarryPatient`.
        :raises ValueError: another run is under way.
        """
        from P2SAMSlicerLib.packages import check_packages

        check_packages()
        from P2SAMSlicerLib.mrml.patient_run import PatientRun

        self.lastRun = PatientRun(self.client, request, self._told(progressCallback, 1, 1), load=load)

    def _told(self, progressCallback: Any, followUps: int, segments: int) -> Any:
        """What a run tells its steps: an estimate of how long it takes goes to the script.

        :raises ValueError: another run is under way.
        """
        from P2SAMSlicerLib.run_progress import ProgressEstimate

        if self.running or self.updating:
            raise ValueError("another run is under way: wait for it, or cancel it")
        estimate, began = ProgressEstimate(followUps, segments), time.monotonic()

        def told(stage: str, done: int, total: int, message: str) -> None:
            progressCallback(estimate.step(stage, done, total, message, time.monotonic() - began))

        return told

    def start(self, request: Any, progressCallback: Any) -> None:
        """Begin a run; :meth:`poll` takes it on.

        :param request: :class:`P2SAMSlicerLib.mrml.propagation_run.RunRequest`.
        :raises ValueError: it cannot be run, or another run is under way.
        """
        from P2SAMSlicerLib.packages import check_packages

        check_packages()
        from P2SAMSlicerLib.mrml.propagation_run import PropagationRun

        told = self._told(progressCallback, len(request.followups), len(request.prior_ids()) if request.segmentation else 1)
        self.lastRun = PropagationRun(self.client, request, told)

    def poll(self) -> None:
        """Take in what the worker told since the last time."""
        if self.running:
            self.lastRun.poll()
        if not self.running and self._timer is not None:
            self._timer.stop()
            self._timer = None

    def waitForRun(self) -> list[Any]:
        """Wait for the run while the application stays alive; for return value and errors see :meth:`propagate`."""
        while self.running:
            self.poll()
            slicer.app.processEvents()
            time.sleep(POLL_SECONDS)
        run = self.lastRun
        if run.error or run.problems:
            raise RuntimeError("\n".join([*([run.error] if run.error else []), *run.problems]))
        return list(run.nodes)

    @property
    def updating(self) -> bool:
        """Whether the answer to edited prompts is waited for."""
        return self.updates is not None and self.updates.running

    def startUpdate(self, segmentationNode: Any, segmentID: str, edits: Any, model: Any) -> None:
        """Have slices segmented again with edited prompts; :meth:`pollUpdate` takes it on.

        :param edits: :class:`P2SAMSlicerLib.edited_prompts.EditedPrompts` of one or several slices.
        :param model: :class:`P2SAMSlicerLib.mrml.prompt_update.ModelChoice`.
        :raises ValueError: nothing was edited, or a run is under way.
        """
        from P2SAMSlicerLib.mrml.prompt_update import PromptUpdates

        if self.running:
            raise ValueError("a run is under way: wait for it, or cancel it")
        if self.updates is None:
            self.updates = PromptUpdates(self.client)
        self.updates.start(segmentationNode, segmentID, edits, model)

    def stopUpdate(self) -> None:
        """Give up an answer to edited prompts that is waited for."""
        if self.updates is not None:
            self.updates.close()
            self.updates = None

    def pollUpdate(self) -> None:
        """Take in the answer to edited prompts if it came."""
        if self.updates is not None:
            self.updates.poll()

    def exportReport(
        self, resultNodes: Any, folder: Any, dicom: bool = True, identified: bool = False, overwrite: bool = False
    ) -> Any:
        """Write a report to sign on results in the scene, their visits' folders, and RTSTRUCT and SEG: all of it or nothing.

        :param resultNodes: segmentation nodes of results of one prior: a node, or several.
        :param folder: where to; made if needed.
        :param dicom: write RTSTRUCT and SEG of follow-ups that came from Slicer's DICOM database.
        :param identified: name the patient and the dates in the report; it is anonymous otherwise.
        :param overwrite: replace what an earlier export left in the folder.
        :return: :class:`P2SAMSlicerLib.mrml.report_export.ExportedReport`, with what was left out and why.
        :raises ValueError: there is no result, or it cannot be reported on.
        :raises OSError: the folder has a report already, or cannot be written.
        """
        from P2SAMSlicerLib.packages import check_packages

        check_packages()
        from P2SAMSlicerLib.mrml.report_export import export_report

        nodes = list(resultNodes) if isinstance(resultNodes, (list, tuple)) else [resultNodes]
        return export_report(nodes, folder, dicom=dicom, identified=identified, overwrite=overwrite)

    def cancel(self) -> None:
        """End the run, and the worker process with all that it started, at once; the answer to edited prompts is given up."""
        if self.lastRun is not None:
            self.lastRun.cancel()
        if self.updates is not None:
            self.updates.close()

    def close(self) -> None:
        """End the worker process."""
        self.cancel()
        if self._timer is not None:
            self._timer.stop()
            self._timer = None
        self.stopUpdate()
        if self._client is not None:
            self._client.close()
            self._client = None


class P2SAMSlicerTest(ScriptedLoadableModuleTest):
    """What can be tested in a few seconds wherever the module is loaded; the project's own tests are in ``Testing``."""

    def setUp(self) -> None:
        """Begin with an empty scene."""
        slicer.mrmlScene.Clear()

    def runTest(self) -> None:
        """All tests."""
        self.setUp()
        self.test_wrongInputIsRefused()
        self.setUp()
        self.test_contourIsCarried()

    def test_wrongInputIsRefused(self) -> None:
        """Nothing is started without a CT; needs no package."""
        logic = P2SAMSlicerLogic()
        with self.assertRaises(ValueError):
            logic.propagate(None, None, [])
        self.assertFalse(logic.running)

    def test_contourIsCarried(self) -> None:
        """A ball in a phantom is carried to a second visit, in the worker process."""
        from P2SAMSlicerLib.packages import missing_packages

        lacking = missing_packages().in_words()
        if lacking:
            self.delayDisplay(f"Not all was tested: {lacking}")
            return
        from P2SAMSlicerLib.mrml.review_nodes import contours_to_review
        from P2SAMSlicerLib.mrml.sample_visits import add_phantom_visits
        from P2SAMSlicerLib.options import PropagationOptions

        prior, segmentation, followUp = add_phantom_visits(8.0)
        logic = P2SAMSlicerLogic()
        quick = PropagationOptions(registration="rigid", max_parts=1)
        try:
            (node,) = logic.propagate(prior, segmentation, followUp, options=quick)
        finally:
            logic.close()
        self.assertEqual(len(contours_to_review(node)), 1)
        self.delayDisplay("Test passed")
