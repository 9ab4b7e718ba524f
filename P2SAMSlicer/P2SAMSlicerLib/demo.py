"""The demo: a real CT, a simulated second visit, the contour carried to it, and the result measured against the known truth."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from P2SAMSlicerLib import demo_data
from P2SAMSlicerLib.atomic_file import atomic_folder, check_writable
from P2SAMSlicerLib.cli.job import JobResult, PropagationJob, run_job
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.metrics import SegmentMetrics, evaluate
from P2SAMSlicerLib.models import check_model
from P2SAMSlicerLib.models.catalogue import default_model
from P2SAMSlicerLib.orientation import acquisition_slice_axis, canonical_orientation, to_working_frame
from P2SAMSlicerLib.overlay import comparison_panels, write_overlay
from P2SAMSlicerLib.progress import Progress, ProgressEvent, silent
from P2SAMSlicerLib.result import SegmentResult, VisitResult
from P2SAMSlicerLib.result_files import FailedVisit, result_names, write_json
from P2SAMSlicerLib.segmentation_file import read_segmentation, write_segmentation
from P2SAMSlicerLib.simulation.visit import Change, SimulatedVisit, SimulationOptions, simulate_followup
from P2SAMSlicerLib.threads import use_threads
from P2SAMSlicerLib.volume import BoolArray, Segment, Segmentation, Volume
from P2SAMSlicerLib.volume_file import read_volume, write_volume

DEFAULT_CHANGE: Change = "partial"
DEFAULT_SEED = 1

PRIOR_CT_NAME, PRIOR_SEG_NAME, TRUTH_NAME = "prior_ct.nrrd", "prior.seg.nrrd", "truth.seg.nrrd"
FOLLOWUP_NAME, PICTURE_NAME, RECORD_NAME = "followup_ct.nii.gz", "overlay.png", "demo.json"
FORMAT = "P2SAMSlicer demo"

SEGMENT_NAME = "tumour"
SEGMENT_COLOR = (0.90, 0.62, 0.0)

#: Stands below every figure of the demo.
CAPTION = "One simulated second visit of one patient, site lung: no clinical claim. Unreviewed, for research use only."

#: Room for both CTs, the masks and the picture.
NEED_BYTES = 100_000_000


@dataclass(frozen=True)
class DemoOptions:
    """What to show.

    :param out: folder for the files.
    :param change: of the tumour.
    :param seed: of the simulated visit.
    :param overwrite: replace files of the same names; an earlier demo's always are.
    """

    out: Path
    change: Change = DEFAULT_CHANGE
    seed: int = DEFAULT_SEED
    model: str = field(default_factory=default_model)
    checkpoint: Path | None = None
    allow_unverified: bool = False
    device: str = "auto"
    precision: str = "auto"
    threads: int | None = None
    overwrite: bool = False


@dataclass(frozen=True)
class DemoRow:
    """One contour against the truth.

    :param name: for people.
    """

    name: str
    metrics: SegmentMetrics


@dataclass(frozen=True)
class DemoResult:
    """What came of the demo.

    :param job: what ``p2sam propagate`` made.
    :param rows: rigid copy, registered prior contour, and the result if there is one.
    :param picture: the file with the picture.
    """

    job: JobResult
    rows: tuple[DemoRow, ...]
    picture: Path


def run_demo(options: DemoOptions, progress: Progress = silent) -> DemoResult:
    """Simulate, propagate, measure and draw; all files appear together or not at all.

    The propagation reads its input from files and goes the way of ``p2sam propagate``.

    :raises InputError: the data cannot be had, the follow-up cannot be used, or files are in the way.
    :raises OutputError: the files cannot be written.
    """
    _check_output(options)
    check_model(options.model, options.checkpoint, allow_unverified=options.allow_unverified)
    simulation = SimulationOptions(change=options.change, seed=options.seed)
    simulation.check()
    use_threads(options.threads)
    ct_file, label_file = demo_data.lung_ct(progress)
    progress(ProgressEvent("simulation", 0, 1))
    prior = read_volume(ct_file)
    mask = read_segmentation(label_file).segments[0].mask
    visit = simulate_followup(prior, mask, simulation)
    progress(ProgressEvent("simulation", 1, 1))
    with atomic_folder(options.out) as stage:
        _write_inputs(stage, ct_file, prior, mask, visit)
        job = run_job(_job(options, stage), progress)
        result = job.visits[0]
        if isinstance(result, FailedVisit):
            raise InputError(f"demo: {result.reason}")
        rows = _measure(prior, mask, visit, result, progress)
        _draw(stage / PICTURE_NAME, prior, mask, visit, result.segments[0])
        write_json(stage / RECORD_NAME, _record(visit, rows))
    files = tuple(options.out / file.name for file in job.files)
    return DemoResult(replace(job, files=files), tuple(rows), options.out / PICTURE_NAME)


def _check_output(options: DemoOptions) -> None:
    """Refuse to replace what is not an earlier demo's."""
    names = [PRIOR_CT_NAME, PRIOR_SEG_NAME, FOLLOWUP_NAME, TRUTH_NAME, PICTURE_NAME, *result_names([_stem()])]
    there = [name for name in names if os.path.lexists(options.out / name)]
    if there and not options.overwrite and not (options.out / RECORD_NAME).is_file():
        raise InputError(f"{there[0]}: there already in the folder for the files; use --overwrite to replace")
    check_writable(options.out, NEED_BYTES)


def _stem() -> str:
    return FOLLOWUP_NAME.removesuffix(".nii.gz")


def _write_inputs(stage: Path, ct_file: Path, prior: Volume, mask: BoolArray, visit: SimulatedVisit) -> None:
    """What a user would bring along, and the truth, which no user has."""
    shutil.copyfile(ct_file, stage / PRIOR_CT_NAME)
    segment = Segment(SEGMENT_NAME, mask, SEGMENT_COLOR)
    write_segmentation(Segmentation(prior.grid, (segment,), "prior"), stage / PRIOR_SEG_NAME)
    write_volume(visit.followup, stage / FOLLOWUP_NAME)
    if visit.mask.any():
        truth = replace(segment, name="truth", mask=visit.mask)
        write_segmentation(Segmentation(visit.followup.grid, (truth,), "truth"), stage / TRUTH_NAME)


def _job(options: DemoOptions, stage: Path) -> PropagationJob:
    return PropagationJob(
        prior_ct=stage / PRIOR_CT_NAME,
        prior_seg=stage / PRIOR_SEG_NAME,
        followups=(stage / FOLLOWUP_NAME,),
        out=stage,
        model=options.model,
        checkpoint=options.checkpoint,
        allow_unverified=options.allow_unverified,
        device=options.device,
        precision=options.precision,
        threads=options.threads,
    )


def _measure(prior: Volume, mask: BoolArray, visit: SimulatedVisit, result: VisitResult, progress: Progress) -> list[DemoRow]:
    """Rigid copy, registered contour and result against the truth."""
    progress(ProgressEvent("comparison with a rigid copy", 0, 1))
    segment = result.segments[0]
    contours = [("rigid copy", rigid_copy(prior, mask, visit.followup)), ("registered prior contour", segment.registered_mask)]
    if segment.mask is not None:
        contours.append(("P2SAM result", segment.mask))
    grid = visit.followup.grid
    axis = acquisition_slice_axis(grid)
    rows = [DemoRow(name, evaluate(contour, visit.mask, grid, slice_axis=axis)) for name, contour in contours]
    progress(ProgressEvent("comparison with a rigid copy", 1, 1))
    return rows


def rigid_copy(prior: Volume, mask: BoolArray, followup: Volume) -> BoolArray:
    """The prior contour where a rigid registration alone puts it, on the follow-up's grid."""
    from P2SAMSlicerLib.registration import carry_distance, register

    now, orientation, frame = to_working_frame(followup)
    before, prior_orientation, _ = to_working_frame(prior, frame)
    lesion = prior_orientation.to_canonical(mask)
    found = register(before, now, lesion, "rigid")
    return orientation.to_stored(carry_distance(lesion, before.grid, now.grid, found.transform) >= 0)


def _draw(path: Path, prior: Volume, mask: BoolArray, visit: SimulatedVisit, segment: SegmentResult) -> None:
    """The overlay picture; it wants axes in canonical order."""
    before, now = canonical_orientation(prior.grid), canonical_orientation(visit.followup.grid)

    def turned(contour: BoolArray) -> BoolArray:
        return np.asarray(now.to_canonical(contour), dtype=np.bool_)

    panels = comparison_panels(
        Volume(before.to_canonical(prior.array), before.grid),
        np.asarray(before.to_canonical(mask), dtype=np.bool_),
        Volume(now.to_canonical(visit.followup.array), now.grid),
        turned(segment.registered_mask),
        result=None if segment.mask is None else turned(segment.mask),
        truth=turned(visit.mask),
    )
    write_overlay(path, panels, f"{CAPTION} Data: {demo_data.PROVENANCE}.")


def _record(visit: SimulatedVisit, rows: list[DemoRow]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "format_version": 1,
        "statement": CAPTION,
        "data": demo_data.PROVENANCE,
        "simulation": visit.record,
        "contours": {row.name: row.metrics.as_dict() for row in rows},
    }
