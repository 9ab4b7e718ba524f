"""Clinical mode on one lesion: region of interest, expected contour, candidates on every slice, the choice along the lesion."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib import choice, contour, review
from P2SAMSlicerLib.candidates import REGISTERED, WITHOUT_MODEL, Proposal, SliceView, propose
from P2SAMSlicerLib.change import DEFORMABLE_TOLERANCE_MM, TOLERANCE_MM, VisitChange, compare_visits
from P2SAMSlicerLib.evidence import LesionEvidence, cells_of_slice
from P2SAMSlicerLib.expected import expected_contour, signed_pixels_mm
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.intensity import GreyScale, Window, to_rgb
from P2SAMSlicerLib.models.allocator import return_freed_memory
from P2SAMSlicerLib.models.protocol import PromptableModel
from P2SAMSlicerLib.options import PropagationOptions
from P2SAMSlicerLib.prior_features import channels_last, prior_features
from P2SAMSlicerLib.region import Region, region_around
from P2SAMSlicerLib.result import Candidate
from P2SAMSlicerLib.thin_parts import thinness_of, without_thin_parts
from P2SAMSlicerLib.volume import BoolArray, Volume

if TYPE_CHECKING:
    import SimpleITK as sitk

#: Side of the sampled region in pixels. It resolves what a CT voxel shows; models with a larger input enlarge it themselves.
REGION_PIXELS = 256
#: Slices beyond the carried contour's ends that are looked at, as length: a lesion may have grown there.
BEYOND_ENDS_MM = 9.0
#: A lesion whose largest slice covers fewer feature cells than this is too small for the model to see a shape.
TOO_SMALL_CELLS = 9.0
#: Change of a lesion's centre, as a multiple of what is usual without one, from which on a person has to look. On simulated
#: visits without necrosis it stays below 0.3.
CHANGED_CENTRE = 1.5
#: Distances to the expected contour are told apart up to here, in mm.
EXPECTED_REACH_MM = 12.0
#: Beyond the region's window nothing is near, in mm.
FAR_MM = -1000.0
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
    :param change: of the visits, as :func:`P2SAMSlicerLib.review.change_to_record` has it; None if they were not compared.
    """

    index: int
    candidates: tuple[Candidate, ...]
    chosen: int | None
    signals: dict[str, float]
    change: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class LesionContour:
    """What clinical mode found for one lesion.

    :param mask: on the follow-up's canonical grid; all False where the lesion was not found.
    :param slices: ascending without gaps; empty if the lesion is too small for the model.
    :param too_small: the model was not asked.
    :param doubts: what the comparison of the visits says against the contour, in words.
    :param greys: how the slices became the images that the model saw; None if it was not asked.
    :param removals: what was taken away from the assembled slices, in words with its volume.
    """

    mask: BoolArray
    slices: tuple[LesionSlice, ...]
    too_small: bool = False
    doubts: tuple[str, ...] = ()
    greys: GreyScale | None = None
    removals: tuple[str, ...] = ()


@dataclass(frozen=True)
class Lesion:
    """One lesion on both visits, all in canonical order and the working frame.

    :param prior: prior CT.
    :param mask: the lesion on the prior's grid.
    :param followup: follow-up CT.
    :param distance_mm: signed distance to the carried contour on the follow-up's grid, not negative somewhere.
    :param transform: follow-up to prior, which carried it.
    :param windows: windows of the prior's and of the follow-up's images.
    """

    prior: Volume
    mask: BoolArray
    followup: Volume
    distance_mm: NDArray[np.float32]
    transform: sitk.Transform
    windows: tuple[Window, Window]

    @property
    def carried(self) -> BoolArray:
        """The registered contour on the follow-up's grid."""
        inside: BoolArray = self.distance_mm >= 0
        return inside


@dataclass(frozen=True)
class _Views:
    """The looked-at slices on the region of interest: indices, HU, images, what the candidates see; doubts in words.

    ``changes`` are the strengths of the change between the visits; None where they were not compared.
    """

    region: Region
    indices: list[int]
    hu: list[NDArray[np.float32]]
    images: list[NDArray[np.uint8]]
    slices: list[SliceView]
    changes: list[NDArray[np.float32]] | None
    doubts: tuple[str, ...]
    greys: GreyScale


def segment_lesion(model: PromptableModel, lesion: Lesion, options: PropagationOptions, step: Step) -> LesionContour:
    """Find one lesion of the prior on the follow-up."""
    followup, distance_mm, carried = lesion.followup, lesion.distance_mm, lesion.carried
    region = region_around(carried, followup.grid, options.margin_mm, REGION_PIXELS)
    shown = [region.crop(plane, followup.grid, outside=FAR_MM) >= 0 for plane in distance_mm if (plane >= 0).any()]
    if largest_slice_cells(carried, followup, region, model) < TOO_SMALL_CELLS or not any(s.any() for s in shown):
        return LesionContour(np.zeros_like(carried), (), too_small=True)
    change = _compare(lesion, options)
    # Whole volumes until here, and from here on the encoder's activations.
    return_freed_memory(lesion.followup.array.size)
    learned = prior_features(model, lesion.prior, lesion.mask, lesion.windows[0], region.side, REGION_PIXELS, options.seed)
    evidence = LesionEvidence.learn(learned.lesion, learned.surroundings)
    views = _views(model, lesion, region, change, evidence, step)
    proposals = propose(
        model,
        views.slices,
        learned.reference,
        options.parts,
        options.negative_counts,
        options.plausible_mm,
        lambda done, total: step("decode", done, total),
    )
    scored, areas = _score(views, proposals, evidence, learned.reference.foreground, options, step)
    area = _typical(areas)
    chosen = choice.choose_sequence(scored, [choice.ABSENT_COST * expected / area for expected in areas])
    masks = [_chosen_mask(s, c) for s, c in zip(scored, chosen, strict=True)]
    # Where the registered contour was preferred to the expected one, as on a lesion that grew, it is not drawn back to it.
    stays = [c is not None and s[c].proposal.origin == REGISTERED for s, c in zip(scored, chosen, strict=True)]
    expected_mm = [view.expected_mm for view in views.slices]
    drawn = contour.assemble(masks, expected_mm, stays, views.indices, region, followup.grid)
    kept = [index for index, preferred in zip(views.indices, stays, strict=True) if preferred]
    mask = without_thin_parts(drawn, followup.grid, thinness_of(lesion.mask, lesion.prior.grid), kept)
    removed = _removed(drawn, mask, followup.grid)
    return LesionContour(mask, _slices(views, scored, chosen, masks), False, views.doubts, views.greys, removed)


def _removed(drawn: BoolArray, mask: BoolArray, grid: Grid) -> tuple[str, ...]:
    volume = float(np.count_nonzero(drawn & ~mask)) * grid.voxel_ml
    return (f"parts removed that are thinner than the prior's lesion: {volume:.2f} ml",) if volume else ()


def _compare(lesion: Lesion, options: PropagationOptions) -> VisitChange | None:
    if options.modality != "ct":
        return None  # a CBCT's values are no HU: its differences to a CT say nothing of the tissue
    tolerance = DEFORMABLE_TOLERANCE_MM if options.registration == "deformable" else TOLERANCE_MM
    return compare_visits(lesion.prior, lesion.followup, lesion.distance_mm, lesion.transform, tolerance)


def _score(
    views: _Views,
    proposals: list[list[Proposal]],
    evidence: LesionEvidence,
    foreground: NDArray[np.float32],
    options: PropagationOptions,
    step: Step,
) -> tuple[list[list[choice.Scored]], list[int]]:
    """The proposals of all slices with their scores, and the area of the expected contour on each slice."""
    spread = choice.own_spread(foreground, options.seed)
    areas = [int((view.expected_mm > 0).sum()) for view in views.slices]
    scored = []
    for row, (view, offered) in enumerate(zip(views.slices, proposals, strict=True)):
        limited = [_limited(p, view, options.plausible_mm) for p in offered]
        features = channels_last(view.features)
        gain = evidence.map(cells_of_slice(features, views.images[row][..., 0]), view.expected_mm)
        area = _typical(areas)
        scored.append(choice.score(limited, features, gain, foreground, spread, area, areas[row], options.seed))
        step("choose", row + 1, len(proposals))
    return scored, areas


def _typical(areas: list[int]) -> float:
    """Pixels of a typical slice; makes the scores of all slices comparable."""
    return float(np.median([a for a in areas if a]))


def largest_slice_cells(carried: BoolArray, followup: Volume, region: Region, model: PromptableModel) -> float:
    """Feature cells that the carried contour covers on its largest slice."""
    sx, sy, _ = followup.grid.spacing
    cell = region.side / model.card.feature_size
    return float(carried.sum(axis=(1, 2)).max() * sx * sy / cell**2)


def _views(
    model: PromptableModel,
    lesion: Lesion,
    region: Region,
    change: VisitChange | None,
    evidence: LesionEvidence,
    step: Step,
) -> _Views:
    """Encode the slices of the carried contour and a few beyond its ends."""
    grid = lesion.followup.grid
    present = np.flatnonzero(lesion.carried.any(axis=(1, 2)))
    beyond = int(np.ceil(BEYOND_ENDS_MM / grid.spacing[2]))
    indices = list(range(max(0, int(present[0]) - beyond), min(grid.shape[0], int(present[-1]) + beyond + 1)))
    hu = [region.crop(lesion.followup.array[z], grid) for z in indices]
    distances = [region.crop(lesion.distance_mm[z], grid, outside=FAR_MM) for z in indices]
    # Without the offset between the visits, the same tissue has the same grey as on the prior's images.
    greys = GreyScale(lesion.windows[1], float(np.float32(change.offset_hu if change else 0.0)))
    images = [greys.image(plane) for plane in hu]
    strengths = None if change is None else [region.crop(change.slice_strength(z), grid, outside=0.0) for z in indices]
    seen = (indices, images, distances, strengths)
    expected, doubts = _expected(lesion, region, change, evidence, model.card.feature_size, *seen)
    filled = [row for row, mask in enumerate(expected) if mask.any()]
    slices: list[SliceView] = []
    for start in range(0, len(indices), _ENCODE_BATCH):
        features = model.encode(images[start : start + _ENCODE_BATCH])
        for offset_row in range(features.shape[0]):
            row = start + offset_row
            nearest = min(filled, key=lambda other: (abs(other - row), other))
            expected_mm = _expected_mm(expected[row], distances[row], region.pixel_mm)
            slices.append(SliceView(features[offset_row], distances[row], expected_mm, expected[nearest]))
        step("encode", min(start + _ENCODE_BATCH, len(indices)), len(indices))
    return _Views(region, indices, hu, images, slices, strengths, doubts, greys)


def _expected_mm(expected: BoolArray, distance_mm: NDArray[np.float32], pixel_mm: float) -> NDArray[np.float32]:
    """Signed distance to the expected contour: in the slice, and beyond the registered contour's ends along the lesion."""
    if not expected.any() and not (distance_mm >= 0).any():
        return np.clip(distance_mm, -EXPECTED_REACH_MM, EXPECTED_REACH_MM)
    return signed_pixels_mm(expected, pixel_mm, EXPECTED_REACH_MM)


def _expected(
    lesion: Lesion,
    region: Region,
    change: VisitChange | None,
    evidence: LesionEvidence,
    cells: int,
    indices: list[int],
    images: list[NDArray[np.uint8]],
    distances: list[NDArray[np.float32]],
    strengths: list[NDArray[np.float32]] | None,
) -> tuple[list[BoolArray], tuple[str, ...]]:
    """The expected contour of every slice, and doubts: the registered contour stands in where it cannot be made."""
    registered: list[BoolArray] = [distance >= 0 for distance in distances]
    if change is None or strengths is None:
        return registered, ()
    grid, expected = lesion.followup.grid, []
    for z, image, distance, strength in zip(indices, images, distances, strengths, strict=True):
        before = to_rgb(region.crop(change.slice_prior(z), grid), lesion.windows[0])
        towards = evidence.hu_map(image[..., 0], cells) - evidence.hu_map(before[..., 0], cells)
        expected.append(expected_contour(distance, strength, towards, region.pixel_mm))
    doubts = []
    if change.centre_strength > CHANGED_CENTRE:
        doubts.append(
            f"its centre changed by {change.centre_hu:+.0f} HU since the prior: necrosis, another contrast phase, or other"
            " tissue in the tumour's place"
        )
    if any(mask.any() for mask in expected):
        return expected, tuple(doubts)
    return registered, (*doubts, "nothing inside the registered contour looks as on the prior: the lesion may be gone")


def _limited(proposal: Proposal, view: SliceView, plausible_mm: float) -> Proposal:
    """A candidate without what lies implausibly far from the carried contour (the other leg's muscle, a vessel)."""
    if proposal.origin in WITHOUT_MODEL:
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
        best, change = chosen[row], None if views.changes is None else views.changes[row]
        signals = review.slice_signals(
            masks[row],
            [s.proposal for s in scored[row]],
            neighbours,
            views.slices[row].distance_mm >= 0,
            views.hu[row],
            views.region.pixel_mm,
            change,
        )
        recorded = None if change is None else review.change_to_record(change)
        result.append(LesionSlice(index, tuple(_candidate(s) for s in scored[row]), best, signals, recorded))
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
