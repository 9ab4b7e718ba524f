"""Enhanced and legacy-converted multi-frame CT: each frame as a slice, with what the functional groups say of it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from P2SAMSlicerLib.dicom.bounded_read import ReadBudget, read_header
from P2SAMSlicerLib.dicom.header import is_localizer, items, number, text, texts
from P2SAMSlicerLib.dicom.stored_slice import SLICE_TAGS, StoredSlice
from P2SAMSlicerLib.errors import InputError

if TYPE_CHECKING:
    from pydicom import Dataset

#: Enhanced CT, legacy-converted enhanced CT.
MULTI_FRAME_CLASSES = frozenset({"1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2"})

#: Functional groups whose elements a slice needs.
_GROUPS = (
    "PlanePositionSequence",
    "PlaneOrientationSequence",
    "PixelMeasuresSequence",
    "PixelValueTransformationSequence",
    "CTImageFrameTypeSequence",
    "CTAcquisitionDetailsSequence",
)
_FRAME_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")


def is_multi_frame(header: Dataset) -> bool:
    """Whether an object keeps its slices as frames."""
    return text(header, "SOPClassUID") in MULTI_FRAME_CLASSES or (number(header, "NumberOfFrames") or 1) > 1


def frames_of(path: Path, called: str, name: str) -> list[StoredSlice]:
    """The frames of a multi-frame CT object, scout views left out.

    :param called: the object's name in messages.
    :param name: the series, for messages.
    :raises InputError: damaged, frames without functional groups, or several stacks.
    """
    try:
        top = read_header(path, (*SLICE_TAGS, *_FRAME_GROUPS), frames=True)
    except Exception:  # damaged files make the parser fail in many ways; its words may quote the patient's data
        raise InputError(f"{name}: {called} cannot be read as DICOM (damaged, or cut short)") from None
    budget = ReadBudget()
    shared, per_frame = items(top, _FRAME_GROUPS[0], budget)[:1], items(top, _FRAME_GROUPS[1], budget)
    if not per_frame or len(per_frame) != (number(top, "NumberOfFrames") or 1):
        raise InputError(f"{name}: {called} has several frames, but does not say of each where it lies")
    found: list[StoredSlice] = []
    stacks: set[str] = set()
    for index, own in enumerate(per_frame):
        try:
            header = _gathered(top, [*shared, own], budget)
        except Exception:  # values are decoded only now
            raise InputError(f"{name}: {called} cannot be read as DICOM (damaged, or cut short)") from None
        if is_localizer(header):
            continue
        stacks.update(text(content, "StackID") for content in items(own, "FrameContentSequence", budget))
        found.append(StoredSlice(path, header, f"{called}, frame {index + 1}", index + 1))
    if len(stacks) > 1:
        raise InputError(f"{name}: {called} holds {len(stacks)} stacks of slices; a volume is one stack")
    return found


def _gathered(top: Dataset, groups: list[Dataset], budget: ReadBudget) -> Dataset:
    """What a classic slice's header would say: the object's own elements, then the shared groups', then the frame's."""
    from pydicom import Dataset

    flat = Dataset()
    _copy(top, flat)
    for group in groups:
        for sequence in _GROUPS:
            for item in items(group, sequence, budget)[:1]:
                _copy(item, flat)
                if kinds := texts(item, "FrameType"):
                    flat.ImageType = list(kinds)
    return flat


def _copy(source: Dataset, target: Dataset) -> None:
    """A slice's elements, as far as they can be read: that one is lacking is noticed where it is needed."""
    from pydicom.datadict import tag_for_keyword

    for keyword in SLICE_TAGS:
        tag = tag_for_keyword(keyword)
        if tag is None or tag not in source:
            continue
        with suppress(Exception):  # damaged ones make the parser fail in many ways
            target[tag] = source.get_item(tag)
