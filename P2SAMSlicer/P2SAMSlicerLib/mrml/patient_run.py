"""A whole patient from files, in the worker; what was carried is shown in the scene if that is wanted.

As :mod:`P2SAMSlicerLib.mrml.propagation_run` it never waits, and touches nodes from the caller's thread only.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from P2SAMSlicerLib.errors import InputError, P2SAMError, unexpected
from P2SAMSlicerLib.mrml.result_nodes import show_result
from P2SAMSlicerLib.mrml.volume_nodes import matrix_from_grid
from P2SAMSlicerLib.options import PropagationOptions
from P2SAMSlicerLib.patient.given_files import GivenFiles
from P2SAMSlicerLib.patient.plan import PatientSettings
from P2SAMSlicerLib.patient.read_result import read_result
from P2SAMSlicerLib.patient.visit_ct import read_visit_ct
from P2SAMSlicerLib.patient.visit_order import CtSource, PatientVisit
from P2SAMSlicerLib.worker.client import WorkerClient
from P2SAMSlicerLib.worker.messages import (
    CarryPatient,
    Event,
    PatientFinished,
    PatientVisitDone,
    Progress,
    Refused,
    WorkerFailed,
)

#: (stage, steps done, steps in all, a detail for people)
Told = Callable[[str, int, int, str], None]


class PatientRun:
    """A run that is under way, or has ended.

    :param client: the worker; it stays there for the next run.
    :param told: called with every step.
    :param load: show each follow-up's CT and contours in the scene as soon as they are there.
    :ivar nodes: segmentation nodes that are shown.
    :ivar problems: follow-ups to which nothing could be carried, or which cannot be shown, and why.
    :ivar visits: label and folder of each follow-up that is done.
    :ivar report: ``report.html`` and ``report.json``.
    :ivar error: why the whole run failed; None if it did not.
    :raises InputError: the worker cannot be started.
    """

    def __init__(
        self, client: WorkerClient, request: CarryPatient, told: Told = lambda *_step: None, *, load: bool = True
    ) -> None:
        self._client, self._told, self._load = client, told, load
        self._events: list[Event] = []
        self.nodes: list[Any] = []
        self.problems: list[str] = []
        self.visits: dict[str, Path] = {}
        self.report: tuple[Path, ...] = ()
        self.warnings: tuple[str, ...] = ()
        self.error: str | None = None
        self._number: int | None = client.send(request)

    @property
    def running(self) -> bool:
        """Whether there is still something to come."""
        return self._number is not None

    def poll(self) -> None:
        """Take in what the worker told since the last time."""
        if not self.running:
            return
        # Kept, and taken one by one: an error in the caller's own function must not lose what comes after it.
        self._events += self._client.poll()
        while self.running and self._events:
            self._take(self._events.pop(0))

    def cancel(self) -> None:
        """End the run and the worker with it. Visits that are finished stay, and the same run again keeps them."""
        if self.running:
            self._client.cancel()
            self.error = "cancelled"
            self._end()

    def _take(self, event: Event) -> None:
        if isinstance(event, WorkerFailed):
            if self._number in event.requests:
                self.error = "\n".join((event.message, *event.log))
                self._end()
        elif getattr(event, "request", None) != self._number:
            return  # of a request that was given up
        elif isinstance(event, Progress):
            self._told(event.stage, event.done, event.total, event.message)
        elif isinstance(event, PatientVisitDone):
            self._visit(event)
        elif isinstance(event, Refused):
            self.error = event.message
            self._end()
        elif isinstance(event, PatientFinished):
            self.report = event.report
            self._end()

    def _visit(self, event: PatientVisitDone) -> None:
        if event.failure is not None:
            self.problems.append(f"{event.label}: {event.failure}")
            return
        self.visits[event.label] = event.folder
        if not self._load:
            return
        try:
            self.nodes.append(_show(event))
        except Exception as error:  # a file that was changed meanwhile; a CT too large for this program's memory
            told = str(error) if isinstance(error, (P2SAMError, ValueError)) else unexpected(error)
            self.problems.append(f"{event.label}: its result cannot be shown; {told}")

    def _end(self) -> None:
        self._events = []
        self._number = None


def patient_request(
    patient: Any,
    files: Any,
    out: Any,
    segments: tuple[str, ...],
    options: PropagationOptions | None,
    *,
    overwrite: bool = False,
    **settings: Any,
) -> CarryPatient:
    """What the worker is asked, from what a script says.

    :param patient: folder with the patient's visits; None if files are named.
    :param files: prior CT, its contours and the follow-ups (one, or several); None if a folder is searched.
    :param settings: further fields of :class:`~P2SAMSlicerLib.patient.plan.PatientSettings`.
    :raises InputError: both or neither are named, or they are no paths; settings that mean nothing.
    """
    if (patient is None) == (files is None):
        raise InputError("name either the patient's folder, or prior CT, prior contours and follow-ups")
    chosen = PatientSettings(segments=segments, options=options or PropagationOptions(), **settings)
    chosen.check()
    if files is None:
        return CarryPatient(chosen, _path(out, "out"), folder=_path(patient, "patient"), overwrite=overwrite)
    ct, contours, followups = files
    several = tuple(followups) if isinstance(followups, (list, tuple)) else (followups,)
    given = GivenFiles(
        _path(ct, "priorCt"), _path(contours, "priorContours"), tuple(_path(each, "followUps") for each in several)
    )
    return CarryPatient(chosen, _path(out, "out"), files=given, overwrite=overwrite)


def _path(value: Any, what: str) -> Path:
    if not isinstance(value, (str, os.PathLike)) or not os.fspath(value):
        raise InputError(f"{what}: a file or folder is wanted, and not {type(value).__name__}")
    return Path(value).expanduser()


def _show(event: PatientVisitDone) -> Any:
    """Add a follow-up's CT and its contours to the scene.

    :returns: the segmentation node.
    """
    import slicer.util

    visit = PatientVisit(1, event.label, None, None, CtSource(event.ct, event.dicom, event.resample))
    volume, _ = read_visit_ct(visit)
    result = read_result(event.folder, volume.grid)
    node = slicer.util.addVolumeFromArray(volume.array, ijkToRAS=matrix_from_grid(volume.grid), name=f"{event.label} CT")
    try:
        return show_result(result, node, None, {})
    except BaseException:
        slicer.mrmlScene.RemoveNode(node)
        raise
