"""Cohorts that are killed or interrupted: nothing is left running, and ``--resume`` gives what an undisturbed run gives."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import cohort_stand_ins
import psutil
import pytest
from cohort_stand_ins import write_patients
from P2SAMSlicerLib.cohort.cohort_folder import cohort_folder
from P2SAMSlicerLib.cohort.manifest import ManifestRow
from P2SAMSlicerLib.errors import InputError, OutputError

needs_posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")

#: How long processes may take for anything, on a computer that does much else, s.
PATIENCE = 60.0
ENDING = 10.0


class Running:
    """``p2sam cohort`` with stand-ins, in a process and a group of its own."""

    def __init__(self, table: Path, out: Path, *arguments: str) -> None:
        notes = table.parent / "notes"
        notes.mkdir(exist_ok=True)
        command = [sys.executable, cohort_stand_ins.__file__, str(notes), str(table), "--out", str(out), *arguments]
        self.table, self.out = table, out
        self._errors = out.parent / f"{out.name}.errors"
        with self._errors.open("w") as errors:
            self.process = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=errors, start_new_session=True, env=environment()
            )

    def children(self) -> list[psutil.Process]:
        """All processes that it has started."""
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def wait(self) -> int:
        """Its exit status."""
        return self.process.wait(PATIENCE)

    def errors(self) -> list[str]:
        """What it said on standard error, without progress."""
        return [line for line in self._errors.read_text().splitlines() if not line.startswith('{"event"')]

    def when_finished(self, visits: int) -> None:
        """Wait until so many visits are there."""
        wait_for(lambda: len(list(self.out.glob("p*/visit_*/visit.json"))) >= visits or self.process.poll() is not None)
        assert self.process.poll() is None, self.errors()

    def end(self) -> None:
        """End whatever is left of it."""
        for child in self.children():
            with suppress(psutil.Error):
                child.kill()
        self.process.kill()
        self.process.wait()


def environment() -> dict[str, str]:
    """The environment in which a process finds the library and the stand-ins."""
    path = os.pathsep.join([str(Path(cohort_stand_ins.__file__).parent), *sys.path])
    return {**os.environ, "PYTHONPATH": path}


def wait_for(true: Callable[[], bool], seconds: float = PATIENCE) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def table_of(out: Path) -> list[list[str]]:
    """The table of results without the column of workers."""
    return [line.split(",")[:-1] for line in (out / "results.csv").read_text().splitlines()]


@pytest.fixture
def start() -> Iterator[Callable[..., Running]]:
    """Starts cohorts; at the end nothing of them is left."""
    begun: list[Running] = []

    def begin(*arguments: object) -> Running:
        begun.append(Running(*arguments))  # type: ignore[arg-type]
        return begun[-1]

    yield begin
    for each in begun:
        each.end()


@needs_posix
def test_a_killed_driver_leaves_no_process_and_resuming_gives_what_an_undisturbed_run_gives(
    start: Callable[..., Running], tmp_path: Path
) -> None:
    table = write_patients(tmp_path, 8, visits=2, do=lambda p, v: "fail no slices" if (p, v) == (2, 3) else "sleep 0.2")
    killed = tmp_path / "killed"
    undisturbed, first = start(table, tmp_path / "undisturbed", "--workers", "2"), start(table, killed)
    first.when_finished(4)
    children = first.children()
    assert children
    first.process.kill()
    first.process.wait()
    _gone, alive = psutil.wait_procs(children, timeout=ENDING)
    assert not alive
    assert not (killed / "results.csv").exists()
    before = {path: path.stat().st_mtime_ns for path in killed.glob("p*/visit_*/contours")}
    assert 3 <= len(before) < 15
    again = start(table, killed, "--resume")
    assert again.wait() == 1, again.errors()
    assert undisturbed.wait() == 1, undisturbed.errors()
    assert table_of(killed) == table_of(tmp_path / "undisturbed")
    assert len(table_of(killed)) == 17
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())
    names = {path.relative_to(killed) for path in killed.rglob("*")}
    assert names == {path.relative_to(tmp_path / "undisturbed") for path in (tmp_path / "undisturbed").rglob("*")}
    assert not any(path.name.startswith(".") for path in names)


@needs_posix
def test_ctrl_c_ends_all_processes_and_leaves_nothing_half_written(start: Callable[..., Running], tmp_path: Path) -> None:
    table = write_patients(tmp_path, 3, do=lambda patient, _visit: "sleep 0" if patient == 1 else "sleep 60")
    run = start(table, tmp_path / "out", "--workers", "2")
    run.when_finished(1)
    wait_for(lambda: len(list((tmp_path / "notes").glob("carried-*"))) == 3)
    children = run.children()
    os.killpg(run.process.pid, signal.SIGINT)  # as a terminal does
    assert run.wait() == 130
    assert run.errors() == ["p2sam: interrupted; nothing half-written is left"]
    _gone, alive = psutil.wait_procs(children, timeout=ENDING)
    assert not alive
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["cohort.json", "p0001"]


@needs_posix
def test_a_scheduler_that_is_killed_is_told_of_and_the_run_can_be_resumed(
    start: Callable[..., Running], tmp_path: Path
) -> None:
    table = write_patients(tmp_path, 4, do=lambda patient, _visit: "sleep 0.1" if patient < 3 else "sleep 1")
    out = tmp_path / "out"
    with existing_cluster(tmp_path) as (address, scheduler):
        assert address.startswith("tls://127.0.0.1:")
        own = {f"--tls-{name}": str(tmp_path / f"{name}.pem") for name in ("ca", "cert", "key")}
        run = start(table, out, "--scheduler", address, *(word for pair in own.items() for word in pair))
        run.when_finished(2)
        scheduler.kill()
        assert run.wait() == 1
        errors = run.errors()
        assert len(errors) == 1, errors
        assert errors[0].startswith("p2sam: error: the scheduler cannot be reached any more; finished visits are kept")
        assert "--resume" in errors[0]
    again = start(table, out, "--resume")
    assert again.wait() == 0, again.errors()
    assert len(table_of(out)) == 5
    carried = [path.read_text().splitlines() for path in (tmp_path / "notes").glob("carried-p000[12]*")]
    assert [len(lines) for lines in carried] == [1, 1]


class existing_cluster:  # noqa: N801 - used as a function
    """A scheduler and a worker of Dask's own commands, on this computer, over TLS.
    :param folder: for what they write.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> tuple[str, subprocess.Popen[bytes]]:
        told = self._folder / "scheduler.json"
        common = ["--scheduler-file", str(told), "--protocol", "tls", *self._certificates()]
        self._start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", *common)
        wait_for(lambda: told.exists() and told.stat().st_size > 0)
        nthreads = ["--nthreads", "1", "--local-directory", str(self._folder / "scratch")]
        self._start("worker", *common, "--host", "127.0.0.1", "--no-dashboard", "--no-nanny", *nthreads)
        return json.loads(told.read_text())["address"], self._processes[0]

    def __exit__(self, *_error: object) -> None:
        for each in self._processes:
            each.kill()
            each.wait()

    def _certificates(self) -> list[str]:
        """Dask's options that name an authority, a certificate and its key, which are made here."""
        from distributed.security import Security

        made = Security.temporary()
        contents = {"ca": made.tls_ca_file, "cert": made.tls_client_cert, "key": made.tls_client_key}
        for name, content in contents.items():
            (self._folder / f"{name}.pem").write_text(str(content), encoding="ascii")
        names = {"--tls-ca-file": "ca", "--tls-cert": "cert", "--tls-key": "key"}
        return [word for option, name in names.items() for word in (option, str(self._folder / f"{name}.pem"))]

    def _start(self, *words: str) -> None:
        command = [sys.executable, "-m", "distributed.cli.dask_scheduler", *words[1:]]
        command[2] = f"distributed.cli.dask_{words[0]}"
        nowhere = subprocess.DEVNULL
        self._processes.append(subprocess.Popen(command, stdout=nowhere, stderr=nowhere, env=environment()))


# --- the folder for the results --------------------------------------------------------------------------------------------


def rows(folder: Path, count: int) -> tuple[ManifestRow, ...]:
    return tuple(ManifestRow(number + 1, f"MRN{number}", folder / str(number)) for number in range(1, count + 1))


def begin(out: Path, patients: tuple[ManifestRow, ...], *, resume: bool = False, overwrite: bool = False) -> None:
    with cohort_folder(out, patients, resume=resume, overwrite=overwrite):
        pass


def test_a_folder_with_other_things_in_it_is_never_used(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    for options in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(InputError, match="holds files that are no cohort's results"):
            begin(tmp_path, rows(tmp_path, 1), **options)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(OutputError, match="is a file"):
        begin(tmp_path / "thesis.tex", rows(tmp_path, 1))


def test_another_table_is_not_mixed_in_but_rows_may_be_added_at_its_end(tmp_path: Path) -> None:
    out = tmp_path / "out"
    begin(out, rows(tmp_path, 2))
    begin(out, rows(tmp_path, 2), resume=True)
    begin(out, rows(tmp_path, 4), resume=True)
    for other in (rows(tmp_path, 3), rows(tmp_path, 5)[1:], rows(tmp_path / "elsewhere", 4)):
        with pytest.raises(InputError, match="was begun with another table of patients"):
            begin(out, other, resume=True)
    with pytest.raises(InputError, match="--resume goes on with them, --overwrite replaces them"):
        begin(out, rows(tmp_path, 4))
    assert "MRN" not in (out / "cohort.json").read_text()


def test_a_run_that_ended_before_any_result_need_not_be_resumed(tmp_path: Path) -> None:
    """Such as one whose scheduler did not answer."""
    out = tmp_path / "out"
    with pytest.raises(InputError, match="no scheduler"), cohort_folder(out, rows(tmp_path, 2), resume=False, overwrite=False):
        raise InputError("no scheduler")
    assert list(out.iterdir()) == []
    begin(out, rows(tmp_path, 1))


def test_overwriting_removes_the_earlier_results_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "out"
    begin(out, rows(tmp_path, 1))
    files = [
        *(
            "results.csv",
            "results.parquet",
            "cohort.html",
            "p0001/report.html",
            "p0001/report.json",
            "p0001/visit_2/visit.json",
        ),
        *("p0001/visit_2/pictures/01.png", "p0002/visit_2/visit.json"),
    ]
    kept = ["p0001/mine/notes.txt", "p0001/visit_2.txt", "presentation/results.csv"]
    for name in (*files, *kept):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("x")
    begin(out, rows(tmp_path, 1), overwrite=True)
    found = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert found == {"cohort.json", *kept}
    assert not (out / "p0002").exists()


def test_a_second_run_into_the_same_folder_is_refused(tmp_path: Path) -> None:
    with cohort_folder(tmp_path / "out", rows(tmp_path, 1), resume=False, overwrite=False) as out:
        (out / "p0001").mkdir()
        (out / "p0001" / ".p2sam-123-abc").mkdir()
        with pytest.raises(OutputError, match="another run is writing into it"):
            begin(tmp_path / "out", rows(tmp_path, 1), resume=True)
    assert not list((out / "p0001").iterdir())
