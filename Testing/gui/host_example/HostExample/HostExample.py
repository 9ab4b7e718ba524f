"""A small scripted module that uses what the host offers: every widget, the parameter node and all lifecycle methods."""

import enum
import pathlib
from typing import Annotated

import slicer
import vtk
from slicer import vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode
from slicer.i18n import tr as _
from slicer.parameterNodeWrapper import Choice, Default, WithinRange, parameterNodeWrapper
from slicer.ScriptedLoadableModule import *
from slicer.util import VTKObservationMixin


class HostExample(ScriptedLoadableModule):
    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("Host example")
        self.parent.categories = [_("Testing")]
        self.parent.dependencies = ["Segmentations"]
        self.parent.contributors = ["P2SAMSlicer developers"]
        self.parent.helpText = _("Shows that the host works.") + self.getDefaultModuleDocumentationLink()
        slicer.app.connect("startupCompleted()", registerSampleData)


def registerSampleData():
    import SampleData

    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category="HostExample",
        sampleName="Example",
        uris="https://example.org/example.nrrd",
        fileNames="example.nrrd",
        nodeNames="Example",
        checksums="SHA256:00",
    )


class Mode(enum.Enum):
    CLINICAL = "clinical"
    PAPER = "paper"


@parameterNodeWrapper
class HostExampleParameterNode:
    prior: vtkMRMLScalarVolumeNode
    segmentation: vtkMRMLSegmentationNode
    followUps: list[vtkMRMLScalarVolumeNode]
    margin: Annotated[float, WithinRange(0, 50)] = 10.0
    parts: Annotated[int, WithinRange(1, 9)] = 4
    device: Annotated[str, Choice(["auto", "cpu", "cuda"])] = "auto"
    mode: Mode = Mode.CLINICAL
    negatives: Annotated[bool, Default(True)]
    note: str = ""
    bundle: pathlib.Path
    labels: list[str]


class HostExampleWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self._parameterNode = None
        self._parameterNodeGuiTag = None

    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/HostExample.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self.logic = HostExampleLogic()
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)
        self.ui.applyButton.connect("clicked(bool)", self.onApplyButton)
        self.ui.segmentationSelector.connect("currentNodeChanged(vtkMRMLNode*)", self.onSegmentationChanged)
        self.ui.resultTable.horizontalHeader().setStretchLastSection(True)
        self.initializeParameterNode()

    def cleanup(self):
        self.removeObservers()

    def enter(self):
        self.initializeParameterNode()

    def exit(self):
        if self._parameterNode:
            self._parameterNode.disconnectGui(self._parameterNodeGuiTag)
            self._parameterNodeGuiTag = None
            self.removeObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self._checkCanApply)
            self._parameterNode = None  # else enter() would remove the observer once more

    def onSceneStartClose(self, caller, event):
        self.setParameterNode(None)

    def onSceneEndClose(self, caller, event):
        if self.parent.isEntered:
            self.initializeParameterNode()

    def initializeParameterNode(self):
        self.setParameterNode(self.logic.getParameterNode())

    def setParameterNode(self, inputParameterNode):
        if self._parameterNode:
            self._parameterNode.disconnectGui(self._parameterNodeGuiTag)
            self.removeObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self._checkCanApply)
        self._parameterNode = None
        if inputParameterNode:
            self._parameterNodeGuiTag = inputParameterNode.connectGui(self.ui)
            self.addObserver(inputParameterNode, vtk.vtkCommand.ModifiedEvent, self._checkCanApply)
            self._parameterNode = inputParameterNode
            self._checkCanApply()

    def onSegmentationChanged(self, node):
        self.ui.segmentsTable.setSegmentationNode(node)

    def _checkCanApply(self, caller=None, event=None):
        ready = bool(self._parameterNode and self._parameterNode.prior and self._parameterNode.segmentation)
        self.ui.applyButton.enabled = ready
        self.ui.applyButton.toolTip = _("Go.") if ready else _("Choose a volume and a segmentation.")

    def onApplyButton(self):
        with slicer.util.tryWithErrorDisplay(_("Failed."), waitCursor=True):
            names = self.logic.process(self._parameterNode.segmentation)
            self.ui.resultTable.rowCount = len(names)
            for row, name in enumerate(names):
                self.ui.resultTable.setItem(row, 0, self.cell(name))
            self.ui.progressBar.value = 100
            self.ui.stageLabel.text = _("Done")

    def cell(self, text):
        import qt

        return qt.QTableWidgetItem(text)


class HostExampleLogic(ScriptedLoadableModuleLogic):
    def getParameterNode(self):
        return HostExampleParameterNode(super().getParameterNode())

    def process(self, segmentationNode):
        if segmentationNode is None:
            raise ValueError("no segmentation")
        segmentation = segmentationNode.GetSegmentation()
        if segmentation.GetNumberOfSegments() == 0:
            raise ValueError("the segmentation has no segments")
        return [segmentation.GetNthSegment(i).GetName() for i in range(segmentation.GetNumberOfSegments())]


class HostExampleTest(ScriptedLoadableModuleTest):
    def runTest(self):
        self.setUp()
        self.test_empty()

    def test_empty(self):
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
        with self.assertRaises(ValueError):  # noqa: PT027
            HostExampleLogic().process(node)
        self.delayDisplay("Test passed")
