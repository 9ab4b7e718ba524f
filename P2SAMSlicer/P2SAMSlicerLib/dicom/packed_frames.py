"""Frames of one bit a voxel, which follow each other without a gap: a frame may begin within a byte."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray


def packed_frames(stream: BinaryIO, chosen: Sequence[int], size: tuple[int, int]) -> Iterator[NDArray[Any]]:
    """Values 0 and 1 ``(y, x)`` of these frames, one after the other.

    pydicom 3.0's own way to single frames fails where the pixels of a frame are no multiple of eight.

    :param stream: an uncompressed DICOM object with BitsAllocated 1.
    :param size: rows and columns.
    :raises ValueError: there are fewer pixels than the frames need; also whatever the parser raises.
    """
    import pydicom

    stream.seek(0)
    data = pydicom.dcmread(stream, specific_tags=["PixelData"], force=True).PixelData
    packed = np.frombuffer(data, dtype=np.uint8)
    rows, columns = size
    for index in chosen:
        first = index * rows * columns
        last = first + rows * columns
        if last > 8 * packed.size:
            raise ValueError("too few pixels")
        bits = np.unpackbits(packed[first // 8 : -(-last // 8)], bitorder="little")
        yield bits[first % 8 : first % 8 + rows * columns].reshape(rows, columns)
