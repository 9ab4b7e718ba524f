"""What a visit's folder says, checked: the report is made from files, which may be damaged, or made by somebody else.

Whatever is not of the expected kind is left out or refused here, so that nothing behind it has to doubt a value. Pictures are
taken from the visit's own folder only.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.patient.visit_folder import DONE, FAILED, FORMAT, FORMAT_VERSION, VISIT_NAME
from P2SAMSlicerLib.report.page import PNG_SIGNATURE
from P2SAMSlicerLib.result import SliceResult
from P2SAMSlicerLib.result_files import SUMMARY_NAME
from P2SAMSlicerLib.review import must_be_seen

#: Beside what :mod:`P2SAMSlicerLib.patient.visit_folder` knows.
UNREADABLE = "unreadable"

#: No file of a visit is larger; a larger one is none of ours.
MOST_JSON_BYTES = 256_000_000
MOST_PICTURE_BYTES = 8_000_000
MOST_PICTURES = 2000
#: So many of a segment's slices are listed, the most doubtful first.
MOST_SLICES = 10
#: A visit's name in files. Anything else might name a patient and is not shown.
_LABEL = re.compile(r"visit_[0-9]{1,6}")
#: A picture's file, relative to the visit's folder.
_PICTURE_FILE = re.compile(r"(pictures/)?[A-Za-z0-9_\-]{1,80}\.png")
#: The format of strict JSON knows these no more than a page does.
_NESTED_DEEPEST = 12


@dataclass(frozen=True)
class VisitPicture:
    """A picture as it lies in a visit's folder."""

    file: str
    png: bytes
    segment: str
    slice_index: int | None
    position_mm: float | None
    why: str
    review_priority: float | None
    caption: str

    def as_dict(self) -> dict[str, Any]:
        """Everything but the pixels."""
        return {name: value for name, value in vars(self).items() if name != "png"}


@dataclass(frozen=True)
class VisitContent:
    """One visit.

    :param label: ``visit_2``; or ``visit ?`` if its folder does not tell.
    :param reason: why there is no result; empty if there is one.
    :param entry: the follow-up's entry of ``summary.json``: plain values; ``segments`` is a list of objects with a name each.
    """

    label: str
    number: int | None
    day: int | None
    outcome: str
    reason: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    entry: Mapping[str, Any] = field(default_factory=dict)
    pictures: tuple[VisitPicture, ...] = ()

    @property
    def segments(self) -> list[Mapping[str, Any]]:
        """The segments' entries."""
        return list(self.entry.get("segments", ()))


def read_visit_content(folder: Path) -> VisitContent:
    """What a visit's folder says. A folder that cannot be read is content, too: the report has to tell of it."""
    known = folder.name if _LABEL.fullmatch(folder.name) else "visit ?"
    try:
        facts = _json(folder / VISIT_NAME)
        if facts.get("format") != FORMAT:
            raise InputError(f"{VISIT_NAME}: is not of a visit's folder")
        if facts.get("format_version") != FORMAT_VERSION:
            raise InputError(f"{VISIT_NAME}: was written by another version of P2SAMSlicer")
        label = facts.get("label")
        label = label if isinstance(label, str) and _LABEL.fullmatch(label) else known
        place, day = whole(facts.get("number")), whole(facts.get("day"))
        if facts.get("outcome") != DONE:
            return VisitContent(label, place, day, FAILED, one_text(facts.get("reason")) or "no reason is told", facts)
        return VisitContent(label, place, day, DONE, "", facts, _entry(folder), _pictures(folder, facts))
    except InputError as error:
        number = whole(int(known.partition("_")[2])) if "_" in known else None
        return VisitContent(known, number, None, UNREADABLE, str(error))


def _json(path: Path) -> dict[str, Any]:
    """An object from a file.

    :raises InputError: missing, too large, damaged.
    """
    try:
        if path.stat().st_size > MOST_JSON_BYTES:
            raise InputError(f"{path.name}: is too large")
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise TypeError("object")
        plain = plain_value(content)
    except InputError:
        raise
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{path.name}: missing or damaged") from error
    return dict(plain)


def _entry(folder: Path) -> dict[str, Any]:
    """The follow-up's entry of the summary.

    :raises InputError: damaged.
    """
    followups = _json(folder / SUMMARY_NAME).get("followups")
    entry = followups[0] if isinstance(followups, list) and len(followups) == 1 else None
    if not isinstance(entry, dict):
        raise InputError(f"{SUMMARY_NAME}: missing or damaged")
    segments = entry.get("segments")
    named = isinstance(segments, list) and all(
        isinstance(each, dict) and isinstance(each.get("segment"), str) for each in segments
    )
    if not named:
        raise InputError(f"{SUMMARY_NAME}: missing or damaged")
    return entry


def _pictures(folder: Path, facts: Mapping[str, Any]) -> tuple[VisitPicture, ...]:
    """The pictures that the visit's file names; a damaged one is left out."""
    listed = facts.get("pictures")
    found = []
    for each in (listed if isinstance(listed, list) else [])[:MOST_PICTURES]:
        file = each.get("file") if isinstance(each, dict) else None
        png = _png(folder, file) if isinstance(file, str) else None
        if png is None:
            continue
        found.append(
            VisitPicture(
                file=str(file),
                png=png,
                segment=one_text(each.get("segment")),
                slice_index=whole(each.get("slice_index")),
                position_mm=number(each.get("position_mm")),
                why=one_text(each.get("why")),
                review_priority=number(each.get("review_priority")),
                caption=one_text(each.get("caption")),
            )
        )
    return tuple(found)


def _png(folder: Path, file: str) -> bytes | None:
    """A picture of the visit's folder, or None; a name that leads elsewhere is none."""
    path = folder / file
    try:
        if not _PICTURE_FILE.fullmatch(file) or path.is_symlink() or path.parent.is_symlink():
            return None
        if path.stat().st_size > MOST_PICTURE_BYTES:
            return None
        png = path.read_bytes()
    except OSError:
        return None
    return png if png.startswith(PNG_SIGNATURE) else None


def slices_to_look_at(segment: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A segment's slices that have to be looked at, the most doubtful first, with what makes them doubtful."""
    slices = [each for each in segment.get("slices") or () if isinstance(each, Mapping)]
    known: dict[int, dict[str, Any]] = {}
    recorded = []
    for each in slices:
        index, priority = whole(each.get("index")), number(each.get("review_priority"))
        if index is None or priority is None:
            continue
        chosen = None if each.get("chosen_candidate") is None else 0
        recorded.append(SliceResult(index, 0.0, (), chosen, priority))
        if index not in known or known[index]["review_priority"] < priority:
            signals = each.get("signals")
            known[index] = {
                "index": index,
                "position_mm": number(each.get("position_mm")),
                "review_priority": priority,
                "signals": numbers(signals if isinstance(signals, Mapping) else {}),
            }
    return [known[index] for index in must_be_seen(recorded)[:MOST_SLICES]]


def plain_value(value: Any, deep: int = 0) -> Any:
    """A value of a JSON file without what strict JSON has not, and not nested without end.

    :raises ValueError: nested too deep.
    """
    if deep > _NESTED_DEEPEST:
        raise ValueError("nested too deep")
    if isinstance(value, dict):
        return {str(key): plain_value(each, deep + 1) for key, each in value.items()}
    if isinstance(value, list):
        return [plain_value(each, deep + 1) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, str):
        # A lone surrogate can be in no file.
        return value.encode("utf-8", "replace").decode("utf-8")
    return value


def number(value: Any) -> float | None:
    """A finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Those of the values that are numbers."""
    found = {str(name): number(value) for name, value in values.items()}
    return {name: value for name, value in found.items() if value is not None}


def whole(value: Any) -> int | None:
    """A whole number that fits anywhere, or None."""
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**9 else None


def one_text(value: Any) -> str:
    """A text, or an empty one."""
    return value if isinstance(value, str) else ""


def texts(value: Any) -> list[str]:
    """The texts of a list."""
    return (
        [each for each in value if isinstance(each, str)] if isinstance(value, Sequence) and not isinstance(value, str) else []
    )


def vector(value: Any) -> list[float] | None:
    """Three numbers, or None."""
    found = [number(each) for each in value] if isinstance(value, (list, tuple)) and len(value) == 3 else [None]
    return [each for each in found if each is not None] if None not in found else None
