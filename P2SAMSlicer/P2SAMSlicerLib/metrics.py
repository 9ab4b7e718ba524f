"""Figures that compare a contour with the truth, each defined exactly.

Tools differ in these figures by far more than the contours do, so nothing here is left open:

* Everything is 3-D and in patient millimetres, except :func:`slice_mean_dice` and :func:`added_path_length_mm`.
* A mask is a set of voxels. Its **surface** is the set of its voxels of which at least one of the six face neighbours lies
  outside the mask; whatever lies beyond the array is outside, so voxels on the border of the array are surface too. Distances
  run from surface voxel centre to surface voxel centre. Each surface voxel counts once: there is no weighting by surface area.
* ``result`` comes first and ``truth`` second. Signs are result minus truth.
* Two empty masks agree: volumetric and surface Dice are 1, and distances, which then have no meaning, are NaN. If one mask is
  empty, both are 0 and distances are infinite. Shares of an empty truth, and its slice-mean Dice, are NaN.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.volume import BoolArray

#: Slack in mm on the tolerance of the surface Dice: a distance that equals it must not fail by a rounding error.
ROUNDING_MM = 1e-6

#: A distance transform of the box around both surfaces takes about 0.2 microseconds a voxel, a search tree 4 to 100
#: microseconds a surface voxel. With more box than this for each surface voxel (a stray speck far from the lesion) the tree is
#: the faster way, and needs no memory for the empty space.
BOX_VOXELS_PER_SURFACE_VOXEL = 125


@dataclass(frozen=True)
class SurfaceDistances:
    """Distance in mm from each surface voxel of one mask to the nearest surface voxel of the other, both ways.

    :param result_to_truth: one distance for each surface voxel of the result; all infinite if the truth is empty.
    :param truth_to_result: one distance for each surface voxel of the truth; all infinite if the result is empty.
    """

    result_to_truth: NDArray[np.float64]
    truth_to_result: NDArray[np.float64]

    def percentile_mm(self, percent: float) -> float:
        """The larger of the two directed percentiles; 95 gives HD95, 100 the Hausdorff distance. NaN if both are empty."""
        directed = [d for d in (self.result_to_truth, self.truth_to_result) if d.size]
        return max((_percentile(distances, percent) for distances in directed), default=math.nan)

    def mean_mm(self) -> float:
        """Mean over the surface voxels of both masks together. NaN if both masks are empty."""
        both = np.concatenate([self.result_to_truth, self.truth_to_result])
        return float(both.mean()) if both.size else math.nan

    def dice(self, tolerance_mm: float) -> float:
        """Share of the surface voxels of both masks that lie within the tolerance of the other surface. 1 if both are empty.

        :raises InputError: the tolerance is negative or not finite.
        """
        if not (math.isfinite(tolerance_mm) and tolerance_mm >= 0):
            raise InputError(f"surface Dice: a tolerance of {tolerance_mm} mm is not a distance")
        both = np.concatenate([self.result_to_truth, self.truth_to_result])
        return float((both <= tolerance_mm + ROUNDING_MM).mean()) if both.size else 1.0


@dataclass(frozen=True)
class SegmentMetrics:
    """How one contour compares with the truth. The functions of the same names in this module say what each figure is.

    :param tolerance_mm: the tolerance of ``surface_dice``.
    :param volume_error_ml: result minus truth; negative where tumour is lost.
    :param volume_error_percent: the same in percent of the truth's volume; NaN for an empty truth.
    :param centroid_shift_mm: LPS vector from the truth's centroid to the result's; None if a mask is empty.
    """

    volumetric_dice: float
    slice_mean_dice: float
    hd95_mm: float
    mean_surface_distance_mm: float
    surface_dice: float
    tolerance_mm: float
    added_path_length_mm: float
    truth_volume_ml: float
    result_volume_ml: float
    volume_error_ml: float
    volume_error_percent: float
    missed_fraction: float
    over_contoured_fraction: float
    centroid_shift_mm: tuple[float, float, float] | None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for strict JSON, in the order of the fields.

        JSON knows neither NaN nor infinity, so both become None. ``empty`` then says why: it lists which of ``result`` and
        ``truth`` hold no voxel. An average over cases must not skip a None quietly, since the worst failure of all, an empty
        result, has no finite distance.
        """
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        for name, value in values.items():
            if isinstance(value, float) and not math.isfinite(value):
                values[name] = None
        if self.centroid_shift_mm is not None:
            values["centroid_shift_mm"] = list(self.centroid_shift_mm)
        volumes = {"result": self.result_volume_ml, "truth": self.truth_volume_ml}
        values["empty"] = [name for name, volume in volumes.items() if volume == 0]
        return values


def evaluate(
    result: BoolArray, truth: BoolArray, grid: Grid, tolerance_mm: float = 2.0, *, slice_axis: int = 0
) -> SegmentMetrics:
    """All figures of one contour against the truth.

    :param result: the contour to judge, ``(z, y, x)`` on ``grid``.
    :param truth: the contour to judge it by, on the same grid.
    :param grid: where the voxels lie.
    :param tolerance_mm: tolerance of the surface Dice in mm.
    :param slice_axis: array axis across the slices that were contoured; 0 in the working frame.
    :raises InputError: a mask is not boolean or not on the grid, the grid is not valid, or the tolerance is not a distance.
    """
    _check(result, truth, grid)
    distances = surface_distances(result, truth, grid)
    truth_ml, result_ml = volume_ml(truth, grid), volume_ml(result, grid)
    return SegmentMetrics(
        volumetric_dice=volumetric_dice(result, truth),
        slice_mean_dice=slice_mean_dice(result, truth, slice_axis=slice_axis),
        hd95_mm=distances.percentile_mm(95),
        mean_surface_distance_mm=distances.mean_mm(),
        surface_dice=distances.dice(tolerance_mm),
        tolerance_mm=float(tolerance_mm),
        added_path_length_mm=added_path_length_mm(result, truth, grid, slice_axis=slice_axis),
        truth_volume_ml=truth_ml,
        result_volume_ml=result_ml,
        volume_error_ml=result_ml - truth_ml,
        volume_error_percent=100.0 * (result_ml - truth_ml) / truth_ml if truth_ml else math.nan,
        missed_fraction=missed_fraction(result, truth),
        over_contoured_fraction=over_contoured_fraction(result, truth),
        centroid_shift_mm=centroid_shift_mm(result, truth, grid),
    )


def volumetric_dice(result: BoolArray, truth: BoolArray) -> float:
    """Twice the common voxels over the sum of both masks' voxels, over the whole volume.

    1 if both masks are empty, 0 if one is.
    """
    _check(result, truth)
    total = np.count_nonzero(result) + np.count_nonzero(truth)
    return 2.0 * np.count_nonzero(result & truth) / total if total else 1.0


def slice_mean_dice(result: BoolArray, truth: BoolArray, *, slice_axis: int = 0) -> float:
    """The paper's figure: the mean of the 2-D Dice over the slices on which the truth has a contour.

    The authors' evaluation holds only slices with a contour in the truth, so a slice that only the result holds is not counted
    and costs nothing here: a contour that runs on beyond the tumour's ends shows in :func:`volumetric_dice` and
    :func:`over_contoured_fraction`. A slice that only the truth holds counts as 0. All slices weigh the same however small the
    contour is. NaN for an empty truth, whatever the result.

    Source: P2SAM (Zhao and Shen, TMLR 2025), section 4, as computed by the authors' code.

    :param slice_axis: array axis across the slices.
    """
    _check(result, truth)
    in_plane = tuple(axis for axis in range(3) if axis != slice_axis % 3)
    in_truth = truth.sum(axis=in_plane)
    with_contour = in_truth > 0
    if not with_contour.any():
        return math.nan
    total = (in_truth + result.sum(axis=in_plane))[with_contour]
    return float((2.0 * (result & truth).sum(axis=in_plane)[with_contour] / total).mean())


def hd95_mm(result: BoolArray, truth: BoolArray, grid: Grid) -> float:
    """95 % Hausdorff distance in mm: the larger of the two directed 95th percentiles of the surface distances.

    The percentile interpolates linearly between the sorted distances (numpy's default). This is neither the percentile of both
    directions pooled nor the mean of the two; those read lower. It is the definition behind the figures of the peers (copying,
    rigid and B-spline registration) on the simulated visits. NaN if both masks are empty, infinite if one is.
    """
    return surface_distances(result, truth, grid).percentile_mm(95)


def mean_surface_distance_mm(result: BoolArray, truth: BoolArray, grid: Grid) -> float:
    """Average symmetric surface distance in mm: the mean over the surface voxels of both masks together.

    It is symmetric, and a mask with more surface weighs more. NaN if both masks are empty, infinite if one is.
    """
    return surface_distances(result, truth, grid).mean_mm()


def surface_dice(result: BoolArray, truth: BoolArray, grid: Grid, tolerance_mm: float = 2.0) -> float:
    """Share of the surface voxels of both masks that lie within ``tolerance_mm`` (inclusive) of the other mask's surface.

    Nikolov et al. 2018 define it by surface area; here each surface voxel counts once. 1 if both masks are empty, 0 if one is.

    :raises InputError: the tolerance is negative or not finite.
    """
    return surface_distances(result, truth, grid).dice(tolerance_mm)


def added_path_length_mm(result: BoolArray, truth: BoolArray, grid: Grid, *, slice_axis: int = 0) -> float:
    """Length in mm of the truth's contour lines that the result does not have: what a person would have to draw.

    On each slice, the pixels on the edge of the truth (one of the four in-plane neighbours is outside) that are not on the edge
    of the result are counted, times the in-plane pixel side (the geometric mean if the two differ). No tolerance. Removing what
    is too much costs nothing. 0 for an empty truth. Source: Vaassen et al., Phys Imaging Radiat Oncol 2020.

    :param slice_axis: array axis across the slices.
    """
    _check(result, truth, grid)
    box = _bounding_box(truth)
    if box is None:
        return 0.0
    # One voxel more on each side, so that the crop cuts no piece of the result off at a place that is inside the array.
    around = tuple(slice(max(part.start - 1, 0), part.stop + 1) for part in box)
    missing = _edge(truth[around], without_axis=slice_axis % 3) & ~_edge(result[around], without_axis=slice_axis % 3)
    sides = [side for axis, side in enumerate(grid.spacing_zyx) if axis != slice_axis % 3]
    return float(np.count_nonzero(missing)) * math.sqrt(sides[0] * sides[1])


def volume_ml(mask: BoolArray, grid: Grid) -> float:
    """Volume in millilitres: voxels times the volume of a voxel, no partial volumes."""
    return float(np.count_nonzero(mask)) * grid.voxel_ml


def missed_fraction(result: BoolArray, truth: BoolArray) -> float:
    """Share of the truth's voxels that the result does not cover, 0..1. NaN for an empty truth."""
    _check(result, truth)
    in_truth = np.count_nonzero(truth)
    return np.count_nonzero(truth & ~result) / in_truth if in_truth else math.nan


def over_contoured_fraction(result: BoolArray, truth: BoolArray) -> float:
    """Voxels of the result outside the truth, over the voxels of the truth.

    0 or more; above 1 if the result is far too large. NaN for an empty truth.
    """
    _check(result, truth)
    in_truth = np.count_nonzero(truth)
    return np.count_nonzero(result & ~truth) / in_truth if in_truth else math.nan


def centroid_shift_mm(result: BoolArray, truth: BoolArray, grid: Grid) -> tuple[float, float, float] | None:
    """LPS vector in mm from the truth's centroid to the result's: positive is to the patient's left, posterior and superior.

    The centroid is the mean of the voxel centres. None if a mask is empty.
    """
    _check(result, truth, grid)
    ours, theirs = _centroid_xyz(result), _centroid_xyz(truth)
    if ours is None or theirs is None:
        return None
    x, y, z = grid.index_to_physical[:3, :3] @ (ours - theirs)
    return (float(x), float(y), float(z))


def surface_distances(result: BoolArray, truth: BoolArray, grid: Grid) -> SurfaceDistances:
    """Distances between the surfaces of two masks, as the module's head defines them.

    :raises InputError: a mask is not boolean or not on the grid, or the grid is not valid.
    """
    _check(result, truth, grid)
    ours, theirs = _surface_voxels(result), _surface_voxels(truth)
    if not (len(ours) and len(theirs)):
        return SurfaceDistances(np.full(len(ours), np.inf), np.full(len(theirs), np.inf))
    spacing = np.asarray(grid.spacing_zyx, dtype=np.float64)
    return SurfaceDistances(_to_nearest(ours, theirs, spacing), _to_nearest(theirs, ours, spacing))


def _to_nearest(voxels: NDArray[np.int64], targets: NDArray[np.int64], spacing: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance in mm from each of ``voxels`` to the nearest of ``targets``, both ``(n, 3)`` array indices."""
    from scipy import ndimage, spatial

    low = np.minimum(voxels.min(axis=0), targets.min(axis=0))
    shape = np.maximum(voxels.max(axis=0), targets.max(axis=0)) - low + 1
    if int(np.prod(shape)) > BOX_VOXELS_PER_SURFACE_VOXEL * (len(voxels) + len(targets)):
        distances, _ = spatial.KDTree(targets * spacing).query(voxels * spacing)
        return np.asarray(distances, dtype=np.float64)
    away = np.ones(tuple(shape), dtype=bool)
    away[tuple((targets - low).T)] = False
    distances = ndimage.distance_transform_edt(away, sampling=spacing)
    return np.asarray(distances[tuple((voxels - low).T)], dtype=np.float64)


def _surface_voxels(mask: BoolArray) -> NDArray[np.int64]:
    """Array indices ``(n, 3)`` of the mask's surface voxels."""
    box = _bounding_box(mask)
    if box is None:
        return np.empty((0, 3), dtype=np.int64)
    # Whatever lies outside the box is outside the mask, just as beyond the array, so cropping changes no surface voxel.
    first = np.array([part.start for part in box], dtype=np.int64)
    return np.asarray(np.argwhere(_edge(mask[box])) + first, dtype=np.int64)


def _edge(mask: BoolArray, without_axis: int | None = None) -> BoolArray:
    """Voxels of the mask with a face neighbour outside it; neighbours along ``without_axis`` are not looked at."""
    from scipy import ndimage

    cross = ndimage.generate_binary_structure(3, 1)
    if without_axis is not None:
        cross = cross & (np.arange(3) == 1).reshape([3 if axis == without_axis else 1 for axis in range(3)])
    edge: BoolArray = mask & ~ndimage.binary_erosion(mask, cross)
    return edge


def _bounding_box(mask: BoolArray) -> tuple[slice, slice, slice] | None:
    """The smallest box of array slices that holds the mask; None if it is empty."""
    parts = []
    for axis in range(3):
        used = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        if not used.size:
            return None
        parts.append(slice(int(used[0]), int(used[-1]) + 1))
    return (parts[0], parts[1], parts[2])


def _centroid_xyz(mask: BoolArray) -> NDArray[np.float64] | None:
    """Mean voxel index ``(x, y, z)``; None if the mask is empty."""
    box = _bounding_box(mask)
    if box is None:
        return None
    centre = np.argwhere(mask[box]).mean(axis=0) + [part.start for part in box]
    return np.asarray(centre[::-1], dtype=np.float64)


def _percentile(distances: NDArray[np.float64], percent: float) -> float:
    """Percentile of distances of which all or none are infinite; numpy would make NaN of infinite ones."""
    return float(np.percentile(distances, percent)) if np.isfinite(distances).all() else math.inf


def _check(result: BoolArray, truth: BoolArray, grid: Grid | None = None) -> None:
    """Refuse what would give a figure without meaning: label maps, probabilities, masks of different grids."""
    for name, mask in (("result", result), ("truth", truth)):
        if mask.dtype != np.bool_:
            raise InputError(f"metrics: the {name} mask holds {mask.dtype} values, not True and False")
        if mask.ndim != 3:
            raise InputError(f"metrics: the {name} mask is not 3-D (shape {mask.shape})")
        if grid is not None and mask.shape != tuple(grid.shape):
            raise InputError(f"metrics: the {name} mask of shape {mask.shape} is not on the grid of shape {tuple(grid.shape)}")
    if result.shape != truth.shape:
        raise InputError(f"metrics: result {result.shape} and truth {truth.shape} have different shapes")
    if grid is not None:
        grid.check("metrics")
