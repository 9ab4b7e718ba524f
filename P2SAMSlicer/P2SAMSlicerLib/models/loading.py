"""From a model's name to a model that can be asked: everything that can be refused is refused before torch is imported."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from P2SAMSlicerLib.errors import ModelError
from P2SAMSlicerLib.models import authors_checkpoint, lite_medsam, sam, store
from P2SAMSlicerLib.models.adapter import apply_adapter, is_adapter, read_card, read_tensors
from P2SAMSlicerLib.models.allocator import keep_freed_memory
from P2SAMSlicerLib.models.batch_size import fitting
from P2SAMSlicerLib.models.catalogue import CatalogueEntry, catalogue, catalogue_entry, default_model
from P2SAMSlicerLib.models.checkpoint import check_architecture, check_file, hash_file, load_weights, read_state_dict
from P2SAMSlicerLib.models.precision import check_precision, encoder_precision
from P2SAMSlicerLib.models.preprocessing import Preprocessing
from P2SAMSlicerLib.models.protocol import ModelCard, PromptableModel
from P2SAMSlicerLib.resources import resource_path

if TYPE_CHECKING:
    import torch

#: Where a model may run. ``cuda:1`` and so on name one of several CUDA devices.
DEVICES = ("auto", "cuda", "mps", "cpu")

#: SPDX's word for a licence that nobody has stated.
UNKNOWN_LICENCE = "NOASSERTION"


@dataclass(frozen=True)
class LoadedNetwork:
    """A network with its final weights, as training needs it.

    :param card: what the weights are.
    :param network: with ``image_encoder``, ``prompt_encoder`` and ``mask_decoder``, on ``device``; nothing in it learns.
    :param preprocessing: how it wants its images.
    """

    card: ModelCard
    network: Any
    preprocessing: Preprocessing
    device: torch.device


def check_model(model: str, checkpoint: Path | None = None, *, allow_unverified: bool = False) -> Path:
    """Check a model as far as that is possible without importing torch.

    :param model: id in the catalogue.
    :param checkpoint: weights file of the user's own choice, or an adapter (``.safetensors``) for the model's own weights;
        None for the downloaded or packaged one.
    :param allow_unverified: accept a file whose SHA-256 is not the catalogue's, for weights adapted by the user.
    :returns: the weights file that :func:`load_model` will load; the base's where there is an adapter.
    :raises ModelError: unknown model, a Python package or the file missing, or the file is not the model's.
    """
    entry = _entry_of(model, checkpoint)
    if importlib.util.find_spec("torch") is None:
        raise ModelError(f"{model} needs a package that is not installed: pip install torch")
    _backend(entry).check_installed()
    adapter = _adapter_of(entry, checkpoint)
    path = store.find(model) if checkpoint is None or adapter == checkpoint else Path(checkpoint)
    if path is None:
        raise ModelError(
            f"{model}: its weights are not on this computer; download them (p2sam models download {model}) or name a file"
        )
    sha256 = check_file(path, None if allow_unverified else entry.sha256)
    if adapter is not None:
        _check_adapter(adapter, entry, sha256)
    return path


def load_model(
    model: str | None = None,
    device: str = "auto",
    checkpoint: Path | None = None,
    seed_weights: int | None = None,
    *,
    allow_unverified: bool = False,
    precision: str = "auto",
) -> PromptableModel:
    """A model with its weights, ready to encode and decode.

    :param model: id in the catalogue; None for the default.
    :param device: ``auto`` (CUDA, else MPS, else CPU), ``cuda``, ``cuda:1``, ``mps`` or ``cpu``.
    :param checkpoint: weights file of the user's own choice, or an adapter; None for the downloaded or packaged one.
    :param seed_weights: for tests: random weights from this seed instead of a file.
    :param allow_unverified: accept a file whose SHA-256 is not the catalogue's.
    :param precision: arithmetic of the encoder, see :func:`~P2SAMSlicerLib.models.precision.encoder_precision`.
    :raises ModelError: see :func:`check_model`; or the device is not there; or the weights do not fit the architecture.
    """
    from P2SAMSlicerLib.models.sam_family import SamFamilyModel

    check_precision(precision)
    keep_freed_memory()
    model = model or default_model()
    loaded = load_network(model, device, checkpoint, seed_weights, allow_unverified=allow_unverified)
    backend = _backend(_entry_of(model, checkpoint))
    backend.prepare_for_inference(loaded.network, loaded.device)
    chunk = backend.ENCODE_CHUNK
    if loaded.device.type != "cpu":
        chunk = fitting(loaded.device, backend.ENCODE_BYTES, backend.ENCODE_CHUNK_ACCELERATED)
    card = replace(loaded.card, precision=encoder_precision(precision))
    return SamFamilyModel(card, loaded.network, loaded.preprocessing, loaded.device, encode_chunk=chunk)


def load_network(
    model: str,
    device: str = "auto",
    checkpoint: Path | None = None,
    seed_weights: int | None = None,
    *,
    allow_unverified: bool = False,
) -> LoadedNetwork:
    """The network of a model with its weights, for training; parameters and errors as of :func:`load_model`."""
    entry = _entry_of(model, checkpoint)
    path = check_model(model, checkpoint, allow_unverified=allow_unverified) if seed_weights is None else None
    place = _resolve_device(device)
    backend = _backend(entry)
    if path is None:
        network = _build_seeded(backend, entry.architecture, seed_weights)
        card = _card(entry, network, title=f"{entry.title}, RANDOM weights", source="random", licence=UNKNOWN_LICENCE)
    else:
        sha256 = check_file(path, None if allow_unverified else entry.sha256)
        state = read_state_dict(path)
        adaptation = authors_checkpoint.adaptation_of(state)
        if adaptation is not None:
            state = authors_checkpoint.to_segment_anything(state, path)
            authors_checkpoint.check_model(entry.id, state, path)
        check_architecture(state, path, entry.architecture)
        network = backend.build_network(entry.architecture)
        load_weights(network, state, path, entry.architecture)
        card = _card_of_file(entry, network, path, sha256, adaptation)
        adapter = _adapter_of(entry, checkpoint)
        if adapter is not None:
            apply_adapter(network, read_tensors(adapter), adapter)
            card = _card_of_adapter(card, adapter)
    network.requires_grad_(False)
    # Moved before eval mode: LiteMedSAM's encoder derives tensors at that moment, which a later move would leave behind.
    network.to(place)
    return LoadedNetwork(card, network, entry.preprocessing, place)


def _entry_of(model: str, checkpoint: Path | None) -> CatalogueEntry:
    """The catalogue's entry; for weights of the user's own, that of the model without the catalogue's adapter."""
    entry = catalogue_entry(model)
    if entry.adapter is None or checkpoint is None or is_adapter(checkpoint):
        return entry
    return next(each for each in catalogue() if each.adapter is None and each.sha256 == entry.sha256)


def _adapter_of(entry: CatalogueEntry, checkpoint: Path | None) -> Path | None:
    """The adapter that goes on top of the base's weights: the user's, else the catalogue's for this model."""
    if checkpoint is not None:
        return checkpoint if is_adapter(checkpoint) else None
    return resource_path(f"Models/{entry.adapter}") if entry.adapter else None


def _check_adapter(adapter: Path, entry: CatalogueEntry, base_sha256: str) -> None:
    card = read_card(adapter)
    if card.base_sha256 != base_sha256:
        raise ModelError(f"{adapter.name}: was made for other weights of {card.base} than those of {entry.id} on this computer")


def _card_of_adapter(base: ModelCard, adapter: Path) -> ModelCard:
    card = read_card(adapter)
    return replace(
        base,
        title=card.title,
        trained_prompts=card.trained_prompts,
        sha256=hash_file(adapter),
        source=f"adapter {adapter.name} on {base.title}, SHA-256 {base.sha256}",
        licence=card.licence,
        training_data=f"{card.data or 'not stated'}; before that, as the base weights: {base.training_data} ({base.source})",
    )


def _backend(entry: CatalogueEntry) -> ModuleType:
    return lite_medsam if entry.architecture == lite_medsam.ARCHITECTURE else sam


def _build_seeded(backend: ModuleType, architecture: str, seed: int | None) -> torch.nn.Module:
    import torch

    # The caller's own random numbers go on as if nothing had happened.
    with torch.random.fork_rng(devices=[]):
        if seed is not None:
            torch.default_generator.manual_seed(seed)
        network: torch.nn.Module = backend.build_network(architecture)
    return network


def _card_of_file(
    entry: CatalogueEntry, network: Any, path: Path, sha256: str, adaptation: authors_checkpoint.Adaptation | None
) -> ModelCard:
    """What the loaded file is: the catalogue's only if its hash says so."""
    if sha256 == entry.sha256:
        return _card(entry, network, sha256=sha256)
    if adaptation is not None:
        return _card(
            entry,
            network,
            title=authors_checkpoint.title(entry.title, adaptation),
            sha256=sha256,
            source=authors_checkpoint.source(adaptation, path),
            licence=UNKNOWN_LICENCE,
        )
    if entry.sha256 is None:
        return _card(
            entry, network, sha256=sha256, source=f"{entry.source} (as the file's name says; no hash is known to check it)"
        )
    return _card(
        entry,
        network,
        title=f"{entry.title}, other weights: {path.name}",
        sha256=sha256,
        source=f"file {path.name}, not the catalogue's",
        licence=UNKNOWN_LICENCE,
    )


def _card(
    entry: CatalogueEntry,
    network: Any,
    *,
    title: str | None = None,
    sha256: str = "",
    source: str | None = None,
    licence: str | None = None,
) -> ModelCard:
    return ModelCard(
        id=entry.id,
        title=title or entry.title,
        input_size=entry.preprocessing.size,
        feature_size=network.prompt_encoder.image_embedding_size[0],
        trained_prompts=entry.trained_prompts,
        sha256=sha256,
        source=source or entry.source,
        licence=licence or entry.licence,
    )


def _resolve_device(device: str) -> torch.device:
    """The torch device of a name.

    :raises ModelError: the name is unknown, or this computer has no such device.
    """
    if device not in DEVICES and not re.fullmatch(r"cuda:\d+", device):
        raise ModelError(f"unknown device '{device}'; known are: {', '.join(DEVICES)}")
    import torch

    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if device == "auto":
        return torch.device("cuda" if cuda else "mps" if mps else "cpu")
    if device.startswith("cuda"):
        if not cuda:
            raise ModelError(f"device '{device}': PyTorch finds no CUDA device on this computer; use auto or cpu")
        number = torch.device(device).index or 0
        if number >= torch.cuda.device_count():
            raise ModelError(f"device '{device}': this computer has only {torch.cuda.device_count()} CUDA device(s)")
    if device == "mps" and not mps:
        raise ModelError("device 'mps': PyTorch finds no Apple GPU on this computer; use auto or cpu")
    return torch.device(device)
