"""Hounsfield units are recognised, windows are exact."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.intensity import (
    PAPER_WINDOW,
    WINDOWS,
    Modality,
    Window,
    check_hounsfield,
    clip_hu,
    percentile_window,
    to_rgb,
    to_uint8,
)
from P2SAMSlicerLib.volume import Volume
from P2SAMSlicerLib.volume_file import read_volume

Values = NDArray[np.float64]


def body(shape: tuple[int, int, int] = (8, 64, 64), seed: int = 0) -> Values:
    """A body in air: fat, muscle, a lung, a bone, each with noise."""
    _, y, x = np.indices(shape).astype(float)
    radius = np.hypot(y - 32, x - 32)
    hu = np.full(shape, -1000.0)
    hu[radius < 26] = -100
    hu[radius < 22] = 40
    hu[np.hypot(y - 28, x - 24) < 7] = -850
    hu[np.hypot(y - 40, x - 36) < 3] = 900
    noise: Values = np.random.default_rng(seed).normal(0, 15, shape)
    return np.asarray(np.rint(hu + noise), dtype=np.float64)


def padded(hu: Values, value: float) -> Values:
    _, y, x = np.indices(hu.shape)
    return np.where(np.hypot(y - 31.5, x - 31.5) > 31.5, value, hu)


def volume(values: NDArray[Any], name: str = "ct") -> Volume:
    return Volume(values, Grid((values.shape[0], values.shape[1], values.shape[2])), name)


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float32])
@pytest.mark.parametrize("padding", [-1000, -1024, -2000, -3024, -32768, 0])
def test_a_ct_passes_whatever_its_padding(dtype: Any, padding: float) -> None:
    assert check_hounsfield(volume(padded(body(), padding).astype(dtype))) == []


def test_a_ct_passes_with_two_padding_values() -> None:
    hu = padded(body(), -3024)
    hu[:, :8] = -2000
    assert check_hounsfield(volume(hu)) == []


@pytest.mark.parametrize("modality", ["ct", "cbct"])
def test_the_modality_is_known_by_its_name(modality: str) -> None:
    assert Modality(modality).value == modality


NOT_HU: dict[str, tuple[Callable[[Values], Values], str]] = {
    "stored values without rescale": (lambda hu: np.maximum(hu + 1024, 0), "none is negative"),
    "stored values with padding": (lambda hu: padded(np.maximum(hu + 1024, 0), -2000), "rescale not applied"),
    "rescale applied twice": (lambda hu: hu - 1024, "rescale applied twice"),
    "rescale applied twice, then clipped": (lambda hu: np.maximum(hu - 1024, -1024), "soft tissue"),
    "scaled to 0..1": (lambda hu: (hu + 1000) / 4000, "only span"),
    "scaled to -1..1": (lambda hu: np.clip(hu / 1000, -1, 1), "only span"),
    "8-bit image": (lambda hu: np.clip((hu + 910) / 1500 * 255, 0, 255), "none is negative"),
    "MR": (lambda hu: np.where(hu < -500, 5, 600 + hu * 3), "none is negative"),
    "MR with ringing": (lambda hu: np.where(hu < -500, hu * 0.01, 700 + hu), "neither air nor fat"),
    "PET": (lambda hu: np.abs(hu) * 20, "none is negative"),
    "inverted": (lambda hu: -hu, "above 600"),
    "air only": (lambda hu: np.minimum(hu, -900), "soft tissue"),
}


@pytest.mark.parametrize(("change", "words"), NOT_HU.values(), ids=NOT_HU.keys())
def test_values_that_are_not_hu_are_refused_as_ct_and_told_as_cbct(change: Callable[[Values], Values], words: str) -> None:
    changed = volume(change(body()), "followup")
    with pytest.raises(InputError) as raised:
        check_hounsfield(changed)
    message = str(raised.value)
    assert message.startswith("followup: the values are not Hounsfield units (")
    assert words in message
    assert "\n" not in message
    warnings = check_hounsfield(changed, Modality.CBCT)
    assert len(warnings) == 1
    assert words in warnings[0]
    assert "percentiles" in warnings[0]


@pytest.mark.parametrize("modality", Modality)
def test_a_constant_volume_is_refused_as_ct_and_as_cbct(modality: Modality) -> None:
    with pytest.raises(InputError, match=r"^ct: all voxels have the value -1000$"):
        check_hounsfield(volume(np.full((2, 3, 4), -1000.0)), modality)


def test_a_cbct_with_true_hu_needs_no_warning() -> None:
    assert check_hounsfield(volume(body()), Modality.CBCT) == []


def test_a_field_of_view_without_air_is_told() -> None:
    inside = body()[:, 27:38, 36:57]
    assert inside.min() > -850
    assert check_hounsfield(volume(inside)) == ["no air in the field of view, so that the Hounsfield units cannot be verified"]


def test_metal_is_told_with_its_share() -> None:
    hu = body()
    hu[:2, 30:34, 40:44] = 8000
    warnings = check_hounsfield(volume(hu))
    assert len(warnings) == 1
    assert warnings[0].startswith(f"{32 / hu.size:.2%} of the voxels are above 3071 HU")


def test_a_volume_larger_than_the_sample_is_judged_alike() -> None:
    large = np.tile(body(), (5, 3, 3))
    assert large.size > 1_000_000
    assert check_hounsfield(volume(large)) == []
    with pytest.raises(InputError, match="twice"):
        check_hounsfield(volume(large - 1024))


def test_every_real_ct_passes_and_none_does_with_a_wrong_rescale(shared_data: Path) -> None:
    paths = sorted(shared_data.glob("visits/*/*_ct.nii.gz")) + sorted(shared_data.glob("train/*/CT_image.nii.gz"))[::6]
    assert len(paths) >= 20
    for path in paths[::3]:
        ct = read_volume(path)
        assert check_hounsfield(ct) == []
        for shift in (-1024, -1000, 1000, 1024):
            with pytest.raises(InputError):
                check_hounsfield(volume(ct.array.astype(np.int32) + shift))


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float32])
def test_clipping_keeps_the_type_and_the_range_of_a_ct(dtype: Any) -> None:
    values = np.array([[[-32768, -3024, -1025, -1024, 0, 3071, 3072, 32767]]], dtype=dtype)
    clipped = clip_hu(values)
    assert clipped.dtype == dtype
    assert clipped.tolist() == [[[-1024, -1024, -1024, -1024, 0, 3071, 3071, 3071]]]
    assert values[0, 0, 0] == -32768


def test_the_windows_have_the_published_and_the_usual_ends() -> None:
    assert (PAPER_WINDOW.low, PAPER_WINDOW.high) == (-910, 590)
    assert WINDOWS["paper"] is PAPER_WINDOW
    assert WINDOWS["soft tissue"] == Window(-160, 240)
    assert WINDOWS["lung"] == Window(-1350, 150)


@pytest.mark.parametrize(("low", "high"), [(1, 1), (2, 1), (np.nan, 1), (0, np.inf)])
def test_a_window_that_shows_nothing_is_refused(low: float, high: float) -> None:
    with pytest.raises(InputError, match="window from"):
        Window(low, high)


def test_the_paper_window_maps_its_ends_its_middle_and_what_lies_outside() -> None:
    values = np.array([-3024, -910, -160, 590, 3071], np.int16)
    assert to_uint8(values, PAPER_WINDOW).tolist() == [0, 0, 128, 255, 255]
    assert to_uint8(values, PAPER_WINDOW).dtype == np.uint8


@settings(max_examples=50)
@given(
    low=st.floats(-5000, 5000),
    width=st.floats(1, 10000),
    values=st.lists(st.floats(-40000, 40000, width=32), min_size=1, max_size=30),
)
def test_windowing_is_within_half_a_grey_level_of_the_definition(low: float, width: float, values: list[float]) -> None:
    window = Window(low, low + width)
    gray = to_uint8(np.array(values), window).astype(float)
    exact = np.clip((np.array(values) - low) / (window.high - low), 0, 1) * 255
    assert np.abs(gray - exact).max() <= 0.5 + 255 * 0.005 / width
    assert (np.diff(gray[np.argsort(values)]) >= 0).all()


def test_an_image_has_three_equal_channels() -> None:
    image = to_rgb(body()[0], PAPER_WINDOW)
    assert image.shape == (64, 64, 3)
    assert image.dtype == np.uint8
    for channel in range(3):
        np.testing.assert_array_equal(image[..., channel], to_uint8(body()[0], PAPER_WINDOW))


def test_the_percentile_window_follows_scale_and_offset() -> None:
    values = np.random.default_rng(0).normal(0, 1, (10, 40, 40))
    plain, changed = percentile_window(values), percentile_window(values * 0.001 + 7)
    assert plain.low == pytest.approx(-2.576, abs=0.1)
    assert plain.high == pytest.approx(2.576, abs=0.1)
    assert changed.low == pytest.approx(plain.low * 0.001 + 7)
    assert changed.high == pytest.approx(plain.high * 0.001 + 7)


def test_padding_does_not_move_the_percentile_window() -> None:
    values = np.random.default_rng(0).normal(0, 1, (10, 40, 40))
    outside = values.copy()
    outside[:, :, :10] = -1000
    expected = percentile_window(values[:, :, 10:])
    assert percentile_window(outside) == expected


def test_a_nearly_constant_volume_still_has_a_window_and_a_constant_one_none() -> None:
    values = np.zeros(10000)
    values[0] = 1
    assert percentile_window(values) == Window(0, 1)
    with pytest.raises(InputError, match="window from 3 to 3"):
        percentile_window(np.full(10, 3.0))
