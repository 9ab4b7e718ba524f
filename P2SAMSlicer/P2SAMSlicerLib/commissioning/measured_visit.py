"""One measured visit as a file, so that a run that was ended goes on where it was; what is not whole is measured again."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from P2SAMSlicerLib.atomic_file import atomic_write
from P2SAMSlicerLib.metrics import SegmentMetrics

FORMAT, FORMAT_VERSION = "P2SAMSlicer commissioning visit", 1
#: What JSON has no number for.
_NOT_FINITE = {"infinite": math.inf, "-infinite": -math.inf, "unknown": math.nan}


@dataclass(frozen=True)
class MethodFigures:
    """What one method reached on one visit.

    :param seconds: None where its time is not told apart.
    :param outcome: what the product said of its contour; None for the others.
    """

    metrics: SegmentMetrics
    seconds: float | None
    outcome: str | None


@dataclass(frozen=True)
class MeasuredVisit:
    """One simulated visit.

    :param methods: by id.
    :param registration: ``registration_error_mm``, ``inverse_consistency_mm``, ``folded_share``, as far as they were measured.
    :param simulated: what was drawn: volumes, spacing, seed.
    :param peers_failed: why another method gave no contour; empty if all did.
    """

    methods: Mapping[str, MethodFigures]
    registration: Mapping[str, float] = field(default_factory=dict)
    simulated: Mapping[str, Any] = field(default_factory=dict)
    peers_failed: str = ""


def key_of(parts: Mapping[str, Any]) -> str:
    """A hash of all that decides what comes out."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]


def write_visit(path: Path, key: str, visit: MeasuredVisit) -> None:
    """Write a visit's figures.

    :raises OutputError: no space, no permission.
    """
    content = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "key": key,
        "methods": {
            method: {"seconds": each.seconds, "outcome": each.outcome, "metrics": _plain(vars(each.metrics))}
            for method, each in visit.methods.items()
        },
        "registration": _plain(visit.registration),
        "simulated": dict(visit.simulated),
        "peers_failed": visit.peers_failed,
    }
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, allow_nan=False, default=str), encoding="utf-8")


def read_visit(path: Path, key: str) -> MeasuredVisit | None:
    """What :func:`write_visit` wrote; None if there is nothing, or it is not whole, or was measured otherwise."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if (content["format"], content["format_version"], content["key"]) != (FORMAT, FORMAT_VERSION, key):
            return None
        methods = {
            str(method): MethodFigures(
                _metrics(each["metrics"]), _float_or_none(each["seconds"]), _text_or_none(each["outcome"])
            )
            for method, each in content["methods"].items()
        }
        registration = {str(name): float(_number(value)) for name, value in content["registration"].items()}
        return MeasuredVisit(methods, registration, dict(content["simulated"]), str(content["peers_failed"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _metrics(values: Mapping[str, Any]) -> SegmentMetrics:
    found: dict[str, Any] = {each.name: _number(values[each.name]) for each in fields(SegmentMetrics)}
    shift = found["centroid_shift_mm"]
    found["centroid_shift_mm"] = None if shift is None else (float(shift[0]), float(shift[1]), float(shift[2]))
    if not all(isinstance(value, float) for name, value in found.items() if name != "centroid_shift_mm"):
        raise ValueError("a figure is no number")
    return SegmentMetrics(**found)


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _plain_number(value) for name, value in values.items()}


def _plain_number(value: Any) -> Any:
    if isinstance(value, (int, float)) and not math.isfinite(value):
        return "unknown" if math.isnan(value) else "infinite" if value > 0 else "-infinite"
    return float(value) if isinstance(value, (int, float)) else value


def _number(value: Any) -> Any:
    return _NOT_FINITE[value] if isinstance(value, str) else value


def _float_or_none(value: Any) -> float | None:
    return None if value is None else float(value)


def _text_or_none(value: Any) -> str | None:
    return None if value is None else str(value)
