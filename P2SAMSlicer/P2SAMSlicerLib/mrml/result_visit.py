"""A result of the scene as the library knows it again: as the tool drew it, as a person left it, and how it was reviewed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.metrics import centroid_shift_mm, volume_ml
from P2SAMSlicerLib.mrml.record_nodes import ResultRecord, drawn_contours, record_of
from P2SAMSlicerLib.mrml.result_nodes import SOURCE_TAG, comparison_of
from P2SAMSlicerLib.mrml.review_nodes import DRAWN_TAG, contours_to_review, fingerprint, review_state
from P2SAMSlicerLib.mrml.segment_masks import read_mask
from P2SAMSlicerLib.mrml.segment_nodes import describe, tag_of
from P2SAMSlicerLib.mrml.volume_nodes import volume_from_node
from P2SAMSlicerLib.report.review_record import UNREVIEWED, ReviewRecord, surface_change
from P2SAMSlicerLib.result import FOLLOWUP_VALUES, Outcome, SegmentResult, VisitResult
from P2SAMSlicerLib.volume import BoolArray, Volume

_CONTOURED = (Outcome.FOUND, Outcome.FLAGGED)


@dataclass(frozen=True)
class SceneVisit:
    """One result of the scene.

    :param followup: the CT where it stands in the world; every mask lies on its voxels.
    :param result: contours as the tool drew them, with the figures of the run.
    :param present: contours as they are now, by the name of the prior's segment; a person may have changed them.
    :param reviews: by the same name.
    :param notes: what could not be known, in words.
    """

    node: Any
    followup_node: Any
    followup: Volume
    result: VisitResult
    present: Mapping[str, BoolArray]
    reviews: Mapping[str, ReviewRecord]
    notes: tuple[str, ...]

    @property
    def edited(self) -> dict[str, BoolArray]:
        """Those of the present contours that a person changed."""
        return {name: mask for name, mask in self.present.items() if self.reviews[name].edited}


def scene_visit(node: Any, label: str, names: Mapping[str, str]) -> SceneVisit:
    """What a result's segmentation node holds.

    :param label: name of the visit.
    :param names: visits' labels by the names of the volumes' nodes, which take their place in every text, as these may tell a
        patient's name.
    :raises InputError: its follow-up is gone or bent, or it holds no contour.
    """
    followup_node = node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole())
    if followup_node is None:
        raise InputError(f"{node.GetName()}: its follow-up volume is no longer in the scene")
    followup = volume_from_node(followup_node)
    notes: list[str] = []
    try:
        record = record_of(node)
    except InputError:
        record = None
    if record is None:
        notes.append("what stands behind the contours cannot be read: figures, candidates and review priorities are not known")
    drawn = drawn_contours(node)
    segments: list[SegmentResult] = []
    present: dict[str, BoolArray] = {}
    reviews: dict[str, ReviewRecord] = {}
    for identifier in contours_to_review(node):
        segment = node.GetSegmentation().GetSegment(identifier)
        name = tag_of(segment, SOURCE_TAG) or str(segment.GetName())
        if name in present:
            continue  # a copy that a person made of a contour
        now = read_mask(node, identifier, followup_node)
        first = _drawn(node, identifier, now, drawn.get(name))
        reviews[name] = _review(node, identifier, name, first, now, followup)
        present[name] = now
        beside = comparison_of(node, name)
        registered = None if beside is None else read_mask(node, beside, followup_node)
        segments.append(_segment(segment, name, now if first is None else first, registered, record, followup))
        if first is None:
            notes.append(
                f"{name}: it was changed, and how the tool drew it was not kept; figures are those of the present contour"
            )
    if not segments:
        raise InputError(f"{node.GetName()}: it holds no contour to report on")
    result = _visit(label, followup, segments, record)
    return SceneVisit(node, followup_node, followup, _renamed(result, names), present, reviews, tuple(notes))


def _drawn(node: Any, identifier: str, now: BoolArray, kept: BoolArray | None) -> BoolArray | None:
    """The contour as the tool drew it; None if it is not known any more."""
    remembered = tag_of(node.GetSegmentation().GetSegment(identifier), DRAWN_TAG)
    if remembered == fingerprint(now):
        return now
    return kept if kept is not None and remembered == fingerprint(kept) and kept.any() else None


def _review(node: Any, identifier: str, name: str, drawn: BoolArray | None, now: BoolArray, followup: Volume) -> ReviewRecord:
    state = review_state(node, identifier)
    record = ReviewRecord(
        segment=name,
        decision=UNREVIEWED if state.decision is None else state.decision.value,
        reviewer=state.reviewer,
        time=state.time,
        volume_before_ml=state.drawn_ml,
        volume_after_ml=volume_ml(now, followup.grid),
        edited=state.edited,
    )
    if drawn is None:
        return record
    change = surface_change(drawn, now, followup.grid)
    return replace(
        record,
        volume_before_ml=change.volume_before_ml,
        dice=change.dice,
        mean_surface_mm=change.mean_surface_mm,
        hd95_mm=change.hd95_mm,
    )


def _segment(
    segment: Any, name: str, drawn: BoolArray, registered: BoolArray | None, record: ResultRecord | None, followup: Volume
) -> SegmentResult:
    """One segment with the figures of its record; volume, change and shift are those of the contour as it was drawn."""
    entries = [] if record is None else [each for each in record.summary["segments"] if each["segment"] == name]
    entry: Mapping[str, Any] = entries[0] if entries else {}
    known = {each.value: each for each in Outcome}
    outcome = known.get(str(entry.get("outcome")), Outcome.FLAGGED)
    reasons = tuple(entry.get("reasons") or ())
    if not entry:
        reasons = ("what speaks against it is not known, because its record cannot be read",)
    contoured = outcome in _CONTOURED and bool(drawn.any())
    if not contoured and outcome in _CONTOURED:
        outcome, reasons = Outcome.NO_LESION, (*reasons, "its contour is empty")
    carried = drawn if registered is None and not contoured else registered
    carried = np.zeros_like(drawn) if carried is None else carried
    before = entry.get("prior_volume_ml")
    volume = volume_ml(drawn, followup.grid) if contoured else None
    mask = drawn if contoured else None
    return SegmentResult(
        source=replace(describe(segment), name=name),
        outcome=outcome,
        reasons=reasons,
        review_priority=float(entry.get("review_priority", 1.0)),
        mask=mask,
        registered_mask=carried,
        prior_volume_ml=float("nan") if before is None else float(before),
        volume_ml=volume,
        volume_change_percent=None if volume is None or not before else 100.0 * (volume / float(before) - 1.0),
        centroid_shift_mm=None if mask is None else centroid_shift_mm(mask, carried, followup.grid),
        slices=() if record is None else record.slices.get(name, ()),
        removals=tuple(entry.get("removals") or ()),
        registration=dict(entry.get("registration") or {}),
        lost_tissue_share=entry.get("lost_tissue_share"),
    )


def _visit(label: str, followup: Volume, segments: list[SegmentResult], record: ResultRecord | None) -> VisitResult:
    summary: Mapping[str, Any] = {} if record is None else record.summary
    kept = ("model", "device", "options", "versions", "version", FOLLOWUP_VALUES)
    provenance = {key: summary[key] for key in kept if key in summary}
    return VisitResult(
        name=label,
        grid=followup.grid,
        segments=tuple(segments),
        registration=dict(summary.get("registration") or {}),
        stage_seconds=dict(summary.get("stage_seconds") or {}),
        warnings=tuple(summary.get("warnings") or ()),
        overrides=tuple(summary.get("overrides") or ()),
        provenance=provenance,
        notes=tuple(summary.get("notes") or ()),
    )


def _renamed(result: VisitResult, names: Mapping[str, str]) -> VisitResult:
    """The same with other words for the volumes in its texts."""

    def texts(values: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(renamed(each, names) for each in values)

    segments = tuple(replace(each, reasons=texts(each.reasons)) for each in result.segments)
    return replace(result, segments=segments, warnings=texts(result.warnings), overrides=texts(result.overrides))


def renamed(text: str, names: Mapping[str, str]) -> str:
    """A text in which names that may tell a patient's are replaced, the longest first."""
    for name in sorted(filter(None, names), key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", names[name], text)
    return text
