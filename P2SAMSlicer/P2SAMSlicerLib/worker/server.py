"""The worker itself: takes requests one after the other, and keeps the model and what was computed between them."""

from __future__ import annotations

import os
import time
import traceback
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from P2SAMSlicerLib import __version__
from P2SAMSlicerLib.cli.job import PropagationJob, load_job_model, run_job
from P2SAMSlicerLib.errors import Cancelled, InputError, OutputError, P2SAMError, out_of_memory, unexpected
from P2SAMSlicerLib.handover_file import SEGMENTATION_SUFFIX, hand_over_segmentation, read_handed_segmentation
from P2SAMSlicerLib.models import store
from P2SAMSlicerLib.progress import Progress as ProgressCallback
from P2SAMSlicerLib.result import VisitResult
from P2SAMSlicerLib.result_files import FailedVisit
from P2SAMSlicerLib.threads import use_threads
from P2SAMSlicerLib.visit_record import write_visit
from P2SAMSlicerLib.volume import Segmentation, Volume
from P2SAMSlicerLib.worker.kept_volumes import KeptVolumes, Signature, signature_of
from P2SAMSlicerLib.worker.messages import (
    CarryPatient,
    Clear,
    Cleared,
    Fault,
    Finished,
    PatientFinished,
    PatientVisitDone,
    Progress,
    Propagate,
    Quit,
    Ready,
    Refused,
    Request,
    UnreadableRequest,
    Update,
    Updated,
    VisitDone,
    read_request,
)
from P2SAMSlicerLib.worker.pipes import Pipes
from P2SAMSlicerLib.worker.private_folder import remove_abandoned

if TYPE_CHECKING:
    from P2SAMSlicerLib.models.encode_cache import EncodeCache
    from P2SAMSlicerLib.models.protocol import PromptableModel
    from P2SAMSlicerLib.patient.visit_order import VisitOrder

#: CTs are kept for the next request as long as they are not larger than this together.
KEPT_BYTES = 1_500_000_000

#: The most that is told of a refusal: a name in it may be of any length.
MOST_LETTERS = 2000

ENDED, FAILED = 0, 1


def serve() -> int:
    """Serve requests until there are no more.

    :returns: the exit status; not 0 after a fault, which ends the worker because its memory may be in any state.
    :raises InputError: standard input or output is closed.
    """
    pipes = Pipes()
    try:
        return _serve(pipes)
    finally:
        # The caller is gone, perhaps by a crash, and with it whoever would have removed what it handed over.
        if pipes.alone:
            remove_abandoned()


def _serve(pipes: Pipes) -> int:
    worker = Worker(pipes)
    pipes.tell(Ready(__version__, os.getpid()))
    while (line := pipes.next_line()) is not None:
        number: int | None = None
        try:
            number, request = read_request(line)
            del line
            if isinstance(request, Quit):
                break
            worker.answer(number, request)
        except UnreadableRequest as error:
            pipes.tell(Refused(error.request, "InputError", str(error)[:MOST_LETTERS]))
        except Cancelled:
            raise
        except P2SAMError as error:
            pipes.tell(Refused(number, type(error).__name__, " ".join(str(error).split())[:MOST_LETTERS]))
        except Exception as error:
            traceback.print_exc()
            pipes.tell(Fault(number, out_of_memory(error) or unexpected(error)))
            return FAILED
    return ENDED


@dataclass(frozen=True)
class _ModelKey:
    """What makes a model another one; a weights file that changed is another one too, also one that was downloaded anew."""

    model: str
    checkpoint: Path | None
    files: tuple[Signature | None, ...]
    allow_unverified: bool
    device: str
    precision: str


class Worker:
    """What the worker can do, and what it keeps.

    :param pipes: where it tells events.
    """

    def __init__(self, pipes: Pipes) -> None:
        self._pipes = pipes
        self._key: _ModelKey | None = None
        self._model: EncodeCache | None = None
        self._volumes = KeptVolumes(KEPT_BYTES)

    def answer(self, number: int, request: Request) -> None:
        """Do what a request asks for.

        :raises P2SAMError: it cannot be done.
        :raises MemoryError: a follow-up failed for want of memory.
        """
        if isinstance(request, Propagate):
            self._propagate(number, request)
        elif isinstance(request, Update):
            self._update(number, request)
        elif isinstance(request, CarryPatient):
            self._patient(number, request)
        elif isinstance(request, Clear):
            self._volumes.clear()
            self._key = self._model = None
            self._pipes.tell(Cleared(number))

    def _propagate(self, number: int, request: Propagate) -> None:
        started, job = time.perf_counter(), request.job
        before = self._encoded()
        told: list[VisitDone] = []

        def visit_done(position: int, visit: VisitResult | FailedVisit) -> None:
            if isinstance(visit, FailedVisit):
                print(visit.details)
                if visit.out_of_memory:
                    raise MemoryError(visit.reason)
                done = VisitDone(number, position, len(job.followups), visit.name, None, visit.reason)
            else:
                record = request.records / f"visit_{number}_{position}.json.gz"
                _make_folder(request.records)
                write_visit(visit, record)
                done = VisitDone(number, position, len(job.followups), visit.name, record)
            told.append(done)
            self._pipes.tell(done)

        result = run_job(job, self._progress(number), model_of=self._model_of, read=self._volumes.read, visit_done=visit_done)
        seconds = round(time.perf_counter() - started, 3)
        encoded = self._encoded() - before
        self._pipes.tell(Finished(number, tuple(told), result.files, result.warnings, seconds, encoded))

    def _progress(self, number: int) -> ProgressCallback:
        """Tells the progress of a request."""
        return lambda event: self._pipes.tell(Progress(number, event.stage, event.done, event.total, event.message))

    def _patient(self, number: int, request: CarryPatient) -> None:
        from P2SAMSlicerLib.patient.given_files import visits_of_files
        from P2SAMSlicerLib.patient.run import VisitOutcome, run_visits
        from P2SAMSlicerLib.patient.visits import find_visits

        started, progress, settings = time.perf_counter(), self._progress(number), request.settings
        if (request.folder is None) == (request.files is None):
            raise InputError("either the patient's folder or the files are to be named")
        if request.files is not None:
            visits = visits_of_files(request.files)
        else:
            assert request.folder is not None  # one of the two
            other = settings.options.allow_other_patient
            visits = find_visits(request.folder, progress, allow_other_patient=other)
        cts = {visit.label: visit.ct for visit in visits}
        told: list[PatientVisitDone] = []

        def visit_done(visit: VisitOutcome) -> None:
            if visit.details:
                print(visit.details)
            if visit.out_of_memory:
                raise MemoryError(visit.reason)
            ct = cts[visit.label]
            done = PatientVisitDone(
                number,
                visit.label,
                visit.outcome,
                visit.folder,
                ct.paths,
                ct.dicom,
                visit.reason or None,
                settings.resample,
            )
            told.append(done)
            self._pipes.tell(done)

        result = run_visits(
            visits,
            settings,
            request.out,
            progress,
            overwrite=request.overwrite,
            model_of=lambda order: self._model_for(order),
            visit_done=visit_done,
        )
        seconds = round(time.perf_counter() - started, 3)
        self._pipes.tell(PatientFinished(number, result.prior, result.found, tuple(told), result.report, seconds))

    def _update(self, number: int, request: Update) -> None:
        from P2SAMSlicerLib.edited_contour import apply_to_mask, shown_contours
        from P2SAMSlicerLib.edited_prompts import judged_beside, notes_of, redecode

        started = time.perf_counter()
        use_threads(request.threads)
        model, before = self._model_for(request), self._encoded()
        followup = self._volumes.read(request.followup)
        contour = _only_segment(request.mask, followup)
        present = contour.segments[0].mask
        near = {(each.lesion, each.index + step) for each in request.edits for step in (-1, 0, 1)}
        shown = shown_contours(present, followup.grid, request.slices, near)
        changed = redecode(model, followup, request.slices, request.edits, shown)
        mask = apply_to_mask(present, followup.grid, changed, request.slices)
        path = request.out / f"contour_{number}{SEGMENTATION_SUFFIX}"
        _make_folder(request.out)
        hand_over_segmentation(replace(contour, segments=(replace(contour.segments[0], mask=mask),)), path)
        seconds = round(time.perf_counter() - started, 3)
        judged = judged_beside(request.slices, changed)
        self._pipes.tell(Updated(number, changed, path, notes_of(changed), seconds, self._encoded() - before, judged))

    def _encoded(self) -> int:
        return 0 if self._model is None else self._model.encoded

    def _model_of(self, job: PropagationJob) -> PromptableModel:
        """The job's model: the one that is there, or a new one in its place, with nothing remembered."""
        from P2SAMSlicerLib.models.encode_cache import EncodeCache

        # With an adapter as the checkpoint, both files make the model.
        files = tuple(None if path is None else signature_of(path) for path in (store.find(job.model), job.checkpoint))
        key = _ModelKey(job.model, job.checkpoint, files, job.allow_unverified, job.device, job.precision)
        if self._model is None or key != self._key:
            encoded = self._encoded()
            self._key = self._model = None  # two at once may be too much for the memory
            self._model = EncodeCache(load_job_model(job))
            self._model.encoded = encoded
            self._key = key
        return self._model

    def _model_for(self, request: Update | VisitOrder) -> PromptableModel:
        nowhere = Path()
        job = PropagationJob(
            prior_ct=nowhere,
            prior_seg=nowhere,
            followups=(),
            out=nowhere,
            model=request.model,
            checkpoint=request.checkpoint,
            allow_unverified=request.allow_unverified,
            device=request.device,
            precision=request.precision,
        )
        return self._model_of(job)


def _only_segment(path: Path, followup: Volume) -> Segmentation:
    """The present contour.

    :raises InputError: not one segment, or not on the follow-up's voxels.
    """
    contour = read_handed_segmentation(path)
    if len(contour.segments) != 1:
        raise InputError(f"{contour.name}: {len(contour.segments)} segments, where the one that is edited is needed")
    if contour.grid.shape != followup.grid.shape or not contour.grid.same_as(followup.grid):
        raise InputError(f"{contour.name}: not on the voxels of {followup.name}")
    return contour


def _make_folder(folder: Path) -> None:
    """:raises OutputError: it cannot be made."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        reason = (error.strerror or "unknown reason").lower()
        raise OutputError(f"{folder.name}: the folder cannot be made ({reason})") from error
