"""A worker that says what a test wants, in the place of :class:`P2SAMSlicerLib.worker.client.WorkerClient`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from P2SAMSlicerLib.result import VisitResult
from P2SAMSlicerLib.visit_record import write_visit
from P2SAMSlicerLib.worker.messages import Event, Finished, Propagate, VisitDone


class FakeClient:
    """Takes requests and tells the events that are put into :attr:`events`.

    :param on_send: called with each request; what it raises, :meth:`send` raises.
    """

    def __init__(self, on_send: Callable[[Any], None] = lambda _request: None) -> None:
        self.requests: list[Any] = []
        self.events: list[Event] = []
        self.cancelled = 0
        self._on_send = on_send

    @property
    def number(self) -> int:
        """Of the latest request."""
        return 100 + len(self.requests)

    @property
    def request(self) -> Any:
        """The latest one."""
        return self.requests[-1]

    def send(self, request: Any) -> int:
        self._on_send(request)
        self.requests.append(request)
        return self.number

    def poll(self) -> list[Event]:
        told, self.events = self.events, []
        return told

    def cancel(self) -> None:
        self.cancelled += 1
        self.events.clear()

    def tell_visit(self, position: int, visit: VisitResult | None, failure: str | None = None) -> Path | None:
        """A follow-up is done or failed; returns its record."""
        request: Propagate = self.request
        record = None
        if visit is not None:
            request.records.mkdir(parents=True, exist_ok=True)
            record = request.records / f"visit_{position}.json.gz"
            write_visit(visit, record)
        total = len(request.job.followups)
        self.events.append(VisitDone(self.number, position, total, f"followup_{position + 1}", record, failure))
        return record

    def tell_end(self, *warnings: str) -> None:
        """The run is done."""
        self.events.append(Finished(self.number, (), (), warnings, 1.0, 7))
