"""What every DICOM object that this tool writes has in common: whose it is, who made it, and how it gets onto the disk.

Patient and study are copied from the CT as they are. An object is read back before it gets its name, so a file that is there
has been compared with what was to be written; one that differs is never there. No file of another program is replaced.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import P2SAMSlicerLib
from P2SAMSlicerLib.atomic_file import atomic_write
from P2SAMSlicerLib.dicom.bounded_read import quiet
from P2SAMSlicerLib.dicom.ct_reference import CtReference
from P2SAMSlicerLib.dicom.export_contours import UNREVIEWED, ExportContour, all_reviewed
from P2SAMSlicerLib.dicom.round_trip import RoundTrip
from P2SAMSlicerLib.errors import InputError, OutputError
from P2SAMSlicerLib.geometry import Grid

if TYPE_CHECKING:
    from pydicom import Dataset

MANUFACTURER = MODEL = "P2SAMSlicer"

#: Patient, general study and patient study modules: copied where they are.
COPIED = (
    *("PatientName", "PatientID", "IssuerOfPatientID", "TypeOfPatientID", "IssuerOfPatientIDQualifiersSequence"),
    *("PatientBirthDate", "PatientBirthTime", "PatientSex", "OtherPatientIDs", "OtherPatientIDsSequence", "OtherPatientNames"),
    *("EthnicGroup", "PatientComments", "PatientSpeciesDescription", "PatientSpeciesCodeSequence", "PatientBreedDescription"),
    *("PatientBreedCodeSequence", "BreedRegistrationSequence", "ResponsiblePerson", "ResponsiblePersonRole"),
    *("ResponsibleOrganization", "PatientIdentityRemoved", "DeidentificationMethod", "DeidentificationMethodCodeSequence"),
    *("QualityControlSubject", "StudyInstanceUID", "StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID"),
    *("AccessionNumber", "IssuerOfAccessionNumberSequence", "StudyDescription", "ProcedureCodeSequence"),
    *("PatientAge", "PatientSize", "PatientWeight", "PatientSexNeutered"),
)
#: Of these, the ones that have to be there, if need be without a value.
REQUIRED = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber"),
)
#: Texts about the study that are cut where the CT has them longer than DICOM allows; other programs would refuse the object.
#: What is said of the patient is never changed.
CUT = {"StudyID": 16, "StudyDescription": 64}

#: Longest values of the kinds of text that are written here.
LENGTHS = {"SH": 16, "LO": 64, "PN": 64, "ST": 1024}

UTF_8 = "ISO_IR 192"

RESEARCH_STATEMENT = (
    "Contours of P2SAMSlicer, for research use only. UNAPPROVED: a review within P2SAMSlicer is no approval. New lesions were"
    " not sought."
)


def series_description(contours: Sequence[ExportContour]) -> str:
    """What a list of series shows."""
    state = "reviewed, not approved" if all_reviewed(contours) else UNREVIEWED
    return f"P2SAMSlicer contours {state}, research use only"


def label(contours: Sequence[ExportContour]) -> str:
    """What a list of structure sets shows, in 16 characters."""
    return "P2SAM REVIEWED" if all_reviewed(contours) else f"{UNREVIEWED} P2SAM"


def check_contours(contours: Sequence[ExportContour], grid: Grid, reference: CtReference) -> None:
    """Refuse what cannot become an object.

    :raises InputError: no contour, an empty one, one that is not on the grid, or a CT without frame of reference or study.
    """
    if not contours:
        raise InputError("there is no contour to export")
    for each in contours:
        if each.mask.shape != grid.shape:
            raise InputError(f"'{each.name}': the contour is not on the CT's grid")
        if not each.mask.any():
            raise InputError(f"'{each.name}': an empty contour is not exported")
    for uid, what in ((reference.frame_of_reference_uid, "frame of reference"), (reference.study_uid, "study")):
        if not uid:
            raise InputError(f"the CT's DICOM headers name no {what}, so contours cannot refer to it")


def add_common(dataset: Dataset, reference: CtReference, contours: Sequence[ExportContour], now: datetime) -> None:
    """Add patient, study, series, equipment and time; series and object get new UIDs.

    :param now: local time of writing.
    """
    from pydicom.uid import generate_uid

    add_patient_and_study(dataset, reference)
    # prefix None: derived from random UUIDs (2.25.), as this project has no registered root.
    dataset.SOPInstanceUID, dataset.SeriesInstanceUID = generate_uid(prefix=None), generate_uid(prefix=None)
    dataset.SeriesDescription = series_description(contours)
    dataset.InstanceCreationDate = dataset.SeriesDate = now.strftime("%Y%m%d")
    dataset.InstanceCreationTime = dataset.SeriesTime = now.strftime("%H%M%S")
    dataset.OperatorsName = ""
    dataset.Manufacturer, dataset.ManufacturerModelName = MANUFACTURER, MODEL
    dataset.SoftwareVersions = P2SAMSlicerLib.__version__
    dataset.FrameOfReferenceUID = reference.frame_of_reference_uid
    dataset.PositionReferenceIndicator = reference.header.get("PositionReferenceIndicator") or ""


def add_patient_and_study(dataset: Dataset, reference: CtReference) -> None:
    """Copy the CT's patient and study, in their character set; what has to be there and is not is left without a value."""
    header = reference.header
    for name in ("SpecificCharacterSet", *COPIED):
        if name in header:
            dataset[name] = deepcopy(header[name])
    for name in REQUIRED:
        if name not in dataset:
            setattr(dataset, name, "")
    for name, longest in CUT.items():
        if name in dataset and isinstance(dataset[name].value, str):
            dataset[name].value = dataset[name].value[:longest]
    dataset.StudyInstanceUID = reference.study_uid


def use_fitting_character_set(dataset: Dataset, texts: Iterable[str]) -> None:
    """Go over to UTF-8 if our own texts hold letters that the CT's character set lacks; the patient's data stays the same."""
    from pydicom.charset import convert_encodings

    own = dataset.get("SpecificCharacterSet")
    encodings = convert_encodings(own) if own else ["ascii"]
    if all(any(_holds(encoding, text) for encoding in encodings) for text in texts):
        return
    for element in dataset.iterall():
        if element.VR == "PN" and element.value:
            # As text, so that it is encoded anew.
            many = element.VM > 1
            element.value = [str(each) for each in element.value] if many else str(element.value)
        elif element.VR in ("SH", "LO", "ST", "LT", "UC", "UT"):
            _ = element.value
    dataset.SpecificCharacterSet = UTF_8


def _holds(encoding: str, text: str) -> bool:
    try:
        text.encode("ascii" if encoding == "iso8859" else encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def text_value(text: str, kind: str) -> str:
    """A text as an attribute of that kind (``SH``, ``LO``, ``PN``, ``ST``) can hold it: no control characters, not too long."""
    clean = "".join(" " if unicodedata.category(each)[0] == "C" else each for each in text)
    if kind != "ST":
        clean = clean.replace("\\", "/")
    if kind == "PN":
        clean = clean.replace("=", " ").replace("^", " ")
    return " ".join(clean.split())[: LENGTHS[kind]].strip()


def write_new(
    path: Path | str,
    dataset: Dataset,
    reference: CtReference,
    read_back: Callable[[Path], Sequence[tuple[RoundTrip, bool]]],
    *,
    overwrite: bool,
) -> tuple[RoundTrip, ...]:
    """Write an object, read it back, and only then give it its name.

    :param read_back: from the file to what came of each contour, and whether it is the same.
    :raises OutputError: a file of that name is there (and may not be replaced), no space, no permission, or what was written
        reads back as something else; then nothing is left of it.
    """
    path = Path(path)
    check_replaceable(path, reference, overwrite)
    with quiet(), atomic_write(path) as temporary:
        dataset.save_as(temporary, enforce_file_format=True)
        try:
            found = read_back(temporary)
        except MemoryError:
            raise
        except Exception as error:  # readers fail in many ways, and each means the same here
            raise OutputError(f"{path.name}: what was written cannot be read back, so it was not kept") from error
        if changed := ", ".join(f"'{each.roi_name}' ({each.change_percent:+.3g} %)" for each, same in found if not same):
            raise OutputError(f"{path.name}: contours are not the same when read back, so it was not kept: {changed}")
        check_replaceable(path, reference, overwrite)
    return tuple(each for each, _ in found)


def check_replaceable(path: Path, reference: CtReference, overwrite: bool) -> None:
    """Refuse to replace what must stay.

    :raises OutputError: the file is there, and either may not be replaced, or was not written by this tool.
    """
    if not os.path.lexists(path):
        return
    if not overwrite:
        raise OutputError(f"{path.name}: is there already and is not replaced")
    import pydicom

    try:
        with quiet():
            header = pydicom.dcmread(path, stop_before_pixels=True)
            own = header.get("ManufacturerModelName") == MODEL and header.get("Manufacturer") == MANUFACTURER
            sources = {each.sop_instance_uid for each in reference.slices}
            own = own and path.is_file() and header.get("SOPInstanceUID") not in sources
    except Exception:  # not DICOM, or not readable: not ours either way
        own = False
    if not own:
        raise OutputError(f"{path.name}: was not written by {MODEL} and is not replaced")
