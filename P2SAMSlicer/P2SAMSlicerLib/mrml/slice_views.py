"""Slice views: showing a visit with its contours, and going to a place in all of them."""

from __future__ import annotations

from typing import Any

from P2SAMSlicerLib.mrml.prompt_nodes import hide_prompts
from P2SAMSlicerLib.mrml.result_nodes import comparison_of


def show_visit(followup: Any, segmentation: Any) -> None:
    """Show a follow-up in all slice views, with one segmentation of the results and no other.

    Slice views draw whatever lies in their plane, so contours and prompts of other visits would appear on this one.

    :param segmentation: shown; all others are hidden, and so are the prompts that belong to them.
    """
    import slicer.util

    with slicer.util.RenderBlocker():
        for composite in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
            composite.SetBackgroundVolumeID(followup.GetID())
        for other in slicer.util.getNodesByClass("vtkMRMLSegmentationNode"):
            if other.GetDisplayNode() is not None:
                other.GetDisplayNode().SetVisibility(other == segmentation)
            if other != segmentation:
                hide_prompts(other)


def emphasize(segmentation: Any, identifier: str, opacity: float = 0.25) -> None:
    """Draw one contour of a segmentation clearly, and the others faintly.

    :param opacity: of the other contours.
    """
    display = segmentation.GetDisplayNode()
    for number in range(segmentation.GetSegmentation().GetNumberOfSegments()):
        each = segmentation.GetSegmentation().GetNthSegmentID(number)
        display.SetSegmentOpacity2DFill(each, 0.15)
        display.SetSegmentOpacity2DOutline(each, 1.0 if each == identifier else opacity)


def show_registered(segmentation: Any, source: str, visible: bool) -> None:
    """Show or hide the registered prior contour beside a result's contour.

    :param source: name of the prior's segment.
    """
    identifier = comparison_of(segmentation, source)
    if identifier is not None:
        segmentation.GetDisplayNode().SetSegmentVisibility(identifier, visible)


def go_to(ras: tuple[float, float, float]) -> None:
    """Move all slice views so that they show a place in their middle.

    :param ras: right, anterior, superior, millimetres.
    """
    import slicer.util

    for node in slicer.util.getNodesByClass("vtkMRMLSliceNode"):
        node.JumpSliceByCentering(*ras)
