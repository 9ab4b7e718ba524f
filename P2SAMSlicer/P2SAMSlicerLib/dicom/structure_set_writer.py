"""Writing contours as a DICOM RT structure set.

It refers to every slice of the CT, has new UIDs of its own, and is always UNAPPROVED: a review within this tool is no approval,
which is for the planning system to give. Contours are drawn along voxel edges (:mod:`P2SAMSlicerLib.dicom.mask_polygon`), so
that the structure set says exactly what the mask says.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.dicom.bounded_read import STRUCTURE_SET_CLASS, quiet
from P2SAMSlicerLib.dicom.ct_reference import CtReference, SliceReference
from P2SAMSlicerLib.dicom.export_contours import ExportContour
from P2SAMSlicerLib.dicom.mask_polygon import slice_contours
from P2SAMSlicerLib.dicom.new_object import (
    RESEARCH_STATEMENT,
    add_common,
    check_contours,
    label,
    text_value,
    use_fitting_character_set,
    write_new,
)
from P2SAMSlicerLib.dicom.roi_names import roi_names
from P2SAMSlicerLib.dicom.round_trip import RoundTrip, comes_back, round_trip
from P2SAMSlicerLib.dicom.segment_codes import Code, interpreted_type, segment_codes
from P2SAMSlicerLib.dicom.slice_places import SlicePlace, reference_warnings, slice_places
from P2SAMSlicerLib.geometry import Grid

if TYPE_CHECKING:
    from pydicom import Dataset

#: What the reference to a study names as its class; retired, but there is no other, and planning systems ask for it.
STUDY_CLASS = "1.2.840.10008.3.1.2.3.1"

SERIES_NUMBER = 9001

#: Colours for contours that have none.
COLORS = ((255, 64, 64), (64, 160, 255), (64, 200, 64), (255, 160, 0), (200, 80, 255), (0, 200, 200), (240, 220, 0))

#: Coordinates are rounded to this many decimals (mm) and significant digits, which always fit into the 16 bytes of a DS.
DECIMALS, DIGITS = 6, 10


def write_structure_set(
    path: Path | str,
    contours: Sequence[ExportContour],
    grid: Grid,
    reference: CtReference,
    *,
    predecessor: str | None = None,
    overwrite: bool = False,
) -> tuple[RoundTrip, ...]:
    """Write contours as an RT structure set; the file appears whole, and read back, or not at all.

    :param contours: at least one, none of them empty; masks on ``grid``.
    :param grid: of the CT.
    :param reference: the CT's stored slices.
    :param predecessor: SOPInstanceUID of the structure set from which these contours were carried, where it is known.
    :param overwrite: replace a file that this tool wrote before; any other is never replaced.
    :returns: what writing and reading changed, in the order of the contours: nothing on any contoured slice, or an error is
        raised; see :func:`~P2SAMSlicerLib.dicom.round_trip.comes_back` for evenly spaced gaps between them.
    :raises InputError: nothing to write, or the slices are not those of the grid.
    :raises OutputError: no space, no permission, a file of that name, or what was written does not read back the same.
    """
    check_contours(contours, grid, reference)
    places = slice_places(grid, reference)
    names = roi_names([each.source_name for each in contours], [each.comparison for each in contours])
    with quiet():
        dataset = _structure_set(contours, names, grid, reference, places, predecessor)

    def read_back(file: Path) -> list[tuple[RoundTrip, bool]]:
        from P2SAMSlicerLib.dicom.structure_set_reader import read_structure_set

        found = {each.name: each.mask for each in read_structure_set(file, grid, reference, names).segmentation.segments}
        return [
            (round_trip(each.name, name, each.mask, found[name], grid), comes_back(each.mask, found[name]))
            for each, name in zip(contours, names, strict=True)
        ]

    return write_new(path, dataset, reference, read_back, overwrite=overwrite)


def _structure_set(
    contours: Sequence[ExportContour],
    names: Sequence[str],
    grid: Grid,
    reference: CtReference,
    places: Sequence[SlicePlace],
    predecessor: str | None,
) -> Dataset:
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ImplicitVRLittleEndian

    now = datetime.now().astimezone()
    dataset = Dataset()
    add_common(dataset, reference, contours, now)
    dataset.SOPClassUID, dataset.Modality = STRUCTURE_SET_CLASS, "RTSTRUCT"
    dataset.SeriesNumber, dataset.InstanceNumber = SERIES_NUMBER, 1
    dataset.StructureSetLabel = label(contours)
    dataset.StructureSetDescription = text_value(" ".join([RESEARCH_STATEMENT, *reference_warnings(reference)]), "ST")
    dataset.StructureSetDate, dataset.StructureSetTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    if predecessor:
        dataset.PredecessorStructureSetSequence = [_reference(STRUCTURE_SET_CLASS, predecessor)]
    dataset.ReferencedFrameOfReferenceSequence = [_frame_of_reference(reference)]
    dataset.StructureSetROISequence, dataset.ROIContourSequence, dataset.RTROIObservationsSequence = [], [], []
    for number, (contour, name) in enumerate(zip(contours, names, strict=True), 1):
        dataset.StructureSetROISequence.append(_roi(number, contour, name, grid, reference))
        dataset.ROIContourSequence.append(_roi_contour(number, contour, grid, places))
        dataset.RTROIObservationsSequence.append(_observation(number, contour, name))
    dataset.ApprovalStatus = "UNAPPROVED"
    use_fitting_character_set(dataset, [text for each in contours for text in (each.description, each.reviewer)])
    dataset.file_meta = FileMetaDataset()
    # Implicit: a contour of many points is longer than what a DS can hold with an explicit type.
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    return dataset


def _frame_of_reference(reference: CtReference) -> Dataset:
    """The frame of reference with study, series and every slice of the CT."""
    from pydicom.dataset import Dataset

    series = Dataset()
    series.SeriesInstanceUID = reference.series_uid
    frames: dict[tuple[str, str], list[int]] = {}
    for each in reference.slices:
        found = frames.setdefault((each.sop_class_uid, each.sop_instance_uid), [])
        if each.frame is not None:
            found.append(each.frame)
    series.ContourImageSequence = [_reference(*object_, sorted(set(found))) for object_, found in frames.items()]
    study = _reference(STUDY_CLASS, reference.study_uid)
    study.RTReferencedSeriesSequence = [series]
    frame = Dataset()
    frame.FrameOfReferenceUID = reference.frame_of_reference_uid
    frame.RTReferencedStudySequence = [study]
    return frame


def _reference(sop_class: str, instance: str, frames: Sequence[int] = ()) -> Dataset:
    from pydicom.dataset import Dataset

    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, instance
    if frames:
        item.ReferencedFrameNumber = list(frames)
    return item


def _image(stored: SliceReference) -> Dataset:
    return _reference(stored.sop_class_uid, stored.sop_instance_uid, () if stored.frame is None else [stored.frame])


def _roi(number: int, contour: ExportContour, name: str, grid: Grid, reference: CtReference) -> Dataset:
    from pydicom.dataset import Dataset

    roi = Dataset()
    roi.ROINumber, roi.ROIName = number, name
    roi.ReferencedFrameOfReferenceUID = reference.frame_of_reference_uid
    roi.ROIDescription = text_value(" ".join([contour.description, *reference_warnings(reference)]), "ST")
    roi.ROIVolume = f"{np.count_nonzero(contour.mask) * grid.voxel_ml:.{DIGITS}g}"
    roi.ROIGenerationAlgorithm = contour.algorithm
    roi.ROIGenerationDescription = text_value(contour.algorithm_name, "LO")
    return roi


def _roi_contour(number: int, contour: ExportContour, grid: Grid, places: Sequence[SlicePlace]) -> Dataset:
    from pydicom.dataset import Dataset

    item = Dataset()
    item.ReferencedROINumber = number
    color = contour.color
    item.ROIDisplayColor = (
        list(COLORS[(number - 1) % len(COLORS)]) if color is None else [round(255 * min(max(each, 0), 1)) for each in color]
    )
    item.ContourSequence = []
    for z in np.flatnonzero(contour.mask.any(axis=(1, 2))).tolist():
        for polygon in slice_contours(contour.mask[z]):
            points = grid.to_physical(np.column_stack([polygon, np.full(len(polygon), float(z))])) + places[z].offset
            outline = Dataset()
            outline.ContourNumber = len(item.ContourSequence) + 1
            outline.ContourImageSequence = [_image(places[z].stored)]
            outline.ContourGeometricType = "CLOSED_PLANAR"
            outline.NumberOfContourPoints = len(points)
            outline["ContourData"] = _coordinates(points)
            item.ContourSequence.append(outline)
    return item


def _coordinates(points: NDArray[np.float64]) -> Any:
    """ContourData as it stands in the file; making every number an object of its own would take many times as long."""
    from pydicom.dataelem import RawDataElement
    from pydicom.tag import Tag

    # Adding zero makes minus zero zero.
    text = "\\".join(format(each, f".{DIGITS}g") for each in (np.round(points, DECIMALS) + 0.0).ravel().tolist())
    value = (text + " " * (len(text) % 2)).encode("ascii")
    return RawDataElement(Tag("ContourData"), "DS", len(value), value, 0, True, True)


def _observation(number: int, contour: ExportContour, name: str) -> Dataset:
    from pydicom.dataset import Dataset

    item = Dataset()
    item.ObservationNumber = item.ReferencedROINumber = number
    item.ROIObservationLabel = name
    item.RTROIInterpretedType = interpreted_type(contour.source_name, contour.terminology, contour.source_tags)
    item.RTROIIdentificationCodeSequence = [_code(segment_codes(contour.source_name, contour.terminology).type)]
    item.ROIInterpreter = text_value(contour.reviewer, "PN")
    return item


def _code(code: Code) -> Dataset:
    from pydicom.dataset import Dataset

    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code.value, code.scheme, code.meaning
    return item
