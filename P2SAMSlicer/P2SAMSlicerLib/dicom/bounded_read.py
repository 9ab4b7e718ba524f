"""Reading DICOM files that others made: bounded in bytes, elements, items and time.

A file may claim any length, nest sequences without end, or unpack to a thousand times its size. The parser reads through a
:class:`BoundedFile`, which gives up instead. What a header says is told by :mod:`P2SAMSlicerLib.dicom.header`.
"""

from __future__ import annotations

import logging
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from P2SAMSlicerLib.errors import InputError

if TYPE_CHECKING:
    from pydicom import Dataset

STRUCTURE_SET_CLASS = "1.2.840.10008.5.1.4.1.1.481.3"
SEGMENTATION_CLASS = "1.2.840.10008.5.1.4.1.1.66.4"
LABEL_MAP_CLASS = "1.2.840.10008.5.1.4.1.1.66.7"

#: What one header may hold, everything but the pixels: most have a few kilobytes, a structure set of 200 structures 100 MB.
MOST_HEADER_BYTES = 256 * 2**20
#: Size of a file, and of what a deflated one becomes.
MOST_BYTES = 4 * 2**30
MOST_INFLATED_BYTES = 512 * 2**20
#: Reads of the parser, a few for each element: a structure set of 30,000 contours takes 700,000.
MOST_READS = 5_000_000
#: Elements of the outermost level; real headers have some hundred.
MOST_ELEMENTS = 20_000
#: Items of sequences, of all levels: a contour has two or three, a segmentation's frame ten. Each takes a hundred times its
#: bytes in memory.
MOST_ITEMS = 300_000
#: Elements that are nothing but zeros, of which packed bombs consist, and items of no length; a double zero reads alike.
MOST_EMPTY = 50_000

_ITEM_TAGS = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")
_NO_LENGTH = bytes(4)
_HEAD_BYTES = 8
_CHUNK = 1 << 24

#: Group 2 (file meta information) or 8, in either byte order.
_FIRST_GROUPS = (b"\x02\x00", b"\x08\x00", b"\x00\x02", b"\x00\x08")

#: File endings that promise DICOM.
DICOM_SUFFIXES = frozenset({".dcm", ".dicom", ".ima", ".dic"})

_DEFLATED = b"1.2.840.10008.1.2.1.99"
_FUNCTIONAL_GROUPS = 0x52009229
_PIXEL_GROUP = 0x7FE0


class TooMuchError(OSError):
    """A file holds more than any real one of its kind."""


class CutShortError(OSError):
    """A file ends before what it says it holds."""


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
            is_item = data[:4] in _ITEM_TAGS
            self.items -= is_item
            self.empty -= data[4:] == _NO_LENGTH if is_item else not any(data)
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


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn whatever a parser raises on damaged content into one line, and keep its remarks, which may quote the patient's data.

    :param what: the object, for the message.
    :raises InputError: anything was raised that is not an :class:`InputError` already.
    """
    with quiet():
        try:
            yield
        except InputError:
            raise
        except MemoryError as error:
            raise InputError(f"{what}: too large for this computer's memory") from error
        except TooMuchError as error:
            raise InputError(f"{what}: holds more than any real object of its kind") from error
        except CutShortError as error:
            raise InputError(f"{what}: the file is cut short") from error
        except Exception as error:  # parsers fail in many ways, and their words may quote the patient's data
            raise InputError(f"{what}: cannot be read (damaged, cut short, or not of this kind)") from error


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
    with path.open("rb") as file:
        return header_of(_inflated(file, MOST_HEADER_BYTES), tags, frames=frames)


def header_of(stream: BinaryIO, tags: Sequence[str] | None = None, *, frames: bool = True) -> Dataset:
    """The header of an open file, see :func:`read_header`; the stream stands at its end afterwards."""
    from pydicom.datadict import tag_for_keyword

    numbers = None if tags is None else [number for tag in tags if (number := tag_for_keyword(tag)) is not None]
    found = 0

    def stop(tag: int, _vr: str | None, length: int) -> bool:
        nonlocal found
        found += 1
        if found > MOST_ELEMENTS:
            raise TooMuchError("more elements than any real file has")
        if int(tag) >> 16 >= _PIXEL_GROUP or (not frames and int(tag) >= _FUNCTIONAL_GROUPS):
            return True
        if length != 0xFFFFFFFF and length > MOST_HEADER_BYTES:
            raise TooMuchError("a longer value than any real file has")
        return False

    stream.seek(0)
    dataset = _parsed(stream, MOST_HEADER_BYTES, stop, numbers)
    _check_whole(dataset)
    return dataset


def read_whole(path: Path, most_bytes: int) -> Dataset:
    """A whole file with its pixel data.

    :param most_bytes: what it may hold, unpacked.
    :raises Exception: see :func:`read_header`.
    """
    with path.open("rb") as file:
        return _parsed(_inflated(file, most_bytes), most_bytes, None, None)


def open_bounded(path: Path, what: str) -> BinaryIO:
    """The bytes of a DICOM file that is wholly parsed, inflated if they were deflated; to be closed by the caller.

    :raises InputError: it cannot be opened, or is larger or more nested than any real object.
    """
    stream = _opened(path, what)
    try:
        with reading(what):
            _check_items(stream)
    except BaseException:
        stream.close()
        raise
    return stream


def class_of(path: Path, what: str) -> str:
    """SOP class of a DICOM file; empty if it names none.

    :raises InputError: it cannot be read.
    """
    with _opened(path, what) as stream, reading(what):
        found = _parsed(stream, MOST_HEADER_BYTES, lambda tag, _vr, _length: int(tag) >> 16 > 8, None)
        stated = found.get("SOPClassUID") or getattr(found.file_meta, "MediaStorageSOPClassUID", "")
        return str(stated).replace("\0", "").strip()


def _opened(path: Path, what: str) -> BinaryIO:
    """The bytes of a DICOM file, inflated if they were deflated."""
    try:
        size = path.stat().st_size
        file = path.open("rb")
    except OSError as error:
        raise InputError(f"{what}: cannot be opened ({(error.strerror or 'unknown reason').lower()})") from error
    try:
        if size > MOST_BYTES:
            raise InputError(f"{what}: larger ({size / 1e9:.1f} GB) than any real object")
        with reading(what):
            stream = _inflated(file, MOST_INFLATED_BYTES)
    except BaseException:
        file.close()
        raise
    if stream is not file:
        file.close()
    return stream


def _parsed(stream: BinaryIO, most_bytes: int, stop: Any, tags: list[int] | None) -> Dataset:
    from pydicom.filereader import read_partial

    source: Any = BoundedFile(stream, most_bytes)
    dataset = read_partial(source, stop_when=stop, force=True, specific_tags=tags)
    dataset.buffer = None  # closed soon, and it would keep the dataset from being handed to another process
    return dataset


def _inflated(file: BinaryIO, most_bytes: int) -> BinaryIO:
    """The file itself, from its beginning; or, of a deflated one, its content as a plain file: a few bytes may stand for any
    number of them.

    :raises TooMuchError: it unpacks to more than these bytes.
    :raises CutShortError: its end is not there.
    """
    from pydicom.filereader import _read_file_meta_info, read_preamble

    bounded: Any = BoundedFile(file, most_bytes)
    preamble = read_preamble(bounded, True)
    if preamble is None:
        file.seek(0)
        return file
    meta = _read_file_meta_info(bounded)
    if str(meta.get("TransferSyntaxUID", "")) != _DEFLATED.decode():
        file.seek(0)
        return file
    end = file.tell()
    file.seek(0)
    head = file.read(end)
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    body = unpacker.decompress(bounded.read(), most_bytes)
    if unpacker.unconsumed_tail:
        raise TooMuchError("unpacks to more data than any real file has")
    if not unpacker.eof:
        raise CutShortError("the packed data has no end")
    return BytesIO(head.replace(_DEFLATED, _DEFLATED[:-3] + b"\0\0\0") + body)


def _check_whole(header: Dataset) -> None:
    """:raises CutShortError: a value is shorter than the file says; the parser takes what is there."""
    for tag in list(header.keys()):
        raw = header.get_item(tag)
        length, value = getattr(raw, "length", None), getattr(raw, "value", None)
        if isinstance(value, bytes) and length not in (None, 0xFFFFFFFF) and len(value) != length:
            raise CutShortError("a value is cut short")


def _check_items(stream: BinaryIO) -> None:
    """Refuse a bomb of nested or empty items before a parser makes an object of each.

    :raises TooMuchError: there are too many.
    """
    found = 0
    tail = b""
    stream.seek(0)
    while chunk := stream.read(_CHUNK):
        block = tail + chunk
        found += sum(block.count(tag) for tag in _ITEM_TAGS)
        tail = block[-3:]
        if found > MOST_ITEMS:
            raise TooMuchError("more items of sequences than any real file has")
    stream.seek(0)
