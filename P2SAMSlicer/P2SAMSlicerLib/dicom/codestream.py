"""The size that a compressed image states for itself.

Decoders reserve memory for it before they look at anything else, so a few bytes can ask for all memory there is.
"""

from __future__ import annotations

import struct

#: Markers of JPEG and JPEG-LS that are followed by height and width.
_FRAME_MARKERS = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}


def stated_size(data: bytes) -> tuple[int, int] | None:
    """Rows and columns of a JPEG, JPEG-LS or JPEG 2000 image; None if it says none, or is of another kind."""
    if data[:4] == b"\xff\x4f\xff\x51":
        if len(data) < 24:
            return None
        width, height, left, top = struct.unpack_from(">4I", data, 8)
        return height - top, width - left
    if data[:2] == b"\xff\xd8":
        return _jpeg_size(data)
    return None


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    place = 2
    while place + 9 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xFF:  # padding before a marker
            place += 1
            continue
        if marker in _FRAME_MARKERS:
            height, width = struct.unpack_from(">2H", data, place + 5)
            return height, width
        place += 2 + int(struct.unpack_from(">H", data, place + 2)[0])
    return None
