"""Runs every method on every case and measures its contour against the truth."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from P2SAMSlicerLib import __version__
from P2SAMSlicerLib.benchmark import elastix
from P2SAMSlicerLib.benchmark import methods as m
from P2SAMSlicerLib.benchmark.case_contours import CaseContours, elastix_contours, own_contours
from P2SAMSlicerLib.benchmark.cases import BenchmarkCase, CaseData, find_cases, read_case
from P2SAMSlicerLib.benchmark.choice_quality import ChoiceQuality, choice_quality
from P2SAMSlicerLib.benchmark.findings import AccuracyFindings, Row
from P2SAMSlicerLib.benchmark.memory import peak_memory_gib
from P2SAMSlicerLib.benchmark.ranking_quality import RankedSlice, ranked_slices
from P2SAMSlicerLib.errors import Cancelled, InputError, P2SAMError, unexpected
from P2SAMSlicerLib.metrics import evaluate
from P2SAMSlicerLib.models import check_model
from P2SAMSlicerLib.models.catalogue import default_model
from P2SAMSlicerLib.options import PropagationOptions
from P2SAMSlicerLib.orientation import acquisition_slice_axis
from P2SAMSlicerLib.progress import Progress, ProgressEvent, numbered, silent
from P2SAMSlicerLib.result_files import FailedVisit
from P2SAMSlicerLib.threads import use_threads

if TYPE_CHECKING:
    from P2SAMSlicerLib.models.protocol import PromptableModel


@dataclass(frozen=True)
class AccuracyOptions:
    """What to measure.

    :param cases: folder of cases, see :mod:`P2SAMSlicerLib.benchmark.cases`.
    :param names: only these cases; all if empty.
    :param methods: only these, see :mod:`P2SAMSlicerLib.benchmark.methods`; all if empty.
    :param parts: largest number of parts; None for the product's default.
    :param negatives: numbers of background points; None for the product's default.
    :param seed: of the methods and of the bootstrap.
    """

    cases: Path
    names: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    model: str = field(default_factory=default_model)
    checkpoint: Path | None = None
    allow_unverified: bool = False
    device: str = "auto"
    precision: str = "auto"
    threads: int | None = None
    parts: int | None = None
    negatives: tuple[int, ...] | None = None
    seed: int = 0

    @property
    def propagation(self) -> PropagationOptions:
        """The product's options that are measured."""
        return PropagationOptions(max_parts=self.parts, negatives=self.negatives, seed=self.seed)


@dataclass
class _Collected:
    """What has been found so far."""

    rows: list[Row] = field(default_factory=list)
    choices: dict[str, ChoiceQuality] = field(default_factory=dict)
    rankings: dict[str, tuple[RankedSlice, ...]] = field(default_factory=dict)
    failures: list[FailedVisit] = field(default_factory=list)


def measure_accuracy(options: AccuracyOptions, progress: Progress = silent) -> AccuracyFindings:
    """Run the benchmark. A case that cannot be used is a failure of the findings, and the others go on.

    :raises InputError: there is no case, an unknown case or method is named, the options or the model cannot be used, or
        none of the methods can be run here.
    """
    cases = find_cases(options.cases, options.names)
    wanted = m.selected(options.methods)
    notes = [elastix.MISSING] if m.NEED_ELASTIX & set(wanted) and not elastix.is_installed() else []
    methods = [each for each in wanted if not (notes and each in m.NEED_ELASTIX)]
    if not methods:
        raise InputError(elastix.MISSING)
    options.propagation.check()
    check_model(options.model, options.checkpoint, allow_unverified=options.allow_unverified)
    threads = use_threads(options.threads)
    collected = _Collected()
    own = [each for each in methods if each not in m.NEED_ELASTIX]
    model = _load(options, progress) if set(own) - {m.COPY} else None
    if own:
        _each_case(cases, _own(model, own, options.propagation), collected, progress, m.CLINICAL in own)
    # Elastix comes last, so that its memory does not count as the product's.
    peak = peak_memory_gib()
    peers = [each for each in methods if each in m.NEED_ELASTIX]
    if peers:
        _each_case(cases, lambda data, _told: elastix_contours(data, peers, threads), collected, progress, False)
    order = {case.name: number for number, case in enumerate(cases)}
    collected.rows.sort(key=lambda row: (order[row.case.name], methods.index(row.method)))
    return AccuracyFindings(
        cases=tuple(cases),
        methods=tuple(methods),
        rows=tuple(collected.rows),
        choices=collected.choices,
        rankings=collected.rankings,
        seed=options.seed,
        failures=tuple(collected.failures),
        notes=tuple(notes),
        peak_memory_gib=peak,
        provenance=_provenance(model, options, threads),
    )


def _load(options: AccuracyOptions, progress: Progress) -> PromptableModel:
    from P2SAMSlicerLib.models import load_model

    progress(ProgressEvent("model", 0, 1))
    model = load_model(
        options.model,
        options.device,
        options.checkpoint,
        allow_unverified=options.allow_unverified,
        precision=options.precision,
    )
    progress(ProgressEvent("model", 1, 1))
    return model


def _own(model: Any, methods: Sequence[str], options: PropagationOptions) -> Callable[[CaseData, Progress], CaseContours]:
    return lambda data, told: own_contours(model, data, methods, options, told)


def _each_case(
    cases: Sequence[BenchmarkCase],
    contours_of: Callable[[CaseData, Progress], CaseContours],
    collected: _Collected,
    progress: Progress,
    judge_slices: bool,
) -> None:
    """Measure one group of methods on all cases."""
    for number, case in enumerate(cases, start=1):
        try:
            data = read_case(case)
            found = contours_of(data, numbered(progress, "case", number, len(cases)))
            _measure(case, data, found, collected, judge_slices)
        except (Cancelled, KeyboardInterrupt):
            raise
        except P2SAMError as error:
            collected.failures.append(FailedVisit(case.name, " ".join(str(error).split()), traceback.format_exc()))
        except Exception as error:
            reason = "not enough memory" if isinstance(error, MemoryError) else unexpected(error)
            collected.failures.append(FailedVisit(case.name, reason, traceback.format_exc()))
        progress(ProgressEvent("cases", number, len(cases)))


def _measure(case: BenchmarkCase, data: CaseData, found: CaseContours, collected: _Collected, judge_slices: bool) -> None:
    collected.rows += rows_of(case, data, found)
    if judge_slices and data.truth.any():
        grid, truth = data.followup.grid, data.truth
        result = found.contours[m.CLINICAL].mask
        collected.rankings[case.name] = tuple(ranked_slices(found.slices, result, truth, grid))
        if found.slices:
            collected.choices[case.name] = choice_quality(found.slices, truth, grid)


def rows_of(case: BenchmarkCase, data: CaseData, found: CaseContours) -> list[Row]:
    """Every method's contour on one case compared with the truth."""
    grid = data.followup.grid
    axis = acquisition_slice_axis(grid)
    return [
        Row(case, method, evaluate(each.mask, data.truth, grid, slice_axis=axis), each.seconds, each.outcome)
        for method, each in found.contours.items()
    ]


def _provenance(model: PromptableModel | None, options: AccuracyOptions, threads: int) -> dict[str, Any]:
    return {
        "program": f"P2SAMSlicer {__version__}",
        "model": None if model is None else asdict(model.card),
        "device": None if model is None else str(model.device),
        "threads": threads,
        "processors": os.cpu_count(),
        "options": asdict(options.propagation),
        "parts": options.propagation.parts,
        "negatives": list(options.propagation.negative_counts),
    }
