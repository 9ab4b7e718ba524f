"""Checkpoints made with the P2SAM authors' fine-tuning code, brought to segment_anything's own keys.

The layout is that of the published code (github.com/Zch0414/P2SAM, MIT: ``main.py`` and ``model/model.py`` in ``fine_tuning``,
``model/model.py`` in ``testing/test_utils``). No released file was at hand. What the code shows:

- A file is a dictionary: ``model`` (the weights), ``optimizer``, ``lr_scheduler``, ``epoch``, ``scaler``, ``args`` (an
  ``argparse.Namespace``) and ``result``. :mod:`P2SAMSlicerLib.models.checkpoint` unwraps it; here is what comes after that.
- The image encoder is timm's ViT of SAM. It computes the same, and only the MLP's layers have other names: ``fc1`` and ``fc2``
  where segment_anything has ``lin1`` and ``lin2``.
- With LoRA, ``attn.qkv`` and ``attn.proj`` of every encoder block have ``lora_A`` and ``lora_B`` beside ``weight``. The code's
  own LoRA layers bear the names and arguments of the package ``loralib``, and are taken to be those: q, k and v have a pair
  each, one below the other in one tensor.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from P2SAMSlicerLib.errors import ModelError
from P2SAMSlicerLib.models.checkpoint import architecture_of

if TYPE_CHECKING:
    import torch

#: How the weights were adapted: all of them, or the encoder's attention by LoRA (and the rest of SAM fully).
Adaptation = Literal["full", "LoRA"]

# Only "image_encoder.blocks": LiteMedSAM's encoder has fc1 and fc2 too, in "image_encoder.layers".
_MLP = re.compile(r"(image_encoder\.blocks\.\d+\.mlp)\.fc([12])\.(weight|bias)")
_PAIR = re.compile(r"(image_encoder\.blocks\.\d+\.attn\.(?:qkv|proj))\.lora_[AB]")
_ADAPTED_LAYER = re.compile(r"(image_encoder\.blocks\.\d+\.attn\.(?:qkv|proj))\.weight")


def adaptation_of(state: Mapping[str, torch.Tensor]) -> Adaptation | None:
    """How weights were adapted if their keys are those of the authors' code; None for every other layout.

    :param state: the weights by key.
    """
    if any(_PAIR.fullmatch(key) for key in state):
        return "LoRA"
    return "full" if any(_MLP.fullmatch(key) for key in state) else None


def to_segment_anything(state: Mapping[str, torch.Tensor], path: Path) -> dict[str, torch.Tensor]:
    """The authors' weights under segment_anything's keys, with LoRA's products added as the authors' test code adds them.

    **W + 2BA.** For every adapted layer the answer is *stored weight + BA*, whatever the stored weight is: that is what the
    authors' test code computes from any file, because it loads all tensors and its LoRA layers add BA once as they go to eval
    mode. Their training code goes to eval mode as well before it saves (it evaluates first), so it stores W + BA with A and B
    still beside it. From such a file, as the released ones are, comes W + 2BA: BA counts twice, and the published figures were
    taken so. Whether a stored weight holds BA already cannot be seen in the file; it is assumed that it does, because the
    published code writes no other file. Should other code have stored W alone, the answer is W + BA, which is that file's
    meaning, and again what the authors' test code would compute.

    The scale of BA is 1: loralib's at rank 1, the only rank that was released. Another rank is refused, because what scale
    belongs to it is not known.

    :param state: weights for which :func:`adaptation_of` is not None. It is left unchanged.
    :param path: the file, for messages.
    :returns: a new dictionary; tensors that did not change are the same objects. Shapes and values that a network refuses in
        any file are left to :func:`~P2SAMSlicerLib.models.checkpoint.load_weights`.
    :raises ModelError: a LoRA pair is missing, incomplete, of another rank or shape, NaN or no floating-point numbers; or two
        keys mean the same weight.
    """
    merged = {key: value for key, value in state.items() if not _PAIR.fullmatch(key)}
    if adaptation_of(state) == "LoRA":
        for layer in sorted({match[1] for key in state if (match := _PAIR.fullmatch(key) or _ADAPTED_LAYER.fullmatch(key))}):
            merged[f"{layer}.weight"] = _with_product(state, layer, path)
    renamed: dict[str, torch.Tensor] = {}
    for key, value in merged.items():
        own = _MLP.sub(r"\1.lin\2.\3", key) if _MLP.fullmatch(key) else key
        if own in renamed or (own != key and own in merged):
            raise ModelError(f"{path.name}: holds '{own}' twice, once under the name of another layout")
        renamed[own] = value
    return renamed


def check_model(model: str, state: Mapping[str, torch.Tensor], path: Path) -> None:
    """Refuse the authors' weights under the name of a model that prepares its images otherwise, such as MedSAM.

    :param model: id in the catalogue.
    :param state: weights under segment_anything's keys.
    :param path: the file, for messages.
    :raises ModelError: they belong to another model, which the message names.
    """
    found = architecture_of(state)
    if found is not None and model != f"sam_{found}":
        raise ModelError(f"{path.name}: holds weights adapted with the P2SAM authors' code, for sam_{found}, not for {model}")


def title(base: str, adaptation: Adaptation) -> str:
    """The model card's title.

    :param base: title of the model that was adapted, for example ``SAM ViT-B (1024 px, natural images)``.
    """
    return f"{base.partition(' (')[0]}, adapted with the P2SAM authors' code ({adaptation})"


def source(adaptation: Adaptation, path: Path) -> str:
    """The model card's source: the file, and what was done to its weights."""
    text = f"file {path.name}, laid out as by github.com/Zch0414/P2SAM"
    if adaptation == "LoRA":
        text += (
            "; LoRA's BA was added to the stored weights, as the authors' test code does; their training code "
            "stores W + BA, so this is W + 2BA, with which the published figures were taken"
        )
    return text


def _with_product(state: Mapping[str, torch.Tensor], layer: str, path: Path) -> torch.Tensor:
    """One layer's stored weight + BA, in float32.

    :param layer: key of the layer, without ``.weight``.
    :raises ModelError: see :func:`to_segment_anything`.
    """
    import torch

    tensors = []
    for name in ("weight", "lora_A", "lora_B"):
        value = state.get(f"{layer}.{name}")
        if value is None:
            raise ModelError(f"{path.name}: holds LoRA weights, but no '{layer}.{name}'")
        if not value.is_floating_point():
            raise ModelError(f"{path.name}: '{layer}.{name}' holds {value.dtype}, not floating-point weights")
        tensors.append(value.float())
        if not bool(torch.isfinite(tensors[-1]).all()):
            raise ModelError(f"{path.name}: '{layer}.{name}' holds NaN or infinite weights")
    weight, a, b = tensors
    # q, k and v one below the other.
    parts = 3 if layer.endswith(".qkv") else 1
    if weight.ndim != 2 or weight.shape[0] % parts:
        raise ModelError(f"{path.name}: '{layer}.weight' has shape {tuple(weight.shape)}")
    rows, columns = weight.shape
    if b.ndim == 2 and a.ndim == 2 and b.shape[0] == rows and b.shape[1] > 1 and a.shape == (parts * b.shape[1], columns):
        raise ModelError(f"{path.name}: holds LoRA weights of rank {b.shape[1]}; only rank 1, as released, is known")
    for name, value, shape in (("lora_A", a, (parts, columns)), ("lora_B", b, (rows, 1))):
        if tuple(value.shape) != shape:
            raise ModelError(f"{path.name}: '{layer}.{name}' has shape {tuple(value.shape)}, the layer needs {shape}")
    product = b.reshape(parts, rows // parts, 1) * a.reshape(parts, 1, columns)
    return weight + product.reshape(rows, columns)
