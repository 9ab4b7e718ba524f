"""A contour that reaches the limit of the search is told from one that keeps clear of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from P2SAMSlicerLib.clinical import REGION_PIXELS, LesionContour, LesionSlice
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.options import PropagationOptions
from P2SAMSlicerLib.region import region_around
from P2SAMSlicerLib.registration import signed_distance
from P2SAMSlicerLib.result import Candidate
from P2SAMSlicerLib.search_limit import search_limits
from P2SAMSlicerLib.volume import BoolArray

GRID = Grid((20, 90, 90), (1.0, 1.0, 3.0))
OPTIONS = PropagationOptions()
#: The registered contour's slices, and those that are looked at.
EXPECTED, LOOKED_AT = range(7, 13), range(4, 16)


def cylinder(slices: range, right: int = 50) -> BoolArray:
    """A block from column 35 up to ``right``."""
    mask = np.zeros(GRID.shape, dtype=np.bool_)
    mask[slices.start : slices.stop, 35:55, 35:right] = True
    return mask


REGISTERED = cylinder(EXPECTED)
DISTANCE: NDArray[np.float32] = signed_distance(REGISTERED, GRID.spacing_zyx)


def found(mask: BoolArray, looked_at: range = LOOKED_AT) -> LesionContour:
    """The mask as if one candidate had been chosen on each of its slices."""
    region = region_around(REGISTERED, GRID, OPTIONS.margin_mm, REGION_PIXELS)
    slices = []
    for index in looked_at:
        plane = region.crop(mask[index], GRID, outside=0.0) >= 0.5
        nothing = np.zeros((0, 2), np.float32), np.zeros(0, np.int64)
        candidate = Candidate("box x1", plane, *nothing, None, 1.0, 1.0, 0.9)
        slices.append(LesionSlice(index, (candidate,), 0 if plane.any() else None, {}))
    return LesionContour(mask, tuple(slices))


def limits(mask: BoolArray, options: PropagationOptions = OPTIONS, written: BoolArray | None = None) -> tuple[str, ...]:
    return search_limits(found(mask), mask if written is None else written, DISTANCE, GRID, options)


def test_a_contour_well_within_the_limits_says_nothing() -> None:
    assert limits(REGISTERED) == ()
    assert limits(cylinder(range(5, 15), right=60)) == ()


@pytest.mark.parametrize(("right", "reached"), [(63, False), (66, True)])
def test_a_contour_that_grew_to_the_plausible_distance_on_one_side_is_flagged(right: int, reached: bool) -> None:
    expected = ("the contour reaches the limit of the search, 15 mm from the registered contour",)
    assert limits(cylinder(EXPECTED, right)) == (expected if reached else ())


def test_the_distance_that_the_user_chose_is_the_limit() -> None:
    (reason,) = limits(cylinder(EXPECTED, 56), replace(OPTIONS, plausible_mm=6.0))
    assert "6 mm" in reason


def test_a_spike_on_one_slice_is_no_growth() -> None:
    mask = REGISTERED.copy()
    mask[9, 44:46, 50:65] = True
    assert limits(mask) == ()


def test_what_clean_up_took_away_again_reaches_nothing() -> None:
    assert limits(cylinder(EXPECTED, 66), written=REGISTERED) == ()


def test_a_contour_at_the_edge_of_what_the_model_saw_is_flagged_if_that_comes_first() -> None:
    options = replace(OPTIONS, plausible_mm=30.0)
    region = region_around(REGISTERED, GRID, options.margin_mm, REGION_PIXELS)
    (reason,) = limits(cylinder(EXPECTED, int(region.left + region.side) + 3), options)
    assert "edge of what the model saw, 25 mm" in reason


@pytest.mark.parametrize(("slices", "mm"), [(range(7, 16), "9.0"), (range(4, 13), "9.0"), (range(5, 15), None)])
def test_a_contour_on_the_last_slice_looked_at_is_flagged(slices: range, mm: str | None) -> None:
    reasons = limits(cylinder(slices))
    assert len(reasons) == (mm is not None)
    assert all(f"last slice looked at, {mm} mm beyond the registered contour's end" in reason for reason in reasons)


@pytest.mark.parametrize(("rows", "flagged"), [(4, False), (6, True)])
def test_a_tip_that_tapers_off_on_the_last_slice_is_no_growth(rows: int, flagged: bool) -> None:
    mask = cylinder(range(5, 16))
    mask[15, 35 + rows :] = False  # of 20 rows
    assert bool(limits(mask)) is flagged


def test_the_volumes_own_end_is_not_the_searchs() -> None:
    mask, short = cylinder(range(7, 16)), replace(GRID, shape=(16, 90, 90))
    assert limits(mask)
    assert search_limits(found(mask), mask[:16], DISTANCE[:16], short, OPTIONS) == ()


def test_a_registered_contour_that_ends_on_the_last_slice_looked_at_is_not_beyond_it() -> None:
    assert search_limits(found(REGISTERED, EXPECTED), REGISTERED, DISTANCE, GRID, OPTIONS) == ()


def test_paper_mode_and_an_empty_contour_have_no_limit_to_reach() -> None:
    mask = cylinder(range(4, 16), 66)
    assert limits(mask)
    assert limits(mask, replace(OPTIONS, mode="paper")) == ()
    assert limits(mask, written=mask & False) == ()
