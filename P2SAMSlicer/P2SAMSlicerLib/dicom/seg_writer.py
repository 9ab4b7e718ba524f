"""Writing contours as a DICOM segmentation: the masks themselves, one segment each, on the CT's own voxels.

highdicom lays out the frames. It is given stand-ins for the CT's slices, one for each slice of the grid and without a patient;
what they stand for is put in afterwards, so classic slices, frames of a multi-frame object and resampled volumes are all
treated alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import P2SAMSlicerLib
from P2SAMSlicerLib.dicom.bounded_read import quiet
from P2SAMSlicerLib.dicom.ct_reference import CtReference, SliceReference
from P2SAMSlicerLib.dicom.export_contours import UNREVIEWED, ExportContour, all_reviewed
from P2SAMSlicerLib.dicom.new_object import (
    MANUFACTURER,
    MODEL,
    RESEARCH_STATEMENT,
    add_common,
    check_contours,
    text_value,
    use_fitting_character_set,
    write_new,
)
from P2SAMSlicerLib.dicom.roi_names import roi_names
from P2SAMSlicerLib.dicom.round_trip import RoundTrip, round_trip
from P2SAMSlicerLib.dicom.segment_codes import Code, segment_codes
from P2SAMSlicerLib.dicom.slice_places import SlicePlace, reference_warnings, slice_places
from P2SAMSlicerLib.geometry import Grid

if TYPE_CHECKING:
    from pydicom import Dataset

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
SERIES_NUMBER = 9002
#: There is no device, but the attribute has to have a value.
SERIAL_NUMBER = "none"

#: What made a contour. Registration has no word of its own in DICOM's list (CID 7162); this comes nearest.
ARTIFICIAL_INTELLIGENCE = Code("123110", "DCM", "Artificial Intelligence")
DEFORMABLE_MODELS = Code("123111", "DCM", "Deformable Models")
REGISTRATION_MARK = "(registration)"


def write_dicom_seg(
    path: Path | str,
    contours: Sequence[ExportContour],
    grid: Grid,
    reference: CtReference,
    *,
    overwrite: bool = False,
) -> tuple[RoundTrip, ...]:
    """Write contours as a binary DICOM SEG; the file appears whole, and read back, or not at all.

    :param contours: at least one, none of them empty; masks on ``grid``; they may overlap.
    :param grid: of the CT.
    :param reference: the CT's stored slices.
    :param overwrite: replace a file that this tool wrote before; any other is never replaced.
    :returns: what writing and reading changed, in the order of the contours: nothing, or an error is raised.
    :raises InputError: nothing to write, or the slices are not those of the grid.
    :raises OutputError: no space, no permission, a file of that name, or what was written does not read back the same.
    """
    check_contours(contours, grid, reference)
    places = slice_places(grid, reference)
    names = roi_names([each.source_name for each in contours], [each.comparison for each in contours])
    with quiet():
        dataset = _segmentation(contours, names, grid, reference, places)

    def read_back(file: Path) -> list[tuple[RoundTrip, bool]]:
        from P2SAMSlicerLib.dicom.seg_reader import read_dicom_seg
        from P2SAMSlicerLib.resample import resample_mask

        segmentation = read_dicom_seg(file, names, reference=reference).segmentation
        found = {each.name: resample_mask(each.mask, segmentation.grid, grid) for each in segmentation.segments}
        return [
            (round_trip(each.name, name, each.mask, found[name], grid), bool((each.mask == found[name]).all()))
            for each, name in zip(contours, names, strict=True)
        ]

    return write_new(path, dataset, reference, read_back, overwrite=overwrite)


def _segmentation(
    contours: Sequence[ExportContour],
    names: Sequence[str],
    grid: Grid,
    reference: CtReference,
    places: Sequence[SlicePlace],
) -> Dataset:
    import highdicom
    from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

    used = np.flatnonzero(np.logical_or.reduce([each.mask.any(axis=(1, 2)) for each in contours]))
    slices = range(int(used[0]), int(used[-1]) + 1)
    stand_ins = {z: _stand_in(z, grid, reference) for z in slices}
    reviewed = all_reviewed(contours)
    dataset = highdicom.seg.Segmentation(
        source_images=list(stand_ins.values()),
        pixel_array=np.stack([each.mask[slices.start : slices.stop] for each in contours], axis=-1).astype(np.uint8),
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[
            _description(number, each, name) for number, (each, name) in enumerate(zip(contours, names, strict=True), 1)
        ],
        series_instance_uid=generate_uid(prefix=None),
        series_number=SERIES_NUMBER,
        sop_instance_uid=generate_uid(prefix=None),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=MODEL,
        software_versions=P2SAMSlicerLib.__version__,
        device_serial_number=SERIAL_NUMBER,
        content_label="P2SAM_REVIEWED" if reviewed else f"{UNREVIEWED}_P2SAM",
        # Its length is limited; what more there is to say stands with each segment.
        content_description=text_value(RESEARCH_STATEMENT, "LO"),
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )
    by_stand_in = {str(each.SOPInstanceUID): places[z].stored for z, each in stand_ins.items()}
    _refer_to_slices(dataset, by_stand_in, reference)
    add_common(dataset, reference, contours, datetime.now().astimezone())
    dataset.file_meta.MediaStorageSOPInstanceUID = UID(dataset.SOPInstanceUID)
    for item, contour in zip(dataset.SegmentSequence, contours, strict=True):
        item.SegmentDescription = text_value(" ".join([contour.description, *reference_warnings(reference)]), "ST")
    use_fitting_character_set(dataset, [each.description for each in contours])
    return dataset


def _stand_in(z: int, grid: Grid, reference: CtReference) -> Dataset:
    """A slice of the grid as highdicom wants to see one."""
    from pydicom.dataset import Dataset
    from pydicom.uid import UID, generate_uid
    from pydicom.valuerep import DS

    stand_in = Dataset()
    stand_in.SOPInstanceUID = generate_uid(prefix=None)
    stand_in.Modality = "CT"
    stand_in.SOPClassUID = UID(CT_IMAGE)
    stand_in.StudyInstanceUID, stand_in.SeriesInstanceUID = UID(reference.study_uid), UID(reference.series_uid)
    stand_in.FrameOfReferenceUID = UID(reference.frame_of_reference_uid)
    stand_in.PatientID = stand_in.PatientName = stand_in.PatientBirthDate = stand_in.PatientSex = None
    stand_in.AccessionNumber = stand_in.StudyID = stand_in.StudyDate = stand_in.StudyTime = None
    stand_in.InstanceNumber = z + 1
    stand_in.Rows, stand_in.Columns = grid.shape[1:]
    position = grid.to_physical(np.array([[0.0, 0.0, float(z)]]))[0]
    directions = grid.direction_matrix[:, :2].T.ravel()
    stand_in.ImagePositionPatient = [DS(float(each), auto_format=True) for each in position]
    stand_in.ImageOrientationPatient = [DS(float(each), auto_format=True) for each in directions]
    stand_in.PixelSpacing = [DS(float(each), auto_format=True) for each in (grid.spacing[1], grid.spacing[0])]
    stand_in.SliceThickness = stand_in.SpacingBetweenSlices = DS(float(grid.spacing[2]), auto_format=True)
    return stand_in


def _description(number: int, contour: ExportContour, name: str) -> Any:
    import highdicom
    from pydicom.uid import generate_uid

    codes = segment_codes(contour.source_name, contour.terminology)
    algorithm = text_value(contour.algorithm_name, "LO")
    family = DEFORMABLE_MODELS if REGISTRATION_MARK in algorithm else ARTIFICIAL_INTELLIGENCE
    description = highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=name,
        segmented_property_category=_concept(codes.category),
        segmented_property_type=_concept(codes.type),
        algorithm_type=contour.algorithm,
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name=algorithm, family=_concept(family), version=P2SAMSlicerLib.__version__, source=MANUFACTURER
        ),
        tracking_uid=generate_uid(prefix=None),
        tracking_id=f"{MODEL} {name}",
        anatomic_regions=None if codes.region is None else [_concept(codes.region)],
        display_color=None if contour.color is None else _color(contour.color),
    )
    if codes.type_modifiers:
        modifiers = [_concept(each) for each in codes.type_modifiers]
        description.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = modifiers
    if codes.region is not None and codes.region_modifiers:
        modifiers = [_concept(each) for each in codes.region_modifiers]
        description.AnatomicRegionSequence[0].AnatomicRegionModifierSequence = modifiers
    return description


def _concept(code: Code) -> Any:
    import highdicom

    return highdicom.sr.CodedConcept(value=code.value, scheme_designator=code.scheme, meaning=code.meaning)


def _color(color: Sequence[float]) -> Any:
    import highdicom

    return highdicom.color.CIELabColor.from_rgb(*(round(255 * min(max(each, 0.0), 1.0)) for each in color))


def _refer_to_slices(dataset: Dataset, by_stand_in: dict[str, SliceReference], reference: CtReference) -> None:
    """Put the CT's slices where their stand-ins are; the object as a whole refers to every slice of the series."""
    from pydicom.dataset import Dataset

    for frame in dataset.PerFrameFunctionalGroupsSequence:
        for derivation in frame.DerivationImageSequence:
            for source in derivation.SourceImageSequence:
                stored = by_stand_in.get(str(source.ReferencedSOPInstanceUID))
                if stored is None:
                    continue  # done already: frames of several segments share one item
                _refer(source, stored)
                if stored.frame is not None:
                    source.ReferencedFrameNumber = stored.frame
                if reference.resampled:
                    source.SpatialLocationsPreserved = "NO"
    instances = []
    for stored in {each.sop_instance_uid: each for each in reference.slices}.values():
        item = Dataset()
        _refer(item, stored)
        instances.append(item)
    dataset.ReferencedSeriesSequence[0].ReferencedInstanceSequence = instances
    if "SourceImageSequence" in dataset:
        del dataset.SourceImageSequence


def _refer(item: Dataset, stored: SliceReference) -> None:
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = stored.sop_class_uid, stored.sop_instance_uid
