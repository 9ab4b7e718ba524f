"""Weights from a prepared folder are taken by their hash, whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from P2SAMSlicerLib.errors import ModelError, OutputError
from P2SAMSlicerLib.models import bundle, store
from P2SAMSlicerLib.models.bundle import take_weights
from P2SAMSlicerLib.models.catalogue import CatalogueEntry, catalogue_entry

CONTENT = np.random.default_rng(0).bytes(200_000)
NAMES = ("sam_vit_b", "sam_vit_l")


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, CatalogueEntry]:
    """A catalogue of small files; the store is empty."""
    monkeypatch.setenv("P2SAM_MODEL_DIR", str(tmp_path / "models"))
    entries = {name: replace(catalogue_entry(name), sha256=hashlib.sha256(content(name)).hexdigest()) for name in NAMES}
    entries["medsam_vit_b"] = replace(catalogue_entry("medsam_vit_b"), sha256=None)
    monkeypatch.setattr(store, "catalogue_entry", entries.__getitem__)
    for module in (store, bundle):
        monkeypatch.setattr(module, "catalogue", lambda: tuple(entries.values()))
    return entries


@pytest.fixture
def folder(known: dict[str, CatalogueEntry], tmp_path: Path) -> Path:
    """A folder as it comes on a stick, with all files and some others."""
    made = tmp_path / "stick"
    made.mkdir()
    for name in NAMES:
        (made / known[name].file_name).write_bytes(content(name))
    (made / known["medsam_vit_b"].file_name).write_bytes(CONTENT)
    (made / "torch-2.4-cp312-none-any.whl").write_bytes(b"PK")
    return made


def content(name: str) -> bytes:
    return CONTENT + name.encode()


def left(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "models").glob("*") if not path.name.endswith(".lock"))


def test_weights_are_copied_to_where_downloads_lie_and_those_of_unknown_hash_are_not(folder: Path, tmp_path: Path) -> None:
    assert take_weights(folder) == list(NAMES)
    for name in NAMES:
        assert store.path(name).read_bytes() == content(name)
        assert store.verify(name).known
    assert store.find("medsam_vit_b") is None
    assert left(tmp_path) == sorted(store.path(name).name for name in NAMES)
    assert take_weights(folder) == []


def test_weights_that_are_there_are_left_alone_and_missing_ones_are_no_fault(folder: Path) -> None:
    own = store.path("sam_vit_b")
    own.parent.mkdir()
    own.write_bytes(b"my own")
    store.path("sam_vit_b")
    (folder / store.path("sam_vit_l").name).unlink()
    assert take_weights(folder) == []
    assert own.read_bytes() == b"my own"


@pytest.mark.parametrize("harm", ["another file", "cut short", "empty", "a web page"])
def test_a_file_that_is_not_what_its_name_says_is_refused_and_nothing_of_it_kept(
    folder: Path, tmp_path: Path, harm: str
) -> None:
    file = folder / store.path("sam_vit_l").name
    whole = file.read_bytes()
    wrong = {"another file": whole[:-1] + b"?", "cut short": whole[:-9], "empty": b"", "a web page": b"<!DOCTYPE html><html>"}
    file.write_bytes(wrong[harm])
    with pytest.raises(ModelError, match=file.name):
        take_weights(folder)
    # The good one before it stays.
    assert left(tmp_path) == [store.path("sam_vit_b").name]
    file.write_bytes(whole)
    assert take_weights(folder) == ["sam_vit_l"]


def test_a_file_that_changes_while_it_is_copied_is_not_kept(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copyfile

    def damaged(source: Any, target: Any, **options: Any) -> Any:
        copy(source, target, **options)
        Path(target).write_bytes(Path(target).read_bytes()[:-5])

    monkeypatch.setattr(shutil, "copyfile", damaged)
    with pytest.raises(ModelError, match="SHA-256"):
        take_weights(folder)
    assert left(tmp_path) == []


def test_a_disk_that_is_or_becomes_full_leaves_nothing_half_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_source: Any, target: Any, **_options: Any) -> Any:
        Path(target).write_bytes(CONTENT[:1000])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "copyfile", full)
        with pytest.raises(OutputError, match="no space left"):
            take_weights(folder)
    assert left(tmp_path) == []
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=1))
        with pytest.raises(OutputError, match="not enough space"):
            take_weights(folder)
    assert left(tmp_path) == []


def test_a_model_folder_that_cannot_be_made_is_told(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("P2SAM_MODEL_DIR", str(tmp_path / "file" / "models"))
    with pytest.raises(OutputError):
        take_weights(folder)


def test_a_folder_without_weights_or_that_is_none_gives_nothing(known: dict[str, CatalogueEntry], tmp_path: Path) -> None:
    assert known
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / store.path("sam_vit_b").name).mkdir()  # a folder of that name is no weights file
    assert take_weights(tmp_path / "empty") == []
    assert take_weights(tmp_path / "nowhere") == []
    assert not (tmp_path / "models").exists()
