"""Volumes and segmentations that a program hands to its own worker: nothing is lost, and nothing is compressed.

A file has a line of JSON (names, geometry, identity) and then arrays in numpy's own format. Numbers come back to the last bit,
texts in any alphabet, and who was scanned and when, which no other file but DICOM keeps, so such files belong into a private
folder (:mod:`P2SAMSlicerLib.worker.private_folder`).
"""

from __future__ import annotations

import json
import math
import types
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.atomic_file import atomic_write
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.visit_record import grid_from_plain, grid_to_plain, segment_from_plain, segment_to_plain
from P2SAMSlicerLib.volume import Segmentation, VisitIdentity, Volume

#: Endings of the two kinds of file.
VOLUME_SUFFIX, SEGMENTATION_SUFFIX = ".p2sam-volume", ".p2sam-segments"
_FORMATS = {VOLUME_SUFFIX: "P2SAMSlicer volume 1", SEGMENTATION_SUFFIX: "P2SAMSlicer segments 1"}
#: A first line longer than this is none of ours.
_MOST_HEADER = 64_000_000


def is_handed_over(path: Path) -> bool:
    """Whether a file's name says that it was handed over."""
    return path.suffix in _FORMATS


def hand_over_volume(volume: Volume, path: Path) -> None:
    """Write a volume; the file appears whole or not at all.

    :param path: ends in :data:`VOLUME_SUFFIX`.
    :raises OutputError: no space, no permission.
    :raises InputError: values that are no numbers.
    """
    if volume.array.dtype.kind not in "biuf":
        raise InputError(f"{volume.name}: its values are {volume.array.dtype} and no numbers")
    header = {
        "name": volume.name,
        "grid": grid_to_plain(volume.grid),
        "identity": asdict(volume.identity),
        "warnings": list(volume.warnings),
    }
    _write(path, header, [volume.array])


def hand_over_segmentation(segmentation: Segmentation, path: Path) -> None:
    """Write a segmentation; the file appears whole or not at all.

    :param path: ends in :data:`SEGMENTATION_SUFFIX`.
    :raises OutputError: no space, no permission.
    :raises InputError: a mask that is not on the grid.
    """
    for segment in segmentation.segments:
        if segment.mask.shape != segmentation.grid.shape or segment.mask.dtype != np.bool_:
            raise InputError(f"{segmentation.name}: the mask of segment '{segment.name}' is not on the segmentation's grid")
    header = {
        "name": segmentation.name,
        "grid": grid_to_plain(segmentation.grid),
        "segments": [segment_to_plain(each) for each in segmentation.segments],
    }
    _write(path, header, (np.packbits(each.mask) for each in segmentation.segments))


def read_handed_volume(path: Path) -> Volume:
    """The volume that :func:`hand_over_volume` wrote.

    :raises InputError: missing, damaged, or no such file.
    """
    with _opened(path, VOLUME_SUFFIX) as (file, header):
        array = _array(file)
        identity = VisitIdentity(**header["identity"])
        volume = Volume(array, grid_from_plain(header["grid"]), str(header["name"]), identity, tuple(header["warnings"]))
    volume.grid.check(volume.name)
    return volume


def read_handed_segmentation(path: Path) -> Segmentation:
    """The segmentation that :func:`hand_over_segmentation` wrote.

    :raises InputError: missing, damaged, or no such file.
    """
    segments = []
    with _opened(path, SEGMENTATION_SUFFIX) as (file, header):
        grid = grid_from_plain(header["grid"])
        grid.check(str(header["name"]))
        count = math.prod(grid.shape)
        for entry in header["segments"]:
            bits = _array(file)
            if bits.dtype != np.uint8 or bits.shape != ((count + 7) // 8,):
                raise ValueError("bits")
            mask = np.unpackbits(bits, count=count).reshape(grid.shape).view(np.bool_)
            segments.append(segment_from_plain(entry, mask))
    return Segmentation(grid, tuple(segments), str(header["name"]))


def _write(path: Path, header: dict[str, Any], arrays: Iterable[NDArray[Any]]) -> None:
    line = json.dumps({"format": _FORMATS[path.suffix], **header}, allow_nan=False).encode("ascii") + b"\n"
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        file.write(line)
        # To a plain file numpy writes with a function of its own, whose error on a full disk does not tell that it is full.
        writer: Any = types.SimpleNamespace(write=file.write)
        for array in arrays:
            np.lib.format.write_array(writer, np.ascontiguousarray(array), allow_pickle=False)


@contextmanager
def _opened(path: Path, suffix: str) -> Iterator[tuple[BinaryIO, dict[str, Any]]]:
    """A file behind its first line, and what that line says; the file must be read to its end.

    :raises InputError: whatever goes wrong in the block, too.
    """
    try:
        with path.open("rb") as file:
            header = json.loads(file.readline(_MOST_HEADER))
            if header["format"] != _FORMATS[suffix]:
                raise ValueError("format")
            yield file, header
            if file.read(1):
                raise ValueError("more than it should hold")
    except FileNotFoundError:
        raise InputError(f"{path.name}: no such file; it was handed over and is gone") from None
    except InputError:
        raise
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path.name}: what was handed over cannot be read (damaged)") from error


def _array(file: BinaryIO) -> NDArray[Any]:
    array: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
    return array
