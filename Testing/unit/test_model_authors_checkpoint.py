"""Checkpoints in the layout of the P2SAM authors' code: what their own test code would compute, or one line of refusal.

No released file was at hand: the files are made here, after the layout that the published code writes.
"""

from __future__ import annotations

import argparse
import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from P2SAMSlicerLib.errors import ModelError
from P2SAMSlicerLib.models import load_model, loading, sam
from P2SAMSlicerLib.models.authors_checkpoint import adaptation_of, to_segment_anything
from P2SAMSlicerLib.models.catalogue import CatalogueEntry, catalogue_entry

pytest.importorskip("segment_anything", reason="segment-anything is not installed")

Weights = dict[str, torch.Tensor]

#: Side of the small network's images in pixels.
SIZE = 256


def small_sam(architecture: str = "vit_b") -> Any:
    """SAM of the package's parts and of ViT-B's width, but for 256 pixels and with two encoder blocks, so that it is fast."""
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    assert architecture == "vit_b"
    encoder = ImageEncoderViT(
        img_size=SIZE,
        embed_dim=768,
        depth=2,
        out_chans=256,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=14,
        global_attn_indexes=(1,),
    )
    prompts = PromptEncoder(
        embed_dim=256, image_embedding_size=(SIZE // 16, SIZE // 16), input_image_size=(SIZE, SIZE), mask_in_chans=16
    )
    transformer = TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8)
    return Sam(encoder, prompts, MaskDecoder(transformer_dim=256, transformer=transformer))


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the loader build the small network under the name of ViT-B, and prepare images for it."""

    def entry(model: str) -> CatalogueEntry:
        found = catalogue_entry(model)
        return replace(found, preprocessing=replace(found.preprocessing, size=SIZE))

    monkeypatch.setattr(loading, "catalogue_entry", entry)
    monkeypatch.setattr(sam, "build_network", small_sam)


def seeded(build: Callable[[], Any]) -> Any:
    """A network with seeded random weights, the position embeddings (which start as zeros) included."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        network = build()
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                if "pos" in name:
                    parameter.normal_(std=0.1)
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def base() -> Weights:
    """The weights of one small SAM, under segment_anything's keys."""
    weights: Weights = seeded(small_sam).state_dict()
    return weights


def adapted_layers(weights: Weights) -> list[str]:
    return [key.removesuffix(".weight") for key in weights if re.search(r"blocks\.\d+\.attn\.(qkv|proj)\.weight$", key)]


def lora_pairs(weights: Weights) -> Weights:
    """Rank 1: for proj A is (1, in) and B (out, 1); for qkv three rows of A, and B one below the other for q, k and v."""
    generator = torch.Generator().manual_seed(8)
    pairs: Weights = {}
    for layer in adapted_layers(weights):
        out, width = weights[f"{layer}.weight"].shape
        pairs[f"{layer}.lora_A"] = 0.1 * torch.randn(3 if layer.endswith("qkv") else 1, width, generator=generator)
        pairs[f"{layer}.lora_B"] = 0.1 * torch.randn(out, 1, generator=generator)
    return pairs


def set_by_hand(weights: Weights, pairs: Weights, times: int) -> Weights:
    """W + ``times`` * BA, written out for q, k, v and proj one after the other."""
    merged = dict(weights)
    for layer in adapted_layers(weights):
        weight = weights[f"{layer}.weight"].clone()
        share = weight.shape[1]
        for part in range(weight.shape[0] // share):
            b = pairs[f"{layer}.lora_B"][part * share : (part + 1) * share, 0]
            weight[part * share : (part + 1) * share] += times * torch.outer(b, pairs[f"{layer}.lora_A"][part])
        merged[f"{layer}.weight"] = weight
    return merged


def authors_keys(weights: Weights) -> Weights:
    return {
        re.sub(r"^(image_encoder\.blocks\.\d+\.mlp)\.lin(\d)", r"\1.fc\2", key): value.clone() for key, value in weights.items()
    }


def write(path: Path, weights: Weights, *, lora: bool) -> Path:
    """A file as the authors' training script saves it, with what it holds beside the weights."""
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([parameter], lr=1e-4)
    (parameter**2).sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    args = argparse.Namespace(sam_type="vit_b", encoder_type="timm", lora=lora, lora_rank=1, lr=1e-4, opt_betas=None, gpu=0)
    content = {
        "model": OrderedDict(weights),
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": {"base_values": [1e-4], "on_updates": True, "metric": None},
        "epoch": 30,
        "scaler": {"scale": 65536.0, "growth_interval": 2000},
        "args": args,
        "result": torch.tensor(0.65),
    }
    torch.save(content, path)
    return path


def picture() -> NDArray[np.uint8]:
    return np.random.default_rng(3).integers(0, 256, (150, 100, 3), dtype=np.uint8)


def features_of(network: Any, weights: Weights) -> torch.Tensor:
    """What segment_anything's own predictor gives for the picture with these weights."""
    from segment_anything import SamPredictor

    network.load_state_dict(weights)
    predictor = SamPredictor(network.eval())
    predictor.set_image(picture())
    features: torch.Tensor = predictor.get_image_embedding()
    return features


def load(path: Path) -> Any:
    return load_model("sam_vit_b", "cpu", path, allow_unverified=True)


def assert_same(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def assert_far(found: torch.Tensor, other: torch.Tensor) -> None:
    assert float((found - other).abs().max()) > 0.05 * float(other.abs().max())


@pytest.mark.usefixtures("_small")
def test_a_merged_lora_file_computes_w_plus_two_ba_as_the_published_figures_did(base: Weights, tmp_path: Path) -> None:
    pairs = lora_pairs(base)
    path = write(tmp_path / "lora.pth", authors_keys(set_by_hand(base, pairs, 1)) | pairs, lora=True)
    model = load(path)
    found = model.encode([picture()])
    assert_same(found, features_of(small_sam(), set_by_hand(base, pairs, 2)))
    assert_far(found, features_of(small_sam(), set_by_hand(base, pairs, 1)))
    assert model.card.title == "SAM ViT-B, adapted with the P2SAM authors' code (LoRA)"
    assert "W + 2BA" in model.card.source
    assert model.card.trained_prompts == ("points", "box", "mask")
    assert model.card.licence == "NOASSERTION"


@pytest.mark.usefixtures("_small")
def test_a_file_that_holds_unmerged_weights_computes_w_plus_ba_as_the_authors_test_code_would(
    base: Weights, tmp_path: Path
) -> None:
    pairs = lora_pairs(base)
    path = write(tmp_path / "unmerged.pth", authors_keys(base) | pairs, lora=True)
    assert_same(load(path).encode([picture()]), features_of(small_sam(), set_by_hand(base, pairs, 1)))


@pytest.mark.usefixtures("_small")
def test_a_full_file_computes_what_its_weights_do(base: Weights, tmp_path: Path) -> None:
    model = load(write(tmp_path / "full.pth", authors_keys(base), lora=False))
    assert_same(model.encode([picture()]), features_of(small_sam(), base))
    loaded = model._network.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in base.items())
    assert model.card.title == "SAM ViT-B, adapted with the P2SAM authors' code (full)"
    assert "full.pth" in model.card.source
    assert "BA" not in model.card.source


@pytest.mark.usefixtures("_small")
def test_timms_encoder_which_the_authors_trained_computes_the_same_after_loading(base: Weights, tmp_path: Path) -> None:
    timm = pytest.importorskip("timm", reason="timm is not installed")
    options = {"img_size": SIZE, "depth": 2, "global_attn_indexes": (1,), "norm_layer": partial(torch.nn.LayerNorm, eps=1e-6)}
    encoder = seeded(lambda: timm.create_model("samvit_base_patch16", pretrained=False, **options))
    weights = {key: value for key, value in base.items() if not key.startswith("image_encoder.")}
    weights |= {f"image_encoder.{key}": value for key, value in encoder.state_dict().items()}
    model = load(write(tmp_path / "timm.pth", weights, lora=False))
    with torch.inference_mode():
        expected = encoder.forward_features(model.preprocessing.tensor([picture()], torch.device("cpu")))
    assert_same(model.encode([picture()]), expected)


@pytest.mark.slow
def test_the_whole_vit_b_gets_the_weights_w_plus_two_ba(tmp_path: Path) -> None:
    """What such weights compute is tested with the small network: twice through twelve blocks takes half a minute."""
    from segment_anything import sam_model_registry

    network = seeded(sam_model_registry["vit_b"])
    weights = {key: value.clone() for key, value in network.state_dict().items()}
    pairs = {key: 0.7 * value for key, value in lora_pairs(weights).items()}
    assert len(pairs) == 2 * 2 * 12
    path = write(tmp_path / "checkpoint.pth", authors_keys(set_by_hand(weights, pairs, 1)) | pairs, lora=True)
    loaded, expected = load(path)._network.state_dict(), set_by_hand(weights, pairs, 2)
    assert loaded.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(loaded[key], value, rtol=0, atol=1e-6 * max(1.0, float(value.abs().max())))


def test_segment_anythings_own_names_with_lora_are_converted_too(base: Weights) -> None:
    # The authors' option --encoder-type meta keeps segment_anything's encoder.
    pairs = lora_pairs(base)
    renamed = to_segment_anything(authors_keys(base) | pairs, Path("w.pth"))
    own = to_segment_anything(base | pairs, Path("w.pth"))
    assert own.keys() == renamed.keys() == base.keys()
    assert all(torch.equal(own[key], renamed[key]) for key in own)


def test_converting_leaves_the_given_weights_alone(base: Weights) -> None:
    given = authors_keys(base) | lora_pairs(base)
    before = {key: value.clone() for key, value in given.items()}
    to_segment_anything(given, Path("w.pth"))
    assert given.keys() == before.keys()
    assert all(torch.equal(given[key], value) for key, value in before.items())


def test_other_layouts_are_not_taken_for_the_authors(base: Weights) -> None:
    assert adaptation_of(base) is None
    assert adaptation_of(authors_keys(base)) == "full"
    assert adaptation_of(base | lora_pairs(base)) == "LoRA"
    assert adaptation_of({"image_encoder.layers.1.blocks.0.mlp.fc1.weight": torch.zeros(1)}) is None
    lite_medsam = load_model("lite_medsam", "cpu", seed_weights=0)._network.state_dict()  # type: ignore[attr-defined]
    assert any(".mlp.fc1." in key for key in lite_medsam)
    assert adaptation_of(lite_medsam) is None


QKV, PROJ = "image_encoder.blocks.1.attn.qkv", "image_encoder.blocks.0.attn.proj"
FC1, LIN1 = "image_encoder.blocks.1.mlp.fc1.weight", "image_encoder.blocks.1.mlp.lin1.weight"
NAN = float("nan")


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({f"{QKV}.lora_A": None}, f"holds LoRA weights, but no '{QKV}.lora_A'"),
        ({f"{PROJ}.lora_B": None}, f"holds LoRA weights, but no '{PROJ}.lora_B'"),
        ({f"{PROJ}.lora_A": None, f"{PROJ}.lora_B": None}, f"holds LoRA weights, but no '{PROJ}.lora_A'"),
        ({f"{QKV}.weight": None}, f"holds LoRA weights, but no '{QKV}.weight'"),
        ({f"{QKV}.lora_A": torch.zeros(1, 768)}, rf"'{QKV}.lora_A' has shape \(1, 768\), the layer needs \(3, 768\)"),
        ({f"{PROJ}.lora_B": torch.zeros(768)}, rf"'{PROJ}.lora_B' has shape \(768,\), the layer needs \(768, 1\)"),
        ({f"{QKV}.weight": torch.zeros(100, 768)}, rf"'{QKV}.weight' has shape \(100, 768\)"),
        ({f"{QKV}.lora_A": torch.zeros(12, 768), f"{QKV}.lora_B": torch.zeros(2304, 4)}, "of rank 4; only rank 1"),
        ({f"{QKV}.lora_B": torch.full((2304, 1), NAN)}, f"'{QKV}.lora_B' holds NaN or infinite"),
        ({f"{PROJ}.weight": torch.full((768, 768), NAN)}, f"'{PROJ}.weight' holds NaN or infinite"),
        ({f"{PROJ}.lora_A": torch.zeros(1, 768, dtype=torch.int32)}, rf"'{PROJ}.lora_A' holds torch\.int32"),
        ({LIN1: torch.zeros(3072, 768)}, f"holds '{LIN1}' twice"),
        ({FC1: torch.zeros(3, 768)}, rf"'{LIN1}' has shape \(3, 768\), vit_b needs \(3072, 768\)"),
        ({FC1: torch.full((3072, 768), NAN)}, f"'{LIN1}' holds NaN or infinite"),
        ({FC1: None}, f"1 missing, 0 unexpected .*no '{LIN1}'"),
        ({"image_encoder.blocks.0.mlp.fc1.lora_A": torch.zeros(1, 768)}, "0 missing, 1 unexpected .*mlp.fc1.lora_A"),
        ({"image_encoder.pos_embed": torch.zeros(1, 16, 16, 1024)}, "for sam_vit_l, not for sam_vit_b"),
    ],
)
@pytest.mark.usefixtures("_small")
def test_a_broken_file_is_refused_in_one_line_that_names_it(
    base: Weights, tmp_path: Path, change: dict[str, torch.Tensor | None], fault: str
) -> None:
    weights = {key: value for key, value in {**authors_keys(base), **lora_pairs(base), **change}.items() if value is not None}
    path = write(tmp_path / "broken.pth", weights, lora=True)
    with pytest.raises(ModelError, match=rf"^broken\.pth: .*{fault}") as caught:
        load(path)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.usefixtures("_small")
def test_the_authors_weights_are_no_medsam_and_no_lite_medsam(base: Weights, tmp_path: Path) -> None:
    path = write(tmp_path / "full.pth", authors_keys(base), lora=False)
    for model in ("medsam_vit_b", "lite_medsam"):
        # Their images are prepared otherwise than those that the weights were trained with.
        with pytest.raises(ModelError, match=rf"^full\.pth: .*for sam_vit_b, not for {model}"):
            load_model(model, "cpu", path, allow_unverified=True)


def test_a_file_of_unknown_hash_is_still_refused_unless_the_user_allows_it(base: Weights, tmp_path: Path) -> None:
    path = write(tmp_path / "full.pth", authors_keys(base), lora=False)
    with pytest.raises(ModelError, match=r"^full\.pth: SHA-256 is"):
        load_model("sam_vit_b", "cpu", path)
