"""Which stored slice a slice of the volume goes back to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.dicom.ct_reference import CtReference, SliceReference
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.geometry import Grid

#: What is said of contours on slices that were never stored.
RESAMPLED_WARNING = (
    "the CT was resampled to an even grid before it was contoured, so contours lie between its stored slices; each refers to"
    " the stored slice that is nearest"
)


@dataclass(frozen=True)
class SlicePlace:
    """One slice of the volume.

    :param stored: the stored slice to which it belongs.
    :param offset: LPS mm from the grid's slice to the plane in which contours are drawn; zero but for rounded positions.
    """

    stored: SliceReference
    offset: NDArray[np.float64]


def slice_places(grid: Grid, reference: CtReference) -> tuple[SlicePlace, ...]:
    """The stored slice of every slice along the grid's z axis.

    :raises InputError: the reference holds no slices, or not one for each slice of a volume that was not resampled.
    """
    if not reference.slices:
        raise InputError("the CT's DICOM slices are not known, so contours cannot refer to them")
    normal = grid.direction_matrix[:, 2]
    stored = np.array([each.position for each in reference.slices], dtype=np.float64) @ normal
    centres = np.array([grid.to_physical(np.array([[0.0, 0.0, z]]))[0] for z in range(grid.shape[0])]) @ normal
    if reference.resampled:
        return tuple(SlicePlace(reference.slices[int(np.abs(stored - each).argmin())], np.zeros(3)) for each in centres)
    if len(reference.slices) != grid.shape[0] or np.abs(stored - centres).max() > 0.5 * grid.spacing[2]:
        raise InputError("the contours do not lie on the slices of the DICOM series that was given; is it another series?")
    return tuple(
        SlicePlace(each, (place - centre) * normal)
        for each, place, centre in zip(reference.slices, stored, centres, strict=True)
    )


def reference_warnings(reference: CtReference) -> tuple[str, ...]:
    """What is to be known of contours that refer to these slices, in words."""
    return (RESAMPLED_WARNING,) if reference.resampled else ()
