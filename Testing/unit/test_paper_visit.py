"""Paper mode on a visit: the authors' pairing of slices, and nothing of clinical mode."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from P2SAMSlicerLib.clinical import LesionContour
from P2SAMSlicerLib.intensity import PAPER_WINDOW, to_rgb
from P2SAMSlicerLib.options import PropagationOptions
from P2SAMSlicerLib.paper_visit import paired_slice, paper_options, segment_in_paper_mode
from P2SAMSlicerLib.propagation import propagate
from P2SAMSlicerLib.segmentation import PRESETS, segment_image
from P2SAMSlicerLib.volume import BoolArray
from small_body import GRID, body, ellipsoid, followup_of, prior_visit
from stub_model import BrightnessModel

PAPER = PropagationOptions(mode="paper", registration="none", negatives=(3,))


def run(
    carried: BoolArray, model: BrightnessModel | None = None, options: PropagationOptions = PAPER
) -> tuple[LesionContour, list[tuple[str, int, int]]]:
    """The usual prior lesion on the unmoved follow-up within the slices of ``carried``."""
    prior, segment = prior_visit()
    steps: list[tuple[str, int, int]] = []
    result = segment_in_paper_mode(
        model or BrightnessModel(),
        prior,
        segment.mask,
        prior,
        carried,
        (PAPER_WINDOW, PAPER_WINDOW),
        options,
        lambda stage, done, total: steps.append((stage, done, total)),
    )
    return result, steps


def thin(first: int, last: int) -> BoolArray:
    """The usual lesion on some of its slices only."""
    mask = ellipsoid(GRID)
    mask[:first] = False
    mask[last + 1 :] = False
    return mask


@pytest.mark.parametrize(
    ("followup", "prior", "pairs"),
    [
        (5, 5, [0, 1, 2, 3, 4]),
        (3, 5, [1, 2, 3]),
        (5, 3, [0, 0, 1, 2, 2]),
        (4, 5, [0, 1, 2, 3]),
        (1, 7, [3]),
        (3, 1, [0, 0, 0]),
    ],
)
def test_slices_are_paired_by_their_distance_from_the_middle(followup: int, prior: int, pairs: list[int]) -> None:
    assert [paired_slice(position, followup, prior) for position in range(followup)] == pairs


def test_the_search_range_is_the_papers_for_unadapted_ct_with_the_users_numbers() -> None:
    search = paper_options(PropagationOptions(mode="paper", max_parts=3, negatives=(7, 2), seed=9))
    preset = PRESETS["ct_unadapted"]
    assert (search.positive, search.negative, search.seed) == ((1, 3), (2, 7), 9)
    assert replace(search, positive=preset.positive, negative=preset.negative, seed=preset.seed) == preset


def test_every_slice_of_the_carried_range_is_segmented_and_no_other() -> None:
    result, steps = run(thin(12, 16))
    assert [s.index for s in result.slices] == [12, 13, 14, 15, 16]
    assert not result.mask[:12].any()
    assert not result.mask[17:].any()
    # Five slices of either visit.
    assert steps == [("segment", k, 10) for k in range(1, 11)]
    assert not result.too_small


def test_a_slice_is_exactly_what_paper_mode_makes_of_the_image_pair() -> None:
    prior, segment = prior_visit()
    carried = thin(14, 14)
    result, _ = run(carried)
    source = int(np.flatnonzero(segment.mask.any(axis=(1, 2)))[len(np.flatnonzero(segment.mask.any(axis=(1, 2)))) // 2])
    pair = segment_image(
        BrightnessModel(),
        to_rgb(prior.array[source], PAPER_WINDOW),
        segment.mask[source],
        to_rgb(prior.array[14], PAPER_WINDOW),
        paper_options(PAPER),
    )
    np.testing.assert_array_equal(result.mask[14], pair.best.mask)
    assert result.slices[0].chosen == pair.chosen
    assert len(result.slices[0].candidates) == len(pair.candidates)


def test_candidates_lie_on_the_whole_slice_and_the_chosen_one_is_the_contour() -> None:
    result, _ = run(thin(13, 15))
    for each in result.slices:
        assert each.chosen is not None
        assert all(candidate.mask.shape == GRID.shape[1:] for candidate in each.candidates)
        np.testing.assert_array_equal(each.candidates[each.chosen].mask, result.mask[each.index])
        assert each.candidates[each.chosen].distance == min(candidate.distance for candidate in each.candidates)
        assert all(0.0 <= value <= 1.0 for value in each.signals.values())


def test_a_gap_in_the_carried_contour_is_segmented_too() -> None:
    carried = thin(12, 16)
    carried[14] = False
    assert [s.index for s in run(carried)[0].slices] == [12, 13, 14, 15, 16]


def test_each_prior_slice_is_encoded_once_however_often_it_is_paired() -> None:
    model = BrightnessModel()
    prior_slices = len(np.flatnonzero(ellipsoid(GRID).any(axis=(1, 2))))
    carried = np.zeros(GRID.shape, dtype=np.bool_)
    carried[2 : 2 + prior_slices + 6, 30:40, 50:60] = True
    run(carried, model)
    assert model.encoded == prior_slices + prior_slices + 6


def test_paper_mode_uses_the_papers_window_through_the_engine() -> None:
    prior, segment = prior_visit()
    seen: list[int] = []

    class Watching(BrightnessModel):
        def encode(self, images):  # type: ignore[no-untyped-def]
            seen.extend(int(image.max()) - int(image.min()) for image in images)
            return super().encode(images)

    followup = body([ellipsoid(GRID)], GRID, seed=5)
    one_slice = segment.mask.copy()
    one_slice[:14] = False
    one_slice[15:] = False
    propagate(Watching(), prior, [replace(segment, mask=one_slice)], followup, PAPER)
    # Air is cut at -910 HU and bone of 400 HU is no longer white: 255 * (400 + 910) / 1500, give or take its noise.
    assert seen
    assert all(200 < each < 255 for each in seen)


def test_paper_mode_carries_a_lesion_through_the_engine() -> None:
    prior, segment = prior_visit()
    followup, truth = followup_of("stable")
    result = propagate(BrightnessModel(), prior, [segment], followup, replace(PAPER, registration="rigid"))
    mask = result.segments[0].mask
    assert mask is not None
    # The largest piece may hold muscle of like brightness: the paper's steps know no place. But the lesion is in it.
    assert (mask & truth).sum() > 0.4 * truth.sum()
    assert result.provenance["options"]["mode"] == "paper"
