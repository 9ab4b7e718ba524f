"""A simulated follow-up: what is said to be true of it must be true of its voxels."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.geometry import IDENTITY_DIRECTION, Grid
from P2SAMSlicerLib.simulation.fill import borrow_texture
from P2SAMSlicerLib.simulation.visit import (
    CHANGES,
    KEPT_AROUND_LESION_MM,
    USUAL_SPACINGS,
    Change,
    SimulatedVisit,
    SimulationOptions,
    simulate_followup,
)
from P2SAMSlicerLib.volume import BoolArray, Volume
from scipy.ndimage import distance_transform_edt, label
from scipy.spatial.transform import Rotation

TRAIN = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "train"

Array = NDArray[np.float64]

MUSCLE, FAT, AIR, LESION = 50.0, -100.0, -1000.0, 150.0
BODY_MM, LESION_MM = 42.0, 13.0
OBLIQUE = tuple(Rotation.from_euler("zyx", [25, -15, 10], degrees=True).as_matrix().ravel().tolist())
FLIPPED = (0.0, 0.0, 1.0, -1.0, 0.0, 0.0, 0.0, -1.0, 0.0)

#: Nothing but the tumour changes: the follow-up could lie on the prior.
QUIET = SimulationOptions(
    "stable", rotation_deg=0.0, shift_mm=0.0, deform_mm=0.0, spacing=(1.0, 1.0, 2.0), noise_hu=0.0, offset_hu=0.0
)


def phantom(
    direction: tuple[float, ...] = IDENTITY_DIRECTION,
    lesion_at: tuple[float, float, float] = (3.0, -5.0, 2.0),
    lesion_mm: float = LESION_MM,
    tissue: float = MUSCLE,
    noise: float = 5.0,
) -> tuple[Volume, BoolArray]:
    """A body cylinder along the z axis with a fat layer, and a sphere of a lesion; centred near the grid's middle."""
    shape, spacing = (36, 84, 88), (1.1, 1.1, 2.5)
    grid = Grid(shape, spacing, (12.5, -40.0, 310.0), tuple(direction))
    z, y, x = ((np.arange(n) - n / 2) * s for n, s in zip(shape, spacing[::-1], strict=True))
    radius = np.hypot(y[:, None], x[None, :])
    body = np.where(radius < BODY_MM - 8, tissue, np.where(radius < BODY_MM, FAT, AIR))
    hu = np.broadcast_to(body, shape) + np.random.default_rng(7).normal(0, noise, shape)
    x0, y0, z0 = lesion_at
    mask = (z[:, None, None] - z0) ** 2 + (y[:, None] - y0) ** 2 + (x - x0) ** 2 < lesion_mm**2
    hu = np.where(mask, LESION + np.random.default_rng(8).normal(0, noise, shape), hu)
    return Volume(np.rint(hu).astype(np.int16), grid, "phantom"), mask


def points_of(grid: Grid, mask: BoolArray) -> Array:
    return grid.to_physical(np.argwhere(mask)[:, ::-1].astype(float))


def on_followup(visit: SimulatedVisit, prior: Grid, array: NDArray[Any]) -> NDArray[Any]:
    """A prior array at the prior position of each follow-up voxel (nearest), by the map that the visit gives."""
    grid = visit.followup.grid
    places = prior.to_index(visit.followup_to_prior(points_of(grid, np.ones(grid.shape, bool))))
    index = np.clip(np.rint(places[:, ::-1]).astype(int), 0, np.array(prior.shape) - 1)
    return np.asarray(array[tuple(index.T)].reshape(grid.shape))


def dice(a: BoolArray, b: BoolArray) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


# ---------------------------------------------------------------------------------------------------------- motion


@pytest.mark.parametrize("direction", [IDENTITY_DIRECTION, OBLIQUE, FLIPPED], ids=["axial", "oblique", "flipped"])
def test_a_set_up_error_moves_the_lesion_exactly_as_the_recorded_rigid_transform_says(direction: tuple[float, ...]) -> None:
    ct, mask = phantom(direction)
    visit = simulate_followup(ct, mask, replace(QUIET, rotation_deg=3.0, shift_mm=8.0, seed=4))
    record = visit.record
    turn = Rotation.from_euler("xyz", record["rotation_deg"], degrees=True)
    centre, shift = np.array(record["centre_mm"]), np.array(record["shift_mm"])
    prior = points_of(ct.grid, mask).mean(axis=0)
    expected = turn.inv().apply(prior - centre - shift) + centre
    found = points_of(visit.followup.grid, visit.mask).mean(axis=0)
    assert np.linalg.norm(found - expected) < 0.3
    assert np.linalg.norm(found - prior) > 3.0
    matrix = np.array(record["rigid_followup_to_prior"])
    np.testing.assert_allclose(matrix[:3, :3] @ expected + matrix[:3, 3], prior, atol=1e-6)
    np.testing.assert_allclose(visit.followup_to_prior(expected[None])[0], prior, atol=1e-6)
    np.testing.assert_allclose(visit.followup.grid.direction_matrix, ct.grid.direction_matrix)


@pytest.mark.parametrize("direction", [IDENTITY_DIRECTION, OBLIQUE, FLIPPED], ids=["axial", "oblique", "flipped"])
def test_the_truth_lies_where_the_lesion_is_seen_after_motion_and_deformation(direction: tuple[float, ...]) -> None:
    ct, mask = phantom(direction)
    visit = simulate_followup(ct, mask, SimulationOptions("stable", noise_hu=0.0, offset_hu=0.0, seed=11))
    seen = visit.followup.array > (LESION + MUSCLE) / 2
    assert dice(seen, visit.mask) > 0.96
    shift = points_of(visit.followup.grid, seen).mean(axis=0) - points_of(visit.followup.grid, visit.mask).mean(axis=0)
    assert np.linalg.norm(shift) < 0.3


def test_the_given_map_carries_the_prior_image_onto_the_follow_up() -> None:
    ct, mask = phantom(noise=0.0)
    visit = simulate_followup(ct, mask, SimulationOptions("stable", noise_hu=0.0, offset_hu=0.0, seed=2))
    expected = on_followup(visit, ct.grid, ct.array.astype(float))
    flat = on_followup(visit, ct.grid, distance_to_edges(ct.array))
    inside = (flat > 4.0) & (visit.followup.array > -1000)
    assert inside.sum() > 20000
    assert np.abs(visit.followup.array - expected)[inside].max() <= 20


def distance_to_edges(array: NDArray[Any]) -> Array:
    """Voxels to the nearest change of tissue."""
    edges = np.zeros(array.shape, bool)
    for axis in range(3):
        edges |= np.abs(np.gradient(array.astype(float), axis=axis)) > 10
    return np.asarray(distance_transform_edt(~edges))


def test_the_deformation_is_as_long_as_asked_and_its_jacobian_is_positive_everywhere() -> None:
    ct, mask = phantom()
    visit = simulate_followup(ct, mask, SimulationOptions("stable", deform_mm=4.0, seed=3))
    rigid = simulate_followup(ct, mask, SimulationOptions("stable", deform_mm=0.0, seed=3))
    grid = ct.grid
    field = visit.followup_to_prior(points_of(grid, np.ones(grid.shape, bool)))
    still = rigid.followup_to_prior(points_of(grid, np.ones(grid.shape, bool)))
    longest = np.linalg.norm(field - still, axis=1).max()
    assert longest == pytest.approx(4.0, abs=0.05)
    field = field.reshape(*grid.shape, 3)
    gradients = [np.gradient(field, step, axis=axis) for axis, step in enumerate(grid.spacing_zyx)]
    jacobian = np.linalg.det(np.stack(gradients[::-1], axis=-1))
    assert jacobian.min() > 0.2
    assert jacobian.min() < 0.99
    assert visit.record["jacobian_min"] == pytest.approx(jacobian.min(), abs=0.08)
    assert rigid.record["jacobian_min"] == rigid.record["jacobian_max"] == 1.0


# ---------------------------------------------------------------------------------------------------------- outline


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 2.0), (0.7, 0.7, 1.3), (1.17, 1.17, 3.0)])
def test_a_stable_lesion_keeps_its_volume(spacing: tuple[float, float, float]) -> None:
    ct, mask = phantom()
    visit = simulate_followup(ct, mask, replace(QUIET, rotation_deg=3.0, shift_mm=5.0, spacing=spacing))
    assert visit.record["followup_ml"] == pytest.approx(visit.record["prior_ml"], rel=0.02)
    assert visit.record["prior_ml"] == pytest.approx(mask.sum() * 1.1 * 1.1 * 2.5 / 1000)
    assert visit.record["followup_ml"] == pytest.approx(visit.mask.sum() * np.prod(spacing) / 1000)


@pytest.mark.parametrize(
    ("change", "fraction"),
    [
        ("shrink", -0.2),
        ("shrink", -0.7),
        ("grow", 0.3),
        ("grow", 1.0),
        ("partial", -0.3),
        ("partial", -0.6),
        ("necrosis", -0.1),
    ],
)
def test_the_lesion_changes_its_volume_by_the_fraction_asked_for(change: Change, fraction: float) -> None:
    ct, mask = phantom()
    options = replace(QUIET, change=change, change_fraction=fraction, shift_mm=4.0, rotation_deg=2.0, seed=3)
    record = simulate_followup(ct, mask, options).record
    assert record["changed_ml"] / record["prior_ml"] == pytest.approx(1 + fraction, abs=0.01)
    assert record["followup_ml"] / record["prior_ml"] == pytest.approx(1 + fraction, abs=0.025)


def test_a_lesion_that_shrinks_stays_inside_and_one_that_grows_keeps_its_old_place() -> None:
    ct, mask = phantom()
    small = simulate_followup(ct, mask, replace(QUIET, change="shrink"))
    large = simulate_followup(ct, mask, replace(QUIET, change="grow"))
    assert (small.mask & ~on_followup(small, ct.grid, mask)).sum() < 0.01 * small.mask.sum()
    assert (on_followup(large, ct.grid, mask) & ~large.mask).sum() < 0.01 * large.mask.sum()


def test_a_partial_response_recedes_on_one_side_and_leaves_the_other_alone() -> None:
    ct, mask = phantom()
    visit = simulate_followup(ct, mask, replace(QUIET, change="partial", change_fraction=-0.4, seed=5))
    index = np.indices(mask.shape).reshape(3, -1).T * ct.grid.spacing_zyx
    from_centre = index - index[mask.ravel()].mean(axis=0)
    side = on_followup(visit, ct.grid, (from_centre @ visit.record["partial_direction_zyx"]).reshape(mask.shape))
    still = simulate_followup(ct, mask, replace(QUIET, seed=5))
    assert visit.mask[still.mask & (side < -0.3 * LESION_MM)].mean() > 0.99
    assert visit.mask[still.mask & (side > 0.6 * LESION_MM)].mean() < 0.05
    # Where the border stayed, nothing is painted either.
    stayed = side < -0.6 * LESION_MM
    np.testing.assert_allclose(visit.followup.array[stayed], still.followup.array[stayed], atol=1)


def test_a_vanished_lesion_has_an_empty_truth() -> None:
    ct, mask = phantom()
    visit = simulate_followup(ct, mask, SimulationOptions("vanish", seed=6))
    assert not visit.mask.any()
    assert visit.record["followup_ml"] == visit.record["changed_ml"] == 0.0


def test_growth_stops_below_the_skin_and_yields_to_bone() -> None:
    ct, mask = phantom(lesion_at=(26.0, 0.0, 0.0), lesion_mm=11.0)
    hu = ct.array.copy()
    _, y, x = np.indices(hu.shape)
    bone = (np.abs(x - 54) * 1.1 < 4) & (np.abs(y - 42) * 1.1 < 12) & ~mask
    hu[bone] = 900
    ct = replace(ct, array=hu)
    visit = simulate_followup(ct, mask, replace(QUIET, change="grow", change_fraction=2.5))
    radius = np.hypot((x - 44) * 1.1, (y - 42) * 1.1)
    reached = on_followup(visit, ct.grid, radius)[visit.mask]
    assert reached.max() < BODY_MM - 1.5
    assert reached.max() > BODY_MM - 5.0
    in_bone = on_followup(visit, ct.grid, bone)
    muscle = on_followup(visit, ct.grid, ~bone & ~mask & (radius < BODY_MM - 6))
    distance = on_followup(visit, ct.grid, distance_transform_edt(~mask, sampling=ct.grid.spacing_zyx))
    assert visit.mask[in_bone & (distance < 4)].mean() < 0.35
    assert visit.mask[muscle & (distance < 4)].mean() > 0.7


def test_a_lesion_that_cannot_grow_as_asked_is_refused() -> None:
    ct, mask = phantom(lesion_mm=20.0)
    with pytest.raises(InputError, match="ml asked for"):
        simulate_followup(replace(ct, array=np.where(mask, ct.array, -1000)), mask, replace(QUIET, change="grow"))


def test_a_lesion_of_two_pieces_keeps_both() -> None:
    ct, mask = phantom()
    other = np.zeros_like(mask)
    other[6:9, 40:45, 30:35] = True
    assert not (other & mask).any()
    hu = np.where(other, LESION, ct.array)
    for change in ("stable", "necrosis", "grow"):
        visit = simulate_followup(replace(ct, array=hu), mask | other, replace(QUIET, change=change))
        assert label(visit.mask)[1] == 2
        assert visit.mask[on_followup(visit, ct.grid, other)].mean() > 0.75


# ---------------------------------------------------------------------------------------------------------- tissue


def test_tissue_that_replaces_a_vanished_lesion_cannot_be_told_from_its_surroundings() -> None:
    ct, mask = phantom()
    visit = simulate_followup(ct, mask, replace(QUIET, change="vanish", spacing=(1.1, 1.1, 2.5)))
    hu = visit.followup.array.astype(float)
    former = on_followup(visit, ct.grid, mask)
    distance = on_followup(visit, ct.grid, distance_transform_edt(~mask, sampling=ct.grid.spacing_zyx))
    around = (distance > 4) & (distance < 9)
    assert abs(np.median(hu[former]) - MUSCLE) < 3
    assert (hu[former] < 100).mean() > 0.999
    # Neither a rim at the old border nor a flat patch: mean and noise are those of the surroundings.
    border = (distance > 0) & (distance < 3)
    calm = np.abs(hu - MUSCLE) < 40
    assert abs(hu[border & calm].mean() - hu[around & calm].mean()) < 2
    assert hu[former & calm].std() == pytest.approx(hu[around & calm].std(), rel=0.3)


def test_tissue_that_a_shrinking_lesion_leaves_is_of_the_surroundings_and_what_it_keeps_is_lesion() -> None:
    ct, mask = phantom()
    visit = simulate_followup(ct, mask, replace(QUIET, change="shrink", change_fraction=-0.6))
    hu = visit.followup.array
    left = on_followup(visit, ct.grid, mask) & ~visit.mask
    away = distance_transform_edt(~visit.mask, sampling=visit.followup.grid.spacing_zyx)
    deep = distance_transform_edt(visit.mask, sampling=visit.followup.grid.spacing_zyx)
    assert (left & (away > 1.5)).sum() > 500
    assert hu[left & (away > 1.5)].max() < 100
    assert hu[visit.mask & (deep > 1.5)].min() > 110


def test_what_a_growing_lesion_takes_looks_like_the_lesion() -> None:
    ct, mask = phantom()
    visit = simulate_followup(ct, mask, replace(QUIET, change="grow", change_fraction=1.0))
    hu = visit.followup.array
    deep = distance_transform_edt(visit.mask, sampling=visit.followup.grid.spacing_zyx)
    taken = visit.mask & ~on_followup(visit, ct.grid, mask) & (deep > 1.5)
    assert taken.sum() > 1000
    assert np.median(hu[taken]) == pytest.approx(LESION, abs=4)
    assert (hu[taken] > 110).mean() > 0.99
    away = distance_transform_edt(~visit.mask, sampling=visit.followup.grid.spacing_zyx)
    assert (hu[(away > 3) & (away < 8)] < 100).mean() > 0.999


def test_necrosis_darkens_the_core_by_tens_of_hu_and_leaves_outline_and_rim() -> None:
    ct, mask = phantom()
    still = simulate_followup(ct, mask, QUIET)
    visit = simulate_followup(ct, mask, replace(QUIET, change="necrosis"))
    np.testing.assert_array_equal(visit.mask, still.mask)
    drop = still.followup.array.astype(float) - visit.followup.array
    deep = distance_transform_edt(visit.mask, sampling=visit.followup.grid.spacing_zyx)
    assert 15 < np.median(drop[deep > 0.8 * deep.max()]) < 65
    assert np.abs(drop[~visit.mask]).max() < 10
    darker = (drop > 10).sum() / visit.mask.sum()
    assert 0.2 < darker < 0.75


def test_lung_is_filled_with_lung() -> None:
    ct, mask = phantom(tissue=-850.0, noise=15.0)
    visit = simulate_followup(ct, mask, replace(QUIET, change="vanish"))
    former = on_followup(visit, ct.grid, mask)
    assert np.median(visit.followup.array[former]) == pytest.approx(-850, abs=15)


def test_a_stable_visit_alone_changes_no_tissue() -> None:
    ct, mask = phantom(noise=0.0)
    visit = simulate_followup(ct, mask, replace(QUIET, spacing=(1.1, 1.1, 2.5)))
    deep = on_followup(visit, ct.grid, distance_to_edges(ct.array)) > 4
    np.testing.assert_allclose(visit.followup.array[deep], on_followup(visit, ct.grid, ct.array)[deep], atol=3)


def test_borrowed_texture_comes_only_from_where_it_may() -> None:
    rng = np.random.default_rng(0)
    hu = rng.uniform(0, 10, (20, 40, 40)).astype(np.float32)
    forbidden = rng.random(hu.shape) < 0.1  # scattered, so that no whole patch is free of it
    forbidden[:, :, 30:] = True
    hu[forbidden] = 1000.0
    hole = np.zeros(hu.shape, bool)
    hole[6:14, 14:26, 20:29] = True
    filled = borrow_texture(np.where(hole, np.float32(-500), hu), hole, ~hole, ~hole & ~forbidden, (2.5, 1.0, 1.0))
    assert filled[hole].min() >= 0
    assert filled[hole].max() <= 10
    np.testing.assert_array_equal(filled[~hole], hu[~hole])


# -------------------------------------------------------------------------------------------- grid, noise, record


def test_noise_and_offset_are_as_large_as_asked_and_leave_the_padding() -> None:
    ct, mask = phantom()
    options = replace(QUIET, rotation_deg=3.0, shift_mm=8.0, seed=1)
    plain = simulate_followup(ct, mask, options)
    noisy = simulate_followup(ct, mask, replace(options, noise_hu=12.0, offset_hu=-7.0))
    np.testing.assert_array_equal(noisy.mask, plain.mask)
    change = noisy.followup.array.astype(float) - plain.followup.array
    tissue = plain.followup.array > -500
    assert change[tissue].mean() == pytest.approx(-7.0, abs=0.5)
    assert change[tissue].std() == pytest.approx(12.0, abs=0.5)
    neighbours = np.corrcoef(change[:, :, 1:][tissue[:, :, 1:]], change[:, :, :-1][tissue[:, :, 1:]])[0, 1]
    assert 0.2 < neighbours < 0.9
    places = ct.grid.to_index(noisy.followup_to_prior(points_of(noisy.followup.grid, np.ones(change.shape, bool))))
    outside = ((places < -0.5) | (places > np.array(ct.grid.shape)[::-1] - 0.5)).any(axis=1).reshape(change.shape)
    assert outside.any()
    assert (noisy.followup.array[outside] == -1000).all()
    assert noisy.followup.array.dtype == np.int16
    assert noisy.followup.array.min() >= -1024


def test_the_follow_up_has_another_grid_and_keeps_what_surrounds_the_lesion() -> None:
    ct, mask = phantom()
    spacings, shapes, shifts = set(), set(), set()
    for seed in range(6):
        visit = simulate_followup(ct, mask, SimulationOptions("stable", seed=seed))
        grid = visit.followup.grid
        spacings.add(grid.spacing)
        shapes.add(grid.shape)
        shifts.add(tuple(visit.record["shift_mm"]))
        assert grid.spacing in USUAL_SPACINGS
        index = np.argwhere(visit.mask)
        room = np.minimum(index.min(axis=0), np.array(grid.shape) - 1 - index.max(axis=0)) * grid.spacing_zyx
        assert room.min() > KEPT_AROUND_LESION_MM - 4
        assert (visit.followup.array > -500).mean() > 0.3
        # A little is cropped off, not much.
        assert 0.6 < np.prod(grid.shape) * grid.voxel_ml / (np.prod(ct.grid.shape) * ct.grid.voxel_ml) < 1.0
    assert len(spacings) > 1
    assert len(shapes) == len(shifts) == 6


@pytest.mark.parametrize("change", CHANGES)
def test_the_same_seed_gives_the_same_visit_and_leaves_the_prior_as_it_was(change: Change) -> None:
    ct, mask = phantom()
    before = ct.array.copy(), mask.copy()
    options = SimulationOptions(change, spacing=(1.5, 1.5, 3.0), seed=21)
    one, two = (simulate_followup(ct, mask, options) for _ in range(2))
    np.testing.assert_array_equal(one.followup.array, two.followup.array)
    np.testing.assert_array_equal(one.mask, two.mask)
    assert one.followup.grid == two.followup.grid
    assert one.record == two.record == json.loads(json.dumps(one.record))
    np.testing.assert_array_equal(ct.array, before[0])
    np.testing.assert_array_equal(mask, before[1])


def test_voxels_beyond_the_hu_range_are_clipped_and_do_not_ring() -> None:
    ct, mask = phantom()
    hu = ct.array.copy()
    hu[:, :5] = -3024
    visit = simulate_followup(replace(ct, array=hu), mask, replace(QUIET, deform_mm=3.0))
    assert visit.followup.array.min() >= -1024
    body = on_followup(visit, ct.grid, distance_to_edges(np.maximum(hu, -1024))) > 4
    plain = simulate_followup(ct, mask, replace(QUIET, deform_mm=3.0))
    tissue = body & (plain.followup.array > -500)
    np.testing.assert_allclose(visit.followup.array[tissue], plain.followup.array[tissue], atol=1)


# ---------------------------------------------------------------------------------------------------------- enemies


@pytest.mark.parametrize("change", CHANGES)
def test_a_lesion_of_a_few_voxels_at_the_edge_of_the_volume_is_simulated(change: Change) -> None:
    ct, _ = phantom()
    mask = np.zeros(ct.grid.shape, bool)
    mask[0:2, 40:43, 41:43] = True
    visit = simulate_followup(ct, mask, SimulationOptions(change, seed=2))
    assert visit.mask.any() == (change != "vanish")
    assert visit.followup.array.max() < 400


@pytest.mark.parametrize("change", CHANGES)
def test_a_single_slice_is_simulated(change: Change) -> None:
    ct, mask = phantom()
    grid = replace(ct.grid, shape=(1, *ct.grid.shape[1:]))
    visit = simulate_followup(Volume(ct.array[18:19], grid, "slice"), mask[18:19], replace(QUIET, change=change))
    assert visit.mask.any() == (change != "vanish")


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"change": "melt"}, "melt"),
        ({"change": "shrink", "change_fraction": 0.2}, "change_fraction"),
        ({"change": "shrink", "change_fraction": -1.0}, "change_fraction"),
        ({"change": "grow", "change_fraction": -0.2}, "change_fraction"),
        ({"change": "grow", "change_fraction": float("nan")}, "change_fraction"),
        ({"change": "stable", "change_fraction": 0.1}, "change_fraction"),
        ({"shift_mm": -1.0}, "shift_mm"),
        ({"rotation_deg": -1.0}, "rotation_deg"),
        ({"deform_mm": -0.1}, "deform_mm"),
        ({"deform_mm": float("inf")}, "deform_mm"),
        ({"deform_scale_mm": 0.0}, "deform_scale_mm"),
        ({"noise_hu": -3.0}, "noise_hu"),
        ({"offset_hu": float("nan")}, "offset_hu"),
        ({"spacing": (1.0, 1.0, 0.0)}, "spacing"),
        ({"spacing": (1.0, 1.0)}, "spacing"),
        ({"spacing": (1e-3, 1e-3, 1e-3)}, "spacing"),
        ({"seed": -1}, "seed"),
        ({"seed": 1.5}, "seed"),
    ],
)
def test_options_that_mean_nothing_are_refused_in_one_line(options: dict[str, Any], word: str) -> None:
    ct, mask = phantom()
    with pytest.raises(InputError) as caught:
        simulate_followup(ct, mask, SimulationOptions(**options))
    assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_masks_and_volumes_that_cannot_be_used_are_refused_in_one_line() -> None:
    ct, mask = phantom()
    corner = np.zeros_like(mask)
    corner[:3, :3, :3] = True
    holed = ct.array.astype(float)
    holed[0, 0, 0] = np.nan
    only_lesion = replace(ct, array=np.where(mask, ct.array, -1000))
    cases: list[tuple[Volume, Any, str]] = [
        (ct, np.zeros_like(mask), "empty"),
        (ct, mask[1:], "shape"),
        (ct, np.ones_like(mask), "whole CT"),
        (ct, mask.astype(np.uint8), "boolean"),
        (ct, corner, "air"),
        (replace(ct, array=holed), mask, "finite"),
        (only_lesion, mask, "no normal tissue"),
    ]
    for volume, bad, word in cases:
        with pytest.raises(InputError, match=word) as caught:
            simulate_followup(volume, bad, replace(QUIET, change="vanish"))
        assert "phantom" in str(caught.value)
        assert "\n" not in str(caught.value)


# -------------------------------------------------------------------------------------------------------- real case


@pytest.mark.skipif(not (TRAIN / "STS_025").is_dir(), reason="shared/data/train/STS_025 is not beside the checkout")
@pytest.mark.parametrize("change", [pytest.param("shrink", marks=pytest.mark.long), "grow", "vanish"])
def test_a_real_sarcoma_ct_gives_a_plausible_follow_up(change: Change) -> None:
    import SimpleITK as sitk

    image = sitk.ReadImage(str(TRAIN / "STS_025" / "CT_image.nii.gz"))
    mask = sitk.GetArrayFromImage(sitk.ReadImage(str(TRAIN / "STS_025" / "CT_mask.nii.gz"))) > 0
    grid = Grid(image.GetSize()[::-1], image.GetSpacing(), image.GetOrigin(), image.GetDirection())
    ct = Volume(sitk.GetArrayFromImage(image), grid, "case")
    visit = simulate_followup(ct, mask, SimulationOptions(change, seed=1))
    record = visit.record
    assert record["prior_ml"] == pytest.approx(30.1, abs=0.1)
    asked = {"shrink": 0.65, "grow": 1.3, "vanish": 0.0}[change]
    assert record["followup_ml"] / record["prior_ml"] == pytest.approx(asked, abs=0.06)
    assert record["jacobian_min"] > 0.2
    # No air or bone where the lesion was (it lies under the skin), and no gap beside what is left of it.
    hu = visit.followup.array
    former = on_followup(visit, grid, distance_transform_edt(mask, sampling=grid.spacing_zyx) > 2)
    assert (hu[former] > -250).mean() > 0.99
    assert (hu[former] < 250).mean() > 0.995
