"""Structure sets written and read again on a small grid, and how their refusals must read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from P2SAMSlicerLib.dicom.read_contours import ReadContours
from P2SAMSlicerLib.dicom.structure_set_reader import read_structure_set
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.volume import BoolArray
from structure_sets import FRAME, NAME, PATIENT, SERIES, Roi, rectangle, reference, structure_set, write

GRID = Grid((10, 24, 30), (1.5, 1.25, 3.0), (-20.0, 12.5, -40.0))


def read(tmp_path: Path, *rois: Roi, grid: Grid = GRID, names: tuple[str, ...] = (), **elements: Any) -> ReadContours:
    """What comes of these structures with the CT's own reference."""
    return read_structure_set(write(structure_set(rois, **elements), tmp_path / "rs.dcm"), grid, reference(grid), names)


def refusal(tmp_path: Path, *rois: Roi, grid: Grid = GRID, names: tuple[str, ...] = (), **elements: Any) -> str:
    """Why they are refused: one line that tells nobody's name."""
    with pytest.raises(InputError) as caught:
        read(tmp_path, *rois, grid=grid, names=names, **elements)
    return one_line(str(caught.value))


def one_line(message: str) -> str:
    assert "\n" not in message
    assert len(message) < 500
    for secret in (PATIENT, NAME, "Doe", "rs.dcm", FRAME, SERIES):
        assert secret not in message
    return message


def only(found: ReadContours) -> BoolArray:
    (segment,) = found.segmentation.segments
    return segment.mask


def boxes(low: float, high: float, places: list[float], grid: Grid = GRID) -> list[NDArray[np.float64]]:
    """Squares between two voxel indices on some planes."""
    return [rectangle(grid, (low, low), (high, high), place) for place in places]
