"""The known motion of a simulated follow-up: its inverse, its values on grids, and motions that tissue cannot make."""

from __future__ import annotations

import numpy as np
import pytest
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.simulation.motion import VisitMotion, draw_motion
from scipy.spatial.transform import Rotation

OBLIQUE = tuple(Rotation.from_euler("zyx", [25, -15, 10], degrees=True).as_matrix().ravel().tolist())
GRID = Grid((30, 70, 80), (1.2, 1.1, 3.0), (12.5, -40.0, 310.0), OBLIQUE)
CENTRE = GRID.to_physical(np.array([[41.0, 30.0, 14.0]]))[0]


def drawn(deform_mm: float, scale_mm: float = 40.0, seed: int = 1) -> VisitMotion:
    return draw_motion(np.random.default_rng(seed), GRID, CENTRE, 3.0, 8.0, deform_mm, scale_mm)


def some_points(n: int = 500) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    index = np.random.default_rng(0).uniform(0, 1, (n, 3)) * (np.array(GRID.shape)[::-1] - 1)
    return np.asarray(GRID.to_physical(index)).reshape(n, 3)


@pytest.mark.parametrize("deform_mm", [0.0, 4.0, 9.0])
def test_the_inverse_of_a_motion_brings_points_back(deform_mm: float) -> None:
    motion, points = drawn(deform_mm), some_points()
    np.testing.assert_allclose(motion(motion.inverse(points)), points, atol=1e-5)
    np.testing.assert_allclose(motion.inverse(motion(points)), points, atol=1e-5)
    assert np.linalg.norm(motion(points) - points, axis=1).max() > 2.0


@pytest.mark.parametrize("deform_mm", [0.0, 5.0])
def test_mapping_a_whole_grid_equals_mapping_its_points(deform_mm: float) -> None:
    motion = drawn(deform_mm)
    # Reaches beyond the prior, where the deformation's lattice ends.
    origin = GRID.to_physical(np.array([[-200.0, -150.0, -90.0]]))[0]
    grid = Grid((9, 12, 13), (23.0, 31.0, 47.0), (origin[0], origin[1], origin[2]), OBLIQUE)
    index = np.argwhere(np.ones(grid.shape, bool))[:, ::-1].astype(float)
    np.testing.assert_allclose(motion.on_grid(grid).reshape(-1, 3), motion(grid.to_physical(index)), atol=1e-8)


def test_the_jacobian_is_one_for_a_rigid_motion_and_agrees_with_volumes_of_small_cubes() -> None:
    np.testing.assert_allclose(drawn(0.0).jacobian(some_points(20)), 1.0, atol=1e-9)
    motion, points = drawn(6.0), some_points(20)
    corners = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    volumes = []
    for point in points:
        mapped = motion(point + (corners - 0.25) * 0.2)
        volumes.append(np.linalg.det(mapped[1:] - mapped[0]) / 0.2**3)
    np.testing.assert_allclose(motion.jacobian(points), volumes, atol=0.02)
    assert np.ptp(volumes) > 0.05


def test_a_deformation_is_as_long_as_asked_and_leaves_the_set_up_error_as_it_was() -> None:
    for seed in range(3):
        moved, rigid = drawn(5.0, seed=seed), drawn(0.0, seed=seed)
        assert (moved.rotation_deg, moved.shift_mm) == (rigid.rotation_deg, rigid.shift_mm)
        lengths = np.linalg.norm(moved(some_points(5000)) - rigid(some_points(5000)), axis=1)
        assert 4.0 < lengths.max() < 5.1


@pytest.mark.parametrize(("deform_mm", "scale_mm"), [(40.0, 40.0), (10.0, 10.0), (500.0, 40.0)])
def test_a_deformation_that_would_fold_tissue_is_refused(deform_mm: float, scale_mm: float) -> None:
    with pytest.raises(InputError, match=r"deform_mm.*fold") as caught:
        drawn(deform_mm, scale_mm)
    assert "\n" not in str(caught.value)
