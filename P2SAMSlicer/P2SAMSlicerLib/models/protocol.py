"""What P2SAM may ask of a promptable segmentation model, so that it never knows which one it drives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

Prompt = Literal["points", "box", "mask"]
#: Of a prompt set: number of points, whether a box, whether mask logits.
Structure = tuple[int, bool, bool]

#: The same for every model: what this program makes of its answers decides it.
INTENDED_USE = (
    "research: drafts of the contours of gross tumours and visible structures on follow-up CTs, each looked at and corrected by"
    " a person; not for new lesions, diagnosis, or treatment without that review"
)


@dataclass(frozen=True)
class ModelCard:
    """What a model says of itself.

    :param id: name on the command line, for example ``lite_medsam``.
    :param title: name for people.
    :param input_size: side in pixels of the square that the encoder sees.
    :param feature_size: side in cells of the feature map.
    :param trained_prompts: prompts that the weights were trained with. The engine combines points with a box where
        points are not among them.
    :param sha256: hash of the loaded weights file (empty for seeded random weights).
    :param source: where the weights come from, for people.
    :param licence: SPDX identifier of the weights' licence.
    :param training_data: what the weights were trained on, as far as they say, with the attribution that the data ask for.
    :param intended_use: what its contours may be used for.
    :param precision: what the encoder computes with, see :mod:`P2SAMSlicerLib.models.precision`.
    """

    id: str
    title: str
    input_size: int
    feature_size: int
    trained_prompts: tuple[Prompt, ...]
    sha256: str
    source: str
    licence: str
    training_data: str = "not stated with the weights; see their source"
    intended_use: str = INTENDED_USE
    precision: str = "float32"


@dataclass(frozen=True)
class PromptSet:
    """One set of prompts for one image, in that image's own pixel coordinates (before resizing and padding).

    :param points: ``(n, 2)`` as ``(x, y)``, pixel centres at integers; None or empty for none.
    :param labels: ``(n,)``, 1 positive and 0 negative.
    :param box: ``(x0, y0, x1, y1)`` or None.
    :param mask_logits: low-resolution logits ``(1, 4h, 4w)`` of an earlier decode, or None.
    """

    points: NDArray[np.float32] | None = None
    labels: NDArray[np.int64] | None = None
    box: NDArray[np.float32] | None = None
    mask_logits: torch.Tensor | None = None

    @property
    def structure(self) -> Structure:
        """What must be equal for prompt sets to be decoded together: number of points, whether a box, whether mask logits."""
        return (0 if self.points is None else len(self.points), self.box is not None, self.mask_logits is not None)


@dataclass(frozen=True)
class Decoded:
    """Answers of the mask decoder to ``n`` prompt sets.

    :param logits: low-resolution logits ``(n, m, 4h, 4w)``, float32, on the model's device; ``m`` is 1, or 3 with multimask.
    :param predicted_iou: the model's own estimate of each mask's IoU, ``(n, m)``.
    """

    logits: torch.Tensor
    predicted_iou: torch.Tensor


class PromptableModel(Protocol):
    """A SAM-shaped model. Images are uint8 RGB; the model declares and applies its own preprocessing."""

    @property
    def card(self) -> ModelCard:
        """What the model is."""
        ...

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        ...

    def encode(self, images: Sequence[NDArray[np.uint8]]) -> torch.Tensor:
        """Features ``(n, C, h, w)`` of ``n`` images ``(H, W, 3)`` uint8 of one common size."""
        ...

    def decode(
        self, features: torch.Tensor, prompts: Sequence[PromptSet], image_size: tuple[int, int], *, multimask: bool = False
    ) -> Decoded:
        """Masks for prompt sets.

        :param features: ``(n, C, h, w)``, one row a prompt set, or ``(1, C, h, w)`` shared by all sets.
        :param prompts: ``n`` prompt sets; sets of different lengths may be mixed (they are grouped, never padded).
        :param image_size: ``(H, W)`` of the encoded images.
        :param multimask: three masks of different extent instead of one.
        """
        ...

    def resized_shape(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """``(H, W)`` that an image of ``image_size`` has inside the model's square input, before padding right and bottom."""
        ...

    def upscale(self, logits: torch.Tensor, image_size: tuple[int, int]) -> torch.Tensor:
        """Low-resolution maps ``(n, m, a, a)`` -> ``(n, m, H, W)``: SAM's postprocess."""
        ...
