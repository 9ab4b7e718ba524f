"""What a person said of a contour, kept with its segment: seen slices, decision, reviewer, time, and whether it was edited.

All of it lies in tags of the segment, so it is saved with the scene and with the segmentation's own file. An acceptance holds
for the contour that was accepted: when that is changed later, it no longer counts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from enum import Enum
from typing import Any

import numpy as np

from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.mrml.record_nodes import check_lies_as_recorded, record_of
from P2SAMSlicerLib.mrml.segment_masks import read_mask
from P2SAMSlicerLib.mrml.segment_nodes import put_tag, segment_ids, tag_of
from P2SAMSlicerLib.mrml.slice_places import SlicePlaces
from P2SAMSlicerLib.result import SliceResult
from P2SAMSlicerLib.result_files import COMPARISON_TAG, FLAGGED, IN_PROGRESS, STATUS_TAG
from P2SAMSlicerLib.review import must_be_seen

#: 3D Slicer's word for a segment that a person has finished.
COMPLETED = "completed"
#: Tags of our own: the contour as the tool drew it, slices that were looked at, and the decision with who, when and of what.
DRAWN_TAG, SEEN_TAG = "P2SAM.DrawnContour", "P2SAM.SeenSlices"
DECISION_TAG, REVIEWER_TAG, TIME_TAG = "P2SAM.Decision", "P2SAM.Reviewer", "P2SAM.ReviewTime"
DECIDED_TAG, VOLUME_TAG, DRAWN_VOLUME_TAG = "P2SAM.DecidedContour", "P2SAM.DecidedVolumeMl", "P2SAM.DrawnVolumeMl"
#: The decision was taken back because the contour was edited; it stays so if the edit is undone.
TAKEN_BACK_TAG = "P2SAM.DecisionTakenBack"
#: What is known of a review without the scene; for a file that tells of it.
REVIEW_TAGS = (
    *(DRAWN_TAG, DRAWN_VOLUME_TAG),
    *(DECISION_TAG, REVIEWER_TAG, TIME_TAG, DECIDED_TAG, VOLUME_TAG, TAKEN_BACK_TAG),
)
_OWN_TAGS = (*REVIEW_TAGS, SEEN_TAG, COMPARISON_TAG)


class Decision(str, Enum):
    """What a reviewer says of one contour."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    FLAGGED = "flagged"


_STATUS = {Decision.ACCEPTED: COMPLETED, Decision.REJECTED: FLAGGED, Decision.FLAGGED: FLAGGED}


@dataclass(frozen=True)
class ReviewState:
    """Where the review of one contour stands.

    :param decision: None while there is none, or if the contour was changed after it.
    :param reviewer: who decided; empty without a decision.
    :param time: when, ISO 8601 in UTC; empty without a decision.
    :param edited: the contour is not the one that the tool drew.
    :param changed_since: a decision was made, but of a contour that has been changed since.
    :param drawn_ml: volume as the tool drew it; None if that is not known.
    """

    decision: Decision | None
    reviewer: str
    time: str
    edited: bool
    changed_since: bool
    drawn_ml: float | None

    @property
    def touched(self) -> bool:
        """A person's work is in it: it must not be overwritten without asking."""
        return self.edited or self.changed_since or self.decision is Decision.ACCEPTED

    def in_words(self) -> str:
        """For the table of segments."""
        words = "unreviewed" if self.decision is None else self.decision.value
        if self.changed_since:
            words = "changed since the decision"
        return f"{words}, edited" if self.edited else words


def remember_drawn(node: Any, identifier: str) -> None:
    """Keep what the tool drew, to tell later whether a person changed it."""
    segment = _segment(node, identifier)
    mask = _mask(node, identifier)
    put_tag(segment, DRAWN_TAG, fingerprint(mask))
    put_tag(segment, DRAWN_VOLUME_TAG, f"{_volume_ml(node, mask):.4f}")


def forget_review(segment: Any) -> None:
    """Take away what was said of another contour, of which this segment has the tags."""
    for name in _OWN_TAGS:
        segment.RemoveTag(name)


def mark_seen(node: Any, identifier: str, index: int) -> bool:
    """Note that a slice was looked at.

    :param index: slice number as in :class:`~P2SAMSlicerLib.result.SliceResult`.
    :returns: whether it had not been seen before.
    """
    before = seen(node, identifier)
    if index in before:
        return False
    put_tag(_segment(node, identifier), SEEN_TAG, " ".join(str(each) for each in sorted({*before, index})))
    return True


def forget_seen(node: Any, identifier: str, indices: Sequence[int]) -> None:
    """Slices that changed have to be looked at again."""
    left = seen(node, identifier) - set(indices)
    put_tag(_segment(node, identifier), SEEN_TAG, " ".join(str(each) for each in sorted(left)))


def seen(node: Any, identifier: str) -> frozenset[int]:
    """Slices that were looked at."""
    text = tag_of(_segment(node, identifier), SEEN_TAG) or ""
    return frozenset(int(word) for word in text.split() if word.lstrip("-").isdigit())


def unseen(node: Any, identifier: str, slices: Sequence[SliceResult]) -> list[int]:
    """Slices that have to be looked at before the contour can be accepted, and were not."""
    found = seen(node, identifier)
    wanted = must_be_seen(slices) if slices else _without_judgement(node, identifier)
    return [index for index in wanted if index not in found]


def decide(node: Any, identifier: str, decision: Decision, reviewer: str, slices: Sequence[SliceResult]) -> ReviewState:
    """Record a reviewer's decision on one contour. There is no way to decide on several at once.

    :param slices: the segment's slices, from its record.
    :raises InputError: no reviewer; accepted without looking at the doubtful slices, or though it is empty, or though the
        follow-up was turned over since the slices were recorded.
    """
    segment, name = _segment(node, identifier), reviewer.strip()
    if not name:
        raise InputError("who reviews? Enter a name or initials before deciding")
    mask = _mask(node, identifier)
    if decision is Decision.ACCEPTED:
        if slices:  # on a follow-up that lies the other way round now, other slices than the doubtful ones were shown
            check_lies_as_recorded(node, SlicePlaces.of(_followup(node)).grid)
        left = unseen(node, identifier, slices)
        if left:
            raise InputError(f"{segment.GetName()}: {len(left)} doubtful slice(s) have not been looked at yet")
        if not mask.any():
            raise InputError(f"{segment.GetName()}: it is empty and cannot be accepted")
    # Who watches the segment sees every step: the decision comes last, when it is known of which contour it is.
    put_tag(segment, DECIDED_TAG, fingerprint(mask))
    put_tag(segment, VOLUME_TAG, f"{_volume_ml(node, mask):.4f}")
    put_tag(segment, REVIEWER_TAG, name)
    put_tag(segment, TIME_TAG, datetime.now(timezone.utc).isoformat(timespec="seconds"))
    segment.RemoveTag(TAKEN_BACK_TAG)
    put_tag(segment, DECISION_TAG, decision.value)
    segment.SetTag(STATUS_TAG, _STATUS[decision])
    return review_state(node, identifier)


def review_state(node: Any, identifier: str) -> ReviewState:
    """Where the review of a contour stands. A decision on another contour than the present one is taken back, for good."""
    segment = _segment(node, identifier)
    now = fingerprint(_mask(node, identifier))
    drawn = tag_of(segment, DRAWN_TAG)
    decision = _decision(segment)
    if decision is not None and tag_of(segment, DECIDED_TAG) != now:
        take_back(node, identifier)
    changed = decision is not None and tag_of(segment, TAKEN_BACK_TAG) is not None
    return ReviewState(
        decision=None if changed else decision,
        reviewer="" if changed or decision is None else tag_of(segment, REVIEWER_TAG) or "",
        time="" if changed or decision is None else tag_of(segment, TIME_TAG) or "",
        edited=drawn is not None and drawn != now,
        changed_since=changed,
        drawn_ml=_number(tag_of(segment, DRAWN_VOLUME_TAG)),
    )


def has_decision(node: Any, identifier: str) -> bool:
    """Whether a decision stands that could be taken back; cheap, and the contour is not looked at."""
    segment = _segment(node, identifier)
    return _decision(segment) is not None and tag_of(segment, TAKEN_BACK_TAG) is None


def take_back(node: Any, identifier: str) -> bool:
    """Have a decision hold no longer, because the contour is another one now.

    :returns: whether there was one that held.
    """
    segment, held = _segment(node, identifier), has_decision(node, identifier)
    if held:
        put_tag(segment, TAKEN_BACK_TAG, "1")
    if tag_of(segment, STATUS_TAG) == COMPLETED:
        segment.SetTag(STATUS_TAG, IN_PROGRESS)
    return held


def touched_segments(node: Any) -> list[str]:
    """Names of the contours that hold a person's work."""
    names = []
    for identifier in segment_ids(node):
        segment = _segment(node, identifier)
        if tag_of(segment, DRAWN_TAG) is not None and review_state(node, identifier).touched:
            names.append(str(segment.GetName()))
    return names


def contours_to_review(node: Any) -> list[str]:
    """Ids of the contours that a person has to judge; registered contours for comparison only are left out."""
    return [each for each in segment_ids(node) if tag_of(_segment(node, each), DRAWN_TAG) is not None]


def contour_volume_ml(node: Any, identifier: str) -> float:
    """Volume of a segment as it is now, in ml."""
    return _volume_ml(node, _mask(node, identifier))


def _without_judgement(node: Any, identifier: str) -> list[int]:
    """Where a contour has to be looked at of which no slice's doubt is known.

    Its ends and its middle if no model judged it slice by slice; every slice if what the model thought cannot be read.
    """
    axis = SlicePlaces.of(_followup(node)).axis
    present = np.flatnonzero(_mask(node, identifier).any(axis=tuple(each for each in range(3) if each != axis)))
    if not len(present):
        return []
    middle, ends = present[len(present) // 2], (present[0], present[-1])
    chosen = (middle, *ends) if _is_readable(node) else (middle, *ends, *present)
    return list(dict.fromkeys(int(each) for each in chosen))


def _is_readable(node: Any) -> bool:
    """Whether the record can be read, or there is none."""
    try:
        record_of(node)
    except InputError:
        return False
    return True


def _followup(node: Any) -> Any:
    """The volume on whose voxels the contours lie."""
    reference = node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole())
    if reference is None:
        raise InputError(f"{node.GetName()}: its follow-up volume is no longer in the scene")
    return reference


def _segment(node: Any, identifier: str) -> Any:
    segment = node.GetSegmentation().GetSegment(identifier)
    if segment is None:
        raise InputError(f"{node.GetName()}: it has no segment '{identifier}'")
    return segment


def _decision(segment: Any) -> Decision | None:
    try:
        return Decision(tag_of(segment, DECISION_TAG) or "")
    except ValueError:
        return None


def _mask(node: Any, identifier: str) -> Any:
    return read_mask(node, identifier, _followup(node))


def fingerprint(mask: Any) -> str:
    """By which a contour is known again."""
    return hashlib.sha256(repr(mask.shape).encode() + np.packbits(mask).tobytes()).hexdigest()


def _volume_ml(node: Any, mask: Any) -> float:
    return float(mask.sum()) * SlicePlaces.of(_followup(node)).grid.voxel_ml


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None
