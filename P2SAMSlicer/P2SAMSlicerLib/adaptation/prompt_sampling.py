"""Prompts that training draws: the paper's (nothing, a point, a noisy box, points on errors) and this product's.

The product prompts with parts and background points, with boxes of the expected contour, and with that contour as a
low-resolution mask. The contour comes from a registration, so in training it is the truth as a registration might have left
it: shifted, scaled, with tissue that the treatment took away, or without what has grown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.adaptation.examples import Example
from P2SAMSlicerLib.candidates import NEGATIVE_CLEARANCE_MM, bounding_box, mask_prompt
from P2SAMSlicerLib.expected import signed_pixels_mm
from P2SAMSlicerLib.volume import BoolArray

Kind = Literal["nothing", "point", "noisy box", "parts", "parts + box", "contour + box", "contour + parts"]
KINDS: tuple[Kind, ...] = get_args(Kind)
#: How often each kind starts a training step.
SHARES: dict[Kind, float] = {
    "nothing": 0.04,
    "point": 0.08,
    "noisy box": 0.2,
    "parts": 0.2,
    "parts + box": 0.13,
    "contour + box": 0.25,
    "contour + parts": 0.1,
}
#: Noise of a noisy box: standard deviation as a share of its sides, and its limit in pixels (appendix B).
BOX_NOISE, BOX_NOISE_LIMIT = 0.1, 20.0
#: Numbers of parts and of background points that the product tries.
PARTS = (1, 2, 3, 4, 5)
NEGATIVES = (0, 1, 2, 4, 8, 16, 45)
#: What a registration leaves: standard deviations of shift (mm) and of the logarithm of size; roughness of the border in mm.
SHIFT_MM, LOG_SIZE, ROUGHNESS_MM = 2.0, 0.06, 1.5
#: Chance that a part's point lies beside the lesion, and within how many mm: the product's matching errs so far at times.
MISPLACED, MISPLACED_MM = 0.1, 12.0
#: How far tissue that receded, or grew, reaches beyond the true border, in mm.
CHANGE_MM = (3.0, 14.0)


@dataclass(frozen=True)
class PromptBatch:
    """Prompts of one structure for a batch of examples.

    :param points: ``(B, n, 2)`` as ``(x, y)`` pixels, or None.
    :param labels: ``(B, n)``.
    :param boxes: ``(B, 4)``, or None.
    :param masks: low-resolution logits ``(B, 1, s, s)``, or None.
    """

    points: NDArray[np.float32] | None = None
    labels: NDArray[np.int64] | None = None
    boxes: NDArray[np.float32] | None = None
    masks: NDArray[np.float32] | None = None


def draw_kind(rng: np.random.Generator) -> Kind:
    """What a training step starts with."""
    shares = np.array([SHARES[kind] for kind in KINDS])
    return KINDS[int(rng.choice(len(KINDS), p=shares / shares.sum()))]


def draw_prompts(kind: Kind, examples: Sequence[Example], rng: np.random.Generator) -> PromptBatch:
    """Prompts of one kind for examples; a slice without lesion gets those of its nearest slice that has one."""
    parts, negatives = int(rng.choice(PARTS)), int(rng.choice(NEGATIVES))
    return make_prompts(kind, examples, parts, negatives, rng)


def make_prompts(kind: Kind, examples: Sequence[Example], parts: int, negatives: int, rng: np.random.Generator) -> PromptBatch:
    """Prompts of one kind.

    :param parts: number of positive points, where the kind has parts.
    :param negatives: number of background points, where the kind has parts.
    """
    if kind == "nothing":
        return PromptBatch()
    if kind == "point":
        return _points(examples, 1, 0, rng)
    if kind == "noisy box":
        return PromptBatch(boxes=np.stack([_noisy(bounding_box(_lesion(e)), e.truth.shape[0], rng) for e in examples]))
    carried = [carried_contour(_lesion(e), e.pixel_mm, rng) for e in examples]
    boxes = np.stack([bounding_box(c) for c in carried])
    if kind == "contour + box":
        return PromptBatch(boxes=boxes, masks=_masks(carried, examples))
    points = _points(examples, parts, negatives, rng)
    if kind == "contour + parts":
        return PromptBatch(points.points, points.labels, masks=_masks(carried, examples))
    return PromptBatch(points.points, points.labels, boxes if kind == "parts + box" else None)


def error_points(answer: BoolArray, truth: BoolArray, rng: np.random.Generator) -> tuple[NDArray[np.float32], int]:
    """One point on what an answer has wrong, ``(x, y)``, and its label; anywhere if nothing is wrong."""
    from scipy import ndimage

    wrong = answer != truth
    # Not on the very border, where a person would not click.
    core = ndimage.binary_erosion(wrong)
    y, x = _pick(core if core.any() else wrong if wrong.any() else np.ones_like(wrong), rng)
    return np.array([x, y], dtype=np.float32), int(truth[y, x])


def carried_contour(truth: BoolArray, pixel_mm: float, rng: np.random.Generator) -> BoolArray:
    """A contour that lies as a registered prior contour may lie beside the truth; never empty.

    :param truth: not empty.
    """
    from scipy import ndimage

    limit = 40.0
    prior: NDArray[Any] = signed_pixels_mm(truth, pixel_mm, limit)
    reach, way = rng.uniform(*CHANGE_MM), rng.normal(size=2)
    way *= reach / np.linalg.norm(way) / pixel_mm
    change = rng.choice(["stable", "shrank", "receded", "grew", "grew aside"], p=[0.35, 0.2, 0.2, 0.15, 0.1])
    moved = ndimage.shift(prior, way, order=1, cval=-limit)
    if change == "shrank":
        prior = prior + reach / 2
    elif change == "receded":  # tissue on one side was tumour before
        prior = np.maximum(prior, moved)
    elif change == "grew":
        prior = prior - min(reach / 2, 0.5 * float(prior.max()))
    elif change == "grew aside":
        prior = np.minimum(prior, np.maximum(moved, prior - reach))
    rough = ndimage.gaussian_filter(rng.standard_normal(truth.shape), 8.0 / pixel_mm)
    prior = prior + ROUGHNESS_MM * rough / max(float(rough.std()), 1e-6)
    matrix = np.eye(2) / np.exp(rng.normal(0, LOG_SIZE))
    centre = np.argwhere(truth).mean(axis=0)
    offset = centre - matrix @ (centre + rng.normal(0, SHIFT_MM, 2) / pixel_mm)
    carried: BoolArray = ndimage.affine_transform(prior, matrix, offset, order=1, cval=-limit) > 0
    return carried if carried.any() else truth


def _lesion(example: Example) -> BoolArray:
    return example.truth if example.truth.any() else example.nearest


def _masks(contours: Sequence[BoolArray], examples: Sequence[Example]) -> NDArray[np.float32]:
    return np.stack([mask_prompt(signed_pixels_mm(c, e.pixel_mm, 40.0))[None] for c, e in zip(contours, examples, strict=True)])


def _noisy(box: NDArray[np.float32], size: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """The box with noise, kept inside the image like every box of the product."""
    sides = np.tile(box[2:] - box[:2], 2)
    noise = np.clip(rng.normal(0, BOX_NOISE, 4) * sides, -BOX_NOISE_LIMIT, BOX_NOISE_LIMIT)
    return np.asarray(np.clip(box + noise, 0, size - 1), dtype=np.float32)


def _points(examples: Sequence[Example], positives: int, negatives: int, rng: np.random.Generator) -> PromptBatch:
    from scipy import ndimage

    points = []
    for example in examples:
        lesion = _lesion(example)
        core = ndimage.binary_erosion(lesion, iterations=2)
        beyond_mm = ndimage.distance_transform_edt(~lesion) * example.pixel_mm
        beside = ~lesion & (beyond_mm < MISPLACED_MM)
        misplaced = [positives > 1 and beside.any() and rng.random() < MISPLACED for _ in range(positives)]
        inside = [_pick(beside if wrong else core if core.any() else lesion, rng) for wrong in misplaced]
        away = beyond_mm > NEGATIVE_CLEARANCE_MM
        outside = [_pick(away if away.any() else ~lesion, rng) for _ in range(negatives)]
        points.append([(x, y) for y, x in inside + outside])
    labels = np.tile(np.repeat([1, 0], [positives, negatives]), (len(examples), 1)).astype(np.int64)
    return PromptBatch(np.array(points, dtype=np.float32).reshape(len(examples), -1, 2), labels)


def _pick(mask: BoolArray, rng: np.random.Generator) -> tuple[int, int]:
    found = np.flatnonzero(mask)
    row, column = np.unravel_index(int(found[rng.integers(len(found))]), mask.shape)
    return int(row), int(column)
