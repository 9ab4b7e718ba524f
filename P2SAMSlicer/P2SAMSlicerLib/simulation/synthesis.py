"""Fills a region of a CT with tissue that is nowhere else in it: smooth levels with synthetic texture.

Nothing is copied, so that a network trained on borrowed texture (``fill.py``) can be measured on tissue that was
replaced in another way. Three things are continued into the hole from the tissue beside it, each as the harmonic function
(Laplace's equation) between its known values, which has no seam: how much of each kind of tissue there is (air-filled, fat,
soft), that kind's local mean, and its local noise. The kind that prevails is shown, and over its mean lies Gaussian noise
with the autocorrelation and then the histogram of that kind's own deviations from its local mean. Lengths are in mm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.volume import BoolArray

Float32Array = NDArray[np.float32]
FloatArray = NDArray[np.floating]

#: Kinds of tissue, told apart by the smoothed HU: what the lung holds, fat, and the rest.
KIND_BORDERS_HU = (-300.0, -30.0)

#: What tissue lies this near to the hole is continued into it, and its texture measured.
RING_MM = 15.0
TEXTURE_MM = 30.0

#: Noise is averaged over this width before kinds of tissue are told apart; the local mean of a kind is taken over the other.
NOISE_MM = 1.2
LEVEL_MM = 5.0

#: Texture is measured where the smoothed HU are within this many (robust) standard deviations of the local mean.
PLAIN_DEVIATIONS = 3.0
PLAIN_ROUNDS = 2

#: The harmonic functions are solved on about this spacing, and pulled to the known values this strongly.
COARSE_MM = 3.0
PULL = 3.0

#: Autocorrelation counts up to about this distance.
CORRELATION_MM = 20.0

#: The border between two kinds wavers by this part of a kind, over about so many mm.
WAVER, WAVER_MM = 0.1, 10.0

#: Width of the border between two kinds, as the scanner's blur would make it.
BLUR_MM = 0.7

#: A kind of which fewer voxels than this are known has no texture of its own.
FEWEST_VOXELS = 200


def synthesise_texture(
    hu: Float32Array, hole: BoolArray, source: BoolArray, spacing_zyx: tuple[float, float, float], rng: np.random.Generator
) -> Float32Array:
    """HU with which ``hole`` may be filled; outside the hole the input's HU.

    :param hu: CT in HU ``(z, y, x)``.
    :param hole: voxels to fill.
    :param source: voxels whose tissue is continued and whose texture is imitated; disjoint from ``hole``, not empty.
    :param spacing_zyx: voxel spacing in mm.
    """
    filled: Float32Array = hu.copy()
    if not hole.any():
        return filled
    # Where no allowed tissue lies beside the hole, the nearest there is has to do.
    away = _distance_outside(hole, source, spacing_zyx)
    box = _box(hole, max(TEXTURE_MM, away + RING_MM), spacing_zyx)
    filled[box][hole[box]] = _Synthesis(hu[box], hole[box], source[box], spacing_zyx, rng).values()[hole[box]]
    return filled


def _distance_outside(hole: BoolArray, source: BoolArray, spacing_zyx: tuple[float, float, float]) -> float:
    """Distance in mm from the hole to the nearest source voxel."""
    from scipy.ndimage import distance_transform_edt

    return float(distance_transform_edt(~hole, sampling=spacing_zyx)[source].min())


def _box(hole: BoolArray, margin_mm: float, spacing_zyx: tuple[float, float, float]) -> tuple[slice, ...]:
    places = np.argwhere(hole)
    margin = np.ceil(margin_mm / np.asarray(spacing_zyx)).astype(int)
    low = np.maximum(places.min(axis=0) - margin, 0)
    high = np.minimum(places.max(axis=0) + margin + 1, hole.shape)
    return tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))


@dataclass(frozen=True)
class _Kind:
    """One kind of tissue in the hole, all ``(z, y, x)`` on the CT's grid.

    :param share: how much of it there is, about 0..1.
    :param hu: what it looks like.
    """

    share: Float32Array
    hu: Float32Array


class _Synthesis:
    def __init__(
        self,
        hu: Float32Array,
        hole: BoolArray,
        source: BoolArray,
        spacing: tuple[float, float, float],
        rng: np.random.Generator,
    ) -> None:
        from scipy.ndimage import distance_transform_edt

        self.hu, self.source, self.spacing, self.rng = hu, source, spacing, rng
        self.factors = np.maximum(np.rint(COARSE_MM / np.asarray(spacing)), 1).astype(int)
        away = distance_transform_edt(~hole, sampling=spacing)
        reach = max(RING_MM, float(away[source].min()) + 2 * COARSE_MM)
        self.near = np.asarray(source & (away <= reach))
        self.solver = _Harmonic(self.coarse(hole | (away <= reach)) > 0, np.asarray(spacing) * self.factors)

    def values(self) -> Float32Array:
        """HU, meaningful in the hole."""
        mean = self.smooth(self.hu * self.source, NOISE_MM) / np.maximum(self.smooth(self.source, NOISE_MM), 1e-3)
        quiet: Float32Array = np.asarray(mean, dtype=np.float32)
        number = np.digitize(quiet, KIND_BORDERS_HU)
        present = [k for k in range(len(KIND_BORDERS_HU) + 1) if (self.near & (number == k)).any()]
        kinds = [self.kind(np.asarray(self.source & (number == k)), quiet) for k in present]
        share = np.stack([kind.share + WAVER * self.wavering() for kind in kinds])
        prevails = share.argmax(axis=0)
        total, weight = np.zeros_like(self.hu), np.full_like(self.hu, 1e-6)
        for k, kind in enumerate(kinds):
            part = self.smooth(prevails == k, BLUR_MM)
            total += part * kind.hu
            weight += part
        return np.asarray(total / weight, dtype=np.float32)

    def kind(self, known: BoolArray, quiet: Float32Array) -> _Kind:
        """Continue one kind of tissue, whose known voxels are given.

        :param quiet: the smoothed HU.
        """
        share = self.continued(known.astype(np.float32), self.near)
        for _ in range(PLAIN_ROUNDS):
            known = self.plain(known, quiet)
        beside = known & self.near
        level = self.smooth(self.hu * known, LEVEL_MM) / np.maximum(self.smooth(known, LEVEL_MM), 1e-3)
        deviation = np.where(known, self.hu - level, 0.0).astype(np.float32)
        spread = np.sqrt(self.smooth(deviation**2, LEVEL_MM) / np.maximum(self.smooth(known, LEVEL_MM), 1e-3))
        hu = self.continued(level.astype(np.float32), beside)
        if known.sum() >= FEWEST_VOXELS:
            unit = np.where(known, deviation / np.maximum(spread, 1.0), 0.0).astype(np.float32)
            hu = hu + self.continued(spread.astype(np.float32), beside) * self.texture(unit, known)
        return _Kind(share, np.asarray(hu, dtype=np.float32))

    def plain(self, known: BoolArray, quiet: Float32Array) -> BoolArray:
        """Without septa, vessels and edges: noise of one autocorrelation would make grain of them."""
        level = self.smooth(quiet * known, LEVEL_MM) / np.maximum(self.smooth(known, LEVEL_MM), 1e-3)
        away = np.abs(quiet - level)
        kept = known & (away <= PLAIN_DEVIATIONS * 1.4826 * float(np.median(away[known])))
        return np.asarray(kept) if (kept & self.near).any() else known

    def smooth(self, array: NDArray[np.generic], width_mm: float) -> Float32Array:
        from scipy.ndimage import gaussian_filter

        width = [width_mm / s for s in self.spacing]
        return np.asarray(gaussian_filter(array.astype(np.float32), width, mode="constant", truncate=3.0))

    def coarse(self, array: NDArray[np.generic]) -> Float32Array:
        """Means about every ``factors``-th voxel."""
        from scipy.ndimage import uniform_filter

        mean = uniform_filter(array.astype(np.float32), tuple(int(f) for f in self.factors), mode="nearest")
        return np.asarray(mean[tuple(slice(None, None, int(f)) for f in self.factors)])

    def continued(self, values: Float32Array, known: BoolArray) -> Float32Array:
        """The harmonic continuation of values from where they are known, on the CT's grid."""
        from scipy.ndimage import affine_transform

        part = self.coarse(known)
        mean = self.coarse(values * known) / np.maximum(part, 1e-3)
        field = self.solver.solve(mean, part)
        matrix = np.diag(1.0 / self.factors)
        shape = tuple(self.hu.shape)
        return np.asarray(affine_transform(field, matrix, 0.0, shape, order=1, mode="nearest"), dtype=np.float32)

    def wavering(self) -> Float32Array:
        """A random field of unit variance that varies over about WAVER_MM."""
        field = self.smooth(self.rng.standard_normal(self.hu.shape, dtype=np.float32), WAVER_MM / 2)
        return np.asarray(field / max(float(field.std()), 1e-6), dtype=np.float32)

    def texture(self, unit: Float32Array, known: BoolArray) -> Float32Array:
        """Noise with the autocorrelation and the histogram of known deviations of about unit variance."""
        from scipy.fft import irfftn, next_fast_len, rfftn

        reach = np.ceil(2.0 * CORRELATION_MM / np.asarray(self.spacing)).astype(int)
        shape = [next_fast_len(int(n + r), real=True) for n, r in zip(unit.shape, reach, strict=True)]
        products = irfftn(np.abs(rfftn(unit, shape)) ** 2, shape)
        pairs = irfftn(np.abs(rfftn(known.astype(np.float32), shape)) ** 2, shape)
        lags = [
            np.minimum(np.arange(n), n - np.arange(n)) * s / CORRELATION_MM for n, s in zip(shape, self.spacing, strict=True)
        ]
        squared = lags[0][:, None, None] ** 2 + lags[1][:, None] ** 2 + lags[2] ** 2
        correlation = products / np.maximum(pairs, FEWEST_VOXELS) * np.exp(-2.0 * squared)
        power = np.maximum(rfftn(correlation).real, 0.0)
        noise = irfftn(rfftn(self.rng.standard_normal(shape, dtype=np.float32)) * np.sqrt(power), shape)
        noise = noise[tuple(slice(0, n) for n in unit.shape)]
        ranks = np.linspace(0.0, 1.0, 513)
        return np.asarray(np.interp(noise, np.quantile(noise, ranks), np.quantile(unit[known], ranks)), dtype=np.float32)


class _Harmonic:
    """Harmonic functions on the coarse voxels of a domain, near to known values where there are any.

    :param domain: voxels in which a function is wanted; others get its mean.
    :param spacing: of the coarse voxels in mm.
    """

    def __init__(self, domain: BoolArray, spacing: FloatArray) -> None:
        from scipy.sparse import coo_matrix, diags

        self.domain = domain
        self.size = int(domain.sum())
        number = np.full(domain.shape, -1)
        number[domain] = np.arange(self.size)
        rows, columns, weights = [], [], []
        for axis, step in enumerate(spacing):
            one = np.moveaxis(number, axis, 0)[:-1].ravel()
            two = np.moveaxis(number, axis, 0)[1:].ravel()
            both = (one >= 0) & (two >= 0)
            rows += [one[both], two[both]]
            columns += [two[both], one[both]]
            weights.append(np.full(2 * int(both.sum()), (COARSE_MM / step) ** 2))
        entries = (np.concatenate(weights), (np.concatenate(rows), np.concatenate(columns)))
        neighbours = coo_matrix(entries, shape=(self.size, self.size)).tocsr()
        self.laplacian = diags(np.asarray(neighbours.sum(axis=1)).ravel()) - neighbours

    def solve(self, values: FloatArray, weight: FloatArray) -> Float32Array:
        """The function nearest to values that count with weights from 0 to 1; both on the coarse grid."""
        from scipy.sparse import diags
        from scipy.sparse.linalg import cg

        known, pull = values[self.domain].astype(np.float64), PULL * weight[self.domain].astype(np.float64)
        mean = float((known * pull).sum() / max(pull.sum(), 1e-9))
        # A part of the domain without any known value gets the mean.
        system = self.laplacian + diags(pull + 1e-6)
        preconditioner = diags(1.0 / system.diagonal())
        solved, _ = cg(system, pull * (known - mean), M=preconditioner)
        field = np.full(self.domain.shape, mean, dtype=np.float32)
        field[self.domain] = mean + solved
        return field
