"""The record of a review: plain values both ways, figures of known shapes, and nothing accepted by nobody."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.report.review_record import DECISIONS, REVIEW_DEFINITIONS, ReviewRecord, surface_change
from P2SAMSlicerLib.volume import BoolArray

GRID = Grid((10, 12, 14), (1.0, 2.0, 3.0))
WHOLE = ReviewRecord("GTV", "accepted", "A. B.", "2026-01-01T10:00:00+00:00", 3.0, 3.5, 0.9, 0.4, 1.5, True)


def box(z: slice, y: slice, x: slice) -> BoolArray:
    mask = np.zeros(GRID.shape, dtype=np.bool_)
    mask[z, y, x] = True
    return mask


def test_a_record_goes_through_json_and_back() -> None:
    for record in (WHOLE, ReviewRecord("GTV")):
        assert ReviewRecord.from_dict(json.loads(json.dumps(record.as_dict(), allow_nan=False))) == record


def test_every_field_is_defined() -> None:
    assert set(REVIEW_DEFINITIONS) == set(WHOLE.as_dict()) - {"segment"}


def test_only_an_accepted_contour_counts_as_reviewed() -> None:
    assert [ReviewRecord("GTV", decision, "A. B.").accepted for decision in DECISIONS] == [True, False, False, False]


@pytest.mark.parametrize("reviewer", ["", "  "])
def test_nobody_cannot_decide(reviewer: str) -> None:
    with pytest.raises(InputError, match="nobody's name"):
        ReviewRecord("GTV", "accepted", reviewer)


@pytest.mark.parametrize(
    "damage",
    [
        {"decision": "approved"},
        {"decision": 1},
        {"segment": None},
        {"reviewer": ["A"]},
        {"dice": "0.9"},
        {"dice": float("nan")},
        {"volume_before_ml": True},
        {"edited": "yes"},
    ],
)
def test_a_damaged_record_is_refused_in_one_line(damage: dict[str, Any]) -> None:
    with pytest.raises(InputError) as caught:
        ReviewRecord.from_dict({**WHOLE.as_dict(), **damage})
    assert "\n" not in str(caught.value)


def test_fields_of_a_newer_version_are_left_out() -> None:
    assert ReviewRecord.from_dict({**WHOLE.as_dict(), "new": 1}) == WHOLE


def test_an_unchanged_contour_did_not_change() -> None:
    mask = box(slice(2, 6), slice(3, 7), slice(4, 9))
    change = surface_change(mask, mask, GRID)
    assert (change.dice, change.mean_surface_mm, change.hd95_mm) == (1.0, 0.0, 0.0)
    assert change.volume_before_ml == change.volume_after_ml == pytest.approx(4 * 4 * 5 * 6 / 1000)


def test_a_slice_that_was_added_is_measured_in_millimetres() -> None:
    before, after = box(slice(2, 3), slice(3, 7), slice(4, 9)), box(slice(2, 4), slice(3, 7), slice(4, 9))
    change = surface_change(before, after, GRID)
    assert change.volume_after_ml == pytest.approx(2 * change.volume_before_ml)
    assert change.dice == pytest.approx(2 / 3)
    # Half of the new contour's surface voxels lie one slice, 3 mm, away; none of the old one's.
    assert change.mean_surface_mm == pytest.approx(20 * 3.0 / 60)
    assert change.hd95_mm == 3.0


def test_an_erased_contour_has_no_distance() -> None:
    mask = box(slice(2, 6), slice(3, 7), slice(4, 9))
    change = surface_change(mask, np.zeros_like(mask), GRID)
    assert (change.dice, change.mean_surface_mm, change.hd95_mm, change.volume_after_ml) == (0.0, None, None, 0.0)
