"""Names of at most 16 characters that planning systems take."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from P2SAMSlicerLib.dicom.roi_names import DERIVED_SUFFIX, roi_names

NAMES = st.lists(
    st.tuples(
        st.one_of(st.text(max_size=40), st.sampled_from(["GTVp", "gtvp", "GTV p", "Lung_L", "GTV 1", "GTV_1"])), st.booleans()
    ),
    max_size=12,
)


@given(NAMES)
def test_any_names_become_short_plain_and_different(given_names: list[tuple[str, bool]]) -> None:
    names = roi_names([name for name, _ in given_names], [derived for _, derived in given_names])
    assert len(names) == len(given_names)
    assert len({name.casefold() for name in names}) == len(names)
    for name in names:
        assert re.fullmatch(r"[A-Za-z0-9_^~!+-]{1,16}", name)


@given(NAMES)
def test_a_name_that_fits_stays_unless_another_has_it_already(given_names: list[tuple[str, bool]]) -> None:
    plain = [name for name, _ in given_names]
    seen: set[str] = set()
    for before, after in zip(plain, roi_names(plain), strict=True):
        if re.fullmatch(r"[A-Za-z0-9_^~!+-]{1,16}", before) and before.casefold() not in seen:
            seen.add(before.casefold())
            assert after == before


@pytest.mark.parametrize(
    "name",
    [
        "GTV",
        "GTVp",
        "GTVn1",
        "CTV_High",
        "PTV_5040",
        "PTV!",
        "Lung_L",
        "Lungs-GTV",
        "~Brain",
        "SpinalCord_PRV05",
        "A_Carotid_L",
        "zPTV^Dr",
    ],
)
def test_names_after_tg_263_are_kept(name: str) -> None:
    assert roi_names([name]) == (name,)


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("GTV primary", "GTV_primary"),
        ("Left Lung", "Lung_L"),
        ("lung right", "lung_R"),
        ("Läsion", "Lasion"),
        ("GTV (week 3)", "GTV_week_3"),
        ("腫瘍", "Structure"),
        ("", "Structure"),
        ("GTV/CTV\\PTV", "GTV_CTV_PTV"),
    ],
)
def test_other_names_are_rewritten(name: str, short: str) -> None:
    assert roi_names([name]) == (short,)


@pytest.mark.parametrize(
    ("name", "short"),
    [("GTVp", "GTVp_regPrior"), ("GTV", "GTV_regPrior"), ("Lung_L", "Lung_L_regPrior"), ("Parotid_L", "Parot_L_regPrior")],
)
def test_a_registered_prior_contour_is_told_by_its_end(name: str, short: str) -> None:
    (found,) = roi_names([name], [True])
    assert found.endswith(DERIVED_SUFFIX)
    assert found == short


def test_a_long_name_keeps_its_side_and_the_beginnings_of_its_words() -> None:
    (name,) = roi_names(["Metastasis_of_the_adrenal_gland_L"])
    assert len(name) <= 16
    assert name.startswith("Met")
    assert name.endswith("_L")


def test_names_that_differ_in_capitals_only_are_numbered() -> None:
    assert roi_names(["GTVp", "gtvp", "GTVP"]) == ("GTVp", "gtvp_2", "GTVP_3")


def test_a_name_that_fits_is_not_taken_by_one_that_is_rewritten() -> None:
    assert roi_names(["GTV 1", "GTV_1"]) == ("GTV_1_2", "GTV_1")
