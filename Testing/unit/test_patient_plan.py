"""Which visit is the prior, which visits are carried to, and from which references."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.options import PropagationOptions
from P2SAMSlicerLib.patient.plan import PatientSettings, find_visit, plan_orders, prior_visit
from P2SAMSlicerLib.patient.visit_order import ContourSource, CtSource, PatientVisit, VisitOrder

OUT = Path("out")


def visits(*contours: str, dates: Sequence[str | None] = ()) -> tuple[PatientVisit, ...]:
    """Visits whose contours are none (``-``), drawn (``d``) or approved (``a``)."""
    made = []
    for number, kind in enumerate(contours, start=1):
        sources = () if kind == "-" else (ContourSource(Path(f"{number}.seg.nrrd"), approved=kind == "a"),)
        acquired = dates[number - 1] if dates else f"2024{number:02d}15"
        made.append(
            PatientVisit(number, f"visit_{number}", 30 * (number - 1), acquired, CtSource((Path("ct"),), False), sources)
        )
    return tuple(made)


def planned(found: Sequence[PatientVisit], **settings: object) -> tuple[VisitOrder, ...]:
    return plan_orders(found, PatientSettings(**settings), OUT)  # type: ignore[arg-type]


def labels(order: VisitOrder) -> list[str]:
    return [each.label for each in order.references]


def test_the_earliest_visit_with_contours_is_the_prior_and_all_later_ones_are_carried_to() -> None:
    orders = planned(visits("-", "d", "-", "a"))
    assert [order.followup.label for order in orders] == ["visit_3", "visit_4"]
    assert [labels(order) for order in orders] == [["visit_2"], ["visit_2"]]
    assert [order.out for order in orders] == [OUT / "visit_3", OUT / "visit_4"]
    assert all(order.unreviewed == () for order in orders)


@pytest.mark.parametrize("name", ["2", "visit_2", "2024-02-15", "20240215", " visit_2 "])
def test_a_visit_is_named_by_number_label_or_date(name: str) -> None:
    assert prior_visit(visits("d", "d", "-"), name).label == "visit_2"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("7", "--prior: there is no visit '7'; there are: visit_1 \\(day 0\\), visit_2 \\(day 30\\)"),
        ("2024-03-15", "--prior: there is no visit of that date"),
        ("Doe baseline", "there is no visit of that name \\(a number, visit_N or a date is wanted\\)"),
        ("visit_2", "--prior: visit_2 has no contours that could be carried; with contours: visit_1"),
    ],
)
def test_a_prior_that_cannot_be_is_refused_without_telling_dates_or_names(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        prior_visit(visits("d", "-"), name)
    assert "2024" not in str(caught.value)
    assert "Doe" not in str(caught.value)


def test_a_date_of_two_visits_names_neither() -> None:
    found = visits("d", "d", dates=["20240101093000", "20240101150000"])
    with pytest.raises(InputError, match="2 visits have that date; name one of: visit_1"):
        find_visit(found, "2024-01-01", "--prior")


def test_without_contours_or_without_a_later_visit_there_is_nothing_to_carry() -> None:
    with pytest.raises(InputError, match="no visit has contours"):
        planned(visits("-", "-"))
    with pytest.raises(InputError, match="no visit is later than the prior, visit_2"):
        planned(visits("-", "d"))


def test_only_the_named_follow_ups_are_carried_to_each_once_and_by_number() -> None:
    orders = planned(visits("d", "-", "-", "-"), followups=("4", "visit_2", "2024-04-15"))
    assert [order.followup.number for order in orders] == [2, 4]


def test_an_older_follow_up_is_refused_unless_that_is_allowed() -> None:
    found = visits("-", "d", "-")
    with pytest.raises(InputError, match=r"visit_1 is older than the prior, visit_2 \(--allow-older-followup"):
        planned(found, followups=("1",))
    with pytest.raises(InputError, match="visit_2 is the prior itself"):
        planned(found, followups=("2",))
    for kind in ("prior", "previous", "approved"):
        options = PropagationOptions(allow_older_followup=True)
        (order,) = planned(found, followups=("1",), options=options, carried_from=kind)
        assert (order.followup.label, labels(order)) == ("visit_1", ["visit_2"])


def test_visit_to_visit_goes_over_what_is_drawn_on_the_visits_between_and_says_so() -> None:
    orders = planned(visits("d", "-", "-", "-"), carried_from="previous")
    assert [labels(order) for order in orders] == [
        ["visit_1"],
        ["visit_1", "visit_2"],
        ["visit_1", "visit_2", "visit_3"],
    ]
    assert [order.unreviewed for order in orders] == [(), ("visit_2",), ("visit_2", "visit_3")]
    link = orders[1].references[1].contours
    assert link == (ContourSource(OUT / "visit_2" / "visit_2.seg.nrrd"),)
    assert link[0].path.parent == orders[0].out


def test_a_visit_with_contours_of_its_own_is_a_link_with_these() -> None:
    orders = planned(visits("d", "-", "d", "-"), carried_from="previous")
    assert orders[2].unreviewed == ("visit_2",)
    assert orders[2].references[-1].contours[0].path == Path("3.seg.nrrd")


def test_a_visit_that_is_neither_contoured_nor_carried_to_is_passed_over() -> None:
    (order,) = planned(visits("d", "-", "d", "-"), carried_from="previous", followups=("4",))
    assert (labels(order), order.unreviewed) == (["visit_1", "visit_3"], ())


def test_all_approved_visits_up_to_a_follow_up_are_references_and_the_prior_always_is_one() -> None:
    orders = planned(visits("d", "a", "d", "a", "-"), carried_from="approved")
    assert [labels(order) for order in orders] == [
        ["visit_1"],
        ["visit_1", "visit_2"],
        ["visit_1", "visit_2"],
        ["visit_1", "visit_2", "visit_4"],
    ]
    assert all(order.unreviewed == () for order in orders)


def test_of_an_approved_visit_only_the_approved_contours_are_a_reference() -> None:
    first, second, third = visits("d", "a", "-")
    both = (*second.contours, ContourSource(Path("draft.seg.nrrd")))
    second = PatientVisit(2, "visit_2", 30, None, second.ct, both)
    (order,) = planned([first, second, third], carried_from="approved", followups=("3",))
    assert [source.path.name for source in order.references[1].contours] == ["2.seg.nrrd"]


def test_approved_visits_before_the_chosen_prior_are_no_references() -> None:
    (order,) = planned(visits("a", "a", "-"), carried_from="approved", prior="2")
    assert labels(order) == ["visit_2"]


def test_a_transform_is_for_one_prior_and_one_follow_up() -> None:
    options = PropagationOptions(registration="file", transform_file=Path("t.tfm"))
    with pytest.raises(InputError, match="a transform belongs to one prior and one follow-up"):
        planned(visits("d", "-", "-"), options=options)
    with pytest.raises(InputError, match="a transform belongs to one prior and one follow-up"):
        planned(visits("d", "a", "-"), options=options, carried_from="approved", followups=("3",))
    assert len(planned(visits("d", "-", "-"), options=options, followups=("2",))) == 1


def test_settings_that_mean_nothing_are_refused() -> None:
    with pytest.raises(InputError, match="--from: 'next' is none of prior, previous, approved"):
        planned(visits("d", "-"), carried_from="next")
    with pytest.raises(InputError, match="margin-mm"):
        planned(visits("d", "-"), options=PropagationOptions(margin_mm=-1.0))


def test_resampling_holds_for_every_ct_of_the_plan() -> None:
    orders = planned(visits("d", "-", "-"), resample=True)
    assert all(each.ct.resample for order in orders for each in (*order.references, order.followup))
    assert not any(each.followup.ct.resample for each in planned(visits("d", "-", "-")))
