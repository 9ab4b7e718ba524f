"""A node that is needed later, if it is still in the scene then."""

from __future__ import annotations

from typing import Any


class WatchedNode:
    """Remembers a node without keeping it alive.

    Not by its id: after a scene was closed, a node of the next one may have the same.

    :param node: ``vtkMRMLNode`` of the scene.
    """

    def __init__(self, node: Any) -> None:
        import vtk

        self._reference = vtk.vtkWeakReference()
        self._reference.Set(node)

    @property
    def node(self) -> Any:
        """The node; None if it was removed from the scene."""
        node = self._reference.Get()
        return None if node is None or node.GetScene() is None else node
