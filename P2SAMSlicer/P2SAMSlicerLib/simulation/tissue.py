"""Changes the lesion in a CT on the CT's own grid: new outline first, then replaced tissue.

The new outline is where ``phi + s w < 0``: ``phi`` is the old outline's signed distance in mm, ``w`` says where the outline
gives way, and the one number ``s`` is solved so that the lesion gets exactly the volume asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.simulation.fill import borrow_texture
from P2SAMSlicerLib.simulation.synthesis import synthesise_texture
from P2SAMSlicerLib.volume import BoolArray, Volume

Float32Array = NDArray[np.float32]

#: Below this a voxel of the smoothed CT holds no tissue; lung (about -850 HU) lies above, air and padding below.
TISSUE_HU = -930.0
#: Away from the lung, what lies below this is a couch's foam, gas, or a blurred skin line, and never tissue.
SOFT_TISSUE_HU = -300.0
BONE_HU = 200.0

#: There is lung around the lesion if this part of what lies this near to it has HU between the two figures above.
LUNG_NEAR_MM = 10.0
LUNG_PART = 0.15

#: A lesion neither grows into the outermost millimetres of the body, nor is skin borrowed to fill what it leaves.
SKIN_MM = 3.0

#: Blur and hand-drawn contours let a lesion's HU reach about this far across its outline.
RIM_MM = 2.0

#: Bone gives way to growth this much less than soft tissue.
BONE_YIELD = 0.1

#: Lesion texture is borrowed from what lies within this many HU of the lesion's median; a stripe of anything else that deep
#: at a border that grows is taken over.
TYPICAL_HU = 50.0
STRIPE_MM = 8.0

#: How unevenly an outline moves: between 1 - UNEVENNESS and 1 + UNEVENNESS times its mean, over about UNEVEN_MM.
UNEVENNESS = 0.5
UNEVEN_MM = 20.0

#: A necrotic core takes this part of the lesion's volume, darkens by this many HU, over a border of this width.
CORE_PART = (0.3, 0.6)
CORE_HU = (25.0, 45.0)
CORE_BORDER_MM = 4.0

#: Pieces that come loose are dropped below this part of the piece that they were in: a change is no scatter of crumbs.
CRUMB_PART = 0.03
CRUMB_ROUNDS = 3

#: A volume that misses the change asked for by more than this part of the change is refused.
VOLUME_TOLERANCE = 0.25

#: Volumes are solved on about this many sub-voxel samples.
VOLUME_SAMPLES = 500_000


@dataclass(frozen=True)
class ChangedTissue:
    """The prior CT with the lesion as it is at the follow-up.

    :param hu: HU on the prior's grid, ``float32``.
    :param signed_distance: about the distance in mm to the new outline, negative inside; positive everywhere if none is left.
    :param details: what was drawn, ready for JSON.
    """

    hu: Float32Array
    signed_distance: Float32Array
    details: dict[str, Any]


@dataclass(frozen=True)
class Filling:
    """How replaced tissue is made.

    :param name: one of ``simulation.FILLS``.
    :param rng: draws what is synthesised.
    """

    name: str
    rng: np.random.Generator

    def fill(
        self,
        hu: Float32Array,
        hole: BoolArray,
        known: BoolArray,
        source: BoolArray,
        spacing_zyx: tuple[float, float, float],
    ) -> Float32Array:
        """HU with which ``hole`` may be filled; see :func:`~P2SAMSlicerLib.simulation.fill.borrow_texture` for the arrays."""
        if self.name == "synthesis":
            return synthesise_texture(hu, hole, source, spacing_zyx, self.rng)
        return borrow_texture(hu, hole, known, source, spacing_zyx)


def change_tissue(
    ct: Volume,
    mask: BoolArray,
    change: str,
    fraction: float,
    rng: np.random.Generator,
    filling: Filling,
    others: BoolArray | None = None,
) -> ChangedTissue:
    """Change the lesion and replace the tissue that it leaves or takes.

    :param ct: CT in HU as ``float32``; not altered.
    :param mask: the lesion, ``(z, y, x)`` on the CT's grid.
    :param change: one of ``simulation.CHANGES``.
    :param fraction: signed change of volume as a fraction of the mask's.
    :param filling: how the tissue is made that replaces other tissue.
    :param others: lesions that are not contoured; nothing is taken from them, and the lesion does not grow into them.
    :raises InputError: the mask holds no tissue, nothing but lesion lies around it, or it cannot grow that much there.
    """
    spacing = ct.grid.spacing_zyx
    if float(np.median(ct.array[mask])) < TISSUE_HU:
        raise InputError(f"{ct.name}: the mask lies in air; there is no lesion to change")
    crop = _crop(mask, spacing, fraction)
    part = _Part(ct.array[crop].copy(), mask[crop], spacing, None if others is None else others[crop])
    details: dict[str, Any] = {}
    new = _new_outline(part, change, fraction, rng, details)
    volume = _volume(new)
    asked = float(mask.sum()) * (1.0 + fraction)
    if abs(volume - asked) > VOLUME_TOLERANCE * max(abs(asked - float(mask.sum())), 0.2 * asked):
        raise InputError(
            f"{ct.name}: '{change}' can make the lesion {volume * ct.grid.voxel_ml:.2f} ml here and not the "
            f"{asked * ct.grid.voxel_ml:.2f} ml asked for"
        )
    if change == "necrosis":
        details.update(_darken_core(part, rng))
    if fraction != 0.0:
        part.hu[...] = _replaced(part, new, filling, ct.name)
    hu, distance = ct.array.copy(), np.full(ct.array.shape, max(float(new.max()), 1.0), dtype=np.float32)
    hu[crop], distance[crop] = part.hu, new
    details["changed_ml"] = volume * ct.grid.voxel_ml
    return ChangedTissue(hu, distance, details)


def _new_outline(part: _Part, change: str, fraction: float, rng: np.random.Generator, details: dict[str, Any]) -> Float32Array:
    """The new outline's distance, about in mm, negative inside."""
    old = part.old
    if change == "vanish":
        return np.full_like(old, max(10.0, float(np.abs(old).max())))
    if fraction == 0.0:
        return np.array(old)
    give = _give(part, change, fraction, rng, details)
    volume = float(part.mask.sum()) * (1.0 + fraction)
    new = old + _solve(old, give, volume) * give
    for _ in range(CRUMB_ROUNDS):
        crumbs = _crumbs(part.old, new)
        if not crumbs.any():
            break
        old = np.where(crumbs, np.abs(new) + RIM_MM, old)
        new = old + _solve(old, give, volume) * give
    return np.asarray(new, dtype=np.float32)


class _Part:
    """The surroundings of the lesion, and what tissue they hold.

    :param hu: HU ``(z, y, x)``; changed in place.
    :param mask: the lesion at the prior visit.
    :param spacing: ``(z, y, x)`` in mm.
    :param others: lesions that are not contoured, or None.
    """

    def __init__(
        self, hu: Float32Array, mask: BoolArray, spacing: tuple[float, float, float], others: BoolArray | None = None
    ) -> None:
        from scipy.ndimage import distance_transform_edt, gaussian_filter

        self.hu, self.mask, self.spacing = hu, mask, spacing
        #: The old outline's signed distance in mm. Read linearly, a voxel mask's distance encloses a little less than its
        #: voxels do (13 % for 5 mm in 3 mm slices), so the outline is set where it encloses as much.
        self.old = signed_distance(mask, spacing)
        self.old += _solve(self.old, np.ones_like(self.old), float(mask.sum()))
        smooth = gaussian_filter(hu, [1.0 / s for s in spacing])
        self.bone = smooth > BONE_HU
        self.tissue = smooth > SOFT_TISSUE_HU
        #: Tissue at least SKIN_MM below the skin.
        self.inner = distance_transform_edt(self.tissue, sampling=spacing) > SKIN_MM
        airy = smooth > TISSUE_HU
        near = (self.old > 0) & (self.old < LUNG_NEAR_MM)
        if (airy & ~self.tissue & near).sum() > LUNG_PART * near.sum():
            # A blurred skin line has the lung's HU too, but is nowhere SKIN_MM thick.
            deep = distance_transform_edt(airy, sampling=spacing) > SKIN_MM
            if (deep & ~self.tissue & near).sum() > LUNG_PART * near.sum():
                self.tissue, self.inner = airy, deep
        if others is not None and others.any():
            self.inner = self.inner & (distance_transform_edt(~others, sampling=spacing) > RIM_MM)


def signed_distance(mask: BoolArray, spacing_zyx: tuple[float, float, float]) -> Float32Array:
    """Signed distance in mm to a mask's border, negative inside; it crosses 0 half-way between inside and outside voxels.

    :param mask: ``(z, y, x)``; where it is empty or full the distance is constant.
    """
    from scipy.ndimage import distance_transform_edt

    far = np.float32(np.max(np.asarray(mask.shape) * spacing_zyx))
    if not mask.any():
        return np.full(mask.shape, far, dtype=np.float32)
    if mask.all():
        return np.full(mask.shape, -far, dtype=np.float32)
    outside = distance_transform_edt(~mask, sampling=spacing_zyx)
    inside = distance_transform_edt(mask, sampling=spacing_zyx)
    half = 0.5 * min(spacing_zyx)
    return np.asarray(np.where(mask, half - inside, outside - half), dtype=np.float32)


def _crop(mask: BoolArray, spacing_zyx: tuple[float, float, float], fraction: float) -> tuple[slice, ...]:
    """The lesion's surroundings: room to grow, and tissue to borrow."""
    places = np.argwhere(mask)
    extent = (places.max(axis=0) - places.min(axis=0) + 1) * spacing_zyx
    room = 50.0 + 0.5 * float(extent.min()) + float(extent.max()) * max(fraction, 0.0) / 2
    margin = np.ceil(room / np.asarray(spacing_zyx)).astype(int)
    low = np.maximum(places.min(axis=0) - margin, 0)
    high = np.minimum(places.max(axis=0) + margin + 1, mask.shape)
    return tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))


def _unevenness(shape: tuple[int, ...], spacing: tuple[float, float, float], rng: np.random.Generator) -> Float32Array:
    """A smooth random field within -1..1 that varies over about UNEVEN_MM."""
    from scipy.ndimage import affine_transform

    step = np.asarray(spacing) / UNEVEN_MM
    knots = rng.standard_normal([int(np.ceil(n * s)) + 4 for n, s in zip(shape, step, strict=True)])
    # A whole matrix although it is diagonal: SciPy before 1.16 warns of a vector in its place.
    field = affine_transform(knots, np.diag(step), 1.0, tuple(shape), order=3, prefilter=False)
    return np.asarray(field / np.abs(field).max(), dtype=np.float32)


def _give(part: _Part, change: str, fraction: float, rng: np.random.Generator, details: dict[str, Any]) -> Float32Array:
    """How far each place's outline moves, relative to the others: the ``w`` of the module's text; never negative."""
    from scipy.ndimage import gaussian_filter

    old = part.old
    give = 1.0 + UNEVENNESS * _unevenness(old.shape, part.spacing, rng)
    if change == "partial":
        direction = rng.standard_normal(3)
        direction /= np.linalg.norm(direction)
        give = give * _one_side(part, direction, fraction)
        details["partial_direction_zyx"] = [float(v) for v in direction]
    elif change in ("grow", "necrosis"):
        barrier = np.where(part.inner, np.where(part.bone, BONE_YIELD, 1.0), 0.0)
        barrier = np.where(part.mask, 1.0, barrier)
        give = give * np.minimum(barrier, gaussian_filter(barrier, [1.0 / s for s in part.spacing]))
    return np.asarray(give, dtype=np.float32)


def _one_side(part: _Part, direction: NDArray[np.float64], fraction: float) -> Float32Array:
    """0 over the half of what shall be left that lies farthest against ``direction``, rising smoothly to 1 along it."""
    along_mask = (np.argwhere(part.mask) * part.spacing) @ direction
    start = float(np.quantile(along_mask, 0.5 * (1.0 + fraction)))
    width = max(0.5 * float(np.ptp(along_mask)), min(part.spacing))
    axes = [np.arange(n) * s * d for n, s, d in zip(part.mask.shape, part.spacing, direction, strict=True)]
    along = axes[0][:, None, None] + axes[1][:, None] + axes[2]
    side = np.clip((along - start) / width, 0.0, 1.0)
    return np.asarray(side**2 * (3 - 2 * side), dtype=np.float32)


def _fine(array: Float32Array, n_per_axis: int) -> Float32Array:
    """Linear interpolation at ``n_per_axis`` samples per voxel and axis, flat.

    Each sample lies anywhere within its part of the voxel (the same place at every call): on a regular lattice whole
    flat faces of a lesion have one distance, and no bound on it gives a volume between with and without the face.
    """
    from scipy.ndimage import map_coordinates

    rng = np.random.default_rng(0)
    shape = tuple(n * n_per_axis for n in array.shape)
    places = np.indices(shape, dtype=np.float32).reshape(3, -1)
    places = (places + rng.random(places.shape, dtype=np.float32)) / n_per_axis - 0.5
    return np.asarray(map_coordinates(array, places, order=1, mode="nearest"))


def _samples_per_axis(size: int) -> int:
    return int(np.clip((VOLUME_SAMPLES / size) ** (1 / 3), 1, 6))


def _near(old: Float32Array, new: Float32Array) -> tuple[slice, ...]:
    """Bounding box of all that is or was inside, and one voxel more."""
    places = np.argwhere((old < 0) | (new < 0))
    return tuple(slice(max(int(a) - 1, 0), int(b) + 2) for a, b in zip(places.min(axis=0), places.max(axis=0), strict=True))


def _solve(old: Float32Array, give: Float32Array, voxels: float) -> float:
    """The ``s`` at which ``old + s give`` is negative over a volume of ``voxels`` voxels (as near as the tissue lets it)."""
    # A sample is inside as long as s stays below -old / give: s is the quantile of that ratio.
    ratio = -old / np.maximum(give, 1e-4)
    rough = _nth_largest(ratio, voxels)
    box = _near(old, old + (rough - 2.0) * give)
    n = _samples_per_axis(old[box].size)
    ratio = -_fine(old[box], n) / np.maximum(_fine(give[box], n), 1e-4)
    return _nth_largest(ratio, voxels * n**3)


def _nth_largest(values: NDArray[np.floating], n: float) -> float:
    """Half-way between the ``n``-th largest value and the next: distances have ties, and a bound on one is a toss-up."""
    place = values.size - int(np.clip(round(n), 1, values.size - 1))
    ordered = np.partition(values.ravel(), (place - 1, place))
    return float(ordered[place - 1] + ordered[place]) / 2


def _volume(distance: Float32Array) -> float:
    """Volume in voxels of where a distance is negative, to a part of a voxel."""
    if not (distance < 0).any():
        return 0.0
    box = _near(distance, distance)
    n = _samples_per_axis(distance[box].size)
    return float((_fine(distance[box], n) < 0).sum()) / n**3


def _crumbs(old: Float32Array, new: Float32Array) -> BoolArray:
    """Pieces of the new lesion that are small against the piece of the old one that they come from, or come from none."""
    from scipy.ndimage import label

    touching = np.ones((3, 3, 3))
    parents, _ = label(old < 0, touching)
    pieces, count = label(new < 0, touching)
    if count < 2:
        return np.zeros(new.shape, dtype=bool)
    sizes, parent_sizes = np.bincount(pieces.ravel()), np.bincount(parents.ravel())
    parent_sizes[0] = 0
    # A piece's parent is the largest of the old pieces that it holds a part of.
    largest = np.zeros(count + 1)
    np.maximum.at(largest, pieces.ravel(), parent_sizes[parents.ravel()])
    small = (largest == 0) | (sizes < CRUMB_PART * largest)
    small[0] = False
    return np.asarray(small[pieces])


def _darken_core(part: _Part, rng: np.random.Generator) -> dict[str, Any]:
    """Darken an irregular core of the lesion in place, as necrosis does."""
    core_part, drop = float(rng.uniform(*CORE_PART)), float(rng.uniform(*CORE_HU))
    give = np.asarray(1.0 + UNEVENNESS * _unevenness(part.mask.shape, part.spacing, rng), dtype=np.float32)
    core = part.old + _solve(part.old, give, core_part * float(part.mask.sum())) * give
    depth = np.clip(0.5 - core / CORE_BORDER_MM, 0.0, 1.0) * np.clip(-part.old / RIM_MM, 0.0, 1.0)
    patchy = 1.0 + 0.3 * _unevenness(part.mask.shape, part.spacing, rng)
    part.hu -= (drop * depth * patchy).astype(np.float32)
    return {"core_part": core_part, "core_hu": -drop}


def _ramp(distance: Float32Array, width: float) -> Float32Array:
    """0 below ``-width``, 1 above ``width``, linear between."""
    return np.asarray(np.clip((distance / width + 1.0) / 2.0, 0.0, 1.0), dtype=np.float32)


def _replaced(part: _Part, new: Float32Array, filling: Filling, name: str) -> Float32Array:
    """HU after tissue took the lesion's place where it receded, and the lesion the tissue's where it grew."""
    from scipy.ndimage import gaussian_filter

    voxel = min(part.spacing)
    rim = max(RIM_MM, voxel)
    old, hu = part.old, part.hu
    # Where the outline stayed, nothing may change: the first factor is how far it moved.
    receded = np.clip((new - old) / voxel, 0, 1) * _ramp(new, 0.6 * voxel) * _ramp(rim - old, 0.6 * voxel)
    if (receded > 0).any():
        outside = old >= rim
        source = outside & part.inner & ~part.bone
        if not source.any():
            raise InputError(f"{name}: no normal tissue around the lesion to replace it with")
        fill = filling.fill(hu, (receded > 0) & ~outside, outside, source, part.spacing)
        hu = hu + receded * (fill - hu)
    grown = np.clip((old - new) / voxel, 0, 1) * _ramp(-new, 0.6 * voxel) * _ramp(rim + old, 0.6 * voxel)
    if (grown > 0).any():
        core = _typical_core(part, rim)
        # What is no lesion at the old border (the contour's fat, say) would be left as a stripe inside the new one.
        odd = (part.mask & ~core & (old > -STRIPE_MM)).astype(np.float32)
        grown = np.maximum(grown, np.clip((old - new) / voxel, 0, 1) * gaussian_filter(odd, 0.7))
        fill = filling.fill(hu, (grown > 0) & ~core, core, core, part.spacing)
        hu = hu + np.where(core, 0.0, grown) * (fill - hu)
    return np.asarray(hu, dtype=np.float32)


def _typical_core(part: _Part, rim: float) -> BoolArray:
    """The lesion's voxels that show what it is made of: off the border, and near its median HU (the whole lesion if few)."""
    from scipy.ndimage import gaussian_filter

    deep = part.old <= -rim
    if not deep.any():
        return part.mask
    smooth = gaussian_filter(part.hu, [1.5 / s for s in part.spacing])
    core = deep & (np.abs(smooth - np.median(smooth[deep])) < TYPICAL_HU)
    return core if core.sum() > 0.3 * part.mask.sum() else deep
