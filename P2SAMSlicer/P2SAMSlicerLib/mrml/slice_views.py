"""Slice views: showing a visit with its contours, and going to a place in all of them."""

from __future__ import annotations

from typing import Any


def show_visit(followup: Any, segmentation: Any) -> None:
    """Show a follow-up in all slice views, with one segmentation of the results and no other.

    :param segmentation: shown. Hidden are all others on the same volume, the results of other visits, and the contours on the
        prior, which would be drawn where the tumour was on another day.
    """
    import slicer.util

    from P2SAMSlicerLib.mrml.result_nodes import PRIOR_ROLE, is_result

    with slicer.util.RenderBlocker():
        for composite in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
            composite.SetBackgroundVolumeID(followup.GetID())
        role = segmentation.GetReferenceImageGeometryReferenceRole()
        for other in slicer.util.getNodesByClass("vtkMRMLSegmentationNode"):
            drawn = other.GetNodeReferenceID(role) == followup.GetID() or other == segmentation.GetNodeReference(PRIOR_ROLE)
            if (drawn or is_result(other)) and other.GetDisplayNode() is not None:
                other.GetDisplayNode().SetVisibility(other == segmentation)


def emphasize(segmentation: Any, identifier: str, opacity: float = 0.25) -> None:
    """Draw one contour of a segmentation clearly, and the others faintly.

    :param opacity: of the other contours.
    """
    display = segmentation.GetDisplayNode()
    for number in range(segmentation.GetSegmentation().GetNumberOfSegments()):
        each = segmentation.GetSegmentation().GetNthSegmentID(number)
        display.SetSegmentOpacity2DFill(each, 0.15)
        display.SetSegmentOpacity2DOutline(each, 1.0 if each == identifier else opacity)


def go_to(ras: tuple[float, float, float]) -> None:
    """Move all slice views so that they show a place in their middle.

    :param ras: right, anterior, superior, millimetres.
    """
    import slicer.util

    for node in slicer.util.getNodesByClass("vtkMRMLSliceNode"):
        node.JumpSliceByCentering(*ras)
