"""Dataclasses as plain values for JSON, and back; what does not fit is refused in words."""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

from P2SAMSlicerLib.edited_prompts import EditedPrompts
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.result import SliceResult
from P2SAMSlicerLib.slice_record import slice_from_plain, slice_to_plain

T = TypeVar("T")


def to_plain(value: Any) -> Any:
    """A dataclass, path, tuple, number or text as JSON can hold it.

    :raises ValueError: a value that JSON cannot hold (NaN, another type): a fault of the caller.
    """
    if isinstance(value, SliceResult):
        return slice_to_plain(value)
    if isinstance(value, EditedPrompts):
        box = None if value.box is None else value.box.astype(float).tolist()
        points = {"points": value.points.astype(float).tolist(), "labels": value.labels.astype(int).tolist()}
        return {"index": int(value.index), **points, "box": box, "lesion": int(value.lesion)}
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: to_plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, (list, tuple)):
        return [to_plain(each) for each in value]
    if isinstance(value, Path):
        return str(value.absolute())  # the two processes need not be in the same folder
    if value is None or isinstance(value, (str, bool, int)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise ValueError(f"no message can hold a {type(value).__name__}: {value!r}")


def from_plain(kind: type[T], value: Any, what: str) -> T:
    """The value of a type that :func:`to_plain` made plain.

    :param kind: a dataclass whose fields are dataclasses, paths, tuples, numbers, texts, or one of these or None.
    :param what: what the value is, for the message.
    :raises InputError: a field that is unknown or missing, or a value of another type.
    """
    found: T = _value(kind, value, what)
    return found


def _value(kind: Any, value: Any, what: str) -> Any:
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in get_args(kind):
            return None
        (kind,) = (each for each in get_args(kind) if each is not type(None))
        return _value(kind, value, what)
    if origin is Literal:
        return _one_of(get_args(kind), value, what)
    if origin is tuple:
        return _items(get_args(kind)[0], value, what)
    if kind is SliceResult:
        return slice_from_plain(_mapping(value, what))
    if kind is EditedPrompts:
        return _edited(_mapping(value, what), what)
    if is_dataclass(kind):
        return _dataclass(kind, _mapping(value, what), what)
    return _simple(kind, value, what)


def _simple(kind: Any, value: Any, what: str) -> Any:
    if kind is Path and isinstance(value, str) and value and "\0" not in value:
        return Path(value)
    if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    if kind in (bool, str) and isinstance(value, kind):
        return value
    if kind is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    raise InputError(f"{what}: {value!r:.80} is no {getattr(kind, '__name__', kind)}")


def _one_of(known: tuple[Any, ...], value: Any, what: str) -> Any:
    if not any(value == each and type(value) is type(each) for each in known):
        raise InputError(f"{what}: {value!r:.80} is none of {', '.join(str(each) for each in known)}")
    return value


def _items(kind: Any, value: Any, what: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise InputError(f"{what}: {value!r:.80} is no list")
    return tuple(_value(kind, each, f"{what}[{number}]") for number, each in enumerate(value))


def _mapping(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{what}: {value!r:.80} is no object")
    return value


def _dataclass(kind: Any, value: Mapping[str, Any], what: str) -> Any:
    kinds = _hints(kind)
    unknown = [name for name in value if name not in kinds]
    if unknown:
        raise InputError(f"{what}: unknown field '{unknown[0]:.80}'; it has: {', '.join(kinds) or 'none'}")
    for each in fields(kind):
        if each.name not in value and each.default is MISSING and each.default_factory is MISSING:
            raise InputError(f"{what}: the field '{each.name}' is missing")
    return kind(**{name: _value(kinds[name], each, f"{what}.{name}") for name, each in value.items()})


@cache
def _hints(kind: Any) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {each.name: hints[each.name] for each in fields(kind)}


def _edited(value: Mapping[str, Any], what: str) -> EditedPrompts:
    unknown = [name for name in value if name not in ("index", "points", "labels", "box", "lesion")]
    if unknown:
        raise InputError(f"{what}: unknown field '{unknown[0]:.80}'")
    try:
        return EditedPrompts(
            index=_simple(int, value["index"], f"{what}.index"),
            points=np.asarray(value["points"], dtype=np.float32).reshape(-1, 2),
            labels=np.asarray(value["labels"], dtype=np.int64),
            box=None if value["box"] is None else np.asarray(value["box"], dtype=np.float32).reshape(4),
            lesion=_simple(int, value["lesion"], f"{what}.lesion"),
        )
    except KeyError as error:
        raise InputError(f"{what}: the field {error} is missing") from error
    except (TypeError, ValueError, OverflowError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{what}: no points, labels and box as numbers") from error
