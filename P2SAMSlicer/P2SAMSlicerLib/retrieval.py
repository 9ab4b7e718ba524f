"""Distribution-guided retrieval: how far a candidate's features are from the reference's, and which candidate is nearest.

Paper section 3.2 (equation 3), appendix F (equation 5), and the ablation of distances in section 4.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.features import distinct_count, part_means

Retrieval = Literal["wasserstein", "jensen-shannon", "hungarian"]

#: All distances, the paper's choice first.
RETRIEVALS: tuple[Retrieval, ...] = ("wasserstein", "jensen-shannon", "hungarian")

#: Distance of a candidate that has no cell at the feature grid: worse than any real distance.
EMPTY_DISTANCE = 1e6 - 1

#: Exact optimal transport takes 0.2 s for 1000 cells but 6 s for 4096: above this many cells, a seeded sample is compared.
MAX_POINTS = 1500

#: Iterations of the network simplex, as in the released code.
MAX_ITERATIONS = 10_000_000

#: Bins along each principal component. The paper does not say how it estimates the densities.
HISTOGRAM_BINS = 10

#: Parts on each side of the Hungarian matching. The paper does not say how many; its ablation searches up to four parts.
HUNGARIAN_PARTS = 4


def distribution_distance(
    kind: Retrieval,
    reference: NDArray[np.float32],
    target: NDArray[np.float32],
    *,
    seed: int = 0,
    max_points: int | None = MAX_POINTS,
) -> float:
    """Distance between two sets of features; smaller is nearer. An empty target gives :data:`EMPTY_DISTANCE`.

    :param kind: which distance. Distances of different kinds cannot be compared.
    :param reference: ``(n, C)``, not normalised.
    :param target: ``(m, C)``, not normalised.
    :param seed: of the subsample and of k-means.
    :param max_points: see :func:`wasserstein`.
    :raises InputError: the kind is unknown, or the reference is empty.
    """
    if kind == "wasserstein":
        return wasserstein(reference, target, seed=seed, max_points=max_points)
    if kind == "jensen-shannon":
        return jensen_shannon(reference, target)
    if kind == "hungarian":
        return hungarian(reference, target, seed=seed)
    raise InputError(f"retrieval: '{kind}' is not one of: {', '.join(RETRIEVALS)}")


def wasserstein(
    reference: NDArray[np.float32], target: NDArray[np.float32], *, seed: int = 0, max_points: int | None = MAX_POINTS
) -> float:
    """Exact optimal transport cost with uniform weights and **squared** Euclidean ground cost (equation 5).

    The cost is computed in double precision, so that equal sets are at distance 0.

    :param reference: ``(n, C)``.
    :param target: ``(m, C)``.
    :param seed: of the subsample.
    :param max_points: a set with more features than this is replaced by a seeded sample without replacement, in which case
        the result depends on the order of the features; None never samples (the released code).
    :raises InputError: the reference is empty.
    """
    if _is_empty(reference, target):
        return EMPTY_DISTANCE
    import ot

    source = _subsample(reference, max_points, seed).astype(np.float64)
    sink = _subsample(target, max_points, seed).astype(np.float64)
    cost = ot.dist(source, sink, metric="sqeuclidean")
    if len(source) == len(sink):
        # Between equally many points of equal weight the best transport is a matching, which is found in less time.
        from scipy.optimize import linear_sum_assignment

        return float(cost[linear_sum_assignment(cost)].mean())
    return float(ot.emd2(ot.unif(len(source)), ot.unif(len(sink)), cost, numItermax=MAX_ITERATIONS))


def jensen_shannon(reference: NDArray[np.float32], target: NDArray[np.float32], *, bins: int = HISTOGRAM_BINS) -> float:
    """Jensen-Shannon divergence (base 2, so 0..1) on the first two principal components.

    The components are fitted on the union of both sets; the densities are two-dimensional histograms over the union's range.

    :param reference: ``(n, C)``.
    :param target: ``(m, C)``.
    :param bins: along each component.
    :raises InputError: the reference is empty.
    """
    if _is_empty(reference, target):
        return EMPTY_DISTANCE
    from scipy.spatial.distance import jensenshannon
    from sklearn.decomposition import PCA

    union = np.concatenate([reference, target]).astype(np.float64)
    if (union == union[0]).all():
        return 0.0
    n_components = min(2, *union.shape)
    projected = np.zeros((len(union), 2))
    projected[:, :n_components] = PCA(n_components=n_components, svd_solver="full").fit_transform(union)
    spans = np.ptp(projected, axis=0)
    # Equal features must fall into equal bins: a component that is rounding noise is dropped, and so are the last digits.
    spans[spans < spans.max() * 1e-9] = np.inf
    places = np.round((projected - projected.min(axis=0)) / spans, 9)
    histograms = [
        np.histogram2d(part[:, 0], part[:, 1], bins=bins, range=[(0, 1), (0, 1)])[0].ravel()
        for part in (places[: len(reference)], places[len(reference) :])
    ]
    # scipy gives the square root of the divergence; rounding may bring equal histograms to a tiny negative root (NaN).
    return float(np.nan_to_num(jensenshannon(histograms[0], histograms[1], base=2.0)) ** 2)


def hungarian(
    reference: NDArray[np.float32], target: NDArray[np.float32], *, n_parts: int = HUNGARIAN_PARTS, seed: int = 0
) -> float:
    """Mean cost of the best one-to-one matching of parts.

    Both sets are clustered into equally many parts (fewer where a set has fewer distinct features); the cost of a pair is the
    squared Euclidean distance of the parts' means.

    :param reference: ``(n, C)``.
    :param target: ``(m, C)``.
    :param n_parts: parts of each set.
    :param seed: of k-means.
    :raises InputError: the reference is empty.
    """
    if _is_empty(reference, target):
        return EMPTY_DISTANCE
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    n_common = min(n_parts, distinct_count(reference), distinct_count(target))
    cost = cdist(part_means(reference, n_common, seed), part_means(target, n_common, seed), metric="sqeuclidean")
    rows, columns = linear_sum_assignment(cost)
    return float(cost[rows, columns].mean())


def select(distances: Sequence[float]) -> int:
    """Index of the smallest distance; the first of equals. NaN never wins over a number.

    :raises ValueError: there is nothing to select from.
    """
    if not len(distances):
        raise ValueError("there is no candidate to select from")
    values = np.asarray(distances, dtype=np.float64)
    return int(np.where(np.isnan(values), np.inf, values).argmin())


def _is_empty(reference: NDArray[np.float32], target: NDArray[np.float32]) -> bool:
    if not len(reference):
        raise InputError("reference: it has no feature to compare with")
    return not len(target)


def _subsample(points: NDArray[np.float32], max_points: int | None, seed: int) -> NDArray[np.float32]:
    """At most ``max_points`` rows, drawn without replacement, in their order."""
    if max_points is None or len(points) <= max_points:
        return points
    return points[np.sort(np.random.default_rng(seed).choice(len(points), max_points, replace=False))]
