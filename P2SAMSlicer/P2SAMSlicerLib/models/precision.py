"""The arithmetic of the encoder: float32, or half precision where a person asks for it.

Only the encoder runs in half precision then, where nearly all the work is; its features, the decoder and all that follows are
float32. Contours do not stay the same: ``Testing/benchmarks/precision.py`` compares them, with the weights that could be had.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from P2SAMSlicerLib.errors import ModelError

if TYPE_CHECKING:
    import torch

Precision = Literal["auto", "float32", "bfloat16", "float16"]
PRECISIONS: tuple[str, ...] = get_args(Precision)

#: Where Linux says what its processors can do.
_PROCESSORS = Path("/proc/cpuinfo")


def encoder_precision(wanted: str) -> str:
    """``float32``, ``bfloat16`` or ``float16``: what an encoder computes with.

    :param wanted: one of :data:`PRECISIONS`; ``auto`` is float32 for every model so far, as no half precision was shown to keep
        the contours.
    """
    return "float32" if wanted == "auto" else wanted


def check_precision(wanted: str) -> None:
    """:raises ModelError: it is none of :data:`PRECISIONS`."""
    if wanted not in PRECISIONS:
        raise ModelError(f"unknown precision '{wanted}'; known are: {', '.join(PRECISIONS)}")


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
