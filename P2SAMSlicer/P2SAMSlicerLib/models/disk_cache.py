"""Features on disk, from one run to the next. Off unless asked for: features of a CT are derived patient data.

A file an image, in a folder that its owner alone may look into; no name in it tells whose they are. Files appear whole or not
at all and carry a check sum, so that several processes may share the folder, and be killed, without anybody reading a wrong
feature. What was not asked for the longest goes first when the folder is full.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from P2SAMSlicerLib import __version__
from P2SAMSlicerLib.errors import OutputError
from P2SAMSlicerLib.models.protocol import PromptableModel

if TYPE_CHECKING:
    import torch

#: Room for the files; an image of LiteMedSAM or SAM takes 4 MB.
USUAL_BYTES = 4 * 2**30
_MAGIC = b"P2SAM features 1\n"
_DIGEST_BYTES = 32
_NAME = re.compile(r"[0-9a-f]{64}\.features")
_UNFINISHED = re.compile(r"\.[0-9a-f]{64}\.features\.[0-9a-f]{12}")
#: What a process that was killed left unfinished is older than this, in seconds.
_UNFINISHED_SECONDS = 3600.0


@dataclass(frozen=True)
class DiskUse:
    """What a folder holds.

    :param images: number of images whose features are there.
    :param bytes: room that they take.
    """

    images: int
    bytes: int


class DiskCache:
    """Features by key in a folder.

    :param folder: made if needed, for its owner alone.
    :param limit_bytes: most room; a file that is larger is not kept.
    :raises OutputError: the folder cannot be made, or others may look into it.
    """

    def __init__(self, folder: Path, limit_bytes: int = USUAL_BYTES) -> None:
        self._folder = folder
        self._limit = limit_bytes
        #: Why nothing is kept any more, in words; None while all is well.
        self.failure: str | None = None
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if os.name != "nt":
                found = folder.stat()
                if found.st_uid != os.getuid() or found.st_mode & 0o077:
                    raise OutputError(
                        f"{folder.name}: others may look into this folder, and features are patient data; choose another one,"
                        " or close it to others (chmod 700)"
                    )
        except OSError as error:
            if isinstance(error, OutputError):
                raise
            raise OutputError(f"{folder.name}: no folder for features can be made there ({_reason(error)})") from error

    def get(self, key: bytes) -> torch.Tensor | None:
        """The features of a key; None if they are not there, or not whole (then their file goes)."""
        import torch

        path = self._path(key)
        try:
            content = path.read_bytes()
        except OSError:
            return None
        start = len(_MAGIC) + _DIGEST_BYTES
        body = content[start:]
        if content[:start] != _MAGIC + _digest(body):
            with suppress(OSError):
                path.unlink()
            return None
        with suppress(OSError):
            os.utime(path)  # asked for just now
        return torch.from_numpy(np.load(io.BytesIO(body), allow_pickle=False))

    def put(self, key: bytes, features: torch.Tensor) -> None:
        """Keep features. A disk that is full or cannot be written is no fault of the run: nothing more is kept, and
        :attr:`failure` says why.
        """
        if self.failure is not None:
            return
        file = io.BytesIO()
        np.save(file, features.numpy(), allow_pickle=False)
        body = file.getvalue()
        if len(body) > self._limit:
            return
        path = self._path(key)
        unfinished = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
        try:
            with os.fdopen(os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as out:
                out.write(_MAGIC + _digest(body) + body)
            unfinished.replace(path)
        except OSError as error:
            self.failure = _reason(error)
        finally:
            with suppress(OSError):
                unfinished.unlink()
        self._make_room()

    def use(self) -> DiskUse:
        """What is there now."""
        sizes = [status.st_size for _, status in self._files()]
        return DiskUse(len(sizes), sum(sizes))

    def clear(self) -> DiskUse:
        """Remove all features, and nothing else that may lie in the folder.

        :returns: what was removed.
        """
        removed = []
        for path, status in self._files():
            with suppress(OSError):
                path.unlink()
                removed.append(status.st_size)
        self._remove_unfinished(0.0)
        return DiskUse(len(removed), sum(removed))

    def _path(self, key: bytes) -> Path:
        return self._folder / f"{hashlib.blake2b(key, digest_size=32).hexdigest()}.features"

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        with suppress(OSError):
            for path in list(self._folder.iterdir()):
                if _NAME.fullmatch(path.name):
                    with suppress(OSError):  # another process may just have removed it
                        yield path, path.stat()

    def _make_room(self) -> None:
        files = sorted(self._files(), key=lambda each: each[1].st_mtime)
        room = sum(status.st_size for _, status in files)
        for path, status in files:
            if room <= self._limit:
                break
            with suppress(OSError):
                path.unlink()
            room -= status.st_size
        self._remove_unfinished(_UNFINISHED_SECONDS)

    def _remove_unfinished(self, older_than: float) -> None:
        with suppress(OSError):
            for path in list(self._folder.iterdir()):
                with suppress(OSError):
                    if _UNFINISHED.fullmatch(path.name) and time.time() - path.stat().st_mtime >= older_than:
                        path.unlink()


def model_key(model: PromptableModel) -> bytes | None:
    """What decides, besides the image, which features a model gives: weights, precision, kind of device, this version.

    :returns: None for random weights, which have no name.
    """
    card = model.card
    if not card.sha256:
        return None
    parts = (__version__, card.id, card.sha256, card.source, card.input_size, card.precision, model.device.type)
    return repr(parts).encode()


def _digest(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=_DIGEST_BYTES).digest()


def _reason(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()
