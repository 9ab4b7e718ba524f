"""From uint8 images to the square float tensor that an image encoder was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

#: ImageNet's mean and standard deviation of red, green and blue on 0..255, with which SAM was trained (Kirillov et al. 2023).
PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class Preprocessing:
    """How a model wants its images. Padding, where needed, is always right and bottom, with zeros, after scaling.

    :param size: side in pixels of the square that the encoder sees.
    :param fit: ``longest_side`` keeps the aspect ratio and pads (SAM, LiteMedSAM); ``stretch`` fills the square (MedSAM).
    :param interpolation: PIL's antialiased filter.
    :param scaling: ``mean_std`` subtracts ImageNet's mean and divides by its deviation (SAM); ``min_max`` maps each image's
        own smallest value to 0 and its largest to 1 (MedSAM, LiteMedSAM).
    """

    size: int
    fit: Literal["longest_side", "stretch"] = "longest_side"
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    scaling: Literal["mean_std", "min_max"] = "mean_std"

    def __post_init__(self) -> None:
        for value, allowed in (
            (self.fit, ("longest_side", "stretch")),
            (self.interpolation, ("bilinear", "bicubic")),
            (self.scaling, ("mean_std", "min_max")),
        ):
            if value not in allowed:
                raise ValueError(f"preprocessing '{value}' is none of {allowed}")

    def resized_shape(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """``(H, W)`` of an image of ``image_size`` inside the square, before padding; rounded as SAM rounds it."""
        if self.fit == "stretch":
            return (self.size, self.size)
        height, width = image_size
        scale = self.size / max(height, width)
        # A very thin image must keep at least one row or column.
        return (max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5)))

    def point_scale(self, image_size: tuple[int, int]) -> NDArray[np.float64]:
        """Factors ``(x, y)`` from image coordinates to coordinates in the square; like SAM without a half-pixel shift."""
        height, width = self.resized_shape(image_size)
        return np.array([width / image_size[1], height / image_size[0]])

    def resize(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The image ``(H, W, 3)`` at :meth:`resized_shape`, uint8; equal to ``ResizeLongestSide.apply_image`` for SAM."""
        from PIL import Image

        height, width = self.resized_shape((image.shape[0], image.shape[1]))
        if (height, width) == image.shape[:2]:
            return image
        resampling = Image.Resampling.BILINEAR if self.interpolation == "bilinear" else Image.Resampling.BICUBIC
        return np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize((width, height), resampling))

    def tensor(self, images: Sequence[NDArray[np.uint8]], device: torch.device) -> torch.Tensor:
        """The network's input ``(n, 3, size, size)``, float32.

        :param images: ``(H, W, 3)`` uint8 of one common size.
        :param device: where the tensor shall lie.
        """
        import torch

        stacked = np.stack([self.resize(image) for image in images])
        pixels = torch.from_numpy(stacked)
        if device.type == "cuda":
            # From pinned memory the copy does not wait for the batch before: this one is prepared while that one is encoded.
            pixels = pixels.pin_memory()
        values = pixels.to(device, non_blocking=True).permute(0, 3, 1, 2).float()
        if self.scaling == "mean_std":
            mean = torch.tensor(PIXEL_MEAN, device=device).view(1, 3, 1, 1)
            std = torch.tensor(PIXEL_STD, device=device).view(1, 3, 1, 1)
            values = (values - mean) / std
        else:
            low = values.amin(dim=(1, 2, 3), keepdim=True)
            high = values.amax(dim=(1, 2, 3), keepdim=True)
            # A constant image has no range; it becomes all zeros instead of a division by zero.
            values = (values - low) / (high - low).clamp(min=1e-8)
        height, width = values.shape[-2:]
        return torch.nn.functional.pad(values, (0, self.size - width, 0, self.size - height))
