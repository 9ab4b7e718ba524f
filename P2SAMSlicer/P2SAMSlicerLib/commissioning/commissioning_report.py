"""The files of a commissioning: a report to sign, the same for programs, the accuracy table. All appear, or none."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from P2SAMSlicerLib.atomic_file import atomic_folder
from P2SAMSlicerLib.benchmark import methods as m
from P2SAMSlicerLib.benchmark.findings import AccuracyFindings, Row, caption
from P2SAMSlicerLib.benchmark.plot import write_plot
from P2SAMSlicerLib.benchmark.record import write_rows
from P2SAMSlicerLib.benchmark.tables import (
    comparison,
    definitions,
    summary,
    table,
)
from P2SAMSlicerLib.commissioning.commissioning_page import commissioning_page
from P2SAMSlicerLib.commissioning.figures import FIGURES, STATISTICS
from P2SAMSlicerLib.commissioning.measure import Measured, VisitFailure
from P2SAMSlicerLib.commissioning.tolerances import Tolerances
from P2SAMSlicerLib.commissioning.verdict import Verdict, judge, overall, unjudged_sites
from P2SAMSlicerLib.commissioning.verdict_text import STATEMENT, headline, value_text, verdict_cells
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.result_files import FailedVisit, versions, write_json

PAGE_NAME, RECORD_NAME = "commissioning.html", "commissioning.json"
ROWS_NAME, TABLE_NAME = "accuracy.csv", "accuracy.md"
NAMES = (PAGE_NAME, RECORD_NAME, ROWS_NAME, TABLE_NAME)


def check_report(out: Path, *, overwrite: bool) -> None:
    """Refuse, before any work, to write over a report.

    :raises InputError: one is there already, which may not be replaced.
    """
    there = [name for name in NAMES if os.path.lexists(out / name)]
    if there and not overwrite:
        raise InputError(f"{there[0]}: there already in the folder for the report; use --overwrite to replace")


def findings_of(measured: Measured) -> AccuracyFindings:
    """What was measured, for the benchmark's tables."""
    cases = tuple(case for case, _ in measured.visits.values())
    rows = tuple(
        Row(case, method, each.metrics, each.seconds, each.outcome)
        for case, visit in measured.visits.values()
        for method in measured.methods
        if (each := visit.methods.get(method)) is not None
    )
    failures = [FailedVisit(each.name, f"{each.stage}: {each.reason}", "") for each in measured.failures]
    failures += [
        FailedVisit(name, visit.peers_failed, "") for name, (_, visit) in measured.visits.items() if visit.peers_failed
    ]
    return AccuracyFindings(
        cases=cases,
        methods=measured.methods,
        rows=rows,
        choices={},
        rankings={},
        seed=int(measured.provenance.get("seed", 0)),
        failures=tuple(failures),
        notes=measured.notes,
        provenance=measured.provenance,
    )


def write_report(out: Path, measured: Measured, tolerances: Tolerances) -> list[Path]:
    """Write report, record, rows and table.

    :returns: the files.
    :raises OutputError: no space, no permission.
    """
    verdicts = judge(measured, tolerances)
    findings = findings_of(measured)
    with atomic_folder(out) as stage:
        text = commissioning_page(measured, findings, tolerances, verdicts, _plot(stage, findings))
        (stage / PAGE_NAME).write_text(text, encoding="utf-8", newline="\n")
        write_json(stage / RECORD_NAME, record(measured, findings, tolerances, verdicts))
        write_rows(stage / ROWS_NAME, findings)
        (stage / TABLE_NAME).write_text(markdown(findings, verdicts), encoding="utf-8", newline="\n")
    return [out / name for name in NAMES]


def _plot(folder: Path, findings: AccuracyFindings) -> bytes | None:
    """What every method reached, as a PNG for the page; None if no method reached anything."""
    if not any(findings.of(method) for method in findings.methods):
        return None
    plot = folder / "accuracy.png"
    write_plot(plot, findings)
    png = plot.read_bytes()
    plot.unlink()
    return png


def markdown(findings: AccuracyFindings, verdicts: Sequence[Verdict]) -> str:
    """The accuracy table and the verdicts as Markdown."""
    parts = ["# Commissioning on simulated visits", *STATEMENT, caption(findings.cases)]
    parts += ["## Tolerances", headline(verdicts), table(*verdict_cells(verdicts))]
    parts += ["## Accuracy", summary(findings), *comparison(findings), "## Methods", definitions(findings)]
    return "\n\n".join(parts) + "\n"


def record(
    measured: Measured, findings: AccuracyFindings, tolerances: Tolerances, verdicts: Sequence[Verdict]
) -> dict[str, Any]:
    """The content of the JSON file; it names no patient, file or folder."""
    return {
        "format": "P2SAMSlicer commissioning",
        "format_version": 1,
        "statement": [*STATEMENT, caption(findings.cases)],
        "result": overall(verdicts),
        "headline": headline(verdicts),
        "sites_not_judged": unjudged_sites(verdicts),
        "verdicts": [
            {
                "group": each.group,
                "figure": each.tolerance.figure,
                "statistic": each.tolerance.statistic,
                each.tolerance.about.word: each.tolerance.limit,
                "value": each.value,
                "value_text": value_text(each),
                "verdict": each.judgement,
                "why": each.why,
                "visits": each.visits,
                "patients": each.cases,
            }
            for each in verdicts
        ],
        "least_patients": tolerances.least_cases,
        "definitions": {each.id: each.meaning for each in FIGURES.values()} | {"statistics": STATISTICS},
        "methods": {each: m.METHODS[each].definition for each in findings.methods},
        "visits": {name: _visit(case, visit) for name, (case, visit) in measured.visits.items()},
        "failures": [_failure(each) for each in measured.failures],
        "notes": list(measured.notes),
        "warnings": {name: list(each) for name, each in measured.warnings.items()},
        "measured_by_an_earlier_run": measured.kept,
        "provenance": dict(measured.provenance),
        "versions": versions(),
    }


def _visit(case: Any, visit: Any) -> dict[str, Any]:
    return {
        "change": case.change,
        "site": case.site,
        "patient": case.patient,
        "registration": dict(visit.registration),
        "simulated": dict(visit.simulated),
        "methods": {
            method: {"outcome": each.outcome, "seconds": each.seconds, **each.metrics.as_dict()}
            for method, each in visit.methods.items()
        },
        "not_measured": visit.peers_failed,
    }


def _failure(failure: VisitFailure) -> dict[str, Any]:
    return {"visit": failure.name, "stage": failure.stage, "site": failure.case.site, "reason": failure.reason}
