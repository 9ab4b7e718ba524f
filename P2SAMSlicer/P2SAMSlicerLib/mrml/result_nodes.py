"""What was carried to a follow-up, as a segmentation node that a person reviews."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from P2SAMSlicerLib.mrml.followup_moves import lay_on
from P2SAMSlicerLib.mrml.result_removal import remove_result
from P2SAMSlicerLib.mrml.review_nodes import DRAWN_TAG, forget_review, remember_drawn
from P2SAMSlicerLib.mrml.segment_masks import write_mask
from P2SAMSlicerLib.mrml.segment_nodes import put_tag, segment_ids, tag_of
from P2SAMSlicerLib.mrml.volume_nodes import parent_to_world
from P2SAMSlicerLib.result import SegmentResult, VisitResult
from P2SAMSlicerLib.result_files import COMPARISON_TAG, followup_segments
from P2SAMSlicerLib.volume import Segment

#: Ends the name of a result's node, after the follow-up's.
NODE_SUFFIX = "propagated"
#: Tag with the name of the prior's segment that a contour stems from: the contour itself may be renamed.
SOURCE_TAG = "P2SAM.Source"
#: By this role a result's segmentation refers to the prior's.
PRIOR_ROLE = "P2SAMSlicer.priorSegmentation"
#: Attribute of every result's node: the reference to the prior goes when the prior's segmentation is removed.
RESULT_ATTRIBUTE = "P2SAMSlicer.result"


def show_result(visit: VisitResult, followup_node: Any, prior_segmentation: Any, prior_ids: Mapping[str, str]) -> Any:
    """Write a visit's contours into a new segmentation node beside the follow-up in its study.

    The registered prior contours come along, hidden where there is a contour. The node has the follow-up's geometry and parent
    transform, so it stays with the follow-up when that is moved.

    :param visit: masks lie on the follow-up node's voxels.
    :param prior_segmentation: its segments' colours, terminology and tags are copied; None if it is no longer there.
    :param prior_ids: id of the prior segment by its name.
    :returns: ``vtkMRMLSegmentationNode``.
    :raises InputError: the follow-up has a parent transform that is not linear, so its voxels are not where it is shown.
    :raises ValueError: a result contradicts itself or is on other voxels: a fault of the engine.
    """
    import slicer.util

    # A contour on other voxels than the node's would be drawn in a wrong place.
    parent_to_world(followup_node)
    if slicer.util.arrayFromVolume(followup_node).shape != visit.grid.shape:
        raise ValueError("the contours are not on the follow-up's voxels")
    followup_segments(visit)  # refuses before there is a node
    with slicer.util.RenderBlocker():
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", f"{followup_node.GetName()} {NODE_SUFFIX}")
        node.CreateDefaultDisplayNodes()
        # In this order: the geometry is taken as seen from under the node's own parent transform, and a geometry that is
        # turned against the contours would have them resampled when they are saved.
        lay_on(node, followup_node)
        node.SetReferenceImageGeometryParameterFromVolumeNode(followup_node)
        try:
            _fill(node, visit, followup_node, prior_segmentation, prior_ids)
        except BaseException:
            remove_result(node)  # half of the contours would look like all of them
            raise
    return node


def _fill(node: Any, visit: VisitResult, followup_node: Any, prior: Any, prior_ids: Mapping[str, str]) -> None:
    """Write the contours and what belongs to them."""
    # The order in which they are written: contours, then registered contours.
    sources = [result for result in visit.segments if result.mask is not None]
    sources += [result for result in visit.segments if result.registered_mask.any()]
    contours = sum(result.mask is not None for result in visit.segments)
    for number, (segment, result) in enumerate(zip(followup_segments(visit), sources, strict=True)):
        identifier = _add(node, segment, followup_node, _source(prior, prior_ids, result))
        put_tag(node.GetSegmentation().GetSegment(identifier), SOURCE_TAG, result.source.name)
        node.GetDisplayNode().SetSegmentVisibility(identifier, number < contours or result.mask is None)
        if number < contours or result.mask is None:
            remember_drawn(node, identifier)
    node.SetAttribute(RESULT_ATTRIBUTE, "1")
    if prior is not None:
        node.SetNodeReferenceID(PRIOR_ROLE, prior.GetID())
    _place(node, followup_node)


def is_result(node: Any) -> bool:
    """Whether a segmentation node holds contours that were carried, and not what a person drew."""
    return node.GetAttribute(RESULT_ATTRIBUTE) is not None or node.GetNodeReferenceID(PRIOR_ROLE) is not None


def comparison_of(node: Any, source: str) -> str | None:
    """Id of the registered prior contour that lies beside a contour for comparison; None where it is all that there is.

    :param source: name of the prior's segment.
    """
    for each in segment_ids(node):
        segment = node.GetSegmentation().GetSegment(each)
        only_for_comparison = tag_of(segment, COMPARISON_TAG) is not None and tag_of(segment, DRAWN_TAG) is None
        if only_for_comparison and tag_of(segment, SOURCE_TAG) == source:
            return each
    return None


def _source(segmentation: Any, ids: Mapping[str, str], result: SegmentResult) -> Any:
    """The prior's ``vtkSegment`` that a result stems from, or None where it is gone from the scene."""
    identifier = ids.get(result.source.name)
    return None if identifier is None or segmentation is None else segmentation.GetSegmentation().GetSegment(identifier)


def _add(node: Any, segment: Segment, followup_node: Any, source: Any) -> str:
    """Add a segment; what the prior's segment has and the library does not know is copied."""
    import slicer

    added = slicer.vtkSegment()
    if source is not None:
        added.DeepCopyMetadata(source)
        forget_review(added)  # the prior's contour may be a result that was reviewed
    added.SetName(segment.name)
    if segment.color is not None:
        added.SetColor(segment.color)
    for key, value in segment.tags.items():
        added.SetTag(key, value)
    node.GetSegmentation().AddSegment(added)
    identifier = str(node.GetSegmentation().GetSegmentIdBySegment(added))
    write_mask(segment.mask, node, identifier, followup_node)
    return identifier


def _place(node: Any, followup_node: Any) -> None:
    """Put the node beside the follow-up in the subject hierarchy."""
    import slicer

    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    beside = hierarchy.GetItemByDataNode(followup_node)
    if not beside:
        return  # the application adds an item for every volume; a bare scene does not
    parent = hierarchy.GetItemParent(beside)
    item = hierarchy.GetItemByDataNode(node)
    if item:
        hierarchy.SetItemParent(item, parent)
    else:
        hierarchy.CreateItem(parent, node)
