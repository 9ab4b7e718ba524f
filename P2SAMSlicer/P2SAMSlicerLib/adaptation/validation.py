"""What a model reaches on slices that it was not trained on, for each kind of prompt: mean slice Dice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from P2SAMSlicerLib.adaptation.decoding import decode_for_training
from P2SAMSlicerLib.adaptation.examples import Example
from P2SAMSlicerLib.adaptation.prompt_sampling import Kind, make_prompts

if TYPE_CHECKING:
    import torch

#: Name of a column, kind of prompt, parts, background points.
PROMPTS: tuple[tuple[str, Kind, int, int], ...] = (
    ("box", "noisy box", 0, 0),
    ("1 part, 1 negative", "parts", 1, 1),
    ("1 part, 45 negatives", "parts", 1, 45),
    ("3 parts, 8 negatives", "parts", 3, 8),
    ("5 parts, 8 negatives", "parts", 5, 8),
    ("contour + box", "contour + box", 0, 0),
)
#: Slices that are looked at, spread over all of them.
SLICES = 96
BATCH = 8

FeaturesOf = Callable[[Sequence[int]], "torch.Tensor"]


def validate(network: Any, features_of: FeaturesOf, examples: Sequence[Example], point_scale: float) -> dict[str, float]:
    """Mean Dice over slices with a lesion, by kind of prompt; the prompts are the same at every call.

    :param features_of: features of examples by number.
    """
    import torch

    present = [number for number, example in enumerate(examples) if example.truth.any()]
    looked_at = [present[i] for i in np.linspace(0, len(present) - 1, min(SLICES, len(present))).astype(int)]
    found: dict[str, float] = {}
    for column, (name, kind, parts, negatives) in enumerate(PROMPTS):
        rng = np.random.default_rng(column)
        dice: list[float] = []
        for start in range(0, len(looked_at), BATCH):
            rows = looked_at[start : start + BATCH]
            some = [examples[row] for row in rows]
            prompts = make_prompts(kind, some, parts, negatives, rng)
            with torch.inference_mode():
                logits, _ = decode_for_training(network, features_of(rows), prompts, point_scale)
            answers = (logits[:, 0] > 0).cpu().numpy()
            dice += [_dice(answer, example.truth) for answer, example in zip(answers, some, strict=True)]
        found[name] = float(np.mean(dice))
    return found


def _dice(first: np.ndarray, second: np.ndarray) -> float:
    return 2.0 * float((first & second).sum()) / float(first.sum() + second.sum())
