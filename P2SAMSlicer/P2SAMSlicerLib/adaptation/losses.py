"""The training's losses: Dice + 20 focal + squared error of the predicted IoU (appendix B), and keeping the base's answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

FOCAL_WEIGHT = 20.0
#: Keeps Dice defined where a slice holds no lesion, in pixels.
DICE_SMOOTHING = 1.0


def segmentation_loss(logits: torch.Tensor, predicted_iou: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Mean over the batch of Dice loss + 20 focal loss + squared error of the predicted IoU.

    :param logits: ``(B, 1, s, s)``.
    :param predicted_iou: ``(B, 1)``.
    :param truth: 0 or 1, ``(B, 1, s, s)``.
    """
    import torch
    from torchvision.ops import sigmoid_focal_loss

    probability = torch.sigmoid(logits)
    shared, both = (probability * truth).sum((1, 2, 3)), (probability + truth).sum((1, 2, 3))
    dice = 1.0 - (2.0 * shared + DICE_SMOOTHING) / (both + DICE_SMOOTHING)
    focal = sigmoid_focal_loss(logits, truth, reduction="mean")
    with torch.no_grad():
        answer, real = logits > 0, truth > 0.5
        union = (answer | real).sum((1, 2, 3))
        overlap = (answer & real).sum((1, 2, 3)) / union.clamp(min=1)
        iou = torch.where(union > 0, overlap, torch.ones_like(overlap))
    loss: torch.Tensor = dice.mean() + FOCAL_WEIGHT * focal + ((predicted_iou[:, 0] - iou) ** 2).mean()
    return loss


def distillation_loss(logits: torch.Tensor, base_logits: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the answer against the base's probabilities, less the base's own entropy: 0 if they agree."""
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

    target = torch.sigmoid(base_logits)
    loss: torch.Tensor = cross_entropy(logits, target) - cross_entropy(base_logits, target)
    return loss
