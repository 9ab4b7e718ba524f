"""One visit of the small body carried to the next with the model that answers from brightness; what holds of every result."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.options import PropagationOptions
from P2SAMSlicerLib.propagation import propagate
from P2SAMSlicerLib.result import Outcome, SegmentResult, VisitResult
from P2SAMSlicerLib.volume import BoolArray, Volume
from small_body import GRID, body, ellipsoid, prior_visit
from stub_model import BrightnessModel

#: Centres of two lesions that do not meet.
FAR_APART = ((-20.0, -30.0, -25.0), (30.0, -20.0, 25.0))
#: One part: four more take half of the time and are treated alike. The default number goes with the registered visits.
STILL = PropagationOptions(registration="none", max_parts=1)


def still(*lesions: BoolArray, seed: int = 5) -> Volume:
    """The body with these lesions, unmoved."""
    return replace(body(lesions, GRID, seed), name="followup")


def usual(options: PropagationOptions = STILL, **fields: Any) -> VisitResult:
    """The usual visit with the follow-up's fields changed."""
    prior, segment = prior_visit()
    followup = replace(still(ellipsoid(GRID)), **fields)
    return propagate(BrightnessModel(), prior, [segment], followup, options)


@cache
def usual_once() -> VisitResult:
    """The usual visit as it is, carried once for all tests that only look at it."""
    return usual()


def check_result(result: SegmentResult, grid: Grid) -> None:
    """What must hold of every result, whatever was found."""
    contoured = result.outcome in (Outcome.FOUND, Outcome.FLAGGED)
    assert result.registered_mask.shape == grid.shape
    assert result.registered_mask.dtype == np.bool_
    assert (result.mask is not None) == contoured
    for value in (result.volume_ml, result.volume_change_percent, result.centroid_shift_mm):
        assert (value is not None) == contoured
    assert bool(result.reasons) == (result.outcome is not Outcome.FOUND)
    assert 0.0 <= result.review_priority <= 1.0
    if result.mask is not None:
        assert result.mask.any()
        assert result.mask.shape == grid.shape
        assert result.volume_ml == pytest.approx(result.mask.sum() * grid.voxel_ml)
    for each in result.slices:
        assert 0.0 <= each.review_priority <= 1.0
        assert each.chosen is None or 0 <= each.chosen < len(each.candidates)
