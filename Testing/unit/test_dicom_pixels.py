"""Stored values of a DICOM slice become Hounsfield units, or the slice is refused by name."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK
from numpy.typing import NDArray
from P2SAMSlicerLib.dicom.pixels import has_padding_inside_tissue, hounsfield_slice, rescale
from P2SAMSlicerLib.errors import InputError
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, RLELossless, generate_uid

ROWS, COLUMNS = 32, 40


def values(seed: int = 0) -> NDArray[np.int16]:
    return np.random.default_rng(seed).integers(-1000, 2000, (ROWS, COLUMNS)).astype(np.int16)


def make_slice(stored: NDArray[np.integer[Any]], **tags: Any) -> FileDataset:
    """A slice in memory with the tags that its pixels need."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    signed = stored.dtype.kind == "i"
    header: dict[str, Any] = {
        "SOPClassUID": CTImageStorage,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "Rows": stored.shape[0],
        "Columns": stored.shape[1],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": int(signed),
        "PixelData": stored.astype("<i2" if signed else "<u2").tobytes(),
    }
    for tag, value in (header | tags).items():
        setattr(dataset, tag, value)
    return dataset


def hounsfield(dataset: FileDataset, scale: tuple[float, float] = (1.0, 0.0), path: Path = Path("a.dcm")) -> NDArray[Any]:
    return hounsfield_slice(dataset, path, scale, (ROWS, COLUMNS), "folder")


def refusal(dataset: FileDataset, path: Path = Path("a.dcm")) -> str:
    with pytest.raises(InputError) as raised:
        hounsfield(dataset, path=path)
    assert str(raised.value).startswith(f"folder: {path.name} ")
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_the_rescale_is_read_and_absent_means_unchanged() -> None:
    dataset = make_slice(values(), RescaleSlope="2.5", RescaleIntercept=-1024)
    assert rescale(dataset, Path("a.dcm"), "folder") == (2.5, -1024.0)
    assert rescale(make_slice(values()), Path("a.dcm"), "folder") == (1.0, 0.0)


@pytest.mark.parametrize(("slope", "intercept"), [("0", "0"), ("1e999", "0"), ("1", "-1e999"), ("40000", "0"), ("1", "1e12")])
def test_an_impossible_rescale_is_refused(slope: str, intercept: str) -> None:
    dataset = make_slice(values(), RescaleSlope=slope, RescaleIntercept=intercept)
    with pytest.raises(InputError, match=r"^folder: a\.dcm has no usable rescale slope and intercept$"):
        rescale(dataset, Path("a.dcm"), "folder")


@pytest.mark.parametrize("scale", [(1.0, -1024.0), (2.0, 7.0), (0.5, -0.25), (-1.0, 3.0)])
def test_hu_are_slope_times_value_plus_intercept(scale: tuple[float, float]) -> None:
    hu = hounsfield(make_slice(values()), scale)
    np.testing.assert_array_equal(hu, values() * scale[0] + scale[1])
    assert hu.dtype.kind == ("i" if scale[0].is_integer() else "f")


def test_the_largest_stored_values_do_not_wrap() -> None:
    stored = np.full((ROWS, COLUMNS), 65535, np.uint16)
    assert (hounsfield(make_slice(stored), (3.0, 1000.0)) == 65535 * 3 + 1000).all()


@pytest.mark.parametrize(
    ("value", "limit", "in_slice", "signed"),
    [
        (-2000, None, -2000, True),
        (63536, None, -2000, True),
        (-2000, -1990, -1995, True),
        (-1990, -2000, -1995, True),
        (-1, None, 65535, False),
    ],
)
def test_padding_becomes_air(value: int, limit: int | None, in_slice: int, signed: bool) -> None:
    stored = values().astype(np.int32)
    stored = stored if signed else stored + 1024
    expected = stored.copy()
    stored[0, 0] = stored[3, 3] = in_slice
    expected[0, 0] = expected[3, 3] = -1024
    dataset = make_slice(stored.astype(np.int16 if signed else np.uint16))
    dataset.add_new("PixelPaddingValue", "US" if value > 0 else "SS", value)
    if limit is not None:
        dataset.add_new("PixelPaddingRangeLimit", "SS", limit)
    np.testing.assert_array_equal(hounsfield(dataset), expected)


def test_a_padding_value_that_is_also_water_makes_no_holes_in_tissue() -> None:
    stored = np.full((ROWS, COLUMNS), 50, np.int16)
    stored[:2] = stored[4, 3] = stored[10:, -1] = 0
    dataset = make_slice(stored)
    dataset.add_new("PixelPaddingValue", "SS", 0)
    assert has_padding_inside_tissue(dataset, 1.0, 0.0)
    assert not has_padding_inside_tissue(dataset, 1.0, -1024.0)
    hu = hounsfield(dataset)
    assert (hu[:2] == -1024).all()
    assert (hu[10:, -1] == -1024).all()
    assert hu[4, 3] == 0
    assert (hu == -1024).sum() == 2 * COLUMNS + ROWS - 10


def test_pixel_data_absent_cut_or_in_colour_is_refused() -> None:
    dataset = make_slice(values())
    dataset.PixelData = dataset.PixelData[:-4]
    assert "cannot be decoded (Explicit VR Little Endian)" in refusal(dataset)
    del dataset.PixelData
    assert "has no pixel data" in refusal(dataset)
    assert "colour" in refusal(make_slice(values(), SamplesPerPixel=3))
    assert "another size" in refusal(make_slice(values()[:-1]))


@pytest.mark.parametrize("compressor", ["JPEG", "JPEG2000", "RLE"])
@pytest.mark.parametrize("scale", [(1.0, 0.0), (2.0, -1024.0), (0.3, -0.7)])
def test_lossless_compression_gives_the_same_hu(tmp_path: Path, compressor: str, scale: tuple[float, float]) -> None:
    path = tmp_path / "a.dcm"
    if compressor == "RLE":
        dataset = make_slice(values())
        dataset.compress(RLELossless)
    else:
        image: Any = SimpleITK.GetImageFromArray(values()[None])
        SimpleITK.WriteImage(image, str(path), True, imageIO="GDCMImageIO", compressor=compressor)
        dataset = pydicom.dcmread(path)
    dataset.RescaleSlope, dataset.RescaleIntercept = scale
    dataset.save_as(path, enforce_file_format=True)
    dataset = pydicom.dcmread(path)
    assert dataset.file_meta.TransferSyntaxUID.is_compressed
    np.testing.assert_allclose(hounsfield(dataset, scale, path), values() * scale[0] + scale[1], rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("syntax", "name"),
    [
        (b"1.2.840.10008.1.2.5\0", "RLE Lossless"),
        (b"1.2.840.10008.1.2.4.80", "JPEG-LS Lossless"),
        (b"1.2.840.10008.1.9.9\0", ""),
    ],
)
def test_values_said_to_be_compressed_that_are_not_are_refused(tmp_path: Path, syntax: bytes, name: str) -> None:
    path = tmp_path / "b.dcm"
    make_slice(values()).save_as(path, enforce_file_format=True)
    data = path.read_bytes()
    old = b"UI" + struct.pack("<H", 20) + b"1.2.840.10008.1.2.1\0"
    assert data.count(old) == 1
    # The first element of the file, 12 bytes behind the preamble, is the length of its group.
    length = struct.unpack_from("<I", data, 140)[0] + len(syntax) - 20
    data = data[:140] + struct.pack("<I", length) + data[144:]
    path.write_bytes(data.replace(old, b"UI" + struct.pack("<H", len(syntax)) + syntax))
    assert f"cannot be decoded ({name}" in refusal(pydicom.dcmread(path), path)


def test_a_damaged_compressed_slice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    image: Any = SimpleITK.GetImageFromArray(values()[None])
    SimpleITK.WriteImage(image, str(path), True, imageIO="GDCMImageIO", compressor="JPEG")
    dataset = pydicom.dcmread(path)
    dataset.PixelData = struct.pack("<HHI", 0xFFFE, 0xE000, 0) + struct.pack("<HHI", 0xFFFE, 0xE000, 4) + b"\xff\xd8\xff\xd9"
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path, enforce_file_format=True)
    assert "cannot be decoded (JPEG Lossless" in refusal(pydicom.dcmread(path), path)
