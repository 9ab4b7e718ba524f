"""Reasons for failures, as a list that others see may hold them: without the names of files and folders.

The library's messages name the file at fault, which helps whoever gave it. In a cohort's table and report, which are passed
on, a name may be a patient's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from P2SAMSlicerLib.cohort.manifest import ManifestRow
from P2SAMSlicerLib.patient.visit_ct import PLAIN_WORDS
from P2SAMSlicerLib.patient.visit_order import VisitOrder
from P2SAMSlicerLib.volume_header import short_name

LEFT_OUT = "(name left out)"
#: Shorter ones are parts of any sentence.
LEAST_LETTERS = 3
LONGEST = 500


def told_reason(reason: str, row: ManifestRow, orders: Sequence[VisitOrder] = ()) -> str:
    """A reason in one line, without the patient's key and without names from the patient's folder.

    :param orders: whose files' names are left out too.
    """
    line = " ".join(reason.split())
    names = sorted(_names(row, orders), key=len, reverse=True)
    if names:
        pattern = "|".join(re.escape(name) for name in names)
        line = re.sub(rf"(?<!\w)(?:{pattern})(?!\w)", LEFT_OUT, line, flags=re.IGNORECASE)
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"


def _names(row: ManifestRow, orders: Sequence[VisitOrder]) -> set[str]:
    found = {row.patient, str(row.folder), row.folder.name, *(part for part in row.folder.parts[-3:] if len(part) > 1)}
    for path in _files(orders):
        inside = path.relative_to(row.folder).parts if path.is_relative_to(row.folder) else path.parts[-1:]
        found |= {*inside, short_name(path), path.stem}
    listed = _listed(row.folder) if not orders else ()
    found |= {*listed, *(short_name(Path(name)) for name in listed)}
    return {name for name in found if len(name) >= LEAST_LETTERS and name.lower() not in PLAIN_WORDS}


def _files(orders: Sequence[VisitOrder]) -> Iterable[Path]:
    for order in orders:
        for visit in (*order.references, order.followup):
            yield from visit.ct.paths
            # What this tool writes has names of its own, by the visit's number.
            yield from (each.path for each in visit.contours if not each.path.is_relative_to(order.out.parent))


def _listed(folder: Path) -> tuple[str, ...]:
    """Names in a folder whose visits could not even be found."""
    names: list[str] = []
    try:
        for path in folder.rglob("*"):
            names.append(path.name)
            if len(names) >= 10_000:
                break
    except OSError:
        pass
    return tuple(names)
