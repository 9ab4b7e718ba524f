"""One step of the paper's interactive training (appendix B): a first answer, then rounds of points on what it has wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from P2SAMSlicerLib.adaptation.decoding import decode_for_training
from P2SAMSlicerLib.adaptation.examples import Example
from P2SAMSlicerLib.adaptation.losses import distillation_loss, segmentation_loss
from P2SAMSlicerLib.adaptation.prompt_sampling import PromptBatch, draw_kind, draw_prompts, error_points

if TYPE_CHECKING:
    import torch

#: Chance of a round without a new point, in which the model only sees its own last answer.
MASK_ONLY = 1.0 / 9.0

#: The base's logits for prompts, or None where its answers are not to be kept.
BaseAnswer = Callable[[PromptBatch], "torch.Tensor"]


def interactive_step(
    network: Any,
    features: torch.Tensor,
    examples: Sequence[Example],
    iterations: int,
    point_scale: float,
    rng: np.random.Generator,
    base_answer: BaseAnswer | None = None,
    keep: float = 0.0,
    scale_loss: Callable[[torch.Tensor], torch.Tensor] = lambda loss: loss,
) -> float:
    """Add the gradients of one step to the network's parameters.

    Features, logits and masks are detached after the first answer, so an encoder learns from that one only. Each round's
    gradients are computed at once, so that memory does not grow with the rounds.

    :param features: ``(B, C, h, w)`` of the examples.
    :param iterations: rounds after the first answer; the last of two or more is without a new point.
    :param base_answer: for keeping the base's answers to boxes.
    :param scale_loss: of mixed precision.
    :returns: mean loss of the answers.
    """
    truth = _truth(examples, features)
    kind = draw_kind(rng)
    prompts = draw_prompts(kind, examples, rng)
    logits, iou = decode_for_training(network, features, prompts, point_scale)
    loss = segmentation_loss(logits, iou, truth)
    if base_answer is not None and keep > 0 and kind == "noisy box":
        loss = loss + keep * distillation_loss(logits, base_answer(prompts))
    _add_gradients(scale_loss(loss / (iterations + 1)))
    total, features = float(loss.detach()), features.detach()
    for number in range(1, iterations + 1):
        alone = rng.random() < MASK_ONLY or (number == iterations and iterations > 1)
        prompts = _corrected(prompts, logits.detach(), examples, alone, rng)
        logits, iou = decode_for_training(network, features, prompts, point_scale)
        loss = segmentation_loss(logits, iou, truth)
        _add_gradients(scale_loss(loss / (iterations + 1)))
        total += float(loss.detach())
    return total / (iterations + 1)


def _add_gradients(loss: torch.Tensor) -> None:
    loss.backward()  # type: ignore[no-untyped-call]


def _truth(examples: Sequence[Example], features: torch.Tensor) -> torch.Tensor:
    import torch

    stacked = np.stack([example.truth for example in examples]).astype(np.float32)
    return torch.from_numpy(stacked)[:, None].to(features.device)


def _corrected(
    prompts: PromptBatch, logits: torch.Tensor, examples: Sequence[Example], alone: bool, rng: np.random.Generator
) -> PromptBatch:
    """The next round's prompts: the last answer, and the points so far with one more on an error; or the answer alone."""
    masks = logits.float().cpu().numpy()
    if alone:
        return PromptBatch(masks=masks)
    found = [error_points(mask[0] > 0, example.truth, rng) for mask, example in zip(masks, examples, strict=True)]
    points = np.stack([point for point, _ in found])[:, None]
    labels = np.array([[label] for _, label in found], dtype=np.int64)
    if prompts.points is not None and prompts.labels is not None:
        points, labels = np.concatenate([prompts.points, points], 1), np.concatenate([prompts.labels, labels], 1)
    return PromptBatch(points, labels, prompts.boxes, masks)
