"""The cohort's page: what came of it, what failed and why, and which contours to look at first.

Patients are told by label (p0001 is in row 2 of the table of patients); the clinic's own keys are never in it.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import P2SAMSlicerLib
from P2SAMSlicerLib.cohort.cohort_folder import PAGE_NAME
from P2SAMSlicerLib.cohort.results_table import COLUMNS, CSV_NAME, FAILED, PARQUET_NAME, REPORTS, ResultRow
from P2SAMSlicerLib.report.page import (
    Content,
    Markup,
    bullets,
    element,
    facts,
    figure_text,
    notice,
    page,
    paragraph,
    section,
    table,
    write_page,
)
from P2SAMSlicerLib.result_files import STATEMENT

TITLE = "Contours of a cohort"
#: So many contours are listed; all of them are in the table of results.
MOST_DOUBTFUL = 100
MOST_FAILURES = 500
PACKAGES = ("distributed", "pyarrow", "torch", "SimpleITK", "pydicom", "highdicom")


def write_cohort_report(out: Path, rows: Sequence[ResultRow], run: Mapping[str, Content], notes: Sequence[str] = ()) -> Path:
    """Write the page.

    :param rows: of the table of results.
    :param run: how it was done (workers, model), name and value.
    :param notes: what else went wrong.
    :returns: the file.
    :raises OutputError: no space, no permission.
    """
    path = out / PAGE_NAME
    failures = [row for row in rows if row.outcome == FAILED]
    contours = [row for row in rows if row.segment is not None]
    parts = [
        notice(bullets(list(STATEMENT)), title="UNREVIEWED"),
        section("What came of it", facts("The cohort", _facts(rows)), _outcomes(contours)),
        section("What failed", _failures(out, failures), bullets(list(notes)), anchor="failed"),
        section("What to look at first", _doubtful(out, contours), anchor="doubtful"),
        section("How it was done", facts("The run", {**run, **_versions()}), anchor="run"),
        section("Definitions", _definitions(), anchor="definitions"),
    ]
    write_page(path, page(TITLE, *parts, running="P2SAMSlicer cohort. For research use only. UNREVIEWED."))
    return path


def _facts(rows: Sequence[ResultRow]) -> dict[str, Content]:
    patients = {row.patient for row in rows}
    whole = {row.patient for row in rows if row.outcome == FAILED and row.visit is None}
    partly = {row.patient for row in rows if row.outcome == FAILED} - whole
    visits = {(row.patient, row.visit): row.outcome for row in rows if row.visit is not None}
    failed = sum(outcome == FAILED for outcome in visits.values())
    return {
        "Patients": str(len(patients)),
        "Patients of whom nothing could be carried": str(len(whole)),
        "Patients of whom a visit failed": str(len(partly)),
        "Follow-ups carried to": str(len(visits) - failed),
        "Follow-ups that failed": str(failed),
        "Structures carried, over all follow-ups": str(sum(row.segment is not None for row in rows)),
    }


def _outcomes(contours: Sequence[ResultRow]) -> Markup:
    counts = Counter(str(row.segment_outcome) for row in contours)
    if not counts:
        return paragraph("Nothing was carried.")
    return table(
        "Outcomes of structures", ["outcome", "structures"], [[k, str(n)] for k, n in counts.most_common()], numeric=[1]
    )


def _failures(out: Path, failures: Sequence[ResultRow]) -> Markup:
    if not failures:
        return paragraph("Nothing failed.")
    rows = [[_patient(out, row.patient), row.visit or "all", row.reasons] for row in failures[:MOST_FAILURES]]
    return table(_caption("Failures", len(rows), len(failures)), ["patient", "visit", "reason"], rows, wide=[2])


def _doubtful(out: Path, contours: Sequence[ResultRow]) -> Markup:
    ordered = sorted(contours, key=lambda row: -(row.review_priority or 0.0))
    if not ordered:
        return paragraph("There is no contour.")
    rows: list[list[Content]] = [
        [
            _patient(out, row.patient),
            row.visit,
            row.segment,
            row.segment_outcome,
            figure_text(row.review_priority, 2),
            figure_text(row.volume_ml, 1),
            figure_text(row.volume_change_percent, 0, sign=True),
            row.reasons or None,
        ]
        for row in ordered[:MOST_DOUBTFUL]
    ]
    columns = ["patient", "visit", "structure", "outcome", "review priority", "ml", "change %", "reasons"]
    return table(
        _caption("Contours by review priority, the most doubtful first", len(rows), len(ordered)),
        columns,
        rows,
        numeric=[4, 5, 6],
        wide=[7],
    )


def _caption(words: str, shown: int, total: int) -> str:
    return words if shown == total else f"{words}; {shown} of {total}, the others are in {CSV_NAME}"


def _patient(out: Path, label: str) -> Content:
    """A patient's label, with a link to the report where there is one."""
    if not (out / label / REPORTS[0]).is_file():
        return label
    return element("a", label, href=f"{label}/{REPORTS[0]}")


def _definitions() -> Markup:
    rows: list[list[Content]] = [[name, meaning] for name, meaning in COLUMNS.items()]
    return table(f"Columns of {CSV_NAME} and {PARQUET_NAME}", ["column", "meaning"], rows, wide=[1])


def _versions() -> dict[str, Content]:
    found: dict[str, Content] = {"P2SAMSlicer": P2SAMSlicerLib.__version__, "Python": platform.python_version()}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
