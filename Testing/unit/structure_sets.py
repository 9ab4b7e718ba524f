"""RTSTRUCT and SEG files as the tests want them: from masks and from points, well made or hostile."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from P2SAMSlicerLib.dicom.ct_reference import CtReference, SliceReference
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.volume import BoolArray
from pydicom import Dataset
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, RTStructureSetStorage, generate_uid

PATIENT, NAME = "SECRET-0815", "Doe^Jane"
FRAME, SERIES, STUDY = "1.2.3.5", "1.2.3.4", "1.2.3"
Points = NDArray[np.float64]


@dataclass
class Roi:
    """A structure to be written.

    :param contours: LPS points ``(n, 3)`` each, or any text as ``ContourData``.
    :param roi: further elements of its ``StructureSetROISequence`` item.
    :param observation: the same of its observation.
    """

    name: str
    contours: Sequence[Points | str | list[Any]] = ()
    kind: str = "CLOSED_PLANAR"
    color: Any = (255, 128, 0)
    frame: str | None = FRAME
    images: Sequence[str] = ()
    roi: Mapping[str, Any] = field(default_factory=dict)
    observation: Mapping[str, Any] = field(default_factory=dict)


def item(**elements: Any) -> Dataset:
    """A dataset with these elements; None leaves one out."""
    made = Dataset()
    for key, value in elements.items():
        if value is not None:
            setattr(made, key, value)
    return made


def structure_set(rois: Sequence[Roi], **elements: Any) -> FileDataset:
    """An RTSTRUCT; elements override, None leaves one out."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = RTStructureSetStorage, ExplicitVRLittleEndian
    meta.MediaStorageSOPInstanceUID = generate_uid()
    made = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    referenced = item(
        FrameOfReferenceUID=FRAME,
        RTReferencedStudySequence=[
            item(ReferencedSOPInstanceUID=STUDY, RTReferencedSeriesSequence=[item(SeriesInstanceUID=SERIES)])
        ],
    )
    standard: dict[str, Any] = {
        "SOPClassUID": RTStructureSetStorage,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "Modality": "RTSTRUCT",
        "PatientID": PATIENT,
        "PatientName": NAME,
        "StructureSetLabel": "PLAN",
        "ReferencedFrameOfReferenceSequence": [referenced],
        "StructureSetROISequence": [
            item(ROINumber=number, ROIName=roi.name, ReferencedFrameOfReferenceUID=roi.frame, **roi.roi)
            for number, roi in enumerate(rois, 1)
        ],
        "ROIContourSequence": [_contours(number, roi) for number, roi in enumerate(rois, 1)],
        "RTROIObservationsSequence": [
            item(ObservationNumber=number, ReferencedROINumber=number, **roi.observation) for number, roi in enumerate(rois, 1)
        ],
    }
    for key, value in (standard | elements).items():
        if value is not None:
            setattr(made, key, value)
    return made


def _contours(number: int, roi: Roi) -> Dataset:
    sequence = []
    for each in roi.contours:
        flat = each if not isinstance(each, np.ndarray) else [f"{value:.10g}" for value in each.ravel()]
        sequence.append(
            item(
                ContourImageSequence=[
                    item(ReferencedSOPClassUID=CTImageStorage, ReferencedSOPInstanceUID=uid) for uid in roi.images
                ]
                or None,
                ContourGeometricType=roi.kind,
                NumberOfContourPoints=len(each) if isinstance(each, np.ndarray) else None,
                ContourData=flat,
            )
        )
    return item(ReferencedROINumber=number, ROIDisplayColor=list(roi.color) if roi.color else None, ContourSequence=sequence)


def write(dataset: FileDataset, path: Path) -> Path:
    """Write it; pydicom's remarks on strange values are kept."""
    dataset.save_as(path, enforce_file_format=True)
    return path


def reference(grid: Grid, **fields: Any) -> CtReference:
    """The images behind a CT on a grid."""
    slices = []
    for k in range(grid.shape[0]):
        x, y, z = (float(value) for value in grid.to_physical(np.array([[0.0, 0.0, k]]))[0])
        slices.append(SliceReference(CTImageStorage, f"1.2.3.4.{k + 1}", None, (x, y, z)))
    values: dict[str, Any] = {
        "header": item(PatientID=PATIENT, PatientName=NAME),
        "study_uid": STUDY,
        "series_uid": SERIES,
        "frame_of_reference_uid": FRAME,
        "slices": tuple(slices),
    }
    return CtReference(**(values | fields))


def rectangle(grid: Grid, low: tuple[float, float], high: tuple[float, float], place: float) -> Points:
    """Corners of a rectangle in voxel indices ``(x, y)`` on a plane (slice index), as LPS points."""
    (x0, y0), (x1, y1) = low, high
    return grid.to_physical(np.array([[x0, y0, place], [x1, y0, place], [x1, y1, place], [x0, y1, place]]))


def edge_outlines(mask: NDArray[np.bool_]) -> list[NDArray[np.float64]]:
    """Closed loops along the voxel edges of a 2-D mask, as ``(x, y)`` in voxel indices; holes are loops of their own."""
    padded = np.pad(mask, 1)
    following: dict[tuple[int, int], list[tuple[int, int]]] = {}

    def add(places: Iterable[Any], start: tuple[int, int], end: tuple[int, int]) -> None:
        for y, x in places:
            following.setdefault((x + start[0], y + start[1]), []).append((x + end[0], y + end[1]))

    # Each edge with the inside on its right; corner (x, y) is the upper left one of voxel (x, y) of the padded mask.
    add(np.argwhere(padded[1:] & ~padded[:-1]) + np.array([1, 0]), (0, 0), (1, 0))
    add(np.argwhere(padded[:-1] & ~padded[1:]), (1, 1), (0, 1))
    add(np.argwhere(padded[:, 1:] & ~padded[:, :-1]) + np.array([0, 1]), (0, 1), (0, 0))
    add(np.argwhere(padded[:, :-1] & ~padded[:, 1:]), (1, 0), (1, 1))
    loops = []
    while following:
        start = next(iter(following))
        loop = [start]
        while True:
            ends = following[loop[-1]]
            step = ends.pop()
            if not ends:
                del following[loop[-1]]
            if step == start:
                break
            loop.append(step)
        loops.append(np.array(loop, dtype=np.float64) - 1.5)
    return loops


def outlines_on(mask: BoolArray, grid: Grid) -> list[Points]:
    """The voxel-edge outlines of all slices of a mask, as LPS points."""
    found = []
    for k, plane in enumerate(mask):
        for loop in edge_outlines(plane):
            found.append(grid.to_physical(np.column_stack([loop, np.full(len(loop), float(k))])))
    return found
