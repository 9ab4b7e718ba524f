"""A follow-up visit with exactly known truth, made out of any CT and contour.

For the demo, for commissioning by a physicist, and for choosing engine settings on training cases. A simulated visit holds
a set-up error, a smooth deformation, a tumour change that replaces tissue, another voxel grid, new noise and an HU offset.
It is no patient's second scan: figures from it say how the engine deals with these effects, and nothing about a clinic.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.simulation.motion import VisitMotion, draw_motion
from P2SAMSlicerLib.simulation.tissue import ChangedTissue, Filling, change_tissue
from P2SAMSlicerLib.volume import BoolArray, Volume

Change = Literal["stable", "shrink", "grow", "partial", "necrosis", "vanish"]
CHANGES: tuple[str, ...] = get_args(Change)

Fill = Literal["borrow", "synthesis"]
FILLS: tuple[str, ...] = get_args(Fill)

#: Ways to make replaced tissue that a model may be trained on, and those that it must never see in training: figures on the
#: latter, reported apart, tell whether it learned the lesion or the traces of a simulation.
TRAINING_FILLS: tuple[str, ...] = ("borrow",)
HELD_OUT_FILLS: tuple[str, ...] = ("synthesis",)

#: Signed volume change of each kind where the caller asks for none, as a fraction of the prior volume.
DEFAULT_FRACTION = {"stable": 0.0, "shrink": -0.35, "grow": 0.3, "partial": -0.35, "necrosis": 0.0, "vanish": -1.0}

#: The smallest and the largest fraction that each kind takes.
FRACTION_RANGE = {
    "stable": (0.0, 0.0),
    "shrink": (-0.95, -0.01),
    "grow": (0.01, 3.0),
    "partial": (-0.95, -0.01),
    "necrosis": (-0.2, 0.2),
    "vanish": (-1.0, -1.0),
}

#: Usual reconstruction grids of planning and follow-up CT in mm ``(x, y, z)``; one is drawn where no spacing is asked for.
USUAL_SPACINGS = ((0.9, 0.9, 2.5), (1.0, 1.0, 3.0), (1.17, 1.17, 3.0), (0.98, 0.98, 2.0), (1.27, 1.27, 2.5))

#: What scanners and this simulation write where nothing was measured.
PADDING_HU = -1000
HU_RANGE = (-1024, 3071)

#: The field of view is cropped on each side by up to this much, and keeps this much around the lesion where the prior has it.
LARGEST_CROP_MM = 8.0
KEPT_AROUND_LESION_MM = 15.0

#: No follow-up is made with more voxels than this: such a spacing is a slip of the finger, and would exhaust the memory.
LARGEST_VOXELS = 4e8

#: Correlation of CT noise between neighbouring voxels, as the width of a Gaussian in mm within the slice.
NOISE_WIDTH_MM = 0.6

#: Follow-up points that are mapped at a time; bounds memory to a few hundred megabytes for any CT.
POINTS_PER_CHUNK = 1_000_000


@dataclass(frozen=True)
class SimulationOptions:
    """What the follow-up shall differ in. What is drawn, is drawn from ``seed`` alone.

    :param change: ``stable``, ``shrink``, ``grow``, ``partial`` (one side recedes), ``necrosis`` (the core darkens) or
        ``vanish``.
    :param change_fraction: signed change of the lesion's volume as a fraction of the prior volume, before deformation;
        None for :data:`DEFAULT_FRACTION`.
    :param fill: how replaced tissue is made: ``borrow`` copies patches from elsewhere in the CT, ``synthesis`` continues the
        surroundings smoothly and gives them synthetic texture. ``synthesis`` is in :data:`HELD_OUT_FILLS`: never train on it.
    :param rotation_deg: largest set-up rotation about each LPS axis, in degrees.
    :param shift_mm: largest set-up shift along each LPS axis, in mm.
    :param deform_mm: longest vector of the smooth deformation, in mm.
    :param deform_scale_mm: scale on which the deformation varies, in mm.
    :param spacing: voxel spacing ``(x, y, z)`` of the follow-up in mm, or None to draw from :data:`USUAL_SPACINGS`.
    :param noise_hu: standard deviation of the added noise in HU.
    :param offset_hu: added to every measured voxel, in HU.
    :param seed: not negative; the same seed and options give the same visit.
    """

    change: Change = "shrink"
    change_fraction: float | None = None
    fill: Fill = "borrow"
    rotation_deg: float = 3.0
    shift_mm: float = 8.0
    deform_mm: float = 4.0
    deform_scale_mm: float = 40.0
    spacing: tuple[float, float, float] | None = None
    noise_hu: float = 8.0
    offset_hu: float = 4.0
    seed: int = 0

    @property
    def fraction(self) -> float:
        """The signed volume change that is asked for."""
        return DEFAULT_FRACTION[self.change] if self.change_fraction is None else float(self.change_fraction)

    def check(self) -> None:
        """Refuse options that mean nothing.

        :raises InputError: an unknown change, a fraction that the change does not take, a negative or non-finite size.
        """
        if self.change not in CHANGES:
            raise InputError(f"change '{self.change}' is unknown; known: {', '.join(CHANGES)}")
        if self.fill not in FILLS:
            raise InputError(f"fill '{self.fill}' is unknown; known: {', '.join(FILLS)}")
        low, high = FRACTION_RANGE[self.change]
        if not low <= self.fraction <= high:
            raise InputError(f"change_fraction {self.fraction:g} is outside {low:g} to {high:g} for '{self.change}'")
        for name in ("rotation_deg", "shift_mm", "deform_mm", "noise_hu"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value >= 0):
                raise InputError(f"{name} {value:g} must be a number that is not negative")
        if not (np.isfinite(self.deform_scale_mm) and self.deform_scale_mm >= 5):
            raise InputError(f"deform_scale_mm {self.deform_scale_mm:g} must be 5 mm or more")
        if not np.isfinite(self.offset_hu):
            raise InputError("offset_hu must be a finite number")
        if self.spacing is not None and (len(self.spacing) != 3 or not all(np.isfinite(s) and s > 0 for s in self.spacing)):
            raise InputError(f"spacing {self.spacing} must be three positive numbers in mm")
        if int(self.seed) != self.seed or self.seed < 0:
            raise InputError(f"seed {self.seed} must be a whole number that is not negative")


@dataclass(frozen=True)
class SimulatedVisit:
    """A follow-up and its truth.

    :param followup: CT in HU (``int16``).
    :param mask: the true lesion on ``followup.grid``; empty if it vanished.
    :param record: everything drawn, and the volumes in ml; ready for JSON.
    :param followup_to_prior: the true map of LPS points ``(n, 3)``, in mm.
    """

    followup: Volume
    mask: BoolArray
    record: dict[str, Any]
    followup_to_prior: Callable[[NDArray[np.floating]], NDArray[np.float64]]


def simulate_followup(
    ct: Volume, mask: BoolArray, options: SimulationOptions, others: BoolArray | None = None
) -> SimulatedVisit:
    """Make a follow-up of ``ct`` whose lesion and whose motion are known exactly.

    The tissue is changed on the prior's grid. The follow-up's voxels are then mapped to the prior, where the HU are read by
    cubic splines. The truth is the sign of the new lesion's signed distance, read linearly at the same places, so
    that it carries no staircase of the prior's voxels.

    :param ct: prior CT in HU, on a grid of any orientation.
    :param mask: the lesion, ``(z, y, x)`` on the CT's grid.
    :param others: lesions that are not contoured, on the same grid; they stay as they are, and replaced tissue takes nothing
        from them.
    :raises InputError: options, grid or mask cannot be used, the deformation would fold tissue, the tissue around
        the lesion does not allow the change, or what is left of it lies between the follow-up's voxels.
    """
    options.check()
    _check_inputs(ct, mask)
    # One generator for each purpose: another noise level or grid leaves motion and tumour as they were.
    motion_rng, tissue_rng, grid_rng, noise_rng, fill_rng = (np.random.default_rng([options.seed, k]) for k in range(5))
    hu = np.clip(ct.array, *HU_RANGE).astype(np.float32)
    lesion = _voxel_points(ct.grid, mask)
    motion = draw_motion(
        motion_rng,
        ct.grid,
        lesion.mean(axis=0),
        options.rotation_deg,
        options.shift_mm,
        options.deform_mm,
        options.deform_scale_mm,
    )
    grid = _followup_grid(ct.grid, lesion, motion, options.spacing, grid_rng)
    jacobian = motion.check(grid)
    tissue = change_tissue(
        Volume(hu, ct.grid, ct.name),
        mask,
        options.change,
        options.fraction,
        tissue_rng,
        Filling(options.fill, fill_rng),
        others,
    )
    values, truth, seen = _sample(tissue, ct.grid, grid, motion)
    if options.change != "vanish" and not truth.any():
        raise InputError(f"{ct.name}: what is left of the lesion lies between the follow-up's voxels; use a finer spacing")
    values = values + options.offset_hu + options.noise_hu * _ct_noise(grid, noise_rng)
    values = np.where(seen, np.clip(values, *HU_RANGE), PADDING_HU)
    followup = Volume(np.rint(values).astype(np.int16), grid, f"{ct.name} simulated {options.change}")
    record = _record(options, ct, mask, motion, jacobian, tissue, followup, truth)
    return SimulatedVisit(followup, truth, record, motion)


def _check_inputs(ct: Volume, mask: BoolArray) -> None:
    ct.grid.check(ct.name)
    if not np.isfinite(ct.array).all():
        raise InputError(f"{ct.name}: has voxels that are not finite numbers")
    if mask.shape != ct.array.shape:
        raise InputError(f"{ct.name}: the mask's shape {mask.shape} is not the CT's {ct.array.shape}")
    if mask.dtype != np.bool_:
        raise InputError(f"{ct.name}: the mask must be boolean, not {mask.dtype}")
    if not mask.any():
        raise InputError(f"{ct.name}: the mask is empty")
    if mask.all():
        raise InputError(f"{ct.name}: the mask fills the whole CT")


def _voxel_points(grid: Grid, mask: BoolArray) -> NDArray[np.float64]:
    """LPS points ``(n, 3)`` of a mask's voxel centres."""
    return grid.to_physical(np.argwhere(mask)[:, ::-1].astype(np.float64))


def _followup_grid(
    prior: Grid,
    lesion: NDArray[np.float64],
    motion: VisitMotion,
    spacing: tuple[float, float, float] | None,
    rng: np.random.Generator,
) -> Grid:
    """The prior's mapped field of view, along the prior's axes, with a little cropped off each side.

    The set-up error moves the patient and not the scanner, so the follow-up keeps the prior's axes. The lesion and its
    surroundings stay inside as far as the prior has them.
    """
    drawn = USUAL_SPACINGS[int(rng.integers(len(USUAL_SPACINGS)))]
    step = np.asarray(drawn if spacing is None else spacing, dtype=np.float64)
    axes = prior.direction_matrix
    corners = motion.inverse(prior.corners()) @ axes  # in the grid's own axes
    # A few thousand of a large lesion's voxels tell its extent to a millimetre or two, and the margin is far wider.
    inside = motion.inverse(lesion[:: 1 + len(lesion) // 5000]) @ axes
    crop = rng.uniform(0, LARGEST_CROP_MM, (2, 3))
    low, high = np.zeros(3), np.zeros(3)
    for axis in range(3):
        ordered = np.sort(corners[:, axis])
        low[axis] = ordered[:4].mean() + crop[0, axis]
        high[axis] = ordered[4:].mean() - crop[1, axis]
        low[axis] = max(min(low[axis], inside[:, axis].min() - KEPT_AROUND_LESION_MM), ordered[0])
        high[axis] = min(max(high[axis], inside[:, axis].max() + KEPT_AROUND_LESION_MM), ordered[-1])
    counts = np.maximum(np.floor((high - low) / step).astype(int), 1)
    if float(np.prod(counts.astype(np.float64))) > LARGEST_VOXELS:
        raise InputError(f"spacing {tuple(step.tolist())} mm would give the follow-up more than {LARGEST_VOXELS:.0f} voxels")
    first = (low + high - (counts - 1) * step) / 2
    origin = axes @ first
    return Grid(
        shape=(int(counts[2]), int(counts[1]), int(counts[0])),
        spacing=(float(step[0]), float(step[1]), float(step[2])),
        origin=(float(origin[0]), float(origin[1]), float(origin[2])),
        direction=prior.direction,
    )


def _sample(
    tissue: ChangedTissue, prior: Grid, grid: Grid, motion: VisitMotion
) -> tuple[NDArray[np.float32], BoolArray, BoolArray]:
    """HU, true lesion, and where the prior has measured values, on the follow-up's grid."""
    from scipy.ndimage import map_coordinates, spline_filter

    splines = spline_filter(tissue.hu, order=3, output=np.float32, mode="mirror")
    n_slices, rows, columns = grid.shape
    values = np.empty(grid.shape, dtype=np.float32)
    truth, seen = np.empty(grid.shape, dtype=bool), np.empty(grid.shape, dtype=bool)
    ends = np.array(prior.shape)[:, None] - 0.5
    per_chunk = max(1, POINTS_PER_CHUNK // (rows * columns))
    for start in range(0, n_slices, per_chunk):
        count = min(per_chunk, n_slices - start)
        origin = grid.to_physical(np.array([[0.0, 0.0, start]]))[0]
        slab = replace(grid, shape=(count, rows, columns), origin=(float(origin[0]), float(origin[1]), float(origin[2])))
        where = prior.to_index(motion.on_grid(slab).reshape(-1, 3)).T[::-1]
        known = ((where >= -0.5) & (where <= ends)).all(axis=0)
        distance = map_coordinates(tissue.signed_distance, where, order=1, mode="nearest")
        part = slice(start, start + count)
        values[part] = map_coordinates(splines, where, order=3, prefilter=False, mode="mirror").reshape(slab.shape)
        truth[part] = ((distance < 0) & known).reshape(slab.shape)
        seen[part] = known.reshape(slab.shape)
    return values, truth, seen


def _ct_noise(grid: Grid, rng: np.random.Generator) -> NDArray[np.float32]:
    """Noise of unit variance, correlated within the slice as a reconstruction kernel leaves it."""
    from scipy.ndimage import gaussian_filter

    noise = rng.standard_normal(grid.shape, dtype=np.float32)
    noise = gaussian_filter(noise, (0.0, NOISE_WIDTH_MM / grid.spacing[1], NOISE_WIDTH_MM / grid.spacing[0]))
    return np.asarray(noise / max(float(noise.std()), 1e-6), dtype=np.float32)


def _record(
    options: SimulationOptions,
    ct: Volume,
    mask: BoolArray,
    motion: VisitMotion,
    jacobian: tuple[float, float],
    tissue: ChangedTissue,
    followup: Volume,
    truth: BoolArray,
) -> dict[str, Any]:
    """Everything asked for and drawn, ready for JSON."""
    return {
        "seed": int(options.seed),
        "change": options.change,
        "change_fraction": options.fraction,
        "fill": options.fill,
        "rotation_deg": list(motion.rotation_deg),
        "shift_mm": list(motion.shift_mm),
        "centre_mm": list(motion.centre),
        "rigid_followup_to_prior": motion.rigid_matrix.tolist(),
        "deform_max_mm": float(options.deform_mm),
        "deform_scale_mm": float(options.deform_scale_mm),
        "jacobian_min": jacobian[0],
        "jacobian_max": jacobian[1],
        "spacing_mm": list(followup.grid.spacing),
        "shape_zyx": list(followup.grid.shape),
        "noise_hu": float(options.noise_hu),
        "offset_hu": float(options.offset_hu),
        "prior_ml": float(mask.sum()) * ct.grid.voxel_ml,
        "followup_ml": float(truth.sum()) * followup.grid.voxel_ml,
        **tissue.details,
    }
