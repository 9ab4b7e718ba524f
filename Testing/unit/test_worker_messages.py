"""Every message comes back as it was sent, and what is no message is refused in words."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from P2SAMSlicerLib import __version__
from P2SAMSlicerLib.cli.job import PropagationJob
from P2SAMSlicerLib.edited_prompts import EditedPrompts
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.options import PropagationOptions
from P2SAMSlicerLib.patient.given_files import GivenFiles
from P2SAMSlicerLib.patient.plan import PatientSettings
from P2SAMSlicerLib.worker.messages import (
    CarryPatient,
    Clear,
    Cleared,
    Event,
    Fault,
    Finished,
    PatientFinished,
    PatientVisitDone,
    Progress,
    Propagate,
    Quit,
    Ready,
    Refused,
    Request,
    UnreadableRequest,
    Update,
    Updated,
    VisitDone,
    event_line,
    read_event,
    read_request,
    request_line,
)
from recorded_slices import followup, recorded
from test_visit_record import assert_equal

#: Letters of several alphabets, a line's end, and a byte that is no text.
ODD = Path("/Größe 名\u2028\n/a\udcff")
JOB = PropagationJob(
    ODD / "ct", ODD / "seg", (ODD / "1", ODD / "2"), ODD, ("名|", ""), PropagationOptions(seed=3, negatives=(1, 45)), threads=2
)
EDIT = EditedPrompts(3, np.array([[1.5, 2.25]], np.float32), np.array([1]), np.array([0, 0, 3, 3.5], np.float32), 2)
BARE = EditedPrompts(3, np.zeros((0, 2), np.float32), np.zeros(0, np.int64), np.array([0, 0, 3, 3], np.float32))
SLICES = tuple(recorded(followup()))
SETTINGS = PatientSettings("名", ("2", "3"), ("GTV",), "approved", PropagationOptions(seed=4), threads=2, identified=True)
PATIENT_VISIT = PatientVisitDone(7, "visit_2", "done", ODD, (ODD, ODD / "2"), True)
VISIT = VisitDone(7, 0, 2, "名", ODD, None)

REQUESTS: list[Request] = [
    *(Propagate(JOB, ODD), Clear(), Quit()),
    CarryPatient(SETTINGS, ODD, folder=ODD, overwrite=True),
    CarryPatient(PatientSettings(), ODD, files=GivenFiles(ODD, ODD / "rs", (ODD,))),
    Update(ODD, SLICES, (EDIT, BARE), ODD, ODD, "lite_medsam", ODD, True, "cpu", "float32", 1),
]
EVENTS: list[Event] = [
    *(Ready(__version__, 12), Progress(1, "encode", 1, 2, "lesion 1"), VISIT, replace(VISIT, record=None, failure="x\ny")),
    Finished(7, (VISIT, VISIT), (ODD,), ("w",), 1.5, 3),
    Updated(8, SLICES[:1], ODD, ("n",), 0.25, 0, SLICES[1:]),
    *(PATIENT_VISIT, replace(PATIENT_VISIT, failure="x\ny"), PatientFinished(7, "visit_1", 4, (PATIENT_VISIT,), (ODD,), 2.5)),
    *(Cleared(9), Refused(None, "InputError", "ü"), Refused(3, "ModelError", ""), Fault(None, "x")),
]


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda each: type(each).__name__)
def test_a_request_is_one_line_of_ascii_and_comes_back(request_: Request) -> None:
    line = request_line(request_, 5)
    assert line.isascii()
    assert line.count(b"\n") == 1
    number, found = read_request(line)
    assert number == 5
    assert_equal(found, request_)


@pytest.mark.parametrize("event", EVENTS, ids=lambda each: type(each).__name__)
def test_an_event_is_one_line_of_ascii_and_comes_back(event: Event) -> None:
    line = event_line(event)
    assert line.isascii()
    assert line.count(b"\n") == 1
    assert_equal(read_event(line), event)


def test_relative_paths_are_sent_as_absolute_ones() -> None:
    _, found = read_request(request_line(Propagate(replace(JOB, out=Path("results")), Path("records")), 1))
    assert isinstance(found, Propagate)
    assert (found.job.out, found.records) == (Path.cwd() / "results", Path.cwd() / "records")


def harmed(path: tuple[Any, ...], value: Any) -> bytes:
    """A request for an update with one value in the place of another; the last step may be a new one."""
    content = json.loads(request_line(REQUESTS[-1] if path[0] != "job" else REQUESTS[0], 5))
    place = content
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return json.dumps(content).encode()


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("id",), True, "no number as its id"),
        (("id",), 1.5, "no number as its id"),
        (("protocol",), True, "protocol True"),
        (("protocol",), 2, "protocol 2"),
        (("request",), ["clear"], "unknown request"),
        (("followup",), "", "is no Path"),
        (("followup",), "a\0b", "is no Path"),
        (("followup",), 3, "is no Path"),
        (("slices",), {}, "is no list"),
        (("slices", 0), None, "is no object"),
        (("slices", 0, "chosen"), 99, "cannot be read"),
        (("edits", 0, "lesion"), "1", "is no int"),
        (("edits", 0, "points"), [[1, 2, 3]], "no points, labels and box"),
        (("edits", 0, "box"), [1, 2], "no points, labels and box"),
        (("edits", 0, "labels"), [10**30], "no points, labels and box"),
        (("edits", 0, "more"), 1, "unknown field 'more'"),
        (("threads",), True, "is no int"),
        (("allow_unverified",), 1, "is no bool"),
        (("job", "options"), [], "is no object"),
        (("job", "options", "margin_mm"), float("nan"), "is no float"),
        (("job", "options", "mode"), "magic", "none of"),
        (("job", "followups"), "abc", "is no list"),
        (("job", "shell"), "rm", "unknown field 'shell'"),
    ],
)
def test_a_value_of_another_kind_is_refused_with_its_name(path: tuple[Any, ...], value: Any, message: str) -> None:
    with pytest.raises(UnreadableRequest, match=message) as refused:
        read_request(harmed(path, value))
    assert refused.value.request == (5 if path[0] not in ("id", "protocol") else None)
    assert len(str(refused.value)) < 1000


def test_an_event_of_another_version_and_one_that_is_unknown_are_refused() -> None:
    with pytest.raises(InputError, match="version 9"):
        read_event(event_line(Ready("9.9.9", 1)))
    for line in (b'{"protocol": 1, "event": "danced"}', b'{"protocol": 1, "event": {}}', b"null", b"", b"\xff"):
        with pytest.raises(InputError):
            read_event(line)
