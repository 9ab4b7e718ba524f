"""The worker's process: what it answers, and how it ends when it is cancelled, killed, out of memory or left alone."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.visit_record import read_visit
from P2SAMSlicerLib.volume import Segmentation
from P2SAMSlicerLib.worker.client import WorkerClient, _end_in_words
from P2SAMSlicerLib.worker.handover import hand_over_job
from P2SAMSlicerLib.worker.messages import (
    Clear,
    Cleared,
    Finished,
    Progress,
    Propagate,
    Quit,
    Refused,
    VisitDone,
    WorkerFailed,
)
from small_visits import FOLLOWUP_GRID, PRIOR_GRID, phantom, segment

FAKE = Path(__file__).with_name("fake_worker.py")
Start = Callable[[str], WorkerClient]
SECONDS = 120.0


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Function from a kind of fake worker to its client; all are ended with the test."""
    clients: list[WorkerClient] = []

    def make(kind: str) -> WorkerClient:
        environment = {**os.environ, "FAKE_OUT": str(tmp_path / "fake out"), "OMP_NUM_THREADS": "1"}
        environment["PYTHONPATH"] = os.pathsep.join([str(FAKE.parent), *environment.get("PYTHONPATH", "").split(os.pathsep)])
        made = WorkerClient([sys.executable, FAKE, kind], environment)
        clients.append(made)
        return made

    yield make
    for each in clients:
        each.cancel()


@pytest.fixture
def request_of(tmp_path: Path) -> Callable[..., Propagate]:
    """Function that hands a small visit over."""

    def make(folder: str = "given", followups: int = 1, **choices: object) -> Propagate:
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        segmentation = Segmentation(PRIOR_GRID, (segment("GTV"),))
        visits = [phantom(FOLLOWUP_GRID, f"week {number}") for number in range(followups)]
        return hand_over_job(tmp_path / folder, phantom(PRIOR_GRID), segmentation, visits, **choices)

    return make


def pids_told(client: WorkerClient) -> list[int]:
    """The process ids that a computation tells of itself while it goes on."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        for event in client.poll():
            if isinstance(event, Progress) and event.stage == "encode":
                return [int(word) for word in event.message.split()]
            assert isinstance(event, Progress), event
        time.sleep(0.01)
    raise AssertionError(f"no progress in {SECONDS} s; {client.log}")


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def failure(client: WorkerClient) -> WorkerFailed:
    (*_, event) = client.wait(SECONDS)
    assert isinstance(event, WorkerFailed), event
    return event


def temporary_files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.startswith(".p2sam-")]


def test_a_run_tells_its_progress_each_visit_and_its_end_and_the_record_is_the_result(
    start: Start, request_of: Callable[..., Propagate], tmp_path: Path
) -> None:
    client = start("talks")
    number = client.send(request_of(followups=2))
    events = client.wait(SECONDS)
    kinds = [type(each) for each in events]
    assert kinds.count(Finished) == 1
    assert kinds[-1] is Finished
    assert {each.request for each in events if isinstance(each, (Progress, VisitDone, Finished))} == {number}
    visits = [each for each in events if isinstance(each, VisitDone)]
    assert [(each.number, each.total, each.name, each.failure) for each in visits] == [
        *((0, 2, "followup_1", None), (1, 2, "followup_2", None)),
    ]
    finished = events[-1]
    assert isinstance(finished, Finished)
    assert finished.visits == tuple(visits)
    assert sorted(path.name for path in (tmp_path / "given" / "results").iterdir()) == [
        *("followup_1.seg.nrrd", "followup_2.seg.nrrd", "slices.csv", "summary.json"),
    ]
    assert visits[0].record is not None
    visit = read_visit(visits[0].record)
    assert visit.segments[0].mask is not None
    np.testing.assert_array_equal(visit.segments[0].source.mask, segment().mask)
    # What libraries printed went to the log, and to nobody's messages.
    assert {"printed by a library", "written by compiled code", "from a child process"} <= set(client.log)


def test_the_worker_serves_one_request_after_the_other_and_ends_when_it_is_told_to(
    start: Start, request_of: Callable[..., Propagate]
) -> None:
    client = start("quick")
    numbers = [client.send(request_of("a")), client.send(request_of("b")), client.send(Clear())]
    events = client.wait(SECONDS)
    assert [each.request for each in events if isinstance(each, (Finished, Cleared))] == numbers
    client.close()
    assert not client.running
    assert client.poll() == []


def test_quit_ends_the_worker_without_a_failure(start: Start) -> None:
    client = start("quick")
    client.send(Clear())
    client.wait(SECONDS)
    client.send(Quit())
    deadline = time.monotonic() + SECONDS
    while client.running and time.monotonic() < deadline:
        assert client.poll() == []
        time.sleep(0.02)
    time.sleep(0.1)
    assert client.poll() == []
    client.send(Clear())  # and a new one comes
    assert [type(each) for each in client.wait(SECONDS)] == [Cleared]


@pytest.mark.parametrize("kind", ["computes", "deaf", "launcher"])
def test_cancel_ends_the_whole_tree_at_once_and_leaves_no_half_result(
    kind: str, start: Start, request_of: Callable[..., Propagate], tmp_path: Path
) -> None:
    client = start(kind)
    out = tmp_path / "fake out"
    client.send(request_of(out=out))
    pids = pids_told(client)
    assert temporary_files(tmp_path)
    started = time.monotonic()
    client.cancel()
    assert time.monotonic() - started < 15.0
    assert not any(alive(pid) for pid in pids)
    assert not client.running
    assert client.pending == ()
    assert client.poll() == []
    assert temporary_files(tmp_path) == []
    assert not out.exists()


def test_after_a_cancel_the_next_request_starts_a_new_worker(start: Start, request_of: Callable[..., Propagate]) -> None:
    client = start("computes")
    client.send(request_of(out=Path(os.devnull).parent / "no such" / "folder"))
    client.cancel()
    client.send(Clear())
    assert [type(each) for each in client.wait(SECONDS)] == [Cleared]


def test_two_clients_do_not_disturb_each_other(start: Start, request_of: Callable[..., Propagate]) -> None:
    busy, other = start("computes"), start("quick")
    busy.send(request_of("busy"))
    pids = pids_told(busy)
    other.send(request_of("other"))
    assert isinstance(other.wait(SECONDS)[-1], Finished)
    other.cancel()
    assert all(alive(pid) for pid in pids)
    busy.cancel()


def test_a_worker_that_the_system_kills_is_told_in_words_with_the_end_of_its_log_and_the_next_request_starts_one(
    start: Start, request_of: Callable[..., Propagate]
) -> None:
    client = start("killed")
    number = client.send(request_of())
    event = failure(client)
    assert event.requests == (number,)
    assert "memory" in event.message
    assert event.log[-1] == "last words"
    client.send(Clear())
    assert [type(each) for each in client.wait(SECONDS)] == [Cleared]


@pytest.mark.parametrize(
    ("kind", "message", "logged"),
    [
        ("launcher of one that is killed", "without a word (status 1): it crashed, or it was killed", "last words"),
        ("no more memory in compiled code", "not enough memory", "bad_alloc"),
        ("crashes", "has crashed (signal 11)", "Segmentation fault"),
    ],
)
@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's; the statuses of Windows have a test of their own")
def test_a_crash_or_want_of_memory_in_compiled_code_is_told_in_words_also_behind_a_launcher(
    kind: str, message: str, logged: str, start: Start, request_of: Callable[..., Propagate]
) -> None:
    client = start(kind)
    client.send(request_of())
    event = failure(client)
    assert message in event.message
    assert len(event.log) <= 20
    assert logged in "\n".join(event.log)


@pytest.mark.parametrize(
    ("status", "listened", "log", "words"),
    [
        (0xC0000005, True, (), "has crashed (code 0xC0000005)"),
        (0xC0000017, True, (), "not enough memory"),
        (0xC000012D, True, (), "not enough memory"),
        (0xC0000409, True, ("MemoryError",), "not enough memory"),
        (1, True, (), "without a word (status 1)"),
        (1, False, ("ModuleNotFoundError",), "has ended with status 1"),
        (-9, True, (), "killed"),
        (137, False, (), "killed"),
        (-15, True, (), "somebody told it to"),
        (None, True, (), "does not speak any more"),
    ],
)
def test_every_systems_way_to_end_a_process_is_told_in_words(
    status: int | None, listened: bool, log: tuple[str, ...], words: str
) -> None:
    assert words in _end_in_words(status, listened, log)


def test_what_a_launcher_prints_before_the_worker_is_there_goes_to_the_log(start: Start) -> None:
    client = start("printed at the start")
    client.send(Clear())
    assert [type(each) for each in client.wait(SECONDS)] == [Cleared]
    assert "QFontDatabase: no fonts" in client.log
    assert len(client.log) <= 400


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python can be told so since 3.11; 3D Slicer 5.10 has 3.12")
def test_a_file_in_the_callers_folder_never_runs_in_the_place_of_a_librarys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("json", "numpy", "P2SAMSlicerLib"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('planted')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", os.environ.get("PYTHONPATH", ""), ""]))
    with WorkerClient(sys.executable) as client:
        client.send(Clear())
        assert [type(each) for each in client.wait(SECONDS)] == [Cleared]


def test_relative_paths_are_the_callers(
    start: Start, request_of: Callable[..., Propagate], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    client = start("quick")
    client.start()
    made = request_of()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")  # the worker is where it was started
    client.send(Propagate(replace(made.job, out=Path("results")), Path("records")))
    assert isinstance(client.wait(SECONDS)[-1], Finished)
    assert sorted(path.name for path in (tmp_path / "elsewhere").iterdir()) == ["records", "results"]


def test_kill_9_from_outside_while_nothing_is_asked_is_told_once(start: Start) -> None:
    client = start("quick")
    client.send(Clear())
    client.wait(SECONDS)
    (child,) = [each for each in psutil.Process().children() if str(FAKE) in each.cmdline()]
    child.send_signal(signal.SIGKILL)
    event = until_failed(client)
    assert event.requests == ()
    assert client.poll() == []


def until_failed(client: WorkerClient) -> WorkerFailed:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        for event in client.poll():
            assert isinstance(event, WorkerFailed)
            return event
        time.sleep(0.01)
    raise AssertionError("no failure was told")


@pytest.mark.parametrize(
    ("kind", "message"),
    [("memory", "not enough memory"), ("device memory", "not enough memory on the device"), ("contradicts", "unexpected")],
)
def test_a_fault_of_the_worker_ends_it_and_is_told_once(
    kind: str, message: str, start: Start, request_of: Callable[..., Propagate], tmp_path: Path
) -> None:
    client = start(kind)
    client.send(request_of())
    event = failure(client)
    assert message in event.message
    assert "Error" in event.log[-1]
    assert len(event.log) <= 20
    assert temporary_files(tmp_path) == []
    assert not (tmp_path / "given" / "results").exists()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("garbage", "not understood: not a line of JSON"),
        ("another", "version 0.0.0"),
        ("impostor", "not the process that was started"),
        ("ends", "ended with status 3"),
    ],
)
def test_what_is_no_worker_of_ours_is_ended_and_told(kind: str, message: str, start: Start) -> None:
    client = start(kind)
    client.send(Clear())
    event = failure(client)
    assert message in event.message
    assert not client.running


def test_a_worker_that_never_says_that_it_listens_is_given_up() -> None:
    with WorkerClient([sys.executable, FAKE, "silent"], start_seconds=0.5) as client:
        client.send(Clear())
        assert "did not say that it listens within 0.5 seconds" in failure(client).message


def test_an_executable_that_is_not_there_is_refused() -> None:
    with WorkerClient("/no/such/python") as client, pytest.raises(InputError, match="python: the worker cannot be started"):
        client.send(Clear())


def test_a_follow_up_that_fails_is_told_and_the_worker_goes_on(start: Start, request_of: Callable[..., Propagate]) -> None:
    client = start("fails")
    client.send(request_of())
    finished = client.wait(SECONDS)[-1]
    assert isinstance(finished, Finished)
    assert finished.visits[0].failure == "the CT shows no body"
    assert finished.visits[0].record is None
    client.send(Clear())
    assert [type(each) for each in client.wait(SECONDS)] == [Cleared]


def test_input_that_cannot_be_used_is_refused_in_words_and_the_worker_goes_on(
    start: Start, request_of: Callable[..., Propagate], tmp_path: Path
) -> None:
    client = start("quick")
    good = request_of()
    (tmp_path / "given" / "followup_1.p2sam-volume").unlink()
    client.send(good)
    client.send(request_of("other", segments=("nobody",)))
    first, second = [each for each in client.wait(SECONDS) if isinstance(each, Refused)]
    assert (first.kind, first.message) == (
        *("InputError", "followup_1.p2sam-volume: no such file; it was handed over and is gone"),
    )
    assert "no segment named 'nobody'" in second.message


def test_a_log_without_end_blocks_nobody_and_fills_no_memory(start: Start, request_of: Callable[..., Propagate]) -> None:
    client = start("logs")
    client.send(request_of())
    assert isinstance(client.wait(SECONDS)[-1], Finished)
    assert len(client.log) <= 400


def test_a_request_of_ten_megabytes_with_any_alphabet_is_understood(start: Start, request_of: Callable[..., Propagate]) -> None:
    client = start("quick")
    started = time.monotonic()
    client.send(request_of(segments=("ü\u2028名" * 1_700_000,)))
    assert time.monotonic() - started < 15.0
    (refused,) = [each for each in client.wait(SECONDS) if isinstance(each, Refused)]
    assert "no segment named 'ü 名ü 名" in refused.message
    assert len(refused.message) <= 2000


def test_long_folders_with_any_alphabet_work(start: Start, request_of: Callable[..., Propagate], tmp_path: Path) -> None:
    folder = "/".join(["Größe 名 " + "x" * 80] * 4)
    client = start("quick")
    client.send(request_of(folder))
    finished = client.wait(SECONDS)[-1]
    assert isinstance(finished, Finished), finished
    assert (tmp_path / folder / "results" / "followup_1.seg.nrrd").is_file()
