"""Nodes for the tests: volumes with any placement, transforms, segmentations."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from P2SAMSlicerLib.volume import BoolArray

SPACING = (0.9, 1.1, 3.0)
SHAPE = (8, 9, 10)


def axis_orders() -> Iterator[NDArray[np.float64]]:
    """RAS matrices of all 48 ways in which voxel axes can lie along the patient's."""
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1.0, -1.0), repeat=3):
            matrix = np.eye(4)
            matrix[:3, :3] = (np.eye(3)[list(order)] * np.array(signs)) * np.array(SPACING)
            matrix[:3, 3] = (12.5, -40.25, 300.0)
            yield matrix


def oblique(seed: int, spacing: tuple[float, float, float] = SPACING) -> NDArray[np.float64]:
    """A RAS matrix whose axes lie anywhere; every second is left-handed."""
    from scipy.spatial.transform import Rotation

    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.random(random_state=seed).as_matrix() * np.array(spacing)
    matrix[:3, 3] = np.random.default_rng(seed).normal(0, 100, 3)
    if seed % 2:
        matrix[:3, 0] *= -1
    return matrix


def voxels(seed: int = 0) -> NDArray[np.int16]:
    """HU values, all different in every direction."""
    return np.random.default_rng(seed).integers(-1000, 1000, SHAPE).astype(np.int16)


def blob() -> BoolArray:
    """A lopsided lesion, so that a swapped or mirrored axis shows."""
    mask = np.zeros(SHAPE, dtype=np.bool_)
    mask[2:5, 3:6, 1:4] = True
    mask[3, 4, 4:7] = True
    mask[5, 5, 3] = True
    return mask


def add_volume(ijk_to_ras: NDArray[np.float64], parent: Any = None, array: NDArray[Any] | None = None, name: str = "CT") -> Any:
    """A volume node under a parent transform."""
    import slicer.util

    node = slicer.util.addVolumeFromArray(voxels() if array is None else array, ijkToRAS=ijk_to_ras, name=name)
    if parent is not None:
        node.SetAndObserveTransformNodeID(parent.GetID())
    return node


def add_transform(to_parent: NDArray[np.float64], above: Any = None) -> Any:
    """A linear transform node, itself under another."""
    import slicer.util
    import vtk

    matrix = vtk.vtkMatrix4x4()
    slicer.util.updateVTKMatrixFromArray(matrix, to_parent)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    node.SetMatrixTransformToParent(matrix)
    if above is not None:
        node.SetAndObserveTransformNodeID(above.GetID())
    return node


def add_bent_transform(shift_mm: float = 3.0) -> Any:
    """A grid transform that moves everything by the same length: not linear for Slicer, but easy to check."""
    import slicer
    import vtk
    from vtk.util import numpy_support

    image = vtk.vtkImageData()
    image.SetDimensions(4, 4, 4)
    image.SetSpacing(1000.0, 1000.0, 1000.0)
    image.SetOrigin(-1500.0, -1500.0, -1500.0)
    vectors = np.zeros((64, 3))
    vectors[:, 0] = shift_mm
    scalars = numpy_support.numpy_to_vtk(vectors, deep=True)
    image.GetPointData().SetScalars(scalars)
    transform = slicer.vtkOrientedGridTransform()
    transform.SetDisplacementGridData(image)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLGridTransformNode")
    node.SetAndObserveTransformToParent(transform)
    return node


def add_segmentation(volume: Any, masks: dict[str, BoolArray], under: Any = None) -> Any:
    """A segmentation with these segments on a volume's voxels, under the volume's own parent transform."""
    import slicer.util

    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "contours")
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    parent = under.GetID() if under is not None else volume.GetTransformNodeID()
    node.SetAndObserveTransformNodeID(parent)
    for name, mask in masks.items():
        identifier = node.GetSegmentation().AddEmptySegment("", name)
        slicer.util.updateSegmentBinaryLabelmapFromArray(mask.astype(np.uint8), node, identifier, volume)
    return node
