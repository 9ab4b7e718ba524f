"""What a file of contours holds, told by its header: names, whether this tool drew them, whether a person approved them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydicom import Dataset

    from P2SAMSlicerLib.volume import Segment

#: How this tool signs what it writes.
OWN_PROGRAM = "P2SAMSlicer"
#: What messages call a file.
WHAT = "structure set or segmentation"
UNREVIEWED_WORD = "UNREVIEWED"

#: Tags of a reviewed segment; written by :mod:`P2SAMSlicerLib.mrml.review_nodes`.
DECISION_TAG, TAKEN_BACK_TAG, ACCEPTED = "P2SAM.Decision", "P2SAM.DecisionTakenBack", "accepted"


@dataclass(frozen=True)
class ContourFacts:
    """What is known of a file of contours.

    :param names: the structures in it; those that are there for comparison only are left out.
    :param drawn_here: this tool drew them, and nobody has accepted them since: no physician's contours.
    :param approved: a person said that they are right.
    :param structure_set_uid: SOPInstanceUID of an RTSTRUCT; empty for anything else.
    """

    names: tuple[str, ...]
    drawn_here: bool = False
    approved: bool = False
    structure_set_uid: str = ""


def contour_facts(path: Path) -> ContourFacts:
    """What a file of contours holds; voxels are read of a label map only.

    :param path: RTSTRUCT, DICOM SEG, ``.seg.nrrd`` or label map. A file of the latter two whose name says ``approved`` is taken
        for approved.
    :raises InputError: it cannot be read.
    """
    from P2SAMSlicerLib.dicom.read_contours import contour_file
    from P2SAMSlicerLib.segmentation_file import read_segmentation

    kind, file = contour_file(path)
    if kind:
        return _of_dicom(file, kind)
    if file.name.lower().endswith((".nrrd", ".nhdr")):
        facts = _of_slicer(file)
        if facts is not None:
            return facts
    return ContourFacts(tuple(read_segmentation(file).names()), approved=_says_approved(file))


def _says_approved(path: Path) -> bool:
    name = path.name.lower()
    return "approved" in name and "unapproved" not in name and "not_approved" not in name


def _of_dicom(path: Path, kind: str) -> ContourFacts:
    from P2SAMSlicerLib.dicom.bounded_read import STRUCTURE_SET_CLASS, header_of, open_bounded, reading
    from P2SAMSlicerLib.dicom.header import text, whole_items

    with open_bounded(path, WHAT) as stream, reading(WHAT):
        header = header_of(stream)
        drawn = {text(each, "ReferencedROINumber") for each in whole_items(header, "ROIContourSequence") if _has_contours(each)}
        names = [
            text(each, "ROIName") or f"ROI {text(each, 'ROINumber')}"
            for each in whole_items(header, "StructureSetROISequence")
            if text(each, "ROINumber") in drawn
        ]
        names += [
            text(each, "SegmentLabel") or f"Segment_{text(each, 'SegmentNumber')}"
            for each in whole_items(header, "SegmentSequence")
        ]
        said = " ".join(text(header, key) for key in ("StructureSetLabel", "SeriesDescription", "ContentLabel"))
        maker = text(header, "ManufacturerModelName").lower()
        return ContourFacts(
            tuple(names),
            drawn_here=maker.startswith(OWN_PROGRAM.lower()) or UNREVIEWED_WORD in said.upper(),
            approved=text(header, "ApprovalStatus").upper() == "APPROVED",
            structure_set_uid=_uid(header) if kind == STRUCTURE_SET_CLASS else "",
        )


def _uid(header: Dataset) -> str:
    """The object's own UID; empty if it is none that another object could refer to."""
    from pydicom.uid import UID

    from P2SAMSlicerLib.dicom.header import text

    found = text(header, "SOPInstanceUID")
    return found if UID(found).is_valid else ""


def _has_contours(item: Dataset) -> bool:
    from P2SAMSlicerLib.dicom.header import whole_items

    return bool(whole_items(item, "ContourSequence"))


def _of_slicer(path: Path) -> ContourFacts | None:
    """Of a segmentation of 3D Slicer; None for another kind of NRRD file."""
    from P2SAMSlicerLib.result_files import is_comparison
    from P2SAMSlicerLib.segmentation_file import segments_in_header
    from P2SAMSlicerLib.volume_file import check_readable
    from P2SAMSlicerLib.volume_header import check_header

    check_readable(path)
    if not check_header(path).segmentation:
        return None
    segments = [each for each in segments_in_header(path) if not is_comparison(each)]
    return ContourFacts(
        tuple(each.name for each in segments),
        drawn_here=bool(segments) and all(is_drawn_here(each.tags) for each in segments),
        approved=_says_approved(path) or (bool(segments) and all(_is_accepted(each.tags) for each in segments)),
    )


def is_drawn_here(tags: Mapping[str, Any]) -> bool:
    """Whether a segment's tags say that this tool drew it and that nobody has accepted it."""
    from P2SAMSlicerLib.result_files import ALGORITHM_NAME_TAG

    return str(tags.get(ALGORITHM_NAME_TAG, "")).startswith(OWN_PROGRAM) and not _is_accepted(tags)


def is_changed_since_accepted(segment: Segment) -> bool:
    """Whether a contour that was accepted in a review with this tool is no longer the one that was accepted.

    :param segment: on the voxels of the CT that was contoured.
    """
    from P2SAMSlicerLib.mrml.review_nodes import DECIDED_TAG, fingerprint

    return segment.tags.get(DECISION_TAG) == ACCEPTED and segment.tags.get(DECIDED_TAG) != fingerprint(segment.mask)


def _is_accepted(tags: Mapping[str, Any]) -> bool:
    """Accepted in a review with this tool, or marked as completed in 3D Slicer."""
    from P2SAMSlicerLib.result_files import STATUS_TAG

    if DECISION_TAG in tags:
        return tags[DECISION_TAG] == ACCEPTED and TAKEN_BACK_TAG not in tags
    return str(tags.get(STATUS_TAG, "")) == "completed"
