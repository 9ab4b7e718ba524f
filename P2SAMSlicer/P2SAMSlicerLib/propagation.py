"""One visit to the next: carries the prior's segments to a follow-up CT. It calls the steps in order and holds no algorithm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from P2SAMSlicerLib import __version__, review
from P2SAMSlicerLib.cbct_scale import approximate_hu
from P2SAMSlicerLib.clinical import LesionSlice
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.intensity import PAPER_WINDOW, WINDOWS, Modality, Window, check_hounsfield, percentile_window
from P2SAMSlicerLib.lost_tissue import lost_share
from P2SAMSlicerLib.models.allocator import return_freed_memory
from P2SAMSlicerLib.models.protocol import PromptableModel
from P2SAMSlicerLib.notes import method_notes
from P2SAMSlicerLib.options import PropagationOptions
from P2SAMSlicerLib.orientation import to_working_frame
from P2SAMSlicerLib.outcome import decide, figures, registration_only
from P2SAMSlicerLib.progress import Progress, ProgressEvent, silent
from P2SAMSlicerLib.registration import Registration, carry_distance, in_working_frame, register
from P2SAMSlicerLib.registration_quality import BodyQuality, LocalQuality, RegistrationJudge, worst_of
from P2SAMSlicerLib.resample import resample_mask
from P2SAMSlicerLib.result import FOLLOWUP_VALUES, Outcome, SegmentResult, SliceResult, VisitResult
from P2SAMSlicerLib.segment_propagation import (
    CarriedLesion,
    CarriedSegment,
    StageClock,
    VisitPair,
    carry_by_registration,
    carry_segment,
)
from P2SAMSlicerLib.structure_role import by_registration_only
from P2SAMSlicerLib.transform_file import read_transform
from P2SAMSlicerLib.visit_checks import check_visits
from P2SAMSlicerLib.volume import BoolArray, Segment, Volume
from P2SAMSlicerLib.volume_fingerprint import volume_fingerprint

__all__ = ["RegisteredVisits", "carry_segments", "check_visits", "propagate", "register_visits"]

#: A prior whose slices are tilted against the follow-up's by more than this is resampled along the follow-up's axes first.
MAX_SLICE_TILT_DEG = 20.0


@dataclass(frozen=True)
class RegisteredVisits:
    """Both visits and the registration between them, which every way to carry the segments begins with.

    Made by :func:`register_visits` for :func:`carry_segments`. What it holds in working coordinates is the engine's own.

    :param segments: what is to be carried.
    :param name: the follow-up's.
    :param followup_values: see :func:`~P2SAMSlicerLib.volume_fingerprint.volume_fingerprint`.
    :param options: as the visits were registered with.
    :param stage_seconds: seconds spent in each stage so far.
    """

    segments: tuple[Segment, ...]
    name: str
    followup_values: str
    options: PropagationOptions
    overrides: tuple[str, ...]
    warnings: tuple[str, ...]
    stage_seconds: Mapping[str, float]
    case: VisitPair
    registration: Registration
    judge: RegistrationJudge
    quality: BodyQuality


def propagate(
    model: PromptableModel,
    prior: Volume,
    segments: Sequence[Segment],
    followup: Volume,
    options: PropagationOptions | None = None,
    progress: Progress = silent,
) -> VisitResult:
    """Carry segments of a prior CT to a follow-up CT.

    New lesions are not sought. Every result is unreviewed and needs a person.

    :param model: see :func:`P2SAMSlicerLib.models.load_model`.
    :param prior: prior CT in HU.
    :param segments: what to carry; masks lie on the prior CT's grid.
    :param followup: follow-up CT in HU; the results lie exactly on its grid.
    :param options: see :class:`~P2SAMSlicerLib.options.PropagationOptions`.
    :param progress: called with every step; may raise :class:`~P2SAMSlicerLib.errors.Cancelled`.
    :raises InputError: visits that do not belong together, masks off the grid or empty, values that are not HU.
    """
    return carry_segments(model, register_visits(prior, segments, followup, options, progress), options, progress)


def register_visits(
    prior: Volume,
    segments: Sequence[Segment],
    followup: Volume,
    options: PropagationOptions | None = None,
    progress: Progress = silent,
) -> RegisteredVisits:
    """The part of :func:`propagate` that needs no model: checks both visits and registers them.

    Its result may be carried several times, with other modes and models.

    :raises InputError: as :func:`propagate`.
    """
    options = options or PropagationOptions()
    options.check()
    overrides = check_visits(prior, followup, options)
    warnings = _check_inputs(prior, segments, followup, options)
    clock = StageClock()
    with clock.stage("prepare"):
        case = _prepare(prior, segments, followup)
    with clock.stage("registration"):
        registration, judge, quality = _register(case, options, progress)
        return_freed_memory(max(case.prior.array.size, case.followup.array.size))
    return RegisteredVisits(
        segments=tuple(segments),
        name=followup.name,
        followup_values=volume_fingerprint(followup),
        options=options,
        overrides=overrides,
        warnings=tuple(warnings),
        stage_seconds=clock.seconds,
        case=case,
        registration=registration,
        judge=judge,
        quality=quality,
    )


def carry_segments(
    model: PromptableModel,
    visits: RegisteredVisits,
    options: PropagationOptions | None = None,
    progress: Progress = silent,
) -> VisitResult:
    """Carry segments between visits that are registered already; the rest of :func:`propagate`.

    :param options: those of the registration and the visits' checks must be the ones that the visits were registered with.
    :raises InputError: they are not, or the options mean nothing.
    """
    options = options or PropagationOptions()
    options.check()
    _check_same_registration(visits.options, options)
    case, judge, quality = visits.case, visits.judge, visits.quality
    clock = StageClock(dict(visits.stage_seconds))
    with clock.stage("prepare"):
        windows = _windows(case, options)
    results = []
    for number, segment in enumerate(visits.segments):
        alone = by_registration_only(segment, options.registration_only, options.with_model)
        if alone:
            found = carry_by_registration(case, case.masks[number], visits.registration, judge, clock)
        else:
            found = carry_segment(
                model, case, case.masks[number], visits.registration, judge, windows, options, progress, clock
            )
        near = worst_of(found.near)
        together = lost_share(judge.fixed, judge.moving, visits.registration.transform, *found.small) if found.small else None
        why = (*quality.reasons, *near.reasons, *_reasons(visits, options), *(() if alone else _model_reasons(model, options)))
        results.append(_result(case, segment, found, near, together, why, alone))
    return VisitResult(
        name=visits.name,
        grid=case.orientation.stored,
        segments=tuple(results),
        registration=_registration_entry(options, visits.registration, quality, results),
        stage_seconds={name: round(value, 3) for name, value in clock.seconds.items()},
        warnings=visits.warnings,
        overrides=visits.overrides,
        provenance={**_provenance(model, options), FOLLOWUP_VALUES: visits.followup_values},
        notes=method_notes(model.card, options),
    )


def _check_same_registration(before: PropagationOptions, now: PropagationOptions) -> None:
    for name in ("registration", "transform_file", "modality", "allow_other_patient", "allow_older_followup"):
        if getattr(before, name) != getattr(now, name):
            raise InputError(f"{name}: the visits were registered with another one")


def _reasons(visits: RegisteredVisits, options: PropagationOptions) -> list[str]:
    """What speaks against every contour of the visit, besides its registration."""
    reasons = [*visits.overrides, *visits.warnings]
    if options.modality == "cbct":
        reasons.append("CBCT: its values are no HU, and no CBCT was ever measured with this tool")
    return reasons


def _model_reasons(model: PromptableModel, options: PropagationOptions) -> list[str]:
    """What speaks against every contour that a model drew."""
    reasons = []
    if model.card.precision != "float32":
        reasons.append(f"the encoder computed in {model.card.precision}, which changes contours, and loses some")
    if options.mode == "paper" and "points" not in model.card.trained_prompts:
        reasons.append(f"paper mode prompts with points, and {model.card.id} was not trained with points")
    return reasons


def _check_inputs(prior: Volume, segments: Sequence[Segment], followup: Volume, options: PropagationOptions) -> list[str]:
    if not segments:
        raise InputError("no segment to carry")
    for segment in segments:
        if segment.mask.shape != prior.grid.shape:
            raise InputError(
                f"segment '{segment.name}': its mask {segment.mask.shape} is not on the prior CT's grid {prior.grid.shape}"
            )
        if segment.mask.dtype != np.bool_:
            raise InputError(f"segment '{segment.name}': its mask holds {segment.mask.dtype} and not True and False")
        if not segment.mask.any():
            raise InputError(f"segment '{segment.name}': it is empty")
    options.check_names([segment.name for segment in segments])
    modality = Modality(options.modality)
    for volume in (prior, followup):
        volume.grid.check(volume.name)
        if not np.isfinite(volume.array).all():
            raise InputError(f"{volume.name}: it holds voxels that are not finite (NaN or infinity)")
    found = [(prior, check_hounsfield(prior, Modality.CT)), (followup, check_hounsfield(followup, modality))]
    return [f"{volume.name}: {text}" for volume, texts in found for text in texts]


def _prepare(prior: Volume, segments: Sequence[Segment], followup: Volume) -> VisitPair:
    working, orientation, frame = to_working_frame(followup)
    moved, prior_orientation, _ = to_working_frame(prior, frame)
    masks = tuple(prior_orientation.to_canonical(segment.mask) for segment in segments)
    tilt = np.degrees(np.arccos(np.clip(abs(moved.grid.direction_matrix[2, 2]), 0.0, 1.0)))
    if tilt > MAX_SLICE_TILT_DEG:
        moved, masks = _along_followup(moved, masks, working)
        for segment, mask in zip(segments, masks, strict=True):
            if not mask.any():
                raise InputError(
                    f"segment '{segment.name}': it is too small for the voxels that it has along the follow-up's axes"
                )
    return VisitPair(moved, working, masks, orientation, frame, prior.grid.voxel_ml)


def _along_followup(prior: Volume, masks: tuple[BoolArray, ...], followup: Volume) -> tuple[Volume, tuple[BoolArray, ...]]:
    """The prior resampled along the follow-up's axes, so that its slices show the anatomy in the same plane."""
    import SimpleITK as sitk

    from P2SAMSlicerLib.registration import array_to_image

    corners = prior.grid.corners()
    low, high = corners.min(axis=0), corners.max(axis=0)
    spacing = np.maximum(np.asarray(followup.grid.spacing), min(prior.grid.spacing))
    nx, ny, nz = (max(1, int(np.ceil(length))) for length in (high - low) / spacing)
    sx, sy, sz = (float(v) for v in spacing)
    x, y, z = (float(v) for v in low + spacing / 2)
    grid = replace(followup.grid, shape=(nz, ny, nx), spacing=(sx, sy, sz), origin=(x, y, z))
    target = array_to_image(np.zeros(grid.shape, np.uint8), grid)
    image = array_to_image(prior.array.astype(np.float32), prior.grid)
    array = sitk.GetArrayFromImage(sitk.Resample(image, target, sitk.Transform(), sitk.sitkLinear, -1024.0))
    resampled = tuple(resample_mask(mask, prior.grid, grid) for mask in masks)
    return replace(prior, array=array, grid=grid), resampled


def _windows(case: VisitPair, options: PropagationOptions) -> tuple[Window, Window]:
    """Windows of the prior's and of the follow-up's images. The prior is a CT; a CBCT gets a window of its own."""
    usual = PAPER_WINDOW if options.mode == "paper" else WINDOWS["soft tissue"]
    return usual, percentile_window(case.followup.array) if options.modality == "cbct" else usual


def _register(
    case: VisitPair, options: PropagationOptions, progress: Progress
) -> tuple[Registration, RegistrationJudge, BodyQuality]:
    union = np.logical_or.reduce(case.masks)
    followup = case.followup
    if options.modality == "cbct":
        followup = replace(followup, array=approximate_hu(followup.array))
    steps = 4 if options.registration == "deformable" else 3
    done = iter(range(steps + 1))
    if options.registration == "file":
        assert options.transform_file is not None  # options.check()
        registration = in_working_frame(read_transform(options.transform_file), case.frame.rotation, case.frame.origin)
    else:
        registration = register(
            case.prior,
            followup,
            union,
            options.registration,
            lambda name: progress(ProgressEvent("registration", next(done), steps, name)),
            true_hu=options.modality == "ct",
        )
    carried = carry_distance(union, case.prior.grid, case.followup.grid, registration.transform) >= 0
    judge = RegistrationJudge(case.prior, followup, registration)
    quality = judge.body(carried)
    progress(ProgressEvent("registration", steps, steps))
    return registration, judge, quality


def _registration_entry(
    options: PropagationOptions, registration: Registration, body: BodyQuality, segments: Sequence[SegmentResult]
) -> dict[str, Any]:
    """What is told of the registration: the body's figures, and every segment's reasons under its name."""
    entry = {"kind": options.registration, "starts": list(registration.starts), **body.as_dict()}
    for segment in segments:
        entry["reasons"] += [f"segment '{segment.source.name}': {text}" for text in segment.registration["reasons"]]
    return entry


def _result(
    case: VisitPair,
    segment: Segment,
    carried: CarriedSegment,
    near: LocalQuality,
    lost_together: float | None,
    reasons: tuple[str, ...],
    alone: bool,
) -> SegmentResult:
    orientation = case.orientation
    grid = orientation.grid
    mask, registered = carried.mask, carried.registered
    prior_ml = float(segment.mask.sum()) * case.prior_voxel_ml
    found = figures(mask, registered, prior_ml, grid) if mask.any() and registered.any() else None
    if alone:
        outcome, why = registration_only(carried.pieces, reasons)
    else:
        outcome, why = decide(mask, registered, found, carried.pieces, reasons, case.followup, lost_together)
    contoured = outcome in (Outcome.FOUND, Outcome.FLAGGED)
    slices = tuple(_slice(case, lesion, each) for lesion in carried.lesions for each in lesion.slices)
    lost = [share for share in (lost_together, *(piece.lost_share for piece in carried.pieces)) if share is not None]
    return SegmentResult(
        source=segment,
        outcome=outcome,
        reasons=why,
        review_priority=review.priority_of_segment(slices, outcome, why),
        mask=orientation.to_stored(mask) if contoured else None,
        registered_mask=orientation.to_stored(registered),
        prior_volume_ml=prior_ml,
        volume_ml=found.volume_ml if contoured and found else None,
        volume_change_percent=found.change_percent if contoured and found else None,
        centroid_shift_mm=found.shift_lps_mm if contoured and found else None,
        slices=slices,
        removals=tuple(carried.removals),
        registration=near.as_dict(),
        lost_tissue_share=max(lost, default=None),
    )


def _slice(case: VisitPair, lesion: CarriedLesion, found: LesionSlice) -> SliceResult:
    grid = case.orientation.grid
    centre = np.array([[(grid.shape[2] - 1) / 2, (grid.shape[1] - 1) / 2, float(found.index)]])
    axis = int(np.argmax(np.abs(grid.direction_matrix[:, 2])))
    return SliceResult(
        index=case.orientation.stored_slice_index(found.index),
        position_mm=float(grid.to_physical(centre)[0, axis]),
        candidates=found.candidates,
        chosen=found.chosen,
        review_priority=review.priority(found.signals),
        signals=found.signals,
        lesion=lesion.number,
        region=lesion.region,
        greys=lesion.greys,
        change=found.change,
    )


def _provenance(model: PromptableModel, options: PropagationOptions) -> dict[str, Any]:
    settings = asdict(options)
    if options.transform_file is not None:
        settings["transform_file"] = options.transform_file.name
    return {"version": __version__, "model": asdict(model.card), "device": str(model.device), "options": settings}
