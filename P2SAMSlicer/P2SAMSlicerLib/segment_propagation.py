"""One segment to the follow-up: its separate lesions, one after the other. It calls the steps and holds no algorithm."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib import contour
from P2SAMSlicerLib.clinical import REGION_PIXELS, Lesion, LesionContour, LesionSlice, segment_lesion
from P2SAMSlicerLib.intensity import GreyScale, Window
from P2SAMSlicerLib.lost_tissue import lost_share
from P2SAMSlicerLib.models.protocol import PromptableModel
from P2SAMSlicerLib.options import PropagationOptions
from P2SAMSlicerLib.orientation import Orientation, WorkingFrame
from P2SAMSlicerLib.outcome import Piece, loose_share
from P2SAMSlicerLib.paper_visit import segment_in_paper_mode
from P2SAMSlicerLib.progress import Progress, ProgressEvent
from P2SAMSlicerLib.region import Region, region_around
from P2SAMSlicerLib.registration import Registration, carry_distance
from P2SAMSlicerLib.registration_quality import LocalQuality, RegistrationJudge
from P2SAMSlicerLib.search_limit import search_limits
from P2SAMSlicerLib.thin_lesion import touched_voxels
from P2SAMSlicerLib.volume import BoolArray, Volume

#: Pieces of a segment farther apart than this are looked at one by one, each in its own window.
SEPARATE_LESIONS_MM = 20.0


@dataclass
class StageClock:
    """Seconds spent in each stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started


@dataclass(frozen=True)
class VisitPair:
    """Both visits in canonical order and the working frame."""

    prior: Volume
    followup: Volume
    masks: tuple[BoolArray, ...]
    orientation: Orientation
    frame: WorkingFrame
    prior_voxel_ml: float


@dataclass(frozen=True)
class CarriedLesion:
    """One separate lesion that the model was asked for.

    :param number: from 1.
    :param region: the window that the model saw; None for whole slices.
    :param greys: how its slices became images; None where the model was not asked after all.
    """

    number: int
    region: Region | None
    greys: GreyScale | None
    slices: tuple[LesionSlice, ...]


@dataclass
class CarriedSegment:
    """One segment on the follow-up's canonical grid, before anything is said of it.

    :param lesions: what was found of each separate lesion.
    :param near: the registration near each separate lesion.
    :param small: contour and registered contour, on the coarse grid of the judge, of the lesions that are too small for
        :func:`~P2SAMSlicerLib.lost_tissue.lost_share` one by one.
    """

    mask: BoolArray
    registered: BoolArray
    lesions: list[CarriedLesion] = field(default_factory=list)
    pieces: list[Piece] = field(default_factory=list)
    removals: list[str] = field(default_factory=list)
    near: list[LocalQuality] = field(default_factory=list)
    small: tuple[BoolArray, BoolArray] | None = None


def carry_segment(
    model: PromptableModel,
    case: VisitPair,
    mask: BoolArray,
    registration: Registration,
    judge: RegistrationJudge,
    windows: tuple[Window, Window],
    options: PropagationOptions,
    progress: Progress,
    clock: StageClock,
) -> CarriedSegment:
    """Carry one segment's lesions, one after the other."""
    shape = case.followup.grid.shape
    carried_all = CarriedSegment(np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool))
    for number, lesion in enumerate(contour.separate_lesions(mask, case.prior.grid, SEPARATE_LESIONS_MM), start=1):
        with clock.stage("segmentation"):
            piece = _piece(model, case, lesion, number, registration, windows, options, progress, carried_all)
        with clock.stage("registration"):
            carried_all.near.append(judge.near(piece.registered))
        if options.modality == "ct":
            piece = _with_tissue(piece, lesion, case, registration, judge, carried_all)
        carried_all.mask |= piece.mask
        carried_all.registered |= piece.registered
        carried_all.pieces.append(piece.cropped())
    return carried_all


def carry_by_registration(
    case: VisitPair, mask: BoolArray, registration: Registration, judge: RegistrationJudge, clock: StageClock
) -> CarriedSegment:
    """Carry a structure that no model is asked for: its registered contour, and how far that can be trusted there."""
    with clock.stage("registration"):
        distance = carry_distance(mask, case.prior.grid, case.followup.grid, registration.transform)
        registered = distance >= 0
        if not registered.any() and not _at_volume_edge(distance == distance.max()):
            registered = touched_voxels(mask, case.prior.grid, case.followup.grid, registration.transform, distance)
        carried = CarriedSegment(np.zeros_like(registered), registered)
        carried.near.append(judge.near(registered))
    outside = _lost_volume(case, mask, registered) if _at_volume_edge(registered) or not registered.any() else 0.0
    carried.pieces.append(Piece(carried.mask, registered, outside_share=outside).cropped())
    return carried


def _piece(
    model: PromptableModel,
    case: VisitPair,
    lesion: BoolArray,
    number: int,
    registration: Registration,
    windows: tuple[Window, Window],
    options: PropagationOptions,
    progress: Progress,
    carried_all: CarriedSegment,
) -> Piece:
    """Carry one lesion; its slices and what clean-up removed go to the segment's."""
    prior, followup = case.prior, case.followup
    distance = carry_distance(lesion, prior.grid, followup.grid, registration.transform)
    carried = distance >= 0
    lost = _lost_volume(case, lesion, carried)
    at_edge = _at_volume_edge(carried)
    cut_off = lost if at_edge else 0.0
    one_slice = 1 in (int(m.any(axis=(1, 2)).sum()) for m in (lesion, carried))
    between = lost if one_slice and not at_edge else 0.0
    if not carried.any():
        nearest = distance.max()
        # Nearest to the volume's edge, it lies beyond it; else it lies between voxels.
        if nearest > -max(followup.grid.spacing) and not _at_volume_edge(distance == nearest):
            touched = touched_voxels(lesion, prior.grid, followup.grid, registration.transform, distance)
            return Piece(carried, touched, thin=True)
        return Piece(carried, carried, outside_share=1.0)
    found = _lesion(model, case, lesion, distance, registration, windows, options, _reporter(progress, number))
    window = region_around(carried, followup.grid, options.margin_mm, REGION_PIXELS) if options.mode == "clinical" else None
    carried_all.lesions.append(CarriedLesion(number, window, found.greys, found.slices))
    mask = found.mask
    carried_all.removals += found.removals
    if mask.any():
        cleaned = _clean(mask, carried, lesion, case, registration)
        mask = cleaned.mask
        carried_all.removals += cleaned.removals
    limits = (*found.doubts, *search_limits(found, mask, distance, followup.grid, options))
    return Piece(mask, carried, found.too_small, outside_share=cut_off, between_share=between, limits=limits)


def _with_tissue(
    piece: Piece,
    lesion: BoolArray,
    case: VisitPair,
    registration: Registration,
    judge: RegistrationJudge,
    carried_all: CarriedSegment,
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
    case: VisitPair,
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
    mask: BoolArray, carried: BoolArray, lesion: BoolArray, case: VisitPair, registration: Registration
) -> contour.CleanedContour:
    from scipy import ndimage

    grid = case.followup.grid
    cavity = contour.cavities(lesion)
    carried_cavity = None
    if cavity.sum() * case.prior.grid.voxel_ml >= contour.CAVITY_ML:
        carried_cavity = carry_distance(cavity, case.prior.grid, grid, registration.transform) >= 0
    return contour.clean(mask, carried, int(ndimage.label(lesion)[1]), carried_cavity, grid)


def _lost_volume(case: VisitPair, mask: BoolArray, carried: BoolArray) -> float:
    """Share of a structure's volume that its registered contour does not have."""
    volume = float(carried.sum()) * case.followup.grid.voxel_ml
    return max(0.0, 1.0 - volume / (float(mask.sum()) * case.prior.grid.voxel_ml))


def _at_volume_edge(carried: BoolArray) -> bool:
    return any(bool(np.take(carried, [0, -1], axis=axis).any()) for axis in range(3))


def _reporter(progress: Progress, lesion: int) -> Callable[[str, int, int], None]:
    # A number and not the segment's name, which may hold a patient's.
    return lambda stage, done, total: progress(ProgressEvent(stage, done, total, f"lesion {lesion}"))
