"""How long each step of a run took: the time inside the functions that make a step, whoever calls them."""

from __future__ import annotations

import cProfile
import pstats
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

Answer = TypeVar("Answer")

#: Step -> function and the end of its file's name. None of them calls another of them.
PAPER_STEPS: Mapping[str, tuple[str, str]] = {
    "encode": ("encode", "sam_family.py"),
    "k-means": ("part_means", "features.py"),
    "similarity maps": ("similarity_maps", "prompts.py"),
    "points": ("positive_points", "prompts.py"),
    "decode": ("decode", "sam_family.py"),
    "distance": ("distribution_distance", "retrieval.py"),
}
REST = "rest"


def timed(work: Callable[[], Answer]) -> tuple[Answer, float]:
    """The answer, and the seconds that it took."""
    started = time.perf_counter()
    answer = work()
    return answer, time.perf_counter() - started


def step_seconds(work: Callable[[], Answer], steps: Mapping[str, tuple[str, str]]) -> tuple[Answer, dict[str, float]]:
    """The answer, and the seconds in each step, with :data:`REST` for what is in none."""
    profile = cProfile.Profile()
    started = time.perf_counter()
    answer = profile.runcall(work)
    whole = time.perf_counter() - started
    found = dict.fromkeys(steps, 0.0)
    for (file, _, function), (_, _, _, cumulative, _) in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
        for step, (name, end) in steps.items():
            if function == name and file.endswith(end):
                found[step] += cumulative
    found[REST] = max(0.0, whole - sum(found.values()))
    return answer, found
