"""One stored slice of a CT series: a classic file, or one frame of a multi-frame object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.dicom.header import floats
from P2SAMSlicerLib.errors import InputError

if TYPE_CHECKING:
    from pydicom import Dataset

#: What is read of a slice's header.
SLICE_TAGS = (
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "PatientID"),
    *("Modality", "ImageType", "NumberOfFrames", "InstanceNumber", "AcquisitionDateTime"),
    *("AcquisitionDate", "AcquisitionTime", "SeriesDate", "SeriesTime", "StudyDate", "StudyTime"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
    *("GantryDetectorTilt", "Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "PixelRepresentation"),
    *("RescaleSlope", "RescaleIntercept", "RescaleType", "PixelPaddingValue", "PixelPaddingRangeLimit"),
)


@dataclass
class StoredSlice:
    """One slice, header only.

    :param path: the file that holds it.
    :param header: the tags of :data:`SLICE_TAGS`; those of a frame are gathered from the functional groups.
    :param called: its name in messages: the file's name, or a number where file names must not be told.
    :param frame: number within a multi-frame object, from 1; None for a classic slice.
    :param position: LPS mm of the centre of its first voxel, set when the stack is made.
    """

    path: Path
    header: Dataset
    called: str
    frame: int | None = None
    position: NDArray[np.float64] = field(default_factory=lambda: np.zeros(3))

    def floats(self, tag: str, count: int, name: str) -> NDArray[np.float64]:
        """``count`` finite numbers of a tag.

        :param name: the series, for the message.
        :raises InputError: absent, too few, or no numbers.
        """
        values = floats(self.header, tag, count)
        if values is None:
            raise InputError(f"{name}: {self.called} has no usable {tag}")
        return values


def called(slices: Sequence[StoredSlice], most: int = 4) -> str:
    """Slices in words."""
    shown = ", ".join(each.called for each in slices[:most])
    return shown if len(slices) <= most else f"{shown} and {len(slices) - most} more"
