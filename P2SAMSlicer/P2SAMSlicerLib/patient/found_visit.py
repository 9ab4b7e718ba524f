"""Visits as they are found, and their order in time."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from itertools import pairwise

from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.patient.visit_order import ContourSource, CtSource, PatientVisit

#: A date, and perhaps a time, in the name of a visit's folder.
_DATE = re.compile(r"(?<!\d)(\d{4})-?(\d{2})-?(\d{2})(?:[T_ -]?(\d{2})[:-]?(\d{2})(?:[:-]?(\d{2}))?)?(?!\d)")


#: De-identification may put one date in the place of all.
SAME_DAY = (
    "its CT has the same date as the visit before it, and only the time of day tells which came first; make sure that the dates"
    " are real"
)


@dataclass(frozen=True)
class FoundVisit:
    """One visit without its number.

    :param acquired: ``YYYYMMDD`` or ``YYYYMMDDHHMMSS``, or None.
    :param folder: name of the folder that holds it and no other visit; empty if there is none.
    :param notes: see :class:`~P2SAMSlicerLib.patient.visit_order.PatientVisit`.
    """

    acquired: str | None
    folder: str
    ct: CtSource
    contours: tuple[ContourSource, ...] = ()
    notes: tuple[str, ...] = ()


def in_order(found: Sequence[FoundVisit]) -> tuple[PatientVisit, ...]:
    """The visits by date, or by their folders' names where there is no date.

    :raises InputError: the order cannot be told.
    """
    visits = list(found)
    if len(visits) > 1 and not all(visit.acquired for visit in visits):
        visits = _by_folder(visits)
    if all(visit.acquired for visit in visits):
        visits.sort(key=lambda visit: visit.acquired or "")
        visits = _same_day_noted(visits)
    days = days_of([visit.acquired for visit in visits])
    return tuple(
        PatientVisit(number, f"visit_{number}", day, visit.acquired, visit.ct, visit.contours, visit.notes)
        for number, (visit, day) in enumerate(zip(visits, days, strict=True), start=1)
    )


def days_of(acquired: Sequence[str | None]) -> list[int | None]:
    """Days since the first visit; None where a date is not known."""
    dates = [_day_of(each) for each in acquired]
    first = dates[0] if dates else None
    return [None if first is None or own is None else (own - first).days for own in dates]


def _by_folder(visits: Sequence[FoundVisit]) -> list[FoundVisit]:
    """Visits of which some have no date: all by the dates in their folders' names, or all by these names."""
    names = [visit.folder for visit in visits]
    if not all(names) or len(set(names)) < len(names):
        raise InputError(
            "not every visit has a date, so their order cannot be told; put each visit into a folder of its own, called by its"
            " date (YYYY-MM-DD) or so that the names' order is that of the visits"
        )
    dates = [date_in(name) for name in names]
    if all(dates):
        return [replace(visit, acquired=acquired) for visit, acquired in zip(visits, dates, strict=True)]
    if any(dates) or any(visit.acquired for visit in visits):
        raise InputError("some visits have a date and others none; call every visit's folder by its date (YYYY-MM-DD), or none")
    return sorted(visits, key=lambda visit: natural_order(visit.folder))


def _same_day_noted(visits: Sequence[FoundVisit]) -> list[FoundVisit]:
    """The sorted visits, with a note where only the time of day tells which came first.

    :raises InputError: not even that does.
    """
    noted = list(visits[:1])
    for before, after in pairwise(visits):
        times = [visit.acquired or "" for visit in (before, after)]
        if times[0][:8] == times[1][:8] and (times[0] == times[1] or min(len(time) for time in times) < 14):
            raise InputError(
                "two visits have the same date, and no time tells which came first; leave only one of them, or put each into a"
                " folder called by date and time (YYYY-MM-DD_HHMM)"
            )
        same = times[0][:8] == times[1][:8]
        noted.append(replace(after, notes=(*after.notes, SAME_DAY)) if same else after)
    return noted


def date_in(name: str) -> str | None:
    """The date in a folder's name as ``YYYYMMDD``, with the time if it has one (``YYYYMMDDHHMMSS``); None without a date."""
    for match in _DATE.finditer(name):
        year, month, day, hour, minute, second = match.groups()
        text = f"{year}{month}{day}"
        if _day_of(text) is None:
            continue
        if hour is None:
            return text
        try:
            return datetime.strptime(f"{text}{hour}{minute}{second or '00'}", "%Y%m%d%H%M%S").strftime("%Y%m%d%H%M%S")
        except ValueError:
            return text
    return None


def _day_of(acquired: str | None) -> date | None:
    try:
        return datetime.strptime((acquired or "")[:8], "%Y%m%d").date()
    except ValueError:
        return None


def natural_order(name: str) -> list[tuple[int, str]]:
    """A key that sorts ``visit 2`` before ``visit 10``."""
    return [(int(part), "") if part.isdigit() else (-1, part.lower()) for part in re.split(r"(\d+)", name) if part]
