"""Phases of a 4D study: told from the header, and the same ones of two visits put together.

A phase is a place in the breathing (or heart) cycle in percent, from 0 to below 100; 100 is 0 again. An average or an
intensity projection over the cycle is no phase. Where a scanner sorts by amplitude and says *In* or *Ex*, breathing out from
100 % to 0 % is taken as the first half of the cycle and breathing in as the second, so that the same words of two visits
meet.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from P2SAMSlicerLib.dicom.indexed_series import IndexedSeries, SeriesKind

#: Elements that state a phase as a number, most telling first: respiratory, cardiac.
PHASE_TAGS = ("NominalPercentageOfRespiratoryPhase", "NominalPercentageOfCardiacPhase")
#: Texts that may hold one.
PHASE_TEXT_TAGS = ("SeriesDescription", "ImageComments", "AcquisitionComments", "ProtocolName")

#: Phases of two visits that differ by no more (percent of the cycle) are taken as the same.
PAIRING_TOLERANCE = 5.0

_NO_PHASE = re.compile(
    r"(?<![a-z])(ave|avg|averaged?|aip|mean|m[ai]?x?ip|min-?ip|max-?ip|min|max|projection|untagged|ungated)(?![a-z])", re.I
)
#: A percentage that is a strength of the reconstruction or an amount of contrast.
_OTHER_PERCENT = re.compile(r"(asir|safire|admire|idose|aidr|imr|dlir|\bss|iodine|contrast)[-\s]*v?[-\s]*\d", re.I)
_DIRECTION = r"\s*(in|ex)?(?![a-z])"
_PERCENT = re.compile(r"(?<![\d.])(\d{1,3}(?:\.\d+)?)\s*(?:%|pct\b|percent\b)" + _DIRECTION, re.I)
#: ``T50``, ``Phase 50``; not ``T10-L1``, which are vertebrae, nor ``Phase 2`` of a contrast agent.
_LETTER = re.compile(
    r"(?<![a-z])(?:t|ph|phase|resp|gated)\s*[=_:]?\s*(0|\d{2,3}(?:\.\d+)?|\d\.\d+)(?![\d.]|\s*(?:mm|kv|s\b)|\s*-\s*[tls]\d)"
    + _DIRECTION,
    re.I,
)


def phase_in(texts: Sequence[str]) -> float | None:
    """The phase that a description names, such as ``CT 30%``, ``T50`` or ``Gated 70.0%``; None if it names none.

    :param texts: descriptions, the most telling first.
    """
    if any(_NO_PHASE.search(each) for each in texts):
        return None
    for each in texts:
        if _OTHER_PERCENT.search(each):
            continue
        match = _PERCENT.search(each) or _LETTER.search(each)
        if match and float(match[1]) <= 100:
            return _place(float(match[1]), (match[2] or "").lower())
    return None


def _place(percent: float, direction: str) -> float:
    """Percent of the cycle."""
    if direction == "ex":
        return (100 - percent) / 2
    if direction == "in":
        return (50 + percent / 2) % 100
    return percent % 100


def with_phases(series: Sequence[IndexedSeries], stated: Mapping[int, float]) -> list[IndexedSeries]:
    """The series with ``phase`` and ``phase_group`` where they belong to a 4D study.

    CT series of one patient, study and frame of reference are one 4D study if their headers name at least two phases; a single
    percentage may be anything, so alone it is no phase. If a phase comes twice, series are told apart by the rest of their
    descriptions.

    :param stated: from the place of a series in ``series`` to the phase that its header names.
    """
    studies: dict[tuple[str | None, str, str], list[int]] = defaultdict(list)
    for place in stated:
        each = series[place]
        if each.kind is SeriesKind.CT:
            studies[each.patient_id, each.study_uid, each.frame_of_reference_uid].append(place)
    result = list(series)
    number = 0
    for places in studies.values():
        groups = [places]
        if len({stated[place] for place in places}) < len(places):
            by_words: dict[str, list[int]] = defaultdict(list)
            for place in places:
                by_words[re.sub(r"\d+(\.\d+)?", "#", series[place].label.lower())].append(place)
            groups = list(by_words.values())
        for group in groups:
            if len({stated[place] for place in group}) < 2 or len({stated[place] for place in group}) < len(group):
                continue
            number += 1
            for place in group:
                result[place] = replace(series[place], phase=stated[place], phase_group=f"4D {number}")
    return result


def paired_phases(
    prior: Sequence[IndexedSeries], followup: Sequence[IndexedSeries]
) -> tuple[tuple[IndexedSeries, IndexedSeries], ...]:
    """The same phases of two visits' 4D studies, in the order of the prior's phases.

    Each phase is paired with the nearest of the other visit, at most :data:`PAIRING_TOLERANCE` away around the cycle, and none
    is used twice. Series without a phase, such as averages, are left out.
    """
    first = [each for each in prior if each.phase is not None]
    second = [each for each in followup if each.phase is not None]
    distances = sorted(
        (distance, i, j)
        for i, a in enumerate(first)
        for j, b in enumerate(second)
        if (distance := _around((a.phase or 0.0) - (b.phase or 0.0))) <= PAIRING_TOLERANCE
    )
    partner: dict[int, int] = {}
    for _, i, j in distances:
        if i not in partner and j not in partner.values():
            partner[i] = j
    return tuple((first[i], second[partner[i]]) for i in sorted(partner, key=lambda i: (first[i].phase or 0.0, i)))


def _around(difference: float) -> float:
    """Distance on the cycle."""
    return min(difference % 100, -difference % 100)
