"""The models that P2SAM knows: ``Resources/Models.json``, read and checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from P2SAMSlicerLib.errors import ModelError
from P2SAMSlicerLib.models.preprocessing import Preprocessing
from P2SAMSlicerLib.models.protocol import Prompt
from P2SAMSlicerLib.resources import resource_path


@dataclass(frozen=True)
class CatalogueEntry:
    """One model.

    :param id: name on the command line.
    :param title: name for people.
    :param default: used where the user names no model; true for exactly one.
    :param architecture: ``tiny_vit`` (LiteMedSAM), ``vit_b``, ``vit_l`` or ``vit_h`` (SAM).
    :param preprocessing: how the model wants its images.
    :param trained_prompts: prompts that the weights were trained with.
    :param adapter: file in ``Resources/Models`` that goes on top of the weights, or None.
    :param file_name: name of the weights file in the model folder.
    :param url: where it can be downloaded, or None.
    :param package: Python package that brings it, or None.
    :param bytes: its size, or None if unknown.
    :param sha256: its hash, or None if unknown.
    :param sha256_source: who says that this is its hash.
    :param verified: this project has seen the file itself, computed the hash and run the model with it.
    :param source: where the weights come from.
    :param licence: SPDX identifier of the weights' licence.
    :param note: what else there is to know, in words.
    """

    id: str
    title: str
    default: bool
    architecture: str
    preprocessing: Preprocessing
    trained_prompts: tuple[Prompt, ...]
    adapter: str | None
    file_name: str
    url: str | None
    package: str | None
    bytes: int | None
    sha256: str | None
    sha256_source: str
    verified: bool
    source: str
    licence: str
    note: str


@lru_cache(maxsize=1)
def catalogue() -> tuple[CatalogueEntry, ...]:
    """All models, in the order of the file.

    :raises InputError: ``Models.json`` is missing.
    :raises ModelError: it is damaged.
    """
    return read_catalogue(resource_path("Models.json"))


def read_catalogue(path: Path) -> tuple[CatalogueEntry, ...]:
    """All models of a catalogue file.

    :raises ModelError: the file is not what :class:`CatalogueEntry` describes.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        entries = tuple(_entry(item) for item in content["models"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path.name}: damaged catalogue of models ({_one_line(error)})") from None
    plain = {entry.sha256 for entry in entries if entry.adapter is None}
    if not {entry.sha256 for entry in entries if entry.adapter} <= plain:
        raise ModelError(f"{path.name}: damaged catalogue of models (an adapter's base must be in it)")
    if len({entry.id for entry in entries}) != len(entries) or sum(entry.default for entry in entries) != 1:
        raise ModelError(f"{path.name}: damaged catalogue of models (ids must differ, and one model must be the default)")
    return entries


def catalogue_entry(model: str) -> CatalogueEntry:
    """The model of this id.

    :raises ModelError: there is none; the message lists those that there are.
    """
    for entry in catalogue():
        if entry.id == model:
            return entry
    raise ModelError(f"unknown model '{model}'; known are: {', '.join(entry.id for entry in catalogue())}")


def default_model() -> str:
    """Id of the model that is used where the user names none."""
    return next(entry.id for entry in catalogue() if entry.default)


def _entry(item: Mapping[str, Any]) -> CatalogueEntry:
    names = {field.name for field in fields(CatalogueEntry)}
    if item.keys() != names:
        raise ValueError(f"fields {sorted(item.keys() ^ names)} are missing or unknown")
    values = dict(item)
    values["preprocessing"] = Preprocessing(**values["preprocessing"])
    values["trained_prompts"] = tuple(values["trained_prompts"])
    return CatalogueEntry(**values)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
