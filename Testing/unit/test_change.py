"""Change between two visits: only what differs by more than offset, noise and misregistration counts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from P2SAMSlicerLib.change import VisitChange, _gradient, compare_visits
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.registration import signed_distance
from P2SAMSlicerLib.volume import BoolArray, Volume

SHAPE = (16, 72, 72)
GRID = Grid(SHAPE, (1.0, 1.0, 3.0), (-20.0, 30.0, 5.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
CENTRE = (24.0, 36.0, 36.0)


def positions() -> tuple[NDArray[np.float64], ...]:
    z, y, x = np.indices(SHAPE).astype(np.float64)
    return z * 3.0 - CENTRE[0], y - CENTRE[1], x - CENTRE[2]


def ball(radius: float) -> BoolArray:
    z, y, x = positions()
    inside: BoolArray = z**2 + y**2 + x**2 <= radius**2
    return inside


def tissue(lesion: BoolArray, lesion_hu: float = 40.0) -> NDArray[np.float32]:
    """Muscle at 60 HU inside fat, with a lesion of little contrast."""
    _, y, x = positions()
    values = np.where(np.hypot(y, x) < 30, 60.0, -100.0)
    return np.where(lesion, lesion_hu, values).astype(np.float32)


def scanned(values: NDArray[np.float32], seed: int, noise: float = 6.0, offset: float = 0.0) -> Volume:
    rng = np.random.default_rng(seed)
    return Volume(np.rint(values + offset + rng.normal(0, noise, SHAPE)).astype(np.float32), GRID)


def compared(prior: Volume, followup: Volume, lesion: BoolArray, shift_mm: float = 0.0) -> VisitChange:
    import SimpleITK as sitk

    distance = signed_distance(lesion, GRID.spacing_zyx)
    return compare_visits(prior, followup, distance, sitk.TranslationTransform(3, (shift_mm, 0.0, 0.0)))


def on_grid(change: VisitChange) -> NDArray[np.float32]:
    return np.stack([change.slice_strength(z) for z in range(SHAPE[0])])


@pytest.mark.parametrize("offset", [-7.0, 0.0, 5.0])
def test_the_same_body_scanned_again_shows_no_change_and_the_offset_is_found(offset: float) -> None:
    lesion = ball(14)
    change = compared(scanned(tissue(lesion), 1), scanned(tissue(lesion), 2, offset=offset), lesion)
    assert change.offset_hu == pytest.approx(offset, abs=1.0)
    assert on_grid(change)[lesion].mean() < 0.8
    assert abs(change.centre_hu) < 2.0
    assert change.centre_strength < 0.7


def test_a_side_that_was_replaced_stands_out_and_the_rest_does_not() -> None:
    lesion = ball(14)
    _, _, x = positions()
    left = tissue(lesion & (x < 4))  # muscle took the place of the lesion's one side
    strength = on_grid(compared(scanned(tissue(lesion), 1), scanned(left, 2), lesion))
    assert np.median(strength[lesion & (x > 6)]) > 2.0
    assert np.median(strength[lesion & (x < 2)]) < 0.8


def test_another_contrast_phase_moves_no_border_but_is_told() -> None:
    lesion = ball(14)
    change = compared(scanned(tissue(lesion), 1), scanned(tissue(lesion, 75.0), 2), lesion)
    assert np.median(on_grid(change)[ball(11)]) < 0.8
    assert change.centre_hu == pytest.approx(35.0, abs=4.0)
    assert change.centre_strength > 2.0


def test_a_necrotic_centre_leaves_the_rim_alone() -> None:
    lesion, core = ball(16), ball(9)
    necrotic = np.where(core, 5.0, tissue(lesion)).astype(np.float32)
    change = compared(scanned(tissue(lesion), 1), scanned(necrotic, 2), lesion)
    assert np.median(on_grid(change)[lesion & ~ball(13)]) < 0.8
    assert change.centre_hu < -15.0


def test_a_small_misregistration_at_a_sharp_border_is_no_change() -> None:
    lesion = ball(14)
    _, y, x = positions()
    border = np.abs(np.hypot(y, x) - 30) < 3
    sure = compared(scanned(tissue(lesion), 1), scanned(tissue(lesion), 2), lesion, shift_mm=1.0)
    assert np.quantile(on_grid(sure)[border], 0.95) < 1.5


def test_the_prior_is_shown_where_the_transform_brings_it() -> None:
    lesion = ball(10)
    prior = scanned(tissue(lesion), 1, noise=0.0)
    change = compared(prior, prior, lesion, shift_mm=5.0)
    middle = change.slice_prior(8)
    np.testing.assert_array_equal(middle[36, 20:50], prior.array[8, 36, 25:55])


def test_beyond_its_reach_nothing_is_compared() -> None:
    wide = replace(GRID, shape=(16, 72, 200))
    values = np.full(wide.shape, 50.0, np.float32)
    lesion = np.zeros(wide.shape, dtype=bool)
    lesion[6:10, 30:40, 10:20] = True
    import SimpleITK as sitk

    changed = values.copy()
    changed[:, :, 150:] = 150.0
    distance = signed_distance(lesion, wide.spacing_zyx)
    change = compare_visits(Volume(values, wide), Volume(changed, wide), distance, sitk.TranslationTransform(3))
    assert change.slice_strength(8).shape == (72, 200)
    assert change.slice_strength(8)[:, 150:].max() == 0.0
    assert (change.slice_prior(8)[:, 150:] == -1024.0).all()


def test_a_lesion_without_tissue_around_it_is_still_compared() -> None:
    lesion = ball(8)
    air = np.where(lesion, 40.0, -1000.0).astype(np.float32)
    change = compared(scanned(air, 1), scanned(air, 2, offset=3.0), lesion)
    assert np.isfinite(on_grid(change)).all()
    assert change.offset_hu == 0.0  # nothing to read it from


def test_what_is_left_of_a_shrunk_lesion_in_fat_does_not_count_as_changed() -> None:
    before, after = ball(16), ball(11)
    change = compared(scanned(fat_around(before), 1, 4.0), scanned(fat_around(after), 2, 4.0), before)
    strength = on_grid(change)
    assert np.median(strength[ball(15) & ~ball(13)]) > 2.0
    assert np.median(strength[after & ~ball(8)]) < 1.5


def fat_around(lesion: BoolArray) -> NDArray[np.float32]:
    return np.where(lesion, 40.0, -100.0).astype(np.float32)


@pytest.mark.parametrize("replacement", [-100.0, -800.0])
def test_fat_or_lung_in_the_centres_place_is_no_necrosis(replacement: float) -> None:
    lesion = ball(14)
    gone = np.where(lesion, replacement, tissue(lesion)).astype(np.float32)
    change = compared(scanned(tissue(lesion), 1), scanned(gone, 2), lesion)
    assert np.median(on_grid(change)[lesion]) > 5.0
    assert change.centre_hu < -100
    assert change.centre_strength > 5.0


@pytest.mark.parametrize("thickness", [1.0, 3.0, 5.0, 8.0])
def test_a_gradient_along_the_slices_is_seen_at_every_slice_thickness(thickness: float) -> None:
    grid = replace(GRID, spacing=(1.0, 1.0, thickness))
    ramp = np.broadcast_to(np.arange(SHAPE[0])[:, None, None] * thickness * 2.0, SHAPE).astype(np.float32)
    np.testing.assert_allclose(_gradient(ramp, Volume(ramp, grid)), 2.0, rtol=1e-5)


def test_where_the_prior_was_not_measured_nothing_changed() -> None:
    lesion = ball(14)
    change = compared(scanned(tissue(lesion), 1), scanned(tissue(lesion), 2), lesion, shift_mm=30.0)
    assert on_grid(change)[:, :, 45:].max() == 0.0  # the prior ends there


def test_where_the_prior_was_not_measured_its_edge_shows_no_change() -> None:
    """The padding beyond a prior's end must not be smoothed into its last slices."""
    lesion = ball(14)
    prior = scanned(tissue(lesion), 1)
    shorter = Volume(prior.array[:10], replace(GRID, shape=(10, *SHAPE[1:])))  # ends within the lesion
    change = compared(shorter, scanned(tissue(lesion), 2), lesion)
    whole = compared(prior, scanned(tissue(lesion), 2), lesion)
    strength = on_grid(change)
    assert (strength[10:] == 0.0).all()
    assert strength[9][lesion[9]].mean() < on_grid(whole)[9][lesion[9]].mean() + 0.2
    assert change.carried_prior.min() > -500.0


def test_a_prior_of_whole_numbers_is_the_same_in_every_type() -> None:
    lesion = ball(10)
    prior = scanned(tissue(lesion), 1)
    whole = replace(prior, array=np.rint(prior.array).astype(np.int16))
    same = replace(prior, array=whole.array.astype(np.float32))
    one, other = (compared(each, same, lesion, shift_mm=2.3) for each in (whole, same))
    np.testing.assert_array_equal(one.carried_prior, other.carried_prior)
