"""What an interrupted training needs to go on as if nothing had happened: written whole after every epoch."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from P2SAMSlicerLib.adaptation.examples import Example
from P2SAMSlicerLib.adaptation.options import AdaptationOptions
from P2SAMSlicerLib.atomic_file import atomic_write
from P2SAMSlicerLib.errors import InputError

#: Options that may differ between the parts of one training; the share is applied at its end.
FREE = (
    "train",
    "checkpoint",
    "allow_unverified",
    "out",
    "resume",
    "device",
    "threads",
    "features",
    "share",
    "data",
    "licence",
    "title",
)


@dataclass(frozen=True)
class TrainingState:
    """State after some epochs.

    :param epoch: epochs that are done.
    :param weights: of everything that learns.
    :param optimizer: the optimizer's own state.
    :param curve: a row of figures an epoch.
    """

    epoch: int
    weights: dict[str, Any]
    optimizer: dict[str, Any]
    curve: list[dict[str, float]]


def fingerprint(options: AdaptationOptions, base_sha256: str, examples: Sequence[Example]) -> str:
    """Of everything that two parts of one training must share; the data by what they are and not by where they lie."""
    shared = {name: str(value) for name, value in asdict(options).items() if name not in FREE}
    digest = hashlib.sha256(repr((sorted(shared.items()), base_sha256, len(examples))).encode())
    for example in examples:
        for part in (example.image, example.truth, example.nearest):
            digest.update(part.tobytes())
    return digest.hexdigest()


def write_state(path: Path, state: TrainingState, mark: str) -> None:
    """Write the state, whole or not at all.

    :raises OutputError: it cannot be written.
    """
    import torch

    content = io.BytesIO()
    torch.save({**vars(state), "mark": mark}, content)
    with atomic_write(path) as temporary:
        # Written here: torch's own writer reports a full disk as an error of its format.
        temporary.write_bytes(content.getbuffer())


def read_state(path: Path, mark: str) -> TrainingState:
    """Read a state back. Pickled code is never run.

    :param mark: see :func:`fingerprint`.
    :raises InputError: there is none, it is damaged, or belongs to other options or data.
    """
    import torch

    if not path.is_file():
        raise InputError(f"--resume: {path.name} is not there; nothing was interrupted, or its file was removed")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        state = TrainingState(content["epoch"], content["weights"], content["optimizer"], content["curve"])
        same = content["mark"] == mark
    except Exception as error:  # torch.load raises almost anything on a damaged file
        raise InputError(f"--resume: {path.name} is damaged") from error
    if not same:
        raise InputError(f"--resume: {path.name} belongs to a training with other options, data or base weights")
    return state
