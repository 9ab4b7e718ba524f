"""Mix-ups of patients and of dates."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.options import PropagationOptions
from P2SAMSlicerLib.visit_checks import check_visits
from P2SAMSlicerLib.volume import VisitIdentity, Volume

PLAIN = PropagationOptions()


def visit(name: str, patient: str | None = None, acquired: str | None = None) -> Volume:
    """A volume whose file said who and when."""
    return Volume(np.zeros((1, 1, 1)), Grid((1, 1, 1)), name, VisitIdentity(patient, acquired))


def one_line(error: pytest.ExceptionInfo[InputError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_the_same_patient_in_order_is_accepted_without_a_word() -> None:
    assert check_visits(visit("a", "P1", "20240101"), visit("b", "P1", "20240301"), PLAIN) == ()


def test_another_patient_is_refused_without_naming_either() -> None:
    with pytest.raises(InputError) as error:
        check_visits(visit("first", "SECRET-1"), visit("second", "SECRET-2"), PLAIN)
    text = one_line(error)
    assert "second" in text
    assert "first" in text
    assert "--allow-other-patient" in text
    assert "SECRET" not in text


def test_another_patient_can_be_overridden_and_is_recorded() -> None:
    overridden = check_visits(visit("a", "S1"), visit("b", "S2"), replace(PLAIN, allow_other_patient=True))
    assert len(overridden) == 1
    assert "patient" in overridden[0]
    assert "S1" not in overridden[0]
    assert "S2" not in overridden[0]


def test_a_followup_that_is_older_is_refused_without_its_date() -> None:
    with pytest.raises(InputError) as error:
        check_visits(visit("a", "P", "20240301"), visit("b", "P", "20240101"), PLAIN)
    text = one_line(error)
    assert "--allow-older-followup" in text
    assert "2024" not in text


def test_an_older_followup_can_be_overridden_and_is_recorded() -> None:
    overridden = check_visits(
        visit("a", "P", "20240301"), visit("b", "P", "20240101"), replace(PLAIN, allow_older_followup=True)
    )
    assert len(overridden) == 1
    assert "before" in overridden[0]


def test_one_override_does_not_cover_the_other_fault() -> None:
    prior, followup = visit("a", "P", "20240301"), visit("b", "Q", "20240101")
    with pytest.raises(InputError, match="patient"):
        check_visits(prior, followup, replace(PLAIN, allow_older_followup=True))
    with pytest.raises(InputError, match="before"):
        check_visits(prior, followup, replace(PLAIN, allow_other_patient=True))
    both = replace(PLAIN, allow_other_patient=True, allow_older_followup=True)
    assert len(check_visits(prior, followup, both)) == 2


@pytest.mark.parametrize("ids", [(None, "P"), ("P", None), (None, None), ("", "P"), ("P", "")])
def test_a_file_without_a_patient_id_shows_no_mix_up(ids: tuple[str | None, str | None]) -> None:
    assert check_visits(visit("a", ids[0]), visit("b", ids[1]), PLAIN) == ()


@pytest.mark.parametrize("dates", [(None, "20240101"), ("20240101", None), ("", "20240101")])
def test_a_file_without_a_date_shows_no_mix_up(dates: tuple[str | None, str | None]) -> None:
    assert check_visits(visit("a", "P", dates[0]), visit("b", "P", dates[1]), PLAIN) == ()


@pytest.mark.parametrize(
    ("first", "second", "older"),
    [
        ("20240101", "20240101", False),
        ("20240101120000", "20240101", False),  # a day without a time may be later that day
        ("20240101", "20240101080000", False),
        ("20240101120000", "20240101115959", True),
        ("20240101120000", "20240101120000", False),
        ("20240102", "20240101235959", True),
        ("20231231235959", "20240101", False),
    ],
)
def test_dates_with_and_without_time_are_compared_as_far_as_both_go(first: str, second: str, older: bool) -> None:
    prior, followup = visit("a", "P", first), visit("b", "P", second)
    if older:
        with pytest.raises(InputError, match="before"):
            check_visits(prior, followup, PLAIN)
    else:
        assert check_visits(prior, followup, PLAIN) == ()


def test_two_cts_of_one_name_are_told_apart() -> None:
    with pytest.raises(InputError, match="the follow-up CT: its patient id is not that of the prior CT"):
        check_visits(visit("CT", "P"), visit("CT", "Q"), PLAIN)
