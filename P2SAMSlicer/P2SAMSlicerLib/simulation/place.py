"""Finds room in a CT for a lesion that is put there: tissue of the wanted kind, away from bone, skin and other lesions.

The search runs on blocks of about 3 mm. All lengths are in mm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.simulation.tissue import BONE_HU, SKIN_MM, SOFT_TISSUE_HU, TISSUE_HU
from P2SAMSlicerLib.volume import BoolArray, Volume

FloatArray = NDArray[np.floating]
Float32Array = NDArray[np.float32]
Tissue = Literal["soft", "lung"]

BLOCK_MM = 3.0

#: Lung, averaged over a block: vessels do not count, the mediastinum and the chest wall do.
LARGEST_LUNG_HU = -500.0

#: A lesion lies this far from other lesions and from the edge of the CT.
GAP_MM = 8.0
EDGE_MM = 10.0

#: Costs of a place in HU: what its mean misses, its standard deviation, its distance. One of the places within CHOICE_HU of
#: the best is drawn. A mean that misses by more than LIKE_HU is no like tissue.
FAR_COST_PER_MM = 0.2
CHOICE_HU = 15.0
LIKE_HU = 50.0

#: The tissue around a lesion is what lies between these distances from it.
AROUND_MM = (3.0, 12.0)


@dataclass(frozen=True)
class Place:
    """Where a stamp fits.

    :param low: CT voxel ``(z, y, x)`` onto which the stamp's first voxel goes.
    :param hu: mean HU of the tissue there.
    """

    low: tuple[int, int, int]
    hu: float


class Rooms:
    """The room that a CT has beside the lesions that are there.

    :param ct: CT in HU.
    :param taken: lesions, ``(z, y, x)`` on its grid; not empty.
    """

    def __init__(self, ct: Volume, taken: BoolArray) -> None:
        from scipy.ndimage import binary_fill_holes, distance_transform_edt, label

        self.name, self.shape = ct.name, ct.array.shape
        spacing = np.asarray(ct.grid.spacing_zyx)
        self.factors = np.maximum(np.rint(BLOCK_MM / spacing), 1).astype(int)
        self.spacing = tuple(float(s) for s in spacing * self.factors)
        self.hu = self._blocks(np.clip(ct.array, -1024, 1000).astype(np.float32))
        self.taken = self._blocks(taken.astype(np.float32)) > 0
        parts, count = label(self.hu > SOFT_TISSUE_HU)
        # The couch is another part than the patient.
        body = parts == 1 + int(np.bincount(parts.ravel())[1:].argmax()) if count else parts > 0
        bone = self.hu > BONE_HU
        inside = np.stack([binary_fill_holes(plane) for plane in body])
        marrow = np.stack([binary_fill_holes(plane) for plane in bone])
        lung = inside & (self.hu > TISSUE_HU) & (self.hu < LARGEST_LUNG_HU)
        self.away = distance_transform_edt(~self.taken, sampling=self.spacing)
        below_skin = distance_transform_edt(body, sampling=self.spacing) > SKIN_MM
        self.tissues: dict[Tissue, BoolArray] = {"soft": body & below_skin & ~marrow, "lung": lung}

    def around(self) -> tuple[Tissue, float]:
        """The tissue that most of the lesions' surroundings are, and its median HU.

        :raises InputError: there is none.
        """
        ring = (self.away >= AROUND_MM[0]) & (self.away <= AROUND_MM[1])
        parts: dict[Tissue, BoolArray] = {kind: where & ring for kind, where in self.tissues.items()}
        most = max(parts, key=lambda kind: int(parts[kind].sum()))
        if not parts[most].any():
            raise InputError(f"{self.name}: no normal tissue around the lesion")
        return most, float(np.median(self.hu[parts[most]]))

    def find(self, stamp: BoolArray, tissue: Tissue, hu: float | None, rng: np.random.Generator, near: bool = False) -> Place:
        """A place for a stamp, drawn among those that suit it best.

        :param stamp: True where tissue is taken, on voxels of the CT's spacing; not empty.
        :param hu: mean HU that the place should have, or None.
        :param near: whether a place near to the lesions that are there is better.
        :raises InputError: there is no room.
        """
        from scipy.signal import fftconvolve

        small = self._blocks(stamp.astype(np.float32)) > 0
        if any(a > b for a, b in zip(small.shape, self.hu.shape, strict=True)):
            raise InputError(f"{self.name}: no room in the CT for another lesion of this size")
        turned = small[::-1, ::-1, ::-1].astype(np.float64)
        bad = ~self.tissues[tissue] | (self.away <= GAP_MM) | self._edge()
        free = fftconvolve(bad.astype(np.float64), turned, mode="valid") < 0.5
        if not free.any():
            raise InputError(f"{self.name}: no room in {_name(tissue)} for another lesion of this size")
        # The CT's mean is taken off first: squares of HU would leave no digits for the noise.
        shift = float(self.hu[self.tissues[tissue]].mean())
        values = (self.hu - shift).astype(np.float64)
        mean = fftconvolve(values, turned, mode="valid") / turned.sum()
        square = fftconvolve(values**2, turned, mode="valid") / turned.sum()
        misfit = np.zeros_like(mean) if hu is None else np.abs(mean + shift - hu)
        if hu is not None and not (free & (misfit <= LIKE_HU)).any():
            raise InputError(f"{self.name}: no room in tissue like that around the lesion for another of this size")
        cost = misfit + np.sqrt(np.maximum(square - mean**2, 0.0))
        if near:
            cost = cost + FAR_COST_PER_MM * self._distance(mean.shape, small.shape)
        cost[~free] = np.inf
        choice = np.argwhere(cost <= cost.min() + CHOICE_HU)
        block = choice[int(rng.integers(len(choice)))]
        low = block * self.factors
        return Place((int(low[0]), int(low[1]), int(low[2])), float(mean[tuple(block)]) + shift)

    def _blocks(self, array: Float32Array) -> Float32Array:
        """Means over blocks; the last ones are filled up with the edge's values."""
        widths = [(0, int(-n % f)) for n, f in zip(array.shape, self.factors, strict=True)]
        padded = np.pad(array, widths, mode="edge")
        shape: list[int] = []
        for n, f in zip(padded.shape, self.factors, strict=True):
            shape += [n // int(f), int(f)]
        return np.asarray(padded.reshape(shape).mean(axis=(1, 3, 5)), dtype=np.float32)

    def _edge(self) -> BoolArray:
        """Blocks at the edge of the CT; a single slice has only its four sides."""
        edge = np.ones(self.hu.shape, dtype=bool)
        inner = []
        for n, step in zip(self.hu.shape, self.spacing, strict=True):
            width = int(np.ceil(EDGE_MM / step))
            inner.append(slice(width, max(n - width, width)))
        edge[tuple(inner)] = False
        return edge

    def _distance(self, shape: tuple[int, ...], stamp: tuple[int, ...]) -> FloatArray:
        """Distance in mm from a stamp's middle at each place to the middle of the lesions."""
        middle = np.argwhere(self.taken).mean(axis=0) - (np.asarray(stamp) - 1) / 2
        squares: Any = 0.0
        for axis, (n, step) in enumerate(zip(shape, self.spacing, strict=True)):
            along = ((np.arange(n) - middle[axis]) * step) ** 2
            squares = squares + along.reshape([-1 if a == axis else 1 for a in range(3)])
        return np.asarray(np.sqrt(squares))


def _name(tissue: Tissue) -> str:
    return "the lung" if tissue == "lung" else "soft tissue"
