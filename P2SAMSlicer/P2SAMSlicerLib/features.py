"""From images and masks to feature cells: which cells belong to the lesion, their features, and parts of them.

Paper section 3.2, equation 1, with the resizing rules of the authors' released code.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.volume import BoolArray

if TYPE_CHECKING:
    import torch

    from P2SAMSlicerLib.models.protocol import PromptableModel

#: k-means++ restarts. scikit-learn's default was 10 when the paper was written and is 1 today.
KMEANS_RESTARTS = 10


def mask_to_feature_grid(mask: BoolArray, model: PromptableModel) -> BoolArray:
    """The feature cells that a mask covers.

    The mask goes the way of its image: resized (bilinear, 8 bit) and zero-padded right and bottom to the model's square
    input. Half of its range is subtracted, it is sampled at the cell centres (bilinear, without antialiasing), and a cell
    belongs to the mask where the value is positive. Cells of the padding never do.

    A lesion may lie between the sampled positions. It then gets one cell: the one that holds most of its pixels (the first
    in row-major order among equals). The authors' code ends without a result there.

    :param mask: True inside, ``(H, W)`` of the image.
    :param model: whose input and feature sizes count.
    :returns: ``(h, w)``, at least one cell True.
    :raises InputError: the mask is empty.
    """
    import torch

    if not mask.any():
        raise InputError("mask: it is empty")
    size, cells = model.card.input_size, model.card.feature_size
    resized = _resize_mask(mask, model.resized_shape((mask.shape[0], mask.shape[1])))
    square = np.zeros((size, size), dtype=np.float32)
    square[: resized.shape[0], : resized.shape[1]] = resized
    # A mask of the whole, unpadded image has no outside; its smallest value is not the outside's.
    outside = 0.0 if mask.all() else float(square.min())
    centred = torch.from_numpy(square - (float(square.max()) + outside) / 2.0)
    sampled = torch.nn.functional.interpolate(centred[None, None], size=(cells, cells), mode="bilinear", align_corners=False)
    grid = np.asarray(sampled[0, 0].numpy() > 0.0, dtype=np.bool_)
    return grid if grid.any() else _fullest_cell(mask, resized.shape, size, cells)


def logits_to_feature_grid(logits: torch.Tensor, grid_size: tuple[int, int]) -> BoolArray:
    """The feature cells that a decoded mask covers.

    :param logits: low-resolution logits ``(n, 1, 4h, 4w)`` of the model's square.
    :param grid_size: ``(h, w)`` of the feature map.
    :returns: ``(n, h, w)``, True where the logits, bilinear at the cell centres (no antialiasing), are positive.
    """
    import torch

    sampled = torch.nn.functional.interpolate(logits.float(), size=grid_size, mode="bilinear", align_corners=False)
    return np.asarray((sampled[:, 0] > 0.0).cpu().numpy(), dtype=np.bool_)


def cell_features(features: torch.Tensor, grid_mask: BoolArray) -> NDArray[np.float32]:
    """Features of selected cells, not normalised.

    With the complement of a lesion's cells this gives the background; padding cells are background in paper mode.

    :param features: one image's encoder output ``(C, h, w)``.
    :param grid_mask: cells to take, ``(h, w)``.
    :returns: ``(n, C)``, cells in row-major order.
    :raises ValueError: the sizes differ.
    """
    if tuple(features.shape[1:]) != grid_mask.shape:
        raise ValueError(f"a cell mask of shape {grid_mask.shape} does not fit features of shape {tuple(features.shape)}")
    values = features.detach().float().cpu().numpy()
    return np.ascontiguousarray(values[:, grid_mask].T, dtype=np.float32)


def part_means(points: NDArray[np.float32], n_parts: int, seed: int = 0) -> NDArray[np.float32]:
    """Cluster features into parts, and the mean of each part; nothing is normalised.

    k-means++ (scikit-learn, :data:`KMEANS_RESTARTS` restarts) on one thread: the order in which threads finish would
    otherwise reach the last digits, and with them the points.

    :param points: ``(n, C)``.
    :param n_parts: wanted number of parts; one part is the mean of all. There are never more parts than distinct features.
    :param seed: of k-means.
    :returns: ``(k, C)``, ``k <= n_parts``.
    :raises InputError: there are no features.
    :raises ValueError: ``n_parts`` is below 1.
    """
    if n_parts < 1:
        raise ValueError(f"the number of parts must be at least 1, not {n_parts}")
    if not len(points):
        raise InputError("features: there are none to divide into parts")
    n_clusters = min(n_parts, distinct_count(points)) if n_parts > 1 else 1
    labels = np.zeros(len(points), dtype=np.int64) if n_clusters == 1 else _cluster(points, n_clusters, seed)
    return np.stack([points[labels == part].mean(axis=0, dtype=np.float64) for part in np.unique(labels)]).astype(np.float32)


def distinct_count(points: NDArray[np.float32]) -> int:
    """Number of distinct rows of ``(n, C)``."""
    return len(np.unique(points, axis=0))


def _cluster(points: NDArray[np.float32], n_clusters: int, seed: int) -> NDArray[np.int64]:
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    with warnings.catch_warnings(), threadpool_limits(limits=1):
        # Nearly equal features may end in fewer clusters, which the caller sees in the labels.
        warnings.simplefilter("ignore", ConvergenceWarning)
        labels = KMeans(n_clusters=n_clusters, random_state=seed, n_init=KMEANS_RESTARTS).fit_predict(points)
    return np.asarray(labels, dtype=np.int64)


def _resize_mask(mask: BoolArray, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """The mask as a 0..255 image of another shape, by the same 8-bit filter as SAM's images."""
    from PIL import Image

    image: NDArray[np.uint8] = mask.astype(np.uint8) * np.uint8(255)
    if shape == mask.shape:
        return image
    return np.asarray(Image.fromarray(image).resize((shape[1], shape[0]), Image.Resampling.BILINEAR))


def _fullest_cell(mask: BoolArray, resized: tuple[int, ...], size: int, cells: int) -> BoolArray:
    """One cell: where most pixels of the mask fall, counted in the original image so that no resizing can lose them."""
    rows, columns = np.nonzero(mask)
    row_cells = ((rows + 0.5) * resized[0] / mask.shape[0] * cells / size).astype(np.int64)
    column_cells = ((columns + 0.5) * resized[1] / mask.shape[1] * cells / size).astype(np.int64)
    counts = np.bincount(row_cells * cells + column_cells, minlength=cells * cells)
    grid = np.zeros(cells * cells, dtype=np.bool_)
    grid[int(counts.argmax())] = True
    return grid.reshape(cells, cells)
