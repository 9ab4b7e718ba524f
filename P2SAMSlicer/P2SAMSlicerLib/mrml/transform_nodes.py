"""A transform node of the scene as a file for the engine: a person's own answer to where the prior lies in the follow-up."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.errors import InputError, OutputError
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.mrml.volume_nodes import RAS_TO_LPS

#: A transform that is not linear is sampled this often, in mm, unless that makes more points than :data:`MOST_POINTS`.
FIELD_MM = 3.0
MOST_POINTS = 4_000_000


def moves(transform: Any, node: Any) -> bool:
    """Whether a node is shown under a transform, directly or through other transforms."""
    above = node.GetParentTransformNode()
    while above is not None:
        if above == transform:
            return True
        above = above.GetParentTransformNode()
    return False


def write_transform(node: Any, followups: Sequence[Grid], file: Path) -> None:
    """Write a transform as the engine reads it: from the follow-up's points to the prior's, in LPS millimetres.

    Slicer's own writer leaves a node's parents out, and stores the inverse of a field in a way that only Slicer can read.

    :param node: ``vtkMRMLTransformNode`` that moves the prior onto the follow-up, with all of its parents.
    :param followups: a transform that is not linear is sampled where these lie.
    :param file: ends in ``.h5``.
    :raises InputError: the transform cannot be turned round.
    :raises OutputError: no space, no permission.
    """
    import SimpleITK as sitk

    transform = _linear(node) if node.IsTransformToWorldLinear() else _field(node, followups)
    try:
        sitk.WriteTransform(transform, str(file))
    except RuntimeError as error:
        raise OutputError(f"{node.GetName()}: the transform cannot be handed over; is the disk full?") from error


def _linear(node: Any) -> Any:
    import SimpleITK as sitk
    import slicer.util
    import vtk

    matrix = vtk.vtkMatrix4x4()
    node.GetMatrixTransformToWorld(matrix)
    moved: NDArray[np.float64] = slicer.util.arrayFromVTKMatrix(matrix)
    try:
        back = RAS_TO_LPS @ np.linalg.inv(moved) @ RAS_TO_LPS
    except np.linalg.LinAlgError:
        raise InputError(f"{node.GetName()}: this transform cannot be turned round (its matrix is singular)") from None
    affine = sitk.AffineTransform(3)
    affine.SetMatrix(back[:3, :3].ravel().tolist())
    affine.SetTranslation(back[:3, 3].tolist())
    return affine


def _field(node: Any, followups: Sequence[Grid]) -> Any:
    """Displacements on a grid around all follow-ups: outside of it ITK would move nothing."""
    import SimpleITK as sitk
    import vtk
    from vtk.util import numpy_support

    corners = np.concatenate([grid.corners() for grid in followups]) @ RAS_TO_LPS[:3, :3].T
    low, extent = corners.min(axis=0), np.ptp(corners, axis=0)
    step = max(FIELD_MM, float((extent.prod() / MOST_POINTS) ** (1.0 / 3.0)))
    low, counts = low - step, np.ceil(extent / step).astype(int) + 3
    to_prior = vtk.vtkGeneralTransform()
    node.GetTransformFromWorld(to_prior)
    sampler = vtk.vtkTransformToGrid()
    sampler.SetInput(to_prior)
    sampler.SetGridOrigin(*low.tolist())
    sampler.SetGridSpacing(step, step, step)
    sampler.SetGridExtent(*[end for count in counts.tolist() for end in (0, count - 1)])
    sampler.SetGridScalarTypeToDouble()
    sampler.Update()
    ras = numpy_support.vtk_to_numpy(sampler.GetOutput().GetPointData().GetScalars()).reshape(*counts[::-1], 3)
    if not np.isfinite(ras).all():
        raise InputError(f"{node.GetName()}: this transform cannot be turned round")
    image = sitk.GetImageFromArray(ras * np.diag(RAS_TO_LPS)[:3], isVector=True)
    image.SetSpacing([step] * 3)
    image.SetOrigin((low * np.diag(RAS_TO_LPS)[:3]).tolist())
    image.SetDirection(RAS_TO_LPS[:3, :3].ravel().tolist())
    return sitk.DisplacementFieldTransform(image)
