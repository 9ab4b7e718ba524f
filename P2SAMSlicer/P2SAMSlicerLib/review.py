"""Review priority: which slices and segments to look at first. It sorts; it never says that a contour is right.

None of the signals is the figure that chose the candidate: how much the model's answers to boxes disagree, agreement with
neighbouring slices, how far the contour left the registered one, how much the visits differ along the border, how sharp the CT
is there, and how small the lesion is on the slice. A model that was trained with masks also tells what it thinks of its answer
to the expected contour, with half of the weight. They were taken up because they sort the slices of simulated visits of
training patients by error, see ``Testing/benchmarks/ablation.md``; how well they do on other patients and sites stands in the
README. The estimate of a model that knows boxes only does not follow the error, and is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.candidates import EXPECTED_MASK, Proposal
from P2SAMSlicerLib.expected import signed_pixels_mm
from P2SAMSlicerLib.result import Outcome, SliceResult
from P2SAMSlicerLib.volume import BoolArray

#: Name of the signal that says how much the chosen contour differs from the model's answers to boxes.
DISAGREEMENT = "answers to boxes disagree"
#: Name of the signal that says how much the visits differ along the border.
VISITS_DIFFER = "the visits differ along the border"
#: Name of the signal that says how little the model thinks of its own answer to the expected contour, its weight in the
#: priority, and how far below 1 the predicted IoU is when it is as doubtful as can be.
OWN_DOUBT = "the model doubts its answer"
OWN_DOUBT_WEIGHT = 0.5
LARGE_DOUBT = 0.5
#: Name of the signal that says how much the chosen contour differs from those on the slices beside it.
NEIGHBOURS = "differs from neighbouring slices"
#: HU step across the border (3 mm inside against 3 mm outside) that counts as sharp; muscle against fat is about 150.
SHARP_HU = 100.0
#: The border, as a band to either side of it in mm, along which differences between the visits count.
BORDER_MM = 4.0
#: Change of the visits (as a multiple of what is usual) that is as doubtful as can be.
LARGE_CHANGE = 3.0
#: The change is recorded for a review later on in cells of so many pixels a side, and in so many levels up to a large one: it
#: was smoothed before, and what counts of it is a mean.
RECORDED_PIXELS, RECORDED_LEVELS = 4, 31
#: A lesion as wide as this on a slice (side of a square of its area, in mm) is not small there.
NOT_SMALL_MM = 40.0
#: Priority of a segment whose slices are not judged, because no model was asked for it.
UNJUDGED = 0.5
#: Share of a segment's slices that sets its priority: the doubtful ones, not the average.
WORST_SHARE = 0.2
#: A slice of at least this priority has to be looked at before its contour is accepted, besides the most doubtful fifth.
DOUBTFUL = 0.5


def slice_signals(
    chosen: BoolArray,
    proposals: Sequence[Proposal],
    neighbours: Sequence[BoolArray],
    registered: BoolArray,
    hu: NDArray[np.float32],
    pixel_mm: float,
    change: NDArray[np.float32] | None = None,
) -> dict[str, float]:
    """The independent signals of one slice, each 0 (quiet) to 1 (look here).

    :param chosen: the chosen mask on the region of interest.
    :param proposals: all candidates of the slice.
    :param neighbours: chosen masks of the slices before and after.
    :param registered: the carried contour on the region.
    :param hu: the slice's HU on the region.
    :param pixel_mm: pixel size of the region.
    :param change: strength of the change between the visits, see :class:`~P2SAMSlicerLib.change.VisitChange`; None if they
        were not compared.
    """
    others = [p.mask for p in proposals if _is_answer_to_box(p) and p.mask.any()]
    if not chosen.any() and not registered.any():
        return {DISAGREEMENT: 0.0}  # nothing was expected there, and nothing is drawn
    disagreement = float(np.mean([_difference(chosen, other) for other in others])) if others else 1.0
    signals = {
        DISAGREEMENT: min(1.0, 2.0 * disagreement),
        NEIGHBOURS: differs_from(chosen, neighbours),
        "differs from the registered contour": _difference(chosen, registered),
        "blurred border": 1.0 - min(1.0, _border_step(chosen, hu, pixel_mm) / SHARP_HU),
        "small on this slice": 1.0 - min(1.0, np.count_nonzero(chosen) ** 0.5 * pixel_mm / NOT_SMALL_MM),
    }
    signals.update(_own_doubt(proposals))
    if change is not None:
        signals[VISITS_DIFFER] = _change_along(chosen if chosen.any() else registered, change, pixel_mm)
    return {name: float(np.clip(value, 0.0, 1.0)) for name, value in signals.items()}


def differs_from(chosen: BoolArray, neighbours: Sequence[BoolArray]) -> float:
    """How much a slice's contour differs from those on the slices beside it, 0 to 1."""
    return max((_difference(chosen, other) for other in neighbours), default=0.0)


def change_to_record(change: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Strength of the change between the visits on a region, as coarse as a later review needs it.

    :param change: see :func:`slice_signals`.
    """
    height, width = (-(-length // RECORDED_PIXELS) for length in change.shape)
    padded = np.pad(
        change, ((0, height * RECORDED_PIXELS - change.shape[0]), (0, width * RECORDED_PIXELS - change.shape[1])), mode="edge"
    )
    share = np.clip(padded / LARGE_CHANGE, 0.0, 1.0).reshape(height, RECORDED_PIXELS, width, RECORDED_PIXELS)
    levels: NDArray[np.uint8] = np.rint(share.mean(axis=(1, 3)) * RECORDED_LEVELS).astype(np.uint8)
    return levels


def recorded_change(levels: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The change that :func:`change_to_record` recorded, on a region of this shape.

    :raises ValueError: it was recorded on another one.
    """
    if levels.shape != tuple(-(-length // RECORDED_PIXELS) for length in shape):
        raise ValueError(f"a change recorded in {levels.shape} cells is none of {shape} pixels")
    change = levels.astype(np.float32) * np.float32(LARGE_CHANGE / RECORDED_LEVELS)
    fine: NDArray[np.float32] = change.repeat(RECORDED_PIXELS, axis=0).repeat(RECORDED_PIXELS, axis=1)
    return fine[: shape[0], : shape[1]]


def _own_doubt(proposals: Sequence[Proposal]) -> dict[str, float]:
    """What the model thinks of its answer to the expected contour; nothing if it was not asked so."""
    told = [each.predicted_iou for each in proposals if each.origin == EXPECTED_MASK and np.isfinite(each.predicted_iou)]
    return {OWN_DOUBT: (1.0 - told[0]) / LARGE_DOUBT} if told else {}


def _is_answer_to_box(proposal: Proposal) -> bool:
    """Whether the model was asked with nothing but a box: its answers to parts differ for reasons of their own."""
    prompt = proposal.prompt
    return prompt.box is not None and prompt.points is None and prompt.mask_logits is None


def priority(signals: Mapping[str, float]) -> float:
    """One figure 0..1 for a slice: the mean of its signals, the model's own doubt (if it tells it) with half of the weight."""
    others = [value for name, value in signals.items() if name != OWN_DOUBT]
    mean = float(np.mean(others)) if others else 0.0
    if OWN_DOUBT not in signals:
        return mean
    return OWN_DOUBT_WEIGHT * signals[OWN_DOUBT] + (1.0 - OWN_DOUBT_WEIGHT) * mean


def segment_priority(slices: Sequence[float], flagged: bool) -> float:
    """One figure 0..1 for a segment: the mean of its most doubtful slices; a flagged segment never ranks below the middle."""
    if not slices:
        return 1.0
    worst = sorted(slices, reverse=True)[: max(1, round(WORST_SHARE * len(slices)))]
    value = float(np.mean(worst))
    return max(value, 0.5) if flagged else value


def priority_of_segment(slices: Sequence[SliceResult], outcome: Outcome, reasons: Sequence[str]) -> float:
    """One figure 0..1 for a segment by its slices, of which those count that were contoured or on which it was expected.

    An organ has no slices to judge; it must not hide the tumours unless something speaks against it.
    """
    if outcome is Outcome.REGISTRATION_ONLY and not reasons:
        return UNJUDGED
    priorities = [each.review_priority for each in slices if each.chosen is not None or each.review_priority > 0]
    return segment_priority(priorities, flagged=outcome is not Outcome.FOUND)


def must_be_seen(slices: Sequence[SliceResult]) -> list[int]:
    """Indices of the slices that a person has to look at before accepting a contour, the most doubtful first.

    These are the most doubtful fifth and all others of priority :data:`DOUBTFUL` and above, of the slices that were contoured
    or on which the lesion was expected. A slice that shows several lesions counts once, with the highest priority.
    """
    priorities: dict[int, float] = {}
    for each in slices:
        if each.chosen is not None or each.review_priority > 0:
            priorities[each.index] = max(priorities.get(each.index, 0.0), each.review_priority)
    order = sorted(priorities, key=lambda index: (-priorities[index], index))
    least = max(1, round(WORST_SHARE * len(order)))
    return [index for number, index in enumerate(order) if number < least or priorities[index] >= DOUBTFUL]


def _difference(first: BoolArray, second: BoolArray) -> float:
    """1 - Dice of two masks of one slice; 0 if both are empty."""
    total = np.count_nonzero(first) + np.count_nonzero(second)
    return 1.0 - 2.0 * np.count_nonzero(first & second) / total if total else 0.0


def _change_along(mask: BoolArray, change: NDArray[np.float32], pixel_mm: float) -> float:
    """Mean change in a band along the border, as a share of a large one."""
    band = np.abs(signed_pixels_mm(mask, pixel_mm, BORDER_MM)) < BORDER_MM
    return float(np.minimum(change[band], LARGE_CHANGE).mean()) / LARGE_CHANGE if band.any() else 0.0


def _border_step(mask: BoolArray, hu: NDArray[np.float32], pixel_mm: float) -> float:
    """Absolute difference of the mean HU just inside and just outside the border."""
    from scipy import ndimage

    if not mask.any() or mask.all():
        return 0.0
    inside = ndimage.distance_transform_edt(mask) * pixel_mm
    outside = ndimage.distance_transform_edt(~mask) * pixel_mm
    inner, outer = (inside > 0) & (inside <= 3.0), (outside > 0) & (outside <= 3.0)
    return abs(float(hu[inner].mean()) - float(hu[outer].mean()))
