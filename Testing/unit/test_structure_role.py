"""Margins and organs are told from tumours by name or terminology, and the user has the last word."""

from __future__ import annotations

import numpy as np
import pytest
from P2SAMSlicerLib.structure_role import by_registration_only, is_margin_or_organ
from P2SAMSlicerLib.volume import Segment

NOTHING = np.zeros((1, 1, 1), dtype=np.bool_)


def named(name: str, category: str | None = None) -> Segment:
    terminology = None if category is None else {"category": ["SCT", category, "a category"], "type": ["SCT", "1", "a type"]}
    return Segment(name, NOTHING, terminology=terminology)


@pytest.mark.parametrize(
    "name",
    [
        *[
            "CTV",
            "CTVp1",
            "PTV_High",
            "ITV",
            "IGTV",
            "zPTV_opt",
            "Lung_L",
            "Lungs",
            "SpinalCord",
            "Heart",
            "Kidney_R",
            "BODY",
            "External",
            "Parotids",
            "Bowel_Small",
            "Brainstem",
            "Musc_Masseter_L",
            "Lungs-GTV",
            "Brain-PTV",
        ],
        "ptv 60",
    ],
)
def test_margins_and_organs_of_tg263_are_carried_by_registration(name: str) -> None:
    assert is_margin_or_organ(named(name))


@pytest.mark.parametrize(
    "name",
    [
        *[
            "GTV",
            "GTVp",
            "GTVn1",
            "GTV_Lung_R",
            "tumour",
            "lesion",
            "Segment_1",
            "target",
            "mass",
            "7",
            "Läsion",
            "Lungentumor",
        ],
        "",
        "Tumor 1",
        "Lung tumour",
        "Liver met",
        "Liver metastases",
        "Lung lesions",
        "Kidney_R tumors",
        "lung nodules",
    ],
)
def test_tumours_and_unknown_names_are_for_the_model(name: str) -> None:
    assert not is_margin_or_organ(named(name))


def test_the_terminology_decides_where_the_name_says_nothing() -> None:
    assert is_margin_or_organ(named("Segment_1", "123037004"))
    assert not is_margin_or_organ(named("Segment_1", "49755003"))
    assert not is_margin_or_organ(named("Segment_1", "85756007"))


def test_a_lesion_by_terminology_that_is_named_after_its_organ_is_for_the_model() -> None:
    assert not is_margin_or_organ(named("Liver", "49755003"))


def test_a_margin_stays_one_whatever_its_terminology() -> None:
    assert is_margin_or_organ(named("PTV", "49755003"))


def test_the_user_has_the_last_word() -> None:
    assert by_registration_only(named("GTV"), chosen=["GTV"])
    assert not by_registration_only(named("Liver"), with_model=["Liver"])
    assert by_registration_only(named("Liver"), chosen=["GTV"])
    assert not by_registration_only(named("GTV"), chosen=["gtv"])
