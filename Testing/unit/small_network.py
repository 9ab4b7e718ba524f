"""A SAM of the package's own parts that is small enough to be trained in a test, known to the loader as ViT-B."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from P2SAMSlicerLib.models import loading, sam
from P2SAMSlicerLib.models.catalogue import CatalogueEntry, catalogue_entry
from P2SAMSlicerLib.models.store import ENVIRONMENT

#: Id of the model in whose place the small network stands.
MODEL = "sam_vit_b"
#: Side of its images, which is that of a region of interest, and width of its features.
SIZE, WIDTH = 256, 32


def build(architecture: str = "vit_b") -> Any:
    """The network with random weights: two encoder blocks, low-resolution masks of 256 pixels like every SAM's."""
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    assert architecture == "vit_b"
    encoder = ImageEncoderViT(
        img_size=SIZE,
        patch_size=4,
        embed_dim=12,
        depth=2,
        num_heads=2,
        mlp_ratio=2.0,
        out_chans=WIDTH,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=8,
        global_attn_indexes=(),
    )
    grid = (SIZE // 4, SIZE // 4)
    prompts = PromptEncoder(embed_dim=WIDTH, image_embedding_size=grid, input_image_size=(SIZE, SIZE), mask_in_chans=4)
    transformer = TwoWayTransformer(depth=1, embedding_dim=WIDTH, mlp_dim=32, num_heads=2)
    return Sam(encoder, prompts, MaskDecoder(transformer_dim=WIDTH, transformer=transformer, iou_head_hidden_dim=16))


def seeded(seed: int = 5) -> Any:
    """The network with seeded weights, as the loader leaves it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build().eval().requires_grad_(False)


def install(monkeypatch: pytest.MonkeyPatch, folder: Path, seed: int = 5) -> Path:
    """Write the network's weights to a folder of models, and let the loader find and build it under the name of ViT-B.

    :returns: the weights file.
    """

    def entry(model: str) -> CatalogueEntry:
        found = catalogue_entry(model)
        return replace(found, preprocessing=replace(found.preprocessing, size=SIZE), sha256=None)

    folder.mkdir(exist_ok=True)
    weights = folder / catalogue_entry(MODEL).file_name
    torch.save(seeded(seed).state_dict(), weights)
    monkeypatch.setenv(ENVIRONMENT, str(folder))
    monkeypatch.setattr(loading, "catalogue_entry", entry)
    monkeypatch.setattr(sam, "build_network", build)
    return weights
