"""How much memory this process has needed."""

from __future__ import annotations

import sys


def peak_memory_gib() -> float | None:
    """Largest resident memory of this process so far in GiB, model and libraries included; None on Windows."""
    if sys.platform == "win32":
        return None
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 2**30
