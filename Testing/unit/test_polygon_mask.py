"""What lies inside of polygons: exact on voxel edges, even-odd, and the same however the polygons are written down."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from P2SAMSlicerLib.dicom.polygon_mask import area, fill_even_odd, fill_polygon, share_outside, work
from structure_sets import edge_outlines

SHAPE = (24, 30)
Polygon = NDArray[np.float64]

#: Corners on quarters of voxels: many lie on voxel centres and many edges run through some.
corners = arrays(np.int64, st.tuples(st.integers(3, 9), st.just(2)), elements=st.integers(-10, 130)).map(lambda a: a / 4)


def square(low: float, high: float) -> Polygon:
    return np.array([[low, low], [high, low], [high, high], [low, high]])


def winds_twice(polygon: Polygon) -> bool:
    filled = fill_polygon(polygon, SHAPE)
    assert filled is not None
    return filled.winds_twice


def star(radii: NDArray[np.float64], centre: tuple[float, float] = (0.0, 0.0)) -> Polygon:
    angles = np.linspace(0, 2 * np.pi, len(radii), endpoint=False)
    outline: Polygon = np.array(centre) + radii[:, None] * np.column_stack([np.cos(angles), np.sin(angles)])
    return outline


@settings(max_examples=60)
@given(arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_a_mask_comes_back_exactly_from_its_outline_along_voxel_edges(mask: NDArray[np.bool_]) -> None:
    np.testing.assert_array_equal(fill_even_odd(edge_outlines(mask), mask.shape), mask)


@settings(max_examples=60)
@given(st.lists(corners, min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_neither_order_nor_direction_nor_first_point_of_polygons_matters(polygons: list[Polygon], random: object) -> None:
    expected = fill_even_odd(polygons, SHAPE)
    changed = [np.roll(polygon, shift, axis=0) for shift, polygon in enumerate(polygons, 1)]
    changed = [polygon[::-1] if index % 2 else polygon for index, polygon in enumerate(changed)]
    random.shuffle(changed)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(fill_even_odd(changed, SHAPE), expected)


@settings(max_examples=60)
@given(st.lists(corners, min_size=2, max_size=4))
def test_several_polygons_are_the_exclusive_or_of_each(polygons: list[Polygon]) -> None:
    alone = [fill_even_odd([polygon], SHAPE) for polygon in polygons]
    np.testing.assert_array_equal(fill_even_odd(polygons, SHAPE), np.logical_xor.reduce(alone))


@settings(max_examples=60)
@given(corners, st.data())
def test_polygons_that_share_an_edge_neither_overlap_nor_leave_a_gap(polygon: Polygon, data: st.DataObject) -> None:
    # Cut along a diagonal, whatever its slope: the two parts make up the whole, also for centres that lie on the cut.
    first = data.draw(st.integers(0, len(polygon) - 2))
    last = data.draw(st.integers(first + 1, len(polygon) - 1))
    parts = [polygon[first : last + 1], np.concatenate([polygon[: first + 1], polygon[last:]])]
    masks = [fill_even_odd([part], SHAPE) for part in parts]
    np.testing.assert_array_equal(masks[0] ^ masks[1], fill_even_odd([polygon], SHAPE))


@settings(max_examples=40)
@given(arrays(np.float64, 40, elements=st.floats(0.4, 1.0)), st.floats(-0.5, 0.5), st.floats(-0.5, 0.5))
def test_the_rasterised_area_converges_to_the_polygons(radii: NDArray[np.float64], x: float, y: float) -> None:
    outline = star(radii)
    length = np.linalg.norm(outline - np.roll(outline, 1, axis=0), axis=1).sum()
    for size in (16, 64, 256):
        scaled = outline * size / 2.2 + [size / 2 + x, size / 2 + y]
        counted = fill_even_odd([scaled], (size, size)).sum()
        # Only pixels that the outline passes can be wrong; of these about as many one way as the other.
        assert abs(counted - area(scaled)) < 2 * np.sqrt(length * size / 2.2) + 2


@settings(max_examples=40)
@given(arrays(np.float64, 12, elements=st.floats(3.0, 11.0)), st.floats(10, 20), st.floats(8, 16))
def test_it_agrees_with_another_library_where_no_centre_lies_on_an_edge(radii: NDArray[np.float64], x: float, y: float) -> None:
    from matplotlib.path import Path as Outline

    outline = star(radii, (x + 1e-3 * np.pi, y + 2.718e-3))
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    centres = np.column_stack([columns.ravel(), rows.ravel()]).astype(float)
    theirs = Outline(np.vstack([outline, outline[:1]]), closed=True).contains_points(centres).reshape(SHAPE)
    differing = fill_even_odd([outline], SHAPE) != theirs
    following = np.roll(outline, -1, axis=0)
    for row, column in np.argwhere(differing):
        point = np.array([column, row])
        along = following - outline
        share = np.clip(((point - outline) * along).sum(axis=1) / (along**2).sum(axis=1), 0, 1)
        assert np.linalg.norm(outline + share[:, None] * along - point, axis=1).min() < 1e-5


def test_centres_on_an_edge_are_inside_where_the_inside_has_the_larger_index() -> None:
    expected = np.zeros((8, 8), dtype=np.bool_)
    expected[2:5, 2:5] = True
    np.testing.assert_array_equal(fill_even_odd([square(2, 5)], (8, 8)), expected)


@pytest.mark.parametrize("shift", list(itertools.product((-1e-8, 0, 1e-8), repeat=2)))
def test_rounding_of_coordinates_does_not_decide_about_centres_on_an_edge(shift: tuple[float, float]) -> None:
    outline = np.array([[2, 2], [9, 2], [9, 9], [5, 9], [2, 5]], dtype=float)
    np.testing.assert_array_equal(fill_even_odd([outline + shift], (12, 12)), fill_even_odd([outline], (12, 12)))


def test_a_keyhole_is_a_hole() -> None:
    outer, inner = square(1.5, 20.5), square(6.5, 13.5)
    keyhole = np.concatenate([outer, outer[:1], inner[:1], inner[::-1], outer[:1]])
    for outline in (keyhole, keyhole[::-1]):
        np.testing.assert_array_equal(fill_even_odd([outline], SHAPE), fill_even_odd([outer, inner], SHAPE))


def test_a_hole_holds_an_island() -> None:
    mask = fill_even_odd([square(0.5, 20.5), square(3.5, 15.5), square(6.5, 9.5)], SHAPE)
    assert (mask[2, 2], mask[5, 5], mask[8, 8]) == (True, False, True)
    assert mask.sum() == 400 - 144 + 9


def test_a_figure_of_eight_is_two_lobes_and_goes_around_nothing_twice() -> None:
    eight = np.array([[1.5, 1.5], [11.5, 11.5], [11.5, 1.5], [1.5, 11.5]])
    mask = fill_even_odd([eight], SHAPE)
    assert mask[6, 3]
    assert mask[6, 10]
    assert not mask[2, 6]
    assert not winds_twice(eight)


def test_an_outline_that_goes_around_a_place_twice_is_noticed() -> None:
    twice = np.concatenate([square(1.5, 14.5), square(1.5, 14.5)[:1], square(4.5, 9.5), square(4.5, 9.5)[:1]])
    assert winds_twice(twice)
    assert not winds_twice(square(1.5, 14.5))


def test_what_reaches_beyond_the_image_is_cut_off() -> None:
    assert fill_even_odd([square(-1e5, 1e5)], SHAPE).all()
    assert not fill_even_odd([square(100, 200)], SHAPE).any()
    assert not fill_even_odd([square(-200, -100)], SHAPE).any()
    assert not fill_even_odd([], SHAPE).any()
    np.testing.assert_array_equal(np.argwhere(fill_even_odd([square(-5.5, 1.5)], SHAPE)), [[0, 0], [0, 1], [1, 0], [1, 1]])


def test_outlines_without_area_hold_nothing() -> None:
    for outline in ([[3, 3], [9, 9], [3, 3]], [[3, 3], [3, 3], [3, 3]], [[2, 5], [9, 5], [4, 5]]):
        assert not fill_even_odd([np.array(outline, dtype=float)], SHAPE).any()


@pytest.mark.parametrize(
    ("outline", "share"),
    [
        (square(2, 9), 0.0),
        (square(-20, -10), 1.0),
        (np.array([[-10.5, 0], [9.5, 0], [9.5, 10], [-10.5, 10]]), 0.5),
        (np.array([[19.5, 13.5], [39.5, 13.5], [39.5, 33.5], [19.5, 33.5]]), 0.75),
        (np.array([[-10.5, 5.0], [-0.5, -5.0], [9.5, 5.0], [-0.5, 15.0]]), 1 - 0.5 + 2 * 4.5**2 / 2 / 200 * 0.5),
    ],
)
def test_the_share_beyond_the_image_is_that_of_the_area(outline: Polygon, share: float) -> None:
    assert share_outside(outline, SHAPE) == pytest.approx(share, abs=1e-9)
    assert share_outside(outline[::-1], SHAPE) == pytest.approx(share, abs=1e-9)


def test_the_work_is_known_beforehand_and_bounded_by_the_image() -> None:
    assert work(square(2.5, 8.5), SHAPE) == 8 * 12 + 8 * 8
    zigzag = np.column_stack([np.arange(1000.0), np.tile([-1e5, 1e5], 500)])
    assert work(zigzag, SHAPE) == 8 * 1000 * SHAPE[0] + SHAPE[0] * SHAPE[1]
    assert work(square(100, 200), SHAPE) == 0
