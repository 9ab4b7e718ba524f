"""Multi-frame CT is read as the classic slices of which it is made, frame by frame where each lies."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK
from ct_files import ORIENTATIONS, PATIENT, SECRETS, hu_array, make_series, save
from multi_frame_files import EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage, make_multi_frame
from numpy.typing import NDArray
from P2SAMSlicerLib.dicom.ct_reference import CtSeries
from P2SAMSlicerLib.dicom.series import dicom_ct_of, read_ct_series, read_dicom_series
from P2SAMSlicerLib.errors import InputError
from pydicom.dataset import FileDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import UID, JPEG2000Lossless, JPEGLSLossless, JPEGLSNearLossless, RLELossless

SHUFFLED = (3, 0, 4, 1, 2)


def read(folder: Path, *objects: FileDataset) -> CtSeries:
    save(folder, list(objects))
    return read_ct_series(sorted(folder.iterdir()), "visit_2")


def large_series(**tags: Any) -> list[FileDataset]:
    """Slices of 40 x 42 voxels, the least that JPEG 2000 is made of; each is a tiled one of the small series."""
    series = make_series(**tags)
    for each in series:
        values = np.tile(each.pixel_array, (6, 7))[:40]
        each.Rows, each.Columns, each.PixelData = *values.shape, values.tobytes()
    return series


def large_array() -> NDArray[np.int16]:
    return np.tile(hu_array(), (1, 6, 7))[:, :40]


def refusal(folder: Path, *objects: FileDataset) -> str:
    with pytest.raises(InputError) as raised:
        read(folder, *objects)
    message = str(raised.value)
    assert message.startswith("visit_2: ")
    assert "\n" not in message
    assert not [secret for secret in (*SECRETS, ".dcm", str(folder.parent)) if secret in message]
    return message


@pytest.mark.parametrize("orientation", ORIENTATIONS.values(), ids=ORIENTATIONS.keys())
@pytest.mark.parametrize("sop_class", [EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage])
def test_a_multi_frame_object_equals_its_classic_slices(tmp_path: Path, orientation: tuple[float, ...], sop_class: UID) -> None:
    slices = make_series(orientation)
    classic = read_dicom_series(save(tmp_path / "classic", slices))
    found = read(tmp_path / "multi", make_multi_frame([slices[k] for k in SHUFFLED], sop_class))
    np.testing.assert_array_equal(found.volume.array, classic.array)
    assert found.volume.grid == classic.grid
    assert found.volume.identity == classic.identity
    assert found.volume.warnings == ()


@pytest.mark.parametrize("shared", [True, False])
def test_what_is_shared_and_what_each_frame_says_is_found(tmp_path: Path, shared: bool) -> None:
    slices = make_series()
    if not shared:
        for k, each in enumerate(slices):
            each.RescaleIntercept = -1024 + k
    volume = read(tmp_path / "s", make_multi_frame(slices, shared=shared)).volume
    expected = hu_array() + (0 if shared else np.arange(5, dtype=np.int16)[:, None, None])
    np.testing.assert_array_equal(volume.array, expected)


def test_a_reference_names_for_each_slice_the_frame_that_lies_there(tmp_path: Path) -> None:
    slices = make_series()
    found = read(tmp_path / "s", made := make_multi_frame([slices[k] for k in SHUFFLED]))
    reference = found.reference
    assert [each.frame for each in reference.slices] == [SHUFFLED.index(k) + 1 for k in range(5)]
    assert {each.sop_instance_uid for each in reference.slices} == {made.SOPInstanceUID}
    for k, each in enumerate(reference.slices):
        np.testing.assert_allclose(each.position, found.volume.grid.to_physical(np.array([[0.0, 0, k]]))[0], atol=1e-6)
        np.testing.assert_allclose(each.position, [float(value) for value in slices[k].ImagePositionPatient], atol=1e-6)
    assert (reference.study_uid, reference.series_uid, reference.frame_of_reference_uid) == ("1.2.3", "1.2.3.4", "1.2.3.5")
    assert reference.header.PatientID == PATIENT
    assert "PixelData" not in reference.header
    assert not reference.resampled


def test_a_classic_reference_names_the_files_slice_by_slice_and_can_go_to_another_process(tmp_path: Path) -> None:
    slices = make_series()
    found = pickle.loads(pickle.dumps(read(tmp_path / "s", *[slices[k] for k in SHUFFLED])))
    assert [each.sop_instance_uid for each in found.reference.slices] == [each.SOPInstanceUID for each in slices]
    assert {each.frame for each in found.reference.slices} == {None}
    assert found.reference.header.SOPInstanceUID == slices[0].SOPInstanceUID


def test_several_objects_of_one_series_make_one_stack(tmp_path: Path) -> None:
    slices = make_series()
    found = read(tmp_path / "s", make_multi_frame(slices[3:]), make_multi_frame(slices[:3]))
    np.testing.assert_array_equal(found.volume.array, hu_array())
    assert [each.frame for each in found.reference.slices] == [1, 2, 3, 1, 2]
    assert len({each.sop_instance_uid for each in found.reference.slices}) == 2


def test_a_folder_with_one_multi_frame_object_is_a_volume(tmp_path: Path) -> None:
    folder = save(tmp_path / "s", [make_multi_frame(make_series())])
    np.testing.assert_array_equal(read_dicom_series(folder).array, hu_array())
    assert [each.frame for each in dicom_ct_of(folder).reference.slices] == [1, 2, 3, 4, 5]


def test_a_scout_view_among_the_frames_is_left_out(tmp_path: Path) -> None:
    slices = make_series(count=6)
    slices[2].ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    slices[2].ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
    gone = [slices[k] for k in (0, 1, 3, 4, 5)]
    for k, each in enumerate(gone):
        each.ImagePositionPatient[2] = 7 + 2.5 * k
    found = read(tmp_path / "s", make_multi_frame([slices[2], *gone[::-1]], shared=False))
    np.testing.assert_array_equal(found.volume.array, hu_array((6, 7, 6))[[0, 1, 3, 4, 5]])
    assert [each.frame for each in found.reference.slices] == [6, 5, 4, 3, 2]


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
def test_compressed_frames_give_the_same_values(tmp_path: Path, syntax: str) -> None:
    made = make_multi_frame([large_series()[k] for k in SHUFFLED])
    made.compress(syntax, generate_instance_uid=False)
    np.testing.assert_array_equal(read(tmp_path / "s", made).volume.array, large_array())


@pytest.mark.parametrize("slope", [1, 2])
def test_frames_of_lossless_jpeg_are_decoded_where_pydicom_cannot(tmp_path: Path, slope: int) -> None:
    slices = large_series(RescaleSlope=slope, RescaleIntercept=-1024)
    values = np.stack([slices[k].pixel_array for k in SHUFFLED])
    image: Any = SimpleITK.GetImageFromArray(values)
    SimpleITK.WriteImage(image, str(tmp_path / "a.dcm"), True, imageIO="GDCMImageIO", compressor="JPEG")
    jpeg = pydicom.dcmread(tmp_path / "a.dcm")
    made = make_multi_frame([slices[k] for k in SHUFFLED])
    made.PixelData = encapsulate(list(generate_frames(jpeg.PixelData, number_of_frames=5)))
    made["PixelData"].is_undefined_length = True
    made.file_meta.TransferSyntaxUID = jpeg.file_meta.TransferSyntaxUID
    assert made.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.4.70"
    expected = np.stack([each.pixel_array for each in large_series()]).astype(int) * slope - 1024
    np.testing.assert_array_equal(read(tmp_path / "s", made).volume.array, expected)


def test_a_near_lossless_image_is_read_within_its_error(tmp_path: Path) -> None:
    made = make_multi_frame(large_series())
    made.compress(JPEGLSNearLossless, jls_error=2, generate_instance_uid=False)
    assert 0 < np.abs(read(tmp_path / "s", made).volume.array - large_array()).max() <= 2


@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEG2000Lossless])
def test_a_compressed_image_of_another_size_is_refused_before_it_is_unpacked(tmp_path: Path, syntax: str) -> None:
    made = make_multi_frame(large_series())
    made.compress(syntax, generate_instance_uid=False)
    frames = list(generate_frames(made.PixelData, number_of_frames=5))
    # Where both formats state a height of 40: a JPEG-LS frame header, a JPEG 2000 SIZ segment.
    place, form = (frames[1].index(b"\xff\xf7") + 5, 2) if syntax == JPEGLSLossless else (12, 4)
    assert int.from_bytes(frames[1][place : place + form], "big") == 40
    frames[1] = frames[1][:place] + (60000).to_bytes(form, "big") + frames[1][place + form :]
    made.PixelData = encapsulate(frames)
    made["PixelData"].is_undefined_length = True
    assert "cannot be decoded" in refusal(tmp_path / "s", made)


def with_two_stacks(slices: list[FileDataset]) -> FileDataset:
    made = make_multi_frame(slices)
    made.PerFrameFunctionalGroupsSequence[4].FrameContentSequence[0].StackID = "2"
    return made


def with_number_of_frames(slices: list[FileDataset], count: Any) -> FileDataset:
    made = make_multi_frame(slices)
    made.NumberOfFrames = count
    return made


FAULTS: dict[str, Any] = {
    "two stacks": (with_two_stacks, "holds 2 stacks of slices"),
    "a missing frame": (lambda s: make_multi_frame(s[:2] + s[3:]), "slices are missing, as the usual distance is 2.5 mm"),
    "a doubled frame": (lambda s: make_multi_frame([*s, s[1]]), "same position"),
    "frames without groups": (lambda s: with_number_of_frames(s, 4), "does not say of each where it lies"),
    "absurdly many frames": (lambda s: with_number_of_frames(s, 2**31 - 1), "does not say of each where it lies"),
    "pixels of fewer frames": (lambda s: make_multi_frame(s, PixelData=s[0].PixelData * 4), "cannot be decoded"),
    "no groups at all": (lambda s: make_multi_frame(s, PerFrameFunctionalGroupsSequence=[]), "does not say of each"),
    "one frame": (lambda s: make_multi_frame(s[:1]), "only one slice (file 1 of 1, frame 1)"),
}


@pytest.mark.parametrize(("change", "words"), FAULTS.values(), ids=FAULTS.keys())
def test_frames_that_are_not_one_stack_are_refused_in_words(tmp_path: Path, change: Any, words: str) -> None:
    assert words in refusal(tmp_path / "s", change(make_series()))


def test_a_map_that_was_computed_from_a_ct_is_told(tmp_path: Path) -> None:
    made = make_multi_frame(make_series(ImageType=["DERIVED", "PRIMARY", "PERFUSION", "RCBF"]))
    assert any("maps that were computed from a CT (PERFUSION)" in each for each in read(tmp_path / "s", made).volume.warnings)


@pytest.mark.parametrize("name", ["eCT_Supplemental.dcm", "mf.dcm"])
def test_a_real_multi_frame_ct_lies_where_another_reader_puts_it(shared_data: Path, name: str) -> None:
    path = shared_data / "dicom" / "enhanced_multiframe_ct" / name
    found = read_ct_series([path], "ct")
    other = SimpleITK.ReadImage(str(path))
    grid, values = found.volume.grid, SimpleITK.GetArrayFromImage(other)
    assert grid.shape == values.shape
    # That reader keeps the order of the frames, whichever way they run, so points are compared instead of indices.
    for z, y, x in [(0, 0, 0), (0, 5, 9), (1, 37, 23), (grid.shape[0] - 1, 20, 11)]:
        (point,) = grid.to_physical(np.array([[x, y, z]], dtype=float))
        there = other.TransformPhysicalPointToIndex([float(value) for value in point])
        assert there[:2] == (x, y)
        np.testing.assert_array_equal(found.volume.array[z], values[there[2]])
    assert [each.frame for each in found.reference.slices] == ([2, 1] if name.startswith("eCT") else [1, 2, 3])
