"""What the machine can do at best, measured: matrix products and copies."""

from __future__ import annotations

import platform
import re
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

#: Side of the matrices, and bytes of the copies: large enough that nothing of them stays in a cache.
CPU_SIDE, GPU_SIDE, COPY_BYTES = 2048, 8192, 2**28
_REPEATS = 5

#: Where Linux says what its processors are and can do.
_PROCESSORS = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Hardware:
    """A device and its measured limits.

    :param name: of the processor or the GPU.
    :param flops: operations a second in a product of large matrices, by precision.
    :param bytes_per_second: read and written in a copy.
    """

    name: str
    flops: dict[str, float]
    bytes_per_second: float


def measure_hardware(device: torch.device, precisions: tuple[str, ...]) -> Hardware:
    """The limits of a device, with as many threads as PyTorch has now."""
    import torch

    side = GPU_SIDE if device.type == "cuda" else CPU_SIDE
    flops = {}
    for precision in precisions:
        a = torch.rand(side, side, device=device, dtype=getattr(torch, precision))
        flops[precision] = 2.0 * side**3 / _median_seconds(device, partial(torch.mm, a, a))
    source = torch.zeros(COPY_BYTES // 4, device=device)
    target = torch.ones_like(source)
    rate = 2.0 * COPY_BYTES / _median_seconds(device, lambda: target.copy_(source))
    return Hardware(device_name(device), flops, rate)


def device_name(device: torch.device) -> str:
    """A device's name, for people."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = _PROCESSORS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = {line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")}
    return ", ".join(sorted(names)) or platform.processor() or platform.machine()


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was asked."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _median_seconds(device: torch.device, work: Callable[[], object]) -> float:
    seconds = []
    for _ in range(_REPEATS + 1):
        synchronize(device)
        started = time.perf_counter()
        work()
        synchronize(device)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])


def computes_in_bfloat16(device: torch.device) -> bool:
    """Whether a device has instructions for products of bfloat16 matrices; without them they are slower than float32."""
    import torch

    if device.type == "cuda":
        # Ampere and later; earlier ones only imitate it.
        return torch.version.hip is None and torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        return _processor_has_bfloat16()
    return False


def _processor_has_bfloat16() -> bool:
    """Asked of the system and not of PyTorch, which has no public word for it. Elsewhere than on Linux: no."""
    try:
        text = _PROCESSORS.read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    flags = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return flags is not None and not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(flags[1].split())
