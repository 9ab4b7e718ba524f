"""The expected contour: the registered contour, less what was replaced."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from P2SAMSlicerLib.expected import expected_contour, signed_pixels_mm
from P2SAMSlicerLib.registration import signed_distance
from P2SAMSlicerLib.volume import BoolArray

SIZE = 96
NOTHING = np.zeros((SIZE, SIZE), np.float32)


def disc(radius: float, x: float = 48.0, y: float = 48.0) -> BoolArray:
    rows, columns = np.indices((SIZE, SIZE))
    mask: BoolArray = (rows - y) ** 2 + (columns - x) ** 2 <= radius**2
    return mask


def distance_to(mask: BoolArray, pixel_mm: float = 1.0) -> NDArray[np.float32]:
    distance: NDArray[np.float32] = signed_distance(mask, (pixel_mm, pixel_mm))
    return distance


@settings(max_examples=25, deadline=None)
@given(radius=st.floats(2, 40), pixel=st.floats(0.3, 2.0), quiet=st.floats(0, 0.7))
def test_where_nothing_changed_it_is_the_registered_contour(radius: float, pixel: float, quiet: float) -> None:
    mask = disc(radius)
    found = expected_contour(distance_to(mask, pixel), np.full_like(NOTHING, quiet), NOTHING, pixel)
    np.testing.assert_array_equal(found, mask)


def test_a_registered_contour_of_distance_zero_is_expected_as_a_whole_unless_it_changed() -> None:
    mask = disc(20)
    distance = np.minimum(distance_to(mask), 0.0)
    np.testing.assert_array_equal(expected_contour(distance, NOTHING, NOTHING, 1.0), mask)
    found = expected_contour(distance, half_changed(4.0), NOTHING, 1.0)
    assert not found[:, 62:].any()


def half_changed(strength: float) -> NDArray[np.float32]:
    changed: NDArray[np.float32] = NOTHING.copy()
    changed[:, 56:] = strength
    return changed


def test_a_side_that_was_replaced_is_taken_out() -> None:
    mask = disc(20)
    found = expected_contour(distance_to(mask), half_changed(4.0), NOTHING, 1.0)
    assert not found[:, 62:].any()
    np.testing.assert_array_equal(found[:, :44], mask[:, :44])


def test_more_change_never_leaves_more_contour() -> None:
    mask = disc(20)
    areas = [expected_contour(distance_to(mask), half_changed(s), NOTHING, 1.0).sum() for s in (0.0, 1.0, 1.5, 2.0, 4.0, 9.0)]
    assert areas == sorted(areas, reverse=True)
    assert areas[-1] < areas[0]


def test_what_became_more_like_the_lesion_stays() -> None:
    mask = disc(20)
    found = expected_contour(distance_to(mask), half_changed(4.0), np.ones_like(NOTHING), 1.0)
    np.testing.assert_array_equal(found, mask)


def test_change_outside_adds_nothing() -> None:
    mask = disc(15)
    outside = np.where(mask, 0.0, 9.0).astype(np.float32)
    np.testing.assert_array_equal(expected_contour(distance_to(mask), outside, NOTHING, 1.0), mask)


def test_a_lesion_that_was_replaced_as_a_whole_leaves_nothing_of_a_small_slice() -> None:
    mask = disc(8)
    assert not expected_contour(distance_to(mask), np.full_like(NOTHING, 5.0), NOTHING, 1.0).any()


def test_a_crumb_that_change_cut_off_is_dropped() -> None:
    mask = disc(20) | disc(3, x=82)
    found = expected_contour(distance_to(mask), NOTHING, NOTHING, 1.0)
    assert not found[:, 75:].any()
    np.testing.assert_array_equal(found[:, :75], mask[:, :75])


@pytest.mark.parametrize("pixel", [0.5, 1.0, 2.0])
def test_signed_distance_counts_in_millimetres_up_to_its_limit(pixel: float) -> None:
    distance = signed_pixels_mm(disc(10), pixel, 6.0)
    assert distance[48, 48] == pytest.approx(min(6.0, 101**0.5 * pixel))  # to the nearest pixel outside
    assert distance[0, 0] == -6.0
    np.testing.assert_array_equal(distance > 0, disc(10))


def test_the_distance_to_an_empty_contour_is_the_limit_everywhere() -> None:
    assert (signed_pixels_mm(disc(0) & ~disc(1), 1.0, 6.0) == -6.0).all()
