"""A DICOM file as a tree of elements that may be changed into anything, and written with every lie that the format allows."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

#: VRs whose length takes four bytes.
LONG = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"})
UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD


@dataclass
class Element:
    """One element.

    :param tag: group and element, ``0xGGGGEEEE``.
    :param value: bytes as they are stored, or the items of a sequence.
    :param stated: the length that its header states; None for the true one.
    """

    tag: int
    vr: str
    value: bytes | list[list[Element]]
    stated: int | None = None

    def copy(self) -> Element:
        """One that shares nothing with it."""
        value = self.value if isinstance(self.value, bytes) else [copied(item) for item in self.value]
        return Element(self.tag, self.vr, value, self.stated)


Elements = list[Element]


def copied(elements: Elements) -> Elements:
    """Elements that share nothing with these."""
    return [each.copy() for each in elements]


def walk(elements: Elements) -> Iterator[tuple[Elements, int]]:
    """Every element of every level, as its list and its place in it."""
    for place, each in enumerate(elements):
        yield elements, place
        if isinstance(each.value, list):
            for item in each.value:
                yield from walk(item)


@dataclass
class Encoding:
    """How the data set is written.

    :param implicit: without VRs.
    :param big: lengths and tags in big-endian order; values stay as they are.
    :param open_ended: sequences and items end with delimiters instead of stating their length.
    :param deflated: packed.
    """

    implicit: bool = False
    big: bool = False
    open_ended: bool = False
    deflated: bool = False


@dataclass
class DicomFile:
    """A whole file.

    :param meta: elements of group 2.
    """

    preamble: bytes
    meta: Elements
    elements: Elements
    encoding: Encoding = field(default_factory=Encoding)

    def copy(self) -> DicomFile:
        """One that shares nothing with it."""
        e = self.encoding
        encoding = Encoding(e.implicit, e.big, e.open_ended, e.deflated)
        return DicomFile(self.preamble, copied(self.meta), copied(self.elements), encoding)

    def to_bytes(self) -> bytes:
        """The file as it is stored."""
        body = written(self.elements, self.encoding)
        if self.encoding.deflated:
            packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
            body = packer.compress(body) + packer.flush()
        return self.preamble + written(self.meta, Encoding()) + body

    def named(self, tag: int) -> Element | None:
        """The element of the outermost level with this tag."""
        return next((each for each in (*self.meta, *self.elements) if each.tag == tag), None)


def written(elements: Elements, encoding: Encoding) -> bytes:
    """Elements as they are stored."""
    return b"".join(_element(each, encoding) for each in elements)


def _tag(tag: int, big: bool) -> bytes:
    return struct.pack(">HH" if big else "<HH", tag >> 16, tag & 0xFFFF)


def _length(length: int, encoding: Encoding) -> bytes:
    return struct.pack(">I" if encoding.big else "<I", length & 0xFFFFFFFF)


def _element(each: Element, encoding: Encoding) -> bytes:
    if isinstance(each.value, list):
        body = b"".join(_item(item, encoding) for item in each.value)
        if encoding.open_ended:
            body += _tag(_SEQUENCE_END, encoding.big) + b"\0\0\0\0"
        length = UNDEFINED if encoding.open_ended else len(body)
    else:
        body, length = each.value, len(each.value)
    length = length if each.stated is None else each.stated
    head = _tag(each.tag, encoding.big)
    if encoding.implicit:
        return head + _length(length, encoding) + body
    vr = each.vr.encode("latin-1")[:2].ljust(2)
    if each.vr in LONG:
        return head + vr + b"\0\0" + _length(length, encoding) + body
    return head + vr + struct.pack(">H" if encoding.big else "<H", length & 0xFFFF) + body


def _item(item: Elements, encoding: Encoding) -> bytes:
    body = written(item, encoding)
    if not encoding.open_ended:
        return _tag(_ITEM, encoding.big) + _length(len(body), encoding) + body
    end = _tag(_ITEM_END, encoding.big) + b"\0\0\0\0"
    return _tag(_ITEM, encoding.big) + _length(UNDEFINED, encoding) + body + end


def parsed(data: bytes) -> DicomFile:
    """A file in explicit little-endian order with defined lengths, as :mod:`dicom_seeds` makes them."""
    elements = _elements(data, 132, len(data))
    meta = [each for each in elements if each.tag >> 16 == 2]
    return DicomFile(data[:132], meta, elements[len(meta) :])


def _elements(data: bytes, at: int, end: int) -> Elements:
    found = []
    while at < end:
        group, number = struct.unpack_from("<HH", data, at)
        vr = data[at + 4 : at + 6].decode("latin-1")
        if vr in LONG:
            length, start = struct.unpack_from("<I", data, at + 8)[0], at + 12
        else:
            length, start = struct.unpack_from("<H", data, at + 6)[0], at + 8
        if length == UNDEFINED:  # packed pixels, which are the last element of the files that are made here
            found.append(Element(group << 16 | number, vr, data[start:end], UNDEFINED))
            return found
        value = data[start : start + length]
        found.append(Element(group << 16 | number, vr, _items(value) if vr == "SQ" else value))
        at = start + length
    return found


def _items(data: bytes) -> list[Elements]:
    found, at = [], 0
    while at < len(data):
        length = struct.unpack_from("<I", data, at + 4)[0]
        found.append(_elements(data, at + 8, at + 8 + length))
        at += 8 + length
    return found
