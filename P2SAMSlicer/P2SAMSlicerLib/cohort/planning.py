"""Finds out, some patients ahead of the workers, what is to be done for each."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from P2SAMSlicerLib.cohort.manifest import ManifestRow
from P2SAMSlicerLib.cohort.told_reason import told_reason
from P2SAMSlicerLib.errors import P2SAMError, out_of_memory, unexpected
from P2SAMSlicerLib.patient.visit_order import VisitOrder

if TYPE_CHECKING:
    from P2SAMSlicerLib.patient.plan import PatientSettings

#: Reading a patient's headers takes seconds, and its list of files some memory.
PATIENTS_AHEAD = 4


@dataclass(frozen=True)
class PatientPlan:
    """What is to be done for one patient.

    :param orders: one a follow-up, by number; references may be what an earlier one writes.
    :param failure: why nothing can be done, in one line; None if something can.
    """

    row: ManifestRow
    orders: tuple[VisitOrder, ...] = ()
    failure: str | None = None


#: From a patient and the folder for its results to the plan.
Planner = Callable[[ManifestRow, Path], PatientPlan]


def planner_of(settings: PatientSettings) -> Planner:
    """The usual planner.

    :param settings: for all patients; what a row of the manifest says goes before.
    """

    def plan(row: ManifestRow, out: Path) -> PatientPlan:
        from P2SAMSlicerLib.patient.plan import plan_orders
        from P2SAMSlicerLib.patient.reference_contours import choose_contours
        from P2SAMSlicerLib.patient.visits import find_visits

        own = replace(
            settings,
            prior=row.prior or settings.prior,
            segments=row.segments or settings.segments,
            carried_from=row.carried_from or settings.carried_from,
            followups=row.followups or settings.followups,
        )
        orders = plan_orders(find_visits(row.folder), own, out)
        for order in orders:
            order.options.check_names(choose_contours(order).names())
        return PatientPlan(row, orders)

    return plan


class PlansAhead:
    """Plans patients in a thread, a bounded number ahead of the one who takes them.

    :param rows: the patients.
    :param out: folder of the cohort's results; each patient has the folder of its label in it.
    :param told: called, in that thread, whenever a plan can be taken.
    """

    def __init__(self, rows: Sequence[ManifestRow], out: Path, plan: Planner, told: Callable[[], None]) -> None:
        self._rows, self._out, self._plan, self._told = rows, out, plan, told
        self._plans: queue.Queue[PatientPlan] = queue.Queue(PATIENTS_AHEAD)
        self._stopped = threading.Event()
        self.left = len(rows)
        self._thread = threading.Thread(target=self._work, name="planning", daemon=True)
        self._thread.start()

    def take(self) -> PatientPlan | None:
        """The next patient's plan, in order; None if it is not ready yet, or if all were taken (``left`` is 0)."""
        try:
            plan = self._plans.get_nowait()
        except queue.Empty:
            return None
        self.left -= 1
        return plan

    def stop(self) -> None:
        """Plan no further patient."""
        self._stopped.set()

    def _work(self) -> None:
        for row in self._rows:
            plan = self._planned(row)
            while not self._stopped.is_set():
                try:
                    self._plans.put(plan, timeout=0.5)
                    break
                except queue.Full:
                    continue
            if self._stopped.is_set():
                return
            self._told()

    def _planned(self, row: ManifestRow) -> PatientPlan:
        """A plan; a patient for whom there is none must not stop the others."""
        try:
            return self._plan(row, self._out / row.label)
        except P2SAMError as error:
            return PatientPlan(row, failure=told_reason(str(error), row))
        except Exception as error:
            return PatientPlan(row, failure=out_of_memory(error) or unexpected(error))
