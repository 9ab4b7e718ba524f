"""Changed slices replace their own lesion's contour on their own slices, and not one voxel besides."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations, product

import numpy as np
import pytest
from P2SAMSlicerLib.edited_contour import apply_to_mask, shown_contours
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.result import SliceResult
from P2SAMSlicerLib.slice_plane import working_grid
from P2SAMSlicerLib.volume import BoolArray
from recorded_slices import FIRST, GRID, RADIUS, SECOND, disc, followup, in_storage, present_mask, recorded
from small_body import stored_array, usual_array

STORAGES = [(order, flips) for order in permutations(range(3)) for flips in product((False, True), repeat=3)]


def drawn(each: SliceResult, plane: BoolArray) -> SliceResult:
    """A slice whose chosen contour is that of a plane of the usual grid."""
    _, working = working_grid(GRID)
    mask = plane if each.region is None else each.region.crop(plane.astype(np.float32), working, outside=0.0) > 0.5
    return replace(each, candidates=(replace(each.candidates[0], mask=mask),), chosen=0)


def test_the_changed_slice_is_the_new_contour_and_every_other_voxel_stays() -> None:
    before, slices = present_mask(), recorded(followup())
    untouched = before.copy()
    after = apply_to_mask(before, GRID, [drawn(slices[1], disc(FIRST, RADIUS))], slices)
    np.testing.assert_array_equal(before, untouched)
    np.testing.assert_array_equal(np.delete(after, 3, axis=0), np.delete(before, 3, axis=0))
    assert np.count_nonzero(after[3] ^ disc(FIRST, RADIUS)) <= 12  # half a voxel along the border, at most


def test_all_48_storages_give_the_same_contour() -> None:
    usual = followup()
    slices = recorded(usual)
    expected = apply_to_mask(present_mask(), GRID, [drawn(slices[1], disc(FIRST, RADIUS))], slices)
    for order, flips in STORAGES:
        other = in_storage(usual, order, flips)
        slices = recorded(other)
        changed = [drawn(slices[1], disc(FIRST, RADIUS))]
        mask = apply_to_mask(stored_array(present_mask(), order, flips).astype(bool), other.grid, changed, slices)
        np.testing.assert_array_equal(usual_array(mask, order, flips), expected)


def test_another_lesion_within_the_window_stays() -> None:
    volume = followup(FIRST, SECOND)
    slices, before = recorded(volume, FIRST, SECOND), present_mask(FIRST, SECOND)
    near = slices[0].region
    assert near is not None
    assert near.left + near.side > SECOND[0] * 1.5, "the windows must overlap"
    after = apply_to_mask(before, GRID, [drawn(slices[1], disc(FIRST, RADIUS))], slices)
    right = np.arange(GRID.shape[2]) > (FIRST[0] + SECOND[0]) / 2
    np.testing.assert_array_equal(after[:, :, right], before[:, :, right])
    gone = replace(slices[1], chosen=None)
    after = apply_to_mask(before, GRID, [gone], slices)
    np.testing.assert_array_equal(after[3], before[3] & right)


def test_what_was_painted_in_the_window_is_replaced_and_beyond_it_stays() -> None:
    slices, before = recorded(followup()), present_mask()
    before[3, 30, 40] = before[3, 59, 79] = before[2, 30, 40] = True
    region = slices[1].region
    assert region is not None
    assert region.left + region.side < 79 * 1.5
    after = apply_to_mask(before, GRID, [drawn(slices[1], disc(FIRST, RADIUS))], slices)
    assert (after[3, 30, 40], after[3, 59, 79], after[2, 30, 40]) == (False, True, True)


def test_a_whole_slice_is_replaced_voxel_by_voxel() -> None:
    slices = recorded(followup(), whole=True)
    after = apply_to_mask(present_mask(), GRID, [drawn(slices[1], disc((40.0, 20.0), 5.0))], slices)
    np.testing.assert_array_equal(after[3], disc((40.0, 20.0), 5.0))


def test_a_contour_on_another_grid_is_refused() -> None:
    with pytest.raises(InputError, match="not on the follow-up's grid"):
        apply_to_mask(np.zeros((3, 3, 3), bool), GRID, recorded(followup()), recorded(followup()))


def test_what_a_segment_shows_is_its_chosen_contour_but_for_what_was_removed_or_painted() -> None:
    volume = followup()
    slices, mask = recorded(volume), present_mask()
    placed = apply_to_mask(mask, GRID, slices, slices)
    assert shown_contours(placed, GRID, slices, {(1, 2), (1, 3), (1, 4)}) == {}
    painted = placed.copy()
    painted[3, 25:36, 10:14] = True  # beside the lesion
    painted[3, :, 27:] = False  # a part of it
    painted[4, 30, 40] = True
    shown = shown_contours(painted, GRID, slices, {(1, 3)})
    assert set(shown) == {(1, 3)}
    again = apply_to_mask(placed, GRID, [drawn_as(slices[1], shown[1, 3])], slices)
    np.testing.assert_array_equal(again[3], painted[3])
    far = slices[1].candidates[0].mask & shown[1, 3]
    assert far.sum() > 0.5 * slices[1].candidates[0].mask.sum()


def drawn_as(each: SliceResult, mask: BoolArray) -> SliceResult:
    return replace(each, candidates=(replace(each.candidates[0], mask=mask),), chosen=0)


def test_all_48_storages_show_the_same() -> None:
    painted = present_mask()
    painted[3, 25:36, 10:14] = True
    expected = shown_contours(painted, GRID, recorded(followup()), {(1, 3)})[1, 3]
    for order, flips in STORAGES:
        other = in_storage(followup(), order, flips)
        slices = recorded(other)
        stored = stored_array(painted, order, flips).astype(bool)
        found = shown_contours(stored, other.grid, slices, {(1, slices[1].index)})
        np.testing.assert_array_equal(found[1, slices[1].index], expected)


def test_what_was_painted_at_one_lesion_is_not_shown_at_another() -> None:
    slices, mask = recorded(followup(FIRST, SECOND), FIRST, SECOND), present_mask(FIRST, SECOND)
    placed = apply_to_mask(mask, GRID, slices, slices)
    placed[3, 28:32, 53:56] = True
    keys = {(lesion, 3) for lesion in (1, 2)}
    assert set(shown_contours(placed, GRID, slices, keys)) == {(2, 3)}


def test_a_whole_slice_shows_its_voxels() -> None:
    slices, mask = recorded(followup(), whole=True), present_mask()
    mask[3, 5, 5] = True
    np.testing.assert_array_equal(shown_contours(mask, GRID, slices, {(1, 3)})[1, 3], mask[3])
    gone = [replace(each, chosen=None) for each in slices]
    np.testing.assert_array_equal(shown_contours(mask, GRID, gone, {(1, 3)})[1, 3], mask[3])
