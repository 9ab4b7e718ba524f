"""Sets up, shows, tests and measures P2SAMSlicer from a checkout.

    python3 dev.py setup               make or refresh the environment .venv
    python3 dev.py demo [--out DIR]    run the demonstration (p2sam demo), by default into demo-output
    python3 dev.py test [ARGS]         lint, then pytest in two processes (-n 0: in one); ARGS go to pytest; --long: also the
                                       tests that take minutes
    python3 dev.py lint                ruff format, ruff check, mypy (types from Python 3.11 on)
    python3 dev.py bench [ARGS]        measure accuracy (p2sam benchmark accuracy), by default on ../shared/data/visits

Needs Python 3.10, 3.11 or 3.12 and nothing else: each command first makes .venv and installs the project and the versions in
constraints.txt into it. That is done again only when pyproject.toml or constraints.txt changes; otherwise no network is
needed. The exit status is that of the command; 2 if no environment can be made.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# This file must parse under older Pythons than the project supports, so that their users get a message and not a SyntaxError.
SUPPORTED = ((3, 12), (3, 11), (3, 10))

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
STAMP_NAME = "p2sam-setup.json"
INCOMPLETE = {"complete": False}


class SetupError(Exception):
    """No usable environment can be made; the message says why in one line."""


class Ended(KeyboardInterrupt):
    """Ctrl-C or a request to terminate came while a command ran; the command has ended."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.status = 128 + number


def say(text: str) -> None:
    """Print a line of our own between the output of the commands."""
    print(f"dev.py: {text}", flush=True)


def shown(words: Sequence[str]) -> str:
    """A command as one would type it."""
    return " ".join(shlex.quote(word) for word in words)


def clean_environment() -> dict[str, str]:
    """The process environment without what would make .venv's Python load foreign packages."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}


def run(command: Sequence[str | Path], cwd: Path | None = ROOT) -> int:
    """Show and run a command, and wait for its end in any case.

    :returns: its exit status; 128 + n for signal n, as a shell reports it.
    :raises Ended: Ctrl-C or a request to terminate came meanwhile.
    """
    words = [str(word) for word in command]
    say(shown(words))
    told: list[int] = []
    process: subprocess.Popen[bytes] | None = None

    def pass_on() -> None:
        # The terminal sends the first Ctrl-C to the child as well, which may then clean up in peace.
        if process is not None and told and told != [signal.SIGINT]:
            process.terminate() if len(told) < 3 else process.kill()

    def note(number: int, _frame: object) -> None:
        told.append(number)
        pass_on()

    watched = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, note) for number in watched}
    try:
        process = subprocess.Popen(words, cwd=cwd, env=clean_environment())
        pass_on()
        status = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if told:
        raise Ended(told[0])
    return status if status >= 0 else 128 - status


def answer(command: Sequence[str | Path], code: str) -> str | None:
    """What an interpreter prints for ``code``, or None if it does not run."""
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            [*words, "-I", "-c", code], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def supported(command: Sequence[str | Path], modules: str) -> bool:
    """Whether an interpreter really runs, has a supported version and can import ``modules``.

    That it lies on the PATH is not enough: version managers leave launchers there for versions that are not installed.
    """
    version = answer(command, f"import sys, {modules}; print(list(sys.version_info[:2]))")
    return version in [str(list(pair)) for pair in SUPPORTED]


def interpreters() -> Iterator[list[str]]:
    """Commands that may start a supported Python: the running one first, then all that the PATH offers."""
    # Inside an activated .venv the running Python is the one that may be about to be removed: take the one below it.
    yield [getattr(sys, "_base_executable", None) or sys.executable]
    names = [f"python{major}.{minor}" for major, minor in SUPPORTED] + ["python3", "python"]
    for name in names:
        for folder in os.environ.get("PATH", "").split(os.pathsep):
            found = shutil.which(name, path=folder) if folder else None
            if found and VENV not in Path(found).parents:
                yield [found]
    if os.name == "nt":
        yield from (["py", f"-{major}.{minor}"] for major, minor in SUPPORTED)


def find_interpreter() -> list[str]:
    """The command of a Python that can make the environment."""
    running = "{}.{}".format(*sys.version_info[:2])
    for command in interpreters():
        if supported(command, "ensurepip, venv"):
            if sys.version_info[:2] not in SUPPORTED:
                say(f"this is Python {running}, which is not supported; using {shown(command)}")
            return command
    raise SetupError(
        f"needs Python 3.10, 3.11 or 3.12 with its venv module, but found none that runs (this is Python {running}). "
        "Install one, on Debian and Ubuntu together with python3-venv, and run this again."
    )


def try_lock(handle: IO[bytes]) -> bool:
    """Take the lock on an open file unless another process holds it."""
    try:
        if sys.platform == "win32":
            import msvcrt

            handle.seek(0)
            msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


@contextlib.contextmanager
def setup_lock() -> Iterator[None]:
    """Let only one process at a time change .venv. The system drops the lock when its holder ends, however it ends."""
    with VENV.with_name(VENV.name + ".lock").open("ab") as handle:
        told = False
        while not try_lock(handle):
            if not told:
                say("another setup of this checkout is running; waiting for it")
                told = True
            time.sleep(0.5)
        yield


def venv_python() -> Path:
    """The environment's interpreter."""
    return VENV / "Scripts" / "python.exe" if os.name == "nt" else VENV / "bin" / "python"


def fingerprint() -> str:
    """Changes when something must be installed again: dependencies, versions, or the place of the checkout."""
    digest = hashlib.sha256(str(ROOT).encode())
    for name in ("pyproject.toml", "constraints.txt"):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def read_stamp() -> dict[str, Any]:
    """What the last setup left: its fingerprint and extras, INCOMPLETE if it was cut short, empty if there was none."""
    try:
        stamp = json.loads((VENV / STAMP_NAME).read_text(encoding="utf-8"))
    except OSError:
        return {}
    except ValueError:
        return dict(INCOMPLETE)
    return stamp if isinstance(stamp, dict) else dict(INCOMPLETE)


def write_stamp(stamp: dict[str, Any]) -> None:
    """Leave word for the next setup."""
    (VENV / STAMP_NAME).write_text(json.dumps(stamp), encoding="utf-8")


def make_venv() -> None:
    """Make an empty .venv in place of whatever is there."""
    base = find_interpreter()
    if VENV.is_symlink() or VENV.is_file():
        VENV.unlink()
    elif VENV.exists():
        say(f"{VENV.name} is unfinished or does not run; making it again")
        shutil.rmtree(VENV)
    VENV.mkdir()
    write_stamp(INCOMPLETE)
    if run([*base, "-m", "venv", str(VENV)]):
        raise SetupError(f"could not make {VENV}")


def install(extras: Sequence[str]) -> None:
    """Install the project, editable, with its dependencies in the versions of constraints.txt."""
    pip = [str(venv_python()), "-m", "pip", "--disable-pip-version-check", "install", "-c", str(ROOT / "constraints.txt")]
    # The build backend goes in first and is used from there: a repeated setup then asks no package index.
    project = ["--no-build-isolation", "--editable", f"{ROOT}[{','.join(extras)}]"]
    if run([*pip, "setuptools"]) or run([*pip, *project]):
        raise SetupError("could not install the project and its dependencies; see above")


def ensure_environment(extras: Sequence[str] = ("test",)) -> Path:
    """Make .venv fit the checkout, doing only what is missing.

    :param extras: extras of the project that the command needs; those installed before are kept.
    :returns: the environment's interpreter.
    :raises SetupError: there is no supported Python, or the installation failed.
    """
    with setup_lock():
        stamp = read_stamp()
        fresh = stamp == INCOMPLETE or not supported([venv_python()], "pip")
        wanted = {"fingerprint": fingerprint(), "extras": sorted({*extras, *([] if fresh else stamp.get("extras", []))})}
        if stamp == wanted and not fresh:
            return venv_python()
        if fresh:
            say("making .venv; the first time downloads PyTorch (several GB on Linux)")
            make_venv()
        else:
            say("pyproject.toml or constraints.txt changed, or more is needed; updating .venv")
        write_stamp(INCOMPLETE)
        try:
            install(wanted["extras"])
        except SetupError:
            if not fresh:
                # pip gave up by itself and undid its work, for example offline: the environment is as good as it was.
                write_stamp(stamp)
            raise
        write_stamp(wanted)
    return venv_python()


def setup(_args: Sequence[str]) -> int:
    """Make or refresh .venv."""
    say(f"ready: {ensure_environment()}")
    return 0


def given(args: Sequence[str], option: str) -> bool:
    """Whether the user gave an option that takes a value."""
    return any(arg == option or arg.startswith(f"{option}=") for arg in args)


def demo(args: Sequence[str]) -> int:
    """Run the demonstration; a relative ``--out`` is meant from where the user stands."""
    python = ensure_environment()
    out = [] if given(args, "--out") else ["--out", str(ROOT / "demo-output")]
    return run([str(python), "-m", "P2SAMSlicerLib", "demo", *out, *args], cwd=None)


def lint(_args: Sequence[str]) -> int:
    """Run every check, so that one run shows all faults; the status of the first that failed."""
    python = ensure_environment()
    checks = [["ruff", "format", "--check", "."], ["ruff", "check", "."]]
    if answer([python], "import sys; print(sys.version_info >= (3, 11))") == "False":
        say("not checking types under Python 3.10: the last numpy for it declares other types than the one for 3.11 and 3.12")
    else:
        checks.append(["mypy"])
    statuses = [run([str(python), "-m", *check]) for check in checks]
    return next((status for status in statuses if status), 0)


def test(args: Sequence[str]) -> int:
    """Lint and test; tests run even if lint fails, but then the status is lint's."""
    linted = lint(())
    # Each file of tests stays in one process: its fixtures hold CTs and models. Testing/conftest.py says which come first.
    usual = ["-n", "2", "--dist", "loadfile", "--no-loadscope-reorder"]
    side_by_side = [] if any(arg.startswith("-n") for arg in args) else usual
    # Whoever asks for tests by marker says himself which.
    chosen = [] if any(arg == "--long" or arg.startswith("-m") for arg in args) else ["-m", "not long"]
    tested = run([venv_python(), "-m", "pytest", *side_by_side, *chosen, *(arg for arg in args if arg != "--long")])
    if linted:
        say("lint failed, see above the tests")
    return linted or tested


def bench(args: Sequence[str]) -> int:
    """Measure accuracy on the cases beside the checkout, unless told otherwise; an earlier report of its own is replaced."""
    python = ensure_environment()
    usual = [] if given(args, "--cases") else ["--cases", str(ROOT.parent / "shared" / "data" / "visits")]
    usual += [] if given(args, "--out") else ["--out", str(ROOT / "benchmark-output"), "--overwrite"]
    return run([str(python), "-m", "P2SAMSlicerLib", "benchmark", "accuracy", *usual, *args], cwd=None)


COMMANDS = {"setup": setup, "demo": demo, "test": test, "lint": lint, "bench": bench}


def main(argv: Sequence[str]) -> int:
    """Run one command.

    :param argv: the command and its arguments.
    :returns: the exit status.
    """
    if argv and argv[0] in ("-h", "--help"):
        print(__doc__)
        return 0
    if not argv or argv[0] not in COMMANDS:
        print(f"dev.py: expected one of {', '.join(COMMANDS)}; see python3 dev.py --help", file=sys.stderr)
        return 2
    try:
        return COMMANDS[argv[0]](argv[1:])
    except KeyboardInterrupt as interrupt:
        print("\ndev.py: interrupted", file=sys.stderr)
        return interrupt.status if isinstance(interrupt, Ended) else 128 + signal.SIGINT
    except (SetupError, OSError) as error:
        print(f"dev.py: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
