"""Whether contours belong to a CT: patient, frame of reference, and the images that they say they were drawn on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from P2SAMSlicerLib.dicom.ct_reference import CtReference
from P2SAMSlicerLib.dicom.header import text
from P2SAMSlicerLib.errors import InputError

if TYPE_CHECKING:
    from pydicom import Dataset


@dataclass(frozen=True)
class DrawnOn:
    """What an object says of where its contours come from. Ids name a patient: never print them.

    :param series: UIDs of the series that it refers to.
    :param instances: UIDs of the images that it refers to.
    """

    patient_id: str
    series: frozenset[str]
    instances: frozenset[str]


def patient_of(header: Dataset) -> str:
    """The patient's id; empty if there is none."""
    return text(header, "PatientID")


def check_frame(frame: str, reference: CtReference | None, *, trust_geometry: bool, on_images: bool = False) -> str | None:
    """Compare the frame of reference of contours with the CT's.

    :param frame: its UID; empty if the object names none.
    :param reference: the CT's images; None if they are not known (a CT that is not DICOM).
    :param trust_geometry: take the coordinates as they are, whatever the frames say.
    :param on_images: each contour names an image of the CT and lies on it. That outweighs the frame of reference, for which
        some writers make up a UID.
    :returns: a warning, as the end of a sentence that begins with the contours; or None.
    :raises InputError: they differ; the message is such an end of a sentence, too.
    """
    if reference is None:
        return "cannot be checked against the CT, whose DICOM headers are not at hand; their coordinates were taken as they are"
    if not frame or not reference.frame_of_reference_uid:
        return "cannot be checked: no frame of reference is named; their coordinates were taken as they are"
    if frame == reference.frame_of_reference_uid:
        return None
    if on_images:
        return "name another frame of reference than the CT, but each of them names an image of the CT and lies on it"
    if trust_geometry:
        return "belong to another frame of reference than the CT; their coordinates were taken as they are, as asked for"
    raise InputError("belong to another frame of reference than the CT: the same coordinates mean other places in the patient")


def check_origin(drawn: DrawnOn, reference: CtReference | None, *, trust_geometry: bool) -> list[str]:
    """Compare patient and images of contours with the CT's. The frame of reference is compared by :func:`check_frame`.

    :returns: warnings, as ends of a sentence that begins with the object.
    :raises InputError: another patient, and nothing but the id speaks against it or for it.
    """
    if reference is None:
        return []
    notes = []
    known = {each.sop_instance_uid for each in reference.slices}
    same_images = bool(drawn.instances & known)
    patient = patient_of(reference.header)
    if drawn.patient_id and patient and drawn.patient_id != patient:
        if not same_images and not trust_geometry:
            raise InputError(
                "belongs to another patient than the CT (the ids differ, and it refers to none of the CT's images)"
            )
        notes.append("has another patient id than the CT")
    dangling = len(drawn.instances - known)
    if drawn.series and reference.series_uid not in drawn.series and not same_images:
        notes.append("was drawn on another series than this CT, in the same frame of reference")
    elif dangling and drawn.instances and not reference.resampled:
        notes.append(f"refers to {dangling} images that are not among the CT's {len(known)}; the coordinates were used")
    return notes
