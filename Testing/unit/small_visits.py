"""Small synthetic visits and results for the tests of the command line and of what it writes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.result import Candidate, Outcome, SegmentResult, SliceResult, VisitResult
from P2SAMSlicerLib.segmentation_file import write_segmentation
from P2SAMSlicerLib.volume import BoolArray, Segment, Segmentation, Volume
from P2SAMSlicerLib.volume_file import write_volume

PRIOR_GRID = Grid((8, 24, 24), (3.0, 3.0, 5.0), (-36.0, -36.0, -20.0))
FOLLOWUP_GRID = Grid((10, 28, 26), (2.5, 2.7, 4.0), (-33.0, -38.0, -20.0))

TERMINOLOGY = {
    "contextName": "Segmentation category and type - 3D Slicer General Anatomy list",
    "category": ["SCT", "49755003", "Morphologically Altered Structure"],
    "type": ["SCT", "4147007", "Mass"],
    "anatomicContextName": "Anatomic codes - DICOM master list",
    "anatomicRegion": ["SCT", "39607008", "Lung"],
}


def ball(grid: Grid, radius_mm: float, centre: Sequence[float] = (0.0, 0.0, 0.0)) -> BoolArray:
    """The voxels whose centres lie within a ball."""
    nz, ny, nx = grid.shape
    z, y, x = np.meshgrid(np.arange(nz), np.arange(ny), np.arange(nx), indexing="ij")
    points = grid.to_physical(np.stack([x, y, z], axis=-1).reshape(-1, 3).astype(float))
    inside: BoolArray = (np.linalg.norm(points - np.asarray(centre), axis=1) <= radius_mm).reshape(grid.shape)
    return inside


def phantom(grid: Grid, name: str = "ct") -> Volume:
    """Air, a ball of fat, soft tissue in it, and a lesion of 10 mm at the origin, in HU with some noise."""
    array = np.full(grid.shape, -1000.0)
    for radius, hu in ((34.0, -100.0), (30.0, 40.0), (10.0, 90.0)):
        array[ball(grid, radius)] = hu
    array += np.random.default_rng(0).normal(0, 5, grid.shape)
    return Volume(np.rint(array).astype(np.int16), grid, name)


def segment(name: str = "GTV", mask: BoolArray | None = None, **fields: Any) -> Segment:
    """A segment on the prior's grid with everything that Slicer knows of one."""
    fields = {"color": (1.0, 0.5, 0.0), "terminology": TERMINOLOGY, "tags": {"Clinic.Id": "7"}, **fields}
    return Segment(name, ball(PRIOR_GRID, 10.0) if mask is None else mask, **fields)


def write_visits(folder: Path, *segments: Segment) -> list[str]:
    """Write prior_ct.nii.gz, prior.seg.nrrd and followup.nii.gz.

    :returns: the arguments of ``p2sam propagate`` on them, without --out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_volume(phantom(PRIOR_GRID), folder / "prior_ct.nii.gz")
    write_volume(phantom(FOLLOWUP_GRID), folder / "followup.nii.gz")
    write_segmentation(Segmentation(PRIOR_GRID, segments or (segment(),)), folder / "prior.seg.nrrd")
    files = {"--prior-ct": "prior_ct.nii.gz", "--prior-seg": "prior.seg.nrrd", "--followup-ct": "followup.nii.gz"}
    return ["propagate", *(word for option, name in files.items() for word in (option, str(folder / name)))]


def write_dicom(folder: Path, volume: Volume, patient_id: str, date: str, missing: Sequence[int] = ()) -> Path:
    """Write an axial volume as a DICOM CT series without the slices of these numbers."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    folder.mkdir(parents=True)
    grid = volume.grid
    for number, values in enumerate(volume.array):
        if number in missing:
            continue
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = CTImageStorage, ExplicitVRLittleEndian
        meta.MediaStorageSOPInstanceUID = generate_uid()
        tags: dict[str, Any] = {
            "SOPClassUID": CTImageStorage,
            "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
            "SeriesInstanceUID": "1.2.3.4",
            "StudyInstanceUID": "1.2.3",
            "FrameOfReferenceUID": "1.2.3.5",
            "Modality": "CT",
            "PatientID": patient_id,
            "PatientName": "Doe^Jane",
            "AcquisitionDate": date,
            "InstanceNumber": number + 1,
            "ImagePositionPatient": [grid.origin[0], grid.origin[1], grid.origin[2] + number * grid.spacing[2]],
            "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
            "PixelSpacing": [grid.spacing[1], grid.spacing[0]],
            "RescaleSlope": 1,
            "RescaleIntercept": -1024,
            "Rows": grid.shape[1],
            "Columns": grid.shape[2],
            "SamplesPerPixel": 1,
            "PhotometricInterpretation": "MONOCHROME2",
            "BitsAllocated": 16,
            "BitsStored": 16,
            "HighBit": 15,
            "PixelRepresentation": 0,
        }
        dataset = FileDataset(folder / f"{number:03d}.dcm", {}, file_meta=meta, preamble=b"\0" * 128)
        for key, value in tags.items():
            setattr(dataset, key, value)
        dataset.PixelData = (values.astype(np.int32) + 1024).astype(np.uint16).tobytes()
        dataset.save_as(folder / f"{number:03d}.dcm", enforce_file_format=True)
    return folder


def candidate(origin: str, **figures: float) -> Candidate:
    """A candidate with two positive points and a negative one."""
    values = {"distance": 3.5, "score": 3.25, "predicted_iou": 0.75, **figures}
    return Candidate(
        origin,
        np.ones((4, 4), dtype=np.bool_),
        np.array([[1, 1], [2, 2], [0, 3]], dtype=np.float32),
        np.array([1, 1, 0], dtype=np.int64),
        np.array([0, 0, 3, 3], dtype=np.float32),
        **values,
    )


def segment_result(source: Segment, grid: Grid = FOLLOWUP_GRID, **fields: Any) -> SegmentResult:
    """A segment that was found, with one slice on which a candidate won and one on which none did."""
    chosen = (candidate("registered contour", predicted_iou=float("nan")), candidate("parts 2 + box"))
    values: dict[str, Any] = {
        "outcome": Outcome.FOUND,
        "reasons": (),
        "review_priority": 0.5,
        "mask": ball(grid, 9.0),
        "registered_mask": ball(grid, 10.0),
        "prior_volume_ml": 4.0,
        "volume_ml": 3.0,
        "volume_change_percent": -25.0,
        "centroid_shift_mm": (0.5, -0.25, 0.0),
        "slices": (
            SliceResult(4, -4.0, chosen, 1, 0.25, {"disagreement": 0.25}),
            SliceResult(5, 0.0, (candidate("box", distance=float("inf")),), None, 0.75, {}, lesion=2),
        ),
        "removals": ("a speck of 0.02 ml",),
        **fields,
    }
    return SegmentResult(source=source, **values)


def without_contour(source: Segment, outcome: Outcome, reason: str, **fields: Any) -> SegmentResult:
    """A segment of which there is only the registered prior contour."""
    nothing: dict[str, Any] = dict.fromkeys(("mask", "volume_ml", "volume_change_percent", "centroid_shift_mm"))
    return segment_result(source, outcome=outcome, reasons=(reason,), slices=(), **{**nothing, **fields})


def visit_result(*segments: SegmentResult, name: str = "followup", grid: Grid = FOLLOWUP_GRID, **fields: Any) -> VisitResult:
    """A follow-up to which segments were carried."""
    values: dict[str, Any] = {
        "registration": {"kind": "deformable", "similarity": 0.9, "residual_mm": float("nan")},
        "stage_seconds": {"registration": 1.5, "model": 0.5},
        "warnings": (),
        "overrides": (),
        "provenance": {
            "model": {"id": "lite_medsam"},
            "device": "cpu",
            "options": {"mode": "clinical"},
        },
        **fields,
    }
    return VisitResult(name, grid, segments or (segment_result(segment()),), **values)
