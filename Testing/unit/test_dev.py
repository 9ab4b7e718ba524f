"""dev.py: which Python it takes, when it makes, updates or keeps .venv, and what status it ends with."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

DEV = Path(__file__).resolve().parents[2] / "dev.py"
pytestmark = pytest.mark.skipif(os.name == "nt", reason="the stand-in interpreters are shell scripts")


def load_dev() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dev", DEV)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def script(path: Path, text: str) -> Path:
    """An executable shell script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def working_python(path: Path) -> Path:
    return script(path, f'exec "{sys.executable}" "$@"')


class Checkout:
    """A checkout in which commands are written down instead of run; ``-m venv`` leaves a Python that works."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.dev: Any = load_dev()
        self.commands: list[list[str]] = []
        self.pip_status = 0
        self.pip_interrupted = False
        (root / "pyproject.toml").write_text("[project]\n")
        (root / "constraints.txt").write_text("numpy==2.4.6\n")
        monkeypatch.setattr(self.dev, "ROOT", root)
        monkeypatch.setattr(self.dev, "VENV", root / ".venv")
        monkeypatch.setattr(self.dev, "run", self.run)

    def run(self, command: Sequence[str | Path], cwd: Path | None = None) -> int:  # noqa: ARG002
        words = [str(word) for word in command]
        self.commands.append(words)
        if words[-2] == "venv":
            working_python(Path(words[-1]) / "bin" / "python")
        if "pip" in words:
            if self.pip_interrupted:
                raise KeyboardInterrupt
            return self.pip_status
        return 0

    def setup(self, *extras: str) -> list[str]:
        """Set up; returns what was done, in short."""
        self.commands.clear()
        self.dev.ensure_environment(extras or ("test",))
        return ["venv" if words[-2] == "venv" else words[-1].removeprefix(str(self.root)) for words in self.commands]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkout:
    return Checkout(tmp_path, monkeypatch)


EVERYTHING = ["venv", "setuptools", "[test]"]


def test_the_first_setup_makes_everything_and_the_second_nothing(checkout: Checkout) -> None:
    assert checkout.setup() == EVERYTHING
    assert checkout.setup() == []


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_a_changed_dependency_updates_the_environment_in_place(checkout: Checkout, name: str) -> None:
    checkout.setup()
    (checkout.root / name).write_text("# changed\n")
    assert checkout.setup() == ["setuptools", "[test]"]
    assert checkout.setup() == []


def test_extras_are_added_when_first_needed_and_kept(checkout: Checkout) -> None:
    checkout.setup()
    assert checkout.setup("test", "bench") == ["setuptools", "[bench,test]"]
    assert checkout.setup("test") == []
    (checkout.root / "constraints.txt").write_text("# changed\n")
    assert checkout.setup("test") == ["setuptools", "[bench,test]"]


def test_an_interrupted_setup_is_made_again_from_nothing(checkout: Checkout) -> None:
    checkout.pip_interrupted = True
    with pytest.raises(KeyboardInterrupt):
        checkout.setup()
    (checkout.root / ".venv" / "half").touch()
    checkout.pip_interrupted = False
    assert checkout.setup() == EVERYTHING
    assert not (checkout.root / ".venv" / "half").exists()


def test_an_update_that_fails_by_itself_is_tried_again_in_place(checkout: Checkout) -> None:
    checkout.setup()
    (checkout.root / "constraints.txt").write_text("# changed\n")
    checkout.pip_status = 1
    with pytest.raises(checkout.dev.SetupError):
        checkout.setup()
    checkout.pip_status = 0
    assert checkout.setup() == ["setuptools", "[test]"]


@pytest.mark.parametrize("rubbish", ["file", "empty folder", "dead python", "no pip", "dangling link", "torn stamp"])
def test_a_broken_environment_is_made_again(checkout: Checkout, rubbish: str) -> None:
    venv = checkout.root / ".venv"
    if rubbish == "file":
        venv.touch()
    elif rubbish == "empty folder":
        venv.mkdir()
    elif rubbish == "dead python":
        checkout.setup()
        (venv / "bin" / "python").unlink()
    elif rubbish == "no pip":
        script(venv / "bin" / "python", "echo 'No module named pip' >&2; exit 1")
    elif rubbish == "dangling link":
        venv.symlink_to(checkout.root / "nowhere")
    else:
        checkout.setup()
        (venv / checkout.dev.STAMP_NAME).write_text('{"fingerpr')
    assert checkout.setup() == EVERYTHING
    assert checkout.setup() == []


def test_the_environment_of_a_person_is_used_and_not_removed(checkout: Checkout) -> None:
    working_python(checkout.root / ".venv" / "bin" / "python")
    (checkout.root / ".venv" / "mine").touch()
    assert checkout.setup() == ["setuptools", "[test]"]
    assert (checkout.root / ".venv" / "mine").exists()


def test_launchers_that_do_not_run_are_passed_over(checkout: Checkout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "_base_executable", str(script(tmp_path / "other", "echo '[3, 9]'")))
    for name in ("python3.12", "python3.11", "python3.10"):
        script(tmp_path / "shims" / name, "echo 'command not found' >&2; exit 127")
    good = working_python(tmp_path / "real" / "python3.11")
    monkeypatch.setenv("PATH", os.pathsep.join([str(tmp_path / "shims"), "", str(tmp_path / "real")]))
    assert checkout.dev.find_interpreter() == [str(good)]


def test_an_unsupported_version_alone_is_refused_in_one_line(
    checkout: Checkout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    newer = script(tmp_path / "bin" / "python3", "echo '[3, 13]'")
    monkeypatch.setattr(sys, "_base_executable", str(newer))
    monkeypatch.setenv("PATH", str(newer.parent))
    assert checkout.dev.main(["setup"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "3.10, 3.11 or 3.12" in error
    assert not (checkout.root / ".venv").exists()


def test_the_python_of_an_activated_environment_is_not_used_to_replace_it(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = working_python(checkout.root / ".venv" / "bin" / "python3.12")
    monkeypatch.setenv("PATH", str(inside.parent))
    assert [str(inside)] not in list(checkout.dev.interpreters())


def test_only_one_setup_runs_at_a_time_and_a_killed_one_holds_nothing(checkout: Checkout) -> None:
    code = (
        "import sys, pathlib, time; sys.path.insert(0, sys.argv[1]); import dev; dev.VENV = pathlib.Path(sys.argv[2])\n"
        "with dev.setup_lock():\n    print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-B", "-c", code, str(DEV.parent), str(checkout.root / ".venv")], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout
        assert holder.stdout.readline() == "held\n"
        with (checkout.root / ".venv.lock").open("ab") as handle:
            assert not checkout.dev.try_lock(handle)
            holder.kill()
            holder.wait()
            assert checkout.dev.try_lock(handle)
    finally:
        holder.kill()
        holder.wait()
        assert holder.stdout
        holder.stdout.close()


def test_the_status_of_a_command_passes_through() -> None:
    dev: Any = load_dev()
    assert dev.run([sys.executable, "-c", "raise SystemExit(5)"]) == 5
    assert dev.run(["sh", "-c", "kill -KILL $$"]) == 137


def test_foreign_packages_on_the_python_path_do_not_reach_the_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    assert load_dev().run([sys.executable, "-c", "import os; raise SystemExit('PYTHONPATH' in os.environ)"]) == 0


def test_tests_run_although_lint_failed_and_the_status_is_lints(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    checkout.setup()
    monkeypatch.setattr(checkout.dev, "answer", lambda _command, code: "True" if "3, 11" in code else "[3, 11]")
    ran: list[str] = []

    def run(command: Sequence[str | Path], cwd: Path | None = None) -> int:  # noqa: ARG001
        ran.append(str(command[2]))
        return {"mypy": 3}.get(str(command[2]), 0)

    monkeypatch.setattr(checkout.dev, "run", run)
    assert checkout.dev.main(["test", "-k", "geometry"]) == 3
    assert ran == ["ruff", "ruff", "mypy", "pytest"]


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["-k", "geometry"], ["-n", "2", "--dist", "loadfile", "--no-loadscope-reorder", "-m", "not long", "-k", "geometry"]),
        (["-n", "0"], ["-m", "not long", "-n", "0"]),
        (["-n4", "--long", "-x"], ["-n4", "-x"]),
        (["-n0", "-m", "slow"], ["-n0", "-m", "slow"]),
    ],
)
def test_tests_run_in_two_processes_without_the_long_ones_unless_told_otherwise(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch, args: list[str], told: list[str]
) -> None:
    checkout.setup()
    checkout.commands.clear()
    monkeypatch.setattr(checkout.dev, "lint", lambda _args: 0)
    assert checkout.dev.main(["test", *args]) == 0
    (words,) = checkout.commands
    assert words[1:] == ["-m", "pytest", *told]


@pytest.mark.parametrize(("newer", "checks"), [("True", ["ruff", "ruff", "mypy"]), ("False", ["ruff", "ruff"])])
def test_types_are_checked_where_the_tested_numpy_exists(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch, newer: str, checks: list[str]
) -> None:
    checkout.setup()
    checkout.commands.clear()
    monkeypatch.setattr(checkout.dev, "ensure_environment", lambda: "python")
    monkeypatch.setattr(checkout.dev, "answer", lambda *_: newer)
    assert checkout.dev.main(["lint"]) == 0
    assert [words[2] for words in checkout.commands] == checks


@pytest.mark.parametrize(("args", "out"), [([], "{root}/demo-output"), (["--out", "here"], "here"), (["--out=here"], None)])
def test_the_demo_writes_where_it_is_told(checkout: Checkout, args: list[str], out: str | None) -> None:
    checkout.setup()
    checkout.commands.clear()
    assert checkout.dev.main(["demo", *args]) == 0
    (words,) = checkout.commands
    assert words[1:4] == ["-m", "P2SAMSlicerLib", "demo"]
    assert words[4:] == (["--out", out.format(root=checkout.root)] if out else args)


def test_the_benchmark_measures_the_cases_beside_the_checkout_unless_told_otherwise(checkout: Checkout) -> None:
    checkout.setup()
    checkout.commands.clear()
    assert checkout.dev.main(["bench", "--threads", "1"]) == 0
    assert checkout.dev.main(["bench", "--cases", "mine", "--out=here"]) == 0
    usual, told = ([*words[1:]] for words in checkout.commands)
    command = ["-m", "P2SAMSlicerLib", "benchmark", "accuracy"]
    cases, out = checkout.root.parent / "shared" / "data" / "visits", checkout.root / "benchmark-output"
    assert usual == [*command, "--cases", str(cases), "--out", str(out), "--overwrite", "--threads", "1"]
    assert told == [*command, "--cases", "mine", "--out=here"]


@pytest.mark.parametrize("argv", [[], ["tset"]])
def test_an_unknown_command_is_refused_and_the_known_ones_are_named(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert load_dev().main(argv) == 2
    error = capsys.readouterr().err
    assert "setup, demo, test, lint, bench" in error
    assert "Traceback" not in error


CHILD = """
import pathlib, sys, time
folder = pathlib.Path(sys.argv[1])
try:
    (folder / "started").touch()
    time.sleep(60)
except KeyboardInterrupt:
    time.sleep(0.3)
    (folder / "cleaned").touch()
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_ended_run_leaves_no_child_and_no_traceback(tmp_path: Path, number: int, status: int) -> None:
    code = (
        "import signal, sys, dev; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "child = [sys.executable, '-c', sys.argv[1], sys.argv[2]]; "
        "dev.COMMANDS['setup'] = lambda args: dev.run(child); sys.exit(dev.main(['setup']))"
    )
    process = subprocess.Popen(
        [sys.executable, "-B", "-c", code, CHILD, str(tmp_path)],
        cwd=DEV.parent,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "started").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    if number == signal.SIGINT:
        # A terminal sends Ctrl-C to every process in the foreground.
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == status
    assert error.strip() == "dev.py: interrupted"
    assert (tmp_path / "cleaned").exists() == (number == signal.SIGINT)
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
