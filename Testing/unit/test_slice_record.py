"""A slice with its candidates survives being written as JSON, and damage is told in words."""

from __future__ import annotations

import base64
import json
import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.intensity import GreyScale, Window
from P2SAMSlicerLib.region import Region
from P2SAMSlicerLib.result import SliceResult
from P2SAMSlicerLib.review import change_to_record
from P2SAMSlicerLib.slice_record import slice_from_plain, slice_to_plain
from small_visits import candidate


def one_slice(height: int = 4, width: int = 4, seed: int = 0) -> SliceResult:
    """A slice with a contour that no model made, and an answer with points and a box."""
    mask = np.random.default_rng(seed).random((height, width)) > 0.5
    plain = replace(candidate("registered contour", distance=float("inf"), predicted_iou=float("nan")), mask=mask)
    plain = replace(plain, points=np.zeros((0, 2), np.float32), labels=np.zeros(0, np.int64), box=None)
    answer = replace(candidate("parts 2 + box"), mask=~mask)
    return SliceResult(7, -12.5, (plain, answer), 1, 0.25, {"blurred border": 0.5}, 2, Region(-3.0, 4.5, 64.0, width))


def through_json(result: SliceResult) -> SliceResult:
    """Written and read."""
    return slice_from_plain(json.loads(json.dumps(slice_to_plain(result), allow_nan=False)))


@given(height=st.integers(1, 40), width=st.integers(1, 40), seed=st.integers(0, 1000))
def test_every_number_mask_and_prompt_comes_back(height: int, width: int, seed: int) -> None:
    before = one_slice(height, width, seed)
    after = through_json(before)
    for name in ("index", "position_mm", "chosen", "review_priority", "signals", "lesion", "region"):
        assert getattr(after, name) == getattr(before, name)
    for one, other in zip(after.candidates, before.candidates, strict=True):
        assert one.origin == other.origin
        for name in ("mask", "points", "labels"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
            assert getattr(one, name).dtype == getattr(other, name).dtype
        for name in ("distance", "score", "predicted_iou"):
            assert getattr(one, name) == pytest.approx(getattr(other, name), nan_ok=True)
    assert after.candidates[0].box is None
    assert after.candidates[1].box is not None
    assert after.candidates[1].box.tolist() == [0, 0, 3, 3]


def test_how_the_model_saw_the_slice_comes_back_to_the_last_bit() -> None:
    greys = GreyScale(Window(-0.1, 1 / 3), float(np.float32(0.7)))
    assert through_json(replace(one_slice(), greys=greys)).greys == greys


def test_a_record_of_an_earlier_version_that_did_not_keep_the_greys_still_loads() -> None:
    entry = slice_to_plain(one_slice())
    del entry["greys"]
    assert slice_from_plain(entry).greys is None


@pytest.mark.parametrize(
    "greys", [{}, {"low": 1.0, "high": 0.0, "offset_hu": 0.0}, {"low": "x", "high": 1.0, "offset_hu": 0.0}, 3]
)
def test_damaged_greys_are_refused(greys: Any) -> None:
    with pytest.raises(InputError):
        slice_from_plain({**slice_to_plain(one_slice()), "greys": greys})


def test_a_slice_without_a_choice_and_without_a_region_comes_back() -> None:
    after = through_json(replace(one_slice(), chosen=None, region=None, signals={}))
    assert after.chosen is None
    assert after.region is None


def test_eighteen_candidates_of_a_slice_take_little_room() -> None:
    rows, columns = np.mgrid[:256, :256]
    disc = replace(candidate("box"), mask=np.hypot(rows - 128, columns - 128) < 60)
    text = json.dumps(slice_to_plain(replace(one_slice(), candidates=(disc,) * 18)))
    assert len(text) < 30_000


def bits(content: bytes) -> str:
    """Packed bits as a record holds them."""
    return base64.b64encode(zlib.compress(content)).decode()


@pytest.mark.parametrize(
    "damage",
    [
        {"candidates": None},
        {"chosen": 2},
        {"chosen": -1},
        {"index": "x"},
        {"region": {"left": 1.0}},
        {"signals": [1]},
        {"mask": {"shape": [4, 4], "bits": "no base64 !"}},
        {"mask": {"shape": [4, 4], "bits": base64.b64encode(b"no zlib").decode()}},
        {"mask": {"shape": [4, 4], "bits": bits(b"\0")}},
        {"mask": {"shape": [4, 4], "bits": bits(b"\0" * 10_000_000)}},
        {"mask": {"shape": [10**6, 10**6], "bits": bits(b"\0" * 2)}},
        {"mask": {"shape": [0, 4], "bits": bits(b"")}},
        {"points": [[1, 2]]},
        {"box": [1, 2, 3]},
    ],
    ids=str,
)
def test_a_damaged_record_is_refused_in_words(damage: dict[str, Any]) -> None:
    entry = slice_to_plain(one_slice())
    for name, value in damage.items():
        (entry["candidates"][0] if name in ("mask", "points", "box") else entry)[name] = value
    with pytest.raises(InputError, match="the record of a slice cannot be read"):
        slice_from_plain(entry)


def test_a_part_that_is_missing_is_refused_in_words() -> None:
    for name in slice_to_plain(one_slice()).keys() - {"greys", "change"}:
        entry = slice_to_plain(one_slice())
        del entry[name]
        with pytest.raises(InputError, match="cannot be read"):
            slice_from_plain(entry)


@given(height=st.integers(1, 41), width=st.integers(1, 41), seed=st.integers(0, 99))
def test_what_changed_between_the_visits_comes_back_and_earlier_records_do_without(height: int, width: int, seed: int) -> None:
    strength = (4.0 * np.random.default_rng(seed).random((height, width))).astype(np.float32)
    before = replace(one_slice(height, width), change=change_to_record(strength))
    after = through_json(before)
    assert before.change is not None
    assert after.change is not None
    assert after.change.dtype == np.uint8
    np.testing.assert_array_equal(after.change, before.change)
    old = slice_to_plain(before)
    del old["change"]
    assert slice_from_plain(old).change is None


def test_a_slice_whose_parts_are_not_of_one_size_is_refused() -> None:
    small, large = slice_to_plain(one_slice(4, 4)), slice_to_plain(one_slice(9, 9))
    small["candidates"][1]["mask"] = large["candidates"][1]["mask"]
    with pytest.raises(InputError, match="cannot be read"):
        slice_from_plain(small)
    for shape in ((3, 3), (1, 1)):
        with pytest.raises(InputError, match="cannot be read"):
            slice_from_plain(slice_to_plain(replace(one_slice(8, 8), change=np.zeros(shape, np.uint8))))
    harmed = slice_to_plain(replace(one_slice(8, 8), change=np.zeros((2, 2), np.uint8)))
    for harm in ({"shape": [2**20, 2**20]}, {"shape": [2, 3]}, {"levels": "?"}, {"levels": ""}):
        with pytest.raises(InputError, match="cannot be read"):
            slice_from_plain({**harmed, "change": {**harmed["change"], **harm}})
