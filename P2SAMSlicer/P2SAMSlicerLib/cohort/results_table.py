"""The table of a cohort's results, as CSV for people and Parquet for programs: a row for each visit and structure."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from P2SAMSlicerLib.atomic_file import atomic_write
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.result_files import SUMMARY_NAME

CSV_NAME, PARQUET_NAME = "results.csv", "results.parquet"
VISIT_NAME = "visit.json"
#: Of a patient.
REPORTS = ("report.html", "report.json")
DONE, FAILED = "done", "failed"

#: What the columns are.
COLUMNS = {
    "patient": "p0001 is in row 2 of the table of patients, and so on; the header is row 1",
    "key": "the clinic's own key of the patient; only where it was asked for",
    "visit": "visit_1 is the patient's earliest CT, and so on; empty for a patient that failed as a whole",
    "day": "days since the patient's first visit",
    "outcome": "of the visit: done or failed",
    "segment": "the structure's name",
    "segment_outcome": "found, flagged, too small, no lesion found or registration only",
    "review_priority": "0 to 1; says where to look first, and never that a contour is right",
    "prior_volume_ml": "on the CT that it was carried from",
    "volume_ml": "of the contour",
    "volume_change_percent": "of the contour against the prior's",
    "shift_left_mm": "of the contour's centroid against the registered prior contour's, to the patient's left",
    "shift_posterior_mm": "the same, to the back",
    "shift_superior_mm": "the same, to the head",
    "reasons": "why it is flagged, has no contour, or failed",
    "seconds": "of computing, without reading and writing",
    "workers": "how many the run had that wrote this table",
}


@dataclass(frozen=True, slots=True)
class ResultRow:
    """One row without what is the same for a patient or a run; None is an empty cell. See :data:`COLUMNS`."""

    patient: str
    visit: str | None = None
    day: int | None = None
    outcome: str = DONE
    segment: str | None = None
    segment_outcome: str | None = None
    review_priority: float | None = None
    prior_volume_ml: float | None = None
    volume_ml: float | None = None
    volume_change_percent: float | None = None
    shift_left_mm: float | None = None
    shift_posterior_mm: float | None = None
    shift_superior_mm: float | None = None
    reasons: str = ""
    seconds: float | None = None

    @classmethod
    def of(cls, patient: str, values: Mapping[str, Any]) -> ResultRow:
        """A row of :func:`visit_rows`. Words that come again and again are kept once: there may be 100,000 rows."""
        kept: dict[str, Any] = {name: sys.intern(each) if isinstance(each, str) else each for name, each in values.items()}
        return cls(patient, **kept)


def visit_rows(folder: Path) -> list[dict[str, Any]]:
    """A finished visit's rows, as plain values, without what only the driver knows.

    :param folder: of the visit, with ``visit.json`` and ``summary.json``.
    :raises InputError: they are not there, or not what they should be.
    """
    try:
        visit = json.loads((folder / VISIT_NAME).read_text(encoding="utf-8"))
        summary = json.loads((folder / SUMMARY_NAME).read_text(encoding="utf-8"))
        (entry,) = summary["followups"]
        seconds = sum(float(each) for each in (entry.get("stage_seconds") or {}).values() if each is not None)
        common = {"visit": str(visit["label"]), "day": visit["day"], "outcome": DONE, "seconds": round(seconds, 3)}
        return [{**common, **_segment(each)} for each in entry["segments"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{folder.name}: its {VISIT_NAME} and {SUMMARY_NAME} are not what a finished visit has") from error


def _segment(entry: Mapping[str, Any]) -> dict[str, Any]:
    shift = entry["centroid_shift_mm"] or (None, None, None)
    return {
        "segment": str(entry["segment"]),
        "segment_outcome": str(entry["outcome"]),
        "review_priority": entry["review_priority"],
        "prior_volume_ml": entry["prior_volume_ml"],
        "volume_ml": entry["volume_ml"],
        "volume_change_percent": entry["volume_change_percent"],
        "shift_left_mm": shift[0],
        "shift_posterior_mm": shift[1],
        "shift_superior_mm": shift[2],
        "reasons": "; ".join(str(each) for each in entry["reasons"]),
    }


def write_results(
    out: Path, rows: Sequence[ResultRow], workers: int, keys: Mapping[str, str] | None = None
) -> tuple[Path, Path]:
    """Write the table twice; each file appears whole or not at all.

    :param keys: the clinic's own key of each patient, for a column of its own; None for a table without it.
    :returns: the CSV file and the Parquet file.
    :raises OutputError: no space, no permission.
    """
    names = [name for name in COLUMNS if keys is not None or name != "key"]

    def value(row: ResultRow, name: str) -> Any:
        if name == "key":
            return (keys or {}).get(row.patient)
        return workers if name == "workers" else getattr(row, name)

    table, columns = out / CSV_NAME, out / PARQUET_NAME
    with atomic_write(table) as temporary, temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows([_cell(value(row, name)) for name in names] for row in rows)
    with atomic_write(columns) as temporary:
        _write_parquet(temporary, {name: [value(row, name) for row in rows] for name in names})
    return table, columns


def _cell(value: Any) -> Any:
    """A cell; text that a spreadsheet would take for a formula is marked as text."""
    if value is None:
        return ""
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return f"'{value}"
    return value


def _write_parquet(path: Path, columns: Mapping[str, list[Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    kinds = {int: pa.int64(), float: pa.float64(), str: pa.string()}
    schema = pa.schema([pa.field(name, kinds[_kind(name)], metadata={"meaning": COLUMNS[name]}) for name in columns])
    pyarrow.parquet.write_table(pa.table(dict(columns), schema=schema), path)


def _kind(name: str) -> type:
    """The type of a column's values; empty cells have none."""
    if name in ("key", "workers"):
        return str if name == "key" else int
    hint = get_type_hints(ResultRow)[name]
    found: type = next(each for each in (get_args(hint) or (hint,)) if each is not type(None))
    return found
