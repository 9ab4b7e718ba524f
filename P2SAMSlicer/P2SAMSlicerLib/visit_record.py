"""A whole visit's result in one private file: what a process hands to another that goes on with it.

Unlike the result's own files it holds everything, so that what is read equals what was written: every mask, every candidate,
tuples as tuples, NaN as NaN. It holds no CT.
"""

from __future__ import annotations

import binascii
import gzip
import json
import math
import zlib
from collections.abc import Mapping
from enum import Enum
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from P2SAMSlicerLib.atomic_file import atomic_write
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.packed_mask import packed_volume, unpacked_volume
from P2SAMSlicerLib.result import Outcome, SegmentResult, VisitResult
from P2SAMSlicerLib.slice_record import slice_from_plain, slice_to_plain
from P2SAMSlicerLib.volume import BoolArray, Segment

FORMAT = "P2SAMSlicer visit"
FORMAT_VERSION = 1

#: A mask with more voxels than this is no CT's: a damaged record must not fill the memory.
MOST_VOXELS = 2**33
#: The fastest: the masks in it are compressed already.
COMPRESSION_LEVEL = 1


def write_visit(visit: VisitResult, path: Path | str) -> None:
    """Write a visit's result; the file appears whole or not at all.

    :param path: usually ends in ``.json.gz``; its folder must exist.
    :raises OutputError: no space, no permission.
    """
    text = json.dumps(visit_to_plain(visit), allow_nan=False).encode("ascii")
    with atomic_write(path) as temporary:
        temporary.write_bytes(gzip.compress(text, COMPRESSION_LEVEL, mtime=0))


def read_visit(path: Path | str) -> VisitResult:
    """The result that :func:`write_visit` wrote.

    :raises InputError: missing, damaged, or written by a newer version.
    """
    path = Path(path)
    try:
        return visit_from_plain(json.loads(gzip.decompress(path.read_bytes())))
    except InputError as error:
        raise InputError(f"{path.name}: {error}") from error
    except (OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
        raise InputError(f"{path.name}: the record of a visit is missing or damaged") from error


def visit_to_plain(visit: VisitResult) -> dict[str, Any]:
    """A visit's result as numbers, texts, lists and objects."""
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "name": visit.name,
        "grid": grid_to_plain(visit.grid),
        "segments": [_segment_result_to_plain(each) for each in visit.segments],
        "registration": exact(visit.registration),
        "stage_seconds": exact(visit.stage_seconds),
        "warnings": list(visit.warnings),
        "overrides": list(visit.overrides),
        "provenance": exact(visit.provenance),
        "notes": list(visit.notes),
    }


def visit_from_plain(entry: Mapping[str, Any]) -> VisitResult:
    """The result that :func:`visit_to_plain` made plain.

    :raises InputError: damaged, or of a newer version.
    """
    try:
        if entry["format"] != FORMAT:
            raise ValueError("format")
        if entry["format_version"] > FORMAT_VERSION:
            raise InputError("the record of a visit was written by a newer version of P2SAMSlicer")
        grid = grid_from_plain(entry["grid"])
        return VisitResult(
            name=str(entry["name"]),
            grid=grid,
            segments=tuple(_segment_result_from_plain(each) for each in entry["segments"]),
            registration=restored(entry["registration"]),
            stage_seconds=restored(entry["stage_seconds"]),
            warnings=_texts(entry["warnings"]),
            overrides=_texts(entry["overrides"]),
            provenance=restored(entry["provenance"]),
            notes=_texts(entry["notes"]),
        )
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, zlib.error, binascii.Error) as error:
        raise InputError(f"the record of a visit cannot be read ({type(error).__name__})") from error


def grid_to_plain(grid: Grid) -> dict[str, list[int] | list[float]]:
    """A grid as plain numbers, whatever kind of number it holds."""
    lengths = {name: [float(v) for v in getattr(grid, name)] for name in ("spacing", "origin", "direction")}
    return {"shape": [int(n) for n in grid.shape], **lengths}


def grid_from_plain(entry: Mapping[str, Any]) -> Grid:
    """The grid that :func:`grid_to_plain` made plain.

    :raises ValueError: not four lists of numbers; also KeyError and TypeError.
    """
    nz, ny, nx = (int(n) for n in entry["shape"])
    sx, sy, sz = (float(v) for v in entry["spacing"])
    x, y, z = (float(v) for v in entry["origin"])
    direction = tuple(float(v) for v in entry["direction"])
    if len(direction) != 9:
        raise ValueError("direction")
    return Grid((nz, ny, nx), (sx, sy, sz), (x, y, z), direction)


def segment_to_plain(segment: Segment) -> dict[str, Any]:
    """A segment without its mask."""
    return {
        "name": segment.name,
        "color": None if segment.color is None else [float(v) for v in segment.color],
        "terminology": exact(segment.terminology),
        "tags": dict(segment.tags),
    }


def segment_from_plain(entry: Mapping[str, Any], mask: BoolArray) -> Segment:
    """The segment that :func:`segment_to_plain` made plain, with its mask.

    :raises ValueError: damaged; also KeyError and TypeError.
    """
    color = entry["color"]
    if color is not None:
        red, green, blue = (float(v) for v in color)
        color = (red, green, blue)
    tags = {str(key): str(value) for key, value in entry["tags"].items()}
    return Segment(str(entry["name"]), mask, color, restored(entry["terminology"]), tags)


def _segment_result_to_plain(result: SegmentResult) -> dict[str, Any]:
    return {
        "source": {**segment_to_plain(result.source), "mask": packed_volume(result.source.mask)},
        "outcome": result.outcome.value,
        "reasons": list(result.reasons),
        "mask": None if result.mask is None else packed_volume(result.mask),
        "registered_mask": packed_volume(result.registered_mask),
        "figures": {name: exact(getattr(result, name)) for name in _FIGURES},
        "slices": [slice_to_plain(each) for each in result.slices],
        "removals": list(result.removals),
        "registration": exact(result.registration),
    }


_FIGURES = (
    *("review_priority", "prior_volume_ml", "volume_ml", "volume_change_percent", "centroid_shift_mm"),
    "lost_tissue_share",
)


def _segment_result_from_plain(entry: Mapping[str, Any]) -> SegmentResult:
    source = entry["source"]
    figures = {name: restored(entry["figures"][name]) for name in _FIGURES}
    return SegmentResult(
        source=segment_from_plain(source, unpacked_volume(source["mask"], MOST_VOXELS)),
        outcome=Outcome(entry["outcome"]),
        reasons=_texts(entry["reasons"]),
        mask=None if entry["mask"] is None else unpacked_volume(entry["mask"], MOST_VOXELS),
        registered_mask=unpacked_volume(entry["registered_mask"], MOST_VOXELS),
        slices=tuple(slice_from_plain(each) for each in entry["slices"]),
        removals=_texts(entry["removals"]),
        registration=restored(entry["registration"]),
        **figures,
    )


def _texts(values: Any) -> tuple[str, ...]:
    return tuple(str(each) for each in values)


#: What JSON lacks stands in an object with one of these as its only key.
_TUPLE, _NUMBER, _PATH, _ITEMS = "$tuple", "$number", "$path", "$items"


def exact(value: Any) -> Any:
    """A value as JSON can hold it, from which :func:`restored` makes an equal one; numpy's numbers become plain ones.

    :raises ValueError: an object of another kind than a result may hold: a fault of the engine.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, float) and not math.isfinite(value):
        return {_NUMBER: str(value)}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, PurePath):
        return {_PATH: str(value)}
    if isinstance(value, tuple):
        return {_TUPLE: [exact(each) for each in value]}
    if isinstance(value, list):
        return [exact(each) for each in value]
    if isinstance(value, Mapping):
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return {key: exact(each) for key, each in value.items()}
        return {_ITEMS: [[exact(key), exact(each)] for key, each in value.items()]}
    raise ValueError(f"no record can hold a {type(value).__name__}")


def restored(value: Any) -> Any:
    """The value that :func:`exact` made plain.

    :raises ValueError: damaged; also TypeError.
    """
    if isinstance(value, list):
        return [restored(each) for each in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((key, content),) = value.items()
        if key == _TUPLE:
            return tuple(restored(each) for each in content)
        if key == _NUMBER:
            return float(content)
        if key == _PATH:
            return Path(content)
        if key == _ITEMS:
            return {restored(name): restored(each) for name, each in content}
    return {key: restored(each) for key, each in value.items()}
