"""Measures whether replaced tissue can be told from the tissue that was there before, at the very same places."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from P2SAMSlicerLib.simulation.tissue import Filling, change_tissue
from P2SAMSlicerLib.volume import BoolArray, Volume
from scipy import ndimage

Array = NDArray[Any]

#: Side of a patch in voxels, and patches of one place.
SIDE, PATCHES = 7, 60


def replaced(ct: Volume, mask: BoolArray, fill: str, seed: int = 0) -> Array:
    """HU after healthy tissue was replaced as if it were a lesion that vanished."""
    rngs = np.random.default_rng([seed, 0]), np.random.default_rng([seed, 1])
    hu = Volume(ct.array.astype(np.float32), ct.grid, ct.name)
    return change_tissue(hu, mask, "vanish", -1.0, rngs[0], Filling(fill, rngs[1])).hu


def features(hu: Array, places: NDArray[np.int64]) -> Array:
    """Level, noise, gradients, Laplacian, range and skewness of the patches about some voxels, in their slice."""
    rows = []
    for z, y, x in places:
        patch = hu[z, y - SIDE // 2 : y + SIDE // 2 + 1, x - SIDE // 2 : x + SIDE // 2 + 1].astype(float)
        across, down = np.abs(np.diff(patch, axis=1)), np.abs(np.diff(patch, axis=0))
        deviation = patch - patch.mean()
        rows.append(
            [
                patch.mean(),
                patch.std(),
                across.mean(),
                down.mean(),
                np.median(across),
                ndimage.laplace(patch)[1:-1, 1:-1].std(),
                ndimage.uniform_filter(patch, 3)[1:-1, 1:-1].std(),
                np.ptp(patch),
                (deviation**3).mean() / (patch.std() ** 3 + 1e-3),
            ]
        )
    return np.array(rows)


def telling_apart(pairs: list[tuple[Array, Array, BoolArray]]) -> float:
    """Area under the curve with which a random forest tells original from replaced patches, at places not trained on.

    :param pairs: original HU, HU after replacement, and where it was replaced, for each place.
    """
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import GroupKFold, cross_val_predict

    samples, kinds, groups = [], [], []
    for number, (original, filled, where) in enumerate(pairs):
        inside = np.argwhere(ndimage.binary_erosion(where, np.ones((1, SIDE, SIDE), bool)))
        chosen = np.random.default_rng(number).permutation(len(inside))[:PATCHES]
        for number_of_kind, hu in enumerate((original, filled)):
            samples.append(features(hu, inside[chosen]))
            kinds.append(np.full(len(chosen), number_of_kind))
            groups.append(np.full(len(chosen), number))
    forest = RandomForestClassifier(150, min_samples_leaf=5, random_state=0)
    kind, group = np.concatenate(kinds), np.concatenate(groups)
    guess = cross_val_predict(
        forest, np.concatenate(samples), kind, groups=group, cv=GroupKFold(min(len(pairs), 6)), method="predict_proba"
    )
    return float(roc_auc_score(kind, guess[:, 1]))
