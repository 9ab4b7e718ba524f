"""The folder of downloaded weights: what is there, what it is, and how it comes there and goes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from P2SAMSlicerLib.errors import ModelError, OutputError
from P2SAMSlicerLib.models import lite_medsam
from P2SAMSlicerLib.models.catalogue import CatalogueEntry, catalogue, catalogue_entry
from P2SAMSlicerLib.models.checkpoint import check_file, hash_file
from P2SAMSlicerLib.models.transfer import fetch
from P2SAMSlicerLib.progress import Progress, ProgressEvent, silent

#: Environment variable that names the folder.
ENVIRONMENT = "P2SAM_MODEL_DIR"


@dataclass(frozen=True)
class StoredModel:
    """A model of the catalogue and where its weights are.

    :param entry: the model.
    :param path: its weights file, or None if it is not on this computer.
    :param bytes: size of that file, 0 if there is none.
    :param origin: ``downloaded``, or ``package`` for a file that came with a Python package, or None.
    """

    entry: CatalogueEntry
    path: Path | None
    bytes: int
    origin: Literal["downloaded", "package"] | None


@dataclass(frozen=True)
class Verified:
    """A weights file whose hash was computed.

    :param path: the file.
    :param sha256: its hash.
    :param known: the catalogue knows the hash, and it is this one. False where it knows none.
    """

    path: Path
    sha256: str
    known: bool


def model_dir() -> Path:
    """The folder of downloaded weights; it need not exist yet. ``P2SAM_MODEL_DIR`` overrides the user's data folder."""
    named = os.environ.get(ENVIRONMENT)
    if named:
        return Path(named).expanduser()
    from platformdirs import user_data_dir

    return Path(user_data_dir("P2SAMSlicer", appauthor=False)) / "models"


def path(model: str) -> Path:
    """Where a downloaded model lies or would lie.

    :raises ModelError: the model is unknown.
    """
    return model_dir() / catalogue_entry(model).file_name


def find(model: str) -> Path | None:
    """The weights file of a model: the downloaded one, else the one from its Python package, else None.

    :raises ModelError: the model is unknown.
    """
    return _stored(catalogue_entry(model)).path


def list_models() -> list[StoredModel]:
    """All models of the catalogue, and which of them are on this computer."""
    return [_stored(entry) for entry in catalogue()]


def verify(model: str) -> Verified:
    """Read a model's weights file and compare its hash with the catalogue's.

    :raises ModelError: unknown model, no file, or it is not the catalogue's.
    """
    entry = catalogue_entry(model)
    file = _stored(entry).path
    if file is None:
        raise ModelError(f"{model}: its weights are not on this computer")
    check_file(file, None)
    sha256 = hash_file(file)
    if entry.sha256 is not None and sha256 != entry.sha256:
        raise ModelError(f"{file.name}: SHA-256 is {sha256}, expected {entry.sha256}; the file is damaged or another one")
    return Verified(path=file, sha256=sha256, known=entry.sha256 is not None)


def remove(model: str) -> int:
    """Delete a downloaded model, and what an unfinished download left.

    :returns: bytes that became free.
    :raises ModelError: unknown model, or nothing was downloaded, or a download is under way.
    :raises OutputError: the file cannot be deleted.
    """
    entry = catalogue_entry(model)
    target = path(model)
    files = [file for file in (target, _part(target)) if file.exists()]
    if not files:
        if _stored(entry).origin == "package":
            raise ModelError(
                f"{model}: came with the Python package {entry.package}; to remove it: pip uninstall {entry.package}"
            )
        raise ModelError(f"{model}: was not downloaded, there is nothing to remove")
    with _alone(target, wait=False):
        freed = sum(file.stat().st_size for file in files)
        try:
            for file in files:
                file.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"{target}: cannot be deleted ({error.strerror or error})") from None
    return freed


def download(model: str, progress: Progress = silent, *, sha256: str | None = None, allow_unverified: bool = False) -> Path:
    """Download a model's weights, unless they are there already.

    The file appears under its name only when it is complete and its hash is right. A download that was cut off or interrupted
    goes on where it stopped; a file with a wrong hash is deleted. Two downloads of one model wait for each other.

    :param progress: told the bytes so far (stage ``download``).
    :param sha256: hash that the file must have, where the catalogue knows none or is wrong; loading a file that is not the
        catalogue's still has to be allowed.
    :param allow_unverified: take a file whose hash nobody knows.
    :returns: the file.
    :raises ModelError: unknown model, no address, no hash to check with, no network, refused by the server, or a wrong hash.
    :raises OutputError: no space or no permission.
    """
    entry = catalogue_entry(model)
    if entry.url is None:
        hint = f"it comes with a Python package: pip install {entry.package}" if entry.package else "give a local file"
        raise ModelError(f"{model}: cannot be downloaded; {hint}")
    expected = _expected_hash(entry, sha256, allow_unverified)
    target = path(model)
    # Before anything is written: the folder may be a shared one that only an administrator fills.
    if _is_right(target, expected):
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{target.parent}: cannot be made ({error.strerror or error})") from None
    with _alone(target, wait=True):
        if _is_right(target, expected):  # Another download has finished meanwhile.
            return target
        part = _part(target)
        fetch(
            entry.url,
            part,
            model,
            entry.bytes,
            lambda done, total: progress(ProgressEvent("download", done, total or entry.bytes or 0, entry.title)),
            # Only a hash can tell that both halves of a resumed file belong together.
            resume=expected is not None,
        )
        _accept(part, target, expected)
    return target


def _expected_hash(entry: CatalogueEntry, given: str | None, allow_unverified: bool) -> str | None:
    if given is not None:
        if not re.fullmatch(r"[0-9a-fA-F]{64}", given):
            raise ModelError(f"--sha256 {given}: is no SHA-256 (64 hexadecimal digits)")
        return given.lower()
    if entry.sha256 is None and not allow_unverified:
        raise ModelError(
            f"{entry.id}: no SHA-256 is known, so the download cannot be checked; "
            "give --sha256, or --allow-unverified to take it as it is"
        )
    return entry.sha256


def _is_right(target: Path, expected: str | None) -> bool:
    """Whether a file is there and has the hash that it should have (any, if None)."""
    try:
        return target.is_file() and (expected is None or hash_file(target) == expected)
    except OSError as error:
        raise ModelError(f"{target}: cannot be read ({error.strerror or error})") from None


def _accept(part: Path, target: Path, expected: str | None) -> None:
    """Give a complete download its name, or delete it."""
    try:
        actual = hash_file(part)
        if expected is not None and actual != expected:
            part.unlink()
            raise ModelError(f"{target.name}: the download has SHA-256 {actual}, expected {expected}; it was deleted")
        part.replace(target)
    except OSError as error:
        raise OutputError(f"{target}: cannot be written ({error.strerror or error})") from None


def _stored(entry: CatalogueEntry) -> StoredModel:
    file = model_dir() / entry.file_name
    if file.is_file():
        return StoredModel(entry, file, file.stat().st_size, "downloaded")
    if entry.package is not None:
        with suppress(ModelError):
            packaged = lite_medsam.packaged_weights()
            return StoredModel(entry, packaged, packaged.stat().st_size, "package")
    return StoredModel(entry, None, 0, None)


def _part(target: Path) -> Path:
    return target.with_name(f"{target.name}.part")


def _lock_file(target: Path) -> Path:
    return target.with_name(f".{target.name}.lock")


@contextmanager
def _alone(target: Path, *, wait: bool) -> Iterator[None]:
    """Keep other processes and threads off a model while it is written or deleted; a killed process holds no lock.

    :raises ModelError: it is being downloaded, and the caller does not want to wait.
    :raises OutputError: the folder cannot be written.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(_lock_file(target), timeout=-1 if wait else 0)
    try:
        lock.acquire()
    except Timeout:
        raise ModelError(f"{target.name}: is being downloaded at the moment") from None
    except OSError as error:
        raise OutputError(f"{target.parent}: cannot be written ({error.strerror or error})") from None
    try:
        yield
    finally:
        lock.release()
