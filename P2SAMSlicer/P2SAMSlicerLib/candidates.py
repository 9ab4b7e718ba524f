"""The candidates of one slice in clinical mode: registered and expected contour, boxes, parts, parts + box, decoded in batches.

A model that was trained with boxes only (LiteMedSAM) fails with points alone, so for such a model points always come with
the box; the result says so. Boxes of several sizes let a lesion shrink or grow, and a box that the mask fills to its edge
is widened where it does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.models.protocol import PromptableModel, PromptSet
from P2SAMSlicerLib.prompts import Reference, negative_points, positive_points, similarity_maps
from P2SAMSlicerLib.volume import BoolArray

if TYPE_CHECKING:
    import torch

#: Sizes of the box relative to the expected contour's.
BOX_SCALES = (0.7, 0.85, 1.0, 1.1, 1.25)
UNUSUAL_BOXES = ("box x0.7", "box x1.25")
#: Share of a box side that the mask must fill for that side to move out, how far it moves, and how often.
TOUCHING_SHARE = 0.15
WIDEN_SHARE = 0.2
WIDEN_ROUNDS = 1
#: Negative points keep this far from the carried contour, so that a lesion that grew is not forbidden.
NEGATIVE_CLEARANCE_MM = 8.0

#: A contour as a mask prompt: its distance in units of this length (mm) are the logits, as far as they are told apart.
MASK_PROMPT_MM, MASK_PROMPT_LIMIT = 1.5, 6.0

REGISTERED = "registered contour"
EXPECTED = "expected contour"
#: The answer to the expected contour as a mask, with its box.
EXPECTED_MASK = "expected mask + box"
#: How the names of the answers to P2SAM's parts begin.
PARTS = "parts "
#: Candidates that no model made.
WITHOUT_MODEL = (REGISTERED, EXPECTED)
ABSENT = "no lesion on this slice"
#: Prompt sets for which the features are laid together, 4 MB each; on an accelerator more of them are faster.
DECODE_BATCH, DECODE_BATCH_ACCELERATED = 16, 64


@dataclass(frozen=True)
class SliceView:
    """One follow-up slice as the candidates see it.

    :param features: encoder features ``(C, h, w)``.
    :param distance_mm: signed distance to the carried contour ``(H, W)``, positive inside.
    :param expected_mm: signed distance to the expected contour ``(H, W)``, positive inside, see
        :mod:`P2SAMSlicerLib.expected`.
    :param box_source: contour whose bounding box is prompted: the expected contour of this slice, or, beyond the ends, of
        the nearest slice that has one.
    """

    features: torch.Tensor
    distance_mm: NDArray[np.float32]
    expected_mm: NDArray[np.float32]
    box_source: BoolArray


@dataclass(frozen=True)
class Proposal:
    """A prompt, and the mask that the model answered with (or one of :data:`WITHOUT_MODEL`, which no model made).

    :param origin: name of the candidate, the same for like candidates of all slices.
    :param logits: at the region's resolution ``(H, W)``; inside where positive.
    """

    origin: str
    prompt: PromptSet
    logits: NDArray[np.float32]
    predicted_iou: float

    @property
    def mask(self) -> BoolArray:
        """True inside."""
        inside: BoolArray = self.logits > 0
        return inside


def bounding_box(mask: BoolArray, scale: float = 1.0) -> NDArray[np.float32]:
    """``(x0, y0, x1, y1)`` of a mask's pixels, scaled about its centre and kept inside the image."""
    rows, columns = np.nonzero(mask)
    low = np.array([columns.min(), rows.min()], dtype=np.float32)
    high = np.array([columns.max(), rows.max()], dtype=np.float32)
    centre, half = (low + high) / 2, (high - low) / 2 + 0.5
    box = np.concatenate([centre - half * scale, centre + half * scale]).astype(np.float32)
    return np.asarray(np.clip(box, 0, mask.shape[0] - 1), dtype=np.float32)


def mask_prompt(distance_mm: NDArray[np.float32]) -> NDArray[np.float32]:
    """A contour as low-resolution logits, which a model may be prompted with; the region of interest has their resolution.

    :param distance_mm: signed distance to the contour in the slice ``(H, W)``, positive inside.
    """
    logits: NDArray[np.float32] = np.clip(distance_mm / MASK_PROMPT_MM, -MASK_PROMPT_LIMIT, MASK_PROMPT_LIMIT)
    return logits.astype(np.float32)


def propose(
    model: PromptableModel,
    slices: Sequence[SliceView],
    reference: Reference,
    max_parts: int,
    negatives: Sequence[int],
    plausible_mm: float,
    step: Callable[[int, int], None] = lambda _done, _total: None,
) -> list[list[Proposal]]:
    """All candidates of all slices.

    :param max_parts: largest number of parts N; 1..N are tried.
    :param negatives: numbers of background points to try with each.
    :param plausible_mm: positive points lie at most this far outside the carried contour.
    :param step: called with the prompts decoded so far and in all.
    :returns: for each slice its proposals, the registered and the expected contour first.
    """
    jobs: list[tuple[int, str, PromptSet]] = []
    for row, view in enumerate(slices):
        jobs += [(row, f"box x{scale:g}", PromptSet(box=bounding_box(view.box_source, scale))) for scale in BOX_SCALES]
        points = _point_prompts(model, view, reference, max_parts, negatives, plausible_mm)
        jobs += [(row, *named) for named in points]
        if "mask" in model.card.trained_prompts:
            jobs += [(row, *named) for named in _mask_prompts(model, view, points)]
    decoded = _decode(model, slices, jobs, step)
    widened = _widen(model, slices, [p for p in decoded if p[1].origin == "box x1"])
    result = [
        [_contour(REGISTERED, _inside_at_zero(view.distance_mm)), _contour(EXPECTED, view.expected_mm)] for view in slices
    ]
    for row, proposal in decoded + widened:
        result[row].append(proposal)
    return result


def _contour(origin: str, distance_mm: NDArray[np.float32]) -> Proposal:
    return Proposal(origin, PromptSet(), distance_mm, float("nan"))


def _inside_at_zero(distance_mm: NDArray[np.float32]) -> NDArray[np.float32]:
    """The registered contour's distance as logits: 0 is inside there, and outside where logits are concerned."""
    return np.where(distance_mm >= 0, np.maximum(distance_mm, np.float32(1e-3)), distance_mm)


def _point_prompts(
    model: PromptableModel,
    view: SliceView,
    reference: Reference,
    max_parts: int,
    negatives: Sequence[int],
    plausible_mm: float,
) -> list[tuple[str, PromptSet]]:
    size = view.distance_mm.shape
    near = view.distance_mm > -plausible_mm
    far = view.distance_mm < -NEGATIVE_CLEARANCE_MM
    if not near.any():
        near = view.box_source
    prompts = []
    box = bounding_box(view.box_source)
    for count in range(1, min(max_parts, reference.distinct_foreground) + 1):
        inside = positive_points(_maps(model, view, reference.positive_parts(count), size), near)
        for wanted in negatives:
            outside = np.zeros((0, 2), dtype=np.float32)
            if wanted and far.any() and len(reference.background):
                outside = negative_points(_maps(model, view, reference.negative_parts(wanted), size), far)
            points = np.concatenate([inside, outside])
            labels = np.repeat(np.array([1, 0], dtype=np.int64), [len(inside), len(outside)])
            name = f"{PARTS}{count}, negatives {wanted}"
            if "points" in model.card.trained_prompts:
                prompts.append((name, PromptSet(points, labels)))
            # With the expected contour as a mask, the box would tell nothing new.
            if not {"points", "mask"} <= set(model.card.trained_prompts):
                prompts.append((f"{name} + box", PromptSet(points, labels, box)))
    return prompts


def _mask_prompts(
    model: PromptableModel, view: SliceView, points: Sequence[tuple[str, PromptSet]]
) -> list[tuple[str, PromptSet]]:
    """The expected contour as a mask prompt, with its box, and with the points of every set that has no box."""
    import torch

    logits = torch.from_numpy(mask_prompt(view.expected_mm))[None]
    if logits.shape[-1] != 4 * model.card.feature_size:
        return []
    prompts = [(EXPECTED_MASK, PromptSet(box=bounding_box(view.box_source), mask_logits=logits))]
    for name, prompt in points:
        if prompt.box is None:
            prompts.append((f"{name} + expected mask", PromptSet(prompt.points, prompt.labels, mask_logits=logits)))
    return prompts


def _maps(model: PromptableModel, view: SliceView, parts: NDArray[np.float32], size: tuple[int, ...]) -> torch.Tensor:
    return similarity_maps(parts, view.features, model, (size[0], size[1]))


def _decode(
    model: PromptableModel,
    slices: Sequence[SliceView],
    jobs: Sequence[tuple[int, str, PromptSet]],
    step: Callable[[int, int], None],
) -> list[tuple[int, Proposal]]:
    """The jobs' answers, in the order of the jobs."""
    import torch

    if not jobs:
        return []
    size = slices[0].distance_mm.shape
    image_size = (size[0], size[1])
    answers: dict[int, tuple[int, Proposal]] = {}
    # Only prompt sets of one structure can be decoded together, and a slice has few of each.
    order = sorted(range(len(jobs)), key=lambda number: jobs[number][2].structure)
    batch = DECODE_BATCH if model.device.type == "cpu" else DECODE_BATCH_ACCELERATED
    for start in range(0, len(jobs), batch):
        numbers = order[start : start + batch]
        features = torch.stack([slices[jobs[number][0]].features for number in numbers])
        decoded = model.decode(features, [jobs[number][2] for number in numbers], image_size)
        logits = model.upscale(decoded.logits, image_size)[:, 0].float().cpu().numpy()
        iou = decoded.predicted_iou[:, 0].float().cpu().numpy()
        for number, answer, quality in zip(numbers, logits, iou, strict=True):
            row, origin, prompt = jobs[number]
            answers[number] = row, Proposal(origin, prompt, answer, float(quality))
        step(len(answers), len(jobs))
    return [answers[number] for number in range(len(jobs))]


def _widen(
    model: PromptableModel, slices: Sequence[SliceView], boxes: Sequence[tuple[int, Proposal]]
) -> list[tuple[int, Proposal]]:
    """Where a mask fills its box to the edge, the lesion may go on behind it: move those sides out and ask again."""
    found: dict[int, Proposal] = {}
    current = list(boxes)
    for _ in range(WIDEN_ROUNDS):
        jobs = []
        for row, proposal in current:
            wider = _wider_box(proposal)
            if wider is not None:
                jobs.append((row, "widened box", PromptSet(box=wider)))
        current = _decode(model, slices, jobs, lambda _done, _total: None)
        found.update(dict(current))
    return sorted(found.items(), key=lambda item: item[0])


def _wider_box(proposal: Proposal) -> NDArray[np.float32] | None:
    box = proposal.prompt.box
    if box is None or not proposal.mask.any():
        return None
    mask, pixels = proposal.mask, proposal.mask.shape[0]
    x0, y0, x1, y1 = (int(v) for v in np.round(box))
    rows, columns = mask[y0 : y1 + 1, x0 : x1 + 1].shape
    if min(rows, columns) < 3:
        return None
    inner = mask[y0 : y1 + 1, x0 : x1 + 1]
    touched = [inner[:, :2].any(1).mean(), inner[:2].any(0).mean(), inner[:, -2:].any(1).mean(), inner[-2:].any(0).mean()]
    moves = np.array([t > TOUCHING_SHARE for t in touched], dtype=np.float32)
    if not moves.any():
        return None
    reach = WIDEN_SHARE * np.array([columns, rows, columns, rows], dtype=np.float32)
    wider = box + moves * reach * np.array([-1, -1, 1, 1], dtype=np.float32)
    return np.asarray(np.clip(wider, 0, pixels - 1), dtype=np.float32)
