"""Slices with a bright disk, for the tests of the training."""

from __future__ import annotations

from typing import Any

import numpy as np
import small_network
import torch
from P2SAMSlicerLib.adaptation.examples import Example
from P2SAMSlicerLib.models.preprocessing import Preprocessing
from P2SAMSlicerLib.volume import BoolArray

SIDE = small_network.SIZE
PREPROCESSING = Preprocessing(SIDE)


def disk(x: int = 128, y: int = 128, radius: int = 40) -> BoolArray:
    rows, columns = np.mgrid[:SIDE, :SIDE]
    inside: BoolArray = (columns - x) ** 2 + (rows - y) ** 2 <= radius**2
    return inside


def example(x: int = 128, y: int = 128, radius: int = 40) -> Example:
    truth = disk(x, y, radius)
    noise = np.random.default_rng(x).integers(0, 40, (SIDE, SIDE, 1))
    image = np.repeat(np.where(truth, 180, 60)[..., None] + noise, 3, axis=2).astype(np.uint8)
    return Example("P", image, truth, truth, 0.5)


def encoded(network: Any, examples: list[Example]) -> torch.Tensor:
    features: torch.Tensor = network.image_encoder(PREPROCESSING.tensor([e.image for e in examples], torch.device("cpu")))
    return features


def truth_of(mask: BoolArray) -> torch.Tensor:
    return torch.from_numpy(mask.astype(np.float32))[None, None]
