"""Evidence for the lesion at every place of the follow-up: what it looks like there, and where it is expected.

The paper's retrieval asks how near a candidate's feature distribution is to the lesion's (equation 3). That alone cannot see
a contour that is too small, because a part of a lesion looks like the lesion. So clinical mode also learns what the prior's
*surroundings* look like, and weighs the two: the log-odds of lesion against surroundings, once on encoder features and once
on plain HU, plus a location prior from the expected contour.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: Inverse strength of the ridge: 256 encoder features, or three of HU, against some thousand correlated cells of one patient.
FEATURE_REGULARISATION, HU_REGULARISATION = 0.001, 1.0
#: Weights of what the encoder's features and what HU say, against the location prior. Both are learned on one CT of one
#: patient, and are believed less than the place.
FEATURE_WEIGHT, HU_WEIGHT = 0.7, 0.7
#: Log-odds beyond this are not believed: the follow-up differs from the prior in more than the lesion.
LIMIT = 3.0
#: Distance from the expected contour, in mm, that weighs as much as one unit of log-odds.
LOCATION_MM = 3.0
#: Smoothing of the cells' log-odds, in cells, before they are enlarged to pixels.
SMOOTHING_CELLS = 0.7


@dataclass(frozen=True)
class Cells:
    """Feature cells of one or more slices: what the encoder and what the HU say of each.

    :param features: encoder features ``(n, C)``, not normalised.
    :param hu: windowed HU of the cell ``(n, 3)``: mean, standard deviation, mean of the neighbourhood; each 0..1.
    """

    features: NDArray[np.float32]
    hu: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.features)

    def pick(self, chosen: NDArray[np.generic]) -> Cells:
        """The cells of a mask or an index array."""
        return Cells(self.features[chosen], self.hu[chosen])

    @staticmethod
    def join(parts: list[Cells]) -> Cells:
        """Several sets as one."""
        return Cells(np.concatenate([p.features for p in parts]), np.concatenate([p.hu for p in parts]))


def cells_of_slice(features: NDArray[np.float32], gray: NDArray[np.uint8]) -> Cells:
    """All cells of one slice in row-major order.

    :param features: encoder features ``(h, w, C)``.
    :param gray: the windowed image ``(H, W)`` that was encoded, ``H`` and ``W`` being multiples of ``h`` and ``w``.
    """
    cells = features.shape[0]
    return Cells(features.reshape(cells * cells, -1), _hu_of_cells(gray, cells))


def _hu_of_cells(gray: NDArray[np.uint8], cells: int) -> NDArray[np.float32]:
    from scipy import ndimage

    values = gray.astype(np.float32) / 255.0
    mean = pool_to_cells(values, cells)
    deviation = np.sqrt(np.maximum(pool_to_cells(values * values, cells) - mean**2, 0.0))
    around = ndimage.gaussian_filter(mean, 2.0)
    return np.stack([mean, deviation, around], axis=-1).reshape(-1, 3).astype(np.float32)


def pool_to_cells(image: NDArray[np.generic], cells: int) -> NDArray[np.float32]:
    """Mean over each feature cell: ``(H, W)`` -> ``(cells, cells)``, ``H`` and ``W`` being multiples of ``cells``."""
    step = image.shape[-1] // cells
    result: NDArray[np.float32] = image.reshape(cells, step, cells, step).astype(np.float32).mean(axis=(1, 3))
    return result


@dataclass(frozen=True)
class _Logistic:
    """Log-odds that are linear in standardised values."""

    mean: NDArray[np.float32]
    scale: NDArray[np.float32]
    weights: NDArray[np.float32]
    bias: float

    @classmethod
    def fit(cls, inside: NDArray[np.float32], outside: NDArray[np.float32], regularisation: float) -> _Logistic:
        from sklearn.linear_model import LogisticRegression

        values = np.concatenate([inside, outside])
        mean, scale = values.mean(axis=0), values.std(axis=0) + 1e-3
        if not len(outside):
            return cls(mean, scale, np.zeros_like(mean), 0.0)  # no surroundings in view: nothing can be told apart
        labels = np.repeat([1, 0], [len(inside), len(outside)])
        model = LogisticRegression(C=regularisation, max_iter=300, class_weight="balanced")
        model.fit((values - mean) / scale, labels)
        return cls(mean, scale, model.coef_[0].astype(np.float32), float(model.intercept_[0]))

    def __call__(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        result: NDArray[np.float32] = ((values - self.mean) / self.scale) @ self.weights + np.float32(self.bias)
        return result


@dataclass(frozen=True)
class LesionEvidence:
    """What tells the prior's lesion from its surroundings."""

    _by_features: _Logistic
    _by_hu: _Logistic

    @classmethod
    def learn(cls, lesion: Cells, surroundings: Cells) -> LesionEvidence:
        """Learn from the prior's cells; lesion and surroundings count alike however many cells they have."""
        return cls(
            _Logistic.fit(lesion.features, surroundings.features, FEATURE_REGULARISATION),
            _Logistic.fit(lesion.hu, surroundings.hu, HU_REGULARISATION),
        )

    def map(self, cells: Cells, distance_mm: NDArray[np.float32]) -> NDArray[np.float32]:
        """Evidence at every pixel of a slice; positive where lesion is the better explanation.

        :param cells: all cells of the slice, see :func:`cells_of_slice`.
        :param distance_mm: signed distance to the expected contour ``(H, W)``, positive inside.
        """
        pixels = distance_mm.shape[0]
        by_features = _as_pixels(self._by_features(cells.features), pixels)
        by_hu = _as_pixels(self._by_hu(cells.hu), pixels)
        location = np.clip(distance_mm / LOCATION_MM, -LIMIT, LIMIT)
        result: NDArray[np.float32] = FEATURE_WEIGHT * by_features + HU_WEIGHT * by_hu + location
        return result

    def hu_map(self, gray: NDArray[np.uint8], cells: int) -> NDArray[np.float32]:
        """What HU alone say at every pixel of a windowed slice ``(H, W)``, divided into ``cells x cells`` feature cells."""
        return _as_pixels(self._by_hu(_hu_of_cells(gray, cells)), gray.shape[0])


def _as_pixels(log_odds: NDArray[np.float32], pixels: int) -> NDArray[np.float32]:
    """Log-odds of a slice's cells as ``(pixels, pixels)``, smoothed, bilinear, centres kept in place, within :data:`LIMIT`."""
    from scipy import ndimage

    side = round(len(log_odds) ** 0.5)
    smooth = ndimage.gaussian_filter(log_odds.reshape(side, side), SMOOTHING_CELLS)
    enlarged: NDArray[np.float32] = ndimage.zoom(smooth, pixels / side, order=1, grid_mode=True, mode="nearest")
    return np.clip(enlarged, -LIMIT, LIMIT)
