"""Evidence for the lesion at every place of the follow-up: what its features look like, and where it is.

The paper's retrieval asks how near a candidate's feature distribution is to the lesion's (equation 3). That alone cannot see
a contour that is too small, because a part of a lesion looks like the lesion. So clinical mode also learns what the prior's
*surroundings* look like, and weighs the two: the log-odds of lesion against surroundings, plus a location prior.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.prompts import Reference

if TYPE_CHECKING:
    import torch

#: Inverse strength of the classifier's ridge: 256 features, a few thousand correlated cells of one patient.
REGULARISATION = 0.001
#: Log-odds beyond this are not believed: the follow-up differs from the prior in more than the lesion.
LIMIT = 3.0
#: The carried contour's distance, in mm, that weighs as much as one unit of log-odds.
LOCATION_MM = 3.0


@dataclass(frozen=True)
class LesionClassifier:
    """Logistic model of lesion against surroundings on standardised encoder features.

    :param mean: feature means ``(C,)``.
    :param scale: feature standard deviations ``(C,)``.
    :param weights: ``(C,)``.
    :param bias: log-odds at the mean feature.
    """

    mean: NDArray[np.float32]
    scale: NDArray[np.float32]
    weights: NDArray[np.float32]
    bias: float

    @classmethod
    def fit(cls, reference: Reference) -> LesionClassifier:
        """Learn from the prior's cells; lesion and surroundings count alike however many cells they have."""
        from sklearn.linear_model import LogisticRegression

        cells = np.concatenate([reference.foreground, reference.background])
        labels = np.repeat([1, 0], [len(reference.foreground), len(reference.background)])
        mean, scale = cells.mean(axis=0), cells.std(axis=0) + 1e-3
        if labels.min() == labels.max():
            return cls(mean, scale, np.zeros_like(mean), 0.0)  # no surroundings in view: features say nothing
        model = LogisticRegression(C=REGULARISATION, max_iter=300, class_weight="balanced")
        model.fit((cells - mean) / scale, labels)
        return cls(mean, scale, model.coef_[0].astype(np.float32), float(model.intercept_[0]))

    def log_odds(self, features: torch.Tensor) -> NDArray[np.float32]:
        """Log-odds of lesion for every cell, ``(C, h, w)`` -> ``(h, w)``."""
        values = features.float().permute(1, 2, 0).cpu().numpy()
        result: NDArray[np.float32] = ((values - self.mean) / self.scale) @ self.weights + np.float32(self.bias)
        return result


def evidence_map(
    classifier: LesionClassifier, features: torch.Tensor, distance_mm: NDArray[np.float32], location_mm: float = LOCATION_MM
) -> NDArray[np.float32]:
    """Feature evidence plus location prior at every pixel; positive where lesion is the better explanation.

    :param features: ``(C, h, w)`` of one slice.
    :param distance_mm: signed distance to the carried contour ``(H, W)``, positive inside.
    :param location_mm: distance that weighs one unit of log-odds.
    """
    cells = np.clip(classifier.log_odds(features), -LIMIT, LIMIT)
    pixels = enlarge(cells, distance_mm.shape[0])
    result: NDArray[np.float32] = pixels + np.clip(distance_mm / location_mm, -LIMIT, LIMIT)
    return result


def enlarge(cells: NDArray[np.float32], pixels: int) -> NDArray[np.float32]:
    """``(h, h)`` -> ``(pixels, pixels)``, bilinear, cell centres kept in place."""
    from scipy import ndimage

    result: NDArray[np.float32] = ndimage.zoom(cells, pixels / cells.shape[0], order=1, grid_mode=True, mode="nearest")
    return result
