"""Fills a region of a CT with texture borrowed from elsewhere in the same CT, so that it looks like tissue.

Each voxel of the hole takes the HU of one other voxel. Where that voxel lies is chosen per neighbourhood among
candidates: the mirror image across the hole's border, which continues structures without a seam, and translations. A
candidate costs what it would show wrongly at the hole's border, how unusual it is next to the hole, and more where it
reaches forbidden tissue; the costs are smoothed before the cheapest is taken, so that whole patches are borrowed and not
single voxels (cost-volume filtering, Hosni et al., IEEE TPAMI 2013). All lengths are in mm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.volume import BoolArray

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.floating]
Float32Array = NDArray[np.float32]

#: The choice is made on a grid of about this spacing.
COARSE_MM = 3.0

#: Known tissue this near to the hole tells whether a translation continues it.
RING_MM = 8.0

#: Width over which costs are smoothed, hence about the size of the patches.
SMOOTHING_MM = 5.0

#: Translations tried: this many lengths, in all 26 directions.
N_LENGTHS = 5
SHORTEST_MM = 8.0

#: Costs in HU: a mirror image repeats the border more obviously the deeper it reaches; a far source fits less surely;
#: a forbidden source.
MIRROR_COST_PER_MM = 4.0
FAR_COST_PER_MM = 0.3
FORBIDDEN_COST = 400.0

#: What is usual around a place is told by tissue within about this distance of the hole, by this many steps of a mean
#: shift with this kernel width in HU.
USUAL_MM = 4.0
MODE_STEPS = 4
MODE_HU = 60.0

#: Misfits are judged on HU averaged over this width, so that noise does not decide.
NOISE_MM = 2.5

#: A candidate costs this much less where all its neighbours take it too, in so many rounds: many small patches would whiten
#: the noise by their seams.
AGREEMENT_HU = 40.0
AGREEMENT_ROUNDS = 4

#: HU differences count up to this: beyond it, it is another tissue anyway. Where nothing is known, a third of it is assumed.
LARGEST_MISFIT = 150.0
UNKNOWN_WEIGHT = 0.01


def borrow_texture(
    hu: Float32Array, hole: BoolArray, known: BoolArray, source: BoolArray, spacing_zyx: tuple[float, float, float]
) -> Float32Array:
    """HU with which ``hole`` may be filled; outside the hole the input's HU.

    :param hu: CT in HU ``(z, y, x)``.
    :param hole: voxels to fill.
    :param known: voxels on the other side of the border across which is mirrored; disjoint from ``hole``.
    :param source: voxels whose HU may be borrowed; a subset of ``known``, not empty.
    :param spacing_zyx: voxel spacing in mm.
    """
    from scipy.ndimage import distance_transform_edt

    filled: Float32Array = hu.copy()
    if not hole.any():
        return filled
    depth, nearest = distance_transform_edt(~known, sampling=spacing_zyx, return_indices=True)
    target = np.argwhere(hole)
    # The mirror image in the nearest known voxel.
    mirrored = 2 * _at(nearest, target).T.astype(np.int64) - target
    mirror_hu, mirror_forbidden = np.zeros_like(hu), np.zeros_like(hu)
    mirror_hu[hole], mirror_forbidden[hole] = _lookup(hu, mirrored), ~_lookup(source, mirrored)
    costs = _Costs(hu, hole, known, source, spacing_zyx)
    label, steps = costs.cheapest(depth, mirror_hu, mirror_forbidden, 2 * float(depth[hole].max()) + 20.0)
    place = (target / costs.factors - costs.low).T
    total, weight_sum = np.zeros(len(target)), np.zeros(len(target))
    for number in np.unique(label):
        borrowed = mirrored if number == 0 else target + steps[number - 1] * costs.factors
        weight = _patch_weight(label == number, place)
        used = np.flatnonzero(weight > 1e-3)
        used = used[_lookup(source, borrowed[used])]
        total[used] += weight[used] * _lookup(hu, borrowed[used])
        weight_sum[used] += weight[used]
    bare = weight_sum == 0
    if bare.any():
        # The patch's source is forbidden just here: take the allowed voxel nearest to the mirror image.
        allowed = distance_transform_edt(~source, sampling=spacing_zyx, return_distances=False, return_indices=True)
        inside = np.clip(mirrored[bare], 0, np.asarray(hu.shape) - 1)
        total[bare] = hu[tuple(_at(allowed, inside))]
        weight_sum[bare] = 1.0
    filled[hole] = total / weight_sum
    return filled


def _at(array: NDArray[Any], place: IntArray) -> NDArray[Any]:
    """Columns ``(k, n)`` of a field ``(k, z, y, x)`` at voxels ``(n, 3)``."""
    return np.asarray(array[:, place[:, 0], place[:, 1], place[:, 2]])


def _lookup(array: NDArray[Any], place: IntArray) -> NDArray[Any]:
    """Values at voxels ``(n, 3)``; 0 outside the array."""
    inside = ((place >= 0) & (place < np.asarray(array.shape))).all(axis=1)
    values = np.zeros(len(place), dtype=array.dtype)
    values[inside] = array[tuple(place[inside].T)]
    return values


def _patch_weight(patch: BoolArray, coarse_place: FloatArray) -> FloatArray:
    """Weight of a patch at continuous coarse indices ``(3, n)``; patches overlap over about a voxel only."""
    from scipy.ndimage import map_coordinates

    weight = map_coordinates(patch.astype(np.float64), coarse_place, order=1, mode="nearest")
    return np.asarray(weight**4)


@dataclass(frozen=True)
class _View:
    """Coarse arrays of one region: HU, how much of each voxel is known, and how much may be borrowed."""

    hu: Float32Array
    known: Float32Array
    source: Float32Array


class _Costs:
    """Costs of candidates on the coarse grid around the hole.

    ``factors`` are CT voxels per coarse voxel along each axis; the coarse arrays begin at coarse voxel ``low``.
    """

    def __init__(
        self,
        hu: Float32Array,
        hole: BoolArray,
        known: BoolArray,
        source: BoolArray,
        spacing_zyx: tuple[float, float, float],
    ) -> None:
        from scipy.ndimage import distance_transform_edt

        self.factors: IntArray = np.maximum(np.rint(COARSE_MM / np.asarray(spacing_zyx)), 1).astype(np.int64)
        self.spacing: FloatArray = np.asarray(spacing_zyx, dtype=np.float64) * self.factors
        hole_part, known_part, source_part = self._coarse(hole), self._coarse(known), self._coarse(source)
        known_weight = np.maximum(self._smooth(known_part, NOISE_MM), 1e-3)
        quiet = (self._smooth(self._coarse(hu * known), NOISE_MM) / known_weight).astype(np.float32)
        self.everywhere = _View(quiet, known_part, source_part)
        places = np.argwhere(hole_part > 0)
        margin = np.ceil(RING_MM / self.spacing).astype(int)
        self.low = np.maximum(places.min(axis=0) - margin, 0)
        high = np.minimum(places.max(axis=0) + margin + 1, hole_part.shape)
        self.box = tuple(slice(int(a), int(b)) for a, b in zip(self.low, high, strict=True))
        self.hole = hole_part[self.box]
        self.hole_weight = self._smooth(self.hole) + 1e-6
        away = distance_transform_edt(self.hole <= 0, sampling=self.spacing)
        self.ring = np.asarray(known_part[self.box] * (away <= RING_MM), dtype=np.float32)
        self.ring_weight = self._smooth(self.ring) + UNKNOWN_WEIGHT
        self.usual = self._usual(source_part[self.box] * np.exp(-away / USUAL_MM))

    def _coarse(self, array: NDArray[Any]) -> Float32Array:
        from scipy.ndimage import uniform_filter

        mean = uniform_filter(array.astype(np.float32), tuple(int(f) for f in self.factors), mode="nearest")
        return np.asarray(mean[tuple(slice(None, None, int(f)) for f in self.factors)])

    def _smooth(self, array: FloatArray, width_mm: float = SMOOTHING_MM) -> Float32Array:
        from scipy.ndimage import gaussian_filter

        width = [float(width_mm / s) for s in self.spacing]
        return np.asarray(gaussian_filter(array, width, mode="constant", truncate=3.0), dtype=np.float32)

    def _usual(self, near: FloatArray) -> FloatArray:
        """What allowed tissue mostly shows around each place: a local mode, so that between fat and muscle it is one."""
        hu, weight = self.everywhere.hu[self.box], near
        for _ in range(MODE_STEPS):
            everywhere = float((hu * weight).sum()) / max(float(weight.sum()), 1e-6)
            total, amount = np.full(hu.shape, 1e-5 * everywhere), np.full(hu.shape, 1e-5)
            for width, share in ((8.0, 1.0), (24.0, 0.03)):
                total += share * self._smooth(hu * weight, width)
                amount += share * self._smooth(weight, width)
            usual = total / amount
            weight = near * np.exp(-(((hu - usual) / MODE_HU) ** 2))
        return np.asarray(usual)

    def _in_hole(self, cost: FloatArray) -> FloatArray:
        """The mean over the hole's neighbourhood of each place."""
        return self._smooth(cost * self.hole) / self.hole_weight

    def mirror(self, depth: FloatArray, mirror_hu: Float32Array, forbidden: Float32Array) -> FloatArray:
        """Cost of the mirror image; the HU and the forbidden part are given on the CT's grid, 0 outside the hole."""
        stride = tuple(slice(None, None, int(f)) for f in self.factors)
        part = np.maximum(self.hole, 1e-3)
        hu, bad = self._coarse(mirror_hu)[self.box] / part, self._coarse(forbidden)[self.box] / part
        content = self._in_hole(_misfit(hu, self.usual) + FORBIDDEN_COST * bad)
        return content + MIRROR_COST_PER_MM * depth[stride][self.box]

    def translation(self, view: _View, length_mm: float) -> FloatArray:
        """Cost of what is seen after a translation."""
        shown = np.where(view.known > 0.99, _misfit(view.hu, self.everywhere.hu[self.box]), LARGEST_MISFIT)
        border = (self._smooth(shown * self.ring) + UNKNOWN_WEIGHT * LARGEST_MISFIT / 3) / self.ring_weight
        content = self._in_hole(_misfit(view.hu, self.usual) + FORBIDDEN_COST * (1 - view.source))
        return border + content + FAR_COST_PER_MM * length_mm

    def cheapest(
        self, depth: FloatArray, mirror_hu: Float32Array, mirror_forbidden: Float32Array, longest_mm: float
    ) -> tuple[IntArray, IntArray]:
        """The cheapest candidate: 0 is the mirror image, ``k`` the translation ``steps[k - 1]``.

        :return: candidate numbers on the coarse grid around the hole; steps ``(n, 3)`` in coarse voxels.
        """
        costs = [self.mirror(depth, mirror_hu, mirror_forbidden)]
        steps = _steps(longest_mm, self.spacing)
        reach = np.abs(steps).max(axis=0)
        widths = [(int(r), int(r)) for r in reach]
        hu, known, source = (np.pad(a, widths) for a in (self.everywhere.hu, self.everywhere.known, self.everywhere.source))
        for step in steps:
            moved = tuple(slice(b.start + r + s, b.stop + r + s) for b, r, s in zip(self.box, reach, step, strict=True))
            view = _View(hu[moved], known[moved], source[moved])
            costs.append(self.translation(view, float(np.linalg.norm(step * self.spacing))))
        return self._agreed(np.stack(costs).astype(np.float32)), steps

    def _agreed(self, costs: Float32Array) -> IntArray:
        """The cheapest candidate of each place, given what its neighbours take."""
        label = costs.argmin(axis=0)
        for _ in range(AGREEMENT_ROUNDS):
            lowest = np.full(label.shape, np.inf, dtype=np.float32)
            agreed = label.copy()
            for number in np.unique(label[self.hole > 0]):
                votes = self._in_hole((label == number).astype(np.float32))
                cost = costs[number] - AGREEMENT_HU * votes
                better = cost < lowest
                agreed[better], lowest[better] = number, cost[better]
            label = agreed
        return np.asarray(label, dtype=np.int64)


def _misfit(values: FloatArray, target: FloatArray) -> FloatArray:
    return np.asarray(np.minimum(np.abs(values - target), LARGEST_MISFIT))


def _steps(longest_mm: float, coarse_spacing: FloatArray) -> IntArray:
    """Translations in coarse voxels ``(n, 3)``: every length in each of the 26 directions, without doubles."""
    directions = np.stack(np.meshgrid([-1, 0, 1], [-1, 0, 1], [-1, 0, 1], indexing="ij"), axis=-1).reshape(-1, 3)
    directions = directions[np.abs(directions).sum(axis=1) > 0]
    unit = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    lengths = np.geomspace(SHORTEST_MM, max(longest_mm, SHORTEST_MM + 1), N_LENGTHS)
    steps = np.rint(unit[None] * lengths[:, None, None] / coarse_spacing).astype(np.int64).reshape(-1, 3)
    steps = np.unique(steps, axis=0)
    return np.asarray(steps[np.abs(steps).sum(axis=1) > 0])
