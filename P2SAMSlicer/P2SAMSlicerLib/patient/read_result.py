"""A finished visit's contours from its folder, as a result that can be shown; slices and candidates are not kept there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.patient.plan import drawn_contours
from P2SAMSlicerLib.result import FOLLOWUP_VALUES, Outcome, SegmentResult, VisitResult
from P2SAMSlicerLib.result_files import COMPARISON_SUFFIX, OWN_TAGS_PREFIX, SUMMARY_NAME, is_comparison
from P2SAMSlicerLib.segmentation_file import read_segmentation
from P2SAMSlicerLib.volume import BoolArray, Segment


def read_result(folder: Path, grid: Grid) -> VisitResult:
    """What was carried to a visit, without slices.

    :param folder: of a visit that is done.
    :param grid: of the visit's CT.
    :raises InputError: damaged, or made for another CT.
    """
    try:
        entry: dict[str, Any] = json.loads((folder / SUMMARY_NAME).read_text(encoding="utf-8"))["followups"][0]
        masks = _masks(folder, grid)
        segments = tuple(_segment(each, masks, grid) for each in entry["segments"])
        return VisitResult(
            name=str(entry["name"]),
            grid=grid,
            segments=segments,
            registration=dict(entry["registration"]),
            stage_seconds=dict(entry["stage_seconds"]),
            warnings=tuple(entry["warnings"]),
            overrides=tuple(entry["overrides"]),
            provenance={key: entry.get(key) for key in ("model", "device", "options", "versions", FOLLOWUP_VALUES)},
            notes=tuple(entry["notes"]),
        )
    except InputError:
        raise
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise InputError(f"{folder.name}: its results cannot be read (damaged)") from error


def _masks(folder: Path, grid: Grid) -> dict[str, Segment]:
    """The contours of the visit's file by their names."""
    path = drawn_contours(folder)
    if not path.exists():
        return {}
    read = read_segmentation(path)
    if read.grid.shape != grid.shape or not read.grid.same_as(grid, 0.01):
        raise InputError(f"{folder.name}: its contours are not on the voxels of the CT")
    return {segment.name: segment for segment in read.segments}


def _segment(entry: dict[str, Any], segments: dict[str, Segment], grid: Grid) -> SegmentResult:
    name, outcome = entry["segment"], Outcome(entry["outcome"])
    found, registered = segments.get(name), segments.get(f"{name}{COMPARISON_SUFFIX}")
    own = found if found is not None and not is_comparison(found) else None
    shown = own or registered
    empty: BoolArray = np.zeros(grid.shape, dtype=np.bool_)
    tags = {} if shown is None else {key: value for key, value in shown.tags.items() if not key.startswith(OWN_TAGS_PREFIX)}
    shift = entry["centroid_shift_mm"]
    if (outcome in (Outcome.FOUND, Outcome.FLAGGED)) != (own is not None):
        raise InputError(f"a contour of '{name}' is missing, or is there against its outcome")
    return SegmentResult(
        source=Segment(name, empty, None if own is None else own.color, None if shown is None else shown.terminology, tags),
        outcome=outcome,
        reasons=tuple(entry["reasons"]),
        review_priority=float(entry["review_priority"]),
        mask=None if own is None else own.mask,
        registered_mask=empty if registered is None else registered.mask,
        prior_volume_ml=float(entry["prior_volume_ml"]),
        volume_ml=entry["volume_ml"],
        volume_change_percent=entry["volume_change_percent"],
        centroid_shift_mm=None if shift is None else (float(shift[0]), float(shift[1]), float(shift[2])),
        slices=(),
        removals=tuple(entry["removals"]),
        registration=dict(entry["registration"]),
        lost_tissue_share=entry["lost_tissue_share"],
    )
