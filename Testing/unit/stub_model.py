"""A promptable model without weights: it answers from brightness and box alone, the same every time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from P2SAMSlicerLib.models.protocol import Decoded, ModelCard, PromptSet

INPUT, CELLS = 256, 64


class BrightnessModel:
    """Features are a cell's brightness at four blurs, its square and its local contrast.

    A box is answered with the pixels in it that are about as bright as its middle; positive points without a box with the
    pixels anywhere that are about as bright as the points. Negative points make a disc of 6 input pixels around them
    negative. So a lesion that is brighter than its surroundings is found wherever the box meets it, a box on empty tissue is
    filled, and every answer depends on the pixels' places, so that a mirrored or shifted image gives a moved answer.

    :param trained_prompts: what the card says of it.
    :param tolerance: brightness (of 1) by which a pixel may differ from what was prompted.
    """

    device = torch.device("cpu")

    def __init__(self, trained_prompts: tuple[str, ...] = ("box",), tolerance: float = 0.06) -> None:
        self.card = ModelCard("stub", "brightness", INPUT, CELLS, trained_prompts, "", "made for tests", "Apache-2.0")  # type: ignore[arg-type]
        self.tolerance = tolerance
        self.encoded = 0
        self.decoded = 0

    def resized_shape(self, image_size: tuple[int, int]) -> tuple[int, int]:
        scale = INPUT / max(image_size)
        return round(image_size[0] * scale), round(image_size[1] * scale)

    def encode(self, images: Sequence[NDArray[np.uint8]]) -> torch.Tensor:
        self.encoded += len(images)
        gray = torch.stack([torch.from_numpy(np.ascontiguousarray(image[..., 0])).float() / 255.0 for image in images])[:, None]
        height, width = self.resized_shape((gray.shape[2], gray.shape[3]))
        if (height, width) != tuple(gray.shape[2:]):
            gray = torch.nn.functional.interpolate(gray, size=(height, width), mode="bilinear", align_corners=False)
        gray = torch.nn.functional.pad(gray, (0, INPUT - width, 0, INPUT - height))
        cells = torch.nn.functional.avg_pool2d(gray, INPUT // CELLS)
        blurs = [cells, *(_blurred(cells, reach) for reach in (1, 3, 7))]
        return torch.cat([*blurs, cells**2, (cells - blurs[1]).abs(), torch.full_like(cells, 0.25)], dim=1)

    def decode(
        self, features: torch.Tensor, prompts: Sequence[PromptSet], image_size: tuple[int, int], *, multimask: bool = False
    ) -> Decoded:
        assert not multimask
        assert features.shape[0] in (1, len(prompts))
        self.decoded += len(prompts)
        scale = INPUT / max(image_size)
        bright = torch.nn.functional.interpolate(features[:, :1], size=(INPUT, INPUT), mode="bilinear", align_corners=False)
        answers, quality = [], []
        for row, prompt in enumerate(prompts):
            logits = self._answer(bright[row if features.shape[0] > 1 else 0, 0].numpy(), prompt, scale)
            answers.append(torch.from_numpy(logits.astype(np.float32))[None])
            quality.append([0.5 + 0.4 * float(np.clip(np.abs(logits).mean() / 4.0, 0.0, 1.0))])
        return Decoded(torch.stack(answers), torch.tensor(quality))

    def upscale(self, logits: torch.Tensor, image_size: tuple[int, int]) -> torch.Tensor:
        height, width = self.resized_shape(image_size)
        square = torch.nn.functional.interpolate(logits, size=(INPUT, INPUT), mode="bilinear", align_corners=False)
        if (height, width) == image_size == (INPUT, INPUT):
            return square
        return torch.nn.functional.interpolate(
            square[..., :height, :width], size=image_size, mode="bilinear", align_corners=False
        )

    def _answer(self, bright: NDArray[np.float32], prompt: PromptSet, scale: float) -> NDArray[np.float64]:
        rows, columns = np.mgrid[:INPUT, :INPUT]
        points = np.zeros((0, 2)) if prompt.points is None else np.asarray(prompt.points, dtype=np.float64) * scale
        labels = np.zeros(0) if prompt.labels is None else prompt.labels
        allowed = np.ones((INPUT, INPUT), dtype=bool)
        if prompt.box is not None:
            x0, y0, x1, y1 = (float(v) * scale for v in prompt.box)
            allowed = (columns >= x0) & (columns <= x1) & (rows >= y0) & (rows <= y1)
            x, y, half_x, half_y = (x0 + x1) / 2, (y0 + y1) / 2, max((x1 - x0) / 6, 1.0), max((y1 - y0) / 6, 1.0)
            middle = (np.abs(columns - x) <= half_x) & (np.abs(rows - y) <= half_y)
            wanted = float(np.median(bright[middle]))
        else:
            at = np.clip(np.rint(points[labels == 1]).astype(int), 0, INPUT - 1)
            wanted = float(bright[at[:, 1], at[:, 0]].mean())
        logits = np.where(allowed, 4.0 * (1.0 - np.abs(bright - wanted) / self.tolerance), -4.0)
        for x, y in points[labels == 0]:
            logits = np.where((columns - x) ** 2 + (rows - y) ** 2 <= 36.0, -4.0, logits)
        return np.clip(logits, -4.0, 4.0)


def _blurred(cells: torch.Tensor, reach: int) -> torch.Tensor:
    return torch.nn.functional.avg_pool2d(cells, 2 * reach + 1, stride=1, padding=reach, count_include_pad=False)
