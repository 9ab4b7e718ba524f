"""Work counted instead of timed: images encoded, prompt sets decoded, and in how many calls."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.models.protocol import Decoded, ModelCard, PromptableModel, PromptSet

if TYPE_CHECKING:
    import torch


class CountingModel:
    """A :class:`~P2SAMSlicerLib.models.protocol.PromptableModel` around another one that counts what it is asked.

    :param model: answers.
    """

    def __init__(self, model: PromptableModel) -> None:
        self._model = model
        #: Images encoded; different ones among them; calls of decode; prompt sets in them.
        self.encoded = 0
        self.decode_calls = 0
        self.prompt_sets = 0
        self._seen: set[bytes] = set()

    @property
    def distinct(self) -> int:
        """Different images among those that were encoded."""
        return len(self._seen)

    @property
    def card(self) -> ModelCard:
        """What the wrapped model is."""
        return self._model.card

    @property
    def device(self) -> torch.device:
        """Where the wrapped model runs."""
        return self._model.device

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_model":
            raise AttributeError(name)
        return getattr(self._model, name)

    def encode(self, images: Sequence[NDArray[np.uint8]]) -> torch.Tensor:
        """As the wrapped model."""
        self.encoded += len(images)
        self._seen.update(hashlib.blake2b(np.ascontiguousarray(image).tobytes()).digest() for image in images)
        return self._model.encode(images)

    def decode(
        self, features: torch.Tensor, prompts: Sequence[PromptSet], image_size: tuple[int, int], *, multimask: bool = False
    ) -> Decoded:
        """As the wrapped model."""
        self.decode_calls += 1
        self.prompt_sets += len(prompts)
        return self._model.decode(features, prompts, image_size, multimask=multimask)

    def resized_shape(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """As the wrapped model."""
        return self._model.resized_shape(image_size)

    def upscale(self, logits: torch.Tensor, image_size: tuple[int, int]) -> torch.Tensor:
        """As the wrapped model."""
        return self._model.upscale(logits, image_size)
