"""A CT written as DICOM slices, for simulated visits: a patient's folder to try the tool on, as a scanner would have sent it.

Never a copy of a scanner's series: every written CT has new UIDs, is marked DERIVED, and says how it was made.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from P2SAMSlicerLib import __version__
from P2SAMSlicerLib.atomic_file import atomic_folder
from P2SAMSlicerLib.dicom.ct_reference import CtReference, SliceReference
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.volume import Volume

if TYPE_CHECKING:
    from pydicom import Dataset

#: Stored values are HU plus this, as scanners store them: no negative numbers.
INTERCEPT = -1024
#: Highest value that 16 unsigned bits hold.
LARGEST_STORED = 65535


@dataclass(frozen=True)
class WrittenPatient:
    """Who the written CT is of.

    :param patient_id: DICOM PatientID; visits of one patient share it.
    :param name: DICOM PatientName, ``FAMILY^GIVEN``.
    """

    patient_id: str
    name: str


def write_ct_series(
    folder: Path | str,
    volume: Volume,
    patient: WrittenPatient,
    day: date,
    description: str = "simulated, no scan of a patient",
) -> CtReference:
    """Write a volume as one classic CT series, a file a slice, in a study and a frame of reference of its own.

    :param folder: made if needed; all files of the series appear in it or none.
    :param volume: HU ``(z, y, x)`` on a straight grid.
    :param day: of the study and the acquisition.
    :param description: how the CT was made, for series and derivation description; at most 64 characters.
    :returns: what contours on this CT have to refer to; one slice for each of the volume's.
    :raises InputError: values that cannot be stored as HU in 16 bits.
    :raises OutputError: the files cannot be written.
    """
    volume.grid.check(volume.name)
    stored = np.rint(np.asarray(volume.array, dtype=np.float64)) - INTERCEPT
    if not np.isfinite(stored).all() or stored.min() < 0 or stored.max() > LARGEST_STORED:
        raise InputError(f"{volume.name}: holds values that a CT cannot store ({INTERCEPT} to {LARGEST_STORED + INTERCEPT} HU)")
    header = _header(volume.grid, patient, day, description)
    references = []
    with atomic_folder(folder) as stage:
        for index in range(volume.grid.shape[0]):
            dataset = _slice(header, volume.grid, index, stored[index].astype(np.uint16))
            dataset.save_as(stage / f"CT{index + 1:04d}.dcm", enforce_file_format=True)
            x, y, z = (float(value) for value in dataset.ImagePositionPatient)
            references.append(SliceReference(str(dataset.SOPClassUID), str(dataset.SOPInstanceUID), None, (x, y, z)))
            if index == 0:
                header.SOPInstanceUID, header.ImagePositionPatient = dataset.SOPInstanceUID, dataset.ImagePositionPatient
    return CtReference(
        header,
        str(header.StudyInstanceUID),
        str(header.SeriesInstanceUID),
        str(header.FrameOfReferenceUID),
        tuple(references),
    )


def _header(grid: Grid, patient: WrittenPatient, day: date, description: str) -> Dataset:
    """What all slices share."""
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    header = Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.file_meta.MediaStorageSOPClassUID = CTImageStorage
    when = day.strftime("%Y%m%d")
    header.SpecificCharacterSet = "ISO_IR 192"
    header.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]
    header.SOPClassUID = CTImageStorage
    for kind in ("Study", "Series", "Acquisition", "Content"):
        setattr(header, f"{kind}Date", when)
        setattr(header, f"{kind}Time", "120000")
    header.Modality = "CT"
    header.Manufacturer = "P2SAMSlicer"
    header.ManufacturerModelName = "simulated CT"
    header.SoftwareVersions = __version__
    header.SeriesDescription = description
    header.DerivationDescription = description
    header.PatientName, header.PatientID = patient.name, patient.patient_id
    for name in ("PatientBirthDate", "PatientSex", "ReferringPhysicianName", "AccessionNumber", "Laterality"):
        setattr(header, name, "")
    header.PatientPosition = "HFS"
    header.StudyInstanceUID, header.SeriesInstanceUID = generate_uid(prefix=None), generate_uid(prefix=None)
    header.FrameOfReferenceUID = generate_uid(prefix=None)
    header.PositionReferenceIndicator = ""
    header.StudyID = "1"
    header.SeriesNumber, header.AcquisitionNumber = 1, 1
    _describe_pixels(header, grid)
    return header


def _describe_pixels(header: Any, grid: Grid) -> None:
    """How the voxels are stored."""
    direction = grid.direction_matrix
    header.SliceThickness = _decimal(grid.spacing[2])
    header.KVP = ""
    header.ImageOrientationPatient = [_decimal(value) for value in (*direction[:, 0], *direction[:, 1])]
    header.PixelSpacing = [_decimal(grid.spacing[1]), _decimal(grid.spacing[0])]
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.Rows, header.Columns = grid.shape[1], grid.shape[2]
    header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 16, 16, 15, 0
    header.RescaleIntercept, header.RescaleSlope, header.RescaleType = str(INTERCEPT), "1", "HU"


def _slice(header: Dataset, grid: Grid, index: int, stored: Any) -> Dataset:
    """One slice with its place and voxels."""
    import copy

    from pydicom.uid import generate_uid

    dataset = copy.deepcopy(header)
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid(prefix=None)
    dataset.InstanceNumber = index + 1
    position = grid.to_physical(np.array([[0.0, 0.0, float(index)]]))[0]
    dataset.ImagePositionPatient = [_decimal(value) for value in position]
    dataset.PixelData = np.ascontiguousarray(stored, dtype="<u2").tobytes()
    dataset["PixelData"].VR = "OW"
    return dataset


def _decimal(value: float) -> str:
    """A number as DICOM's decimal strings hold it: at most 16 characters."""
    from pydicom.valuerep import format_number_as_ds

    # Rounded first: what is left of a zero (-5.7e-14) would take 17.
    return str(format_number_as_ds(round(float(value), 9)))
