"""DICOM CT series: right by geometry, or refused in words."""

from __future__ import annotations

import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from ct_files import ORIENTATIONS, PATIENT, hu_array, make_series, make_slice, save
from P2SAMSlicerLib.dicom.series import read_dicom_series
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.volume_file import read_volume
from pydicom.dataset import FileDataset


def refusal(folder: Path) -> str:
    """The one line with which a folder is refused; it may never tell who the patient is."""
    with pytest.raises(InputError) as raised:
        read_dicom_series(folder)
    message = str(raised.value)
    assert message.startswith(f"{folder.name}: ")
    assert "\n" not in message
    for secret in (PATIENT, "Doe", "1.2.3", "2024", str(folder.parent)):
        assert secret not in message
    return message


def test_a_series_gives_its_hu_its_grid_and_its_identity(tmp_path: Path) -> None:
    volume = read_dicom_series(save(tmp_path / "visit 1", make_series()))
    np.testing.assert_array_equal(volume.array, hu_array())
    assert volume.array.dtype == np.int16
    assert volume.array.flags.c_contiguous
    assert volume.grid.spacing == (0.9, 0.7, 2.5)
    assert volume.grid.origin == (-123.5, 40.25, 7.0)
    np.testing.assert_allclose(volume.grid.direction_matrix, np.eye(3), atol=1e-12)
    assert volume.name == "visit 1"
    assert volume.identity.patient_id == PATIENT
    assert volume.identity.acquired == "20240229101530"
    assert volume.warnings == ()


@pytest.mark.parametrize("orientation", ORIENTATIONS.values(), ids=ORIENTATIONS.keys())
@pytest.mark.parametrize("reverse", [False, True], ids=["up", "down"])
def test_every_voxel_lies_where_its_own_slice_says_whatever_the_names_and_numbers(
    tmp_path: Path, orientation: tuple[float, ...], reverse: bool
) -> None:
    slices = make_series(orientation)
    expected = {}
    for dataset in slices:
        row, column = np.array(orientation[:3]), np.array(orientation[3:])
        for y, x in np.ndindex(7, 6):
            point = np.array(dataset.ImagePositionPatient, float) + x * 0.9 * row + y * 0.7 * column
            expected[int(dataset.pixel_array[y, x]) - 1024] = point
    numbers = random.Random(3).sample(range(90), len(slices))
    for dataset, number in zip(slices, numbers, strict=True):
        dataset.InstanceNumber = number
    names = [f"{chr(ord('a') + i)}.dcm" for i in range(len(slices))]
    volume = read_dicom_series(save(tmp_path / "s", slices, names[::-1] if reverse else names))
    z, y, x = np.indices(volume.grid.shape).reshape(3, -1)
    points = volume.grid.to_physical(np.stack([x, y, z], axis=1).astype(float))
    stated = np.array([expected[int(value)] for value in volume.array[z, y, x]])
    np.testing.assert_allclose(points, stated, atol=1e-6)
    assert np.linalg.det(volume.grid.direction_matrix) == pytest.approx(1)


def test_shuffled_file_names_change_nothing(tmp_path: Path) -> None:
    names = ["z", "1.2.840.9", "IM0004", "a.IMA", "b.dcm"]
    straight = read_dicom_series(save(tmp_path / "s", make_series()))
    shuffled = read_dicom_series(save(tmp_path / "t", make_series(), names))
    np.testing.assert_array_equal(straight.array, shuffled.array)
    assert straight.grid == shuffled.grid


def test_each_slice_has_its_own_rescale(tmp_path: Path) -> None:
    slices = make_series()
    for k, dataset in enumerate(slices):
        stored = (hu_array()[k].astype(int) - 2 * k) // 2 * 2
        dataset.PixelRepresentation = 1
        dataset.PixelData = (stored // 2).astype("<i2").tobytes()
        dataset.RescaleSlope, dataset.RescaleIntercept = 2, 2 * k
    volume = read_dicom_series(save(tmp_path / "s", slices))
    even = np.stack([(hu_array()[k].astype(int) - 2 * k) // 2 * 2 + 2 * k for k in range(5)])
    np.testing.assert_array_equal(volume.array, even)


def test_a_fractional_slope_gives_float32_and_large_values_int32(tmp_path: Path) -> None:
    fine = read_dicom_series(save(tmp_path / "s", make_series(RescaleSlope=0.5, RescaleIntercept=-512)))
    assert fine.array.dtype == np.float32
    np.testing.assert_array_equal(fine.array, hu_array() * 0.5)
    large = read_dicom_series(save(tmp_path / "t", make_series(RescaleIntercept=40000)))
    assert large.array.dtype == np.int32
    np.testing.assert_array_equal(large.array, hu_array().astype(int) + 41024)


def test_an_impossible_rescale_is_refused_by_name(tmp_path: Path) -> None:
    slices = make_series()
    slices[2].RescaleSlope = 0
    assert "003.dcm has no usable rescale" in refusal(save(tmp_path / "s", slices))


def test_a_missing_rescale_is_told(tmp_path: Path) -> None:
    volume = read_dicom_series(save(tmp_path / "s", make_series(RescaleSlope=None, RescaleIntercept=None)))
    np.testing.assert_array_equal(volume.array, hu_array() + 1024)
    assert any("no rescale slope or intercept" in warning for warning in volume.warnings)


def test_padding_becomes_air(tmp_path: Path) -> None:
    volume = read_dicom_series(
        save(tmp_path / "s", make_series(PixelPaddingValue=int(hu_array()[0, 0, 0]) + 1024, RescaleIntercept=-3000))
    )
    expected = hu_array() - 3000 + 1024
    expected[0, 0, 0] = -1024
    np.testing.assert_array_equal(volume.array, expected)
    assert volume.warnings == ()


def test_a_padding_value_that_is_also_water_makes_no_holes_in_tissue(tmp_path: Path) -> None:
    slices = make_series(RescaleIntercept=0, PixelPaddingValue=0)
    for dataset in slices:
        stored = np.full((7, 6), 50, "<u2")
        stored[:2] = 0
        stored[4, 3] = 0
        dataset.PixelData = stored.tobytes()
    volume = read_dicom_series(save(tmp_path / "s", slices))
    assert (volume.array[:, :2] == -1024).all()
    assert (volume.array[:, 4, 3] == 0).all()
    assert any("padding" in warning for warning in volume.warnings)


def test_a_missing_slice_is_refused_with_its_neighbours(tmp_path: Path) -> None:
    slices = make_series()
    del slices[2]
    message = refusal(save(tmp_path / "s", slices))
    assert "slices are missing, as the usual distance is 2.5 mm" in message
    assert "export the series again, whole" in message
    assert "slices 2 and 3 (002.dcm at 9.50 mm, 003.dcm at 14.50 mm) are 5 mm apart" in message


@pytest.mark.parametrize("lost", [1, 2])
def test_a_missing_slice_is_found_in_a_short_series_too(tmp_path: Path, lost: int) -> None:
    slices = make_series(count=4)
    del slices[lost]
    assert "missing" in refusal(save(tmp_path / "s", slices))


def test_a_doubled_position_is_refused_with_both_files(tmp_path: Path) -> None:
    slices = make_series()
    slices[3].ImagePositionPatient = slices[1].ImagePositionPatient
    message = refusal(save(tmp_path / "s", slices))
    assert "same position" in message
    assert "002.dcm" in message
    assert "004.dcm" in message


def test_uneven_spacing_is_refused(tmp_path: Path) -> None:
    slices = make_series()
    slices[2].ImagePositionPatient[2] += 0.4
    message = refusal(save(tmp_path / "s", slices))
    assert "not evenly spaced" in message
    assert "002.dcm at 9.50 mm, 003.dcm at 12.40 mm" in message


def test_a_spacing_that_creeps_is_refused(tmp_path: Path) -> None:
    slices = make_series(count=40)
    for k, dataset in enumerate(slices):
        dataset.ImagePositionPatient[2] += 0.0005 * k * k
    assert "not evenly spaced" in refusal(save(tmp_path / "s", slices))


def test_rounded_positions_are_even_enough(tmp_path: Path) -> None:
    slices = make_series(step=0.625, count=9)
    for dataset in slices:
        dataset.ImagePositionPatient[2] = round(float(dataset.ImagePositionPatient[2]), 2)
    assert read_dicom_series(save(tmp_path / "s", slices)).grid.spacing[2] == pytest.approx(0.625, abs=0.002)


@pytest.mark.parametrize("degrees", [1.0, 5.0, 15.0, -20.0])
def test_a_gantry_tilt_is_refused_with_its_angle(tmp_path: Path, degrees: float) -> None:
    angle = np.radians(degrees)
    tilted = (1.0, 0.0, 0.0, 0.0, float(np.cos(angle)), float(-np.sin(angle)))
    slices = make_series(tilted)
    for k, dataset in enumerate(slices):
        dataset.ImagePositionPatient = [-123.5, 40.25, 7.0 + 2.5 * k]
    assert f"{abs(degrees):.1f} degrees to their normal (gantry tilt; 001.dcm to 005.dcm)" in refusal(
        save(tmp_path / "s", slices)
    )


def test_a_tilt_tag_on_a_straight_stack_is_only_told(tmp_path: Path) -> None:
    volume = read_dicom_series(save(tmp_path / "s", make_series(GantryDetectorTilt=15)))
    assert any("tilt" in warning for warning in volume.warnings)


def test_a_slice_beside_the_stack_is_refused(tmp_path: Path) -> None:
    slices = make_series()
    slices[2].ImagePositionPatient[0] += 3
    assert "beside the stack: 003.dcm" in refusal(save(tmp_path / "s", slices))


def test_slices_with_gaps_of_unseen_tissue_are_told(tmp_path: Path) -> None:
    volume = read_dicom_series(save(tmp_path / "s", make_series(SliceThickness=1)))
    assert any("1 mm thick" in warning for warning in volume.warnings)


CHANGES: dict[str, tuple[Callable[[FileDataset], None], str]] = {
    "orientation": (lambda d: setattr(d, "ImageOrientationPatient", [0, 1, 0, -1, 0, 0]), "another orientation"),
    "flipped": (lambda d: setattr(d, "ImageOrientationPatient", [-1, 0, 0, 0, -1, 0]), "another orientation"),
    "pixel spacing": (lambda d: setattr(d, "PixelSpacing", [0.7, 0.91]), "another pixel spacing"),
    "size": (lambda d: setattr(d, "Rows", 6), "another size"),
}


@pytest.mark.parametrize(("change", "words"), CHANGES.values(), ids=CHANGES.keys())
def test_slices_that_differ_are_refused_by_name(tmp_path: Path, change: Callable[[FileDataset], None], words: str) -> None:
    slices = make_series()
    change(slices[0])
    change(slices[3])
    message = refusal(save(tmp_path / "s", slices))
    assert f"2 of 5 slices have {words}" in message
    assert "(001.dcm, 004.dcm)" in message


@pytest.mark.parametrize("orientation", [[1, 0, 0, 0.1, 1, 0], [2, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0]])
def test_axes_that_are_no_axes_are_refused(tmp_path: Path, orientation: list[float]) -> None:
    slices = make_series()
    for dataset in slices:
        dataset.ImageOrientationPatient = orientation
    assert "right angles" in refusal(save(tmp_path / "s", slices))


@pytest.mark.parametrize("tag", ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"])
@pytest.mark.parametrize("fault", ["absent", "text", "short"])
def test_a_slice_without_geometry_is_refused_by_name(tmp_path: Path, tag: str, fault: str) -> None:
    slices = make_series()
    if fault == "absent":
        delattr(slices[1], tag)
    elif fault == "short":
        slices[1][tag].value = slices[1][tag].value[:-1]
    folder = save(tmp_path / "s", slices)
    if fault == "text":
        data = bytearray((folder / "002.dcm").read_bytes())
        number = slices[1][tag].tag
        value_at = data.index(struct.pack("<HH", number.group, number.element)) + 8
        data[value_at : value_at + 1] = b"x"
        (folder / "002.dcm").write_bytes(bytes(data))
    assert f"002.dcm has no usable {tag}" in refusal(folder)


def test_several_series_are_refused_with_their_sizes(tmp_path: Path) -> None:
    folder = save(tmp_path / "s", make_series())
    save(folder, make_series(count=3, SeriesInstanceUID="1.2.3.9"), ["x.dcm", "y.dcm", "z.dcm"])
    assert "2 CT series in one folder (5, 3 slices)" in refusal(folder)


def test_slices_of_two_patients_in_one_series_are_refused(tmp_path: Path) -> None:
    slices = make_series()
    slices[4].PatientID = "SECRET-0816"
    message = refusal(save(tmp_path / "s", slices))
    assert "more than one patient" in message
    assert "0816" not in message


@pytest.mark.parametrize(("modality", "words"), [("MR", "MR (5)"), ("PT", "PT (5)")])
def test_another_modality_is_refused(tmp_path: Path, modality: str, words: str) -> None:
    assert words in refusal(save(tmp_path / "s", make_series(Modality=modality)))


def test_a_mixture_of_modalities_is_refused_with_counts(tmp_path: Path) -> None:
    folder = save(tmp_path / "s", make_series())
    save(folder, make_series(count=2, Modality="PT"), ["x.dcm", "y.dcm"])
    assert "CT (5), PT (2)" in refusal(folder)


def test_objects_beside_the_slices_are_left_aside_and_told(tmp_path: Path) -> None:
    folder = save(tmp_path / "s", make_series())
    scout = make_slice(np.zeros((4, 4), np.uint16), np.zeros(3), 1, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    plan = make_slice(np.zeros((4, 4), np.uint16), np.zeros(3), 1, Modality="RTSTRUCT", SeriesInstanceUID="1.9")
    save(folder, [scout, plan], ["scout.dcm", "rs.dcm"])
    (folder / "LICENSE.md").write_text("free")
    (folder / ".hidden.dcm").write_text("none")
    volume = read_dicom_series(folder)
    np.testing.assert_array_equal(volume.array, hu_array())
    assert volume.warnings == ("left aside in the DICOM folder: RTSTRUCT (1), localizer (1), other files (1)",)


@pytest.mark.parametrize("content", [b"", b"not DICOM at all", b"\0" * 128 + b"DICM" + b"\x02\x00\x00\x00UL\xff"])
def test_a_dcm_file_that_cannot_be_read_is_not_passed_over(tmp_path: Path, content: bytes) -> None:
    folder = save(tmp_path / "s", make_series())
    (folder / "006.dcm").write_bytes(content)
    assert "006.dcm cannot be read as DICOM" in refusal(folder)


def test_slices_without_preamble_are_read(tmp_path: Path) -> None:
    folder = save(tmp_path / "s", make_series())
    for path in folder.iterdir():
        dataset = pydicom.dcmread(path)
        del dataset.file_meta
        dataset.preamble = None
        dataset.save_as(path, implicit_vr=True, little_endian=True)
        assert path.read_bytes()[:1] == b"\x08"
    np.testing.assert_array_equal(read_dicom_series(folder).array, hu_array())


@pytest.mark.parametrize(("rows", "columns"), [(0, 6), (65535, 65535)])
def test_images_of_no_possible_size_are_refused(tmp_path: Path, rows: int, columns: int) -> None:
    assert f"5 slices of {rows} x {columns} pixels are no CT" in refusal(
        save(tmp_path / "s", make_series(Rows=rows, Columns=columns))
    )


def test_a_single_slice_is_refused(tmp_path: Path) -> None:
    assert "only one slice (001.dcm)" in refusal(save(tmp_path / "s", make_series(count=1)))


def test_frames_without_positions_are_refused_in_words(tmp_path: Path) -> None:
    slices = make_series(NumberOfFrames=2)
    assert "001.dcm has several frames, but does not say of each where it lies" in refusal(save(tmp_path / "s", slices))


def test_an_empty_and_a_missing_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "s" / "sub").mkdir(parents=True)
    assert "no DICOM CT slices in this folder; it holds sub-folders (1)" in refusal(tmp_path / "s")
    assert "no such folder" in refusal(tmp_path / "nowhere")


def test_a_slice_without_or_with_cut_pixel_data_is_refused_by_name(tmp_path: Path) -> None:
    slices = make_series()
    del slices[1].PixelData
    assert "002.dcm has no pixel data" in refusal(save(tmp_path / "s", slices))
    slices = make_series()
    slices[2].PixelData = slices[2].PixelData[:-4]
    assert "003.dcm has pixel data that cannot be decoded" in refusal(save(tmp_path / "t", slices))


@pytest.mark.filterwarnings("ignore:Invalid value for VR")
@pytest.mark.parametrize(
    ("tags", "acquired"),
    [
        ({"AcquisitionDate": None}, None),
        ({"AcquisitionDate": None, "SeriesDate": "20230101", "StudyDate": "20220101"}, "20230101"),
        ({"AcquisitionDate": "", "StudyDate": "20220101", "StudyTime": "0915"}, "20220101"),
        ({"AcquisitionDate": "1999.03.10", "AcquisitionTime": None}, "19990310"),
        ({"AcquisitionTime": "23:59:58"}, "20240229235958"),
    ],
)
def test_the_date_is_the_best_that_the_header_has(tmp_path: Path, tags: dict[str, Any], acquired: str | None) -> None:
    volume = read_dicom_series(save(tmp_path / "s", make_series(PatientID=None, **tags)))
    assert volume.identity.acquired == acquired
    assert volume.identity.patient_id is None


def test_the_time_is_that_of_the_first_slice_taken(tmp_path: Path) -> None:
    slices = make_series()
    for dataset, time in zip(slices, ["101504", "101502", "101501.9", "101503", "101505"], strict=True):
        dataset.AcquisitionTime = time
    assert read_dicom_series(save(tmp_path / "s", slices)).identity.acquired == "20240229101501"


@pytest.mark.parametrize(
    ("series", "case"),
    [("lung_ct_rtstruct", "lung_i_shrink"), ("lung_ct_rtstruct", "lung_i_partial"), ("sarcoma_ct_rtstruct", "limb_f_stable")],
)
def test_a_real_series_equals_its_nifti_copy_voxel_for_voxel(shared_data: Path, series: str, case: str) -> None:
    dicom = read_volume(shared_data / "dicom" / series / "CT")
    nifti = read_volume(shared_data / "visits" / case / "prior_ct.nii.gz")
    np.testing.assert_array_equal(dicom.array, nifti.array)
    assert dicom.array.dtype == nifti.array.dtype == np.int16
    assert dicom.grid.same_as(nifti.grid)


@pytest.mark.parametrize(
    ("folder", "words"),
    [
        ("missing_slice_ct_001", ["slices are missing", "IM-0001-0009-0001.dcm at 28.11 mm", "10 mm apart"]),
        ("missing_slice_tilted_ct_002", ["slices are missing", "IM-0001-0003.dcm", "15.5 degrees", "gantry tilt"]),
        ("same_position_slices_ct", ["same position", "001.dcm at 61.50 mm, 002.dcm at 61.50 mm"]),
        ("tilt_ct_4slices", ["14.0 degrees", "gantry tilt"]),
        ("broken_meta_ct", ["2 CT series in one folder (1, 1 slices)"]),
        ("enhanced_multiframe_ct", ["2 CT series in one folder (1, 1 files)"]),
        ("seg_highdicom_ct", ["only one slice (ct_image.dcm)"]),
        ("seg_dcmqi_liver/SEG", ["no DICOM CT slices in this folder; it holds SEG (2)"]),
    ],
)
def test_real_faults_are_refused_in_words(shared_data: Path, folder: str, words: list[str]) -> None:
    message = refusal(shared_data / "dicom" / folder)
    for word in words:
        assert word in message


def test_a_real_file_with_a_wrong_transfer_syntax_is_refused(shared_data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "s"
    folder.mkdir()
    source = shared_data / "dicom" / "broken_meta_ct" / "20-wrong-transfer-syntax.dcm"
    shutil.copy(source, folder / "a.dcm")
    data = source.read_bytes()
    (folder / "b.dcm").write_bytes(data.replace(b"-542.000000", b"-539.000000"))
    assert "a.dcm has pixel data that cannot be decoded (JPEG-LS" in refusal(folder)


def test_real_slices_beside_structure_sets_are_read(shared_data: Path) -> None:
    volume = read_dicom_series(shared_data / "dicom" / "rt_utils_mock")
    assert volume.grid.shape == (2, 512, 512)
    assert volume.grid.spacing == (0.488281, 0.488281, 5.0)
    assert volume.array.min() == -1024
    assert volume.warnings == ("left aside in the DICOM folder: RTSTRUCT (3)",)
