"""Arithmetic of a training in half precision, where that is quicker."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from P2SAMSlicerLib.adaptation.options import Precision

if TYPE_CHECKING:
    import torch


def mixed_precision(device: torch.device, on_cpu: Precision) -> AbstractContextManager[Any]:
    """Mixed precision on CUDA, and on a CPU if it was asked for."""
    import torch

    context: AbstractContextManager[Any] = nullcontext()
    if device.type == "cuda":
        context = torch.autocast("cuda", torch.float16)
    elif device.type == "cpu" and on_cpu == "bfloat16":
        context = torch.autocast("cpu", torch.bfloat16)
    return context
