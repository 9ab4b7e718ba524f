"""What a worker runs: one task carries contours to one visit, or writes one patient's report.

A task gets two random words, one for the run and one for its order, and returns a word; see
:mod:`P2SAMSlicerLib.cohort.private_orders`. It never raises because of what a visit is like: errors travel through the
scheduler and into its logs.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from P2SAMSlicerLib.cohort import finished, private_orders
from P2SAMSlicerLib.cohort.results_table import REPORTS, visit_rows
from P2SAMSlicerLib.cohort.worker_model import kept_model, load_order_model
from P2SAMSlicerLib.errors import OutputError, P2SAMError, out_of_memory, unexpected
from P2SAMSlicerLib.patient.visit_order import PatientVisit, VisitOrder
from P2SAMSlicerLib.worker.plain_values import from_plain, to_plain

#: What a task returns: its outcome lies beside its order, or the order cannot be reached from the worker.
SAID, UNREACHABLE = "said", "unreachable"
#: A task whose worker ended is begun again on another this often in all.
MOST_STARTS = 3
ENDED = f"the worker ended {MOST_STARTS} times on it: memory may be too small for so many workers, or something ended them"


def carry(order: VisitOrder, model: Any) -> object:
    """Carry contours to a visit; see :func:`P2SAMSlicerLib.patient.carry_visit.carry_visit`."""
    from P2SAMSlicerLib.patient.carry_visit import carry_visit

    return carry_visit(order, model)


def write_report(out: Path, prior: PatientVisit, orders: Sequence[VisitOrder]) -> object:
    """Write a patient's report, anonymous; see :func:`P2SAMSlicerLib.patient.patient_report.write_report`.

    :raises OutputError: it cannot be written, or there is one with a person's review, which is never replaced.
    """
    from P2SAMSlicerLib.patient.patient_report import write_report

    if holds_review(out / REPORTS[1]):
        raise OutputError("there is a report with a review, which was left as it is; new visits are not in it")
    return write_report(out, prior, orders, (), identified=False)


def holds_review(report: Path) -> bool:
    """Whether a person's decision stands in a report (``report.json``)."""
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        visits = json.loads(report.read_text(encoding="utf-8"))["visits"]
        decisions = [segment["review"]["decision"] for visit in visits for segment in visit["segments"]]
        return any(decision != "unreviewed" for decision in decisions)
    return False


@dataclass(frozen=True)
class VisitFunctions:
    """What tasks call; tests give others.

    :param carry: writes a visit's folder, whole or not at all.
    :param load: loads an order's model.
    :param is_finished: whether an earlier run has finished the order.
    :param write_report: writes a patient's report from the folder for it, the prior, and the visits' orders.
    """

    carry: Callable[[VisitOrder, Any], object] = carry
    load: Callable[[VisitOrder], Any] = load_order_model
    is_finished: Callable[[VisitOrder], bool] = finished.is_finished
    write_report: Callable[[Path, PatientVisit, Sequence[VisitOrder]], object] = write_report


@dataclass(frozen=True)
class TaskSetup:
    """What a worker has to know before the first task of a run.

    :param run: random word of the run.
    :param orders: the folder of its orders.
    :param quiet: let nothing that a library prints reach the terminal: it may name files.
    """

    run: str
    orders: Path
    functions: VisitFunctions = VisitFunctions()
    quiet: bool = False


#: Of the runs that this process works for: several programs may share a cluster.
_setups: dict[str, TaskSetup] = {}
#: A model, and the number of threads, belong to the process.
_one_at_a_time = threading.Lock()


def begin_run(setup: TaskSetup) -> None:
    """Let this process work for a run."""
    if setup.quiet:
        _silence()
    _setups[setup.run] = setup


def end_run(run: str) -> None:
    """Forget a run."""
    _setups.pop(run, None)


def visit_content(order: VisitOrder, *, resume: bool) -> dict[str, Any]:
    """An order for a visit, as it is kept for a worker.

    :param resume: keep what an earlier run finished.
    """
    return {"kind": "visit", "resume": resume, "order": to_plain(order)}


def report_content(out: Path, orders: Sequence[VisitOrder]) -> dict[str, Any]:
    """An order for a report, as it is kept for a worker.

    :param orders: of all of the patient's follow-ups; the first reference is the prior.
    """
    return {"kind": "report", "out": str(out), "orders": [to_plain(each) for each in orders]}


def run_task(run: str, token: str) -> str:
    """Do what an order says, and leave the outcome beside it.

    The outcome has ``state`` (``done``, ``kept`` or ``failed``), ``reason`` (in one line; it may name files), ``seconds``, and
    ``rows`` for the table of results.

    :returns: :data:`SAID` or :data:`UNREACHABLE`.
    """
    setup = _setups.get(run)
    if setup is None:
        return UNREACHABLE
    with _one_at_a_time:
        try:
            order = private_orders.begin_order(setup.orders, token)
        except (OSError, ValueError):
            return UNREACHABLE
        started = time.perf_counter()
        outcome: dict[str, Any] = {"state": "failed", "reason": ENDED}
        if order.starts <= MOST_STARTS:
            outcome = _outcome(order.content, setup.functions)
        outcome["seconds"] = time.perf_counter() - started
        try:
            private_orders.finish_order(setup.orders, token, outcome)
        except OSError:
            return UNREACHABLE
    return SAID


def _outcome(order: Mapping[str, Any], functions: VisitFunctions) -> dict[str, Any]:
    try:
        if order["kind"] == "report":
            orders = [from_plain(VisitOrder, each, "order") for each in order["orders"]]
            functions.write_report(Path(order["out"]), orders[0].references[0], orders)
            return {"state": "done"}
        visit = from_plain(VisitOrder, order["order"], "order")
        if order["resume"] and functions.is_finished(visit):
            return {"state": "kept", "rows": visit_rows(visit.out)}
        functions.carry(visit, kept_model(visit, functions.load))
        return {"state": "done", "rows": visit_rows(visit.out)}
    except P2SAMError as error:
        return {"state": "failed", "reason": " ".join(str(error).split())}
    except Exception as error:
        return {"state": "failed", "reason": out_of_memory(error) or unexpected(error)}


def _silence() -> None:
    """Send what this process, its libraries included, prints to nowhere."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream, number in ((sys.stdout, 1), (sys.stderr, 2)):
            with suppress(OSError, ValueError, AttributeError):
                stream.flush()
            os.dup2(nowhere, number)
        os.close(nowhere)
