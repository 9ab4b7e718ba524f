"""A visit's result that is read from its record equals the one that was written; damage is told in words."""

from __future__ import annotations

import gzip
import json
import math
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from P2SAMSlicerLib.errors import InputError, OutputError
from P2SAMSlicerLib.packed_mask import packed_volume, unpacked_volume
from P2SAMSlicerLib.result import Outcome, VisitResult
from P2SAMSlicerLib.visit_record import exact, read_visit, restored, visit_from_plain, visit_to_plain, write_visit
from small_visits import segment, segment_result, visit_result, without_contour


def assert_equal(one: Any, other: Any, place: str = "visit") -> None:
    """Equal in every part, in kind and in type."""
    if isinstance(one, np.ndarray):
        assert one.dtype == other.dtype, place
        np.testing.assert_array_equal(one, other, err_msg=place)
    elif is_dataclass(one) and not isinstance(one, type):
        assert type(one) is type(other), place
        for each in fields(one):
            assert_equal(getattr(one, each.name), getattr(other, each.name), f"{place}.{each.name}")
    elif isinstance(one, dict):
        assert list(one) == list(other), place
        for key, value in one.items():
            assert_equal(value, other[key], f"{place}[{key!r}]")
    elif isinstance(one, (list, tuple)):
        assert type(one) is type(other), place
        assert len(one) == len(other), place
        for number, (first, second) in enumerate(zip(one, other, strict=True)):
            assert_equal(first, second, f"{place}[{number}]")
    elif isinstance(one, float) and math.isnan(one):
        assert math.isnan(other), place
    else:
        assert one == other, place
        assert type(one) is type(other) or isinstance(one, Enum), place


def rich_visit() -> VisitResult:
    """A visit with everything that a result may hold."""
    return visit_result(
        segment_result(segment("GTV « 名 »", tags={"a": "ü|"}), registration={"reasons": ["x"], "residual_mm": float("inf")}),
        without_contour(segment("Lung", color=None, terminology=None), Outcome.NO_LESION, "gone"),
        name="week 2",
        warnings=("w",),
        overrides=("o",),
        notes=("n",),
        provenance={
            "model": {"prompts": ("box", "mask")},
            "options": {"transform_file": None, "negatives": (1,)},
            "device": "cpu",
        },
    )


def test_everything_comes_back_equal(tmp_path: Path) -> None:
    before = rich_visit()
    write_visit(before, tmp_path / "visit.json.gz")
    assert_equal(before, read_visit(tmp_path / "visit.json.gz"))


def test_the_same_visit_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.json.gz", "b.json.gz"):
        write_visit(rich_visit(), tmp_path / name)
    assert (tmp_path / "a.json.gz").read_bytes() == (tmp_path / "b.json.gz").read_bytes()


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text() | st.integers(), inner),
        max_leaves=20,
    )
)
def test_any_plain_value_survives_json(value: Any) -> None:
    assert_equal(value, restored(json.loads(json.dumps(exact(value), allow_nan=False))))


@given(st.integers(1, 5), st.integers(1, 6), st.integers(1, 7), st.floats(0, 1), st.integers(0, 99))
def test_any_mask_of_a_volume_comes_back(nz: int, ny: int, nx: int, share: float, seed: int) -> None:
    mask = np.random.default_rng(seed).random((nz, ny, nx)) < share * share
    np.testing.assert_array_equal(unpacked_volume(packed_volume(mask), mask.size), mask)


@pytest.mark.parametrize(
    "damage",
    [
        {"format": "another"},
        {"format": None},
        {"grid": {"shape": [1, 2]}},
        {"segments": [{}]},
        {"segments": 3},
        {"segments": [None]},
        {"registration": {"$number": "x"}},
        {"warnings": 5},
    ],
)
def test_a_damaged_record_is_refused(damage: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="the record of a visit cannot be read"):
        visit_from_plain({**visit_to_plain(rich_visit()), **damage})


def test_a_mask_that_would_fill_the_memory_or_lies_outside_is_refused() -> None:
    for harm in ({"shape": [2**20] * 3}, {"inside": {"start": [0, 0, 0], "shape": [99, 99, 99], "bits": ""}}):
        entry = visit_to_plain(rich_visit())
        entry["segments"][0]["mask"].update(harm)
        with pytest.raises(InputError, match="cannot be read"):
            visit_from_plain(entry)


def test_a_newer_version_a_cut_file_and_a_missing_one_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "visit.json.gz"
    with pytest.raises(InputError, match=r"visit\.json\.gz: the record of a visit is missing or damaged"):
        read_visit(path)
    write_visit(rich_visit(), path)
    content = path.read_bytes()
    for harmed in (content[: len(content) // 2], b"", b"x", gzip.compress(b"[1]"), gzip.compress(b"[" * 100_000)):
        path.write_bytes(harmed)
        with pytest.raises(InputError, match="record of a visit"):
            read_visit(path)
    path.write_bytes(gzip.compress(json.dumps({**visit_to_plain(rich_visit()), "format_version": 99}).encode()))
    with pytest.raises(InputError, match="newer version"):
        read_visit(path)


def test_a_folder_that_is_not_there_is_told_in_words(tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        write_visit(rich_visit(), tmp_path / "none" / "visit.json.gz")
