"""Which contours of a result go out as DICOM, and what is said of each."""

from __future__ import annotations

import numpy as np
import pytest
from P2SAMSlicerLib.dicom.export_contours import all_reviewed, export_contours
from P2SAMSlicerLib.dicom.segment_codes import interpreted_type, segment_codes
from P2SAMSlicerLib.report.review_record import ReviewRecord
from P2SAMSlicerLib.result import Outcome
from P2SAMSlicerLib.result_files import followup_segments
from small_visits import FOLLOWUP_GRID, TERMINOLOGY, segment, segment_result, visit_result, without_contour

NOTHING = np.zeros(FOLLOWUP_GRID.shape, dtype=np.bool_)


def review(name: str, decision: str, *, edited: bool = False) -> dict[str, ReviewRecord]:
    return {name: ReviewRecord(name, decision, "Dr A", "2024-03-01T10:00:00+00:00", edited=edited)}


def mixed() -> tuple[str, ...]:
    return ("GTV", "GTVn", "GTVgone", "PTV")


def mixed_visit() -> object:
    return visit_result(
        segment_result(segment("GTV")),
        segment_result(segment("GTVn"), outcome=Outcome.FLAGGED, reasons=("grew by 300 %",)),
        without_contour(segment("GTVgone"), Outcome.NO_LESION, "looks like lung"),
        without_contour(segment("PTV"), Outcome.REGISTRATION_ONLY, "a margin"),
        without_contour(segment("GTVfar"), Outcome.TOO_SMALL, "0.02 ml", registered_mask=NOTHING),
    )


def test_the_contours_are_those_of_the_results_own_file() -> None:
    visit = mixed_visit()
    contours = export_contours(visit)  # type: ignore[arg-type]
    assert [each.name for each in contours] == [each.name for each in followup_segments(visit)]  # type: ignore[arg-type]
    assert all(each.mask.any() for each in contours)


def test_a_lesion_that_is_gone_keeps_its_registered_contour_and_says_so() -> None:
    (gone,) = [each for each in export_contours(mixed_visit()) if each.source_name == "GTVgone"]  # type: ignore[arg-type]
    assert gone.comparison
    assert "No lesion found" in gone.description
    assert "looks like lung" in gone.description


def test_a_follow_up_without_any_contour_gives_none() -> None:
    visit = visit_result(without_contour(segment("GTV"), Outcome.TOO_SMALL, "0.02 ml", registered_mask=NOTHING))
    assert export_contours(visit) == ()


def test_what_nobody_reviewed_is_automatic_and_says_unreviewed() -> None:
    for each in export_contours(mixed_visit()):  # type: ignore[arg-type]
        assert each.algorithm == "AUTOMATIC"
        assert not each.reviewed
        assert "UNREVIEWED" in each.description
        assert "research use only" in each.description
        assert each.name in each.description


def test_an_accepted_contour_names_its_reviewer_and_is_still_no_approval() -> None:
    contour, registered = export_contours(visit_result(), review("GTV", "accepted"))
    assert contour.reviewed
    assert contour.reviewer == "Dr A"
    assert "UNREVIEWED" not in contour.description
    assert "not an approval" in contour.description
    assert not registered.reviewed
    assert all_reviewed((contour, registered))


@pytest.mark.parametrize("decision", ["flagged", "unreviewed"])
def test_any_other_decision_leaves_it_unreviewed(decision: str) -> None:
    contour, _ = export_contours(visit_result(), review("GTV", decision))
    assert "UNREVIEWED" in contour.description
    assert not all_reviewed((contour,))


def test_an_edited_contour_is_semiautomatic_whether_reviewed_or_not() -> None:
    for decision in ("accepted", "unreviewed"):
        contour, registered = export_contours(visit_result(), review("GTV", decision, edited=True))
        assert contour.algorithm == "SEMIAUTOMATIC"
        assert registered.algorithm == "AUTOMATIC"


def test_a_rejected_contour_stays_behind_and_the_registered_one_says_why() -> None:
    (registered,) = export_contours(visit_result(), review("GTV", "rejected"))
    assert registered.comparison
    assert "rejected" in registered.description
    assert not all_reviewed((registered,))


def test_a_structure_that_was_registered_only_can_be_reviewed_by_its_own_name() -> None:
    visit = visit_result(without_contour(segment("PTV"), Outcome.REGISTRATION_ONLY, "a margin"))
    (margin,) = export_contours(visit, review("PTV", "accepted"))
    assert margin.reviewed
    (margin,) = export_contours(visit, review("PTV", "rejected"))
    assert "REJECTED" in margin.description, "the target is not dropped"


def test_one_unreviewed_contour_makes_all_of_them_unreviewed() -> None:
    visit = visit_result(segment_result(segment("GTV")), segment_result(segment("GTVn")))
    assert not all_reviewed(export_contours(visit, review("GTV", "accepted")))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("GTVp", "GTV"),
        ("IGTV", "GTV"),
        ("CTV_High", "CTV"),
        ("PTV_5040", "PTV"),
        ("zPTV", "PTV"),
        ("ITV", ""),
        ("Lung_L", "ORGAN"),
        ("Body", "EXTERNAL"),
        ("External", "EXTERNAL"),
        ("Skin", "ORGAN"),
        ("tumour", "GTV"),
    ],
)
def test_the_type_of_a_structure_follows_from_its_name(name: str, kind: str) -> None:
    assert interpreted_type(name, None, {}) == kind


def test_the_type_that_a_structure_set_gave_is_kept_if_dicom_defines_it() -> None:
    assert interpreted_type("whatever", None, {"DICOM.RTROIInterpretedType": "cavity"}) == "CAVITY"
    assert interpreted_type("GTV", None, {"DICOM.RTROIInterpretedType": "nonsense"}) == "GTV"


def test_terminology_is_carried_and_else_the_name_decides() -> None:
    own = segment_codes("anything", TERMINOLOGY)
    assert (own.category.value, own.type.value, own.region and own.region.value) == ("49755003", "4147007", "39607008")
    assert segment_codes("GTVp", None).type.meaning == "Neoplasm"
    lung = segment_codes("Lung_L", None)
    assert (lung.type.meaning, [each.meaning for each in lung.type_modifiers]) == ("Lung", ["Left"])
    for vague in ("PTV", "Lungs-GTV", "Lung_Upper_L", "Cochlea"):
        assert segment_codes(vague, None).type.meaning == "Tissue"


@pytest.mark.parametrize(
    "words", [["SCT", "1" * 17, "Mass"], ["SCT", "1", ""], ["SCT", "1"], "SCT", ["SCT", "1", "a\\b"], None]
)
def test_a_code_that_dicom_cannot_hold_is_not_carried(words: object) -> None:
    assert segment_codes("GTV", {**TERMINOLOGY, "type": words}).type.meaning == "Neoplasm"
