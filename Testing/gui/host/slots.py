"""Slots: how many arguments a callable takes, and what went wrong inside one.

Qt, VTK and PythonQt print an exception of a slot and go on, so a test would stay green. The collector keeps them.
"""

from __future__ import annotations

import inspect
import sys
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any


class Collector:
    """Exceptions that were raised in slots, timers, events and observers since it was installed."""

    def __init__(self) -> None:
        self.caught: list[BaseException] = []
        self._before: Any = None

    def install(self) -> None:
        """Begin to collect."""
        self._before = sys.excepthook
        sys.excepthook = self._hook

    def remove(self) -> None:
        """Stop collecting."""
        sys.excepthook = self._before

    def take(self) -> list[BaseException]:
        """What was caught, for a test that expects it; it is forgotten here."""
        taken, self.caught = self.caught, []
        return taken

    def text(self) -> str:
        """All that was caught with its tracebacks."""
        return "\n".join("".join(traceback.format_exception(error)) for error in self.caught)

    def _hook(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        traceback.print_exception(kind, error, trace)
        self.caught.append(error.with_traceback(trace))


def report() -> None:
    """Give the exception that is being handled to the collector, as Qt does for a slot."""
    sys.excepthook(*sys.exc_info())


def accepted(function: Callable[..., Any], given: int) -> int:
    """How many of ``given`` arguments a callable takes; PythonQt drops the rest."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return given
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return given
    return min(given, sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters))


def call(function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """Call a slot as PythonQt does: surplus arguments dropped, exceptions reported and not passed on."""
    try:
        function(*arguments[: accepted(function, len(arguments))])
    except Exception:
        report()


def of_arity(function: Callable[..., Any], count: int) -> Callable[..., Any]:
    """A slot of exactly ``count`` arguments around a callable; Qt looks at the number before it chooses an overload."""

    def receive(*arguments: Any) -> None:
        call(function, arguments)

    shapes: tuple[Callable[..., Any], ...] = (
        lambda: receive(),
        lambda a: receive(a),
        lambda a, b: receive(a, b),
        lambda a, b, c: receive(a, b, c),
        lambda a, b, c, d: receive(a, b, c, d),
        lambda a, b, c, d, e: receive(a, b, c, d, e),
    )
    return shapes[count]
