"""The chosen prompts as markups of the scene, and what a person made of them.

Positive points are green balls, negative ones red crosses; both lists hold the points of all slices of one contour, each on
its slice. The box of the slice that is shown is a region of interest. All are locked until prompts are edited, and belong to
the result.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.edited_prompts import EditedPrompts
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.mrml.followup_moves import follow, lay_on
from P2SAMSlicerLib.mrml.record_nodes import check_lies_as_recorded
from P2SAMSlicerLib.mrml.result_removal import mark_as_part
from P2SAMSlicerLib.mrml.slice_places import SlicePlaces
from P2SAMSlicerLib.mrml.volume_nodes import RAS_TO_LPS, parent_to_world
from P2SAMSlicerLib.result import SliceResult
from P2SAMSlicerLib.slice_plane import prompts_from_lps, prompts_to_lps, slice_numbers

#: By these roles a result's segmentation refers to its prompts.
POSITIVE_ROLE, NEGATIVE_ROLE, BOX_ROLE = "P2SAMSlicer.positivePoints", "P2SAMSlicer.negativePoints", "P2SAMSlicer.box"
GREEN, RED, BOX_COLOUR = (0.1, 0.8, 0.2), (0.9, 0.15, 0.1), (1.0, 0.8, 0.1)
#: A point that was moved by less than this, in pixels of the slice's image, was not moved.
MOVED_PIXELS = 0.05
#: Begins the description of a recorded point; the number of its lesion follows.
LESION_PREFIX = "lesion "
#: Attribute of the region of interest: lesion and slice whose box it is.
BOX_OF_ATTRIBUTE = "P2SAMSlicer.boxOf"


def show_prompts(node: Any, slices: Sequence[SliceResult]) -> None:
    """Show the chosen prompts of one contour's slices, in the place of those that were shown before.

    :param node: segmentation node of the result.
    :param slices: of the contour, from its record.
    :raises InputError: its follow-up is gone, or does not lie as it did when the slices were recorded.
    """
    grid = _places(node).grid
    for role, label in ((POSITIVE_ROLE, 1), (NEGATIVE_ROLE, 0)):
        points = _points_node(node, role, label)
        points.RemoveAllControlPoints()
        # So that the points stay with the follow-up when that is moved.
        lay_on(points, _followup(node))
        for each in slices:
            if each.best is None:
                continue
            chosen = each.best.points[each.best.labels == label]
            for left, posterior, superior in prompts_to_lps(chosen, each, grid):
                number = points.AddControlPointWorld(-left, -posterior, superior)
                points.SetNthControlPointDescription(number, f"{LESION_PREFIX}{each.lesion}")
        points.SetLocked(True)
        points.SetDisplayVisibility(True)
    box = node.GetNodeReference(BOX_ROLE)
    if box is not None:
        box.SetDisplayVisibility(False)


def slice_with_box(slices: Sequence[SliceResult], index: int | None) -> SliceResult | None:
    """Whose box is shown on a slice: of several lesions the first that has one; None where none has."""
    own = [each for each in slices if each.index == index and each.best is not None and each.best.box is not None]
    return own[0] if own else None


def show_box(node: Any, shown: SliceResult | None, edited: NDArray[np.float32] | None = None) -> None:
    """Show the chosen box of one slice; hide it where there is none.

    :param edited: what a person made of the box before; None if nothing.
    :raises InputError: see :func:`show_prompts`.
    """
    _bring_along(node)
    roi = node.GetNodeReference(BOX_ROLE)
    best = None if shown is None else shown.best
    if shown is None or best is None or best.box is None:
        if roi is not None:
            roi.SetDisplayVisibility(False)
        return
    if roi is None:
        roi = _new(node, BOX_ROLE, "vtkMRMLMarkupsROINode", "box", BOX_COLOUR)
        roi.GetDisplayNode().SetFillOpacity(0.0)
        roi.GetDisplayNode().SetPropertiesLabelVisibility(False)
        roi.SetLocked(True)
    lay_on(roi, _followup(node))
    _place_box(roi, best.box if edited is None else edited, shown, _places(node))
    roi.SetAttribute(BOX_OF_ATTRIBUTE, _box_of(shown))
    roi.SetDisplayVisibility(True)


def hide_prompts(node: Any) -> None:
    """Take the points and the box out of the views: on another visit they would be in wrong places."""
    for role in (POSITIVE_ROLE, NEGATIVE_ROLE, BOX_ROLE):
        prompts = node.GetNodeReference(role)
        if prompts is not None:
            prompts.SetDisplayVisibility(False)


def unlock(node: Any, editable: bool) -> None:
    """Let a person move, add and remove the prompts, or not any more."""
    for role in (POSITIVE_ROLE, NEGATIVE_ROLE, BOX_ROLE):
        prompts = node.GetNodeReference(role)
        if prompts is not None:
            prompts.SetLocked(not editable)


def prompts_are_shown(node: Any) -> bool:
    """Whether the lists of points are in the scene: a person may have removed them."""
    return all(node.GetNodeReference(role) is not None for role in (POSITIVE_ROLE, NEGATIVE_ROLE))


def place_point(node: Any, positive: bool) -> None:
    """Have the person's next click in a view add a point.

    :raises InputError: the points were removed from the scene.
    """
    import slicer

    _check_shown(node)
    points = node.GetNodeReference(POSITIVE_ROLE if positive else NEGATIVE_ROLE)
    logic = slicer.app.applicationLogic()
    selection, interaction = logic.GetSelectionNode(), logic.GetInteractionNode()
    selection.SetReferenceActivePlaceNodeClassName(points.GetClassName())
    selection.SetActivePlaceNodeID(points.GetID())
    interaction.SetPlaceModePersistence(0)
    interaction.SetCurrentInteractionMode(interaction.Place)


def edited_box(node: Any, slices: Sequence[SliceResult], shown: int | None) -> tuple[SliceResult, NDArray[np.float32]] | None:
    """The box that is shown, if a person changed it, and whose it is.

    :raises InputError: see :func:`show_prompts`.
    """
    _bring_along(node)
    roi = node.GetNodeReference(BOX_ROLE)
    of = None if roi is None else roi.GetAttribute(BOX_OF_ATTRIBUTE)
    owner = next((each for each in slices if each.index == shown and _box_of(each) == of), None)
    box = None if owner is None else _box_now(node, owner, _places(node).grid)
    if owner is None or box is None or owner.best is None or owner.best.box is None or not _moved(box, owner.best.box):
        return None
    return owner, box


def edited_prompts(
    node: Any,
    slices: Sequence[SliceResult],
    shown: int | None,
    boxes: Mapping[tuple[int, int], NDArray[np.float32]] | None = None,
) -> list[EditedPrompts]:
    """The slices on which a person changed points or the box.

    A recorded point stays with its lesion. A new one belongs to the lesion of its slice whose image it lies in; where there are
    several, to the one whose contour is nearest. Points beside all slices of the contour do not count.

    :param shown: number of the slice whose box is shown; None if no box is.
    :param boxes: boxes by lesion and slice that were changed while those slices were shown.
    :raises InputError: see :func:`show_prompts`; or the points were removed from the scene.
    """
    changed = dict(boxes or {})
    now = edited_box(node, slices, shown)  # brings all prompts along
    if now is not None:
        changed[now[0].lesion, now[0].index] = now[1]
    grid = _places(node).grid
    _check_shown(node)
    gathered = _gathered(node, slices, grid)
    edits = []
    for each in slices:
        found = gathered[each.lesion, each.index]
        points = np.array([point for point, _label in found], dtype=np.float32).reshape(-1, 2)
        labels = np.array([label for _point, label in found], dtype=np.int64)
        recorded = None if each.best is None else each.best.box
        key = (each.lesion, each.index)
        box = changed.get(key, recorded)
        if key in changed or _differ(each, points, labels):
            edits.append(EditedPrompts(each.index, points, labels, box, each.lesion))
    return edits


def _gathered(
    node: Any, slices: Sequence[SliceResult], grid: Grid
) -> dict[tuple[int, int], list[tuple[NDArray[np.float64], int]]]:
    """The points that are in the scene now, in pixels and with their label, by lesion and number of their slice."""
    gathered: dict[tuple[int, int], list[tuple[NDArray[np.float64], int]]] = {(s.lesion, s.index): [] for s in slices}
    by_index: dict[int, list[SliceResult]] = {}
    for each in slices:
        by_index.setdefault(each.index, []).append(each)
    for role, label in ((POSITIVE_ROLE, 1), (NEGATIVE_ROLE, 0)):
        points = node.GetNodeReference(role)
        for number, lps in _positions(points):
            own = by_index.get(int(slice_numbers(lps[None], grid)[0]), [])
            # Between two lesions a recorded point may be nearer to the other one, a negative one above all.
            described = points.GetNthControlPointDescription(number)
            own = [each for each in own if described == f"{LESION_PREFIX}{each.lesion}"] or own
            if own:
                nearest = min(own, key=lambda each: _pixels_away(each, prompts_from_lps(lps[None], each, grid)[0]))
                key = (nearest.lesion, nearest.index)
                gathered[key].append((prompts_from_lps(lps[None], nearest, grid)[0], label))
    return gathered


def _followup(node: Any) -> Any:
    followup = node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole())
    if followup is None:
        raise InputError(f"{node.GetName()}: its follow-up volume is no longer in the scene")
    return followup


def _check_shown(node: Any) -> None:
    """Points that went with their node were not taken away one by one: that is no edit of every slice."""
    if not prompts_are_shown(node):
        raise InputError(f"{node.GetName()}: its points were removed from the scene; choose the contour again to show them")


def _bring_along(node: Any) -> None:
    """The follow-up may have been put under another transform since the prompts were shown."""
    for role in (POSITIVE_ROLE, NEGATIVE_ROLE, BOX_ROLE):
        prompts = node.GetNodeReference(role)
        if prompts is not None:
            follow(prompts, _followup(node))


def _places(node: Any) -> SlicePlaces:
    places = SlicePlaces.of(_followup(node))
    check_lies_as_recorded(node, places.grid)
    return places


def _points_node(node: Any, role: str, label: int) -> Any:
    existing = node.GetNodeReference(role)
    if existing is not None:
        return existing
    name, colour = ("positive points", GREEN) if label else ("negative points", RED)
    points = _new(node, role, "vtkMRMLMarkupsFiducialNode", name, colour)
    points.SetControlPointLabelFormat("")
    points.GetDisplayNode().SetPointLabelsVisibility(False)
    points.GetDisplayNode().SetGlyphScale(2.0)
    if not label:  # told apart without their colours, too
        points.GetDisplayNode().SetGlyphTypeFromString("ThickCross2D")
    return points


def _new(node: Any, role: str, kind: str, name: str, colour: tuple[float, float, float]) -> Any:
    import slicer

    made = slicer.mrmlScene.AddNewNodeByClass(kind, f"{_followup(node).GetName()} {name}")
    made.CreateDefaultDisplayNodes()
    made.GetDisplayNode().SetColor(*colour)
    made.GetDisplayNode().SetSelectedColor(*colour)
    mark_as_part(made)
    node.SetNodeReferenceID(role, made.GetID())
    return made


def _positions(points: Any) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Number and LPS position of all points that are placed."""
    for number in range(0 if points is None else points.GetNumberOfControlPoints()):
        if points.GetNthControlPointPositionStatus(number) == points.PositionDefined:
            yield number, RAS_TO_LPS[:3, :3] @ np.array(points.GetNthControlPointPositionWorld(number), dtype=np.float64)


def _pixels_away(result: SliceResult, point: NDArray[np.float64]) -> float:
    """How far a point lies from a slice's contour, in pixels of its image; outside of the image very far."""
    if not result.candidates:
        return 1e6
    mask = result.candidates[0].mask if result.best is None else result.best.mask
    height, width = mask.shape
    if not (0 <= point[0] < width and 0 <= point[1] < height):
        return 1e6
    inside = np.argwhere(mask)
    return 1e5 if not len(inside) else float(np.hypot(*(inside - point[::-1]).T).min())


def _differ(result: SliceResult, points: NDArray[np.float32], labels: NDArray[np.int64]) -> bool:
    recorded = np.zeros((0, 2), dtype=np.float32) if result.best is None else result.best.points
    of = np.zeros(0, dtype=np.int64) if result.best is None else result.best.labels
    for label in (0, 1):
        before, now = recorded[of == label], points[labels == label]
        if len(before) != len(now) or (len(now) and _moved(before, now)):
            return True
    return False


def _moved(before: NDArray[np.float32], now: NDArray[np.float32]) -> bool:
    return bool(np.abs(np.asarray(before) - np.asarray(now)).max() > MOVED_PIXELS)


def _place_box(roi: Any, box: NDArray[np.float32], shown: SliceResult, places: SlicePlaces) -> None:
    """Lay the region of interest over a box, as thick as a slice."""
    import slicer.util
    import vtk

    x0, y0, x1, y1 = (float(value) for value in box)
    corners = prompts_to_lps(np.array([[x0, y0], [x1, y0], [x0, y1]]), shown, places.grid) @ RAS_TO_LPS[:3, :3].T
    across, down = corners[1] - corners[0], corners[2] - corners[0]
    size = np.linalg.norm(across), np.linalg.norm(down)
    x, y = across / max(size[0], 1e-6), down / max(size[1], 1e-6)
    placed = np.eye(4)
    placed[:3, :3] = np.stack([x, y, np.cross(x, y)], axis=1)
    placed[:3, 3] = corners[0] + (across + down) / 2.0
    matrix = vtk.vtkMatrix4x4()
    slicer.util.updateVTKMatrixFromArray(matrix, np.linalg.inv(parent_to_world(roi)) @ placed)
    roi.SetAndObserveObjectToNodeMatrix(matrix)
    roi.SetSize(float(size[0]), float(size[1]), places.spacing_mm)


def _box_of(result: SliceResult) -> str:
    return f"{result.lesion} {result.index}"


def _box_now(node: Any, result: SliceResult, grid: Grid) -> NDArray[np.float32] | None:
    """A slice's box: the region of interest, kept inside of its image, or the recorded one where that shows another box."""
    import slicer.util

    roi = node.GetNodeReference(BOX_ROLE)
    if result.best is None or result.best.box is None:
        return None
    if roi is None or roi.GetAttribute(BOX_OF_ATTRIBUTE) != _box_of(result):
        return result.best.box
    matrix = slicer.util.arrayFromVTKMatrix(roi.GetObjectToWorldMatrix())
    half = np.array(roi.GetSize()) / 2.0
    corners = np.array([[x, y, 0.0, 1.0] for x in (-half[0], half[0]) for y in (-half[1], half[1])])
    points = prompts_from_lps((corners @ matrix.T)[:, :3] @ RAS_TO_LPS[:3, :3].T, result, grid)
    height, width = result.best.mask.shape
    limits = np.array([width - 1, height - 1], dtype=float)
    low, high = points.min(axis=0).clip(0, limits), points.max(axis=0).clip(0, limits)
    return np.concatenate([low, high]).astype(np.float32)
