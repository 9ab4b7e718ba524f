"""Slices with all their candidates and prompts as plain values for JSON, and back: what a saved scene keeps for the review."""

from __future__ import annotations

import binascii
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.intensity import GreyScale, Window
from P2SAMSlicerLib.packed_mask import packed, packed_levels, unpacked, unpacked_levels
from P2SAMSlicerLib.region import Region
from P2SAMSlicerLib.result import Candidate, SliceResult
from P2SAMSlicerLib.review import recorded_change

#: A mask with more pixels than this is no slice: a damaged or hostile record must not fill the memory.
MOST_PIXELS = 4096 * 4096


def slice_to_plain(result: SliceResult) -> dict[str, Any]:
    """A slice as numbers, texts and lists; masks are packed bits, compressed, in base64."""
    return {
        "index": int(result.index),
        "position_mm": float(result.position_mm),
        "chosen": None if result.chosen is None else int(result.chosen),
        "review_priority": float(result.review_priority),
        "signals": {name: float(value) for name, value in result.signals.items()},
        "lesion": int(result.lesion),
        "region": None if result.region is None else asdict(result.region),
        "greys": None if result.greys is None else _greys_to_plain(result.greys),
        "change": None if result.change is None else packed_levels(result.change),
        "candidates": [_candidate_to_plain(each) for each in result.candidates],
    }


def slice_from_plain(entry: Mapping[str, Any]) -> SliceResult:
    """The slice that :func:`slice_to_plain` wrote.

    :raises InputError: the record is damaged, or was written by a version that this one does not know.
    """
    try:
        region = entry["region"]
        greys, change = entry.get("greys"), entry.get("change")  # earlier records do not have them
        candidates = tuple(_candidate_from_plain(each) for each in entry["candidates"])
        chosen = entry["chosen"]
        if chosen is not None and not 0 <= int(chosen) < len(candidates):
            raise ValueError("no such candidate")
        changed = None if change is None else unpacked_levels(change, MOST_PIXELS)
        _check_sizes(candidates, changed)
        return SliceResult(
            index=int(entry["index"]),
            position_mm=float(entry["position_mm"]),
            candidates=candidates,
            chosen=None if chosen is None else int(chosen),
            review_priority=float(entry["review_priority"]),
            signals={str(name): float(value) for name, value in entry["signals"].items()},
            lesion=int(entry["lesion"]),
            region=None if region is None else Region(**region),
            greys=None if greys is None else GreyScale(Window(greys["low"], greys["high"]), float(greys["offset_hu"])),
            change=changed,
        )
    except (KeyError, TypeError, ValueError, AttributeError, zlib.error, binascii.Error) as error:
        raise InputError(f"the record of a slice cannot be read ({type(error).__name__})") from error


def _check_sizes(candidates: Sequence[Candidate], change: NDArray[np.uint8] | None) -> None:
    """:raises ValueError: what lies on one slice is not of one size."""
    if any(each.mask.shape != candidates[0].mask.shape for each in candidates):
        raise ValueError("masks")
    if candidates and change is not None:
        recorded_change(change, candidates[0].mask.shape)


def _greys_to_plain(greys: GreyScale) -> dict[str, float]:
    return {"low": float(greys.window.low), "high": float(greys.window.high), "offset_hu": float(greys.offset_hu)}


def _candidate_to_plain(candidate: Candidate) -> dict[str, Any]:
    return {
        "origin": candidate.origin,
        "points": candidate.points.astype(float).tolist(),
        "labels": candidate.labels.astype(int).tolist(),
        "box": None if candidate.box is None else candidate.box.astype(float).tolist(),
        "distance": _finite(candidate.distance),
        "score": _finite(candidate.score),
        "predicted_iou": _finite(candidate.predicted_iou),
        "mask": packed(candidate.mask),
    }


def _candidate_from_plain(entry: Mapping[str, Any]) -> Candidate:
    points = np.asarray(entry["points"], dtype=np.float32).reshape(-1, 2)
    labels = np.asarray(entry["labels"], dtype=np.int64)
    if len(points) != len(labels):
        raise ValueError("points and labels")
    return Candidate(
        origin=str(entry["origin"]),
        mask=unpacked(entry["mask"], 2, MOST_PIXELS),
        points=points,
        labels=labels,
        box=None if entry["box"] is None else np.asarray(entry["box"], dtype=np.float32).reshape(4),
        distance=_number(entry["distance"]),
        score=_number(entry["score"]),
        predicted_iou=_number(entry["predicted_iou"]),
    )


def _finite(value: float) -> float | str:
    """JSON knows neither NaN nor infinity, and the difference between them matters here."""
    return float(value) if np.isfinite(value) else str(float(value))


def _number(value: float | str) -> float:
    return float(value)
