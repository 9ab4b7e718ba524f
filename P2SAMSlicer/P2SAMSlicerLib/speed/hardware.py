"""What the machine can do at best, measured: matrix products and copies."""

from __future__ import annotations

import platform
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
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
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
