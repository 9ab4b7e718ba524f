"""A patient of the subject hierarchy: the contoured visit is the prior, the later ones are follow-ups, doubts are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.mrml.patient_visits import visits_of
from P2SAMSlicerLib.mrml.result_nodes import PRIOR_ROLE
from scene_content import add_segmentation, add_volume, blob

pytestmark = pytest.mark.usefixtures("scene")


class Patient:
    """A patient in the scene's subject hierarchy."""

    def __init__(self, name: str = "somebody") -> None:
        import slicer

        self.hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
        self.item = self.hierarchy.CreateSubjectItem(self.hierarchy.GetSceneItemID(), name)

    def visit(self, date: str, *names: str, contoured: int = 0) -> list[Any]:
        """A study with volumes of these names, and so many segmentations; returns the nodes."""
        import slicer

        study = self.hierarchy.CreateStudyItem(self.item, f"study {date}")
        attribute = slicer.vtkMRMLSubjectHierarchyConstants.GetDICOMStudyDateAttributeName()
        if date:
            self.hierarchy.SetItemAttribute(study, attribute, date)
        nodes = [add_volume(np.eye(4), name=name) for name in names]
        nodes += [add_segmentation(nodes[0], {"GTV": blob()}) for _ in range(contoured)]
        for node in nodes:
            self.hierarchy.CreateItem(study, node)
        return nodes


def test_the_earliest_contoured_visit_is_the_prior_and_later_ones_follow_by_date() -> None:
    patient = Patient()
    (last,) = patient.visit("20240301", "third")
    patient.visit("20231201", "too early")
    prior, contours = patient.visit("20240101", "first", contoured=1)
    (second,) = patient.visit("20240201", "second")
    for given in (patient.item, "somebody"):
        visits = visits_of(given)
        assert (visits.prior, visits.segmentation) == (prior, contours)
        assert visits.followups == (second, last)


def test_contours_that_were_carried_are_not_taken_for_a_physicians() -> None:
    patient = Patient()
    _, carried = patient.visit("20230101", "earliest", contoured=1)
    _, drawn = patient.visit("20240101", "first", contoured=1)
    patient.visit("20240201", "second")
    carried.SetNodeReferenceID(PRIOR_ROLE, drawn.GetID())
    assert visits_of(patient.item).segmentation == drawn


def test_what_a_person_has_to_decide_is_refused_in_words() -> None:
    patient = Patient()
    patient.visit("20240101", "first")
    with pytest.raises(InputError, match="none of the patient's visits has a segmentation"):
        visits_of(patient.item)
    patient.visit("20240201", "second", contoured=2)
    with pytest.raises(InputError, match="no visit is later"):
        visits_of(patient.item)
    patient.visit("20240301", "third")
    with pytest.raises(InputError, match="several segmentations"):
        visits_of(patient.item)


def test_a_later_visit_with_two_cts_or_without_a_date_is_refused() -> None:
    patient = Patient()
    patient.visit("20240101", "first", contoured=1)
    patient.visit("20240201", "thin", "thick")
    with pytest.raises(InputError, match=r"several volumes \(thin, thick\)"):
        visits_of(patient.item)
    patient.visit("", "undated")
    with pytest.raises(InputError, match="no study date for: study"):
        visits_of(patient.item)


def test_another_visit_on_the_day_of_the_contoured_one_is_not_left_out_in_silence() -> None:
    patient = Patient()
    patient.visit("20240101", "morning", contoured=1)
    patient.visit("20240101", "evening")
    patient.visit("20240201", "second")
    with pytest.raises(InputError, match="study 20240101: of the same day as the contoured visit"):
        visits_of(patient.item)


def test_an_unknown_or_ambiguous_patient_is_refused() -> None:
    Patient("twin"), Patient("twin")
    for name, count in (("nobody", 0), ("twin", 2)):
        with pytest.raises(InputError, match=f"{count} patients of that name"):
            visits_of(name)
    with pytest.raises(InputError, match="is no patient"):
        visits_of(0)
