"""Whether what is called lesion on both visits still looks the same: a check for a tumour that is gone.

The dangerous contour is the one that is drawn at its old size although the tumour shrank or vanished. Where the registration
holds, tissue that was lesion and still is keeps its HU; tissue that took its place seldom does. The check looks at HU alone,
coarser than :mod:`~P2SAMSlicerLib.change`, which made the expected contour, and at what is left of the lesion after that. It
cannot see tissue of the same HU (muscle in the place of a tumour that was isodense with it), and it also objects to a tumour
that stayed but darkened (necrosis), which a person wants to see as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from P2SAMSlicerLib.contour import bounding_box
from P2SAMSlicerLib.volume import BoolArray

if TYPE_CHECKING:
    import SimpleITK as sitk

#: Width of the Gaussian that takes out noise and a border that is off by a millimetre or two.
SMOOTHING_MM = 3.0
#: A smoothed difference of more than this is a change: noise and beam hardening stay below it, fat or fluid in the place of a
#: tumour do not.
CHANGED_HU = 15.0
#: Differences beyond this are counted as this, or one voxel of gas would change all its neighbours.
LARGEST_HU = 300.0
#: What lies between these distances outside the registered contour says how well the two CTs agree where nothing is claimed.
RING_MM = (3.0, 20.0)
#: Below this volume most of a lesion is border, and its difference is the registration's.
LEAST_ML = 5.0


def lost_share(
    followup: sitk.Image, prior: sitk.Image, transform: sitk.Transform, contour: BoolArray, registered: BoolArray
) -> float | None:
    """Share of what is lesion on both visits whose HU became less like the prior lesion's, less the surroundings' change.

    Lesion on both visits is the common volume of contour and registered contour; of the surroundings every change counts.
    The offset between the visits' HU (median difference in the surroundings) is taken out first.

    :param followup: follow-up CT in HU, thinned out to some millimetres; float32.
    :param prior: prior CT in HU, likewise.
    :param transform: from follow-up points to prior points.
    :param contour: ``(z, y, x)`` on the grid of ``followup``.
    :param registered: the registered prior contour on the same grid.
    :returns: 0 or less where nothing is lost, at most 1; None where too little is known to say.
    """
    import SimpleITK as sitk
    from scipy import ndimage

    spacing = np.asarray(followup.GetSpacing())[::-1]
    if (contour & registered).sum() * float(np.prod(spacing)) / 1000.0 < LEAST_ML:
        return None
    box = bounding_box(registered, [int(np.ceil(RING_MM[1] / s)) for s in spacing])
    near = sitk.RegionOfInterest(followup, registered[box].shape[::-1], [int(part.start) for part in box[::-1]])
    outside = -3000.0
    before = sitk.GetArrayFromImage(sitk.Resample(prior, near, transform, sitk.sitkLinear, outside))
    now = sitk.GetArrayFromImage(near)
    known = before > outside + 1
    distance = ndimage.distance_transform_edt(~registered[box], spacing)
    ring = (distance > RING_MM[0]) & (distance <= RING_MM[1]) & known
    kept = contour[box] & registered[box] & known
    if not ring.any() or not kept.any():
        return None
    difference = now - before
    difference = np.where(known, difference - np.median(difference[ring]), 0.0)
    sigma = SMOOTHING_MM / spacing
    difference = ndimage.gaussian_filter(np.clip(difference, -LARGEST_HU, LARGEST_HU), sigma)
    changed = np.abs(difference) > CHANGED_HU
    # Fat or lung that a growing tumour took is no loss: what counts has become less like the lesion than it was.
    like = ndimage.gaussian_filter(np.where(known, before, 0.0), sigma) - np.median(before[registered[box] & known])
    lost = changed & (np.abs(like + difference) > np.abs(like))
    return float(lost[kept].mean() - changed[ring].mean())
