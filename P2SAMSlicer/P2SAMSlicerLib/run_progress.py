"""How far a run is, in words and as a share, from the steps that the engine tells; and how long it may still take.

The share comes from what the stages cost on average; the remaining time goes by the time taken so far. Neither is exact.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

#: Stages of one follow-up in order, what people call them, and their usual share of its time.
STAGES: dict[str, tuple[str, float]] = {
    "reading": ("reading", 0.02),
    "model": ("loading the model", 0.04),
    "registration": ("registering", 0.30),
    "encode": ("encoding slices", 0.34),
    "decode": ("segmenting slices", 0.22),
    "choose": ("choosing", 0.08),
}
#: Paper mode's only stage after the registration.
PAPER_STAGE = "segment"
#: Stages that come once in a run, and not with every follow-up.
ONCE = ("reading", "model")
#: How a run says which of several follow-ups it is at.
_COUNTED = re.compile(r"follow-up \d+ of (\d+)")
#: Below this share nothing is said about the remaining time.
TELLING_SHARE = 0.1


@dataclass(frozen=True)
class RunProgress:
    """How far a run is.

    :param stage: what is being done, in words.
    :param done: steps of the stage that are done (slices, for most), of ``total``; 0 of 0 if they are not counted.
    :param message: which follow-up and which lesion; may be empty.
    :param share: of the whole run, 0 to 1.
    :param remaining_s: seconds that it may still take; None while nobody can say.
    """

    stage: str
    done: int
    total: int
    message: str
    share: float
    remaining_s: float | None

    def in_words(self) -> str:
        """One line for people."""
        words = self.stage
        if self.total:
            words += f" {self.done} of {self.total}"
        if self.message:
            words += f" ({self.message})"
        if self.remaining_s is not None:
            words += f", about {duration(self.remaining_s)} left"
        return words


class ProgressEstimate:
    """Follows the steps of a run.

    :param followups: number of follow-ups.
    :param segments: number of segments to carry to each.
    """

    def __init__(self, followups: int, segments: int) -> None:
        self._followups, self._segments = max(1, followups), max(1, segments)
        self._visit = self._segment = 0
        self._stage = ""
        self._share = 0.0

    def step(self, stage: str, done: int, total: int, message: str, elapsed_s: float) -> RunProgress:
        """Take one step in.

        :param elapsed_s: seconds since the run began.
        """
        if count := _COUNTED.match(message):  # a patient's visits are counted only when they are found
            self._followups = max(self._followups, int(count[1]))
        if stage == "registration" and self._stage not in ("registration", *ONCE, ""):
            self._visit, self._segment = min(self._visit + 1, self._followups - 1), 0
        elif (stage == "encode" and self._stage in ("decode", "choose")) or (stage == self._stage == PAPER_STAGE and done <= 1):
            self._segment = min(self._segment + 1, self._segments - 1)
        self._stage = stage
        # Never backwards: more lesions than segments make a stage come again.
        self._share = max(self._share, min(1.0, self._share_at(stage, done / total if total else 0.0)))
        telling = self._share >= TELLING_SHARE
        remaining = elapsed_s * (1.0 - self._share) / self._share if telling else None
        words = "segmenting slices" if stage == PAPER_STAGE else STAGES.get(stage, (stage, 0.0))[0]
        return RunProgress(words, done, total, message, self._share, remaining)

    def _share_at(self, stage: str, part: float) -> float:
        """The share of the run when this part of a stage is done."""
        names, weights = list(STAGES), [weight for _words, weight in STAGES.values()]
        once = sum(STAGES[name][1] for name in ONCE)
        if stage in ONCE:
            number = names.index(stage)
            return sum(weights[:number]) + weights[number] * part
        registering = STAGES["registration"][1] / (1.0 - once)
        if stage == "registration":
            inside = registering * part
        elif stage in (*STAGES, PAPER_STAGE):
            inside = registering + (1.0 - registering) * (self._segment + _of_segment(stage, part)) / self._segments
        else:
            return self._share
        return once + (1.0 - once) * (self._visit + inside) / self._followups


def _of_segment(stage: str, part: float) -> float:
    """The share of one segment's work, after the registration."""
    if stage == PAPER_STAGE:
        return part
    own = {name: weight for name, (_words, weight) in STAGES.items() if name not in (*ONCE, "registration")}
    before = sum(list(own.values())[: list(own).index(stage)])
    return (before + own[stage] * part) / sum(own.values())


def duration(seconds: float) -> str:
    """A time for people: ``40 s``, ``3 min``."""
    return f"{max(1, round(seconds))} s" if seconds < 90 else f"{round(seconds / 60)} min"
