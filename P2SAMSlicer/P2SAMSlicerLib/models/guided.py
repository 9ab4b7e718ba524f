"""PerSAM's guidance of SAM's mask decoder: target-guided attention and target-semantic prompting.

Used by P2SAM on natural images in the first decode. The mathematics follow Zhang et al., "Personalize Segment Anything Model
with One Shot" (ICLR 2024) as its released code computes them. No network is changed: shallow copies of the decoder and
its blocks share all weights with the original and differ only in what they call.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast, runtime_checkable

from P2SAMSlicerLib.errors import ModelError
from P2SAMSlicerLib.models.protocol import Decoded, PromptableModel, PromptSet
from P2SAMSlicerLib.models.sam_family import SamFamilyModel

if TYPE_CHECKING:
    import torch

_Module = TypeVar("_Module")


@runtime_checkable
class GuidedModel(Protocol):
    """A model whose mask decoder can be guided; see :class:`~P2SAMSlicerLib.models.protocol.PromptableModel`."""

    def decode_guided(
        self,
        features: torch.Tensor,
        prompts: Sequence[PromptSet],
        image_size: tuple[int, int],
        attention: torch.Tensor,
        target_embedding: torch.Tensor,
    ) -> Decoded:
        """One mask for each prompt set, guided by where the target is likely and by what it looks like.

        :param features: ``(1, C, h, w)``, shared by all sets.
        :param prompts: ``n`` prompt sets.
        :param image_size: ``(H, W)`` of the encoded image.
        :param attention: how alike each feature cell is to the target, ``(n, h * w)`` in 0..1, a row a prompt set.
        :param target_embedding: mean feature of the target ``(C,)``, not normalised.
        """
        ...


class GuidedSam:
    """Guided decoding for a SAM-shaped model.

    :param model: stays as it is; shares its weights.
    :raises ModelError: its decoder is not SAM's two-way transformer.
    """

    def __init__(self, model: SamFamilyModel) -> None:
        self._model = model
        self._network = cast(Any, model)._network
        decoder = self._network.mask_decoder
        blocks = getattr(getattr(decoder, "transformer", None), "layers", ())
        if not len(blocks) or not all(hasattr(block, "cross_attn_token_to_image") for block in blocks):
            raise ModelError(f"{model.card.id}: its mask decoder cannot be guided (not SAM's two-way transformer)")

    def decode_guided(
        self,
        features: torch.Tensor,
        prompts: Sequence[PromptSet],
        image_size: tuple[int, int],
        attention: torch.Tensor,
        target_embedding: torch.Tensor,
    ) -> Decoded:
        """See :meth:`GuidedModel.decode_guided`. Sets are decoded one by one: each has its own attention."""
        import torch

        if attention.ndim != 2 or len(attention) != len(prompts):
            raise ValueError(f"attention of shape {tuple(attention.shape)} does not fit {len(prompts)} prompt sets")
        model = self._model
        answers = []
        for prompt, row in zip(prompts, attention, strict=True):
            decoder = guided_decoder(self._network.mask_decoder, row.to(model.device), target_embedding.to(model.device))
            network = _copy_with(self._network, mask_decoder=decoder)
            guided = SamFamilyModel(model.card, network, model.preprocessing, model.device)
            answers.append(guided.decode(features, [prompt], image_size))
        return Decoded(
            logits=torch.cat([answer.logits for answer in answers]),
            predicted_iou=torch.cat([answer.predicted_iou for answer in answers]),
        )


def as_guided(model: PromptableModel) -> GuidedModel:
    """The guided face of a model.

    :raises ModelError: the model has none.
    """
    if isinstance(model, GuidedModel):
        return model
    if isinstance(model, SamFamilyModel):
        return GuidedSam(model)
    raise ModelError(f"{model.card.id}: its mask decoder cannot be guided, which natural images need")


def guided_decoder(decoder: Any, attention: torch.Tensor, target_embedding: torch.Tensor) -> Any:
    """A mask decoder that shares the weights of ``decoder`` and is guided.

    :param decoder: SAM's mask decoder with a two-way transformer.
    :param attention: ``(h * w,)``.
    :param target_embedding: ``(C,)``.
    """
    return _copy_with(decoder, transformer=_GuidedTransformer(decoder.transformer, attention, target_embedding))


class _GuidedTransformer:
    """SAM's two-way transformer with both of PerSAM's additions."""

    def __init__(self, transformer: Any, attention: torch.Tensor, target_embedding: torch.Tensor) -> None:
        self._transformer = transformer
        self._target = target_embedding
        self._blocks = [
            _copy_with(block, cross_attn_token_to_image=_GuidedAttention(block.cross_attn_token_to_image, attention))
            for block in transformer.layers
        ]

    def __call__(
        self, image_embedding: torch.Tensor, image_pe: torch.Tensor, point_embedding: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Processed tokens ``(n, t, C)`` and image ``(n, h * w, C)``; all arguments as the original takes them."""
        transformer = self._transformer
        keys = image_embedding.flatten(2).transpose(1, 2)
        key_pe = image_pe.flatten(2).transpose(1, 2)
        # The released code adds the target in place to the first queries, which ARE the tokens' positional encoding:
        # the encoding carries the target through all later layers as well.
        query_pe = point_embedding + self._target
        queries = query_pe
        for index, block in enumerate(self._blocks):
            if index:
                queries = queries + self._target
            queries, keys = block(queries=queries, keys=keys, query_pe=query_pe, key_pe=key_pe)
        final = transformer.final_attn_token_to_image(q=queries + query_pe + self._target, k=keys + key_pe, v=keys)
        return transformer.norm_final_attn(queries + final), keys


class _GuidedAttention:
    """Attention of the tokens to the image, drawn towards cells that look like the target.

    The similarity is added to the attention's probabilities, and the sum goes through a second softmax.
    """

    def __init__(self, attention_layer: Any, attention: torch.Tensor) -> None:
        self._layer = attention_layer
        self._attention = attention

    def __call__(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        import torch

        layer = self._layer

        def heads(values: torch.Tensor) -> torch.Tensor:
            return values.reshape(*values.shape[:2], layer.num_heads, -1).transpose(1, 2)

        query, key, value = heads(layer.q_proj(q)), heads(layer.k_proj(k)), heads(layer.v_proj(v))
        weights = torch.softmax(query @ key.transpose(2, 3) / math.sqrt(query.shape[-1]), dim=-1)
        weights = torch.softmax(weights + self._attention, dim=-1)
        out: torch.Tensor = layer.out_proj((weights @ value).transpose(1, 2).flatten(2))
        return out


def _copy_with(module: _Module, **parts: Any) -> _Module:
    """A shallow copy of a module in which some submodules are replaced; the original and its weights stay untouched."""
    twin = copy.copy(module)
    # A module prepared for inference has a forward of its own, bound to the original: it would never see the replaced parts.
    vars(twin).pop("forward", None)
    # In the copy's own dictionary, which is looked up before the submodules that both copies share.
    vars(twin).update(parts)
    return twin
