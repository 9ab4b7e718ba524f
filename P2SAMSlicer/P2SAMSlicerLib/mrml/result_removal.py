"""Removing a result from the scene with all that belongs to it: its record and the markups of its prompts."""

from __future__ import annotations

from typing import Any

#: Attribute of nodes that are there only because a result refers to them.
PART_ATTRIBUTE = "P2SAMSlicer.PartOfResult"
_PART_KINDS = ("vtkMRMLTextNode", "vtkMRMLMarkupsFiducialNode", "vtkMRMLMarkupsROINode")


def mark_as_part(node: Any) -> None:
    """Note that a node goes when no result refers to it any more."""
    node.SetAttribute(PART_ATTRIBUTE, "1")


def remove_result(node: Any) -> None:
    """Remove a result's segmentation node and its parts."""
    _remove(node)
    remove_leftovers()


def remove_leftovers() -> None:
    """Remove the parts of results that a person removed. Nothing happens while a scene is being loaded or closed."""
    import slicer

    scene = slicer.mrmlScene
    if scene.IsBatchProcessing():
        return
    needed = {part.GetID() for node in _nodes("vtkMRMLSegmentationNode") for part in parts_of(node)}
    for kind in _PART_KINDS:
        for each in _nodes(kind):
            if each.GetAttribute(PART_ATTRIBUTE) is not None and each.GetID() not in needed:
                _remove(each)


def parts_of(node: Any) -> list[Any]:
    """The parts that a segmentation node refers to."""
    roles: list[str] = []
    node.GetNodeReferenceRoles(roles)
    found = [node.GetNodeReference(role) for role in roles]
    return [each for each in found if each is not None and each.GetAttribute(PART_ATTRIBUTE) is not None]


def markups_of_others(node: Any) -> list[Any]:
    """The markups of the prompts of all other results."""
    own = {each.GetID() for each in parts_of(node)}
    marked = [each for kind in _PART_KINDS[1:] for each in _nodes(kind) if each.GetAttribute(PART_ATTRIBUTE) is not None]
    return [each for each in marked if each.GetID() not in own]


def _remove(node: Any) -> None:
    """Remove a node with its display and storage nodes, which the scene would keep."""
    import slicer

    helpers = []
    if node.IsA("vtkMRMLDisplayableNode"):
        helpers += [node.GetNthDisplayNode(number) for number in range(node.GetNumberOfDisplayNodes())]
    helpers += [node.GetNthStorageNode(number) for number in range(node.GetNumberOfStorageNodes())]
    for each in (node, *helpers):
        if each is not None:
            slicer.mrmlScene.RemoveNode(each)


def _nodes(kind: str) -> list[Any]:
    import slicer.util

    return list(slicer.util.getNodesByClass(kind))
