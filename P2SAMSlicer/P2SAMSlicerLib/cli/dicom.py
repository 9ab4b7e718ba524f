"""``p2sam dicom``: what a folder of DICOM files holds, and one CT series of it as a volume file."""

from __future__ import annotations

import argparse
import json
import sys
from datetime import date
from pathlib import Path
from typing import Any

from P2SAMSlicerLib.cli.arguments import Commands, add_progress_argument, whole_number
from P2SAMSlicerLib.cli.arguments import add_command as add_named_command
from P2SAMSlicerLib.cli.dicom_export import add_export
from P2SAMSlicerLib.cli.output import check_output_file
from P2SAMSlicerLib.cli.table import format_table
from P2SAMSlicerLib.dicom.folder_index import index_folder
from P2SAMSlicerLib.dicom.indexed_series import DicomIndex, IndexedSeries, SeriesKind
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.progress import terminal_progress

DESCRIPTION = """\
Looks into folders of DICOM files, nested as they are, with any number of patients,
studies and series in them."""

LIST_DESCRIPTION = """\
Lists the series of all patients: CT, structure sets (RTSTRUCT), segmentations (SEG) and
other images, and counts the files that are in none, by reason.

Patients and series are numbered and days count from a patient's first series, so that
the list names nobody. --identified shows patient ids, dates and labels, too."""

CONVERT_DESCRIPTION = """\
Writes one CT series as a volume file. Slices that are missing, doubled, of different
orientation or beside the stack are refused.

With --resample a series is taken, too, that was scanned with a tilted gantry, or whose
slices lie at different distances: each slice is moved within its own plane to where a
straight stack has it, and the distances are made even at the smallest one, by linear
interpolation. Nothing is averaged where a slice is missing: that stays refused."""

_CONTOURS = (SeriesKind.STRUCTURE_SET, SeriesKind.SEGMENTATION)


def add_command(commands: Commands) -> None:
    """Add ``dicom`` to the command line."""
    parser = commands.add_parser(
        "dicom", help="list DICOM folders, convert a CT series, export contours", description=DESCRIPTION
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    show = add_named_command(actions, "list", run_list, "all series below a folder", LIST_DESCRIPTION)
    show.add_argument("folder", metavar="DIR", type=Path)
    show.add_argument("--identified", action="store_true", help="show patient ids, dates and labels")
    show.add_argument("--json", action="store_true", help="print JSON")
    add_progress_argument(show)
    convert = add_named_command(actions, "convert", run_convert, "write a CT series as a volume file", CONVERT_DESCRIPTION)
    convert.add_argument("folder", metavar="DIR", type=Path)
    convert.add_argument("--out", metavar="FILE", type=Path, required=True, help="a .nrrd, .nii.gz, .nii or .mha file")
    convert.add_argument(
        "--series", metavar="N", type=whole_number(1), help="its number in the list (default: the only CT series there is)"
    )
    convert.add_argument("--resample", action="store_true", help="take a tilted or unevenly spaced stack, see above")
    convert.add_argument("--overwrite", action="store_true", help="replace a file that is there already")
    add_progress_argument(convert)
    add_export(actions)


def run_list(arguments: argparse.Namespace) -> int:
    """Run ``dicom list``."""
    with terminal_progress(as_json=arguments.json_progress) as progress:
        index = index_folder(arguments.folder, progress)
    rows = series_rows(index, identified=arguments.identified)
    if arguments.json:
        print(json.dumps({"series": rows, "left_aside": dict(index.left_aside)}, indent=1))
        return 0
    print(_table(rows, identified=arguments.identified) if rows else "no DICOM series below this folder")
    for reason, count in index.left_aside.items():
        print(f"left aside: {count} {reason}")
    return 0


def run_convert(arguments: argparse.Namespace) -> int:
    """Run ``dicom convert``."""
    from P2SAMSlicerLib.dicom.series import read_ct_series
    from P2SAMSlicerLib.volume_file import write_volume

    if arguments.out.exists() and not arguments.overwrite:
        raise InputError(f"{arguments.out.name}: is there already; use --overwrite to replace it")
    check_output_file(arguments.out, ())
    with terminal_progress(as_json=arguments.json_progress) as progress:
        index = index_folder(arguments.folder, progress)
    number, series = _chosen(index, arguments.series)
    if any(arguments.out.exists() and arguments.out.samefile(path) for path in series.paths):
        raise InputError(f"{arguments.out.name}: is one of the series' own files; choose another name")
    volume = read_ct_series(series.paths, f"series {number}", resample=arguments.resample).volume
    write_volume(volume, arguments.out)
    shape, spacing = volume.grid.shape, volume.grid.spacing
    print(
        f"{arguments.out.name}: {shape[2]} x {shape[1]} x {shape[0]} voxels of"
        f" {spacing[0]:.4g} x {spacing[1]:.4g} x {spacing[2]:.4g} mm"
    )
    for warning in (*(f"series {number}: {each}" for each in volume.warnings), index.lost()):
        if warning:
            print(f"p2sam: warning: {warning}", file=sys.stderr)
    return 0


def _chosen(index: DicomIndex, number: int | None) -> tuple[int, IndexedSeries]:
    """Number and series to convert.

    :raises InputError: there is no such series, or it is not clear which one is meant.
    """
    cts = {place: each for place, each in enumerate(index.series, 1) if each.kind is SeriesKind.CT}
    if number is None and len(cts) == 1:
        return next(iter(cts.items()))
    if number is None:
        raise InputError(f"{len(cts)} CT series below this folder; choose one with --series (see: p2sam dicom list)")
    if number not in cts:
        raise InputError(f"--series {number}: not the number of a CT series (see: p2sam dicom list)")
    return number, cts[number]


def series_rows(index: DicomIndex, *, identified: bool = False) -> list[dict[str, Any]]:
    """One row for each series, of plain values.

    :param identified: with patient ids, dates and labels.
    """
    patients = {patient: place for place, patient in enumerate(index.patient_ids(), 1)}
    first = _first_days(index)
    numbers = {id(each): place for place, each in enumerate(index.series, 1)}
    drawn_on: dict[int, list[int]] = {}
    for each in index.of_kind(SeriesKind.CT):
        for contours in index.contours_on(each):
            drawn_on.setdefault(id(contours), []).append(numbers[id(each)])
    rows = []
    for number, each in enumerate(index.series, 1):
        day = _day(each)
        start = first.get(each.patient_id)
        row: dict[str, Any] = {
            "series": number,
            "patient": patients[each.patient_id],
            "day": (day - start).days if day and start else None,
            "kind": each.kind.value,
            "modality": each.modality,
            "slices": None if each.kind in _CONTOURS else sum(file.frames for file in each.files),
            "phase": each.phase,
            "phase_group": each.phase_group or None,
            "approval": each.approval or None,
            "drawn_on": drawn_on.get(id(each), []) if each.kind in _CONTOURS else None,
            "contours": ([numbers[id(found)] for found in index.contours_on(each)] if each.kind is SeriesKind.CT else None),
        }
        if identified:
            row |= {"patient_id": each.patient_id, "acquired": each.acquired, "label": each.label}
        rows.append(row)
    return rows


def _table(rows: list[dict[str, Any]], *, identified: bool) -> str:
    header = ["series", "patient", "day", "modality", "slices", "phase", "contours"]
    if identified:
        header += ["patient id", "acquired", "label"]
    cells = []
    for row in rows:
        contours = ", ".join(str(each) for each in row["contours"] or ())
        if row["drawn_on"] is not None:
            on = ", ".join(str(each) for each in row["drawn_on"])
            contours = f"on series {on}" if on else "on no CT here"
            contours += f" ({row['approval'].lower()})" if row["approval"] else ""
        cells.append(
            [
                str(row["series"]),
                str(row["patient"]),
                "-" if row["day"] is None else f"{row['day']:+d}",
                row["modality"],
                "-" if row["slices"] is None else str(row["slices"]),
                "-" if row["phase"] is None else f"{row['phase']:g} % ({row['phase_group']})",
                contours or "-",
            ]
        )
        if identified:
            cells[-1] += [_printable(row[key]) for key in ("patient_id", "acquired", "label")]
    return format_table(header, cells)


def _first_days(index: DicomIndex) -> dict[str | None, date]:
    """Each patient's first day."""
    first: dict[str | None, date] = {}
    for each in index.series:
        day = _day(each)
        if day is not None:
            first[each.patient_id] = min(day, first.get(each.patient_id, day))
    return first


def _day(series: IndexedSeries) -> date | None:
    if series.acquired is None:
        return None
    text = series.acquired
    return date(int(text[:4]), int(text[4:6]), int(text[6:8]))


def _printable(text: str | None) -> str:
    """Text of a file without what could steer a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text or "-")
