"""How long each step of a run took: the time inside the functions that make a step."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import wraps
from types import MappingProxyType
from typing import Any, TypeVar

Answer = TypeVar("Answer")

_LIBRARY = "P2SAMSlicerLib."
#: Step -> functions, each by the module that calls it (or has its class) and its name there. None of them calls another.
PAPER_STEPS: Mapping[str, Sequence[str]] = MappingProxyType(
    {
        "encode": ("models.sam_family:SamFamilyModel.encode",),
        "k-means": ("speed.authors_loop:plain_parts", "paper_visit:fit_parts"),
        "similarity maps": ("speed.authors_loop:similarity_maps", "segmentation:similarity_maps"),
        "points": (
            "speed.authors_loop:positive_points",
            "speed.authors_loop:negative_points",
            "segmentation:positive_points",
            "segmentation:negative_points",
        ),
        "decode": ("models.sam_family:SamFamilyModel.decode",),
        "distance": ("speed.authors_loop:distribution_distance", "segmentation:distribution_distance"),
    }
)
REST = "rest"


def timed(work: Callable[[], Answer]) -> tuple[Answer, float]:
    """The answer, and the seconds that it took."""
    started = time.perf_counter()
    answer = work()
    return answer, time.perf_counter() - started


def step_seconds(work: Callable[[], Answer]) -> tuple[Answer, dict[str, float]]:
    """The answer, and the seconds in each of :data:`PAPER_STEPS`, with :data:`REST` for the others: together the whole time."""
    found = dict.fromkeys(PAPER_STEPS, 0.0)
    with ExitStack() as watched:
        for step, names in PAPER_STEPS.items():
            for name in names:
                watched.enter_context(_watched(name, step, found))
        answer, whole = timed(work)
    found[REST] = whole - sum(found.values())
    return answer, found


@contextmanager
def _watched(name: str, step: str, found: dict[str, float]) -> Iterator[None]:
    """The function stands aside for one that looks at the clock before and after it. A profiler would slow the loop down."""
    module, _, path = name.partition(":")
    *owners, attribute = path.split(".")
    owner: Any = importlib.import_module(_LIBRARY + module)
    for each in owners:
        owner = getattr(owner, each)
    original = getattr(owner, attribute)

    @wraps(original)
    def watched(*args: Any, **kwargs: Any) -> Any:
        answer, seconds = timed(lambda: original(*args, **kwargs))
        found[step] += seconds
        return answer

    setattr(owner, attribute, watched)
    try:
        yield
    finally:
        setattr(owner, attribute, original)
