"""An engine that answers at once, for the tests of the command line, and how to look at what the command did."""

from __future__ import annotations

import json
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from P2SAMSlicerLib.options import PropagationOptions
from P2SAMSlicerLib.progress import Progress, ProgressEvent
from P2SAMSlicerLib.result import VisitResult
from P2SAMSlicerLib.volume import Segment, Volume
from small_visits import segment_result, visit_result


class Engine:
    """Stands for the engine: remembers how it was called and answers at once."""

    def __init__(self) -> None:
        self.calls: list[tuple[Volume, tuple[Segment, ...], Volume, PropagationOptions]] = []
        self.loaded: list[tuple[Any, ...]] = []
        self.faults: dict[str, BaseException] = {}
        self.answer: Callable[[Sequence[Segment], Volume], VisitResult] = self.found

    @staticmethod
    def found(segments: Sequence[Segment], followup: Volume) -> VisitResult:
        results = [segment_result(each, followup.grid) for each in segments]
        return visit_result(*results, name=followup.name, grid=followup.grid, warnings=("of the engine",))

    def load_model(self, *arguments: Any, **options: Any) -> Any:
        self.loaded.append((*arguments, options))
        return types.SimpleNamespace(device="cpu")

    def propagate(
        self,
        _model: Any,
        prior: Volume,
        segments: Sequence[Segment],
        followup: Volume,
        options: PropagationOptions,
        progress: Progress,
    ) -> VisitResult:
        self.calls.append((prior, tuple(segments), followup, options))
        progress(ProgressEvent("registration", 0, 2))
        if followup.name in self.faults:
            raise self.faults[followup.name]
        return self.answer(segments, followup)


def errors_in(text: str) -> list[str]:
    """The lines of standard error that are no progress."""
    return [line for line in text.splitlines() if not line.startswith('{"event"')]


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def summary_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return content
