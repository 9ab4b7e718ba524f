"""The voxels of a segment as a mask, read and written by Slicer's own functions, which leave a hidden node behind each time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from P2SAMSlicerLib.volume import BoolArray


def read_mask(node: Any, identifier: str, volume: Any) -> BoolArray:
    """What a segment covers on a volume's voxels ``(k, j, i)``; a copy.

    :raises RuntimeError: no such segment.
    """
    import slicer.util

    with _nothing_left():
        mask: BoolArray = slicer.util.arrayFromSegmentBinaryLabelmap(node, identifier, volume) > 0
    return mask


def write_mask(mask: BoolArray, node: Any, identifier: str, volume: Any) -> None:
    """Have a segment cover these voxels of a volume ``(k, j, i)``, and no others.

    :raises RuntimeError: no such segment.
    """
    import slicer.util

    with _nothing_left():
        slicer.util.updateSegmentBinaryLabelmapFromArray(mask.astype(np.uint8), node, identifier, volume)


@contextmanager
def _nothing_left() -> Iterator[None]:
    """Remove the display nodes of Slicer's own temporary label maps: a review would fill the scene with them."""
    import slicer.util

    before = {node.GetID() for node in slicer.util.getNodesByClass("vtkMRMLLabelMapVolumeDisplayNode")}
    try:
        yield
    finally:
        for node in slicer.util.getNodesByClass("vtkMRMLLabelMapVolumeDisplayNode"):
            if node.GetID() not in before:
                slicer.mrmlScene.RemoveNode(node)
