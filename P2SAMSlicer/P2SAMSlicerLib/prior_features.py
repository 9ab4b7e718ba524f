"""What the prior visit says about a lesion: encoder features pooled over all its slices, at the follow-up's magnification.

The paper uses one reference slice. A lesion of 15 mm has two or three feature cells on a whole slice; pooling over the
slices of a magnified window gives hundreds (named improvement of the clinical mode).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.intensity import Window, to_rgb
from P2SAMSlicerLib.models.protocol import PromptableModel
from P2SAMSlicerLib.prompts import Reference
from P2SAMSlicerLib.region import region_around
from P2SAMSlicerLib.registration import signed_distance
from P2SAMSlicerLib.volume import BoolArray, Volume

if TYPE_CHECKING:
    import torch

#: Prior slices that are encoded, evenly spread over the lesion; more cost time and say little that is new.
MAX_SLICES = 12
#: Background is what lies this near to the lesion; farther tissue can be ruled out by place alone.
BACKGROUND_MM = 20.0
#: Cells that are lesion (or background) by less than this share straddle the border and teach neither.
PURE_SHARE = 0.8
#: Cells kept of each kind, drawn with the seed, so that k-means and the evidence model stay quick.
MAX_CELLS = 2000


@dataclass(frozen=True)
class PriorFeatures:
    """Features of the prior lesion and of its surroundings.

    :param reference: pooled lesion and background cells; makes the parts.
    :param slices: how many prior slices were encoded.
    """

    reference: Reference
    slices: int


def pool_to_cells(image: NDArray[np.generic], cells: int) -> NDArray[np.float32]:
    """Mean over each feature cell: ``(H, W)`` -> ``(cells, cells)``, ``H`` and ``W`` being multiples of ``cells``."""
    step = image.shape[-1] // cells
    result: NDArray[np.float32] = image.reshape(cells, step, cells, step).astype(np.float32).mean(axis=(1, 3))
    return result


def prior_features(
    model: PromptableModel, prior: Volume, lesion: BoolArray, window: Window, side_mm: float, pixels: int, seed: int
) -> PriorFeatures:
    """Encode the prior's lesion slices on a window of the follow-up's size, and pool their cells.

    :param prior: prior CT, canonical axis order.
    :param lesion: the lesion on it ``(z, y, x)``, not empty.
    :param side_mm: side of the follow-up's window; features depend on magnification.
    """
    grid = prior.grid
    region = region_around(lesion, grid, 0.0, pixels, side_mm)
    indices = np.flatnonzero(lesion.any(axis=(1, 2)))
    if len(indices) > MAX_SLICES:
        indices = np.unique(indices[np.linspace(0, len(indices) - 1, MAX_SLICES + 2).round().astype(int)[1:-1]])
    images = [to_rgb(region.crop(prior.array[z], grid), window) for z in indices]
    features = model.encode(images)
    cells = model.card.feature_size
    in_plane = (1.0, grid.spacing[1], grid.spacing[0])
    inside, outside = [], []
    for row, z in enumerate(indices):
        coverage = pool_to_cells(region.crop(lesion[z], grid, outside=0.0), cells)
        distance = pool_to_cells(region.crop(signed_distance(lesion[z][None], in_plane)[0], grid, outside=-1000.0), cells)
        values = _rows(features[row])
        inside.append(values[(coverage > PURE_SHARE).ravel()])
        outside.append(values[((coverage < 1 - PURE_SHARE) & (distance > -BACKGROUND_MM)).ravel()])
        if not len(inside[-1]):  # a lesion thinner than a cell still has its fullest one
            inside[-1] = values[[int(coverage.argmax())]]
    reference = Reference(_sample(np.concatenate(inside), seed), _sample(np.concatenate(outside), seed), seed)
    return PriorFeatures(reference, len(indices))


def _rows(features: torch.Tensor) -> NDArray[np.float32]:
    """``(C, h, w)`` -> ``(h*w, C)`` float32."""
    values: NDArray[np.float32] = features.float().flatten(1).T.cpu().numpy()
    return values


def _sample(cells: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    if len(cells) <= MAX_CELLS:
        return cells
    kept = np.random.default_rng(seed).choice(len(cells), MAX_CELLS, replace=False)
    return cells[np.sort(kept)]
