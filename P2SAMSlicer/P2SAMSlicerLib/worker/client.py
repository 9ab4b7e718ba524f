"""The caller's end of the worker: starts it, speaks with it, hears from it, ends it. No Qt and no Slicer.

Nothing here waits, except :meth:`WorkerClient.wait` and the moments that ending a process takes: lines are written and read by
threads, and the caller asks for what came by :meth:`WorkerClient.poll` from its own thread, by a timer for example.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from P2SAMSlicerLib.atomic_file import remove_temporary
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.worker.connection import Connection
from P2SAMSlicerLib.worker.messages import (
    CarryPatient,
    Cleared,
    Event,
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
    Update,
    Updated,
    VisitDone,
    WorkerFailed,
    read_event,
)

#: Lines of the worker's standard error that are told with its failure.
LOG_LINES = 20
#: How long a worker may take to say that it listens, in seconds; a virus scanner may look at every file of PyTorch first.
START_SECONDS = 120.0
#: How long a worker may take to end when it is told to, in seconds.
QUIT_SECONDS = 3.0
_POLL_SECONDS = 0.02

_KILLED = "it was killed by the system or by somebody, most likely because memory was used up"
#: Exit statuses of Windows that speak of memory: none left, and no more room in the page file.
_WINDOWS_MEMORY = (0xC0000017, 0xC000012D)
#: What compiled code writes when memory is used up, before it ends the process.
_MEMORY_WORDS = ("bad_alloc", "memoryerror", "out of memory", "cannot allocate memory", "not enough memory")


class WorkerClient:
    """One worker process, or none; it is started by the first request, and again by the next one after it ended.

    Not for several threads at once. Several clients do not know of each other.

    :param python: the Python executable (``PythonSlicer`` in 3D Slicer), or it with options.
    :param environment: of the process; that of this one if None. The library's folder is put before its ``PYTHONPATH``.
    :param start_seconds: how long the worker may take to say that it listens.
    """

    def __init__(
        self,
        python: str | Path | Sequence[str | Path],
        environment: Mapping[str, str] | None = None,
        start_seconds: float = START_SECONDS,
    ) -> None:
        self._command = [python] if isinstance(python, (str, Path)) else list(python)
        self._environment = None if environment is None else dict(environment)
        self._start_seconds = start_seconds
        self._connection: Connection | None = None
        self._deadline: float | None = None
        self._number = 0
        self._pending: dict[int, Request] = {}
        self._made: list[Path] = []
        self._events: list[Event] = []

    def __enter__(self) -> WorkerClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    @property
    def running(self) -> bool:
        """Whether a worker is there."""
        return self._connection is not None and self._connection.alive

    @property
    def pending(self) -> tuple[int, ...]:
        """The requests that are not answered yet, the oldest first."""
        return tuple(self._pending)

    @property
    def log(self) -> tuple[str, ...]:
        """The last lines of the present worker's standard error, more than a failure tells."""
        return () if self._connection is None else self._connection.log()

    def start(self) -> None:
        """Start the worker, if there is none, so that it is there when the first request comes.

        :raises InputError: it cannot be started.
        """
        while self._connection is not None:
            if self._connection.alive:
                return
            self._collect()  # it has ended unnoticed, and has perhaps not said everything yet
            time.sleep(_POLL_SECONDS)
        self._connection = Connection(self._command, self._environment)
        self._deadline = time.monotonic() + self._start_seconds

    def send(self, request: Request) -> int:
        """Send a request; it waits its turn behind those before it. Relative paths are made absolute.

        :returns: its number, which all its events have.
        :raises InputError: the worker cannot be started, or no message can hold the request.
        """
        self.start()
        assert self._connection is not None  # started
        self._number += 1
        for folder in _written_folders(request):
            self._made += _missing(folder)
        try:
            self._connection.send(request, self._number)
        except ValueError as error:
            raise InputError(f"the request cannot be sent: {error}") from error
        if not isinstance(request, Quit):
            self._pending[self._number] = request
        return self._number

    def poll(self) -> list[Event]:
        """What the worker told since the last time; never waits for it."""
        self._collect()
        events, self._events = self._events, []
        return events

    def wait(self, timeout: float | None = None) -> list[Event]:
        """All events until every request is answered, or has failed.

        :param timeout: in seconds; None to wait as long as it takes.
        :raises TimeoutError: it took longer; the events so far come with the next :meth:`poll`, and the worker goes on.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            self._collect()
            if not self._pending:
                return self.poll()
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError(f"the worker has not answered within {timeout:g} seconds")
            time.sleep(_POLL_SECONDS)

    def cancel(self) -> None:
        """End the worker with all that it started, now; of its requests nothing more is told, and nothing half-written stays.

        What was told before and not polled yet is forgotten. Takes about half a second where the worker is deep in a
        computation.
        """
        self._end()
        self._events.clear()

    def close(self) -> None:
        """End the worker; one that has nothing to do is asked, any other is ended as by :meth:`cancel`."""
        connection = self._connection
        if connection is not None and connection.alive and not self._pending and connection.ready:
            connection.send(Quit(), self._number + 1)
            connection.wait_end(QUIT_SECONDS)
        self.cancel()

    def _collect(self) -> None:
        """Take in what came, and notice the worker's end."""
        connection = self._connection
        if connection is None:
            return
        ended = connection.ended
        for line in connection.lines():
            if not connection.ready and not line.lstrip().startswith(b"{"):
                # Printed before the worker could take its output for messages: by a launcher, or while Python started.
                connection.note(line)
                continue
            try:
                event = read_event(line)
            except InputError as error:
                self._fail(f"the worker's answer is not understood: {error}")
                return
            if isinstance(event, Fault):
                self._fail(event.message)
                return
            if isinstance(event, Ready):
                self._deadline = None
                if not connection.listens(event.pid):
                    self._fail("the worker's answer is not understood: it is not the process that was started")
                    return
            self._take(event)
        if ended:
            self._fail(_end_in_words(connection.status(), connection.ready, connection.log()))
        elif self._deadline is not None and time.monotonic() > self._deadline:
            self._fail(f"the worker did not say that it listens within {self._start_seconds:g} seconds")

    def _take(self, event: Event) -> None:
        if isinstance(event, (Finished, Updated, PatientFinished, Cleared, Refused)):
            # A request that could not be read has no number: it is the oldest one, as they are read in order.
            number = event.request if event.request is not None else next(iter(self._pending), None)
            if number is not None:
                self._pending.pop(number, None)
            if not self._pending:
                self._made.clear()
        if isinstance(event, (Progress, VisitDone, Finished, Updated, PatientVisitDone, PatientFinished, Cleared, Refused)):
            self._events.append(event)

    def _fail(self, message: str) -> None:
        """Tell the worker's end once, with the end of its log, and take everything of it away."""
        connection, lost = self._connection, tuple(self._pending)
        if connection is None:
            return
        quitting = not lost and connection.asked_to_quit and connection.status() == 0
        self._end()
        if not quitting:
            self._events.append(WorkerFailed(lost, message, connection.log()[-LOG_LINES:]))

    def _end(self) -> None:
        connection, self._connection = self._connection, None
        requests, self._pending = list(self._pending.values()), {}
        made, self._made = self._made, []
        self._deadline = None
        if connection is None:
            return
        processes = connection.end()
        for request in requests:
            for folder in {each for written in _written_folders(request) for each in (written, written.parent)}:
                for process in processes:
                    remove_temporary(folder, process)
        for folder in sorted(set(made), key=lambda path: len(path.parts), reverse=True):
            with suppress(OSError):  # not empty, or not made
                folder.rmdir()


def _written_folders(request: Request) -> list[Path]:
    """The folders into which a request makes the worker write."""
    if isinstance(request, Propagate):
        return [request.job.out.absolute(), request.records.absolute()]
    if isinstance(request, CarryPatient):
        out = request.out.absolute()
        # A visit's folder that is there already is written into from within.
        return [out, *(path for path in out.glob("visit_*") if path.is_dir())]
    return [request.out.absolute()] if isinstance(request, Update) else []


def _missing(folder: Path) -> list[Path]:
    """A folder and those above it, as far as they are not there."""
    return [each for each in (folder, *folder.parents) if not os.path.lexists(each)]


def _end_in_words(status: int | None, listened: bool, log: Sequence[str]) -> str:
    """Why a worker ended without saying so itself, as far as its exit status and its log tell.

    :param listened: whether it had started. After that it says why it ends, unless it cannot.
    """
    if status is None:
        return "the worker does not speak any more"
    if status in (-9, 137):
        return f"the worker has ended: {_KILLED}"
    if status in (-15, 143):
        return "the worker has ended: somebody told it to"
    last = " ".join(log[-LOG_LINES:]).lower()
    if status in _WINDOWS_MEMORY or any(word in last for word in _MEMORY_WORDS):
        return "the worker has ended: not enough memory"
    if status < 0:
        return f"the worker has crashed (signal {-status})"
    if status > 255:
        return f"the worker has crashed (code 0x{status:08X})"
    if listened:
        # A launcher between us and the worker ends with a status of its own, whatever ended the worker.
        return f"the worker has ended without a word (status {status}): it crashed, or {_KILLED}"
    return f"the worker has ended with status {status}"
