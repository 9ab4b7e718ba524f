"""Decoding that gradients can flow through, for a batch of images, with the paper's stop-gradients (appendix B)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from P2SAMSlicerLib.adaptation.prompt_sampling import PromptBatch

if TYPE_CHECKING:
    import torch


def decode_for_training(
    network: Any, features: torch.Tensor, prompts: PromptBatch, point_scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Low-resolution logits ``(B, 1, s, s)`` and predicted IoU ``(B, 1)``, never multimask.

    Where there is no point and no box the sparse embedding is detached, and where there is no mask the dense one: what the
    model says of nothing is not to be learned.

    :param network: with ``prompt_encoder`` and ``mask_decoder``.
    :param features: ``(B, C, h, w)``, a row an example.
    :param point_scale: pixels of the model's input per pixel of the example's image.
    """
    import torch

    device, size = features.device, features.shape[0]
    points = boxes = masks = None
    if prompts.points is not None:
        points = (
            torch.as_tensor(prompts.points * point_scale, dtype=torch.float32, device=device),
            torch.as_tensor(prompts.labels, device=device),
        )
    if prompts.boxes is not None:
        boxes = torch.as_tensor(prompts.boxes * point_scale, dtype=torch.float32, device=device)
    if prompts.masks is not None:
        masks = torch.as_tensor(prompts.masks, device=device)
    sparse, dense = network.prompt_encoder(points=points, boxes=boxes, masks=masks)
    if points is None and boxes is None:
        sparse = sparse.detach()
    if masks is None:
        dense = dense.detach()
    # As in SamFamilyModel.decode: the features in the dense embedding, so that every prompt set has its own image.
    both = features + dense
    low, iou = network.mask_decoder(
        image_embeddings=torch.zeros_like(both[:1]),
        image_pe=network.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse.expand(size, -1, -1),
        dense_prompt_embeddings=both,
        multimask_output=False,
    )
    return low.float(), iou.float()
