"""Clinical mode on one lesion: region of interest, candidates on every slice, the choice along the lesion."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib import choice, contour, review
from P2SAMSlicerLib.candidates import REGISTERED, Proposal, SliceView, propose
from P2SAMSlicerLib.evidence import LesionEvidence, cells_of_slice
from P2SAMSlicerLib.intensity import Window, to_rgb
from P2SAMSlicerLib.models.protocol import PromptableModel
from P2SAMSlicerLib.options import PropagationOptions
from P2SAMSlicerLib.prior_features import channels_last, prior_features
from P2SAMSlicerLib.region import Region, region_around
from P2SAMSlicerLib.result import Candidate
from P2SAMSlicerLib.volume import BoolArray, Volume

#: Side of the sampled region in pixels. It resolves what a CT voxel shows; models with a larger input enlarge it themselves.
REGION_PIXELS = 256
#: Slices beyond the carried contour's ends that are looked at, as length: a lesion may have grown there.
BEYOND_ENDS_MM = 9.0
#: A lesion whose largest slice covers fewer feature cells than this is too small for the model to see a shape.
TOO_SMALL_CELLS = 9.0
_ENCODE_BATCH = 4

#: (stage, done, total)
Step = Callable[[str, int, int], None]


@dataclass(frozen=True)
class LesionSlice:
    """One slice of one lesion in canonical order.

    :param index: canonical slice index of the follow-up.
    :param candidates: with masks on the region of interest.
    :param chosen: index into ``candidates``, or None where the lesion is absent.
    :param signals: independent signals for the review priority.
    """

    index: int
    candidates: tuple[Candidate, ...]
    chosen: int | None
    signals: dict[str, float]


@dataclass(frozen=True)
class LesionContour:
    """What clinical mode found for one lesion.

    :param mask: on the follow-up's canonical grid; all False where the lesion was not found.
    :param slices: ascending without gaps; empty if the lesion is too small for the model.
    :param too_small: the model was not asked.
    """

    mask: BoolArray
    slices: tuple[LesionSlice, ...]
    too_small: bool = False


@dataclass(frozen=True)
class _Views:
    region: Region
    indices: list[int]
    hu: list[NDArray[np.float32]]
    slices: list[SliceView]


def segment_lesion(
    model: PromptableModel,
    prior: Volume,
    lesion: BoolArray,
    followup: Volume,
    distance_mm: NDArray[np.float32],
    windows: tuple[Window, Window],
    options: PropagationOptions,
    step: Step,
) -> LesionContour:
    """Find one lesion of the prior on the follow-up.

    :param prior: in canonical order and the working frame.
    :param lesion: the lesion on the prior's grid.
    :param followup: in canonical order and the working frame.
    :param distance_mm: signed distance to the carried contour on the follow-up's grid, not negative somewhere.
    :param windows: windows of the prior's and of the follow-up's images.
    """
    carried = distance_mm >= 0
    region = region_around(carried, followup.grid, options.margin_mm, REGION_PIXELS)
    shown = [region.crop(plane, followup.grid, outside=-1000.0) >= 0 for plane in distance_mm if (plane >= 0).any()]
    if largest_slice_cells(carried, followup, region, model) < TOO_SMALL_CELLS or not any(s.any() for s in shown):
        return LesionContour(np.zeros_like(carried), (), too_small=True)
    views = _views(model, followup, distance_mm, carried, region, windows[1], step)
    learned = prior_features(model, prior, lesion, windows[0], region.side, REGION_PIXELS, options.seed)
    step("encode", len(views.indices) + 1, len(views.indices) + 1)
    proposals = propose(
        model,
        views.slices,
        learned.reference,
        options.parts,
        options.negative_counts,
        options.plausible_mm,
        lambda done, total: step("decode", done, total),
    )
    evidence = LesionEvidence.learn(learned.lesion, learned.surroundings)
    foreground = learned.reference.foreground
    spread = choice.own_spread(foreground, options.seed)
    areas = [int((view.distance_mm >= 0).sum()) for view in views.slices]
    area = float(np.median([a for a in areas if a]))
    scored = []
    for row, (view, offered) in enumerate(zip(views.slices, proposals, strict=True)):
        offered[:] = [_limited(p, view, options.plausible_mm) for p in offered]
        features = channels_last(view.features)
        gain = evidence.map(cells_of_slice(features, to_rgb(views.hu[row], windows[1])[..., 0]), view.distance_mm)
        scored.append(choice.score(offered, features, gain, foreground, spread, area, areas[row], options.seed))
        step("choose", row + 1, len(proposals))
    chosen = choice.choose_sequence(scored, [choice.ABSENT_COST * expected / area for expected in areas])
    masks = [_chosen_mask(s, c) for s, c in zip(scored, chosen, strict=True)]
    mask = contour.assemble(masks, [view.distance_mm for view in views.slices], views.indices, region, followup.grid)
    return LesionContour(mask, _slices(views, scored, chosen, masks))


def largest_slice_cells(carried: BoolArray, followup: Volume, region: Region, model: PromptableModel) -> float:
    """Feature cells that the carried contour covers on its largest slice."""
    sx, sy, _ = followup.grid.spacing
    cell = region.side / model.card.feature_size
    return float(carried.sum(axis=(1, 2)).max() * sx * sy / cell**2)


def _views(
    model: PromptableModel,
    followup: Volume,
    distance_mm: NDArray[np.float32],
    carried: BoolArray,
    region: Region,
    window: Window,
    step: Step,
) -> _Views:
    """Encode the slices of the carried contour and a few beyond its ends."""
    grid = followup.grid
    present = np.flatnonzero(carried.any(axis=(1, 2)))
    beyond = int(np.ceil(BEYOND_ENDS_MM / grid.spacing[2]))
    indices = list(range(max(0, int(present[0]) - beyond), min(grid.shape[0], int(present[-1]) + beyond + 1)))
    hu = [region.crop(followup.array[z], grid) for z in indices]
    distances = [region.crop(distance_mm[z], grid, outside=-1000.0) for z in indices]
    shown = [d >= 0 for d in distances]
    filled = [row for row, mask in enumerate(shown) if mask.any()]
    slices: list[SliceView] = []
    for start in range(0, len(indices), _ENCODE_BATCH):
        features = model.encode([to_rgb(plane, window) for plane in hu[start : start + _ENCODE_BATCH]])
        for offset in range(features.shape[0]):
            row = start + offset
            nearest = min(filled, key=lambda other: (abs(other - row), other))
            slices.append(SliceView(features[offset], distances[row], shown[nearest]))
        step("encode", min(start + _ENCODE_BATCH, len(indices)), len(indices) + 1)
    return _Views(region, indices, hu, slices)


def _limited(proposal: Proposal, view: SliceView, plausible_mm: float) -> Proposal:
    """A candidate without what lies implausibly far from the carried contour (the other leg's muscle, a vessel)."""
    if proposal.origin == REGISTERED:
        return proposal
    logits = np.where(view.distance_mm > -plausible_mm, proposal.logits, np.minimum(proposal.logits, -1.0))
    return Proposal(proposal.origin, proposal.prompt, logits.astype(np.float32), proposal.predicted_iou)


def _chosen_mask(scored: list[choice.Scored], chosen: int | None) -> BoolArray:
    mask = scored[0].proposal.mask
    return np.zeros_like(mask) if chosen is None else scored[chosen].proposal.mask


def _slices(
    views: _Views, scored: list[list[choice.Scored]], chosen: list[int | None], masks: list[BoolArray]
) -> tuple[LesionSlice, ...]:
    result = []
    for row, index in enumerate(views.indices):
        neighbours = [masks[other] for other in (row - 1, row + 1) if 0 <= other < len(masks)]
        best = chosen[row]
        signals = review.slice_signals(
            masks[row],
            float("nan") if best is None else scored[row][best].proposal.predicted_iou,
            [s.proposal for s in scored[row]],
            neighbours,
            views.slices[row].distance_mm >= 0,
            views.hu[row],
            views.region.pixel_mm,
        )
        result.append(LesionSlice(index, tuple(_candidate(s) for s in scored[row]), best, signals))
    return tuple(result)


def _candidate(scored: choice.Scored) -> Candidate:
    prompt = scored.proposal.prompt
    points = np.zeros((0, 2), dtype=np.float32) if prompt.points is None else prompt.points
    labels = np.zeros(0, dtype=np.int64) if prompt.labels is None else prompt.labels
    return Candidate(
        origin=scored.proposal.origin,
        mask=scored.proposal.mask,
        points=points,
        labels=labels,
        box=prompt.box,
        distance=scored.distance,
        score=scored.score,
        predicted_iou=scored.proposal.predicted_iou,
    )
