"""Values that no element of a DICOM file should have."""

from __future__ import annotations

import random
import struct

from dicom_tree import Element

TEXTS = (
    *(b"", b" ", b"\\", b"\\\\\\\\", b"0", b"-1", b"1", b"2", b"-0", b"0.0", b"0\\0", b"-2\\-2", b"1e-320\\1e-320", b"1e300"),
    *(b"1e300\\1e300", b"-1e308\\1e308\\1e308", b"NaN", b"nan\\nan", b"inf", b"-inf\\inf\\nan", b"1e999", b"65535", b"65536"),
    *(b"4294967295", b"2147483648", b"-2147483649", b"99999999999999999999", b"1,5", b"0x10", b"1_0", b"\xd9\xa3", b"abc"),
    *(
        b"1\\2",
        b"1\\2\\3",
        b"1\\0\\0\\0\\1\\0",
        b"0\\0\\0\\0\\0\\0",
        b"1\\0\\0\\1\\0\\0",
        b"2\\0\\0\\0\\2\\0",
        b"1\\0\\0\\0\\1",
    ),
    *(
        b"\0",
        b"\0\0\0\0",
        b"\xff\xfe\xfd\xfc",
        b"\x1b$B\x1b(B",
        b"\xc3\x28",
        b"%s%n{0}",
        b"../../etc",
        b"a\nb\r\nc",
        b"\x1b[31m",
    ),
    *(
        b"FUZZ^PATIENT",
        b"FUZZ\nTraceback",
        b"19310203",
        b"00000000",
        b"99999999",
        b"20240230",
        b"20240101",
        b"240000",
        b"9" * 70,
    ),
    *(b"A" * 70000, b"1\\" * 5000, b"0\\" * 20001, b"\\".join(b"%d" % n for n in range(3000))),
)
#: For elements whose values readers ask about.
KINDS = {
    0x00080005: (
        b"",
        b"ISO_IR 192",
        b"ISO 2022 IR 87\\ISO 2022 IR 13",
        b"GB18030",
        b"ISO_IR 999",
        b"\\\\",
        b"utf-16",
        b"rot13",
    ),
    0x00080016: (
        *(
            b"1.2.840.10008.5.1.4.1.1.2",
            b"1.2.840.10008.5.1.4.1.1.2.1",
            b"1.2.840.10008.5.1.4.1.1.2.2",
            b"1.2.840.10008.1.3.10",
        ),
        *(b"1.2.840.10008.5.1.4.1.1.66.4", b"1.2.840.10008.5.1.4.1.1.481.3", b"1.2.840.10008.5.1.4.1.1.66.7", b"1.2.3"),
    ),
    0x00080060: (b"CT", b"RTSTRUCT", b"SEG", b"MR", b"PT", b"RTDOSE", b"ct"),
    0x00080008: (b"ORIGINAL\\PRIMARY\\LOCALIZER", b"DERIVED\\PRIMARY\\VOLUME\\PERFUSION", b"\\\\\\\\\\", b"LOCALIZER"),
    0x00280004: (b"RGB", b"MONOCHROME1", b"PALETTE COLOR", b"YBR_FULL_422", b"ARGB", b"XYZ"),
    0x30060042: (b"POINT", b"OPEN_PLANAR", b"OPEN_NONPLANAR", b"CLOSEDPLANAR_XOR", b"CLOSED_PLANAR_XOR", b"?"),
    0x00620001: (b"BINARY", b"FRACTIONAL", b"LABELMAP", b"binary", b"TRUTH"),
    0x300E0002: (b"APPROVED", b"UNAPPROVED", b"REJECTED", b"?"),
}
TRANSFER_SYNTAXES = (
    *(b"1.2.840.10008.1.2", b"1.2.840.10008.1.2.1", b"1.2.840.10008.1.2.1.99", b"1.2.840.10008.1.2.2", b"1.2.840.10008.1.2.5"),
    *(b"1.2.840.10008.1.2.4.50", b"1.2.840.10008.1.2.4.51", b"1.2.840.10008.1.2.4.57", b"1.2.840.10008.1.2.4.70"),
    *(b"1.2.840.10008.1.2.4.80", b"1.2.840.10008.1.2.4.81", b"1.2.840.10008.1.2.4.90", b"1.2.840.10008.1.2.4.91"),
    *(b"1.2.840.10008.1.2.4.100", b"1.2.840.10008.1.2.4.201", b"1.2.840.10008.1.2.4.203", b"1.2.840.10008.1.2.8.1"),
    *(b"1.2.840.10008.1.2.4.110", b"1.2.840.10008.1.20", b"1.2.3", b"", b"\0", b"abc", b"1.2.840.10008.1.2.1 " * 9),
)
VRS = (
    "AE",
    "AT",
    "CS",
    "DA",
    "DS",
    "FD",
    "IS",
    "LO",
    "OB",
    "OW",
    "PN",
    "SQ",
    "SS",
    "UI",
    "UL",
    "UN",
    "US",
    "UT",
    "??",
    "\0\0",
    "UR",
)
NUMBERS = (0, 1, 2, 3, 7, 8, 9, 255, 256, 32767, 32768, 65534, 65535, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1)
#: Largest, smallest, endless and no numbers, as eight bytes.
DOUBLES = tuple(struct.pack("<d", each) for each in (0.0, -0.0, 1e308, -1e308, 5e-324, float("inf"), float("nan"), 65535.0))
LENGTHS = (0, 1, 2, 7, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFF0, 0xFFFFFFFE, 0xFFFFFFFF)


def even(value: bytes) -> bytes:
    """As long as the format asks for."""
    return value + b" " * (len(value) % 2)


def hostile_value(element: Element, draw: random.Random) -> bytes:
    """A value for an element: one that its kind may have at a wrong place, or one that nothing may have."""
    if element.tag in KINDS and draw.random() < 0.6:
        return even(draw.choice(KINDS[element.tag]))
    if element.vr in ("US", "SS", "UL", "SL", "AT") and draw.random() < 0.8:
        size = 2 if element.vr in ("US", "SS") else 4
        return b"".join(
            (draw.choice(NUMBERS) % 256**size).to_bytes(size, "little") for _ in range(draw.choice((1, 1, 1, 0, 2, 3)))
        )
    if element.vr in ("FD", "FL") and draw.random() < 0.8:
        return draw.choice(DOUBLES) * draw.choice((1, 1, 2, 3))
    value = draw.choice(TEXTS)
    # Odd lengths are a fault of their own.
    return value if draw.random() < 0.1 else even(value)
