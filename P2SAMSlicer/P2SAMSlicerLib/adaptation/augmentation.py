"""Flips, rotation and scale of a training slice (appendix B); its brightness is varied where the slice is made."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from P2SAMSlicerLib.adaptation.examples import Example

LARGEST_ANGLE = 10.0
SCALES = (0.8, 1.2)


def augmented(example: Example, rng: np.random.Generator) -> Example:
    """The slice and its contours, flipped, turned and scaled alike."""
    from scipy import ndimage

    side = example.truth.shape[0]
    scale, angle = rng.uniform(*SCALES), np.deg2rad(rng.uniform(-LARGEST_ANGLE, LARGEST_ANGLE))
    cosine, sine = np.cos(angle) / scale, np.sin(angle) / scale
    flips = np.diag(rng.choice([-1.0, 1.0], 2))
    matrix = flips @ np.array([[cosine, -sine], [sine, cosine]])
    centre = np.full(2, (side - 1) / 2)
    offset = centre - matrix @ centre

    def moved(plane: np.ndarray) -> np.ndarray:
        return ndimage.affine_transform(plane, matrix, offset, order=1, mode="constant")

    image = np.stack([moved(example.image[..., channel]) for channel in range(3)], axis=-1)
    truth, nearest = (moved(mask.astype(np.float32)) > 0.5 for mask in (example.truth, example.nearest))
    if not nearest.any() or (example.truth.any() and not truth.any()):
        return example  # the lesion was turned out of the picture
    return replace(example, image=image, truth=truth, nearest=nearest, pixel_mm=example.pixel_mm / scale)
