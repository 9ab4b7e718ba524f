"""Edited prompts go to the worker, and the new contour of the slice and its neighbours comes back into the segment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from P2SAMSlicerLib.edited_prompts import EditedPrompts
from P2SAMSlicerLib.edited_segment import edited_figures
from P2SAMSlicerLib.errors import InputError, P2SAMError, unexpected
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.handover_file import (
    SEGMENTATION_SUFFIX,
    VOLUME_SUFFIX,
    hand_over_segmentation,
    hand_over_volume,
    read_handed_segmentation,
)
from P2SAMSlicerLib.mrml.contour_watch import own_writes
from P2SAMSlicerLib.mrml.record_nodes import check_lies_as_recorded, record_of, replace_slices
from P2SAMSlicerLib.mrml.result_nodes import SOURCE_TAG, comparison_of
from P2SAMSlicerLib.mrml.review_nodes import forget_seen, review_state
from P2SAMSlicerLib.mrml.segment_masks import read_mask, write_mask
from P2SAMSlicerLib.mrml.segment_nodes import tag_of
from P2SAMSlicerLib.mrml.slice_places import SlicePlaces
from P2SAMSlicerLib.mrml.volume_nodes import volume_from_node
from P2SAMSlicerLib.volume import BoolArray, Segment, Segmentation
from P2SAMSlicerLib.worker.client import WorkerClient
from P2SAMSlicerLib.worker.messages import Refused, Update, Updated, WorkerFailed
from P2SAMSlicerLib.worker.private_folder import PrivateFolder


@dataclass(frozen=True)
class ModelChoice:
    """Which model answers, as of :class:`~P2SAMSlicerLib.mrml.propagation_run.RunRequest`."""

    model: str
    checkpoint: Path | None = None
    allow_unverified: bool = False
    device: str = "auto"


@dataclass(frozen=True)
class _Waiting:
    """An update whose answer has not come yet.

    :param request: its number.
    :param node: segmentation node of the result; the node itself, because another one may get its id.
    :param mask: the contour that was handed over.
    """

    request: int
    node: Any
    identifier: str
    mask: BoolArray


class PromptUpdates:
    """Updates of contours, one after the other; follow-ups are handed to the worker once and kept there.

    :param client: the worker.
    """

    def __init__(self, client: WorkerClient) -> None:
        self._client = client
        self._folder: PrivateFolder | None = None
        self._handed: dict[str, tuple[tuple[int, Grid], Path]] = {}
        self._waiting: _Waiting | None = None
        self.error: str | None = None
        self.notes: tuple[str, ...] = ()
        self.seconds: float | None = None
        self.encoded: int | None = None

    @property
    def running(self) -> bool:
        """Whether an answer is waited for."""
        return self._waiting is not None

    def start(self, node: Any, identifier: str, edits: Sequence[EditedPrompts], model: ModelChoice) -> None:
        """Ask for the contour with these prompts; :meth:`poll` puts it into the segment.

        :param node: segmentation node of the result.
        :param identifier: of the segment.
        :param edits: see :func:`P2SAMSlicerLib.mrml.prompt_nodes.edited_prompts`; at least one.
        :raises InputError: nothing was edited, there is no record, or an update is under way.
        :raises OutputError: the contour cannot be handed over.
        """
        if self.running:
            raise InputError("an update is under way")
        if not edits:
            raise InputError("no point or box was changed")
        record, name = record_of(node), _source(node, identifier)
        if record is None or name not in record.slices:
            raise InputError(f"{node.GetName()}: nothing is recorded of its prompts")
        followup = node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole())
        if followup is None:
            raise InputError(f"{node.GetName()}: its follow-up volume is no longer in the scene")
        grid = SlicePlaces.of(followup).grid
        check_lies_as_recorded(node, grid)
        if self._folder is None:
            self._folder = PrivateFolder()
        ct = self._followup_file(followup)
        mask = read_mask(node, identifier, followup)
        contour = self._folder.path / f"contour{SEGMENTATION_SUFFIX}"
        hand_over_segmentation(Segmentation(grid, (Segment(name, mask),), "contour"), contour)
        request = Update(
            ct,
            record.slices[name],
            tuple(edits),
            contour,
            self._folder.path / "updated",
            model.model,
            model.checkpoint,
            model.allow_unverified,
            model.device,
        )
        self.error, self.notes, self.seconds, self.encoded = None, (), None, None
        self._waiting = _Waiting(self._client.send(request), node, identifier, mask)

    def poll(self) -> None:
        """Take in the answer if it came."""
        waiting = self._waiting
        if waiting is None:
            return
        for event in self._client.poll():
            # A worker that ended before this update was sent is told with its first events.
            if isinstance(event, WorkerFailed) and waiting.request in event.requests:
                self.error, self._waiting = "\n".join((event.message, *event.log)), None
            elif isinstance(event, Refused) and event.request == waiting.request:
                self.error, self._waiting = event.message, None
            elif isinstance(event, Updated) and event.request == waiting.request:
                self._waiting = None
                try:
                    self._take(event, waiting)
                except P2SAMError as error:
                    self.error = str(error)
                except Exception as error:  # an update has to come to its end
                    self.error = unexpected(error)

    def close(self) -> None:
        """Forget what was handed over; an update that is under way is ended, with the worker."""
        if self.running:
            self._client.cancel()  # it would write into the folder that is removed here
        self._waiting = None
        folder, self._folder = self._folder, None
        self._handed = {}
        if folder is not None:
            folder.remove()

    def _take(self, event: Updated, waiting: _Waiting) -> None:
        import slicer

        node, identifier = waiting.node, waiting.identifier
        there = slicer.mrmlScene.IsNodePresent(node) and node.GetSegmentation().GetSegment(identifier) is not None
        if not there:
            raise InputError("the contour was removed from the scene meanwhile")
        followup = node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole())
        if followup is None:
            raise InputError(f"{node.GetName()}: its follow-up was removed from the scene meanwhile")
        mask = read_handed_segmentation(event.mask).segments[0].mask
        event.mask.unlink(missing_ok=True)
        now = read_mask(node, identifier, followup)
        if not now.shape == mask.shape == waiting.mask.shape:
            raise InputError(f"{node.GetName()}: its follow-up was replaced meanwhile")
        # Of what was painted while the worker answered nothing is lost that the answer does not change.
        changed = mask != waiting.mask
        now[changed] = mask[changed]
        source = _source(node, identifier)
        beside = comparison_of(node, source)
        registered = None if beside is None else read_mask(node, beside, followup)
        grid = SlicePlaces.of(followup).grid
        # First, because it refuses where the record is gone.
        replace_slices(
            node,
            source,
            (*event.slices, *event.judged),
            lambda entry, slices: edited_figures(entry, slices, now, registered, grid),
        )
        with own_writes():
            write_mask(now, node, identifier, followup)
            # What changed has to be looked at again, and what was accepted was another contour.
            forget_seen(node, identifier, [each.index for each in event.slices])
            review_state(node, identifier)
        self.notes, self.seconds, self.encoded = event.notes, event.seconds, event.encoded

    def _followup_file(self, followup: Any) -> Path:
        """The follow-up's handed-over file; written again only if the node changed."""
        assert self._folder is not None  # made by start
        changed = (int(followup.GetImageData().GetMTime()), SlicePlaces.of(followup).grid)
        known = self._handed.get(followup.GetID())
        if known is not None and known[0] == changed and known[1].exists():
            return known[1]
        path = self._folder.path / f"followup_{changed[0]}_{len(self._handed)}{VOLUME_SUFFIX}"
        if known is not None:
            known[1].unlink(missing_ok=True)  # as large as the CT, and nobody asks for it again
        hand_over_volume(volume_from_node(followup), path)
        self._handed[followup.GetID()] = (changed, path)
        return path


def _source(node: Any, identifier: str) -> str:
    return tag_of(node.GetSegmentation().GetSegment(identifier), SOURCE_TAG) or ""
