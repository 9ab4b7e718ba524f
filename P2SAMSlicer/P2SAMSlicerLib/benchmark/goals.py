"""What the product set out to reach on these cases, and whether it did."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from P2SAMSlicerLib.benchmark import methods as m
from P2SAMSlicerLib.benchmark.choice_quality import ChoiceQuality
from P2SAMSlicerLib.benchmark.findings import AccuracyFindings, Row
from P2SAMSlicerLib.benchmark.ranking_quality import BAD_DICE, FIRST_SHARE, ranking_quality
from P2SAMSlicerLib.benchmark.statistics import mean
from P2SAMSlicerLib.result import Outcome

#: The kind of change that :mod:`P2SAMSlicerLib.simulation` calls growth.
GROWTH = "grow"
FIXED_CANDIDATES = 12


@dataclass(frozen=True)
class Goal:
    """One target.

    :param text: what is asked for, with the figure in brackets.
    :param met: None where this run did not measure it.
    """

    text: str
    met: bool | None

    def line(self) -> str:
        """For people."""
        return f"{'not measured' if self.met is None else 'met' if self.met else 'NOT MET'}: {self.text}"


def goals(findings: AccuracyFindings) -> list[Goal]:
    """All targets, in a fixed order."""
    return [*_contour_goals(findings), *_choice_goals(findings), *_ordering_goals(findings), *_safety_goals(findings)]


def _contour_goals(findings: AccuracyFindings) -> Iterator[Goal]:
    yield _gain(findings, m.REGISTERED, 0.02)
    yield _gain(findings, m.REGISTERED, 0.03)
    yield _gain(findings, m.RIGID, 0.0)
    yield _gain(findings, m.ELASTIX, 0.06)
    ahead = findings.paired(m.CLINICAL, m.ELASTIX)
    ours, theirs = (mean([pair[side].metrics.hd95_mm for pair in ahead]) for side in (0, 1))
    text = f"mean HD95 at most 0.7 times that of {m.METHODS[m.ELASTIX].title}"
    yield Goal(f"{text} ({ours:.1f} against {theirs:.1f} mm)" if ahead else text, ours <= 0.7 * theirs if ahead else None)
    text = f"no case more than 0.02 Dice below {m.METHODS[m.RIGID].title}"
    pairs = findings.paired(m.CLINICAL, m.RIGID)
    if pairs:
        worst, name = min((_dice(first) - _dice(second), first.case.name) for first, second in pairs)
        yield Goal(f"{text} (worst {worst:+.3f}, {name})", worst >= -0.02)
    else:
        yield Goal(text, None)
    text = "missed fraction of growing lesions not above elastix's"
    grown = findings.paired(m.CLINICAL, m.ELASTIX, lambda case: case.change == GROWTH)
    ours, theirs = (mean([pair[side].metrics.missed_fraction for pair in grown]) for side in (0, 1))
    yield Goal(f"{text} ({ours:.3f} against {theirs:.3f})" if grown else text, ours <= theirs if grown else None)


def _gain(findings: AccuracyFindings, other: str, least: float) -> Goal:
    title = m.METHODS[other].title
    text = f"mean Dice at least {least:.2f} above {title}" if least else f"mean Dice above {title}"
    pairs = findings.paired(m.CLINICAL, other)
    if not pairs:
        return Goal(text, None)
    gain = mean([_dice(first) - _dice(second) for first, second in pairs])
    return Goal(f"{text} ({gain:+.3f})", gain >= least if least else gain > 0)


def _choice_goals(findings: AccuracyFindings) -> Iterator[Goal]:
    judged = _judged(findings)
    text = f"at least {FIXED_CANDIDATES} candidates on every slice, and their oracle at least 0.08 Dice above elastix B-spline"
    elastix = {row.case.name: _dice(row) for row in findings.of(m.ELASTIX)}
    both = [(choice.slice_oracle_dice - elastix[name], choice) for name, _, _, choice in judged if name in elastix]
    if both:
        fewest = min((each.candidates for _, choice in both for each in choice.slices), default=0)
        ahead = mean([gain for gain, _ in both])
        yield Goal(f"{text} ({fewest} candidates, {ahead:+.3f})", fewest >= FIXED_CANDIDATES and ahead >= 0.08)
    else:
        yield Goal(text, None)
    text = "the result recovers half of the gap between the own registered contour and the oracle"
    share = recovered_share(findings)
    yield Goal(text, None) if math.isnan(share) else Goal(f"{text} ({100 * share:.0f} %)", share >= 0.5)


def recovered_share(findings: AccuracyFindings) -> float:
    """Mean gain of clinical mode's result over the registered contour, as a share of the oracle's (best candidate of every
    slice); NaN if nothing was measured or the oracle gains nothing."""
    judged = _judged(findings)
    gap = mean([choice.slice_oracle_dice - registered for _, registered, _, choice in judged])
    return mean([result - registered for _, registered, result, _ in judged]) / gap if gap > 0 else math.nan


def _judged(findings: AccuracyFindings) -> list[tuple[str, float, float, ChoiceQuality]]:
    """Case, Dice of the registered contour and of the result, and the choice."""
    pairs = findings.paired(m.REGISTERED, m.CLINICAL)
    known = [(registered, result) for registered, result in pairs if result.case.name in findings.choices]
    return [(b.case.name, _dice(a), _dice(b), findings.choices[b.case.name]) for a, b in known]


def _ordering_goals(findings: AccuracyFindings) -> Iterator[Goal]:
    for other in (m.PERSAM, m.FIXED):
        text = f"{m.METHODS[m.RETRIEVAL].title} above {m.METHODS[other].title}, with an interval that excludes 0"
        gain = findings.dice_difference(m.RETRIEVAL, other)
        if gain is None or math.isnan(gain.low):  # one patient has no interval
            yield Goal(text, None)
            continue
        yield Goal(f"{text} ({gain.mean:+.3f}, {gain.low:+.3f} to {gain.high:+.3f})", gain.low > 0)


def _safety_goals(findings: AccuracyFindings) -> Iterator[Goal]:
    rows = findings.of(m.CLINICAL)
    gone = [row for row in rows if row.outcome == Outcome.NO_LESION.value]
    text = "no lesion that is there is called gone"
    yield Goal(f"{text} ({len(gone)} of {len(rows)})", not gone) if rows else Goal(text, None)
    ranking = ranking_quality(findings.all_ranked())
    text = "review priority: rank correlation with the slice's error at least 0.5"
    known = not math.isnan(ranking.spearman)
    yield Goal(f"{text} ({ranking.spearman:.2f})" if known else text, ranking.spearman >= 0.5 if known else None)
    text = f"the {100 * FIRST_SHARE:.0f} % first slices hold at least 60 % of those below Dice {BAD_DICE}"
    if ranking.bad:
        attainable = f"a perfect order: {100 * ranking.attainable:.0f} %"
        yield Goal(f"{text} ({100 * ranking.held:.0f} % of {ranking.bad}; {attainable})", ranking.held >= 0.6)
    else:
        yield Goal(text, None)
    seconds = [row.seconds for row in rows if row.seconds is not None]
    text = "every follow-up under 180 s"
    yield Goal(f"{text} ({max(seconds):.0f} s)", max(seconds) < 180) if seconds else Goal(text, None)
    peak = findings.peak_memory_gib if rows else None
    text = "peak memory under 4 GiB"
    yield Goal(text, None) if peak is None else Goal(f"{text} ({peak:.1f} GiB)", peak < 4)


def _dice(row: Row) -> float:
    return row.metrics.volumetric_dice
