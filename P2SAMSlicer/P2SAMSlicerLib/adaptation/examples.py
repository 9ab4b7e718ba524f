"""Training slices as clinical mode sees them: a square region of interest around the lesion, and the true contour on it."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.adaptation.annotated_ct import AnnotatedCT
from P2SAMSlicerLib.adaptation.surroundings import in_lung
from P2SAMSlicerLib.clinical import BEYOND_ENDS_MM, REGION_PIXELS
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.intensity import WINDOWS, to_rgb
from P2SAMSlicerLib.region import Region, region_around
from P2SAMSlicerLib.volume import BoolArray, Volume

#: A lesion's slices are thinned out to at most this many, because neighbours are much alike.
SLICES_PER_CT = 16
#: Placements of the region: the usual one, and others with another size and centre.
PLACEMENTS = 2
#: Chance that another placement shows the tumour in lung.
IN_LUNG = 0.35
LARGEST_SHIFT_MM = 12.0
SIZE_RANGE = (0.9, 1.35)
#: Brightness and contrast of the other placements, as in the paper's augmentation.
BRIGHTNESS = 0.2


@dataclass(frozen=True)
class Example:
    """One slice of one lesion.

    :param patient: see :class:`AnnotatedCT`.
    :param image: ``(P, P, 3)`` uint8 on the region of interest.
    :param truth: the contour ``(P, P)``; empty beyond the lesion's ends.
    :param nearest: the contour of the nearest slice that has one ``(P, P)``.
    :param pixel_mm: pixel size.
    """

    patient: str
    image: NDArray[np.uint8]
    truth: BoolArray
    nearest: BoolArray
    pixel_mm: float


def examples_of(ct: AnnotatedCT, margin_mm: float, seed: int) -> list[Example]:
    """The training slices of one CT.

    :param margin_mm: tissue shown around the lesion in the usual placement.
    :param seed: of the other placements.
    :raises InputError: a file cannot be used.
    """
    from P2SAMSlicerLib.contour import separate_lesions
    from P2SAMSlicerLib.segment_propagation import SEPARATE_LESIONS_MM

    try:
        volume, mask = _read(ct)
    except InputError as error:
        # The same file names are in every case.
        raise InputError(f"{ct.ct.parent.name}: {error}") from error
    # Of the name, so that a CT's slices do not depend on which others are there.
    rng = np.random.default_rng([seed, zlib.crc32(ct.name.encode())])
    found: list[Example] = []
    for lesion in separate_lesions(mask, volume.grid, SEPARATE_LESIONS_MM):
        region = region_around(lesion, volume.grid, margin_mm, REGION_PIXELS)
        for placement in range(PLACEMENTS):
            placed = region if placement == 0 else _elsewhere(region, rng)
            found += _slices(ct.patient, volume, lesion, mask, placed, rng if placement else None)
    if not found:
        raise InputError(f"{ct.name}: its contour is empty")
    return found


def _read(ct: AnnotatedCT) -> tuple[Volume, BoolArray]:
    """CT and contour in canonical order and the working frame, as clinical mode has them."""
    from P2SAMSlicerLib.orientation import to_working_frame
    from P2SAMSlicerLib.resample import segments_on_grid
    from P2SAMSlicerLib.segmentation_file import read_segmentation
    from P2SAMSlicerLib.volume_file import read_volume

    volume, segmentation = read_volume(ct.ct), read_segmentation(ct.contour)
    several = len(segmentation.segments) > 1
    if several and ct.segment is None:
        raise InputError(f"{segmentation.name} holds several structures; name the tumour as 'segment' in case.json")
    # The name of a single one does not matter, as in benchmark cases.
    segments, _ = segments_on_grid(segmentation, [ct.segment] if several and ct.segment else None, volume.grid)
    canonical, orientation, _ = to_working_frame(volume)
    return canonical, orientation.to_canonical(segments[0].mask)


def _elsewhere(region: Region, rng: np.random.Generator) -> Region:
    side = region.side * rng.uniform(*SIZE_RANGE)
    x, y = rng.uniform(-LARGEST_SHIFT_MM, LARGEST_SHIFT_MM, 2)
    return Region(region.left + x + (region.side - side) / 2, region.top + y + (region.side - side) / 2, side, region.pixels)


def _slices(
    patient: str, volume: Volume, lesion: BoolArray, mask: BoolArray, region: Region, rng: np.random.Generator | None
) -> Iterator[Example]:
    present = np.flatnonzero(lesion.any(axis=(1, 2)))
    beyond = int(np.ceil(BEYOND_ENDS_MM / volume.grid.spacing[2]))
    first, last = max(0, int(present[0]) - beyond), min(len(lesion) - 1, int(present[-1]) + beyond)
    step = math.ceil((last - first + 1) / SLICES_PER_CT)
    lung = rng is not None and rng.random() < IN_LUNG
    for z in range(first, last + 1, step):
        nearest = lesion[min(present, key=lambda other: (abs(other - z), other))]
        shown = region.crop(nearest.astype(np.float32), volume.grid, outside=0.0) > 0.5
        if not shown.any():
            continue
        hu = region.crop(volume.array[z], volume.grid)
        truth = region.crop(mask[z].astype(np.float32), volume.grid, outside=0.0) > 0.5
        if rng is not None:
            hu = in_lung(hu, truth, region.pixel_mm, rng) if lung else hu
            hu = (hu - 40.0) * rng.uniform(1 - BRIGHTNESS, 1 + BRIGHTNESS) + 40.0 + rng.uniform(-15.0, 15.0)
        image = to_rgb(hu.astype(np.float32), WINDOWS["soft tissue"])
        yield Example(patient, image, truth, shown, region.pixel_mm)
