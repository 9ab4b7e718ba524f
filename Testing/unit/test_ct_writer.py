"""A simulated CT as DICOM slices."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import pydicom
import pytest
from P2SAMSlicerLib.dicom.ct_writer import WrittenPatient, write_ct_series
from P2SAMSlicerLib.dicom.series import read_dicom_series
from P2SAMSlicerLib.errors import InputError, OutputError
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.volume import Volume

PATIENT = WrittenPatient("TRIAL-1", "Trial^Jürgen")
OBLIQUE = (0.8, 0.6, 0.0, -0.6, 0.8, 0.0, 0.0, 0.0, 1.0)


def noise(direction: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)) -> Volume:
    values = np.random.default_rng(0).integers(-1024, 3072, (5, 12, 17)).astype(np.int16)
    return Volume(values, Grid((5, 12, 17), (0.9765625, 1.1, 2.5), (-101.123456, 33.3, 7.75), direction), "ct")


@pytest.mark.parametrize("direction", [noise().grid.direction, OBLIQUE])
def test_what_is_written_is_read_back_voxel_for_voxel_and_at_the_same_place(
    tmp_path: Path, direction: tuple[float, ...]
) -> None:
    volume = noise(direction)
    write_ct_series(tmp_path / "ct", volume, PATIENT, date(2024, 2, 29), "simulated")
    again = read_dicom_series(tmp_path / "ct")
    np.testing.assert_array_equal(again.array, volume.array)
    np.testing.assert_allclose(again.grid.corners(), volume.grid.corners(), atol=1e-6)
    assert again.identity.patient_id == "TRIAL-1"
    assert again.identity.acquired is not None
    assert again.identity.acquired.startswith("20240229")


def test_every_slice_says_that_it_is_no_scan_and_the_reference_names_all_of_them(tmp_path: Path) -> None:
    reference = write_ct_series(tmp_path / "ct", noise(), PATIENT, date(2024, 1, 1), "simulated")
    slices = [pydicom.dcmread(path) for path in sorted((tmp_path / "ct").iterdir())]
    assert [each.sop_instance_uid for each in reference.slices] == [str(each.SOPInstanceUID) for each in slices]
    assert all(each.ImageType[0] == "DERIVED" and "simulated" in each.DerivationDescription for each in slices)
    assert {str(each.SeriesInstanceUID) for each in slices} == {reference.series_uid}
    assert "PixelData" not in reference.header
    assert str(slices[0].PatientName) == "Trial^Jürgen"


@pytest.mark.filterwarnings("error")
def test_what_arithmetic_leaves_of_a_zero_fits_into_a_decimal_string(tmp_path: Path) -> None:
    grid = Grid((3, 4, 4), (0.9, 0.9, 0.1), (-5.6843418860808e-14, 0.0, -0.30000000000000004), noise().grid.direction)
    write_ct_series(tmp_path / "ct", Volume(np.zeros(grid.shape, np.int16), grid, "ct"), PATIENT, date(2024, 1, 1))
    assert read_dicom_series(tmp_path / "ct").grid.origin == pytest.approx((0.0, 0.0, -0.3))


def test_two_series_share_no_identifier(tmp_path: Path) -> None:
    first = write_ct_series(tmp_path / "a", noise(), PATIENT, date(2024, 1, 1), "simulated")
    second = write_ct_series(tmp_path / "b", noise(), PATIENT, date(2024, 1, 1), "simulated")
    assert first.study_uid != second.study_uid
    assert first.series_uid != second.series_uid
    assert first.frame_of_reference_uid != second.frame_of_reference_uid


@pytest.mark.parametrize("value", [-1025, 70000])
def test_values_that_a_ct_cannot_store_are_refused(tmp_path: Path, value: int) -> None:
    volume = noise()
    array = volume.array.astype(np.int32)
    array[0, 0, 0] = value
    with pytest.raises(InputError, match="cannot store"):
        write_ct_series(tmp_path / "ct", Volume(array, volume.grid, "ct"), PATIENT, date(2024, 1, 1), "simulated")
    assert not (tmp_path / "ct").exists()


def test_a_folder_that_cannot_be_made_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError):
        write_ct_series(tmp_path / "file" / "ct", noise(), PATIENT, date(2024, 1, 1), "simulated")


def test_a_validator_of_dicom_finds_no_error(tmp_path: Path, tool: Callable[[str], str]) -> None:
    write_ct_series(tmp_path / "ct", noise(OBLIQUE), PATIENT, date(2024, 1, 1), "simulated")
    for path in sorted((tmp_path / "ct").iterdir()):
        said = subprocess.run([tool("dciodvfy"), str(path)], capture_output=True, text=True, check=False)
        assert "Error" not in said.stdout + said.stderr
        assert "CTImage" in said.stdout + said.stderr
