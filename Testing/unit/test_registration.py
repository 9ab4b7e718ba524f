"""Registration: known motions are found, transforms are read or refused, masks are carried."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray
from P2SAMSlicerLib import registration
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.registration import (
    Pyramid,
    Registration,
    array_to_image,
    body_mask,
    carry_distance,
    in_working_frame,
    register,
    resample_to_spacing,
    signed_distance,
    similarity,
    to_image,
)
from P2SAMSlicerLib.volume import BoolArray, Volume
from P2SAMSlicerLib.volume_file import read_volume
from scipy import ndimage
from scipy.spatial.transform import Rotation
from textured_phantom import Body, Motion, grid_around, scan, voxel_points

Points = NDArray[np.float64]

BODY = Body()
PRIOR, LESION = scan(BODY, grid_around())


def mapped(transform: sitk.Transform, points: Points) -> Points:
    return np.array([transform.TransformPoint(point.tolist()) for point in points])


def errors_of(transform: sitk.Transform, motion: Motion, followup: Volume, lesion: BoolArray) -> tuple[float, float]:
    """Largest error in mm on and 30 mm around the lesion, and the error of the rotation in degrees."""
    points = voxel_points(followup.grid)[lesion.ravel()]
    centre = points.mean(axis=0)
    points = np.concatenate([points[::20], centre + 30 * np.eye(3), centre - 30 * np.eye(3)])
    found = np.stack([mapped(transform, centre[None] + axis)[0] - mapped(transform, centre[None])[0] for axis in np.eye(3)], 1)
    true = Rotation.from_euler("xyz", motion.degrees, degrees=True).as_matrix()
    angle = np.degrees(np.arccos(np.clip((np.trace(found @ true.T) - 1) / 2, -1, 1)))
    return float(np.linalg.norm(mapped(transform, points) - motion(points), axis=1).max()), float(angle)


MOTIONS = {
    "nothing moved": (Motion(), grid_around()),
    "usual set-up error, other voxels": (Motion((2, -1.5, 3), (5, -4, 6)), grid_around(spacing=(2.6, 2.6, 3.2))),
    "large set-up error": (Motion((6, -5, 8), (15, -12, 10)), grid_around(half_mm=96.0)),
    "60 mm along the slices, longer scan": (Motion((0, 0, 2), (3, 2, 60)), grid_around(-40, 180, half_mm=84.0)),
    "scan of a part 30 mm higher": (Motion((1, 1, 0), (2, 1, 0)), grid_around(30, 105, half_mm=84.0)),
    "another table height and zero": (Motion((1, 0, 0), (0, 130, -300)), Grid((35, 52, 52), (3.0, 3.0, 3.0), (-78, -208, 249))),
}


@pytest.mark.parametrize("name", list(MOTIONS))
def test_a_known_rigid_motion_is_found_within_a_millimetre_and_a_degree(name: str) -> None:
    motion, grid = MOTIONS[name]
    followup, lesion = scan(BODY, grid, motion, 2)
    found = register(PRIOR, followup, LESION)
    millimetres, degrees = errors_of(found.transform, motion, followup, lesion)
    assert millimetres < 1.0
    assert degrees < 1.0
    scores = [score for _, score in found.starts]
    assert scores == sorted(scores, reverse=True)
    assert len(scores) >= 5


def test_a_lesion_that_went_away_does_not_mislead() -> None:
    motion = Motion((1, -1, 2), (4, -3, 5))
    followup, lesion = scan(BODY, grid_around(), motion, 2)
    gone, _ = scan(Body(lesion_at=(500.0, 0.0, 0.0)), grid_around(), motion, 2)
    found = register(PRIOR, gone, LESION)
    millimetres, degrees = errors_of(found.transform, motion, followup, lesion)
    assert millimetres < 1.0
    assert degrees < 1.0


def test_padding_and_metal_do_not_steer() -> None:
    motion = Motion((1, -1, 2), (4, -3, 5))
    followup, lesion = scan(BODY, grid_around(), motion, 2)
    values = followup.array.copy()
    values[:, :4, :] = -32768
    values[10:14, 20:24, 30:33] = 20000
    found = register(PRIOR, Volume(values, followup.grid), LESION)
    assert errors_of(found.transform, motion, followup, lesion)[0] < 1.0


def test_the_same_visits_give_the_same_transform() -> None:
    """To a ten-thousandth of a millimetre: threads add up in any order."""
    followup, _ = scan(BODY, grid_around(), Motion((2, 0, 1), (4, 2, 6)), 2)
    first, second = (register(PRIOR, followup, LESION).transform.GetParameters() for _ in range(2))
    np.testing.assert_allclose(first, second, atol=1e-4)


def test_the_body_is_found_once_in_an_image_however_many_starts_and_steps_need_it(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[int, ...]] = []

    def counted(image: sitk.Image, *name: str) -> sitk.Image:
        sizes.append(image.GetSize())
        return body_mask(image, *name)

    monkeypatch.setattr(registration, "body_mask", counted)
    register(PRIOR, scan(BODY, grid_around(half_mm=90.0), Motion((1, 0, 0), (2, 1, 0)), 2)[0], LESION)
    assert len(sizes) == len(set(sizes)) == 4  # coarse ones of both visits, two finer ones of the follow-up


def test_without_registration_the_transform_is_the_identity_whatever_the_images() -> None:
    empty = Volume(np.full(PRIOR.grid.shape, -1000, np.int16), PRIOR.grid)
    found = register(PRIOR, empty, LESION, "none")
    points = np.array([[0.0, 0.0, 0.0], [123.4, -56.7, 890.1]])
    np.testing.assert_array_equal(mapped(found.transform, points), points)
    assert found.kind == "none"
    assert found.starts == ()


@pytest.mark.parametrize("empty", ["prior", "follow-up"])
def test_a_ct_without_a_body_is_refused_in_one_line_that_says_which(empty: str) -> None:
    air = Volume(np.full(PRIOR.grid.shape, -1000, np.int16), PRIOR.grid, "air")
    with pytest.raises(InputError, match="no body") as caught:
        register(air if empty == "prior" else PRIOR, air if empty == "follow-up" else PRIOR, LESION)
    assert str(caught.value) == f"the {empty} CT 'air' shows no body (nothing above -400 HU)"


def test_each_step_is_announced_once_and_in_order() -> None:
    steps: list[str] = []
    register(PRIOR, PRIOR, LESION, "deformable", steps.append)
    assert steps == ["rigid start", "rigid refinement", "rigid around the lesion", "deformable around the lesion"]


@pytest.mark.parametrize("kind", ["rigid", "deformable"])
@pytest.mark.parametrize("slices", [1, 2, 4])
def test_a_scan_of_a_few_slices_is_registered(kind: str, slices: int) -> None:
    thin, lesion = scan(BODY, grid_around(6.0, 3.0 * slices))
    assert lesion.any()
    found = register(thin, thin, lesion, kind)  # type: ignore[arg-type]
    points = voxel_points(thin.grid)[lesion.ravel()]
    assert np.abs(mapped(found.transform, points) - points).max() < 1.0


def test_a_nodule_that_left_nothing_but_lung_is_registered() -> None:
    """Around where it was, nothing is above the body's threshold."""
    z, y, x = ((np.arange(n) - (n - 1) / 2) * 3.0 for n in (40, 80, 80))
    radius = np.hypot(y[None, :, None], x[None, None, :]) + 0 * z[:, None, None]
    nodule = (z[:, None, None] ** 2 + y[:, None] ** 2 + x**2) < 8**2
    lung = np.where(radius < 90, -850, np.where(radius < 112, 40, -1000)).astype(np.int16)
    grid = Grid(lung.shape, (3.0, 3.0, 3.0))
    found = register(Volume(np.where(nodule, 30, lung).astype(np.int16), grid), Volume(lung, grid), nodule)
    assert np.isfinite(found.transform.GetParameters()).all()


# --------------------------------------------------------------------------------------------------------- deformable


@dataclass(frozen=True)
class Warped:
    """A follow-up on which tissue moved, where its voxels lay on the prior, and what the registration made of it."""

    followup: Volume
    truth: Points
    found: Registration


@pytest.fixture(scope="module")
def warped() -> Warped:
    """The body, breathing: tissue near the lesion lies up to 5 mm to one side."""
    grid = grid_around(spacing=(2.5, 2.5, 3.0))
    points = voxel_points(grid)
    centre = np.array(BODY.lesion_at)
    push = 5.0 * np.exp(-((points - centre) ** 2).sum(axis=1) / (2 * 22.0**2))
    moved = points + push[:, None] * np.array([0.8, 0.6, 0.0])
    hu = BODY.hu(moved) + np.random.default_rng(3).normal(0, 8, len(points))
    followup = Volume(hu.astype(np.int16).reshape(grid.shape), grid)
    return Warped(followup, moved, register(PRIOR, followup, LESION, "deformable"))


def test_the_deformable_step_lowers_the_residual_and_the_error(warped: Warped) -> None:
    followup, truth = warped.followup, warped.truth
    points = voxel_points(followup.grid)
    near = np.linalg.norm(points - np.array(BODY.lesion_at), axis=1) < 25
    fixed, moving = to_image(followup), to_image(PRIOR)
    residual, error = [], []
    for transform in (warped.found.rigid, warped.found.transform):
        difference = sitk.GetArrayFromImage(sitk.Resample(moving, fixed, transform, sitk.sitkLinear, -1000.0)).ravel()
        residual.append(np.abs(difference - followup.array.ravel())[near].mean())
        error.append(np.linalg.norm(mapped(transform, points[near][::50]) - truth[near][::50], axis=1).mean())
    assert residual[1] < 0.9 * residual[0]
    assert error[1] < 0.75 * error[0]


def test_the_deformable_step_moves_nothing_far_from_the_lesion(warped: Warped) -> None:
    far = np.array([[-60.0, 30.0, -48.0], [-65.0, -30.0, 50.0], [400.0, 0.0, 0.0]])
    np.testing.assert_allclose(mapped(warped.found.transform, far), mapped(warped.found.rigid, far), atol=1e-9)


# ----------------------------------------------------------------------------------------------------------- real pair


@pytest.mark.slow
def test_on_a_real_lung_pair_landmarks_come_nearer_with_each_step(shared_data: Path) -> None:
    folder = shared_data / "registration" / "elastix_lung"
    if not folder.is_dir():
        pytest.skip("the shared data has no registration/elastix_lung")
    prior, followup = read_volume(folder / "baseline_small.nii.gz"), read_volume(folder / "followup_reconstructed.nii.gz")
    on_prior = np.loadtxt(folder / "landmarks_baseline_xyz_mm.txt")
    on_followup = np.loadtxt(folder / "landmarks_followup_xyz_mm.txt")
    index = np.rint(prior.grid.to_index(on_prior)).astype(int)[:, ::-1]
    around = np.zeros(prior.grid.shape, dtype=bool)
    around[tuple(slice(low, high + 1) for low, high in zip(index.min(0), index.max(0), strict=True))] = True
    before = np.linalg.norm(on_followup - on_prior, axis=1).mean()
    deformable = register(prior, followup, around, "deformable")
    rigid, final = (
        np.linalg.norm(mapped(t, on_followup) - on_prior, axis=1).mean() for t in (deformable.rigid, deformable.transform)
    )
    assert rigid < 0.3 * before
    assert final < 0.95 * rigid


# ------------------------------------------------------------------------------------------------------ working frame


def test_a_transform_in_the_working_frame_maps_the_same_places() -> None:
    lps = sitk.Euler3DTransform((1.0, 2.0, 3.0), 0.1, -0.2, 0.3, (4.0, 5.0, -6.0))
    turn = Rotation.from_euler("zyx", [90, 20, -35], degrees=True).as_matrix()
    origin = np.array([100.0, -50.0, 800.0])
    moved = in_working_frame(Registration(lps, lps, "file"), turn, origin)
    work = np.random.default_rng(0).normal(0, 100, (10, 3))
    expected = (mapped(lps, work @ turn.T + origin) - origin) @ turn
    np.testing.assert_allclose(mapped(moved.transform, work), expected, atol=1e-9)
    assert moved.kind == "file"


# ------------------------------------------------------------------------------------------------------ carrying masks


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 0.9, 3.3)])
def test_the_identity_reproduces_every_mask_exactly(spacing: tuple[float, float, float]) -> None:
    rng = np.random.default_rng(0)
    blobs = ndimage.gaussian_filter(rng.normal(size=(9, 20, 30)), 1.5) > 0.1
    corner, line, full = np.zeros_like(blobs), np.zeros_like(blobs), np.ones_like(blobs)
    corner[0, 0, 0] = corner[-1, -1, -1] = True
    line[4, :, 7] = True
    oblique = tuple(Rotation.from_euler("zyx", [25, -15, 10], degrees=True).as_matrix().ravel().tolist())
    for direction in ((1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0), oblique):
        grid = Grid(blobs.shape, spacing, (12.0, -34.0, 56.0), direction)
        for mask in (blobs, rng.random(blobs.shape) < 0.3, corner, line, full):
            np.testing.assert_array_equal(carry_distance(mask, grid, grid, sitk.Euler3DTransform()) >= 0, mask)


def test_a_shift_by_whole_voxels_shifts_the_mask() -> None:
    mask = np.zeros((10, 30, 30), dtype=bool)
    mask[3:6, 10:15, 12:20] = True
    grid = Grid(mask.shape, (2.0, 1.0, 3.0))
    # Follow-up points lie 4 mm to the right, 2 mm up and 3 mm along of their prior points.
    shift = sitk.TranslationTransform(3, (-4.0, 2.0, -3.0))
    carried = carry_distance(mask, grid, grid, shift) >= 0
    np.testing.assert_array_equal(carried, np.roll(mask, (1, -2, 2), axis=(0, 1, 2)))


def test_a_ball_keeps_its_volume_and_place_on_another_grid() -> None:
    grid, onto = Grid((40, 60, 60), (1.0, 1.0, 2.0)), Grid((60, 70, 65), (0.8, 0.9, 1.3), (3.0, 1.0, 0.5))
    points = voxel_points(grid)
    mask = (np.linalg.norm(points - np.array([30.0, 30.0, 40.0]), axis=1) < 15).reshape(grid.shape)
    carried = carry_distance(mask, grid, onto, sitk.Euler3DTransform()) >= 0
    assert carried.sum() * onto.voxel_ml == pytest.approx(mask.sum() * grid.voxel_ml, rel=0.04)
    np.testing.assert_allclose(voxel_points(onto)[carried.ravel()].mean(axis=0), [30, 30, 40], atol=0.3)


def test_a_mask_carried_out_of_view_leaves_nothing() -> None:
    mask = np.zeros((10, 30, 30), dtype=bool)
    mask[3:6, 10:15, 12:20] = True
    grid = Grid(mask.shape)
    away = sitk.TranslationTransform(3, (500.0, 0.0, 0.0))
    assert (carry_distance(mask, grid, grid, away) <= -100).all()


def test_signed_distance_is_zero_half_way_between_inside_and_outside() -> None:
    mask = np.zeros((1, 1, 10), dtype=bool)
    mask[..., 5:] = True
    distance = signed_distance(mask, (3.0, 1.0, 0.5))[0, 0]
    assert distance[4] == -distance[5] == -0.5
    assert distance[0] == -2.5


# -------------------------------------------------------------------------------------------------------- small pieces


def test_the_body_is_the_patient_with_lungs_and_without_the_table() -> None:
    array = np.full((6, 60, 60), -1000, dtype=np.int16)
    array[:, 10:40, 10:50] = 30
    array[:, 15:30, 15:25] = -800  # a lung
    array[:, 50:55, 5:55] = 100  # the table
    body = sitk.GetArrayFromImage(body_mask(to_image(Volume(array, Grid(array.shape))))) > 0
    assert body[:, 15:30, 15:25].all()
    assert not body[:, 45:].any()
    assert body.sum() == pytest.approx(6 * 30 * 40, rel=0.02)


def test_similarity_is_1_for_equal_images_and_minus_1_without_overlap() -> None:
    image = to_image(PRIOR)
    mask = body_mask(image)
    assert similarity(image, image, mask, sitk.Euler3DTransform()) == pytest.approx(1.0, abs=1e-6)
    assert similarity(image, image, mask, sitk.TranslationTransform(3, (0.0, 0.0, 95.0))) == -1.0
    assert similarity(image, image, mask, sitk.TranslationTransform(3, (0.0, 20.0, 30.0))) < 0.6


def test_resampling_keeps_places_and_never_makes_finer_voxels() -> None:
    grid = replace(grid_around(spacing=(1.0, 1.0, 5.0), half_mm=40.0), origin=(7.0, -3.0, 200.0))
    ramp = np.broadcast_to(np.arange(grid.shape[2], dtype=np.float32), grid.shape).copy()
    coarse = resample_to_spacing(array_to_image(ramp, grid), 3.0)
    assert coarse.GetSpacing() == (3.0, 3.0, 5.0)
    values = sitk.GetArrayFromImage(coarse)[2, 5]
    np.testing.assert_allclose(values[2:-3], np.arange(len(values))[2:-3] * 3.0, atol=0.05)


@pytest.mark.parametrize("spacing", [(0.7, 0.9, 3.0), (1.0, 1.0, 1.0), (2.5, 0.6, 5.0)])
@pytest.mark.parametrize("wanted", [2.0, 4.0])
def test_thinning_axis_by_axis_is_smoothing_and_thinning_all_axes_at_once(
    spacing: tuple[float, float, float], wanted: float
) -> None:
    grid = replace(grid_around(spacing=spacing, half_mm=20.0), origin=(7.0, -3.0, 200.0))
    image = array_to_image(np.random.default_rng(0).normal(0.0, 300.0, grid.shape).astype(np.float32), grid)
    coarse = [max(wanted, each) for each in spacing]
    sigma = [0.4 * new if new > 1.05 * old else 1e-3 for new, old in zip(coarse, spacing, strict=True)]
    size = [int(np.ceil(n * old / new)) for n, old, new in zip(image.GetSize(), spacing, coarse, strict=True)]
    frame = image.GetOrigin(), coarse, image.GetDirection()
    smooth = sitk.SmoothingRecursiveGaussian(image, sigma)
    expected = sitk.Resample(smooth, size, sitk.Transform(), sitk.sitkLinear, *frame, -1024.0)
    found = resample_to_spacing(image, wanted)
    assert (found.GetSize(), found.GetSpacing(), found.GetOrigin()) == (tuple(size), tuple(coarse), image.GetOrigin())
    np.testing.assert_allclose(sitk.GetArrayFromImage(found), sitk.GetArrayFromImage(expected), atol=2e-3)


@pytest.mark.parametrize("kind", [np.int16, np.int32, np.int64, np.float32, np.float64])
def test_an_image_has_the_clipped_values_whatever_type_the_volume_is_stored_in(kind: type[np.generic]) -> None:
    values = np.linspace(-5000.0, 9000.0, 4 * 5 * 6).reshape(4, 5, 6).astype(kind)
    image = to_image(Volume(values, Grid((4, 5, 6))))
    assert image.GetPixelID() == sitk.sitkFloat32
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), np.clip(values, -1024, 3071).astype(np.float32))


def test_volumes_of_few_slices_are_smoothed_in_their_plane_and_a_level_of_their_own_voxel_size_is_the_volume_itself() -> None:
    rng = np.random.default_rng(0)
    for slices in (1, 3):
        values = rng.normal(0.0, 300.0, (slices, 40, 40)).astype(np.float32)
        image = array_to_image(values, Grid(values.shape, (1.0, 1.0, 1.0)))
        thin = resample_to_spacing(image, 4.0)
        assert thin.GetSize() == (10, 10, max(1, int(np.ceil(slices / 4))))
        assert sitk.GetArrayFromImage(thin).std() < 0.5 * values.std()
        same = resample_to_spacing(image, 1.0)
        np.testing.assert_array_equal(sitk.GetArrayFromImage(same), values)


def test_every_level_is_made_once_and_from_the_volume() -> None:
    image = to_image(PRIOR)
    pyramid = Pyramid(image, (4.0, 8.0, 4.0))
    for spacing in (4.0, 8.0):
        expected = sitk.GetArrayFromImage(resample_to_spacing(image, spacing))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(pyramid.at(spacing)), expected)
    assert list(pyramid._levels) == [4.0, 8.0]
