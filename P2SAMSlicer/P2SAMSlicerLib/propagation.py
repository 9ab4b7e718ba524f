"""One visit to the next: carries the prior's segments to a follow-up CT. It calls the steps in order and holds no algorithm."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib import __version__, contour, review
from P2SAMSlicerLib.cbct_scale import approximate_hu
from P2SAMSlicerLib.clinical import Lesion, LesionContour, LesionSlice, segment_lesion
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.intensity import PAPER_WINDOW, WINDOWS, Modality, Window, check_hounsfield, percentile_window
from P2SAMSlicerLib.lost_tissue import lost_share
from P2SAMSlicerLib.models.protocol import PromptableModel
from P2SAMSlicerLib.notes import method_notes
from P2SAMSlicerLib.options import PropagationOptions
from P2SAMSlicerLib.orientation import Orientation, WorkingFrame, to_working_frame
from P2SAMSlicerLib.outcome import Piece, decide, figures, loose_share
from P2SAMSlicerLib.paper_visit import segment_in_paper_mode
from P2SAMSlicerLib.progress import Progress, ProgressEvent, silent
from P2SAMSlicerLib.registration import Registration, carry_distance, in_working_frame, register
from P2SAMSlicerLib.registration_quality import BodyQuality, LocalQuality, RegistrationJudge, worst_of
from P2SAMSlicerLib.resample import resample_mask
from P2SAMSlicerLib.result import Outcome, SegmentResult, SliceResult, VisitResult
from P2SAMSlicerLib.search_limit import search_limits
from P2SAMSlicerLib.thin_lesion import touched_voxels
from P2SAMSlicerLib.transform_file import read_transform
from P2SAMSlicerLib.visit_checks import check_visits
from P2SAMSlicerLib.volume import BoolArray, Segment, Volume

__all__ = ["check_visits", "propagate"]

#: Pieces of a segment farther apart than this are looked at one by one, each in its own window.
SEPARATE_LESIONS_MM = 20.0
#: A prior whose slices are tilted against the follow-up's by more than this is resampled along the follow-up's axes first.
MAX_SLICE_TILT_DEG = 20.0


@dataclass
class _Clock:
    """Seconds spent in each stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started


@dataclass(frozen=True)
class _Case:
    """Both visits in canonical order and the working frame."""

    prior: Volume
    followup: Volume
    masks: tuple[BoolArray, ...]
    orientation: Orientation
    frame: WorkingFrame
    prior_voxel_ml: float


@dataclass
class _Carried:
    """One segment on the follow-up's canonical grid, before anything is said of it.

    :param lesions: what was found of each separate lesion that the model was asked for, with its number from 1.
    :param near: the registration near each separate lesion.
    :param small: contour and registered contour, on the coarse grid of the judge, of the lesions that are too small for
        :func:`~P2SAMSlicerLib.lost_tissue.lost_share` one by one.
    """

    mask: BoolArray
    registered: BoolArray
    lesions: list[tuple[int, LesionContour]] = field(default_factory=list)
    pieces: list[Piece] = field(default_factory=list)
    removals: list[str] = field(default_factory=list)
    near: list[LocalQuality] = field(default_factory=list)
    small: tuple[BoolArray, BoolArray] | None = None


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
    options = options or PropagationOptions()
    options.check()
    overrides = check_visits(prior, followup, options)
    warnings = _check_inputs(prior, segments, followup, options)
    clock = _Clock()
    with clock.stage("prepare"):
        case = _prepare(prior, segments, followup)
        windows = _windows(case, options)
    with clock.stage("registration"):
        registration, judge, quality = _register(case, options, progress)
    reasons = [*overrides, *warnings]
    if options.modality == "cbct":
        reasons.append("CBCT: its values are no HU, and no CBCT was ever measured with this tool")
    if options.mode == "paper" and "points" not in model.card.trained_prompts:
        reasons.append(f"paper mode prompts with points, and {model.card.id} was not trained with points")
    results = []
    for number, segment in enumerate(segments):
        found = _segment(model, case, case.masks[number], registration, judge, windows, options, progress, clock)
        near = worst_of(found.near)
        together = lost_share(judge.fixed, judge.moving, registration.transform, *found.small) if found.small else None
        why = (*quality.reasons, *near.reasons, *reasons)
        results.append(_result(case, segment, found, near, together, why))
    return VisitResult(
        name=followup.name,
        grid=followup.grid,
        segments=tuple(results),
        registration=_registration_entry(options, registration, quality, results),
        stage_seconds={name: round(value, 3) for name, value in clock.seconds.items()},
        warnings=tuple(warnings),
        overrides=overrides,
        provenance=_provenance(model, options),
        notes=method_notes(model.card, options),
    )


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
    modality = Modality(options.modality)
    for volume in (prior, followup):
        volume.grid.check(volume.name)
        if not np.isfinite(volume.array).all():
            raise InputError(f"{volume.name}: it holds voxels that are not finite (NaN or infinity)")
    found = [(prior, check_hounsfield(prior, Modality.CT)), (followup, check_hounsfield(followup, modality))]
    return [f"{volume.name}: {text}" for volume, texts in found for text in texts]


def _prepare(prior: Volume, segments: Sequence[Segment], followup: Volume) -> _Case:
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
    return _Case(moved, working, masks, orientation, frame, prior.grid.voxel_ml)


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


def _windows(case: _Case, options: PropagationOptions) -> tuple[Window, Window]:
    """Windows of the prior's and of the follow-up's images. The prior is a CT; a CBCT gets a window of its own."""
    usual = PAPER_WINDOW if options.mode == "paper" else WINDOWS["soft tissue"]
    return usual, percentile_window(case.followup.array) if options.modality == "cbct" else usual


def _register(
    case: _Case, options: PropagationOptions, progress: Progress
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


def _segment(
    model: PromptableModel,
    case: _Case,
    mask: BoolArray,
    registration: Registration,
    judge: RegistrationJudge,
    windows: tuple[Window, Window],
    options: PropagationOptions,
    progress: Progress,
    clock: _Clock,
) -> _Carried:
    """Carry one segment's lesions, one after the other."""
    shape = case.followup.grid.shape
    carried_all = _Carried(np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool))
    for number, lesion in enumerate(contour.separate_lesions(mask, case.prior.grid, SEPARATE_LESIONS_MM), start=1):
        with clock.stage("segmentation"):
            piece = _piece(model, case, lesion, number, registration, windows, options, progress, carried_all)
        with clock.stage("registration"):
            carried_all.near.append(judge.near(piece.registered))
        if options.modality == "ct":
            piece = _with_tissue(piece, lesion, case, registration, judge, carried_all)
        carried_all.mask |= piece.mask
        carried_all.registered |= piece.registered
        carried_all.pieces.append(piece)
    return carried_all


def _piece(
    model: PromptableModel,
    case: _Case,
    lesion: BoolArray,
    number: int,
    registration: Registration,
    windows: tuple[Window, Window],
    options: PropagationOptions,
    progress: Progress,
    carried_all: _Carried,
) -> Piece:
    """Carry one lesion; its slices and what clean-up removed go to the segment's."""
    prior, followup = case.prior, case.followup
    distance = carry_distance(lesion, prior.grid, followup.grid, registration.transform)
    carried = distance >= 0
    lost = 1.0 - float(carried.sum()) * followup.grid.voxel_ml / (float(lesion.sum()) * prior.grid.voxel_ml)
    at_edge = _at_volume_edge(carried)
    cut_off = max(0.0, lost) if at_edge else 0.0
    one_slice = 1 in (int(m.any(axis=(1, 2)).sum()) for m in (lesion, carried))
    between = max(0.0, lost) if one_slice and not at_edge else 0.0
    if not carried.any():
        nearest = distance.max()
        # Nearest to the volume's edge, it lies beyond it; else it lies between voxels.
        if nearest > -max(followup.grid.spacing) and not _at_volume_edge(distance == nearest):
            touched = touched_voxels(lesion, prior.grid, followup.grid, registration.transform, distance)
            return Piece(carried, touched, thin=True)
        return Piece(carried, carried, outside_share=1.0)
    found = _lesion(model, case, lesion, distance, registration, windows, options, _reporter(progress, number))
    carried_all.lesions.append((number, found))
    mask = found.mask
    if mask.any():
        cleaned = _clean(mask, carried, lesion, case, registration)
        mask = cleaned.mask
        carried_all.removals += cleaned.removals
    limits = search_limits(found, mask, distance, followup.grid, options)
    return Piece(mask, carried, found.too_small, outside_share=cut_off, between_share=between, limits=limits)


def _with_tissue(
    piece: Piece, lesion: BoolArray, case: _Case, registration: Registration, judge: RegistrationJudge, carried_all: _Carried
) -> Piece:
    """The piece with what its tissue says; one too small for that is added to the segment's small ones."""
    if not piece.mask.any():
        return piece
    both = judge.coarse(piece.mask), judge.coarse(piece.registered)
    lost = lost_share(judge.fixed, judge.moving, registration.transform, *both)
    if lost is None:
        before = carried_all.small
        carried_all.small = both if before is None else (before[0] | both[0], before[1] | both[1])
    loose = loose_share(case.prior, lesion), loose_share(case.followup, piece.mask)
    return replace(piece, lost_share=lost, loose_shares=loose)


def _lesion(
    model: PromptableModel,
    case: _Case,
    lesion: BoolArray,
    distance: NDArray[np.float32],
    registration: Registration,
    windows: tuple[Window, Window],
    options: PropagationOptions,
    step: Callable[[str, int, int], None],
) -> LesionContour:
    if options.mode == "paper":
        return segment_in_paper_mode(model, case.prior, lesion, case.followup, distance >= 0, windows, options, step)
    both = Lesion(case.prior, lesion, case.followup, distance, registration.transform, windows)
    return segment_lesion(model, both, options, step)


def _clean(
    mask: BoolArray, carried: BoolArray, lesion: BoolArray, case: _Case, registration: Registration
) -> contour.CleanedContour:
    from scipy import ndimage

    grid = case.followup.grid
    cavity = contour.cavities(lesion)
    carried_cavity = None
    if cavity.sum() * case.prior.grid.voxel_ml >= contour.CAVITY_ML:
        carried_cavity = carry_distance(cavity, case.prior.grid, grid, registration.transform) >= 0
    return contour.clean(mask, carried, int(ndimage.label(lesion)[1]), carried_cavity, grid)


def _at_volume_edge(carried: BoolArray) -> bool:
    return any(bool(np.take(carried, [0, -1], axis=axis).any()) for axis in range(3))


def _reporter(progress: Progress, lesion: int) -> Callable[[str, int, int], None]:
    # A number and not the segment's name, which may hold a patient's.
    return lambda stage, done, total: progress(ProgressEvent(stage, done, total, f"lesion {lesion}"))


def _result(
    case: _Case,
    segment: Segment,
    carried: _Carried,
    near: LocalQuality,
    lost_together: float | None,
    reasons: tuple[str, ...],
) -> SegmentResult:
    orientation = case.orientation
    grid = orientation.grid
    mask, registered = carried.mask, carried.registered
    prior_ml = float(segment.mask.sum()) * case.prior_voxel_ml
    found = figures(mask, registered, prior_ml, grid) if mask.any() and registered.any() else None
    outcome, why = decide(mask, registered, found, carried.pieces, reasons, case.followup, lost_together)
    contoured = outcome in (Outcome.FOUND, Outcome.FLAGGED)
    slices = tuple(_slice(case, lesion, each) for lesion, part in carried.lesions for each in part.slices)
    lost = [share for share in (lost_together, *(piece.lost_share for piece in carried.pieces)) if share is not None]
    priorities = [s.review_priority for s in slices if s.chosen is not None or s.review_priority > 0]
    return SegmentResult(
        source=segment,
        outcome=outcome,
        reasons=why,
        review_priority=review.segment_priority(priorities, flagged=outcome is not Outcome.FOUND),
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


def _slice(case: _Case, lesion: int, found: LesionSlice) -> SliceResult:
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
        lesion=lesion,
    )


def _provenance(model: PromptableModel, options: PropagationOptions) -> dict[str, Any]:
    settings = asdict(options)
    if options.transform_file is not None:
        settings["transform_file"] = options.transform_file.name
    return {"version": __version__, "model": asdict(model.card), "device": str(model.device), "options": settings}
