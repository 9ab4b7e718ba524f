"""What every run in the worker has in common: it is sent, polled, cancelled, and may fail as a whole.

A run never waits: :meth:`WorkerRun.poll` is called from the application's own thread, by a timer or in a loop, so nodes are
touched from that thread only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from P2SAMSlicerLib.worker.client import WorkerClient
from P2SAMSlicerLib.worker.messages import Event, Progress, Refused, WorkerFailed

#: (stage, steps done, steps in all, a detail for people)
Told = Callable[[str, int, int, str], None]


class WorkerRun(ABC):
    """A run that is under way, or has ended.

    :param client: the worker; it stays there for the next run.
    :param told: called with every step.
    :ivar nodes: segmentation nodes that are shown.
    :ivar problems: follow-ups to which nothing could be carried, or which cannot be shown, and why.
    :ivar error: why the whole run failed; None if it did not.
    """

    def __init__(self, client: WorkerClient, told: Told) -> None:
        self._client, self._told = client, told
        self._events: list[Event] = []
        self._number: int | None = None
        self.nodes: list[Any] = []
        self.problems: list[str] = []
        self.warnings: tuple[str, ...] = ()
        self.error: str | None = None

    @property
    def running(self) -> bool:
        """Whether there is still something to come."""
        return self._number is not None

    def poll(self) -> None:
        """Take in what the worker told since the last time."""
        if not self.running:
            return
        # Kept, and taken one by one: an error in the caller's own function must not lose what comes after it.
        self._events += self._client.poll()
        while self.running and self._events:
            self._take(self._events.pop(0))

    def cancel(self) -> None:
        """End the run and the worker with it. What is finished stays."""
        if self.running:
            self._client.cancel()
            self.error = "cancelled"
            self._end()

    def _take(self, event: Event) -> None:
        if isinstance(event, WorkerFailed):
            # One that ended before this run was sent is told with its first events.
            if self._number in event.requests:
                self.error = "\n".join((event.message, *event.log))
                self._end()
        elif getattr(event, "request", None) != self._number:
            return  # of a request that was given up
        elif isinstance(event, Progress):
            self._told(event.stage, event.done, event.total, event.message)
        elif isinstance(event, Refused):
            self.error = event.message
            self._end()
        else:
            self._take_own(event)

    @abstractmethod
    def _take_own(self, event: Event) -> None:
        """Take in what only this kind of run is told; calls :meth:`_end` with the last of it."""

    def _end(self) -> None:
        self._events = []
        self._number = None
