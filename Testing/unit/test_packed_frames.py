"""Frames of one bit a voxel, whose pixels need not be a multiple of eight."""

from __future__ import annotations

import io
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from P2SAMSlicerLib.dicom.ct_writer import WrittenPatient, write_ct_series
from P2SAMSlicerLib.dicom.export_contours import ExportContour
from P2SAMSlicerLib.dicom.packed_frames import packed_frames
from P2SAMSlicerLib.dicom.seg_reader import read_dicom_seg
from P2SAMSlicerLib.dicom.seg_writer import write_dicom_seg
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.resample import resample_mask
from P2SAMSlicerLib.volume import Volume


def packed_object(frames: np.ndarray) -> io.BytesIO:
    """The pixels alone, as an uncompressed object holds them."""
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian

    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.66.4")
    dataset.file_meta.MediaStorageSOPInstanceUID = UID("1.2.3")
    data = np.packbits(frames.ravel(), bitorder="little").tobytes()
    dataset.PixelData = data + b"\0" * (len(data) % 2)
    dataset["PixelData"].VR = "OB"
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 5), st.randoms(use_true_random=False))
def test_any_frames_of_any_size_come_back_in_any_order(rows: int, columns: int, count: int, random: object) -> None:
    rng = np.random.default_rng(random.randrange(2**32))  # type: ignore[attr-defined]
    frames = rng.integers(0, 2, (count, rows, columns), dtype=np.uint8)
    chosen = [int(index) for index in rng.permutation(count)[: rng.integers(1, count + 1)]]
    found = list(packed_frames(packed_object(frames), chosen, (rows, columns)))
    np.testing.assert_array_equal(found, frames[chosen])


def test_a_frame_that_is_not_there_is_an_error_and_no_guess() -> None:
    with pytest.raises(ValueError, match="too few"):
        list(packed_frames(packed_object(np.ones((2, 8, 8), np.uint8)), [2], (8, 8)))


def test_a_segmentation_whose_slices_have_an_odd_number_of_voxels_reads_back_as_it_was(tmp_path: Path) -> None:
    grid = Grid((6, 13, 11), (1.0, 1.0, 2.0), (0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
    volume = Volume(np.zeros(grid.shape, np.int16), grid, "ct")
    reference = write_ct_series(tmp_path / "ct", volume, WrittenPatient("1", "A^B"), date(2024, 1, 1))
    mask = np.random.default_rng(3).random(grid.shape) < 0.4
    contour = ExportContour("GTVp", mask, None, None, False, "AUTOMATIC", "UNREVIEWED")
    (trip,) = write_dicom_seg(tmp_path / "seg.dcm", (contour,), grid, reference)
    found = read_dicom_seg(tmp_path / "seg.dcm").segmentation
    assert trip.dice == 1.0
    np.testing.assert_array_equal(resample_mask(found.segments[0].mask, found.grid, grid), mask)
