"""The panel before a run: what is chosen by itself, what is missing, how segments are carried."""

from __future__ import annotations

from typing import Any

from phantom_results import add_segment, add_visits, carried


def test_the_panel_opens_with_nothing_chosen(user: Any) -> None:
    assert user.ui.priorVolumeSelector.currentNode() is None
    assert user.ui.followUpSelector.checkedNodes() == ()
    assert user.hint == "choose the prior CT"
    assert user.ui.packagesSection.isHidden()
    assert user.ui.progressBar.isHidden()
    assert user.table() == []
    for name in ("nextDoubtfulButton", "acceptButton", "plotButton", "editPromptsButton", "updateButton"):
        assert not getattr(user.ui, name).enabled


def test_apply_says_what_is_missing_until_nothing_is(user: Any) -> None:
    prior, segmentation, (followup,) = add_visits()
    user.ui.priorVolumeSelector.setCurrentNode(prior)
    assert user.hint == "choose the segmentation of the prior CT"
    user.ui.priorSegmentationSelector.setCurrentNode(segmentation)
    assert user.hint == "choose at least one follow-up CT"
    user.ui.followUpSelector.check(prior)
    assert "is the prior; choose another volume" in user.hint
    user.ui.followUpSelector.uncheck(prior)
    user.ui.followUpSelector.check(followup)
    assert user.ui.applyButton.enabled
    assert user.ui.carryTable.rowCount == 1
    import qt

    user.ui.carryTable.item(0, 0).setCheckState(qt.Qt.Unchecked)
    assert user.hint == "choose at least one segment to carry"


def test_one_contoured_ct_and_one_other_are_chosen_by_themselves(user: Any) -> None:
    user.host.select("SegmentEditor")
    prior, segmentation, (followup,) = add_visits()
    user.host.select("P2SAMSlicer")
    assert user.ui.priorVolumeSelector.currentNode() is prior
    assert user.ui.priorSegmentationSelector.currentNode() is segmentation
    assert user.ui.followUpSelector.checkedNodes() == (followup,)
    user.apply()
    assert len(user.worker.sent) == 1


def test_of_several_other_cts_none_is_chosen_by_itself(user: Any) -> None:
    user.host.select("SegmentEditor")
    prior, _segmentation, _followups = add_visits(2)
    user.host.select("P2SAMSlicer")
    assert user.ui.priorVolumeSelector.currentNode() is prior
    assert user.hint == "choose at least one follow-up CT"


def test_a_contour_that_was_carried_is_not_chosen_as_a_prior(user: Any) -> None:
    prior, segmentation, (followup,) = add_visits()
    user.choose(prior, segmentation, followup)
    user.run(carried(followup))
    import slicer

    slicer.mrmlScene.RemoveNode(segmentation)
    # Slicer's selector goes on to the next segmentation, which is the result.
    assert user.hint == "Phantom follow-up CT propagated: its contours are those of the follow-up Phantom follow-up CT"
    user.choose(None, None)
    user.host.select("SegmentEditor")
    user.host.select("P2SAMSlicer")
    assert user.ui.priorSegmentationSelector.currentNode() is None


def test_label_maps_are_no_follow_ups(user: Any) -> None:
    import slicer

    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "label map")
    assert user.ui.followUpSelector.nodeCount() == 0
    assert user.ui.priorVolumeSelector.nodeCount() == 0


def test_margins_and_organs_are_carried_by_the_registration_and_a_person_may_say_otherwise(user: Any) -> None:
    prior, segmentation, (followup,) = add_visits()
    add_segment(segmentation, prior, "PTV_60")
    user.choose(prior, segmentation, followup)
    table = user.ui.carryTable
    assert [table.cellWidget(row, 1).currentIndex for row in range(2)] == [0, 1]
    assert user.widget.panel.request().options.with_model == ()
    assert user.widget.panel.request().options.registration_only == ()
    table.cellWidget(0, 1).setCurrentIndex(1)
    table.cellWidget(1, 1).setCurrentIndex(0)
    options = user.widget.panel.request().options
    assert (options.registration_only, options.with_model) == (("tumour",), ("PTV_60",))
    import qt

    table.item(1, 0).setCheckState(qt.Qt.Unchecked)
    options = user.widget.panel.request().options
    assert (options.registration_only, options.with_model) == (("tumour",), ())


def test_what_was_said_of_one_segmentation_does_not_hold_for_another(user: Any) -> None:
    import qt
    import slicer

    prior, segmentation, (followup,) = add_visits()
    other = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "organs")
    other.CreateDefaultDisplayNodes()
    other.SetReferenceImageGeometryParameterFromVolumeNode(prior)
    add_segment(other, prior, "Heart", segmentation.GetSegmentation().GetNthSegmentID(0))
    user.choose(prior, segmentation, followup)
    user.ui.carryTable.item(0, 0).setCheckState(qt.Qt.Unchecked)
    user.choose(prior, other, followup)
    assert user.ui.carryTable.item(0, 0).text() == "Heart"
    assert user.ui.carryTable.item(0, 0).checkState() == qt.Qt.Checked
    assert user.ui.carryTable.cellWidget(0, 1).currentIndex == 1
    assert user.widget.panel.request().options.with_model == ()


def test_a_segment_that_is_renamed_is_carried_as_its_new_name_says(user: Any) -> None:
    prior, segmentation, (followup,) = add_visits()
    user.choose(prior, segmentation, followup)
    user.host.select("SegmentEditor")
    segmentation.GetSegmentation().GetNthSegment(0).SetName("PTV")
    user.host.select("P2SAMSlicer")
    assert user.ui.carryTable.cellWidget(0, 1).currentIndex == 1
    assert user.widget.panel.request().options.with_model == ()


def test_what_a_person_said_stays_when_another_segment_is_renamed(user: Any) -> None:
    prior, segmentation, (followup,) = add_visits()
    user.choose(prior, segmentation, followup)
    user.ui.carryTable.cellWidget(0, 1).setCurrentIndex(1)
    add_segment(segmentation, prior, "Heart")
    user.widget.enter()
    assert [user.ui.carryTable.cellWidget(row, 1).currentIndex for row in range(2)] == [1, 1]
    assert user.widget.panel.request().options.registration_only == ("tumour",)


def test_two_segments_of_one_name_are_told(user: Any) -> None:
    prior, segmentation, (followup,) = add_visits()
    add_segment(segmentation, prior, "tumour")
    user.choose(prior, segmentation, followup)
    assert user.hint == "two segments are called 'tumour': rename one of them"


def test_a_chosen_volume_that_is_removed_is_missing_again(user: Any) -> None:
    import slicer

    prior, segmentation, followups = add_visits(2)
    user.choose(prior, segmentation, *followups)
    slicer.mrmlScene.RemoveNode(followups[0])
    user.host.process_events()
    assert user.ui.applyButton.enabled
    assert user.widget.panel.request().followups == (followups[1],)
    slicer.mrmlScene.RemoveNode(followups[1])
    user.host.process_events()
    assert user.hint == "choose at least one follow-up CT"


def test_a_follow_up_that_is_bent_is_refused_before_the_run_and_not_after_it(user: Any) -> None:
    from scene_content import add_bent_transform

    prior, segmentation, (followup,) = add_visits()
    followup.SetAndObserveTransformNodeID(add_bent_transform().GetID())
    user.choose(prior, segmentation, followup)
    assert "harden it first" in user.hint
    user.parameters.harden = True
    assert "harden it first" in user.hint
    followup.SetAndObserveTransformNodeID(None)
    user.widget.enter()
    assert user.ui.applyButton.enabled


def test_the_panel_left_and_entered_again_has_the_same_choice(user: Any) -> None:
    prior, segmentation, followups = add_visits(2)
    user.choose(prior, segmentation, followups[1])
    chosen = {"device": "cpu", "registration": "rigid", "mode": "paper", "modality": "cbct"}
    for name, value in chosen.items():
        getattr(user.ui, f"{name}Selector").setCurrentText(value)
    for _ in range(2):
        user.host.select("SegmentEditor")
        user.host.select("P2SAMSlicer")
    assert user.ui.followUpSelector.checkedNodes() == (followups[1],)
    assert user.ui.applyButton.enabled
    for name, value in chosen.items():
        assert getattr(user.parameters, name) == value
        assert getattr(user.ui, f"{name}Selector").currentText == value


def test_the_sample_visits_are_offered_in_the_module_sample_data(user: Any) -> None:
    import SampleData
    import slicer

    slicer.app._emit("startupCompleted()")
    (source,) = SampleData.SampleDataLogic.sampleDataSourcesByCategory("P2SAMSlicer")
    assert source.sampleName == "P2SAMSlicerLung"


def test_the_panel_fits_into_the_width_that_slicer_gives_it(user: Any) -> None:
    from PySide6 import QtWidgets

    user.ui.advancedSection.collapsed = False
    user.host.process_events()
    panel = user.host.panel(user.widget)
    assert QtWidgets.QWidget.minimumSizeHint(panel).width() <= 460
    header = user.ui.resultsTable.horizontalHeader()
    shown = [user.ui.resultsTable.horizontalHeaderItem(header.logicalIndex(place)).text() for place in range(4)]
    assert shown == ["Visit", "Segment", "Status", "Outcome"]


def test_the_sections_come_in_the_order_of_the_work(user: Any) -> None:
    names = ("packagesSection", "priorSection", "followUpSection", "runSection", "reviewSection", "advancedSection")
    layout = user.ui.priorSection.parentWidget().layout()
    places = [layout.indexOf(getattr(user.ui, name)) for name in names]
    assert min(places) >= 0
    assert places == sorted(places)


def test_without_packages_the_sample_and_the_console_say_which_are_missing(user: Any, monkeypatch: Any) -> None:
    import pytest
    from P2SAMSlicerLib import packages
    from P2SAMSlicerLib.mrml.sample_visits import add_lung_visits

    prior, segmentation, followups = add_visits()
    monkeypatch.setattr(packages, "missing_packages", lambda: packages.MissingPackages((), (), ("filelock>=3",)))
    for attempt in (add_lung_visits, lambda: user.logic.propagate(prior, segmentation, followups)):
        with pytest.raises(ValueError, match="missing: filelock>=3"):
            attempt()
    assert not user.logic.running
