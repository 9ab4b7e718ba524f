"""DICOM CT slices in memory and in files, made for tests: every voxel with a value of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
ORIENTATIONS = {
    "head first supine": AXIAL,
    "head first prone": (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0),
    "feet first supine": (-1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
    "feet first prone": (1.0, 0.0, 0.0, 0.0, -1.0, 0.0),
    "head first decubitus right": (0.0, -1.0, 0.0, 1.0, 0.0, 0.0),
    "sagittal": (0.0, 1.0, 0.0, 0.0, 0.0, -1.0),
    "coronal": (1.0, 0.0, 0.0, 0.0, 0.0, -1.0),
    "oblique": (0.8, 0.6, 0.0, -0.48, 0.64, 0.6),
}
PATIENT = "SECRET-0815"
#: What no message, progress line or anonymous list may hold.
SECRETS = (PATIENT, "0815", "Doe", "1.2.3", "2024")


def normal_of(orientation: tuple[float, ...]) -> NDArray[np.float64]:
    return np.cross(orientation[:3], orientation[3:])


def make_slice(values: NDArray[np.integer[Any]], position: NDArray[np.float64], number: int, **tags: Any) -> FileDataset:
    """One CT slice with stored values; tags override, a tag of None is removed."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    signed = values.dtype.kind == "i"
    header: dict[str, Any] = {
        "SOPClassUID": CTImageStorage,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "SeriesInstanceUID": "1.2.3.4",
        "StudyInstanceUID": "1.2.3",
        "FrameOfReferenceUID": "1.2.3.5",
        "Modality": "CT",
        "PatientID": PATIENT,
        "PatientName": "Doe^Jane",
        "AcquisitionDate": "20240229",
        "AcquisitionTime": "101530.5",
        "InstanceNumber": number,
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "ImagePositionPatient": [float(f"{value:.9g}") for value in position],
        "ImageOrientationPatient": list(AXIAL),
        "PixelSpacing": [0.7, 0.9],
        "SliceThickness": 2.5,
        "RescaleSlope": 1,
        "RescaleIntercept": -1024,
        "Rows": values.shape[0],
        "Columns": values.shape[1],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": int(signed),
        "PixelData": np.ascontiguousarray(values, dtype="<i2" if signed else "<u2").tobytes(),
    }
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    for tag, value in (header | tags).items():
        if value is not None:
            setattr(dataset, tag, value)
    return dataset


def hu_array(shape: tuple[int, int, int] = (5, 7, 6), seed: int = 0) -> NDArray[np.int16]:
    """Every voxel with a HU of its own, so that no mix-up passes."""
    values = np.arange(int(np.prod(shape)), dtype=np.int16) - 100
    np.random.default_rng(seed).shuffle(values)
    return values.reshape(shape)


def make_series(orientation: tuple[float, ...] = AXIAL, step: float = 2.5, count: int = 5, **tags: Any) -> list[FileDataset]:
    """Slices of :func:`hu_array` in the order of their positions along the normal."""
    hu = hu_array((count, 7, 6))
    start = np.array([-123.5, 40.25, 7.0])
    return [
        make_slice(
            (hu[k].astype(np.int32) + 1024).astype(np.uint16),
            start + k * step * normal_of(orientation),
            k + 1,
            ImageOrientationPatient=list(orientation),
            **tags,
        )
        for k in range(count)
    ]


def save(folder: Path, slices: list[FileDataset], names: list[str] | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    for index, dataset in enumerate(slices):
        dataset.save_as(folder / (names[index] if names else f"{index + 1:03d}.dcm"), enforce_file_format=True)
    return folder
