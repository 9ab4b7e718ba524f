"""The files of a benchmark: all of them appear, or none."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from P2SAMSlicerLib.atomic_file import atomic_folder, check_writable
from P2SAMSlicerLib.benchmark.findings import AccuracyFindings
from P2SAMSlicerLib.benchmark.plot import write_plot
from P2SAMSlicerLib.benchmark.record import write_record, write_rows
from P2SAMSlicerLib.benchmark.tables import markdown
from P2SAMSlicerLib.errors import InputError

TABLE_NAME, ROWS_NAME, RECORD_NAME, PLOT_NAME = "accuracy.md", "accuracy.csv", "accuracy.json", "accuracy.png"
NAMES = (TABLE_NAME, ROWS_NAME, RECORD_NAME, PLOT_NAME)
NEED_BYTES = 20_000_000


def check_report(out: Path, *, overwrite: bool, names: Sequence[str] = NAMES) -> None:
    """Refuse, before any work, a folder into which the report cannot be written.

    :param names: of its files; the first is named where they are there.
    :raises InputError: it holds one already, which may not be replaced.
    :raises OutputError: no space, no permission.
    """
    there = [name for name in names if os.path.lexists(out / name)]
    if there and not overwrite:
        raise InputError(f"{there[0]}: there already in the folder for the report; use --overwrite to replace")
    check_writable(out, NEED_BYTES)


def write_report(out: Path, findings: AccuracyFindings) -> list[Path]:
    """Write tables, rows, record and plot.

    :returns: the files.
    :raises OutputError: no space, no permission.
    """
    with atomic_folder(out) as stage:
        (stage / TABLE_NAME).write_text(markdown(findings), encoding="utf-8")
        write_rows(stage / ROWS_NAME, findings)
        write_record(stage / RECORD_NAME, findings)
        write_plot(stage / PLOT_NAME, findings)
    return [out / name for name in NAMES]
