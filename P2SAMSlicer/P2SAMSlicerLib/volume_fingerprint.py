"""By what a follow-up CT is known again: its contours must not be written onto another CT that has the same voxels in space.

Phases of a 4D study and reconstructions of one scan share their grid; only their values tell them apart.
"""

from __future__ import annotations

import hashlib
from enum import Enum

import numpy as np

from P2SAMSlicerLib.orientation import canonical_orientation
from P2SAMSlicerLib.volume import Volume

#: Readers differ in what they make of padding and of metal beyond the CT range, so values are clipped to that range first.
LOWEST_HU, HIGHEST_HU = -1024, 3071


class SameValues(Enum):
    """Whether two fingerprints are of the same values."""

    YES = "yes"
    NO = "no"
    NOT_COMPARABLE = "not comparable"


def volume_fingerprint(volume: Volume) -> str:
    """Size and SHA-256 of a CT's values, the same however its axes are stored.

    Only the middle half along each axis counts: padding outside of the scanner's circle, of which readers make different
    values, never lies there.

    :param volume: in HU.
    :returns: ``SLICESxROWSxCOLUMNS HASH``.
    """
    array = canonical_orientation(volume.grid).canonical_view(volume.array)
    middle = array[tuple(slice(count // 4, count - count // 4) for count in array.shape)]
    digest = hashlib.sha256()
    for plane in middle:
        digest.update(np.rint(np.clip(np.nan_to_num(plane), LOWEST_HU, HIGHEST_HU)).astype("<i2").tobytes())
    return f"{'x'.join(map(str, array.shape))} {digest.hexdigest()}"


def same_values(fingerprint: str, other: str) -> SameValues:
    """Compare two results of :func:`volume_fingerprint`; volumes of different sizes cannot be compared."""
    if not fingerprint or fingerprint.split(" ")[0] != other.split(" ")[0]:
        return SameValues.NOT_COMPARABLE
    return SameValues.YES if fingerprint == other else SameValues.NO
