"""Folders of annotated CTs for the tests of the training: the small body, one lesion a patient."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.volume import BoolArray, Segment, Segmentation, Volume
from P2SAMSlicerLib.volume_file import write_volume
from small_body import body, ellipsoid

#: 7 slices of 5 mm; the lesion is seen on the middle three.
GRID = Grid((7, 48, 52), (3.0, 3.0, 5.0), (-77.0, -71.0, -15.0))
RADII = (14.0, 11.0, 8.0)


def lesion(shift: float = 0.0) -> BoolArray:
    """A lesion near the body's centre."""
    return ellipsoid(GRID, (8.0 + shift, -6.0, 0.0), RADII)


def write_pair(folder: Path, ct: str, contour: str, volume: Volume, mask: BoolArray) -> None:
    """A CT and its contour as a label map, or as a segmentation by the name's ending."""
    from P2SAMSlicerLib.segmentation_file import write_segmentation

    folder.mkdir(parents=True, exist_ok=True)
    write_volume(volume, folder / ct)
    if contour.endswith(".seg.nrrd"):
        write_segmentation(Segmentation(volume.grid, (Segment("GTV", mask),)), folder / contour)
    else:
        write_volume(Volume(mask.astype(np.uint8), volume.grid, "seg"), folder / contour)


def write_patients(folder: Path, count: int = 2) -> Path:
    """A folder of patients, each with one CT of the small body and its lesion."""
    for number in range(count):
        mask = lesion(4.0 * number)
        write_pair(folder / f"P{number}", "ct.nii.gz", "seg.nii.gz", body([mask], GRID, 5 + number), mask)
    return folder
