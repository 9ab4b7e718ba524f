"""Editing prompts: placeholder"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class EditedPrompts:
    """What a person wants the model to be asked on one slice of one lesion.

    :param index: stored number of the slice, as of :class:`~P2SAMSlicerLib.result.SliceResult`.
    :param points: ``(n, 2)`` as ``(x, y)`` in pixels of the image on which the slice's candidates lie; may be empty.
    :param labels: ``(n,)``, 1 for a point that lies in the lesion, 0 for one that does not.
    :param box: ``(x0, y0, x1, y1)`` in the same pixels, or None.
    :param lesion: number of the separate lesion.
    """

    index: int
    points: NDArray[np.float32]
    labels: NDArray[np.int64]
    box: NDArray[np.float32] | None = None
    lesion: int = 1
