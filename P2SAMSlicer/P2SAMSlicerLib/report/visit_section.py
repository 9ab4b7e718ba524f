"""The part of a report that is about one visit."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from P2SAMSlicerLib.definitions import REGISTRATION, SEGMENT
from P2SAMSlicerLib.patient.visit_folder import DONE
from P2SAMSlicerLib.report.contour_words import name_of, outcome_badge, review_badge, shift_words, visit_name
from P2SAMSlicerLib.report.page import (
    NONE,
    Content,
    Markup,
    Tone,
    bullets,
    facts,
    figure_text,
    join,
    notice,
    paragraph,
    picture,
    plain_or,
    section,
    table,
)
from P2SAMSlicerLib.report.report_content import AGREEMENT_DEFINITIONS, CONTOURED, EXPORT_DEFINITIONS, REPORT_DEFINITIONS

#: So many segments stand side by side in a table of figures; more would not fit on paper.
SIDE_BY_SIDE = 3

_FIGURES: tuple[tuple[str, str, str, Callable[[Mapping[str, Any]], str]], ...] = (
    ("Outcome", "outcome", "", lambda s: s["outcome"]),
    ("Review priority", "review_priority", "", lambda s: figure_text(s["review_priority"], 2)),
    ("Volume of the reference", "prior_volume_ml", "ml", lambda s: figure_text(s["prior_volume_ml"], 2)),
    ("Volume", "volume_ml", "ml", lambda s: figure_text(s["volume_ml"], 2)),
    ("Change of volume", "volume_change_percent", "%", lambda s: figure_text(s["volume_change_percent"], 1, sign=True)),
    (
        "Change from the first visit",
        "change_from_prior_percent",
        "%",
        lambda s: figure_text(s["change_from_prior_percent"], 1, sign=True),
    ),
    ("Centroid shift", "centroid_shift_mm", "mm", lambda s: shift_words(s["centroid_shift_mm"])),
    ("Length of that shift", "shift_length_mm", "mm", lambda s: _length(s["centroid_shift_mm"])),
    ("Lost tissue", "lost_tissue_share", "", lambda s: figure_text(s["lost_tissue_share"], 2)),
)

_REGISTRATION: tuple[tuple[str, str, str], ...] = (
    ("Kind", "kind", ""),
    ("Rotation", "rotation_deg", "°"),
    ("Correlation in the body", "body_correlation", ""),
    ("Shift at the lesion", "shift_mm", "mm"),
    ("Correlation near the lesion", "local_correlation", ""),
    ("Deformation near the lesion", "deformation_mm", "mm"),
    ("Folded share near the lesion", "folded_share", ""),
)


def visit_section(visit: Mapping[str, Any], pngs: Mapping[str, bytes], made_as: str | None = None) -> Markup:
    """One visit.

    :param visit: as in ``report.json``.
    :param pngs: pictures by their file's name; one that is not there was left out, which is said elsewhere.
    :param made_as: label of an earlier visit that was computed in the same way, whose card is not printed again.
    """
    title = visit_name(visit).capitalize()
    anchor = f"visit-{visit['label'].replace('_', '-').replace(' ', '-')}"
    if visit["outcome"] != DONE:
        told = notice(paragraph(visit["reason"]), tone="bad", title=f"Nothing was carried to this visit: {visit['outcome']}")
        return section(title, told, anchor=anchor)
    return section(
        title,
        _how(visit),
        _objections(visit),
        *(_pictures(segment, pngs) for segment in visit["segments"]),
        _figures(visit),
        _doubtful_slices(visit),
        _registration(visit),
        _agreement(visit["reference_agreement"]),
        _exports(visit["exports"]),
        _remarks(visit, made_as),
        anchor=anchor,
        new_page=True,
    )


def _how(visit: Mapping[str, Any]) -> Markup:
    references = ", ".join(each.replace("_", " ") for each in visit["references"]) or "the prior"
    words = f"Contours were carried from {references}"
    words += f" (choice of references: {visit['carried_from']})." if visit["carried_from"] else "."
    parts: list[Content] = [paragraph(words)]
    if visit["unreviewed_references"]:
        names = ", ".join(each.replace("_", " ") for each in visit["unreviewed_references"])
        parts.append(
            notice(
                paragraph(f"The contours of {names} came from this tool and nobody had reviewed them."),
                title="Carried from UNREVIEWED contours",
            )
        )
    return join(parts)


def _objections(visit: Mapping[str, Any]) -> Markup:
    """What speaks against the contours, in words, before any picture is seen."""
    parts: list[Content] = []
    for segment in visit["segments"]:
        head = join([name_of(segment["segment"]), outcome_badge(segment["outcome"]), review_badge(segment["review"])], " ")
        priority = paragraph(
            f"Review priority {figure_text(segment['review_priority'], 2)} (0 to 1, larger is to be looked at first)."
        )
        tone: Tone = "plain" if segment["outcome"] in ("found", "registration only") and not segment["reasons"] else "warn"
        told = (
            bullets(segment["reasons"]) if segment["reasons"] else paragraph("No check objected. It still has to be looked at.")
        )
        parts.append(notice(priority, told, tone=tone, title=head))
    if visit["overrides"]:
        parts.append(notice(bullets(visit["overrides"]), tone="bad", title="Checks that the user overrode"))
    if visit["warnings"]:
        parts.append(notice(bullets(visit["warnings"]), title="Warnings"))
    if visit["registration"].get("reasons"):
        told = bullets([str(each) for each in visit["registration"]["reasons"]])
        parts.append(notice(told, tone="bad", title="Why the registration is not trusted"))
    return join(parts)


def _pictures(segment: Mapping[str, Any], pngs: Mapping[str, bytes]) -> Markup:
    shown = [each for each in segment["pictures"] if each["file"] in pngs]
    name = name_of(segment["segment"])
    if not shown:
        told = paragraph("There is no picture of it in this report.", kind="note")
        return section(f"{name}: pictures", told, level=3)
    drawn = "prior CT with the contour; follow-up with the registered prior contour"
    drawn += "; follow-up with the result" if segment["outcome"] in CONTOURED else ""
    figures = [
        picture(
            pngs[each["file"]],
            f"CT slices side by side: {drawn}. Segment {name}. {each['caption']}",
            each["caption"],
            kind="slices",
        )
        for each in shown
    ]
    note = paragraph(
        "Contours as the tool drew them, before any review; letters on the edges are patient directions.", kind="note"
    )
    return section(f"{name}: prior and follow-up", note, *figures, level=3)


def _figures(visit: Mapping[str, Any]) -> Markup:
    """Figures of the segments, each with its definition."""
    meanings = {**SEGMENT, **REPORT_DEFINITIONS}
    tables = []
    for some in _chunks(visit["segments"]):
        rows: list[list[Content]] = []
        for title, key, unit, shown in _FIGURES:
            head = f"{title}, {unit}" if unit else title
            rows.append([head, *(shown(each) for each in some), meanings[key]])
        removed = [plain_or(each["removals"]) for each in some]
        rows.append(["Clean-up", *removed, meanings["removals"]])
        columns = ["Figure", *(name_of(each["segment"]) for each in some), "What it means"]
        tables.append(table("Figures of the contours as the tool drew them", columns, rows, wide=[len(columns) - 1]))
    return section("Figures", *tables, level=3) if tables else Markup("")


def _doubtful_slices(visit: Mapping[str, Any]) -> Markup:
    rows: list[list[Content]] = []
    for segment in visit["segments"]:
        for each in segment["slices_to_look_at"]:
            worst = sorted(each["signals"].items(), key=lambda item: -item[1])[:2]
            why = ", ".join(f"{name} ({value:.2f})" for name, value in worst if value > 0) or NONE
            place = figure_text(each["position_mm"], 1)
            name = name_of(segment["segment"])
            rows.append([name, str(each["index"]), place, figure_text(each["review_priority"], 2), why])
    if not rows:
        return Markup("")
    columns = ["Segment", "Slice", "Position, mm", "Review priority", "Strongest signals (0 to 1)"]
    caption = "Slices to look at before accepting, the most doubtful first (at most ten of a segment)"
    return section("Slices to look at", table(caption, columns, rows, numeric=(1, 2, 3), wide=[4]), level=3)


def _registration(visit: Mapping[str, Any]) -> Markup:
    """Quality of the registration, in the body and near each segment."""
    body = visit["registration"]
    tables = []
    for some in _chunks(visit["segments"]) or [[]]:
        rows: list[list[Content]] = []
        for title, key, unit in _REGISTRATION:
            values = [source.get(key) for source in (body, *(each["registration"] for each in some))]
            if any(value is not None for value in values):
                rows.append([f"{title}, {unit}" if unit else title, *(_value(value) for value in values), REGISTRATION[key]])
        reasons = [plain_or(each["registration"].get("reasons"), "no check objected") for each in some]
        rows.append(["Objections", plain_or(body.get("reasons"), "no check objected"), *reasons, REGISTRATION["reasons"]])
        columns = ["Figure", "Body", *(f"Near {name_of(each['segment'])}" for each in some), "What it means"]
        tables.append(table("Quality of the registration", columns, rows, wide=[len(columns) - 1]))
    return section("Registration", *tables, level=3)


def _agreement(agreement: Any) -> Markup:
    """How far contours from several references agree; whatever figures there are."""
    if not isinstance(agreement, Mapping) or not agreement:
        return Markup("")
    rows: list[list[Content]] = []
    for name, figures in agreement.items():
        for key, value in figures.items() if isinstance(figures, Mapping) else ():
            meaning = AGREEMENT_DEFINITIONS.get(str(key), NONE)
            rows.append([name_of(str(name)), str(key).replace("_", " "), _value(value), meaning])
    told = table(
        "Agreement of the contours from each reference", ["Segment", "Figure", "Value", "What it means"], rows, wide=[3]
    )
    return section("Several references", told, level=3)


def _exports(exports: Sequence[Mapping[str, Any]]) -> Markup:
    if not exports:
        return Markup("")
    rows: list[list[Content]] = []
    for each in exports:
        for trip in each["round_trip"] or [{"name": "", "roi_name": "", **dict.fromkeys(EXPORT_DEFINITIONS)}]:
            rows.append(
                [
                    f"{each['kind']} {each['file']}",
                    name_of(trip["roi_name"] or trip["name"]),
                    figure_text(trip["volume_ml"], 3),
                    figure_text(trip["read_back_ml"], 3),
                    figure_text(trip["change_percent"], 2, sign=True),
                    figure_text(trip["dice"], 4),
                ]
            )
    columns = ["File", "Contour in it", "Written, ml", "Read back, ml", "Change, %", "Dice"]
    caption = "DICOM files of this visit: unapproved, in new objects, and what writing and reading changes"
    meaning = bullets([f"{key}: {words}" for key, words in EXPORT_DEFINITIONS.items()])
    return section("Exports", table(caption, columns, rows, numeric=(2, 3, 4, 5)), meaning, level=3)


def _remarks(visit: Mapping[str, Any], made_as: str | None) -> Markup:
    notes = section("Notes on how the contours were made", bullets(visit["notes"]), level=3) if visit["notes"] else Markup("")
    if made_as is not None:
        words = f"Model, device, options and versions are those of {made_as.replace('_', ' ')}."
        return join([notes, section("How it was computed", paragraph(words), level=3)])
    model = visit["model"]
    card = facts("Model card", [(str(key).replace("_", " "), plain_or(value)) for key, value in model.items()])
    made = [
        ("Device", visit["device"] or NONE),
        ("Options", plain_or(visit["options"])),
        ("Versions", plain_or(visit["versions"])),
    ]
    return join([notes, section("How it was computed", card, facts("Program", made), level=3)])


def _chunks(segments: Sequence[Mapping[str, Any]]) -> list[Sequence[Mapping[str, Any]]]:
    return [segments[first : first + SIDE_BY_SIDE] for first in range(0, len(segments), SIDE_BY_SIDE)]


def _value(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_value(each) for each in value) or NONE
    return f"{value:.3g}" if isinstance(value, float) else plain_or(value)


def _length(shift: list[float] | None) -> str:
    return figure_text(None if shift is None else math.hypot(*shift), 1)
