"""What a benchmark found: a row for each case and method, and what clinical mode's own answers tell."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from P2SAMSlicerLib.benchmark.cases import BenchmarkCase
from P2SAMSlicerLib.benchmark.choice_quality import ChoiceQuality
from P2SAMSlicerLib.benchmark.ranking_quality import RankedSlice
from P2SAMSlicerLib.benchmark.statistics import PairedDifference, paired_difference
from P2SAMSlicerLib.metrics import SegmentMetrics
from P2SAMSlicerLib.result_files import FailedVisit


@dataclass(frozen=True)
class Row:
    """One method on one case.

    :param metrics: of its contour against the truth; of an empty contour if it gave none.
    :param seconds: wall time of this method alone, registration included; None where it is not told apart from another's.
    :param outcome: what the product said of its contour; None for other methods.
    """

    case: BenchmarkCase
    method: str
    metrics: SegmentMetrics
    seconds: float | None
    outcome: str | None = None

    @property
    def vanished(self) -> bool:
        """Whether the truth holds no lesion; such a case has no Dice that means anything and is told apart."""
        return self.metrics.truth_volume_ml == 0


@dataclass(frozen=True)
class AccuracyFindings:
    """Everything that was measured.

    :param methods: that were asked for and can be run here, in the order of the tables.
    :param choices: case name -> the choice among clinical mode's candidates, on cases with a lesion.
    :param rankings: case name -> slices with their review priority and error, on cases with a lesion.
    :param failures: cases that a group of methods could not be run on.
    :param notes: what is missing, in words.
    :param peak_memory_gib: of the process before elastix was asked; None where nothing tells it.
    :param provenance: model, device, threads, seed and versions; ready for JSON.
    """

    cases: tuple[BenchmarkCase, ...]
    methods: tuple[str, ...]
    rows: tuple[Row, ...]
    choices: Mapping[str, ChoiceQuality]
    rankings: Mapping[str, tuple[RankedSlice, ...]]
    seed: int = 0
    failures: tuple[FailedVisit, ...] = ()
    notes: tuple[str, ...] = ()
    peak_memory_gib: float | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def of(self, method: str, keep: Callable[[BenchmarkCase], bool] = lambda _case: True) -> list[Row]:
        """A method's rows of cases with a lesion, in the order of the cases."""
        return [row for row in self.rows if row.method == method and not row.vanished and keep(row.case)]

    def vanished(self, method: str) -> list[Row]:
        """A method's rows of cases whose lesion has vanished."""
        return [row for row in self.rows if row.method == method and row.vanished]

    def paired(
        self, first: str, second: str, keep: Callable[[BenchmarkCase], bool] = lambda _case: True
    ) -> list[tuple[Row, Row]]:
        """Rows of two methods on the cases that both were run on."""
        others = {row.case.name: row for row in self.of(second, keep)}
        return [(row, others[row.case.name]) for row in self.of(first, keep) if row.case.name in others]

    def dice_difference(self, first: str, second: str) -> PairedDifference | None:
        """Dice of one method minus that of another over the cases that both were run on; None if there are none."""
        pairs = self.paired(first, second)
        if not pairs:
            return None
        ours, theirs = ([pair[side].metrics.volumetric_dice for pair in pairs] for side in (0, 1))
        return paired_difference(ours, theirs, [row.case.patient for row, _ in pairs], self.seed)

    def all_ranked(self) -> list[RankedSlice]:
        """The slices of all cases together."""
        return [each for slices in self.rankings.values() for each in slices]


def groups(cases: Sequence[BenchmarkCase], key: Callable[[BenchmarkCase], str]) -> list[str]:
    """The values of a property of the cases, sorted."""
    return sorted({key(case) for case in cases})


def caption(cases: Sequence[BenchmarkCase]) -> str:
    """What the figures come from, and what they must not be taken for."""
    sites = groups(cases, lambda case: case.site)
    counted = ", ".join(f"{site} {sum(case.site == site for case in cases)}" for site in sites)
    patients = len({case.patient for case in cases})
    simulated = sum(case.simulated for case in cases)
    visits = f"second visit{'s' if len(cases) != 1 else ''}"
    kind = f"simulated {visits}" if simulated == len(cases) else f"{visits}, {simulated} of them known to be simulated,"
    return f"{len(cases)} {kind} of {patients} patient{'s' if patients != 1 else ''} (sites: {counted}). No clinical claim."
