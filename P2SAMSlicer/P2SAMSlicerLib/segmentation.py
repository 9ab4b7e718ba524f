"""Paper mode: one reference image with its mask, one target image, one mask; as the authors' released code does it.

Paper section 3.2 and appendix C. Clinical mode lives elsewhere and reuses the functions that are called here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.features import cell_features, logits_to_feature_grid
from P2SAMSlicerLib.models.guided import GuidedModel, as_guided
from P2SAMSlicerLib.models.protocol import Decoded, PromptableModel, PromptSet
from P2SAMSlicerLib.prompts import (
    Reference,
    natural_negative_point,
    negative_points,
    positive_points,
    similarity_maps,
    target_attention,
)
from P2SAMSlicerLib.result import Candidate, ImageResult
from P2SAMSlicerLib.retrieval import MAX_POINTS, RETRIEVALS, Retrieval, distribution_distance, select
from P2SAMSlicerLib.volume import BoolArray

if TYPE_CHECKING:
    import torch

#: Candidates that go through the cascade together; bounds memory in wide searches.
CASCADE_BATCH = 32


@dataclass(frozen=True)
class PaperOptions:
    """What paper mode searches and how it chooses.

    :param positive: smallest and largest number of positive points (lesion parts), both included; at least 1.
    :param negative: smallest and largest number of negative points (background parts), both included; 0 is allowed.
        Not used on natural images.
    :param retrieval: distribution distance.
    :param natural: natural images: one negative point where the target is least similar, PerSAM's guidance in the first decode,
        and the best of three masks in the second and third.
    :param seed: of k-means and of the subsample of large feature sets.
    :param max_points: feature cells beyond which the Wasserstein distance is taken on a sample; None never samples.
    """

    positive: tuple[int, int] = (1, 2)
    negative: tuple[int, int] = (45, 45)
    retrieval: Retrieval = "wasserstein"
    natural: bool = False
    seed: int = 0
    max_points: int | None = MAX_POINTS

    def check(self) -> None:
        """Refuse options that mean nothing.

        :raises InputError: a range is reversed or too small, or the retrieval is unknown.
        """
        for name, (low, high), least in (("positive", self.positive, 1), ("negative", self.negative, 0)):
            if not least <= low <= high:
                raise InputError(f"{name}: {low}..{high} is not a range of at least {least}")
        if self.retrieval not in RETRIEVALS:
            raise InputError(f"retrieval: '{self.retrieval}' is not one of: {', '.join(RETRIEVALS)}")
        if self.max_points is not None and self.max_points < 1:
            raise InputError(f"max_points: {self.max_points} is not at least 1")


#: The search ranges of appendix C, table 10: 4D-Lung with the un-adapted and the adapted SAM; and PerSeg (table 9).
PRESETS: Mapping[str, PaperOptions] = MappingProxyType(
    {
        "ct_unadapted": PaperOptions(positive=(1, 2), negative=(45, 45)),
        "ct_adapted": PaperOptions(positive=(1, 3), negative=(1, 1)),
        "natural": PaperOptions(positive=(1, 5), natural=True),
    }
)


@dataclass(frozen=True)
class PointPrompts:
    """The points of one candidate.

    :param origin: numbers of parts they come from, for people.
    :param points: ``(n, 2)`` as ``(x, y)`` in pixels, positive ones first.
    :param labels: ``(n,)``, 1 positive and 0 negative.
    :param attention: PerSAM's attention ``(h * w,)`` on natural images, else None.
    """

    origin: str
    points: NDArray[np.float32]
    labels: NDArray[np.int64]
    attention: torch.Tensor | None = None


@dataclass(frozen=True)
class _Answer:
    """The end of one cascade: final low-resolution logits ``(1, 4h, 4w)``, mask, the box of the last step, predicted IoU."""

    logits: torch.Tensor
    mask: BoolArray
    box: NDArray[np.float32] | None
    predicted_iou: float


def segment_image(
    model: PromptableModel,
    reference_image: NDArray[np.uint8],
    reference_mask: BoolArray,
    target_image: NDArray[np.uint8],
    options: PaperOptions = PRESETS["ct_unadapted"],
) -> ImageResult:
    """Find in one image what a mask shows in another.

    A lesion below one feature cell is represented by the cell that holds most of it (see
    :func:`~P2SAMSlicerLib.features.mask_to_feature_grid`).

    :param model: encodes and decodes.
    :param reference_image: ``(H, W, 3)`` uint8 RGB.
    :param reference_mask: True inside, bool ``(H, W)`` of the reference image.
    :param target_image: ``(H', W', 3)`` uint8 RGB.
    :param options: search and choice; see :data:`PRESETS`.
    :returns: all candidates and the chosen one; masks and points lie on the target image.
    :raises InputError: an image is not uint8 RGB, the mask is not bool, is empty or of another size than its image, it leaves
        no background for negative points, or the options mean nothing.
    :raises ModelError: natural images with a model whose decoder cannot be guided.
    """
    options.check()
    _check_image("reference image", reference_image)
    _check_mask(reference_mask, reference_image)
    _check_image("target image", target_image)
    if options.natural:
        as_guided(model)
    reference = Reference.from_image(model, reference_image, reference_mask, options.seed)
    return segment_with_reference(model, reference, target_image, options)


def segment_with_reference(
    model: PromptableModel, reference: Reference, target_image: NDArray[np.uint8], options: PaperOptions
) -> ImageResult:
    """As :func:`segment_image`, with a reference that was encoded and clustered before.

    :param reference: of the same model; its own seed counts for k-means.
    :raises InputError: the image is not uint8 RGB, the options mean nothing, or the reference has no background.
    :raises ModelError: natural images with a model whose decoder cannot be guided.
    """
    import torch

    options.check()
    _check_image("target image", target_image)
    guided = as_guided(model) if options.natural else None
    image_size = (target_image.shape[0], target_image.shape[1])
    with torch.inference_mode():
        features = model.encode([target_image])
        prompts = list(point_prompts(model, reference, features[0], image_size, options))
        candidates: list[Candidate] = []
        for start in range(0, len(prompts), CASCADE_BATCH):
            batch = prompts[start : start + CASCADE_BATCH]
            if guided is None:
                answers = _cascade(model, features, batch, image_size)
            else:
                answers = _natural_cascade(model, guided, features, batch, image_size, reference.mean)
            candidates += _candidates(batch, answers, features, reference, options)
    return ImageResult(candidates=tuple(candidates), chosen=select([candidate.distance for candidate in candidates]))


def point_prompts(
    model: PromptableModel,
    reference: Reference,
    target_features: torch.Tensor,
    image_size: tuple[int, int],
    options: PaperOptions,
) -> Iterator[PointPrompts]:
    """All prompt sets of the search: for each number of lesion parts, each number of background parts.

    Numbers beyond the distinct features of the reference are not tried twice.

    :param reference: parts are taken from it.
    :param target_features: ``(C, h, w)``.
    :param image_size: ``(H, W)`` of the target image.
    :param options: ranges; natural images have one negative point for each number of lesion parts.
    """
    negatives = {} if options.natural else _negative_prompts(model, reference, target_features, image_size, options)
    for n_positive in _counts(options.positive, reference.distinct_foreground):
        maps = similarity_maps(reference.positive_parts(n_positive), target_features, model, image_size)
        positive = positive_points(maps)
        if options.natural:
            attention = target_attention(maps, (target_features.shape[1], target_features.shape[2]))
            yield _joined(f"parts {n_positive}, least similar", positive, natural_negative_point(maps), attention)
        for n_negative, negative in negatives.items():
            yield _joined(f"parts {n_positive}, background {n_negative}", positive, negative)


def _negative_prompts(
    model: PromptableModel,
    reference: Reference,
    target_features: torch.Tensor,
    image_size: tuple[int, int],
    options: PaperOptions,
) -> dict[int, NDArray[np.float32]]:
    """Negative points for each number of background parts; they do not depend on the positive ones."""
    points: dict[int, NDArray[np.float32]] = {}
    # With no background at all, the count stays at 1 or more, and the reference says what is wrong.
    available = max(1, reference.distinct_background) if options.negative[1] else 0
    for n_negative in _counts(options.negative, available):
        if n_negative:
            maps = similarity_maps(reference.negative_parts(n_negative), target_features, model, image_size)
            points[n_negative] = negative_points(maps)
        else:
            points[0] = np.zeros((0, 2), dtype=np.float32)
    return points


def _counts(limits: tuple[int, int], available: int) -> list[int]:
    """The numbers of a closed range, none above ``available``, each once."""
    return list(dict.fromkeys(min(count, available) for count in range(limits[0], limits[1] + 1)))


def _joined(
    origin: str, positive: NDArray[np.float32], negative: NDArray[np.float32], attention: torch.Tensor | None = None
) -> PointPrompts:
    labels = np.repeat(np.array([1, 0], dtype=np.int64), [len(positive), len(negative)])
    return PointPrompts(origin, np.concatenate([positive, negative]), labels, attention)


def _cascade(
    model: PromptableModel, features: torch.Tensor, prompts: Sequence[PointPrompts], image_size: tuple[int, int]
) -> list[_Answer]:
    """Three decodes on CT: points; points and logits; points, logits and box."""
    first = model.decode(features, [PromptSet(prompt.points, prompt.labels) for prompt in prompts], image_size)
    return _refine(model, features, prompts, image_size, first, multimask=False)


def _natural_cascade(
    model: PromptableModel,
    guided: GuidedModel,
    features: torch.Tensor,
    prompts: Sequence[PointPrompts],
    image_size: tuple[int, int],
    target_embedding: NDArray[np.float32],
) -> list[_Answer]:
    """Three decodes on natural images: the first is guided, the others take the best of three masks."""
    import torch

    attention = torch.stack([prompt.attention for prompt in prompts if prompt.attention is not None])
    sets = [PromptSet(prompt.points, prompt.labels) for prompt in prompts]
    first = guided.decode_guided(features, sets, image_size, attention, torch.from_numpy(target_embedding))
    return _refine(model, features, prompts, image_size, first, multimask=True)


def _refine(
    model: PromptableModel,
    features: torch.Tensor,
    prompts: Sequence[PointPrompts],
    image_size: tuple[int, int],
    first: Decoded,
    *,
    multimask: bool,
) -> list[_Answer]:
    """The second and third decode."""
    logits, _ = _best_masks(first)
    sets = [PromptSet(p.points, p.labels, mask_logits=own) for p, own in zip(prompts, logits, strict=True)]
    logits, _ = _best_masks(model.decode(features, sets, image_size, multimask=multimask))
    boxes = [mask_box(mask) for mask in _masks(model, logits, image_size)]
    sets = [PromptSet(p.points, p.labels, box=box, mask_logits=own) for p, box, own in zip(prompts, boxes, logits, strict=True)]
    logits, predicted_iou = _best_masks(model.decode(features, sets, image_size, multimask=multimask))
    masks = _masks(model, logits, image_size)
    return [
        _Answer(own, mask, box, float(iou)) for own, mask, box, iou in zip(logits, masks, boxes, predicted_iou, strict=True)
    ]


def mask_box(mask: BoolArray) -> NDArray[np.float32] | None:
    """The box ``(x0, y0, x1, y1)`` of a mask ``(H, W)``: its outermost pixels' own indices; None if the mask is empty."""
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return None
    return np.array([columns.min(), rows.min(), columns.max(), rows.max()], dtype=np.float32)


def _best_masks(decoded: Decoded) -> tuple[torch.Tensor, torch.Tensor]:
    """For each prompt set the logits ``(n, 1, 4h, 4w)`` of the best predicted IoU (the first of equals), and that IoU."""
    import torch

    best = decoded.predicted_iou.argmax(dim=1)
    rows = torch.arange(len(best), device=best.device)
    return decoded.logits[rows, best][:, None], decoded.predicted_iou[rows, best]


def _masks(model: PromptableModel, logits: torch.Tensor, image_size: tuple[int, int]) -> BoolArray:
    """Masks ``(n, H, W)`` of low-resolution logits ``(n, 1, 4h, 4w)``."""
    return np.asarray((model.upscale(logits, image_size)[:, 0] > 0.0).cpu().numpy(), dtype=np.bool_)


def _candidates(
    prompts: Sequence[PointPrompts],
    answers: Sequence[_Answer],
    features: torch.Tensor,
    reference: Reference,
    options: PaperOptions,
) -> Iterator[Candidate]:
    """Candidates with their distances; the distance is the score."""
    for prompt, answer in zip(prompts, answers, strict=True):
        cells = logits_to_feature_grid(answer.logits[None], (features.shape[2], features.shape[3]))[0]
        target = cell_features(features[0], cells)
        distance = distribution_distance(
            options.retrieval, reference.foreground, target, seed=options.seed, max_points=options.max_points
        )
        yield Candidate(
            origin=prompt.origin,
            mask=answer.mask,
            points=prompt.points,
            labels=prompt.labels,
            box=answer.box,
            distance=distance,
            score=distance,
            predicted_iou=answer.predicted_iou,
        )


def _check_image(name: str, image: Any) -> None:
    if not isinstance(image, np.ndarray):
        raise InputError(f"{name}: not an array but {type(image).__name__}")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise InputError(f"{name}: not uint8 RGB of shape (H, W, 3), but {image.dtype} of shape {image.shape}")


def _check_mask(mask: Any, image: NDArray[np.uint8]) -> None:
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
        raise InputError(f"reference mask: not bool, but {getattr(mask, 'dtype', type(mask).__name__)}")
    if mask.shape != image.shape[:2]:
        raise InputError(f"reference mask: its shape {mask.shape} is not its image's {image.shape[:2]}")
    if not mask.any():
        raise InputError("reference mask: it is empty")
