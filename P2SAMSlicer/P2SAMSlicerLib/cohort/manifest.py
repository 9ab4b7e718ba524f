"""The list of patients: a CSV table, one row a patient, checked as a whole before any work begins.

Messages name rows as a spreadsheet numbers them (the header is row 1), and never what a cell says of a patient.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from P2SAMSlicerLib.errors import InputError

NEEDED = ("patient", "folder")
OPTIONAL = ("prior", "segments", "from", "followups")
COLUMNS = (*NEEDED, *OPTIONAL)
CARRIED_FROM = ("prior", "previous", "approved")
DELIMITERS = ",;\t"
#: Faults that are named in one message; the others are counted.
TOLD_FAULTS = 3
#: A table of patients is never larger; what is, is something else.
LARGEST_BYTES = 64_000_000


@dataclass(frozen=True)
class ManifestRow:
    """One patient.

    :param row: as a spreadsheet numbers it; the first patient is in row 2.
    :param patient: the clinic's own key. Not shown unless asked for.
    :param folder: absolute.
    :param prior: visit to carry from; None for the usual one.
    :param segments: structures to carry; empty for all, or those that are asked for on the command line.
    :param carried_from: ``prior``, ``previous`` or ``approved``; None for what is asked for on the command line.
    :param followups: visits to carry to; empty for all.
    """

    row: int
    patient: str = field(repr=False)
    folder: Path = field(repr=False)
    prior: str | None = field(default=None, repr=False)
    segments: tuple[str, ...] = ()
    carried_from: str | None = None
    followups: tuple[str, ...] = field(default=(), repr=False)

    @property
    def label(self) -> str:
        """The patient's name in files and messages: ``p0001`` is in row 2."""
        return f"p{self.row - 1:04d}"


def read_manifest(path: Path) -> tuple[ManifestRow, ...]:
    """Read and check a table of patients.

    Columns, in any order: ``patient`` and ``folder``, and if wanted ``prior``, ``segments`` and ``followups`` (several with
    ``;`` between them) and ``from``. Cells are separated by commas, semicolons or tabs. Folders are relative to the table's.

    :raises InputError: in one line, with the rows' numbers; never with what a row says.
    """
    records = list(_records(path))
    if not records:
        raise InputError(f"{path.name}: is empty; it needs a header with the columns {' and '.join(NEEDED)}")
    (header_row, header), *lines = records
    places = _places(path.name, header_row, header)
    faults: list[str] = []
    rows = [row for number, cells in lines if (row := _row(path, number, cells, places, len(header), faults)) is not None]
    _note_twins(rows, lambda row: row.patient.casefold(), "name the same patient", faults)
    _note_twins(rows, lambda row: str(row.folder), "name the same folder", faults)
    if faults:
        more = f"; and {len(faults) - TOLD_FAULTS} more" if len(faults) > TOLD_FAULTS else ""
        raise InputError(f"{path.name}: {'; '.join(faults[:TOLD_FAULTS])}{more}")
    if not rows:
        raise InputError(f"{path.name}: names no patient below its header")
    return tuple(rows)


def fingerprint(rows: Sequence[ManifestRow]) -> str:
    """A hash of all rows together, by which a later run knows whether it continues the same list."""
    content = [
        [row.row, row.patient, str(row.folder), row.prior, row.segments, row.carried_from, row.followups] for row in rows
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _records(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The rows that are not blank, with their numbers."""
    text = _text(path)
    first = text.split("\n", 1)[0].strip().lower()
    skipped = 0
    if first.startswith("sep=") and len(first) == 5:  # Excel's own way to name the delimiter
        delimiter, skipped = text[4], 1
        text = text.partition("\n")[2]
    else:
        delimiter = max(DELIMITERS, key=first.count)
    try:
        for number, cells in enumerate(
            csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True), 1 + skipped
        ):
            stripped = [cell.strip() for cell in cells]
            if any(stripped):
                yield number, stripped
    except csv.Error as error:
        raise InputError(f"{path.name}: is no table of comma-separated values (a quote that does not end?)") from error


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > LARGEST_BYTES:
            raise InputError(f"{path.name}: is too large for a table of patients")
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path.name}: cannot be read ({(error.strerror or type(error).__name__).lower()})") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path.name}: is not text in UTF-8; save it as 'CSV UTF-8'") from error


def _places(name: str, row: int, header: Sequence[str]) -> dict[str, int]:
    """Where each column is."""
    names = [cell.lower() for cell in header]
    missing = [column for column in NEEDED if column not in names]
    if missing:
        # What stands there instead is not repeated: without a header it is the first patient.
        raise InputError(f"{name}: row {row}: has no column {' and no column '.join(missing)}; known are {', '.join(COLUMNS)}")
    unknown = [cell for cell in header if cell and cell.lower() not in COLUMNS]
    if unknown:
        raise InputError(f"{name}: row {row}: unknown column '{unknown[0]:.40}'; known are {', '.join(COLUMNS)}")
    twice = [column for column in COLUMNS if names.count(column) > 1]
    if twice:
        raise InputError(f"{name}: row {row}: the column {twice[0]} is there {names.count(twice[0])} times")
    return {column: names.index(column) for column in COLUMNS if column in names}


def _row(
    path: Path, number: int, cells: Sequence[str], places: dict[str, int], width: int, faults: list[str]
) -> ManifestRow | None:
    """One patient; None if the row cannot be used, which is then among the faults."""

    def cell(column: str) -> str:
        place = places.get(column)
        return cells[place] if place is not None and place < len(cells) else ""

    before = len(faults)
    if any(cells[width:]):
        faults.append(f"row {number}: has more cells than the header")
    faults += [f"row {number}: the cell {column} is empty" for column in NEEDED if not cell(column)]
    carried_from = cell("from").lower() or None
    if carried_from is not None and carried_from not in CARRIED_FROM:
        faults.append(f"row {number}: from is none of {', '.join(CARRIED_FROM)}")
    folder = _folder(path, cell("folder"))
    if cell("folder") and folder is None:
        faults.append(f"row {number}: its folder is not there")
    if folder is None or len(faults) > before:
        return None
    segments, followups = _items(cell("segments")), _items(cell("followups"))
    return ManifestRow(number, cell("patient"), folder, cell("prior") or None, segments, carried_from, followups)


def _folder(path: Path, text: str) -> Path | None:
    try:
        folder = (path.absolute().parent / text).resolve()
        return folder if folder.is_dir() else None
    except (OSError, ValueError, RuntimeError):  # an impossible name, or a circle of links
        return None


def _items(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(item.strip() for item in text.split(";") if item.strip()))


def _note_twins(rows: Sequence[ManifestRow], key: Callable[[ManifestRow], str], what: str, faults: list[str]) -> None:
    seen: dict[str, int] = {}
    for row in rows:
        first = seen.setdefault(key(row), row.row)
        if first != row.row:
            faults.append(f"rows {first} and {row.row} {what}")
