"""The pipes of one worker process: a thread writes its requests, others read its answers and its log, so that nobody blocks."""

from __future__ import annotations

import queue
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

from P2SAMSlicerLib.worker.messages import MOST_BYTES, Quit, Request, request_line
from P2SAMSlicerLib.worker.process import end_processes, process_tree, start_worker

if TYPE_CHECKING:
    import psutil

#: Lines of standard error that are kept, and the most of each that is.
LOG_LINES = 400
LOG_LINE_BYTES = 4000
#: A process that has ended is believed to have said everything after this, in seconds, although its pipe is still open:
#: something that it started may hold it.
LAST_WORDS_SECONDS = 1.0


class Connection:
    """A worker that was started, and what comes from it.

    :param command: the Python executable, perhaps with options.
    :param environment: of the process; that of this one if None.
    :raises InputError: it cannot be started.
    """

    def __init__(self, command: Sequence[str | Path], environment: Mapping[str, str] | None) -> None:
        self._process = start_worker(command, environment)
        self.asked_to_quit = False
        self._own: psutil.Process | None = None
        self._requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._log: deque[str] = deque(maxlen=LOG_LINES)
        self._ended_at: float | None = None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._writer = _thread(_write, self._requests, self._process.stdin)
        self._reader = _thread(_read, self._process.stdout, self._lines)
        self._logger = _thread(_keep_log, self._process.stderr, self._log)

    @property
    def alive(self) -> bool:
        """Whether the process is there."""
        return self._process.poll() is None

    @property
    def ended(self) -> bool:
        """Whether nothing more will come from it."""
        if not self._reader.is_alive():
            return True
        if self.alive:
            return False
        if self._ended_at is None:
            self._ended_at = time.monotonic()
        return time.monotonic() - self._ended_at > LAST_WORDS_SECONDS

    @property
    def ready(self) -> bool:
        """Whether the worker said that it listens."""
        return self._own is not None

    def listens(self, process: int) -> bool:
        """Take note of the worker's own process, which a launcher's child is: it may outlive the launcher.

        :returns: False if it is none that was started here.
        """
        self._own = next((each for each in process_tree(self._process.pid) if each.pid == process), None)
        return self.ready

    def send(self, request: Request, identifier: int) -> None:
        """Send a request, at once or when the worker has read those before it.

        :raises ValueError: no message can hold it.
        """
        self._requests.put(request_line(request, identifier))
        self.asked_to_quit = isinstance(request, Quit)

    def lines(self) -> Iterator[bytes]:
        """What came since the last time."""
        with suppress(queue.Empty):
            while True:
                yield self._lines.get_nowait()

    def note(self, line: bytes) -> None:
        """Keep a line that is no message with those of standard error."""
        _keep(line[:LOG_LINE_BYTES], self._log)

    def log(self) -> tuple[str, ...]:
        """The last lines of its standard error."""
        return tuple(self._log)

    def status(self) -> int | None:
        """How it ended; None where it has closed its pipe and goes on."""
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(timeout=LAST_WORDS_SECONDS)
        return None

    def wait_end(self, seconds: float) -> None:
        """Wait until it has ended by itself."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=seconds)

    def end(self) -> list[int]:
        """End it with everything that it started.

        :returns: the ids of all those processes.
        """
        tree = process_tree(self._process.pid)
        if self._own is not None and self._own.is_running() and self._own not in tree:
            tree += process_tree(self._own.pid)
        end_processes(tree)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=LAST_WORDS_SECONDS)
        self._requests.put(None)
        for thread in (self._writer, self._reader, self._logger):
            thread.join(timeout=LAST_WORDS_SECONDS)
        known = [] if self._own is None else [self._own.pid]
        return sorted({self._process.pid, *known, *(each.pid for each in tree)})


def _thread(target: object, *arguments: object) -> threading.Thread:
    thread = threading.Thread(target=target, args=arguments, daemon=True)  # type: ignore[arg-type]
    thread.start()
    return thread


def _write(requests: queue.SimpleQueue[bytes | None], pipe: IO[bytes]) -> None:
    """Write requests until there is no more; a worker that is gone is noticed elsewhere."""
    with suppress(OSError, ValueError):
        while (line := requests.get()) is not None:
            pipe.write(line)
            pipe.flush()
    with suppress(OSError, ValueError):
        pipe.close()


def _read(pipe: IO[bytes], lines: queue.SimpleQueue[bytes]) -> None:
    """Read lines until the pipe ends; one that never ends is told as it is, and is no message."""
    with suppress(OSError, ValueError), pipe:
        while line := pipe.readline(MOST_BYTES):
            lines.put(line)


def _keep_log(pipe: IO[bytes], log: deque[str]) -> None:
    """Keep the last lines, so that the worker never waits for a reader."""
    with suppress(OSError, ValueError), pipe:
        while line := pipe.readline(LOG_LINE_BYTES):
            _keep(line, log)


def _keep(line: bytes, log: deque[str]) -> None:
    text = line.decode("utf-8", errors="replace").rstrip()
    if text:
        log.append(text)
