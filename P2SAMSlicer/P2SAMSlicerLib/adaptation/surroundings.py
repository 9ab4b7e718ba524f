"""A tumour shown in lung: its surroundings replaced by air-filled tissue, up to a chest wall.

Tumours of soft tissue alone would teach a model that a tumour's surroundings are muscle and fat (the base knows better), so
some training slices show the same tumour, with the same contour, in other surroundings.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.volume import BoolArray

#: HU of aerated lung and how much it varies, HU of its vessels, and the share of the lung that they take.
LUNG_HU, LUNG_VARIATION_HU, VESSEL_HU, VESSEL_SHARE = -840.0, 45.0, 20.0, 0.04
#: Sizes of the lung's structures, and blur of the border as a scanner's, in mm (standard deviations).
TEXTURE_MM, VESSEL_MM, BORDER_MM = 3.0, 2.0, 0.6
#: How far from the tumour's border the chest wall may begin, in mm; below zero the tumour touches it.
WALL_MM = (-5.0, 25.0)


def in_lung(hu: NDArray[np.float32], tumour: BoolArray, pixel_mm: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """The slice with lung around the tumour, and a wall on one side that is left as it was.

    :param hu: ``(H, W)``.
    :param tumour: ``(H, W)``.
    """
    from scipy import ndimage

    texture = ndimage.gaussian_filter(rng.standard_normal(hu.shape), TEXTURE_MM / pixel_mm)
    vessels = ndimage.gaussian_filter(rng.standard_normal(hu.shape), VESSEL_MM / pixel_mm)
    lung = LUNG_HU + LUNG_VARIATION_HU * texture / max(float(texture.std()), 1e-6)
    lung[vessels > np.quantile(vessels, 1 - VESSEL_SHARE)] = VESSEL_HU
    kept = (tumour | _wall(tumour, pixel_mm, rng)).astype(np.float64)
    share = ndimage.gaussian_filter(kept, BORDER_MM / pixel_mm)
    shown: NDArray[np.float32] = (share * hu + (1 - share) * lung).astype(np.float32)
    return shown


def _wall(tumour: BoolArray, pixel_mm: float, rng: np.random.Generator) -> BoolArray:
    """The half plane beyond a line on one side of the tumour."""
    angle = rng.uniform(0, 2 * np.pi)
    rows, columns = np.indices(tumour.shape)
    along = (rows * np.sin(angle) + columns * np.cos(angle)) * pixel_mm
    end = float(along[tumour].max()) if tumour.any() else float(np.median(along))
    wall: BoolArray = along > end + rng.uniform(*WALL_MM)
    return wall
