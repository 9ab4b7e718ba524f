"""Words and marks for a contour and a visit, the same in every part of a report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from P2SAMSlicerLib.report.page import NONE, Markup, Tone, badge, clean, figure_text
from P2SAMSlicerLib.report.review_record import FLAGGED, REJECTED

#: A name longer than this is cut in tables; report.json has it whole.
LONGEST_NAME = 80

_TONES: dict[str, Tone] = {"found": "plain", "flagged": "warn", "registration only": "plain"}
#: Letters of the directions along and against the L, P and S axes.
_ALONG, _AGAINST = "LPS", "RAI"


def name_of(value: str) -> str:
    """A segment's or a reviewer's name for a table."""
    return clean(value, LONGEST_NAME) or "(no name)"


def visit_name(visit: Mapping[str, Any]) -> str:
    """A visit with its day and, in a report that names the patient, its date."""
    words = str(visit["label"]).replace("_", " ")
    if visit.get("day") is not None:
        words += f", day {visit['day']}"
    return f"{words}, {visit['date']}" if visit.get("date") else words


def review_badge(review: Mapping[str, Any]) -> Markup:
    """Whether a person accepted the contour; whatever else was said of it, it is unreviewed."""
    if review["accepted"]:
        return badge("accepted, edited" if review["edited"] else "accepted", "good")
    if review["decision"] in (REJECTED, FLAGGED):
        return badge(f"UNREVIEWED ({review['decision']})", "bad")
    return badge("UNREVIEWED, edited" if review["edited"] else "UNREVIEWED", "bad")


def outcome_badge(outcome: str) -> Markup:
    """The outcome of a segment or a visit."""
    return badge(outcome or "unknown", _TONES.get(outcome, "bad"))


def shift_words(shift: list[float] | None) -> str:
    """An LPS vector in mm as ``1.2 L, 0.4 A, 3.0 S``."""
    if shift is None:
        return NONE
    return ", ".join(
        f"{abs(round(value, 1)):.1f} {(along if round(value, 1) >= 0 else against)}"
        for value, along, against in zip(shift, _ALONG, _AGAINST, strict=True)
    )


def volume_words(segment: Mapping[str, Any]) -> str:
    """The tool's volume, and the reviewed one where that is another."""
    drawn, review = segment["volume_ml"], segment["review"]
    words = figure_text(drawn, 2)
    after = review["volume_after_ml"]
    if review["accepted"] and review["edited"] and after is not None:
        words += f" (reviewed: {figure_text(after, 2)})"
    return words


def time_words(time: str) -> str:
    """A time as it is recorded, ISO 8601 in UTC, for people."""
    return f"{time[:-6].replace('T', ' ')} UTC" if time.endswith("+00:00") else time or NONE
