"""Reading DICOM files that others made: bounded in bytes, elements and time, and values that are there or not, never an error.

A file may claim any length, nest sequences without end, or unpack to a thousand times its size. The parser reads through a
:class:`BoundedFile`, which gives up instead.
"""

from __future__ import annotations

import logging
import re
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pydicom import Dataset

#: What one header may hold: real ones have a few kilobytes; large structure sets some tens of megabytes.
MOST_HEADER_BYTES = 256 * 2**20
#: Reads of the parser, a few for each element: a structure set of 30,000 contours takes 700,000.
MOST_READS = 1_000_000
#: Elements of the outermost level; real headers have some hundred.
MOST_ELEMENTS = 20_000
#: Items of sequences: a structure set has two or three for a contour. Each takes a hundred times its bytes in memory.
MOST_ITEMS = 200_000
#: Elements that are nothing but zeros, of which packed bombs consist; a double zero reads alike.
MOST_EMPTY = 50_000

_ITEM_TAGS = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")
_HEAD_BYTES = 8

#: Group 2 (file meta information) or 8, in either byte order.
_FIRST_GROUPS = (b"\x02\x00", b"\x08\x00", b"\x00\x02", b"\x00\x08")

#: File endings that promise DICOM.
DICOM_SUFFIXES = frozenset({".dcm", ".dicom", ".ima", ".dic"})

_DEFLATED = "1.2.840.10008.1.2.1.99"
_FUNCTIONAL_GROUPS = 0x52009229
_PIXELS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})


class TooMuchError(OSError):
    """A file holds more than any real one of its kind."""


@dataclass
class ReadBudget:
    """How many reads, items and empty elements are left for one file, in whatever parts it is parsed."""

    reads: int = MOST_READS
    items: int = MOST_ITEMS
    empty: int = MOST_EMPTY

    def take(self, data: bytes) -> None:
        """Count one read.

        :raises TooMuchError: the bounds are reached.
        """
        self.reads -= 1
        if len(data) == _HEAD_BYTES:
            self.items -= data[:4] in _ITEM_TAGS
            self.empty -= not any(data)
        if min(self.reads, self.items, self.empty) < 0:
            raise TooMuchError("more data than any real file has")


class BoundedFile:
    """A binary file for the parser that refuses to be read without end.

    :param most_bytes: sum of all reads.
    :param budget: number of reads and of what they find.
    """

    def __init__(self, file: BinaryIO, most_bytes: int, budget: ReadBudget | None = None) -> None:
        self._file = file
        self._bytes = most_bytes
        self._budget = budget or ReadBudget()
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        """As of a file.

        :raises TooMuchError: the bounds are reached.
        """
        # The system reserves memory for what is asked for, so the bound is applied before.
        data = self._file.read(self._bytes + 1 if size < 0 else min(size, self._bytes + 1))
        self._bytes -= len(data)
        if self._bytes < 0:
            raise TooMuchError("more data than any real file has")
        self._budget.take(data)
        return data


@contextmanager
def quiet() -> Iterator[None]:
    """Keep pydicom's remarks off the terminal and out of logs; they may quote the patient's data."""
    logger = logging.getLogger("pydicom")
    before = logger.disabled
    logger.disabled = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = before


def looks_like_dicom(path: Path) -> bool:
    """Whether a file begins as DICOM does, or as old planning systems write it, without the preamble.

    :raises OSError: it cannot be opened.
    """
    with path.open("rb") as file:
        start = file.read(132)
    return start[128:] == b"DICM" or start[:2] in _FIRST_GROUPS


def read_header(path: Path, tags: Sequence[str] | None = None, *, frames: bool = False) -> Dataset:
    """A file's header, without pixel data.

    :param tags: keywords of the elements to keep; all if None.
    :param frames: also read the functional groups of multi-frame objects, which are large.
    :raises Exception: of any kind, as damaged files make the parser fail in many ways; its words may quote the patient's
        data, so they must not be passed on.
    """
    from pydicom.datadict import tag_for_keyword

    numbers = None if tags is None else [number for tag in tags if (number := tag_for_keyword(tag)) is not None]

    found = 0

    def stop(tag: int, _vr: str | None, _length: int) -> bool:
        nonlocal found
        found += 1
        if found > MOST_ELEMENTS:
            raise TooMuchError("more elements than any real file has")
        return int(tag) in _PIXELS or (not frames and int(tag) >= _FUNCTIONAL_GROUPS)

    return _read(path, MOST_HEADER_BYTES, stop, numbers)


def read_whole(path: Path, most_bytes: int) -> Dataset:
    """A whole file with its pixel data.

    :param most_bytes: what it may hold, unpacked.
    :raises Exception: see :func:`read_header`.
    """
    return _read(path, most_bytes, None, None)


def _read(path: Path, most_bytes: int, stop: object, tags: list[int] | None) -> Dataset:
    from pydicom.filereader import read_partial

    with path.open("rb") as file:
        source: object = BoundedFile(_inflated(file, most_bytes), most_bytes)
        dataset = read_partial(source, stop_when=stop, force=True, specific_tags=tags)  # type: ignore[arg-type]
    dataset.buffer = None  # closed, and it would keep the dataset from being handed to another process
    return dataset


def _inflated(file: BinaryIO, most_bytes: int) -> BinaryIO:
    """The file itself; or, of a deflated one, its content as a plain file, unpacked no further than the bound."""
    from pydicom.filereader import _read_file_meta_info, read_preamble

    preamble = read_preamble(BoundedFile(file, most_bytes), True)  # type: ignore[arg-type]
    if preamble is None:
        return file
    bounded = BoundedFile(file, most_bytes)
    meta = _read_file_meta_info(bounded)  # type: ignore[arg-type]
    if str(meta.get("TransferSyntaxUID", "")) != _DEFLATED:
        file.seek(0)
        return file
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    data = unpacker.decompress(bounded.read(), most_bytes)
    if unpacker.unconsumed_tail:
        raise TooMuchError("unpacks to more data than any real file has")
    from pydicom.filebase import DicomBytesIO
    from pydicom.filewriter import write_file_meta_info
    from pydicom.uid import ExplicitVRLittleEndian

    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    head = DicomBytesIO()
    write_file_meta_info(head, meta, enforce_standard=False)
    return BytesIO(preamble + b"DICM" + head.getvalue() + data)


def text(header: Dataset, tag: str) -> str:
    """A value as text, empty if absent or unreadable."""
    try:
        value = header.get(tag)
        return "" if value is None else str(value).strip()
    except Exception:  # the parser decodes values only now, and fails in many ways on damaged ones
        return ""


def code(header: Dataset, tag: str) -> str:
    """A coded word such as a modality, which may be shown; empty if there is anything else in its place.

    Where a file is damaged, the text of other elements may stand there, a patient's name among them.
    """
    word = text(header, tag)
    return word if re.fullmatch("[A-Z][A-Z0-9]{1,15}", word) else ""


def texts(header: Dataset, tag: str) -> tuple[str, ...]:
    """All values of a tag as text, none if absent or unreadable."""
    try:
        value = header.get(tag)
        if value is None or value == "":
            return ()
        values = [value] if isinstance(value, str) or not hasattr(value, "__iter__") else list(value)
        return tuple(str(each).strip() for each in values)
    except Exception:  # see above
        return ()


def number(header: Dataset, tag: str) -> float | None:
    """A value as a finite number, None if it is none."""
    try:
        value = float(text(header, tag))
    except ValueError:
        return None
    return value if abs(value) < float("inf") else None


def floats(header: Dataset, tag: str, count: int) -> NDArray[np.float64] | None:
    """``count`` finite numbers of a tag; None if it is absent, has another number of values, or they are no numbers."""
    try:
        values = np.array([float(value) for value in header.get(tag)], dtype=np.float64)
    except Exception:  # absent, or text that is no number; the parser decodes late and fails in many ways
        return None
    return values if values.shape == (count,) and bool(np.isfinite(values).all()) else None


def items(header: Dataset, tag: str, budget: ReadBudget | None = None) -> list[Dataset]:
    """The items of a sequence, none if it is absent, unreadable, or more than the budget allows.

    :param budget: shared by all sequences of one file; without one, this sequence alone has to be within the usual bounds.
    """
    from pydicom import Dataset
    from pydicom.dataelem import RawDataElement
    from pydicom.filereader import read_sequence

    try:
        if tag not in header:
            return []
        element = header.get_item(tag)
        if not isinstance(element, RawDataElement):
            return [each for each in element.value or () if isinstance(each, Dataset)]
        # The parser left it for later, and would do it without bounds.
        value = element.value or b""
        # It looks at the beginning of each item twice.
        source: object = BoundedFile(BytesIO(value), 4 * len(value), budget)
        return list(
            read_sequence(
                source,
                element.is_implicit_VR,
                element.is_little_endian,
                len(value),
                header.original_character_set or "iso8859",
            )
        )
    except Exception:  # sequences may be damaged or nest too deep
        return []


def moment(header: Dataset, kinds: Sequence[str] = ("Acquisition", "Series", "Study")) -> str | None:
    """``YYYYMMDD`` or ``YYYYMMDDHHMMSS`` of the first of these events that has a date which is in the calendar."""
    for kind in kinds:
        date = "".join(filter(str.isdigit, text(header, f"{kind}Date")))
        time = text(header, f"{kind}Time").split(".")[0].replace(":", "")
        if not date and kind == "Acquisition":  # multi-frame objects have both in one
            both = text(header, "AcquisitionDateTime")
            date, time = both[:8], both[8:14]
        if _is_moment(date, "%Y%m%d", 8):
            return date + (time if _is_moment(time, "%H%M%S", 6) else "")
    return None


def _is_moment(digits: str, pattern: str, length: int) -> bool:
    if len(digits) != length or not (digits.isascii() and digits.isdigit()):
        return False
    try:
        datetime.strptime(digits, pattern)
    except ValueError:
        return False
    return True


def is_localizer(header: Dataset) -> bool:
    """Whether an image is a scout view."""
    return any("LOCALIZER" in each.upper() for each in texts(header, "ImageType"))


#: Third value of the image type of what is no CT but computed from it.
_MAPS = frozenset({"PERFUSION", "MATERIAL_MAP", "VELOCITY", "PROJECTION IMAGE"})


def map_kind(header: Dataset) -> str:
    """Of what an image is a map that was computed from a CT, such as ``PERFUSION``; empty for a CT itself."""
    kind = (*texts(header, "ImageType"), "", "", "")[2].upper()
    return kind if kind in _MAPS else ""
