"""Reading DICOM SEG: binary, fractional and label map segmentations as masks on their own grid."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.dicom.bounded_read import LABEL_MAP_CLASS, SEGMENTATION_CLASS, header_of, open_bounded, reading
from P2SAMSlicerLib.dicom.code_terminology import code, plain, rgb_of_lab, terminology
from P2SAMSlicerLib.dicom.ct_reference import CtReference
from P2SAMSlicerLib.dicom.drawn_on import DrawnOn, check_frame, check_origin, patient_of
from P2SAMSlicerLib.dicom.header import text, whole_items
from P2SAMSlicerLib.dicom.packed_frames import packed_frames
from P2SAMSlicerLib.dicom.read_contours import ReadContours, check_memory, unique_names, unknown_name
from P2SAMSlicerLib.dicom.roi_names import DERIVED_SUFFIX
from P2SAMSlicerLib.dicom.seg_grid import FramePlaces, place_frames
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.result_files import COMPARISON_TAG
from P2SAMSlicerLib.volume import BoolArray, Segment, Segmentation

if TYPE_CHECKING:
    from pydicom import Dataset

#: What the object is called in messages: a file's name may hold the patient's.
WHAT = "DICOM segmentation"

#: Share of the largest value of a fractional segmentation from which a voxel is inside; one half is inside.
INSIDE = 0.5

#: Voxels of one frame.
MOST_PIXELS = 1 << 26

MOST_SEGMENTS = 70_000


#: Transfer syntaxes whose pixels lie there as they are, in little-endian order (deflated ones are inflated before).
_PLAIN = frozenset({"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99"})


@dataclass
class _Described:
    """A segment as the header describes it."""

    number: int
    name: str
    color: tuple[float, float, float] | None
    terminology: dict[str, Any] | None
    tags: dict[str, str] = field(default_factory=dict)


def read_dicom_seg(
    path: Path | str,
    names: Sequence[str] = (),
    *,
    reference: CtReference | None = None,
    trust_geometry: bool = False,
) -> ReadContours:
    """Read a DICOM segmentation.

    Segments may overlap. Frames come in any order; a slice for which a segment has no frame is empty. Segments without any
    voxel are listed in a warning and left out. The label, colour, codes of category, type and anatomic region, and the kind
    and name of the algorithm are carried.

    :param names: only these segments; all if empty.
    :param reference: images of the CT to which it must belong; None if that is not to be checked.
    :param trust_geometry: accept another patient id or frame of reference than that CT's, with a warning.
    :returns: masks on the grid of its frames, which may be smaller than the CT's.
    :raises InputError: unreadable, damaged or absurd; frames that are tilted, uneven or without position; another patient's or
        frame of reference; no segment of a given name, or an empty one; no voxel at all.
    """
    warnings: list[str] = []
    with open_bounded(Path(path), WHAT) as stream, reading(WHAT):
        header = header_of(stream)
        if text(header, "SOPClassUID") not in (SEGMENTATION_CLASS, LABEL_MAP_CLASS):
            raise InputError(f"{WHAT}: the file is another kind of DICOM object")
        warnings += _origin(header, reference, trust_geometry=trust_geometry)
        wanted = _wanted(_described(header), names)
        frames = int(header.get("NumberOfFrames") or 1)
        if not 0 < int(header.get("Rows") or 0) * int(header.get("Columns") or 0) <= MOST_PIXELS or frames < 1:
            raise InputError(f"{WHAT}: has no usable size of frames")
        places = place_frames(header, frames, WHAT)
        _check_pixels(stream, header, frames)
        check_memory(len(wanted), places.grid, WHAT)
        masks = _masks(stream, header, wanted, places, warnings)
    segments = _segments(wanted, masks, names, warnings)
    return ReadContours(Segmentation(places.grid, tuple(segments), WHAT), tuple(dict.fromkeys(warnings)))


def _origin(header: Dataset, reference: CtReference | None, *, trust_geometry: bool) -> list[str]:
    """Compare the file with the CT."""
    if reference is None:
        return []
    series: set[str] = set()
    instances: set[str] = set()
    for each in whole_items(header, "ReferencedSeriesSequence"):
        series.add(text(each, "SeriesInstanceUID"))
        instances |= {text(image, "ReferencedSOPInstanceUID") for image in whole_items(each, "ReferencedInstanceSequence")}
    drawn = DrawnOn(patient_of(header), frozenset(series - {""}), frozenset(instances - {""}))
    try:
        note = check_frame(text(header, "FrameOfReferenceUID"), reference, trust_geometry=trust_geometry)
    except InputError as error:
        raise InputError(f"{WHAT}: its segments {error}") from None
    try:
        notes = check_origin(drawn, reference, trust_geometry=trust_geometry)
    except InputError as error:
        raise InputError(f"{WHAT}: it {error}") from None
    return [f"{WHAT}: the segments {note}"] * (note is not None) + [f"{WHAT}: it {each}" for each in notes]


def _described(header: Dataset) -> list[_Described]:
    """All segments of the file, in its order; the background of a label map is none.

    :raises InputError: none, too many, or two of one number.
    """
    sequence = whole_items(header, "SegmentSequence")
    if not sequence or len(sequence) > MOST_SEGMENTS:
        raise InputError(
            f"{WHAT}: describes {len(sequence) or 'no'} segments" + (", more than any real one" if sequence else "")
        )
    found: dict[int, _Described] = {}
    for item in sequence:
        number = int(item.SegmentNumber)
        if number == 0:
            continue
        if number in found:
            raise InputError(f"{WHAT}: two segments have the same number")
        found[number] = _Described(
            number,
            text(item, "SegmentLabel") or f"Segment_{number}",
            _color(item),
            _terminology(item),
            {
                f"DICOM.{keyword}": value
                for keyword in ("SegmentAlgorithmType", "SegmentAlgorithmName")
                if (value := plain(text(item, keyword)))
            },
        )
        if found[number].name.endswith(DERIVED_SUFFIX):
            found[number].tags[COMPARISON_TAG] = "1"
    return list(found.values())


def _color(item: Dataset) -> tuple[float, float, float] | None:
    try:
        values = [int(value) for value in item.get("RecommendedDisplayCIELabValue") or ()]
    except Exception:  # no numbers
        return None
    return rgb_of_lab(values) if len(values) == 3 else None


def _terminology(item: Dataset) -> dict[str, Any] | None:
    kind = whole_items(item, "SegmentedPropertyTypeCodeSequence")
    return terminology(
        code(item, "SegmentedPropertyCategoryCodeSequence"),
        code(item, "SegmentedPropertyTypeCodeSequence"),
        kind[0] if kind else None,
        item,
    )


def _wanted(segments: Sequence[_Described], names: Sequence[str]) -> list[_Described]:
    """The segments to read.

    :raises InputError: none of a given name, or two of it.
    """
    for name in names:
        count = sum(each.name == name for each in segments)
        if not count:
            raise unknown_name(WHAT, name, [each.name for each in segments])
        if count > 1:
            raise InputError(f"{WHAT}: two segments are named '{name}'; rename one")
    return [each for each in segments if not names or each.name in names]


def _check_pixels(stream: BinaryIO, header: Dataset, frames: int) -> None:
    """Refuse pixels that are not all there: the decoder takes those that are missing for zeros.

    :param stream: at the end of the header.
    :raises InputError: fewer bytes than the header states.
    """
    from pydicom.uid import ExplicitVRLittleEndian

    start = stream.tell()
    compressed = header.file_meta.get("TransferSyntaxUID", ExplicitVRLittleEndian).is_compressed
    bits = int(header.get("BitsAllocated") or 0) * int(header.Rows) * int(header.Columns) * frames
    # Tag, value representation and length come first.
    if not compressed and not 0 < (bits + 7) // 8 <= stream.seek(0, os.SEEK_END) - start - 8:
        raise InputError(f"{WHAT}: has fewer pixels than its header says (cut short)")


def _masks(
    stream: BinaryIO, header: Dataset, wanted: Sequence[_Described], places: FramePlaces, warnings: list[str]
) -> dict[int, BoolArray]:
    """The mask of each wanted segment by its number; those without frames have none."""
    kind = text(header, "SegmentationType").upper()
    if kind in ("BINARY", "FRACTIONAL"):
        least = 1.0
        if kind == "FRACTIONAL":
            largest = int(header.get("MaximumFractionalValue") or 0)
            if not 0 < largest <= 255:
                raise InputError(f"{WHAT}: fractional, and states no largest value")
            least = INSIDE * largest
            what = "occupancies" if text(header, "SegmentationFractionalType") == "OCCUPANCY" else "probabilities"
            warnings.append(f"{WHAT}: holds {what}; voxels of one half or more were taken as inside")
        return _separate(stream, header, {each.number for each in wanted}, places, least)
    if kind == "LABELMAP":
        return _label_map(stream, header, wanted, places)
    raise InputError(f"{WHAT}: neither binary, fractional nor a label map")


def _separate(stream: BinaryIO, header: Dataset, wanted: set[int], places: FramePlaces, least: float) -> dict[int, BoolArray]:
    """Masks where each frame belongs to one segment."""
    numbers = _segment_numbers(header)
    known = {int(item.SegmentNumber) for item in whole_items(header, "SegmentSequence")}
    if not set(numbers) <= known:
        raise InputError(f"{WHAT}: holds frames of a segment that it does not describe")
    pairs = list(zip(numbers, places.slices.tolist(), strict=True))
    if len(set(pairs)) < len(pairs):
        raise InputError(f"{WHAT}: holds two frames of one segment at the same place")
    chosen = [index for index, number in enumerate(numbers) if number in wanted]
    masks: dict[int, BoolArray] = {}
    for index, frame in zip(chosen, _frames(stream, header, chosen, places), strict=True):
        mask = masks.setdefault(numbers[index], np.zeros(places.grid.shape, dtype=np.bool_))
        mask[places.slices[index]] = frame >= least
    return masks


def _label_map(stream: BinaryIO, header: Dataset, wanted: Sequence[_Described], places: FramePlaces) -> dict[int, BoolArray]:
    """Masks where a voxel's value is the number of its segment."""
    if len(np.unique(places.slices)) < len(places.slices):
        raise InputError(f"{WHAT}: holds two frames at the same place")
    known = {int(item.SegmentNumber) for item in whole_items(header, "SegmentSequence")}
    masks = {each.number: np.zeros(places.grid.shape, dtype=np.bool_) for each in wanted}
    for index, frame in enumerate(_frames(stream, header, range(len(places.slices)), places)):
        there = set(np.unique(frame).tolist())
        if not there - {0} <= known:
            raise InputError(f"{WHAT}: holds voxels of a segment that it does not describe")
        for number in there & masks.keys():
            masks[number][places.slices[index]] = frame == number
    return masks


def _segment_numbers(header: Dataset) -> list[int]:
    """The segment to which each frame belongs."""
    shared = whole_items(header, "SharedFunctionalGroupsSequence")
    usual = whole_items(shared[0], "SegmentIdentificationSequence") if shared else ()
    numbers = []
    for group in whole_items(header, "PerFrameFunctionalGroupsSequence"):
        own = whole_items(group, "SegmentIdentificationSequence") or usual
        if not own:
            raise InputError(f"{WHAT}: has frames that belong to no segment")
        numbers.append(int(own[0].ReferencedSegmentNumber))
    return numbers


def _frames(stream: BinaryIO, header: Dataset, chosen: Sequence[int], places: FramePlaces) -> Iterable[NDArray[Any]]:
    """Stored values ``(y, x)`` of these frames, one after the other."""
    from pydicom.pixels.utils import iter_pixels

    if not chosen:
        return
    try:
        packed = int(header.get("BitsAllocated") or 0) == 1 and str(header.file_meta.get("TransferSyntaxUID")) in _PLAIN
        stream.seek(0)
        size = (places.grid.shape[1], places.grid.shape[2])
        pixels = packed_frames(stream, chosen, size) if packed else iter_pixels(stream, indices=list(chosen), raw=True)
        for frame in pixels:
            if frame.shape != places.grid.shape[1:]:
                raise InputError(f"{WHAT}: has frames of another size than its header says")
            yield frame
    except InputError:
        raise
    except Exception as error:  # decoders fail in many ways
        raise InputError(f"{WHAT}: its pixels cannot be decoded (damaged, cut short, or an unknown compression)") from error


def _segments(
    wanted: Sequence[_Described], masks: Mapping[int, BoolArray], names: Sequence[str], warnings: list[str]
) -> list[Segment]:
    """Those with voxels, as segments.

    :raises InputError: one that was asked for by name is empty, or all are.
    """
    empty = [each.name for each in wanted if not (each.number in masks and masks[each.number].any())]
    if names and empty:
        raise InputError(f"{WHAT}: segment '{empty[0]}' is empty")
    if len(empty) == len(wanted):
        raise InputError(f"{WHAT}: none of its {len(wanted)} segments holds a voxel")
    if empty:
        warnings.append(f"{WHAT}: not carried, because empty: {', '.join(empty[:12])}{' and more' if len(empty) > 12 else ''}")
    there = [each for each in wanted if each.number in masks and masks[each.number].any()]
    called, notes = unique_names([each.name for each in there], WHAT)
    warnings += notes
    return [
        Segment(name, masks[each.number], each.color, each.terminology, each.tags)
        for name, each in zip(called, there, strict=True)
    ]
