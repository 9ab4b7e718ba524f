"""What the prior visit says about a lesion: encoder features pooled over all its slices, at the follow-up's magnification.

The paper uses one reference slice. A lesion of 15 mm has two or three feature cells on a whole slice; pooling over the
slices of a magnified window gives hundreds (named improvement of the clinical mode).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.evidence import Cells, cells_of_slice, pool_to_cells
from P2SAMSlicerLib.intensity import Window, to_rgb
from P2SAMSlicerLib.models.protocol import PromptableModel
from P2SAMSlicerLib.prompts import Reference
from P2SAMSlicerLib.region import region_around
from P2SAMSlicerLib.registration import signed_distance
from P2SAMSlicerLib.volume import BoolArray, Volume

if TYPE_CHECKING:
    import torch

#: Prior slices that are encoded, evenly spread over the lesion; more cost time and say little that is new.
MAX_SLICES = 10
#: Background is what lies this near to the lesion; farther tissue can be ruled out by place alone.
BACKGROUND_MM = 20.0
#: Cells that are lesion (or background) by less than this share straddle the border and teach neither.
PURE_SHARE = 0.8
#: Cells kept of each kind, drawn with the seed, so that k-means and the evidence model stay quick.
MAX_CELLS = 2000


@dataclass(frozen=True)
class PriorFeatures:
    """Cells of the prior lesion and of its surroundings.

    :param lesion: pooled cells of the lesion.
    :param surroundings: pooled cells near it; may be empty.
    :param reference: the same cells' encoder features; makes the parts.
    """

    lesion: Cells
    surroundings: Cells
    reference: Reference


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
    inside: list[Cells] = []
    outside: list[Cells] = []
    for row, z in enumerate(indices):
        coverage = pool_to_cells(region.crop(lesion[z], grid, outside=0.0), cells)
        distance = pool_to_cells(region.crop(signed_distance(lesion[z][None], in_plane)[0], grid, outside=-1000.0), cells)
        if not coverage.any():
            continue  # this slice's part of the lesion lies outside the window
        values = cells_of_slice(channels_last(features[row]), images[row][..., 0])
        outside.append(values.pick(((coverage < 1 - PURE_SHARE) & (distance > -BACKGROUND_MM)).ravel()))
        pure = np.flatnonzero(coverage > PURE_SHARE)
        # A lesion thinner than a cell still has its fullest one.
        inside.append(values.pick(pure if len(pure) else np.array([coverage.argmax()])))
    lesion_cells, surroundings = _sample(Cells.join(inside), seed), _sample(Cells.join(outside), seed)
    return PriorFeatures(lesion_cells, surroundings, Reference(lesion_cells.features, surroundings.features, seed))


def channels_last(features: torch.Tensor) -> NDArray[np.float32]:
    """Encoder features ``(C, h, w)`` -> ``(h, w, C)`` float32."""
    values: NDArray[np.float32] = features.float().permute(1, 2, 0).contiguous().cpu().numpy()
    return values


def _sample(cells: Cells, seed: int) -> Cells:
    if len(cells) <= MAX_CELLS:
        return cells
    kept = np.random.default_rng(seed).choice(len(cells), MAX_CELLS, replace=False)
    return cells.pick(np.sort(kept))
