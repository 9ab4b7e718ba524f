"""Small cases and findings for the tests of the benchmark."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from P2SAMSlicerLib.benchmark.cases import BenchmarkCase
from P2SAMSlicerLib.benchmark.findings import AccuracyFindings, Row
from P2SAMSlicerLib.candidates import REGISTERED
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.metrics import evaluate
from P2SAMSlicerLib.region import Region
from P2SAMSlicerLib.result import Candidate, SliceResult
from P2SAMSlicerLib.segmentation_file import write_segmentation
from P2SAMSlicerLib.volume import BoolArray, Segment, Segmentation
from P2SAMSlicerLib.volume_file import write_volume
from small_visits import FOLLOWUP_GRID, PRIOR_GRID, ball, phantom

#: Slices of 20 x 20 pixels of 2 mm, and the region that shows exactly these pixels.
PIXELS = 20
GRID = Grid((6, PIXELS, PIXELS), (2.0, 2.0, 3.0))
REGION = Region(-1.0, -1.0, 2.0 * PIXELS, PIXELS)


def write_case(folder: Path, truth_radius: float = 8.0, **facts: Any) -> Path:
    """A case: the phantom twice, a ball of 10 mm on the prior and one of another radius on the follow-up; 0 for none."""
    folder.mkdir(parents=True)
    write_volume(phantom(PRIOR_GRID), folder / "prior_ct.nii.gz")
    write_volume(phantom(FOLLOWUP_GRID), folder / "followup_ct.nii.gz")
    write_segmentation(Segmentation(PRIOR_GRID, (Segment("GTV", ball(PRIOR_GRID, 10.0)),)), folder / "prior_seg.seg.nrrd")
    if truth_radius:
        truth = Segment("GTV", ball(FOLLOWUP_GRID, truth_radius))
        write_segmentation(Segmentation(FOLLOWUP_GRID, (truth,)), folder / "followup_seg.seg.nrrd")
    if facts:
        (folder / "case.json").write_text(json.dumps(facts))
    return folder


def square(first: int, last: int) -> BoolArray:
    """The pixels from ``first`` to ``last``, in rows and columns."""
    mask = np.zeros((PIXELS, PIXELS), dtype=np.bool_)
    mask[first : last + 1, first : last + 1] = True
    return mask


def candidate(origin: str, mask: BoolArray, distance: float = 1.0) -> Candidate:
    return Candidate(
        origin, mask, np.zeros((0, 2), dtype=np.float32), np.zeros(0, dtype=np.int64), None, distance, distance, 0.9
    )


def slice_of(index: int, masks: Mapping[str, BoolArray], chosen: str | None, priority: float = 0.5) -> SliceResult:
    """A slice with these candidates."""
    candidates = tuple(candidate(origin, mask) for origin, mask in masks.items())
    number = None if chosen is None else list(masks).index(chosen)
    return SliceResult(index, 3.0 * index, candidates, number, priority, region=REGION)


def case_named(name: str, change: str = "shrink", site: str = "lung", patient: str | None = None) -> BenchmarkCase:
    file = Path("none")
    return BenchmarkCase(name, file, file, file, file, change, site, patient or name, True, None)


def row_of(case: BenchmarkCase, method: str, radius: float, truth: float = 12.0, **fields: Any) -> Row:
    """A ball as the result of a method, against a ball as the truth; radius 0 for an empty mask."""
    grid = Grid((12, 16, 16), (3.0, 3.0, 3.0), (-22.5, -22.5, -16.5))
    result, true = (ball(grid, radius or -1.0) for radius in (radius, truth))
    return Row(case, method, evaluate(result, true, grid), **{"seconds": 10.0, **fields})


def findings_of(radii: Mapping[str, Sequence[float]], cases: Sequence[BenchmarkCase], **fields: Any) -> AccuracyFindings:
    """Findings of methods whose results are balls of these radii, one for each case; the true radius is 12 mm."""
    rows = tuple(
        row_of(case, method, radius, outcome="found" if method == "clinical" else None)
        for method, each in radii.items()
        for case, radius in zip(cases, each, strict=True)
    )
    values: dict[str, Any] = {"choices": {}, "rankings": {}, "peak_memory_gib": 2.0, **fields}
    return AccuracyFindings(tuple(cases), tuple(radii), rows, **values)


def registered_and(**masks: BoolArray) -> dict[str, BoolArray]:
    """Candidates of a slice, the registered contour first: 10 x 10 pixels."""
    return {REGISTERED: square(5, 14), **masks}
