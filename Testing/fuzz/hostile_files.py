"""One DICOM file made hostile: bytes cut and flipped, elements with absurd values, sequences and pixels that are bombs."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable
from functools import cache

from dicom_tree import UNDEFINED, DicomFile, Element, copied, walk
from hostile_values import LENGTHS, NUMBERS, TRANSFER_SYNTAXES, VRS, even, hostile_value

SYNTAX, ROWS, PIXELS, CHARSET = 0x00020010, 0x00280010, 0x7FE00010, 0x00080005
#: Elements that readers ask about; changed as often as all others together.
ASKED = frozenset(
    {
        *(0x00080005, 0x00080008, 0x00080016, 0x00080018, 0x00080060, 0x0020000D, 0x0020000E, 0x00100020, 0x00080022),
        *(0x00200032, 0x00200037, 0x00200052, 0x00280030, 0x00280002, 0x00280004, 0x00280008, 0x00280010, 0x00280011),
        *(0x00280100, 0x00280101, 0x00280102, 0x00280103, 0x00281052, 0x00281053, 0x00280120, 0x7FE00010, 0x00200056),
        *(0x30060020, 0x30060022, 0x30060024, 0x30060026, 0x30060039, 0x30060040, 0x30060042, 0x30060046, 0x30060050),
        *(0x30060084, 0x3006002A, 0x30060010, 0x00620001, 0x00620002, 0x00620004, 0x0062000B, 0x0062000E, 0x00081155),
        *(0x52009229, 0x52009230, 0x00209113, 0x00209116, 0x00289110, 0x00289145, 0x00209221, 0x00209222, 0x00209157),
    }
)


def bytes_changed(data: bytes, draw: random.Random) -> tuple[bytes, str]:
    """A few bytes cut, flipped, moved or repeated, wherever they are."""
    changed, done = bytearray(data), []
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        if len(changed) < 4:
            break
        place = draw.randrange(draw.choice((len(changed), len(changed), min(len(changed), 600))))
        size = draw.choice((1, 2, 4, 8, 40, 300))
        kind = draw.choice(("cut", "bits", "bits", "length", "delete", "repeat", "zeros", "noise", "swap", "head"))
        done.append(kind)
        if kind == "cut":
            del changed[place:]
        elif kind == "bits":
            for _ in range(draw.choice((1, 1, 2, 8))):
                changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
        elif kind == "length":
            changed[place : place + 4] = struct.pack("<I", draw.choice(LENGTHS))
        elif kind == "delete":
            del changed[place : place + size]
        elif kind == "repeat":
            changed[place:place] = changed[place : place + size] * draw.choice((1, 1, 3, 50))
        elif kind == "zeros":
            changed[place : place + size] = bytes(min(size, len(changed) - place))
        elif kind == "noise":
            changed[place : place + size] = draw.randbytes(size)
        elif kind == "swap":
            other = draw.randrange(len(changed))
            changed[place : place + size], changed[other : other + size] = (
                changed[other : other + size],
                changed[place : place + size],
            )
        else:
            del changed[: draw.choice((128, 132, 1, 300))]
    return bytes(changed), "bytes: " + ", ".join(done)


def _places(file: DicomFile) -> list[tuple[list[Element], int]]:
    return [*walk(file.meta), *walk(file.elements)]


def _place(file: DicomFile, draw: random.Random) -> tuple[list[Element], int]:
    """An element of any level: one that readers ask about, as often as any."""
    every = _places(file)
    asked = [(held, place) for held, place in every if held[place].tag in ASKED]
    return draw.choice(asked if asked and draw.random() < 0.7 else every)


def values_changed(file: DicomFile, draw: random.Random) -> str:
    """Elements absent, doubled, out of order, of another kind, or with values that none should have."""
    done = []
    for _ in range(draw.choice((1, 1, 1, 2, 3, 6))):
        if not file.elements:
            break
        held, place = _place(file, draw)
        element = held[place]
        kind = draw.choice(("value", "value", "value", "value", "absent", "vr", "length", "double", "other", "move", "items"))
        done.append(f"{kind} {element.tag:08x}")
        if kind == "value":
            element.value = hostile_value(element, draw)
            if element.vr == "SQ" and draw.random() < 0.5:
                element.vr = draw.choice(VRS)
        elif kind == "absent":
            del held[place]
        elif kind == "vr":
            element.vr = draw.choice(VRS)
        elif kind == "length":
            element.stated = draw.choice(LENGTHS)
        elif kind == "double":
            held.insert(place, element.copy())
        elif kind == "other":
            others, where = _place(file, draw)
            element.value = others[where].copy().value
        elif kind == "move":
            held.insert(draw.randrange(len(held)), held.pop(place))
        else:
            _items_changed(file, draw)
    return "values: " + ", ".join(done)


def _items_changed(file: DicomFile, draw: random.Random) -> None:
    """One sequence with items gone, repeated, emptied or exchanged."""
    sequences = [held[place] for held, place in _places(file) if isinstance(held[place].value, list)]
    if not sequences:
        return
    items = draw.choice(sequences).value
    assert isinstance(items, list)
    kind = draw.randrange(5)
    if kind == 0:
        items.clear()
    elif kind == 1:
        items.insert(draw.randrange(len(items) + 1), [])
    elif kind == 2 and items:
        items.extend(copied(draw.choice(items)) for _ in range(draw.choice((1, 2, 40))))
    elif kind == 3 and items:
        items.pop(draw.randrange(len(items)))
    elif items:
        others = draw.choice(sequences).value
        assert isinstance(others, list)
        items[draw.randrange(len(items))] = copied(draw.choice(others)) if others else []


# ---------------------------------------------------------------------------------------------------- structure


def structure_changed(file: DicomFile, draw: random.Random) -> tuple[bytes, str]:
    """The file's frame is a lie: nesting, transfer syntax, packing, pixels."""
    change = draw.choice(STRUCTURES)
    data = change(file, draw)
    return (file.to_bytes() if data is None else data), "structure: " + change.__name__.strip("_").replace("_", " ")


def _encoded_otherwise(file: DicomFile, draw: random.Random) -> None:
    """In another order than the file says."""
    encoding = file.encoding
    encoding.implicit, encoding.big = draw.random() < 0.5, draw.random() < 0.3
    encoding.open_ended, encoding.deflated = draw.random() < 0.5, draw.random() < 0.2
    if draw.random() < 0.5:
        _set_syntax(file, draw.choice(TRANSFER_SYNTAXES))


def _set_syntax(file: DicomFile, syntax: bytes) -> None:
    for each in file.meta:
        if each.tag == SYNTAX:
            each.value = syntax + b"\0" * (len(syntax) % 2)


def _wrong_transfer_syntax(file: DicomFile, draw: random.Random) -> None:
    _set_syntax(file, draw.choice(TRANSFER_SYNTAXES))


def _no_meta(file: DicomFile, draw: random.Random) -> None:
    if draw.random() < 0.5:
        file.preamble = b""
    file.meta = [] if draw.random() < 0.6 else [each for each in file.meta if draw.random() < 0.5]


def _group_length_lies(file: DicomFile, draw: random.Random) -> None:
    for each in file.meta:
        if each.tag == 0x00020000:
            each.value = struct.pack("<I", draw.choice(LENGTHS))


def _nested_without_end(file: DicomFile, draw: random.Random) -> bytes:
    """A sequence in a sequence in a sequence; written here, because Python itself could not walk it."""
    depth = draw.choice((30, 300, 3000, 30000))
    tag = draw.choice((0x00081115, 0x30060010, 0x52009230, 0x30060039, 0x00091001, 0x00081140))
    head = struct.pack("<HH2sHI", tag >> 16, tag & 0xFFFF, b"SQ", 0, UNDEFINED)
    item = struct.pack("<HHI", 0xFFFE, 0xE000, UNDEFINED)
    bomb = (head + item) * depth
    if draw.random() < 0.5:
        bomb += (struct.pack("<HHI", 0xFFFE, 0xE00D, 0) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)) * depth
    return _with_bytes(file, bomb, tag)


def _with_bytes(file: DicomFile, more: bytes, tag: int) -> bytes:
    """The file with raw bytes where an element of this tag belongs, in its place."""
    every = file.elements
    file.elements = [each for each in every if each.tag < tag]
    start = file.to_bytes()
    rest = DicomFile(b"", [], [each for each in every if each.tag > tag], file.encoding)
    return start + more + rest.to_bytes()


def _wide_without_end(file: DicomFile, draw: random.Random) -> bytes:
    """Very many items, or very many elements."""
    if draw.random() < 0.5:
        count = draw.choice((1000, 50_000, 400_000))
        tag = draw.choice((0x30060020, 0x30060039, 0x52009230, 0x00620002, 0x00081115))
        items = struct.pack("<HHI", 0xFFFE, 0xE000, 0) * count
        return _with_bytes(file, struct.pack("<HH2sHI", tag >> 16, tag & 0xFFFF, b"SQ", 0, len(items)) + items, tag)
    count = draw.choice((1000, 30_000))
    return _with_bytes(file, struct.pack("<HH2sH", 0x0009, 0x1001, b"LO", 0) * count, 0x00091001)


def _contains_itself(file: DicomFile, draw: random.Random) -> None:
    """The whole object again in a sequence of its own, some times over."""
    for _ in range(draw.choice((1, 2, 4))):
        file.elements.append(
            Element(draw.choice((0x00081140, 0x00081115, 0x30060010, 0x52009230)), "SQ", [copied(file.elements)])
        )
        file.elements.sort(key=lambda each: each.tag)


def _refers_to_itself(file: DicomFile, draw: random.Random) -> None:
    """Every reference is to the object itself, every number is the same."""
    own = file.named(0x00080018)
    series = file.named(0x0020000E)
    for held, place in walk(file.elements):
        element = held[place]
        if element.tag == 0x00081155 and own is not None:
            element.value = own.value
        elif element.tag == 0x0020000D and series is not None and draw.random() < 0.5:
            element.value = series.value
        elif element.tag in (0x30060022, 0x30060084, 0x00620004, 0x0062000B) and draw.random() < 0.5:
            element.value = b"1 " if element.vr == "IS" else b"\1\0"


@cache
def _bomb(megabytes: int) -> bytes:
    """A stream of packed zeros: a million of them are a thousand bytes."""
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    start = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    part = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return start + part * (megabytes - 1) + packer.flush()


def _deflated_bomb(file: DicomFile, draw: random.Random) -> bytes:
    """A small file that unpacks to more than memory; of text, and of sequences."""
    _set_syntax(file, b"1.2.840.10008.1.2.1.99")
    head = DicomFile(file.preamble, file.meta, []).to_bytes()
    if draw.random() < 0.3:
        return head + _bomb(_megabytes(draw))
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    body = DicomFile(b"", [], [each for each in file.elements if each.tag < 0x00090000]).to_bytes()
    opened = struct.pack(
        "<HH2sHI", 0x0009, 0x1001, draw.choice((b"OB", b"SQ", b"UT")), 0, draw.choice((UNDEFINED, 2**31, 2**20))
    )
    start = packer.compress(body + opened) + packer.flush(zlib.Z_FULL_FLUSH)
    return head + start + _bomb(_megabytes(draw))


def _megabytes(draw: random.Random) -> int:
    """Seldom more than the readers take: unpacking so much is most of the time of all inputs."""
    return draw.choice((300, 600, 3000)) if draw.random() < 0.06 else draw.choice((1, 3, 10))


def _deflated_and_cut(file: DicomFile, draw: random.Random) -> bytes:
    """Packed as it says, and then cut, or with bytes behind its end."""
    _set_syntax(file, b"1.2.840.10008.1.2.1.99")
    file.encoding.deflated = True
    data = file.to_bytes()
    kind = draw.randrange(3)
    return data if kind == 0 else data + draw.randbytes(50) if kind == 1 else data[: draw.randrange(200, len(data))]


def _image_of_absurd_size(file: DicomFile, draw: random.Random) -> None:
    """Rows, columns, frames and bits that would fill any memory."""
    for tag in (0x00280010, 0x00280011, 0x00280002, 0x00280100, 0x00280101, 0x00280102):
        element = file.named(tag)
        if element is not None and draw.random() < 0.6:
            element.value = struct.pack("<H", draw.choice(NUMBERS) & 0xFFFF)
    frames = file.named(0x00280008)
    if frames is None:
        file.elements.append(Element(0x00280008, "IS", b"1 "))
        file.elements.sort(key=lambda each: each.tag)
        frames = file.named(0x00280008)
    assert frames is not None
    if draw.random() < 0.7:
        frames.value = even(draw.choice((b"0", b"-3", b"2147483647", b"99999999999", b"100000", b"2", b"1.5", b"")))


def _packed_pixels(file: DicomFile, draw: random.Random) -> None:
    """Pixel data said to be compressed: garbage, or the head of a picture of absurd size."""
    _set_syntax(file, draw.choice(TRANSFER_SYNTAXES))
    streams = [draw.choice(CODESTREAMS)(draw) for _ in range(draw.choice((1, 1, 3, 3, 4)))]
    fragments = b"".join(struct.pack("<HHI", 0xFFFE, 0xE000, _stated(len(each), draw)) + each for each in streams)
    table = draw.choice((b"", struct.pack("<I", 0), draw.randbytes(12), struct.pack("<3I", 0, 2**32 - 1, 8)))
    body = struct.pack("<HHI", 0xFFFE, 0xE000, len(table)) + table + fragments
    if draw.random() < 0.8:
        body += struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    for each in file.elements:
        if each.tag == PIXELS:
            each.vr, each.value, each.stated = draw.choice(("OB", "OB", "OW")), body, draw.choice((UNDEFINED, UNDEFINED, None))


def _stated(length: int, draw: random.Random) -> int:
    return length if draw.random() < 0.85 else draw.choice(LENGTHS)


def _noise(draw: random.Random) -> bytes:
    return draw.randbytes(2 * draw.randrange(0, 100))


def _jpeg(draw: random.Random) -> bytes:
    """Start of a JPEG with a frame of any size and process."""
    frame = struct.pack(
        ">HHBHHB3B",
        0xFFC0 + draw.choice((0, 1, 2, 3, 7, 55)),
        11,
        draw.choice((8, 12, 16, 0, 255)),
        draw.choice((8, 0, 65535)),
        draw.choice((8, 0, 65535)),
        draw.choice((1, 3, 0, 255)),
        1,
        0x11,
        0,
    )
    return b"\xff\xd8" + frame + b"\xff\xda" + draw.randbytes(40) + b"\xff\xd9"


def _jpeg2000(draw: random.Random) -> bytes:
    """Start of a JPEG 2000 stream with an image and tiles of any size."""
    size = struct.pack(
        ">HHHIIIIIIIIH3B",
        0xFF51,
        41,
        draw.choice((0, 0x4000)),
        *(draw.choice((8, 8, 0, 65535, 2**32 - 1)) for _ in range(8)),
        draw.choice((1, 3, 0, 16384)),
        draw.choice((15, 7, 255)),
        1,
        1,
    )
    return b"\xff\x4f" + size + b"\xff\x52\0\x0c" + draw.randbytes(10) + b"\xff\x90" + draw.randbytes(40) + b"\xff\xd9"


def _rle(draw: random.Random) -> bytes:
    """A run-length header whose offsets lie."""
    return struct.pack("<16I", *(draw.choice((0, 1, 2, 15, 64, 65, 100, 2**32 - 1)) for _ in range(16))) + draw.randbytes(60)


CODESTREAMS: tuple[Callable[[random.Random], bytes], ...] = (_noise, _jpeg, _jpeg2000, _rle)


def _odd_texts(file: DicomFile, draw: random.Random) -> None:
    """A character set that is none, and text of other letters."""
    charset = draw.choice(
        (b"ISO_IR 192", b"ISO 2022 IR 87\\ISO 2022 IR 58", b"ISO_IR 6\\\\", b"punycode", b"GBK", b"idna", b"hex")
    )
    for held, place in walk(file.elements):
        element = held[place]
        if element.tag == CHARSET:
            element.value = even(charset)
        elif element.vr in ("LO", "SH", "PN", "LT", "ST", "UT", "UC") and draw.random() < 0.7:
            element.value = draw.randbytes(2 * draw.randrange(1, 12))


def _another_object(file: DicomFile, draw: random.Random) -> None:
    """What it is, exchanged: a dose, a report, a directory, a secondary capture, with the same content."""
    classes = (
        *(b"1.2.840.10008.5.1.4.1.1.481.2", b"1.2.840.10008.5.1.4.1.1.88.11", b"1.2.840.10008.1.3.10"),
        *(b"1.2.840.10008.5.1.4.1.1.7", b"1.2.840.10008.5.1.4.1.1.2", b"1.2.840.10008.5.1.4.1.1.481.3"),
        *(
            b"1.2.840.10008.5.1.4.1.1.66.4",
            b"1.2.840.10008.5.1.4.1.1.66.7",
            b"1.2.840.10008.5.1.4.1.1.2.1",
            b"1.2.840.10008.1.1",
        ),
    )
    sop_class = draw.choice(classes)
    for each in (*file.meta, *file.elements):
        if each.tag in (0x00080016, 0x00020002):
            each.value = sop_class + b"\0" * (len(sop_class) % 2)
        elif each.tag == 0x00080060 and draw.random() < 0.5:
            each.value = even(draw.choice((b"CT", b"RTSTRUCT", b"SEG", b"RTDOSE", b"SR", b"OT")))


STRUCTURES: tuple[Callable[[DicomFile, random.Random], bytes | None], ...] = (
    *(_encoded_otherwise, _encoded_otherwise, _wrong_transfer_syntax, _no_meta, _group_length_lies, _nested_without_end),
    *(_wide_without_end, _contains_itself, _refers_to_itself, _deflated_bomb, _deflated_and_cut, _image_of_absurd_size),
    *(_image_of_absurd_size, _packed_pixels, _packed_pixels, _packed_pixels, _odd_texts, _another_object),
)
