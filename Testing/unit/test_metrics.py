"""Figures against closed formulas, a brute-force copy of the definitions, an independent package and published peers."""

from __future__ import annotations

import itertools
import json
import math
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from P2SAMSlicerLib import metrics
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.volume import BoolArray

VISITS = Path(__file__).resolve().parents[3] / "shared" / "data" / "visits"
PEERS = VISITS / "peers.json"
SYMMETRIC = ("volumetric_dice", "hd95_mm", "mean_surface_distance_mm", "surface_dice")
SPACINGS = st.tuples(*[st.sampled_from([0.7, 1.0, 1.17, 2.5, 3.0])] * 3)
MASKS = arrays(np.bool_, (4, 5, 6), elements=st.booleans())


def box(shape: tuple[int, int, int], *ranges: tuple[int, int]) -> BoolArray:
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(*ends) for ends in ranges)] = True
    return mask


def sphere(grid: Grid, centre_xyz: tuple[float, float, float], radius: float) -> BoolArray:
    index = np.indices(grid.shape)[::-1]
    squared = sum((index[a] * grid.spacing[a] - centre_xyz[a]) ** 2 for a in range(3))
    return np.asarray(squared <= radius**2)


def brute_force_surface(mask: BoolArray) -> list[tuple[int, int, int]]:
    """The definition read aloud, voxel by voxel."""
    inside = {(int(z), int(y), int(x)) for z, y, x in np.argwhere(mask)}
    steps = [(1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1)]
    return [v for v in sorted(inside) if any((v[0] + a, v[1] + b, v[2] + c) not in inside for a, b, c in steps)]


def brute_force_distances(ours: BoolArray, theirs: BoolArray, spacing_zyx: tuple[float, float, float]) -> NDArray[np.float64]:
    targets = brute_force_surface(theirs)
    return np.array([min(math.dist(*np.multiply((v, t), spacing_zyx)) for t in targets) for v in brute_force_surface(ours)])


def assert_same_figures(first: metrics.SegmentMetrics, second: metrics.SegmentMetrics, names: tuple[str, ...]) -> None:
    for name in names:
        assert getattr(first, name) == pytest.approx(getattr(second, name), abs=1e-9, nan_ok=True), name


# --- closed formulas ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [3.0, 9.0, 20.0])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_shifted_sphere_has_the_analytic_dice(shift: float, axis: int) -> None:
    grid = Grid((40, 90, 100), spacing=(0.9, 1.1, 2.5))
    centre = [45.0, 49.5, 50.0]
    truth = sphere(grid, (centre[0], centre[1], centre[2]), 22.0)
    centre[axis] += shift
    result = sphere(grid, (centre[0], centre[1], centre[2]), 22.0)
    lens = (4 * 22.0 + shift) * (2 * 22.0 - shift) ** 2 / 12.0
    figures = metrics.evaluate(result, truth, grid)
    assert figures.volumetric_dice == pytest.approx(lens / (4 / 3 * 22.0**3), abs=0.01)
    assert figures.centroid_shift_mm == pytest.approx([shift if i == axis else 0.0 for i in range(3)], abs=0.1)
    assert figures.truth_volume_ml == pytest.approx(4 / 3 * math.pi * 22.0**3 / 1000, rel=0.01)
    assert figures.missed_fraction == pytest.approx(1 - lens / (4 / 3 * 22.0**3), abs=0.01)


def test_concentric_spheres_are_the_difference_of_their_radii_apart() -> None:
    grid = Grid((90, 90, 90), spacing=(0.8, 0.8, 0.8))
    truth, result = sphere(grid, (36.0, 36.0, 36.0), 20.0), sphere(grid, (36.0, 36.0, 36.0), 26.0)
    figures = metrics.evaluate(result, truth, grid)
    assert figures.hd95_mm == pytest.approx(6.0, abs=0.8)
    assert figures.mean_surface_distance_mm == pytest.approx(6.0, abs=0.4)
    assert metrics.surface_dice(result, truth, grid, 5.0) == 0.0
    assert metrics.surface_dice(result, truth, grid, 7.0) == 1.0
    assert figures.missed_fraction == 0.0
    assert figures.over_contoured_fraction == pytest.approx(1.3**3 - 1, abs=0.02)
    assert figures.volume_error_percent == pytest.approx(100 * (1.3**3 - 1), abs=2.0)


@pytest.mark.parametrize(("axis", "step_mm"), [(0, 3.0), (1, 1.2), (2, 0.8)])
def test_a_shifted_box_has_the_exact_figures_on_an_anisotropic_grid(axis: int, step_mm: float) -> None:
    grid = Grid((30, 30, 30), spacing=(0.8, 1.2, 3.0))
    truth = box(grid.shape, (8, 18), (8, 18), (8, 18))
    result = np.roll(truth, 2, axis=axis)
    figures = metrics.evaluate(result, truth, grid, tolerance_mm=2 * step_mm)
    assert figures.volumetric_dice == pytest.approx(0.8)
    assert figures.missed_fraction == pytest.approx(0.2)
    assert figures.over_contoured_fraction == pytest.approx(0.2)
    assert figures.volume_error_ml == 0.0
    assert figures.truth_volume_ml == pytest.approx(1000 * 0.8 * 1.2 * 3.0 / 1000)
    # 100 of 488 surface voxels of each face the shift: more than 5 %, so the percentile is the whole shift (or the shorter way
    # sideways out of the box, which is never shorter here).
    assert figures.hd95_mm == pytest.approx(2 * step_mm)
    assert figures.surface_dice == 1.0
    shift = [0.0, 0.0, 0.0]
    shift[2 - axis] = 2 * step_mm
    assert figures.centroid_shift_mm == pytest.approx(shift)


def test_the_mean_surface_distance_of_two_parallel_plates_is_their_distance() -> None:
    grid = Grid((12, 8, 8), spacing=(1.0, 1.0, 2.5))
    low, high = box(grid.shape, (2, 3), (0, 8), (0, 8)), box(grid.shape, (6, 7), (0, 8), (0, 8))
    assert metrics.mean_surface_distance_mm(low, high, grid) == pytest.approx(10.0)
    assert metrics.hd95_mm(low, high, grid) == pytest.approx(10.0)


def test_hd95_is_the_larger_directed_percentile_and_not_the_pooled_one() -> None:
    # The result has a far appendage of 12 voxels, the truth has none: only the direction result -> truth sees it.
    grid = Grid((5, 5, 40))
    truth = box(grid.shape, (1, 4), (1, 4), (1, 4))
    result = truth | box(grid.shape, (2, 3), (2, 3), (4, 16))
    there = brute_force_distances(result, truth, (1.0, 1.0, 1.0))
    back = brute_force_distances(truth, result, (1.0, 1.0, 1.0))
    pooled = float(np.percentile(np.concatenate([there, back]), 95))
    expected = float(np.percentile(there, 95))
    assert expected > pooled + 1
    assert metrics.hd95_mm(result, truth, grid) == pytest.approx(expected)
    assert metrics.hd95_mm(truth, result, grid) == pytest.approx(expected)


def test_a_distance_equal_to_the_tolerance_is_within_it_in_spite_of_rounding() -> None:
    grid = Grid((3, 3, 12), spacing=(0.1, 1.0, 1.0))
    one, other = box(grid.shape, (1, 2), (1, 2), (1, 2)), box(grid.shape, (1, 2), (1, 2), (4, 5))
    assert metrics.surface_dice(one, other, grid, 0.3) == 1.0
    assert metrics.surface_dice(one, other, grid, 0.29) == 0.0


def test_growth_that_was_missed_has_a_negative_volume_error() -> None:
    grid = Grid((10, 20, 20), spacing=(2.0, 2.0, 5.0))
    truth, result = box(grid.shape, (2, 8), (2, 18), (2, 18)), box(grid.shape, (2, 8), (2, 18), (2, 10))
    figures = metrics.evaluate(result, truth, grid)
    assert figures.volume_error_ml == pytest.approx(-6 * 16 * 8 * 20 / 1000)
    assert figures.volume_error_percent == pytest.approx(-50.0)
    assert figures.missed_fraction == pytest.approx(0.5)
    assert figures.over_contoured_fraction == 0.0


def test_a_result_of_thrice_the_size_has_an_over_contoured_fraction_above_one() -> None:
    truth, result = box((5, 5, 20), (0, 5), (0, 5), (0, 6)), box((5, 5, 20), (0, 5), (0, 5), (0, 18))
    assert metrics.over_contoured_fraction(result, truth) == pytest.approx(2.0)


def test_the_centroid_shift_follows_the_grids_directions() -> None:
    # Columns run to the patient's right, rows to superior, slices to posterior.
    grid = Grid((20, 20, 20), spacing=(1.0, 2.0, 3.0), origin=(50.0, -7.0, 900.0), direction=(-1, 0, 0, 0, 0, 1, 0, 1, 0))
    truth = box(grid.shape, (5, 8), (5, 8), (5, 8))
    result = np.roll(truth, (1, 2, 3), axis=(0, 1, 2))
    assert metrics.centroid_shift_mm(result, truth, grid) == pytest.approx((-3.0, 3.0, 4.0))


# --- slices ------------------------------------------------------------------------------------------------------------------


def test_the_slice_mean_counts_slices_of_the_truth_alone() -> None:
    truth = box((6, 10, 10), (1, 4), (0, 4), (0, 4))
    result = np.zeros_like(truth)
    result[1] = truth[1]  # Dice 1
    result[2, 0:4, 2:6] = True  # Dice 0.5; slice 3 is missed: Dice 0
    assert metrics.slice_mean_dice(result, truth) == pytest.approx((1.0 + 0.5 + 0.0) / 3)
    result[4:6] = True  # Only the result is here: the paper's figure does not see it, the volumetric one does.
    assert metrics.slice_mean_dice(result, truth) == pytest.approx((1.0 + 0.5 + 0.0) / 3)
    assert metrics.volumetric_dice(result, truth) == pytest.approx(2 * 24 / (48 + 32 + 200))


def test_the_slice_mean_weighs_a_small_slice_like_a_large_one() -> None:
    truth = box((2, 20, 20), (0, 1), (0, 20), (0, 20)) | box((2, 20, 20), (1, 2), (0, 1), (0, 1))
    result = truth.copy()
    result[1] = False
    assert metrics.slice_mean_dice(result, truth) == pytest.approx(0.5)
    assert metrics.volumetric_dice(result, truth) > 0.99


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_the_slice_figures_can_be_taken_along_any_axis(axis: int) -> None:
    rng = np.random.default_rng(axis + 1)
    result, truth = rng.random((5, 6, 7)) < 0.5, rng.random((5, 6, 7)) < 0.5
    grid = Grid((5, 6, 7), spacing=(2.0, 2.0, 2.0))
    first = [np.moveaxis(mask, axis, 0) for mask in (result, truth)]
    moved = Grid((first[0].shape[0], first[0].shape[1], first[0].shape[2]), spacing=grid.spacing)
    assert metrics.slice_mean_dice(result, truth, slice_axis=axis) == pytest.approx(metrics.slice_mean_dice(*first))
    along = metrics.added_path_length_mm(result, truth, grid, slice_axis=axis)
    assert along == pytest.approx(metrics.added_path_length_mm(first[0], first[1], moved))
    figures = metrics.evaluate(result, truth, grid, slice_axis=axis)
    assert figures.added_path_length_mm == along


def test_the_added_path_is_the_edge_of_the_truth_that_the_result_lacks() -> None:
    grid = Grid((3, 20, 20), spacing=(0.5, 2.0, 9.0))
    truth = box(grid.shape, (1, 2), (5, 15), (5, 15))
    assert metrics.added_path_length_mm(truth, truth, grid) == 0.0
    assert metrics.added_path_length_mm(np.zeros_like(truth), truth, grid) == pytest.approx(36 * 1.0)
    assert metrics.added_path_length_mm(truth, np.zeros_like(truth), grid) == 0.0
    # Shifted by one column: 9 of 10 pixels of the upper and of the lower side stay, no column does: 36 - 18 are to be drawn.
    assert metrics.added_path_length_mm(np.roll(truth, 1, axis=2), truth, grid) == pytest.approx(18 * 1.0)
    # The result covers everything and its edge is elsewhere: all is to be drawn.
    assert metrics.added_path_length_mm(np.ones_like(truth), truth, grid) == pytest.approx(36 * 1.0)


# --- properties --------------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None, derandomize=True)
@given(MASKS, MASKS, SPACINGS)
def test_surface_figures_equal_a_brute_force_reading_of_the_definition(
    result: BoolArray, truth: BoolArray, spacing: tuple[float, float, float]
) -> None:
    result[0, 0, 0] = truth[3, 4, 5] = True
    grid = Grid((4, 5, 6), spacing=spacing)
    there = brute_force_distances(result, truth, grid.spacing_zyx)
    back = brute_force_distances(truth, result, grid.spacing_zyx)
    both = np.concatenate([there, back])
    figures = metrics.evaluate(result, truth, grid)
    assert figures.hd95_mm == pytest.approx(max(np.percentile(there, 95), np.percentile(back, 95)))
    assert figures.mean_surface_distance_mm == pytest.approx(both.mean())
    assert figures.surface_dice == pytest.approx((both <= 2.0 + 1e-6).mean())


@settings(max_examples=60, deadline=None, derandomize=True)
@given(MASKS, MASKS, SPACINGS)
def test_dice_and_distances_are_symmetric(result: BoolArray, truth: BoolArray, spacing: tuple[float, float, float]) -> None:
    grid = Grid((4, 5, 6), spacing=spacing)
    there, back = metrics.evaluate(result, truth, grid), metrics.evaluate(truth, result, grid)
    assert_same_figures(there, back, SYMMETRIC)
    assert there.volume_error_ml == pytest.approx(-back.volume_error_ml)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(MASKS, SPACINGS)
def test_a_mask_against_itself_is_perfect(mask: BoolArray, spacing: tuple[float, float, float]) -> None:
    mask[1, 2, 3] = True
    figures = metrics.evaluate(mask, mask.copy(), Grid((4, 5, 6), spacing=spacing), tolerance_mm=0.0)
    assert (figures.volumetric_dice, figures.slice_mean_dice, figures.surface_dice) == (1.0, 1.0, 1.0)
    assert (figures.hd95_mm, figures.mean_surface_distance_mm, figures.added_path_length_mm) == (0.0, 0.0, 0.0)
    assert (figures.missed_fraction, figures.over_contoured_fraction, figures.volume_error_percent) == (0.0, 0.0, 0.0)
    assert figures.centroid_shift_mm == (0.0, 0.0, 0.0)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(MASKS, MASKS, SPACINGS, st.tuples(*[st.integers(0, 7)] * 3))
def test_no_figure_depends_on_where_both_masks_lie_in_the_array(
    result: BoolArray, truth: BoolArray, spacing: tuple[float, float, float], at: tuple[int, int, int]
) -> None:
    small, large = Grid((4, 5, 6), spacing=spacing), Grid((12, 13, 14), spacing=spacing, origin=(-3.0, 80.0, 1200.0))
    moved = []
    for mask in (result, truth):
        mask[2, 2, 2] = True
        padded = np.zeros(large.shape, dtype=bool)
        padded[at[0] : at[0] + 4, at[1] : at[1] + 5, at[2] : at[2] + 6] = mask
        moved.append(padded)
    here, there = metrics.evaluate(result, truth, small), metrics.evaluate(moved[0], moved[1], large)
    names = tuple(name for name in here.as_dict() if name not in ("centroid_shift_mm", "empty"))
    assert_same_figures(here, there, names)
    assert here.centroid_shift_mm == pytest.approx(there.centroid_shift_mm)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(MASKS, MASKS, SPACINGS, st.sampled_from(list(itertools.permutations(range(3)))))
def test_volume_and_surface_figures_do_not_depend_on_the_order_of_the_axes(
    result: BoolArray, truth: BoolArray, spacing: tuple[float, float, float], order: tuple[int, int, int]
) -> None:
    grid = Grid((4, 5, 6), spacing=spacing)
    shape, sides = np.array(grid.shape)[list(order)], np.array(grid.spacing_zyx)[list(order)]
    turned = Grid((int(shape[0]), int(shape[1]), int(shape[2])), spacing=(float(sides[2]), float(sides[1]), float(sides[0])))
    here = metrics.evaluate(result, truth, grid)
    there = metrics.evaluate(np.transpose(result, order), np.transpose(truth, order), turned)
    assert_same_figures(here, there, (*SYMMETRIC, "missed_fraction", "over_contoured_fraction", "volume_error_ml"))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(MASKS, MASKS, SPACINGS)
def test_a_grid_of_twice_the_spacing_has_twice_the_distances(
    result: BoolArray, truth: BoolArray, spacing: tuple[float, float, float]
) -> None:
    result[0, 0, 0] = truth[3, 4, 5] = True
    doubled = Grid((4, 5, 6), spacing=(2 * spacing[0], 2 * spacing[1], 2 * spacing[2]))
    here = metrics.evaluate(result, truth, Grid((4, 5, 6), spacing=spacing), tolerance_mm=2.0)
    there = metrics.evaluate(result, truth, doubled, tolerance_mm=4.0)
    assert there.hd95_mm == pytest.approx(2 * here.hd95_mm)
    assert there.mean_surface_distance_mm == pytest.approx(2 * here.mean_surface_distance_mm)
    assert there.surface_dice == pytest.approx(here.surface_dice)
    assert there.result_volume_ml == pytest.approx(8 * here.result_volume_ml)


@pytest.mark.parametrize("seed", range(3))
def test_search_tree_and_distance_transform_agree(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(seed)
    result, truth = (rng.random((2, 15, 16, 17)) < 0.3)[:]
    grid = Grid((15, 16, 17), spacing=(0.9, 1.1, 2.7))
    found = []
    for ratio in (0, 10**12):
        monkeypatch.setattr(metrics, "BOX_VOXELS_PER_SURFACE_VOXEL", ratio)
        found.append(metrics.surface_distances(result, truth, grid))
    np.testing.assert_allclose(found[0].result_to_truth, found[1].result_to_truth)
    np.testing.assert_allclose(found[0].truth_to_result, found[1].truth_to_result)


# --- edges -------------------------------------------------------------------------------------------------------------------


def test_two_empty_masks_agree_and_have_no_distance() -> None:
    empty = np.zeros((3, 4, 5), dtype=bool)
    figures = metrics.evaluate(empty, empty, Grid((3, 4, 5)))
    assert (figures.volumetric_dice, figures.surface_dice) == (1.0, 1.0)
    assert (figures.truth_volume_ml, figures.result_volume_ml, figures.volume_error_ml) == (0.0, 0.0, 0.0)
    undefined = ("slice_mean_dice", "hd95_mm", "mean_surface_distance_mm", "volume_error_percent", "missed_fraction")
    for name in (*undefined, "over_contoured_fraction"):
        assert math.isnan(getattr(figures, name)), name
    assert figures.centroid_shift_mm is None
    assert figures.as_dict()["empty"] == ["result", "truth"]


def test_an_empty_result_has_dice_zero_and_an_infinite_distance() -> None:
    truth = box((6, 6, 6), (1, 5), (1, 5), (1, 5))
    figures = metrics.evaluate(np.zeros_like(truth), truth, Grid((6, 6, 6)))
    assert (figures.volumetric_dice, figures.slice_mean_dice, figures.surface_dice) == (0.0, 0.0, 0.0)
    assert (figures.hd95_mm, figures.mean_surface_distance_mm) == (math.inf, math.inf)
    assert (figures.missed_fraction, figures.over_contoured_fraction, figures.volume_error_percent) == (1.0, 0.0, -100.0)
    assert figures.centroid_shift_mm is None
    assert figures.as_dict()["hd95_mm"] is None
    assert figures.as_dict()["empty"] == ["result"]


def test_an_empty_truth_has_dice_zero_and_undefined_shares() -> None:
    result = box((6, 6, 6), (1, 5), (1, 5), (1, 5))
    figures = metrics.evaluate(result, np.zeros_like(result), Grid((6, 6, 6)))
    assert (figures.volumetric_dice, figures.surface_dice, figures.hd95_mm) == (0.0, 0.0, math.inf)
    for name in ("slice_mean_dice", "missed_fraction", "over_contoured_fraction", "volume_error_percent"):
        assert math.isnan(getattr(figures, name)), name
    assert figures.volume_error_ml == pytest.approx(0.064)


def test_single_voxels_are_their_centres_distance_apart() -> None:
    grid = Grid((5, 6, 7), spacing=(1.0, 2.0, 4.0))
    one, other = box(grid.shape, (0, 1), (0, 1), (0, 1)), box(grid.shape, (1, 2), (1, 2), (2, 3))
    figures = metrics.evaluate(other, one, grid)
    assert figures.hd95_mm == pytest.approx(math.sqrt(4 + 4 + 16))
    assert figures.mean_surface_distance_mm == pytest.approx(math.sqrt(24))
    assert figures.centroid_shift_mm == pytest.approx((2.0, 2.0, 4.0))
    assert figures.volumetric_dice == 0.0


def test_voxels_on_the_border_of_the_array_are_surface() -> None:
    # Without that, a mask that fills the array would have no surface at all.
    full = np.ones((6, 6, 6), dtype=bool)
    inner = box((6, 6, 6), (2, 4), (2, 4), (2, 4))
    distances = metrics.surface_distances(full, inner, Grid((6, 6, 6)))
    assert len(distances.result_to_truth) == 6**3 - 4**3
    assert metrics.hd95_mm(full, full, Grid((6, 6, 6))) == 0.0
    assert distances.percentile_mm(100) == pytest.approx(math.sqrt(12))


def test_the_wall_of_a_cavity_is_surface() -> None:
    full = box((9, 9, 9), (1, 8), (1, 8), (1, 8))
    hollow = full & ~box((9, 9, 9), (4, 5), (4, 5), (4, 5))
    assert metrics.surface_distances(hollow, full, Grid((9, 9, 9))).percentile_mm(100) == pytest.approx(2.0)


def test_the_dictionary_is_strict_json_in_the_order_of_the_fields() -> None:
    truth = box((6, 6, 6), (1, 5), (1, 5), (1, 5))
    values = metrics.evaluate(np.roll(truth, 1, axis=2), truth, Grid((6, 6, 6)), 1.5).as_dict()
    read = json.loads(json.dumps(values, allow_nan=False))
    assert read == values
    assert list(read)[:3] == ["volumetric_dice", "slice_mean_dice", "hd95_mm"]
    assert read["tolerance_mm"] == 1.5
    assert read["centroid_shift_mm"] == [1.0, 0.0, 0.0]
    assert read["empty"] == []


@pytest.mark.parametrize(
    ("result", "fault"),
    [
        (np.zeros((4, 4, 4), dtype=np.uint8), "the result mask holds uint8 values"),
        (np.full((4, 4, 4), 0.3), "the result mask holds float64 values"),
        (np.zeros((4, 4, 5), dtype=bool), "the result mask of shape (4, 4, 5) is not on the grid"),
        (np.zeros((4, 4), dtype=bool), "the result mask is not 3-D"),
    ],
)
def test_what_is_no_mask_on_the_grid_is_refused_in_one_line(result: Any, fault: str) -> None:
    with pytest.raises(InputError) as caught:
        metrics.evaluate(result, np.zeros((4, 4, 4), dtype=bool), Grid((4, 4, 4)))
    assert fault in str(caught.value)
    assert "\n" not in str(caught.value)


def test_masks_that_would_broadcast_are_refused() -> None:
    with pytest.raises(InputError, match="different shapes"):
        metrics.volumetric_dice(np.ones((1, 4, 4), dtype=bool), np.ones((4, 4, 4), dtype=bool))


@pytest.mark.parametrize("tolerance", [-1.0, math.nan, math.inf])
def test_a_tolerance_that_is_no_distance_is_refused(tolerance: float) -> None:
    mask = np.ones((2, 2, 2), dtype=bool)
    with pytest.raises(InputError, match="tolerance"):
        metrics.evaluate(mask, mask, Grid((2, 2, 2)), tolerance)


def test_the_masks_are_left_as_they_were_even_when_they_are_views() -> None:
    rng = np.random.default_rng(5)
    whole = rng.random((2, 8, 9, 10)) < 0.4
    result, truth = whole[0].transpose(2, 1, 0), whole[1][::-1].transpose(2, 1, 0)
    before = whole.copy()
    whole.flags.writeable = False
    figures = metrics.evaluate(result, truth, Grid((10, 9, 8)))
    same = metrics.evaluate(np.ascontiguousarray(result), np.ascontiguousarray(truth), Grid((10, 9, 8)))
    assert figures == same
    np.testing.assert_array_equal(whole, before)


def test_a_lesion_in_a_whole_body_scan_and_a_stray_speck_take_about_a_second() -> None:
    # Processor time, not wall time: a busy machine does not matter. A distance transform of the whole scan takes far longer.
    grid = Grid((200, 512, 512), spacing=(0.98, 0.98, 3.0))
    truth, result = np.zeros(grid.shape, dtype=bool), np.zeros(grid.shape, dtype=bool)
    lesion = sphere(Grid((40, 100, 100), spacing=grid.spacing), (49.0, 49.0, 60.0), 40.0)
    truth[60:100, 200:300, 180:280] = lesion
    result[61:101, 203:303, 180:280] = lesion
    started = time.process_time()
    near = metrics.evaluate(result, truth, grid)
    result[199, 511, 511] = True
    far = metrics.evaluate(result, truth, grid)
    assert time.process_time() - started < 5.0
    assert far.hd95_mm == pytest.approx(near.hd95_mm, abs=0.1)
    assert far.mean_surface_distance_mm > near.mean_surface_distance_mm


# --- against others ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.9, 0.9, 2.5)])
def test_an_independent_package_gives_the_same_figures_within_a_voxel(seed: int, spacing: tuple[float, float, float]) -> None:
    """``surface-distance`` puts surface elements on voxel corners and weighs them by area; here: voxel centres, unweighted.

    A corner lies half a voxel diagonal from the centre, so that no single distance may differ by more than one diagonal; means,
    in which most of that cancels, by half a diagonal. Its share within a tolerance lies between ours at half a diagonal less
    and more, give or take 0.05 for the weights.
    """
    package = pytest.importorskip("surface_distance", reason="surface-distance (test dependency) is not installed")
    from scipy import ndimage

    rng = np.random.default_rng(seed)
    grid = Grid((24, 40, 42), spacing=spacing)
    noise = ndimage.gaussian_filter(rng.normal(size=(2, *grid.shape)), (0, 6 / spacing[2], 6, 6))
    z, y, x = np.meshgrid(*[np.linspace(-1.3, 1.3, n) for n in grid.shape], indexing="ij")
    blobs = noise / noise.std() * 0.25 + 0.7 - np.sqrt(z**2 + y**2 + x**2) > 0
    result, truth = blobs[0], blobs[1]
    assert result.sum() > 500
    assert truth.sum() > 500
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the package uses scipy's old names
        theirs = package.compute_surface_distances(truth, result, grid.spacing_zyx)
    diagonal = math.sqrt(sum(side**2 for side in spacing))
    figures = metrics.evaluate(result, truth, grid)
    assert figures.volumetric_dice == pytest.approx(package.compute_dice_coefficient(truth, result))
    assert figures.hd95_mm == pytest.approx(package.compute_robust_hausdorff(theirs, 95), abs=diagonal)
    mean = np.mean(package.compute_average_surface_distance(theirs))
    assert figures.mean_surface_distance_mm == pytest.approx(mean, abs=diagonal / 2)
    share = package.compute_surface_dice_at_tolerance(theirs, 3.0)
    assert metrics.surface_dice(result, truth, grid, 3.0 - diagonal / 2) - 0.05 <= share
    assert share <= metrics.surface_dice(result, truth, grid, 3.0 + diagonal / 2) + 0.05


@pytest.mark.skipif(not PEERS.is_file(), reason=f"needs the shared visits ({PEERS} is absent)")
@pytest.mark.parametrize(
    "case", ["limb_f_stable", "limb_h_grow", "lung_i_partial", "thigh_a_shrink", "thigh_c_necrosis", "trunk_e_shrink"]
)
def test_copying_the_contour_gives_the_peers_figures(case: str) -> None:
    """Dice to its four and HD95 to its two published decimals, so that our figures stand beside theirs."""
    sitk = pytest.importorskip("SimpleITK")
    published = json.loads(PEERS.read_text())["cases"][case]["copy"]
    followup = sitk.ReadImage(str(VISITS / case / "followup_seg.nii.gz"))
    prior = sitk.ReadImage(str(VISITS / case / "prior_seg.nii.gz"))
    copied = sitk.Resample(prior, followup, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
    result, truth = sitk.GetArrayFromImage(copied) > 0, sitk.GetArrayFromImage(followup) > 0
    grid = Grid(truth.shape, followup.GetSpacing(), followup.GetOrigin(), followup.GetDirection())
    figures = metrics.evaluate(result, truth, grid)
    assert figures.volumetric_dice == pytest.approx(published["dice"], abs=0.6e-4)
    assert figures.hd95_mm == pytest.approx(published["hd95_mm"], abs=0.6e-2)
