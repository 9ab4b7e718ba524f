"""How time and work grow with slices, lesions, visits and candidates: it must be in proportion, with one encode a crop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.models.encode_cache import RUN_BYTES, EncodeCache
from P2SAMSlicerLib.models.protocol import PromptableModel
from P2SAMSlicerLib.options import PropagationOptions
from P2SAMSlicerLib.propagation import propagate
from P2SAMSlicerLib.speed.counting import CountingModel
from P2SAMSlicerLib.speed.steps import timed
from P2SAMSlicerLib.volume import BoolArray, Segment, Volume

#: What grows -> how far.
SIZES: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {"slices": (6, 12, 24), "lesions": (1, 2, 4), "visits": (1, 2, 4), "parts": (1, 3, 5)}
)
#: Of the phantom: HU of fat, muscle and lesion; noise; voxel size in mm; radius of a lesion in voxels.
_FAT, _MUSCLE, _LESION, _NOISE = -100.0, 50.0, 90.0, 12.0
_SPACING = (1.5, 1.5, 3.0)
_RADIUS = 8
_SIDE = 160
#: Voxels between the middles of lesions: far more than what makes them one.
_APART = 40


@dataclass(frozen=True)
class GrowthRow:
    """One size.

    :param grows: ``slices``, ``lesions``, ``visits`` or ``parts``.
    :param encoded: images; ``distinct`` different ones.
    :param prompt_sets: decoded, in ``decode_calls`` calls.
    """

    grows: str
    size: int
    seconds: float
    encoded: int
    distinct: int
    prompt_sets: int
    decode_calls: int


def measure_growth(model: PromptableModel, *, tell: Callable[[str], None]) -> tuple[GrowthRow, ...]:
    """Carry the lesions of phantoms of growing size, registration left out; the visits as one run of a patient."""
    rows = []
    for grows, sizes in SIZES.items():
        for size in sizes:
            tell(f"{size} {grows}")
            rows.append(_row(model, grows, size))
    return tuple(rows)


def steepness(rows: Sequence[GrowthRow], value: Callable[[GrowthRow], float]) -> float:
    """What the last step of growth cost for each unit, relative to the step before; 1 where it grows in proportion."""
    first, middle, last = rows[0], rows[1], rows[-1]
    before = (value(middle) - value(first)) / (middle.size - first.size)
    after = (value(last) - value(middle)) / (last.size - middle.size)
    return after / before if before else float("nan")


def _row(model: PromptableModel, grows: str, size: int) -> GrowthRow:
    slices, lesions, visits, parts = (size if grows == name else SIZES[name][0] for name in SIZES)
    counting = CountingModel(model)
    remembered = EncodeCache(counting, RUN_BYTES)
    prior, mask = phantom(slices, lesions, seed=0)
    options = PropagationOptions(registration="none", max_parts=parts)

    def carry() -> None:
        for visit in range(visits):
            propagate(remembered, prior, [Segment("lesion", mask)], phantom(slices, lesions, seed=1 + visit)[0], options)

    _, seconds = timed(carry)
    return GrowthRow(grows, size, seconds, counting.encoded, counting.distinct, counting.prompt_sets, counting.decode_calls)


def phantom(slices: int, lesions: int, seed: int) -> tuple[Volume, BoolArray]:
    """A muscle in fat with round lesions far from each other; noise after the seed.

    :param slices: that show a lesion; four more lie on either side.
    """
    shape = (slices + 8, _SIDE, _SIDE)
    _, rows, columns = np.indices(shape)
    middle = (_SIDE - 1) / 2
    values = np.where(np.hypot(rows - middle, columns - middle) < _SIDE * 0.47, _MUSCLE, _FAT)
    mask = np.zeros(shape, dtype=np.bool_)
    for number in range(lesions):
        y, x = (middle + _APART * (sign - 0.5) for sign in (number // 2, number % 2))
        mask[4:-4] |= np.hypot(rows - y, columns - x)[4:-4] < _RADIUS
    values[mask] = _LESION
    values += np.random.default_rng(seed).normal(0.0, _NOISE, shape)
    return Volume(np.rint(values).astype(np.int16), Grid(shape, _SPACING), "phantom"), mask
