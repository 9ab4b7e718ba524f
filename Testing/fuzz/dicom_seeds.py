"""Small undamaged DICOM files from which hostile ones are made: a CT of three slices in three forms, and its contours."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from dicom_tree import DicomFile, parsed

#: What stands for the patient's identity in every file, and may be in no message.
MARKER = "FUZZ"
PATIENT_NAME, PATIENT_ID, DATE = f"{MARKER}^PATIENT", f"{MARKER}-4711", "19310203"
#: Root of all UIDs.
ROOT = "1.2.826.0.1.3680043.10.4711"
STUDY, SERIES, FRAME = f"{ROOT}.1", f"{ROOT}.2", f"{ROOT}.3"
SIZE, SLICES = 8, 3
CT, RTSTRUCT, SEG = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.481.3", "1.2.840.10008.5.1.4.1.1.66.4"
ENHANCED_CT, LABEL_MAP = "1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.66.7"


@dataclass(frozen=True)
class Seed:
    """Files that belong together.

    :param files: by name; the first is the one that is changed most.
    :param ct: names of those that are one CT series.
    """

    name: str
    files: dict[str, bytes]
    ct: tuple[str, ...] = ()


def dataset(sop_class: str, instance: str, modality: str, series: str = SERIES, **tags: Any) -> Any:
    """A data set with the marked patient."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UID(sop_class), UID(f"{ROOT}.{instance}")
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    usual = {
        "SpecificCharacterSet": "ISO_IR 100",
        "SOPClassUID": sop_class,
        "SOPInstanceUID": f"{ROOT}.{instance}",
        "StudyInstanceUID": STUDY,
        "SeriesInstanceUID": series,
        "FrameOfReferenceUID": FRAME,
        "Modality": modality,
        "PatientName": PATIENT_NAME,
        "PatientID": PATIENT_ID,
        "PatientBirthDate": DATE,
        "PatientSex": "O",
        "AccessionNumber": f"{MARKER}ACC",
        "ReferringPhysicianName": f"{MARKER}^DOCTOR",
        "StudyID": f"{MARKER}1",
        "StudyDate": DATE,
        "StudyTime": "101112",
        "AcquisitionDate": DATE,
        "AcquisitionTime": "101113",
        "SeriesDescription": f"{MARKER} series",
        "InstanceNumber": 1,
    }
    for key, value in (usual | tags).items():
        setattr(made, key, value)
    return made


def item(**tags: Any) -> Any:
    """An item of a sequence."""
    from pydicom import Dataset

    made = Dataset()
    for key, value in tags.items():
        setattr(made, key, value)
    return made


def as_bytes(made: Any) -> bytes:
    """The file of a data set."""
    stream = io.BytesIO()
    made.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def pixels() -> Any:
    """Stored values ``(z, y, x)`` of a body in air with a lesion."""
    values = np.full((SLICES, SIZE, SIZE), 24, dtype=np.uint16)
    values[:, 1:-1, 1:-1] = 1060
    values[:, 3:5, 3:5] = 1110
    return values


def ct_slices() -> list[Any]:
    """The classic slices."""
    return [
        dataset(
            CT,
            f"4.{k + 1}",
            "CT",
            ImageType=["ORIGINAL", "PRIMARY", "AXIAL"],
            InstanceNumber=k + 1,
            ImagePositionPatient=[-7.0, -7.0, 3.0 * k],
            ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
            PixelSpacing=[2.0, 2.0],
            SliceThickness=3.0,
            RescaleSlope=1,
            RescaleIntercept=-1024,
            RescaleType="HU",
            **_image(pixels()[k]),
        )
        for k in range(SLICES)
    ]


def _image(values: Any) -> dict[str, Any]:
    return {
        "Rows": SIZE,
        "Columns": SIZE,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 0,
        "PixelData": values.tobytes(),
    }


def multi_frame_ct() -> Any:
    """The same as one enhanced CT."""
    shared = item(
        PlaneOrientationSequence=[item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
        PixelMeasuresSequence=[item(PixelSpacing=[2.0, 2.0], SliceThickness=3.0)],
        PixelValueTransformationSequence=[item(RescaleSlope=1, RescaleIntercept=-1024, RescaleType="HU")],
        CTImageFrameTypeSequence=[item(FrameType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"])],
    )
    frames = [
        item(
            FrameContentSequence=[item(StackID="1", InStackPositionNumber=k + 1)],
            PlanePositionSequence=[item(ImagePositionPatient=[-7.0, -7.0, 3.0 * k])],
        )
        for k in range(SLICES)
    ]
    return dataset(
        ENHANCED_CT,
        "5.1",
        "CT",
        ImageType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"],
        NumberOfFrames=SLICES,
        SharedFunctionalGroupsSequence=[shared],
        PerFrameFunctionalGroupsSequence=frames,
        **_image(pixels()),
    )


def structure_set() -> Any:
    """Two structures on the classic slices."""
    images = [item(ReferencedSOPClassUID=CT, ReferencedSOPInstanceUID=f"{ROOT}.4.{k + 1}") for k in range(SLICES)]
    series = item(SeriesInstanceUID=SERIES, ContourImageSequence=images)
    study = item(
        ReferencedSOPClassUID="1.2.840.10008.3.1.2.3.1", ReferencedSOPInstanceUID=STUDY, RTReferencedSeriesSequence=[series]
    )

    def contours(half: float) -> list[Any]:
        corners = [(-half, -half), (half, -half), (half, half), (-half, half)]
        return [
            item(
                ContourImageSequence=[images[k]],
                ContourGeometricType="CLOSED_PLANAR",
                NumberOfContourPoints=4,
                ContourData=[value for x, y in corners for value in (x, y, 3.0 * k)],
            )
            for k in range(SLICES)
        ]

    names = ("GTV", "Body")
    return dataset(
        RTSTRUCT,
        "6.1",
        "RTSTRUCT",
        f"{ROOT}.6",
        StructureSetLabel=f"{MARKER} plan",
        StructureSetDate=DATE,
        StructureSetTime="111213",
        ReferencedFrameOfReferenceSequence=[item(FrameOfReferenceUID=FRAME, RTReferencedStudySequence=[study])],
        StructureSetROISequence=[
            item(ROINumber=n, ReferencedFrameOfReferenceUID=FRAME, ROIName=name, ROIGenerationAlgorithm="MANUAL")
            for n, name in enumerate(names, 1)
        ],
        ROIContourSequence=[
            item(ReferencedROINumber=n, ROIDisplayColor=[255, 0, 9], ContourSequence=contours(2.5 * n)) for n in (1, 2)
        ],
        RTROIObservationsSequence=[
            item(ObservationNumber=n, ReferencedROINumber=n, RTROIInterpretedType="GTV", ROIInterpreter="") for n in (1, 2)
        ],
        ApprovalStatus="UNAPPROVED",
    )


def segmentation(kind: str) -> Any:
    """Two segments on the classic slices."""
    import highdicom
    from pydicom.sr.coding import Code

    masks = np.zeros((SLICES, SIZE, SIZE, 2), dtype=np.uint8)
    masks[:, 3:5, 3:5, 0] = 1
    masks[:, 6:7, 1:7, 1] = 1
    array: Any = masks
    if kind == "LABELMAP":
        array = (masks * np.array([1, 2], dtype=np.uint8)).max(axis=-1)
    elif kind == "FRACTIONAL":
        array = masks.astype(np.float64)
    described = [
        highdicom.seg.SegmentDescription(
            n,
            name,
            Code("49755003", "SCT", "Morphologically Altered Structure"),
            Code("4147007", "SCT", "Mass"),
            highdicom.seg.SegmentAlgorithmTypeValues.MANUAL,
        )
        for n, name in enumerate(("GTV", "Node"), 1)
    ]
    return highdicom.seg.Segmentation(
        ct_slices(),
        array,
        kind,
        described,
        series_instance_uid=f"{ROOT}.7",
        series_number=7,
        sop_instance_uid=f"{ROOT}.7.{len(kind)}",
        instance_number=1,
        manufacturer="test",
        manufacturer_model_name="test",
        software_versions="1",
        device_serial_number="1",
    )


@cache
def seeds() -> tuple[Seed, ...]:
    """All of them; with real files where the shared data are there."""
    from P2SAMSlicerLib.dicom.bounded_read import quiet
    from pydicom.uid import JPEGLSLossless, RLELossless

    with quiet():
        slices = {f"ct_{k}.dcm": as_bytes(each) for k, each in enumerate(ct_slices(), 1)}
        structures = as_bytes(structure_set())
        names = tuple(slices)
        made = [
            Seed("ct", slices, names),
            Seed("multi-frame ct", {"frames.dcm": as_bytes(multi_frame_ct())}, ("frames.dcm",)),
            Seed("rtstruct", {"structures.dcm": structures, **slices}, names),
        ]
        for kind in ("BINARY", "FRACTIONAL", "LABELMAP"):
            made.append(Seed(f"seg {kind.lower()}", {"seg.dcm": as_bytes(segmentation(kind)), **slices}, names))
        for syntax in (RLELossless, JPEGLSLossless):
            packed = {}
            for k, each in enumerate(ct_slices(), 1):
                each.compress(syntax, generate_instance_uid=False)
                packed[f"ct_{k}.dcm"] = as_bytes(each)
            made.append(Seed(f"ct {syntax.keyword}", packed, names))
        made += _real_seeds()
    return tuple(made)


def _real_seeds() -> list[Seed]:
    """Small real files beside the checkout, in explicit little-endian order."""
    named = os.environ.get("P2SAM_SHARED_DATA")
    data = (Path(named) if named else Path(__file__).resolve().parents[3] / "shared" / "data") / "dicom"
    found = []
    for name, ct, more in (
        ("real enhanced ct", ["enhanced_multiframe_ct/mf.dcm"], []),
        ("real seg", ["seg_highdicom_ct/ct_image.dcm"], ["seg_highdicom_ct/seg_image_ct_binary_overlap.dcm"]),
        ("real fractional seg", ["seg_highdicom_ct/ct_image.dcm"], ["seg_highdicom_ct/seg_image_ct_true_fractional.dcm"]),
    ):
        if all((data / each).is_file() for each in (*ct, *more)):
            files = {Path(each).name: _rewritten(data / each) for each in (*more, *ct)}
            found.append(Seed(name, files, tuple(Path(each).name for each in ct)))
    return found


def _rewritten(path: Path) -> bytes:
    import pydicom
    from pydicom.uid import ExplicitVRLittleEndian

    made = pydicom.dcmread(path)
    if made.file_meta.TransferSyntaxUID.is_compressed:
        made.decompress()
    for each in made.iterall():
        each.is_undefined_length = False
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    stream = io.BytesIO()
    made.save_as(stream, implicit_vr=False, little_endian=True, enforce_file_format=True)
    return stream.getvalue()


@cache
def tree(seed: str, name: str) -> DicomFile:
    """A file of the seed of this name as a tree; copy it before it is changed."""
    (found,) = [each for each in seeds() if each.name == seed]
    return parsed(found.files[name])


@cache
def secrets() -> tuple[str, ...]:
    """Texts that may be in no message: the marker, UIDs, dates, and what identifies the real files."""
    import pydicom

    found = {MARKER, ROOT, DATE, "1931-02-03"}
    for seed in seeds():
        if not seed.name.startswith("real"):
            continue
        for data in seed.files.values():
            header = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True)
            for keyword in ("PatientName", "PatientID", "PatientBirthDate", "StudyDate", "SeriesInstanceUID", "SOPInstanceUID"):
                found.add(str(header.get(keyword, "") or ""))
    return tuple(sorted(each for each in found if len(each) >= 8 or each == MARKER))
