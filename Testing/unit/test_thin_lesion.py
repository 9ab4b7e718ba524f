"""A lesion between the follow-up's voxel centres keeps a registered contour where it lies."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.registration import carry_distance
from P2SAMSlicerLib.thin_lesion import touched_voxels
from P2SAMSlicerLib.volume import BoolArray
from scipy.spatial.transform import Rotation

PRIOR = Grid((40, 40, 40), (1.0, 1.0, 1.0))
#: Slices at z = 0, 6, 12, ... mm, each 6 mm thick.
FOLLOWUP = Grid((7, 20, 20), (2.0, 2.0, 6.0), (0.5, 0.5, 0.0))


def lesion(z: slice, y: slice = slice(10, 16), x: slice = slice(20, 30)) -> BoolArray:
    mask = np.zeros(PRIOR.shape, dtype=np.bool_)
    mask[z, y, x] = True
    return mask


def touched(mask: BoolArray, onto: Grid = FOLLOWUP, transform: sitk.Transform | None = None) -> NDArray[np.bool_]:
    transform = transform or sitk.Euler3DTransform()
    distance = carry_distance(mask, PRIOR, onto, transform)
    assert (distance < 0).all(), "the lesion holds no voxel's centre"
    return touched_voxels(mask, PRIOR, onto, transform, distance)


@pytest.mark.parametrize(("z", "slices"), [(slice(13, 14), [2]), (slice(16, 17), [3]), (slice(14, 17), [2, 3])])
def test_a_plate_between_two_slices_marks_the_slices_that_it_lies_in(z: slice, slices: list[int]) -> None:
    result = touched(lesion(z))
    assert np.flatnonzero(result.any(axis=(1, 2))).tolist() == slices
    # Voxels 5 to 7 and 10 to 14 hold it in the plane: 2 mm each, the first from -0.5 mm on.
    rows, columns = (np.flatnonzero(result.any(axis=axes)).tolist() for axes in ((0, 2), (0, 1)))
    assert (rows, columns) == ([5, 6, 7], [10, 11, 12, 13, 14])


def test_a_single_voxel_of_the_prior_marks_the_one_that_holds_it() -> None:
    result = touched(lesion(slice(14, 15), slice(11, 12), slice(21, 22)), transform=sitk.Euler3DTransform())
    assert np.argwhere(result).tolist() == [[2, 5, 10]]


def test_it_is_marked_where_the_transform_puts_it_on_a_turned_grid() -> None:
    matrix = Rotation.from_euler("zyx", [25, 10, -15], degrees=True).as_matrix()
    turned = Grid(FOLLOWUP.shape, FOLLOWUP.spacing, (3.0, -8.0, 4.0), tuple(matrix.ravel().tolist()))
    shift = np.array([2.0, -1.0, 1.5])  # follow-up to prior
    mask = lesion(slice(16, 17), slice(15, 17), slice(20, 22))
    result = touched(mask, turned, sitk.TranslationTransform(3, shift.tolist()))
    centres = turned.to_physical(np.argwhere(result)[:, ::-1].astype(float))
    place = PRIOR.to_physical(np.argwhere(mask)[:, ::-1].astype(float)).mean(axis=0) - shift
    assert np.linalg.norm(centres - place, axis=1).min() <= 0.5 * np.linalg.norm(turned.spacing)
    assert np.linalg.norm(centres - place, axis=1).max() <= np.linalg.norm(turned.spacing)


def test_at_least_the_nearest_voxel_is_marked() -> None:
    # A lesion in a corner between voxels of another scan, too fine for the points that are looked at.
    tiny = Grid((20, 20, 20), (0.5, 0.5, 0.5), (14.2, 14.2, 4.7))
    mask = np.zeros(tiny.shape, dtype=np.bool_)
    mask[10, 10, 10] = True
    coarse = Grid((7, 20, 20), (2.0, 2.0, 40.0), (0.0, 0.0, -10.0))
    identity = sitk.Euler3DTransform()
    distance = carry_distance(mask, tiny, coarse, identity)
    result = touched_voxels(mask, tiny, coarse, identity, distance)
    assert 1 <= result.sum() <= 8
    place = tiny.to_physical(np.array([[10.0, 10.0, 10.0]]))
    index = np.round(coarse.to_index(place)[0]).astype(int)
    assert np.abs(np.argwhere(result)[:, ::-1] - index).max() <= 1
