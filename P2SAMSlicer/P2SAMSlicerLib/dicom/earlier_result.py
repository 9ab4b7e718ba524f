"""Contours of an earlier run, read from its files, for export to DICOM."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from P2SAMSlicerLib.dicom.ct_reference import CtSeries
from P2SAMSlicerLib.dicom.export_contours import ACCEPTED, ExportContour, contours_of_segments, story
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.resample import LATTICE_TOLERANCE, segments_on_grid
from P2SAMSlicerLib.result import Outcome
from P2SAMSlicerLib.result_files import ALGORITHM_NAME_TAG, FOLLOWUP_TAG, FORMAT, SUMMARY_NAME
from P2SAMSlicerLib.segmentation_file import read_segmentation
from P2SAMSlicerLib.volume import Segment, Segmentation
from P2SAMSlicerLib.volume_fingerprint import SameValues, same_values, volume_fingerprint
from P2SAMSlicerLib.volume_header import short_name

#: How the name of the algorithm begins in segments that this tool made.
OWN = "P2SAMSlicer"


@dataclass(frozen=True)
class EarlierResult:
    """One follow-up of an earlier run.

    :param name: short name for output files.
    :param segmentation: its contours, as the file has them.
    :param stories: what happened to a structure, by its name; empty where no summary is known.
    """

    name: str
    segmentation: Segmentation
    stories: Mapping[str, str]


@dataclass(frozen=True)
class ReviewInTags:
    """What 3D Slicer kept of a review with a segment."""

    decision: str
    reviewer: str
    time: str
    edited: bool


def read_earlier_result(path: Path | str, followup: str | None = None) -> EarlierResult:
    """Read a follow-up's contours.

    :param path: a ``.seg.nrrd`` of this tool, as it was written or as 3D Slicer saved it; or the folder of a run.
    :param followup: which follow-up of the folder; needed where it has several.
    :raises InputError: missing, damaged, not of this tool, no contour, or not clear which follow-up is meant.
    """
    path = Path(path)
    if not path.is_dir():
        if followup is not None:
            raise InputError(f"{path.name}: is one follow-up's file; a follow-up is chosen in the folder of a run only")
        return EarlierResult(short_name(path), read_segmentation(path), {})
    entries = _entries(path)
    if followup is None and len(entries) != 1:
        raise InputError(f"the run has {len(entries)} follow-ups; choose one: {', '.join(map(str, entries))}")
    if followup is not None and followup not in entries:
        raise InputError(f"the run has no follow-up '{followup}'; it has: {', '.join(map(str, entries))}")
    name = followup if followup is not None else next(iter(entries))
    entry = entries[name]
    if not isinstance(entry.get("file"), str) or Path(entry["file"]).name != entry["file"]:
        raise InputError(f"the run left no contour of follow-up '{name}'")
    return EarlierResult(name, read_segmentation(path / entry["file"]), _stories(entry))


def _entries(folder: Path) -> dict[str, dict[str, Any]]:
    """The follow-ups of a run's summary by name."""
    try:
        summary = json.loads((folder / SUMMARY_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        raise InputError(f"the folder has no {SUMMARY_NAME} of a run that can be read") from None
    entries = summary.get("followups") if isinstance(summary, dict) and summary.get("format") == FORMAT else None
    if not isinstance(entries, list) or not all(
        isinstance(each, dict) and isinstance(each.get("name"), str) for each in entries
    ):
        raise InputError(f"{SUMMARY_NAME}: is not the summary of a run of this tool, or is damaged")
    return {each["name"]: each for each in entries}


def _stories(entry: Mapping[str, Any]) -> dict[str, str]:
    """What happened to each structure; nothing is said where the summary cannot be understood."""
    stories = {}
    for each in entry.get("segments") or ():
        try:
            stories[str(each["segment"])] = story(Outcome(each["outcome"]), [str(reason) for reason in each["reasons"]])
        except (KeyError, TypeError, ValueError):
            continue
    return stories


def contours_on_ct(result: EarlierResult, ct: CtSeries) -> tuple[tuple[ExportContour, ...], list[str]]:
    """The contours on the CT's voxels, with what a review in 3D Slicer said of them.

    Segments that this tool did not make are left out: nothing could be said of how they came about. A review counts only for
    the contour that was reviewed; one that was changed afterwards is unreviewed.

    :param ct: on which they lie.
    :returns: the contours, and warnings in words.
    :raises InputError: they do not lie on this CT's voxels, were made on other values (another phase or reconstruction has the
        same voxels in space), or none is left.
    """
    found, grid = result.segmentation, ct.volume.grid
    if not _same_lattice(found.grid, grid):
        raise InputError(f"{result.name}: the contours do not lie on the voxels of this CT; is it another one?")
    own = [each for each in found.segments if each.tags.get(ALGORITHM_NAME_TAG, "").startswith(OWN) and each.mask.any()]
    warnings = []
    if left := [each.name for each in found.segments if not each.tags.get(ALGORITHM_NAME_TAG, "").startswith(OWN)]:
        warnings.append(f"{result.name}: not made by {OWN}, so not exported: {', '.join(left)}")
    if not own:
        raise InputError(f"{result.name}: has no contour that {OWN} made")
    warnings += _check_values(result.name, own, ct)
    segments, more = segments_on_grid(Segmentation(found.grid, tuple(own), result.name), None, grid)
    reviews = {each.name: review for each in segments if (review := _review(each)) is not None}
    return contours_of_segments(segments, reviews, result.stories), [*warnings, *more]


def _check_values(name: str, segments: Sequence[Segment], ct: CtSeries) -> list[str]:
    """Refuse a CT whose values are other ones than those that were contoured.

    :returns: a warning where that cannot be told.
    """
    told = {each.tags.get(FOLLOWUP_TAG, "") for each in segments}
    now = volume_fingerprint(ct.volume)
    compared = {same_values(each, now) for each in told}
    if compared == {SameValues.YES}:
        return []
    # Interpolated values may round to either side.
    if SameValues.NO in compared and not ct.reference.resampled:
        raise InputError(f"{name}: the contours were made on other CT values; is this another phase or reconstruction?")
    return [f"{name}: whether the contours were made on this very CT was told from where its voxels lie, not from their values"]


def _same_lattice(grid: Grid, other: Grid) -> bool:
    """Whether voxels of both coincide, as they do for a cropped or turned copy."""
    matrix = np.linalg.inv(other.index_to_physical) @ grid.index_to_physical
    turn = np.rint(matrix[:3, :3])
    last = np.array(grid.shape[::-1], dtype=np.float64) - 1
    drift = np.abs(matrix[:3, :3] - turn) @ last + np.abs(matrix[:3, 3] - np.rint(matrix[:3, 3]))
    return bool(
        (np.abs(turn).sum(axis=0) == 1).all() and (np.abs(turn).sum(axis=1) == 1).all() and drift.max() <= LATTICE_TOLERANCE
    )


def _review(segment: Segment) -> ReviewInTags | None:
    """The review that 3D Slicer kept with a segment; None where there is neither a decision nor an edit."""
    from P2SAMSlicerLib.mrml import review_nodes as tags
    from P2SAMSlicerLib.mrml.segment_nodes import read_tag

    own = {name: read_tag(name, text) for name, text in segment.tags.items()}
    now = tags.fingerprint(segment.mask)
    drawn = own.get(tags.DRAWN_TAG)
    edited = drawn is not None and drawn != now
    holds = tags.TAKEN_BACK_TAG not in own and own.get(tags.DECIDED_TAG) == now
    decision = own.get(tags.DECISION_TAG, "") if holds else ""
    reviewer = own.get(tags.REVIEWER_TAG, "").strip()
    if decision == ACCEPTED and not reviewer:
        decision = ""
    return ReviewInTags(decision, reviewer, own.get(tags.TIME_TAG, ""), edited) if decision or edited else None
