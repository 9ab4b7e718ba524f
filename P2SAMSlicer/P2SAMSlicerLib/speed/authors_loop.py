"""The authors' loop over the slices of a follow-up, re-stated plainly: the peer of paper mode.

As in their released code every target slice encodes its reference slice again, clusters it again for every number of positive
points (scikit-learn with all its threads), and decodes one prompt set at a time. The other steps are this product's functions,
which are tested against the paper: with the same features and parts the masks must be the same, and only the loop differs.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.features import KMEANS_RESTARTS, cell_features, distinct_count, logits_to_feature_grid, mask_to_feature_grid
from P2SAMSlicerLib.models.protocol import PromptableModel, PromptSet
from P2SAMSlicerLib.prompts import SMALLEST_NORM, negative_points, positive_points, similarity_maps
from P2SAMSlicerLib.retrieval import distribution_distance, select
from P2SAMSlicerLib.segmentation import PaperOptions, mask_box
from P2SAMSlicerLib.volume import BoolArray

if TYPE_CHECKING:
    import torch

#: Takes cell features, a number of parts and a seed; gives part features.
PartsOf = Callable[[NDArray[np.float32], int, int], NDArray[np.float32]]


@dataclass(frozen=True)
class SlicePair:
    """A target slice and the reference slice that it is paired with; images ``(H, W, 3)`` uint8."""

    reference: NDArray[np.uint8]
    mask: BoolArray
    target: NDArray[np.uint8]


def authors_loop(
    model: PromptableModel, pairs: Sequence[SlicePair], options: PaperOptions, parts_of: PartsOf | None = None
) -> list[BoolArray]:
    """One mask a target slice.

    :param parts_of: makes part features; :func:`plain_parts` if None, whose threads may add in another order than one does.
    """
    return [_slice(model, pair, options, parts_of or plain_parts) for pair in pairs]


def _slice(model: PromptableModel, pair: SlicePair, options: PaperOptions, parts_of: PartsOf) -> BoolArray:
    import torch

    size = (pair.target.shape[0], pair.target.shape[1])
    with torch.inference_mode():
        grid = mask_to_feature_grid(pair.mask, model)
        reference = model.encode([pair.reference])[0]
        foreground, background = cell_features(reference, grid), cell_features(reference, ~grid)
        features = model.encode([pair.target])
        masks, distances = [], []
        for n_positive in range(options.positive[0], options.positive[1] + 1):
            parts = parts_of(foreground, n_positive, options.seed)
            positive = positive_points(similarity_maps(parts, features[0], model, size))
            for n_negative in range(options.negative[0], options.negative[1] + 1):
                parts = parts_of(background, n_negative, options.seed)
                negative = negative_points(similarity_maps(parts, features[0], model, size))
                labels = np.repeat(np.array([1, 0], dtype=np.int64), [len(positive), len(negative)])
                points = np.concatenate([positive, negative])
                mask, cells = _cascade(model, features, points, labels, size)
                masks.append(mask)
                found = cell_features(features[0], cells)
                distances.append(distribution_distance(options.retrieval, foreground, found, seed=options.seed))
    return masks[select(distances)]


def plain_parts(points: NDArray[np.float32], count: int, seed: int) -> NDArray[np.float32]:
    """Part features ``(k, C)`` of unit length from cell features ``(n, C)``, as whoever calls scikit-learn gets them."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    count = min(count, distinct_count(points))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        labels = KMeans(n_clusters=count, random_state=seed, n_init=KMEANS_RESTARTS).fit_predict(points)
    means = np.stack([points[labels == part].mean(axis=0, dtype=np.float64).astype(np.float32) for part in np.unique(labels)])
    norms = np.linalg.norm(means.astype(np.float64), axis=1, keepdims=True)
    parts: NDArray[np.float32] = (means / np.maximum(norms, SMALLEST_NORM)).astype(np.float32)
    return parts


def _cascade(
    model: PromptableModel,
    features: torch.Tensor,
    points: NDArray[np.float32],
    labels: NDArray[np.int64],
    size: tuple[int, int],
) -> tuple[BoolArray, BoolArray]:
    """Three decodes, one after the other: the mask, and the feature cells that it covers."""
    logits = model.decode(features, [PromptSet(points, labels)], size).logits
    logits = model.decode(features, [PromptSet(points, labels, mask_logits=logits[0])], size).logits
    box = mask_box(_mask(model, logits, size))
    logits = model.decode(features, [PromptSet(points, labels, box, logits[0])], size).logits
    return _mask(model, logits, size), logits_to_feature_grid(logits, (features.shape[2], features.shape[3]))[0]


def _mask(model: PromptableModel, logits: torch.Tensor, size: tuple[int, int]) -> BoolArray:
    return np.asarray((model.upscale(logits, size)[0, 0] > 0.0).cpu().numpy(), dtype=np.bool_)
