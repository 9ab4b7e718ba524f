"""Low-rank adaptation (LoRA) of the encoder's attention: rank ``r`` on q, k, v and the output projection of every block.

The package ``peft`` adapts whole linear layers. Here q, k and v lie in one layer, in TinyViT even interleaved head by head,
and the paper adapts each of them by itself (appendix B: rank 1), which ``peft`` cannot say; it would also bring
``transformers`` and ``accelerate`` into Slicer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from P2SAMSlicerLib.errors import ModelError

if TYPE_CHECKING:
    import torch

#: Beginning of a factor's name; then the layer's name in the network, then ``.a`` or ``.b``.
PREFIX = "lora."


def attention_layers(network: Any) -> dict[str, list[torch.Tensor]]:
    """The linear layers of the image encoder's attention, and which output rows belong together (q, k, v; or all).

    :returns: name in the network -> row numbers of each group.
    """
    import torch

    layers = {}
    for name, module in network.image_encoder.named_modules():
        if not (isinstance(getattr(module, "qkv", None), torch.nn.Linear) and hasattr(module, "num_heads")):
            continue
        rows = torch.arange(module.qkv.out_features)
        if hasattr(module, "key_dim"):  # TinyViT: each head has its own q, k and v, one after the other
            heads = rows.view(module.num_heads, -1)
            sizes = [module.key_dim, module.key_dim, module.d]
            groups = [part.reshape(-1) for part in torch.split(heads, sizes, dim=1)]
        else:  # SAM's ViT: q of all heads, then k, then v
            groups = list(rows.chunk(3))
        layers[f"image_encoder.{name}.qkv"] = groups
        layers[f"image_encoder.{name}.proj"] = [torch.arange(module.proj.out_features)]
    return layers


def add_lora(network: Any, rank: int, seed: int) -> dict[str, torch.nn.Parameter]:
    """Give every attention layer factors that change nothing yet; from now on its weight is W + BA.

    :param rank: 1 or more.
    :param seed: of the factors A; B begins as 0.
    :returns: the factors by name, see :data:`PREFIX`.
    """
    import torch

    if rank < 1:
        raise ValueError(f"rank is {rank}, must be 1 or more")
    generator = torch.Generator().manual_seed(seed)
    factors = {}
    for name, groups in attention_layers(network).items():
        layer = network.get_submodule(name)
        a = torch.randn((len(groups), rank, layer.in_features), generator=generator) / layer.in_features**0.5
        change = _low_rank_class()(a.to(layer.weight), torch.zeros(layer.out_features, rank).to(layer.weight), groups)
        torch.nn.utils.parametrize.register_parametrization(layer, "weight", change)
        factors[f"{PREFIX}{name}.a"], factors[f"{PREFIX}{name}.b"] = change.a, change.b
    return factors


def merge_lora(network: Any, factors: Mapping[str, torch.Tensor], file_name: str) -> None:
    """Add the product of every pair of factors to its layer's weight, once.

    :param factors: as :func:`add_lora` names them; a file holds them beside weights that were never merged.
    :param file_name: for messages.
    :raises ModelError: a factor without its other, without its layer, or of another shape.
    """
    import torch

    layers = attention_layers(network)
    names = {re.sub(r"\.[ab]$", "", key.removeprefix(PREFIX)) for key in factors}
    for name in sorted(names):
        a, b = factors.get(f"{PREFIX}{name}.a"), factors.get(f"{PREFIX}{name}.b")
        if a is None or b is None or name not in layers:
            shown = " ".join(name.split())
            raise ModelError(f"{file_name}: holds no complete LoRA factors for '{shown}' of this model")
        layer, groups = network.get_submodule(name), layers[name]
        if a.ndim != 3 or a.shape[::2] != (len(groups), layer.in_features) or b.shape != (layer.out_features, a.shape[1]):
            raise ModelError(f"{file_name}: LoRA factors of '{name}' have shapes {tuple(a.shape)} and {tuple(b.shape)}")
        with torch.no_grad():
            layer.weight += _product(a.to(layer.weight), b.to(layer.weight), groups)


def _product(a: torch.Tensor, b: torch.Tensor, groups: list[torch.Tensor]) -> torch.Tensor:
    """BA, each group of rows with its own A."""
    import torch

    change = torch.zeros(b.shape[0], a.shape[2], dtype=a.dtype, device=a.device)
    for factor, rows in zip(a, groups, strict=True):
        place = rows.to(a.device)
        change = change.index_copy(0, place, b[place] @ factor)
    return change


def _low_rank_class() -> Any:
    """The parametrization; made here because torch is imported late."""
    import torch

    class LowRank(torch.nn.Module):
        def __init__(self, a: torch.Tensor, b: torch.Tensor, groups: list[torch.Tensor]) -> None:
            super().__init__()
            self.a, self.b, self.groups = torch.nn.Parameter(a), torch.nn.Parameter(b), groups

        def forward(self, weight: torch.Tensor) -> torch.Tensor:
            return weight + _product(self.a, self.b, self.groups)

    return LowRank
