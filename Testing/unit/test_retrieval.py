"""Distribution distances and the choice by them."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.retrieval import (
    EMPTY_DISTANCE,
    MAX_POINTS,
    RETRIEVALS,
    distribution_distance,
    hungarian,
    jensen_shannon,
    select,
    wasserstein,
)
from scipy.optimize import linear_sum_assignment, linprog
from scipy.spatial.distance import cdist

Points = NDArray[np.float32]
Distance = Callable[[Points, Points], float]
DISTANCES: list[Distance] = [wasserstein, jensen_shannon, hungarian]


def cloud(seed: int, count: int, channels: int = 4, shift: float = 0.0) -> Points:
    return (np.random.default_rng(seed).normal(size=(count, channels)) + shift).astype(np.float32)


def rows(values: list[list[float]]) -> Points:
    return np.array(values, dtype=np.float32)


def clouds() -> st.SearchStrategy[tuple[Points, Points]]:
    return st.tuples(st.integers(0, 10_000), st.integers(1, 12), st.integers(1, 12), st.integers(1, 5)).map(
        lambda drawn: (cloud(drawn[0], drawn[1], drawn[3]), cloud(drawn[0] + 1, drawn[2], drawn[3], 0.7))
    )


def test_moving_all_features_by_a_vector_costs_its_squared_length() -> None:
    points = cloud(0, 30)
    assert wasserstein(points, points + np.array([3, 0, -4, 0], dtype=np.float32)) == pytest.approx(25, rel=1e-5)


def test_in_one_dimension_sorted_features_are_matched() -> None:
    left, right = cloud(1, 25, 1), cloud(2, 25, 1, 2.0)
    expected = np.mean((np.sort(left[:, 0].astype(float)) - np.sort(right[:, 0].astype(float))) ** 2)
    assert wasserstein(left, right) == pytest.approx(expected, rel=1e-6)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(0, 10_000), st.integers(1, 7), st.integers(1, 6))
def test_equal_sizes_cost_as_much_as_the_best_assignment(seed: int, count: int, channels: int) -> None:
    left, right = cloud(seed, count, channels), cloud(seed + 1, count, channels)
    cost = cdist(left, right, "sqeuclidean")
    matched = linear_sum_assignment(cost)
    assert wasserstein(left, right) == pytest.approx(cost[matched].mean(), rel=1e-6)


def test_a_handful_of_features_costs_as_much_as_the_best_of_all_permutations() -> None:
    left, right = cloud(3, 5), cloud(4, 5)
    cost = cdist(left, right, "sqeuclidean")
    brute = min(sum(cost[i, order[i]] for i in range(5)) for order in itertools.permutations(range(5)))
    assert wasserstein(left, right) == pytest.approx(brute / 5, rel=1e-6)


def test_unequal_sizes_cost_as_much_as_the_linear_programme() -> None:
    left, right = cloud(5, 3), cloud(6, 5)
    cost = cdist(left, right, "sqeuclidean")
    sources = np.kron(np.eye(3), np.ones(5))
    sinks = np.kron(np.ones(3), np.eye(5))
    answer = linprog(
        cost.ravel(), A_eq=np.vstack([sources, sinks]), b_eq=np.concatenate([np.full(3, 1 / 3), np.full(5, 1 / 5)])
    )
    assert wasserstein(left, right) == pytest.approx(answer.fun, rel=1e-6)


@pytest.mark.parametrize("distance", DISTANCES)
@settings(max_examples=20, deadline=None, derandomize=True)
@given(pair=clouds())
def test_a_set_is_at_distance_zero_from_itself(distance: Distance, pair: tuple[Points, Points]) -> None:
    assert distance(pair[0], pair[0]) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("distance", [wasserstein, hungarian])
@settings(max_examples=20, deadline=None, derandomize=True)
@given(pair=clouds())
def test_the_distance_is_symmetric_and_not_negative(distance: Distance, pair: tuple[Points, Points]) -> None:
    there, back = distance(*pair), distance(pair[1], pair[0])
    assert there >= 0
    assert there == pytest.approx(back, rel=1e-5, abs=1e-9)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(clouds(), st.integers(0, 1000))
def test_the_order_of_features_does_not_matter_to_wasserstein(pair: tuple[Points, Points], seed: int) -> None:
    order = np.random.default_rng(seed).permutation(len(pair[1]))
    assert wasserstein(pair[0], pair[1][order]) == pytest.approx(wasserstein(*pair), rel=1e-6, abs=1e-9)


def test_jensen_shannon_is_symmetric_between_zero_and_one() -> None:
    left, right = cloud(7, 60), cloud(8, 45, shift=0.5)
    there = jensen_shannon(left, right)
    assert 0 < there < 1
    assert there == pytest.approx(jensen_shannon(right, left), rel=1e-6)


def test_jensen_shannon_of_disjoint_sets_is_one() -> None:
    assert jensen_shannon(cloud(9, 30), cloud(10, 20, shift=100.0)) == pytest.approx(1)


def test_jensen_shannon_of_one_and_the_same_feature_is_zero() -> None:
    assert jensen_shannon(np.ones((3, 4), dtype=np.float32), np.ones((7, 4), dtype=np.float32)) == 0


def test_jensen_shannon_of_two_repeated_features_ignores_rounding_across_their_line() -> None:
    for seed in range(30):
        pair = cloud(seed, 2, 2)
        assert jensen_shannon(pair, pair) == pytest.approx(0, abs=1e-9)


def test_jensen_shannon_grows_as_sets_part() -> None:
    near, far = (jensen_shannon(cloud(11, 400), cloud(12, 400, shift=shift)) for shift in (0.2, 1.5))
    assert near < far


def test_jensen_shannon_sees_only_the_first_two_components() -> None:
    base = np.random.default_rng(13)
    left = np.zeros((200, 3))
    right = np.zeros((200, 3))
    left[:, :2] = right[:, :2] = base.normal(size=(200, 2)) * [100, 50]
    left[:, 2], right[:, 2] = -1e-3, 1e-3  # disjoint, but far below the first two components
    assert jensen_shannon(left.astype(np.float32), right.astype(np.float32)) < 0.05


def test_one_feature_against_one_feature_has_a_distance() -> None:
    one, other = rows([[1, 2]]), rows([[4, 6]])
    assert wasserstein(one, other) == pytest.approx(25)
    assert hungarian(one, other) == pytest.approx(25)
    assert jensen_shannon(one, other) == pytest.approx(1)


def test_hungarian_matches_parts_one_to_one() -> None:
    left = rows([[0, 0], [0, 2], [10, 0], [10, 2]])
    right = rows([[10, 5], [10, 5.5], [0, 1], [0, 1.5]])
    # parts (0, 1) and (10, 1) against (10, 5.25) and (0, 1.25)
    assert hungarian(left, right, n_parts=2) == pytest.approx((0.25**2 + 4.25**2) / 2, rel=1e-5)


def test_hungarian_uses_no_more_parts_than_either_set_has() -> None:
    left, right = rows([[0.0], [4.0]]), rows([[1.0]] * 6)
    assert hungarian(left, right, n_parts=4) == pytest.approx(1)


@pytest.mark.parametrize("kind", RETRIEVALS)
def test_an_empty_candidate_is_worse_than_any_real_one(kind: str) -> None:
    nothing = np.zeros((0, 4), dtype=np.float32)
    assert distribution_distance(kind, cloud(14, 5), nothing) == EMPTY_DISTANCE == 999_999  # type: ignore[arg-type]
    assert distribution_distance(kind, cloud(14, 5), cloud(15, 5, shift=300)) < EMPTY_DISTANCE  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", RETRIEVALS)
def test_an_empty_reference_is_refused(kind: str) -> None:
    with pytest.raises(InputError, match="no feature"):
        distribution_distance(kind, np.zeros((0, 4), dtype=np.float32), cloud(0, 3))  # type: ignore[arg-type]


def test_the_kind_of_distance_is_the_one_asked_for() -> None:
    left, right = cloud(16, 30), cloud(17, 20, shift=1)
    assert distribution_distance("wasserstein", left, right) == wasserstein(left, right)
    assert distribution_distance("jensen-shannon", left, right) == jensen_shannon(left, right)
    assert distribution_distance("hungarian", left, right, seed=3) == hungarian(left, right, seed=3)
    with pytest.raises(InputError, match="'sinkhorn' is not one of: wasserstein"):
        distribution_distance("sinkhorn", left, right)  # type: ignore[arg-type]


def test_large_sets_are_compared_on_a_seeded_sample() -> None:
    left, right = cloud(18, 300), cloud(19, 200, shift=1)
    exact = wasserstein(left, right, max_points=None)
    assert wasserstein(left, right) == exact  # below the default limit nothing is sampled
    sampled = [wasserstein(left, right, seed=seed, max_points=100) for seed in (0, 0, 1)]
    assert sampled[0] == sampled[1]
    assert sampled[0] != sampled[2]
    assert sampled[0] == pytest.approx(exact, rel=0.2)


def test_no_feature_is_sampled_twice() -> None:
    values = np.arange(50, dtype=np.float32)[:, None]
    squares = wasserstein(values, rows([[0.0]]), max_points=49) * 49
    assert (values**2).sum() - squares == pytest.approx(np.round(np.sqrt((values**2).sum() - squares)) ** 2, abs=1e-6)


def test_a_set_above_the_default_limit_is_sampled() -> None:
    row = cloud(20, MAX_POINTS + 1, 2)
    one = np.zeros((1, 2), dtype=np.float32)
    everything = float((row.astype(float) ** 2).sum(1).mean())
    assert wasserstein(row, one, max_points=None) == pytest.approx(everything, rel=1e-6)
    assert wasserstein(row, one) != wasserstein(row, one, max_points=None)


def test_the_first_of_equal_distances_wins() -> None:
    assert select([3.0, 1.0, 2.0, 1.0]) == 1
    assert select([EMPTY_DISTANCE] * 3) == 0


def test_a_distance_that_is_not_a_number_never_wins() -> None:
    assert select([float("nan"), 5.0, 4.0]) == 2
    assert select([float("nan"), float("nan")]) == 0


def test_nothing_to_select_from_is_an_error() -> None:
    with pytest.raises(ValueError, match="no candidate"):
        select([])


@pytest.mark.parametrize("count", [1, 2, 40])
def test_between_equally_many_points_it_is_the_transport_that_the_network_simplex_finds(count: int) -> None:
    import ot

    rng = np.random.default_rng(count)
    a, b = rng.normal(size=(count, 6)).astype(np.float32), rng.normal(0.5, 1.0, (count, 6)).astype(np.float32)
    cost = ot.dist(a.astype(np.float64), b.astype(np.float64), metric="sqeuclidean")
    assert wasserstein(a, b) == pytest.approx(ot.emd2(ot.unif(count), ot.unif(count), cost), rel=1e-12)
