"""Volumes of the scene come out where they stand in the world, whatever their axes and transforms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.mrml.volume_nodes import matrix_from_grid, volume_from_node
from P2SAMSlicerLib.volume import VisitIdentity
from scene_content import add_bent_transform, add_transform, add_volume, axis_orders, oblique, voxels

pytestmark = pytest.mark.usefixtures("scene")

TO_LPS = np.diag([-1.0, -1.0, 1.0])


def test_in_all_48_axis_orders_a_voxel_stands_where_slicer_has_it() -> None:
    for matrix in axis_orders():
        volume = volume_from_node(add_volume(matrix))
        np.testing.assert_array_equal(volume.array, voxels())
        np.testing.assert_allclose(matrix_from_grid(volume.grid), matrix, atol=1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_an_oblique_volume_under_turned_parents_stands_in_the_world(seed: int) -> None:
    upper, lower = oblique(seed + 50, (1.0, 1.0, 1.0)), oblique(seed + 90, (1.0, 1.0, 1.0))
    node = add_volume(oblique(seed), add_transform(lower, above=add_transform(upper)))
    corner = np.array([[9.0, 0.0, 7.0]])
    ras = (upper @ lower @ oblique(seed) @ np.array([9.0, 0.0, 7.0, 1.0]))[:3]
    volume = volume_from_node(node)
    np.testing.assert_allclose(volume.grid.to_physical(corner)[0], TO_LPS @ ras, atol=1e-6)
    bounds = np.zeros(6)
    node.GetRASBounds(bounds)
    assert bounds[0] - 1e-3 <= ras[0] <= bounds[1] + 1e-3


def test_a_parent_that_scales_changes_the_spacing() -> None:
    volume = volume_from_node(add_volume(np.diag([1.0, 1.0, 2.0, 1.0]), add_transform(np.diag([2.0, 3.0, 4.0, 1.0]))))
    assert volume.grid.spacing == pytest.approx((2.0, 3.0, 8.0))


def test_a_parent_that_shears_the_voxels_is_refused() -> None:
    sheared = np.eye(4)
    sheared[1, 2] = 0.3
    with pytest.raises(InputError, match="CT: the axis directions are not orthonormal"):
        volume_from_node(add_volume(np.eye(4), add_transform(sheared)))


def test_a_bent_parent_is_refused_and_taken_in_on_request_on_a_copy(scene: Any) -> None:
    node = add_volume(np.diag([2.0, 2.0, 2.0, 1.0]), add_bent_transform(2.0))
    nodes = scene.GetNumberOfNodes()
    with pytest.raises(InputError, match="CT: its parent transform is not linear; harden it first"):
        volume_from_node(node)
    volume = volume_from_node(node, harden=True)
    # Voxel (5, 4, 4) stands at 10, 8, 8 mm, and the transform moves it 2 mm to the right.
    i, j, k = (int(n) for n in np.rint(volume.grid.to_index((TO_LPS @ np.array([12.0, 8.0, 8.0]))[None]))[0])
    assert volume.array[k, j, i] == voxels()[4, 4, 5]
    assert node.GetParentTransformNode() is not None
    assert scene.GetNumberOfNodes() == nodes
    np.testing.assert_array_equal(volume_from_node_alone(node), voxels())


def volume_from_node_alone(node: Any) -> Any:
    """The node's own voxels."""
    import slicer.util

    return slicer.util.arrayFromVolume(node)


def test_the_volume_outlives_its_node(scene: Any) -> None:
    node = add_volume(np.eye(4))
    volume = volume_from_node(node)
    volume_from_node_alone(node)[:] = 0
    scene.RemoveNode(node)
    np.testing.assert_array_equal(volume.array, voxels())


def test_no_image_and_several_values_a_voxel_are_refused_in_words() -> None:
    import slicer

    empty = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "nothing")
    with pytest.raises(InputError, match="nothing: it holds no image"):
        volume_from_node(empty)
    with pytest.raises(InputError, match="no volume"):
        volume_from_node(None)
    colours = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "photo")
    slicer.util.updateVolumeFromArray(colours, np.zeros((2, 3, 4, 3), np.uint8))
    with pytest.raises(InputError, match="photo: it has several values a voxel"):
        volume_from_node(colours)


def test_patient_and_date_come_from_the_subject_hierarchy(scene: Any) -> None:
    import slicer

    node = add_volume(np.eye(4))
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    patient = hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), "somebody")
    study = hierarchy.CreateStudyItem(patient, "second visit")
    hierarchy.CreateItem(study, node)
    assert volume_from_node(node).identity == VisitIdentity()
    hierarchy.SetItemAttribute(patient, "DICOM.PatientID", "4711")
    hierarchy.SetItemAttribute(study, "DICOM.StudyDate", "20260314")
    assert volume_from_node(node).identity == VisitIdentity("4711", "20260314")
