"""From masks and images to feature cells."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.features import cell_features, distinct_count, logits_to_feature_grid, mask_to_feature_grid, part_means
from P2SAMSlicerLib.models.protocol import PromptableModel
from PIL import Image


def sizes(input_size: int, feature_size: int) -> PromptableModel:
    """Only what the mask's way to the grid needs of a model: sizes, and SAM's longest-side resize."""

    def resized_shape(image_size: tuple[int, int]) -> tuple[int, int]:
        scale = input_size / max(image_size)
        return (int(image_size[0] * scale + 0.5), int(image_size[1] * scale + 0.5))

    card = SimpleNamespace(input_size=input_size, feature_size=feature_size)
    return cast(PromptableModel, SimpleNamespace(card=card, resized_shape=resized_shape))


def authors_grid(mask: np.ndarray, model: Any) -> np.ndarray:
    """The authors' steps on a three-channel 0/255 mask image, written out plainly."""
    height, width = model.resized_shape(mask.shape)
    image = np.repeat((mask * 255).astype(np.uint8)[:, :, None], 3, axis=2)
    resized = torch.as_tensor(np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)))
    size, cells = model.card.input_size, model.card.feature_size
    padded = torch.nn.functional.pad(resized.permute(2, 0, 1)[None].float(), (0, size - width, 0, size - height))
    centred = padded - (padded.max() + padded.min()) / 2.0
    sampled = torch.nn.functional.interpolate(centred, size=(cells, cells), mode="bilinear")
    return (sampled[0, 0] > 0).numpy()


def test_a_mask_of_whole_cells_gives_exactly_those_cells() -> None:
    mask = np.zeros((32, 32), dtype=bool)
    mask[8:16, 20:24] = True
    expected = np.zeros((8, 8), dtype=bool)
    expected[2:4, 5] = True
    np.testing.assert_array_equal(mask_to_feature_grid(mask, sizes(32, 8)), expected)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.tuples(st.integers(5, 90), st.integers(5, 90)),
    st.tuples(st.floats(0, 1), st.floats(0, 1)),
    st.floats(0.05, 0.6),
    st.floats(0.05, 0.6),
    st.sampled_from([(64, 16), (64, 4), (32, 8)]),
)
def test_the_grid_of_an_ellipse_is_the_authors_grid(
    shape: tuple[int, int], centre: tuple[float, float], radius_y: float, radius_x: float, model_sizes: tuple[int, int]
) -> None:
    model = sizes(*model_sizes)
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    y, x = rows / shape[0] - centre[0], columns / shape[1] - centre[1]
    mask = (y / radius_y) ** 2 + (x / radius_x) ** 2 <= 1
    if not mask.any() or mask.all():
        return
    expected = authors_grid(mask, model)
    found = mask_to_feature_grid(mask, model)
    if expected.any():
        np.testing.assert_array_equal(found, expected)
    else:
        assert found.sum() == 1


def test_padding_is_never_part_of_the_mask() -> None:
    grid = mask_to_feature_grid(np.ones((32, 16), dtype=bool), sizes(32, 8))
    assert grid[:, :4].all()
    assert not grid[:, 4:].any()


def test_a_mask_of_the_whole_square_image_covers_all_cells() -> None:
    assert mask_to_feature_grid(np.ones((20, 20), dtype=bool), sizes(32, 8)).all()


@pytest.mark.parametrize("shape", [(32, 32), (64, 40), (13, 29)])
def test_a_single_pixel_anywhere_gets_the_cell_it_lies_in(shape: tuple[int, int]) -> None:
    model = sizes(32, 4)
    scale = 4 / max(shape)
    for row in range(shape[0]):
        for column in range(shape[1]):
            mask = np.zeros(shape, dtype=bool)
            mask[row, column] = True
            grid = mask_to_feature_grid(mask, model)
            assert grid[int((row + 0.5) * scale), int((column + 0.5) * scale)], (row, column)


def test_a_pixel_that_resizing_rounds_away_still_gets_its_cell() -> None:
    mask = np.zeros((640, 640), dtype=bool)
    mask[611, 37] = True
    grid = mask_to_feature_grid(mask, sizes(16, 4))
    assert np.argwhere(grid).tolist() == [[3, 0]]


def test_a_lesion_between_the_samples_gets_the_fullest_cell() -> None:
    mask = np.zeros((32, 32), dtype=bool)
    mask[7, 14:19] = True  # the last row of cell row 0: two pixels in cell column 1, three in cell column 2
    assert np.argwhere(mask_to_feature_grid(mask, sizes(32, 4))).tolist() == [[0, 2]]


def test_an_empty_mask_is_refused() -> None:
    with pytest.raises(InputError, match="empty"):
        mask_to_feature_grid(np.zeros((8, 8), dtype=bool), sizes(32, 8))


def test_cell_features_come_in_row_major_order_and_are_not_normalised() -> None:
    features = torch.arange(2 * 3 * 4, dtype=torch.float32).reshape(2, 3, 4)
    grid = np.zeros((3, 4), dtype=bool)
    grid[0, 3] = grid[2, 1] = True
    np.testing.assert_array_equal(cell_features(features, grid), [[3, 15], [9, 21]])


def test_lesion_and_background_cells_are_all_cells() -> None:
    features = torch.randn(5, 4, 4, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    grid = np.zeros((4, 4), dtype=bool)
    grid[1:3, 1:3] = True
    inside, outside = cell_features(features, grid), cell_features(features, ~grid)
    assert inside.dtype == np.float32
    assert (len(inside), len(outside)) == (4, 12)
    np.testing.assert_allclose(inside.sum(0) + outside.sum(0), features.float().sum((1, 2)).numpy(), atol=1e-5)


def test_a_cell_mask_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        cell_features(torch.zeros(3, 4, 4), np.zeros((4, 5), dtype=bool))


def test_a_decoded_mask_is_sampled_between_its_two_middle_pixels() -> None:
    logits = torch.full((2, 1, 8, 8), -1.0)
    logits[0, 0, 1:3, 5:7] = 0.5  # the four pixels around the centre of cell (0, 1)
    logits[1, 0, 4, 0] = 100.0  # a corner pixel of cell (1, 0), which the centre does not see
    grids = logits_to_feature_grid(logits, (2, 2))
    np.testing.assert_array_equal(grids, [[[False, True], [False, False]], [[False, False], [False, False]]])


def test_a_logit_of_zero_is_outside() -> None:
    assert not logits_to_feature_grid(torch.zeros(1, 1, 8, 8), (2, 2)).any()


def test_two_clusters_give_their_two_means() -> None:
    points = np.array([[0, 0], [0, 2], [10, 0], [10, 4], [10, 2]], dtype=np.float32)
    means = part_means(points, 2)
    np.testing.assert_allclose(means[np.argsort(means[:, 0])], [[0, 1], [10, 2]])


def test_one_part_is_the_mean_of_all() -> None:
    points = np.random.default_rng(1).normal(size=(30, 4)).astype(np.float32)
    np.testing.assert_allclose(part_means(points, 1), points.mean(0, keepdims=True), rtol=1e-5)


def test_parts_are_those_of_k_means_with_ten_restarts() -> None:
    from sklearn.cluster import KMeans

    points = np.random.default_rng(2).normal(size=(200, 8)).astype(np.float32)
    labels = KMeans(n_clusters=6, random_state=0, n_init=10).fit_predict(points)
    expected = np.stack([points[labels == part].mean(0) for part in range(6)])
    np.testing.assert_allclose(part_means(points, 6), expected, atol=1e-5)


def test_there_are_never_more_parts_than_distinct_features() -> None:
    points = np.array([[1, 0], [0, 1]] * 5, dtype=np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        means = part_means(points, 45)
    assert distinct_count(points) == 2
    assert sorted(means.tolist()) == [[0, 1], [1, 0]]


def test_features_that_k_means_cannot_tell_apart_give_fewer_parts_without_a_warning() -> None:
    near, far = np.float32(1000), np.nextafter(np.float32(1000), np.float32(2000))
    points = np.array([[near], [far], [-near], [-far]] * 3, dtype=np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        means = part_means(points, 4)
    np.testing.assert_allclose(np.sort(means[:, 0]), [-1000, 1000], rtol=1e-6)


def test_the_same_seed_gives_the_same_parts_to_the_last_digit() -> None:
    points = np.random.default_rng(3).normal(size=(700, 16)).astype(np.float32)
    np.testing.assert_array_equal(part_means(points, 9, seed=4), part_means(points, 9, seed=4))


def test_parts_of_nothing_are_refused() -> None:
    with pytest.raises(InputError, match="none to divide"):
        part_means(np.zeros((0, 3), dtype=np.float32), 1)
    with pytest.raises(ValueError, match="at least 1"):
        part_means(np.ones((3, 3), dtype=np.float32), 0)
