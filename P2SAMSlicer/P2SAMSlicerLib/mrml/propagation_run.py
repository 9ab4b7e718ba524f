"""One run from the scene's nodes to new nodes: hands the visits to the worker, and shows what comes back.

See :mod:`P2SAMSlicerLib.mrml.worker_run` for how it is polled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from P2SAMSlicerLib.cli.job import PropagationJob
from P2SAMSlicerLib.errors import InputError, P2SAMError, unexpected
from P2SAMSlicerLib.handover_file import SEGMENTATION_SUFFIX, VOLUME_SUFFIX, hand_over_segmentation, hand_over_volume
from P2SAMSlicerLib.models.catalogue import default_model
from P2SAMSlicerLib.mrml.record_nodes import attach_record
from P2SAMSlicerLib.mrml.result_nodes import PRIOR_ROLE, SOURCE_TAG, show_result
from P2SAMSlicerLib.mrml.result_removal import remove_result
from P2SAMSlicerLib.mrml.review_nodes import contours_to_review, touched_segments
from P2SAMSlicerLib.mrml.segment_nodes import segment_ids, segments_from_node, tag_of
from P2SAMSlicerLib.mrml.transform_nodes import moves, write_transform
from P2SAMSlicerLib.mrml.volume_nodes import HOW_TO_HARDEN, is_bent, parent_to_world, volume_from_node
from P2SAMSlicerLib.mrml.worker_run import Told, WorkerRun
from P2SAMSlicerLib.options import PropagationOptions
from P2SAMSlicerLib.visit_record import read_visit
from P2SAMSlicerLib.volume import Segmentation
from P2SAMSlicerLib.worker.client import WorkerClient
from P2SAMSlicerLib.worker.messages import Event, Finished, Propagate, VisitDone
from P2SAMSlicerLib.worker.private_folder import PrivateFolder


@dataclass(frozen=True)
class RunRequest:
    """What a person wants carried where.

    :param prior: ``vtkMRMLScalarVolumeNode`` of the prior visit.
    :param segmentation: ``vtkMRMLSegmentationNode`` on it.
    :param followups: volume nodes of the later visits.
    :param segments: ids in the segmentation; None for all.
    :param transform: ``vtkMRMLTransformNode`` that moves the prior from where it is shown onto the follow-up; None to
        register.
    :param harden: take a non-linear parent transform of the prior and its segmentation in, instead of refusing it. A follow-up
        under one is always refused: the contours would not be where it is shown.
    :param checkpoint: weights file instead of the model's own.
    """

    prior: Any
    segmentation: Any
    followups: tuple[Any, ...]
    segments: tuple[str, ...] | None = None
    options: PropagationOptions = field(default_factory=PropagationOptions)
    transform: Any = None
    harden: bool = False
    model: str = field(default_factory=default_model)
    checkpoint: Path | None = None
    allow_unverified: bool = False
    device: str = "auto"

    def check(self) -> None:
        """Refuse what cannot be run, before anything is read.

        :raises InputError: says what is missing.
        """
        if self.prior is None:
            raise InputError("choose the prior CT")
        if self.segmentation is None:
            raise InputError("choose the segmentation of the prior CT")
        if not self.followups or None in self.followups:
            raise InputError("choose at least one follow-up CT")
        if self.prior in self.followups:
            raise InputError(f"{self.prior.GetName()}: is the prior; choose another volume as follow-up")
        if len(set(self.followups)) < len(self.followups):
            raise InputError("a follow-up is chosen twice")
        of = self.segmentation.GetNodeReference(self.segmentation.GetReferenceImageGeometryReferenceRole())
        if of in self.followups:
            raise InputError(f"{self.segmentation.GetName()}: its contours are those of the follow-up {of.GetName()}")
        for node in self.followups:
            parent_to_world(node)
        for node in (self.prior, self.segmentation):
            if not self.harden and is_bent(node):
                raise InputError(
                    f"{node.GetName()}: its parent transform is not linear; {HOW_TO_HARDEN}, or switch on"
                    " 'Apply non-linear transforms of the prior' (section Advanced; harden=True in a script)"
                )
        if self.transform is not None and moves(self.transform, self.prior):
            raise InputError(
                f"{self.prior.GetName()}: it is shown under {self.transform.GetName()} already and would be moved twice;"
                " take it out of the transform, or carry without registration"
            )
        if self.segments is not None and not self.segments:
            raise InputError("choose at least one segment to carry")
        names = list(self.prior_ids())
        if not names:
            raise InputError(f"{self.segmentation.GetName()}: no segment to carry")
        self.options.check()
        self.options.check_names(names)

    def prior_ids(self) -> dict[str, str]:
        """Id of each segment that is carried, by its name.

        :raises InputError: two of one name, which results could not be told apart by; or one that is not there.
        """
        found: dict[str, str] = {}
        known = segment_ids(self.segmentation)
        for identifier in known if self.segments is None else self.segments:
            if identifier not in known:
                raise InputError(f"{self.segmentation.GetName()}: it has no segment '{identifier}'")
            name = str(self.segmentation.GetSegmentation().GetSegment(identifier).GetName())
            if identifier in found.values():
                raise InputError(f"segment '{name}' is chosen twice")
            if name in found:
                raise InputError(f"two segments are called '{name}': rename one of them")
            found[name] = identifier
        return found


class PropagationRun(WorkerRun):
    """A run on nodes; cancelled, what was shown of finished follow-ups stays.

    :ivar encoded: slices that the encoder saw; None until the run has ended.
    :raises InputError: the nodes cannot be used; nothing was started.
    :raises OutputError: the visits cannot be handed over, because the disk is full for example.
    """

    def __init__(self, client: WorkerClient, request: RunRequest, told: Told = lambda *_step: None) -> None:
        request.check()
        super().__init__(client, told)
        self._ids = request.prior_ids()
        # The nodes themselves: one may be removed while the worker works on its copy, and another get its id.
        self._followups = list(request.followups)
        self._names = [str(node.GetName()) for node in request.followups]
        self._segmentation = request.segmentation
        self._folder: PrivateFolder | None = PrivateFolder()
        self.encoded: int | None = None
        try:
            job = _hand_over(request, self._folder.path)
            self._number = client.send(Propagate(job, self._folder.path / "records"))
        except BaseException:
            self._end()
            raise

    def _take_own(self, event: Event) -> None:
        if isinstance(event, VisitDone):
            self._show(event)
        elif isinstance(event, Finished):
            self.warnings, self.encoded = event.warnings, event.encoded
            self._end()

    def _show(self, event: VisitDone) -> None:
        import slicer

        name = self._names[event.number]
        if event.record is None:
            self.problems.append(f"{name}: {event.failure}")
            return
        followup = self._followups[event.number]
        if not slicer.mrmlScene.IsNodePresent(followup):
            self.problems.append(f"{name}: was removed from the scene during the run, and so was its result")
            return
        segmentation = self._segmentation if slicer.mrmlScene.IsNodePresent(self._segmentation) else None
        node = None
        try:
            visit = read_visit(event.record)
            event.record.unlink(missing_ok=True)
            before = earlier_results(followup, segmentation)
            node = show_result(replace(visit, name=name), followup, segmentation, self._ids)
            attach_record(node, visit)
        except Exception as error:  # a damaged record; a follow-up that was moved or replaced meanwhile
            told = str(error) if isinstance(error, (P2SAMError, ValueError)) else unexpected(error)
            self.problems.append(f"{name}: its result cannot be shown; {told}")
            if node is not None:
                remove_result(node)
            return
        for each in before:
            # A contour that was not carried again this time is not replaced, and a person's work never is.
            if _sources(each) <= _sources(node) and not touched_segments(each):
                remove_result(each)
        if any(slicer.mrmlScene.IsNodePresent(each) for each in before):
            node.SetName(slicer.mrmlScene.GenerateUniqueName(node.GetName()))  # to be told from what was kept beside it
        self.nodes.append(node)

    def _end(self) -> None:
        super()._end()
        folder, self._folder = self._folder, None
        if folder is not None:
            folder.remove()


def earlier_results(followup: Any, segmentation: Any) -> list[Any]:
    """Results of earlier runs from the same contours to the same follow-up."""
    import slicer.util

    if segmentation is None:
        return []
    nodes = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
    same = [node for node in nodes if node.GetNodeReferenceID(PRIOR_ROLE) == segmentation.GetID()]
    return [node for node in same if node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole()) == followup]


def _sources(node: Any) -> set[str | None]:
    """Names of the prior's segments of which a result has contours."""
    return {tag_of(node.GetSegmentation().GetSegment(each), SOURCE_TAG) for each in contours_to_review(node)}


def reviewed_results(request: RunRequest) -> Mapping[str, Sequence[str]]:
    """What a run would find reviewed or edited already: names of the contours by the name of their node. They are kept beside
    the new ones, and never replaced."""
    found: dict[str, list[str]] = {}
    for followup in request.followups:
        for node in earlier_results(followup, request.segmentation):
            names = touched_segments(node)
            if names:
                found.setdefault(str(node.GetName()), []).extend(names)  # a person may have given two nodes one name
    return found


def _hand_over(request: RunRequest, folder: Path) -> PropagationJob:
    """The visits as files of the private folder, and the job on them."""
    prior = volume_from_node(request.prior, request.harden)
    ids = list(request.prior_ids().values())
    segments, warnings = segments_from_node(request.segmentation, request.prior, prior, ids, request.harden)
    prior = replace(prior, warnings=(*prior.warnings, *warnings))
    prior_file, contours = folder / f"prior{VOLUME_SUFFIX}", folder / f"prior{SEGMENTATION_SUFFIX}"
    hand_over_volume(prior, prior_file)
    hand_over_segmentation(Segmentation(prior.grid, tuple(segments), str(request.segmentation.GetName())), contours)
    del prior, segments
    followups, grids = [], []
    for number, node in enumerate(request.followups, start=1):
        followups.append(folder / f"followup_{number}{VOLUME_SUFFIX}")
        followup = volume_from_node(node)
        hand_over_volume(followup, followups[-1])
        grids.append(followup.grid)
        del followup
    options = request.options
    if request.transform is not None:
        file = folder / "transform.h5"
        write_transform(request.transform, grids, file)
        options = replace(options, registration="file", transform_file=file)
    return PropagationJob(
        prior_file,
        contours,
        tuple(followups),
        folder / "out",
        options=options,
        model=request.model,
        checkpoint=request.checkpoint,
        allow_unverified=request.allow_unverified,
        device=request.device,
    )
