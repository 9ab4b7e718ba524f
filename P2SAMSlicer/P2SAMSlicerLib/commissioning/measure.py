"""Simulates second visits on the clinic's cases and measures the peers and the product on them, each visit by itself.

What is finished lies in a folder of figures under a hash of all that decides it, so a run that was ended goes on where it was.
A case or visit that cannot be measured is recorded with its reason, and the others go on.
"""

from __future__ import annotations

import hashlib
import os
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from P2SAMSlicerLib import __version__
from P2SAMSlicerLib.atomic_file import check_writable
from P2SAMSlicerLib.benchmark import elastix
from P2SAMSlicerLib.benchmark import methods as m
from P2SAMSlicerLib.benchmark.accuracy import rows_of
from P2SAMSlicerLib.benchmark.case_contours import CaseContours, elastix_contours, own_contours
from P2SAMSlicerLib.benchmark.cases import BenchmarkCase, CaseData
from P2SAMSlicerLib.case_folder import read_facts
from P2SAMSlicerLib.commissioning.clinic_cases import ClinicCase, ClinicData, read_clinic_case
from P2SAMSlicerLib.commissioning.measured_visit import MeasuredVisit, MethodFigures, key_of, read_visit, write_visit
from P2SAMSlicerLib.commissioning.registration_check import inverse_consistency_mm, registration_error_mm
from P2SAMSlicerLib.errors import Cancelled, InputError, OutputError, P2SAMError, unexpected
from P2SAMSlicerLib.options import PropagationOptions
from P2SAMSlicerLib.progress import Progress, ProgressEvent, numbered, silent
from P2SAMSlicerLib.simulation.case_files import BYTES_PER_VOXEL, case_record, write_case
from P2SAMSlicerLib.simulation.lesion import SimulatedPrior
from P2SAMSlicerLib.simulation.visit import SimulatedVisit, SimulationOptions, simulate_followup

if TYPE_CHECKING:
    from P2SAMSlicerLib.models.protocol import PromptableModel

#: What is measured unless the user names others: the peers, and what the product is made of.
USUAL_METHODS = (m.COPY, m.RIGID, m.ELASTIX, m.REGISTERED, m.BOX, m.CLINICAL)
#: Changes of a tumour that a clinic sees; growth is among them because a tool that misses it does harm.
USUAL_CHANGES = ("stable", "shrink", "grow")

FIGURES_FOLDER, KEPT_FOLDER = "visits", "simulated"
#: Room for the figures and the report.
NEED_BYTES = 50_000_000

#: Where a visit failed. The simulation's failures are not the product's.
READING, SIMULATION, CARRYING = "reading", "simulation", "carrying"


@dataclass(frozen=True)
class MeasureOptions:
    """What to measure.

    :param out: folder for the figures, and for the simulated visits if they are kept.
    :param visits: simulated visits of each case and change.
    :param segments: names of the tumour's structure, the first of which that a case has is taken; empty if there is only one.
    :param methods: ids; clinical mode is always among them.
    :param seed: of everything that is drawn; the seed of a visit also depends on the case's content.
    :param consistency: measure the inverse consistency of the registration, which takes a second one.
    :param keep: leave the simulated visits' files.
    """

    out: Path
    visits: int = 1
    changes: tuple[str, ...] = USUAL_CHANGES
    segments: tuple[str, ...] = ()
    methods: tuple[str, ...] = USUAL_METHODS
    seed: int = 0
    consistency: bool = True
    keep: bool = False
    threads: int = 1
    propagation: PropagationOptions = field(default_factory=PropagationOptions)


@dataclass(frozen=True)
class VisitFailure:
    """A visit, or all visits of a case, that could not be measured.

    :param name: of the visit.
    :param stage: :data:`READING`, :data:`SIMULATION` or :data:`CARRYING`.
    :param reason: one line that names no file.
    :param details: traceback; may hold names of folders, and is never written to a file.
    """

    name: str
    case: ClinicCase
    stage: str
    reason: str
    details: str = ""


@dataclass(frozen=True)
class Measured:
    """All that was measured.

    :param visits: by the visit's name, with the visit as a case of the benchmark's tables.
    :param kept: how many of them were measured by an earlier run.
    :param warnings: of the readers, by the case's name.
    """

    visits: Mapping[str, tuple[BenchmarkCase, MeasuredVisit]]
    failures: tuple[VisitFailure, ...]
    methods: tuple[str, ...]
    notes: tuple[str, ...] = ()
    warnings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    kept: int = 0
    provenance: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class _Run:
    """What one run shares."""

    options: MeasureOptions
    model: PromptableModel
    methods: tuple[str, ...]
    visits: dict[str, tuple[BenchmarkCase, MeasuredVisit]] = field(default_factory=dict)
    failures: list[VisitFailure] = field(default_factory=list)
    warnings: dict[str, tuple[str, ...]] = field(default_factory=dict)
    kept: int = 0


def measure(
    cases: Sequence[ClinicCase], options: MeasureOptions, model: PromptableModel, progress: Progress = silent
) -> Measured:
    """Measure all visits of all cases.

    :raises InputError: the options mean nothing, or a method is unknown.
    :raises OutputError: no space, no permission; what is finished stays.
    """
    options.propagation.check()
    for change in options.changes:
        SimulationOptions(change).check()  # type: ignore[arg-type]
    methods = tuple(m.selected((*options.methods, m.CLINICAL)))
    notes = [elastix.MISSING] if m.NEED_ELASTIX & set(methods) and not elastix.is_installed() else []
    if notes:
        methods = tuple(each for each in methods if each not in m.NEED_ELASTIX)
    run = _Run(options, model, methods)
    check_writable(options.out, NEED_BYTES)
    figures = options.out / FIGURES_FOLDER
    try:
        figures.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{FIGURES_FOLDER}: the folder for the figures cannot be made") from error
    total = len(cases) * len(options.changes) * options.visits
    done = 0
    for case in cases:
        planned = [(change, number) for change in options.changes for number in range(options.visits)]
        data = _read(run, case)
        for change, number in planned:
            progress(ProgressEvent("visits", done, total, f"visit {done + 1} of {total}"))
            if data is not None:
                _visit(run, case, data, change, number, numbered(progress, "visit", done + 1, total))
            done += 1
    progress(ProgressEvent("visits", total, total))
    facts = _provenance(run)
    return Measured(run.visits, tuple(run.failures), methods, tuple(notes), run.warnings, run.kept, facts)


def _read(run: _Run, case: ClinicCase) -> ClinicData | None:
    """A case's CT and tumour; None with a failure recorded if it cannot be used."""
    try:
        data = read_clinic_case(case, run.options.segments)
    except (Cancelled, KeyboardInterrupt, OutputError):
        raise
    except Exception as error:
        _failed(run, case, case.name, READING, error)
        return None
    if data.warnings:
        run.warnings[case.name] = data.warnings
    if run.options.keep:
        visits = len(run.options.changes) * run.options.visits
        check_writable(run.options.out, NEED_BYTES + visits * BYTES_PER_VOXEL * int(data.ct.array.size))
    return data


def _visit(run: _Run, case: ClinicCase, data: ClinicData, change: str, number: int, progress: Progress) -> None:
    """Measure one visit, or take what an earlier run measured."""
    content = _content_hash(data)
    # Each case's visits differ in their motion, whatever number the case has.
    seed = run.options.seed + int(content[:7], 16) + number
    simulation = SimulationOptions(change, seed=seed)  # type: ignore[arg-type]
    name = f"{case.name}_{change}_{number + 1}"
    key = _key(run, content, simulation)
    file = run.options.out / FIGURES_FOLDER / f"{key}.json"
    stage = SIMULATION
    try:
        found = None if run.options.keep and not _is_kept(run, name, seed) else read_visit(file, key)
        if found is None:
            visit = simulate_followup(data.ct, data.segment.mask, simulation)
            stage = CARRYING
            found = _measured(run, case, data, visit, progress)
            if run.options.keep:
                _keep(run, case, name, data, visit, simulation)
            write_visit(file, key, found)
        else:
            run.kept += 1
    except (Cancelled, KeyboardInterrupt, OutputError):
        raise
    except Exception as error:
        _failed(run, case, name, stage, error)
        return
    run.visits[name] = (_as_benchmark_case(case, name, change), found)


def _measured(run: _Run, case: ClinicCase, data: ClinicData, visit: SimulatedVisit, progress: Progress) -> MeasuredVisit:
    options = run.options
    followup = replace(visit.followup, name=f"{case.name} simulated")
    both = CaseData(data.ct, data.segment, followup, visit.mask)
    own = [each for each in run.methods if each not in m.NEED_ELASTIX]
    found = own_contours(run.model, both, own, options.propagation, progress)
    registration = _registration(options, data, visit, both, found)
    peers, reason = [each for each in run.methods if each in m.NEED_ELASTIX], ""
    contours = dict(found.contours)
    if peers:
        try:
            contours |= elastix_contours(both, peers, options.threads).contours
        except P2SAMError as error:
            reason = case.without_names(str(error))
    rows = rows_of(_as_benchmark_case(case, case.name, ""), both, CaseContours(contours))
    figures = {row.method: MethodFigures(row.metrics, row.seconds, row.outcome) for row in rows}
    return MeasuredVisit(figures, registration, visit.record, reason)


def _registration(
    options: MeasureOptions, data: ClinicData, visit: SimulatedVisit, both: CaseData, found: CaseContours
) -> dict[str, float]:
    """The figures of the registration that clinical mode used."""
    visits, result = found.visits, found.result
    # Clinical mode is always among the methods.
    assert visits is not None
    assert result is not None
    registered = visits.case.orientation.to_canonical(result.segments[0].registered_mask)
    figures = {"folded_share": float(visits.judge.near(registered).folded_share)}
    if both.truth.any():
        figures["registration_error_mm"] = registration_error_mm(visits, both.truth, both.followup, visit.followup_to_prior)
    if options.consistency and both.truth.any():
        try:
            figures["inverse_consistency_mm"] = inverse_consistency_mm(
                visits, data.ct, both.truth, both.followup, options.propagation
            )
        except InputError:  # no way back is the worst consistency, and no reason to lose the visit
            figures["inverse_consistency_mm"] = float("inf")
    return figures


def _failed(run: _Run, case: ClinicCase, name: str, stage: str, error: Exception) -> None:
    if isinstance(error, P2SAMError):
        reason = case.without_names(str(error))
    else:
        reason = "not enough memory" if isinstance(error, MemoryError) else unexpected(error)
    run.failures.append(VisitFailure(name, case, stage, reason, traceback.format_exc()))


def _is_kept(run: _Run, name: str, seed: int) -> bool:
    """Whether the files of a simulated visit are there; the seed tells the case, which may have had another number."""
    try:
        return bool(read_facts(run.options.out / KEPT_FOLDER / name).get("seed") == seed)
    except InputError:
        return False


def _keep(run: _Run, case: ClinicCase, name: str, data: ClinicData, visit: SimulatedVisit, options: SimulationOptions) -> None:
    prior = SimulatedPrior(data.ct, data.segment.mask)
    told = {"source": case.patient, "site": case.site, "segment": data.segment.name}
    record = case_record(prior, visit, options, lesion="own", diameter_mm=None, told=told)
    write_case(run.options.out / KEPT_FOLDER / name, prior, visit, record)


def _as_benchmark_case(case: ClinicCase, name: str, change: str) -> BenchmarkCase:
    """The visit for the benchmark's tables, which read none of these files."""
    nothing = Path()
    return BenchmarkCase(name, nothing, nothing, nothing, None, change, case.site, case.patient, True, None)


def _content_hash(data: ClinicData) -> str:
    """A hash of the CT's and the tumour's voxels and of where they lie."""
    found = hashlib.sha256(repr((data.ct.grid, data.ct.array.dtype.str)).encode())
    found.update(np.ascontiguousarray(data.ct.array).data)
    found.update(np.packbits(data.segment.mask).data)
    return found.hexdigest()


def _key(run: _Run, content: str, simulation: SimulationOptions) -> str:
    options = run.options
    return key_of(
        {
            "version": __version__,
            "case": content,
            "simulation": asdict(simulation),
            "propagation": asdict(options.propagation),
            "methods": list(run.methods),
            "consistency": options.consistency,
            "model": asdict(run.model.card),
            "device": str(run.model.device),
            "threads": options.threads,
        }
    )


def _provenance(run: _Run) -> dict[str, Any]:
    options = run.options
    return {
        "program": f"P2SAMSlicer {__version__}",
        "model": asdict(run.model.card),
        "device": str(run.model.device),
        "threads": options.threads,
        "processors": os.cpu_count(),
        "options": asdict(options.propagation),
        "changes": list(options.changes),
        "visits_of_each_change": options.visits,
        "simulation": asdict(SimulationOptions()),
        "segments": list(options.segments),
        "seed": options.seed,
    }
