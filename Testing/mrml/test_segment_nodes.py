"""Segments come out on the CT's voxels, whatever both nodes' axes and transforms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.mrml.segment_masks import write_mask
from P2SAMSlicerLib.mrml.segment_nodes import segment_ids, segments_from_node
from P2SAMSlicerLib.mrml.volume_nodes import volume_from_node
from P2SAMSlicerLib.volume import BoolArray
from scene_content import SHAPE, add_segmentation, add_transform, add_volume, axis_orders, blob, oblique

pytestmark = pytest.mark.usefixtures("scene")


def mask_of(node: Any, volume_node: Any, name: str | None = None) -> BoolArray:
    """The mask of the only segment, or of that of an id."""
    (segment,), warnings = segments_from_node(node, volume_node, volume_from_node(volume_node), name and [name])
    assert not warnings
    return segment.mask


def test_in_all_48_axis_orders_a_mask_comes_back_bit_by_bit(scene: Any) -> None:
    for matrix in axis_orders():
        volume = add_volume(matrix)
        np.testing.assert_array_equal(mask_of(add_segmentation(volume, {"GTV": blob()}), volume), blob())
        scene.Clear(False)


@pytest.mark.parametrize("seed", range(6))
def test_under_turned_parents_an_oblique_mask_comes_back_bit_by_bit(seed: int) -> None:
    volume = add_volume(oblique(seed), add_transform(oblique(seed + 40, (1.0, 1.0, 1.0))))
    np.testing.assert_array_equal(mask_of(add_segmentation(volume, {"GTV": blob()}), volume), blob())


def test_a_segmentation_on_a_finer_turned_geometry_is_taken_where_it_stands() -> None:
    volume = add_volume(np.diag([-2.0, -2.0, 2.0, 1.0]), array=np.zeros((30, 32, 34), np.int16))
    ct = volume_from_node(volume)
    fine = add_volume(placed_about(ct.grid, oblique(4, (1.0, 1.0, 1.0))), array=np.zeros((80, 80, 80), np.int16))
    # A lopsided body about the CT's middle, drawn on the other geometry.
    mask = lopsided(volume_from_node(fine).grid, ct.grid.corners().mean(axis=0))
    node = add_segmentation(fine, {"GTV": mask})
    found = mask_of(node, volume)
    expected = lopsided(ct.grid, ct.grid.corners().mean(axis=0))
    assert expected.sum() > 200
    assert 2.0 * (found & expected).sum() / (found.sum() + expected.sum()) > 0.9


def placed_about(grid: Grid, turned: Any) -> Any:
    """RAS matrix of 80 voxels of 1 mm along turned axes, about the middle of a grid."""
    matrix = np.array(turned)
    middle = grid.corners().mean(axis=0) * [-1.0, -1.0, 1.0]
    matrix[:3, 3] = middle - matrix[:3, :3] @ np.full(3, 40.0)
    return matrix


def lopsided(grid: Grid, middle: Any) -> BoolArray:
    """A ball with a second one on its left and above."""
    z, y, x = np.indices(grid.shape)
    places = grid.to_physical(np.stack([x, y, z], axis=-1).reshape(-1, 3).astype(float)) - np.asarray(middle)
    inside = np.linalg.norm(places, axis=1) < 9.0
    beside = np.linalg.norm(places - np.array([9.0, 0.0, 5.0]), axis=1) < 6.0
    body: BoolArray = (inside | beside).reshape(grid.shape)
    return body


@pytest.mark.parametrize("seed", [2, 4])
def test_a_segmentation_under_its_own_turned_parent_is_taken_where_it_stands(seed: int) -> None:
    volume = add_volume(np.diag([-2.0, -2.0, 2.0, 1.0]), array=np.zeros((30, 32, 34), np.int16))
    ct = volume_from_node(volume)
    mask = lopsided(ct.grid, ct.grid.corners().mean(axis=0))
    node = add_segmentation(volume, {"GTV": mask})
    turned = np.eye(4)
    turned[:3, :3] = oblique(seed, (1.0, 1.0, 1.0))[:3, :3]
    centre = ct.grid.corners().mean(axis=0) * [-1.0, -1.0, 1.0]
    turned[:3, 3] = centre - turned[:3, :3] @ centre
    node.SetAndObserveTransformNodeID(add_transform(turned).GetID())
    found = mask_of(node, volume)
    # Asked of Slicer: where a voxel's centre was before the transform moved it there.
    back = np.linalg.inv(turned)
    z, y, x = np.indices(ct.grid.shape)
    ras = ct.grid.to_physical(np.stack([x, y, z], axis=-1).reshape(-1, 3).astype(float)) * [-1.0, -1.0, 1.0]
    lps = (ras @ back[:3, :3].T + back[:3, 3]) * [-1.0, -1.0, 1.0]
    i, j, k = np.rint(ct.grid.to_index(lps)).astype(int).T
    inside = (i >= 0) & (i < 34) & (j >= 0) & (j < 32) & (k >= 0) & (k < 30)
    expected = np.zeros(len(lps), dtype=bool)
    expected[inside] = mask[k[inside], j[inside], i[inside]]
    there: BoolArray = expected.reshape(ct.grid.shape)
    assert 2.0 * (found & there).sum() / (found.sum() + there.sum()) > 0.9
    assert 2.0 * (found & mask).sum() / (found.sum() + mask.sum()) < 0.85


def test_a_segmentation_under_another_parent_than_its_ct_is_taken_where_it_stands() -> None:
    volume = add_volume(np.diag([2.0, 2.0, 2.0, 1.0]))
    node = add_segmentation(volume, {"GTV": blob()})
    shifted = np.eye(4)
    shifted[0, 3] = 4.0  # two voxels to the right, towards larger i
    node.SetAndObserveTransformNodeID(add_transform(shifted).GetID())
    np.testing.assert_array_equal(mask_of(node, volume), np.roll(blob(), 2, axis=2))


def test_overlapping_segments_keep_their_own_masks_names_and_colours() -> None:
    volume, other = add_volume(np.eye(4)), np.zeros(SHAPE, dtype=np.bool_)
    other[3:6, 3:6, 3:6] = True
    node = add_segmentation(volume, {"GTV p": blob(), "Läsion 2": other})
    node.GetSegmentation().GetNthSegment(1).SetColor(0.25, 0.5, 0.75)
    node.GetSegmentation().CollapseBinaryLabelmaps()  # as the Segment Editor stores them, where they do not overlap
    segments, _ = segments_from_node(node, volume, volume_from_node(volume), segment_ids(node)[::-1])
    assert [segment.name for segment in segments] == ["Läsion 2", "GTV p"]
    np.testing.assert_array_equal(segments[0].mask, other)
    np.testing.assert_array_equal(segments[1].mask, blob())
    assert segments[0].color == (0.25, 0.5, 0.75)


def test_a_segment_that_is_only_a_surface_is_drawn_onto_the_cts_voxels() -> None:
    volume = add_volume(np.eye(4), add_transform(oblique(3, (1.0, 1.0, 1.0))))
    box = np.zeros(SHAPE, dtype=np.bool_)
    box[2:6, 2:7, 2:8] = True
    node = add_segmentation(volume, {"GTV": box})
    node.GetSegmentation().SetConversionParameter("Smoothing factor", "0.0")
    node.CreateClosedSurfaceRepresentation()
    node.SetSourceRepresentationToClosedSurface()
    node.RemoveBinaryLabelmapRepresentation()
    mask = mask_of(node, volume)
    overlap = 2.0 * (mask & box).sum() / (mask.sum() + box.sum())
    assert overlap > 0.85


def test_segments_that_share_a_label_map_keep_their_own_masks_and_an_emptied_one_is_refused() -> None:
    volume, beside = add_volume(oblique(2)), np.zeros(SHAPE, dtype=np.bool_)
    beside[6:8, 6:9, 7:10] = True
    node = add_segmentation(volume, {"GTV": blob(), "node": beside, "overlapping": blob() | beside, "gone": beside})
    node.GetSegmentation().CollapseBinaryLabelmaps()
    assert node.GetSegmentation().GetNumberOfLayers() < 4
    gtv, lymph_node, both, gone = segment_ids(node)
    for identifier, mask in ((gtv, blob()), (lymph_node, beside), (both, blob() | beside)):
        np.testing.assert_array_equal(mask_of(node, volume, identifier), mask)
    write_mask(np.zeros_like(beside), node, gone, volume)
    with pytest.raises(InputError, match="segment 'gone' is empty"):
        mask_of(node, volume, gone)
    np.testing.assert_array_equal(mask_of(node, volume, lymph_node), beside)


@pytest.mark.parametrize("surface", [False, True])
def test_a_bent_segmentation_is_refused_or_taken_in_with_its_bent_ct(scene: Any, surface: bool) -> None:
    import slicer
    from test_transform_nodes import bent

    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode")
    transform.SetAndObserveTransformToParent(bent(1))
    lesion = np.zeros((20, 60, 50), dtype=np.bool_)
    lesion[6:12, 20:40, 12:30] = True
    lesion[12:15, 30:45, 15:20] = True
    volume = add_volume(oblique(3, (2.0, 2.0, 3.0)), transform, (1000 * lesion).astype(np.int16))
    node = add_segmentation(volume, {"GTV": lesion})
    if surface:
        node.GetSegmentation().SetConversionParameter("Smoothing factor", "0.0")
        node.CreateClosedSurfaceRepresentation()
        node.SetSourceRepresentationToClosedSurface()
        node.RemoveBinaryLabelmapRepresentation()
    ct = volume_from_node(volume, harden=True)
    nodes = scene.GetNumberOfNodes()
    if not surface:
        with pytest.raises(
            InputError, match="contours: its parent transform is not linear; harden it first: in the module Data"
        ):
            segments_from_node(node, volume, ct)
    ((segment,), warnings) = segments_from_node(node, volume, ct, harden=True)
    assert warnings == []
    tissue = ct.array > 500
    assert not np.array_equal(tissue, lesion)  # it was bent
    assert 2.0 * (segment.mask & tissue).sum() / (segment.mask.sum() + tissue.sum()) > 0.93
    assert scene.GetNumberOfNodes() == nodes
    assert node.GetParentTransformNode() == transform


def test_what_cannot_be_carried_is_refused_by_name() -> None:
    volume = add_volume(np.eye(4))
    ct = volume_from_node(volume)
    node = add_segmentation(volume, {"GTV": blob()})
    node.GetSegmentation().AddEmptySegment("", "nothing")
    with pytest.raises(InputError, match="contours: it has no segment 'CTV'"):
        segments_from_node(node, volume, ct, ["CTV"])
    with pytest.raises(InputError, match="segment 'nothing' is empty"):
        segments_from_node(node, volume, ct)
    with pytest.raises(InputError, match="no segment to carry"):
        segments_from_node(node, volume, ct, [])
    with pytest.raises(InputError, match="no segmentation"):
        segments_from_node(None, volume, ct)
    far = np.eye(4)
    far[0, 3] = 1000.0
    node.SetAndObserveTransformNodeID(add_transform(far).GetID())
    with pytest.raises(InputError, match="segment 'GTV' lies wholly outside of the CT"):
        segments_from_node(node, volume, ct, segment_ids(node)[:1])
