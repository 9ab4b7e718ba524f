"""DICOM objects that hold contours, read within bounds: damaged or hostile ones end in one line, with memory to spare."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from P2SAMSlicerLib.dicom import header
from P2SAMSlicerLib.errors import InputError

if TYPE_CHECKING:
    from pydicom import Dataset

STRUCTURE_SET_CLASS = "1.2.840.10008.5.1.4.1.1.481.3"
SEGMENTATION_CLASS = "1.2.840.10008.5.1.4.1.1.66.4"
LABEL_MAP_CLASS = "1.2.840.10008.5.1.4.1.1.66.7"

#: Size of a file's header, everything but its pixels; a structure set of 200 structures has about 100 MB.
MOST_HEADER_BYTES = 256_000_000
#: Size of a file, and of what a deflated one becomes.
MOST_BYTES = 4_000_000_000
MOST_INFLATED_BYTES = 512_000_000
#: Items of sequences, of all levels: a contour has two or three. Each takes a hundred times its bytes in memory.
MOST_ITEMS = 300_000
#: Elements of the outermost level.
MOST_ELEMENTS = 20_000

_DEFLATED = b"1.2.840.10008.1.2.1.99"
_ITEM_TAGS = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")
_PIXEL_GROUP = 0x7FE0
_CHUNK = 1 << 24


def looks_like_dicom(path: Path) -> bool:
    """Whether a file begins as DICOM does, whatever its name.

    :raises InputError: it cannot be opened.
    """
    try:
        return header.looks_like_dicom(path)
    except FileNotFoundError:
        raise InputError(f"{path.name}: no such file or folder") from None
    except OSError as error:
        raise InputError(f"{path.name}: cannot be opened ({(error.strerror or 'unknown reason').lower()})") from error


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn whatever a parser raises on damaged content into one line, and keep its remarks, which may quote the patient's data.

    :param what: the object, for the message.
    :raises InputError: anything was raised that is not an :class:`InputError` already.
    """
    with header.quiet():
        try:
            yield
        except InputError:
            raise
        except MemoryError as error:
            raise InputError(f"{what}: too large for this computer's memory") from error
        except Exception as error:  # parsers fail in many ways, and their words may quote the patient's data
            raise InputError(f"{what}: cannot be read (damaged, cut short, or not of this kind)") from error


def open_bounded(path: Path, what: str) -> BinaryIO:
    """The bytes of a DICOM file, inflated if they were deflated; to be closed by the caller.

    :raises InputError: it cannot be opened, or is larger or more nested than any real object.
    """
    stream = _opened(path, what)
    try:
        _check_items(stream, what)
    except BaseException:
        stream.close()
        raise
    return stream


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
        stream = _inflated(file, what)
    except BaseException:
        file.close()
        raise
    if stream is not file:
        file.close()
    return stream


def read_header(stream: BinaryIO, what: str) -> Dataset:
    """Everything of an object but its pixels.

    :raises InputError: damaged or cut short, or more than any real object has.
    """
    from pydicom.filereader import read_partial

    count = 0

    def enough(tag: Any, _vr: str | None, length: int) -> bool:
        nonlocal count
        count += 1
        if int(tag) >> 16 >= _PIXEL_GROUP:
            return True
        if count > MOST_ELEMENTS or (length != 0xFFFFFFFF and length > MOST_HEADER_BYTES) or stream.tell() > MOST_HEADER_BYTES:
            raise InputError(f"{what}: its header is larger than that of any real object")
        return False

    with reading(what):
        stream.seek(0)
        found = read_partial(stream, stop_when=enough, force=True)
        for tag in list(found.keys()):
            raw = found.get_item(tag)
            length, value = getattr(raw, "length", None), getattr(raw, "value", None)
            if isinstance(value, bytes) and length not in (None, 0xFFFFFFFF) and len(value) != length:
                raise InputError(f"{what}: the file is cut short")
    return found


def class_of(path: Path, what: str) -> str:
    """SOP class of a DICOM file; empty if it names none.

    :raises InputError: it cannot be read.
    """
    from pydicom.filereader import read_partial

    with _opened(path, what) as stream, reading(what):
        bounded: Any = header.BoundedFile(stream, MOST_HEADER_BYTES)
        found = read_partial(bounded, stop_when=lambda tag, _vr, _length: int(tag) >> 16 > 8, force=True)
        return text(found, "SOPClassUID") or str(getattr(found.file_meta, "MediaStorageSOPClassUID", ""))


def text(item: Dataset, keyword: str) -> str:
    """A value as one line of text; empty if absent or not readable."""
    try:
        value = item.get(keyword)
        return "" if value is None else " ".join(str(value).replace("\0", " ").split())
    except Exception:  # decoded only now; damaged values make the parser fail in many ways
        return ""


def items(item: Dataset, keyword: str) -> Sequence[Dataset]:
    """The items of a sequence; none if it is absent or no sequence."""
    from pydicom.sequence import Sequence as DicomSequence

    value = item.get(keyword)
    return value if isinstance(value, DicomSequence) else ()


def _inflated(file: BinaryIO, what: str) -> BinaryIO:
    """The file itself, or what a deflated one unpacks to: a few bytes may stand for any number of them."""
    start = file.read(144)
    file.seek(0)
    if start[128:132] != b"DICM":
        return file
    from pydicom.filereader import read_file_meta_info

    with reading(what):
        syntax = str(read_file_meta_info(file.name).get("TransferSyntaxUID", ""))
    if syntax != _DEFLATED.decode():
        return file
    if start[132:140] != b"\x02\x00\x00\x00UL\x04\x00":
        raise InputError(f"{what}: a deflated file whose header does not say where it ends")
    end = 144 + struct.unpack("<I", start[140:144])[0]
    head = file.read(end)
    unpack = zlib.decompressobj(-zlib.MAX_WBITS)
    with reading(what):
        body = unpack.decompress(file.read(), MOST_INFLATED_BYTES)
    if unpack.unconsumed_tail:
        raise InputError(f"{what}: unpacks to more than any real object has")
    if not unpack.eof:
        raise InputError(f"{what}: the file is cut short")
    return io.BytesIO(head.replace(_DEFLATED, _DEFLATED[:-3] + b"\0\0\0") + body)


def _check_items(stream: BinaryIO, what: str) -> None:
    """Refuse a bomb of nested or empty items before a parser makes an object of each."""
    found = 0
    tail = b""
    stream.seek(0)
    while chunk := stream.read(_CHUNK):
        block = tail + chunk
        found += sum(block.count(tag) for tag in _ITEM_TAGS)
        tail = block[-3:]
        if found > MOST_ITEMS:
            raise InputError(f"{what}: more items of sequences than any real object has")
    stream.seek(0)
