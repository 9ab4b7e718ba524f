"""Runs on small visits in the scene, with a worker that answers at once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from fake_client import FakeClient
from P2SAMSlicerLib.mrml.propagation_run import PropagationRun, RunRequest
from P2SAMSlicerLib.mrml.review_nodes import contours_to_review
from P2SAMSlicerLib.mrml.segment_masks import read_mask
from P2SAMSlicerLib.mrml.volume_nodes import volume_from_node
from P2SAMSlicerLib.result import VisitResult
from P2SAMSlicerLib.volume import Segment
from scene_content import add_segmentation, add_volume, blob, oblique, voxels
from small_visits import segment_result, visit_result


def visits(followups: int = 1, **fields: Any) -> RunRequest:
    """A prior with a contour, and follow-ups that are stored in different ways."""
    prior = add_volume(oblique(1), name="prior visit")
    nodes = tuple(add_volume(oblique(2 + n), array=voxels(n + 1), name=f"visit {n + 1}") for n in range(followups))
    return RunRequest(prior, add_segmentation(prior, {"GTV": blob()}), nodes, **fields)


def carried(node: Any, roll: int = 1, **fields: Any) -> VisitResult:
    """What the worker made of a follow-up: the lesion moved by some voxels."""
    grid = volume_from_node(node).grid
    values: dict[str, Any] = {"mask": np.roll(blob(), roll, axis=2), "registered_mask": blob(), "slices": (), **fields}
    return replace(visit_result(segment_result(Segment("GTV", blob()), **values)), grid=grid)


def drawn(node: Any) -> Any:
    """The contour of a result on the follow-up's voxels."""
    (contour,) = contours_to_review(node)
    return read_mask(node, contour, node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole()))


def finished(request: RunRequest, client: FakeClient, **fields: Any) -> PropagationRun:
    """A run whose worker answers every follow-up at once."""
    run = PropagationRun(client, request)  # type: ignore[arg-type]
    for number, node in enumerate(request.followups):
        client.tell_visit(number, carried(node, **fields))
    client.tell_end()
    run.poll()
    assert not run.running
    assert run.error is None
    return run
