"""The images that a structure set or a segmentation says it was drawn on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from P2SAMSlicerLib.dicom.bounded_read import ReadBudget, read_header
from P2SAMSlicerLib.dicom.header import items, text

if TYPE_CHECKING:
    from pydicom import Dataset

#: What the index has to read of such objects.
REFERENCE_TAGS = ("ReferencedFrameOfReferenceSequence", "ReferencedSeriesSequence", "SourceImageSequence")


def structure_set_references(header: Dataset, path: Path) -> tuple[str, frozenset[str], frozenset[str]]:
    """Frame of reference, series and images of a structure set.

    :param header: with :data:`REFERENCE_TAGS`.
    :param path: read again for the images of each contour, where the header names none.
    """
    budget = ReadBudget()
    frame, series, images = "", set[str](), set[str]()
    for place in items(header, "ReferencedFrameOfReferenceSequence", budget):
        frame = frame or text(place, "FrameOfReferenceUID")
        for study in items(place, "RTReferencedStudySequence", budget):
            for each in items(study, "RTReferencedSeriesSequence", budget):
                series.add(text(each, "SeriesInstanceUID"))
                images.update(_instances(each, "ContourImageSequence", budget))
    if not images:
        try:
            contours = read_header(path, ("ROIContourSequence",))
        except Exception:  # too large for what it is worth
            return frame, _named(series), frozenset()
        for structure in items(contours, "ROIContourSequence", budget):
            for contour in items(structure, "ContourSequence", budget):
                images.update(_instances(contour, "ContourImageSequence", budget))
    return frame, _named(series), _named(images)


def segmentation_references(header: Dataset, path: Path) -> tuple[str, frozenset[str], frozenset[str]]:
    """Frame of reference, series and images of a DICOM SEG; see :func:`structure_set_references`."""
    budget = ReadBudget()
    series, images = set[str](), _instances(header, "SourceImageSequence", budget)
    for each in items(header, "ReferencedSeriesSequence", budget):
        series.add(text(each, "SeriesInstanceUID"))
        images.update(_instances(each, "ReferencedInstanceSequence", budget))
    if not images and not series:
        groups = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
        try:
            frames = read_header(path, groups, frames=True)
        except Exception:  # see above
            return text(header, "FrameOfReferenceUID"), _named(series), frozenset()
        for group in groups:
            for frame in items(frames, group, budget):
                for derivation in items(frame, "DerivationImageSequence", budget):
                    images.update(_instances(derivation, "SourceImageSequence", budget))
    return text(header, "FrameOfReferenceUID"), _named(series), _named(images)


def _instances(header: Dataset, sequence: str, budget: ReadBudget) -> set[str]:
    return {text(each, "ReferencedSOPInstanceUID") for each in items(header, sequence, budget)}


def _named(uids: set[str]) -> frozenset[str]:
    return frozenset(uids - {""})
