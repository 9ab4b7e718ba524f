"""A cohort without CTs and without a model: patients that say themselves how long a visit takes and what goes wrong with it.

A patient's folder holds one file a follow-up, ``visit_2.do`` and so on, with words: ``sleep 0.1``, ``burn 0.5`` (of processor
time), ``fail REASON``, ``crash`` (an error that nobody foresaw), ``kill`` (the worker ends itself, every time), ``kill-once``.
Run as a program, the module is ``p2sam cohort`` with these stand-ins; the first argument is a folder for what tests look at.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from P2SAMSlicerLib.atomic_file import atomic_folder
from P2SAMSlicerLib.cohort.manifest import ManifestRow
from P2SAMSlicerLib.cohort.planning import PatientPlan, Planner
from P2SAMSlicerLib.cohort.visit_task import VisitFunctions
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.patient.plan import PatientSettings
from P2SAMSlicerLib.patient.visit_order import ContourSource, CtSource, PatientVisit, VisitOrder


def write_patients(folder: Path, count: int, visits: int = 1, do: Callable[[int, int], str] = lambda _p, _v: "") -> Path:
    """Patients ``1`` to ``count`` and the table of them.

    :param visits: follow-ups of each.
    :param do: what is to happen, from the patient's number and the follow-up's, from 2.
    :returns: the table.
    """
    lines = ["patient,folder"]
    for patient in range(1, count + 1):
        own = folder / f"Doe^Jane{patient}"
        own.mkdir(parents=True)
        for visit in range(2, 2 + visits):
            (own / f"visit_{visit}.do").write_text(do(patient, visit), encoding="utf-8")
        lines.append(f"MRN{patient:05d},{own.name}")
    table = folder / "patients.csv"
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return table


def planner_for(settings: PatientSettings) -> Planner:
    """Plans one order for each ``.do`` file."""

    def plan(row: ManifestRow, out: Path) -> PatientPlan:
        files = sorted(row.folder.glob("visit_*.do"))
        if (row.folder / "unplannable").exists():
            raise InputError(f"{row.folder.name}: two patients in one folder")
        prior = PatientVisit(1, "visit_1", 0, None, CtSource((), False))
        orders: list[VisitOrder] = []
        for number, file in enumerate(files, start=2):
            visit = PatientVisit(number, file.stem, 7 * number, None, CtSource((file,), False))
            references: tuple[PatientVisit, ...] = (prior,)
            if settings.carried_from == "previous" and orders:
                last = orders[-1]
                contours = (ContourSource(last.out / "contours"),)
                references = (prior, replace(last.followup, contours=contours))
            order = VisitOrder(references, visit, out / visit.label, model="stub", device="cpu", threads=settings.threads)
            orders.append(order)
        return PatientPlan(row, tuple(orders))

    return plan


def functions(notes: Path) -> VisitFunctions:
    """What the workers call.

    :param notes: folder in which each carried visit and each loaded model leaves a file.
    """
    return VisitFunctions(partial(carry, notes), partial(load, notes), is_finished, holds_results, write_report)


def load(notes: Path, order: VisitOrder) -> str:
    """A model is a word."""
    note(notes, f"loaded-{os.getpid()}", order.model)
    return f"{order.model} loaded"


def carry(notes: Path, order: VisitOrder, model: str) -> None:
    """Do what the visit's file says, and write its folder."""
    assert model == "stub loaded"
    (file,) = order.followup.ct.paths
    name = f"{order.out.parent.name}-{order.followup.label}"
    attempt = note(notes, f"carried-{name}", str(os.getpid()))
    for source in order.references[-1].contours:
        note(notes, f"reference-{name}", "there" if source.path.is_file() else "absent")
    words = file.read_text(encoding="utf-8")
    what, _, value = words.partition(" ")
    if what == "sleep":
        time.sleep(float(value))
    elif what == "burn":
        end = time.process_time() + float(value)
        while time.process_time() < end:
            pass
    elif what == "fail":
        raise InputError(value)
    elif what == "crash":
        raise RuntimeError(f"/home/{file}")
    elif what == "kill" or (what == "kill-once" and attempt == 1):
        os.kill(os.getpid(), signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
    write_visit(order, words)


def write_visit(order: VisitOrder, words: str) -> None:
    """A visit's folder, as small as the table of results needs it."""
    priority = int(hashlib.sha256(str((order.out.parent.name, order.followup.label)).encode()).hexdigest()[:4], 16) / 0xFFFF
    segment = {
        "segment": "GTV",
        "outcome": "found" if priority < 0.8 else "flagged",
        "review_priority": round(priority, 4),
        "prior_volume_ml": 4.0,
        "volume_ml": 3.0,
        "volume_change_percent": -25.0,
        "centroid_shift_mm": [0.5, -0.25, 0.0],
        "reasons": [] if priority < 0.8 else ["tissue was lost", "=1+1"],
    }
    visit = {"label": order.followup.label, "day": order.followup.day, "outcome": "done", "key": key_of(words, order)}
    with atomic_folder(order.out) as stage:
        (stage / "summary.json").write_text(
            json.dumps({"followups": [{"segments": [segment], "stage_seconds": {"registration": 1.5, "model": 0.5}}]})
        )
        (stage / "contours").write_text("contours")
        (stage / "visit.json").write_text(json.dumps(visit))


def key_of(words: str, order: VisitOrder) -> str:
    """What a visit was made from."""
    return hashlib.sha256(json.dumps([words, order.model, order.segments]).encode()).hexdigest()


def is_finished(order: VisitOrder) -> bool:
    """Whether the visit's folder was made from its file as it is now."""
    (file,) = order.followup.ct.paths
    try:
        found = json.loads((order.out / "visit.json").read_text(encoding="utf-8"))
        return bool(found["outcome"] == "done" and found["key"] == key_of(file.read_text(encoding="utf-8"), order))
    except (OSError, ValueError, KeyError):
        return False


def holds_results(order: VisitOrder) -> bool:
    """Whether the visit's folder has contours."""
    return (order.out / "contours").is_file()


def write_report(out: Path, prior: PatientVisit, orders: Sequence[VisitOrder]) -> None:
    """A report that says which visits it is about."""
    assert prior.label == "visit_1"
    with atomic_folder(out) as stage:
        for name in ("report.html", "report.json"):
            (stage / name).write_text(" ".join(order.followup.label for order in orders))


def record_failure(order: VisitOrder, reason: str) -> None:
    """As the real one: nothing but ``visit.json`` in the folder."""
    with atomic_folder(order.out) as stage:
        (stage / "visit.json").write_text(json.dumps({"label": order.followup.label, "outcome": "failed", "reason": reason}))


def note(notes: Path, name: str, text: str) -> int:
    """Add a line to a file.

    :returns: how many lines it has now.
    """
    with (notes / name).open("a", encoding="utf-8") as file:
        file.write(f"{text}\n")
    return len((notes / name).read_text(encoding="utf-8").splitlines())


def main() -> int:
    """``p2sam cohort`` with stand-ins."""
    from P2SAMSlicerLib.cli import main as command
    from P2SAMSlicerLib.cohort import run

    # Whoever began the tests may have them ignore Ctrl-C, as a shell does for what runs in the background.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    notes, arguments = Path(sys.argv[1]), sys.argv[2:]
    real = run.run_cohort
    stood_in: Any = partial(real, planner_for=planner_for, functions=functions(notes), record_failure=record_failure)
    run.run_cohort = stood_in
    return command(["cohort", *arguments])


if __name__ == "__main__":
    sys.exit(main())
