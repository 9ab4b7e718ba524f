"""A download of weights beside the program's own work: it is asked how far it is, and it can be stopped."""

from __future__ import annotations

import threading

from P2SAMSlicerLib.errors import Cancelled, P2SAMError, unexpected
from P2SAMSlicerLib.models import store
from P2SAMSlicerLib.progress import ProgressEvent


class BackgroundDownload:
    """Begins to fetch a model's weights at once, in a thread of its own.

    :param model: id in the catalogue.
    :param allow_unverified: take a file whose hash nobody knows.
    """

    def __init__(self, model: str, *, allow_unverified: bool = False) -> None:
        self.model = model
        #: Bytes so far and in all (0 while unknown).
        self.done, self.total = 0, 0
        #: Why it failed, in one line; None while it runs and if it succeeded. ``cancelled`` if it was stopped.
        self.error: str | None = None
        self._allow_unverified = allow_unverified
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._fetch, name=f"download of {model}", daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether it still fetches."""
        return self._thread.is_alive()

    def cancel(self) -> None:
        """Stop; what was fetched stays for the next time. Takes effect with the next piece that arrives."""
        self._stopped.set()

    def wait(self, timeout: float | None = None) -> None:
        """Wait for its end, at most so many seconds."""
        self._thread.join(timeout)

    def _fetch(self) -> None:
        try:
            store.download(self.model, self._step, allow_unverified=self._allow_unverified)
        except Cancelled:
            self.error = "cancelled"
        except P2SAMError as error:
            self.error = str(error)
        except Exception as error:  # a thread's exception would be lost
            self.error = unexpected(error)

    def _step(self, event: ProgressEvent) -> None:
        self.done, self.total = event.done, event.total
        if self._stopped.is_set():
            raise Cancelled("the download was stopped")
