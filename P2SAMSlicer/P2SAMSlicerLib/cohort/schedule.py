"""Which task goes to the workers when: a bounded number at a time, and visits that build on others after these.

No failure of one visit stops another: it is recorded with its reason. A visit whose worker ended (killed, or out of memory) is
begun again on another, at most twice. The driver holds what is in flight and the rows of the results, and nothing else, so its
memory does not grow with the cohort.
"""

from __future__ import annotations

import queue
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from P2SAMSlicerLib.cohort.cluster import Cluster
from P2SAMSlicerLib.cohort.planning import PatientPlan, PlansAhead
from P2SAMSlicerLib.cohort.private_orders import PrivateOrders
from P2SAMSlicerLib.cohort.results_table import FAILED, REPORTS, ResultRow
from P2SAMSlicerLib.cohort.told_reason import told_reason
from P2SAMSlicerLib.cohort.visit_task import ENDED, MOST_STARTS, report_content, run_task, visit_content
from P2SAMSlicerLib.errors import P2SAMError
from P2SAMSlicerLib.patient.visit_order import VisitOrder
from P2SAMSlicerLib.progress import Progress, ProgressEvent, silent

#: How often the driver looks whether the scheduler is still there, s; what happens wakes it at once.
LOOK_SECONDS = 1.0
#: How often it counts the workers, s.
COUNT_SECONDS = 10.0
#: A task that no worker ever began is given to the scheduler again this often.
MOST_SUBMISSIONS = 6
UNREACHABLE_REASON = "the worker cannot read or write the folder for the results"
STAGE = "visits"


class SchedulerLostError(P2SAMError):
    """The scheduler is gone; what is finished stays."""


@dataclass
class PatientState:
    """A patient whose visits are being carried.

    :param open: numbers of orders that have not ended.
    :param rows: of the orders that have ended, by number.
    :param new: something was written that the report does not have yet.
    """

    plan: PatientPlan
    out: Path
    open: set[int]
    waiting: list[int]
    rows: dict[int, list[ResultRow]] = field(default_factory=dict)
    new: bool = False


@dataclass
class Task:
    """One task.

    :param number: of the order; None for the patient's report.
    :param submissions: how often it was given to the scheduler.
    """

    patient: PatientState
    number: int | None
    token: str
    submissions: int = 0


@dataclass
class CohortRecord:
    """What came of a cohort so far.

    :param rows: of patients that are through, by the row of the table of patients.
    :param notes: what else went wrong, in one line each.
    """

    rows: dict[int, list[ResultRow]] = field(default_factory=dict)
    patients: int = 0
    visits: int = 0
    kept: int = 0
    failed: int = 0
    failed_patients: int = 0
    notes: list[str] = field(default_factory=list)
    task_seconds: float = 0.0

    def all_rows(self) -> list[ResultRow]:
        """The rows in the order of the table of patients."""
        return [row for number in sorted(self.rows) for row in self.rows[number]]


class Schedule:
    """Runs all tasks of a cohort.

    :param patients: how many there are.
    :param resume: keep what an earlier run finished.
    :param record_failure: writes the folder of a visit that failed.
    """

    def __init__(
        self,
        cluster: Cluster,
        orders: PrivateOrders,
        patients: int,
        *,
        resume: bool,
        record_failure: Callable[[VisitOrder, str], object],
        progress: Progress = silent,
    ) -> None:
        self._cluster, self._orders, self._patients = cluster, orders, patients
        self._resume, self._record_failure, self._progress = resume, record_failure, progress
        self._events: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._ready: deque[Task] = deque()
        self._in_flight: dict[str, tuple[Task, Any]] = {}
        self._known = 0
        self._told = (-1, -1, -1)
        self._window = cluster.workers + 1
        self._counted = self._started = time.monotonic()
        self.record = CohortRecord()

    def wake(self) -> None:
        """Something happened elsewhere; may be called from any thread."""
        self._events.put("")

    def run(self, plans: PlansAhead) -> CohortRecord:
        """Run until every patient is through.

        :raises SchedulerLostError: with what to do.
        """
        self._tell(plans)
        while self._fill(plans):
            with suppress(queue.Empty):
                token = self._events.get(timeout=LOOK_SECONDS)
                if token:
                    self._ended(token)
                    self._tell(plans)
            self._look()
        self._tell(plans)
        return self.record

    def _fill(self, plans: PlansAhead) -> bool:
        """Give the workers what they can take.

        :returns: whether anything is left to wait for.
        """
        while len(self._in_flight) < self._window:
            if self._ready:
                self._submit(self._ready.popleft())
                continue
            plan = plans.take()
            if plan is None:
                break
            self._begin(plan)
            self._tell(plans)
        return bool(self._in_flight or self._ready or plans.left)

    def _begin(self, plan: PatientPlan) -> None:
        """Take a patient on."""
        if plan.failure is not None or not plan.orders:
            reason = plan.failure or "it has no follow-up"
            self.record.rows[plan.row.row] = [ResultRow(plan.row.label, outcome=FAILED, reasons=reason)]
            self.record.patients += 1
            self.record.failed_patients += 1
            return
        numbers = list(range(len(plan.orders)))
        self._known += len(numbers)
        patient = PatientState(plan, plan.orders[0].out.parent, set(numbers), numbers)
        self._release(patient)

    def _release(self, patient: PatientState) -> None:
        """Put the visits that wait for nothing into the queue, before those of patients who came later."""
        orders = patient.plan.orders
        free = [number for number in patient.waiting if not needed(orders, number) & patient.open]
        patient.waiting = [number for number in patient.waiting if number not in free]
        tasks = [Task(patient, number, self._orders.put(visit_content(orders[number], resume=self._resume))) for number in free]
        self._ready.extendleft(reversed(tasks))

    def _submit(self, task: Task) -> None:
        task.submissions += 1
        wanted = (
            {"resources": dict(self._cluster.task_resources)}
            if task.number is not None and self._cluster.task_resources
            else {}
        )
        # A key of its own for each time, because the scheduler may still know the last one as failed.
        key = f"task-{task.token}-{task.submissions}"
        try:
            future = self._cluster.client.submit(run_task, self._cluster.setup.run, task.token, key=key, pure=False, **wanted)
        except Exception as error:
            raise _lost() from error
        self._in_flight[task.token] = (task, future)
        future.add_done_callback(lambda _future, token=task.token: self._events.put(token))

    def _ended(self, token: str) -> None:
        """A task is done, or is not going to be."""
        found = self._in_flight.pop(token, None)
        if found is None:
            return
        task, future = found
        status = future.status
        future.release()
        outcome = self._orders.outcome(token)
        if outcome is None and status != "finished":
            if self._cluster.lost:
                raise _lost()
            if self._orders.starts(token) < MOST_STARTS and task.submissions < MOST_SUBMISSIONS:
                self._ready.appendleft(task)
                return
        self._orders.drop(token)
        if outcome is None:
            outcome = {"state": FAILED, "reason": UNREACHABLE_REASON if status == "finished" else ENDED}
        self.record.task_seconds += float(outcome.get("seconds") or 0.0)
        if task.number is None:
            self._report_ended(task.patient, outcome)
        else:
            self._visit_ended(task.patient, task.number, outcome)

    def _visit_ended(self, patient: PatientState, number: int, outcome: dict[str, Any]) -> None:
        row, order = patient.plan.row, patient.plan.orders[number]
        self.record.visits += 1
        if outcome["state"] == FAILED:
            reason = told_reason(str(outcome["reason"]), row, patient.plan.orders)
            self.record.failed += 1
            patient.new = True
            visit = order.followup
            patient.rows[number] = [ResultRow(row.label, visit=visit.label, day=visit.day, outcome=FAILED, reasons=reason)]
            try:
                self._record_failure(order, reason)
            except P2SAMError as error:
                told = told_reason(str(error), row, patient.plan.orders)
                self.record.notes.append(
                    f"{row.label}: the failure of {visit.label} could not be recorded in its folder: {told}"
                )
        else:
            kept = outcome["state"] == "kept"
            self.record.kept += kept
            patient.new = patient.new or not kept
            patient.rows[number] = [ResultRow.of(row.label, each) for each in outcome["rows"]]
        patient.open.discard(number)
        if patient.open:
            self._release(patient)
        elif patient.new or not all((patient.out / name).is_file() for name in REPORTS):
            content = report_content(patient.out, patient.plan.orders)
            self._ready.appendleft(Task(patient, None, self._orders.put(content)))
        else:
            self._through(patient)

    def _report_ended(self, patient: PatientState, outcome: dict[str, Any]) -> None:
        if outcome["state"] == FAILED:
            row = patient.plan.row
            reason = told_reason(str(outcome["reason"]), row, patient.plan.orders)
            self.record.notes.append(f"{row.label}: its report could not be written: {reason}")
        self._through(patient)

    def _through(self, patient: PatientState) -> None:
        rows = [row for number in sorted(patient.rows) for row in patient.rows[number]]
        self.record.rows[patient.plan.row.row] = rows
        self.record.patients += 1

    def _look(self) -> None:
        """See now and then whether the scheduler is there, and how many workers it has."""
        if self._cluster.lost:
            raise _lost()
        now = time.monotonic()
        if now - self._counted > COUNT_SECONDS:
            self._counted = now
            try:
                self._window = max(1, self._cluster.count_workers()) + 1
            except Exception as error:
                raise _lost() from error

    def _tell(self, plans: PlansAhead) -> None:
        """Progress in visits; a patient who is not yet planned counts as one."""
        seconds = max(time.monotonic() - self._started, 1e-3)
        done, failed = self.record.visits + self.record.failed_patients, self.record.failed + self.record.failed_patients
        rate = 60.0 * done / seconds
        words = (
            f"{self.record.patients} of {self._patients} patients, {failed} failed, {rate:.{0 if rate >= 10 else 1}f} a minute"
        )
        total = self._known + self.record.failed_patients + plans.left
        if (done, total, self.record.patients) != self._told:
            self._told = (done, total, self.record.patients)
            self._progress(ProgressEvent(STAGE, done, total, words))


def needed(orders: Sequence[VisitOrder], number: int) -> set[int]:
    """Numbers of the earlier orders that write what an order reads."""
    paths = [source.path for visit in orders[number].references for source in visit.contours]
    return {earlier for earlier in range(number) if any(path.is_relative_to(orders[earlier].out) for path in paths)}


def _lost() -> SchedulerLostError:
    return SchedulerLostError(
        "the scheduler cannot be reached any more; finished visits are kept: start it again, and repeat the"
        " command with --resume"
    )
