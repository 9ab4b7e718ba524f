"""Where a training step's features come from: the cache, or the encoder itself when it learns too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.adaptation.augmentation import augmented
from P2SAMSlicerLib.adaptation.examples import Example

if TYPE_CHECKING:
    import torch


class FeatureSource(Protocol):
    """Features of training examples."""

    def draw(self, rows: Sequence[int], rng: np.random.Generator) -> tuple[list[Example], torch.Tensor, torch.Tensor]:
        """Examples to train on, their features with gradients if the encoder learns, and the base encoder's features."""
        ...

    def features(self, rows: Sequence[int]) -> torch.Tensor:
        """Features ``(n, C, h, w)`` of unchanged examples, without gradients."""
        ...


class CachedSource:
    """Features that were computed once.

    :param cache: ``(C, h, w)`` of every example.
    """

    def __init__(self, examples: Sequence[Example], cache: Sequence[NDArray[np.float16]], device: torch.device) -> None:
        self._examples, self._cache, self._device = examples, cache, device

    def draw(self, rows: Sequence[int], rng: np.random.Generator) -> tuple[list[Example], torch.Tensor, torch.Tensor]:  # noqa: ARG002
        """Unchanged examples: features cannot be turned."""
        features = self.features(rows)
        return [self._examples[row] for row in rows], features, features

    def features(self, rows: Sequence[int]) -> torch.Tensor:
        """Features ``(n, C, h, w)``."""
        import torch

        values = np.stack([self._cache[row] for row in rows]).astype(np.float32)
        return torch.from_numpy(values).to(self._device)


class LiveSource:
    """Features from an encoder that learns.

    :param network: with ``image_encoder``.
    :param base: the same before training; None if nobody asks for its features.
    """

    def __init__(self, examples: Sequence[Example], network: Any, base: Any, preprocessing: Any, device: torch.device) -> None:
        self._examples, self._network, self._base = examples, network, base
        self._preprocessing, self._device = preprocessing, device

    def draw(self, rows: Sequence[int], rng: np.random.Generator) -> tuple[list[Example], torch.Tensor, torch.Tensor]:
        """Augmented examples."""
        import torch

        some = [augmented(self._examples[row], rng) for row in rows]
        images = self._preprocessing.tensor([each.image for each in some], self._device)
        features = self._network.image_encoder(images)
        with torch.no_grad():
            before = features.detach() if self._base is None else self._base.image_encoder(images)
        return some, features, before

    def features(self, rows: Sequence[int]) -> torch.Tensor:
        """Features ``(n, C, h, w)``."""
        import torch

        with torch.inference_mode():
            images = self._preprocessing.tensor([self._examples[row].image for row in rows], self._device)
            features: torch.Tensor = self._network.image_encoder(images)
        return features
