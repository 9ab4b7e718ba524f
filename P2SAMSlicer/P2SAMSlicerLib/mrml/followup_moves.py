"""What lies on a follow-up goes along when the follow-up is put under another transform, or its transform is hardened."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.mrml.volume_nodes import is_bent, own_matrix, parent_to_world

#: Attribute of a contour's or prompt's node: the matrix of the follow-up's own voxels when it was laid on them.
LAID_ATTRIBUTE = "P2SAMSlicer.laidOn"
#: Places that differ by less than this are the same, in millimetres.
SAME_MM = 1e-3


def lay_on(part: Any, followup: Any) -> None:
    """Put a node under the follow-up's parent transform, and remember how the follow-up's voxels lie there."""
    part.SetAndObserveTransformNodeID(followup.GetTransformNodeID())
    _remember(part, followup)


def follow(part: Any, followup: Any) -> None:
    """Put a node under the parent transform that the follow-up has got since the node was laid on it.

    Nothing is done with a node that a person has placed in some other way, or under a transform that is not linear.
    """
    if part.GetTransformNodeID() == followup.GetTransformNodeID() or is_bent(part) or is_bent(followup):
        return
    before, now = _laid_on(part), own_matrix(followup)
    if before is None:
        return
    if np.allclose(now, before, atol=SAME_MM):
        lay_on(part, followup)
    elif followup.GetTransformNodeID() is None and np.allclose(now, parent_to_world(part) @ before, atol=SAME_MM):
        part.HardenTransform()  # as was done with the follow-up: both lie where they lay
        _remember(part, followup)


def _remember(part: Any, followup: Any) -> None:
    part.SetAttribute(LAID_ATTRIBUTE, json.dumps(own_matrix(followup).ravel().tolist()))


def _laid_on(part: Any) -> NDArray[np.float64] | None:
    try:
        return np.array(json.loads(part.GetAttribute(LAID_ATTRIBUTE) or ""), dtype=np.float64).reshape(4, 4)
    except (ValueError, TypeError):
        return None
