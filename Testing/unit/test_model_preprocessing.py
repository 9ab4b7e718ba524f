"""Images arrive at the network as the model was trained to see them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from P2SAMSlicerLib.models.preprocessing import PIXEL_MEAN, PIXEL_STD, Preprocessing

CPU = torch.device("cpu")


def random_image(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("shape", [(50, 70), (300, 200), (128, 128), (64, 128), (1, 200), (129, 127)])
def test_resizing_for_sam_equals_its_own_pixel_for_pixel(shape: tuple[int, int]) -> None:
    transforms = pytest.importorskip("segment_anything.utils.transforms")
    image = random_image(*shape)
    np.testing.assert_array_equal(Preprocessing(128).resize(image), transforms.ResizeLongestSide(128).apply_image(image))


@given(height=st.integers(1, 3000), width=st.integers(1, 3000))
def test_the_resized_shape_fits_the_square_and_is_never_empty(height: int, width: int) -> None:
    resized = Preprocessing(256).resized_shape((height, width))
    assert max(resized) == 256
    assert min(resized) >= 1
    if min(height, width) * 512 > max(height, width):
        transforms = pytest.importorskip("segment_anything.utils.transforms")
        assert resized == transforms.ResizeLongestSide.get_preprocess_shape(height, width, 256)


def test_stretching_fills_the_square_and_scales_each_axis_by_itself() -> None:
    preprocessing = Preprocessing(256, fit="stretch", interpolation="bicubic")
    assert preprocessing.resize(random_image(64, 128)).shape == (256, 256, 3)
    np.testing.assert_array_equal(preprocessing.point_scale((64, 128)), [2.0, 4.0])


def test_mean_and_deviation_are_sams_and_padding_comes_after_them() -> None:
    image = np.full((32, 64, 3), 200, dtype=np.uint8)
    tensor = Preprocessing(64).tensor([image], CPU)[0]
    for channel in range(3):
        expected = (200 - PIXEL_MEAN[channel]) / PIXEL_STD[channel]
        torch.testing.assert_close(tensor[channel, :32], torch.full((32, 64), expected))
        assert (tensor[channel, 32:] == 0).all()


def test_each_image_gets_its_own_range_and_padding_is_zero_after_scaling() -> None:
    dark = np.full((40, 80, 3), 50, dtype=np.uint8)
    dark[3, 5], dark[7, 9] = (10, 20, 30), (60, 90, 70)
    bright = np.full((40, 80, 3), 100, dtype=np.uint8)
    bright[0, 0] = 250
    both = Preprocessing(80, scaling="min_max").tensor([dark, bright], CPU)
    assert both.shape == (2, 3, 80, 80)
    # One range for all three channels: 10..90.
    torch.testing.assert_close(both[0, :, 7, 9], torch.tensor([50 / 80, 1.0, 60 / 80]))
    torch.testing.assert_close(both[0, :, 3, 5], torch.tensor([0.0, 10 / 80, 20 / 80]))
    assert (both[1, :, 0, 0] == 1).all()
    assert (both[1, :, 1:40] == 0).all()
    assert (both[:, :, 40:] == 0).all()


def test_a_constant_image_becomes_zeros_without_dividing_by_zero() -> None:
    tensor = Preprocessing(16, scaling="min_max").tensor([np.full((16, 16, 3), 77, dtype=np.uint8)], CPU)
    assert (tensor == 0).all()


def test_an_image_of_the_models_size_is_not_resampled() -> None:
    image = random_image(96, 96)
    for interpolation in ("bilinear", "bicubic"):
        np.testing.assert_array_equal(Preprocessing(96, interpolation=interpolation).resize(image), image)


def test_views_with_odd_strides_are_read_correctly() -> None:
    image = random_image(40, 40)
    preprocessing = Preprocessing(32)
    np.testing.assert_array_equal(preprocessing.resize(image[::-1, :, ::-1]), preprocessing.resize(image[::-1, :, ::-1].copy()))
    assert preprocessing.tensor([random_image(32, 32)[:, ::-1]], CPU).shape == (1, 3, 32, 32)


def test_an_unknown_way_of_preprocessing_is_refused() -> None:
    with pytest.raises(ValueError, match="median"):
        Preprocessing(64, scaling="median")  # type: ignore[arg-type]
