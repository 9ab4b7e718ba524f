"""Results in the scene whose slices were made with points and boxes, for the tests of prompts and their updates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from P2SAMSlicerLib.mrml.record_nodes import attach_record
from P2SAMSlicerLib.mrml.result_nodes import show_result
from P2SAMSlicerLib.mrml.segment_nodes import segment_ids
from P2SAMSlicerLib.mrml.volume_nodes import matrix_from_grid, parent_to_world
from P2SAMSlicerLib.result import Candidate, SliceResult
from P2SAMSlicerLib.volume import BoolArray, Segment, Volume
from recorded_slices import FIRST, SECOND, followup, in_storage, present_mask, recorded
from scene_content import add_segmentation, add_volume
from small_body import moved_frame, stored_array
from small_visits import segment_result, visit_result

USUAL = ((0, 1, 2), (False, False, False))


def prompted(result: SliceResult) -> SliceResult:
    """A slice whose contour was made with two points in the lesion, two outside and a box; all differ from slice to slice."""
    (contour,) = result.candidates
    middle = np.argwhere(contour.mask).mean(axis=0)[::-1]
    reach = np.argwhere(contour.mask).max(axis=0)[::-1] - middle
    steps = np.array([[0.0, 0.0], [0.3, -0.2], [1.7, 0.4], [-0.9, -1.8]]) + 0.01 * result.index
    points = (middle + steps * reach).astype(np.float32)
    box = np.concatenate([middle - 1.2 * reach, middle + 1.3 * reach]).astype(np.float32)
    labels = np.array([1, 1, 0, 0], dtype=np.int64)
    made = Candidate("parts 2 + box", contour.mask, points, labels, box, 1.0, 1.0, 0.8)
    return replace(result, candidates=(contour, made), chosen=None if result.chosen is None else 1)


def visit(
    *lesions: tuple[float, float],
    storage: tuple[Sequence[int], Sequence[bool]] = USUAL,
    rotation: NDArray[np.float64] | None = None,
    whole: bool = False,
    absent: Sequence[int] = (),
) -> tuple[Volume, BoolArray, list[SliceResult]]:
    """A follow-up stored in some way and turned, the contour on it, and its slices."""
    usual = followup(*(lesions or (FIRST,)))
    if rotation is not None:
        usual = moved_frame(usual, rotation, (11.0, -7.0, 300.0))
    volume = in_storage(usual, *storage)
    mask = stored_array(present_mask(*(lesions or (FIRST,))), *storage).astype(bool)
    slices = [prompted(each) for each in recorded(volume, *(lesions or (FIRST,)), whole=whole, absent=absent)]
    return volume, mask, slices


def two_lesions() -> tuple[Volume, BoolArray, list[SliceResult]]:
    """Two lesions on the same slices, so near that either's points may lie in the other's contour."""
    return visit(FIRST, SECOND)


def result_in_scene(
    volume: Volume, mask: BoolArray, slices: Sequence[SliceResult], parent: Any = None, name: str = "visit"
) -> Any:
    """What a run leaves for a visit: the segmentation node with its record, on a volume node under a parent transform."""
    matrix = matrix_from_grid(volume.grid)
    node = add_volume(matrix, array=volume.array, name=name)
    if parent is not None:
        node.SetAndObserveTransformNodeID(parent.GetID())
        import slicer.util

        inner = np.linalg.inv(parent_to_world(node)) @ matrix
        node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(inner))
    prior = add_segmentation(node, {"GTV": mask})
    found = segment_result(Segment("GTV", mask), grid=volume.grid, mask=mask, registered_mask=mask, slices=tuple(slices))
    whole = visit_result(found, grid=volume.grid)
    shown = show_result(whole, node, prior, {"GTV": segment_ids(prior)[0]})
    attach_record(shown, whole)
    return shown


def followup_of(node: Any) -> Any:
    """The volume node of a result."""
    return node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole())
