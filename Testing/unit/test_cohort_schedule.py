"""The schedule of a cohort on the embedded cluster: what the workers get, what fails, and who can reach them."""

from __future__ import annotations

import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from cohort_stand_ins import functions, holds_results, planner_for, record_failure, write_patients
from P2SAMSlicerLib.cohort import private_orders
from P2SAMSlicerLib.cohort.cluster import Cluster
from P2SAMSlicerLib.cohort.local_cluster import LocalWorkers, local_cluster, plan_workers
from P2SAMSlicerLib.cohort.manifest import read_manifest
from P2SAMSlicerLib.cohort.planning import PATIENTS_AHEAD, PlansAhead
from P2SAMSlicerLib.cohort.private_orders import PrivateOrders, begin_order, finish_order
from P2SAMSlicerLib.cohort.run import keep_results, write_failed_visit
from P2SAMSlicerLib.cohort.schedule import CohortRecord, Schedule
from P2SAMSlicerLib.cohort.visit_task import (
    ENDED,
    SAID,
    TaskSetup,
    VisitFunctions,
    begin_run,
    end_run,
    run_task,
    visit_content,
)
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.patient.carry_visit import carry_visit
from P2SAMSlicerLib.patient.plan import PatientSettings
from P2SAMSlicerLib.progress import ProgressEvent
from patient_phantom import CopyEngine, gtv, order, visit, write_visit

needs_posix = pytest.mark.skipif(os.name == "nt", reason="POSIX modes and signals")


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two workers for all tests of this file: starting them takes longer than most of the tests."""
    orders = tmp_path_factory.mktemp("orders")
    with local_cluster(LocalWorkers(2, 1), TaskSetup(secrets.token_hex(16), orders)) as cluster:
        yield cluster


@dataclass
class Scheduled:
    """What a test gives and gets."""

    folder: Path
    record: CohortRecord = field(default_factory=CohortRecord)
    events: list[ProgressEvent] = field(default_factory=list)
    submitted: list[tuple[Any, ...]] = field(default_factory=list)
    most_in_flight: int = 0
    modes: set[int] = field(default_factory=set)

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def rows(self) -> list[tuple[Any, ...]]:
        """Patient, visit, outcome and reasons of every row."""
        return [(row.patient, row.visit, row.outcome, row.reasons) for row in self.record.all_rows()]

    def notes(self, beginning: str) -> dict[str, list[str]]:
        """What the stand-ins left, by the rest of the name."""
        found = sorted((self.folder / "notes").glob(f"{beginning}-*"))
        return {path.name.partition("-")[2]: path.read_text(encoding="utf-8").splitlines() for path in found}


@pytest.fixture
def run(workers: Cluster) -> Callable[..., Scheduled]:
    """Runs a table of patients on the shared workers."""
    from P2SAMSlicerLib.cohort.worker_plugin import run_plugin

    def run_on(table: Path, *, resume: bool = False, replaces: bool = False, **settings: Any) -> Scheduled:
        told = Scheduled(table.parent)
        told.out.mkdir(exist_ok=True)
        (told.folder / "notes").mkdir(exist_ok=True)
        rows = read_manifest(table)
        orders = PrivateOrders(told.out)
        setup = TaskSetup(secrets.token_hex(16), orders.path, functions(told.folder / "notes"))
        plugin = run_plugin(setup)
        workers.client.register_plugin(plugin)
        cluster = replace(workers, client=Watched(workers.client, told), setup=setup)
        keeps = partial(keep_results, record=record_failure, holds_results=holds_results)
        schedule = Schedule(
            *(cluster, orders, len(rows)),
            resume=resume,
            replace=replaces,
            record_failure=record_failure if replaces else keeps,
            progress=told.events.append,
        )
        plans = PlansAhead(rows, told.out, planner_for(PatientSettings(**settings)), schedule.wake)
        try:
            told.record = schedule.run(plans)
        finally:
            plans.stop()
            assert list(orders.path.iterdir()) == []
            orders.remove()
            workers.client.unregister_worker_plugin(plugin.name)
        return told

    return run_on


class Watched:
    """Dask's client, with a look at what is given to it."""

    def __init__(self, client: Any, told: Scheduled) -> None:
        self._client, self._told = client, told
        self._open: list[Any] = []

    def submit(self, *arguments: Any, **options: Any) -> Any:
        files = list((self._told.out / ".orders").iterdir())
        self._told.modes |= {stat.S_IMODE(path.stat().st_mode) for path in files}
        self._told.modes.add(stat.S_IMODE((self._told.out / ".orders").stat().st_mode))
        self._told.submitted.append((arguments, options))
        future = self._client.submit(*arguments, **options)
        self._open = [each for each in self._open if each.status == "pending"] + [future]
        self._told.most_in_flight = max(self._told.most_in_flight, len(self._open))
        return future

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


def test_every_visit_is_carried_once_with_a_model_that_is_loaded_once_a_worker(
    run: Callable[..., Scheduled], tmp_path: Path
) -> None:
    done = run(write_patients(tmp_path, 6, visits=2))
    assert done.rows()[:3] == [
        ("p0001", "visit_2", "done", ""),
        ("p0001", "visit_3", "done", ""),
        ("p0002", "visit_2", "done", ""),
    ]
    assert [row[:2] for row in done.rows()] == [(f"p{p:04d}", f"visit_{v}") for p in range(1, 7) for v in (2, 3)]
    assert len(done.notes("carried")) == 12
    assert all(len(lines) == 1 for lines in done.notes("carried").values())
    assert 1 <= len(done.notes("loaded")) <= 2
    assert all(lines == ["stub"] for lines in done.notes("loaded").values())
    assert (done.out / "p0003" / "report.html").read_text() == "visit_2 visit_3"
    last = done.events[-1]
    assert (last.stage, last.done, last.total) == ("visits", 12, 12)
    # Reports of several patients may still be under way when the last visit ends.
    assert all(event.done < event.total for event in done.events if event.message.startswith(("0 of", "1 of", "2 of")))
    assert [event.done for event in done.events] == sorted(event.done for event in done.events)
    assert done.most_in_flight <= 3


def test_tasks_carry_no_identity_and_their_orders_are_for_the_user_alone(run: Callable[..., Scheduled], tmp_path: Path) -> None:
    from distributed.protocol import pickle

    done = run(write_patients(tmp_path, 2))
    assert len(done.submitted) == 4
    for each in done.submitted:
        carried = pickle.dumps(each)
        for secret in (b"Doe", b"Jane", b"MRN", str(tmp_path).encode(), b"p0001", b"visit_2"):
            assert secret not in carried
    for event in done.events:
        assert "Doe" not in event.message
        assert "MRN" not in event.message
    if os.name != "nt":
        assert done.modes == {0o600, 0o700}


def test_what_fails_is_recorded_with_its_reason_and_stops_nothing_else(run: Callable[..., Scheduled], tmp_path: Path) -> None:
    words = {1: "fail Doe^Jane1: visit_2.do of Doe^Jane1 (MRN00001) has no slices", 2: "crash", 3: "", 4: "", 5: "sleep 0.1"}
    table = write_patients(tmp_path, 5, do=lambda patient, _visit: words[patient])
    (tmp_path / "Doe^Jane3" / "unplannable").touch()
    (tmp_path / "Doe^Jane4" / "visit_2.do").unlink()
    done = run(table)
    left = "(name left out)"
    crash = "unexpected RuntimeError: a fault of this program (p2sam --debug shows the traceback, which may name folders)"
    assert done.rows() == [
        ("p0001", "visit_2", "failed", f"{left}: {left} of {left} ({left}) has no slices"),
        ("p0002", "visit_2", "failed", crash),
        ("p0003", None, "failed", f"{left}: two patients in one folder"),
        ("p0004", None, "failed", "it has no follow-up"),
        ("p0005", "visit_2", "done", ""),
    ]
    assert (done.record.failed, done.record.failed_patients, done.record.visits) == (2, 2, 3)
    assert "4 failed" in done.events[-1].message
    assert '"failed"' in (done.out / "p0002" / "visit_2" / "visit.json").read_text()
    assert (done.out / "p0002" / "report.html").is_file()


@needs_posix
def test_a_visit_whose_worker_ends_is_begun_again_twice_and_takes_no_other_along(
    run: Callable[..., Scheduled], tmp_path: Path
) -> None:
    words = {1: "kill-once", 2: "", 3: "kill", 4: "sleep 0.2", 5: "sleep 0.2", 6: ""}
    done = run(write_patients(tmp_path, 6, do=lambda patient, _visit: words[patient]))
    assert done.rows() == [
        (f"p{patient:04d}", "visit_2", *(("failed", ENDED) if patient == 3 else ("done", ""))) for patient in range(1, 7)
    ]
    assert len(done.notes("carried")["p0001-visit_2"]) == 2
    assert len(done.notes("carried")["p0003-visit_2"]) == 3


def test_visits_that_build_on_others_wait_for_them_and_for_failed_ones_too(
    run: Callable[..., Scheduled], tmp_path: Path
) -> None:
    def do(patient: int, visit: int) -> str:
        return "fail too few slices" if (patient, visit) == (2, 2) else "sleep 0.1"

    done = run(write_patients(tmp_path, 2, visits=3, do=do), carried_from="previous")
    assert done.notes("reference") == {
        "p0001-visit_3": ["there"],
        "p0001-visit_4": ["there"],
        "p0002-visit_3": ["absent"],
        "p0002-visit_4": ["there"],
    }
    assert [row[2] for row in done.rows()] == ["done", "done", "done", "failed", "done", "done"]


def test_resuming_keeps_what_is_finished_and_does_the_rest(run: Callable[..., Scheduled], tmp_path: Path) -> None:
    words = {1: "", 2: "fail no room", 3: ""}
    table = write_patients(tmp_path, 3, do=lambda patient, _visit: words[patient])
    before = run(table)
    assert before.record.failed == 1
    (tmp_path / "Doe^Jane2" / "visit_2.do").write_text("sleep 0")  # what was wrong is put right
    (tmp_path / "Doe^Jane3" / "visit_2.do").write_text("sleep 0.01")  # and a CT was replaced
    (before.out / "p0001" / "report.json").unlink()
    kept = (before.out / "p0003" / "visit_2" / "visit.json").read_bytes()
    careful = run(table, resume=True)
    assert [row[2] for row in careful.rows()] == ["done", "done", "failed"]
    assert careful.rows()[2][3].startswith("there are results already, made from other files")
    assert (before.out / "p0003" / "visit_2" / "visit.json").read_bytes() == kept
    again = run(table, resume=True, replaces=True)
    assert [row[2] for row in again.rows()] == ["done", "done", "done"]
    assert again.record.kept == 2
    assert {name: len(lines) for name, lines in again.notes("carried").items()} == {
        "p0001-visit_2": 1,
        "p0002-visit_2": 2,
        "p0003-visit_2": 2,
    }
    assert (again.out / "p0001" / "report.json").is_file()


@pytest.mark.parametrize("fault", ["edited", "other settings", "a CT that cannot be read"])
def test_resuming_never_takes_away_what_is_there(copy_engine: CopyEngine, tmp_path: Path, fault: str) -> None:
    one = order(
        [visit(write_visit(tmp_path / "a", [gtv()]), 1)], visit(write_visit(tmp_path / "b"), 2), tmp_path / "out" / "p0001"
    )
    carry_visit(one, copy_engine.load_model())
    contours = one.out / "visit_2.seg.nrrd"
    if fault == "edited":
        contours.write_bytes(contours.read_bytes() + b"edited")
    if fault == "other settings":
        one = replace(one, options=replace(one.options, seed=7))
    if fault == "a CT that cannot be read":
        (tmp_path / "b" / "ct.nrrd").unlink()
    before = {path: path.read_bytes() for path in one.out.rglob("*") if path.is_file()}
    orders = PrivateOrders(tmp_path / "out")
    setup = TaskSetup(secrets.token_hex(16), orders.path, VisitFunctions(load=copy_engine.load_model))
    begin_run(setup)
    try:
        token = orders.put(visit_content(one, resume=True))
        assert run_task(setup.run, token) == SAID
        outcome = orders.outcome(token) or {}
        assert outcome["state"] == "failed"
        assert ("there are results already" in outcome["reason"]) is (fault != "a CT that cannot be read")
        keep_results(one, outcome["reason"], write_failed_visit, VisitFunctions().holds_results)
        assert {path: path.read_bytes() for path in one.out.rglob("*") if path.is_file()} == before
        if fault != "a CT that cannot be read":
            token = orders.put(visit_content(one, resume=True, replace=True))
            assert run_task(setup.run, token) == SAID
            assert (orders.outcome(token) or {})["state"] == "done"
    finally:
        end_run(setup.run)


def test_patients_are_planned_a_bounded_number_ahead(tmp_path: Path) -> None:
    rows = read_manifest(write_patients(tmp_path, 12))
    planned: list[str] = []
    real = planner_for(PatientSettings())

    def plan(row: Any, out: Path) -> Any:
        planned.append(row.label)
        return real(row, out)

    plans = PlansAhead(rows, tmp_path / "out", plan, lambda: None)
    try:
        deadline = time.time() + 5
        while len(planned) < PATIENTS_AHEAD + 1 and time.time() < deadline:
            time.sleep(0.01)
        time.sleep(0.2)
        assert len(planned) == PATIENTS_AHEAD + 1
        assert plans.left == 12
    finally:
        plans.stop()


def test_nothing_listens_beyond_this_computer_and_nobody_else_gets_in(workers: Cluster) -> None:
    from distributed import Client
    from distributed.security import Security

    me = psutil.Process()
    own = [me, *me.children(recursive=True)]
    listening = [each.laddr.ip for process in own for each in process.net_connections() if each.status == psutil.CONN_LISTEN]
    assert len(listening) >= 4
    assert set(listening) == {"127.0.0.1"}
    address = workers.client.scheduler.address
    assert address.startswith("tls://127.0.0.1:")
    with pytest.raises(Exception, match=r"(?i)tls|ssl|security|timed out|connect"):
        Client(address.replace("tls", "tcp"), timeout=1, set_as_default=False)
    with pytest.raises(Exception, match=r"(?i)tls|ssl|certificate|timed out|connect"):
        Client(address, security=Security.temporary(), timeout=1, set_as_default=False)


def test_workers_share_the_cores_and_each_gets_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    from P2SAMSlicerLib.cohort import local_cluster as module

    monkeypatch.setattr(module, "physical_cores", lambda: 8)
    monkeypatch.setattr(module, "find_gpus", lambda: ())
    assert plan_workers(None, None, "auto") == LocalWorkers(1, 8)
    assert plan_workers(3, None, "auto") == LocalWorkers(3, 2)
    assert plan_workers(16, None, "cpu") == LocalWorkers(16, 1)
    assert plan_workers(2, 3, "cpu") == LocalWorkers(2, 3)
    with pytest.raises(InputError, match="PyTorch finds no CUDA device"):
        plan_workers(None, None, "cuda")
    monkeypatch.setattr(module, "find_gpus", lambda: ("0", "3"))
    assert plan_workers(None, None, "auto") == LocalWorkers(2, 4, ("0", "3"))
    assert plan_workers(1, None, "cuda") == LocalWorkers(1, 8, ("0",))
    assert plan_workers(None, None, "cuda:1") == LocalWorkers(1, 8, ("3",))
    assert plan_workers(4, None, "cpu").gpus == ()
    with pytest.raises(InputError, match="--workers 3: one worker a GPU, and there are 2"):
        plan_workers(3, None, "auto")
    with pytest.raises(InputError, match=r"--device cuda:2: this computer has 2"):
        plan_workers(None, None, "cuda:2")
    assert module._of_worker({"nthreads": 1}, ("0", "3"), 1) == {
        "nthreads": 1,
        "env": {"CUDA_VISIBLE_DEVICES": "3"},
        "resources": {"GPU": 1},
    }


def test_an_order_is_read_by_its_token_only(tmp_path: Path) -> None:
    orders = PrivateOrders(tmp_path)
    token = orders.put({"kind": "visit"})
    assert begin_order(orders.path, token).content == {"kind": "visit"}
    assert begin_order(orders.path, token).starts == 2
    assert orders.starts(token) == 2
    assert orders.outcome(token) is None
    finish_order(orders.path, token, {"state": "done"})
    assert orders.outcome(token) == {"state": "done"}
    for bad in ("../../etc/passwd", "", token.upper(), f"{token}/x", "0" * 31):
        with pytest.raises(ValueError, match="no token"):
            begin_order(orders.path, bad)
    orders.drop(token)
    with pytest.raises(FileNotFoundError):
        begin_order(orders.path, token)
    orders.remove()
    orders.remove()
    assert not orders.path.exists()


def test_an_order_that_was_dropped_is_not_begun_and_leaves_no_note(tmp_path: Path) -> None:
    orders = PrivateOrders(tmp_path)
    token = orders.put({"visit": 1})
    assert begin_order(orders.path, token).starts == 1
    assert begin_order(orders.path, token).starts == 2
    orders.drop(token)
    with pytest.raises(FileNotFoundError):
        begin_order(orders.path, token)
    assert list(orders.path.iterdir()) == []


def test_an_order_that_is_dropped_while_it_is_begun_leaves_no_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    orders = PrivateOrders(tmp_path)
    token = orders.put({"visit": 1})
    original = private_orders._open_private

    def dropped_first(*arguments: Any) -> Any:
        orders.drop(token)
        return original(*arguments)

    monkeypatch.setattr(private_orders, "_open_private", dropped_first)
    with pytest.raises(FileNotFoundError):
        begin_order(orders.path, token)
    assert list(orders.path.iterdir()) == []
