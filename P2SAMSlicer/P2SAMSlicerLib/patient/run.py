"""A patient in one go: finds the visits, carries contours to each follow-up, and writes the report.

What is checked before any work: the settings, the visits and their contours, the model's weights, and what lies in the folder
for the results already. A visit that fails on the way is recorded in its folder and does not stop the others. A run that was
interrupted is completed by running it again: visits that are finished, with the same inputs and settings, are kept.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from P2SAMSlicerLib.errors import Cancelled, P2SAMError, out_of_memory, unexpected
from P2SAMSlicerLib.patient.carry_visit import carry_visit
from P2SAMSlicerLib.patient.checked_orders import check_orders
from P2SAMSlicerLib.patient.patient_report import write_report
from P2SAMSlicerLib.patient.plan import PatientSettings, plan_orders, prior_visit
from P2SAMSlicerLib.patient.visit_ct import without_file_names
from P2SAMSlicerLib.patient.visit_folder import is_done, is_finished, read_visit_folder, write_failed_visit
from P2SAMSlicerLib.patient.visit_order import PatientVisit, VisitOrder
from P2SAMSlicerLib.patient.visits import find_visits
from P2SAMSlicerLib.progress import Progress, ProgressEvent, numbered, silent
from P2SAMSlicerLib.threads import use_threads

if TYPE_CHECKING:
    from P2SAMSlicerLib.models.protocol import PromptableModel

DONE, KEPT, FAILED = "done", "kept", "failed"
HOW_TO_REPLACE = "they were left as they are; use --overwrite to replace them"


@dataclass(frozen=True)
class VisitOutcome:
    """What came of one follow-up.

    :param outcome: ``done``, ``kept`` (finished by an earlier run with the same inputs and settings) or ``failed``.
    :param record: the content of its ``visit.json``.
    :param reason: why it failed, in one line; else empty.
    :param details: the traceback of a failure, for the one who looks for the fault; never written to a file.
    """

    label: str
    folder: Path
    outcome: str
    record: Mapping[str, Any]
    reason: str = ""
    details: str = ""
    out_of_memory: bool = False


@dataclass(frozen=True)
class PatientResult:
    """What came of a patient.

    :param prior: label of the visit that contours were carried from.
    :param found: number of the patient's visits.
    :param visits: one a follow-up, by number.
    :param report: ``report.html`` and ``report.json``.
    """

    prior: str
    found: int
    visits: tuple[VisitOutcome, ...]
    report: tuple[Path, ...]

    @property
    def failures(self) -> list[VisitOutcome]:
        """The follow-ups to which nothing could be carried."""
        return [visit for visit in self.visits if visit.outcome == FAILED]


def load_order_model(order: VisitOrder) -> PromptableModel:
    """The order's model, loaded.

    :raises ModelError: see :func:`~P2SAMSlicerLib.models.load_model`.
    """
    from P2SAMSlicerLib.models import load_model

    return load_model(
        order.model,
        order.device,
        order.checkpoint,
        allow_unverified=order.allow_unverified,
        precision=order.precision,
    )


def run_patient(
    folder: Path | str,
    settings: PatientSettings,
    out: Path,
    progress: Progress = silent,
    *,
    overwrite: bool = False,
    model_of: Callable[[VisitOrder], PromptableModel] = load_order_model,
) -> PatientResult:
    """Carry contours through the visits that lie below a folder; see :func:`run_visits`.

    :param folder: see :func:`P2SAMSlicerLib.patient.visits.find_visits`.
    :param model_of: gives the model.
    :raises InputError: also where the visits cannot be told.
    """
    settings.check()
    visits = find_visits(folder, progress, allow_other_patient=settings.options.allow_other_patient)
    return run_visits(visits, settings, out, progress, overwrite=overwrite, model_of=model_of)


def run_visits(
    visits: Sequence[PatientVisit],
    settings: PatientSettings,
    out: Path,
    progress: Progress = silent,
    *,
    overwrite: bool = False,
    model_of: Callable[[VisitOrder], PromptableModel] = load_order_model,
    visit_done: Callable[[VisitOutcome], None] = lambda _visit: None,
) -> PatientResult:
    """Carry contours to a patient's follow-ups, each into a folder of its own in ``out``, and write the report there.

    :param visits: by number.
    :param overwrite: replace results that are there and were made from something else.
    :param model_of: gives the model; called once, and not at all if every visit is kept.
    :param visit_done: called with each follow-up as soon as it is done, kept, or has failed.
    :raises InputError: settings, visits or contours cannot be used, or results are there already; nothing was written.
    :raises ModelError: the weights do not fit, or the device is not there; nothing was written.
    :raises OutputError: the results cannot be written; visits that are finished stay.
    """
    use_threads(settings.threads)
    orders = plan_orders(visits, settings, out)
    check_orders(orders, settings, out, overwrite=overwrite, progress=progress)
    outcomes: list[VisitOutcome] = []
    model: PromptableModel | None = None
    for number, order in enumerate(orders, start=1):
        if is_finished(order.out, order):
            outcomes.append(VisitOutcome(order.followup.label, order.out, KEPT, read_visit_folder(order.out)))
            visit_done(outcomes[-1])
            continue
        if is_done(order.out) and not overwrite:
            # It was kept when the run began, and an earlier visit of the chain has changed since.
            reason = f"its results were made from other contours of an earlier visit; {HOW_TO_REPLACE}"
            outcomes.append(VisitOutcome(order.followup.label, order.out, FAILED, read_visit_folder(order.out), reason))
            visit_done(outcomes[-1])
            continue
        if model is None:
            progress(ProgressEvent("model", 0, 1))
            model = model_of(order)
            progress(ProgressEvent("model", 1, 1, str(model.device)))
        outcomes.append(_carried(order, model, numbered(progress, "follow-up", number, len(orders)), visits))
        visit_done(outcomes[-1])
    prior = prior_visit(visits, settings.prior)
    report = write_report(out, prior, orders, visits, identified=settings.identified)
    return PatientResult(prior.label, len(visits), tuple(outcomes), report)


def _carried(order: VisitOrder, model: PromptableModel, progress: Progress, visits: Sequence[PatientVisit]) -> VisitOutcome:
    """Carry to one follow-up; its failure is recorded and must not take the others' results away.

    :raises OutputError: not even the failure can be recorded.
    """
    try:
        return VisitOutcome(order.followup.label, order.out, DONE, carry_visit(order, model, progress))
    except (Cancelled, KeyboardInterrupt):
        raise
    except P2SAMError as error:
        return _failed(order, without_file_names(" ".join(str(error).split()), visits))
    except Exception as error:
        told = out_of_memory(error)
        return _failed(order, told or unexpected(error), out_of_memory=told is not None)


def _failed(order: VisitOrder, reason: str, *, out_of_memory: bool = False) -> VisitOutcome:
    """A failure that is being handled, recorded in the visit's folder."""
    details, label = traceback.format_exc(), order.followup.label
    reason = reason.removeprefix(f"{label}: ")
    return VisitOutcome(label, order.out, FAILED, write_failed_visit(order, reason), reason, details, out_of_memory)
