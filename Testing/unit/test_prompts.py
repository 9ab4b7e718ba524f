"""Parts, similarity maps and prompt points."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from P2SAMSlicerLib import prompts
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.models.protocol import PromptableModel
from P2SAMSlicerLib.prompts import (
    Reference,
    fit_parts,
    natural_negative_point,
    negative_points,
    part_features,
    positive_points,
    similarity_maps,
    target_attention,
)

SIZE, CELLS = 32, 8


class PlainModel:
    """Input 32 pixels, 8x8 cells; a feature is the mean colour of its cell. Images must be at most 32 pixels."""

    card = SimpleNamespace(input_size=SIZE, feature_size=CELLS)

    def resized_shape(self, image_size: tuple[int, int]) -> tuple[int, int]:
        return image_size

    def encode(self, images: Sequence[NDArray[np.uint8]]) -> torch.Tensor:
        batch = torch.stack([torch.from_numpy(image).permute(2, 0, 1).float() for image in images])
        padded = torch.nn.functional.pad(batch, (0, SIZE - batch.shape[3], 0, SIZE - batch.shape[2]))
        return torch.nn.functional.avg_pool2d(padded, SIZE // CELLS)

    def upscale(self, logits: torch.Tensor, image_size: tuple[int, int]) -> torch.Tensor:
        full = torch.nn.functional.interpolate(logits, (SIZE, SIZE), mode="bilinear", align_corners=False)
        return full[..., : image_size[0], : image_size[1]]


MODEL = cast(PromptableModel, PlainModel())


def test_part_features_have_unit_length() -> None:
    points = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32) * 7
    parts = part_features(points, 4)
    assert parts.shape == (4, 5)
    np.testing.assert_allclose(np.linalg.norm(parts, axis=1), 1, rtol=1e-6)


def test_one_part_is_the_normalised_mean_of_unnormalised_features() -> None:
    points = np.array([[10, 0], [0, 1]], dtype=np.float32)
    np.testing.assert_allclose(part_features(points, 1), [np.array([10, 1]) / np.sqrt(101)], rtol=1e-6)


def test_clusters_are_found_before_normalisation() -> None:
    points = np.array([[1, 0], [0, 1], [100, 0], [99, 0]], dtype=np.float32)
    parts = part_features(points, 2)
    np.testing.assert_allclose(parts[np.argsort(parts[:, 0])], [[np.sqrt(0.5)] * 2, [1, 0]], rtol=1e-6)


def test_an_all_zero_part_stays_finite() -> None:
    assert part_features(np.zeros((3, 2), dtype=np.float32), 1).tolist() == [[0.0, 0.0]]


def test_similarity_is_the_cosine_of_part_and_cell() -> None:
    generator = torch.Generator().manual_seed(1)
    target = torch.randn(3, CELLS, CELLS, generator=generator)
    parts = part_features(np.random.default_rng(1).normal(size=(20, 3)).astype(np.float32), 3)
    cosine = np.zeros((3, CELLS, CELLS), dtype=np.float32)
    for part in range(3):
        for row in range(CELLS):
            for column in range(CELLS):
                cell = target[:, row, column].numpy()
                cosine[part, row, column] = parts[part] @ cell / np.linalg.norm(cell)
    enlarged = torch.nn.functional.interpolate(torch.from_numpy(cosine)[None], scale_factor=4, mode="bilinear")[0]
    maps = similarity_maps(parts, target, MODEL, (SIZE, SIZE))
    np.testing.assert_allclose(maps.numpy(), enlarged.numpy(), atol=1e-6)


def test_similarity_does_not_depend_on_the_targets_scale() -> None:
    target = torch.randn(3, CELLS, CELLS, generator=torch.Generator().manual_seed(2))
    parts = np.array([[0, 0, 1]], dtype=np.float32)
    maps = [similarity_maps(parts, factor * target, MODEL, (SIZE, 20)) for factor in (1.0, 250.0)]
    assert maps[0].shape == (1, SIZE, 20)
    np.testing.assert_allclose(maps[0].numpy(), maps[1].numpy(), atol=1e-6)


def test_an_all_zero_target_cell_is_similar_to_nothing() -> None:
    maps = similarity_maps(np.array([[1, 0]], dtype=np.float32), torch.zeros(2, CELLS, CELLS), MODEL, (SIZE, SIZE))
    assert (maps == 0).all()


def test_each_part_points_at_the_cell_that_looks_like_it() -> None:
    target = torch.zeros(3, CELLS, CELLS)
    target[0] = 1
    target[:, 2, 5] = torch.tensor([0.0, 4.0, 0.0])
    target[:, 6, 1] = torch.tensor([0.0, 0.0, 0.5])
    parts = np.array([[0, 1, 0], [0, 0, 1]], dtype=np.float32)
    points = positive_points(similarity_maps(parts, target, MODEL, (SIZE, SIZE)))
    assert (points // 4).tolist() == [[5, 2], [1, 6]]  # (x, y)


def test_points_are_x_then_y() -> None:
    maps = torch.zeros(1, 4, 9)
    maps[0, 1, 7] = 1
    assert positive_points(maps).tolist() == [[7, 1]]


def test_of_equal_pixels_the_first_in_row_major_order_is_taken() -> None:
    maps = torch.zeros(2, 5, 6)
    maps[0, 3, 1] = maps[0, 2, 4] = maps[0, 2, 5] = 1
    assert positive_points(maps).tolist() == [[4, 2], [0, 0]]
    assert negative_points(maps).tolist() == [[4, 2], [0, 0]]
    assert natural_negative_point(maps).tolist() == [[0, 0]]


def test_equal_points_of_different_parts_are_kept() -> None:
    maps = torch.zeros(3, 5, 5)
    maps[:, 4, 2] = torch.tensor([1.0, 2.0, 3.0])
    assert positive_points(maps).tolist() == [[2, 4]] * 3


def test_points_stay_inside_the_allowed_pixels() -> None:
    maps = torch.rand(4, 12, 10, generator=torch.Generator().manual_seed(3))
    allowed = np.zeros((12, 10), dtype=bool)
    allowed[3:6, 2:4] = True
    before = maps.clone()
    points = positive_points(maps, allowed).astype(int)
    assert allowed[points[:, 1], points[:, 0]].all()
    for part, (x, y) in enumerate(points):
        assert maps[part, y, x] == maps[part][torch.from_numpy(allowed)].max()
    negative_x, negative_y = natural_negative_point(maps, allowed)[0].astype(int)
    mean = maps.mean(0)
    assert mean[negative_y, negative_x] == mean[torch.from_numpy(allowed)].min()
    assert torch.equal(maps, before)


def test_no_allowed_pixel_is_an_error() -> None:
    with pytest.raises(ValueError, match="no pixel"):
        positive_points(torch.zeros(1, 4, 4), np.zeros((4, 4), dtype=bool))
    with pytest.raises(ValueError, match="do not fit"):
        positive_points(torch.zeros(1, 4, 4), np.ones((4, 5), dtype=bool))


def test_the_natural_negative_is_where_the_mean_map_is_smallest() -> None:
    maps = torch.zeros(2, 3, 3)
    maps[0, 0, 0], maps[1, 0, 0] = -5, 5  # the smallest of one map, but not of the mean
    maps[0, 2, 1], maps[1, 2, 1] = -1, -1
    assert natural_negative_point(maps).tolist() == [[1, 2]]


def test_attention_is_the_sigmoid_of_the_standardised_mean_map() -> None:
    maps = torch.rand(3, 20, 12, generator=torch.Generator().manual_seed(4))
    mean = maps.mean(0).numpy().astype(np.float64)
    standardised = (mean - mean.mean()) / mean.std(ddof=1)
    resized = torch.nn.functional.interpolate(torch.from_numpy(standardised)[None, None], size=(4, 4), mode="bilinear")
    expected = 1 / (1 + np.exp(-resized.numpy().ravel()))
    attention = target_attention(maps, (4, 4))
    assert attention.shape == (16,)
    np.testing.assert_allclose(attention.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 6, 6), (1, 1, 1)])
def test_a_constant_map_guides_nowhere(shape: tuple[int, int, int]) -> None:
    assert (target_attention(torch.full(shape, 0.3), (3, 3)) == 0.5).all()


def reference_image() -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    image = np.random.default_rng(5).integers(0, 256, (SIZE, 24, 3), dtype=np.uint8)
    mask = np.zeros((SIZE, 24), dtype=bool)
    mask[8:16, 8:20] = True
    return image, mask


def test_a_reference_holds_the_lesions_cells_and_all_others() -> None:
    image, mask = reference_image()
    reference = Reference.from_image(MODEL, image, mask)
    assert reference.foreground.shape == (6, 3)
    assert reference.background.shape == (CELLS * CELLS - 6, 3)
    np.testing.assert_allclose(reference.foreground[0], image[8:12, 8:12].mean((0, 1)), rtol=1e-5)
    assert (reference.background == 0).all(axis=1).sum() == 2 * CELLS  # the padding
    np.testing.assert_allclose(reference.mean, image[8:16, 8:20].mean((0, 1)), rtol=1e-5)
    assert (reference.distinct_foreground, reference.distinct_background) == (6, CELLS * CELLS - 6 - 2 * CELLS + 1)


def test_a_reference_clusters_once_for_each_number_of_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    fits: list[tuple[int, int]] = []

    def counted(points: NDArray[np.float32], n_parts: int, seed: int = 0) -> NDArray[np.float32]:
        fits.append((len(points), n_parts))
        return part_features(points, n_parts, seed)

    monkeypatch.setattr(prompts, "part_features", counted)
    reference = Reference.from_image(MODEL, *reference_image())
    first = [reference.positive_parts(2), reference.negative_parts(2), reference.positive_parts(1)]
    again = [reference.positive_parts(2), reference.negative_parts(2), reference.positive_parts(1)]
    assert fits == [(6, 2), (58, 2), (6, 1)]
    assert all(a is b for a, b in zip(first, again, strict=True))
    np.testing.assert_array_equal(first[1], part_features(reference.background, 2))


def test_two_references_do_not_share_their_parts() -> None:
    one = Reference(np.array([[1, 0]], dtype=np.float32), np.zeros((0, 2), dtype=np.float32))
    two = Reference(np.array([[0, 3]], dtype=np.float32), np.zeros((0, 2), dtype=np.float32))
    assert one.positive_parts(1).tolist() == [[1, 0]]
    assert two.positive_parts(1).tolist() == [[0, 1]]


def test_negative_parts_without_a_background_are_refused() -> None:
    reference = Reference(np.ones((4, 2), dtype=np.float32), np.zeros((0, 2), dtype=np.float32))
    with pytest.raises(InputError, match="no background"):
        reference.negative_parts(1)


def test_references_clustered_side_by_side_are_each_what_they_are_alone() -> None:
    def references() -> list[Reference]:
        rows = np.random.default_rng(1)
        made = [Reference(rows.random((30, 8), np.float32), rows.random((80, 8), np.float32)) for _ in range(4)]
        return [*made, Reference(np.repeat(rows.random((1, 8), np.float32), 5, axis=0), np.zeros((0, 8), np.float32))]

    alone, together = references(), references()
    fit_parts(together, range(1, 4), range(7))
    fitted = [dict(reference._parts) for reference in together]
    for reference, parts in zip(alone, fitted, strict=True):
        wanted = {("foreground", n) for n in range(1, min(3, reference.distinct_foreground) + 1)}
        wanted |= {("background", n) for n in range(1, 7) if len(reference.background)}
        assert parts.keys() == wanted
        for (kind, count), found in parts.items():
            own = reference.positive_parts(count) if kind == "foreground" else reference.negative_parts(count)
            assert np.array_equal(found, own)
