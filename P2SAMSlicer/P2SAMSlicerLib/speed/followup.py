"""One follow-up end to end: paper mode against the authors' loop with the same model; and clinical mode."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from P2SAMSlicerLib.intensity import PAPER_WINDOW, to_rgb
from P2SAMSlicerLib.options import PropagationOptions
from P2SAMSlicerLib.paper_visit import paired_slice, paper_options, segment_in_paper_mode
from P2SAMSlicerLib.prompts import part_features
from P2SAMSlicerLib.propagation import RegisteredVisits, propagate, register_visits
from P2SAMSlicerLib.registration import carry_distance
from P2SAMSlicerLib.speed.authors_loop import SlicePair, authors_loop
from P2SAMSlicerLib.speed.case import SpeedCase
from P2SAMSlicerLib.speed.plain_process import PlainProcess
from P2SAMSlicerLib.speed.steps import step_seconds, timed
from P2SAMSlicerLib.volume import BoolArray


@dataclass(frozen=True)
class FollowupFindings:
    """Seconds of the two loops that are compared are medians over the pairs; the others were taken once.

    :param case: for people.
    :param slices: of the follow-up that were segmented.
    :param references: different slices of the prior that they are paired with.
    :param registration_seconds: which the authors' loop does not have.
    :param authors_seconds: their loop with the model's package alone, in a process of its own.
    :param paper_seconds: this product's paper mode, the same slices.
    :param ratio: median over pairs of the two.
    :param differing_slices: slices with other masks in these two, the most of any pair. Their encoders and decoders differ by
        rounding, and k-means may draw another cell for that.
    :param shared_seconds: their loop with this product's encoder, decoder and k-means; ``shared_ratio`` compares it with paper
        mode.
    :param differing_voxels: of the masks of paper mode and of that loop, the most of any pair; 0, or the comparison means
        nothing.
    :param authors_steps: seconds of each step, medians.
    :param paper_steps: seconds of each step, medians.
    :param clinical: seconds of each stage of clinical mode, all of it together as ``all``.
    """

    case: str
    model: str
    device: str
    slices: int
    references: int
    pairs: int
    registration_seconds: float
    authors_seconds: float
    paper_seconds: float
    ratio: float
    differing_slices: int
    shared_seconds: float
    shared_ratio: float
    differing_voxels: int
    authors_steps: Mapping[str, float]
    paper_steps: Mapping[str, float]
    clinical: Mapping[str, float]


def measure_followup(
    case: SpeedCase, model: Any, checkpoint: Path | None, threads: int, pairs: int, *, tell: Callable[[str], None]
) -> FollowupFindings:
    """Measure a case with a loaded model.

    :param model: as :func:`~P2SAMSlicerLib.models.load_model` gives it, in float32.
    :param checkpoint: that it was loaded from, for the peer.
    :param pairs: how often both loops are run.
    """
    options = PropagationOptions(mode="paper")
    tell("registration")
    visits, registration_seconds = timed(lambda: register_visits(case.prior, [case.segment], case.followup, options))
    slices, references = _slice_pairs(visits)

    search = paper_options(options)
    authors: list[dict[str, float]] = []
    paper: list[dict[str, float]] = []
    peers, masks = [], []
    with PlainProcess(model.card.id, checkpoint, None, str(model.device), threads) as plain:
        for number in range(pairs):
            tell(f"the authors' loop, {number + 1} of {pairs}")
            peer, steps = plain.loop(slices, search)
            peers.append(peer)
            authors.append(steps)
            tell(f"paper mode, {number + 1} of {pairs}")
            mask, steps = step_seconds(lambda: _paper_masks(model, visits, options))
            masks.append(mask)
            paper.append(steps)
    tell("the authors' loop with this product's encoder and decoder")
    expected, shared = timed(lambda: authors_loop(model, slices, search, part_features))
    tell("clinical mode")
    visit, whole = timed(lambda: propagate(model, case.prior, [case.segment], case.followup))
    own = statistics.median(sum(each.values()) for each in paper)
    return FollowupFindings(
        case=case.name,
        model=model.card.id,
        device=str(model.device),
        slices=len(slices),
        references=references,
        pairs=pairs,
        registration_seconds=registration_seconds,
        authors_seconds=statistics.median(sum(each.values()) for each in authors),
        paper_seconds=own,
        ratio=statistics.median(sum(a.values()) / sum(p.values()) for a, p in zip(authors, paper, strict=True)),
        differing_slices=max(_differing_slices(peer, mask) for peer, mask in zip(peers, masks, strict=True)),
        shared_seconds=shared,
        shared_ratio=shared / own,
        differing_voxels=max(int(np.count_nonzero(np.stack(expected) != mask)) for mask in masks),
        authors_steps=_medians(authors),
        paper_steps=_medians(paper),
        clinical={**visit.stage_seconds, "all": whole},
    )


def _differing_slices(some: Sequence[BoolArray], others: BoolArray) -> int:
    return sum(not np.array_equal(one, other) for one, other in zip(some, others, strict=True))


def _medians(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {step: statistics.median(run[step] for run in runs) for step in runs[0]}


def _present(visits: RegisteredVisits) -> tuple[BoolArray, list[int]]:
    """The registered contour, and the slices of the follow-up from its first to its last."""
    case = visits.case
    carried = carry_distance(case.masks[0], case.prior.grid, case.followup.grid, visits.registration.transform) >= 0
    rows = np.flatnonzero(carried.any(axis=(1, 2)))
    return carried, list(range(int(rows[0]), int(rows[-1]) + 1))


def _slice_pairs(visits: RegisteredVisits) -> tuple[list[SlicePair], int]:
    """The pairs that paper mode makes, as images, and the number of different references."""
    case, (_, indices) = visits.case, _present(visits)
    prior = np.flatnonzero(case.masks[0].any(axis=(1, 2)))
    sources = [int(prior[paired_slice(position, len(indices), len(prior))]) for position in range(len(indices))]
    pairs = [
        SlicePair(
            to_rgb(case.prior.array[source], PAPER_WINDOW),
            case.masks[0][source],
            to_rgb(case.followup.array[index], PAPER_WINDOW),
        )
        for source, index in zip(sources, indices, strict=True)
    ]
    return pairs, len(set(sources))


def _paper_masks(model: Any, visits: RegisteredVisits, options: PropagationOptions) -> BoolArray:
    case, (carried, indices) = visits.case, _present(visits)
    found = segment_in_paper_mode(
        model, case.prior, case.masks[0], case.followup, carried, (PAPER_WINDOW, PAPER_WINDOW), options, lambda *_: None
    )
    mask: BoolArray = found.mask[indices]
    return mask
