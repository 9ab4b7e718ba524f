"""Watching the contours of the scene: a decision is taken back when its contour is edited, and contours go with their visit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.mrml.followup_moves import follow
from P2SAMSlicerLib.mrml.result_nodes import is_result
from P2SAMSlicerLib.mrml.result_removal import parts_of
from P2SAMSlicerLib.mrml.review_nodes import contours_to_review, has_decision, review_state, take_back

#: (segmentation node of a result, ids of its contours whose decision was taken back)
Changed = Callable[[Any, Sequence[str]], None]

_own_writes = 0


@contextmanager
def own_writes() -> Iterator[None]:
    """What is written inside is no edit of a person's; who writes looks after the decision."""
    global _own_writes
    _own_writes += 1
    try:
        yield
    finally:
        _own_writes -= 1


class ContourWatch:
    """Watches the results of the scene from :meth:`start` to :meth:`stop`, whichever module is shown.

    :param changed: called for each node with contours whose decision was taken back. It is called in the midst of the edit,
        so it should do no more than have the panel refreshed soon.
    """

    def __init__(self, changed: Changed = lambda _node, _ids: None) -> None:
        self._changed = changed
        self._watched: dict[str, _Watched] = {}

    @property
    def nodes(self) -> list[Any]:
        """Segmentation nodes that are watched."""
        return [each.node for each in self._watched.values()]

    def start(self) -> None:
        """Watch all results that are in the scene now, and let go of those that are not.

        To be called again after a run and after a scene was loaded; what was edited meanwhile is found then.
        """
        import slicer.util

        results = [node for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode") if is_result(node)]
        for identifier, each in list(self._watched.items()):
            if each.node not in results or each.followup != _followup(each.node):
                each.forget()
                del self._watched[identifier]
        for node in results:
            if node.GetID() not in self._watched:
                self._watched[node.GetID()] = _Watched(node, self._changed)
            self._watched[node.GetID()].look()

    def stop(self) -> None:
        """Let go of the scene: before it is closed, and when the module goes."""
        for each in self._watched.values():
            each.forget()
        self._watched = {}


class _Watched:
    """One result.

    :param node: its segmentation node.
    """

    def __init__(self, node: Any, changed: Changed) -> None:
        import slicer

        self.node, self.followup, self._changed = node, _followup(node), changed
        self._looked_at: dict[str, tuple[str, int]] = {}
        self._busy = False
        self._under = None if self.followup is None else self.followup.GetTransformNodeID()
        # The node passes on what its segmentation tells, also where that is replaced.
        kinds = slicer.vtkSegmentation
        edits = (kinds.SourceRepresentationModified, kinds.RepresentationModified, kinds.SegmentModified)
        self._observed = [(node, node.AddObserver(each, self._on_edited)) for each in edits]
        if self.followup is not None:
            event = slicer.vtkMRMLTransformableNode.TransformModifiedEvent
            self._observed.append((self.followup, self.followup.AddObserver(event, self._on_moved)))

    def forget(self) -> None:
        """Observe nothing any more."""
        for node, tag in self._observed:
            node.RemoveObserver(tag)
        self._observed = []

    def look(self) -> None:
        """Take back decisions on contours that are not the present ones."""
        self._busy = True
        try:
            lost = [each for each in contours_to_review(self.node) if self._is_lost(each)]
        finally:
            self._busy = False
        if lost:
            self._changed(self.node, lost)

    def _is_lost(self, identifier: str) -> bool:
        segmentation = self.node.GetSegmentation()
        kind = segmentation.GetSourceRepresentationName()
        stored = segmentation.GetSegment(identifier).GetRepresentation(kind)
        # Names, colours and our own marks are no edits: only then are the voxels compared, which takes a moment.
        state = (kind, 0 if stored is None else int(stored.GetMTime()))
        if not has_decision(self.node, identifier) or self._looked_at.get(identifier) == state:
            return False
        self._looked_at[identifier] = state
        try:
            return review_state(self.node, identifier).changed_since
        except InputError:  # without its follow-up nobody can say that it is still the contour that was accepted
            return take_back(self.node, identifier)

    def _on_edited(self, _caller: Any, _event: str) -> None:
        if not self._busy and not _own_writes and self.node.GetScene() is not None:
            self.look()

    def _on_moved(self, _caller: Any, _event: str) -> None:
        before, self._under = self._under, self.followup.GetTransformNodeID()
        if before == self._under or self.followup.GetScene() is None or self.followup.GetScene().IsBatchProcessing():
            return
        for part in (self.node, *parts_of(self.node)):
            # What a person moved away from the follow-up stays where it was moved to.
            if part.IsA("vtkMRMLTransformableNode") and part.GetTransformNodeID() == before:
                follow(part, self.followup)


def _followup(node: Any) -> Any:
    return node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole())
