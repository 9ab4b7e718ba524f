"""The axes of image planes, from ImageOrientationPatient."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.geometry import ORTHONORMAL_TOLERANCE


def plane_axes(orientation: NDArray[np.float64], what: str) -> NDArray[np.float64]:
    """Row, column and normal as the columns of a matrix, exactly orthonormal: headers round to six decimals.

    :param orientation: the six direction cosines.
    :param what: whose they are, for the message.
    :raises InputError: they are not at right angles, or not of unit length.
    """
    row, column = orientation[:3], orientation[3:]
    if abs(row @ column) > ORTHONORMAL_TOLERANCE or np.abs([row @ row - 1, column @ column - 1]).max() > ORTHONORMAL_TOLERANCE:
        raise InputError(f"{what} are not at right angles, or not of unit length")
    row = row / np.linalg.norm(row)
    column = column - (column @ row) * row
    column = column / np.linalg.norm(column)
    axes: NDArray[np.float64] = np.stack([row, column, np.cross(row, column)], axis=1)
    return axes
