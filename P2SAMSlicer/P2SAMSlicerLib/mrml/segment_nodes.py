"""Segments of a segmentation node as masks on the CT's grid, ready to be carried to another visit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.mrml.segment_masks import BINARY_LABELMAP, read_mask, voxels_of
from P2SAMSlicerLib.mrml.volume_nodes import grid_from_matrix, is_bent, matrix_from_grid, parent_to_world
from P2SAMSlicerLib.resample import segments_on_grid
from P2SAMSlicerLib.result_files import OWN_TAGS_PREFIX
from P2SAMSlicerLib.volume import BoolArray, Segment, Segmentation, Volume

#: Tags that a result inherits from the prior's segment.
TERMINOLOGY_TAG = "TerminologyEntry"


def segment_ids(node: Any) -> list[str]:
    """Ids of a segmentation node's segments, in order."""
    return [str(each) for each in node.GetSegmentation().GetSegmentIDs()]


def segments_from_node(
    node: Any, volume_node: Any, volume: Volume, ids: Sequence[str] | None = None, harden: bool = False
) -> tuple[list[Segment], list[str]]:
    """Segments on the grid of the CT that they were contoured on.

    :param node: ``vtkMRMLSegmentationNode``; a segment that is only a surface gets a label map too, as Slicer does.
    :param volume_node: the CT's node, used where a segment is stored as a surface.
    :param volume: the same CT as :func:`~P2SAMSlicerLib.mrml.volume_nodes.volume_from_node` gives it.
    :param ids: ids of the segments that are wanted; None for all.
    :param harden: take a non-linear parent transform in, on a hidden copy of the segments; refused otherwise.
    :returns: the segments in the order of the ids, and warnings in words.
    :raises InputError: no such segment, an empty one, one outside of the CT, a non-linear parent transform.
    """
    if node is None:
        raise InputError("no segmentation")
    known = segment_ids(node)
    wanted = known if ids is None else list(ids)
    if not wanted:
        raise InputError(f"{node.GetName()}: no segment to carry")
    found, warnings = [], []
    for each in wanted:
        if each not in known:
            raise InputError(f"{node.GetName()}: it has no segment '{each}'")
        with _placed_linearly(node, each, volume, harden) as placed:
            alone = _stored(placed, each, volume_node, volume)
        segments, words = segments_on_grid(alone, None, volume.grid)
        found += segments
        warnings += words
    return found, warnings


def tag_of(segment: Any, name: str) -> str | None:
    """A tag of a ``vtkSegment``, or None."""
    import vtk

    value = vtk.reference("")
    if not segment.GetTag(name, value):
        return None
    return read_tag(name, str(value))


def put_tag(segment: Any, name: str, text: str) -> None:
    """Set a tag of our own, so that :func:`tag_of` reads the same after the scene was saved and loaded.

    In a segmentation's file the tags are divided by ``|``: what comes after one in a name would be lost.
    """
    segment.SetTag(name, written_tag(text))


def written_tag(text: str) -> str:
    """What stands in a segmentation's file for the text of a tag of our own."""
    return text.replace("%", "%25").replace("|", "%7C")


def read_tag(name: str, text: str) -> str:
    """The text of a tag as it stands in a segmentation's file; of our own tags the inverse of :func:`written_tag`."""
    return text.replace("%7C", "|").replace("%25", "%") if name.startswith(OWN_TAGS_PREFIX) else text


@contextmanager
def _placed_linearly(node: Any, identifier: str, volume: Volume, harden: bool) -> Iterator[Any]:
    """The node itself, or a hidden one with a copy of the segment, its non-linear parent transform taken in."""
    import slicer.util

    if not (harden and is_bent(node)):
        yield node
        return
    copy = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", node.GetName())
    try:
        copy.SetHideFromEditors(True)
        own, of = copy.GetSegmentation(), node.GetSegmentation()
        own.SetSourceRepresentationName(of.GetSourceRepresentationName())
        own.CopySegmentFromSegmentation(of, identifier)
        copy.SetAndObserveTransformNodeID(node.GetTransformNodeID())
        copy.HardenTransform()
        if own.GetSegment(identifier).GetRepresentation(BINARY_LABELMAP) is None:
            # The CT's node is still bent: what is only a surface is drawn onto the voxels as they lie now.
            geometry = slicer.util.vtkMatrixFromArray(matrix_from_grid(volume.grid))
            extent = [end for length in volume.grid.shape[::-1] for end in (0, length - 1)]
            text = slicer.vtkSegmentationConverter.SerializeImageGeometry(geometry, extent)
            own.SetConversionParameter(slicer.vtkSegmentationConverter.GetReferenceImageGeometryParameterName(), text)
            copy.CreateBinaryLabelmapRepresentation()
        yield copy
    finally:
        slicer.mrmlScene.RemoveNode(copy)


def _stored(node: Any, identifier: str, volume_node: Any, volume: Volume) -> Segmentation:
    """One segment on the voxels that it is stored on: nothing is resampled twice."""
    import slicer

    segment = node.GetSegmentation().GetSegment(identifier)
    if segment.GetRepresentation(BINARY_LABELMAP) is None:
        mask = read_mask(node, identifier, volume_node)
        return Segmentation(volume.grid, (describe(segment, mask),), node.GetName())
    image = slicer.vtkOrientedImageData()
    node.GetBinaryLabelmapRepresentation(identifier, image)
    if image.IsEmpty():
        raise InputError(f"{node.GetName()}: segment '{segment.GetName()}' is empty")
    mask = voxels_of(image) > 0
    matrix = parent_to_world(node) @ _first_voxel(image)
    return Segmentation(grid_from_matrix(matrix, mask.shape, node.GetName()), (describe(segment, mask),), node.GetName())


def describe(segment: Any, mask: BoolArray | None = None) -> Segment:
    """Name, colour and terminology of a ``vtkSegment``.

    :param mask: what it covers; empty if only the description is wanted.
    """
    red, green, blue = segment.GetColor()
    covered = np.zeros((0, 0, 0), dtype=np.bool_) if mask is None else mask
    return Segment(segment.GetName(), covered, (red, green, blue), _terminology(tag_of(segment, TERMINOLOGY_TAG)))


def _terminology(text: str | None) -> Any:
    """The terminology of a tag; None where it says nothing, or before the packages are there that the module installs."""
    try:
        from slicerio.segmentation import terminology_entry_from_string
    except ImportError:
        return None
    return terminology_entry_from_string(text) if text else None


def _first_voxel(image: Any) -> NDArray[np.float64]:
    """4x4 RAS matrix of an image's voxels, counted from the first of its extent."""
    import slicer
    import vtk

    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    start = np.eye(4)
    start[:3, 3] = image.GetExtent()[::2]
    placed: NDArray[np.float64] = slicer.util.arrayFromVTKMatrix(matrix) @ start
    return placed
