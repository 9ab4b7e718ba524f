"""An adapter: what training changed of a base model, in a safetensors file with its own card.

The file holds whole tensors of the network in half precision, under their own names, and LoRA factors (see
:mod:`P2SAMSlicerLib.models.lora`). It is put on top of the base's weights, whose SHA-256 it names; nothing in it is code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from P2SAMSlicerLib.atomic_file import atomic_write
from P2SAMSlicerLib.errors import ModelError
from P2SAMSlicerLib.models.lora import PREFIX, merge_lora
from P2SAMSlicerLib.models.protocol import Prompt

if TYPE_CHECKING:
    import torch

SUFFIX = ".safetensors"
#: Key of the card in the file's metadata; its presence says that the file is an adapter.
CARD_KEY = "p2sam_adapter"


@dataclass(frozen=True)
class AdapterCard:
    """What an adapter says of itself.

    :param title: name for people.
    :param base: id of the base model in the catalogue.
    :param base_sha256: of the base's weights file.
    :param method: ``decoder``, ``lora`` or ``full``.
    :param trained_prompts: prompts that the adapted model can be given.
    :param licence: SPDX identifier.
    :param data: what it was trained on, with the attribution that the data's licence asks for.
    :param training: settings and figures, for people and for repeating it.
    """

    title: str
    base: str
    base_sha256: str
    method: str
    trained_prompts: tuple[Prompt, ...]
    licence: str
    data: str
    training: dict[str, Any] = field(default_factory=dict)


def is_adapter(path: Path) -> bool:
    """Whether a file is meant as an adapter, judged by its name."""
    return path.suffix.lower() == SUFFIX


def read_card(path: Path) -> AdapterCard:
    """The card of an adapter; reads no tensor and imports no torch.

    :raises ModelError: the file is missing, damaged, or no adapter.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise ModelError(f"{path.name}: adapter file not found")
    try:
        with safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get(CARD_KEY)
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{path.name}: is not a safetensors file, or is damaged") from error
    return _card(path, text)


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of an adapter.

    :raises ModelError: the file is damaged or holds values that are not finite.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{path.name}: is not a safetensors file, or is damaged") from error
    for name, tensor in tensors.items():
        # As float32, because some types know no isfinite.
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor.float()).all()):
            raise ModelError(f"{path.name}: '{_one_line(name)}' holds NaN, infinite or other values than weights")
    return dict(tensors)


def write_adapter(path: Path, card: AdapterCard, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write an adapter in half precision, whole or not at all.

    :raises ModelError: a weight is not finite, or too large for half precision.
    :raises OutputError: it cannot be written.
    """
    import torch
    from safetensors.torch import save

    # Copied, because the format takes no two names for one memory.
    half = {name: tensor.detach().to("cpu", torch.float16, copy=True).contiguous() for name, tensor in tensors.items()}
    for name, tensor in half.items():
        if not bool(torch.isfinite(tensor).all()):
            raise ModelError(f"{path.name}: '{name}' holds weights that are not finite in half precision; nothing is written")
    content = save(half, metadata={CARD_KEY: json.dumps(asdict(card), sort_keys=True)})
    with atomic_write(path) as temporary:
        # Written here: the package's own writer reports a full disk as an error of the format.
        temporary.write_bytes(content)


def apply_adapter(network: Any, tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Put an adapter's tensors into a network that holds the base's weights.

    :raises ModelError: a tensor that the network lacks, or of another shape.
    """
    import torch

    own = network.state_dict()
    whole = {name: tensor for name, tensor in tensors.items() if not name.startswith(PREFIX)}
    for name, tensor in whole.items():
        if name not in own:
            raise ModelError(f"{path.name}: '{_one_line(name)}' is no weight of the base model")
        if tensor.shape != own[name].shape:
            raise ModelError(f"{path.name}: '{name}' has shape {tuple(tensor.shape)}, the base {tuple(own[name].shape)}")
    with torch.no_grad():
        for name, tensor in whole.items():
            own[name].copy_(tensor.to(own[name]))
    merge_lora(network, {name: tensor for name, tensor in tensors.items() if name.startswith(PREFIX)}, path.name)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _card(path: Path, text: str | None) -> AdapterCard:
    if text is None:
        raise ModelError(f"{path.name}: a safetensors file, but no adapter made by p2sam adapt")
    try:
        content = json.loads(text)
        card = AdapterCard(**{**content, "trained_prompts": tuple(content["trained_prompts"])})
        words = [getattr(card, each.name) for each in fields(card) if each.name not in ("trained_prompts", "training")]
        known = card.trained_prompts and set(card.trained_prompts) <= set(get_args(Prompt))
        # Messages and reports show these words, a line each.
        lines = all(isinstance(word, str) and len(word.splitlines()) <= 1 for word in words)
        if not known or not lines or not isinstance(card.training, dict):
            raise TypeError
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ModelError(f"{path.name}: the adapter's card is damaged") from error
    return card
