"""The command line: exit statuses, one-line errors, nothing half-written; and the number of threads."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bad_inputs
import P2SAMSlicerLib
import pytest
from fake_engine import Engine, errors_in, names_in
from P2SAMSlicerLib import cli, models, result_files, threads
from P2SAMSlicerLib.atomic_file import TEMPORARY_PREFIX
from P2SAMSlicerLib.errors import Cancelled, ModelError
from P2SAMSlicerLib.volume import Segmentation
from small_visits import write_visits

LIBRARY = Path(P2SAMSlicerLib.__file__).parents[1]
HERE = Path(__file__).parent
needs_posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")

#: The kinds of bad input, by the names that bad_inputs.cases gives them; a test checks that none is left out.
BAD_INPUTS = (
    *("a missing prior CT", "a missing segmentation", "a missing follow-up", "a missing second follow-up"),
    *("a damaged follow-up", "a file of another kind", "an empty folder", "a 2-D image", "a 4-D series"),
    *("a grid of zero spacing", "a sheared grid", "a mask of another patient's geometry", "a missing DICOM slice"),
    *("NaN voxels", "values that are not HU", "an empty segment", "an unknown segment", "a CT as segmentation"),
    *("a segmentation as CT", "another patient's follow-up", "a follow-up older than the prior", "an unknown model"),
    *("a checkpoint of another hash", "a missing checkpoint", "weights that are not on this computer", "an unknown device"),
    *("an unknown registration", "a transform that is none", "a damaged binary transform", "no parts", "a reversed range"),
    *("a margin of no length", "a margin beyond any body"),
    *("a negative seed", "a number of threads that is none", "an unknown option", "a folder for the results below a file"),
)


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=environment(),
    )


def environment() -> dict[str, str]:
    paths = [str(LIBRARY), str(HERE), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


# --- bad input -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, tuple[str, dict[str, Any]]]]:
    """What the command answers to every kind of bad input: kind -> (what it must say, what it did)."""
    folder = tmp_path_factory.mktemp("visits")
    write_visits(folder)
    cases = bad_inputs.cases(folder)
    lines = [bad_inputs.command_line(folder, folder / "out", options) for options, _ in cases.values()]
    env = {**environment(), "P2SAM_MODEL_DIR": str(folder / "models")}
    done = subprocess.run(
        [sys.executable, bad_inputs.__file__],
        input=json.dumps(lines),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env=env,
    )
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    return folder, {kind: (words, each) for (kind, (_, words)), each in zip(cases.items(), answers, strict=True)}


def test_every_kind_of_bad_input_is_tested(refusals: tuple[Path, dict[str, Any]]) -> None:
    assert set(refusals[1]) == set(BAD_INPUTS)


@pytest.mark.parametrize("kind", BAD_INPUTS)
def test_bad_input_is_refused_in_one_line_before_torch_is_imported(refusals: tuple[Path, dict[str, Any]], kind: str) -> None:
    folder, answers = refusals
    words, answer = answers[kind]
    (error,) = errors_in(answer["err"])
    assert re.match("p2sam: error: .*" + words, error), error
    assert answer["status"] == 2
    assert not answer["torch"]
    assert answer["out"] == ""
    assert "SECRET" not in error
    assert not (folder / "out").exists()


def test_weights_that_do_not_fit_are_refused_and_nothing_is_written(
    visits: list[str], tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_arguments: Any, **_options: Any) -> Any:
        raise ModelError("w.pth: looks like vit_b weights, the model needs tiny_vit")

    monkeypatch.setattr(models, "load_model", refuse)
    assert cli.main(visits) == 2
    assert errors_in(capsys.readouterr().err) == ["p2sam: error: w.pth: looks like vit_b weights, the model needs tiny_vit"]
    assert not engine.calls
    assert not (tmp_path / "out").exists()


def test_a_disk_without_space_is_refused_before_the_model_is_loaded(
    visits: list[str], tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _path: types.SimpleNamespace(free=1000))
    assert cli.main(visits) == 2
    assert errors_in(capsys.readouterr().err) == ["p2sam: error: out: not enough space, 5 MB needed and 0 MB free"]
    assert not engine.loaded
    assert not (tmp_path / "out").exists()


def test_a_disk_that_becomes_full_leaves_nothing_half_written(
    visits: list[str], tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = names_in(tmp_path)

    def no_space(_segmentation: Segmentation, path: Path) -> None:
        path.write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(result_files, "write_segmentation", no_space)
    assert cli.main(visits) == 2
    assert len(engine.calls) == 1
    assert errors_in(capsys.readouterr().err) == ["p2sam: error: out: cannot be written (no space left on device)"]
    assert names_in(tmp_path) == before


# --- endings ---------------------------------------------------------------------------------------------------------------

INTERRUPTIBLE = """
import signal, sys, time, types
from P2SAMSlicerLib import cli, models, propagation, result_files
from small_visits import segment_result, visit_result

# A shell that starts the tests in the background makes them ignore Ctrl-C; a user's terminal does not.
signal.signal(signal.SIGINT, signal.default_int_handler)
where = sys.argv.pop(1)

def wait(*_arguments):
    print("waiting", flush=True)
    time.sleep(60)

def propagate(_model, _prior, segments, followup, _options, _progress):
    if where == "propagation":
        wait()
    return visit_result(*(segment_result(each, followup.grid) for each in segments), grid=followup.grid)

models.load_model = lambda *_arguments, **_options: types.SimpleNamespace(device="cpu")
propagation.propagate = propagate
if where == "writing":
    result_files._write_slices = wait  # the other files are written by then
sys.exit(cli.main())
"""


@needs_posix
@pytest.mark.parametrize(
    ("where", "number", "status"),
    [("propagation", signal.SIGINT, 130), ("writing", signal.SIGINT, 130), ("writing", signal.SIGTERM, 143)],
)
def test_an_interrupted_run_leaves_nothing(
    visits: list[str], tmp_path: Path, where: str, number: signal.Signals, status: int
) -> None:
    before = names_in(tmp_path)
    command = [sys.executable, "-c", INTERRUPTIBLE, where, *visits]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(), cwd=tmp_path
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n", process.communicate()[1]
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == status
    assert errors_in(err) == (["p2sam: interrupted; nothing half-written is left"] if number == signal.SIGINT else [])
    assert names_in(tmp_path) == before


@needs_posix
@pytest.mark.usefixtures("engine")
def test_a_killed_run_leaves_what_was_there_and_the_next_one_is_not_hindered(visits: list[str], tmp_path: Path) -> None:
    assert cli.main(visits) == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    command = [sys.executable, "-c", INTERRUPTIBLE, "writing", *visits, "--overwrite"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment(), cwd=tmp_path
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        process.kill()
    visible = [path for path in (tmp_path / "out").iterdir() if not path.name.startswith(TEMPORARY_PREFIX)]
    assert {path.name: path.read_bytes() for path in visible} == before
    assert cli.main([*visits, "--overwrite"]) == 0


def test_cancellation_ends_like_ctrl_c(
    visits: list[str], tmp_path: Path, engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    engine.faults["followup"] = Cancelled()
    assert cli.main(visits) == 130
    assert errors_in(capsys.readouterr().err) == ["p2sam: interrupted; nothing half-written is left"]
    assert not (tmp_path / "out").exists()


@needs_posix
def test_a_reader_that_goes_away_is_no_error() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "P2SAMSlicerLib", "models", "list"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert process.returncode == 141


def test_the_module_is_the_program() -> None:
    done = run_python("import runpy; runpy.run_module('P2SAMSlicerLib', run_name='__main__')", "--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"p2sam {P2SAMSlicerLib.__version__}\n", "")


def test_help_says_what_a_user_must_know(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["propagate", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for words in ("research use only", "unreviewed", "New lesions are not sought", "switched off in 3D Slicer"):
        assert words in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["segment"], "invalid choice: 'segment'"),
        (["propagate"], "the following arguments are required: --prior-ct, --prior-seg, --followup-ct, --out"),
        (["models"], "the following arguments are required: ACTION"),
        (["models", "verify", "sam3"], "unknown model 'sam3'"),
    ],
)
def test_a_mistake_on_the_command_line_is_told_in_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("p2sam: error: ")
    assert words in line


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (RuntimeError("first\nDoe^Jane " + "x" * 1000), "unexpected RuntimeError: a fault of this program .*--debug shows"),
        (MemoryError(), r"not enough memory$"),
        (KeyError("Doe^Jane"), "unexpected KeyError: a fault of this program"),
        (
            FileNotFoundError(errno.ENOENT, "No such file", "/Doe^Jane"),
            r"unexpected FileNotFoundError \(No such file\): a fault",
        ),
    ],
)
def test_an_unexpected_error_is_one_line_and_its_traceback_is_there_on_request(
    fault: Exception, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> Any:
        raise fault

    monkeypatch.setattr("P2SAMSlicerLib.models.store.list_models", fail)
    assert cli.main(["models", "list"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match("p2sam: error: " + words, line)
    assert "Doe" not in line
    for arguments in (["--debug", "models", "list"], ["models", "list", "--debug"]):
        assert cli.main(arguments) == 1
        assert "in fail" in capsys.readouterr().err
    assert cli.main(["--help"]) == 0
    assert "--debug" in capsys.readouterr().out


# --- threads ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def thread_settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    import SimpleITK

    for name in threads.VARIABLES:
        monkeypatch.setenv(name, os.environ.get(name, "1"))
    before = SimpleITK.ProcessObject.GetGlobalDefaultNumberOfThreads()
    yield
    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(before)


def test_the_number_of_threads_holds_for_all_libraries(thread_settings: None) -> None:
    import SimpleITK

    del thread_settings
    assert threads.use_threads(3) == 3
    assert {os.environ[name] for name in threads.VARIABLES} == {"3"}
    assert SimpleITK.ProcessObject.GetGlobalDefaultNumberOfThreads() == 3


@pytest.mark.parametrize(("text", "number"), [("2", 2), ("4,2", 4), ("", 5), ("many", 5), ("0", 5)])
def test_without_a_number_the_environment_decides_and_then_the_cores(
    thread_settings: None, monkeypatch: pytest.MonkeyPatch, text: str, number: int
) -> None:
    del thread_settings
    monkeypatch.setattr(threads, "physical_cores", lambda: 5)
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    assert threads.use_threads(None) == number


def test_more_threads_than_the_libraries_were_loaded_with_do_not_end_the_process() -> None:
    """OpenBLAS died of it, in the solver that the engine learns a lesion's looks with."""
    code = """
        import os
        os.environ["OMP_NUM_THREADS"] = "1"
        import numpy as np
        from sklearn.linear_model import LogisticRegression
        from P2SAMSlicerLib.threads import use_threads
        rng = np.random.default_rng(0)
        LogisticRegression().fit(rng.normal(size=(20, 3)), rng.integers(0, 2, 20))
        use_threads(4)
        for _ in range(5):
            LogisticRegression(max_iter=300).fit(rng.normal(size=(200, 256)), rng.integers(0, 2, 200))
        print("alive")
    """
    done = run_python(code)
    assert (done.stdout, done.returncode) == ("alive\n", 0), done.stderr


def test_there_is_at_least_one_core_and_not_more_than_the_system_has() -> None:
    assert 1 <= threads.physical_cores() <= (os.cpu_count() or 1)


def test_threads_are_set_before_torch_is_imported() -> None:
    code = """
        import sys
        from P2SAMSlicerLib.threads import use_threads
        use_threads(1)
        assert "torch" not in sys.modules
        import torch
        print(torch.get_num_threads())
    """
    done = run_python(code)
    assert (done.stdout, done.returncode) == ("1\n", 0), done.stderr
