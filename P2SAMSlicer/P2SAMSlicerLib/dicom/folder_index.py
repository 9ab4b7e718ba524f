"""What a folder of DICOM files holds: patients, studies, series, told by headers alone.

Whatever lies in the folder, the index is made: what cannot be used is counted by reason, without a name.
"""

from __future__ import annotations

import sys
import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from P2SAMSlicerLib.dicom.bounded_read import (
    DICOM_SUFFIXES,
    LABEL_MAP_CLASS,
    SEGMENTATION_CLASS,
    STRUCTURE_SET_CLASS,
    looks_like_dicom,
    quiet,
    read_header,
)
from P2SAMSlicerLib.dicom.folder_walk import files_below
from P2SAMSlicerLib.dicom.header import code, floats, is_localizer, map_kind, moment, number, text
from P2SAMSlicerLib.dicom.indexed_series import DAMAGED, UNREADABLE, DicomFile, DicomIndex, IndexedSeries, SeriesKind
from P2SAMSlicerLib.dicom.multi_frame import MULTI_FRAME_CLASSES
from P2SAMSlicerLib.dicom.phase_split import SPLITTING_TAGS, Placed, split_by_phase
from P2SAMSlicerLib.dicom.phases import PHASE_TAGS, PHASE_TEXT_TAGS, phase_in, with_phases
from P2SAMSlicerLib.dicom.referenced_images import REFERENCE_TAGS, segmentation_references, structure_set_references
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.progress import Progress, ProgressEvent, silent

if TYPE_CHECKING:
    from pydicom import Dataset

STAGE = "index"

#: Reasons why a file is in no series.
NO_DICOM = "files that are not DICOM"
DIRECTORY = "DICOM directories (DICOMDIR)"
COPY = "copies of images that are there already"
SCOUT = "scout views (localizers)"
NO_IMAGE = "DICOM objects that are neither images nor contours"

_CT_CLASSES = frozenset({"1.2.840.10008.5.1.4.1.1.2", *MULTI_FRAME_CLASSES})
_DIRECTORY_CLASS = "1.2.840.10008.1.3.10"

_TAGS = (
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Modality"),
    *("PatientID", "ImageType", "NumberOfFrames", "Rows", "ImagePositionPatient", "AcquisitionDateTime"),
    *("AcquisitionDate", "AcquisitionTime", "SeriesDate", "SeriesTime", "StudyDate", "StudyTime"),
    *("StructureSetDate", "StructureSetTime", "StructureSetLabel", "ApprovalStatus", "ContentLabel"),
    *PHASE_TAGS,
    *PHASE_TEXT_TAGS,
    *SPLITTING_TAGS,
    *REFERENCE_TAGS,
)

#: Kinds of which each file is a series of its own.
_CONTOURS = (SeriesKind.STRUCTURE_SET, SeriesKind.SEGMENTATION)

_Key = tuple[SeriesKind, str | None, str, str, str, str]

#: What two files share only if one is a copy of the other: patient, instance and position.
_Image = tuple[str, str, tuple[float, ...]]


@dataclass
class _Series:
    """A series while its files are found.

    :param stated: phase, by file, where the header names one.
    """

    first: IndexedSeries
    files: list[Placed] = field(default_factory=list)
    acquired: str | None = None
    stated: dict[str, float] = field(default_factory=dict)


def index_folder(folder: Path | str, progress: Progress = silent) -> DicomIndex:
    """Find all series below a folder, whatever patients and studies lie in it and however they are nested.

    A structure set or segmentation is a series of its own for each file, as each holds contours of its own; ``acquired`` of a
    structure set is the day on which they were drawn, where it says one. A CT series that holds several phases becomes one
    series for each, where one element of the header tells them apart cleanly; they share the series' UID. A file that comes
    several times is taken once.

    :param progress: gets the stage ``index``.
    :raises InputError: the folder is not there or cannot be opened.
    """
    folder = Path(folder)
    left_aside: Counter[str] = Counter()
    found: dict[_Key, _Series] = {}
    images: dict[_Image, tuple[_Series, int, int]] = {}
    try:
        if not folder.is_dir():
            raise InputError("the DICOM folder is not there, or is no folder")
        paths = files_below(folder, left_aside)
    except OSError as error:
        raise InputError(f"the DICOM folder cannot be opened ({(error.strerror or 'unknown reason').lower()})") from None
    progress(ProgressEvent(STAGE, 0, len(paths)))
    with quiet():
        for count, name in enumerate(paths, 1):
            reason = _take(Path(name), found, images)
            if reason:
                left_aside[reason] += 1
            if count % 200 == 0 or count == len(paths):
                progress(ProgressEvent(STAGE, count, len(paths)))
    return DicomIndex(_finished(found), dict(sorted(left_aside.items())))


def _take(path: Path, found: dict[_Key, _Series], images: dict[_Image, tuple[_Series, int, int]]) -> str:
    """Put one file where it belongs.

    :param images: by what tells copies: series, place within it and size in bytes.
    :returns: why it is left aside, or nothing.
    """
    try:
        size = path.stat().st_size
        is_dicom = looks_like_dicom(path)
    except OSError:
        return UNREADABLE
    header = None
    if is_dicom:
        try:
            header = read_header(path, _TAGS)
        except Exception:  # damaged files make the parser fail in many ways; its words may quote the patient's data
            return DAMAGED
    sop_class, instance = (text(header, "SOPClassUID"), text(header, "SOPInstanceUID")) if header is not None else ("", "")
    reason = _reason_against(path, header, sop_class, instance)
    if header is None or reason:
        return reason
    kind = _kind(header)
    # Writers of structure sets reuse the identifier of what they changed, so only the same content is a copy.
    position = _content(path) if kind in _CONTOURS else _position(header)
    file = Placed(
        DicomFile(path, sys.intern(sop_class), instance, int(min(max(1, number(header, "NumberOfFrames") or 1), 10**6))),
        position,
        tuple(sys.intern(text(header, tag)) for tag in SPLITTING_TAGS),
    )
    image = (text(header, "PatientID"), instance, position)
    if image in images:
        # A cut copy never stands for the whole one.
        series, place, known_size = images[image]
        if size > known_size:
            series.files[place] = file
            images[image] = (series, place, size)
        return COPY
    series = _series_of(header, path, found, position)
    images[image] = (series, len(series.files), size)
    series.files.append(file)
    phase = _stated_phase(header)
    if phase is not None:
        series.stated[instance] = phase
    series.acquired = min(filter(None, (series.acquired, _when(header, series.first.kind))), default=None)
    return ""


def _reason_against(path: Path, header: Dataset | None, sop_class: str, instance: str) -> str:
    """Why a file belongs to no series, or nothing."""
    if header is None:
        return DAMAGED if path.suffix.lower() in DICOM_SUFFIXES else NO_DICOM
    if sop_class == _DIRECTORY_CLASS or path.name.upper() == "DICOMDIR":
        return DIRECTORY
    if not (sop_class and instance and text(header, "SeriesInstanceUID") and code(header, "Modality")):
        promised = path.suffix.lower() in DICOM_SUFFIXES or bool(sop_class or instance or getattr(header, "preamble", None))
        return DAMAGED if promised else NO_DICOM
    kind = _kind(header)
    if kind is SeriesKind.OTHER and number(header, "Rows") is None:
        return NO_IMAGE
    return SCOUT if kind is SeriesKind.CT and is_localizer(header) else ""


def _kind(header: Dataset) -> SeriesKind:
    sop_class = text(header, "SOPClassUID")
    if sop_class == STRUCTURE_SET_CLASS:
        return SeriesKind.STRUCTURE_SET
    if sop_class in (SEGMENTATION_CLASS, LABEL_MAP_CLASS):
        return SeriesKind.SEGMENTATION
    is_ct = sop_class in _CT_CLASSES and code(header, "Modality") == "CT" and not map_kind(header)
    return SeriesKind.CT if is_ct else SeriesKind.OTHER


def _position(header: Dataset) -> tuple[float, ...]:
    """Where an image lies, to a hundredth of a millimetre; nothing if it does not say."""
    values = floats(header, "ImagePositionPatient", 3)
    return () if values is None else tuple(float(value) for value in values.round(2))


def _content(path: Path) -> tuple[float, ...]:
    """A figure that two files share only if they hold the same."""
    checksum = size = 0
    try:
        with path.open("rb") as file:
            while block := file.read(2**20):
                checksum, size = zlib.crc32(block, checksum), size + len(block)
    except OSError:
        return ()
    return (float(checksum), float(size))


def _stated_phase(header: Dataset) -> float | None:
    for tag in PHASE_TAGS:
        value = number(header, tag)
        if value is not None and 0 <= value <= 100:
            return value % 100
    return phase_in([each for tag in PHASE_TEXT_TAGS if (each := text(header, tag))])


def _when(header: Dataset, kind: SeriesKind) -> str | None:
    drawn = moment(header, ("StructureSet",)) if kind is SeriesKind.STRUCTURE_SET else None
    return drawn or moment(header)


def _approval(header: Dataset) -> str:
    """It is shown, so it must be one of DICOM's words: in a damaged file a name may stand there."""
    stated = code(header, "ApprovalStatus")
    return stated if stated in ("APPROVED", "UNAPPROVED", "REJECTED") else ""


def _series_of(header: Dataset, path: Path, found: dict[_Key, _Series], place: tuple[float, ...]) -> _Series:
    """The series that a file belongs to, made if it is the first of it.

    :param place: of an image, or what tells the contours of this file from others.
    """
    kind = _kind(header)
    patient, study = text(header, "PatientID") or None, text(header, "StudyInstanceUID")
    uid, frame = text(header, "SeriesInstanceUID"), text(header, "FrameOfReferenceUID")
    key = (kind, patient, study, uid, frame, f"{text(header, 'SOPInstanceUID')} {place}" if kind in _CONTOURS else "")
    if key not in found:
        label = text(header, "SeriesDescription")
        series: frozenset[str] = frozenset()
        images: frozenset[str] = frozenset()
        if kind is SeriesKind.STRUCTURE_SET:
            label = text(header, "StructureSetLabel") or label
            referenced, series, images = structure_set_references(header, path)
            frame = referenced or frame
        elif kind is SeriesKind.SEGMENTATION:
            label = label or text(header, "ContentLabel")
            frame, series, images = segmentation_references(header, path)
        found[key] = _Series(
            IndexedSeries(
                kind=kind,
                modality=code(header, "Modality"),
                patient_id=patient,
                study_uid=study,
                series_uid=uid,
                frame_of_reference_uid=frame,
                acquired=None,
                label=label,
                files=(),
                referenced_series=series,
                referenced_instances=images,
                approval=_approval(header) if kind is SeriesKind.STRUCTURE_SET else "",
            )
        )
    return found[key]


def _finished(found: Mapping[_Key, _Series]) -> tuple[IndexedSeries, ...]:
    """All series with their files, in order."""
    series: list[tuple[IndexedSeries, float | None]] = []
    for each in found.values():
        parts = split_by_phase(each.files) if each.first.kind is SeriesKind.CT else [each.files]
        for part in parts:
            phases = {each.stated.get(placed.file.sop_instance_uid) for placed in part}
            files = tuple(sorted((placed.file for placed in part), key=lambda file: file.path))
            indexed = replace(each.first, files=files, acquired=each.acquired)
            series.append((indexed, phases.pop() if len(phases) == 1 else None))
    series.sort(key=lambda pair: (pair[0].acquired is None, pair[0].acquired or "", pair[0].series_uid, pair[0].paths[0]))
    stated = {place: phase for place, (_, phase) in enumerate(series) if phase is not None}
    return tuple(with_phases([indexed for indexed, _ in series], stated))
