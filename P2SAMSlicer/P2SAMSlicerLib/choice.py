"""Choosing one candidate a slice: feature distribution, location prior, and agreement along the lesion.

The score of a candidate is what it explains (the sum of the evidence inside it, relative to the expected contour's area)
less what its feature distribution costs (equation 3, relative to the lesion's own spread). The sequence of slices is chosen
at once: changing from one kind of candidate to another costs a little, so a single slice does not jump without reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.candidates import ABSENT, PARTS, REGISTERED, UNUSUAL_BOXES, Proposal
from P2SAMSlicerLib.evidence import pool_to_cells
from P2SAMSlicerLib.retrieval import EMPTY_DISTANCE, wasserstein
from P2SAMSlicerLib.volume import BoolArray

#: Cost of changing the kind of candidate from one slice to the next, in units of the score.
SWITCH_COST = 0.25
#: Weight of the distribution distance, relative to the lesion's own spread.
DISTANCE_WEIGHT = 0.05
#: Cost of a box far from the expected contour's size, and of calling a slice empty on which the expected contour has an area:
#: both are possible, but want evidence. In units of the score, relative to that area.
UNUSUAL_BOX_COST = 0.1
ABSENT_COST = 0.5
#: Cost of an answer to parts, in the same units: points name what is to be segmented less surely than the expected contour
#: does, so such an answer has to explain clearly more.
PARTS_COST = 0.3
#: Credit of the registered contour, in the same units: another candidate has to explain clearly more. Without it a tumour that
#: grew loses its rim to the expected contour, as the registration does not follow the growth and the rim looks replaced.
REGISTERED_CREDIT = 0.07
#: Cells drawn for one distance; exact optimal transport on these takes some ten milliseconds.
DISTANCE_CELLS = 200


@dataclass(frozen=True)
class Scored:
    """A proposal with the figures that it is chosen by.

    :param distance: Wasserstein distance of its features to the prior lesion's.
    :param score: smaller is better.
    """

    proposal: Proposal
    distance: float
    score: float


def own_spread(foreground: NDArray[np.float32], seed: int) -> float:
    """Distance between two random halves of the lesion's own features: the yardstick for all other distances."""
    if len(foreground) < 4:
        return 1.0
    order = np.random.default_rng(seed).permutation(len(foreground))[: 2 * DISTANCE_CELLS]
    half = len(order) // 2
    return max(wasserstein(foreground[order[:half]], foreground[order[half:]]), 1e-6)


def score(
    proposals: Sequence[Proposal],
    features: NDArray[np.float32],
    evidence: NDArray[np.float32],
    foreground: NDArray[np.float32],
    spread: float,
    area: float,
    expected: float,
    seed: int,
) -> list[Scored]:
    """Figures of one slice's proposals.

    :param features: the slice's encoder features ``(h, w, C)``.
    :param evidence: ``(H, W)``, see :func:`P2SAMSlicerLib.evidence.LesionEvidence`.
    :param foreground: pooled prior lesion features ``(n, C)``.
    :param spread: see :func:`own_spread`.
    :param area: pixels of a typical slice of the expected contour; makes scores of all slices comparable.
    :param expected: pixels of the expected contour on this slice.
    """
    result = []
    for proposal in proposals:
        mask = proposal.mask
        cells = features[cells_of(mask, features.shape[0])]
        distance = wasserstein(foreground, cells, seed=seed, max_points=DISTANCE_CELLS) if len(cells) else EMPTY_DISTANCE
        gain = float(evidence[mask].sum()) / area
        excess = min(max(distance / spread - 1.0, 0.0), 10.0) * float(mask.sum()) / area
        cost = DISTANCE_WEIGHT * excess + _reserve(proposal.origin) * expected / area
        result.append(Scored(proposal, distance, cost - gain if mask.any() else np.inf))
    return result


def _reserve(origin: str) -> float:
    """What a kind of candidate costs before it explains anything."""
    if origin == REGISTERED:
        return -REGISTERED_CREDIT
    if origin.startswith(PARTS):
        return PARTS_COST
    return UNUSUAL_BOX_COST if origin in UNUSUAL_BOXES else 0.0


def cells_of(mask: BoolArray, cells: int) -> BoolArray:
    """Feature cells that a mask covers by at least half; its fullest cell if there is none."""
    coverage = pool_to_cells(mask, cells)
    chosen: BoolArray = coverage >= 0.5
    if not chosen.any() and mask.any():
        chosen = coverage == coverage.max()
    return chosen


def choose_sequence(
    slices: Sequence[Sequence[Scored]], absent_costs: Sequence[float] | None = None, switch_cost: float = SWITCH_COST
) -> list[int | None]:
    """The cheapest sequence of candidates over neighbouring slices (dynamic programming).

    :param slices: scored proposals in slice order.
    :param absent_costs: score of "no lesion" on each slice, see :data:`ABSENT_COST`; 0 on all slices if None.
    :returns: for each slice the index of its proposal, or None where the lesion is absent.
    """
    names = [ABSENT]
    for scored in slices:
        names += [s.proposal.origin for s in scored if s.proposal.origin not in names]
    costs = np.full((len(slices), len(names)), np.inf)
    costs[:, 0] = 0.0 if absent_costs is None else absent_costs
    for row, scored in enumerate(slices):
        for s in scored:
            costs[row, names.index(s.proposal.origin)] = s.score
    total, steps = costs[0], []
    switch = switch_cost * (1.0 - np.eye(len(names)))
    for row in range(1, len(slices)):
        reached = total[:, None] + switch
        steps.append(reached.argmin(axis=0))
        total = reached.min(axis=0) + costs[row]
    path = [int(total.argmin())]
    for step in reversed(steps):
        path.append(int(step[path[-1]]))
    origins = [names[k] for k in reversed(path)]
    return [
        None if origin == ABSENT else next(i for i, s in enumerate(scored) if s.proposal.origin == origin)
        for origin, scored in zip(origins, slices, strict=True)
    ]
