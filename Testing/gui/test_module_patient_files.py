"""``propagatePatient`` on files and folders, from the Python console."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from P2SAMSlicerLib.worker.messages import CarryPatient, PatientFinished, PatientVisitDone
from scripted_worker import FakeWorker
from test_module_console import answer_when_asked, logic  # noqa: F401 - a fixture


def request_of(worker: FakeWorker) -> CarryPatient:
    request = worker.sent[-1]
    assert isinstance(request, CarryPatient)
    return request


def finished(*failures: str) -> Callable[[FakeWorker], None]:
    """All of a patient, of whom nothing could be carried to some visits."""

    def tell(worker: FakeWorker) -> None:
        number = len(worker.sent)
        out = request_of(worker).out
        for place, failure in enumerate(failures, start=2):
            worker.tell(PatientVisitDone(number, f"visit_{place}", "failed", out / f"visit_{place}", (), True, failure))
        worker.tell(PatientFinished(number, "visit_1", 2, (), (out / "report.html", out / "report.json"), 1.0))

    return tell


def test_a_folder_is_carried_as_the_command_does_it(logic: Any, tmp_path: Path) -> None:  # noqa: F811
    told: list[Any] = []
    answer_when_asked(logic, lambda worker: worker.progress("encode", 1, 4), finished())
    nodes = logic.propagatePatient(
        tmp_path, "GTV", out=tmp_path / "out", carried_from="previous", device="cpu", progressCallback=told.append
    )
    assert nodes == []
    request = request_of(logic._client)
    assert (request.folder, request.files, request.out) == (tmp_path, None, tmp_path / "out")
    assert (request.settings.segments, request.settings.carried_from, request.settings.device) == (("GTV",), "previous", "cpu")
    assert [path.name for path in logic.lastRun.report] == ["report.html", "report.json"]
    assert [(each.stage, each.done) for each in told] == [("encoding slices", 1)]


def test_files_are_named_one_by_one(logic: Any, tmp_path: Path) -> None:  # noqa: F811
    answer_when_asked(logic, finished())
    logic.propagatePatient(
        priorCt="a.nrrd", priorContours="a.seg.nrrd", followUps=["b.nrrd", "c.nrrd"], out=str(tmp_path), load=False
    )
    files = request_of(logic._client).files
    assert files is not None
    assert (files.prior_ct, files.followups) == (Path("a.nrrd"), (Path("b.nrrd"), Path("c.nrrd")))


def test_a_visit_that_failed_is_a_runtime_error(logic: Any, tmp_path: Path) -> None:  # noqa: F811
    answer_when_asked(logic, finished("it shows no body"))
    with pytest.raises(RuntimeError, match="visit_2: it shows no body"):
        logic.propagatePatient(tmp_path, out=tmp_path / "out")
    assert len(logic.lastRun.report) == 2


def test_files_without_a_place_for_the_results_and_other_mistakes_are_value_errors(logic: Any, tmp_path: Path) -> None:  # noqa: F811
    with pytest.raises(ValueError, match="name the folder for the results"):
        logic.propagatePatient(priorCt="a", priorContours="b", followUps=["c"])
    for folder in (tmp_path, str(tmp_path), "~/patient"):
        with pytest.raises(ValueError, match="name the folder for the results"):
            logic.propagatePatient(folder)
    with pytest.raises(ValueError, match="name either the patient's folder, or prior CT"):
        logic.propagatePatient(tmp_path, priorCt="a", out=tmp_path / "out")
    with pytest.raises(ValueError, match="--from: 'x' is none of"):
        logic.propagatePatient(tmp_path, out=tmp_path / "out", carried_from="x")
    assert logic._client.sent == []
    assert not logic.running
