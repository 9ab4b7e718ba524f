"""Which contours of a result are exported to DICOM, and what is said of each.

They are those of the result's own file (:func:`P2SAMSlicerLib.result_files.followup_segments`): the contours that were found,
and the registered prior contours for comparison. Where no lesion was found, or one too small, the registered prior contour is
exported all the same, so that the target is never dropped, and its description says so. Nothing empty is exported.

A contour that a reviewer rejected is not exported: a planning system does not show why it should not be used. The registered
prior contour of that structure always stays for comparison, and says that the contour was rejected.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import P2SAMSlicerLib
from P2SAMSlicerLib.result import Outcome, VisitResult
from P2SAMSlicerLib.result_files import (
    ALGORITHM_NAME_TAG,
    COMPARISON_SUFFIX,
    followup_segments,
    is_comparison,
)
from P2SAMSlicerLib.volume import BoolArray, Segment

ACCEPTED, REJECTED = "accepted", "rejected"

UNREVIEWED = "UNREVIEWED"
RESEARCH_USE = "For research use only."

Algorithm = Literal["AUTOMATIC", "SEMIAUTOMATIC"]


class Review(Protocol):
    """What is needed of a :class:`P2SAMSlicerLib.report.review_record.ReviewRecord`."""

    @property
    def decision(self) -> Any:
        """``accepted``, ``rejected``, ``flagged``, or nothing."""

    @property
    def reviewer(self) -> str:
        """Who decided."""

    @property
    def time(self) -> str:
        """When, ISO 8601."""

    @property
    def edited(self) -> bool:
        """A person changed the contour."""


@dataclass(frozen=True)
class ExportContour:
    """One contour to write.

    :param name: full name.
    :param mask: ``(z, y, x)`` on the follow-up's grid; not empty.
    :param color: red, green, blue, each 0..1, or None.
    :param terminology: Slicer's terminology entry, or None.
    :param comparison: a registered prior contour, there for comparison.
    :param algorithm: ``SEMIAUTOMATIC`` if a person changed the contour.
    :param description: what has to be known of it, in sentences; says UNREVIEWED unless it is reviewed.
    :param reviewed: a person accepted it in this tool. That is no approval.
    :param reviewer: who did; else empty.
    :param source_tags: tags of the segment, with the name of the algorithm.
    """

    name: str
    mask: BoolArray
    color: tuple[float, float, float] | None
    terminology: Mapping[str, Any] | None
    comparison: bool
    algorithm: Algorithm
    description: str
    reviewed: bool = False
    reviewer: str = ""
    source_tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def source_name(self) -> str:
        """The name of the structure that it is of."""
        return _source_name(self.name) if self.comparison else self.name

    @property
    def algorithm_name(self) -> str:
        """Program, version and model."""
        return self.source_tags.get(ALGORITHM_NAME_TAG) or f"P2SAMSlicer {P2SAMSlicerLib.__version__}"


def export_contours(result: VisitResult, reviews: Mapping[str, Review] | None = None) -> tuple[ExportContour, ...]:
    """The contours of one follow-up.

    :param reviews: by the segment's name; none for a result that nobody has looked at.
    :returns: contours first, then the registered prior contours; empty if the follow-up has none at all.
    :raises ValueError: the result contradicts itself, see :func:`P2SAMSlicerLib.result_files.followup_segments`.
    """
    stories = {each.source.name: story(each.outcome, each.reasons) for each in result.segments}
    return contours_of_segments(followup_segments(result), reviews, stories)


def contours_of_segments(
    segments: Sequence[Segment], reviews: Mapping[str, Review] | None = None, stories: Mapping[str, str] | None = None
) -> tuple[ExportContour, ...]:
    """The same from the segments of a result's file.

    :param stories: what happened to a structure, in a sentence, by its name.
    """
    found = reviews or {}
    own = {segment.name for segment in segments if not is_comparison(segment)}
    contours = []
    for segment in segments:
        comparison = is_comparison(segment)
        source = _source_name(segment.name) if comparison else segment.name
        # Where there is only the registered contour, a review of the structure is one of that contour.
        review = found.get(segment.name) or (found.get(source) if source not in own else None)
        if not segment.mask.any() or (not comparison and review is not None and _decision(review) == REJECTED):
            continue
        happened = (stories or {}).get(source, "")
        if comparison and source in own and source in found and _decision(found[source]) == REJECTED:
            happened = f"The contour of '{source}' was rejected in review and is not exported. {happened}"
        contours.append(_contour(segment, comparison, review, happened))
    return tuple(contours)


def _source_name(name: str) -> str:
    """The structure of which this is the registered contour; a number that tells two of one name apart stays."""
    before, suffix, after = name.rpartition(COMPARISON_SUFFIX)
    return f"{before}{after}" if suffix else name


def _contour(segment: Segment, comparison: bool, review: Review | None, happened: str) -> ExportContour:
    reviewed = review is not None and _decision(review) == ACCEPTED
    edited = review is not None and review.edited
    said = [f"{segment.name}."]
    if comparison:
        said.append("The prior contour carried over by registration, for comparison.")
    if review is not None and reviewed:
        said.append(
            f"Reviewed ({_decision(review)}) by {review.reviewer or 'unknown'}, {review.time}; this is not an approval."
        )
    elif review is not None and _decision(review) == REJECTED:
        said.append(f"REJECTED in review by {review.reviewer or 'unknown'}, {review.time}.")
    else:
        said.append(f"{UNREVIEWED}.")
    if edited:
        said.append("Edited by a person.")
    said += [happened, RESEARCH_USE]
    return ExportContour(
        name=segment.name,
        mask=segment.mask,
        color=segment.color,
        terminology=segment.terminology,
        comparison=comparison,
        algorithm="SEMIAUTOMATIC" if edited else "AUTOMATIC",
        description=" ".join(each.strip() for each in said if each.strip()),
        reviewed=reviewed,
        reviewer=review.reviewer if review is not None and reviewed else "",
        source_tags=dict(segment.tags),
    )


def story(outcome: Outcome, reasons: Sequence[str]) -> str:
    """What happened to a structure, and why, in a sentence or two; nothing where it was simply found."""
    what, then = {
        Outcome.FOUND: ("", ""),
        Outcome.FLAGGED: ("Flagged", ""),
        Outcome.TOO_SMALL: ("Too small for the model", "No new contour: the registered prior contour stands for the target."),
        Outcome.NO_LESION: (
            "No lesion found",
            "No new contour: the registered prior contour is kept, so no target is dropped.",
        ),
        Outcome.REGISTRATION_ONLY: ("Carried by registration only", ""),
    }[outcome]
    why = f": {'; '.join(reasons)}" if reasons else ""
    return f"{what}{why}. {then}".strip() if what else ""


def _decision(review: Review) -> str:
    """The decision's word, from an enumeration or a text."""
    return str(getattr(review.decision, "value", review.decision) or "").lower()


def all_reviewed(contours: Sequence[ExportContour]) -> bool:
    """Whether every contour was accepted; those for comparison count only where there are no others."""
    counted = [each for each in contours if not each.comparison] or list(contours)
    return bool(counted) and all(each.reviewed for each in counted)
