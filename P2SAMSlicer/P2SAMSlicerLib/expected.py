"""The expected contour: the registered contour without the tissue that was replaced since the prior visit.

Registration carries the prior's border along, but it cannot take away what a treatment took away. Where the follow-up
differs from the carried prior inside the registered contour (:mod:`~P2SAMSlicerLib.change`) and does not look more like the
lesion than before, the lesion has probably gone. The prompts start from this contour; the registered contour stays a
candidate.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.volume import BoolArray

#: Distance from the registered border, in mm, that weighs as much as one unit of change, and the most that it weighs.
LOCATION_MM = 4.0
LOCATION_LIMIT = 3.0
#: Strength of change that is still nothing, weight of what is above it, and the most that counts.
QUIET_STRENGTH = 0.7
CHANGE_WEIGHT = 3.0
STRENGTH_LIMIT = 3.0
#: A change that raises the HU evidence for lesion by more than this is lesion that moved in, not lesion that left.
TOWARDS_LESION = 0.3
#: Smoothing of the weighing, in mm within the slice.
SMOOTHING_MM = 4.0
#: Pieces of a slice below this share of its area are dropped.
SMALLEST_SHARE = 0.1


def expected_contour(
    distance_mm: NDArray[np.float32], strength: NDArray[np.float32], towards_lesion: NDArray[np.float32], pixel_mm: float
) -> BoolArray:
    """The expected contour of one slice, all arrays ``(H, W)``.

    :param distance_mm: signed distance to the registered contour, positive inside.
    :param strength: see :class:`~P2SAMSlicerLib.change.VisitChange`.
    :param towards_lesion: HU evidence for lesion now, less that of the carried prior.
    :param pixel_mm: pixel size.
    """
    from scipy import ndimage

    location = np.clip(distance_mm / LOCATION_MM, -LOCATION_LIMIT, LOCATION_LIMIT)
    gone = np.clip(strength - QUIET_STRENGTH, 0.0, STRENGTH_LIMIT) * (distance_mm >= 0) * (towards_lesion < TOWARDS_LESION)
    # Only the change is smoothed: where nothing changed, the registered border stays exactly as it is.
    # A distance of exactly 0 is inside, as in the registered contour: between two prior slices a whole slice may have it.
    weighed = location - ndimage.gaussian_filter(CHANGE_WEIGHT * gone, SMOOTHING_MM / pixel_mm)
    mask = (weighed >= 0) & (distance_mm >= 0)
    pieces, count = ndimage.label(mask)
    if count > 1:
        areas = np.bincount(pieces.ravel())
        areas[0] = 0
        mask = (areas >= SMALLEST_SHARE * areas.sum())[pieces]
    return np.asarray(mask, dtype=bool)


def signed_pixels_mm(mask: BoolArray, pixel_mm: float, limit_mm: float) -> NDArray[np.float32]:
    """Signed distance in the slice to a mask's border in mm, positive inside; ``-limit_mm`` everywhere if it is empty."""
    from scipy import ndimage

    if not mask.any():
        return np.full(mask.shape, -limit_mm, dtype=np.float32)
    distance = ndimage.distance_transform_edt(mask) - ndimage.distance_transform_edt(~mask)
    return np.clip(distance * pixel_mm, -limit_mm, limit_mm).astype(np.float32)
