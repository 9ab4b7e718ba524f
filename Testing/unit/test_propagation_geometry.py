"""However the CTs are stored, wherever their frame lies, whatever their voxels: the contour is that of the patient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import permutations, product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.options import Mode, PropagationOptions, RegistrationChoice
from P2SAMSlicerLib.propagation import propagate
from P2SAMSlicerLib.result import Outcome, SegmentResult
from P2SAMSlicerLib.segmentation_file import read_segmentation
from P2SAMSlicerLib.volume import BoolArray, Segment, Volume
from P2SAMSlicerLib.volume_file import read_volume
from scipy.spatial.transform import Rotation
from small_body import (
    GRID,
    body,
    dice,
    ellipsoid,
    followup_of,
    moved_frame,
    points_of,
    prior_visit,
    stored,
    stored_array,
    usual_array,
)
from stub_model import BrightnessModel

if TYPE_CHECKING:
    from P2SAMSlicerLib.models.protocol import PromptableModel

Storage = tuple[tuple[int, ...], tuple[bool, ...]]
STORAGES: list[Storage] = [(order, flips) for order in permutations(range(3)) for flips in product((False, True), repeat=3)]
USUAL: Storage = ((0, 1, 2), (False, False, False))
#: A transposition with flips that turns every axis round, a cyclic order, and one that is left-handed.
AWKWARD: list[Storage] = [
    ((2, 1, 0), (True, True, True)),
    ((1, 2, 0), (False, True, False)),
    ((0, 1, 2), (False, False, True)),
]

storages = st.sampled_from(STORAGES)
angles = st.floats(-14.0, 14.0)
shifts = st.floats(-400.0, 400.0)


def carry(
    prior: Volume, mask: BoolArray, followup: Volume, kind: RegistrationChoice = "none", mode: Mode = "clinical"
) -> SegmentResult:
    """The one segment's result with the stub model; two parts, because more take time and are treated alike."""
    options = PropagationOptions(mode=mode, registration=kind, max_parts=2)
    return propagate(BrightnessModel(), prior, [Segment("GTV", mask)], followup, options).segments[0]


@cache
def expected(kind: RegistrationChoice, mode: Mode = "clinical") -> SegmentResult:
    """The result for the visits as they are."""
    prior, segment = prior_visit()
    result = carry(prior, segment.mask, followup_of()[0], kind, mode)
    assert result.mask is not None
    assert result.mask.any()
    return result


def carry_stored(
    prior_storage: Storage,
    followup_storage: Storage,
    rotation: tuple[float, float, float] = (0.0, 0.0, 0.0),
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0),
    kind: RegistrationChoice = "none",
    mode: Mode = "clinical",
) -> SegmentResult:
    """The result for the visits stored in other axis orders, in a rotated frame that both share."""
    prior, segment = prior_visit()
    matrix = Rotation.from_rotvec(rotation, degrees=True).as_matrix()
    moved = [moved_frame(volume, matrix, shift) for volume in (prior, followup_of()[0])]
    mask = stored_array(segment.mask, *prior_storage).astype(np.bool_)
    return carry(stored(moved[0], *prior_storage), mask, stored(moved[1], *followup_storage), kind, mode)


def assert_same(result: SegmentResult, wanted: SegmentResult, followup_storage: Storage) -> None:
    """Voxel for voxel the same contours in the patient, and the same figures."""
    assert result.mask is not None
    assert wanted.mask is not None
    np.testing.assert_array_equal(usual_array(result.mask, *followup_storage), wanted.mask)
    np.testing.assert_array_equal(usual_array(result.registered_mask, *followup_storage), wanted.registered_mask)
    assert (result.outcome, result.reasons, result.removals) == (wanted.outcome, wanted.reasons, wanted.removals)
    assert result.review_priority == pytest.approx(wanted.review_priority)
    assert result.volume_ml == pytest.approx(wanted.volume_ml)
    assert [s.chosen for s in result.slices] == [s.chosen for s in wanted.slices]


@settings(max_examples=3, suppress_health_check=[HealthCheck.too_slow])
@given(storages, storages, st.tuples(angles, angles, angles), st.tuples(shifts, shifts, shifts))
def test_storage_and_frame_do_not_change_a_voxel_of_the_contour(
    prior_storage: Storage,
    followup_storage: Storage,
    rotation: tuple[float, float, float],
    shift: tuple[float, float, float],
) -> None:
    result = carry_stored(prior_storage, followup_storage, rotation, shift)
    assert_same(result, expected("none"), followup_storage)


@pytest.mark.long  # the next one begins with the same rigid registration
def test_storage_and_frame_do_not_change_a_voxel_with_rigid_registration() -> None:
    result = carry_stored(AWKWARD[0], AWKWARD[2], (-12.0, 7.0, -4.0), (-260.0, 85.0, -720.0), "rigid")
    assert_same(result, expected("rigid"), AWKWARD[2])


def test_storage_and_frame_do_not_change_a_voxel_with_deformable_registration() -> None:
    result = carry_stored(AWKWARD[1], AWKWARD[0], (9.0, -13.0, 17.0), (120.0, -310.0, 1450.0), "deformable")
    assert_same(result, expected("deformable"), AWKWARD[0])


@pytest.mark.parametrize("storage", [AWKWARD[0], *(pytest.param(each, marks=pytest.mark.long) for each in AWKWARD[1:])])
def test_storage_does_not_change_a_voxel_in_paper_mode(storage: Storage) -> None:
    result = carry_stored(storage, AWKWARD[0], (4.0, 5.0, -6.0), mode="paper")
    assert_same(result, expected("none", "paper"), AWKWARD[0])


def test_shift_and_slice_positions_are_given_in_the_patients_own_frame() -> None:
    usual, rotation = expected("none"), (0.0, 0.0, 20.0)
    turned = carry_stored(USUAL, USUAL, rotation, (7.0, 8.0, 9.0))
    assert usual.centroid_shift_mm is not None
    assert turned.centroid_shift_mm is not None
    matrix = Rotation.from_rotvec(rotation, degrees=True).as_matrix()
    np.testing.assert_allclose(turned.centroid_shift_mm, matrix @ np.array(usual.centroid_shift_mm), atol=1e-6)
    positions = np.array([s.position_mm for s in usual.slices])
    np.testing.assert_allclose([s.position_mm for s in turned.slices], positions + 9.0, atol=1e-6)
    origin, step = followup_of()[0].grid.origin[2], followup_of()[0].grid.spacing[2]
    np.testing.assert_allclose(positions, [origin + step * s.index for s in usual.slices], atol=1e-6)


def test_slice_numbers_count_along_the_stored_slice_axis() -> None:
    flipped = carry_stored(USUAL, ((1, 0, 2), (False, True, False)))
    count = followup_of()[0].grid.shape[0]
    assert [s.index for s in flipped.slices] == [count - 1 - s.index for s in expected("none").slices]
    assert [s.position_mm for s in flipped.slices] == pytest.approx([s.position_mm for s in expected("none").slices])


# ------------------------------------------------------------------------------------------------------- other priors
#: The body's extent in other voxels: finer, coarser slices, a shorter scan, coronal and sagittal acquisitions, tilted by 12
#: and by 30 degrees.
TILTS = [Rotation.from_euler("x", angle, degrees=True).as_matrix() for angle in (12, 30)]
PRIOR_GRIDS = {
    "finer": Grid((40, 107, 120), (1.5, 1.5, 3.0), (-89.0, -79.0, -58.0)),
    "thick slices": Grid((16, 80, 90), (2.0, 2.0, 7.5), (-89.0, -79.0, -56.0)),
    "shorter": Grid((16, 60, 75), (2.0, 2.0, 4.0), (-69.0, -69.0, -30.0)),
    "coronal": Grid((40, 60, 90), (2.0, 2.0, 4.0), (-89.0, -79.0, 59.0), (1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, -1.0, 0.0)),
    "sagittal": Grid((45, 60, 80), (2.0, 2.0, 4.0), (-89.0, -79.0, 59.0), (0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, -1.0, 0.0)),
    "tilted by 12": Grid((30, 80, 90), (2.0, 2.0, 4.0), (-89.0, -66.0, -73.0), tuple(TILTS[0].ravel().tolist())),
    "tilted by 30": Grid((36, 80, 90), (2.0, 2.0, 4.0), (-89.0, -35.0, -98.0), tuple(TILTS[1].ravel().tolist())),
}


#: The others are of the same kinds: other spacings, other orders of the axes, another tilt.
IN_SUITE = ("thick slices", "coronal", "tilted by 30")


@pytest.mark.parametrize(
    "name", [name if name in IN_SUITE else pytest.param(name, marks=pytest.mark.long) for name in PRIOR_GRIDS]
)
def test_a_prior_on_another_grid_carries_the_same_lesion(name: str) -> None:
    grid = PRIOR_GRIDS[name]
    lesion = ellipsoid(grid)
    followup, segment = prior_visit()  # the same patient, unmoved: the truth is his lesion
    result = carry(body([lesion], grid), lesion, replace(followup, name="followup"))
    assert result.mask is not None, result.reasons
    assert result.registered_mask.shape == GRID.shape
    assert dice(result.registered_mask, segment.mask) > 0.88
    assert dice(result.mask, segment.mask) > 0.88
    assert result.prior_volume_ml == pytest.approx(lesion.sum() * grid.voxel_ml, rel=0.05)


def test_a_coronal_prior_with_its_own_tilt_is_registered() -> None:
    grid = PRIOR_GRIDS["coronal"]
    lesion = ellipsoid(grid)
    followup, truth = followup_of("stable")
    result = carry(body([lesion], grid), lesion, followup, "rigid")
    assert result.mask is not None, result.reasons
    assert dice(result.mask, truth) > 0.8


@pytest.mark.parametrize("tilt", [pytest.param(3.0, marks=pytest.mark.long), 15.0])
def test_a_followup_whose_frame_is_tilted_against_the_priors_sees_the_lesion_in_place(tilt: float) -> None:
    matrix = Rotation.from_euler("xy", [tilt, -tilt / 2], degrees=True).as_matrix()
    origin = matrix @ np.array(GRID.origin)
    grid = replace(GRID, origin=(origin[0], origin[1], origin[2]), direction=tuple(matrix.ravel().tolist()))
    prior, segment = prior_visit()
    truth = ellipsoid(grid)
    result = carry(prior, segment.mask, replace(body([truth], grid), name="followup"))
    assert result.mask is not None, result.reasons
    assert dice(result.registered_mask, truth) > 0.9
    assert dice(result.mask, truth) > 0.9


@pytest.mark.parametrize("spacing", [(3.3, 3.3, 6.0), pytest.param((1.4, 1.4, 2.5), marks=pytest.mark.long)])
def test_a_followup_with_other_voxels_gives_the_same_volume(spacing: tuple[float, float, float]) -> None:
    shape = tuple(int(n * old / new) for n, old, new in zip(GRID.shape, GRID.spacing_zyx, spacing[::-1], strict=True))
    grid = Grid((shape[0], shape[1], shape[2]), spacing, GRID.origin)
    prior, segment = prior_visit()
    truth = ellipsoid(grid)
    result = carry(prior, segment.mask, replace(body([truth], grid), name="followup"))
    assert result.mask is not None, result.reasons
    assert result.mask.shape == grid.shape
    assert dice(result.mask, truth) > 0.88
    assert result.volume_ml == pytest.approx(result.mask.sum() * grid.voxel_ml)


# ---------------------------------------------------------------------------------------------------------- real data
def real_crop(folder: Path) -> tuple[Volume, BoolArray, Volume, BoolArray]:
    """A real case around its lesion, 35 mm on every side."""
    visits = []
    for visit in ("prior", "followup"):
        ct = read_volume(folder / f"{visit}_ct.nii.gz")
        mask = read_segmentation(folder / f"{visit}_seg.nii.gz").segments[0].mask
        found = np.argwhere(mask)
        margin = np.ceil(35.0 / np.asarray(ct.grid.spacing_zyx)).astype(int)
        low = np.maximum(found.min(0) - margin, 0)
        high = np.minimum(found.max(0) + 1 + margin, mask.shape)
        box = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
        corner = ct.grid.to_physical(low[::-1][None].astype(float))[0]
        shape = tuple(int(n) for n in high - low)
        grid = replace(
            ct.grid, shape=(shape[0], shape[1], shape[2]), origin=(float(corner[0]), float(corner[1]), float(corner[2]))
        )
        visits.append((Volume(ct.array[box], grid, visit), mask[box]))
    return visits[0][0], visits[0][1], visits[1][0], visits[1][1]


@pytest.mark.long  # the tests above show it on a phantom
def test_a_real_visit_gives_the_same_contour_in_another_storage(
    visit_case: Callable[[str], Path], lite_medsam: PromptableModel
) -> None:
    prior, mask, followup, truth = real_crop(visit_case("limb_f_stable"))
    # Three slices of the tumour, every other slice of the follow-up, and one part: the time goes into slices, and storage is
    # the same for all of them.
    middle = int(np.median(np.flatnonzero(mask.any(axis=(1, 2)))))
    mask[: middle - 1] = mask[middle + 2 :] = False
    x, y, z = followup.grid.spacing
    grid = replace(followup.grid, shape=followup.array[::2].shape, spacing=(x, y, 2 * z))
    followup, truth = replace(followup, array=followup.array[::2], grid=grid), truth[::2]
    options = PropagationOptions(registration="rigid", max_parts=1)

    def run(prior_storage: Storage, followup_storage: Storage) -> BoolArray:
        lesion = stored_array(mask, *prior_storage).astype(np.bool_)
        result = propagate(
            lite_medsam, stored(prior, *prior_storage), [Segment("GTV", lesion)], stored(followup, *followup_storage), options
        ).segments[0]
        assert result.outcome in (Outcome.FOUND, Outcome.FLAGGED)
        assert result.mask is not None
        return usual_array(result.mask, *followup_storage).astype(np.bool_)

    first = run(USUAL, USUAL)
    halfway = int(np.median(np.flatnonzero(first.any(axis=(1, 2)))))
    assert dice(first[halfway], truth[halfway]) > 0.8
    assert dice(run(AWKWARD[0], AWKWARD[1]), first) >= 0.98


def test_the_number_of_threads_does_not_reach_the_contour() -> None:
    wanted, before = expected("deformable"), torch.get_num_threads()
    torch.set_num_threads(1 if before > 1 else 2)
    try:
        again = carry_stored(USUAL, USUAL, kind="deformable")
    finally:
        torch.set_num_threads(before)
    assert_same(again, wanted, USUAL)


def test_the_phantom_has_its_lesion_where_its_grid_says() -> None:
    prior, segment = prior_visit()
    centre = points_of(prior.grid)[segment.mask].mean(axis=0)
    turned = stored(prior, *AWKWARD[1])
    again = points_of(turned.grid)[stored_array(segment.mask, *AWKWARD[1]).astype(np.bool_)].mean(axis=0)
    np.testing.assert_allclose(again, centre, atol=1e-9)
