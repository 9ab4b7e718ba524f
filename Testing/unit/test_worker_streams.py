"""The worker's standard streams: what any program may do with them, and what happens when the caller is gone."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from test_worker_client import SECONDS, alive, temporary_files


def raw(lines: bytes) -> subprocess.CompletedProcess[bytes]:
    """The worker as any program may start it."""
    command = [sys.executable, "-m", "P2SAMSlicerLib", "worker"]
    return subprocess.run(command, input=lines, capture_output=True, timeout=SECONDS, check=False)


def test_the_end_of_standard_input_ends_the_worker() -> None:
    done = raw(b"")
    assert done.returncode == 0
    assert done.stdout.count(b"\n") == 1
    assert b'"event":"ready"' in done.stdout


def test_lines_that_are_no_requests_are_refused_one_by_one() -> None:
    lines = [
        b"\xff\xfe",
        b"[]",
        b'{"protocol": 99, "id": 1, "request": "clear"}',
        b'{"protocol": 1, "id": 2, "request": "format"}',
        b'{"protocol": 1, "id": 3, "request": "clear", "hard": true}',
        b'{"protocol": 1, "request": "clear"}',
        b"[" * 100_000,
        b'{"protocol": 1, "id": 4, "request": "propagate"}',
        b'{"protocol": 1, "id": 5, "request": "clear"}',
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "P2SAMSlicerLib", "worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"\n".join(lines) + b"\n")
        process.stdin.flush()
        answers = [process.stdout.readline() for _ in range(len(lines) + 1)]
        process.stdin.close()
        assert process.wait(SECONDS) == 0
    words = ["ready", "no", "no", "99", "unknown request", "unknown field", "no number as its id", "no", "missing", "cleared"]
    for answer, word in zip(answers, words, strict=True):
        assert word.encode() in answer, (word, answer)
    assert all(b'"refused"' in answer for answer in answers[1:-1])


@pytest.mark.skipif(sys.platform == "win32", reason="there is no shell that closes a stream")
def test_without_standard_input_the_worker_says_what_it_needs() -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", '"$0" -m P2SAMSlicerLib worker <&-', sys.executable],
        capture_output=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.strip() == b"p2sam: error: the worker is for programs: it needs their pipes as standard input and output"


WINDOWS_ONLY_PROGRAM = """
import os, sys
for number in (0, 1, 2):
    os.close(number)
from pathlib import Path
from P2SAMSlicerLib.worker.client import WorkerClient
from P2SAMSlicerLib.worker.messages import Clear
with open({told!r}, "w") as told, WorkerClient(sys.executable) as client:
    client.send(Clear())
    print(*(type(each).__name__ for each in client.wait({seconds})), *client.log, file=told)
"""


def test_a_program_without_standard_streams_can_have_a_worker(tmp_path: Path) -> None:
    """As one with windows only, whose next files get the numbers of the standard streams."""
    code = WINDOWS_ONLY_PROGRAM.format(told=str(tmp_path / "told"), seconds=SECONDS)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, timeout=2 * SECONDS, check=False).returncode == 0
    assert (tmp_path / "told").read_text() == "Cleared\n"


PARENT = """
import os, sys, time
sys.path[:0] = {paths!r}
from test_worker_client import FAKE, pids_told, hand_over_job, phantom, segment
from test_worker_client import FOLLOWUP_GRID, PRIOR_GRID, SECONDS, Clear, Segmentation, WorkerClient
from P2SAMSlicerLib.worker.private_folder import PrivateFolder
folder = PrivateFolder()
client = WorkerClient([sys.executable, FAKE, {kind!r}])
given = Segmentation(PRIOR_GRID, (segment("GTV"),))
job = hand_over_job(folder.path, phantom(PRIOR_GRID), given, [phantom(FOLLOWUP_GRID)])
if {kind!r} == "computes":
    client.send(job)
    print(*pids_told(client), flush=True)
else:
    client.send(Clear())
    client.wait(SECONDS)
    print(client._connection._own.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("kind", ["computes", "quick"])
def test_the_worker_ends_with_its_parent_however_that_ends_and_removes_what_was_handed_over(kind: str, tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    code = PARENT.format(paths=sys.path, kind=kind)
    paths = {"FAKE_OUT": str(tmp_path / "fake out"), "PYTHONPATH": os.pathsep.join(sys.path)}
    environment = {**os.environ, **paths, **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(temporary))}
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment)
    with parent:
        assert parent.stdout is not None
        worker, *children = (int(word) for word in parent.stdout.readline().split())
        (folder,) = temporary.iterdir()
        assert len(list(folder.glob("*.p2sam-volume"))) == 2
        parent.kill()
    deadline = time.monotonic() + 30.0
    while alive(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    try:
        assert not alive(worker)
        assert temporary_files(tmp_path) == []
        assert list(temporary.iterdir()) == []
    finally:
        for child in children:
            psutil.Process(child).kill()
