"""After an edit a segment's figures are those of its contour now, and what the run said of it stays."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import permutations, product
from typing import Any

import numpy as np
import pytest
from P2SAMSlicerLib.edited_segment import edited_figures
from P2SAMSlicerLib.result import Outcome
from P2SAMSlicerLib.result_files import visit_entry
from P2SAMSlicerLib.volume import BoolArray
from recorded_slices import FIRST, GRID, SECOND, followup, in_storage, present_mask, recorded
from small_body import stored_array
from small_visits import segment, segment_result, visit_result

STORAGES = [(order, flips) for order in permutations(range(3)) for flips in product((False, True), repeat=3)]
CHANGED = {"review_priority", "volume_ml", "volume_change_percent", "centroid_shift_mm", "slices"}


def entry_of(**fields: Any) -> dict[str, Any]:
    (entry,) = visit_entry(visit_result(segment_result(segment("GTV"), **fields)))["segments"]
    return dict(entry)


def test_the_figures_are_those_of_the_new_contour_and_the_runs_own_words_stay() -> None:
    slices = [replace(each, review_priority=value) for each, value in zip(recorded(followup()), (0.1, 0.9, 0.2), strict=True)]
    before = entry_of(reasons=("a reason",), outcome=Outcome.FLAGGED, lost_tissue_share=0.25, prior_volume_ml=2.0)
    mask = present_mask()
    after = edited_figures(before, slices, mask, np.roll(mask, -4, axis=2), GRID)
    assert set(after) == set(before)
    assert {name: after[name] for name in set(after) - CHANGED} == {name: before[name] for name in set(before) - CHANGED}
    volume = mask.sum() * 1.5 * 1.5 * 4.0 / 1000.0
    assert after["volume_ml"] == pytest.approx(volume)
    assert after["volume_change_percent"] == pytest.approx(100.0 * (volume / 2.0 - 1.0))
    assert after["centroid_shift_mm"] == pytest.approx([6.0, 0.0, 0.0])
    assert after["review_priority"] == pytest.approx(0.9)
    assert [each["review_priority"] for each in after["slices"]] == [0.1, 0.9, 0.2]
    assert json.loads(json.dumps(after, allow_nan=False)) == after


def test_a_flagged_segment_never_ranks_below_the_middle_and_a_found_one_may() -> None:
    slices = [replace(each, review_priority=0.1) for each in recorded(followup())]
    for outcome, expected in ((Outcome.FLAGGED, 0.5), (Outcome.FOUND, 0.1)):
        after = edited_figures(entry_of(outcome=outcome), slices, present_mask(), present_mask(), GRID)
        assert after["review_priority"] == pytest.approx(expected)


def test_all_48_storages_give_the_same_figures() -> None:
    usual, masks = followup(), (present_mask(), present_mask(SECOND))
    expected = edited_figures(entry_of(), recorded(usual), *masks, GRID)
    for order, flips in STORAGES:
        other = in_storage(usual, order, flips)
        stored: list[BoolArray] = [stored_array(each, order, flips).astype(bool) for each in masks]
        found = edited_figures(entry_of(), recorded(other), stored[0], stored[1], other.grid)
        assert found["volume_ml"] == pytest.approx(expected["volume_ml"])
        assert found["centroid_shift_mm"] == pytest.approx(expected["centroid_shift_mm"], abs=1e-6)
        assert expected["centroid_shift_mm"][0] == pytest.approx((FIRST[0] - SECOND[0]) * 1.5)


def test_an_empty_contour_and_one_without_its_registered_prior_have_no_shift() -> None:
    empty = np.zeros(GRID.shape, dtype=bool)
    gone = edited_figures(entry_of(), recorded(followup()), empty, present_mask(), GRID)
    assert (gone["volume_ml"], gone["volume_change_percent"], gone["centroid_shift_mm"]) == (0.0, -100.0, None)
    for registered in (None, empty):
        alone = edited_figures(entry_of(), recorded(followup()), present_mask(), registered, GRID)
        assert alone["centroid_shift_mm"] is None
        assert alone["volume_ml"] > 0.0
