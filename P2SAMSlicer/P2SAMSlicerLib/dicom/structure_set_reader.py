"""Reading RTSTRUCT: the closed contours of a structure set as masks on a CT's voxels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.dicom.bounded_read import STRUCTURE_SET_CLASS, header_of, open_bounded, reading
from P2SAMSlicerLib.dicom.code_terminology import ANATOMY, LESION, code, plain, terminology
from P2SAMSlicerLib.dicom.contour_stack import PLANE_TOLERANCE_MM, contours_to_mask
from P2SAMSlicerLib.dicom.ct_reference import CtReference
from P2SAMSlicerLib.dicom.drawn_on import DrawnOn, check_frame, check_origin, patient_of
from P2SAMSlicerLib.dicom.header import text, whole_items
from P2SAMSlicerLib.dicom.polygon_mask import work
from P2SAMSlicerLib.dicom.read_contours import ReadContours, check_memory, unique_names, unknown_name
from P2SAMSlicerLib.dicom.roi_names import DERIVED_SUFFIX
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.result_files import COMPARISON_TAG
from P2SAMSlicerLib.structure_role import INTERPRETED_TYPE_TAG
from P2SAMSlicerLib.volume import Segment, Segmentation

if TYPE_CHECKING:
    from pydicom import Dataset

#: What the object is called in messages: a file's name may hold the patient's.
WHAT = "structure set"

#: Contours that enclose an area. The second kind says of itself what is done here with both: even-odd.
CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")

#: Those that enclose none; any other text may be anything, and is not told.
OTHER_KINDS = ("POINT", "OPEN_PLANAR", "OPEN_NONPLANAR")

#: No scanner's coordinates (mm) reach so far.
FARTHEST_MM = 1e5

#: Contours of all structures together, and the work of filling them: a minute at most. A real structure set of a hundred
#: structures has 30,000 contours and a tenth of the work.
MOST_CONTOURS = 200_000
MOST_WORK = 3_000_000_000

MOST_STRUCTURES = 5000


@dataclass
class _Structure:
    """A structure as the file describes it; its contours are not parsed yet."""

    name: str
    number: str
    frame: str
    tags: dict[str, str] = field(default_factory=dict)
    terminology: dict[str, Any] | None = None
    color: tuple[float, float, float] | None = None
    contours: Sequence[Dataset] = ()


def read_structure_set(
    path: Path | str,
    grid: Grid,
    reference: CtReference | None = None,
    names: Sequence[str] = (),
    *,
    trust_geometry: bool = False,
) -> ReadContours:
    """Read the structures of an RTSTRUCT file onto a CT's grid.

    Contours are patient coordinates, so neither the patient's position nor the order of the CT's slices matters. What lies
    inside is told by :mod:`~P2SAMSlicerLib.dicom.polygon_mask`, on which slices by
    :mod:`~P2SAMSlicerLib.dicom.contour_stack`. Structures without closed contours, oblique ones, those too small for the CT's
    voxels or outside of it are left out with a warning, or refused if they were asked for by name. Each segment carries its
    colour, ``RTROIInterpretedType`` and further facts as tags, and its code (of TG-263 or another) as terminology.

    :param grid: the CT's.
    :param reference: the CT's images; None where the CT is not DICOM: then the coordinates are trusted, with a warning.
    :param names: only these structures; all if empty.
    :param trust_geometry: accept another patient id or frame of reference, with a warning.
    :raises InputError: unreadable, damaged or absurd; another patient's; another frame of reference; no structure of a given
        name; no usable structure.
    """
    warnings: list[str] = []
    with open_bounded(Path(path), WHAT) as stream, reading(WHAT):
        header = header_of(stream)
    with reading(WHAT):
        if text(header, "SOPClassUID") != STRUCTURE_SET_CLASS and text(header, "Modality") != "RTSTRUCT":
            raise InputError(f"{WHAT}: the file is another kind of DICOM object")
        if text(header, "ApprovalStatus").upper() == "REJECTED":
            warnings.append(f"{WHAT}: its contours were rejected by whoever reviewed them (ApprovalStatus)")
        structures = _structures(header)
        warnings += _origin(header, structures, reference, trust_geometry=trust_geometry)
        wanted = _wanted(structures, names, warnings)
        check_memory(len(wanted), grid, WHAT)
        # All of them here and now: they are parsed on the way, and damaged ones make the parser fail.
        segments = tuple(_segments(wanted, grid, reference, names, warnings, trust_geometry=trust_geometry))
    return ReadContours(Segmentation(grid, segments, WHAT), tuple(dict.fromkeys(warnings)))


def _structures(header: Dataset) -> list[_Structure]:
    """All structures of the file, in its order.

    :raises InputError: none, or more than any real structure set has.
    """
    rois = whole_items(header, "StructureSetROISequence")
    contours = whole_items(header, "ROIContourSequence")
    if not rois or not contours:
        raise InputError(f"{WHAT}: holds no structures with contours")
    if max(len(rois), len(contours)) > MOST_STRUCTURES:
        raise InputError(f"{WHAT}: {max(len(rois), len(contours))} structures, more than any real one has")
    frames = {
        uid for each in whole_items(header, "ReferencedFrameOfReferenceSequence") if (uid := text(each, "FrameOfReferenceUID"))
    }
    usual = next(iter(frames)) if len(frames) == 1 else text(header, "FrameOfReferenceUID")
    found: dict[str, _Structure] = {}
    for roi in rois:
        number = text(roi, "ROINumber")
        if number in found:
            raise InputError(f"{WHAT}: two structures have the same number, so that their contours cannot be told apart")
        name = text(roi, "ROIName") or f"ROI {number}"
        found[number] = _Structure(name, number, text(roi, "ReferencedFrameOfReferenceUID") or usual)
        if name.endswith(DERIVED_SUFFIX):
            found[number].tags[COMPARISON_TAG] = "1"
        if algorithm := plain(text(roi, "ROIGenerationAlgorithm")):
            found[number].tags["DICOM.ROIGenerationAlgorithm"] = algorithm
    for each in whole_items(header, "RTROIObservationsSequence"):
        if structure := found.get(text(each, "ReferencedROINumber")):
            _describe(structure, each)
    total = 0
    for each in contours:
        structure = found.get(text(each, "ReferencedROINumber"))
        if structure is None:
            raise InputError(f"{WHAT}: holds contours of a structure that it does not name")
        if structure.contours:
            raise InputError(f"{WHAT}: holds the contours of structure '{structure.name}' twice")
        structure.contours = whole_items(each, "ContourSequence")
        structure.color = _color(each)
        total += len(structure.contours)
    if total > MOST_CONTOURS:
        raise InputError(f"{WHAT}: {total} contours, more than any real one has")
    return list(found.values())


def _describe(structure: _Structure, observation: Dataset) -> None:
    """What the file says that a structure is."""
    kind = plain(text(observation, "RTROIInterpretedType")).upper()
    if kind:
        structure.tags[INTERPRETED_TYPE_TAG] = kind
    for item in whole_items(observation, "RTROIIdentificationCodeSequence")[:1]:
        category = code(observation, "SegmentedPropertyCategoryCodeSequence") or code(
            item, "SegmentedPropertyCategoryCodeSequence"
        )
        if category is None:
            category = list(LESION if kind == "GTV" else ANATOMY) if kind in ("GTV", "ORGAN", "AVOIDANCE") else None
        type_code = code(observation, "RTROIIdentificationCodeSequence")
        structure.terminology = terminology(category, type_code, item, item)


def _color(item: Dataset) -> tuple[float, float, float] | None:
    try:
        red, green, blue = (min(255, max(0, int(value))) / 255 for value in item.get("ROIDisplayColor") or ())
    except Exception:  # absent, or no three numbers
        return None
    return red, green, blue


def _origin(
    header: Dataset, structures: Sequence[_Structure], reference: CtReference | None, *, trust_geometry: bool
) -> list[str]:
    """Compare the file with the CT."""
    series: set[str] = set()
    instances: set[str] = set()
    for frame in whole_items(header, "ReferencedFrameOfReferenceSequence"):
        for study in whole_items(frame, "RTReferencedStudySequence"):
            for each in whole_items(study, "RTReferencedSeriesSequence"):
                series.add(text(each, "SeriesInstanceUID"))
                instances |= {text(image, "ReferencedSOPInstanceUID") for image in whole_items(each, "ContourImageSequence")}
    for structure in structures:
        for contour in structure.contours:
            instances |= {text(image, "ReferencedSOPInstanceUID") for image in whole_items(contour, "ContourImageSequence")}
    drawn = DrawnOn(patient_of(header), frozenset(series - {""}), frozenset(instances - {""}))
    try:
        notes = check_origin(drawn, reference, trust_geometry=trust_geometry)
    except InputError as error:
        raise InputError(f"{WHAT}: {error}") from None
    return [f"{WHAT}: it {note}" for note in notes]


def _wanted(structures: Sequence[_Structure], names: Sequence[str], warnings: list[str]) -> list[_Structure]:
    """The structures to read. Of several of one name those without contours do not count.

    :raises InputError: no structure of a given name; one that has no contours; two of that name.
    """
    for name in dict.fromkeys(names):
        same = [each for each in structures if each.name == name]
        if not same:
            raise unknown_name(WHAT, name, [each.name for each in structures])
        if not any(each.contours for each in same):
            raise InputError(f"{WHAT}: structure '{name}' has no contours")
        if sum(bool(each.contours) for each in same) > 1:
            raise InputError(f"{WHAT}: two structures are named '{name}'; rename one")
    if names:
        by_name = {each.name: each for each in structures if each.contours}
        return [by_name[name] for name in dict.fromkeys(names)]
    if empty := [each.name for each in structures if not each.contours]:
        warnings.append(f"{WHAT}: not carried, because without contours: {_listed(empty)}")
    drawn = [each for each in structures if each.contours]
    if not drawn:
        raise InputError(f"{WHAT}: none of its {len(structures)} structures has contours")
    called, notes = unique_names([each.name for each in drawn], WHAT)
    warnings += notes
    return [replace(each, name=name) for name, each in zip(called, drawn, strict=True)]


def _segments(
    structures: Sequence[_Structure],
    grid: Grid,
    reference: CtReference | None,
    names: Sequence[str],
    warnings: list[str],
    *,
    trust_geometry: bool,
) -> Iterator[Segment]:
    """The usable structures as segments.

    :raises InputError: one that was asked for by name cannot be used, or none can.
    """
    refused: list[str] = []
    effort = 0
    for structure in structures:
        begin = f"{WHAT}: structure '{structure.name}'"
        try:
            if note := _frame_note(structure, reference, grid, trust_geometry=trust_geometry):
                warnings.append(f"{WHAT}: the contours {note}")
            contours, notes = _closed_contours(structure)
            index = grid.to_index(np.concatenate(contours))[:, :2]
            effort += sum(work(each, grid.shape[1:]) for each in np.split(index, np.cumsum([len(c) for c in contours])[:-1]))
            if effort > MOST_WORK:
                raise _TooMuchError(f"{WHAT}: its contours are more and larger than any real one's")
            made = contours_to_mask(contours, grid)
        except _TooMuchError:
            raise
        except InputError as error:
            refused.append(f"{begin} {error}")
            if names:
                raise InputError(refused[0]) from None
            continue
        warnings += [f"{begin}: {note}" for note in (*notes, *made.notes)]
        yield Segment(structure.name, made.mask, structure.color, structure.terminology, structure.tags)
    if len(refused) == len(structures):
        more = f" (and {len(refused) - 1} more that cannot be used)" if len(refused) > 1 else ""
        raise InputError(refused[0] + more)
    warnings += [f"{each}; not carried" for each in refused]


class _TooMuchError(InputError):
    """The file as a whole is refused, not a structure of it."""


def _frame_note(structure: _Structure, reference: CtReference | None, grid: Grid, *, trust_geometry: bool) -> str | None:
    differs = reference is not None and structure.frame != reference.frame_of_reference_uid
    on_images = reference is not None and differs and _on_images(structure, reference, grid)
    try:
        return check_frame(structure.frame, reference, trust_geometry=trust_geometry, on_images=on_images)
    except InputError as error:
        raise InputError(f"cannot be carried: its contours {error}") from None


def _on_images(structure: _Structure, reference: CtReference, grid: Grid) -> bool:
    """Whether each contour names an image of the CT and lies on it."""
    places = {each.sop_instance_uid: np.array(each.position) for each in reference.slices if each.frame is None}
    normal = grid.direction_matrix[:, 2]
    for contour in structure.contours:
        images = [text(each, "ReferencedSOPInstanceUID") for each in whole_items(contour, "ContourImageSequence")]
        points = _points(contour)
        if len(images) != 1 or images[0] not in places or not len(points):
            return False
        if np.abs((points - places[images[0]]) @ normal).max() > PLANE_TOLERANCE_MM:
            return False
    return True


def _closed_contours(structure: _Structure) -> tuple[list[NDArray[np.float64]], list[str]]:
    """LPS points ``(n, 3)`` of each closed contour, and what was left out.

    :raises InputError: coordinates that are none, or no closed contour at all; an end of a sentence.
    """
    found: list[NDArray[np.float64]] = []
    left: Counter[str] = Counter()
    miscounted = 0
    for contour in structure.contours:
        kind = text(contour, "ContourGeometricType").upper()
        if kind not in CLOSED:
            left[f"of type {kind}" if kind in OTHER_KINDS else "of an unknown type" if kind else "of no type"] += 1
            continue
        points = _points(contour)
        stated = text(contour, "NumberOfContourPoints")
        miscounted += stated.isdigit() and int(stated) != len(points)
        if len(points) < 3:
            left["of fewer than 3 points"] += 1
            continue
        found.append(points)
    listed = ", ".join(f"{count} {what}" for what, count in left.items())
    if not found:
        raise InputError(f"has no closed contours (only: {listed})")
    notes = [f"contours left out, because they enclose nothing: {listed}"] if left else []
    if miscounted:
        notes.append(f"{miscounted} contours have another number of points than they say; the coordinates were used")
    return found, notes


def _points(contour: Dataset) -> NDArray[np.float64]:
    """``(n, 3)`` LPS millimetres of one contour.

    :raises InputError: not three finite numbers a point; an end of a sentence.
    """
    if "ContourData" not in contour:
        return np.empty((0, 3))
    # Parsed from the raw text: an object a number, as pydicom makes them, takes a hundred times as long.
    raw = contour.get_item("ContourData").value
    try:
        if isinstance(raw, bytes):
            words = raw.replace(b"\0", b" ").strip()
            values = np.array(words.split(b"\\") if words else [], dtype=np.float64)
        else:
            values = np.array([] if raw is None else raw, dtype=np.float64).ravel()
    except (TypeError, ValueError):
        raise InputError("has contours whose coordinates are no numbers") from None
    if values.size % 3:
        raise InputError(f"has a contour of {values.size} numbers, which are not x, y and z of each point")
    if not np.isfinite(values).all() or np.abs(values).max(initial=0.0) > FARTHEST_MM:
        raise InputError("has contours with coordinates that are not finite, or farther away than any patient")
    return values.reshape(-1, 3)


def _listed(names: Sequence[str], most: int = 12) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
