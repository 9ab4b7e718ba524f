"""A CT volume, and the segments that were contoured on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.geometry import Grid

BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class VisitIdentity:
    """Who was scanned and when, as far as the file says; used only to refuse a mix-up, never printed.

    :param patient_id: DICOM PatientID, or None.
    :param acquired: acquisition (or study) date as ``YYYYMMDD``, or ``YYYYMMDDHHMMSS``, or None.
    """

    patient_id: str | None = None
    acquired: str | None = None


@dataclass(frozen=True)
class Volume:
    """Voxel values on a grid.

    :param array: values ``(z, y, x)``; Hounsfield units for CT.
    :param grid: where the voxels lie.
    :param name: short name for messages and output files (never a patient's name or a path).
    :param identity: patient id and date where the file has them.
    :param warnings: what the reader found and could live with, in words.
    """

    array: NDArray[Any]
    grid: Grid
    name: str = "volume"
    identity: VisitIdentity = field(default_factory=VisitIdentity)
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.array.shape != self.grid.shape:
            raise InputError(f"{self.name}: array shape {self.array.shape} is not the grid's {self.grid.shape}")


@dataclass(frozen=True)
class Segment:
    """One structure of a segmentation.

    :param name: the name that the clinic gave it.
    :param mask: True inside, ``(z, y, x)`` on the segmentation's grid. Masks of different segments may overlap.
    :param color: red, green, blue, each 0..1, or None if the file names none.
    :param terminology: Slicer's terminology entry as ``slicerio`` gives it, or None.
    :param tags: further Slicer segment tags, carried along unchanged.
    """

    name: str
    mask: BoolArray
    color: tuple[float, float, float] | None = None
    terminology: Mapping[str, Any] | None = None
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Segmentation:
    """Segments on one grid.

    :param grid: where the masks lie; it need not be the CT's grid.
    :param segments: in the order of the file.
    :param name: short name for messages.
    """

    grid: Grid
    segments: tuple[Segment, ...]
    name: str = "segmentation"

    def names(self) -> list[str]:
        """The segments' names, in order."""
        return [segment.name for segment in self.segments]

    def select(self, names: Sequence[str] | None) -> list[Segment]:
        """The segments of these names (all if None).

        :raises InputError: a name is not there; the message lists the names that are.
        """
        if not names:
            return list(self.segments)
        by_name = {segment.name: segment for segment in self.segments}
        for name in names:
            if name not in by_name:
                raise InputError(f"{self.name}: no segment named '{name}'; it has: {', '.join(self.names()) or 'none'}")
        return [by_name[name] for name in names]
