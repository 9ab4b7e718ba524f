"""Review in the panel: slices are looked at, contours accepted, rejected and flagged, volumes plotted."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from P2SAMSlicerLib.mrml.review_nodes import seen
from P2SAMSlicerLib.mrml.slice_places import SlicePlaces
from phantom_results import add_visits, carried


@pytest.fixture
def reviewed(user: Any) -> Any:
    """A finished run to one follow-up, whose contour was chosen by itself and whose slice 8 is shown."""
    prior, segmentation, (followup,) = add_visits()
    user.choose(prior, segmentation, followup)
    user.run(carried(followup, reasons=("it is unlike the prior",)))
    return user


def row_of(user: Any) -> Any:
    """The contour that is reviewed."""
    return user.widget.panel._review.row


def looked_at(user: Any) -> set[int]:
    """Slices that count as looked at."""
    row = row_of(user)
    return set(seen(row.node, row.identifier))


def shown(user: Any, view: str = "Red") -> int | None:
    """The slice that a view shows."""
    import slicer

    node = slicer.app.layoutManager().sliceWidget(view).mrmlSliceNode()
    return SlicePlaces.of(row_of(user).followup).shown_in(node)


def scroll_to(user: Any, index: float) -> None:
    """Scroll the axial view, as with the mouse wheel."""
    import slicer

    slicer.app.layoutManager().sliceWidget("Red").sliceLogic().SetSliceOffset(4.0 * index - 30.0)


def stay(user: Any, seconds: float) -> None:
    """Let time go by."""
    end = time.monotonic() + seconds
    user.host.wait_until(lambda: time.monotonic() > end)


def accept(user: Any, name: str = "A. B.") -> None:
    """Look at all doubtful slices and accept."""
    for _ in range(3):
        user.click("nextDoubtfulButton")
    user.ui.reviewerEdit.text = name
    user.click("acceptButton")


def redraw(user: Any, index: int = 5) -> None:
    """Take the contour away from a slice, as in the Segment Editor."""
    import slicer.util

    row = row_of(user)
    mask = slicer.util.arrayFromSegmentBinaryLabelmap(row.node, row.identifier, row.followup)
    mask[index] = 0
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask, row.node, row.identifier, row.followup)


def test_the_tables_say_what_was_found_and_what_to_look_at(reviewed: Any) -> None:
    assert [each[:3] for each in reviewed.table("slicesTable")] == [
        ["8", "0.90", "yes"],
        ["6", "0.80", "must be"],
        ["7", "0.20", ""],
        ["9", "0.15", ""],
        ["5", "0.10", ""],
    ]
    assert reviewed.table("slicesTable")[0][3] == "blurred border (0.90)"
    assert reviewed.ui.reasonsLabel.text == "Why it is flagged: it is unlike the prior"
    assert shown(reviewed) == 8


def test_a_click_on_a_slice_brings_all_views_there(reviewed: Any) -> None:
    import slicer

    reviewed.click_row("slicesTable", 4)
    assert shown(reviewed) == 5
    for name in ("Green", "Yellow"):
        matrix = slicer.app.layoutManager().sliceWidget(name).mrmlSliceNode().GetSliceToRAS()
        assert matrix.GetElement(2, 3) == pytest.approx(4.0 * 5 - 30.0)
    assert looked_at(reviewed) == {5, 8}
    assert reviewed.table("slicesTable")[4][2] == "yes"


def test_a_slice_counts_as_looked_at_only_when_a_person_stays_on_it(reviewed: Any) -> None:
    began = time.monotonic()
    for index in (7, 6, 5):
        scroll_to(reviewed, index)
    assert looked_at(reviewed) == {8}
    reviewed.host.wait_until(lambda: looked_at(reviewed) != {8})
    assert time.monotonic() - began >= 0.38
    assert looked_at(reviewed) == {5, 8}
    assert reviewed.widget.panel._review.index == 5


def test_a_slice_that_was_only_passed_by_does_not_count_when_the_person_goes_back(reviewed: Any) -> None:
    scroll_to(reviewed, 6)
    scroll_to(reviewed, 8)
    stay(reviewed, 0.7)
    assert looked_at(reviewed) == {8}


def test_a_slice_that_was_only_passed_by_does_not_count_when_the_person_leaves_the_volume(reviewed: Any) -> None:
    scroll_to(reviewed, 6)
    scroll_to(reviewed, 100)
    stay(reviewed, 0.7)
    assert looked_at(reviewed) == {8}


def test_views_that_cut_through_the_slices_do_not_count(reviewed: Any) -> None:
    import slicer

    slicer.app.layoutManager().sliceWidget("Green").sliceLogic().SetSliceOffset(7.0)
    stay(reviewed, 0.6)
    assert looked_at(reviewed) == {8}


def test_next_doubtful_slice_goes_by_doubt_and_then_back_to_the_worst(reviewed: Any) -> None:
    reviewed.click("nextDoubtfulButton")
    assert shown(reviewed) == 6
    reviewed.click_row("slicesTable", 2)
    reviewed.click("nextDoubtfulButton")
    assert shown(reviewed) == 8


def test_the_shortcut_goes_to_the_next_doubtful_slice(reviewed: Any) -> None:
    from PySide6 import QtCore, QtGui, QtTest, QtWidgets

    panel = reviewed.host.panel(reviewed.widget)
    QtWidgets.QWidget.show(panel)
    QtWidgets.QWidget.activateWindow(panel)
    reviewed.host.process_events()
    assert QtGui.QKeySequence("N")
    QtTest.QTest.keyClick(panel, QtCore.Qt.Key.Key_N)
    reviewed.host.process_events()
    assert shown(reviewed) == 6


def test_a_contour_is_not_accepted_without_a_reviewer(reviewed: Any) -> None:
    reviewed.click("nextDoubtfulButton")
    reviewed.click("acceptButton")
    assert "who reviews?" in reviewed.refused()
    assert reviewed.table()[0][8] == "unreviewed"


def test_a_contour_is_not_accepted_before_its_doubtful_slices_were_looked_at(reviewed: Any) -> None:
    reviewed.ui.reviewerEdit.text = "A. B."
    reviewed.click("acceptButton")
    assert "1 doubtful slice(s) have not been looked at yet" in reviewed.refused()
    reviewed.click("nextDoubtfulButton")
    reviewed.click("acceptButton")
    assert reviewed.table()[0][8] == "accepted"


@pytest.mark.parametrize(("button", "word", "status"), [("rejectButton", "rejected", 3), ("flagButton", "flagged", 3)])
def test_reject_and_flag_need_no_look_but_a_name(reviewed: Any, button: str, word: str, status: int) -> None:
    import slicer

    reviewed.click(button)
    assert "who reviews?" in reviewed.refused()
    reviewed.ui.reviewerEdit.text = "A. B."
    reviewed.click(button)
    assert reviewed.table()[0][8] == word
    row = row_of(reviewed)
    assert slicer.vtkSlicerSegmentationsModuleLogic.GetSegmentStatus(row.segment) == status
    assert f"{word}, A. B., 20" in reviewed.ui.reasonsLabel.text
    assert row.node.GetDisplayNode().GetSegmentVisibility(row.identifier) == (word != "rejected")


def test_a_rejected_contour_that_is_accepted_after_all_is_drawn_again(reviewed: Any) -> None:
    reviewed.ui.reviewerEdit.text = "A. B."
    reviewed.click("rejectButton")
    accept(reviewed)
    row = row_of(reviewed)
    assert row.node.GetDisplayNode().GetSegmentVisibility(row.identifier)


def test_the_reviewers_name_is_kept_for_the_next_time(reviewed: Any) -> None:
    accept(reviewed, "Dr. Ж.")
    again = reviewed.host.reload(reviewed.widget)
    assert again.ui.reviewerEdit.text == "Dr. Ж."


def test_editing_takes_the_acceptance_back(reviewed: Any) -> None:
    import slicer

    accept(reviewed)
    assert slicer.vtkSlicerSegmentationsModuleLogic.GetSegmentStatus(row_of(reviewed).segment) == 2
    reviewed.host.select("SegmentEditor")
    redraw(reviewed)
    reviewed.host.select("P2SAMSlicer")
    assert reviewed.table()[0][8] == "changed since the decision, edited"
    assert slicer.vtkSlicerSegmentationsModuleLogic.GetSegmentStatus(row_of(reviewed).segment) == 1
    assert "A. B." not in reviewed.ui.reasonsLabel.text


def test_the_segment_editor_opens_with_the_contour_and_its_follow_up(reviewed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import slicer

    asked: list[tuple[str, Any]] = []
    known = reviewed.host.facts.visible("qMRMLSegmentEditorWidget")

    class Editor:
        """Stands in for the editor's widget: names are checked against the tables."""

        def __getattr__(self, name: str) -> Any:
            assert name in known, name
            return lambda value: asked.append((name, value))

    class Panel:
        """The module's panel and its Python widget in one."""

        editor = Editor()

        def self(self) -> Any:
            return self

        def _h_enter(self) -> None:
            asked.append(("enter", None))

        def _h_exit(self) -> None: ...

    module = slicer.modules.segmenteditor
    monkeypatch.setattr(type(module), "widgetRepresentation", lambda _module: Panel())
    row = row_of(reviewed)
    reviewed.click("segmentEditorButton")
    assert asked == [
        ("setSegmentationNode", row.node),
        ("setSourceVolumeNode", row.followup),
        ("setCurrentSegmentID", row.identifier),
    ]
    assert not reviewed.widget.parent.isEntered


def test_only_the_visit_that_is_reviewed_is_drawn(user: Any) -> None:
    import slicer

    prior, segmentation, followups = add_visits(2)
    user.choose(prior, segmentation, *followups)
    user.run(*(carried(node) for node in followups))
    for chosen in (0, 1):
        user.click_row("resultsTable", chosen)
        drawn = [row.node.GetDisplayVisibility() for row in user.widget.panel._review.rows]
        assert drawn == [number == chosen for number in (0, 1)]
        assert not segmentation.GetDisplayVisibility()
        for node in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
            assert node.GetBackgroundVolumeID() == followups[chosen].GetID()
        markups = [node for node in slicer.util.getNodesByClass("vtkMRMLMarkupsFiducialNode") if node.GetDisplayVisibility()]
        assert len(markups) == 2
        assert all(node.GetName().startswith(followups[chosen].GetName() + " ") for node in markups)
        assert not any(name in node.GetName() for node in markups for name in ["CT 2"] * (chosen == 0))


def test_the_plot_has_the_volumes_by_visit(user: Any) -> None:
    import slicer.util
    from P2SAMSlicerLib.mrml.volume_chart import NAME_COLUMN

    prior, segmentation, followups = add_visits(3)
    user.choose(prior, segmentation, *followups)
    user.run(*(carried(node) for node in followups))
    user.choose(prior, segmentation, followups[0])
    user.run(carried(followups[0]))  # its node is now the last of the scene
    for _ in range(2):
        user.click("plotButton")
    (table,) = slicer.util.getNodesByClass("vtkMRMLTableNode")
    names = [table.GetTable().GetValueByName(row, NAME_COLUMN).ToString() for row in range(4)]
    assert names == ["Phantom prior CT", *(node.GetName() for node in followups)]
    volumes = [table.GetTable().GetValueByName(row, "tumour").ToDouble() for row in range(4)]
    np.testing.assert_allclose(volumes, [10.0, 6.125, 6.125, 6.125], rtol=1e-3)
    (chart,) = slicer.util.getNodesByClass("vtkMRMLPlotChartNode")
    (series,) = slicer.util.getNodesByClass("vtkMRMLPlotSeriesNode")
    assert chart.GetNthPlotSeriesNodeID(0) == series.GetID()


def test_a_follow_up_that_is_bent_afterwards_does_not_break_the_panel(reviewed: Any) -> None:
    from scene_content import add_bent_transform

    row = row_of(reviewed)
    row.followup.SetAndObserveTransformNodeID(add_bent_transform().GetID())
    reviewed.click_row("slicesTable", 1)
    assert "not linear" in reviewed.refused()
    reviewed.widget.enter()
    assert "not linear" in reviewed.table()[0][8]
    assert not reviewed.ui.acceptButton.enabled
    reviewed.click_row("resultsTable", 0)
    assert "not linear" in reviewed.ui.reasonsLabel.text
    row.followup.SetAndObserveTransformNodeID(None)
    reviewed.widget.enter()
    reviewed.click_row("resultsTable", 0)
    assert reviewed.ui.acceptButton.enabled


@pytest.mark.parametrize("damage", ["", "{}", '"x"', "cut", "no segments"])
def test_a_damaged_record_takes_the_figures_away_and_not_the_contour(reviewed: Any, damage: str) -> None:
    import json

    text = row_of(reviewed).node.GetNodeReference("P2SAMSlicer.record")
    content = json.loads(text.GetText())
    whole = text.GetText()
    text.SetText({"cut": whole[:-5], "no segments": json.dumps({**content, "summary": {}})}.get(damage, damage))
    reviewed.widget.enter()
    assert reviewed.table() == [["Phantom follow-up CT", "tumour", "", "6.1", "", "", "", "", "unreviewed"]]
    reviewed.click_row("resultsTable", 0)
    assert "its record cannot be read (damaged)" in reviewed.ui.reasonsLabel.text
    assert [each[:3] for each in reviewed.table("slicesTable")] == [
        # Which of them are doubtful cannot be known: all have to be looked at.
        *(["5", "", "must be"], ["9", "", "must be"], ["6", "", "must be"], ["7", "", "yes"], ["8", "", "yes"]),
    ]
    assert not reviewed.ui.editPromptsButton.enabled


def test_a_removed_result_leaves_the_tables_and_takes_its_prompts_along(reviewed: Any) -> None:
    import slicer.util

    slicer.mrmlScene.RemoveNode(row_of(reviewed).node)
    reviewed.host.process_events()
    assert reviewed.table() == []
    assert reviewed.table("slicesTable") == []
    assert not reviewed.ui.acceptButton.enabled
    assert slicer.util.getNodesByClass("vtkMRMLMarkupsFiducialNode") == []
    assert [node for node in slicer.util.getNodesByClass("vtkMRMLTextNode") if "record" in (node.GetName() or "")] == []


def test_results_of_a_loaded_scene_are_reviewed_on(user: Any, tmp_path: Path) -> None:
    import slicer.util

    prior, segmentation, followups = add_visits(2)
    user.choose(prior, segmentation, followups[1])
    user.run(carried(followups[1]))
    user.ui.registrationSelector.setCurrentText("rigid")
    user.ui.partsSpinBox.value = 8
    save_scene(tmp_path / "szene é")
    del prior, segmentation, followups
    user.host.select("SegmentEditor")
    user.host.close_scene()
    slicer.mrmlScene.SetURL(str(tmp_path / "szene é" / "scene.mrml"))
    assert slicer.mrmlScene.Connect() == 1
    user.host.select("P2SAMSlicer")
    assert user.ui.priorVolumeSelector.currentNode().GetName() == "Phantom prior CT"
    assert [node.GetName() for node in user.ui.followUpSelector.checkedNodes()] == ["Phantom follow-up CT 2"]
    assert (user.parameters.registration, user.parameters.parts) == ("rigid", 8)
    assert user.ui.partsSpinBox.value == 8
    assert user.table()[0][:3] == ["Phantom follow-up CT 2", "tumour", "10.0"]
    user.click_row("resultsTable", 0)
    assert looked_at(user) == {6, 8}
    accept(user)
    assert user.table()[0][8] == "accepted"
    user.ui.editPromptsButton.checked = True
    assert row_of(user).node.GetNodeReference("P2SAMSlicer.positivePoints").GetNumberOfControlPoints() == 5


def save_scene(folder: Path) -> None:
    """Save the scene and all its data, as in an MRB."""
    import slicer.util

    folder.mkdir()
    suffixes = {
        "vtkMRMLScalarVolumeNode": "nrrd",
        "vtkMRMLSegmentationNode": "seg.nrrd",
        "vtkMRMLTextNode": "txt",
        "vtkMRMLMarkupsFiducialNode": "mrk.json",
        "vtkMRMLMarkupsROINode": "mrk.json",
    }
    for kind, suffix in suffixes.items():
        for number, node in enumerate(slicer.util.getNodesByClass(kind)):
            if kind == "vtkMRMLTextNode" and "record" not in (node.GetName() or ""):
                continue
            node.AddDefaultStorageNode()
            storage = node.GetStorageNode()
            storage.SetFileName(str(folder / f"{kind}{number}.{suffix}"))
            assert storage.WriteData(node) == 1
    slicer.mrmlScene.SetURL(str(folder / "scene.mrml"))
    assert slicer.mrmlScene.Commit() == 1
