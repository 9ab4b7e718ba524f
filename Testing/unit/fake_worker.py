"""Workers that do something unusual: ``python fake_worker.py KIND`` stands for the Python executable that is started."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from P2SAMSlicerLib import propagation
from P2SAMSlicerLib.atomic_file import atomic_folder
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.options import PropagationOptions
from P2SAMSlicerLib.progress import Progress, ProgressEvent
from P2SAMSlicerLib.result import VisitResult
from P2SAMSlicerLib.volume import Segment, Volume


def tell_pids(progress: Progress) -> None:
    """The ids of this process and of one that it starts, in a progress message."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    progress(ProgressEvent("encode", 1, 9, f"{os.getpid()} {child.pid}"))


def found(segments: Sequence[Segment], followup: Volume) -> VisitResult:
    from fake_engine import Engine

    return Engine.found(segments, followup)


class Unusual:
    """In the place of :func:`P2SAMSlicerLib.propagation.propagate`."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __call__(
        self, _model: Any, _prior: Any, segments: Any, followup: Volume, options: PropagationOptions, progress: Progress
    ) -> VisitResult:
        kind = self.kind
        if kind == "talks":
            print("printed by a library")
            os.write(1, b"written by compiled code\n")
            subprocess.run([sys.executable, "-c", "print('from a child process')"], check=True)
            assert sys.stdin.read() == ""
        elif kind in ("computes", "deaf"):
            if kind == "deaf":
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            with atomic_folder(os.environ["FAKE_OUT"]) as stage:
                (stage / "half").write_text("x")
                tell_pids(progress)
                while True:
                    time.sleep(0.01 if kind == "computes" else 600)
        elif kind == "killed":
            print("last words", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        elif kind == "memory":
            raise MemoryError
        elif kind == "no more memory in compiled code":
            print("terminate called after throwing an instance of 'std::bad_alloc'", file=sys.stderr, flush=True)
            os.abort()
        elif kind == "crashes":
            ctypes.string_at(0)
        elif kind == "device memory":
            raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")
        elif kind == "fails":
            raise InputError("the CT shows no body")
        elif kind == "contradicts":
            return VisitResult(
                followup.name, followup.grid, found(segments, followup).segments, {"figure": object()}, {}, (), (), {}
            )
        elif kind == "logs":
            for number in range(100_000):
                print(f"line {number}", file=sys.stderr)
        progress(ProgressEvent("registration", 1, 1, f"seed {options.seed}"))
        return found(segments, followup)


def load_model(*_arguments: Any, **_options: Any) -> Any:
    """The model that answers from brightness."""
    from stub_model import BrightnessModel

    return BrightnessModel()


def load_nothing(*_arguments: Any, **_options: Any) -> Any:
    """No model, as nobody asks it; torch would take a second of each worker's start."""
    return SimpleNamespace(device="cpu")


def main(kind: str) -> int:
    if kind == "silent":
        time.sleep(600)
    elif kind == "garbage":
        print('{"hello"\n' * 3, flush=True)
        time.sleep(600)
    elif kind == "ends":
        print("no module named torch", file=sys.stderr)
        return 3
    elif kind == "another":
        print('{"protocol": 1, "event": "ready", "version": "0.0.0", "pid": 1}', flush=True)
        time.sleep(600)
    elif kind == "impostor":
        from P2SAMSlicerLib import __version__

        print(f'{{"protocol": 1, "event": "ready", "version": "{__version__}", "pid": {os.getppid()}}}', flush=True)
        time.sleep(600)
    elif kind == "launcher":
        return subprocess.call([sys.executable, __file__, "computes"])
    elif kind == "launcher of one that is killed":
        return 1 if subprocess.call([sys.executable, __file__, "killed"]) else 0
    elif kind == "printed at the start":
        print("QFontDatabase: no fonts\n" * 1000, flush=True)
    from P2SAMSlicerLib import models
    from P2SAMSlicerLib.cli import main as command_line

    models.load_model = load_model if kind == "engine" else load_nothing
    if kind != "engine":
        propagation.propagate = Unusual(kind)  # type: ignore[assignment]
    return command_line(["worker"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
