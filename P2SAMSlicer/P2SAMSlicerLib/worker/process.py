"""Starting the worker's process and ending it with everything that it started."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import P2SAMSlicerLib
from P2SAMSlicerLib.errors import InputError

if TYPE_CHECKING:
    import psutil

#: What processes get between being asked to end and being killed, in seconds.
GRACE_SECONDS = 0.5
#: How long it may take the system to take a killed process away, in seconds.
GONE_SECONDS = 5.0


def start_worker(command: Sequence[str | Path], environment: Mapping[str, str] | None) -> subprocess.Popen[bytes]:
    """Start ``COMMAND -m P2SAMSlicerLib worker`` with three pipes.

    :param command: the Python executable, perhaps with options.
    :param environment: of the process; that of this one if None. The library's folder is put before its ``PYTHONPATH``.
    :raises InputError: it cannot be started.
    """
    words = [*(str(each) for each in command), "-m", "P2SAMSlicerLib", "worker"]
    try:
        return subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_surroundings(os.environ if environment is None else environment),
            # No console window on Windows; elsewhere Ctrl-C in the caller's terminal is the caller's to handle.
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0) if sys.platform == "win32" else 0,
            start_new_session=sys.platform != "win32",
        )
    except (OSError, ValueError) as error:
        told = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
        raise InputError(f"{Path(words[0]).name}: the worker cannot be started with it ({told.lower()})") from error


def _surroundings(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of the worker."""
    library = str(Path(P2SAMSlicerLib.__file__).resolve().parents[1])
    # An empty entry would be the folder that the caller happens to be in.
    paths = [library, *(each for each in environment.get("PYTHONPATH", "").split(os.pathsep) if each)]
    return {
        **environment,
        "PYTHONPATH": os.pathsep.join(paths),
        # Nor does Python itself look there first: a file in it with the name of a library's would run in its place.
        "PYTHONSAFEPATH": "1",
        # What it logs is read as UTF-8; Windows would have it in the alphabet of the country.
        "PYTHONIOENCODING": "utf-8:backslashreplace",
        # A crash in compiled code says in the log where it was.
        "PYTHONFAULTHANDLER": "1",
    }


def process_tree(process: int) -> list[psutil.Process]:
    """A process and all that it started, as far as they are there."""
    import psutil

    try:
        root = psutil.Process(process)
        return [root, *root.children(recursive=True)]
    except psutil.Error:
        return []


def end_processes(processes: Sequence[psutil.Process], grace_seconds: float = GRACE_SECONDS) -> None:
    """Ask processes to end, and kill those that do not, and what they started meanwhile."""
    import psutil

    for each in processes:
        try:
            each.terminate()
        except psutil.Error:
            continue
    _, alive = psutil.wait_procs(processes, timeout=grace_seconds)
    alive = list(
        {each.pid: each for stubborn in alive if stubborn.is_running() for each in process_tree(stubborn.pid)}.values()
    )
    for each in alive:
        try:
            each.kill()
        except psutil.Error:
            continue
    psutil.wait_procs(alive, timeout=GONE_SECONDS)
