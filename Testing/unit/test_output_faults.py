"""Full disks, folders that cannot be written, and processes that are killed: no half-written DICOM, no half-written visit.

A process is killed at each step at which it changes the disk, in a child that ends itself with SIGKILL before that step. What
was there must be whole then, and the next run must complete.
"""

from __future__ import annotations

import csv
import errno
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet
import pydicom
import pytest
from P2SAMSlicerLib.atomic_file import TEMPORARY_PREFIX
from P2SAMSlicerLib.cohort.cohort_report import write_cohort_report
from P2SAMSlicerLib.cohort.results_table import ResultRow, write_results
from P2SAMSlicerLib.dicom.ct_reference import CtReference
from P2SAMSlicerLib.dicom.ct_writer import write_ct_series
from P2SAMSlicerLib.dicom.export_contours import ExportContour
from P2SAMSlicerLib.dicom.read_contours import read_on_grid, read_on_own_grid
from P2SAMSlicerLib.dicom.seg_writer import write_dicom_seg
from P2SAMSlicerLib.dicom.structure_set_writer import write_structure_set
from P2SAMSlicerLib.errors import InputError, OutputError
from P2SAMSlicerLib.options import PropagationOptions
from P2SAMSlicerLib.patient.plan import PatientSettings
from P2SAMSlicerLib.patient.run import PatientResult, run_visits
from P2SAMSlicerLib.patient.visit_folder import files_unchanged, read_visit_folder
from P2SAMSlicerLib.patient.visits import find_visits
from patient_phantom import GRID, PATIENT, CopyEngine, gtv, write_dicom_visit
from small_visits import phantom

needs_posix = pytest.mark.skipif(os.name != "posix", reason="no fork, SIGKILL or resource limits on Windows")

CONTOURS = [ExportContour("GTV", gtv().mask, (1.0, 0.0, 0.0), None, False, "SEMIAUTOMATIC", "carried")]
Writer = Callable[..., Any]
WRITERS = pytest.mark.parametrize("write", [write_structure_set, write_dicom_seg], ids=["RTSTRUCT", "SEG"])

#: The last steps of a visit, in which its files get their names.
MOVES = 16

#: What changes a disk, and at which a process is killed.
STEPS = ("fsync", "replace", "rename", "link", "unlink", "mkdir", "rmdir")


def seen(folder: Path) -> dict[str, bytes]:
    """All files that a person or a program would find, with their content."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in files
        if not any(part.startswith(TEMPORARY_PREFIX) for part in path.relative_to(folder).parts)
    }


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file can grow beyond a size, as on a disk that becomes full."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is killed loses nothing that the system has taken over; waiting for the disk takes most of the time."""
    monkeypatch.setattr(os, "fsync", lambda _file: None)


def steps_of(work: Callable[[], object]) -> list[int]:
    """Steps of some work at which it is worth being killed: some of those before anything gets its name, and all after."""
    total = 0

    def count() -> None:
        nonlocal total
        total += 1

    with pytest.MonkeyPatch.context() as patched:
        for name in STEPS:
            patched.setattr(os, name, _killing(getattr(os, name), count))
        work()
    assert total > 4
    last = max(0, total - MOVES)
    return [*range(0, last, 7), *range(last, total)]


def killed_before(step: int, work: Callable[[], object]) -> bool:
    """Do some work in a child that is killed (as by kill -9) before it changes the disk for the ``step``-th time.

    :returns: whether it was killed; False if the work was done before it came to that.
    """
    child = os.fork()
    if child:
        status = os.waitpid(child, 0)[1]
        killed = os.WIFSIGNALED(status)
        assert not killed or os.WTERMSIG(status) == signal.SIGKILL, "it hung"
        assert killed or os.WEXITSTATUS(status) == 0, "the work itself failed"
        return killed
    try:
        signal.alarm(120)
        left = step
        for name in STEPS:
            setattr(os, name, _killing(getattr(os, name), lambda: next_step()))

        def next_step() -> None:
            nonlocal left
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1

        work()
        os._exit(0)
    finally:
        os._exit(1)


def _killing(function: Callable[..., Any], before: Callable[[], None]) -> Callable[..., Any]:
    def changed(*arguments: Any, **named: Any) -> Any:
        before()
        return function(*arguments, **named)

    return changed


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> CtReference:
    return write_ct_series(tmp_path_factory.mktemp("ct"), phantom(GRID), PATIENT, date(2024, 1, 1), "simulated")


def check_dicom(path: Path) -> None:
    """A file holds the whole contour."""
    kind = pydicom.dcmread(path).Modality
    drawn = read_on_grid(path, GRID, ["GTV"]) if kind == "RTSTRUCT" else read_on_own_grid(path, ["GTV"])
    assert drawn.segmentation.segments[0].mask.sum() == gtv().mask.sum()


# ------------------------------------------------------------------------------------------------------------------- DICOM
@needs_posix
@WRITERS
@pytest.mark.parametrize("size", [0, 132, 2000])
def test_a_disk_that_fills_while_dicom_is_written_leaves_what_was_there(
    tmp_path: Path, reference: CtReference, write: Writer, size: int
) -> None:
    path = tmp_path / "contours.dcm"
    with largest_file(size), pytest.raises(OutputError, match=r"^contours\.dcm: cannot be written") as refused:
        write(path, CONTOURS, GRID, reference)
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.iterdir())
    write(path, CONTOURS, GRID, reference)
    before = seen(tmp_path)
    with largest_file(size), pytest.raises(OutputError):
        write(path, CONTOURS, GRID, reference, overwrite=True)
    assert seen(tmp_path) == before
    assert [each.name for each in tmp_path.iterdir()] == ["contours.dcm"]
    check_dicom(path)


@WRITERS
@pytest.mark.parametrize("reason", [errno.EROFS, errno.EACCES, errno.ENOSPC, errno.EIO])
def test_a_folder_that_cannot_be_written_is_told_in_one_line(
    tmp_path: Path, reference: CtReference, monkeypatch: pytest.MonkeyPatch, write: Writer, reason: int
) -> None:
    usual = os.open

    def refuse(path: Any, flags: int, *more: Any, **named: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(reason, os.strerror(reason))
        return usual(path, flags, *more, **named)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(OutputError, match=r"^contours\.dcm: cannot be written \([a-z /-]+\)$") as refused:
        write(tmp_path / "contours.dcm", CONTOURS, GRID, reference)
    assert str(tmp_path) not in str(refused.value)
    assert not list(tmp_path.iterdir())


@needs_posix
@WRITERS
@pytest.mark.parametrize("there", [False, True])
def test_a_process_that_is_killed_at_any_step_leaves_a_whole_dicom_file_or_none(
    tmp_path: Path, reference: CtReference, write: Writer, there: bool
) -> None:
    path = tmp_path / "contours.dcm"
    if there:
        write(path, CONTOURS, GRID, reference)
    before = seen(tmp_path)
    for step in range(100):
        if not killed_before(step, lambda: write(path, CONTOURS, GRID, reference, overwrite=there)):
            break
        if seen(tmp_path) != before:  # it has got its name
            check_dicom(path)
        for left in tmp_path.glob(f"{TEMPORARY_PREFIX}*"):
            left.unlink()
        if not there:
            path.unlink(missing_ok=True)
    assert 2 <= step < 99, "it was killed at no step at all"
    check_dicom(path)


@needs_posix
@WRITERS
def test_a_process_that_is_killed_with_half_a_file_written_leaves_none(
    tmp_path: Path, reference: CtReference, write: Writer
) -> None:
    def half() -> None:
        usual = pydicom.dataset.Dataset.save_as

        def save(dataset: Any, target: Any, **options: Any) -> None:
            usual(dataset, target, **options)
            os.truncate(target, Path(target).stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

        pydicom.dataset.Dataset.save_as = save  # type: ignore[assignment, method-assign]
        write(tmp_path / "contours.dcm", CONTOURS, GRID, reference)

    assert killed_before(1000, half)
    assert seen(tmp_path) == {}
    assert len(list(tmp_path.glob(f"{TEMPORARY_PREFIX}*"))) == 1
    write(tmp_path / "contours.dcm", CONTOURS, GRID, reference)
    check_dicom(tmp_path / "contours.dcm")


# ----------------------------------------------------------------------------------------------------------------- patient
@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> CopyEngine:
    """An engine that carries at once, and no pictures, which take most of the time and are written as all files are."""
    fake = CopyEngine()
    monkeypatch.setattr("P2SAMSlicerLib.propagation.propagate", fake.propagate)
    monkeypatch.setattr("P2SAMSlicerLib.patient.checked_orders.check_model", lambda *_, **__: None)
    monkeypatch.setattr("P2SAMSlicerLib.patient.run.use_threads", lambda count: count or 1)
    monkeypatch.setattr("P2SAMSlicerLib.patient.carry_visit._pictures", lambda *_: [])
    monkeypatch.setattr("P2SAMSlicerLib.patient.run.write_report", lambda *_, **__: ())
    return fake


@pytest.fixture
def patient(tmp_path: Path) -> Path:
    """Two DICOM visits, the first contoured."""
    write_dicom_visit(tmp_path / "patient" / "a", date(2024, 1, 1), [gtv()])
    write_dicom_visit(tmp_path / "patient" / "b", date(2024, 2, 1))
    return tmp_path / "patient"


def carry(patient: Path, *, overwrite: bool = False, **settings: Any) -> PatientResult:
    return run_visits(
        find_visits(patient),
        PatientSettings(**settings),
        patient.parent / "out",
        overwrite=overwrite,
        model_of=lambda _order: SimpleNamespace(device="cpu"),
    )


def state_of(folder: Path) -> str:
    """``done``, ``failed`` or ``absent``, or what is wrong with a visit's folder; every DICOM file in it is whole."""
    for path in folder.glob("*.dcm"):
        check_dicom(path)
    try:
        content = read_visit_folder(folder)
    except InputError:
        return "absent" if not seen(folder) else "files without a record"
    if content["outcome"] == "done" and not files_unchanged(folder, content):
        return "mixed"
    return str(content["outcome"])


@needs_posix
@pytest.mark.usefixtures("engine")
def test_a_patients_visit_is_whole_or_absent_at_whatever_step_the_run_is_killed(patient: Path) -> None:
    out = patient.parent / "out"
    states = []
    for step in steps_of(lambda: carry(patient))[::-3]:
        shutil.rmtree(out)
        assert killed_before(step, lambda: carry(patient))
        states.append(state_of(out / "visit_2"))
        if states[-1] == "done" or step % 3 == 0:  # the next run completes, whatever was left
            assert [each.outcome for each in carry(patient).visits] in (["done"], ["kept"])
            assert state_of(out / "visit_2") == "done"
    assert set(states) == {"absent", "done"}


@needs_posix
def test_a_failed_visit_that_is_tried_again_and_killed_completes_with_the_next_run(engine: CopyEngine, patient: Path) -> None:
    out = patient.parent / "out"
    engine.faults = {"visit_2": InputError("not this time")}
    assert [each.outcome for each in carry(patient).visits] == ["failed"]
    shutil.copytree(out, patient.parent / "failed")
    engine.faults = {}
    states = []
    for step in steps_of(lambda: carry(patient))[-MOVES:]:
        shutil.rmtree(out)
        shutil.copytree(patient.parent / "failed", out)
        assert killed_before(step, lambda: carry(patient))
        states.append(state_of(out / "visit_2"))
        assert [each.outcome for each in carry(patient).visits] in (["done"], ["kept"]), f"killed before step {step}"
        assert state_of(out / "visit_2") == "done"
    assert set(states) == {"failed", "done"}


@needs_posix
@pytest.mark.usefixtures("engine")
def test_a_visit_that_is_replaced_and_killed_holds_whole_files_and_is_known_to_be_mixed(patient: Path) -> None:
    out = patient.parent / "out"
    carry(patient)
    before = seen(out / "visit_2")
    shutil.copytree(out, patient.parent / "before")
    other = PropagationOptions(seed=7)
    states = []
    for step in steps_of(lambda: carry(patient, overwrite=True, options=other))[-MOVES:]:
        shutil.rmtree(out)
        shutil.copytree(patient.parent / "before", out)
        assert killed_before(step, lambda: carry(patient, overwrite=True, options=other))
        states.append(state_of(out / "visit_2"))
        if states[-1] == "done" and seen(out / "visit_2") == before:
            states[-1] = "as it was"
        if states[-1] == "mixed":  # it is not taken for finished, and the same command completes it
            assert [each.outcome for each in carry(patient, overwrite=True, options=other).visits] == ["done"]
            assert state_of(out / "visit_2") == "done"
    assert {"as it was", "done"} <= set(states) <= {"as it was", "mixed", "done"}


@needs_posix
@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("size", [0, 300, 3000])
def test_a_disk_that_fills_while_a_patient_is_carried_leaves_no_half_visit_and_the_next_run_completes(
    patient: Path, size: int
) -> None:
    outcomes: list[str] = []
    # With no space at all not even the failure can be recorded.
    with largest_file(size), suppress(OutputError):
        outcomes = [each.outcome for each in carry(patient).visits]
    out = patient.parent / "out"
    assert outcomes in ([], ["failed"])
    assert state_of(out / "visit_2") == ("failed" if outcomes else "absent")
    assert not list(out.rglob("*.dcm"))
    assert not list(out.rglob(f"{TEMPORARY_PREFIX}*"))
    assert [each.outcome for each in carry(patient).visits] == ["done"]
    assert state_of(out / "visit_2") == "done"


@pytest.mark.usefixtures("engine")
def test_results_that_cannot_be_written_at_all_are_refused_before_any_work(
    patient: Path, engine: CopyEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = os.open

    def refuse(path: Any, flags: int, *more: Any, **named: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return usual(path, flags, *more, **named)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(OutputError, match=r"^out: cannot be written \(read-only file system\)$"):
        carry(patient)
    assert engine.calls == []
    assert not (patient.parent / "out").exists()


# ------------------------------------------------------------------------------------------------------------------ cohort
def write_cohort(out: Path, patients: int) -> None:
    rows = [
        ResultRow(f"p{n:04d}", "visit_2", 7, "done", "GTV", "found", 0.5, reasons=f"reason {n}" * 3) for n in range(patients)
    ]
    write_results(out, rows, workers=2)
    write_cohort_report(out, rows, {"Workers": "2"})


def check_cohort(out: Path) -> None:
    """Tables and page are whole, of whichever run."""
    for path in out.glob("*.parquet"):
        assert pyarrow.parquet.read_table(path).num_rows in (40, 60)
    for path in out.glob("*.csv"):
        with path.open(newline="", encoding="utf-8") as file:
            assert len(list(csv.DictReader(file))) in (40, 60)
    for path in out.glob("*.html"):
        assert path.read_text(encoding="utf-8").rstrip().endswith("</html>")


@needs_posix
@pytest.mark.parametrize("size", [0, 500, 5000])
def test_a_disk_that_fills_while_a_cohorts_results_are_written_leaves_whole_tables(tmp_path: Path, size: int) -> None:
    with largest_file(size), pytest.raises(OutputError):
        write_cohort(tmp_path, 40)
    check_cohort(tmp_path)
    write_cohort(tmp_path, 40)
    before = sorted(seen(tmp_path))
    assert len(before) == 3
    with largest_file(size), pytest.raises(OutputError):
        write_cohort(tmp_path, 60)
    check_cohort(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@needs_posix
def test_a_cohorts_tables_are_whole_at_whatever_step_the_run_is_killed(tmp_path: Path) -> None:
    write_cohort(tmp_path, 40)
    for step in range(100):
        if not killed_before(step, lambda: write_cohort(tmp_path, 60)):
            break
        check_cohort(tmp_path)
    assert 3 <= step < 99
    assert len(seen(tmp_path)) == 3
