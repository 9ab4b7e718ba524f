"""The findings as Markdown."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from P2SAMSlicerLib.benchmark import methods as m
from P2SAMSlicerLib.benchmark.cases import BenchmarkCase
from P2SAMSlicerLib.benchmark.choice_quality import NEARLY
from P2SAMSlicerLib.benchmark.findings import AccuracyFindings, Row, caption, groups
from P2SAMSlicerLib.benchmark.goals import goals, recovered_share
from P2SAMSlicerLib.benchmark.ranking_quality import BAD_DICE, FIRST_SHARE, RankedSlice, ranking_quality
from P2SAMSlicerLib.benchmark.statistics import mean

#: Title of a column, its figure of a row, and its decimals.
COLUMNS: tuple[tuple[str, Callable[[Row], float], int], ...] = (
    ("Dice", lambda row: row.metrics.volumetric_dice, 3),
    ("slice Dice", lambda row: row.metrics.slice_mean_dice, 3),
    ("HD95 mm", lambda row: row.metrics.hd95_mm, 1),
    ("surface Dice 2 mm", lambda row: row.metrics.surface_dice, 3),
    ("APL mm", lambda row: row.metrics.added_path_length_mm, 0),
    ("volume error %", lambda row: row.metrics.volume_error_percent, 0),
    ("missed", lambda row: row.metrics.missed_fraction, 3),
    ("over-contoured", lambda row: row.metrics.over_contoured_fraction, 3),
    ("seconds", lambda row: math.nan if row.seconds is None else row.seconds, 0),
)
#: Columns of the smaller tables.
SHORT = ("Dice", "HD95 mm", "volume error %", "missed", "over-contoured")

MEANINGS = (
    "Dice: volumetric. Slice Dice: mean over the truth's slices. HD95 and surface Dice: voxel surfaces, 3-D. APL: added path"
    " length (Vaassen et al. 2020), the truth's border that the result's border does not cover, slice by slice, summed. Volume"
    " error: result minus truth, in percent of the truth. Missed: share of the truth left out. Over-contoured: what lies"
    " outside, as a share of the truth. All are means over the cases; seconds are wall time of a follow-up, the registration"
    " included, without loading the model, and - where a method's time is not told apart. An empty result has an infinite HD95."
)

RESAMPLED = "Percentile bootstrap over patients, each with all of his cases."


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column runs left and the others right."""
    lines = [f"| {' | '.join(header)} |", f"|---|{'---:|' * (len(header) - 1)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def number(value: float | None, decimals: int, *, signed: bool = False) -> str:
    """A figure for a cell."""
    if value is None or math.isnan(value):
        return "-"
    if math.isinf(value):
        return "infinite"
    return f"{value:{'+' if signed else ''}.{decimals}f}"


def markdown(findings: AccuracyFindings) -> str:
    """The whole report."""
    parts = ["# Accuracy", caption(findings.cases), _made(findings), summary(findings), *comparison(findings)]
    if findings.choices:
        parts += ["## The choice among the candidates", *_choices(findings)]
    if findings.rankings:
        parts += ["## Review priority", *_rankings(findings)]
    parts += ["## Targets", targets(findings), "## Methods", definitions(findings)]
    return "\n\n".join(parts) + "\n"


def comparison(findings: AccuracyFindings) -> list[str]:
    """Clinical mode against the other methods, and all methods by site, by change and by case, each under its heading."""
    parts = ["## Clinical mode against each other method", _differences(findings)]
    parts += _grouped(findings, "Site", lambda case: case.site)
    parts += _grouped(findings, "Change", lambda case: case.change)
    return [*parts, "## Dice of every case", table(*case_cells(findings))]


#: Header and rows of a table.
Cells = tuple[list[str], list[list[str]]]


def mean_cells(
    findings: AccuracyFindings, titles: Sequence[str] = (), keep: Callable[[BenchmarkCase], bool] = lambda _case: True
) -> Cells:
    """The means of all methods over cases with a lesion.

    :param titles: of columns; all of :data:`COLUMNS` if empty.
    """
    wanted = titles or [title for title, _, _ in COLUMNS]
    return ["method", *wanted], [_means(method, findings.of(method, keep), wanted) for method in findings.methods]


def difference_cells(findings: AccuracyFindings) -> Cells:
    """Clinical mode's mean Dice difference to each other method; no rows if it or the others were not measured."""
    rows = []
    for method in findings.methods:
        found = findings.dice_difference(m.CLINICAL, method) if method != m.CLINICAL else None
        if found is None:
            continue
        interval = "-" if math.isnan(found.low) else f"{found.low:+.3f} to {found.high:+.3f}"
        mean_of = number(found.mean, 3, signed=True)
        rows.append([m.METHODS[method].title, mean_of, interval, str(found.cases), str(found.patients)])
    return ["clinical mode minus", "mean Dice difference", "95 % interval", "cases", "patients"], rows


def case_cells(findings: AccuracyFindings) -> Cells:
    """Dice of every case and method, and what clinical mode said of its contour."""
    dice = {(row.case.name, row.method): row.metrics.volumetric_dice for row in findings.rows if not row.vanished}
    outcomes = {row.case.name: row.outcome for row in findings.rows if row.method == m.CLINICAL}
    rows = []
    for case in findings.cases:
        cells = [number(dice.get((case.name, method)), 3) for method in findings.methods]
        rows.append([case.name, case.change, *cells, outcomes.get(case.name) or "-"])
    return ["case", "change", *(m.METHODS[method].title for method in findings.methods), "outcome"], rows


def definitions(findings: AccuracyFindings) -> str:
    """What every method does, a line each."""
    return "\n".join(f"- **{m.METHODS[each].title}** (`{each}`): {m.METHODS[each].definition}." for each in findings.methods)


def summary(findings: AccuracyFindings) -> str:
    """The table of all methods over all cases with a lesion, what it means, vanished lesions, and what is missing."""
    count = len({row.case.name for row in findings.rows if not row.vanished})
    parts = [
        table(*mean_cells(findings)),
        f"{count} case{'s' if count != 1 else ''} with a lesion. {MEANINGS}",
    ]
    parts += _vanished(findings)
    problems = [*findings.notes, *(f"{each.name}: not measured: {each.reason}" for each in findings.failures)]
    if problems:
        parts.append("\n".join(f"- {problem}" for problem in problems))
    return "\n\n".join(parts)


def targets(findings: AccuracyFindings) -> str:
    """What was set out to be reached, a line each."""
    return "\n".join(f"- {goal.line()}" for goal in goals(findings))


def _made(findings: AccuracyFindings) -> str:
    facts, model = findings.provenance, findings.provenance.get("model")
    told = f"{model['id']} on {facts.get('device')}, " if model else ""
    parts = f", 1 to {facts['parts']} parts, background points {facts['negatives']}" if "parts" in facts else ""
    return f"{told}{facts.get('threads')} processor thread(s), seed {findings.seed}{parts}."


def _means(method: str, rows: Sequence[Row], titles: Sequence[str]) -> list[str]:
    chosen = [column for column in COLUMNS if column[0] in titles]
    return [m.METHODS[method].title, *(number(mean([value(row) for row in rows]), decimals) for _, value, decimals in chosen)]


def _vanished(findings: AccuracyFindings) -> list[str]:
    rows = {method: findings.vanished(method) for method in findings.methods}
    if not any(rows.values()):
        return []
    lines = []
    for method, each in rows.items():
        drawn = [row.metrics.result_volume_ml for row in each if row.metrics.result_volume_ml > 0]
        lines.append([m.METHODS[method].title, f"{len(drawn)} of {len(each)}", number(mean(drawn), 1)])
    return [
        "Cases whose lesion has vanished are in no mean; how often a contour was drawn all the same:",
        table(["method", "contoured", "mean ml"], lines),
    ]


def _differences(findings: AccuracyFindings) -> str:
    header, rows = difference_cells(findings)
    if not rows:
        return "Clinical mode or others were not measured."
    return f"{table(header, rows)}\n\n{RESAMPLED}"


def _grouped(findings: AccuracyFindings, title: str, key: Callable[[BenchmarkCase], str]) -> list[str]:
    parts = []
    for value in groups(findings.cases, key):
        cases = [case for case in findings.cases if key(case) == value]
        cells = mean_cells(findings, SHORT, lambda case, v=value: key(case) == v)  # type: ignore[misc]
        parts += [f"## {title}: {value}", caption(cases), table(*cells)]
    return parts


def _choices(findings: AccuracyFindings) -> list[str]:
    registered, result = (
        {row.case.name: row.metrics.volumetric_dice for row in findings.of(k)} for k in (m.REGISTERED, m.CLINICAL)
    )
    rows, figures = [], []
    for name, choice in findings.choices.items():
        slices = choice.slices
        own = [
            registered.get(name, math.nan),
            choice.chosen_dice,
            result.get(name, math.nan),
            choice.lesion_oracle_dice,
            choice.slice_oracle_dice,
            mean([each.candidates for each in slices]),
            100 * mean([each.took_best for each in slices]),
            100 * mean([each.nearly for each in slices]),
            100 * choice.model_share,
        ]
        figures.append(own)
        kinds = ", ".join(dict.fromkeys(choice.lesion_kinds.values()))
        rows.append([name, *_choice_cells(own), kinds])
    rows.append(["**mean**", *_choice_cells([mean([own[k] for own in figures]) for k in range(9)]), ""])
    header = ["case", "registered", "chosen candidates", "result", "oracle, one kind a lesion", "oracle, best of every slice"]
    header += ["candidates a slice", "best taken %", f"within {NEARLY} of the best %", "slices won by the model %", "best kind"]
    share = recovered_share(findings)
    told = (
        "Volumetric Dice. The chosen candidates and both oracles are placed as the model gave them; the result is smoothed,"
        " weighed with the expected contour and cleaned. Of the gap between the registered contour and the oracle of every"
        f" slice, the result recovers {'-' if math.isnan(share) else f'{100 * share:.0f} %'}."
    )
    return [table(header, rows), told]


def _choice_cells(own: Sequence[float]) -> list[str]:
    return [*(number(value, 3) for value in own[:5]), number(own[5], 1), *(number(value, 0) for value in own[6:])]


def _rankings(findings: AccuracyFindings) -> list[str]:
    rows = [_ranking_row(name, slices) for name, slices in findings.rankings.items()]
    rows.append(_ranking_row("**all slices together**", findings.all_ranked()))
    header = ["case", "slices", "rank correlation with the error", f"slices below Dice {BAD_DICE}"]
    header += [f"of these in the first {100 * FIRST_SHARE:.0f} %, %", "at best, %"]
    told = "The error of a slice is 1 less its Dice. A slice with truth that was not looked at counts with priority 0."
    return [table(header, rows), told]


def _ranking_row(name: str, slices: Sequence[RankedSlice]) -> list[str]:
    quality = ranking_quality(slices)
    shares = (number(100 * quality.held, 0), number(100 * quality.attainable, 0))
    return [name, str(quality.slices), number(quality.spearman, 2), str(quality.bad), *shares]
