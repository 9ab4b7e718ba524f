"""PerSAM's guidance of the mask decoder."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from P2SAMSlicerLib.errors import ModelError
from P2SAMSlicerLib.models import mask_decoder
from P2SAMSlicerLib.models.guided import GuidedSam, as_guided
from P2SAMSlicerLib.models.preprocessing import Preprocessing
from P2SAMSlicerLib.models.protocol import ModelCard, PromptableModel, PromptSet
from P2SAMSlicerLib.models.sam_family import SamFamilyModel

pytest.importorskip("segment_anything", reason="segment-anything is not installed")
from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer

CHANNELS, CELLS, SIZE = 32, 6, 24
IMAGE_SIZE = (SIZE, 20)


def small_sam(seed: int = 0, *, prepared: bool = False) -> SamFamilyModel:
    """SAM's own prompt encoder and decoder, small, with random weights large enough for attention to matter."""
    torch.manual_seed(seed)
    network = torch.nn.Module()
    network.image_encoder = torch.nn.Identity()
    network.prompt_encoder = PromptEncoder(CHANNELS, (CELLS, CELLS), (SIZE, SIZE), mask_in_chans=4)
    transformer = TwoWayTransformer(depth=2, embedding_dim=CHANNELS, num_heads=4, mlp_dim=48)
    network.mask_decoder = MaskDecoder(transformer_dim=CHANNELS, transformer=transformer, iou_head_hidden_dim=16)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.5)
    if prepared:
        mask_decoder.prepare_for_inference(network.mask_decoder)
    card = ModelCard("small", "small", SIZE, CELLS, ("points",), "", "random", "MIT")
    return SamFamilyModel(card, network.eval(), Preprocessing(SIZE), torch.device("cpu"))


def inputs(seed: int = 1) -> tuple[torch.Tensor, list[PromptSet], torch.Tensor, torch.Tensor]:
    """Features, two prompt sets of different length, an attention row for each, a target embedding."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(1, CHANNELS, CELLS, CELLS, generator=generator)
    prompts = [
        PromptSet(np.array([[3, 4], [15, 20]], dtype=np.float32), np.array([1, 0])),
        PromptSet(np.array([[3, 4], [10, 9], [15, 20]], dtype=np.float32), np.array([1, 1, 0])),
    ]
    return features, prompts, torch.rand(2, CELLS * CELLS, generator=generator), torch.randn(CHANNELS, generator=generator)


def plain_attention(layer: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, extra: torch.Tensor | None) -> torch.Tensor:
    """One image's attention, head by head; ``extra`` is PerSAM's similarity of the image cells."""
    q, k, v = layer.q_proj(q), layer.k_proj(k), layer.v_proj(v)
    width = q.shape[1] // layer.num_heads
    heads = []
    for head in range(layer.num_heads):
        part = slice(head * width, (head + 1) * width)
        weights = torch.softmax(q[:, part] @ k[:, part].T / math.sqrt(width), dim=-1)
        if extra is not None:
            weights = torch.softmax(weights + extra[None, :], dim=-1)
        heads.append(weights @ v[:, part])
    out: torch.Tensor = layer.out_proj(torch.cat(heads, dim=1))
    return out


def plain_guided_decode(
    model: SamFamilyModel, features: torch.Tensor, prompt: PromptSet, attention: torch.Tensor | None, target: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """PerSAM's decoder for one prompt set, written out token by token, without batch dimension."""
    network = cast(Any, model)._network
    decoder, encoder = network.mask_decoder, network.prompt_encoder
    points = torch.from_numpy(cast(Any, prompt.points))[None]
    sparse, dense = encoder(points=(points, torch.from_numpy(cast(Any, prompt.labels))[None]), boxes=None, masks=None)
    tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight, sparse[0]])
    cells = (features[0] + dense[0]).flatten(1).T
    cell_pe = encoder.get_dense_pe()[0].flatten(1).T
    tokens = tokens + target  # in place in the original: queries and their positional encoding are one tensor
    queries = tokens
    for number, block in enumerate(decoder.transformer.layers):
        if number == 0:
            queries = plain_attention(block.self_attn, queries, queries, queries, None)
        else:
            queries = queries + target
            q = queries + tokens
            queries = queries + plain_attention(block.self_attn, q, q, queries, None)
        queries = block.norm1(queries)
        q = queries + tokens
        queries = queries + plain_attention(block.cross_attn_token_to_image, q, cells + cell_pe, cells, attention)
        queries = block.norm2(queries)
        queries = block.norm3(queries + block.mlp(queries))
        q = queries + tokens
        cells = block.norm4(cells + plain_attention(block.cross_attn_image_to_token, cells + cell_pe, q, queries, None))
    final = decoder.transformer.final_attn_token_to_image
    queries = queries + plain_attention(final, queries + tokens + target, cells + cell_pe, cells, None)
    queries = decoder.transformer.norm_final_attn(queries)
    upscaled = decoder.output_upscaling(cells.T.reshape(1, CHANNELS, CELLS, CELLS))[0]
    weights = decoder.output_hypernetworks_mlps[0](queries[1])
    return (weights @ upscaled.flatten(1)).reshape(upscaled.shape[1:]), decoder.iou_prediction_head(queries[0])[0]


def test_guided_decoding_is_persams_mathematics_written_out_plainly() -> None:
    model = small_sam()
    features, prompts, attention, target = inputs()
    decoded = GuidedSam(model).decode_guided(features, prompts, IMAGE_SIZE, attention, target)
    assert decoded.logits.shape == (2, 1, 4 * CELLS, 4 * CELLS)
    assert decoded.predicted_iou.shape == (2, 1)
    for row, prompt in enumerate(prompts):
        with torch.no_grad():
            logits, iou = plain_guided_decode(model, features, prompt, attention[row], target)
        torch.testing.assert_close(decoded.logits[row, 0], logits, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(decoded.predicted_iou[row, 0], iou, atol=1e-4, rtol=1e-4)


def test_a_model_that_was_prepared_for_inference_is_guided_all_the_same() -> None:
    plain, prepared = GuidedSam(small_sam()), GuidedSam(small_sam(prepared=True))
    features, prompts, attention, target = inputs()
    expected = plain.decode_guided(features, prompts, IMAGE_SIZE, attention, target)
    decoded = prepared.decode_guided(features, prompts, IMAGE_SIZE, attention, target)
    assert torch.equal(decoded.logits, expected.logits)


@pytest.mark.parametrize("dropped", ["attention", "target"])
def test_both_attention_and_target_reach_the_masks(dropped: str) -> None:
    guided = GuidedSam(small_sam())
    features, prompts, attention, target = inputs()
    full = guided.decode_guided(features, prompts, IMAGE_SIZE, attention, target).logits
    if dropped == "attention":
        attention = torch.zeros_like(attention)
    else:
        target = torch.zeros_like(target)
    less = guided.decode_guided(features, prompts, IMAGE_SIZE, attention, target).logits
    assert (full - less).abs().amax(dim=(1, 2, 3)).min() > 1e-3


def test_a_constant_added_to_the_attention_changes_nothing() -> None:
    guided = GuidedSam(small_sam())
    features, prompts, attention, target = inputs()
    one = guided.decode_guided(features, prompts, IMAGE_SIZE, attention, target).logits
    other = guided.decode_guided(features, prompts, IMAGE_SIZE, attention + 0.25, target).logits
    torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_each_prompt_set_has_its_own_attention() -> None:
    guided = GuidedSam(small_sam())
    features, prompts, attention, target = inputs()
    together = guided.decode_guided(features, prompts, IMAGE_SIZE, attention, target)
    for row, prompt in enumerate(prompts):
        alone = guided.decode_guided(features, [prompt], IMAGE_SIZE, attention[row : row + 1], target)
        assert torch.equal(alone.logits[0], together.logits[row])
        assert torch.equal(alone.predicted_iou[0], together.predicted_iou[row])
    with pytest.raises(ValueError, match="does not fit 2 prompt sets"):
        guided.decode_guided(features, prompts, IMAGE_SIZE, attention[:1], target)


def test_guiding_leaves_the_model_as_it_was() -> None:
    model = small_sam()
    network = cast(Any, model)._network
    features, prompts, attention, target = inputs()
    before = model.decode(features, prompts, IMAGE_SIZE)
    parts = [(name, id(module)) for name, module in network.named_modules()]
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    guided = as_guided(model).decode_guided(features, prompts, IMAGE_SIZE, attention, target)
    after = model.decode(features, prompts, IMAGE_SIZE)
    assert torch.equal(before.logits, after.logits)
    assert not torch.equal(before.logits, guided.logits)
    assert [(name, id(module)) for name, module in network.named_modules()] == parts
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())


def test_a_model_that_guides_itself_is_used_as_it_is() -> None:
    model = SimpleNamespace(decode_guided=lambda *_: None)
    assert as_guided(cast(PromptableModel, model)) is model


def test_a_model_without_sams_decoder_is_refused_by_its_name() -> None:
    card = SimpleNamespace(id="other")
    with pytest.raises(ModelError, match="other: its mask decoder cannot be guided"):
        as_guided(cast(PromptableModel, SimpleNamespace(card=card)))
    network = SimpleNamespace(mask_decoder=SimpleNamespace(transformer=torch.nn.Identity()))
    with pytest.raises(ModelError, match="other: its mask decoder cannot be guided"):
        as_guided(SamFamilyModel(cast(ModelCard, card), network, Preprocessing(SIZE), torch.device("cpu")))
