"""The benchmark's own figures: review order, intervals, targets, recovered share."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from benchmark_cases import GRID, case_named, findings_of, registered_and, row_of, slice_of, square
from P2SAMSlicerLib.benchmark.choice_quality import choice_quality
from P2SAMSlicerLib.benchmark.findings import caption
from P2SAMSlicerLib.benchmark.goals import goals, recovered_share
from P2SAMSlicerLib.benchmark.ranking_quality import RankedSlice, ranked_slices, ranking_quality
from P2SAMSlicerLib.benchmark.statistics import mean, paired_difference
from P2SAMSlicerLib.candidates import REGISTERED

# ------------------------------------------------------------------------------------------------------- review priority


def ranked(*pairs: tuple[float, float]) -> list[RankedSlice]:
    return [RankedSlice(number, priority, dice) for number, (priority, dice) in enumerate(pairs)]


def test_a_priority_that_sorts_by_error_is_perfect_and_its_reverse_is_not() -> None:
    dice = np.linspace(0.5, 0.95, 10)
    right = ranking_quality(ranked(*((1.0 - d, d) for d in dice)))
    assert right.spearman == pytest.approx(1.0)
    assert (right.bad, right.held, right.attainable) == (4, 0.5, 0.5)
    wrong = ranking_quality(ranked(*((d, d) for d in dice)))
    assert wrong.spearman == pytest.approx(-1.0)
    assert wrong.held == 0.0


def test_a_constant_priority_sorts_nothing() -> None:
    quality = ranking_quality(ranked((0.5, 0.1), (0.5, 0.9), (0.5, 0.9), (0.5, 0.9), (0.5, 0.9)))
    assert math.isnan(quality.spearman)
    assert quality.held == 0.0
    assert math.isnan(ranking_quality([]).held)


def test_slices_that_were_not_looked_at_come_last_and_empty_ones_do_not_count() -> None:
    truth, result = np.zeros(GRID.shape, dtype=np.bool_), np.zeros(GRID.shape, dtype=np.bool_)
    truth[1:4], result[2:5] = square(5, 14), square(5, 14)
    slices = [slice_of(index, registered_and(), REGISTERED, 0.1 * index) for index in (0, 2, 3, 4)]
    slices.append(replace(slices[1], review_priority=0.7, lesion=2))
    found = ranked_slices(slices, result, truth, GRID)
    assert [(each.index, each.priority, each.dice) for each in found] == [
        (1, 0.0, 0.0),
        (2, 0.7, 1.0),
        (3, pytest.approx(0.3), 1.0),
        (4, pytest.approx(0.4), 0.0),
    ]


# ------------------------------------------------------------------------------------------------------------- intervals


def test_an_interval_of_differences_that_are_all_equal_has_no_width() -> None:
    found = paired_difference([0.9, 0.8, 0.7], [0.8, 0.7, 0.6], ["a", "b", "c"], seed=0)
    assert (found.mean, found.low, found.high) == pytest.approx((0.1, 0.1, 0.1))
    assert found.excludes_zero


def test_cases_of_one_patient_are_resampled_together() -> None:
    difference, zero = [0.1, 0.1, 0.1, -0.1], [0.0] * 4
    apart = paired_difference(difference, zero, ["a", "b", "c", "d"], seed=0)
    together = paired_difference(difference, zero, ["a", "a", "a", "b"], seed=0)
    assert apart.mean == together.mean == pytest.approx(0.05)
    assert (together.patients, together.cases) == (2, 4)
    # Two patients: an interval reaches from the one's mean to the other's.
    assert (together.low, together.high) == pytest.approx((-0.1, 0.1))
    assert apart.low == pytest.approx(-0.05)
    assert paired_difference(difference, zero, ["a", "b", "c", "d"], seed=0) == apart


def test_one_patient_has_no_interval_and_excludes_nothing() -> None:
    found = paired_difference([0.9, 0.9], [0.1, 0.1], ["a", "a"], seed=0)
    assert math.isnan(found.low)
    assert not found.excludes_zero


def test_a_mean_does_not_skip_a_failure() -> None:
    assert math.isinf(mean([1.0, math.inf]))
    assert math.isnan(mean([]))


# --------------------------------------------------------------------------------------------------------------- targets


def told(text: str, **fields: object) -> str:
    """The line of the target that begins like this, for clinical mode at the truth and others below it."""
    cases = [case_named("a", "grow"), case_named("b")]
    radii = {"rigid": (9.0, 9.0), "elastix": (9.0, 9.0), "registered": (9.0, 9.0), "clinical": (12.0, 12.0)}
    radii.update(fields.pop("radii", {}))  # type: ignore[call-overload]
    lines = [goal.line() for goal in goals(findings_of(radii, cases, **fields))]
    (line,) = (line for line in lines if text in line)
    return line


@pytest.mark.parametrize(
    ("text", "radii"),
    [
        ("0.02 above own registered", {"registered": (12.0, 12.0)}),
        ("0.03 above own registered", {"registered": (12.0, 12.0)}),
        ("above rigid", {"rigid": (12.0, 12.0)}),
        ("0.06 above elastix", {"elastix": (12.0, 12.0)}),
        ("HD95", {"clinical": (9.0, 9.0)}),
        ("no case more than 0.02 Dice below", {"rigid": (9.0, 12.0), "clinical": (12.0, 9.0)}),
        ("growing lesions", {"clinical": (6.0, 12.0)}),
    ],
)
def test_a_target_on_contours_is_met_not_met_or_not_measured(text: str, radii: dict[str, tuple[float, float]]) -> None:
    assert told(text).startswith("met: ")
    assert told(text, radii=radii).startswith("NOT MET: ")
    line = goals(findings_of({"copy": (9.0,)}, [case_named("a")]))
    assert {goal.met for goal in line} == {None}


def test_a_lesion_that_is_there_and_called_gone_is_counted() -> None:
    cases = [case_named("a"), case_named("b")]
    findings = findings_of({"clinical": (12.0, 12.0)}, cases)
    gone = replace(findings, rows=(findings.rows[0], row_of(cases[1], "clinical", 0.0, outcome="no lesion found")))
    lines = [goal.line() for each in (findings, gone) for goal in goals(each) if "called gone" in goal.text]
    assert lines == [
        "met: no lesion that is there is called gone (0 of 2)",
        "NOT MET: no lesion that is there is called gone (1 of 2)",
    ]


def test_time_and_memory_are_those_of_the_product() -> None:
    assert told("under 180 s") == "met: every follow-up under 180 s (10 s)"
    assert told("peak memory", peak_memory_gib=4.5) == "NOT MET: peak memory under 4 GiB (4.5 GiB)"


def test_the_ordering_of_the_paper_wants_an_interval_above_zero() -> None:
    cases = [case_named(name) for name in "abc"]
    ahead = findings_of({"persam": (9.0, 9.0, 9.0), "p2sam-retrieval": (12.0, 12.0, 12.0)}, cases)
    mixed = findings_of({"persam": (9.0, 12.0, 9.0), "p2sam-retrieval": (12.0, 9.0, 9.0)}, cases)
    lines = [next(goal for goal in goals(each) if "PerSAM" in goal.text) for each in (ahead, mixed)]
    assert [goal.met for goal in lines] == [True, False]
    alone = next(
        goal for goal in goals(findings_of({"persam": (9.0,), "p2sam-retrieval": (12.0,)}, cases[:1])) if "PerSAM" in goal.text
    )
    assert alone.met is None, "one patient has no interval"


def test_the_recovered_share_is_the_results_part_of_the_oracles_gain() -> None:
    true = square(3, 16)
    truth = np.zeros(GRID.shape, dtype=np.bool_)
    truth[1:4] = true
    slices = [slice_of(index, registered_and(box=true), REGISTERED) for index in (1, 2, 3)]
    choice = choice_quality(slices, truth, GRID)
    findings = findings_of({"registered": (9.0,), "clinical": (10.5,)}, [case_named("a")], choices={"a": choice})
    low, high = (row.metrics.volumetric_dice for row in findings.rows)
    assert choice.slice_oracle_dice == 1.0
    assert recovered_share(findings) == pytest.approx((high - low) / (1.0 - low))
    assert math.isnan(recovered_share(replace(findings, choices={})))


def test_the_caption_says_how_few_patients_and_which_sites() -> None:
    cases = [case_named("a"), case_named("b", patient="a"), case_named("c", site="sarcoma")]
    assert caption(cases) == "3 simulated second visits of 2 patients (sites: lung 2, sarcoma 1). No clinical claim."
    assert caption(cases[:1]).startswith("1 simulated second visit of 1 patient (")
    real = [replace(cases[0], simulated=False), *cases[1:]]
    assert "3 second visits, 2 of them known to be simulated, of 2 patients" in caption(real)
