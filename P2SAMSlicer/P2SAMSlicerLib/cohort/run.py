"""A whole cohort: from the table of patients to their folders, the table of results and the cohort's page."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from P2SAMSlicerLib.cohort.cluster import Cluster, check_packages
from P2SAMSlicerLib.cohort.cohort_folder import cohort_folder
from P2SAMSlicerLib.cohort.cohort_report import write_cohort_report
from P2SAMSlicerLib.cohort.manifest import ManifestRow
from P2SAMSlicerLib.cohort.planning import Planner, PlansAhead, planner_of
from P2SAMSlicerLib.cohort.private_orders import PrivateOrders
from P2SAMSlicerLib.cohort.remote_cluster import SchedulerAddress, remote_cluster
from P2SAMSlicerLib.cohort.results_table import ResultRow, write_results
from P2SAMSlicerLib.cohort.schedule import CohortRecord, Schedule
from P2SAMSlicerLib.cohort.visit_task import TaskSetup, VisitFunctions
from P2SAMSlicerLib.cohort.worker_model import load_order_model
from P2SAMSlicerLib.patient.visit_order import VisitOrder
from P2SAMSlicerLib.progress import Progress, ProgressEvent, silent

if TYPE_CHECKING:
    from P2SAMSlicerLib.patient.plan import PatientSettings


@dataclass(frozen=True)
class CohortJob:
    """What shall be done for whom.

    :param rows: the patients.
    :param out: folder for the results.
    :param settings: for all patients; a row may say otherwise.
    :param workers: of the embedded cluster; None for one a GPU, or one.
    :param scheduler: of an existing cluster; None for the embedded one.
    :param resume: keep what an earlier run finished.
    :param overwrite: replace what an earlier run wrote; with ``resume`` only what was made from other files or settings.
    :param identified: the table of results names the clinic's own keys.
    :param quiet: let nothing that the workers' libraries print reach the terminal.
    """

    rows: tuple[ManifestRow, ...]
    out: Path
    settings: PatientSettings
    workers: int | None = None
    scheduler: SchedulerAddress | None = None
    resume: bool = False
    overwrite: bool = False
    identified: bool = False
    quiet: bool = True


@dataclass(frozen=True)
class CohortResult:
    """What came of it.

    :param files: the tables and the page.
    :param seconds: by the clock, with the start of the workers.
    """

    record: CohortRecord
    rows: tuple[ResultRow, ...]
    files: tuple[Path, ...]
    workers: int
    seconds: float

    @property
    def failed(self) -> bool:
        """Whether anything did."""
        return bool(self.record.failed or self.record.failed_patients or self.record.notes)


def write_failed_visit(order: VisitOrder, reason: str) -> object:
    """Record a failed visit; see :func:`P2SAMSlicerLib.patient.visit_folder.write_failed_visit`."""
    from P2SAMSlicerLib.patient.visit_folder import write_failed_visit as write

    return write(order, reason)


def keep_results(
    order: VisitOrder, reason: str, record: Callable[[VisitOrder, str], object], holds_results: Callable[[VisitOrder], bool]
) -> None:
    """Record a failed visit, but never in place of results of an earlier run."""
    if not holds_results(order):
        record(order, reason)


def run_cohort(
    job: CohortJob,
    progress: Progress = silent,
    *,
    planner_for: Callable[[PatientSettings], Planner] = planner_of,
    functions: VisitFunctions | None = None,
    record_failure: Callable[[VisitOrder, str], object] = write_failed_visit,
) -> CohortResult:
    """Carry contours through all patients' visits and write what came of it.

    :param planner_for: gives what plans a patient.
    :param functions: what the workers call; a test gives others.
    :param record_failure: writes the folder of a visit that failed.
    :raises InputError: a package, the model, the scheduler or the folder for the results cannot be used; nothing was written.
    :raises OutputError: the results cannot be written.
    :raises SchedulerLostError: the scheduler went away; what is finished stays.
    """
    check_packages()
    functions = functions or VisitFunctions()
    _check(job, functions)
    started = time.monotonic()
    with cohort_folder(job.out, job.rows, resume=job.resume, overwrite=job.overwrite and not job.resume) as out:
        orders = PrivateOrders(out)
        try:
            setup = TaskSetup(secrets.token_hex(16), orders.path, functions)
            progress(ProgressEvent("workers", 0, 1))
            with _cluster(job, setup) as cluster:
                progress(ProgressEvent("workers", 1, 1, f"{cluster.workers}"))
                workers = cluster.workers
                record = _run(job, out, cluster, orders, progress, planner_for, record_failure)
        finally:
            orders.remove()
        rows = record.all_rows()
        keys = {row.label: row.patient for row in job.rows} if job.identified else None
        files = [*write_results(out, rows, workers, keys)]
        files.append(write_cohort_report(out, rows, _facts(job, record, workers), record.notes))
    return CohortResult(record, tuple(rows), tuple(files), workers, time.monotonic() - started)


def _check(job: CohortJob, functions: VisitFunctions) -> None:
    """Refuse, before anything is written, what every visit would be refused for."""
    job.settings.check()
    if job.scheduler is not None:
        job.scheduler.check()
    elif functions.load is load_order_model:
        from P2SAMSlicerLib.models import check_model

        check_model(job.settings.model, job.settings.checkpoint, allow_unverified=job.settings.allow_unverified)


@contextmanager
def _cluster(job: CohortJob, setup: TaskSetup) -> Iterator[Cluster]:
    if job.scheduler is not None:
        with remote_cluster(job.scheduler, setup, job.settings.device) as cluster:
            yield cluster
        return
    from P2SAMSlicerLib.cohort.local_cluster import local_cluster, plan_workers

    workers = plan_workers(job.workers, job.settings.threads, job.settings.device)
    with local_cluster(workers, setup, quiet=job.quiet) as cluster:
        yield cluster


def _run(
    job: CohortJob,
    out: Path,
    cluster: Cluster,
    orders: PrivateOrders,
    progress: Progress,
    planner_for: Callable[[PatientSettings], Planner],
    record_failure: Callable[[VisitOrder, str], object],
) -> CohortRecord:
    settings = job.settings
    settings = replace(settings, device=cluster.device or settings.device, threads=settings.threads or cluster.threads)
    keeps = partial(keep_results, record=record_failure, holds_results=cluster.setup.functions.holds_results)
    schedule = Schedule(
        *(cluster, orders, len(job.rows)),
        resume=job.resume,
        replace=job.overwrite,
        record_failure=record_failure if job.overwrite else keeps,
        progress=progress,
    )
    plans = PlansAhead(job.rows, out, planner_for(settings), schedule.wake)
    try:
        return schedule.run(plans)
    finally:
        plans.stop()


def _facts(job: CohortJob, record: CohortRecord, workers: int) -> Mapping[str, str]:
    weights = "" if job.settings.checkpoint is None else ", with weights of the user's own"
    return {
        "Model": f"{job.settings.model}{weights}",
        "Carried from": f"{job.settings.carried_from}, where the table of patients does not say otherwise",
        "Workers": f"{workers}, of {'an existing cluster' if job.scheduler else 'this computer'}",
        "Follow-ups kept from an earlier run": str(record.kept),
    }
