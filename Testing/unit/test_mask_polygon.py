"""Contours along the edges of voxels: filled again by any rule they give the same voxels."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from P2SAMSlicerLib.dicom.mask_polygon import slice_contours
from P2SAMSlicerLib.volume import BoolArray
from scipy.ndimage import label

MASKS = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9))


def mask_of(*rows: str) -> BoolArray:
    return np.array([[letter == "#" for letter in row] for row in rows])


def windings(polygon: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.int64]:
    """How often the polygon goes around each voxel's centre, by the edges that pass right of it."""
    ahead = np.roll(polygon, -1, axis=0)
    turns = np.zeros(shape, dtype=np.int64)
    upright = polygon[:, 0] == ahead[:, 0]
    for (x, start), (_, end) in zip(polygon[upright].tolist(), ahead[upright].tolist(), strict=True):
        low, high = sorted((start, end))
        turns[int(low + 0.5) : int(high + 0.5), : int(x + 0.5)] += 1 if end > start else -1
    return turns


def area(polygon: NDArray[np.float64]) -> float:
    following = np.roll(polygon, -1, axis=0)
    return float((polygon[:, 0] * following[:, 1] - following[:, 0] * polygon[:, 1]).sum() / 2)


def check(mask: BoolArray) -> list[NDArray[np.float64]]:
    """Everything that holds of the contours of any mask."""
    contours = slice_contours(mask)
    around = [windings(each, mask.shape) for each in contours]
    parts, count = label(mask)
    assert len(contours) == count
    assert {frozenset(np.unique(parts[inside != 0]).tolist()) for inside in around} == {
        frozenset({i}) for i in range(1, count + 1)
    }
    for inside in around:
        # Even-odd and non-zero winding agree, and no voxel is gone around twice.
        assert set(np.unique(inside).tolist()) <= {0, 1}
    # Added up, as plastimatch does by default, as well as taken together by the even-odd rule.
    np.testing.assert_array_equal(sum(around, np.zeros(mask.shape, dtype=np.int64)), mask.astype(np.int64))
    assert sum(area(each) for each in contours) == np.count_nonzero(mask)
    for each in contours:
        steps = np.roll(each, -1, axis=0) - each
        assert ((steps != 0).sum(axis=1) == 1).all(), "an edge has no length, or is oblique"
        turned = np.sign(steps) != np.sign(np.roll(steps, 1, axis=0))
        assert turned.any(axis=1).all(), "a point lies between two edges of one direction"
        assert (each % 1 == 0.5).all()
    return contours


@given(MASKS)
@settings(max_examples=150)
def test_any_mask_comes_back_by_every_rule_of_filling(mask: BoolArray) -> None:
    check(mask)


@given(st.integers(0, 2**32 - 1), st.floats(0.4, 0.95))
@settings(max_examples=25)
def test_a_large_mask_full_of_holes_comes_back(seed: int, share: float) -> None:
    check(np.random.default_rng(seed).random((24, 31)) < share)


def test_an_empty_slice_has_no_contour() -> None:
    assert slice_contours(np.zeros((4, 5), dtype=np.bool_)) == []


def test_one_voxel_is_a_square_around_its_centre() -> None:
    (contour,) = check(mask_of("...", "..#"))
    assert sorted(map(tuple, contour.tolist())) == [(1.5, 0.5), (1.5, 1.5), (2.5, 0.5), (2.5, 1.5)]


@pytest.mark.parametrize("rows", [("#.", ".#"), (".#", "#.")])
def test_voxels_that_touch_at_a_corner_are_two_contours(rows: tuple[str, ...]) -> None:
    assert [len(each) for each in check(mask_of(*rows))] == [4, 4]


def test_straight_edges_have_points_at_their_ends_only() -> None:
    (contour,) = check(np.ones((30, 40), dtype=np.bool_))
    assert len(contour) == 4


def test_a_hole_is_joined_by_a_keyhole_that_runs_to_and_fro() -> None:
    (contour,) = check(mask_of("#####", "#####", "##.##", "#####"))
    edges = Counter(
        frozenset((tuple(a), tuple(b))) for a, b in zip(contour.tolist(), np.roll(contour, -1, axis=0).tolist(), strict=True)
    )
    # There from the outline to the hole's corner and on along its first edge, and back from that corner.
    assert len(contour) == 4 + 4 + 2
    assert frozenset({(-0.5, 1.5), (1.5, 1.5)}) in edges


@pytest.mark.parametrize(
    "rows",
    [
        ("####", "#..#", "#.##", "##.#", "####"),  # two holes that touch at a corner
        ("####", "#.##", "##.#", "###."),  # a hole that touches the outside at a corner
        ("#######", "#.....#", "#.###.#", "#.#.#.#", "#.###.#", "#.....#", "#######"),  # an island with a hole in a hole
        ("########", "#.#.#.##", "########", "#.#.#.##", "########"),  # holes in one row
        ("#.#.#", ".#.#.", "#.#.#"),  # a chessboard
        ("###", "#.#", "##."),  # a ring that is closed at a corner only
    ],
)
def test_holes_and_corners_that_meet_are_told_apart(rows: tuple[str, ...]) -> None:
    check(mask_of(*rows))
