"""``p2sam adapt``: from annotated CTs and a base model to an adapter file."""

from __future__ import annotations

import copy
import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from P2SAMSlicerLib import __version__
from P2SAMSlicerLib.adaptation.annotated_ct import AnnotatedCT, find_annotated_cts, split_by_patient
from P2SAMSlicerLib.adaptation.decoding import decode_for_training
from P2SAMSlicerLib.adaptation.examples import Example, examples_of
from P2SAMSlicerLib.adaptation.feature_cache import cached_features
from P2SAMSlicerLib.adaptation.feature_source import CachedSource, FeatureSource, LiveSource
from P2SAMSlicerLib.adaptation.interpolation import interpolate
from P2SAMSlicerLib.adaptation.options import AdaptationOptions
from P2SAMSlicerLib.adaptation.precision import mixed_precision
from P2SAMSlicerLib.adaptation.training_state import TrainingState, fingerprint, read_state, write_state
from P2SAMSlicerLib.adaptation.training_step import interactive_step
from P2SAMSlicerLib.adaptation.validation import validate
from P2SAMSlicerLib.atomic_file import atomic_write, check_writable
from P2SAMSlicerLib.clinical import REGION_PIXELS
from P2SAMSlicerLib.errors import InputError, OutputError
from P2SAMSlicerLib.models import check_model
from P2SAMSlicerLib.models.adapter import AdapterCard, is_adapter, write_adapter
from P2SAMSlicerLib.models.catalogue import catalogue_entry
from P2SAMSlicerLib.models.lora import add_lora
from P2SAMSlicerLib.progress import Progress, ProgressEvent, silent
from P2SAMSlicerLib.threads import use_threads

if TYPE_CHECKING:
    import torch

    from P2SAMSlicerLib.models.loading import LoadedNetwork

#: Share of the steps in which the learning rate rises (appendix B).
WARM_UP = 0.1
WEIGHT_DECAY = 1e-2
LARGEST_GRADIENT = 1.0
#: The last learning rate as a share of the largest.
LEAST_RATE = 0.02


@dataclass
class _Training:
    """Everything that one training works with; ``learned`` are the parameters by the names that the adapter gives them."""

    options: AdaptationOptions
    loaded: LoadedNetwork
    examples: list[Example]
    held_out: list[Example]
    source: FeatureSource
    checks: FeatureSource
    base_checks: FeatureSource
    base: Any
    learned: dict[str, torch.nn.Parameter]
    optimizer: torch.optim.Optimizer
    scaler: Any
    mark: str
    epoch: int = 0
    curve: list[dict[str, float]] = field(default_factory=list)

    @property
    def point_scale(self) -> float:
        """Pixels of the model's input per pixel of a region of interest."""
        return float(self.loaded.preprocessing.point_scale((REGION_PIXELS, REGION_PIXELS))[0])

    @property
    def steps(self) -> int:
        """Steps in an epoch."""
        return math.ceil(len(self.examples) / self.options.batch)


def adapt(options: AdaptationOptions, progress: Progress = silent) -> AdapterCard:
    """Train, and write the adapter. After an interruption the state of the last whole epoch lies beside it.

    :returns: the card of the written file.
    :raises InputError: the data, the base or an option cannot be used.
    :raises OutputError: something cannot be written.
    """
    options.check()
    if catalogue_entry(options.base).adapter:
        raise InputError(f"--base: {options.base} is itself adapted; a training begins with the weights that it was made from")
    cts = find_annotated_cts(options.train)
    if options.checkpoint is not None and is_adapter(options.checkpoint):
        raise InputError(f"{options.checkpoint.name}: is an adapter; a training begins with a model's own weights")
    weights = check_model(options.base, options.checkpoint, allow_unverified=options.allow_unverified)
    _check_out(options.out)
    use_threads(options.threads)
    training_cts, validation_cts = split_by_patient(cts, options.validation, options.seed, options.hold_out)
    # Named, so that it is the file that was checked.
    training = _prepare(replace(options, checkpoint=weights), training_cts, validation_cts, progress)
    before = _validate(training, training.base, training.base_checks)
    while training.epoch < options.epochs:
        _epoch(training, progress)
        if before:
            training.curve[-1].update(_validate(training, training.loaded.network, training.checks))
        _save(training)
    learned = {name: parameter.detach() for name, parameter in training.learned.items()}
    interpolate(learned, training.base.state_dict(), options.share)
    after = _validate(training, training.loaded.network, training.checks)
    patients = {each.patient for each in training_cts}
    card = _card(training, len(patients), len({each.patient for each in validation_cts}), before, after)
    write_adapter(options.out, card, learned)
    options.state_file.unlink(missing_ok=True)
    return card


def _check_out(out: Path) -> None:
    """Refuse now what could not be written at the end of a long training."""
    if out.is_dir():
        raise OutputError(f"{out.name}: cannot be written (it is a folder)")
    if not out.parent.is_dir():
        raise OutputError(f"{out.name}: cannot be written (its folder is not there)")
    check_writable(out.parent)


def _prepare(
    options: AdaptationOptions, training_cts: list[AnnotatedCT], validation_cts: list[AnnotatedCT], progress: Progress
) -> _Training:
    import torch

    from P2SAMSlicerLib.models.allocator import keep_freed_memory
    from P2SAMSlicerLib.models.loading import load_network

    keep_freed_memory()
    examples: list[Example] = []
    held_out: list[Example] = []
    everything = [(each, examples) for each in training_cts] + [(each, held_out) for each in validation_cts]
    for number, (ct, where) in enumerate(everything):
        where += examples_of(ct, options.margin_mm, options.seed)
        progress(ProgressEvent("read", number + 1, len(everything)))
    loaded = load_network(options.base, options.device, options.checkpoint, allow_unverified=options.allow_unverified)
    network = loaded.network.eval()
    base = copy.deepcopy(network)
    source: FeatureSource
    checks: FeatureSource
    base_checks: FeatureSource
    if options.method == "decoder":
        both = [*examples, *held_out]
        cache = cached_features(
            options.cache_folder,
            network,
            loaded.preprocessing,
            both,
            loaded.card.sha256,
            progress,
            options.precision,
            shared=options.features is not None,
        )
        source = CachedSource(examples, cache[: len(examples)], loaded.device)
        checks = base_checks = CachedSource(held_out, cache[len(examples) :], loaded.device)
    else:
        source = LiveSource(examples, network, base, loaded.preprocessing, loaded.device)
        checks, base_checks = (LiveSource(held_out, n, None, loaded.preprocessing, loaded.device) for n in (network, base))
    learned = _learned(network, options)
    training = _Training(
        options=options,
        loaded=loaded,
        examples=examples,
        held_out=held_out,
        source=source,
        checks=checks,
        base_checks=base_checks,
        base=base,
        learned=learned,
        optimizer=torch.optim.AdamW(list(learned.values()), lr=options.learning_rate, weight_decay=WEIGHT_DECAY),
        scaler=torch.amp.GradScaler("cuda", enabled=loaded.device.type == "cuda"),  # type: ignore[attr-defined]
        mark=fingerprint(options, loaded.card.sha256, examples),
    )
    if options.resume:
        _restore(training)
    return training


def _learned(network: Any, options: AdaptationOptions) -> dict[str, torch.nn.Parameter]:
    """Let the method's parameters learn, and name them as the adapter does."""
    network.requires_grad_(False)
    learned: dict[str, torch.nn.Parameter] = {}
    if options.method == "lora":
        learned.update(add_lora(network, options.rank, options.seed))
    parts = ("prompt_encoder.", "mask_decoder.") + (("image_encoder.",) if options.method == "full" else ())
    learned.update({name: p for name, p in network.named_parameters() if name.startswith(parts)})
    for parameter in learned.values():
        parameter.requires_grad_(True)
    if options.method == "full":
        import torch

        # TinyViT's position biases learn in training mode only; batch statistics of few slices would harm more than help.
        network.image_encoder.train()
        for module in network.image_encoder.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()
    return learned


def _restore(training: _Training) -> None:
    import torch

    state = read_state(training.options.state_file, training.mark)
    with torch.no_grad():
        for name, parameter in training.learned.items():
            parameter.copy_(state.weights[name].to(parameter))
    training.optimizer.load_state_dict(state.optimizer)
    training.epoch, training.curve = state.epoch, list(state.curve)


def _epoch(training: _Training, progress: Progress) -> None:
    """One pass over all training slices in a new order, which depends on nothing but the seed and the epoch."""
    options, network = training.options, training.loaded.network
    rng = np.random.default_rng([options.seed, training.epoch])
    losses = []
    for number, rows in enumerate(_batches(len(training.examples), options.batch, rng)):
        _set_rate(training, training.epoch * training.steps + number)
        with mixed_precision(training.loaded.device, options.precision):
            examples, features, before = training.source.draw(rows, rng)

            def answer(prompts: Any, features: Any = before) -> torch.Tensor:
                import torch

                with torch.no_grad():
                    return decode_for_training(training.base, features, prompts, training.point_scale)[0]

            losses.append(
                interactive_step(
                    network,
                    features,
                    examples,
                    options.iterations,
                    training.point_scale,
                    rng,
                    answer,
                    options.keep,
                    training.scaler.scale,
                )
            )
        _update(training)
        progress(ProgressEvent("train", number + 1, training.steps, f"epoch {training.epoch + 1} of {options.epochs}"))
    if not np.isfinite(losses).all():
        raise InputError("the training diverged: its loss is no number any more; use a smaller --learning-rate")
    training.epoch += 1
    training.curve.append({"epoch": training.epoch, "loss": float(np.mean(losses))})


def _batches(count: int, size: int, rng: np.random.Generator) -> Iterator[list[int]]:
    order = rng.permutation(count).tolist()
    for start in range(0, count, size):
        yield order[start : start + size]


def _set_rate(training: _Training, step: int) -> None:
    """Linear warm-up, then half a cosine."""
    total = training.steps * training.options.epochs
    warm = max(1, round(WARM_UP * total))
    share = (step + 1) / warm if step < warm else 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))
    for group in training.optimizer.param_groups:
        group["lr"] = training.options.learning_rate * max(LEAST_RATE, share)


def _update(training: _Training) -> None:
    import torch

    training.scaler.unscale_(training.optimizer)
    torch.nn.utils.clip_grad_norm_(list(training.learned.values()), LARGEST_GRADIENT)
    training.scaler.step(training.optimizer)
    training.scaler.update()
    training.optimizer.zero_grad(set_to_none=True)


def _validate(training: _Training, network: Any, source: FeatureSource) -> dict[str, float]:
    return validate(network, source.features, training.held_out, training.point_scale) if training.held_out else {}


def _save(training: _Training) -> None:
    """State and curve after an epoch."""
    weights = {name: parameter.detach() for name, parameter in training.learned.items()}
    state = TrainingState(training.epoch, weights, training.optimizer.state_dict(), training.curve)
    write_state(training.options.state_file, state, training.mark)
    with atomic_write(training.options.curve_file) as path, path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, training.curve[-1].keys())
        writer.writeheader()
        writer.writerows({name: f"{value:.6g}" for name, value in row.items()} for row in training.curve)


def _card(training: _Training, patients: int, validated: int, before: dict[str, float], after: dict[str, float]) -> AdapterCard:
    options, card = training.options, training.loaded.card
    return AdapterCard(
        title=options.title or f"{card.title}, adapted ({options.method})",
        base=options.base,
        base_sha256=card.sha256,
        method=options.method,
        trained_prompts=("points", "box", "mask"),
        licence=options.licence,
        data=options.data,
        training={
            "program": f"P2SAMSlicer {__version__}",
            "patients": patients,
            "slices": len(training.examples),
            "epochs": options.epochs,
            "batch": options.batch,
            "learning_rate": options.learning_rate,
            "iterations": options.iterations,
            "keep": options.keep,
            "share": options.share,
            "rank": options.rank if options.method == "lora" else None,
            "precision": options.precision,
            "seed": options.seed,
            "validation_patients": validated,
            "validation_slice_dice": {name: {"base": before[name], "adapted": after[name]} for name in before},
        },
    )
