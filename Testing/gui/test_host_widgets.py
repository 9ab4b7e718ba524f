"""The stand-ins work as the widgets of Slicer and CTK that they stand for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest


def add_volume(name: str) -> Any:
    """A small volume node."""
    import slicer.util

    return slicer.util.addVolumeFromArray(np.zeros((2, 3, 4)), name=name)


def selector(kind: str = "qMRMLNodeComboBox") -> Any:
    """A selector of volumes, bound to the scene."""
    import slicer

    made = getattr(slicer, kind)()
    made.nodeTypes = ["vtkMRMLScalarVolumeNode"]
    made.noneEnabled = True
    made.setMRMLScene(slicer.mrmlScene)
    return made


def test_a_node_selector_follows_nodes_that_come_go_and_are_renamed(host: Any) -> None:
    import slicer

    made = selector()
    told: list[Any] = []
    made.connect("currentNodeChanged(vtkMRMLNode*)", told.append)
    first, second = add_volume("first"), add_volume("second")
    assert made.nodeCount() == 2
    assert made.currentNode() is None
    made.setCurrentNode(first)
    first.SetName("renamed")
    assert made._h_combo.currentText == "renamed"
    slicer.mrmlScene.RemoveNode(first)
    assert told[0] is first
    assert made.currentNode() is second
    first = second = None
    host.close_scene()
    assert made.currentNode() is None


def test_a_node_selector_without_none_takes_the_first_node(host: Any) -> None:
    made = selector()
    made.noneEnabled = False
    volume = add_volume("only")
    assert made.currentNode() is volume


def test_a_node_selector_hides_what_the_editors_hide(host: Any) -> None:
    made = selector()
    volume = add_volume("hidden")
    volume.HideFromEditorsOn()
    volume.Modified()
    assert made.nodeCount() == 0


def test_a_user_chooses_in_a_node_selector(host: Any) -> None:
    made = selector()
    volume = add_volume("one")
    made._h_combo.setCurrentIndex(1)
    assert made.currentNode() is volume


def test_several_volumes_can_be_checked_and_a_removed_one_is_no_longer(host: Any) -> None:
    import slicer

    made = selector("qMRMLCheckableNodeComboBox")
    told: list[int] = []
    made.connect("checkedNodesChanged()", lambda: told.append(len(made.checkedNodes())))
    first, second = add_volume("first"), add_volume("second")
    made.check(first)
    made.setCheckState(second, 2)
    slicer.mrmlScene.RemoveNode(first)
    assert told == [1, 2, 1]
    assert made.checkedNodes() == (second,)


def test_segments_can_be_chosen_and_follow_their_node(host: Any) -> None:
    import slicer

    contours = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    identifiers = [contours.GetSegmentation().AddEmptySegment("", name) for name in ("GTV", "Lung", "Heart")]
    table = slicer.qMRMLSegmentsTableView()
    table.setMRMLScene(slicer.mrmlScene)
    table.setSegmentationNode(contours)
    table.setSelectedSegmentIDs([identifiers[0], identifiers[2]])
    assert table.selectedSegmentIDs() == (identifiers[0], identifiers[2])
    contours.GetSegmentation().RemoveSegment(identifiers[0])
    assert table.displayedSegmentIDs() == tuple(identifiers[1:])
    chooser = slicer.qMRMLSegmentSelectorWidget()
    chooser.setMRMLScene(slicer.mrmlScene)
    chooser.setCurrentNode(contours)
    chooser.setCurrentSegmentID(identifiers[2])
    assert (chooser.currentSegmentID(), len(chooser.segmentIDs())) == (identifiers[2], 2)


def test_a_collapsed_section_hides_its_contents(host: Any) -> None:
    import ctk
    import qt

    section = ctk.ctkCollapsibleButton()
    layout = qt.QVBoxLayout(section)
    shown, hidden = qt.QLabel("shown"), qt.QLabel("hidden")
    hidden.hide()
    for label in (shown, hidden):
        layout.addWidget(label)
    told: list[bool] = []
    section.connect("contentsCollapsed(bool)", told.append)
    section.collapsed = True
    assert (shown.isVisibleTo(section), hidden.isVisibleTo(section)) == (False, False)
    late = qt.QLabel("late")
    layout.addWidget(late)
    host.process_events()
    host.process_events()
    section.collapsed = False
    assert [w.isVisibleTo(section) for w in (shown, hidden)] == [True, False]
    assert told == [True, False]


def test_a_slider_keeps_to_its_range_and_tells_changes(host: Any) -> None:
    import ctk

    slider = ctk.ctkSliderWidget()
    slider.maximum = 10
    told: list[float] = []
    slider.valueChanged.connect(told.append)
    slider.value = 4
    slider.value = 25
    slider._h_slider.setValue(500)
    assert told == [4.0, 10.0, 5.0]


def test_a_click_gives_its_state_and_surplus_arguments_are_dropped(host: Any) -> None:
    import qt

    button = qt.QPushButton()
    told: list[Any] = []
    button.connect("clicked(bool)", lambda: told.append("none"))
    button.clicked.connect(lambda *arguments: told.append(arguments))
    button.click()
    button.disconnect("clicked(bool)", told.append)
    assert told == ["none", (False,)]


def test_lists_come_back_as_tuples_and_settings_are_kept(host: Any) -> None:
    import qt
    import slicer.util

    parent = qt.QWidget()
    child = qt.QLabel(parent)
    child.name = "someLabel"
    assert parent.children() == (child,)
    assert parent.someLabel is child
    slicer.app.userSettings().setValue("P2SAM/device", "cpu")
    assert slicer.util.settingsValue("P2SAM/device", "") == "cpu"
    assert str(host.folder) in slicer.app.userSettings().fileName()


def test_a_dialog_without_a_prepared_answer_fails_and_with_one_is_answered(host: Any) -> None:
    import qt
    import slicer.util

    with pytest.raises(AssertionError, match="wait for ever"):
        slicer.util.confirmOkCancelDisplay("Overwrite?")
    host.dialogs.answer("message", qt.QMessageBox.Ok)
    assert slicer.util.confirmOkCancelDisplay("Overwrite?") is True
    host.dialogs.answer("path", "/some/where")
    assert qt.QFileDialog.getExistingDirectory(None, "Choose", "") == "/some/where"
    with pytest.raises(AssertionError, match="wait for ever"):
        qt.QDialog().exec_()
    slicer.util.errorDisplay("It broke.")
    assert host.dialogs.texts()[-1] == "It broke."


def test_waiting_runs_the_event_loop_and_ends_in_time(host: Any) -> None:
    import qt

    told: list[int] = []
    qt.QTimer.singleShot(20, lambda: told.append(1))
    host.wait_until(lambda: told, timeout=5)
    with pytest.raises(AssertionError, match="not within"):
        host.wait_until(lambda: False, timeout=0.05)


def test_a_process_tells_its_output_and_end(host: Any) -> None:
    import sys

    import qt

    process = qt.QProcess()
    told: list[Any] = []
    process.connect("finished(int,QProcess::ExitStatus)", told.append)
    process.connect("readyReadStandardOutput()", lambda: told.append(process.readAllStandardOutput().data()))
    process.start(sys.executable, ["-c", "print('hello'); raise SystemExit(3)"])
    host.wait_until(lambda: 3 in told, timeout=30)
    assert b"hello" in told[0]


def test_a_widget_of_another_type_or_without_limits_is_not_bound(host: Any) -> None:
    import ctk
    import qt
    import slicer
    from slicer.parameterNodeWrapper import Minimum, parameterNodeWrapper

    class Parameters:
        """Annotated below: here the annotations would be texts that name what only this function knows."""

    Parameters.__annotations__ = {"size": Annotated[float, Minimum(0)], "text": str}
    wrapped = parameterNodeWrapper(Parameters)(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScriptedModuleNode"))
    with pytest.raises(RuntimeError, match="unbounded"):
        wrapped.connectParametersToGui({"size": ctk.ctkSliderWidget()})
    with pytest.raises(RuntimeError, match="Unable"):
        wrapped.connectParametersToGui({"text": qt.QPlainTextEdit()})
    with pytest.raises(ValueError, match="Cannot find"):
        wrapped.connectParametersToGui({"other": qt.QLineEdit()})
    with pytest.raises(ValueError, match="greater than"):
        wrapped.size = -1
    assert wrapped.size == 0


def test_the_pytorch_extension_can_be_missing_or_refuse(start_host: Callable[..., Any]) -> None:
    import sys

    one = start_host(pytorch=False)
    with pytest.raises(ImportError):
        __import__("PyTorchUtils")
    assert "PyTorchUtils" not in sys.modules
    assert one.torch.names() == []


def test_pictures_show_the_panel_contours_and_markups(host: Any, tmp_path: Path) -> None:
    import slicer.util
    from host.slice_views import panel_picture, slice_picture
    from PIL import Image

    volume = slicer.util.addVolumeFromArray(np.zeros((10, 64, 64), dtype=np.int16), ijkToRAS=np.diag([1.0, 1.0, 2.0, 1.0]))
    mask = np.zeros((10, 64, 64), dtype=np.uint8)
    mask[3:7, 20:40, 20:40] = 1
    contours = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    contours.CreateDefaultDisplayNodes()
    contours.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    segment = contours.GetSegmentation().AddEmptySegment("", "GTV", (0.0, 1.0, 0.0))
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask, contours, segment, volume)
    points = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode")
    points.CreateDefaultDisplayNodes()
    points.GetDisplayNode().SetSelectedColor(1.0, 0.0, 0.0)
    points.AddControlPoint(10.0, 10.0, 10.0)
    slicer.util.setSliceViewerLayers(background=volume, fit=True)
    slicer.app.layoutManager().sliceWidget("Red").mrmlSliceNode().JumpSliceByOffsetting(30.0, 30.0, 10.0)
    slice_picture("Red", tmp_path / "axial.png", size=(256, 256))
    picture = np.asarray(Image.open(tmp_path / "axial.png").convert("RGB")).astype(int)
    assert picture.shape == (256, 256, 3)
    assert np.sum(picture[..., 1] - picture[..., 0] > 60) > 500
    assert np.sum((picture[..., 0] > 150) & (picture[..., 1] < 80)) > 5
    panel = slicer.qMRMLNodeComboBox()
    panel_picture(panel, tmp_path / "panel.png")
    assert Image.open(tmp_path / "panel.png").width == 460
