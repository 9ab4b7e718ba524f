"""What stands behind the contours, kept in the scene beside them: prompts, candidates, figures, versions.

It lies in a text node that the segmentation refers to, so saving the scene (MRB) saves it too.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.mrml.result_removal import mark_as_part
from P2SAMSlicerLib.orientation import canonical_orientation
from P2SAMSlicerLib.packed_mask import packed_volume, unpacked_volume
from P2SAMSlicerLib.result import SliceResult, VisitResult
from P2SAMSlicerLib.result_files import visit_entry
from P2SAMSlicerLib.slice_record import slice_from_plain, slice_to_plain
from P2SAMSlicerLib.visit_record import MOST_VOXELS
from P2SAMSlicerLib.volume import BoolArray

#: By this role a result's segmentation refers to its record, its follow-up and its prior's segmentation.
RECORD_ROLE = "P2SAMSlicer.record"
#: Attribute of a result's node: how the follow-up lay in the patient when its slices were recorded.
LAY_ATTRIBUTE = "P2SAMSlicer.recordedAs"
FORMAT = "P2SAMSlicer record"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class ResultRecord:
    """The record of one follow-up.

    :param summary: the follow-up's entry as ``summary.json`` has it: outcomes, reasons, figures, model, versions, options.
    :param slices: slices of every segment by its name, with prompts and candidates.
    """

    summary: Mapping[str, Any]
    slices: Mapping[str, tuple[SliceResult, ...]]


def attach_record(node: Any, visit: VisitResult) -> None:
    """Keep what stands behind a visit's contours with their segmentation node; a record that is there is replaced."""
    import slicer

    content = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "summary": visit_entry(visit),
        "slices": {result.source.name: [slice_to_plain(each) for each in result.slices] for result in visit.segments},
        # What the tool drew, for a report that has to say how far a person changed it.
        "drawn": {
            result.source.name: packed_volume(result.registered_mask if result.mask is None else result.mask)
            for result in visit.segments
        },
    }
    text = node.GetNodeReference(RECORD_ROLE)
    if text is None:
        text = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTextNode", f"{node.GetName()} record")
        text.SetHideFromEditors(True)
        mark_as_part(text)
        node.SetNodeReferenceID(RECORD_ROLE, text.GetID())
    text.SetText(json.dumps(content, allow_nan=False))
    node.SetAttribute(LAY_ATTRIBUTE, _lay(visit.grid))


def check_lies_as_recorded(node: Any, grid: Grid) -> None:
    """Refuse to read recorded slices on a follow-up that was turned over or resized since: they would be mirrored or swapped.

    A follow-up that is moved, or turned a little, is the same; so is one of which it is not known.

    :param grid: of the follow-up as it lies now.
    :raises InputError: it has other axes or voxel sizes.
    """
    recorded = node.GetAttribute(LAY_ATTRIBUTE)
    if recorded is not None and recorded != _lay(grid):
        raise InputError(
            f"{node.GetName()}: its follow-up was turned or resized since the contours were carried; put it back as it was,"
            " or carry the contours again"
        )


def _lay(grid: Grid) -> str:
    """Which stored axis is which of the slices', which way it runs, and the size of the voxels."""
    orientation = canonical_orientation(grid)
    axes = zip(orientation.permutation, orientation.flips, strict=True)
    lengths = " x ".join(f"{length:.4f}" for length in grid.spacing)
    return " ".join(f"{'-' if flip else '+'}{axis}" for axis, flip in axes) + f", {lengths} mm"


#: A segment's entry of the summary and all of its slices as they are now -> the entry as it is now.
Figures = Callable[[Mapping[str, Any], Sequence[SliceResult]], Mapping[str, Any]]


def replace_slices(node: Any, segment: str, changed: Sequence[SliceResult], figures: Figures | None = None) -> None:
    """Put slices of a segment that were decoded again into the record, in the place of those of the same lesion and number.

    :param segment: the segment's name in the record.
    :param figures: makes the segment's figures anew; without it they stay those of the run.
    :raises InputError: there is no readable record.
    """
    record = record_of(node)
    if record is None or segment not in record.slices:
        raise InputError(f"{node.GetName()}: nothing is recorded of '{segment}'")
    now = {(each.lesion, each.index): each for each in (*record.slices[segment], *changed)}
    text = node.GetNodeReference(RECORD_ROLE)
    content = json.loads(text.GetText())
    content["slices"][segment] = [slice_to_plain(each) for each in now.values()]
    if figures is not None:
        entries = content["summary"]["segments"]
        entries[:] = [figures(each, tuple(now.values())) if each["segment"] == segment else each for each in entries]
    text.SetText(json.dumps(content, allow_nan=False))


def drawn_contours(node: Any) -> dict[str, BoolArray]:
    """The contours as the tool drew them, ``(k, j, i)`` on the follow-up's voxels, by the name of the prior's segment.

    :returns: empty where there is no record, or one of a version that did not keep them, or a damaged one.
    """
    text = node.GetNodeReference(RECORD_ROLE)
    try:
        content = json.loads(text.GetText() or "") if text is not None else {}
        return {str(name): unpacked_volume(entry, MOST_VOXELS) for name, entry in content.get("drawn", {}).items()}
    except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RecursionError, zlib.error):
        return {}


def record_of(node: Any) -> ResultRecord | None:
    """The record of a segmentation node, or None if it has none (it was not made by this extension).

    :raises InputError: the record is damaged or of a newer version.
    """
    text = node.GetNodeReference(RECORD_ROLE)
    if text is None:
        return None
    name = node.GetName()
    try:
        content = json.loads(text.GetText() or "")
        if content["format"] != FORMAT:
            raise ValueError(content["format"])
        if content["format_version"] > FORMAT_VERSION:
            raise InputError(f"{name}: its record was written by a newer version of P2SAMSlicer")
        slices = {str(segment): tuple(slice_from_plain(each) for each in found) for segment, found in content["slices"].items()}
        summary = dict(content["summary"])
        for each in summary["segments"]:
            _check_entry(each)
        return ResultRecord(summary, slices)
    except InputError as error:
        raise error if str(error).startswith(name) else InputError(f"{name}: {error}") from error
    except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RecursionError) as error:
        raise InputError(f"{name}: its record cannot be read (damaged)") from error


def _check_entry(entry: Any) -> None:
    """Refuse an entry of a segment whose figures are none: tables and charts rely on them."""
    if not isinstance(entry["segment"], str) or not isinstance(entry.get("outcome", ""), str):
        raise ValueError("segment")
    if not all(isinstance(each, str) for each in entry.get("reasons", ())):
        raise ValueError("reasons")
    shift = entry.get("centroid_shift_mm")
    for figure in (entry.get("prior_volume_ml"), entry.get("review_priority"), *(() if shift is None else shift)):
        if figure is not None:
            float(figure + 0.0)
