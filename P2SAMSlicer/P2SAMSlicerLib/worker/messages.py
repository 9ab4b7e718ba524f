"""What the worker is asked and what it tells: one JSON object a line, ASCII only, either way.

A request line has ``protocol``, ``id`` (a number of the caller's choice that comes back with all that belongs to it),
``request`` (its name) and the request's fields; an event line has ``protocol``, ``event`` (its name) and the event's fields.
Unknown names, fields and protocols are refused in words. The worker's first line is :class:`Ready`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from P2SAMSlicerLib import __version__
from P2SAMSlicerLib.cli.job import PropagationJob
from P2SAMSlicerLib.edited_prompts import EditedPrompts
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.models.catalogue import default_model
from P2SAMSlicerLib.patient.given_files import GivenFiles
from P2SAMSlicerLib.patient.plan import PatientSettings
from P2SAMSlicerLib.result import SliceResult
from P2SAMSlicerLib.worker.plain_values import from_plain, to_plain

#: Raised when a message changes; a worker and a client of different ones do not talk.
PROTOCOL = 1
#: A line longer than this is no message of ours.
MOST_BYTES = 512_000_000


@dataclass(frozen=True)
class Propagate:
    """Carry segments as ``p2sam propagate`` does; answered by :class:`Progress`, a :class:`VisitDone` each, :class:`Finished`.

    :param job: its paths may be files of :mod:`P2SAMSlicerLib.handover_file` too.
    :param records: private folder for the visits' records, see :mod:`P2SAMSlicerLib.visit_record`; made if needed.
    """

    job: PropagationJob
    records: Path


@dataclass(frozen=True)
class Update:
    """Decode slices whose prompts a person edited; answered by :class:`Updated`.

    :param followup: the CT of the slices, any file that a job may name.
    :param slices: all slices of the segment as they are now.
    :param edits: at least one.
    :param mask: handed-over segmentation whose one segment is the present contour, on the follow-up's grid.
    :param out: private folder for the new contour; made if needed.
    """

    followup: Path
    slices: tuple[SliceResult, ...]
    edits: tuple[EditedPrompts, ...]
    mask: Path
    out: Path
    model: str = field(default_factory=default_model)
    checkpoint: Path | None = None
    allow_unverified: bool = False
    device: str = "auto"
    precision: str = "auto"
    threads: int | None = None


@dataclass(frozen=True)
class CarryPatient:
    """Carry contours through a patient's visits as ``p2sam patient`` does.

    Answered by :class:`Progress`, a :class:`PatientVisitDone` each, :class:`PatientFinished`.

    :param folder: with the patient's visits; None if files are named.
    :param files: None if a folder is searched.
    """

    settings: PatientSettings
    out: Path
    folder: Path | None = None
    files: GivenFiles | None = None
    overwrite: bool = False


@dataclass(frozen=True)
class Clear:
    """Forget the remembered features and volumes; answered by :class:`Cleared`."""


@dataclass(frozen=True)
class Quit:
    """End the worker; not answered."""


Request = Propagate | Update | CarryPatient | Clear | Quit


@dataclass(frozen=True)
class Ready:
    """The worker listens.

    :param version: of the library that it runs.
    :param pid: its own, which a launcher's child has too.
    """

    version: str
    pid: int


@dataclass(frozen=True)
class Progress:
    """One step of a stage is done, see :class:`P2SAMSlicerLib.progress.ProgressEvent`."""

    request: int
    stage: str
    done: int
    total: int
    message: str = ""


@dataclass(frozen=True)
class VisitDone:
    """One follow-up is done, or failed; its files come with :class:`Finished`.

    :param number: of the follow-up, from 0, in the order of the job.
    :param record: file for :func:`P2SAMSlicerLib.visit_record.read_visit`; None where it failed.
    :param failure: why, in one line; None where it did not fail.
    """

    request: int
    number: int
    total: int
    name: str
    record: Path | None
    failure: str | None = None


@dataclass(frozen=True)
class Finished:
    """A propagation is done, and its files are written.

    :param visits: one a follow-up, in order.
    :param files: as of the command line.
    :param warnings: about the prior.
    :param encoded: images that went through the encoder; all others were remembered.
    """

    request: int
    visits: tuple[VisitDone, ...]
    files: tuple[Path, ...]
    warnings: tuple[str, ...]
    seconds: float
    encoded: int


@dataclass(frozen=True)
class Updated:
    """Edited prompts are decoded.

    :param slices: those that changed: the edited ones and their neighbours.
    :param mask: handed-over segmentation with the segment's new contour.
    :param notes: what the model did not follow, in words; empty if it followed.
    :param judged: slices whose contour stays and whose signals and priority do not, because a neighbour's contour changed.
    """

    request: int
    slices: tuple[SliceResult, ...]
    mask: Path
    notes: tuple[str, ...]
    seconds: float
    encoded: int
    judged: tuple[SliceResult, ...] = ()


@dataclass(frozen=True)
class PatientVisitDone:
    """One follow-up of a patient is done.

    :param outcome: ``done``, ``kept`` or ``failed``.
    :param folder: of the visit, with ``visit.json``.
    :param ct: files of its CT.
    :param dicom: they are DICOM.
    :param failure: why, in one line; None where it did not fail.
    :param resample: see :class:`P2SAMSlicerLib.patient.visit_order.CtSource`.
    """

    request: int
    label: str
    outcome: str
    folder: Path
    ct: tuple[Path, ...]
    dicom: bool
    failure: str | None = None
    resample: bool = False


@dataclass(frozen=True)
class PatientFinished:
    """All of a patient's follow-ups are done, and the report is written.

    :param prior: label of the visit that contours were carried from.
    :param found: number of the patient's visits.
    :param report: its files.
    """

    request: int
    prior: str
    found: int
    visits: tuple[PatientVisitDone, ...]
    report: tuple[Path, ...]
    seconds: float


@dataclass(frozen=True)
class Cleared:
    """Nothing is remembered any more."""

    request: int


@dataclass(frozen=True)
class Refused:
    """A request cannot be done; the worker goes on.

    :param request: None where the line could not be read so far.
    :param kind: the error's class, for example ``InputError``, ``ModelError`` or ``OutputError``.
    :param message: one line for people.
    """

    request: int | None
    kind: str
    message: str


@dataclass(frozen=True)
class Fault:
    """The worker's last word before it ends by a fault; a client makes :class:`WorkerFailed` of it."""

    request: int | None
    message: str


@dataclass(frozen=True)
class WorkerFailed:
    """The worker has ended, and not because it was told to. Made by the client; the next request starts a new worker.

    :param requests: those that are lost with it.
    :param message: one line for people.
    :param log: the last lines of its standard error.
    """

    requests: tuple[int, ...]
    message: str
    log: tuple[str, ...] = ()


Event = (
    Ready
    | Progress
    | VisitDone
    | Finished
    | Updated
    | PatientVisitDone
    | PatientFinished
    | Cleared
    | Refused
    | Fault
    | WorkerFailed
)

_REQUESTS: dict[str, Any] = {
    "propagate": Propagate,
    "update": Update,
    "patient": CarryPatient,
    "clear": Clear,
    "quit": Quit,
}
_EVENTS: dict[str, Any] = {
    "ready": Ready,
    "progress": Progress,
    "visit done": VisitDone,
    "finished": Finished,
    "updated": Updated,
    "patient visit done": PatientVisitDone,
    "patient finished": PatientFinished,
    "cleared": Cleared,
    "refused": Refused,
    "fault": Fault,
}


class UnreadableRequest(InputError):
    """A request line that cannot be read.

    :param request: its id, where that could be read.
    """

    def __init__(self, message: str, request: int | None = None) -> None:
        super().__init__(message)
        self.request = request


def request_line(request: Request, identifier: int) -> bytes:
    """A request as a line."""
    return _line({"protocol": PROTOCOL, "id": identifier, "request": _name(_REQUESTS, request), **to_plain(request)})


def event_line(event: Event) -> bytes:
    """An event as a line."""
    return _line({"protocol": PROTOCOL, "event": _name(_EVENTS, event), **to_plain(event)})


def read_request(line: bytes) -> tuple[int, Request]:
    """The request of a line, and its id.

    :raises UnreadableRequest: no JSON object, another protocol, an unknown request or field.
    """
    identifier = None
    try:
        content = _content(line)
        found = content.pop("id", None)
        if isinstance(found, bool) or not isinstance(found, int):
            raise InputError(f"the request has no number as its id, but {found!r:.80}")
        identifier = found
        name = content.pop("request", None)
        if not isinstance(name, str) or name not in _REQUESTS:
            raise InputError(f"unknown request {name!r:.80}; known are: {', '.join(_REQUESTS)}")
        return identifier, from_plain(_REQUESTS[name], content, name)
    except (InputError, RecursionError) as error:
        raise UnreadableRequest(str(error), identifier) from error


def read_event(line: bytes) -> Event:
    """The event of a line.

    :raises InputError: no JSON object, another protocol, an unknown event or field.
    """
    content = _content(line)
    name = content.pop("event", None)
    if not isinstance(name, str) or name not in _EVENTS:
        raise InputError(f"unknown event {name!r:.80}")
    event: Event = from_plain(_EVENTS[name], content, name)
    if isinstance(event, Ready) and event.version != __version__:
        raise InputError(f"the worker is version {event.version:.80}, and this is version {__version__}; restart")
    return event


def _name(known: dict[str, Any], message: Any) -> str:
    return next(name for name, kind in known.items() if kind is type(message))


def _line(content: dict[str, Any]) -> bytes:
    # ASCII, so that no encoding of a pipe can harm a path; a path that is no text keeps its escaped surrogates.
    return json.dumps(content, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode("ascii") + b"\n"


def _content(line: bytes) -> dict[str, Any]:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"not a line of JSON: {line[:80]!r}") from error
    if not isinstance(content, dict):
        raise InputError(f"not a JSON object: {line[:80]!r}")
    protocol = content.pop("protocol", None)
    if protocol != PROTOCOL or isinstance(protocol, bool):
        raise InputError(f"protocol {protocol!r:.80}, where {PROTOCOL} is spoken")
    return content
