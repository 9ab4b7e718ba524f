"""The encoder's features of all training slices, computed once and kept on the disk in half precision.

Training the decoder asks for every slice many times, and on a CPU the encoder would take most of the time.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.adaptation.examples import Example
from P2SAMSlicerLib.atomic_file import atomic_folder
from P2SAMSlicerLib.progress import Progress, ProgressEvent

if TYPE_CHECKING:
    import torch

FEATURES, KEY = "features.npy", "key.json"
ENCODE_BATCH = 4


def cached_features(
    folder: Path, network: Any, preprocessing: Any, examples: Sequence[Example], weights: str, progress: Progress
) -> NDArray[np.float16]:
    """Features ``(n, C, h, w)`` of all examples, read from the folder where they are there already.

    :param folder: made whole or not at all; replaced if it belongs to other examples or weights.
    :param weights: SHA-256 of the encoder's weights.
    :raises OutputError: no space.
    """
    key = _key(examples, weights)
    features = _held(folder, key)
    if features is None:
        shutil.rmtree(folder, ignore_errors=True)
        with atomic_folder(folder) as temporary:
            _encode(temporary / FEATURES, network, preprocessing, examples, progress)
            (temporary / KEY).write_text(json.dumps(key), encoding="utf-8")
        features = np.load(folder / FEATURES, mmap_mode="r")
    return features


def _held(folder: Path, key: str) -> NDArray[np.float16] | None:
    """The features that lie in the folder, if they are whole and have this key."""
    with suppress(OSError, ValueError):
        if json.loads((folder / KEY).read_text(encoding="utf-8")) == key:
            features: NDArray[np.float16] = np.load(folder / FEATURES, mmap_mode="r")
            return features
    return None


def _key(examples: Sequence[Example], weights: str) -> str:
    digest = hashlib.sha256(weights.encode())
    for example in examples:
        digest.update(example.image.tobytes())
    return digest.hexdigest()


def _encode(path: Path, network: Any, preprocessing: Any, examples: Sequence[Example], progress: Progress) -> None:
    with path.open("wb") as file:
        _encode_into(file, network, preprocessing, examples, progress)


def _encode_into(file: BinaryIO, network: Any, preprocessing: Any, examples: Sequence[Example], progress: Progress) -> None:
    """Write an array file row by row: a memory map would end the process where the disk is full."""
    import torch

    device = next(network.parameters()).device
    for start in range(0, len(examples), ENCODE_BATCH):
        images = [each.image for each in examples[start : start + ENCODE_BATCH]]
        with torch.inference_mode():
            features: torch.Tensor = network.image_encoder(preprocessing.tensor(images, device))
        values = features.float().cpu().numpy().astype("<f2")
        if start == 0:
            header = {"descr": "<f2", "fortran_order": False, "shape": (len(examples), *values.shape[1:])}
            np.lib.format.write_array_header_1_0(file, header)
        file.write(values.tobytes())
        progress(ProgressEvent("encode", min(start + ENCODE_BATCH, len(examples)), len(examples)))
