"""The voxels of a segment as a mask, read and written so that nothing is left behind in the scene."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.volume import BoolArray

#: Slicer's name for label maps among the ways in which a segment is stored.
BINARY_LABELMAP = "Binary labelmap"


def read_mask(node: Any, identifier: str, volume: Any) -> BoolArray:
    """What a segment covers on a volume's voxels ``(k, j, i)``; a copy.

    Unlike :func:`slicer.util.arrayFromSegmentBinaryLabelmap` it puts nothing into the scene, so it may be asked for while the
    scene is observed; and a segment that is stored on these voxels is not resampled.

    :raises RuntimeError: no such segment.
    """
    import slicer.util
    import vtk

    segment = node.GetSegmentation().GetSegment(identifier)
    if segment is None:
        raise RuntimeError(f"no segment '{identifier}'")
    if segment.GetRepresentation(BINARY_LABELMAP) is None:
        with _nothing_left():
            made: BoolArray = slicer.util.arrayFromSegmentBinaryLabelmap(node, identifier, volume) > 0
        return made
    parent = node.GetParentTransformNode()
    place = slicer.vtkSlicerSegmentationsModuleLogic.CreateOrientedImageDataFromVolumeNode(volume, parent)
    place.UnRegister(None)  # it is ours, and Python counts it, too
    stored = slicer.vtkOrientedImageData()
    node.GetBinaryLabelmapRepresentation(identifier, stored)
    mask = np.zeros(place.GetDimensions()[::-1], dtype=np.bool_)
    if stored.IsEmpty():
        return mask
    first, whole = stored.GetExtent(), place.GetExtent()
    inside = all(first[2 * axis] >= whole[2 * axis] and first[2 * axis + 1] <= whole[2 * axis + 1] for axis in range(3))
    if inside and slicer.vtkOrientedImageDataResample.DoGeometriesMatch(stored, place):
        i, j, k = (first[2 * axis] - whole[2 * axis] for axis in range(3))
        covered = voxels_of(stored) > 0
        mask[k : k + covered.shape[0], j : j + covered.shape[1], i : i + covered.shape[2]] = covered
        return mask
    merged, wanted = slicer.vtkOrientedImageData(), vtk.vtkStringArray()
    wanted.InsertNextValue(identifier)
    extent = slicer.vtkSegmentation.EXTENT_REFERENCE_GEOMETRY
    node.GenerateMergedLabelmapForAllSegments(merged, extent, place, wanted)
    return np.asarray(voxels_of(merged) > 0)


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


def voxels_of(image: Any) -> NDArray[Any]:
    """Voxels ``(k, j, i)`` of an image, from the first of its extent on."""
    from vtk.util import numpy_support

    i, j, k = image.GetDimensions()
    values: NDArray[Any] = numpy_support.vtk_to_numpy(image.GetPointData().GetScalars())
    return values.reshape(k, j, i)
