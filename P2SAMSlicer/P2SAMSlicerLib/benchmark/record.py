"""The findings for programs: one JSON file with everything, one CSV file with a row for each case and method."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from P2SAMSlicerLib.benchmark import methods as m
from P2SAMSlicerLib.benchmark.findings import AccuracyFindings, Row, caption
from P2SAMSlicerLib.benchmark.goals import goals, recovered_share
from P2SAMSlicerLib.benchmark.ranking_quality import ranking_quality
from P2SAMSlicerLib.result_files import plain, write_json


def write_rows(path: Path, findings: AccuracyFindings) -> None:
    """One row for each case and method; an empty cell where there is no figure."""
    rows = [_row(findings, row) for row in findings.rows]
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else ["case", "method"])
        writer.writeheader()
        writer.writerows({key: "" if value is None else value for key, value in row.items()} for row in rows)


def write_record(path: Path, findings: AccuracyFindings) -> None:
    """Everything, as strict JSON; figures that are not finite are null, and ``empty`` says why."""
    write_json(path, record(findings))


def record(findings: AccuracyFindings) -> dict[str, Any]:
    """The content of the JSON file."""
    return {
        "format": "P2SAMSlicer benchmark accuracy",
        "format_version": 1,
        "statement": caption(findings.cases),
        "provenance": dict(findings.provenance),
        "seed": findings.seed,
        "peak_memory_gib": findings.peak_memory_gib,
        "notes": list(findings.notes),
        "failures": [{"case": each.name, "reason": each.reason} for each in findings.failures],
        "methods": {each: m.METHODS[each].definition for each in findings.methods},
        "rows": [{**_row(findings, row), "empty": row.metrics.as_dict()["empty"]} for row in findings.rows],
        "clinical_minus": dict(_differences(findings)),
        "choices": {name: asdict(choice) for name, choice in findings.choices.items()},
        "recovered_share": recovered_share(findings),
        "rankings": {
            name: {**asdict(ranking_quality(slices)), "each": [asdict(each) for each in slices]}
            for name, slices in findings.rankings.items()
        },
        "ranking_of_all": asdict(ranking_quality(findings.all_ranked())) if findings.rankings else None,
        "targets": [asdict(goal) for goal in goals(findings)],
    }


def _row(findings: AccuracyFindings, row: Row) -> dict[str, Any]:
    metrics = row.metrics.as_dict()
    shift = metrics.pop("centroid_shift_mm")
    metrics.pop("empty")
    numbers = {
        patient: number for number, patient in enumerate(dict.fromkeys(case.patient for case in findings.cases), start=1)
    }
    values: dict[str, Any] = plain(
        {
            "case": row.case.name,
            "change": row.case.change,
            "site": row.case.site,
            "patient": numbers[row.case.patient],  # told apart, not named
            "method": row.method,
            "outcome": row.outcome,
            "seconds": None if row.seconds is None else round(row.seconds, 2),
            **metrics,
            **{f"centroid_shift_{axis}_mm": None if shift is None else shift[k] for k, axis in enumerate("xyz")},
        }
    )
    return values


def _differences(findings: AccuracyFindings) -> Iterator[tuple[str, dict[str, Any]]]:
    for method in findings.methods:
        found = findings.dice_difference(m.CLINICAL, method) if method != m.CLINICAL else None
        if found is not None:
            yield method, asdict(found)
