"""A tilted or unevenly spaced stack is refused, or brought to a straight, even grid where the caller asks for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from ct_files import AXIAL, SECRETS, make_slice, save
from numpy.typing import NDArray
from P2SAMSlicerLib.dicom.ct_reference import CtSeries
from P2SAMSlicerLib.dicom.pixels import PADDING_HU
from P2SAMSlicerLib.dicom.series import dicom_ct_of, read_ct_series, read_dicom_series
from P2SAMSlicerLib.errors import InputError
from pydicom.dataset import FileDataset

ROWS, COLUMNS = 30, 24
SPACING_X, SPACING_Y = 0.9, 0.7


def field(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """HU at LPS points: linear, so that linear interpolation has to give it exactly."""
    values: NDArray[np.float64] = points @ np.array([3.0, -2.0, 5.0]) + 100.0
    return values


def slices_at(positions: list[list[float]], orientation: tuple[float, ...] = AXIAL, **tags: Any) -> list[FileDataset]:
    """Slices of the field."""
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    y, x = np.indices((ROWS, COLUMNS)).astype(float)
    made = []
    for number, position in enumerate(positions, 1):
        points = np.array(position) + x[..., None] * SPACING_X * row + y[..., None] * SPACING_Y * column
        stored = np.rint(field(points) * 10 + 20000).astype(np.uint16)
        tags = {"RescaleSlope": 0.1, "RescaleIntercept": -2000, **tags}
        made.append(
            make_slice(
                stored, np.array(position), number, ImageOrientationPatient=list(orientation), SliceThickness=None, **tags
            )
        )
    return made


def tilted(degrees: float, count: int = 6, step: float = 2.5) -> list[FileDataset]:
    """Slices of a gantry that leans towards or away from the feet, on a table that moves along z."""
    angle = np.radians(degrees)
    orientation = (1.0, 0.0, 0.0, 0.0, float(np.cos(angle)), float(-np.sin(angle)))
    return slices_at([[-10.0, 40.0, 7.0 + step * k] for k in range(count)], orientation)


def at_heights(*heights: float) -> list[FileDataset]:
    return slices_at([[-10.0, 40.0, height] for height in heights])


def resampled(folder: Path, slices: list[FileDataset]) -> CtSeries:
    found = read_ct_series(sorted(save(folder, slices).iterdir()), "visit_1", resample=True)
    assert found.reference.resampled
    assert any(warning.startswith("resampled to a straight, even grid: ") for warning in found.volume.warnings)
    return found


def refusal(folder: Path, slices: list[FileDataset], *, resample: bool = False) -> str:
    with pytest.raises(InputError) as raised:
        read_ct_series(sorted(save(folder, slices).iterdir()), "visit_1", resample=resample)
    message = str(raised.value)
    assert not [secret for secret in (*SECRETS, ".dcm") if secret in message]
    return message


def errors(found: CtSeries) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Difference to the field at every voxel, and where all values that it was made of were imaged."""
    grid, array = found.volume.grid, found.volume.array
    z, y, x = np.indices(grid.shape).reshape(3, -1)
    points = grid.to_physical(np.stack([x, y, z], axis=1).astype(float))
    difference = (array.ravel() - field(points)).reshape(grid.shape)
    return difference, np.abs(difference) < 1


@pytest.mark.parametrize("degrees", [2.0, 14.0, -20.0, 30.0])
def test_a_tilted_stack_keeps_every_value_where_it_was_imaged(tmp_path: Path, degrees: float) -> None:
    slices = tilted(degrees)
    assert "gantry tilt" in refusal(tmp_path / "refused", slices)
    found = resampled(tmp_path / "s", slices)
    difference, inside = errors(found)
    # Values are stored to a tenth of a HU.
    assert np.abs(difference[inside]).max() < 0.11
    # All of each slice is there, but for the half pixel at its edge that is mixed with what was not imaged.
    assert (inside.sum(axis=(1, 2)) >= (ROWS - 2) * (COLUMNS - 1)).all()
    assert found.volume.array.min() == PADDING_HU


@pytest.mark.parametrize("degrees", [14.0, -20.0])
def test_the_planes_of_a_tilted_stack_stay_those_of_its_stored_slices(tmp_path: Path, degrees: float) -> None:
    slices = tilted(degrees)
    found = resampled(tmp_path / "s", slices)
    assert len(found.reference.slices) == found.volume.grid.shape[0] == 6
    normal = found.volume.grid.direction_matrix[:, 2]
    for k, each in enumerate(found.reference.slices):
        (start,) = found.volume.grid.to_physical(np.array([[0.0, 0.0, k]]))
        assert (np.array(each.position) - start) @ normal == pytest.approx(0, abs=1e-6)
    orientation = np.array([float(value) for value in slices[0].ImageOrientationPatient])
    np.testing.assert_allclose(found.volume.grid.direction_matrix[:, :2].T.ravel(), orientation, atol=1e-9)


@pytest.mark.parametrize(
    "heights",
    [
        pytest.param([0, 1.25, 2.5, 3.75, 6.25, 8.75, 11.25, 13.75], id="blocks of 1.25 and 2.5 mm"),
        pytest.param([0, 3, 6, 9, 12, 13, 14, 15, 16, 19, 22, 25], id="thin slices between thick ones"),
        pytest.param([0, 2.5, 5.4, 7.5, 10], id="one slice a little off"),
        pytest.param([0.0005 * k * k + 2.5 * k for k in range(40)], id="a spacing that creeps"),
    ],
)
def test_uneven_spacing_becomes_even_at_the_smallest_distance(tmp_path: Path, heights: list[float]) -> None:
    assert "not evenly spaced" in refusal(tmp_path / "refused", at_heights(*heights))
    found = resampled(tmp_path / "s", at_heights(*heights))
    difference, _ = errors(found)
    assert np.abs(difference).max() < 0.11
    grid = found.volume.grid
    assert grid.spacing[2] == pytest.approx(np.diff(heights).min(), rel=0.1)
    assert grid.spacing[2] * (grid.shape[0] - 1) == pytest.approx(heights[-1])
    assert len(found.reference.slices) == len(heights)


def test_a_stack_that_leans_and_is_uneven_is_straightened_at_once(tmp_path: Path) -> None:
    angle = np.radians(12)
    orientation = (1.0, 0.0, 0.0, 0.0, float(np.cos(angle)), float(-np.sin(angle)))
    heights = [0, 1.5, 3, 4.5, 7.5, 10.5, 13.5]
    difference, inside = errors(
        resampled(tmp_path / "s", slices_at([[-10.0, 40.0, height] for height in heights], orientation))
    )
    assert np.abs(difference[inside]).max() < 0.11
    assert inside.mean() > 0.8


HOPELESS = {
    "a missing slice": ([0, 2.5, 5, 10, 12.5], "slices are missing"),
    "two missing slices beside each other": ([0, 2.5, 5, 7.5, 15, 17.5, 20, 22.5], "slices are missing"),
    "a missing slice between two blocks": ([0, 1, 2, 3, 4, 8, 10, 12, 14], "slices are missing"),
    "a gap where thick slices begin is as long as five thin ones": ([0, 1, 2, 3, 8, 13, 18], "slices are missing"),
    "a doubled slice": ([0, 2.5, 5, 5, 7.5], "same position"),
    "slices nearly at the same place": ([0, 2.5, 2.6, 5, 7.5], "not evenly spaced"),
}


@pytest.mark.parametrize(("heights", "words"), HOPELESS.values(), ids=HOPELESS.keys())
def test_what_lacks_tissue_or_has_it_twice_is_refused_even_when_resampling_is_asked_for(
    tmp_path: Path, heights: list[float], words: str
) -> None:
    message = refusal(tmp_path / "s", at_heights(*heights), resample=True)
    assert words in message
    assert "--resample" not in message


def test_a_slice_beside_the_stack_or_a_stack_that_lies_down_is_refused_even_then(tmp_path: Path) -> None:
    beside = at_heights(0, 2.5, 5, 7.5, 10)
    beside[2].ImagePositionPatient[0] += 3
    assert "beside the stack" in refusal(tmp_path / "a", beside, resample=True)
    assert "60.0 degrees to their normal" in refusal(tmp_path / "b", tilted(60), resample=True)
    missing = tilted(14)
    del missing[2]
    message = refusal(tmp_path / "c", missing, resample=True)
    assert "missing" in message
    assert "gantry tilt" in message


def test_an_even_stack_is_not_touched_when_resampling_is_allowed(tmp_path: Path) -> None:
    folder = save(tmp_path / "s", at_heights(0, 2.5, 5, 7.5))
    plain, allowed = dicom_ct_of(folder), dicom_ct_of(folder, resample=True)
    np.testing.assert_array_equal(plain.volume.array, allowed.volume.array)
    assert plain.volume.grid == allowed.volume.grid
    assert not allowed.reference.resampled
    assert allowed.volume.warnings == plain.volume.warnings == ()


def test_whole_numbers_stay_whole_numbers(tmp_path: Path) -> None:
    slices = tilted(14)
    for each in slices:
        each.RescaleSlope, each.RescaleIntercept = 1, -20000
    assert resampled(tmp_path / "s", slices).volume.array.dtype == np.int16


def test_a_real_tilted_head_is_straightened_within_its_planes(shared_data: Path) -> None:
    folder = shared_data / "dicom" / "tilt_ct_4slices"
    with pytest.raises(InputError, match=r"14\.0 degrees.*dicom convert --resample"):
        read_dicom_series(folder)
    found = dicom_ct_of(folder, resample=True)
    assert found.volume.grid.shape[0] == 4
    assert found.volume.grid.spacing[2] == pytest.approx(5 * np.cos(np.radians(14)), abs=1e-3)
    grid = found.volume.grid
    by_uid = {stored.SOPInstanceUID: stored for stored in map(pydicom.dcmread, folder.iterdir())}
    for each in found.reference.slices:
        stored = by_uid[each.sop_instance_uid]
        hu = stored.pixel_array * float(stored.RescaleSlope) + float(stored.RescaleIntercept)
        (start,) = grid.to_index(np.array([each.position]))
        x, z = np.rint(start[[0, 2]]).astype(int)
        assert start == pytest.approx([x, start[1], z], abs=1e-3)
        y = int(np.floor(start[1]))
        share = start[1] - y
        expected = (1 - share) * hu[1:] + share * hu[:-1]
        moved = found.volume.array[z, y + 1 : y + 512, x : x + 512]
        np.testing.assert_allclose(moved, expected.clip(-1024), atol=1)
