"""Masks and planes of levels as plain values for JSON, and back: compressed, in base64; of a mask its packed bits."""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.volume import BoolArray

#: Little more than a fast pass: these are written while someone waits.
COMPRESSION_LEVEL = 6


def packed(mask: BoolArray) -> dict[str, Any]:
    """A whole mask of any number of axes."""
    bits = zlib.compress(np.packbits(mask).tobytes(), COMPRESSION_LEVEL)
    return {"shape": [int(n) for n in mask.shape], "bits": base64.b64encode(bits).decode("ascii")}


def unpacked(entry: Mapping[str, Any], axes: int, most: int) -> BoolArray:
    """The mask that :func:`packed` wrote.

    :param axes: number of its axes.
    :param most: a mask with more elements is damaged or hostile, and must not fill the memory.
    :raises ValueError: it has another shape or other bits than it says; also KeyError, TypeError and zlib.error.
    """
    shape = tuple(int(n) for n in entry["shape"])
    count = math.prod(shape)
    if len(shape) != axes or min(shape) < 1 or count > most:
        raise ValueError("shape")
    bits = _decompressed(entry["bits"], (count + 7) // 8)
    mask: BoolArray = np.unpackbits(bits, count=count).reshape(shape).view(np.bool_)
    return mask


def packed_levels(levels: NDArray[np.uint8]) -> dict[str, Any]:
    """A plane ``(y, x)`` of levels."""
    content = zlib.compress(levels.tobytes(), COMPRESSION_LEVEL)
    return {"shape": [int(n) for n in levels.shape], "levels": base64.b64encode(content).decode("ascii")}


def unpacked_levels(entry: Mapping[str, Any], most: int) -> NDArray[np.uint8]:
    """The plane that :func:`packed_levels` wrote.

    :raises ValueError: see :func:`unpacked`.
    """
    height, width = (int(n) for n in entry["shape"])
    if min(height, width) < 1 or height * width > most:
        raise ValueError("shape")
    return _decompressed(entry["levels"], height * width).reshape(height, width)


def _decompressed(text: str, size: int) -> NDArray[np.uint8]:
    """So many bytes, and no more are ever made."""
    reader = zlib.decompressobj()
    content: NDArray[np.uint8] = np.frombuffer(reader.decompress(base64.b64decode(text, validate=True), size), dtype=np.uint8)
    if len(content) != size or reader.unconsumed_tail:
        raise ValueError("bits")
    return content


def packed_volume(mask: BoolArray) -> dict[str, Any]:
    """A mask ``(z, y, x)`` of a volume, of which most is empty: only the box around it is kept."""
    found = [np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    entry: dict[str, Any] = {"shape": [int(n) for n in mask.shape], "inside": None}
    if len(found[0]):
        start = [int(each[0]) for each in found]
        box = tuple(slice(int(each[0]), int(each[-1]) + 1) for each in found)
        entry["inside"] = {"start": start, **packed(mask[box])}
    return entry


def unpacked_volume(entry: Mapping[str, Any], most: int) -> BoolArray:
    """The mask that :func:`packed_volume` wrote.

    :raises ValueError: see :func:`unpacked`.
    """
    nz, ny, nx = (int(n) for n in entry["shape"])
    if min(nz, ny, nx) < 1 or nz * ny * nx > most:
        raise ValueError("shape")
    mask = np.zeros((nz, ny, nx), dtype=np.bool_)
    inside = entry["inside"]
    if inside is not None:
        part = unpacked(inside, 3, most)
        start = [int(n) for n in inside["start"]]
        ends = [first + length for first, length in zip(start, part.shape, strict=True)]
        if min(start) < 0 or any(end > size for end, size in zip(ends, mask.shape, strict=True)):
            raise ValueError("start")
        mask[tuple(slice(first, end) for first, end in zip(start, ends, strict=True))] = part
    return mask
