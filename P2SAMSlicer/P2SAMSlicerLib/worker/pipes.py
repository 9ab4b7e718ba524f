"""The worker's standard streams: messages on the two pipes that it was given, and nothing else on them."""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import time
from contextlib import suppress
from typing import IO

from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.worker.messages import MOST_BYTES, Event, event_line
from P2SAMSlicerLib.worker.private_folder import remove_abandoned

#: How long a computation may take to notice that nobody waits for it any more, in seconds.
ALONE_SECONDS = 3.0
#: How long it may take from an answer to the wait for the next request, in seconds: a caller may leave as soon as it has one.
MOMENT_SECONDS = 0.5


class Pipes:
    """Takes standard input and output for messages.

    What any library prints goes to standard error from then on, and what any library reads is empty.

    :raises InputError: one of the two is closed.
    """

    def __init__(self) -> None:
        try:
            sys.stdout.flush()
            self._input: IO[bytes] = os.fdopen(os.dup(0), "rb")
            self._output: IO[bytes] = os.fdopen(os.dup(1), "wb")
        except (OSError, AttributeError) as error:  # closed; Python has no object for it then
            raise InputError("the worker is for programs: it needs their pipes as standard input and output") from error
        self._lock = threading.Lock()
        self._idle = threading.Event()
        self._idle.set()
        #: Whether the caller is gone: it has closed its end, or has ended.
        self.alone = False
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        # For what prints through the file descriptor (compiled code), and for what prints through Python.
        os.dup2(2, 1)
        sys.stdout = sys.stderr
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def next_line(self) -> bytes | None:
        """The next request's line, when it has come; None when there will be no more, or nobody to hear the answer."""
        self._idle.set()
        # In steps: a wait without an end would keep Windows from delivering Ctrl-C.
        while True:
            with suppress(queue.Empty):
                line = self._lines.get(timeout=1.0)
                if line is not None:
                    self._idle.clear()
                # Asked after that is said, so that one of the two threads notices whenever the caller goes.
                if self.alone:
                    self._idle.set()
                    return None
                return line

    def tell(self, event: Event) -> None:
        """Write an event; whoever is gone does not hear it."""
        line = event_line(event)
        with self._lock, suppress(OSError, ValueError):
            self._output.write(line)
            self._output.flush()

    def _read(self) -> None:
        with suppress(OSError, ValueError):
            while line := self._input.readline(MOST_BYTES):
                self._lines.put(line)
        self.alone = True
        self._lines.put(None)
        if not self._idle.wait(MOMENT_SECONDS):
            self._leave()

    @staticmethod
    def _leave() -> None:
        """The caller is gone in the middle of a computation: stop it, cleaning up if it can be stopped so, and end."""
        with suppress(OSError, ValueError):
            signal.raise_signal(signal.SIGTERM) if sys.platform == "win32" else os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(ALONE_SECONDS)
        remove_abandoned()
        os._exit(1)
