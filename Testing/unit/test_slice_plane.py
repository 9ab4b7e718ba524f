"""Prompts of a slice's image and places in the patient are the same thing, however the follow-up is stored."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.region import Region
from P2SAMSlicerLib.slice_plane import prompts_from_lps, prompts_to_lps, slice_hu, slice_numbers
from recorded_slices import GRID, followup, in_storage, recorded
from scipy.spatial.transform import Rotation
from small_body import moved_frame, stored_grid

STORAGES = [(order, flips) for order in permutations(range(3)) for flips in product((False, True), repeat=3)]


@given(
    storage=st.sampled_from(STORAGES),
    angles=st.tuples(*[st.floats(-40, 40)] * 3),
    region=st.builds(Region, st.floats(-300, 300), st.floats(-300, 300), st.floats(64, 400), st.sampled_from([64, 256])),
    whole=st.booleans(),
    points=st.lists(st.tuples(st.floats(-10, 300), st.floats(-10, 300)), min_size=1, max_size=5),
    number=st.integers(0, 2),
)
def test_there_and_back_is_the_same_point_for_all_storages_and_frames(
    storage: tuple[tuple[int, ...], tuple[bool, ...]],
    angles: tuple[float, float, float],
    region: Region,
    whole: bool,
    points: list[tuple[float, float]],
    number: int,
) -> None:
    turned = moved_frame(followup(), Rotation.from_euler("xyz", angles, degrees=True).as_matrix(), (11.0, -7.0, 300.0))
    grid = stored_grid(turned.grid, *storage)
    each = replace(recorded(followup())[number], region=None if whole else region)
    lps = prompts_to_lps(np.array(points), each, grid)
    np.testing.assert_allclose(prompts_from_lps(lps, each, grid), points, atol=1e-6)
    assert (slice_numbers(lps, grid) == each.index).all()


@pytest.mark.parametrize("whole", [False, True])
def test_a_pixel_of_a_slice_lies_at_the_same_place_of_the_patient_in_all_48_storages(whole: bool) -> None:
    usual = followup()
    pixels = np.array([[0.0, 0.0], [40.5, 20.25], [12.0, 55.0]])
    expected = [prompts_to_lps(pixels, each, usual.grid) for each in recorded(usual, whole=whole)]
    for order, flips in STORAGES:
        other = in_storage(usual, order, flips)
        for each, place in zip(recorded(other, whole=whole), expected, strict=True):
            np.testing.assert_allclose(prompts_to_lps(pixels, each, other.grid), place, atol=1e-6)


def test_a_pixel_of_a_whole_slice_is_its_voxel() -> None:
    (first, *_) = recorded(followup(), whole=True)
    np.testing.assert_allclose(
        prompts_to_lps(np.array([[3.0, 5.0]]), first, GRID), GRID.to_physical(np.array([[3.0, 5.0, first.index]]))
    )


def test_the_middle_of_the_lesion_is_where_the_volume_has_it() -> None:
    (first, *_) = recorded(followup())
    mask = first.candidates[0].mask
    middle = np.argwhere(mask).mean(axis=0)[::-1]
    np.testing.assert_allclose(
        prompts_to_lps(middle[None], first, GRID), GRID.to_physical(np.array([[25.0, 30.0, 2.0]])), atol=0.2
    )


def test_the_values_of_a_slice_are_the_same_in_all_48_storages() -> None:
    usual = followup()
    usual.array[...] = np.random.default_rng(0).integers(-1000, 1000, usual.array.shape)
    expected = [slice_hu(usual, each) for each in recorded(usual)]
    for order, flips in STORAGES:
        other = in_storage(usual, order, flips)
        for each, hu in zip(recorded(other), expected, strict=True):
            np.testing.assert_array_equal(slice_hu(other, each), hu)


def test_a_slice_of_another_volume_is_refused() -> None:
    short = Grid((2, 60, 80), (1.5, 1.5, 4.0))
    with pytest.raises(InputError, match="slice 4: there are only 2"):
        prompts_to_lps(np.zeros((1, 2)), recorded(followup())[2], short)
