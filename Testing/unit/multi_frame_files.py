"""Enhanced and legacy-converted multi-frame CT objects, made of classic slices for tests."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileDataset
from pydicom.uid import UID, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage, generate_uid

__all__ = ["EnhancedCTImageStorage", "LegacyConvertedEnhancedCTImageStorage", "make_multi_frame"]

_OF_FRAMES = (
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"),
    *("RescaleSlope", "RescaleIntercept", "RescaleType", "InstanceNumber", "AcquisitionDate", "AcquisitionTime", "ImageType"),
)


def _group(**tags: Any) -> Dataset:
    item = Dataset()
    for tag, value in tags.items():
        setattr(item, tag, value)
    return item


def make_multi_frame(
    slices: Sequence[FileDataset], sop_class: UID = EnhancedCTImageStorage, *, shared: bool = True, **tags: Any
) -> FileDataset:
    """One object whose frames are these slices, in this order.

    :param shared: orientation, pixel size and rescale in the shared functional groups, else in those of each frame.
    """
    top = deepcopy(slices[0])
    top.file_meta.MediaStorageSOPClassUID = sop_class
    top.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    for tag in _OF_FRAMES:
        if tag in top:
            delattr(top, tag)
    top.SOPClassUID, top.SOPInstanceUID = sop_class, top.file_meta.MediaStorageSOPInstanceUID
    top.AcquisitionDateTime = "20240229101530.5"
    top.NumberOfFrames = len(slices)
    top.PixelData = b"".join(each.PixelData for each in slices)
    groups = [_groups_of(each) for each in slices]
    of_all = Dataset()
    if shared:
        for keyword in ("PlaneOrientationSequence", "PixelMeasuresSequence", "PixelValueTransformationSequence"):
            setattr(of_all, keyword, getattr(groups[0], keyword))
            for group in groups:
                delattr(group, keyword)
    top.SharedFunctionalGroupsSequence = [of_all]
    top.PerFrameFunctionalGroupsSequence = groups
    for tag, value in tags.items():
        setattr(top, tag, value)
    return top


def _groups_of(each: FileDataset) -> Dataset:
    return _group(
        FrameContentSequence=[_group(StackID="1")],
        PlanePositionSequence=[_group(ImagePositionPatient=list(each.ImagePositionPatient))],
        PlaneOrientationSequence=[_group(ImageOrientationPatient=list(each.ImageOrientationPatient))],
        PixelMeasuresSequence=[_group(PixelSpacing=list(each.PixelSpacing), SliceThickness=each.SliceThickness)],
        PixelValueTransformationSequence=[
            _group(RescaleSlope=each.RescaleSlope, RescaleIntercept=each.RescaleIntercept, RescaleType="HU")
        ],
        CTImageFrameTypeSequence=[_group(FrameType=list(np.atleast_1d(each.ImageType)))],
    )
