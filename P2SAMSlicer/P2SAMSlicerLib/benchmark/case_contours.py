"""The contours of all methods on one case, with one registration and one run of clinical mode for all that can share it."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np

from P2SAMSlicerLib.benchmark import methods as m
from P2SAMSlicerLib.benchmark.boxed import box_contour
from P2SAMSlicerLib.benchmark.candidate_contours import Pick, contour_of, pick_parts, pick_retrieved
from P2SAMSlicerLib.benchmark.cases import CaseData
from P2SAMSlicerLib.benchmark.elastix import register_with_elastix
from P2SAMSlicerLib.models.protocol import PromptableModel
from P2SAMSlicerLib.options import PropagationOptions
from P2SAMSlicerLib.progress import Progress, silent
from P2SAMSlicerLib.propagation import RegisteredVisits, carry_segments, register_visits
from P2SAMSlicerLib.resample import resample_mask
from P2SAMSlicerLib.result import SliceResult, VisitResult
from P2SAMSlicerLib.volume import BoolArray


@dataclass(frozen=True)
class MethodContour:
    """One method's contour.

    :param mask: ``(z, y, x)`` on the follow-up's stored grid; empty if the method gives none.
    :param seconds: see :class:`~P2SAMSlicerLib.benchmark.findings.Row`.
    """

    mask: BoolArray
    seconds: float | None
    outcome: str | None = None


@dataclass(frozen=True)
class CaseContours:
    """What came of one case.

    :param contours: method -> its contour.
    :param slices: clinical mode's, if it was run.
    :param visits: the registration that the product's methods share, if one of them was run.
    :param result: clinical mode's, if it was run.
    """

    contours: dict[str, MethodContour]
    slices: tuple[SliceResult, ...] = ()
    visits: RegisteredVisits | None = None
    result: VisitResult | None = None


def own_contours(
    model: PromptableModel,
    data: CaseData,
    methods: Collection[str],
    options: PropagationOptions,
    progress: Progress = silent,
) -> CaseContours:
    """The contours of all methods that need no elastix.

    :param options: of clinical mode; those of paper mode are the same but for the mode.
    :raises InputError: the visits cannot be used.
    """
    found: dict[str, MethodContour] = {}
    visit: VisitResult | None = None
    if m.COPY in methods:
        started = time.perf_counter()
        copied = resample_mask(data.segment.mask, data.prior.grid, data.followup.grid)
        found[m.COPY] = MethodContour(copied, time.perf_counter() - started)
    if not (m.FROM_CLINICAL_RUN | {m.PAPER}) & set(methods):
        return CaseContours(found)
    visits = register_visits(data.prior, [data.segment], data.followup, options, progress)
    if m.FROM_CLINICAL_RUN & set(methods):
        visit = carry_segments(model, visits, options, progress)
        found.update(_from_clinical_run(model, data, visits, visit, options, methods))
    if m.PAPER in methods:
        found[m.PAPER] = _written(carry_segments(model, visits, replace(options, mode="paper"), progress))
    return CaseContours(found, () if visit is None else visit.segments[0].slices, visits, visit)


def elastix_contours(data: CaseData, methods: Collection[str], threads: int) -> CaseContours:
    """The contours of elastix.

    :raises InputError: it gave up.
    """
    carried = register_with_elastix(data.prior, data.segment.mask, data.followup, threads)
    both = {m.RIGID: MethodContour(carried.rigid, None), m.ELASTIX: MethodContour(carried.bspline, carried.seconds)}
    return CaseContours({method: contour for method, contour in both.items() if method in methods})


def _from_clinical_run(
    model: PromptableModel,
    data: CaseData,
    visits: RegisteredVisits,
    visit: VisitResult,
    options: PropagationOptions,
    methods: Collection[str],
) -> dict[str, MethodContour]:
    segment = visit.segments[0]
    registration = sum(visits.stage_seconds.values())
    found = {m.REGISTERED: MethodContour(segment.registered_mask, registration), m.CLINICAL: _written(visit)}
    negatives = options.negative_counts[0]
    picks: dict[str, Pick] = {
        m.PERSAM: pick_parts(1, negatives),
        m.FIXED: pick_parts(options.parts, negatives),
        m.RETRIEVAL: pick_retrieved(options.parts, negatives),
    }
    for method, pick in picks.items():
        found[method] = MethodContour(contour_of(segment.slices, visit.grid, pick), None)
    if m.BOX in methods:
        started = time.perf_counter()
        boxed = box_contour(model, data.followup, segment.registered_mask, options.margin_mm)
        found[m.BOX] = MethodContour(boxed, registration + time.perf_counter() - started)
    return {method: contour for method, contour in found.items() if method in methods}


def _written(visit: VisitResult) -> MethodContour:
    """What ``p2sam propagate`` writes as the result."""
    segment = visit.segments[0]
    mask = np.zeros_like(segment.registered_mask) if segment.mask is None else segment.mask
    return MethodContour(mask, sum(visit.stage_seconds.values()), segment.outcome.value)
