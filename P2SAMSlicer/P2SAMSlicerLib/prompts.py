"""The part-aware prompt mechanism: parts of the reference -> similarity maps on the target -> prompt points.

Paper section 3.2, equation 2. Wherever several places are equally good, the first in row-major order is taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.features import cell_features, distinct_count, mask_to_feature_grid, part_means
from P2SAMSlicerLib.volume import BoolArray

if TYPE_CHECKING:
    import torch

    from P2SAMSlicerLib.models.protocol import PromptableModel

#: Norms below this are taken as this, so that an all-zero feature is similar to nothing instead of becoming NaN.
SMALLEST_NORM = 1e-12

#: A similarity map (cosines) whose standard deviation is below this says the same everywhere.
CONSTANT_MAP = 1e-6


@dataclass(frozen=True, eq=False)
class Reference:
    """What one reference image (or several pooled) says about a lesion. k-means runs once for each number of parts.

    :param foreground: features of the lesion's cells, ``(n, C)``, not normalised, ``n >= 1``.
    :param background: features of the other cells, ``(m, C)``; may be empty.
    :param seed: of k-means.
    """

    foreground: NDArray[np.float32]
    background: NDArray[np.float32]
    seed: int = 0
    _parts: dict[tuple[str, int], NDArray[np.float32]] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def from_image(cls, model: PromptableModel, image: NDArray[np.uint8], mask: BoolArray, seed: int = 0) -> Reference:
        """Encode one reference image. Background is every cell outside the mask, padding included (paper mode).

        :param image: ``(H, W, 3)`` uint8 RGB.
        :param mask: True in the lesion, ``(H, W)``.
        :raises InputError: the mask is empty.
        """
        grid = mask_to_feature_grid(mask, model)
        features = model.encode([image])[0]
        return cls(cell_features(features, grid), cell_features(features, ~grid), seed)

    @cached_property
    def mean(self) -> NDArray[np.float32]:
        """Mean lesion feature ``(C,)``, not normalised."""
        mean: NDArray[np.float32] = part_means(self.foreground, 1)[0]
        return mean

    def positive_parts(self, n_parts: int) -> NDArray[np.float32]:
        """Part features of the lesion, ``(k, C)``, see :func:`part_features`."""
        return self._fitted("foreground", self.foreground, n_parts)

    def negative_parts(self, n_parts: int) -> NDArray[np.float32]:
        """Part features of the background, ``(k, C)``.

        :raises InputError: there is no background.
        """
        if not len(self.background):
            raise InputError("reference mask: it covers the whole image, so there is no background for negative points")
        return self._fitted("background", self.background, n_parts)

    @cached_property
    def distinct_foreground(self) -> int:
        """The largest useful number of lesion parts."""
        return distinct_count(self.foreground)

    @cached_property
    def distinct_background(self) -> int:
        """The largest useful number of background parts."""
        return distinct_count(self.background)

    def _fitted(self, name: str, points: NDArray[np.float32], n_parts: int) -> NDArray[np.float32]:
        key = (name, n_parts)
        if key not in self._parts:
            self._parts[key] = part_features(points, n_parts, self.seed)
        return self._parts[key]


def fit_parts(references: Sequence[Reference], positive: Iterable[int], negative: Iterable[int]) -> None:
    """k-means of several references side by side, one on each processor thread; each is what it is alone.

    k-means of one reference takes one thread (see :func:`~P2SAMSlicerLib.features.part_means`), so that the others would wait.

    :param positive: numbers of lesion parts that will be asked for; beyond the distinct features none is made.
    :param negative: numbers of background parts, likewise; 0 is no clustering.
    """
    from concurrent.futures import ThreadPoolExecutor

    import torch
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    jobs = [
        job
        for reference in references
        for job in (
            *((reference.negative_parts, min(n, reference.distinct_background)) for n in negative if len(reference.background)),
            *((reference.positive_parts, min(n, reference.distinct_foreground)) for n in positive),
        )
        if job[1] > 0
    ]
    # One thread a k-means, set from outside: what each sets for itself would be undone by whichever ends first.
    with threadpool_limits(limits=1), ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for _ in pool.map(lambda job: job[0](job[1]), dict.fromkeys(jobs)):
            pass


def part_features(cell_features: NDArray[np.float32], n_parts: int, seed: int = 0) -> NDArray[np.float32]:
    """Part-level features: k-means on un-normalised features, mean of each part's members, then L2-normalised.

    :param cell_features: ``(n, C)``, not normalised.
    :param n_parts: wanted number of parts; 1 is the mean of all cells. No more parts than distinct features are made.
    :param seed: of k-means.
    :returns: ``(k, C)`` of unit length, ``k <= n_parts``.
    :raises InputError: there are no features.
    """
    means = part_means(cell_features, n_parts, seed)
    norms = np.linalg.norm(means.astype(np.float64), axis=1, keepdims=True)
    parts: NDArray[np.float32] = (means / np.maximum(norms, SMALLEST_NORM)).astype(np.float32)
    return parts


def similarity_maps(
    part_features: NDArray[np.float32], target_features: torch.Tensor, model: PromptableModel, image_size: tuple[int, int]
) -> torch.Tensor:
    """Cosine similarity of every part to every place of the target (equation 2), at the target image's resolution.

    :param part_features: ``(k, C)`` of unit length.
    :param target_features: the target's encoder output ``(C, h, w)``, not normalised.
    :param model: whose postprocessing brings the fourfold enlarged maps to the image.
    :param image_size: ``(H, W)`` of the target image.
    :returns: ``(k, H, W)``, float32, on the features' device.
    """
    import torch

    with torch.inference_mode():
        channels, height, width = target_features.shape
        cells = target_features.float()
        cells = cells / cells.norm(dim=0, keepdim=True).clamp_min(SMALLEST_NORM)
        parts = torch.from_numpy(part_features).to(cells.device)
        similarity = (parts @ cells.reshape(channels, height * width)).reshape(-1, 1, height, width)
        enlarged = torch.nn.functional.interpolate(similarity, scale_factor=4, mode="bilinear", align_corners=False)
        return model.upscale(enlarged, image_size)[:, 0]


def positive_points(maps: torch.Tensor, allowed: BoolArray | None = None) -> NDArray[np.float32]:
    """The most similar pixel of each part's map. Equal points are kept: a repeated point changes SAM's answer.

    Among equally similar pixels the first in row-major order is taken.

    :param maps: ``(k, H, W)``.
    :param allowed: pixels ``(H, W)`` that may be chosen; all if None.
    :returns: ``(k, 2)`` as ``(x, y)`` in pixels.
    :raises ValueError: no pixel is allowed, or the sizes differ.
    """
    import torch

    if allowed is not None:
        if allowed.shape != tuple(maps.shape[1:]):
            raise ValueError(f"allowed pixels of shape {allowed.shape} do not fit maps of shape {tuple(maps.shape)}")
        if not allowed.any():
            raise ValueError("no pixel is allowed")
        maps = maps.masked_fill(~torch.tensor(allowed, device=maps.device), -torch.inf)
    # torch.argmax returns the first of equal maxima.
    index = maps.reshape(maps.shape[0], -1).argmax(dim=1).cpu().numpy()
    width = maps.shape[2]
    return np.stack([index % width, index // width], axis=1).astype(np.float32)


def negative_points(maps: torch.Tensor, allowed: BoolArray | None = None) -> NDArray[np.float32]:
    """The pixel most similar to each background part; the rule of :func:`positive_points`, ties included.

    :param maps: similarity maps ``(k, H, W)`` of background parts.
    :param allowed: pixels ``(H, W)`` that may be chosen; all if None.
    :returns: ``(k, 2)`` as ``(x, y)`` in pixels.
    """
    return positive_points(maps, allowed)


def natural_negative_point(maps: torch.Tensor, allowed: BoolArray | None = None) -> NDArray[np.float32]:
    """The one negative point of natural images: where the mean of the foreground parts' maps is smallest.

    Among equally dissimilar pixels the first in row-major order is taken.

    :param maps: similarity maps ``(k, H, W)`` of the lesion's parts.
    :param allowed: pixels ``(H, W)`` that may be chosen; all if None.
    :returns: ``(1, 2)`` as ``(x, y)`` in pixels.
    """
    return positive_points(-maps.mean(dim=0, keepdim=True), allowed)


def target_attention(maps: torch.Tensor, grid_size: tuple[int, int]) -> torch.Tensor:
    """PerSAM's target-guided attention: the standardised mean similarity, at the feature grid, through a sigmoid.

    As in the released code the map of the image is stretched to the whole grid, so that on images that are not square it
    is not aligned with the padded features.

    :param maps: similarity maps ``(k, H, W)`` of the lesion's parts.
    :param grid_size: ``(h, w)`` of the feature map.
    :returns: ``(h * w,)`` in 0..1.
    """
    import torch

    mean = maps.mean(dim=0)
    deviation = mean.std() if mean.numel() > 1 else mean.new_zeros(())
    # A constant map guides nowhere; it becomes 0.5 everywhere instead of NaN or enlarged rounding.
    standardised = (mean - mean.mean()) / torch.where(deviation > CONSTANT_MAP, deviation, torch.ones_like(deviation))
    return (
        torch.nn.functional.interpolate(standardised[None, None], size=grid_size, mode="bilinear", align_corners=False)
        .sigmoid()
        .flatten()
    )
