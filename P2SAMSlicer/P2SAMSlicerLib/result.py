"""What came out of a run: every contour, every figure, and every candidate that was considered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.intensity import GreyScale
from P2SAMSlicerLib.region import Region
from P2SAMSlicerLib.volume import BoolArray, Segment

#: Key of a visit's provenance: the follow-up's values, by which it is known again (``volume_fingerprint``).
FOLLOWUP_VALUES = "followup_values"


class Outcome(str, Enum):
    """What happened to one segment. Nothing is ever called safe.

    * ``found``: a contour was made and no check objected. It still needs review.
    * ``flagged``: a contour was made and at least one check objected; ``reasons`` says which.
    * ``too small``: the lesion is below what the model resolves; only the registered prior contour is given.
    * ``no lesion found``: the follow-up does not look like the lesion there; only the registered prior contour is given.
    * ``registration only``: a margin or an organ, for which no model was asked; only the registered prior contour is given.
    """

    FOUND = "found"
    FLAGGED = "flagged"
    TOO_SMALL = "too small"
    NO_LESION = "no lesion found"
    REGISTRATION_ONLY = "registration only"


@dataclass(frozen=True)
class Candidate:
    """One possible contour on one image or slice, with what made it.

    :param origin: where it comes from, for example ``parts 3 + box`` or ``registered contour``.
    :param mask: True inside, ``(H, W)`` of the image or region of interest.
    :param points: prompt points ``(n, 2)`` as ``(x, y)`` in pixels of that image.
    :param labels: ``(n,)``, 1 positive, 0 negative.
    :param box: ``(x0, y0, x1, y1)`` in pixels, or None.
    :param distance: distribution distance to the reference features (section 3.2, equation 3); smaller is better.
    :param score: what the choice was made by; in paper mode the distance itself. Smaller is better.
    :param predicted_iou: the model's own estimate, or NaN for a contour that no model made.
    """

    origin: str
    mask: BoolArray
    points: NDArray[np.float32]
    labels: NDArray[np.int64]
    box: NDArray[np.float32] | None
    distance: float
    score: float
    predicted_iou: float

    @property
    def n_positive(self) -> int:
        """Number of positive points."""
        return int((self.labels == 1).sum())

    @property
    def n_negative(self) -> int:
        """Number of negative points."""
        return int((self.labels == 0).sum())


@dataclass(frozen=True)
class ImageResult:
    """Paper mode on one image pair: the chosen candidate and all others.

    :param chosen: index into ``candidates``.
    """

    candidates: tuple[Candidate, ...]
    chosen: int

    @property
    def best(self) -> Candidate:
        """The chosen candidate."""
        return self.candidates[self.chosen]


@dataclass(frozen=True)
class SliceResult:
    """One slice of one segment on the follow-up.

    :param index: slice number along the follow-up's own stored slice axis, counted from 0.
    :param position_mm: LPS coordinate of the slice along the patient axis nearest the slice normal.
    :param candidates: all candidates; masks lie on ``region``.
    :param chosen: index into ``candidates``, or None where the lesion was judged absent on this slice.
    :param review_priority: 0..1, larger means look here first; it never says that a slice is right.
    :param signals: the independent signals behind the priority, each 0..1.
    :param lesion: number of the separate lesion of the segment, from 1; one slice may show several.
    :param region: where the candidates' masks lie, in the plane of the follow-up's slices in canonical order (see
        :mod:`P2SAMSlicerLib.orientation`); None if they lie on the whole slice.
    :param greys: how the slice's HU became the image that the model saw; None in records of versions that did not keep it.
    :param change: of the visits on ``region``, for a review of another contour; see
        :func:`P2SAMSlicerLib.review.recorded_change`. None if they were not compared, and in records that did not keep it.
    """

    index: int
    position_mm: float
    candidates: tuple[Candidate, ...]
    chosen: int | None
    review_priority: float
    signals: Mapping[str, float] = field(default_factory=dict)
    lesion: int = 1
    region: Region | None = None
    greys: GreyScale | None = None
    change: NDArray[np.uint8] | None = None

    @property
    def best(self) -> Candidate | None:
        """The chosen candidate, or None."""
        return None if self.chosen is None else self.candidates[self.chosen]


@dataclass(frozen=True)
class SegmentResult:
    """One segment carried to one follow-up.

    :param source: the prior segment (its name, colour and terminology are carried over).
    :param outcome: see :class:`Outcome`.
    :param reasons: why it is flagged, or why there is no model contour; in words.
    :param mask: the contour on the follow-up's stored grid; None unless the outcome is found or flagged.
    :param registered_mask: the registered prior contour on the same grid, always kept for comparison.
    :param volume_ml: volume of ``mask`` (None without one).
    :param centroid_shift_mm: LPS vector from the registered prior contour's centroid to the result's (None without one).
    :param removals: what clean-up took away, in words with its volume.
    :param registration: quality figures (of several lesions the worst) and flags of the registration near this segment, ready
        for JSON.
    :param lost_tissue_share: see :func:`P2SAMSlicerLib.lost_tissue.lost_share`; of several lesions the worst;
        None where it could not be judged.
    """

    source: Segment
    outcome: Outcome
    reasons: tuple[str, ...]
    review_priority: float
    mask: BoolArray | None
    registered_mask: BoolArray
    prior_volume_ml: float
    volume_ml: float | None
    volume_change_percent: float | None
    centroid_shift_mm: tuple[float, float, float] | None
    slices: tuple[SliceResult, ...]
    removals: tuple[str, ...] = ()
    registration: Mapping[str, Any] = field(default_factory=dict)
    lost_tissue_share: float | None = None


@dataclass(frozen=True)
class VisitResult:
    """All segments carried to one follow-up.

    :param name: the follow-up volume's name.
    :param grid: the follow-up's stored grid; every mask lies exactly on it.
    :param registration: quality figures of the whole body, and the flags of the body and of every segment; ready for JSON.
    :param stage_seconds: seconds spent in each stage.
    :param overrides: checks that the user overrode, in words.
    :param provenance: model card, device, versions, options, :data:`FOLLOWUP_VALUES`; ready for JSON.
    :param notes: how the contours were made, in words, where that is no objection to them.
    """

    name: str
    grid: Grid
    segments: tuple[SegmentResult, ...]
    registration: Mapping[str, Any]
    stage_seconds: Mapping[str, float]
    warnings: tuple[str, ...]
    overrides: tuple[str, ...]
    provenance: Mapping[str, Any]
    notes: tuple[str, ...] = ()
