"""What is thinner than the prior's lesion anywhere is taken away; whatever the prior has too stays."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.thin_parts import RADII_MM, Thinness, thinness_of, without_thin_parts
from P2SAMSlicerLib.volume import BoolArray

GRID = Grid((24, 60, 64), (1.0, 1.0, 2.0), (0.0, 0.0, 0.0))


def places() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """z, y and x of all voxels in mm."""
    nz, ny, nx = GRID.shape
    z, y, x = np.meshgrid(np.arange(nz) * 2.0, np.arange(ny), np.arange(nx), indexing="ij")
    return z, y, x


def ball(radius: float, centre: tuple[float, float, float] = (24.0, 30.0, 32.0)) -> BoolArray:
    z, y, x = places()
    inside: BoolArray = np.sqrt((z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2) <= radius
    return inside


def plate(thickness: float) -> BoolArray:
    """A flat lesion across the rows."""
    z, y, x = places()
    inside: BoolArray = (np.abs(y - 30) <= thickness / 2) & (np.abs(z - 24) < 16) & (np.abs(x - 32) < 20)
    return inside


def test_a_tongue_that_the_priors_lesion_does_not_have_is_taken_away() -> None:
    z, y, x = places()
    tongue = (np.abs(z - 24) < 3) & (np.abs(y - 30) < 2) & (x > 40) & (x < 62)
    left = without_thin_parts(ball(14.0) | tongue, GRID, thinness_of(ball(16.0), GRID))
    assert not left[tongue & ~ball(18.0)].any()
    assert np.count_nonzero(left & ball(14.0)) > 0.97 * np.count_nonzero(ball(14.0))


def test_a_rim_that_a_shrunk_lesion_left_is_taken_away() -> None:
    shrunk = ball(11.0, (24.0, 30.0, 24.0))
    for rim in (ball(18.0) & ~ball(18.0, (24.0, 30.0, 28.0)), ball(18.0) & ~ball(18.0, (24.0, 33.0, 30.0))):
        left = without_thin_parts(shrunk | rim, GRID, thinness_of(ball(18.0), GRID))
        assert np.count_nonzero(left & rim & ~ball(13.0, (24.0, 30.0, 24.0))) < 0.1 * np.count_nonzero(rim)


@pytest.mark.parametrize("lesion", [ball(16.0), ball(8.0), plate(8.0), plate(5.0), ball(12.0) | ball(3.0, (24.0, 30.0, 52.0))])
def test_the_priors_own_contour_loses_next_to_nothing(lesion: BoolArray) -> None:
    left = without_thin_parts(lesion, GRID, thinness_of(lesion, GRID))
    assert not (left & ~lesion).any()
    assert np.count_nonzero(left) >= 0.97 * np.count_nonzero(lesion)


def test_a_flat_lesion_allows_for_flat_parts_and_a_round_one_does_not() -> None:
    flat, round_one = thinness_of(plate(8.0), GRID), thinness_of(ball(18.0), GRID)
    assert flat.radius_mm < 5.0 < round_one.radius_mm <= RADII_MM[-1]


def test_of_a_lesion_of_single_voxels_nothing_is_known_and_nothing_is_taken() -> None:
    speck = np.zeros(GRID.shape, dtype=np.bool_)
    speck[12, 30, 32] = speck[12, 31, 33] = True
    assert thinness_of(speck, GRID) == Thinness(0.0)
    np.testing.assert_array_equal(without_thin_parts(speck, GRID, thinness_of(speck, GRID)), speck)
    np.testing.assert_array_equal(without_thin_parts(speck, GRID, Thinness(5.0)), speck)
    assert not without_thin_parts(np.zeros_like(speck), GRID, Thinness(5.0)).any()


def test_a_satellite_of_the_priors_lesion_stays_and_one_that_it_does_not_have_goes() -> None:
    satellite = ball(3.0, (24.0, 30.0, 54.0))
    with_one, without = thinness_of(ball(15.0) | satellite, GRID), thinness_of(ball(15.0), GRID)
    assert (with_one.thin_pieces, without.thin_pieces) == (1, 0)
    both = ball(13.0) | satellite
    assert without_thin_parts(both, GRID, with_one)[satellite].all()
    assert not without_thin_parts(both, GRID, without)[satellite].any()


def test_a_flat_lesion_that_grew_a_thick_part_stays_whole() -> None:
    grown = plate(8.0) | ball(13.0)
    left = without_thin_parts(grown, GRID, thinness_of(plate(8.0), GRID))
    assert np.count_nonzero(left) > 0.97 * np.count_nonzero(grown)


def test_the_wall_of_a_cavity_stays() -> None:
    hollow = ball(16.0) & ~ball(13.0)
    left = without_thin_parts(hollow, GRID, Thinness(6.0))
    assert np.count_nonzero(left) > 0.9 * np.count_nonzero(hollow)
    assert not left[ball(12.0)].any()


def test_a_lesion_that_the_field_of_view_cuts_off_is_not_thin_there() -> None:
    cut = ball(16.0, (-10.0, 30.0, 32.0))  # 6 mm of it are in the volume
    left = without_thin_parts(cut, GRID, Thinness(5.0))
    assert np.count_nonzero(left) > 0.7 * np.count_nonzero(cut)


def test_slices_that_are_kept_stay_as_they_are() -> None:
    thin = plate(3.0) | ball(10.0)
    left = without_thin_parts(thin, GRID, Thinness(5.0), kept_slices=[10, 11])
    np.testing.assert_array_equal(left[10:12], thin[10:12])
    assert np.count_nonzero(left[8]) < np.count_nonzero(thin[8])


@settings(max_examples=20)
@given(seed=st.integers(0, 10_000), radius=st.sampled_from((0.0, *RADII_MM)))
def test_nothing_is_ever_added_and_a_second_time_takes_nothing_more(seed: int, radius: float) -> None:
    rng = np.random.default_rng(seed)
    mask = np.zeros(GRID.shape, dtype=np.bool_)
    for _ in range(4):
        z, y, x = rng.uniform(6, 40), rng.uniform(6, 54), rng.uniform(6, 58)
        mask |= ball(float(rng.uniform(2, 12)), (float(z), float(y), float(x)))
    once = without_thin_parts(mask, GRID, Thinness(radius))
    assert not (once & ~mask).any()
    assert once.any()
    again = without_thin_parts(once, GRID, Thinness(radius))
    # Each pass counts voxels anew; what is left of a piece after the first pass consists of balls.
    assert np.count_nonzero(once & ~again) <= 0.02 * np.count_nonzero(once)
