"""The report on one patient: ``report.html`` to read, print and sign, and ``report.json`` with the same content.

Anonymous unless an identity is given: no name, no id, no date of the patient; days count from the first visit. Reviewers and
the times of their decisions are in it in any case, because they are what the record of a review is for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from P2SAMSlicerLib.atomic_file import atomic_folder
from P2SAMSlicerLib.definitions import SLICE
from P2SAMSlicerLib.errors import OutputError
from P2SAMSlicerLib.patient.visit_folder import DONE
from P2SAMSlicerLib.report.contour_words import (
    name_of,
    outcome_badge,
    review_badge,
    shift_words,
    time_words,
    visit_name,
    volume_words,
)
from P2SAMSlicerLib.report.page import (
    NONE,
    Content,
    Markup,
    bullets,
    element,
    facts,
    figure_text,
    join,
    notice,
    page,
    paragraph,
    picture,
    plain_or,
    section,
    signature_lines,
    table,
)
from P2SAMSlicerLib.report.report_content import ReportIdentity, report_content
from P2SAMSlicerLib.report.review_record import REVIEW_DEFINITIONS, UNREVIEWED, ReviewRecord
from P2SAMSlicerLib.report.trends import trend_plots
from P2SAMSlicerLib.report.visit_content import VisitContent, read_visit_content
from P2SAMSlicerLib.report.visit_section import visit_section
from P2SAMSlicerLib.result_files import plain

__all__ = ["ReportIdentity", "write_patient_report"]

HTML_NAME, JSON_NAME = "report.html", "report.json"
TITLE = "Contours carried to follow-up CTs"

#: Pictures take at most so much of the page (their own bytes; in the page it is a third more), so that it can be mailed and
#: opened anywhere. Where there are more, the least doubtful are left out, and that is said.
PICTURE_BYTES = 10_000_000


def write_patient_report(
    out: Path,
    visit_folders: Sequence[Path],
    *,
    prior: Mapping[str, Any],
    identity: ReportIdentity | None = None,
    reviews: Mapping[str, Sequence[ReviewRecord]] | None = None,
    overwrite: bool = False,
) -> tuple[Path, Path]:
    """Write the report: both files or none.

    :param out: folder for ``report.html`` and ``report.json``; made if needed.
    :param visit_folders: of all follow-ups in their order, failed ones too. A folder that cannot be read is told of.
    :param prior: the first visit, see :func:`~P2SAMSlicerLib.report.report_content.report_content`.
    :param identity: None for a report without name, id and date.
    :param reviews: by the visit's label.
    :param overwrite: replace a report that is there.
    :returns: the two files.
    :raises OutputError: there is a report already, no space, no permission.
    """
    out = Path(out)
    targets = (out / HTML_NAME, out / JSON_NAME)
    if not overwrite and any(path.exists() or path.is_symlink() for path in targets):
        raise OutputError(f"{HTML_NAME}: there is a report already; choose another folder, or --overwrite to replace it")
    visits = [read_visit_content(Path(folder)) for folder in visit_folders]
    content = plain(report_content(visits, prior, identity, reviews or {}))
    pngs, left_out = _chosen_pictures(visits)
    content["pictures_left_out"] = left_out
    html = report_page(content, pngs)
    with atomic_folder(out) as stage:
        (stage / HTML_NAME).write_text(html, encoding="utf-8", newline="\n")
        text = json.dumps(content, allow_nan=False, indent=1, ensure_ascii=False) + "\n"
        (stage / JSON_NAME).write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")
    return targets


def report_page(content: Mapping[str, Any], pngs: Sequence[Mapping[str, bytes]]) -> str:
    """The page.

    :param content: of ``report.json``.
    :param pngs: pictures of each visit by their file's name.
    """
    running = (
        f"P2SAMSlicer report. For research use only. {content['unreviewed']} of {content['contours']} contours UNREVIEWED."
    )
    return page(
        TITLE,
        _head(content),
        _summary(content),
        _trends(content),
        *(
            visit_section(visit, shown, _made_alike(content["visits"], visit))
            for visit, shown in zip(content["visits"], pngs, strict=True)
        ),
        _reviews(content),
        section(
            "What was not done",
            bullets(content["not_done"]),
            _left_out(content["pictures_left_out"]),
            anchor="not-done",
        ),
        section("Definitions of the slices' figures", _slice_definitions(), anchor="definitions"),
        section(
            "Signature",
            paragraph("The signer has looked at the contours themselves, and not at this report alone."),
            signature_lines(),
            anchor="signature",
        ),
        element(
            "footer", paragraph(f"{content['program']}, report format {content['format_version']}. {content['statement'][0]}")
        ),
        running=running,
    )


def _made_alike(visits: Sequence[Mapping[str, Any]], visit: Mapping[str, Any]) -> str | None:
    """The first visit before this one that was computed in the same way; None if there is none."""
    for other in visits:
        if other is visit:
            return None
        if other["outcome"] == DONE and all(other[key] == visit[key] for key in ("model", "device", "options", "versions")):
            return str(other["label"])
    return None


def _chosen_pictures(visits: Sequence[VisitContent]) -> tuple[list[dict[str, bytes]], int]:
    """The pictures that fit, by visit; how many do not.

    The most doubtful slice of every segment comes first, then the others by their priority.
    """
    order: list[tuple[int, float, int, str, bytes]] = []
    for number, visit in enumerate(visits):
        seen: set[str] = set()
        for each in visit.pictures:
            rank = 1 if each.segment in seen else 0
            seen.add(each.segment)
            order.append((rank, -(each.review_priority or 0.0), number, each.file, each.png))
    chosen: list[dict[str, bytes]] = [{} for _ in visits]
    total = left = 0
    for _, _, number, file, png in sorted(order, key=lambda item: item[:4]):
        if total + len(png) > PICTURE_BYTES:
            left += 1
            continue
        total += len(png)
        chosen[number][file] = png
    return chosen, left


def _head(content: Mapping[str, Any]) -> Markup:
    """Who, what, and what nobody must overlook."""
    patient = content["patient"]
    if patient is None:
        who = paragraph(
            "ANONYMOUS: this report holds no name, no id and no date of the patient; days are counted from the first visit."
            " Reviewers are named, with the times of their decisions.",
            kind="note",
        )
    else:
        named = [
            ("Name", patient["patient_name"]),
            ("Patient id", patient["patient_id"]),
            ("Date of birth", patient["birth_date"]),
        ]
        told = paragraph("This report names the patient. Treat it as the patient's record.")
        rows = facts("Patient", [(key, value or NONE) for key, value in named])
        who = join([notice(told, tone="bad", title="IDENTIFIED"), rows])
    some = content["unreviewed"] > 0 or not content["contours"]
    state = notice(bullets(content["statement"][1:]), tone="bad" if some else "good", title=content["statement"][0])
    return join([state, who])


def _summary(content: Mapping[str, Any]) -> Markup:
    """Visit by visit and segment by segment."""
    prior = content["prior"]
    rows: list[list[Content]] = []
    state = "first visit, approved" if prior["approved"] else "first visit, no approval recorded"
    for each in prior["segments"]:
        rows.append([visit_name(prior), name_of(each["name"]), state, NONE, figure_text(each["volume_ml"], 2), *[NONE] * 3, ""])
    for visit in content["visits"]:
        if visit["outcome"] != DONE:
            rows.append([visit_name(visit), NONE, outcome_badge(visit["outcome"]), *[NONE] * 5, visit["reason"]])
        rows += [_summary_row(visit, segment) for segment in visit["segments"]]
    columns = [
        *("Visit", "Segment", "State", "Review priority", "Volume, ml", "Change, %", "From first visit, %"),
        *("Shift, mm", "What speaks against it"),
    ]
    caption = "All visits and segments"
    note = paragraph(
        "Change: against the volume on the CT from which the contour was carried. Shift: of the centroid beyond what the"
        " registration moved, along left/right (L, R), anterior/posterior (A, P), superior/inferior (S, I). Review priority:"
        " 0 to 1, larger is to be looked at first. Each figure is defined under its visit.",
        kind="note",
    )
    warnings = notice(bullets(prior["warnings"]), title="Warnings about the first visit") if prior["warnings"] else Markup("")
    shown = table(caption, columns, rows, numeric=(3, 4, 5, 6), wide=[8])
    return section("Summary", shown, note, warnings, anchor="summary")


def _summary_row(visit: Mapping[str, Any], segment: Mapping[str, Any]) -> list[Content]:
    return [
        visit_name(visit),
        name_of(segment["segment"]),
        join([outcome_badge(segment["outcome"]), review_badge(segment["review"])], " "),
        figure_text(segment["review_priority"], 2),
        volume_words(segment),
        figure_text(segment["volume_change_percent"], 1, sign=True),
        figure_text(segment["change_from_prior_percent"], 1, sign=True),
        shift_words(segment["centroid_shift_mm"]),
        "; ".join(segment["reasons"]) or "no check objected",
    ]


def _trends(content: Mapping[str, Any]) -> Markup:
    parts: list[Content] = []
    for plot in trend_plots(content):
        key = [
            element("span", join([element("span", sign, style=f"color:{color}"), name_of(name)], " "), class_="key")
            for color, sign, name in plot.key
        ]
        caption = join(
            [
                paragraph(join(key, " ")),
                "Filled: first visit, or accepted by a reviewer. Open: UNREVIEWED. Cross at the bottom: no contour was made."
                " Dotted line: nothing could be carried to that visit. The volume is the reviewed one where the contour was"
                " accepted; the shift is that of the tool's contour from the registered one of its reference.",
            ]
        )
        parts.append(picture(plot.png, plot.alternative, caption, kind="wide"))
    return section("Trends", *parts, anchor="trends") if parts else Markup("")


def _reviews(content: Mapping[str, Any]) -> Markup:
    """The record of the review."""
    rows: list[list[Content]] = []
    for visit in content["visits"]:
        for segment in visit["segments"]:
            review = segment["review"]
            decided = review["decision"] != UNREVIEWED
            rows.append(
                [
                    visit_name(visit),
                    name_of(segment["segment"]),
                    review_badge(review),
                    name_of(review["reviewer"]) if decided else NONE,
                    time_words(review["time"]),
                    figure_text(review["volume_before_ml"], 2),
                    figure_text(review["volume_after_ml"], 2),
                    figure_text(review["mean_surface_mm"], 2),
                    figure_text(review["hd95_mm"], 2),
                    figure_text(review["dice"], 3),
                ]
            )
    columns = [
        *("Visit", "Segment", "Decision", "Reviewer", "Time", "Before, ml", "After, ml", "Mean surface change, mm"),
        *("HD95, mm", "Dice"),
    ]
    shown = table("Who decided on which contour, and how far it was changed by hand", columns, rows, numeric=range(5, 10))
    meaning = bullets([f"{key}: {words}" for key, words in REVIEW_DEFINITIONS.items()])
    return section("Review record", shown, meaning, anchor="review-record", new_page=True)


def _left_out(count: int) -> Markup:
    if not count:
        return Markup("")
    return paragraph(
        f"{count} pictures of less doubtful slices are left out to keep this file small; they lie in the visits' folders."
    )


def _slice_definitions() -> Markup:
    wanted = ("index", "position_mm", "review_priority")
    return facts("Columns of the slices", [(key, plain_or(SLICE[key])) for key in wanted])
