"""``p2sam evaluate``: how a contour compares with the truth."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from P2SAMSlicerLib.cli.arguments import Commands, millimetres
from P2SAMSlicerLib.cli.arguments import add_command as add_named_command
from P2SAMSlicerLib.cli.output import check_output_file
from P2SAMSlicerLib.cli.table import figure, format_table
from P2SAMSlicerLib.dicom.read_contours import is_structure_set, read_on_grid, read_on_own_grid
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.metrics import SegmentMetrics, evaluate, volume_ml
from P2SAMSlicerLib.orientation import acquisition_slice_axis
from P2SAMSlicerLib.resample import outside_share, resample_mask
from P2SAMSlicerLib.result_files import is_comparison, write_json
from P2SAMSlicerLib.volume import Segment, Segmentation

DESCRIPTION = """\
Compares contours with the truth. Both are a .seg.nrrd, a label map, a DICOM SEG or
a DICOM structure set (RTSTRUCT), told by content. The figures are taken on the
truth's voxel grid; a result on another grid is resampled to it, and that is said.
A structure set has no voxels: it takes those of the other file, so that only one
of the two may be one.

Without names: the structures that have the same name in both files; or, where
both files hold a single one, these two."""

#: One line a figure, in the order of the table.
DEFINITIONS = (
    ("Dice", "3-D: 2 |R and T| / (|R| + |T|) over all voxels; 1 if both are empty"),
    ("slice Dice", "mean of the 2-D Dice over the slices on which the truth has a contour (the paper's figure)"),
    (
        "HD95",
        "larger of the two directed 95th percentiles of surface distances, in mm, 3-D, voxel centres; infinite if one is empty",
    ),
    ("MSD", "mean distance from each surface voxel of both to the other surface, in mm"),
    ("surface Dice", "share of both surfaces' voxels within the tolerance of the other surface"),
    ("APL", "added path length: in-plane contour of the truth that the result lacks, in mm"),
    ("volume error", "result minus truth; negative where tumour is lost"),
    ("missed", "share of the truth that the result leaves out"),
    ("over-contoured", "what the result holds beyond the truth, as a share of the truth"),
    ("centroid shift", "from the truth's centroid to the result's, in mm, to left, posterior and superior (LPS)"),
)


@dataclass(frozen=True)
class Comparison:
    """One result and its truth on one grid.

    :param notes: what was done to get there, in words.
    """

    result_name: str
    truth_name: str
    metrics: SegmentMetrics
    notes: tuple[str, ...]


def add_command(commands: Commands) -> None:
    """Add ``evaluate`` to the command line."""
    parser = add_named_command(commands, "evaluate", run, "compare a contour with the truth", DESCRIPTION)
    parser.add_argument("--result", metavar="R", type=Path, required=True, help="the contours to judge")
    parser.add_argument("--truth", metavar="T", type=Path, required=True, help="the contours to judge them by")
    parser.add_argument("--segment", metavar="NAME", help="structure in the result")
    parser.add_argument("--truth-segment", metavar="NAME", help="structure in the truth (default: as in the result)")
    parser.add_argument(
        "--tolerance-mm", metavar="MM", type=millimetres, default=2.0, help="of the surface Dice (default: %(default)g)"
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures to this file, too")


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    if arguments.json is not None:
        check_output_file(arguments.json, (arguments.result, arguments.truth))
    result, truth, told = _read_both(arguments.result, arguments.truth)
    pairs = _pairs(result, truth, arguments.segment, arguments.truth_segment)
    comparisons = [compare(result, mine, truth, true, arguments.tolerance_mm) for mine, true in pairs]
    if arguments.json is not None:
        write_json(arguments.json, _record(arguments.result.name, arguments.truth.name, comparisons))
    print_comparisons(comparisons)
    for note in told:
        print(f"- {note}")
    return 0


def _read_both(result: Path, truth: Path) -> tuple[Segmentation, Segmentation, tuple[str, ...]]:
    """Both files, and what their readers have to say.

    :raises InputError: unreadable, or both are structure sets.
    """
    drawn = [is_structure_set(path) for path in (result, truth)]
    if all(drawn):
        raise InputError("both are structure sets, which have no voxels; give one of them as .seg.nrrd, label map or DICOM SEG")
    if drawn[0]:
        on_grid = read_on_own_grid(truth)
        read = read_on_grid(result, on_grid.segmentation.grid)
        return read.segmentation, on_grid.segmentation, (*read.warnings, *on_grid.warnings)
    on_grid = read_on_own_grid(result)
    read = read_on_grid(truth, on_grid.segmentation.grid) if drawn[1] else read_on_own_grid(truth)
    return on_grid.segmentation, read.segmentation, (*on_grid.warnings, *read.warnings)


def _pairs(
    result: Segmentation, truth: Segmentation, name: str | None, truth_name: str | None
) -> list[tuple[Segment, Segment]]:
    """What to compare with what.

    :raises InputError: a name is not there, or without names it is not clear what belongs together.
    """
    if name is not None or truth_name is not None:
        return [(_one(result, name, truth_name), _one(truth, truth_name, name))]
    ours, theirs = _contours(result), _contours(truth)
    if len(ours) == 1 and len(theirs) == 1:
        return [(ours[0], theirs[0])]
    common = [segment.name for segment in ours if any(segment.name == other.name for other in theirs)]
    if not common:
        raise InputError(
            f"no structure has the same name in {result.name} ({_names(ours)}) and in {truth.name} ({_names(theirs)});"
            " name them with --segment and --truth-segment"
        )
    return [(_one(result, each, None), _one(truth, each, None)) for each in dict.fromkeys(common)]


def _contours(segmentation: Segmentation) -> list[Segment]:
    """The structures of a file; an empty label map holds one empty structure.

    :raises InputError: it only holds registered prior contours, as where no lesion was found.
    """
    if not segmentation.segments:
        return [Segment(segmentation.name, np.zeros(segmentation.grid.shape, dtype=np.bool_))]
    found = [segment for segment in segmentation.segments if not is_comparison(segment)]
    if not found:
        raise InputError(
            f"{segmentation.name}: holds no contour but registered prior contours for comparison"
            f" ({_names(segmentation.segments)}); to judge one of these, name it with --segment"
        )
    return found


def _one(segmentation: Segmentation, name: str | None, other_name: str | None) -> Segment:
    """The structure of this name; without one that of the other file's name, or the only one."""
    if name is None:
        there = _contours(segmentation)
        same = [segment for segment in there if segment.name == other_name]
        if not same and len(there) != 1:
            raise InputError(f"{segmentation.name}: which structure is meant? It has: {_names(there)}")
        return (same or there)[0]
    if sum(segment.name == name for segment in segmentation.segments) > 1:
        raise InputError(f"{segmentation.name}: two structures are named '{name}'; rename one")
    return segmentation.select([name])[0]


def _names(segments: Sequence[Segment]) -> str:
    return ", ".join(segment.name for segment in segments)


def compare(result: Segmentation, mine: Segment, truth: Segmentation, true: Segment, tolerance_mm: float = 2.0) -> Comparison:
    """Compare one structure with the truth, on the truth's grid.

    :raises InputError: the result lies wholly outside of the truth's grid.
    """
    mask, notes = mine.mask, []
    if not result.grid.same_as(truth.grid):
        outside = outside_share(mask, result.grid, truth.grid)
        if outside == 1:
            raise InputError(
                f"{result.name}: '{mine.name}' lies wholly outside of the grid of {truth.name}; are both of the same visit?"
            )
        mask = resample_mask(mask, result.grid, truth.grid)
        before, after = volume_ml(mine.mask, result.grid), volume_ml(mask, truth.grid)
        notes.append(
            f"the result was resampled to the truth's grid; its volume was {before:.3f} ml before and is {after:.3f} ml after"
        )
        if outside:
            notes.append(f"{outside:.1%} of the result lies outside of the truth's grid and is not counted")
    for what, voxels in (("result", mask), ("truth", true.mask)):
        if not voxels.any():
            notes.append(f"the {what} is empty: distances have no meaning, and no average may leave this case out")
    if mask.any() and true.mask.any() and not (mask & true.mask).any():
        notes.append("result and truth have no voxel in common")
    metrics = evaluate(mask, true.mask, truth.grid, tolerance_mm, slice_axis=acquisition_slice_axis(truth.grid))
    return Comparison(mine.name, true.name, metrics, tuple(notes))


def _record(result_name: str, truth_name: str, comparisons: Sequence[Comparison]) -> dict[str, Any]:
    return {
        "format": "P2SAMSlicer evaluation",
        "format_version": 1,
        "result": result_name,
        "truth": truth_name,
        "definitions": dict(DEFINITIONS),
        "comparisons": [
            {
                "segment": each.result_name,
                "truth_segment": each.truth_name,
                **each.metrics.as_dict(),
                "notes": list(each.notes),
            }
            for each in comparisons
        ],
    }


def print_comparisons(comparisons: Sequence[Comparison]) -> None:
    """Print a column for each structure, what is to be known about it, and what each figure means."""
    columns = [_column(each.metrics) for each in comparisons]
    rows = [[name, *(column[name] for column in columns)] for name in columns[0]]
    print(format_table(["", *(each.result_name for each in comparisons)], rows))
    for each in comparisons:
        for note in each.notes:
            print(f"- {each.result_name}: {note}")
    print()
    for name, meaning in DEFINITIONS:
        print(f"{name}: {meaning}")


def _column(metrics: SegmentMetrics) -> dict[str, str]:
    shift = metrics.centroid_shift_mm
    return {
        "Dice": figure(metrics.volumetric_dice, 4),
        "slice Dice": figure(metrics.slice_mean_dice, 4),
        "HD95 mm": figure(metrics.hd95_mm, 2),
        "MSD mm": figure(metrics.mean_surface_distance_mm, 2),
        f"surface Dice {metrics.tolerance_mm:g} mm": figure(metrics.surface_dice, 4),
        "APL mm": figure(metrics.added_path_length_mm, 1),
        "truth ml": figure(metrics.truth_volume_ml, 3),
        "result ml": figure(metrics.result_volume_ml, 3),
        "volume error ml": figure(metrics.volume_error_ml, 3),
        "volume error %": figure(metrics.volume_error_percent, 1),
        "missed %": figure(100 * metrics.missed_fraction, 1),
        "over-contoured %": figure(100 * metrics.over_contoured_fraction, 1),
        "centroid shift mm": "-" if shift is None else " ".join(f"{value:.1f}" for value in shift),
    }
