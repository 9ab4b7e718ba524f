"""The C library's allocator, told to keep what the network frees, and to give back what other work has freed."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

# Parameters of glibc's mallopt(3).
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_TOP_PAD_BYTES = 64 << 20

#: From here on a volume's 32-bit copies, of which there are several, count beside what the encoder takes: 32 MB each.
LARGE_VOXELS = 2**23


def keep_freed_memory() -> None:
    """Let large blocks be reused instead of being returned to the system after every layer.

    A layer's activations are some ten megabytes. glibc maps and unmaps such a block each time, and the kernel clears its
    pages anew: a third of the encoder's processor time. The process stays at its peak instead, until
    :func:`return_freed_memory`. Elsewhere this does nothing.
    """
    mallopt = _glibc("mallopt")
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_M_TOP_PAD, _TOP_PAD_BYTES)


def return_freed_memory(voxels: int) -> None:
    """Give the system what is free now: whole volumes lay there, in pieces that the next work does not fit into.

    :param voxels: of those volumes. Small ones stay: the kernel would clear their pages anew, over and over.
    """
    trim = _glibc("malloc_trim") if voxels >= LARGE_VOXELS else None
    if trim is not None:
        trim(ctypes.c_size_t(0))


def _glibc(name: str) -> Any:
    """A function of glibc; None on other systems, and with musl."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform.startswith("linux") else None
