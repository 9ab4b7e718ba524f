"""Paper mode on one image pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from P2SAMSlicerLib import features as features_module
from P2SAMSlicerLib.errors import InputError, ModelError
from P2SAMSlicerLib.models.protocol import Decoded, ModelCard, PromptableModel, PromptSet
from P2SAMSlicerLib.prompts import Reference
from P2SAMSlicerLib.retrieval import EMPTY_DISTANCE, distribution_distance
from P2SAMSlicerLib.segmentation import PRESETS, PaperOptions, mask_box, segment_image, segment_with_reference

SIZE, CELLS, SIDE = 64, 16, 64
Image3 = NDArray[np.uint8]
Mask = NDArray[np.bool_]


@dataclass
class Call:
    """What the stub was asked to decode."""

    prompts: list[PromptSet]
    multimask: bool
    guided: bool = False


class DiscModel:
    """Answers with discs around positive points, minus discs around negative ones; 64-pixel input, 16x16 cells.

    Features are a cell's mean colour. Logits of an earlier decode and boxes move the answer a little, so that a wrong order
    of steps shows. Of three masks the middle one is predicted best. Images must be at most 64 pixels.
    """

    card = ModelCard("discs", "discs", SIZE, CELLS, ("points",), "", "", "MIT")
    device = torch.device("cpu")

    def __init__(self, offset: float = 0.0) -> None:
        self.offset = offset
        self.calls: list[Call] = []
        self.encoded: list[int] = []

    def resized_shape(self, image_size: tuple[int, int]) -> tuple[int, int]:
        return image_size

    def encode(self, images: Sequence[Image3]) -> torch.Tensor:
        self.encoded.append(len(images))
        batch = torch.stack([torch.from_numpy(image).permute(2, 0, 1).float() for image in images])
        padded = torch.nn.functional.pad(batch, (0, SIZE - batch.shape[3], 0, SIZE - batch.shape[2]))
        return torch.nn.functional.avg_pool2d(padded, SIZE // CELLS)

    def decode(
        self, features: torch.Tensor, prompts: Sequence[PromptSet], image_size: tuple[int, int], *, multimask: bool = False
    ) -> Decoded:
        del image_size
        assert features.shape == (1, 3, CELLS, CELLS)
        self.calls.append(Call(list(prompts), multimask))
        factors = (0.5, 1.0, 1.5) if multimask else (1.0,)
        logits = torch.stack([torch.stack([self._logits(prompt, factor) for factor in factors]) for prompt in prompts])
        scores = [0.2, 0.9, 0.9] if multimask else [0.4]
        return Decoded(logits, torch.tensor([scores] * len(prompts)))

    def _logits(self, prompt: PromptSet, factor: float) -> torch.Tensor:
        rows, columns = np.mgrid[:SIDE, :SIDE]
        logits = np.full((SIDE, SIDE), -2.0 + self.offset)
        assert prompt.points is not None
        assert prompt.labels is not None
        for (x, y), label in zip(prompt.points, prompt.labels, strict=True):
            disc = 6.0 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * (5.0 * factor) ** 2))
            logits += disc if label == 1 else -disc
        out = torch.from_numpy(logits).float()
        if prompt.mask_logits is not None:
            out = out + 0.25 * prompt.mask_logits[0]
        if prompt.box is not None:
            x0, y0, x1, y1 = prompt.box
            out[int(y0) : int(y1) + 1, int(x0) : int(x1) + 1] += 0.25
        return out

    def upscale(self, logits: torch.Tensor, image_size: tuple[int, int]) -> torch.Tensor:
        full = torch.nn.functional.interpolate(logits, (SIZE, SIZE), mode="bilinear", align_corners=False)
        return full[..., : image_size[0], : image_size[1]]


class GuidedDiscModel(DiscModel):
    """A disc model that can be guided; it only notes that it was."""

    def decode_guided(
        self,
        features: torch.Tensor,
        prompts: Sequence[PromptSet],
        image_size: tuple[int, int],
        attention: torch.Tensor,
        target_embedding: torch.Tensor,
    ) -> Decoded:
        assert attention.shape == (len(prompts), CELLS * CELLS)
        assert target_embedding.shape == (3,)
        decoded = self.decode(features, prompts, image_size)
        self.calls[-1].guided = True
        return decoded


def scene(x: int, y: int, seed: int, width: int = 56) -> tuple[Image3, Mask]:
    """A dark image with a lesion of two colours at (x, y)."""
    image = np.random.default_rng(seed).integers(20, 40, (SIZE, width, 3)).astype(np.uint8)
    mask = np.zeros((SIZE, width), dtype=bool)
    mask[y : y + 12, x : x + 12] = True
    image[y : y + 12, x : x + 6] = (200, 60, 60)
    image[y : y + 12, x + 6 : x + 12] = (60, 60, 200)
    return image, mask


def run(model: DiscModel, options: PaperOptions) -> Any:
    image, mask = scene(8, 12, 0)
    return segment_image(cast(PromptableModel, model), image, mask, scene(28, 32, 1)[0], options)


def test_the_search_tries_every_pair_of_counts_in_order() -> None:
    result = run(DiscModel(), PaperOptions(positive=(1, 3), negative=(0, 2)))
    counts = [(candidate.n_positive, candidate.n_negative) for candidate in result.candidates]
    assert counts == [(1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2), (3, 0), (3, 1), (3, 2)]
    assert result.candidates[4].origin == "parts 2, background 1"


def test_each_lesion_part_gets_a_point_on_its_colour() -> None:
    best = run(DiscModel(), PaperOptions((2, 2), (0, 0))).best
    target, _ = scene(28, 32, 1)
    colours = {tuple(target[int(y), int(x)].tolist()) for x, y in best.points}
    assert colours == {(200, 60, 60), (60, 60, 200)}
    assert best.points.dtype == np.float32
    assert best.labels.tolist() == [1, 1]


def test_negative_points_follow_the_positive_ones_and_avoid_the_lesion() -> None:
    _, lesion = scene(28, 32, 1)
    for candidate in run(DiscModel(), PaperOptions((1, 2), (3, 3))).candidates:
        n_positive = candidate.n_positive
        assert candidate.labels.tolist() == [1] * n_positive + [0] * 3
        points = candidate.points.astype(int)
        inside = lesion[points[:, 1], points[:, 0]]
        assert inside[:n_positive].all()
        assert not inside[n_positive:].any()


def test_ct_is_decoded_three_times_with_all_candidates_in_each() -> None:
    model = DiscModel()
    result = run(model, PaperOptions((1, 3), (1, 2)))
    assert [len(call.prompts) for call in model.calls] == [6, 6, 6]
    assert not any(call.multimask or call.guided for call in model.calls)
    first, second, third = model.calls
    assert all(prompt.mask_logits is None and prompt.box is None for prompt in first.prompts)
    assert all(prompt.mask_logits is not None and prompt.box is None for prompt in second.prompts)
    assert all(prompt.mask_logits is not None and prompt.box is not None for prompt in third.prompts)
    fresh = DiscModel()
    for row, candidate in enumerate(result.candidates):
        one = fresh._logits(PromptSet(candidate.points, candidate.labels), 1.0)
        torch.testing.assert_close(second.prompts[row].mask_logits, one[None], rtol=0, atol=0)
        two = fresh._logits(PromptSet(candidate.points, candidate.labels, mask_logits=one[None]), 1.0)
        torch.testing.assert_close(third.prompts[row].mask_logits, two[None], rtol=0, atol=0)
        box = mask_box(two.numpy()[:, :56] > 0)
        np.testing.assert_array_equal(cast(Any, third.prompts[row].box), cast(Any, box))
        np.testing.assert_array_equal(cast(Any, candidate.box), cast(Any, box))
        three = fresh._logits(PromptSet(candidate.points, candidate.labels, box=box, mask_logits=two[None]), 1.0)
        np.testing.assert_array_equal(candidate.mask, three.numpy()[:, :56] > 0)
        assert candidate.predicted_iou == pytest.approx(0.4)


def test_natural_images_are_guided_first_and_take_the_best_of_three_masks_after() -> None:
    model = GuidedDiscModel()
    result = run(model, replace(PRESETS["natural"], positive=(1, 3)))
    assert [(call.guided, call.multimask) for call in model.calls] == [(True, False), (False, True), (False, True)]
    fresh = DiscModel()
    for candidate in result.candidates:
        assert candidate.n_negative == 1
        assert candidate.predicted_iou == pytest.approx(0.9)
        one = fresh._logits(PromptSet(candidate.points, candidate.labels), 1.0)
        two = fresh._logits(PromptSet(candidate.points, candidate.labels, mask_logits=one[None]), 1.0)
        box = mask_box(two.numpy()[:, :56] > 0)
        three = fresh._logits(PromptSet(candidate.points, candidate.labels, box=box, mask_logits=two[None]), 1.0)
        np.testing.assert_array_equal(candidate.mask, three.numpy()[:, :56] > 0)
    assert [candidate.n_positive for candidate in result.candidates] == [1, 2, 3]


def test_natural_images_ignore_the_negative_range() -> None:
    narrow = run(GuidedDiscModel(), PaperOptions((1, 2), (0, 0), natural=True))
    wide = run(GuidedDiscModel(), PaperOptions((1, 2), (3, 9), natural=True))
    assert [c.points.tolist() for c in narrow.candidates] == [c.points.tolist() for c in wide.candidates]


def test_an_empty_second_mask_gives_no_box_and_the_worst_distance_and_the_first_wins() -> None:
    result = run(DiscModel(offset=-100.0), PaperOptions((1, 2), (0, 1)))
    assert [candidate.box for candidate in result.candidates] == [None] * 4
    assert [candidate.distance for candidate in result.candidates] == [EMPTY_DISTANCE] * 4
    assert result.chosen == 0
    assert not result.best.mask.any()


@pytest.mark.parametrize("kind", ["wasserstein", "jensen-shannon", "hungarian"])
def test_the_candidate_of_the_smallest_distance_is_chosen(kind: Any) -> None:
    model = DiscModel()
    image, mask = scene(8, 12, 0)
    target, _ = scene(28, 32, 1)
    options = PaperOptions((1, 4), (0, 4), retrieval=kind, seed=3)
    result = segment_image(cast(PromptableModel, model), image, mask, target, options)
    distances = [candidate.distance for candidate in result.candidates]
    assert len(set(distances)) > 1
    assert result.chosen == distances.index(min(distances))
    assert all(candidate.score == candidate.distance for candidate in result.candidates)
    # The distance of the chosen one, from its own final logits, which fill the padded square.
    third = model.calls[-1].prompts[result.chosen]
    logits = model._logits(third, 1.0)
    cells = torch.nn.functional.interpolate(logits[None, None], size=(CELLS, CELLS), mode="bilinear")[0, 0].numpy() > 0
    found = model.encode([target])[0].numpy()[:, cells].T
    lesion = Reference.from_image(cast(PromptableModel, model), image, mask).foreground
    assert result.best.distance == pytest.approx(distribution_distance(kind, lesion, found, seed=3), rel=1e-6)


def test_the_lesion_is_found_where_it_moved() -> None:
    _, lesion = scene(28, 32, 1)
    found = run(DiscModel(), PaperOptions((1, 3), (1, 1))).best.mask
    assert 2 * (found & lesion).sum() / (found.sum() + lesion.sum()) > 0.7


def test_both_images_are_encoded_once_and_a_reference_can_be_kept() -> None:
    model = DiscModel()
    run(model, PaperOptions((1, 3), (0, 3)))
    assert model.encoded == [1, 1]
    image, mask = scene(8, 12, 0)
    promptable = cast(PromptableModel, model)
    reference = Reference.from_image(promptable, image, mask)
    model.encoded.clear()
    options = PaperOptions((1, 2), (1, 2))
    kept = [segment_with_reference(promptable, reference, scene(x, 32, 1)[0], options) for x in (20, 28)]
    assert model.encoded == [1, 1]
    fresh = run(DiscModel(), options)
    assert [c.points.tolist() for c in kept[1].candidates] == [c.points.tolist() for c in fresh.candidates]
    assert [c.distance for c in kept[1].candidates] == [c.distance for c in fresh.candidates]


def test_k_means_runs_once_for_each_count(monkeypatch: pytest.MonkeyPatch) -> None:
    fits: list[int] = []
    original = features_module._cluster

    def counted(points: NDArray[np.float32], n_clusters: int, seed: int) -> NDArray[np.int64]:
        fits.append(n_clusters)
        return original(points, n_clusters, seed)

    monkeypatch.setattr(features_module, "_cluster", counted)
    run(DiscModel(), PaperOptions((1, 3), (0, 4)))
    assert sorted(fits) == [2, 2, 3, 3, 4]


def test_counts_beyond_the_distinct_features_are_not_tried_twice() -> None:
    image = np.full((SIZE, SIZE, 3), 30, dtype=np.uint8)
    mask = np.zeros((SIZE, SIZE), dtype=bool)
    mask[8:24, 8:24] = True
    image[8:24, 8:16], image[8:24, 16:24] = (200, 0, 0), (0, 0, 200)
    result = segment_image(cast(PromptableModel, DiscModel()), image, mask, image, PaperOptions((1, 6), (3, 45)))
    assert [(candidate.n_positive, candidate.n_negative) for candidate in result.candidates] == [(1, 1), (2, 1)]


def test_a_lesion_below_one_cell_is_still_searched_for() -> None:
    image, _ = scene(8, 12, 0)
    mask = np.zeros(image.shape[:2], dtype=bool)
    mask[12, 8] = True
    target, lesion = scene(28, 32, 1)
    result = segment_image(cast(PromptableModel, DiscModel()), image, mask, target, PaperOptions((1, 2), (1, 1)))
    x, y = result.best.points[0].astype(int)
    assert len(result.candidates) == 1
    assert lesion[y, x]


def test_wide_searches_give_what_narrow_ones_give(monkeypatch: pytest.MonkeyPatch) -> None:
    options = PaperOptions((1, 4), (0, 4))
    model = DiscModel()
    monkeypatch.setattr("P2SAMSlicerLib.segmentation.CASCADE_BATCH", 3)
    parts = run(model, options)
    assert max(len(call.prompts) for call in model.calls) == 3
    monkeypatch.undo()
    whole = run(DiscModel(), options)
    assert parts.chosen == whole.chosen
    for one, other in zip(parts.candidates, whole.candidates, strict=True):
        np.testing.assert_array_equal(one.mask, other.mask)
        assert (one.distance, one.origin) == (other.distance, other.origin)


def test_inputs_are_left_as_they_were_and_two_runs_agree() -> None:
    image, mask = scene(8, 12, 0)
    target, _ = scene(28, 32, 1)
    copies = [image.copy(), mask.copy(), target.copy()]
    results = [
        segment_image(cast(PromptableModel, DiscModel()), image, mask, target, PaperOptions((1, 3), (2, 2))) for _ in range(2)
    ]
    assert all((a == b).all() for a, b in zip(copies, [image, mask, target], strict=True))
    for one, other in zip(results[0].candidates, results[1].candidates, strict=True):
        np.testing.assert_array_equal(one.mask, other.mask)
        assert one.distance == other.distance


def test_the_presets_are_the_papers_ranges() -> None:
    assert (PRESETS["ct_unadapted"].positive, PRESETS["ct_unadapted"].negative) == ((1, 2), (45, 45))
    assert (PRESETS["ct_adapted"].positive, PRESETS["ct_adapted"].negative) == ((1, 3), (1, 1))
    assert (PRESETS["natural"].positive, PRESETS["natural"].natural) == ((1, 5), True)
    assert PaperOptions() == PRESETS["ct_unadapted"]


IMAGE, MASK = scene(8, 12, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((IMAGE.astype(float), MASK, IMAGE), "reference image: not uint8 RGB"),
        ((IMAGE[..., 0], MASK, IMAGE), "reference image: not uint8 RGB"),
        (([[1]], MASK, IMAGE), "reference image: not an array but list"),
        ((IMAGE, MASK, IMAGE[..., :2]), "target image: not uint8 RGB"),
        ((IMAGE, MASK, IMAGE[:0]), "target image: not uint8 RGB"),
        ((IMAGE, MASK.astype(np.uint8), IMAGE), "reference mask: not bool, but uint8"),
        ((IMAGE, MASK[:-1], IMAGE), "reference mask: its shape"),
        ((IMAGE, np.zeros_like(MASK), IMAGE), "reference mask: it is empty"),
    ],
)
def test_unusable_images_are_refused_in_one_line_before_anything_is_encoded(arguments: Any, message: str) -> None:
    model = DiscModel()
    with pytest.raises(InputError, match=message) as caught:
        segment_image(cast(PromptableModel, model), *arguments)
    assert "\n" not in str(caught.value)
    assert model.encoded == []


def test_a_mask_of_everything_leaves_no_background_for_negative_points() -> None:
    image = np.random.default_rng(0).integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8)
    mask = np.ones((SIZE, SIZE), dtype=bool)
    model = cast(PromptableModel, DiscModel())
    with pytest.raises(InputError, match="no background"):
        segment_image(model, image, mask, image, PaperOptions((1, 1), (0, 2)))
    assert len(segment_image(model, image, mask, image, PaperOptions((1, 2), (0, 0))).candidates) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (PaperOptions(positive=(0, 2)), "positive: 0..2"),
        (PaperOptions(positive=(3, 2)), "positive: 3..2"),
        (PaperOptions(negative=(-1, 2)), "negative: -1..2"),
        (PaperOptions(negative=(5, 4)), "negative: 5..4"),
        (PaperOptions(retrieval=cast(Any, "nearest")), "retrieval: 'nearest'"),
        (PaperOptions(max_points=0), "max_points: 0"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: PaperOptions, message: str) -> None:
    with pytest.raises(InputError, match=message):
        run(DiscModel(), options)


def test_natural_images_need_a_model_that_can_be_guided() -> None:
    model = DiscModel()
    with pytest.raises(ModelError, match="discs: its mask decoder cannot be guided"):
        run(model, PRESETS["natural"])
    assert model.encoded == []


def test_the_box_of_a_mask_ends_at_its_outermost_pixels() -> None:
    mask = np.zeros((9, 12), dtype=bool)
    mask[2, 5] = mask[7, 3] = mask[4, 10] = True
    box = mask_box(mask)
    assert box is not None
    assert box.tolist() == [3, 2, 10, 7]
    assert mask_box(np.zeros((3, 3), dtype=bool)) is None
