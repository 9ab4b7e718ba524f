"""What a file of contours holds, told by its header: names, whether this tool drew them, whether a person approved them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from P2SAMSlicerLib.errors import InputError

if TYPE_CHECKING:
    from pydicom import Dataset

#: How this tool signs what it writes.
OWN_PROGRAM = "P2SAMSlicer"
UNREVIEWED_WORD = "UNREVIEWED"

#: Tags of a reviewed segment; written by :mod:`P2SAMSlicerLib.mrml.review_nodes`, which needs Slicer and cannot be imported.
DECISION_TAG, TAKEN_BACK_TAG, ACCEPTED = "P2SAM.Decision", "P2SAM.DecisionTakenBack", "accepted"


@dataclass(frozen=True)
class ContourFacts:
    """What is known of a file of contours.

    :param names: the structures in it; those that are there for comparison only are left out.
    :param drawn_here: this tool drew them, and nobody has accepted them since: no physician's contours.
    :param approved: a person said that they are right.
    """

    names: tuple[str, ...]
    drawn_here: bool = False
    approved: bool = False


def contour_facts(path: Path) -> ContourFacts:
    """What a file of contours holds; voxels are read of a label map only.

    :param path: RTSTRUCT, DICOM SEG, ``.seg.nrrd`` or label map. A file whose name says ``approved`` is taken for approved.
    :raises InputError: it cannot be read.
    """
    header = _dicom_header(path)
    if header is not None:
        return _of_dicom(header)
    if path.name.lower().endswith((".nrrd", ".nhdr")):
        facts = _of_slicer(path)
        if facts is not None:
            return facts
    from P2SAMSlicerLib.segmentation_file import read_segmentation

    return ContourFacts(tuple(read_segmentation(path).names()), approved=_says_approved(path))


def _says_approved(path: Path) -> bool:
    name = path.name.lower()
    return "approved" in name and "unapproved" not in name and "not_approved" not in name


def _dicom_header(path: Path) -> Dataset | None:
    """The header of a DICOM file; None for any other."""
    import warnings

    import pydicom

    try:
        with path.open("rb") as file:
            if file.read(132)[128:] != b"DICM":
                return None
        with warnings.catch_warnings():  # they may quote the patient's data
            warnings.simplefilter("ignore")
            header = pydicom.dcmread(path, stop_before_pixels=True)
            str(header.get("Modality", ""))
    except FileNotFoundError:
        raise InputError(f"{path.name}: no such file") from None
    except OSError as error:
        raise InputError(f"{path.name}: cannot be opened ({(error.strerror or 'unknown reason').lower()})") from error
    except Exception as error:  # damaged files make the parser fail in many ways; its words may quote the patient's data
        raise InputError(f"{path.name}: cannot be read as DICOM (damaged, or cut short)") from error
    return header


def _of_dicom(header: Dataset) -> ContourFacts:
    names: list[str] = []
    for sequence, name in (("StructureSetROISequence", "ROIName"), ("SegmentSequence", "SegmentLabel")):
        names += [str(item.get(name, "") or "").strip() for item in header.get(sequence) or ()]
    said = " ".join(str(header.get(key, "") or "") for key in ("StructureSetLabel", "SeriesDescription", "ContentLabel"))
    maker = str(header.get("ManufacturerModelName", "") or "").strip()
    drawn_here = maker.lower().startswith(OWN_PROGRAM.lower()) or UNREVIEWED_WORD in said.upper()
    return ContourFacts(tuple(names), drawn_here, str(header.get("ApprovalStatus", "") or "").strip().upper() == "APPROVED")


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


def _is_accepted(tags: Mapping[str, Any]) -> bool:
    """Accepted in a review with this tool, or marked as completed in 3D Slicer."""
    from P2SAMSlicerLib.result_files import STATUS_TAG

    if DECISION_TAG in tags:
        return tags[DECISION_TAG] == ACCEPTED and TAKEN_BACK_TAG not in tags
    return str(tags.get(STATUS_TAG, "")) == "completed"
