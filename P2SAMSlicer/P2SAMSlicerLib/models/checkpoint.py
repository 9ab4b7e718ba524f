"""Reading a weights file without trusting it: hash first, then tensors only, then the exact keys of the architecture."""

from __future__ import annotations

import argparse
import hashlib
import pickle
import re
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from P2SAMSlicerLib.errors import ModelError

if TYPE_CHECKING:
    import torch

#: Bytes read at once while hashing.
BLOCK = 1 << 20

#: Width of the image encoder's position embedding, and the architecture that has it (Kirillov et al. 2023).
ARCHITECTURE_OF_WIDTH = {768: "vit_b", 1024: "vit_l", 1280: "vit_h"}


def sha256_of(path: Path) -> str:
    """SHA-256 of a file in lower-case hexadecimal; remembered while size and modification time stay the same.

    :raises ModelError: the file is missing, a folder, or cannot be read.
    """
    try:
        if path.is_dir():
            raise ModelError(f"{path.absolute().name or path}: is a folder, not a weights file")
        status = path.stat()
        return _sha256(str(path.resolve()), status.st_size, status.st_mtime_ns)
    except FileNotFoundError:
        raise ModelError(f"{path.name}: weights file not found") from None
    except OSError as error:
        raise ModelError(f"{path.name}: cannot be read ({error.strerror or error})") from None


@lru_cache(maxsize=16)
def _sha256(path: str, size: int, modified_ns: int) -> str:  # noqa: ARG001 - size and time are there for the cache's key
    return hash_file(Path(path))


def hash_file(path: Path) -> str:
    """SHA-256 of a file as it is on the disk now, in lower-case hexadecimal.

    :raises OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def check_file(path: Path, expected: str | None) -> str:
    """The SHA-256 of a weights file, after everything that can be checked without torch.

    :param expected: the hash that it should have, or None where none is known or another one is allowed.
    :raises ModelError: the file is missing, unreadable, empty, plainly no checkpoint, or another file than expected.
    """
    actual = sha256_of(path)
    stranger = _stranger(path)
    if stranger is not None:
        raise ModelError(f"{path.name}: is {stranger}, not a PyTorch checkpoint")
    if expected is not None and actual != expected.lower():
        raise ModelError(f"{path.name}: SHA-256 is {actual}, expected {expected.lower()}; the file is damaged or another one")
    return actual


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a PyTorch checkpoint. Pickled code is never run.

    Weights wrapped in a dictionary under ``model`` or ``state_dict``, as training scripts save them, are unwrapped. The
    ``argparse.Namespace`` of a script's options, which such scripts save beside the weights, is read and thrown away; what it
    holds must be as harmless as everything else in the file.

    :raises ModelError: not a checkpoint, truncated, or with objects other than tensors and options; or with options, and torch
        is older than 2.5.
    """
    import torch

    try:
        with warnings.catch_warnings(), _options_allowed():
            # torch warns of what it then refuses.
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # On bytes that are no complete checkpoint torch.load raises almost anything, AssertionError and KeyError included.
        raise ModelError(f"{path.name}: {_why_unreadable(error)}") from None
    return _tensors(path, content)


def _options_allowed() -> AbstractContextManager[None]:
    """Context in which torch's tensors-only unpickler also makes an ``argparse.Namespace``; without effect before torch 2.5.

    A Namespace runs no code as it is filled, and the unpickler goes on to refuse whatever else its attributes are.
    """
    from torch import serialization

    allow = getattr(serialization, "safe_globals", None)
    # Leaving the context forgets the type: where the program has allowed it for itself, it must stay allowed.
    if allow is None or argparse.Namespace in serialization.get_safe_globals():
        return nullcontext()
    context: AbstractContextManager[None] = allow([argparse.Namespace])
    return context


def _why_unreadable(error: Exception) -> str:
    """What is wrong with a file, by the exception that torch.load raised on it."""
    text = str(error)
    if isinstance(error, MemoryError) or "allocate memory" in text:
        return "there is not enough memory to load it"
    if isinstance(error, pickle.UnpicklingError):
        pickled = re.search(r"GLOBAL ([\w.]{1,80})", text)
        if pickled is not None and pickled[1] == "argparse.Namespace":
            return "holds a training script's options (argparse.Namespace); reading them safely needs PyTorch 2.5 or newer"
        if pickled is not None:
            return f"holds a pickled {pickled[1]} beside tensors; such a file could run code and is not loaded"
    return "is not a PyTorch checkpoint of plain tensors, or is damaged"


def _tensors(path: Path, content: Any) -> dict[str, torch.Tensor]:
    import torch

    for wrapper in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not content:
        raise ModelError(f"{path.name}: holds no named weights")
    if not all(isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in content.items()):
        raise ModelError(f"{path.name}: holds other things than named weights")
    for key, value in content.items():
        if value.is_nested or value.layout is not torch.strided or value.device.type != "cpu":
            # Sparse, nested and meta tensors may stand in a file, and fail in the middle of what is done with weights.
            raise ModelError(f"{path.name}: '{key}' is no plain dense tensor")
    return dict(content)


def _stranger(path: Path) -> str | None:
    """What a file is that surely is no checkpoint, told from its first bytes; None if it may be one."""
    with path.open("rb") as file:
        head = file.read(64)
    if not head:
        return "an empty file"
    if len(head) > 9 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 100_000_000:
        return "a safetensors file"
    if head.lstrip()[:1] == b"<":
        return "a web page"
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer"
    return None


def architecture_of(state: Mapping[str, torch.Tensor]) -> str | None:
    """Which known architecture weights belong to, judged by the image encoder: vit_b, vit_l, vit_h, tiny_vit; else None."""
    position = state.get("image_encoder.pos_embed")
    if position is not None and position.ndim == 4:
        return ARCHITECTURE_OF_WIDTH.get(position.shape[-1])
    return "tiny_vit" if "image_encoder.patch_embed.seq.0.c.weight" in state else None


def check_architecture(state: Mapping[str, torch.Tensor], path: Path, architecture: str) -> None:
    """Refuse the weights of another architecture before a network is built for them.

    :param architecture: the one needed, as :func:`architecture_of` names it.
    :raises ModelError: the weights belong to another one, which the message names.
    """
    found = architecture_of(state)
    if found is not None and found != architecture:
        raise ModelError(f"{path.name}: looks like {found} weights, the model needs {architecture}")


def load_weights(network: torch.nn.Module, state: Mapping[str, torch.Tensor], path: Path, architecture: str) -> None:
    """Put weights into a network whose every key and shape they must match.

    :param architecture: the network's, for messages.
    :raises ModelError: missing or unexpected keys, another shape or type, NaN or infinite weights.
    """
    import torch

    own = network.state_dict()
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or unexpected:
        first = f"no '{missing[0]}'" if missing else f"unexpected '{unexpected[0]}'"
        raise ModelError(
            f"{path.name}: not {architecture} weights: {len(missing)} missing, {len(unexpected)} unexpected ({first})"
        )
    for key, value in state.items():
        if value.shape != own[key].shape:
            raise ModelError(
                f"{path.name}: '{key}' has shape {tuple(value.shape)}, {architecture} needs {tuple(own[key].shape)}"
            )
        if value.is_floating_point() != own[key].is_floating_point():
            raise ModelError(f"{path.name}: '{key}' holds {value.dtype}, {architecture} needs {own[key].dtype}")
        # As float32, which the network holds: what is too large for that becomes infinite, and some types know no isfinite.
        if value.is_floating_point() and not bool(torch.isfinite(value.float()).all()):
            raise ModelError(f"{path.name}: '{key}' holds NaN or infinite weights")
    network.load_state_dict(dict(state), strict=True)
