"""The arithmetic of the encoder: float32, or half precision where a person asks for it.

Only the encoder runs in half precision then, where nearly all the work is; its features, the decoder and all that follows are
float32. Contours do not stay the same: ``Testing/benchmarks/precision.py`` compares them, with the weights that could be had.
"""

from __future__ import annotations

from P2SAMSlicerLib.errors import ModelError

PRECISIONS = ("auto", "float32", "bfloat16", "float16")


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
