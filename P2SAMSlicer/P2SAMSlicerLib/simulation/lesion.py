"""A prior visit with a lesion of a difficult kind, made out of a CT and a contour: isodense, one of two, or small.

The follow-up is then simulated from it as from any prior (``simulation.simulate_followup``), so that both visits show the
lesion in the same way. What is put into the CT keeps the noise of the CT. All lengths are in mm.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.simulation.place import AROUND_MM, Rooms, Tissue
from P2SAMSlicerLib.simulation.tissue import BONE_HU, RIM_MM, SOFT_TISSUE_HU, signed_distance
from P2SAMSlicerLib.volume import BoolArray, Volume

FloatArray = NDArray[np.floating]
Float32Array = NDArray[np.float32]

Lesion = Literal["own", "isodense", "pair", "distractor", "small", "small_lung"]
LESIONS: tuple[str, ...] = get_args(Lesion)

#: Diameters of a sphere of a small lesion's volume.
SMALL_DIAMETER_MM = (5.0, 10.0)

#: A small lesion's axes differ by up to this part of its diameter.
OBLONG = 0.2

#: HU of small lesions: in soft tissue above what is around, at least above water; in the lung as it is.
SMALL_CONTRAST_HU = (25.0, 60.0)
SMALL_LEAST_HU = 20.0
SMALL_LUNG_HU = (-50.0, 50.0)

#: Blur of a CT, as the width of a Gaussian within the slice, and sub-voxel samples along each axis of a voxel.
BLUR_MM = 0.7
SAMPLES = 5

#: An isodense lesion differs from its surroundings by up to this much; its own mean is taken over this width.
ISODENSE_HU = 3.0
LEVEL_MM = 5.0

#: Soft tissue for this purpose, and the border between fat and the rest.
SOFT_HU = (-150.0, 150.0)
FAT_HU = -30.0

#: Of the surroundings, at least this part has to be soft tissue for a lesion to be isodense with it.
SOFT_PART = 0.1

#: Where a copy of the whole lesion finds no room, its inner part of this share of its volume is tried.
COPIED_PARTS = (1.0, 0.7, 0.5, 0.35, 0.25, 0.15)

#: A copied lesion is blended in over this width beyond its border.
BLEND_MM = 2.0


@dataclass(frozen=True)
class SimulatedPrior:
    """A prior visit.

    :param ct: CT in HU; that of the patient itself where nothing was changed.
    :param mask: the contoured lesion, ``(z, y, x)``.
    :param others: lesions that are not contoured, or None.
    :param details: what was drawn, ready for JSON.
    """

    ct: Volume
    mask: BoolArray
    others: BoolArray | None = None
    details: dict[str, Any] = field(default_factory=dict)


def make_prior(ct: Volume, mask: BoolArray, lesion: Lesion, seed: int = 0, diameter_mm: float | None = None) -> SimulatedPrior:
    """Make a prior with a lesion of a kind.

    :param ct: CT in HU, on a grid of any orientation; not altered.
    :param mask: the patient's own lesion, ``(z, y, x)`` on the CT's grid.
    :param lesion: ``own`` changes nothing. ``isodense`` brings the lesion to within a few HU of the soft tissue around it.
        ``pair`` puts a mirrored copy of the lesion into like tissue and contours both as one segment; ``distractor`` puts it
        there and does not contour it. ``small`` and ``small_lung`` put a lesion of 5 to 10 mm into soft tissue or lung and
        contour only that; the patient's own stays where it is, without a contour.
    :param seed: the same seed gives the same prior.
    :param diameter_mm: of a small lesion, in mm; drawn if None.
    :raises InputError: an unknown kind, a diameter that does not belong to it, a mask that cannot be used, or no room.
    """
    if lesion not in LESIONS:
        raise InputError(f"lesion '{lesion}' is unknown; known: {', '.join(LESIONS)}")
    if diameter_mm is not None:
        _check_diameter(lesion, diameter_mm)
    if mask.shape != ct.array.shape or mask.dtype != np.bool_ or not mask.any():
        raise InputError(f"{ct.name}: the mask must be boolean, not empty, and of the CT's shape")
    if lesion == "own":
        return SimulatedPrior(ct, mask)
    rng = np.random.default_rng([seed, LESIONS.index(lesion), 5])
    hu = np.clip(ct.array, -1024, 3071).astype(np.float32)
    if lesion == "isodense":
        return _isodense(ct, hu, mask, rng)
    if lesion in ("small", "small_lung"):
        return _small(ct, hu, mask, "lung" if lesion == "small_lung" else "soft", diameter_mm, rng)
    return _second(ct, hu, mask, lesion == "pair", rng)


def _check_diameter(lesion: str, diameter_mm: float) -> None:
    low, high = SMALL_DIAMETER_MM
    if lesion not in ("small", "small_lung"):
        raise InputError(f"diameter_mm is for small lesions, and not for lesion '{lesion}'")
    if not low <= diameter_mm <= high:
        raise InputError(f"diameter_mm {diameter_mm:g} is outside {low:g} to {high:g}")


def _with(ct: Volume, hu: FloatArray) -> Volume:
    return replace(ct, array=np.rint(np.clip(hu, -1024, 3071)).astype(np.int16))


def _gaussian(array: NDArray[Any], width_mm: float, spacing: tuple[float, float, float]) -> Float32Array:
    from scipy.ndimage import gaussian_filter

    return np.asarray(gaussian_filter(array.astype(np.float32), [width_mm / s for s in spacing], truncate=3.0))


def _box(mask: BoolArray, spacing: tuple[float, float, float], margin_mm: float) -> tuple[slice, ...]:
    places = np.argwhere(mask)
    margin = np.ceil(margin_mm / np.asarray(spacing)).astype(int)
    low = np.maximum(places.min(axis=0) - margin, 0)
    high = np.minimum(places.max(axis=0) + margin + 1, mask.shape)
    return tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))


def _centre(ct: Volume, mask: BoolArray) -> list[float]:
    """LPS position of a mask's middle."""
    middle = np.argwhere(mask).mean(axis=0)[::-1]
    return [float(v) for v in ct.grid.to_physical(middle[None])[0]]


# ------------------------------------------------------------------------------------------------------------- isodense


def surrounding_hu(hu: FloatArray, mask: BoolArray, spacing_zyx: tuple[float, float, float]) -> float | None:
    """Median HU of the soft tissue around a lesion, of fat or of the rest, whichever is nearer; None if there is hardly any.

    :param hu: CT in HU ``(z, y, x)``.
    :param mask: the lesion.
    :param spacing_zyx: voxel spacing in mm.
    """
    distance = signed_distance(mask, spacing_zyx)
    quiet = _gaussian(hu, 1.0, spacing_zyx)
    ring = (distance > AROUND_MM[0]) & (distance < AROUND_MM[1])
    soft = ring & (quiet > SOFT_HU[0]) & (quiet < SOFT_HU[1])
    own = float(np.median(hu[mask]))
    kinds = [kind for kind in (soft & (quiet < FAT_HU), soft & (quiet >= FAT_HU)) if kind.sum() > SOFT_PART * ring.sum()]
    return min((float(np.median(hu[kind])) for kind in kinds), key=lambda level: abs(level - own), default=None)


def _isodense(ct: Volume, hu: Float32Array, mask: BoolArray, rng: np.random.Generator) -> SimulatedPrior:
    """Bring the lesion's local mean to the tissue around it, and leave noise and fine structure."""
    spacing = ct.grid.spacing_zyx
    box = _box(mask, spacing, 2 * AROUND_MM[1])
    part, inside = hu[box], mask[box]
    around = surrounding_hu(part, inside, spacing)
    if around is None:
        raise InputError(f"{ct.name}: no soft tissue around the lesion that it could be isodense with")
    wanted = around + float(rng.uniform(-ISODENSE_HU, ISODENSE_HU))
    level = _gaussian(part * inside, LEVEL_MM, spacing) / np.maximum(_gaussian(inside, LEVEL_MM, spacing), 1e-3)
    # The scanner's blur carried the lesion across its border by about this much.
    weight = np.clip(0.5 - signed_distance(inside, spacing) / (4 * BLUR_MM), 0.0, 1.0)
    hu[box] = part - weight * (level - wanted)
    made = _with(ct, hu)
    difference = float(np.median(made.array[mask])) - around
    return SimulatedPrior(made, mask, None, {"surrounding_hu": around, "difference_hu": difference})


# ----------------------------------------------------------------------------------------------------------- two lesions


def _second(ct: Volume, hu: Float32Array, mask: BoolArray, contoured: bool, rng: np.random.Generator) -> SimulatedPrior:
    """Put a mirrored copy of the lesion elsewhere into like tissue."""
    spacing = ct.grid.spacing_zyx
    rooms = Rooms(ct, mask)
    tissue, around = rooms.around()
    mirrored = [axis for axis in range(3) if rng.random() < 0.5]
    near = _box(mask, spacing, 2 * BLEND_MM)
    whole, texture = np.flip(mask[near], tuple(mirrored)).copy(), np.flip(hu[near], tuple(mirrored)).copy()
    # What lies beside the lesion here, and in the outermost part of its contour, need not lie beside its copy.
    quiet = _gaussian(texture, 1.0, spacing)
    odd = (quiet > BONE_HU) | (quiet < SOFT_HU[0]) if tissue == "soft" else quiet > SOFT_TISSUE_HU
    depth = signed_distance(whole, spacing)
    if tissue == "soft":
        whole &= ~odd | (depth <= -RIM_MM)
    if not whole.any():
        raise InputError(f"{ct.name}: the lesion holds nothing that could be copied into soft tissue")
    for part in COPIED_PARTS:
        inner = _largest(whole & (depth <= np.quantile(depth[whole], part)))
        box = _box(inner, spacing, BLEND_MM)
        try:
            place = rooms.find(inner[box], tissue, around, rng, near=True)
            break
        except InputError:
            if part == COPIED_PARTS[-1]:
                raise
    stamp, content = inner[box], texture[box]
    where = tuple(slice(a, a + n) for a, n in zip(place.low, stamp.shape, strict=True))
    weight = np.clip(1.0 - np.maximum(signed_distance(stamp, spacing), 0.0) / BLEND_MM, 0.0, 1.0)
    weight[odd[box] & ~stamp] = 0.0
    hu[where] += weight * (content - hu[where])
    copy = np.zeros_like(mask)
    copy[where] = stamp
    details = {
        "second_mm": _centre(ct, copy),
        "second_ml": float(copy.sum()) * ct.grid.voxel_ml,
        "second_contoured": contoured,
        "second_mirrored_axes_zyx": mirrored,
    }
    return SimulatedPrior(_with(ct, hu), mask | copy if contoured else mask, None if contoured else copy, details)


def _largest(mask: BoolArray) -> BoolArray:
    """The largest connected piece."""
    from scipy.ndimage import label

    pieces, count = label(mask)
    return mask if count < 2 else np.asarray(pieces == 1 + int(np.bincount(pieces.ravel())[1:].argmax()))


# ---------------------------------------------------------------------------------------------------------- small lesion


def _small(
    ct: Volume, hu: Float32Array, mask: BoolArray, tissue: Tissue, diameter_mm: float | None, rng: np.random.Generator
) -> SimulatedPrior:
    """Put an ellipsoid of a few millimetres into the tissue, with the partial volumes that a scanner would see."""
    spacing = ct.grid.spacing_zyx
    diameter = float(rng.uniform(*SMALL_DIAMETER_MM)) if diameter_mm is None else float(diameter_mm)
    share = _ellipsoid(diameter, spacing, rng)
    place = Rooms(ct, mask).find(share > 0, tissue, None, rng)
    if tissue == "lung":
        level = float(rng.uniform(*SMALL_LUNG_HU))
    else:
        level = max(place.hu, SMALL_LEAST_HU) + float(rng.uniform(*SMALL_CONTRAST_HU))
    where = tuple(slice(a, a + n) for a, n in zip(place.low, share.shape, strict=True))
    seen = _gaussian(share, BLUR_MM, (np.inf, spacing[1], spacing[2]))
    hu[where] += seen * (level - place.hu)
    small = np.zeros_like(mask)
    # The widest slice of a lesion between two thick slices may be hit by half only.
    small[where] = share >= min(0.5, float(share.max()))
    details = {"diameter_mm": diameter, "lesion_hu": level, "tissue_hu": place.hu, "lesion_mm": _centre(ct, small)}
    return SimulatedPrior(_with(ct, hu), small, mask, details)


def _ellipsoid(diameter_mm: float, spacing: tuple[float, float, float], rng: np.random.Generator) -> Float32Array:
    """The part of each voxel that lies within an ellipsoid of this sphere's volume, turned and placed at random."""
    from scipy.spatial.transform import Rotation

    stretch = np.exp(rng.uniform(-OBLONG, OBLONG, 3))
    axes = diameter_mm / 2 * stretch / np.cbrt(stretch.prod())
    turn = Rotation.from_quat(rng.standard_normal(4)).as_matrix()
    counts = np.ceil((axes.max() + 3 * BLUR_MM) / np.asarray(spacing)).astype(int)
    offset = rng.uniform(-0.5, 0.5, 3)
    samples = [
        ((np.arange((2 * n + 1) * SAMPLES) + 0.5) / SAMPLES - 0.5 - n - shift) * step
        for n, shift, step in zip(counts, offset, spacing, strict=True)
    ]
    points = np.stack(np.meshgrid(*samples, indexing="ij"), axis=-1) @ turn
    inside = ((points / axes) ** 2).sum(axis=-1) < 1
    shape = [size for n in counts for size in (2 * int(n) + 1, SAMPLES)]
    return np.asarray(inside.reshape(shape).mean(axis=(1, 3, 5)), dtype=np.float32)
