"""The report of a commissioning as one page to read, print and sign."""

from __future__ import annotations

from collections.abc import Sequence

from P2SAMSlicerLib.benchmark import methods as m
from P2SAMSlicerLib.benchmark.findings import AccuracyFindings, caption
from P2SAMSlicerLib.benchmark.tables import MEANINGS, RESAMPLED, case_cells, difference_cells, mean_cells
from P2SAMSlicerLib.commissioning.figures import FIGURES, STATISTICS
from P2SAMSlicerLib.commissioning.measure import SIMULATION, Measured
from P2SAMSlicerLib.commissioning.tolerances import Tolerances
from P2SAMSlicerLib.commissioning.verdict import FAIL, NOT_JUDGED, PASS, Verdict, overall
from P2SAMSlicerLib.commissioning.verdict_text import STATEMENT, headline, verdict_cells
from P2SAMSlicerLib.report import page as html
from P2SAMSlicerLib.result_files import versions

TITLE = "P2SAMSlicer: commissioning on simulated visits"
TONES: dict[str, html.Tone] = {PASS: "good", FAIL: "bad", NOT_JUDGED: "warn"}


def commissioning_page(
    measured: Measured, findings: AccuracyFindings, tolerances: Tolerances, verdicts: Sequence[Verdict], plot: bytes | None
) -> str:
    """The whole page.

    :param plot: a PNG of what every method reached, or None.
    """
    result = overall(verdicts)
    parts = [
        html.notice(*(html.paragraph(each) for each in STATEMENT), title="What these figures are"),
        html.notice(html.paragraph(headline(verdicts)), tone=TONES[result], title=None),
        html.section("Tolerances", _verdicts(verdicts, tolerances)),
        html.section("Accuracy", *_accuracy(findings, plot)),
        html.section("What was not measured", *_problems(measured)),
        html.section("Definitions", *_definitions(findings)),
        html.section("Settings", *_settings(measured)),
        html.section("Signature", html.signature_lines(("Medical physicist", "Responsible physician"))),
    ]
    return html.page(TITLE, *parts, running="Simulated visits. For research use only")


def _verdicts(verdicts: Sequence[Verdict], tolerances: Tolerances) -> html.Markup:
    header, rows = verdict_cells(verdicts)
    marked: list[list[html.Content]] = []
    for row, each in zip(rows, verdicts, strict=True):
        why = html.paragraph(each.why, kind="note") if each.why else ""
        marked.append([*row[:3], html.join([html.badge(each.judgement, TONES[each.judgement]), why]), *row[4:]])
    told = (
        "Each tolerance, the figure that it was compared with, and what that figure comes from. With fewer than"
        f" {tolerances.least_cases} patients nothing is judged."
    )
    return html.table(told, header, marked, numeric=(2, 4, 5))


def _accuracy(findings: AccuracyFindings, plot: bytes | None) -> list[html.Markup]:
    header, rows = mean_cells(findings)
    parts = [html.table(caption(findings.cases), header, rows, numeric=range(1, len(header)))]
    parts.append(html.paragraph(MEANINGS, kind="note"))
    header, rows = difference_cells(findings)
    if rows:
        parts += [html.table("Clinical mode against each other method", header, rows, numeric=range(1, 5))]
        parts += [html.paragraph(RESAMPLED, kind="note")]
    if plot is not None:
        told = "Dice and volume error of every method on every visit"
        parts.append(html.picture(plot, told, caption(findings.cases), kind="wide"))
    header, rows = case_cells(findings)
    parts.append(html.table("Dice of every simulated visit", header, rows, numeric=range(2, len(header) - 1)))
    return parts


def _problems(measured: Measured) -> list[html.Markup]:
    items = [f"{each.name}: {each.stage}: {each.reason}" for each in measured.failures]
    if any(each.stage == SIMULATION for each in measured.failures):
        items.append("A visit that could not be simulated is no failure of the program, and counts for no tolerance.")
    items += [f"{name}: elastix: {visit.peers_failed}" for name, (_, visit) in measured.visits.items() if visit.peers_failed]
    items += list(measured.notes)
    warnings = [f"{name}: {text}" for name, texts in measured.warnings.items() for text in texts]
    parts = [html.bullets(items) if items else html.paragraph("Every visit was measured.")]
    return [*parts, html.paragraph("Warnings of the readers:"), html.bullets(warnings)] if warnings else parts


def _definitions(findings: AccuracyFindings) -> list[html.Markup]:
    figures = [(each.title, each.meaning) for each in FIGURES.values()]
    methods = [(m.METHODS[each].title, m.METHODS[each].definition) for each in findings.methods]
    return [
        html.facts("Figures that tolerances are set on; those of the product's own contour (clinical mode)", figures),
        html.paragraph(f"Statistics: {STATISTICS}.", kind="note"),
        html.facts("Methods", methods),
    ]


def _settings(measured: Measured) -> list[html.Markup]:
    facts = dict(measured.provenance)
    card, simulation, options = (facts.pop(name, None) or {} for name in ("model", "simulation", "options"))
    return [
        html.facts("Run", [(name, html.plain_or(value)) for name, value in facts.items()]),
        html.facts("Model", [(name, html.plain_or(value)) for name, value in card.items()]),
        html.facts("Propagation", [(name, html.plain_or(value)) for name, value in options.items()]),
        html.facts(
            "Simulation: largest set-up error, deformation and noise of every visit; its change and seed are its own",
            [(name, html.plain_or(value)) for name, value in simulation.items() if name not in ("change", "seed")],
        ),
        html.facts("Versions", list(versions().items())),
    ]
