"""A segment's figures after a person edited it, in the place of those of the contour that the engine made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from P2SAMSlicerLib import review
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.outcome import figures
from P2SAMSlicerLib.result import Outcome, SliceResult
from P2SAMSlicerLib.result_files import plain, slice_entry
from P2SAMSlicerLib.volume import BoolArray


def edited_figures(
    entry: Mapping[str, Any], slices: Sequence[SliceResult], mask: BoolArray, registered: BoolArray | None, grid: Grid
) -> dict[str, Any]:
    """A segment's entry of the summary (:func:`P2SAMSlicerLib.result_files.visit_entry`) with the figures of its contour now.

    Outcome, reasons, removals and what the registration and the lost tissue say are of the run, and stay: they are what the
    person who edited had before them.

    :param entry: as it is recorded.
    :param slices: all slices of the segment as they are now.
    :param mask: the contour as it is now, on the follow-up's stored grid; may be empty.
    :param registered: the registered prior contour on it; None if that is not known any more.
    :param grid: the follow-up's stored grid.
    """
    prior_ml, volume_ml = float(entry["prior_volume_ml"]), float(mask.sum()) * grid.voxel_ml
    there = mask.any() and registered is not None and registered.any()
    found = figures(mask, registered, prior_ml, grid) if there and registered is not None else None
    return {
        **entry,
        "review_priority": review.priority_of_segment(slices, Outcome(entry["outcome"]), entry["reasons"]),
        "volume_ml": volume_ml,
        "volume_change_percent": 100.0 * (volume_ml / prior_ml - 1.0) if prior_ml > 0 else None,
        "centroid_shift_mm": None if found is None else list(found.shift_lps_mm),
        "slices": [plain(slice_entry(each)) for each in slices],
    }
