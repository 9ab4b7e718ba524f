"""How far a long computation has come, told to whoever started it: a person at a terminal, a program, or nobody.

The engine calls one function with a :class:`ProgressEvent` and knows nothing of bars or JSON. Events end up in logs and on
screens, so whoever makes one puts no patient data and no path into it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NoReturn, TextIO

if TYPE_CHECKING:
    from tqdm import tqdm


@dataclass(frozen=True)
class ProgressEvent:
    """One step of a stage is done.

    :param stage: what is being done, in a word or two that are the same for all its events, for example ``registration``.
    :param done: steps done, 0 when the stage begins.
    :param total: steps of the stage; 0 if nobody knows yet.
    :param message: a detail for people, or empty. Never a patient's name or id, a segment's name or a path.
    """

    stage: str
    done: int
    total: int
    message: str = ""


#: Takes events as they come. It may be called from the computing thread, it must be quick, and it never raises.
Progress = Callable[[ProgressEvent], None]


def silent(event: ProgressEvent) -> None:
    """Progress that nobody watches."""
    del event


def numbered(progress: Progress, what: str, number: int, total: int) -> Progress:
    """Progress that says which of several follow-ups, cases or the like it is about; the same if there is one only.

    :param what: what is counted, in a word.
    :param number: from 1.
    """
    if total == 1:
        return progress
    return lambda event: progress(replace(event, message=f"{what} {number} of {total} {event.message}".rstrip()))


def json_progress(stream: TextIO | None = None) -> Progress:
    """Progress for programs: one JSON object a line, ASCII only, flushed at once.

    Each line has ``event`` (always ``progress``), ``stage``, ``done`` and ``total``, and ``message`` where there is one.
    A reader that has gone away ends the lines, never the computation.

    :param stream: where to write; standard error if None.
    """
    out = sys.stderr if stream is None else stream
    if out is None:  # A program with windows only has no standard error.
        return silent

    def write(event: ProgressEvent) -> None:
        line: dict[str, str | int] = {"event": "progress", "stage": event.stage, "done": event.done, "total": event.total}
        if event.message:
            line["message"] = event.message
        _try_to_write(out, json.dumps(line) + "\n")

    return write


@contextmanager
def terminal_progress(stream: TextIO | None = None, *, as_json: bool = False) -> Iterator[Progress]:
    """Progress for the command line: a bar a stage on a terminal, else lines of JSON.

    A finished stage's bar stays on the screen with its time; on leaving, also by an exception, an unfinished one is removed,
    so that an error message begins on a line of its own.

    :param stream: where to write; standard error if None, so that standard output stays clean for results.
    :param as_json: lines of JSON even on a terminal.
    """
    out = sys.stderr if stream is None else stream
    if as_json or not _is_terminal(out):
        yield json_progress(out)
        return
    bars = _Bars(out)
    try:
        yield bars.show
    finally:
        bars.close()


class _Bars:
    """Draws the current stage as a ``tqdm`` bar."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._stage = ""
        self._bar: tqdm[NoReturn] | None = None

    def show(self, event: ProgressEvent) -> None:
        """Move the bar; a new stage, and one that comes again after its end (for the next segment), gets a new bar."""
        try:
            bar = self._bar
            if bar is None or event.stage != self._stage:
                bar = self._begin(event)
            bar.total = max(event.total, event.done) if event.total else None
            bar.set_postfix_str(" ".join(event.message.split()), refresh=False)
            bar.update(event.done - bar.n)
            if bar.total and event.done >= bar.total:
                bar.leave = True
                self.close()
        except (OSError, ValueError):  # The terminal is gone (ValueError: a closed stream); the computation goes on.
            self._bar = None

    def close(self) -> None:
        """Take the current bar away, or leave it where its stage is finished."""
        bar, self._bar = self._bar, None
        try:
            if bar is not None:
                bar.close()
        except (OSError, ValueError):
            return

    def _begin(self, event: ProgressEvent) -> tqdm[NoReturn]:
        from tqdm import tqdm

        self.close()
        self._stage = event.stage
        total = max(event.total, event.done) or None
        bar: tqdm[NoReturn] = tqdm(desc=event.stage, total=total, file=self._stream, leave=False, dynamic_ncols=True)
        self._bar = bar
        return bar


def _is_terminal(stream: TextIO) -> bool:
    """Whether someone watches; a stand-in for standard error, as Slicer's console is, need not be able to tell."""
    try:
        return stream.isatty()
    except (AttributeError, OSError, ValueError):
        return False


def _try_to_write(stream: TextIO, text: str) -> None:
    """Write and flush in one go; a broken pipe or a closed stream is not an error of the computation."""
    try:
        stream.write(text)
        stream.flush()
    except (OSError, ValueError):
        return
