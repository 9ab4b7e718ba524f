"""Volume nodes of the scene as volumes in LPS millimetres, with parent transforms taken in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.volume import VisitIdentity, Volume

#: What to do about a parent transform that is not linear (gantry tilt, missing slices), for messages.
HOW_TO_HARDEN = (
    "harden it first: in the module Data, right-click its icon in the transforms' column and choose 'Harden transform'"
)
#: Right, anterior, superior to left, posterior, superior and back.
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def volume_from_node(node: Any, harden: bool = False) -> Volume:
    """A volume node's voxels where they stand in the world.

    The array is a copy: the node may change or vanish while the volume is worked on.

    :param node: scalar ``vtkMRMLVolumeNode``.
    :param harden: take a non-linear parent transform in, on a hidden copy of the node; refused otherwise.
    :returns: values ``(z, y, x)`` in the node's own voxel order, on a grid in LPS millimetres.
    :raises InputError: no image, not one value a voxel, a non-linear parent transform, or one that shears the voxels.
    """
    import slicer

    if node is None or node.GetImageData() is None or not node.GetImageData().GetNumberOfPoints():
        raise InputError(f"{'no volume' if node is None else node.GetName()}: it holds no image")
    if node.GetImageData().GetNumberOfScalarComponents() != 1:
        raise InputError(f"{node.GetName()}: it has several values a voxel, so it is no CT")
    with _placed_linearly(node, harden) as placed:
        array = np.array(slicer.util.arrayFromVolume(placed), copy=True)
        grid = grid_from_matrix(voxels_to_world(placed), array.shape, node.GetName())
    return Volume(array, grid, node.GetName(), identity_of(node))


def voxels_to_world(node: Any) -> NDArray[np.float64]:
    """4x4 matrix from voxel indices ``(i, j, k, 1)`` to the world's RAS millimetres, through linear parent transforms.

    :raises InputError: a non-linear parent transform.
    """
    return parent_to_world(node) @ own_matrix(node)


def own_matrix(node: Any) -> NDArray[np.float64]:
    """4x4 matrix from voxel indices ``(i, j, k, 1)`` to RAS millimetres, without parent transforms."""
    import slicer.util
    import vtk

    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    own: NDArray[np.float64] = slicer.util.arrayFromVTKMatrix(matrix)
    return own


def parent_to_world(node: Any) -> NDArray[np.float64]:
    """4x4 RAS matrix of all parent transforms of a node.

    :raises InputError: one of them is not linear.
    """
    import slicer.util
    import vtk

    parent = node.GetParentTransformNode()
    if parent is None:
        return np.eye(4)
    if not parent.IsTransformToWorldLinear():
        raise InputError(f"{node.GetName()}: its parent transform is not linear; {HOW_TO_HARDEN}")
    matrix = vtk.vtkMatrix4x4()
    parent.GetMatrixTransformToWorld(matrix)
    found: NDArray[np.float64] = slicer.util.arrayFromVTKMatrix(matrix)
    return found


def is_bent(node: Any) -> bool:
    """Whether a node is shown under a transform that is not linear."""
    parent = node.GetParentTransformNode()
    return parent is not None and not parent.IsTransformToWorldLinear()


def grid_from_matrix(ijk_to_ras: NDArray[np.float64], shape: tuple[int, ...], name: str) -> Grid:
    """The grid of voxels that a RAS matrix places.

    :param shape: ``(k, j, i)``, the order of numpy arrays.
    :param name: for the message.
    :raises InputError: the axes are not orthonormal.
    """
    matrix = RAS_TO_LPS @ ijk_to_ras
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    if (spacing == 0).any():
        raise InputError(f"{name}: an axis of its voxels has no length")
    x, y, z = (float(value) for value in spacing)
    left, posterior, superior = (float(value) for value in matrix[:3, 3])
    grid = Grid(
        (shape[0], shape[1], shape[2]),
        (x, y, z),
        (left, posterior, superior),
        tuple(float(value) for value in (matrix[:3, :3] / spacing).ravel()),
    )
    grid.check(name)
    return grid


def matrix_from_grid(grid: Grid) -> NDArray[np.float64]:
    """4x4 matrix from voxel indices ``(i, j, k, 1)`` to RAS millimetres."""
    matrix: NDArray[np.float64] = RAS_TO_LPS @ grid.index_to_physical
    return matrix


def identity_of(node: Any) -> VisitIdentity:
    """Patient id and study date of a node, as the subject hierarchy has them from DICOM."""
    import slicer

    constants = slicer.vtkMRMLSubjectHierarchyConstants
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    item = hierarchy.GetItemByDataNode(node)
    values = []
    for level, attribute in (
        (constants.GetDICOMLevelPatient(), constants.GetDICOMPatientIDAttributeName()),
        (constants.GetDICOMLevelStudy(), constants.GetDICOMStudyDateAttributeName()),
    ):
        above = hierarchy.GetItemAncestorAtLevel(item, level) if item else 0
        values.append((above and hierarchy.GetItemAttribute(above, attribute)) or None)
    return VisitIdentity(*values)


@contextmanager
def _placed_linearly(node: Any, harden: bool) -> Iterator[Any]:
    """The node itself, or a hidden copy with its non-linear parent transform taken in."""
    import slicer

    if not (harden and is_bent(node)):
        yield node
        return
    copy = slicer.mrmlScene.AddNewNodeByClass(node.GetClassName())
    try:
        copy.SetHideFromEditors(True)
        copy.CopyContent(node, True)
        copy.SetAndObserveTransformNodeID(node.GetTransformNodeID())
        copy.HardenTransform()
        yield copy
    finally:
        slicer.mrmlScene.RemoveNode(copy)
