"""The DICOM images behind a volume: what contours that are drawn on it have to refer to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from P2SAMSlicerLib.volume import Volume

if TYPE_CHECKING:
    from pydicom import Dataset


@dataclass(frozen=True)
class SliceReference:
    """One stored slice.

    :param frame: number of the frame within a multi-frame object, from 1; None for a classic slice.
    :param position: LPS mm of the centre of its first voxel.
    """

    sop_class_uid: str
    sop_instance_uid: str
    frame: int | None
    position: tuple[float, float, float]


@dataclass(frozen=True)
class CtReference:
    """Where a volume comes from. It holds the patient's data: for written DICOM objects only.

    :param header: of the first slice, without pixel data: patient, study, frame of reference.
    :param slices: as they were stored, along the volume's z axis; one for each of its slices unless it was resampled.
    :param resampled: the volume's slices are not the stored ones (an even grid was made, or a tilt taken out).
    """

    header: Dataset
    study_uid: str
    series_uid: str
    frame_of_reference_uid: str
    slices: tuple[SliceReference, ...]
    resampled: bool = False


@dataclass(frozen=True)
class CtSeries:
    """One CT series: its voxels, and the images behind them."""

    volume: Volume
    reference: CtReference
