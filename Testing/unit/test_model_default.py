"""The model that is used where nobody names one: LiteMedSAM and the adapter that comes with the program."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from P2SAMSlicerLib.adaptation.annotated_ct import AnnotatedCT
from P2SAMSlicerLib.adaptation.examples import examples_of
from P2SAMSlicerLib.adaptation.options import AdaptationOptions
from P2SAMSlicerLib.adaptation.prompt_sampling import make_prompts
from P2SAMSlicerLib.adaptation.training import adapt
from P2SAMSlicerLib.candidates import bounding_box
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.models import load_model
from P2SAMSlicerLib.models.adapter import read_card
from P2SAMSlicerLib.models.catalogue import catalogue, catalogue_entry, default_model
from P2SAMSlicerLib.models.encode_cache import EncodeCache
from P2SAMSlicerLib.models.lite_medsam import packaged_weights
from P2SAMSlicerLib.models.protocol import PromptableModel, PromptSet
from P2SAMSlicerLib.resources import resource_path

pytest.importorskip("segment_anything", reason="segment-anything is not installed")

LARGEST_BYTES = 12_000_000
SIDE = 256


@pytest.fixture(scope="module")
def default() -> PromptableModel:
    return EncodeCache(load_model(device="cpu"))  # several tests show it the same slices


@pytest.fixture(scope="module")
def picture() -> tuple[np.ndarray, np.ndarray]:
    """A roundish tumour in muscle within a body, with noise, and its contour."""
    rows, columns = np.indices((SIDE, SIDE))
    tumour = ((rows - 120) / 34) ** 2 + ((columns - 140) / 44) ** 2 < 1
    body = ((rows - 128) / 110) ** 2 + ((columns - 128) / 118) ** 2 < 1
    grey = np.where(tumour, 150.0, np.where(body, 95.0, 5.0)) + np.random.default_rng(0).normal(0, 8, tumour.shape)
    image = np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[..., None], 3, axis=2)
    return image, tumour


def answer_dice(model: PromptableModel, picture: tuple[np.ndarray, np.ndarray], prompt: PromptSet) -> float:
    image, tumour = picture
    answer = model.decode(model.encode([image]), [prompt], (SIDE, SIDE)).logits[0, 0].numpy() > 0
    return float(2 * (answer & tumour).sum() / (answer.sum() + tumour.sum()))


def points(positive: int, negative: int) -> PromptSet:
    inside = [(140, 120), (120, 110), (160, 130), (140, 135), (135, 100)][:positive]
    outside = [(40, 60), (220, 200), (60, 190), (128, 210), (200, 60), (128, 40), (40, 128), (210, 128)][:negative]
    labels = np.repeat(np.array([1, 0], dtype=np.int64), [len(inside), len(outside)])
    return PromptSet(np.array(inside + outside, dtype=np.float32), labels)


def test_all_adapters_together_are_small_and_belong_to_the_weights_of_the_catalogue() -> None:
    adapted = [entry for entry in catalogue() if entry.adapter]
    assert [entry.id for entry in adapted] == [default_model()]
    for entry in adapted:
        card = read_card(resource_path(f"Models/{entry.adapter}"))
        assert card.base_sha256 == entry.sha256
        assert card.base == "lite_medsam"
        assert card.trained_prompts == entry.trained_prompts
        assert card.licence == entry.licence
    folder = resource_path("Models")
    assert sum(file.stat().st_size for file in folder.rglob("*")) <= LARGEST_BYTES
    assert {file.name for file in folder.iterdir()} == {entry.adapter for entry in adapted}


def test_its_card_attributes_the_data_and_tells_what_it_reaches_on_other_patients() -> None:
    card = read_card(resource_path(f"Models/{catalogue_entry(default_model()).adapter}"))
    for word in ("Soft-tissue-Sarcoma", "CC BY 3.0", "Cancer Imaging Archive", "simulated"):
        assert word in card.data
    figures = card.training["validation_slice_dice"]
    assert card.training["validation_patients"] > 0
    assert figures["box"]["adapted"] > figures["box"]["base"] - 0.02, "what the base could do was lost"
    for name in ("1 part, 1 negative", "3 parts, 8 negatives", "1 part, 45 negatives"):
        assert figures[name]["adapted"] > figures[name]["base"] + 0.3


@pytest.mark.parametrize(("positive", "negative"), [(1, 1), (3, 1), (5, 8)])
def test_points_alone_find_most_of_a_plain_tumour_which_the_base_cannot(
    positive: int, negative: int, default: PromptableModel, lite_medsam: PromptableModel, picture: tuple[np.ndarray, np.ndarray]
) -> None:
    prompt = points(positive, negative)
    found, before = (answer_dice(model, picture, prompt) for model in (default, lite_medsam))
    assert found > 0.5
    assert found > before + 0.2


@pytest.mark.parametrize(("parts", "negatives"), [(1, 1), (3, 8), (5, 45)])
def test_points_on_a_real_tumour_of_no_training_patient_find_most_of_it(
    parts: int, negatives: int, default: PromptableModel, visit_case: Callable[[str], Path]
) -> None:
    case = visit_case("thigh_a_shrink")
    ct = AnnotatedCT("prior", "A", case / "prior_ct.nii.gz", case / "prior_seg.nii.gz")
    shown = [each for each in examples_of(ct, 25.0, 0) if each.truth.sum() > 500][:8:2]
    drawn = make_prompts("parts", shown, parts, negatives, np.random.default_rng(0))
    assert drawn.points is not None
    assert drawn.labels is not None
    dice = []
    for example, where, label in zip(shown, drawn.points, drawn.labels, strict=True):
        dice.append(answer_dice(default, (example.image, example.truth), PromptSet(where, label)))
    assert np.mean(dice) > 0.6


def test_a_box_is_answered_as_well_as_by_the_base(
    default: PromptableModel, lite_medsam: PromptableModel, picture: tuple[np.ndarray, np.ndarray]
) -> None:
    prompt = PromptSet(box=bounding_box(picture[1]))
    assert answer_dice(default, picture, prompt) > answer_dice(lite_medsam, picture, prompt) - 0.02


def test_the_model_says_what_it_is(default: PromptableModel) -> None:
    assert default.card.id == default_model()
    assert default.card.trained_prompts == ("points", "box", "mask")
    assert "adapter lite_medsam_ct.safetensors" in default.card.source


def test_weights_named_by_the_user_get_no_adapter_unasked(lite_medsam: PromptableModel) -> None:
    model = load_model(default_model(), "cpu", packaged_weights())
    assert model.card == lite_medsam.card


def test_an_adapted_model_is_no_base_for_another_training(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^--base: lite_medsam_ct is itself adapted; "):
        adapt(AdaptationOptions(tmp_path, tmp_path / "a.safetensors", base=default_model()))
