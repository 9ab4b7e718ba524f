"""A whole patient in the worker: from a folder or from named files, told visit by visit, ended in the middle."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.patient.given_files import GivenFiles, visits_of_files
from P2SAMSlicerLib.patient.plan import PatientSettings
from P2SAMSlicerLib.patient.read_result import read_result
from P2SAMSlicerLib.patient.visit_folder import read_visit_folder
from P2SAMSlicerLib.result import Outcome
from P2SAMSlicerLib.result_files import ALGORITHM_NAME_TAG, followup_segments
from P2SAMSlicerLib.run_progress import ProgressEstimate
from P2SAMSlicerLib.worker.client import WorkerClient
from P2SAMSlicerLib.worker.messages import CarryPatient, Event, PatientFinished, PatientVisitDone, Progress
from P2SAMSlicerLib.worker.server import Worker
from patient_phantom import GRID, CopyEngine, gtv, write_dicom_visit, write_visit
from small_visits import without_contour

FAKE = Path(__file__).with_name("fake_worker.py")


@pytest.fixture
def patient(tmp_path: Path) -> Path:
    """Three visits in plain files, the first contoured."""
    write_visit(tmp_path / "p" / "2024-01-01", [gtv()])
    for month in (2, 3):
        write_visit(tmp_path / "p" / f"2024-0{month}-01")
    return tmp_path / "p"


def asked(request: CarryPatient) -> list[Event]:
    """What a worker without a process tells."""
    events: list[Event] = []
    pipes: Any = SimpleNamespace(tell=events.append)
    Worker(pipes).answer(5, request)
    assert all(getattr(event, "request", None) == 5 for event in events)
    return events


def files_of(patient: Path) -> GivenFiles:
    first, *later = sorted(patient.iterdir())
    return GivenFiles(first / "ct.nrrd", first / "contours.seg.nrrd", tuple(each / "ct.nrrd" for each in later))


@pytest.mark.parametrize("named", [False, True])
def test_each_visit_is_told_when_it_is_done_and_the_end_tells_all(
    copy_engine: CopyEngine, patient: Path, tmp_path: Path, named: bool
) -> None:
    copy_engine.faults = {"visit_3": InputError("visit_3: it shows no body")}
    where: dict[str, Any] = {"files": files_of(patient)} if named else {"folder": patient}
    events = asked(CarryPatient(PatientSettings(segments=("GTV",)), tmp_path / "out", **where))
    visits = [event for event in events if isinstance(event, PatientVisitDone)]
    assert [(each.label, each.outcome, each.failure) for each in visits] == [
        ("visit_2", "done", None),
        ("visit_3", "failed", "it shows no body"),
    ]
    assert visits[0].ct == (patient / "2024-02-01" / "ct.nrrd",)
    assert not visits[0].dicom
    finished = events[-1]
    assert isinstance(finished, PatientFinished)
    assert (finished.prior, finished.found, finished.visits) == ("visit_1", 3, tuple(visits))
    assert [path.name for path in finished.report] == ["report.html", "report.json"]
    assert "registration" in {event.stage for event in events if isinstance(event, Progress)}
    assert read_visit_folder(visits[0].folder)["outcome"] == "done"


def test_a_kept_visit_is_told_as_such(copy_engine: CopyEngine, patient: Path, tmp_path: Path) -> None:
    request = CarryPatient(PatientSettings(), tmp_path / "out", folder=patient)
    for expected in ("done", "kept"):
        found = [event for event in asked(request) if isinstance(event, PatientVisitDone)]
        assert {event.outcome for event in found} == {expected}
    assert copy_engine.loaded == 1


def test_a_lack_of_memory_ends_the_worker_after_it_was_recorded(copy_engine: CopyEngine, patient: Path, tmp_path: Path) -> None:
    copy_engine.faults = {"visit_2": MemoryError()}
    with pytest.raises(MemoryError, match="not enough memory"):
        asked(CarryPatient(PatientSettings(), tmp_path / "out", folder=patient))
    assert read_visit_folder(tmp_path / "out" / "visit_2")["reason"] == "not enough memory"


def test_either_a_folder_or_files_are_named(patient: Path, tmp_path: Path) -> None:
    for where in ({}, {"folder": patient, "files": files_of(patient)}):
        with pytest.raises(InputError, match="either the patient's folder or the files"):
            asked(CarryPatient(PatientSettings(), tmp_path / "out", **where))  # type: ignore[arg-type]


def test_named_dicom_folders_become_visits_with_their_dates(tmp_path: Path) -> None:
    first = write_dicom_visit(tmp_path / "a", date(2024, 1, 10), [gtv()], ApprovalStatus="APPROVED")
    second = write_dicom_visit(tmp_path / "b", date(2024, 2, 20))
    found = visits_of_files(GivenFiles(first / "ct", first, (second,)))
    assert [(each.label, each.day, each.ct.dicom) for each in found] == [("visit_1", 0, True), ("visit_2", 41, True)]
    assert [source.approved for source in found[0].contours] == [True]
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="the CT of follow-up 1: its folder holds no DICOM CT series"):
        visits_of_files(GivenFiles(first, first, (tmp_path / "empty",)))
    with pytest.raises(InputError, match="the CT of follow-up 2: no such file or folder"):
        visits_of_files(GivenFiles(first, first, (second, tmp_path / "absent")))
    with pytest.raises(InputError, match="the prior's CT: its folder holds 2 DICOM CT series"):
        visits_of_files(GivenFiles(tmp_path, first, (second,)))
    with pytest.raises(InputError, match="no follow-up CT is given"):
        visits_of_files(GivenFiles(first, first, ()))


def test_contours_of_this_tool_are_refused_where_they_are_named_too(tmp_path: Path) -> None:
    first = write_visit(tmp_path / "a", [gtv(tags={ALGORITHM_NAME_TAG: "P2SAMSlicer 1.0 (stub)"})])
    with pytest.raises(InputError, match="drawn by this tool, and nobody has accepted them"):
        visits_of_files(GivenFiles(first / "ct.nrrd", first / "contours.seg.nrrd", (first / "ct.nrrd",)))


def test_a_visits_folder_gives_its_result_back(copy_engine: CopyEngine, patient: Path, tmp_path: Path) -> None:
    def one_is_gone(reference: str, source: Any, followup: Any) -> Any:
        if source.name == "gone":
            return without_contour(source, Outcome.NO_LESION, "gone", registered_mask=source.mask)
        return copy_engine.copied(reference, source, followup)

    copy_engine.answer = one_is_gone
    write_visit(patient / "2024-01-01", [gtv(color=(1.0, 0.5, 0.0)), gtv(6.0, "gone")])
    asked(CarryPatient(PatientSettings(), tmp_path / "out", folder=patient))
    folder = tmp_path / "out" / "visit_2"
    result = read_result(folder, GRID)
    assert [(each.source.name, each.outcome) for each in result.segments] == [
        ("GTV", Outcome.FOUND),
        ("gone", Outcome.NO_LESION),
    ]
    assert result.segments[0].mask is not None
    assert np.array_equal(result.segments[0].mask, gtv().mask)
    assert np.array_equal(result.segments[1].registered_mask, gtv(6.0).mask)
    assert [each.name for each in followup_segments(result)] == ["GTV", "GTV registered prior", "gone registered prior"]
    with pytest.raises(InputError, match="visit_2: its contours are not on the voxels of the CT"):
        read_result(folder, type(GRID)((9, 24, 24), GRID.spacing, GRID.origin))
    (folder / "visit_2.seg.nrrd").unlink()
    with pytest.raises(InputError, match="a contour of 'GTV' is missing"):
        read_result(folder, GRID)
    (folder / "summary.json").write_text("{}")
    with pytest.raises(InputError, match="visit_2: its results cannot be read"):
        read_result(folder, GRID)


def test_the_share_of_a_run_counts_the_follow_ups_that_are_found() -> None:
    estimate = ProgressEstimate(1, 1)
    shares = []
    for number in (1, 2, 3, 4):
        for stage in ("registration", "encode", "decode", "choose", "writing"):
            shares.append(estimate.step(stage, 1, 1, f"follow-up {number} of 4", 1.0).share)
    assert shares == sorted(shares)
    assert shares[4] < 0.35
    assert shares[-1] == pytest.approx(1.0)


@pytest.fixture
def client(tmp_path: Path) -> Iterator[WorkerClient]:
    """A worker process that computes without end once it has begun."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "FAKE_OUT": str(tmp_path / "out" / "visit_2")}
    with WorkerClient([sys.executable, FAKE, "computes"], environment) as made:
        yield made


def test_a_run_that_is_cancelled_leaves_nothing_half_written(client: WorkerClient, patient: Path, tmp_path: Path) -> None:
    client.send(CarryPatient(PatientSettings(), tmp_path / "out", folder=patient))
    events: list[Event] = []
    deadline = time.monotonic() + 120
    while not any(isinstance(event, Progress) and event.stage == "encode" for event in events):
        assert time.monotonic() < deadline
        events += client.poll()
        time.sleep(0.05)
    client.cancel()
    assert not client.running
    assert not (tmp_path / "out").exists()
