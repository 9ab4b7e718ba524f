"""Encode and batched decode for every SAM-shaped network (image encoder, prompt encoder, mask decoder)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.models.batch_size import BatchSize, fitting
from P2SAMSlicerLib.models.preprocessing import Preprocessing
from P2SAMSlicerLib.models.protocol import Decoded, ModelCard, PromptSet, Structure

if TYPE_CHECKING:
    import torch

#: Prompt sets decoded at once on a CPU, where more are not faster, and at most on an accelerator.
DECODE_CHUNK, DECODE_CHUNK_ACCELERATED = 4, 64
#: What the activations of one take at most at a 64x64 feature map.
DECODE_BYTES = 45 * 2**20

#: Maps brought to the input square at once: 4 MB each at 1024 pixels.
UPSCALE_CHUNK = 32


class SamFamilyModel:
    """A :class:`~P2SAMSlicerLib.models.protocol.PromptableModel` around a SAM-shaped network.

    Single calls equal ``segment_anything.SamPredictor``; batched calls equal single calls. Everything is float32, but for the
    encoder where the card says so.

    :param card: what the model says of itself.
    :param network: a module with ``image_encoder``, ``prompt_encoder`` and ``mask_decoder``, on ``device``, in eval mode.
    :param preprocessing: how the network wants its images.
    :param device: where the network lies.
    :param encode_chunk: images encoded at once, fewer after the device ran out of memory.
    """

    def __init__(
        self, card: ModelCard, network: Any, preprocessing: Preprocessing, device: torch.device, encode_chunk: int = 4
    ) -> None:
        self._card = card
        self._network = network
        self._preprocessing = preprocessing
        self._device = device
        self._encode_batch = BatchSize(encode_chunk)
        chunk = DECODE_CHUNK if device.type == "cpu" else fitting(device, DECODE_BYTES, DECODE_CHUNK_ACCELERATED)
        self._decode_batch = BatchSize(chunk)

    @property
    def card(self) -> ModelCard:
        """What the model is."""
        return self._card

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self._device

    @property
    def encode_chunk(self) -> int:
        """Images that it encodes at once now."""
        return self._encode_batch.most

    @property
    def network(self) -> Any:
        """The network itself, for those who measure it."""
        return self._network

    @property
    def preprocessing(self) -> Preprocessing:
        """How images are resized and scaled before the encoder."""
        return self._preprocessing

    def resized_shape(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """``(H, W)`` that an image of ``image_size`` has inside the square input, before padding."""
        return self._preprocessing.resized_shape(image_size)

    def encode(self, images: Sequence[NDArray[np.uint8]]) -> torch.Tensor:
        """Features ``(n, C, h, w)``, float32, on the model's device.

        :param images: ``(H, W, 3)`` uint8 RGB, all of one size.
        :raises ValueError: another type or shape, sizes that differ, or no image at all.
        """
        import torch

        _check_images(images)
        rows: list[torch.Tensor] = []

        def encode_batch(start: int, stop: int) -> None:
            batch = self._preprocessing.tensor(images[start:stop], self._device)
            rows.append(self._network.image_encoder(batch).float())

        with torch.inference_mode(), _exact_convolutions(self._device), self._encoder_arithmetic():
            self._encode_batch.run(len(images), encode_batch)
            return rows[0] if len(rows) == 1 else torch.cat(rows)

    def _encoder_arithmetic(self) -> AbstractContextManager[None]:
        """Context in which the encoder computes with the card's precision."""
        import torch

        if self._card.precision == "float32":
            return nullcontext()
        context: AbstractContextManager[None] = torch.autocast(self._device.type, getattr(torch, self._card.precision))
        return context

    def decode(
        self, features: torch.Tensor, prompts: Sequence[PromptSet], image_size: tuple[int, int], *, multimask: bool = False
    ) -> Decoded:
        """Masks for prompt sets; sets of one structure are decoded together, never padded to a common length.

        Padding with label -1 would add tokens that the decoder attends to, which changes its answer.

        :param features: ``(n, C, h, w)``, one row a prompt set, or ``(1, C, h, w)`` shared by all sets.
        :param prompts: ``n`` prompt sets in the pixel coordinates of the image.
        :param image_size: ``(H, W)`` of the encoded images.
        :param multimask: three masks of different extent instead of one.
        :returns: rows in the order of ``prompts``.
        :raises ValueError: features do not match the prompt sets, or a prompt set is malformed.
        """
        import torch

        if features.ndim != 4 or features.shape[0] not in (1, len(prompts)):
            raise ValueError(f"features of shape {tuple(features.shape)} do not fit {len(prompts)} prompt sets")
        side = 4 * self._card.feature_size
        for prompt in prompts:
            _check_prompt(prompt, side)
        masks = 3 if multimask else 1
        with torch.inference_mode(), _exact_convolutions(self._device):
            logits = torch.empty((len(prompts), masks, side, side), device=self._device)
            predicted_iou = torch.empty((len(prompts), masks), device=self._device)
            position = self._network.prompt_encoder.get_dense_pe()
            for structure, rows in _rows_of_one_structure(prompts).items():

                def decode_batch(start: int, stop: int, structure: Structure = structure, rows: list[int] = rows) -> None:
                    chunk = rows[start:stop]
                    index = torch.tensor(chunk, device=self._device)
                    own = features if features.shape[0] == 1 else features[index.to(features.device)]
                    sets = [prompts[row] for row in chunk]
                    low, iou = self._decode_batch_of(own, sets, structure, image_size, position, multimask)
                    logits[index], predicted_iou[index] = low.float(), iou.float()

                self._decode_batch.run(len(rows), decode_batch)
        return Decoded(logits=logits, predicted_iou=predicted_iou)

    def _decode_batch_of(
        self,
        features: torch.Tensor,
        prompts: Sequence[PromptSet],
        structure: Structure,
        image_size: tuple[int, int],
        position: torch.Tensor,
        multimask: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits and predicted IoU of prompt sets that all have one structure, decoded at once."""
        import torch

        sparse, dense = self._embed(prompts, structure, image_size)
        # The decoder's public forward repeats ONE image for all prompt sets and adds the dense embedding to it. A zero image,
        # with the features in the dense embedding, is the same sum and lets every set have its own image.
        dense = (features.to(self._device, torch.float32) + dense).expand(len(prompts), -1, -1, -1)
        low, iou = self._network.mask_decoder(
            image_embeddings=torch.zeros_like(dense[:1]),
            image_pe=position,
            sparse_prompt_embeddings=sparse.expand(len(prompts), -1, -1),
            dense_prompt_embeddings=dense,
            multimask_output=multimask,
        )
        return low, iou

    def _embed(
        self, prompts: Sequence[PromptSet], structure: Structure, image_size: tuple[int, int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Sparse and dense embeddings of prompt sets that all have one structure."""
        import torch

        n_points, has_box, has_mask = structure
        # In double precision and rounded once, as SamPredictor does it.
        scale = self._preprocessing.point_scale(image_size)
        points = boxes = masks = None
        if n_points:
            coordinates = np.stack([np.asarray(p.points, dtype=np.float64).reshape(-1, 2) for p in prompts]) * scale
            labels = np.stack([np.asarray(p.labels, dtype=np.int32) for p in prompts])
            points = (
                torch.from_numpy(coordinates.astype(np.float32)).to(self._device),
                torch.from_numpy(labels).to(self._device),
            )
        if has_box:
            corners = np.stack([np.asarray(p.box, dtype=np.float64) for p in prompts]) * np.tile(scale, 2)
            boxes = torch.from_numpy(corners.astype(np.float32)).to(self._device)
        if has_mask:
            given = [p.mask_logits for p in prompts if p.mask_logits is not None]
            masks = torch.stack([logits.to(self._device, torch.float32) for logits in given])
        sparse, dense = self._network.prompt_encoder(points=points, boxes=boxes, masks=masks)
        return sparse, dense

    def upscale(self, logits: torch.Tensor, image_size: tuple[int, int]) -> torch.Tensor:
        """Low-resolution maps at the image's size, as SAM's ``postprocess_masks``.

        :param logits: ``(n, m, a, a)``.
        :param image_size: ``(H, W)`` of the image.
        :returns: ``(n, m, H, W)``, float32.
        """
        import torch

        size = self._card.input_size
        height, width = self.resized_shape(image_size)
        with torch.inference_mode():
            out = torch.empty((*logits.shape[:2], *image_size), device=logits.device)
            for start in range(0, logits.shape[0], UPSCALE_CHUNK):
                part = _interpolate(logits[start : start + UPSCALE_CHUNK].float(), (size, size))
                out[start : start + UPSCALE_CHUNK] = _interpolate(part[..., :height, :width], image_size)
        return out


def _exact_convolutions(device: torch.device) -> AbstractContextManager[None]:
    """Context in which CUDA convolutions are not rounded to TF32 (PyTorch's default), so that a GPU answers as a CPU does."""
    import torch

    if device.type != "cuda":
        return nullcontext()
    flags: AbstractContextManager[None] = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    return flags


def _interpolate(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Bilinear, corners not aligned; the identity (which interpolation is, exactly, at equal size) costs nothing."""
    import torch

    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return torch.nn.functional.interpolate(maps, size, mode="bilinear", align_corners=False)


def _rows_of_one_structure(prompts: Sequence[PromptSet]) -> dict[Structure, list[int]]:
    """Rows of the prompt sets that may be decoded together."""
    groups: dict[Structure, list[int]] = {}
    for row, prompt in enumerate(prompts):
        groups.setdefault(prompt.structure, []).append(row)
    return groups


def _check_images(images: Sequence[NDArray[np.uint8]]) -> None:
    if not len(images):
        raise ValueError("there is no image to encode")
    for image in images:
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise ValueError(f"an image must be uint8 (H, W, 3), not {image.dtype} {image.shape}")
        if image.shape != images[0].shape:
            raise ValueError(f"images of one call must have one size, not {images[0].shape} and {image.shape}")


def _check_prompt(prompt: PromptSet, side: int) -> None:
    n_points = prompt.structure[0]
    n_labels = 0 if prompt.labels is None else len(prompt.labels)
    if n_points != n_labels:
        raise ValueError(f"{n_points} points with {n_labels} labels")
    if n_points:
        points, labels = np.asarray(prompt.points), np.asarray(prompt.labels)
        if points.shape != (n_points, 2) or not np.isfinite(points).all():
            raise ValueError(f"points must be finite (n, 2), not of shape {points.shape}")
        if not np.isin(labels, (0, 1)).all():
            raise ValueError("a point's label must be 1 (positive) or 0 (negative)")
    if prompt.box is not None:
        box = np.asarray(prompt.box)
        if box.shape != (4,) or not np.isfinite(box).all():
            raise ValueError(f"a box must be four finite numbers (x0, y0, x1, y1), not of shape {box.shape}")
    if prompt.mask_logits is not None and tuple(prompt.mask_logits.shape) != (1, side, side):
        raise ValueError(f"mask logits must be (1, {side}, {side}), not {tuple(prompt.mask_logits.shape)}")
