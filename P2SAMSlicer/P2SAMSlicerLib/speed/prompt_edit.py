"""How long a person waits after moving a point: one slice asked again, with the slices beside it."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from P2SAMSlicerLib.edited_prompts import EditedPrompts, redecode
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.models.encode_cache import EncodeCache
from P2SAMSlicerLib.propagation import propagate
from P2SAMSlicerLib.result import SliceResult
from P2SAMSlicerLib.speed.case import SpeedCase
from P2SAMSlicerLib.speed.steps import timed

#: How far the point is moved, in pixels of the image that the model sees.
MOVED_PIXELS = 6.0


@dataclass(frozen=True)
class EditFindings:
    """Seconds are medians over slices.

    :param edits: slices that were edited, one after the other.
    :param first_seconds: the whole follow-up before.
    :param seconds: an edit while the worker still has the slices' features.
    :param forgotten_seconds: an edit after they were forgotten, as after a restart: the slices are encoded again.
    :param again_seconds: the whole follow-up again with other settings (one part fewer), features remembered.
    """

    edits: int
    first_seconds: float
    seconds: float
    forgotten_seconds: float
    again_seconds: float


def measure_edit(case: SpeedCase, model: Any, edits: int, *, tell: Callable[[str], None]) -> EditFindings:
    """Carry a case, then move a point on some slices.

    :raises InputError: the case's contour has no slice that a model drew.
    """
    from P2SAMSlicerLib.options import PropagationOptions

    cached = EncodeCache(model)
    tell("the follow-up before the edit")
    visit, first = timed(lambda: propagate(cached, case.prior, [case.segment], case.followup))
    slices = visit.segments[0].slices
    drawn = [each for each in slices if each.best is not None and each.best.mask.any()]
    if not drawn:
        raise InputError(f"{case.name}: no slice with a contour to edit")
    chosen = [drawn[row] for row in np.unique(np.linspace(0, len(drawn) - 1, edits).round().astype(int))]
    remembered, forgotten = [], []
    for number, each in enumerate(chosen):
        edit = [_moved(each)]
        tell(f"edit {number + 1} of {len(chosen)}")
        remembered.append(timed(lambda edit=edit: redecode(cached, case.followup, slices, edit))[1])  # type: ignore[misc]
        forgotten.append(timed(lambda edit=edit: redecode(model, case.followup, slices, edit))[1])  # type: ignore[misc]
    tell("the follow-up again with other settings")
    fewer = PropagationOptions(max_parts=max(1, PropagationOptions().parts - 1))
    again = timed(lambda: propagate(cached, case.prior, [case.segment], case.followup, fewer))[1]
    return EditFindings(len(chosen), first, statistics.median(remembered), statistics.median(forgotten), again)


def _moved(result: SliceResult) -> EditedPrompts:
    """A point in the middle of the contour's rows, moved to the side by some pixels."""
    assert result.best is not None
    rows, columns = np.nonzero(result.best.mask)
    middle = len(rows) // 2
    point = np.array([[float(columns[middle]), float(rows[middle])]], dtype=np.float32)
    point[0, 0] = min(point[0, 0] + MOVED_PIXELS, result.best.mask.shape[1] - 1)
    return EditedPrompts(result.index, point, np.array([1], dtype=np.int64), None, result.lesion)
