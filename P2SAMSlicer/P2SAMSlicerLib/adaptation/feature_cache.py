"""The encoder's features of all training slices, computed once and kept on the disk in half precision.

Training the decoder asks for every slice many times, and on a CPU the encoder would take most of the time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.adaptation.examples import Example
from P2SAMSlicerLib.adaptation.options import Precision
from P2SAMSlicerLib.adaptation.precision import mixed_precision
from P2SAMSlicerLib.atomic_file import atomic_write
from P2SAMSlicerLib.progress import Progress, ProgressEvent

if TYPE_CHECKING:
    import torch

ENCODE_BATCH = 4
SUFFIX = ".npy"


def cached_features(
    folder: Path,
    network: Any,
    preprocessing: Any,
    examples: Sequence[Example],
    weights: str,
    progress: Progress,
    precision: Precision = "float32",
    *,
    shared: bool = False,
) -> list[NDArray[np.float16]]:
    """Features ``(C, h, w)`` of every example, read from the folder where they are there already.

    There is a file for each patient, named by what it holds, so that another split of the patients uses it again.

    :param folder: made if it is not there.
    :param weights: SHA-256 of the encoder's weights.
    :param precision: of the arithmetic on a CPU.
    :param shared: leave files that other trainings may use.
    :raises OutputError: no space, or the folder cannot be made.
    """
    rows: dict[str, list[int]] = {}
    for row, example in enumerate(examples):
        rows.setdefault(example.patient, []).append(row)
    encoder = f"{weights} {precision}"
    files = {who: folder / f"{_key([examples[row] for row in own], encoder)}{SUFFIX}" for who, own in rows.items()}
    with suppress(OSError):  # writing the first file tells what is wrong
        folder.mkdir(exist_ok=True)
    if not shared:
        for file in set(folder.glob(f"*{SUFFIX}")) - set(files.values()):
            file.unlink()
    found: dict[int, NDArray[np.float16]] = {}
    for patient, own in rows.items():
        features = _held(files[patient], len(own))
        if features is None:
            with atomic_write(files[patient]) as temporary, temporary.open("wb") as writer:
                for done in _encode_into(writer, network, preprocessing, [examples[row] for row in own], precision):
                    progress(ProgressEvent("encode", len(found) + done, len(examples)))
            features = np.load(files[patient], mmap_mode="r")
        found.update(zip(own, features, strict=True))
    return [found[row] for row in range(len(examples))]


def _held(file: Path, count: int) -> NDArray[np.float16] | None:
    """The features of a file, if it is whole."""
    with suppress(OSError, ValueError, EOFError):
        features: NDArray[np.float16] = np.load(file, mmap_mode="r")
        if features.ndim == 4 and len(features) == count:
            return features
    return None


def _key(examples: Sequence[Example], encoder: str) -> str:
    digest = hashlib.sha256(encoder.encode())
    for example in examples:
        digest.update(example.image.tobytes())
    return digest.hexdigest()


def _encode_into(
    file: BinaryIO, network: Any, preprocessing: Any, examples: Sequence[Example], precision: Precision
) -> Iterator[int]:
    """Write an array file row by row, and tell how many are done: a memory map would end the process where the disk is full."""
    import torch

    device = next(network.parameters()).device
    for start in range(0, len(examples), ENCODE_BATCH):
        images = [each.image for each in examples[start : start + ENCODE_BATCH]]
        with torch.inference_mode(), mixed_precision(device, precision):
            features: torch.Tensor = network.image_encoder(preprocessing.tensor(images, device))
        values = features.float().cpu().numpy().astype("<f2")
        if start == 0:
            header = {"descr": "<f2", "fortran_order": False, "shape": (len(examples), *values.shape[1:])}
            np.lib.format.write_array_header_1_0(file, header)
        file.write(values.tobytes())
        yield min(start + ENCODE_BATCH, len(examples))
