"""A cone-beam CT's grey values on the scale of Hounsfield units, near enough for registration.

The registration looks for the body's surface at a fixed HU and clips to the range of CT. A CBCT's values may have any zero
point and scale (stored values, scatter), so its air and its soft tissue are looked for in its own histogram and brought to
where CT has them. Cupping and streaks stay, so that the deformable step, which compares values, must compare local contrast
instead: 50 HU too much in a whole muscle would pull demons by centimetres.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.intensity import SAMPLE_SIZE, clip_hu

if TYPE_CHECKING:
    import SimpleITK as sitk

#: Where CT has what the two classes of values consist of.
AIR_HU, TISSUE_HU = -1000.0, 20.0
#: Share of the values' variance that lies between two classes: two peaks far apart have nearly all of it, a single bell 0.64
#: and evenly spread values 0.75.
TWO_PEAKS = 0.82
#: The smallest value is padding if more voxels than this have it, and none has a value within this part of the others' range.
PADDING_SHARE, PADDING_GAP = 0.05, 0.25
#: Ends of the range that counts, percentiles: beyond lie metal and streaks.
_ENDS = (0.5, 99.5)

#: Local contrast: the neighbourhood of a voxel (sigma), the value of one local deviation, the least deviation that is not
#: noise, the most deviations that count, and the value outside the body. Chosen on two simulated CBCTs of real CT.
LOCAL_MM, UNIT_HU, LEAST_DEVIATION_HU, MOST_DEVIATIONS, OUTSIDE_HU = 15.0, 60.0, 20.0, 3.0, -300.0


def approximate_hu(array: NDArray[Any]) -> NDArray[np.int16]:
    """A CBCT's values brought to about HU, clipped to :data:`~P2SAMSlicerLib.intensity.HU_RANGE`.

    Air becomes -1000 and soft tissue 20, linear between and beyond. Where no air is to be seen (a field of view within the
    body), the scale is believed and soft tissue alone is brought to its place. Padding ends up at or below air.

    :param array: finite values of any shape, not all the same.
    :returns: the same shape.
    """
    scale, shift = _line(_sample(array))
    values = array.astype(np.float32)
    values *= np.float32(scale)
    values += np.float32(shift)
    return np.rint(clip_hu(values)).astype(np.int16)


def _sample(array: NDArray[Any]) -> NDArray[np.float64]:
    """Sorted values that count: a regular sample, without padding, clipped at both ends."""
    values = np.sort(array.reshape(-1)[:: max(1, array.size // SAMPLE_SIZE)]).astype(np.float64)
    rest = values[np.searchsorted(values, values[0], side="right") :]
    if 0 < rest.size < (1 - PADDING_SHARE) * values.size:
        low, high = np.percentile(rest, _ENDS)
        # Air that the scanner cut off at its smallest value is no padding: noise lies next to it.
        if low - values[0] > PADDING_GAP * (high - low):
            values = rest
    return np.clip(values, *np.percentile(values, _ENDS))


def _line(values: NDArray[np.float64]) -> tuple[float, float]:
    """Scale and shift that bring values to HU."""
    import SimpleITK as sitk

    otsu = sitk.OtsuThresholdImageFilter()
    otsu.SetNumberOfHistogramBins(256)
    otsu.Execute(sitk.GetImageFromArray(values[None]))
    air, tissue = values[values <= otsu.GetThreshold()], values[values > otsu.GetThreshold()]
    between = air.size * tissue.size / values.size**2 * (tissue.mean() - air.mean()) ** 2 if air.size and tissue.size else 0.0
    if between < TWO_PEAKS * values.var() or between == 0:
        return 1.0, TISSUE_HU - float(np.median(values))
    dark, bright = float(np.median(air)), float(np.median(tissue))
    scale = (TISSUE_HU - AIR_HU) / (bright - dark)
    return scale, TISSUE_HU - scale * bright


def local_contrast(image: sitk.Image, body_hu: float) -> sitk.Image:
    """How far each voxel of the body lies above or below its neighbourhood, in units of that neighbourhood's deviation.

    Cupping and a wrong zero point or scale vanish; edges stay.

    :param image: float32, about HU.
    :param body_hu: what is not above it is air, which is left out of the neighbourhoods and gets one value.
    :returns: float32 on the image's grid, within +-180, -300 in air.
    """
    import SimpleITK as sitk

    body = sitk.Cast(image > body_hu, sitk.sitkFloat32)
    weight = _smooth(body) + 0.05
    offset = image - _float(_smooth(image * body) / weight)
    deviation = sitk.Sqrt(sitk.Maximum(_float(_smooth(offset * offset * body) / weight), LEAST_DEVIATION_HU**2))
    contrast = sitk.Clamp(_float(offset / _float(deviation)), sitk.sitkFloat32, -MOST_DEVIATIONS, MOST_DEVIATIONS)
    return _float(_float(contrast * UNIT_HU) * body + _float((1.0 - body) * OUTSIDE_HU))


def _smooth(image: sitk.Image) -> sitk.Image:
    import SimpleITK as sitk

    return _float(sitk.SmoothingRecursiveGaussian(image, LOCAL_MM))


def _float(image: sitk.Image) -> sitk.Image:
    """As float32 again: SimpleITK's arithmetic may return doubles, and refuses to mix them."""
    import SimpleITK as sitk

    result: sitk.Image = sitk.Cast(image, sitk.sitkFloat32)
    return result
