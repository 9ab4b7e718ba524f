"""Masks come to the CT's grid where they lie in the patient."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.resample import outside_share, resample_mask, segments_on_grid
from P2SAMSlicerLib.volume import BoolArray, Segment, Segmentation
from scipy.spatial.transform import Rotation

CT = Grid(
    (9, 10, 11),
    (0.8, 1.1, 2.5),
    (-100.0, 50.5, 12.25),
    tuple(Rotation.from_euler("xyz", [0.1, 0.2, -0.7]).as_matrix().ravel().tolist()),
)


def random_mask(grid: Grid, seed: int = 0) -> BoolArray:
    return np.asarray(np.random.default_rng(seed).random(grid.shape) > 0.6)


def crop(grid: Grid, first: tuple[int, int, int], shape: tuple[int, int, int]) -> Grid:
    """The part of a grid (or what lies beyond it) from voxel ``first`` (z, y, x) on."""
    origin = grid.to_physical(np.array([first[::-1]], dtype=np.float64))[0]
    return Grid(shape, grid.spacing, (float(origin[0]), float(origin[1]), float(origin[2])), grid.direction)


def turn(mask: BoolArray, grid: Grid, axes: tuple[int, int, int], flips: tuple[bool, bool, bool]) -> tuple[BoolArray, Grid]:
    """The same mask at the same place with its array axes (z, y, x) permuted and then flipped."""
    turned = np.flip(mask.transpose(axes), tuple(axis for axis in range(3) if flips[axis]))
    columns, spacing = grid.direction_matrix.T[::-1], grid.spacing[::-1]
    corner = np.array([grid.shape[axes[axis]] - 1 if flips[axis] else 0 for axis in range(3)])
    index = np.empty(3)
    index[list(axes)] = corner
    origin = grid.to_physical(index[None, ::-1])[0]
    directions = [columns[axes[axis]] * (-1 if flips[axis] else 1) for axis in range(3)]
    matrix = np.stack(directions[::-1], axis=1)
    sizes = [spacing[axes[axis]] for axis in range(3)]
    new = Grid(
        (turned.shape[0], turned.shape[1], turned.shape[2]),
        (sizes[2], sizes[1], sizes[0]),
        (float(origin[0]), float(origin[1]), float(origin[2])),
        tuple(matrix.ravel().tolist()),
    )
    return np.ascontiguousarray(turned), new


def points_inside(mask: BoolArray, grid: Grid) -> NDArray[np.float64]:
    """Sorted LPS points of the voxels of a mask."""
    points = np.round(grid.to_physical(np.argwhere(mask)[:, ::-1].astype(np.float64)), 6) + 0.0
    return points[np.lexsort(points.T)]


def itk_linear(mask: BoolArray, grid: Grid, onto: Grid) -> NDArray[np.float32]:
    """Linear interpolation of a whole padded mask with SimpleITK, nothing cropped."""
    padded = crop(grid, (-1, -1, -1), tuple(n + 2 for n in grid.shape))  # type: ignore[arg-type]
    image: Any = SimpleITK.GetImageFromArray(np.pad(mask, 1).astype(np.float32))
    reference: Any = SimpleITK.GetImageFromArray(np.zeros(onto.shape, np.float32))
    for each, its in ((image, padded), (reference, onto)):
        each.SetSpacing(its.spacing)
        each.SetOrigin(its.origin)
        each.SetDirection(its.direction)
    values: NDArray[np.float32] = SimpleITK.GetArrayFromImage(SimpleITK.Resample(image, reference))
    return values


def sphere(grid: Grid, center: NDArray[np.float64], radius: float) -> BoolArray:
    z, y, x = np.indices(grid.shape).reshape(3, -1)
    points = grid.to_physical(np.stack([x, y, z], axis=1).astype(np.float64))
    return np.asarray(np.linalg.norm(points - center, axis=1) <= radius).reshape(grid.shape)


def test_on_its_own_grid_a_mask_is_copied() -> None:
    mask = random_mask(CT)
    copied = resample_mask(mask, CT, CT)
    np.testing.assert_array_equal(copied, mask)
    assert copied is not mask
    assert not np.shares_memory(copied, mask)


def test_rounding_of_single_precision_headers_does_not_blur_a_mask() -> None:
    mask = random_mask(CT)
    rounded = Grid(
        CT.shape,
        tuple(float(np.float32(v)) for v in CT.spacing),  # type: ignore[arg-type]
        tuple(float(np.float32(v)) + 1e-4 for v in CT.origin),  # type: ignore[arg-type]
        tuple(float(np.float32(v)) for v in CT.direction),
    )
    np.testing.assert_array_equal(resample_mask(mask, rounded, CT), mask)


@settings(max_examples=60)
@given(
    first=st.tuples(*[st.integers(-14, 14)] * 3),
    shape=st.tuples(*[st.integers(1, 12)] * 3),
    seed=st.integers(0, 99),
)
def test_a_cropped_or_shifted_mask_is_copied_to_its_place(
    first: tuple[int, int, int], shape: tuple[int, int, int], seed: int
) -> None:
    part = crop(CT, first, shape)
    mask = random_mask(part, seed)
    result = resample_mask(mask, part, CT)
    expected = np.zeros(CT.shape, dtype=np.bool_)
    for index in np.argwhere(mask) + np.array(first):
        if (index >= 0).all() and (index < CT.shape).all():
            expected[tuple(index)] = True
    np.testing.assert_array_equal(result, expected)
    np.testing.assert_array_equal(resample_mask(result, CT, part), mask & resample_mask(np.ones(CT.shape, np.bool_), CT, part))


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("flips", list(itertools.product([False, True], repeat=3)))
def test_every_axis_order_and_flip_is_copied_exactly(axes: tuple[int, int, int], flips: tuple[bool, bool, bool]) -> None:
    mask = random_mask(CT)
    turned, grid = turn(mask, CT, axes, flips)
    np.testing.assert_allclose(points_inside(turned, grid), points_inside(mask, CT), atol=1e-5)
    np.testing.assert_array_equal(resample_mask(turned, grid, CT), mask)
    np.testing.assert_array_equal(resample_mask(mask, CT, grid), turned)


@settings(max_examples=40)
@given(
    angles=st.tuples(*[st.floats(-180, 180)] * 3),
    spacing=st.tuples(*[st.floats(0.5, 4)] * 3),
    shift=st.tuples(*[st.floats(-8, 8)] * 3),
    seed=st.integers(0, 99),
)
def test_between_any_two_grids_it_is_the_thresholded_linear_interpolation(
    angles: tuple[float, float, float], spacing: tuple[float, float, float], shift: tuple[float, float, float], seed: int
) -> None:
    center = CT.to_physical(np.array([[5.0, 4.5, 4.0]]))[0]
    matrix = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    origin = center + np.array(shift) - matrix @ (np.array(spacing) * 4)
    onto = Grid((8, 9, 10), spacing, (float(origin[0]), float(origin[1]), float(origin[2])), tuple(matrix.ravel().tolist()))
    mask = random_mask(CT, seed)
    mask[:3] = False
    values = itk_linear(mask, CT, onto)
    result = resample_mask(mask, CT, onto)
    sure = np.abs(values - 0.5) > 1e-3
    np.testing.assert_array_equal(result[sure], values[sure] > 0.5)


def test_a_sphere_keeps_its_volume_and_place_on_a_finer_and_on_a_coarser_grid() -> None:
    grid = Grid((40, 40, 40), (1.0, 1.0, 1.0))
    center = np.array([19.3, 20.1, 18.7])
    mask = sphere(grid, center, 10.0)
    for spacing, start in ((0.6, 0.21), (1.7, 0.13)):
        shape = (int(38 / spacing),) * 3
        onto = Grid(shape, (spacing,) * 3, (start,) * 3)
        result = resample_mask(mask, grid, onto)
        assert result.sum() * onto.voxel_ml == pytest.approx(mask.sum() * grid.voxel_ml, rel=0.03)
        np.testing.assert_allclose(points_inside(result, onto).mean(axis=0), center, atol=0.15)


def test_half_a_voxel_of_shift_loses_no_thin_target() -> None:
    grid = Grid((5, 6, 7))
    mask = np.zeros(grid.shape, dtype=np.bool_)
    mask[2, 2:4, 2:5] = True
    onto = Grid(grid.shape, origin=(0.0, 0.0, 0.5))
    np.testing.assert_array_equal(np.flatnonzero(resample_mask(mask, grid, onto).any(axis=(1, 2))), [1, 2])


def test_a_mask_at_the_edge_of_its_cropped_grid_reaches_half_a_voxel_further() -> None:
    coarse = Grid((2, 2, 2), (2.0, 2.0, 2.0), (0.5, 0.5, 0.5))
    fine = Grid((12, 12, 12), (1.0, 1.0, 1.0), (-4.0, -4.0, -4.0))
    result = resample_mask(np.ones((2, 2, 2), np.bool_), coarse, fine)
    assert np.argwhere(result).min(axis=0).tolist() == [4, 4, 4]
    assert np.argwhere(result).max(axis=0).tolist() == [7, 7, 7]
    # Linear interpolation rounds off the eight corners: there it is 0.75 * 0.75 * 0.75.
    assert result.sum() == 4**3 - 8


@pytest.mark.parametrize("far", [True, False])
def test_empty_and_far_away_masks_give_nothing(far: bool) -> None:
    onto = Grid(CT.shape, (1.0, 1.3, 0.7), (5000.0, 0.0, 0.0) if far else CT.origin)
    mask = np.full(CT.shape, far)
    result = resample_mask(mask, CT, onto)
    assert result.shape == onto.shape
    assert not result.any()


def segmentation(*segments: Segment, grid: Grid = CT) -> Segmentation:
    return Segmentation(grid, segments, "plan")


def test_segments_come_in_the_order_asked_with_their_looks() -> None:
    a = Segment("GTV", random_mask(CT, 1), (1.0, 0.0, 0.0), {"category": ["a"]}, {"k": "v"})
    b = Segment("cord", random_mask(CT, 2))
    found, warnings = segments_on_grid(segmentation(a, b), ["cord", "GTV"], CT)
    assert [each.name for each in found] == ["cord", "GTV"]
    assert (found[1].color, found[1].terminology, found[1].tags) == (a.color, a.terminology, a.tags)
    np.testing.assert_array_equal(found[1].mask, a.mask)
    assert warnings == []
    assert [each.name for each in segments_on_grid(segmentation(a, b), None, CT)[0]] == ["GTV", "cord"]


@pytest.mark.parametrize(
    ("segments", "names", "message"),
    [
        ([Segment("GTV", random_mask(CT))], ["CTV"], "plan: no segment named 'CTV'; it has: GTV"),
        ([], None, "plan: the segmentation has no segments"),
        ([Segment("GTV", np.zeros(CT.shape, np.bool_))], ["GTV"], "plan: segment 'GTV' is empty"),
        (
            [Segment("GTV", random_mask(CT)), Segment("GTV", random_mask(CT, 1))],
            None,
            "plan: two segments are named 'GTV'; rename one",
        ),
    ],
)
def test_unusable_segments_are_refused_by_name(segments: list[Segment], names: list[str] | None, message: str) -> None:
    with pytest.raises(InputError) as raised:
        segments_on_grid(segmentation(*segments), names, CT)
    assert str(raised.value) == message


def test_an_empty_segment_that_was_not_asked_for_does_not_matter() -> None:
    found, _ = segments_on_grid(
        segmentation(Segment("x", np.zeros(CT.shape, np.bool_)), Segment("GTV", random_mask(CT))), ["GTV"], CT
    )
    assert [each.name for each in found] == ["GTV"]


@pytest.mark.parametrize(
    ("outside", "refused", "warned"),
    [(0, False, False), (1, False, False), (10, False, True), (50, False, True), (51, True, False)],
)
def test_a_segment_partly_outside_is_told_and_mostly_outside_refused(outside: int, refused: bool, warned: bool) -> None:
    grid = crop(CT, (0, 0, -100), (1, 1, 200))
    mask = np.zeros(grid.shape, dtype=np.bool_)
    onto = crop(CT, (0, 0, 0), (1, 1, 100))
    mask[0, 0, 100 - outside : 200 - outside] = True
    assert outside_share(mask, grid, onto) == pytest.approx(outside / 100)
    assert outside_share(mask, grid, crop(CT, (0, 0, -100), (1, 1, 100))) == pytest.approx(1 - outside / 100)
    given_segments = segmentation(Segment("GTV", mask), grid=grid)
    if refused:
        with pytest.raises(InputError, match=r"^plan: segment 'GTV' lies mostly \(51%\) outside of the CT$"):
            segments_on_grid(given_segments, None, onto)
        return
    found, warnings = segments_on_grid(given_segments, None, onto)
    assert found[0].mask.sum() == 100 - outside
    assert warnings == ([f"plan: {outside}% of segment 'GTV' lies outside of the CT and is left out"] if warned else [])


def test_a_segment_of_another_patient_is_refused() -> None:
    elsewhere = Grid(CT.shape, CT.spacing, (900.0, 0.0, 0.0), CT.direction)
    with pytest.raises(InputError, match=r"^plan: segment 'GTV' lies wholly outside of the CT; are both of the same patient"):
        segments_on_grid(segmentation(Segment("GTV", random_mask(CT)), grid=elsewhere), None, CT)


def test_a_segment_smaller_than_a_voxel_of_the_ct_is_refused() -> None:
    fine = Grid((20, 20, 20), (0.25, 0.25, 0.25), (0.0, 0.0, 0.0))
    mask = np.zeros(fine.shape, dtype=np.bool_)
    mask[9, 9, 9] = True
    with pytest.raises(InputError, match="'GTV' is too small for the CT's voxels"):
        segments_on_grid(segmentation(Segment("GTV", mask), grid=fine), None, Grid((3, 3, 3), (2.0, 2.0, 2.0), (0.1, 0.1, 0.1)))


def test_an_empty_mask_has_no_share_outside() -> None:
    assert outside_share(np.zeros(CT.shape, np.bool_), CT, CT) == 0
