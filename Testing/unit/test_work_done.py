"""How much work a follow-up is, counted and not timed: what does more of it than it must fails on any machine."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from P2SAMSlicerLib import candidates, features
from P2SAMSlicerLib.cli.feature_cache import with_cache
from P2SAMSlicerLib.clinical import BEYOND_ENDS_MM
from P2SAMSlicerLib.options import PropagationOptions
from P2SAMSlicerLib.prior_features import MAX_SLICES
from P2SAMSlicerLib.propagation import propagate
from P2SAMSlicerLib.speed.counting import CountingModel
from P2SAMSlicerLib.speed.growth import phantom
from P2SAMSlicerLib.volume import Segment
from stub_model import BrightnessModel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

#: Room that the features of one image of the stub take.
ROW_BYTES = 7 * 64 * 64 * 4


class PeakTensorBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The most that tensors made under it hold at once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.held = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        answer = func(*args, **(kwargs or {}))
        known = {id(each) for each in tree_leaves((args, kwargs))}
        if not func.is_view:
            for each in tree_leaves(answer):
                if isinstance(each, torch.Tensor) and id(each) not in known:
                    self._count(each.nbytes)
                    weakref.finalize(each, self._count, -each.nbytes)
        return answer

    def _count(self, size: int) -> None:
        self.held += size
        self.peak = max(self.peak, self.held)


def carried(slices: int, prompts: tuple[str, ...] = ("points", "box", "mask"), **options: Any) -> CountingModel:
    model = CountingModel(BrightnessModel(prompts))
    prior, mask = phantom(slices, 1, seed=0)
    followup = phantom(slices, 1, seed=1)[0]
    propagate(model, prior, [Segment("lesion", mask)], followup, PropagationOptions(registration="none", **options))
    return model


def test_every_slice_is_encoded_once() -> None:
    beyond = 2 * 3  # slices on either side of the contour, of 3 mm
    assert beyond == 2 * BEYOND_ENDS_MM / 3
    for slices in (4, 12):
        model = carried(slices)
        assert model.encoded == model.distinct == min(slices, MAX_SLICES) + min(slices + beyond, slices + 8)


@pytest.mark.parametrize("parts", [1, 5])
def test_candidates_are_decoded_in_batches_and_not_one_by_one(parts: int) -> None:
    model = carried(3, max_parts=parts)
    slices = 3 + 6
    # Five boxes, the expected contour as a mask, each number of parts with and without it; some boxes widened.
    usual = slices * (5 + 1 + 2 * parts)
    assert usual <= model.prompt_sets <= usual + slices
    assert model.decode_calls <= usual // candidates.DECODE_BATCH + 1 + 1


def test_segments_on_the_same_slices_and_visits_of_one_prior_share_their_images() -> None:
    counting = CountingModel(BrightnessModel(("points", "box")))
    model = with_cache(lambda _wish: counting, None)(None)
    options = PropagationOptions(mode="paper", registration="none", negatives=(1,))
    prior, both = phantom(3, 2, seed=0)
    left = both.copy()
    left[:, :, both.shape[2] // 2 :] = False
    segments = [Segment("left", left), Segment("right", both & ~left)]
    for seed in (1, 2):
        propagate(model, prior, segments, phantom(3, 2, seed=seed)[0], options)
    assert counting.encoded == counting.distinct == 3 + 2 * 3


def test_kmeans_runs_once_for_each_number_of_parts_whatever_the_number_of_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    fits: list[int] = []
    original = features._cluster

    def counted(points: Any, n_clusters: int, seed: int) -> Any:
        fits.append(n_clusters)
        return original(points, n_clusters, seed)

    monkeypatch.setattr(features, "_cluster", counted)
    for slices in (3, 9):
        fits.clear()
        carried(slices, max_parts=3)
        assert sorted(fits) == [2, 3]


def test_tensors_take_room_for_each_slices_features_once_and_a_batch_of_answers() -> None:
    peaks = {}
    for slices in (3, 9):
        carried(2)  # what is made once and stays
        with PeakTensorBytes() as watched:
            carried(slices)
        peaks[slices] = watched.peak
    grown = (peaks[9] - peaks[3]) / 6
    # Once when they are encoded, and once more in a batch with others.
    assert ROW_BYTES * 0.9 < grown < ROW_BYTES * 2.2
