"""Canonical axis order and the working frame: the same patient looks the same however the file stores him."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.orientation import WorkingFrame, acquisition_slice_axis, canonical_orientation, to_working_frame
from P2SAMSlicerLib.volume import VisitIdentity, Volume
from scipy.spatial.transform import Rotation
from small_body import moved_frame, stored, stored_grid

STORAGES = [(order, flips) for order in permutations(range(3)) for flips in product((False, True), repeat=3)]
#: Array axes z, y, x of each acquisition, as LPS directions of x, y, z.
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, -1.0, 0.0)
SAGITTAL = (0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, -1.0, 0.0)
ACQUISITIONS = {"axial": AXIAL, "coronal": CORONAL, "sagittal": SAGITTAL}


def volume(direction: tuple[float, ...] = AXIAL, spacing: tuple[float, float, float] = (1.5, 1.5, 4.0)) -> Volume:
    """Every voxel has its own value; no two sides are the same."""
    grid = Grid((3, 4, 5), spacing, (-12.5, 33.25, 210.0), direction)
    return Volume(np.arange(60, dtype=np.int16).reshape(grid.shape), grid, "ct", VisitIdentity("x", "20240101"), ("w",))


def rotation(x: float, y: float, z: float) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    matrix: np.ndarray[tuple[int, ...], np.dtype[np.float64]] = Rotation.from_rotvec([x, y, z], degrees=True).as_matrix()
    return matrix


@pytest.mark.parametrize("acquisition", ACQUISITIONS)
def test_all_48_ways_to_store_a_patient_give_one_canonical_volume(acquisition: str) -> None:
    usual = volume(ACQUISITIONS[acquisition])
    expected = canonical_orientation(usual.grid)
    for order, flips in STORAGES:
        other = stored(usual, order, flips)
        orientation = canonical_orientation(other.grid)
        np.testing.assert_array_equal(orientation.to_canonical(other.array), expected.to_canonical(usual.array))
        assert orientation.grid.same_as(expected.grid, tolerance_mm=1e-9)


def test_a_canonical_array_and_back_is_the_stored_array_for_all_48() -> None:
    usual = volume()
    for order, flips in STORAGES:
        other = stored(usual, order, flips)
        orientation = canonical_orientation(other.grid)
        canonical = orientation.to_canonical(other.array)
        assert canonical.shape == orientation.grid.shape
        np.testing.assert_array_equal(orientation.to_stored(canonical), other.array)
        made_up = np.random.default_rng(0).random(orientation.grid.shape)
        np.testing.assert_array_equal(orientation.to_canonical(orientation.to_stored(made_up)), made_up)
        assert orientation.to_stored(made_up).shape == other.grid.shape


@given(st.sampled_from(STORAGES), st.sampled_from(sorted(ACQUISITIONS)), st.integers(0, 59))
def test_a_voxel_keeps_its_place_in_the_patient(
    storage: tuple[tuple[int, ...], tuple[bool, ...]], acquisition: str, number: int
) -> None:
    other = stored(volume(ACQUISITIONS[acquisition]), *storage)
    orientation = canonical_orientation(other.grid)
    places = []
    for array, grid in ((other.array, other.grid), (orientation.to_canonical(other.array), orientation.grid)):
        places.append(grid.to_physical(np.argwhere(array == number)[:, ::-1].astype(float)))
    np.testing.assert_allclose(places[0], places[1], atol=1e-9)


def test_a_stored_array_is_neither_changed_nor_shared() -> None:
    usual = volume()
    before = usual.array.copy()
    orientation = canonical_orientation(stored_grid(usual.grid, (0, 1, 2), (True, False, False)))
    orientation.to_canonical(usual.array)[:] = -1
    np.testing.assert_array_equal(usual.array, before)
    assert orientation.to_canonical(usual.array).flags.c_contiguous
    assert orientation.to_stored(usual.array).flags.c_contiguous


@pytest.mark.parametrize(
    ("acquisition", "columns"),
    [
        ("axial", ((1, 0, 0), (0, 1, 0), (0, 0, 1))),
        ("coronal", ((1, 0, 0), (0, 0, -1), (0, 1, 0))),
        ("sagittal", ((0, 1, 0), (0, 0, -1), (1, 0, 0))),
    ],
)
def test_canonical_slices_lie_as_a_radiologist_expects(acquisition: str, columns: tuple[tuple[int, ...], ...]) -> None:
    for order, flips in STORAGES:
        grid = canonical_orientation(stored_grid(volume(ACQUISITIONS[acquisition]).grid, order, flips)).grid
        np.testing.assert_allclose(grid.direction_matrix.T, columns, atol=1e-12)
        assert grid.spacing == (1.5, 1.5, 4.0)


@pytest.mark.parametrize(
    ("spacing", "axis"),
    [
        ((1.0, 1.0, 3.0), 0),
        ((1.0, 3.0, 1.0), 1),
        ((3.0, 1.0, 1.0), 2),
        ((2.0, 2.0, 0.6), 0),  # slices may be thinner than pixels are wide
        ((0.6, 2.0, 2.0), 2),
        ((1.0, 1.005, 3.0), 0),  # rounded headers
    ],
)
def test_slices_were_acquired_along_the_axis_whose_spacing_differs(spacing: tuple[float, float, float], axis: int) -> None:
    for direction in ACQUISITIONS.values():
        assert acquisition_slice_axis(Grid((4, 4, 4), spacing, direction=direction)) == axis


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.0, 1.0, 1.05), (0.8, 1.1, 2.0)])
def test_without_one_differing_spacing_slices_run_nearest_superior_inferior(spacing: tuple[float, float, float]) -> None:
    tilted = rotation(20.0, 0.0, 0.0)
    for order, flips in STORAGES:
        grid = stored_grid(moved_frame(volume(spacing=spacing), tilted, (0.0, 0.0, 0.0)).grid, order, flips)
        axis = acquisition_slice_axis(grid)
        assert abs(grid.direction_matrix[2, 2 - axis]) == pytest.approx(np.cos(np.radians(20.0)))


def test_a_canonical_slice_number_is_the_stored_slice_that_shows_it() -> None:
    usual = volume()
    for order, flips in STORAGES:
        other = stored(usual, order, flips)
        orientation = canonical_orientation(other.grid)
        slice_axis = acquisition_slice_axis(other.grid)
        for index in range(orientation.grid.shape[0]):
            shown = np.take(other.array, orientation.stored_slice_index(index), axis=slice_axis)
            np.testing.assert_array_equal(np.sort(shown, axis=None), np.sort(usual.array[index], axis=None))


def test_the_followup_itself_has_identity_directions_in_the_working_frame() -> None:
    for acquisition in ACQUISITIONS.values():
        moved = moved_frame(volume(acquisition), rotation(12.0, -9.0, 17.0), (100.0, -40.0, 7.0))
        for order, flips in STORAGES[::5]:
            work, orientation, _ = to_working_frame(stored(moved, order, flips))
            assert work.grid.direction == AXIAL
            assert work.grid.origin == (0.0, 0.0, 0.0)
            assert work.grid.shape == orientation.grid.shape
            assert (work.name, work.identity, work.warnings) == (moved.name, moved.identity, moved.warnings)


angles = st.floats(-14.0, 14.0)
shifts = st.floats(-500.0, 500.0)


@given(
    st.tuples(angles, angles, angles), st.tuples(shifts, shifts, shifts), st.sampled_from(STORAGES), st.sampled_from(STORAGES)
)
def test_a_frame_that_both_visits_share_is_not_seen_by_the_engine(
    turn: tuple[float, float, float],
    shift: tuple[float, float, float],
    prior_storage: tuple[tuple[int, ...], tuple[bool, ...]],
    followup_storage: tuple[tuple[int, ...], tuple[bool, ...]],
) -> None:
    followup = volume()
    prior = moved_frame(volume(spacing=(1.1, 1.1, 3.0)), rotation(3.0, -2.0, 4.0), (5.0, 6.0, -7.0))
    expected_followup, _, frame = to_working_frame(followup)
    expected_prior, _, _ = to_working_frame(prior, frame)
    matrix = rotation(*turn)
    seen_followup, _, frame = to_working_frame(stored(moved_frame(followup, matrix, shift), *followup_storage))
    seen_prior, _, _ = to_working_frame(stored(moved_frame(prior, matrix, shift), *prior_storage), frame)
    for seen, expected in ((seen_followup, expected_followup), (seen_prior, expected_prior)):
        assert seen.grid == expected.grid  # to the last bit: the smallest difference may flip a voxel
        np.testing.assert_array_equal(seen.array, expected.array)


@given(st.tuples(angles, angles, angles), st.tuples(shifts, shifts, shifts))
def test_points_go_to_the_working_frame_and_back(turn: tuple[float, float, float], shift: tuple[float, float, float]) -> None:
    frame = WorkingFrame(rotation(*turn), np.asarray(shift))
    points = np.random.default_rng(1).uniform(-300, 300, (20, 3))
    work = frame.points_from_lps(points)
    np.testing.assert_allclose(frame.points_to_lps(work), points, atol=1e-9)
    np.testing.assert_allclose(
        frame.vectors_to_lps(work[1:] - work[:-1]), points[1:] - points[:-1], atol=1e-9, err_msg="a vector has no origin"
    )
    np.testing.assert_allclose(
        np.linalg.norm(work[1:] - work[:-1], axis=1), np.linalg.norm(points[1:] - points[:-1], axis=1), atol=1e-9
    )


@pytest.mark.parametrize("acquisition", ACQUISITIONS)
def test_a_working_grid_puts_voxels_where_the_frame_puts_their_points(acquisition: str) -> None:
    followup = moved_frame(volume(ACQUISITIONS[acquisition]), rotation(8.0, -11.0, 5.0), (40.0, -20.0, 900.0))
    prior = moved_frame(volume(), rotation(-7.0, 3.0, 20.0), (35.0, -22.0, 905.0))
    _, _, frame = to_working_frame(followup)
    work, orientation, same = to_working_frame(prior, frame)
    assert same is frame
    work.grid.check("working prior")
    np.testing.assert_allclose(work.grid.corners(), frame.points_from_lps(orientation.grid.corners()), atol=1e-4)


def test_the_last_bits_of_a_header_do_not_reach_the_working_grid() -> None:
    followup, prior = volume(), moved_frame(volume(), rotation(3.0, 4.0, 5.0), (1.0, 2.0, 3.0))
    _, _, frame = to_working_frame(followup)
    expected, _, _ = to_working_frame(prior, frame)
    rng = np.random.default_rng(4)
    for _ in range(20):
        noisy = [value + rng.normal(0, 1e-12) for value in prior.grid.direction]
        place = [value + rng.normal(0, 1e-10) for value in prior.grid.origin]
        grid = replace(prior.grid, direction=tuple(noisy), origin=(place[0], place[1], place[2]))
        assert to_working_frame(replace(prior, grid=grid), frame)[0].grid == expected.grid
