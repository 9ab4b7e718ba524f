"""Whether the tolerances are kept: pass, fail, or not judged, for all visits together and for every site. Never "safe"."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from P2SAMSlicerLib.benchmark import methods as m
from P2SAMSlicerLib.commissioning.clinic_cases import UNKNOWN_SITE
from P2SAMSlicerLib.commissioning.figures import FAILED, FLAGGED, GONE, VANISHED, statistic_of
from P2SAMSlicerLib.commissioning.measure import CARRYING, READING, Measured
from P2SAMSlicerLib.commissioning.measured_visit import MeasuredVisit
from P2SAMSlicerLib.commissioning.tolerances import Tolerance, Tolerances
from P2SAMSlicerLib.result import Outcome

Judgement = Literal["pass", "fail", "not judged"]
PASS: Judgement = "pass"
FAIL: Judgement = "fail"
NOT_JUDGED: Judgement = "not judged"

ALL_SITES = "all visits"


@dataclass(frozen=True)
class VisitFigures:
    """What is judged of one visit.

    :param patient: whose it is; visits of one patient are no independent cases.
    :param values: figure id -> value, as far as it was measured.
    :param has_lesion: there is a tumour on the simulated visit.
    :param outcome: what the product said.
    """

    patient: str
    site: str
    values: dict[str, float]
    has_lesion: bool
    outcome: str


@dataclass(frozen=True)
class Verdict:
    """One tolerance on one group of visits.

    :param group: :data:`ALL_SITES` or a site.
    :param value: the statistic; None where there is none.
    :param visits, cases: that it comes from; cases are patients.
    :param why: for what is not judged.
    """

    group: str
    tolerance: Tolerance
    judgement: Judgement
    value: float | None
    visits: int
    cases: int
    why: str = ""


def figures_of(site: str, patient: str, visit: MeasuredVisit) -> VisitFigures:
    """The product's figures of one visit."""
    product = visit.methods[m.CLINICAL]
    metrics = product.metrics
    has_lesion = metrics.truth_volume_ml > 0
    values = {name: visit.registration[name] for name in ("folded_share",) if name in visit.registration}
    if product.seconds is not None:
        values["seconds"] = product.seconds
    if has_lesion:
        values |= {
            "dice": metrics.volumetric_dice,
            "surface_dice": metrics.surface_dice,
            "mean_surface_distance_mm": metrics.mean_surface_distance_mm,
            "hd95_mm": metrics.hd95_mm,
            "volume_error_percent": abs(metrics.volume_error_percent),
            "missed_fraction": metrics.missed_fraction,
            "over_contoured_fraction": metrics.over_contoured_fraction,
            **{name: value for name, value in visit.registration.items() if name not in values},
        }
    return VisitFigures(patient, site, values, has_lesion, product.outcome or "")


def all_figures(measured: Measured) -> list[VisitFigures]:
    """The product's figures of all visits."""
    return [figures_of(case.site, case.patient, visit) for case, visit in measured.visits.values()]


def judge(measured: Measured, tolerances: Tolerances) -> tuple[Verdict, ...]:
    """Judge all visits together, and then every site whose name is known.

    A site that the tolerances name and of which there is no visit is listed as not judged.
    """
    figures = all_figures(measured)
    # What the simulation could not make is no failure of the product; it is told elsewhere.
    failed = [(each.case.site, each.case.patient) for each in measured.failures if each.stage in (READING, CARRYING)]
    found = _group(ALL_SITES, tolerances.usual, figures, len(failed), tolerances.least_cases)
    sites = {each.site for each in figures} | {site for site, _ in failed} | set(tolerances.sites)
    for site in sorted(sites - {UNKNOWN_SITE}):
        own = [each for each in figures if each.site == site]
        failures = sum(each == site for each, _ in failed)
        found += _group(site, tolerances.for_site(site), own, failures, tolerances.least_cases)
    return tuple(found)


def overall(verdicts: Sequence[Verdict]) -> Judgement:
    """Fail if anything fails; pass if nothing fails and every tolerance on all visits together was judged."""
    if any(each.judgement == FAIL for each in verdicts):
        return FAIL
    common = [each for each in verdicts if each.group == ALL_SITES]
    return PASS if common and all(each.judgement == PASS for each in common) else NOT_JUDGED


def unjudged_sites(verdicts: Sequence[Verdict]) -> list[str]:
    """Sites of which at least one tolerance was not judged."""
    return list(dict.fromkeys(v.group for v in verdicts if v.group != ALL_SITES and v.judgement == NOT_JUDGED))


def _group(
    group: str, wanted: Sequence[Tolerance], figures: Sequence[VisitFigures], failed: int, least_cases: int
) -> list[Verdict]:
    return [_verdict(group, each, figures, failed, least_cases) for each in wanted]


def _verdict(group: str, tolerance: Tolerance, figures: Sequence[VisitFigures], failed: int, least_cases: int) -> Verdict:
    value, used = _value(tolerance, figures, failed)
    cases = len({each.patient for each in used})

    def verdict(judgement: Judgement, why: str = "") -> Verdict:
        return Verdict(group, tolerance, judgement, value, len(used), cases, why)

    # A failure is one, of however few cases.
    if tolerance.figure == FAILED and value is not None and not tolerance.met_by(value):
        return verdict(FAIL)
    if value is None:
        return verdict(NOT_JUDGED, "not measured")
    if cases < least_cases:
        return verdict(NOT_JUDGED, f"too few to judge: {cases} of at least {least_cases} patients")
    return verdict(PASS if tolerance.met_by(value) else FAIL)


def _value(tolerance: Tolerance, figures: Sequence[VisitFigures], failed: int) -> tuple[float | None, list[VisitFigures]]:
    """The figure that is judged, and the visits that it comes from."""
    name = tolerance.figure
    if name == FAILED:
        return float(failed), list(figures)
    if not tolerance.about.each:
        used = [each for each in figures if each.has_lesion != (name == VANISHED)]
        return (sum(_counts(name, each) for each in used) / len(used) if used else None), used
    used = [each for each in figures if name in each.values]
    if not used:
        return None, used
    return statistic_of(tolerance.statistic, [each.values[name] for each in used], tolerance.about.better), used


def _counts(name: str, visit: VisitFigures) -> bool:
    """Whether a visit counts for a share."""
    if name == FLAGGED:
        return visit.outcome == Outcome.FLAGGED.value
    if name == GONE:
        return visit.outcome not in (Outcome.FOUND.value, Outcome.FLAGGED.value)
    return visit.outcome == Outcome.FOUND.value  # vanished, and contoured without a flag
