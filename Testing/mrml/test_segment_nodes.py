"""Segments come out on the CT's voxels, whatever both nodes' axes and transforms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from P2SAMSlicerLib.errors import InputError
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
