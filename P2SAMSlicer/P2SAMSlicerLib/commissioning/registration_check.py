"""How far the registration is right, where the truth is known: target registration error and inverse consistency (TG-132)."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.options import PropagationOptions
from P2SAMSlicerLib.propagation import RegisteredVisits, register_visits
from P2SAMSlicerLib.volume import BoolArray, Segment, Volume

Points = NDArray[np.float64]

#: A large tumour's voxels are thinned to about this many points.
MOST_POINTS = 2000


def lesion_points(mask: BoolArray, volume: Volume) -> Points:
    """LPS points ``(n, 3)`` of a mask's voxel centres, evenly thinned where there are many."""
    indices = np.argwhere(mask)[:, ::-1].astype(np.float64)
    return volume.grid.to_physical(indices[:: 1 + len(indices) // MOST_POINTS])


def mapped(visits: RegisteredVisits, points: Points) -> Points:
    """Where a registration maps LPS points of the follow-up on the prior."""
    frame, transform = visits.case.frame, visits.registration.transform
    working = (points - frame.origin) @ frame.rotation
    moved = np.asarray([transform.TransformPoint(point.tolist()) for point in working])
    return np.asarray(moved @ frame.rotation.T + frame.origin, dtype=np.float64)


def registration_error_mm(
    visits: RegisteredVisits, truth: BoolArray, followup: Volume, known: Callable[[Points], Points]
) -> float:
    """Mean distance between where the registration and the simulation map the true tumour's voxels; NaN without a tumour.

    :param truth: the tumour on the follow-up.
    :param known: the simulated map of LPS points of the follow-up to the prior.
    """
    points = lesion_points(truth, followup)
    return _mean_length(mapped(visits, points) - known(points)) if len(points) else math.nan


def inverse_consistency_mm(
    visits: RegisteredVisits, prior: Volume, truth: BoolArray, followup: Volume, options: PropagationOptions
) -> float:
    """Mean distance by which the true tumour's voxels miss themselves, mapped to the prior and back; NaN without a tumour.

    The way back is a registration of its own, of the prior to the follow-up.

    :raises InputError: the visits cannot be registered that way round.
    """
    points = lesion_points(truth, followup)
    if not len(points):
        return math.nan
    back = register_visits(followup, [Segment("GTV", truth)], prior, options)
    return _mean_length(mapped(back, mapped(visits, points)) - points)


def _mean_length(vectors: Points) -> float:
    return float(np.linalg.norm(vectors, axis=1).mean())
