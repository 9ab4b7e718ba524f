"""Pass, fail and not judged; and what the report says of them."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from clinic_folder import clinic_case, measured_of, measured_visit
from hypothesis import given
from hypothesis import strategies as st
from P2SAMSlicerLib.commissioning.commissioning_report import NAMES, write_report
from P2SAMSlicerLib.commissioning.measure import CARRYING, READING, SIMULATION, VisitFailure
from P2SAMSlicerLib.commissioning.tolerances import Tolerance, Tolerances, default_tolerances
from P2SAMSlicerLib.commissioning.verdict import ALL_SITES, Verdict, judge, overall, unjudged_sites
from P2SAMSlicerLib.commissioning.verdict_text import headline, value_text

DICE = Tolerance("dice", "mean", 0.8)
FAILURES = Tolerance("failed_visits", "total", 0.0)
FIVE = [measured_visit()] * 5


def tolerances(*limits: Tolerance, **fields: object) -> Tolerances:
    return replace(Tolerances(5, limits), **fields)  # type: ignore[arg-type]


def judgements(verdicts: tuple[Verdict, ...], group: str = ALL_SITES) -> list[str]:
    return [each.judgement for each in verdicts if each.group == group]


def failure(stage: str, number: int = 9, site: str = "lung") -> VisitFailure:
    return VisitFailure(f"case_{number:03d}_grow_1", clinic_case(number, site), stage, "its values are not HU")


def test_good_contours_pass_and_bad_ones_fail() -> None:
    assert overall(judge(measured_of(FIVE), default_tolerances())) == "pass"
    bad = judge(measured_of([*FIVE, *FIVE, measured_visit(radius=4.0)]), default_tolerances())
    assert overall(bad) == "fail"
    failed = {(each.tolerance.figure, each.tolerance.statistic) for each in bad if each.judgement == "fail"}
    assert failed == {("dice", "worst"), ("missed_fraction", "worst")}


def test_too_few_patients_judge_nothing_however_many_visits_they_have() -> None:
    verdicts = judge(measured_of([measured_visit()] * 4), tolerances(DICE))
    assert judgements(verdicts) == ["not judged"]
    assert verdicts[0].why == "too few to judge: 4 of at least 5 patients"
    assert overall(verdicts) == "not judged"
    many = measured_of([measured_visit()] * 12)
    one_patient = replace(
        many, visits={name: (replace(case, patient=str(n % 4)), v) for n, (name, (case, v)) in enumerate(many.visits.items())}
    )
    (verdict,) = [each for each in judge(one_patient, tolerances(DICE)) if each.group == ALL_SITES]
    assert (verdict.judgement, verdict.visits, verdict.cases) == ("not judged", 12, 4)


def test_bad_figures_of_too_few_patients_are_not_called_a_pass() -> None:
    assert overall(judge(measured_of([measured_visit(radius=0.0)] * 3), default_tolerances())) == "not judged"
    assert overall(judge(measured_of([]), default_tolerances())) == "not judged"
    assert overall(()) == "not judged"


@pytest.mark.parametrize(("stage", "judged"), [(READING, "fail"), (CARRYING, "fail"), (SIMULATION, "pass")])
def test_failures_of_the_product_count_and_those_of_the_simulation_do_not(stage: str, judged: str) -> None:
    verdicts = judge(measured_of(FIVE, [failure(stage)]), tolerances(FAILURES))
    assert judgements(verdicts) == [judged]
    assert overall(verdicts) == judged


def test_a_failure_fails_however_few_patients_there_are() -> None:
    assert overall(judge(measured_of([], [failure(CARRYING)]), tolerances(FAILURES))) == "fail"


def test_a_visit_without_a_contour_is_the_worst_of_all_and_is_not_skipped() -> None:
    visits = [*FIVE, measured_visit(radius=0.0, outcome="no lesion found")]
    limits = tolerances(
        Tolerance("hd95_mm", "mean", 200.0),
        Tolerance("missed_fraction", "worst", 0.99),
        Tolerance("called_gone_share", "total", 0.1),
    )
    verdicts = judge(measured_of(visits), limits)
    assert judgements(verdicts) == ["fail", "fail", "fail"]
    assert value_text(verdicts[0]) == "infinite"
    assert verdicts[2].value == pytest.approx(1 / 6)


def test_missed_growth_counts_as_much_as_tissue_that_is_added() -> None:
    limits = tolerances(Tolerance("volume_error_percent", "mean", 10.0))
    both = [measured_visit(radius=10.0)] * 3 + [measured_visit(radius=14.0)] * 3
    (verdict,) = [each for each in judge(measured_of(both), limits) if each.group == ALL_SITES]
    assert verdict.judgement == "fail", "errors of both signs do not cancel"
    assert (verdict.value or 0.0) > 30.0


def test_vanished_tumours_are_in_no_figure_of_contours_and_judged_by_themselves() -> None:
    gone = measured_visit(radius=12.0, truth=0.0)
    limits = tolerances(DICE, Tolerance("vanished_contoured_share", "total", 0.0), Tolerance("flagged_share", "total", 0.0))
    verdicts = judge(measured_of([*FIVE, *[gone] * 5]), limits)
    assert judgements(verdicts) == ["pass", "fail", "pass"]
    assert [each.visits for each in verdicts if each.group == ALL_SITES] == [5, 5, 5]
    flagged = replace(gone, methods={**gone.methods, "clinical": replace(gone.methods["clinical"], outcome="flagged")})
    assert judgements(judge(measured_of([*FIVE, *[flagged] * 5]), limits)) == ["pass", "pass", "pass"]
    # Nobody asked for vanished tumours: the limit is not kept by their absence.
    assert judgements(judge(measured_of(FIVE), limits)) == ["pass", "not judged", "pass"]


def test_a_figure_that_was_not_measured_is_not_judged() -> None:
    visits = [replace(visit, registration={"folded_share": 0.0}) for visit in FIVE]
    verdicts = judge(measured_of(visits), tolerances(Tolerance("inverse_consistency_mm", "mean", 3.0)))
    assert [(each.judgement, each.why, each.value) for each in verdicts if each.group == ALL_SITES] == [
        ("not judged", "not measured", None)
    ]


# ------------------------------------------------------------------------------------------------------------------- sites
def test_a_site_is_judged_by_its_own_limits_and_fails_the_whole() -> None:
    visits = [measured_visit()] * 5 + [measured_visit(radius=10.0)] * 5
    sites = dict.fromkeys(range(5, 10), "brain")
    limits = tolerances(DICE, sites={"brain": (Tolerance("dice", "mean", 0.9),)})
    verdicts = judge(measured_of(visits, sites=sites), limits)
    assert [judgements(verdicts, group) for group in (ALL_SITES, "brain", "lung")] == [["pass"], ["fail"], ["pass"]]
    assert overall(verdicts) == "fail"


def test_a_site_with_too_few_or_no_cases_is_told_in_the_headline_of_a_pass() -> None:
    limits = tolerances(DICE, sites={"liver": (Tolerance("dice", "mean", 0.9),)})
    verdicts = judge(measured_of([measured_visit()] * 6, sites={5: "brain"}), limits)
    assert overall(verdicts) == "pass"
    assert unjudged_sites(verdicts) == ["brain", "liver"]
    assert headline(verdicts) == (
        "PASS: every tolerance was kept on these simulated visits; not judged for the sites brain, liver."
    )


def test_cases_without_a_site_are_in_no_site() -> None:
    verdicts = judge(measured_of(FIVE, sites=dict.fromkeys(range(5), "unknown")), tolerances(DICE))
    assert {each.group for each in verdicts} == {ALL_SITES}


# --------------------------------------------------------------------------------------------------------------- monotone
@given(
    st.lists(st.sampled_from([0.0, 4.0, 7.0, 9.0, 10.0, 11.0, 12.0]), min_size=3, max_size=7),
    st.integers(0, 6),
    st.sampled_from(["mean", "median", "worst", "p80"]),
    st.sampled_from([0.5, 0.7, 0.8, 0.9, 0.95]),
)
def test_a_better_contour_of_one_visit_never_turns_a_pass_into_a_fail(
    radii: list[float], which: int, statistic: str, limit: float
) -> None:
    limits = Tolerances(
        3,
        (
            Tolerance("dice", statistic, limit),
            Tolerance("missed_fraction", statistic, 1.0 - limit),
            Tolerance("mean_surface_distance_mm", statistic, 4.0 * (1.0 - limit)),
            Tolerance("called_gone_share", "total", 0.2),
        ),
    )

    def judged(each: list[float]) -> list[str]:
        visits = [measured_visit(radius, outcome="found" if radius else "no lesion found") for radius in each]
        return judgements(judge(measured_of(visits), limits))

    # Up to the true radius of 12 mm a larger ball is a better contour by every figure.
    better = list(radii)
    better[which % len(radii)] = 12.0
    for before, after in zip(judged(radii), judged(better), strict=True):
        assert after == "pass" or before == "fail"


@pytest.mark.parametrize("value", [0.79996, 0.799999996, 0.8000004])
def test_a_value_is_never_rounded_onto_the_other_side_of_its_limit(value: float) -> None:
    verdict = Verdict(ALL_SITES, DICE, "fail", value, 5, 5)
    assert DICE.met_by(float(value_text(verdict))) == DICE.met_by(value)


# ------------------------------------------------------------------------------------------------------------------ report
@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("commissioning")
    visits = [*FIVE, measured_visit(radius=0.0, outcome="no lesion found"), measured_visit(truth=0.0)]
    visits[0] = replace(visits[0], peers_failed="elastix gave up <b>")
    found = measured_of(
        visits, [failure(CARRYING), failure(SIMULATION)], {5: "brain"}, warnings={"case_001": ("uneven & odd",)}
    )
    assert write_report(out, found, default_tolerances()) == [out / name for name in NAMES]
    return out


def test_the_report_holds_verdicts_definitions_settings_and_a_line_to_sign(written: Path) -> None:
    text = (written / "commissioning.html").read_text(encoding="utf-8")
    assert "FAIL: at least one tolerance was not kept; not judged for the site brain." in text
    for words in (
        "simulated second visits of the clinic",
        "Dice, mean at least 0.8",
        "too few to judge: 1 of at least 5 patients",
        "case_009_grow_1: carrying: its values are not HU",
        "is no failure of the program",
        "case_001_shrink_1: elastix: elastix gave up &lt;b&gt;",
        "case_001: uneven &amp; odd",
        "larger of the two directed 95th percentiles",
        "Medical physicist",
        "no endorsement",
        "stub",
        "New lesions are not sought",
    ):
        assert words in text, words
    assert "<script" not in text
    assert not re.search(r"(src|href)=\"(?!data:)", text)


def test_no_file_of_the_report_calls_anything_safe_or_names_a_patient(written: Path) -> None:
    for name in NAMES:
        text = (written / name).read_text(encoding="utf-8")
        assert not re.search(r"\bsafe(ly|ty)?\b|\bapproved\b", text, re.IGNORECASE)
        assert "Doe" not in text
        assert "Jane" not in text


def test_the_record_says_the_same_as_the_page_in_strict_json(written: Path) -> None:
    record = json.loads(
        (written / "commissioning.json").read_text(encoding="utf-8"), parse_constant=lambda word: pytest.fail(word)
    )
    assert record["result"] == "fail"
    assert record["headline"] in (written / "commissioning.html").read_text(encoding="utf-8")
    infinite = next(each for each in record["verdicts"] if (each["figure"], each["statistic"]) == ("hd95_mm", "worst"))
    assert (infinite["value"], infinite["value_text"], infinite["verdict"], infinite["at_most"]) == (
        None,
        "infinite",
        "fail",
        20.0,
    )
    assert record["failures"][0] == {
        "visit": "case_009_grow_1",
        "stage": "carrying",
        "site": "lung",
        "reason": "its values are not HU",
    }
    assert len(record["visits"]) == 7
    assert "numpy" in record["versions"]
    with (written / "accuracy.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["case"], row["method"], row["patient"]) for row in rows[:2]] == [
        ("case_001_shrink_1", "copy", "1"),
        ("case_001_shrink_1", "clinical", "1"),
    ]
    text = (written / "accuracy.md").read_text(encoding="utf-8")
    assert "| clinical mode |" in text
    assert "| all visits | Dice, mean at least 0.8 |" in text


def test_nothing_measured_is_a_report_as_well(tmp_path: Path) -> None:
    write_report(tmp_path, measured_of([], [failure(READING)]), default_tolerances())
    assert "case_009_grow_1: reading" in (tmp_path / "commissioning.html").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "commissioning.json").read_text())["result"] == "fail"
