"""Means over cases, and paired differences with their intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 9999
CONFIDENCE = 0.95


@dataclass(frozen=True)
class PairedDifference:
    """Mean difference over cases, with a bootstrap interval over patients.

    :param low, high: ends of the 95 % percentile interval; NaN with fewer than two patients.
    """

    mean: float
    low: float
    high: float
    cases: int
    patients: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies above or below 0."""
        return self.low > 0 or self.high < 0


def mean(values: Sequence[float]) -> float:
    """Mean of the figures; NaN of none or with a NaN among them, infinite with an infinite one: no failure is skipped."""
    return float(np.mean(values)) if len(values) else math.nan


def paired_difference(first: Sequence[float], second: Sequence[float], patients: Sequence[str], seed: int) -> PairedDifference:
    """Mean of ``first - second``; patients are resampled, each with all of his cases.

    :param first, second: figures of the same cases, in the same order.
    :param patients: of each case.
    """
    from scipy import stats

    differences = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    names, owner = np.unique(np.asarray(patients), return_inverse=True)
    low = high = math.nan
    if len(names) > 1:
        sums = np.bincount(owner, weights=differences)
        counts = np.bincount(owner).astype(np.float64)

        def mean_of(drawn: np.ndarray, axis: int = -1) -> np.ndarray:
            rows = drawn.astype(np.intp)
            return np.asarray(sums[rows].sum(axis=axis) / counts[rows].sum(axis=axis))

        interval = stats.bootstrap(
            (np.arange(len(names)),),
            mean_of,
            n_resamples=RESAMPLES,
            confidence_level=CONFIDENCE,
            method="percentile",
            vectorized=True,
            random_state=np.random.default_rng(seed),
        ).confidence_interval
        low, high = float(interval.low), float(interval.high)
    return PairedDifference(mean(differences.tolist()), low, high, len(differences), len(names))
