"""What changed between the visits around a lesion: the follow-up's HU against the prior's, brought to it by the registration.

Where the registration is right, tissue that stayed looks the same at both visits, and tissue that was replaced does not. This
says little of what the new tissue is, but it needs no contrast between lesion and surroundings, only a difference between the
visits. Every difference is measured against what the visits differ by anyway: their common HU offset, their noise, and what a
small misregistration does at a border.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.volume import Volume

if TYPE_CHECKING:
    import SimpleITK as sitk

#: The visits are compared this far around the carried contour, in mm.
REACH_MM = 40.0
#: HU beyond these say bone or air, whose differences would drown those of soft tissue.
LOWEST_HU, HIGHEST_HU = -200.0, 250.0
#: Standard deviation of the smoothing that takes out noise before the comparison, in mm.
SMOOTHING_MM = 1.5
#: Misregistration that is reckoned with, in mm, after a deformable and after any other registration, which leaves what the body
#: bends: a difference that it explains at a border's gradient is no change.
DEFORMABLE_TOLERANCE_MM, TOLERANCE_MM = 1.5, 3.0
#: HU difference below which nothing counts as a change, however quiet the images are.
LEAST_HU = 1.5
#: Stands where the prior was not measured; no scanner writes it.
UNKNOWN_HU = -5000.0
#: Soft tissue, and gradients (HU per mm) below which a place is flat enough to read the visits' HU offset from.
SOFT_TISSUE_HU = (-20.0, 120.0)
FLAT_HU_PER_MM = 3.0
#: Voxels beyond this distance outside the carried contour (mm) show what the visits differ by without the lesion.
APART_MM = 6.0
#: Lung and air are left out there: breathing changes them.
TISSUE_HU = -150.0
#: Fewer voxels than this make no estimate; then these stand in.
FEWEST_VOXELS = 500
USUAL_NOISE_HU = 5.0
#: The lesion's centre: this share of its voxels, the deepest.
CENTRE_SHARE = 0.3


@dataclass(frozen=True)
class VisitChange:
    """Change around one lesion.

    :param strength: how many times what is usual without a change, 0 or more, ``(z, y, x)`` on ``box``. A change that the
        lesion's centre shares does not count while the centre stays soft tissue: another contrast phase or a necrosis moves
        no border. 0 where the prior was not measured.
    :param carried_prior: the prior's HU at the follow-up's voxels, on ``box``; the follow-up's own where the prior was not
        measured.
    :param box: where on the follow-up's grid.
    :param shape: of the follow-up's grid.
    :param offset_hu: HU that the follow-up lies above the prior in soft tissue away from the lesion.
    :param centre_hu: change of the lesion's centre in HU, without that offset.
    :param centre_strength: the same as a multiple of what is usual without a change, 0 or more.
    """

    strength: NDArray[np.float32]
    carried_prior: NDArray[np.float32]
    box: tuple[slice, ...]
    shape: tuple[int, int, int]
    offset_hu: float
    centre_hu: float
    centre_strength: float

    def slice_strength(self, z: int) -> NDArray[np.float32]:
        """Strength on a whole slice ``(y, x)``; 0 beyond the box."""
        return self._slice(self.strength, z, 0.0)

    def slice_prior(self, z: int) -> NDArray[np.float32]:
        """The prior's HU on a whole slice ``(y, x)``; air beyond the box."""
        return self._slice(self.carried_prior, z, -1024.0)

    def _slice(self, values: NDArray[np.float32], z: int, outside: float) -> NDArray[np.float32]:
        plane = np.full(self.shape[1:], outside, dtype=np.float32)
        if self.box[0].start <= z < self.box[0].stop:
            plane[self.box[1], self.box[2]] = values[z - self.box[0].start]
        return plane


def compare_visits(
    prior: Volume,
    followup: Volume,
    distance_mm: NDArray[np.float32],
    transform: sitk.Transform,
    tolerance_mm: float = DEFORMABLE_TOLERANCE_MM,
) -> VisitChange:
    """Compare the visits around the carried contour.

    :param prior: prior CT in HU.
    :param followup: follow-up CT in HU.
    :param distance_mm: signed distance to the carried contour on the follow-up's grid, not negative somewhere.
    :param transform: maps follow-up points to prior points.
    :param tolerance_mm: misregistration to reckon with.
    """
    box = _box(distance_mm)
    distance = distance_mm[box]
    carried = _carry(prior, followup, box, transform)
    present = followup.array[box].astype(np.float32)
    known = carried > UNKNOWN_HU + 1
    # The follow-up's own values stand where the prior was not measured, so that smoothing carries no padding into its edge.
    carried = np.where(known, carried, present)
    before, now = _smooth(carried, followup), _smooth(present, followup)
    # A border that moved is blurred on both visits: each visit's own gradient says what a misregistration does there.
    gradient = np.maximum(_gradient(before, followup), _gradient(now, followup))
    apart = known & (distance < -APART_MM) & (before > TISSUE_HU) & (now > TISSUE_HU)
    offset = _offset(now - before, before, gradient, apart)
    difference = now - before - np.float32(offset)
    noise = 1.4826 * float(np.median(np.abs(difference[apart]))) if apart.sum() >= FEWEST_VOXELS else USUAL_NOISE_HU
    usual = np.sqrt(noise**2 + (tolerance_mm * gradient) ** 2 + LEAST_HU**2)
    inside = distance >= 0
    centre = inside & (distance >= np.quantile(distance[inside], 1.0 - CENTRE_SHARE))
    centre_hu = float(np.median(difference[centre]))
    low, high = SOFT_TISSUE_HU
    # Fat, lung or air in the centre's place: no necrosis and no contrast phase makes that of a tumour.
    shared = centre_hu if low <= float(np.median(now[centre])) <= high else 0.0
    strength = np.where(known, np.minimum(np.abs(difference), np.abs(difference - np.float32(shared))) / usual, 0.0)
    return VisitChange(
        strength=strength.astype(np.float32),
        carried_prior=carried,
        box=box,
        shape=followup.grid.shape,
        offset_hu=offset,
        centre_hu=centre_hu,
        centre_strength=float(abs(centre_hu) / np.median(usual[centre])),
    )


def _box(distance_mm: NDArray[np.float32]) -> tuple[slice, ...]:
    near = distance_mm > -REACH_MM
    found = [np.flatnonzero(near.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    return tuple(slice(int(f[0]), int(f[-1]) + 1) for f in found)


def _carry(prior: Volume, followup: Volume, box: tuple[slice, ...], transform: sitk.Transform) -> NDArray[np.float32]:
    """The prior's HU at the follow-up's voxels of the box."""
    import SimpleITK as sitk

    from P2SAMSlicerLib.geometry import Grid
    from P2SAMSlicerLib.registration import array_to_image, clipped_image

    grid = followup.grid
    x, y, z = (float(v) for v in grid.to_physical(np.array([[box[2].start, box[1].start, box[0].start]], dtype=np.float64))[0])
    depth, rows, columns = (part.stop - part.start for part in box)
    small = Grid((depth, rows, columns), grid.spacing, (x, y, z), grid.direction)
    target = array_to_image(np.zeros(small.shape, np.uint8), small)
    carried: NDArray[np.float32] = sitk.GetArrayFromImage(
        sitk.Resample(clipped_image(prior), target, transform, sitk.sitkLinear, UNKNOWN_HU, sitk.sitkFloat32)
    )
    return carried


def _smooth(values: NDArray[np.float32], followup: Volume) -> NDArray[np.float32]:
    from scipy import ndimage

    sigma = [SMOOTHING_MM / s for s in followup.grid.spacing_zyx]
    smooth: NDArray[np.float32] = ndimage.gaussian_filter(np.clip(values, LOWEST_HU, HIGHEST_HU), sigma)
    return smooth


def _gradient(smooth: NDArray[np.float32], followup: Volume) -> NDArray[np.float32]:
    """Length of the gradient of smoothed HU, HU per mm."""
    squares = np.zeros_like(smooth)
    for axis, spacing in enumerate(followup.grid.spacing_zyx):
        if smooth.shape[axis] > 1:
            squares += np.gradient(smooth, spacing, axis=axis) ** 2
    return np.asarray(np.sqrt(squares), dtype=np.float32)


def _offset(
    difference: NDArray[np.float32], before: NDArray[np.float32], gradient: NDArray[np.float32], apart: NDArray[np.bool_]
) -> float:
    low, high = SOFT_TISSUE_HU
    flat = apart & (before > low) & (before < high) & (gradient < FLAT_HU_PER_MM)
    return float(np.median(difference[flat])) if flat.sum() >= FEWEST_VOXELS else 0.0
