"""The images that a structure set or a segmentation says it was drawn on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from P2SAMSlicerLib.dicom.header import items, read_header, text

if TYPE_CHECKING:
    from pydicom import Dataset

#: What the index has to read of such objects.
REFERENCE_TAGS = ("ReferencedFrameOfReferenceSequence", "ReferencedSeriesSequence", "SourceImageSequence")


def structure_set_references(header: Dataset, path: Path) -> tuple[str, frozenset[str], frozenset[str]]:
    """Frame of reference, series and images of a structure set.

    :param header: with :data:`REFERENCE_TAGS`.
    :param path: read again for the images of each contour, where the header names none.
    """
    frame, series, images = "", set(), set()
    for place in items(header, "ReferencedFrameOfReferenceSequence"):
        frame = frame or text(place, "FrameOfReferenceUID")
        for study in items(place, "RTReferencedStudySequence"):
            for each in items(study, "RTReferencedSeriesSequence"):
                series.add(text(each, "SeriesInstanceUID"))
                images.update(_instances(each, "ContourImageSequence"))
    if not images:
        try:
            contours = read_header(path, ("ROIContourSequence",))
        except Exception:  # too large for what it is worth
            return frame, _named(series), frozenset()
        for structure in items(contours, "ROIContourSequence"):
            for contour in items(structure, "ContourSequence"):
                images.update(_instances(contour, "ContourImageSequence"))
    return frame, _named(series), _named(images)


def segmentation_references(header: Dataset, path: Path) -> tuple[str, frozenset[str], frozenset[str]]:
    """Frame of reference, series and images of a DICOM SEG; see :func:`structure_set_references`."""
    series, images = set(), _instances(header, "SourceImageSequence")
    for each in items(header, "ReferencedSeriesSequence"):
        series.add(text(each, "SeriesInstanceUID"))
        images.update(_instances(each, "ReferencedInstanceSequence"))
    if not images and not series:
        groups = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
        try:
            frames = read_header(path, groups, frames=True)
        except Exception:  # see above
            return text(header, "FrameOfReferenceUID"), _named(series), frozenset()
        for group in groups:
            for frame in items(frames, group):
                for derivation in items(frame, "DerivationImageSequence"):
                    images.update(_instances(derivation, "SourceImageSequence"))
    return text(header, "FrameOfReferenceUID"), _named(series), _named(images)


def _instances(header: Dataset, sequence: str) -> set[str]:
    return {text(each, "ReferencedSOPInstanceUID") for each in items(header, sequence)}


def _named(uids: set[str]) -> frozenset[str]:
    return frozenset(uids - {""})
