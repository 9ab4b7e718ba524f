"""Left is left and up is up: a lopsided phantom, whose places are asked of Slicer itself and not of this library."""

from __future__ import annotations

from itertools import permutations, product
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from P2SAMSlicerLib.mrml.prompt_nodes import BOX_ROLE, POSITIVE_ROLE, show_box, show_prompts
from P2SAMSlicerLib.mrml.review_nodes import contours_to_review
from P2SAMSlicerLib.mrml.segment_masks import read_mask
from P2SAMSlicerLib.mrml.slice_places import SlicePlaces
from P2SAMSlicerLib.mrml.slice_views import go_to
from P2SAMSlicerLib.result import SliceResult
from prompted_results import followup_of, result_in_scene, visit
from scene_content import add_transform, oblique
from scipy.spatial.transform import Rotation

pytestmark = pytest.mark.usefixtures("scene")

STORAGES = [(order, flips) for order in permutations(range(3)) for flips in product((False, True), repeat=3)]
#: Far from the middle of all axes: swapped or mirrored ones would miss it.
LESION = (20.0, 17.0)
TURNED = Rotation.from_euler("xyz", (17.0, -8.0, 11.0), degrees=True).as_matrix()


def voxel(volume: Any, ras: Any) -> NDArray[np.float64]:
    """Voxel ``(k, j, i)`` of a world place, as Slicer's own modules find it."""
    import slicer.util
    import vtk

    from_world, to_ijk = vtk.vtkGeneralTransform(), vtk.vtkMatrix4x4()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(None, volume.GetParentTransformNode(), from_world)
    volume.GetRASToIJKMatrix(to_ijk)
    place = slicer.util.arrayFromVTKMatrix(to_ijk) @ [*from_world.TransformPoint(list(ras)), 1.0]
    found: NDArray[np.float64] = place[:3][::-1]
    return found


def contour_of(each: SliceResult) -> Any:
    assert each.best is not None
    return each.best


def value_at(node: Any, ras: Any) -> tuple[int, bool]:
    """HU of the follow-up and whether the contour covers it, at a world place."""
    import slicer.util

    place = tuple(int(n) for n in np.rint(voxel(followup_of(node), ras)))
    mask = read_mask(node, contours_to_review(node)[0], followup_of(node))
    return int(slicer.util.arrayFromVolume(followup_of(node))[place]), bool(mask[place])


def check_places(scene: Any, storage: Any, parent: Any = None) -> None:
    import slicer

    volume, mask, slices = visit(LESION, storage=storage, rotation=None if parent is None else TURNED)
    node = result_in_scene(volume, mask, slices, parent)
    scene.RegisterNodeClass(slicer.vtkMRMLSliceNode())
    view = slicer.vtkMRMLSliceNode()
    view.SetLayoutName("Red")
    view = scene.AddNode(view)
    show_prompts(node, slices)
    hu_of_slices = []
    points = node.GetNodeReference(POSITIVE_ROLE)
    for number, each in enumerate(slices):
        # The jump: what the view's middle shows is this slice's tissue (each slice of the phantom has its own HU), contoured.
        go_to(SlicePlaces.of(followup_of(node)).centre(each.index, mask))
        matrix = view.GetSliceToRAS()
        middle = [matrix.GetElement(row, 3) for row in range(3)]
        hu, covered = value_at(node, middle)
        assert covered
        axis = SlicePlaces.of(followup_of(node)).axis
        assert hu == np.take(volume.array, each.index, axis=axis).max()
        hu_of_slices.append(hu)
        # The first positive point is in the middle of the lesion, on the same slice.
        assert value_at(node, points.GetNthControlPointPositionWorld(2 * number)) == (hu, True)
        # The box reaches 1.2 radii to one side and 1.3 to the other, on both axes of the image.
        show_box(node, each)
        roi = node.GetNodeReference(BOX_ROLE)
        assert value_at(node, roi.GetCenterWorld())[0] == hu
        lesion = np.argwhere(np.take(mask, each.index, axis=axis)).astype(float)
        size = sorted(roi.GetSize())[1:]
        spacing = np.delete(volume.grid.spacing_zyx, axis)
        diameters = sorted((np.ptp(lesion, axis=0) + 1.0) * spacing)
        np.testing.assert_allclose(size, np.multiply(diameters, 1.25), rtol=0.12)
    assert len(set(hu_of_slices)) == len(slices)


def test_in_all_48_axis_orders_jump_points_and_box_are_on_the_lesion_of_their_slice(scene: Any) -> None:
    for storage in STORAGES:
        check_places(scene, storage)
        scene.Clear(False)


@pytest.mark.parametrize("number", [0, 11, 22, 33, 44])
def test_on_oblique_volumes_under_turned_parents_too(scene: Any, number: int) -> None:
    above = add_transform(oblique(number, (1.0, 1.0, 1.0)))
    check_places(scene, STORAGES[number], add_transform(oblique(number + 1, (1.0, 1.0, 1.0)), above))
