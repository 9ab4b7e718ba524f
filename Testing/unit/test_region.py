"""The square window around the carried contour: to pixels and back, in millimetres."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.region import MIN_SIDE_MM, PADDING_HU, Region, extent_mm, region_around

Plane = NDArray[np.float32]


def smooth_plane(grid: Grid) -> Plane:
    """A linear function of the millimetres: interpolation by straight lines is exact on it."""
    x = np.arange(grid.shape[2]) * grid.spacing[0]
    y = np.arange(grid.shape[1]) * grid.spacing[1]
    plane: Plane = (2.0 * x[None, :] - 3.0 * y[:, None] + 7.0).astype(np.float32)
    return plane


@settings(max_examples=60)
@given(st.floats(0.4, 2.0), st.floats(0.4, 2.0), st.floats(30, 60), st.floats(5, 20), st.floats(5, 20), st.integers(64, 256))
def test_crop_and_place_bring_a_plane_back(sx: float, sy: float, side: float, left: float, top: float, pixels: int) -> None:
    """For every spacing, side and pixel count, isotropic or not."""
    grid = Grid((1, int(90 / sy), int(90 / sx)), (sx, sy, 3.0))
    region = Region(left, top, side, pixels)
    plane = smooth_plane(grid)
    back = region.place(region.crop(plane, grid), grid, outside=-5000.0)
    x, y = np.arange(grid.shape[2]) * sx, np.arange(grid.shape[1]) * sy
    half = region.pixel_mm / 2
    inside = ((x > left + half) & (x < left + side - half))[None, :] & ((y > top + half) & (y < top + side - half))[:, None]
    assert inside.sum() > 100
    # A window coarser than the voxels is smoothed; a linear plane stays as it is except near the slice's own border.
    np.testing.assert_allclose(back[inside], plane[inside], atol=0.05)


@settings(max_examples=40)
@given(st.floats(0.4, 2.0), st.floats(0.4, 2.0), st.integers(32, 256), st.integers(0, 10_000))
def test_a_pixel_shows_the_value_of_its_own_place_in_millimetres(sx: float, sy: float, pixels: int, seed: int) -> None:
    grid = Grid((1, int(80 / sy), int(80 / sx)), (sx, sy, 3.0))
    region = Region(12.3, 9.7, 45.0, pixels)
    row, column = np.random.default_rng(seed).integers(0, pixels, 2)
    x, y = 12.3 + (column + 0.5) * 45.0 / pixels, 9.7 + (row + 0.5) * 45.0 / pixels
    assert region.crop(smooth_plane(grid), grid)[row, column] == pytest.approx(2 * x - 3 * y + 7, abs=0.05)


def test_a_blob_on_anisotropic_pixels_lies_where_its_millimetres_say() -> None:
    grid = Grid((1, 40, 120), (0.7, 2.1, 3.0))
    plane = np.zeros((40, 120), dtype=np.float32)
    plane[18:23, 53:68] = 1.0  # about (42, 42) mm
    image = Region(0.0, 0.0, 84.0, 168).crop(plane, grid, outside=0.0)
    rows, columns = np.nonzero(image > 0.5)
    assert (rows.mean() + 0.5) / 2 == pytest.approx(20 * 2.1, abs=0.3)
    assert (columns.mean() + 0.5) / 2 == pytest.approx(60 * 0.7, abs=0.3)
    assert np.ptp(rows) + 1 == pytest.approx(5 * 2.1 * 2, abs=2)
    assert np.ptp(columns) + 1 == pytest.approx(15 * 0.7 * 2, abs=2)


def test_beyond_the_slice_is_air_and_beyond_the_window_is_what_the_caller_asks_for() -> None:
    grid = Grid((1, 30, 30))
    region = Region(-20.0, -20.0, 30.0, 60)
    image = region.crop(np.full((30, 30), 50, np.int16), grid)
    assert (image[:39, :] == PADDING_HU).all()
    assert (image[:, :39] == PADDING_HU).all()
    assert (image[41:, 41:] == 50).all()
    back = region.place(np.full((60, 60), 9.0, np.float32), grid, outside=-3.0)
    assert (back[:9, :9] == 9).all()
    assert (back[11:, :] == -3).all()
    assert (back[:, 11:] == -3).all()


def test_a_window_that_misses_the_slice_shows_only_air() -> None:
    grid = Grid((1, 30, 30))
    assert (Region(500.0, 500.0, 64.0, 32).crop(np.zeros((30, 30), np.float32), grid) == PADDING_HU).all()


def test_coarse_pixels_average_what_they_cover() -> None:
    grid = Grid((1, 200, 200), (0.5, 0.5, 3.0))
    checks = (np.indices((200, 200)).sum(axis=0) % 2).astype(np.float32) * 100
    image = Region(10.0, 10.0, 64.0, 16).crop(checks, grid)
    np.testing.assert_allclose(image, 50, atol=1.0)


def test_fine_pixels_are_not_smoothed() -> None:
    grid = Grid((1, 50, 50))
    plane = np.zeros((50, 50), dtype=np.float32)
    plane[25, 25] = 100
    # Pixel centres fall on voxel centres: 1 mm pixels from -0.5.
    np.testing.assert_array_equal(Region(-0.5, -0.5, 50.0, 50).crop(plane, grid), plane)


def test_the_extent_is_in_millimetres_over_all_slices() -> None:
    mask = np.zeros((4, 20, 30), dtype=bool)
    mask[0, 5, 7] = mask[3, 11, 2] = True
    assert extent_mm(mask, Grid((4, 20, 30), (0.5, 2.0, 3.0))) == (1.0, 3.5, 10.0, 22.0)


def test_the_window_is_centred_on_the_mask_with_the_margin_around_its_longer_side() -> None:
    grid = Grid((3, 300, 300), (0.8, 1.2, 3.0))
    mask = np.zeros(grid.shape, dtype=bool)
    mask[1, 100:151, 200:211] = True
    region = region_around(mask, grid, 20.0, 256)
    assert region.side == pytest.approx(50 * 1.2 + 40)
    assert region.left + region.side / 2 == pytest.approx(205 * 0.8)
    assert region.top + region.side / 2 == pytest.approx(125 * 1.2)
    assert region.pixel_mm == pytest.approx(100 / 256)


def test_the_window_of_a_single_voxel_is_not_narrower_than_the_least() -> None:
    mask = np.zeros((1, 50, 50), dtype=bool)
    mask[0, 10, 40] = True
    region = region_around(mask, Grid((1, 50, 50)), 5.0, 64)
    assert (region.left, region.top, region.side) == (40 - MIN_SIDE_MM / 2, 10 - MIN_SIDE_MM / 2, MIN_SIDE_MM)


def test_a_side_that_is_asked_for_is_kept() -> None:
    mask = np.zeros((1, 50, 50), dtype=bool)
    mask[0, 10:20, 10:20] = True
    region = region_around(mask, Grid((1, 50, 50)), 5.0, 64, side_mm=123.0)
    assert region.side == 123.0
    assert region.left + 61.5 == pytest.approx(14.5)


@given(
    shape=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    origin=st.tuples(st.floats(-20, 20), st.floats(-20, 20)),
    share=st.floats(0.05, 1.0),
    spacing=st.tuples(st.floats(0.3, 3.0), st.floats(0.3, 3.0)),
    seed=st.integers(0, 1000),
)
def test_a_crop_is_what_it_is_point_by_point(
    shape: tuple[int, int], origin: tuple[float, float], share: float, spacing: tuple[float, float], seed: int
) -> None:
    from scipy import ndimage

    plane = np.random.default_rng(seed).normal(0.0, 500.0, shape).astype(np.float32)
    region = Region(*origin, 16 * share * min(spacing), 16)  # finer than voxels: nothing is averaged
    grid = Grid((1, *shape), (*spacing, 1.0))
    rows, columns = (region._pixel_centres(grid.spacing[1 - axis], (region.top, region.left)[axis]) for axis in (0, 1))
    # A pixel on the very border may fall to either side of it by rounding.
    for at, size in ((rows, shape[0]), (columns, shape[1])):
        assume(np.abs(at).min() > 1e-6 and np.abs(at - (size - 1)).min() > 1e-6)
    points = np.meshgrid(rows, columns, indexing="ij")
    expected = ndimage.map_coordinates(plane, points, order=1, mode="constant", cval=-1024.0)
    np.testing.assert_allclose(region.crop(plane, grid), expected, rtol=1e-5, atol=1e-3)
