"""A whole patient from files, in the worker; what was carried is shown in the scene if that is wanted.

See :mod:`P2SAMSlicerLib.mrml.worker_run` for how it is polled.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from P2SAMSlicerLib.errors import InputError, P2SAMError, unexpected
from P2SAMSlicerLib.mrml.result_nodes import show_result
from P2SAMSlicerLib.mrml.volume_nodes import matrix_from_grid
from P2SAMSlicerLib.mrml.worker_run import Told, WorkerRun
from P2SAMSlicerLib.options import PropagationOptions
from P2SAMSlicerLib.patient.given_files import GivenFiles
from P2SAMSlicerLib.patient.plan import PatientSettings
from P2SAMSlicerLib.patient.read_result import read_result
from P2SAMSlicerLib.patient.visit_ct import read_visit_ct
from P2SAMSlicerLib.patient.visit_order import CtSource, PatientVisit
from P2SAMSlicerLib.worker.client import WorkerClient
from P2SAMSlicerLib.worker.messages import CarryPatient, Event, PatientFinished, PatientVisitDone


class PatientRun(WorkerRun):
    """A patient's run. One that was cancelled and is begun again keeps the visits that are finished.

    :param load: show each follow-up's CT and contours in the scene as soon as they are there.
    :ivar visits: label and folder of each follow-up that is done.
    :ivar report: ``report.html`` and ``report.json``.
    :raises InputError: the worker cannot be started.
    """

    def __init__(
        self, client: WorkerClient, request: CarryPatient, told: Told = lambda *_step: None, *, load: bool = True
    ) -> None:
        super().__init__(client, told)
        self._load = load
        self.visits: dict[str, Path] = {}
        self.report: tuple[Path, ...] = ()
        self._number = client.send(request)

    def _take_own(self, event: Event) -> None:
        if isinstance(event, PatientVisitDone):
            self._visit(event)
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
