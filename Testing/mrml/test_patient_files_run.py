"""A patient in files: what the worker is asked, and what of its answers is shown in the scene."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_client import FakeClient
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.mrml.patient_run import PatientRun, patient_request
from P2SAMSlicerLib.mrml.result_nodes import is_result
from P2SAMSlicerLib.mrml.review_nodes import contours_to_review
from P2SAMSlicerLib.mrml.segment_masks import read_mask
from P2SAMSlicerLib.mrml.volume_nodes import volume_from_node
from P2SAMSlicerLib.options import PropagationOptions
from P2SAMSlicerLib.result_files import write_results
from P2SAMSlicerLib.volume_file import write_volume
from P2SAMSlicerLib.worker.messages import PatientFinished, PatientVisitDone, Progress, Refused, WorkerFailed
from small_visits import FOLLOWUP_GRID, ball, phantom, visit_result

pytestmark = pytest.mark.usefixtures("scene")


def started(tmp_path: Path, **options: Any) -> tuple[PatientRun, FakeClient]:
    client = FakeClient()
    request = patient_request(tmp_path / "p", None, tmp_path / "out", (), None)
    return PatientRun(client, request, **options), client  # type: ignore[arg-type]


def done(client: FakeClient, tmp_path: Path, label: str = "visit_2", failure: str | None = None) -> PatientVisitDone:
    """The answer for a follow-up whose files are there."""
    ct, folder = tmp_path / f"{label}.nrrd", tmp_path / "out" / label
    if failure is None:
        write_volume(phantom(FOLLOWUP_GRID), ct)
        write_results(folder, [visit_result(name=label)])
    event = PatientVisitDone(client.number, label, "failed" if failure else "done", folder, (ct,), False, failure)
    client.events.append(event)
    return event


def finish(client: FakeClient, tmp_path: Path) -> None:
    client.events.append(PatientFinished(client.number, "visit_1", 3, (), (tmp_path / "report.html",), 1.0))


def nodes_of(kind: str) -> list[Any]:
    import slicer.util

    return list(slicer.util.getNodesByClass(kind))


def test_the_worker_is_asked_what_the_script_says(tmp_path: Path) -> None:
    options = PropagationOptions(seed=4)
    folder = patient_request(str(tmp_path), None, "out", ("GTV",), options, overwrite=True, carried_from="approved", prior="2")
    assert (folder.folder, folder.files, folder.out, folder.overwrite) == (tmp_path, None, Path("out"), True)
    assert (folder.settings.segments, folder.settings.options, folder.settings.prior) == (("GTV",), options, "2")
    files = patient_request(None, ("ct", Path("rs"), "later"), "out", (), None)
    assert files.files is not None
    assert (files.files.prior_contours, files.files.followups) == (Path("rs"), (Path("later"),))


@pytest.mark.parametrize(
    ("patient", "files", "message"),
    [
        (None, None, "name either the patient's folder, or prior CT"),
        ("p", ("a", "b", ["c"]), "name either the patient's folder, or prior CT"),
        (7, None, "patient: a file or folder is wanted, and not int"),
        (None, ("a", None, ["c"]), "priorContours: a file or folder is wanted, and not NoneType"),
        (None, ("a", "b", None), "followUps: a file or folder is wanted"),
        ("", None, "patient: a file or folder is wanted"),
    ],
)
def test_what_names_no_files_is_refused(patient: Any, files: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        patient_request(patient, files, "out", (), None)
    with pytest.raises(InputError, match="--from: 'x' is none of"):
        patient_request("p", None, "out", (), None, carried_from="x")
    with pytest.raises(TypeError, match="devise"):
        patient_request("p", None, "out", (), None, devise="cpu")


def test_a_follow_up_is_shown_with_its_contours_as_soon_as_it_is_done(tmp_path: Path) -> None:
    told: list[Any] = []
    run, client = started(tmp_path, told=lambda *step: told.append(step))
    client.events.append(Progress(client.number, "encode", 1, 4, "follow-up 1 of 2"))
    done(client, tmp_path)
    run.poll()
    assert told == [("encode", 1, 4, "follow-up 1 of 2")]
    assert run.running
    (node,) = run.nodes
    (volume,) = nodes_of("vtkMRMLScalarVolumeNode")
    assert volume.GetName() == "visit_2 CT"
    assert volume_from_node(volume).grid.same_as(FOLLOWUP_GRID)
    assert is_result(node)
    (identifier,) = contours_to_review(node)
    assert np.array_equal(read_mask(node, identifier, volume), ball(FOLLOWUP_GRID, 9.0))
    finish(client, tmp_path)
    run.poll()
    assert not run.running
    assert run.visits == {"visit_2": tmp_path / "out" / "visit_2"}
    assert run.report == (tmp_path / "report.html",)
    assert (run.error, run.problems) == (None, [])


def test_nothing_is_shown_if_that_is_not_wanted(tmp_path: Path) -> None:
    run, client = started(tmp_path, load=False)
    done(client, tmp_path)
    finish(client, tmp_path)
    run.poll()
    assert run.nodes == nodes_of("vtkMRMLScalarVolumeNode") == nodes_of("vtkMRMLSegmentationNode") == []
    assert list(run.visits) == ["visit_2"]


def test_a_failed_follow_up_and_one_that_cannot_be_shown_are_problems_and_the_others_are_shown(tmp_path: Path) -> None:
    run, client = started(tmp_path)
    done(client, tmp_path, "visit_2", "it shows no body")
    damaged = done(client, tmp_path, "visit_3")
    summary = damaged.folder / "summary.json"
    content = json.loads(summary.read_text())
    summary.write_text(json.dumps({**content, "followups": []}))
    gone = done(client, tmp_path, "visit_4")
    gone.ct[0].unlink()
    done(client, tmp_path, "visit_5")
    finish(client, tmp_path)
    run.poll()
    assert run.problems[0] == "visit_2: it shows no body"
    assert run.problems[1] == "visit_3: its result cannot be shown; visit_3: its results cannot be read (damaged)"
    assert run.problems[2].startswith("visit_4: its result cannot be shown; ")
    assert str(tmp_path) not in "".join(run.problems)
    assert [node.GetName() for node in run.nodes] == ["visit_5 CT propagated"]
    assert [node.GetName() for node in nodes_of("vtkMRMLScalarVolumeNode")] == ["visit_5 CT"]


def test_a_refusal_and_the_workers_end_are_the_runs_error(tmp_path: Path) -> None:
    run, client = started(tmp_path)
    client.events.append(Refused(client.number, "InputError", "no CT below the patient's folder"))
    run.poll()
    assert (run.running, run.error) == (False, "no CT below the patient's folder")
    run, client = started(tmp_path)
    client.events.append(WorkerFailed((client.number,), "the worker has ended", ("last words",)))
    run.poll()
    assert (run.running, run.error) == (False, "the worker has ended\nlast words")


def test_a_cancelled_run_ends_the_worker_and_keeps_what_is_shown(tmp_path: Path) -> None:
    run, client = started(tmp_path)
    done(client, tmp_path)
    run.poll()
    run.cancel()
    run.cancel()
    assert (client.cancelled, run.running, run.error) == (1, False, "cancelled")
    assert len(run.nodes) == 1


def test_answers_to_another_request_are_not_taken(tmp_path: Path) -> None:
    run, client = started(tmp_path)
    client.events.append(Refused(3, "InputError", "another"))
    client.events.append(WorkerFailed((3,), "another"))
    run.poll()
    assert run.running
