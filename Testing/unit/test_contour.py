"""From chosen slices to a 3-D contour, and a clean-up that keeps the prior's topology."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray
from P2SAMSlicerLib.contour import BLEND_LIMIT_MM, assemble, cavities, clean, separate_lesions
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.region import Region
from P2SAMSlicerLib.registration import signed_distance
from scipy import ndimage

Mask = NDArray[np.bool_]

REGION = Region(10.0, 20.0, 64.0, 128)  # half-millimetre pixels


def grid_of(slices: int, spacing_z: float = 3.0) -> Grid:
    return Grid((slices, 110, 100), (1.0, 1.0, spacing_z))


def disc(radius_mm: float, x_mm: float = 42.0, y_mm: float = 52.0) -> Mask:
    """On the region, its centre given in the plane's millimetres."""
    centres = (np.arange(128) + 0.5) * 0.5
    mask: Mask = (centres[None, :] + 10 - x_mm) ** 2 + (centres[:, None] + 20 - y_mm) ** 2 <= radius_mm**2
    return mask


def distance(mask: Mask) -> NDArray[np.float32]:
    if not mask.any():
        return np.full(mask.shape, -1000.0, np.float32)
    return signed_distance(mask, (0.5, 0.5))


def assembled(
    masks: list[Mask], first: int = 2, registered: list[Mask] | None = None, spacing_z: float = 3.0, stays: bool = False
) -> Mask:
    planes = [distance(m) for m in (registered or masks)]
    indices = list(range(first, first + len(masks)))
    grid = grid_of(first + len(masks) + 2, spacing_z)
    return assemble(masks, planes, [stays] * len(masks), indices, REGION, grid)


def area(plane: Mask) -> float:
    return float(plane.sum())  # voxels of 1 mm


def test_equal_slices_become_the_same_disc_in_the_same_place() -> None:
    result = assembled([disc(12)] * 5)
    assert not result[[0, 1, 7, 8]].any()
    for plane in result[2:7]:
        assert area(plane) == pytest.approx(np.pi * 144, rel=0.04)
        rows, columns = np.nonzero(plane)
        assert (columns.mean(), rows.mean()) == (pytest.approx(42, abs=0.3), pytest.approx(52, abs=0.3))


def test_a_contour_that_stays_is_not_drawn_towards_the_expected_one() -> None:
    drawn = assembled([disc(12)] * 3, registered=[disc(8)] * 3)
    kept = assembled([disc(12)] * 3, registered=[disc(8)] * 3, stays=True)
    np.testing.assert_array_equal(kept, assembled([disc(12)] * 3))
    assert area(drawn[3]) < 0.9 * area(kept[3])


def test_an_absent_slice_stays_absent_and_nothing_is_added_beyond_the_slices() -> None:
    nothing = np.zeros((128, 128), bool)
    result = assembled([nothing, disc(12), nothing, disc(12), nothing], registered=[disc(12)] * 5)
    assert result.any(axis=(1, 2)).tolist() == [False, False, False, True, False, True, False, False, False]


def test_no_slice_anywhere_is_no_contour() -> None:
    assert not assembled([np.zeros((128, 128), bool)] * 3, registered=[disc(10)] * 3).any()


@pytest.mark.parametrize(
    "spacing_z",
    [
        1.0,
        2.0,
        3.0,
        5.0,
    ],
)
def test_the_last_slice_of_a_lesion_is_kept_at_every_slice_distance(spacing_z: float) -> None:
    nothing = np.zeros((128, 128), bool)
    count = int(24 / spacing_z)
    result = assembled([nothing] * 4 + [disc(8)] * count + [nothing] * 4, spacing_z=spacing_z)
    for end in (6, 6 + count - 1):
        assert area(result[end]) > 0.4 * np.pi * 64


def test_a_jump_of_one_slice_is_smoothed_where_slices_are_thin() -> None:
    result = assembled([disc(10)] * 4 + [disc(13)] + [disc(10)] * 4, spacing_z=1.0)
    assert area(result[6]) < np.pi * 11.5**2
    assert area(result[6]) > np.pi * 10**2


def test_the_border_lies_between_the_chosen_and_the_registered_contour_nearer_to_the_chosen() -> None:
    result = assembled([disc(14)] * 3, registered=[disc(9)] * 3)
    for plane in result[2:5]:
        radius = np.sqrt(area(plane) / np.pi)
        assert 11.5 < radius < 14.0


def test_a_lesion_far_from_the_registered_contour_is_not_lost() -> None:
    result = assembled([disc(9, 60)] * 3, registered=[disc(9, 25)] * 3)
    rows, columns = np.nonzero(result[3])
    assert columns.mean() == pytest.approx(60, abs=1.5)
    assert len(rows) > 0.4 * np.pi * 81


def test_no_border_is_drawn_farther_from_the_chosen_mask_than_the_limit() -> None:
    masks = [disc(8)] * 3 + [disc(16)] + [disc(8)] * 3
    result = assembled(masks, spacing_z=1.0)
    for plane, mask in zip(result[2:9], masks, strict=True):
        radius, written = (np.sqrt(area / np.pi) for area in (0.25 * mask.sum(), plane.sum()))
        assert abs(written - radius) < BLEND_LIMIT_MM + 0.5
    assert result[4].sum() > 0.25 * disc(8).sum(), "neighbours still count"


def test_growth_beyond_the_registered_ends_appears() -> None:
    nothing = np.zeros((128, 128), bool)
    result = assembled([disc(10)] * 4, registered=[disc(10)] * 2 + [nothing] * 2)
    assert result[2:6].any(axis=(1, 2)).all()


# --------------------------------------------------------------------------------------------------------- clean-up

GRID = Grid((12, 40, 40), (1.0, 1.0, 2.0))


def box(z: slice, y: slice, x: slice) -> Mask:
    mask = np.zeros(GRID.shape, dtype=bool)
    mask[z, y, x] = True
    return mask


BODY = box(slice(2, 10), slice(5, 25), slice(5, 25))
HOLE = box(slice(4, 8), slice(10, 16), slice(10, 16))
SPECK = box(slice(5, 6), slice(35, 37), slice(35, 37))
SECOND = box(slice(3, 9), slice(28, 36), slice(5, 15))


def test_a_whole_contour_is_returned_unchanged_and_nothing_is_reported() -> None:
    result = clean(BODY, BODY, 1, None, GRID)
    np.testing.assert_array_equal(result.mask, BODY)
    assert result.removals == ()


def test_a_speck_is_removed_and_its_volume_reported() -> None:
    result = clean(BODY | SPECK, BODY, 1, None, GRID)
    np.testing.assert_array_equal(result.mask, BODY)
    assert result.removals == ("1 separate piece removed: 0.01 ml",)
    assert SPECK.sum() * GRID.voxel_ml == pytest.approx(0.008)


def test_as_many_pieces_stay_as_the_prior_had() -> None:
    both = BODY | SECOND
    np.testing.assert_array_equal(clean(both | SPECK, BODY, 2, None, GRID).mask, both)
    np.testing.assert_array_equal(clean(both, BODY, 1, None, GRID).mask, BODY)


def test_a_piece_that_fell_apart_stays_where_it_touches_the_carried_contour() -> None:
    both = BODY | SECOND
    result = clean(both, both, 1, None, GRID)
    np.testing.assert_array_equal(result.mask, both)
    assert result.removals == ()


def test_a_speck_is_removed_even_where_it_touches_the_carried_contour() -> None:
    np.testing.assert_array_equal(clean(BODY | SPECK, BODY | SPECK, 1, None, GRID).mask, BODY)


def test_the_largest_piece_stays_though_it_does_not_touch_the_carried_contour() -> None:
    assert clean(BODY, SPECK, 1, None, GRID).mask.any()


def test_a_hole_that_the_prior_did_not_have_is_filled_and_reported() -> None:
    result = clean(BODY & ~HOLE, BODY, 1, None, GRID)
    np.testing.assert_array_equal(result.mask, BODY)
    assert result.removals == (f"holes filled that the prior did not have: {HOLE.sum() * GRID.voxel_ml:.2f} ml",)


def test_a_cavity_of_the_prior_is_opened_again_and_reported() -> None:
    result = clean(BODY, BODY & ~HOLE, 1, HOLE, GRID)
    np.testing.assert_array_equal(result.mask, BODY & ~HOLE)
    assert result.removals == (f"cavity of the prior kept open: {HOLE.sum() * GRID.voxel_ml:.2f} ml",)


def test_a_cavity_that_the_model_left_open_is_not_filled() -> None:
    result = clean(BODY & ~HOLE, BODY & ~HOLE, 1, HOLE, GRID)
    np.testing.assert_array_equal(result.mask, BODY & ~HOLE)
    assert result.removals == ()


def test_a_cavity_that_grew_stays_open() -> None:
    grown = ndimage.binary_dilation(HOLE)
    np.testing.assert_array_equal(clean(BODY & ~grown, BODY & ~HOLE, 1, HOLE, GRID).mask, BODY & ~grown)


def test_a_hole_apart_from_the_priors_cavity_is_filled_and_the_cavity_stays_open() -> None:
    other = box(slice(4, 8), slice(19, 22), slice(19, 22))
    result = clean(BODY & ~HOLE & ~other, BODY & ~HOLE, 1, HOLE, GRID)
    np.testing.assert_array_equal(result.mask, BODY & ~HOLE)
    assert result.removals == (f"holes filled that the prior did not have: {other.sum() * GRID.voxel_ml:.2f} ml",)


def test_a_speck_goes_where_the_prior_had_two_pieces_but_only_one_is_left() -> None:
    result = clean(BODY | SPECK, BODY | SECOND, 2, None, GRID)
    np.testing.assert_array_equal(result.mask, BODY)
    assert result.removals == ("1 separate piece removed: 0.01 ml",)


@pytest.mark.parametrize("carried", [BODY | SPECK, BODY])
@pytest.mark.parametrize("second", [SPECK, SECOND])
def test_a_second_piece_of_the_prior_stays_if_it_is_in_place_or_large(carried: Mask, second: Mask) -> None:
    result = clean(BODY | second, carried, 2, None, GRID)
    kept = bool((second & carried).any()) or second is SECOND
    np.testing.assert_array_equal(result.mask, BODY | second if kept else BODY)


def test_the_inputs_are_not_changed() -> None:
    mask, carried, cavity = BODY | SPECK, BODY.copy(), HOLE.copy()
    before = mask.copy()
    clean(mask, carried, 1, cavity, GRID)
    clean(mask & ~HOLE, carried, 1, None, GRID)
    np.testing.assert_array_equal(mask, before)
    np.testing.assert_array_equal(carried, BODY)
    np.testing.assert_array_equal(cavity, HOLE)


small = npst.arrays(np.bool_, (4, 6, 6))


@settings(max_examples=60)
@given(small, small, st.integers(1, 3))
def test_without_a_prior_cavity_no_hole_is_left_and_nothing_is_added_but_holes(mask: Mask, carried: Mask, pieces: int) -> None:
    grid = Grid((4, 6, 6))
    result = clean(mask, carried, pieces, None, grid)
    assert not (result.mask & ~(mask | cavities(mask))).any()
    if mask.any():
        assert result.mask.any()
    assert bool(result.removals) == bool((result.mask != mask).any())


def test_cavities_are_enclosed_in_space_or_within_slices() -> None:
    np.testing.assert_array_equal(cavities(BODY & ~HOLE), HOLE)
    tunnel = box(slice(None), slice(10, 14), slice(10, 14))
    np.testing.assert_array_equal(cavities(BODY & ~tunnel), BODY & tunnel)
    groove = box(slice(None), slice(5, 10), slice(10, 14))
    assert not cavities(BODY & ~groove).any()


# -------------------------------------------------------------------------------------------------- separate lesions


@settings(max_examples=40)
@given(npst.arrays(np.bool_, (5, 9, 11)), st.floats(0.5, 12), st.sampled_from([(1.0, 1.0, 1.0), (0.8, 0.8, 3.0)]))
def test_separate_lesions_partition_the_mask(mask: Mask, apart: float, spacing: tuple[float, float, float]) -> None:
    grid = Grid(mask.shape, spacing)
    if not mask.any():
        return
    pieces = list(separate_lesions(mask, grid, apart))
    assert all(piece.any() for piece in pieces)
    np.testing.assert_array_equal(np.sum(pieces, axis=0), mask.astype(int))


@pytest.mark.parametrize(("gap", "count"), [(10, 1), (18, 1), (24, 2), (40, 2)])
def test_lesions_nearer_than_the_distance_stay_together(gap: int, count: int) -> None:
    mask = np.zeros((3, 20, 80), dtype=bool)
    mask[1, 8:12, 5:10] = mask[1, 8:12, 10 + gap : 15 + gap] = True
    assert len(list(separate_lesions(mask, Grid((3, 20, 80)), 20.0))) == count


def test_distance_between_slices_counts_in_millimetres() -> None:
    mask = np.zeros((12, 9, 9), dtype=bool)
    mask[1, 4, 4] = mask[9, 4, 4] = True  # eight slices apart
    assert len(list(separate_lesions(mask, Grid((12, 9, 9), (1.0, 1.0, 2.0)), 20.0))) == 1
    assert len(list(separate_lesions(mask, Grid((12, 9, 9), (1.0, 1.0, 3.5)), 20.0))) == 2


def test_lesions_come_in_a_fixed_order() -> None:
    mask = np.zeros((3, 10, 90), dtype=bool)
    mask[0, 5, 5] = mask[0, 4, 80] = mask[2, 5, 40] = True
    pieces = list(separate_lesions(mask, Grid((3, 10, 90)), 20.0))
    assert [int(np.flatnonzero(piece.any(axis=(0, 1)))[0]) for piece in pieces] == [80, 5, 40]
