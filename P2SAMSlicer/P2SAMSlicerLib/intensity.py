"""Voxel values: whether they can be Hounsfield units, and windows that turn them into 8-bit images."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.volume import Volume

#: The range of a 12-bit CT. Padding (-2000, -3024) lies below it, metal above.
HU_RANGE = (-1024, 3071)

#: Voxels that a plausibility check looks at; shares of them are as good as shares of all.
SAMPLE_SIZE = 1_000_000

#: A CT whose values span less than this shows nothing.
LEAST_RANGE = 50.0
#: Below this there is no tissue and no air, only padding (one or two fixed values) and streaks.
BELOW_AIR_HU = -1200.0
MOST_BELOW_AIR = 0.05
#: Fat and whatever is lighter; even a tight field of view holds some.
LIGHT_HU = -30.0
LEAST_LIGHT = 0.001
#: Air inside or outside of the body.
AIR_HU = -850.0
#: Muscle, organs, blood with and without contrast agent, fat.
SOFT_TISSUE_HU = (-200.0, 300.0)
LEAST_SOFT_TISSUE = 0.01
#: Bone and metal.
DENSE_HU = 600.0
MOST_DENSE = 0.25
#: A share of metal that is worth a word.
METAL_SHARE = 1e-4

ScalarT = TypeVar("ScalarT", bound=np.generic)


class Modality(str, Enum):
    """What made the volume; it decides how far the values are believed."""

    CT = "ct"
    CBCT = "cbct"


@dataclass(frozen=True)
class Window:
    """Values from ``low`` to ``high`` become 0 to 255.

    :raises InputError: not finite, or ``high`` is not above ``low``.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (np.isfinite(self.low) and np.isfinite(self.high) and self.high > self.low):
            raise InputError(f"window from {self.low:g} to {self.high:g}: the upper end must be above the lower")

    @classmethod
    def from_level(cls, level: float, width: float) -> Window:
        """The window as a viewer states it: its middle and its width."""
        return cls(level - width / 2, level + width / 2)


#: The window of the authors' experiments on CT (method of the paper, image preparation of their code).
PAPER_WINDOW = Window(-910.0, 590.0)

#: Windows by name: the paper's, and the viewer's usual ones for soft tissue (level 40, width 400) and lung (-600, 1500).
WINDOWS = {
    "paper": PAPER_WINDOW,
    "soft tissue": Window.from_level(40.0, 400.0),
    "lung": Window.from_level(-600.0, 1500.0),
}


def check_hounsfield(volume: Volume, modality: Modality = Modality.CT) -> list[str]:
    """Whether the values can be Hounsfield units: air near -1000, fat near -100, soft tissue near 0 to 100.

    A CT is refused if one of these holds for its voxels (a regular sample of at most a million):

    * they span less than 50: nothing is to be seen, or values were scaled to 0..1;
    * none is negative: MR, PET, 8-bit images, or stored values to which the rescale was not applied;
    * fewer than 0.1 % are below -30, so neither air nor fat;
    * more than 5 % are below -1200, other than the two most frequent values, which may be padding: rescale applied twice;
    * fewer than 1 % are within -200..300: no soft tissue where it should be;
    * more than 25 % are above 600: everything is bone, so the zero point is wrong.

    A CBCT scanner's values are rarely true HU, so there the same findings are warnings, and only a constant volume is refused;
    use :func:`percentile_window` for it.

    :param volume: values without NaN.
    :param modality: what the user, or the DICOM header, says it is.
    :returns: warnings in words, without the volume's name.
    :raises InputError: the values cannot be HU.
    """
    step = max(1, volume.array.size // SAMPLE_SIZE)
    values = np.sort(volume.array.reshape(-1)[::step]).astype(np.float64)
    if values[0] == values[-1]:
        raise InputError(f"{volume.name}: all voxels have the value {values[0]:g}")
    doubt = _doubt(values)
    if modality is Modality.CBCT:
        return [f"the values are not Hounsfield units ({doubt}); the window is taken from their percentiles"] if doubt else []
    if doubt:
        raise InputError(f"{volume.name}: the values are not Hounsfield units ({doubt})")
    warnings = []
    if _share(values, -np.inf, AIR_HU) < LEAST_LIGHT:
        warnings.append("no air in the field of view, so that the Hounsfield units cannot be verified")
    metal = _share(values, HU_RANGE[1] + 1, np.inf)
    if metal > METAL_SHARE:
        warnings.append(f"{metal:.2%} of the voxels are above {HU_RANGE[1]} HU (metal?) and are clipped")
    return warnings


def _doubt(values: NDArray[np.float64]) -> str:
    """Why sorted values cannot be HU, or an empty string."""
    low, high = values[0], values[-1]
    if high - low < LEAST_RANGE:
        return f"they only span {low:g} to {high:g}"
    if low >= 0:
        return f"none is negative, they span {low:g} to {high:g}: MR, PET, cone-beam CT, or stored values without rescale?"
    light = _share(values, -np.inf, LIGHT_HU)
    if light < LEAST_LIGHT:
        return f"only {light:.2%} are below {LIGHT_HU:g}, so there is neither air nor fat"
    below = values[: np.searchsorted(values, BELOW_AIR_HU)]
    _, counts = np.unique(below, return_counts=True)
    scattered = (below.size - np.sort(counts)[-2:].sum()) / values.size
    if scattered > MOST_BELOW_AIR:
        return f"{scattered:.0%} are below {BELOW_AIR_HU:g}: rescale applied twice?"
    tissue = _share(values, *SOFT_TISSUE_HU)
    if tissue < LEAST_SOFT_TISSUE:
        return f"only {tissue:.1%} are within {SOFT_TISSUE_HU[0]:g} to {SOFT_TISSUE_HU[1]:g}, where soft tissue should be"
    dense = _share(values, DENSE_HU, np.inf)
    return f"{dense:.0%} are above {DENSE_HU:g}: rescale not applied?" if dense > MOST_DENSE else ""


def _share(values: NDArray[np.float64], low: float, high: float) -> float:
    """Share of sorted values in ``low <= value < high``."""
    first, last = np.searchsorted(values, [low, high])
    return float(last - first) / values.size


def clip_hu(array: NDArray[ScalarT]) -> NDArray[ScalarT]:
    """Values clipped to :data:`HU_RANGE`, in the same type; before resampling and registration, where padding would bleed."""
    clipped: NDArray[ScalarT] = np.clip(array, *HU_RANGE)
    return clipped


def percentile_window(array: NDArray[Any], low: float = 0.5, high: float = 99.5) -> Window:
    """A window for values without a fixed scale, such as a CBCT's.

    :param array: values of any shape. If more than 5 % of them have the smallest value, these are padding and do not count.
    :param low: percentile that becomes 0.
    :param high: percentile that becomes 255.
    :raises InputError: the values that count are all the same.
    """
    values = array.reshape(-1)[:: max(1, array.size // SAMPLE_SIZE)].astype(np.float64)
    padding = values == values.min()
    if 0.05 < padding.mean() < 1:
        values = values[~padding]
    ends = np.percentile(values, [low, high])
    if ends[0] == ends[1]:
        ends = np.array([array.min(), array.max()])
    return Window(float(ends[0]), float(ends[1]))


def to_uint8(array: NDArray[Any], window: Window) -> NDArray[np.uint8]:
    """Values clipped to the window and scaled to 0..255, rounded to the nearest; same shape."""
    gray = np.clip(array.astype(np.float32), window.low, window.high)
    gray -= np.float32(window.low)
    gray *= np.float32(255.0 / (window.high - window.low))
    return np.rint(gray).astype(np.uint8)


def to_rgb(array: NDArray[Any], window: Window) -> NDArray[np.uint8]:
    """The windowed values as an image of three equal channels ``(..., 3)``, which is what the models take."""
    return np.repeat(to_uint8(array, window)[..., None], 3, axis=-1)


@dataclass(frozen=True)
class GreyScale:
    """How a slice's values became the greys that a model saw.

    :param window: see :class:`Window`.
    :param offset_hu: taken from every value before; the offset between the visits, so that the same tissue has the same grey.
    """

    window: Window
    offset_hu: float = 0.0

    def image(self, plane: NDArray[Any]) -> NDArray[np.uint8]:
        """A slice ``(H, W)`` as the image ``(H, W, 3)`` that a model takes."""
        return to_rgb(plane.astype(np.float32) - np.float32(self.offset_hu), self.window)
