"""Everything that a patient's report says, as plain values: ``report.json``, from which the page is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import P2SAMSlicerLib
from P2SAMSlicerLib.definitions import DEFINITIONS
from P2SAMSlicerLib.patient.visit_folder import DONE
from P2SAMSlicerLib.report.review_record import REVIEW_DEFINITIONS, UNREVIEWED, ReviewRecord
from P2SAMSlicerLib.report.visit_content import (
    VisitContent,
    number,
    one_text,
    plain_value,
    slices_to_look_at,
    texts,
    vector,
    whole,
)
from P2SAMSlicerLib.result import Outcome
from P2SAMSlicerLib.result_files import STATEMENT

FORMAT, FORMAT_VERSION = "P2SAMSlicer patient report", 1

#: Outcomes with a contour of the tool's own.
CONTOURED = (Outcome.FOUND.value, Outcome.FLAGGED.value)

#: What stands first in every report.
RESEARCH_USE = "For research use only. Not for diagnosis or treatment."
NEW_LESIONS = STATEMENT[1]
PRIORITY_STATEMENT = STATEMENT[2]

#: Figures that only the report has.
REPORT_DEFINITIONS = {
    "change_from_prior_percent": "100 (volume / volume on the first visit - 1); the volume is the reviewed one once the contour"
    " was accepted, else that of the contour as the tool drew it",
    "shift_length_mm": "length of the centroid shift",
}
AGREEMENT_DEFINITIONS = {
    "references": "visits from which the structure was carried; the result is a weighted mean of what came of each",
    "outcomes": "outcome from each of them",
    "weights": "weight of each in that mean, by how well the registration near the lesion fits; they add up to 1",
    "contours": "how many of them gave a contour; these are compared, or else the registered prior contours",
    "mean_dice": "mean 3-D Dice of all pairs of contours",
    "mean_hd95_mm": "mean 95 % Hausdorff distance of all pairs of contours, mm",
}
EXPORT_DEFINITIONS = {
    "volume_ml": "volume of the contour that was written",
    "read_back_ml": "volume of what this program's own reader makes of the written file, on the same voxels",
    "change_percent": "100 (read_back_ml / volume_ml - 1): what writing and reading changes",
    "dice": "3-D Dice of the contour written and the contour read back",
}


@dataclass(frozen=True)
class ReportIdentity:
    """Who the patient is, for a report that is to name him. Without it a report holds no name, no id and no date.

    :param visits: date by the visit's label.
    """

    patient_name: str = ""
    patient_id: str = ""
    birth_date: str = ""
    visits: Mapping[str, str] = field(default_factory=dict)


def report_content(
    visits: Sequence[VisitContent],
    prior: Mapping[str, Any],
    identity: ReportIdentity | None,
    reviews: Mapping[str, Sequence[ReviewRecord]],
) -> dict[str, Any]:
    """The report as strict JSON can hold it.

    :param prior: ``label``, ``day``, ``segments`` (each with ``name`` and ``volume_ml``), ``warnings``, ``approved``; all of
        them may be absent, and anything else is left out.
    """
    first = _prior(prior, visits)
    volumes = {each["name"]: each["volume_ml"] for each in first["segments"]}
    entries = [_visit(each, volumes, identity, reviews.get(each.label, ())) for each in visits]
    contours = [segment for each in entries for segment in each["segments"]]
    unreviewed = sum(not segment["review"]["accepted"] for segment in contours)
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "program": f"P2SAMSlicer {P2SAMSlicerLib.__version__}",
        "statement": [RESEARCH_USE, _review_statement(unreviewed, len(contours)), NEW_LESIONS, PRIORITY_STATEMENT],
        "anonymous": identity is None,
        "patient": None if identity is None else _patient(identity),
        "contours": len(contours),
        "unreviewed": unreviewed,
        "definitions": {
            **DEFINITIONS,
            "report": REPORT_DEFINITIONS,
            "review": REVIEW_DEFINITIONS,
            "export": EXPORT_DEFINITIONS,
            "reference_agreement": AGREEMENT_DEFINITIONS,
        },
        "prior": {**first, "date": identity.visits.get(first["label"]) if identity else None},
        "visits": entries,
        "not_done": _not_done(entries),
    }


def _review_statement(unreviewed: int, contours: int) -> str:
    if not contours:
        return "There is no contour in this report."
    if not unreviewed:
        return f"A reviewer accepted each of the {contours} contours."
    return f"{unreviewed} of {contours} contours are UNREVIEWED: no person has accepted them."


def _patient(identity: ReportIdentity) -> dict[str, str]:
    values = asdict(identity)
    values.pop("visits")
    return {name: str(value) for name, value in values.items()}


def _prior(prior: Mapping[str, Any], visits: Sequence[VisitContent]) -> dict[str, Any]:
    """The first visit: what the caller says, and volumes from the visits that were carried from it where he says none."""
    label = one_text(prior.get("label")) or "visit_1"
    volumes: dict[str, float | None] = {}
    listed = prior.get("segments")
    for each in listed if isinstance(listed, (list, tuple)) else ():
        if isinstance(each, Mapping):
            name = one_text(each.get("name")) or one_text(each.get("segment"))
            volumes[name] = number(each.get("volume_ml"))
    for visit in visits:
        if texts(visit.facts.get("references")) in ([label], []):
            for each in visit.segments:
                if volumes.get(each["segment"]) is None:
                    volumes[each["segment"]] = number(each.get("prior_volume_ml"))
    approved = prior.get("approved")
    return {
        "label": label,
        "day": whole(prior.get("day")),
        "approved": approved if isinstance(approved, bool) else None,
        "segments": [{"name": name, "volume_ml": volume} for name, volume in volumes.items()],
        "warnings": texts(prior.get("warnings")),
    }


def _visit(
    visit: VisitContent,
    volumes: Mapping[str, float | None],
    identity: ReportIdentity | None,
    reviews: Sequence[ReviewRecord],
) -> dict[str, Any]:
    """One visit."""
    by_name = {record.segment: record for record in reviews}
    facts, entry = visit.facts, visit.entry
    options = dict(entry.get("options") or {}) if isinstance(entry.get("options"), Mapping) else {}
    if identity is None and options.get("transform_file"):
        options["transform_file"] = "a file of the user's own"  # whose name may be a patient's
    return {
        "label": visit.label,
        "number": visit.number,
        "day": visit.day,
        "date": identity.visits.get(visit.label) if identity else None,
        "outcome": visit.outcome,
        "reason": visit.reason,
        "carried_from": one_text(facts.get("carried_from")),
        "references": texts(facts.get("references")),
        "unreviewed_references": texts(facts.get("unreviewed_references")),
        "segments": [_segment(each, visit, volumes, by_name.get(each["segment"])) for each in visit.segments],
        "registration": _object(entry.get("registration")),
        "notes": [*texts(facts.get("notes")), *texts(entry.get("notes"))],
        "overrides": texts(entry.get("overrides")),
        "warnings": texts(entry.get("warnings")),
        "reference_agreement": plain_value(facts.get("reference_agreement")),
        "exports": [_export(each) for each in facts.get("exports") or () if isinstance(each, Mapping)],
        "model": _object(entry.get("model")),
        "device": one_text(entry.get("device")),
        "options": options,
        "versions": _object(entry.get("versions")),
    }


def _segment(
    entry: Mapping[str, Any], visit: VisitContent, volumes: Mapping[str, float | None], record: ReviewRecord | None
) -> dict[str, Any]:
    """One segment of a visit, with its review."""
    name = entry["segment"]
    review = record or ReviewRecord(name, UNREVIEWED)
    drawn = number(entry.get("volume_ml"))
    counts = review.volume_after_ml if review.accepted and review.volume_after_ml is not None else drawn
    first = volumes.get(name)
    registration = _object(entry.get("registration"))
    return {
        "segment": name,
        "outcome": one_text(entry.get("outcome")),
        "reasons": texts(entry.get("reasons")),
        "review_priority": number(entry.get("review_priority")),
        "prior_volume_ml": number(entry.get("prior_volume_ml")),
        "volume_ml": drawn,
        "volume_change_percent": number(entry.get("volume_change_percent")),
        "change_from_prior_percent": None if counts is None or not first else 100.0 * (counts / first - 1.0),
        "centroid_shift_mm": vector(entry.get("centroid_shift_mm")),
        "lost_tissue_share": number(entry.get("lost_tissue_share")),
        "removals": texts(entry.get("removals")),
        "registration": registration,
        "slices_to_look_at": slices_to_look_at(entry),
        "pictures": [each.as_dict() for each in visit.pictures if each.segment == name],
        "review": {**review.as_dict(), "accepted": review.accepted},
    }


def _export(entry: Mapping[str, Any]) -> dict[str, Any]:
    trips = entry.get("round_trip")
    return {
        "file": one_text(entry.get("file")),
        "kind": one_text(entry.get("kind")),
        "round_trip": [
            {
                "name": one_text(each.get("name")),
                "roi_name": one_text(each.get("roi_name")),
                **{key: number(each.get(key)) for key in EXPORT_DEFINITIONS},
            }
            for each in (trips if isinstance(trips, list) else ())
            if isinstance(each, Mapping)
        ],
    }


def _object(value: Any) -> dict[str, Any]:
    return dict(plain_value(dict(value))) if isinstance(value, Mapping) else {}


def _not_done(visits: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a reader might take for done."""
    found = [NEW_LESIONS]
    for visit in visits:
        if visit["outcome"] != DONE:
            found.append(f"{visit['label']}: nothing was carried to it; {visit['reason']}")
        for segment in visit["segments"]:
            outcome = segment["outcome"]
            if outcome == Outcome.REGISTRATION_ONLY.value:
                found.append(
                    f"{visit['label']}, {segment['segment']}: no model was asked; there is only the registered prior contour"
                )
            elif outcome not in CONTOURED:
                found.append(
                    f"{visit['label']}, {segment['segment']}: {outcome or 'no outcome'}; no contour was made, and the"
                    " registered prior contour is there for comparison"
                )
    return found
