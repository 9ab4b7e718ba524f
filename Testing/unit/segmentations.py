"""DICOM SEG files as the tests want them, made by highdicom and then changed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
from numpy.typing import NDArray
from P2SAMSlicerLib.geometry import Grid
from pydicom import Dataset
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.sr.coding import Code
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from structure_sets import FRAME, NAME, PATIENT, SERIES, STUDY, item

LESION = Code("49755003", "SCT", "Morphologically Altered Structure")
MASS = Code("4147007", "SCT", "Mass")


def ct_slices(grid: Grid) -> list[Dataset]:
    """Headers of the CT slices that :func:`structure_sets.reference` stands for."""
    slices: list[Dataset] = []
    for k in range(grid.shape[0]):
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        made = FileDataset("", {}, file_meta=meta)
        made.update(
            item(
                SOPClassUID=CTImageStorage,
                SOPInstanceUID=f"1.2.3.4.{k + 1}",
                SeriesInstanceUID=SERIES,
                StudyInstanceUID=STUDY,
                FrameOfReferenceUID=FRAME,
                Modality="CT",
                PatientID=PATIENT,
                PatientName=NAME,
                PatientBirthDate="",
                PatientSex="",
                StudyID="",
                StudyDate="",
                StudyTime="",
                AccessionNumber="",
                ReferringPhysicianName="",
                InstanceNumber=k + 1,
                ImagePositionPatient=[round(float(v), 6) for v in grid.to_physical(np.array([[0.0, 0.0, k]]))[0]],
                ImageOrientationPatient=[round(float(v), 8) for v in grid.direction_matrix[:, :2].T.ravel()],
                PixelSpacing=[grid.spacing[1], grid.spacing[0]],
                SliceThickness=grid.spacing[2],
                Rows=grid.shape[1],
                Columns=grid.shape[2],
            )
        )
        slices.append(made)
    return slices


def segmentation(
    masks: Sequence[NDArray[Any]], grid: Grid, kind: str = "BINARY", names: Sequence[str] = (), **options: Any
) -> Dataset:
    """A DICOM segmentation of masks ``(z, y, x)``; slices on which a segment is empty have no frame.

    :param masks: bool, or 0..1 for fractional ones.
    """
    names = names or [f"Segment {number}" for number in range(1, len(masks) + 1)]
    described = [
        highdicom.seg.SegmentDescription(
            number,
            name,
            LESION,
            MASS,
            highdicom.seg.SegmentAlgorithmTypeValues.MANUAL,
            display_color=highdicom.color.CIELabColor.from_rgb(220, 130, 40),
        )
        for number, name in enumerate(names, 1)
    ]
    stacked = np.stack(masks, axis=-1)
    if kind == "LABELMAP":
        stacked = (stacked * np.arange(1, len(masks) + 1)).max(axis=-1).astype(np.uint8)
    elif kind == "BINARY":
        stacked = stacked.astype(np.uint8)
    made: Dataset = highdicom.seg.Segmentation(
        source_images=ct_slices(grid),
        pixel_array=stacked,
        segmentation_type=kind,
        segment_descriptions=described,
        series_instance_uid="1.2.3.77",
        series_number=7,
        sop_instance_uid="1.2.3.77.1",
        instance_number=1,
        manufacturer="test",
        manufacturer_model_name="test",
        software_versions="1",
        device_serial_number="1",
        **options,
    )
    return made


def frames_in_order(dataset: Dataset, order: Sequence[int]) -> Dataset:
    """The same segmentation with its frames stored in another order, or only some of them."""
    frames = dataset.pixel_array.reshape(-1, dataset.Rows, dataset.Columns)
    groups = dataset.PerFrameFunctionalGroupsSequence
    dataset.PerFrameFunctionalGroupsSequence = [groups[index] for index in order]
    dataset.NumberOfFrames = len(order)
    bits = frames[list(order)].ravel()
    packed = np.packbits(bits, bitorder="little").tobytes() if dataset.BitsAllocated == 1 else bits.tobytes()
    dataset.PixelData = packed + b"\0" * (len(packed) % 2)
    return dataset


def save(dataset: Dataset, path: Path) -> Path:
    """Write it."""
    dataset.save_as(path)
    return path
