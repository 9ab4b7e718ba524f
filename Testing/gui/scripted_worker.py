"""A worker without a process: the test says what it tells, so that a run takes milliseconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from P2SAMSlicerLib.handover_file import SEGMENTATION_SUFFIX, hand_over_segmentation
from P2SAMSlicerLib.result import SliceResult, VisitResult
from P2SAMSlicerLib.visit_record import write_visit
from P2SAMSlicerLib.volume import BoolArray, Segment, Segmentation
from P2SAMSlicerLib.worker.messages import (
    Event,
    Finished,
    Progress,
    Propagate,
    Refused,
    Request,
    Update,
    Updated,
    VisitDone,
    WorkerFailed,
)


class FakeWorker:
    """Has the methods of :class:`P2SAMSlicerLib.worker.client.WorkerClient`; what it is asked is kept in ``sent``."""

    def __init__(self) -> None:
        self.sent: list[Request] = []
        self.cancelled = self.closed = 0
        self._told: list[Event] = []

    def send(self, request: Request) -> int:
        """Take a request; nothing happens with it."""
        self.sent.append(request)
        return len(self.sent)

    def poll(self) -> list[Event]:
        """What the test told."""
        told, self._told = self._told, []
        return told

    def cancel(self) -> None:
        """Forget what was told."""
        self.cancelled += 1
        self._told = []

    def close(self) -> None:
        """The end."""
        self.closed += 1

    @property
    def asked(self) -> Propagate:
        """The latest request, which has to be a run."""
        request = self.sent[-1]
        assert isinstance(request, Propagate)
        return request

    @property
    def asked_update(self) -> Update:
        """The latest request, which has to be an update."""
        request = self.sent[-1]
        assert isinstance(request, Update)
        return request

    def tell(self, *events: Event) -> None:
        """Tell with the next poll."""
        self._told += events

    def progress(self, stage: str, done: int, total: int, message: str = "") -> None:
        """A step of the latest run."""
        self.tell(Progress(len(self.sent), stage, done, total, message))

    def visit(self, number: int, found: VisitResult | str | Path) -> None:
        """A follow-up of the latest run is done: its result, why there is none, or a record that the test wrote."""
        record = found if isinstance(found, Path) else None
        if isinstance(found, VisitResult):
            self.asked.records.mkdir(exist_ok=True)
            record = self.asked.records / f"visit_{number}.json.gz"
            write_visit(found, record)
        failure = found if isinstance(found, str) else None
        self.tell(VisitDone(len(self.sent), number, len(self.asked.job.followups), "follow-up", record, failure))

    def finish(self, *warnings: str, encoded: int = 3) -> None:
        """The latest run is over."""
        self.tell(Finished(len(self.sent), (), (), warnings, 0.1, encoded))

    def refuse(self, message: str) -> None:
        """The latest request cannot be done."""
        self.tell(Refused(len(self.sent), "input", message))

    def fail(self, message: str, *log: str) -> None:
        """The process is gone."""
        self.tell(WorkerFailed((len(self.sent),), message, log))

    def update(self, mask: BoolArray, *slices: SliceResult, notes: tuple[str, ...] = ()) -> None:
        """The answer to edited prompts: the new contour, and the slices that changed."""
        request = self.asked_update
        request.out.mkdir(exist_ok=True)
        file = request.out / f"contour{SEGMENTATION_SUFFIX}"
        from P2SAMSlicerLib.handover_file import read_handed_segmentation

        grid = read_handed_segmentation(request.mask).grid
        hand_over_segmentation(Segmentation(grid, (Segment("tumour", np.asarray(mask)),), "contour"), file)
        self.tell(Updated(len(self.sent), slices, file, notes, 0.2, 0))


def methods_of(kind: type) -> set[str]:
    """Public names of a class, for the test that the fake has none that the real client lacks."""
    return {name for name in vars(kind) if not name.startswith("_")}


def answer(worker: FakeWorker, *found: VisitResult | str, warnings: tuple[Any, ...] = ()) -> None:
    """A whole run: every follow-up in order, and its end."""
    for number, each in enumerate(found):
        worker.visit(number, each)
    worker.finish(*warnings)
