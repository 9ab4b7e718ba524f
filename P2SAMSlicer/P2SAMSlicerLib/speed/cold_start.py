"""From a command on the command line to contours in a file, in a new process; and the memory that it needs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from P2SAMSlicerLib.errors import P2SAMError
from P2SAMSlicerLib.segmentation_file import write_segmentation
from P2SAMSlicerLib.speed.case import SpeedCase
from P2SAMSlicerLib.volume import Segmentation
from P2SAMSlicerLib.volume_file import write_volume

if TYPE_CHECKING:
    import psutil


@dataclass(frozen=True)
class ColdStartFindings:
    """One run of ``p2sam propagate``.

    :param begins: seconds from the start of the process to the first word of each stage, in their order.
    :param seconds: until the process has ended and the contours are in their file.
    :param model_gib: resident memory when the model was loaded, with both CTs and all libraries; None where it is not told.
    :param peak_gib: largest resident memory; None on Windows.
    """

    begins: Mapping[str, float]
    seconds: float
    model_gib: float | None
    peak_gib: float | None


def measure_cold_start(
    case: SpeedCase, model: str, device: str, checkpoint: Path | None, threads: int, *, tell: Callable[[str], None]
) -> ColdStartFindings:
    """Run the command on a case's files.

    :raises P2SAMError: it failed.
    """
    tell("a new process")
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        write_volume(case.prior, home / "prior.nii.gz")
        write_volume(case.followup, home / "followup.nii.gz")
        write_segmentation(Segmentation(case.prior.grid, (case.segment,), "prior"), home / "prior.seg.nrrd")
        command = [sys.executable, "-m", "P2SAMSlicerLib", "propagate", "--json-progress"]
        command += ["--prior-ct", str(home / "prior.nii.gz"), "--prior-seg", str(home / "prior.seg.nrrd")]
        command += ["--followup-ct", str(home / "followup.nii.gz"), "--out", str(home / "out")]
        command += ["--model", model, "--device", device, "--threads", str(threads)]
        if checkpoint is not None:
            command += ["--checkpoint", str(checkpoint)]
        return _watched(command, home)


def _watched(command: list[str], home: Path) -> ColdStartFindings:
    import psutil

    library = Path(__file__).resolve().parents[2]
    paths = [str(library), *filter(None, [os.environ.get("PYTHONPATH")])]
    begins: dict[str, float] = {}
    other: list[str] = []
    model_gib = None
    started = time.perf_counter()
    with subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        cwd=home,
    ) as process:
        watched = psutil.Process(process.pid)
        peak = 0
        assert process.stderr is not None
        for line in process.stderr:
            try:
                event = json.loads(line)
                stage, done, total = event["stage"], event["done"], event["total"]
            except (ValueError, KeyError, TypeError):
                other.append(line.strip())
                continue
            begins.setdefault(stage, time.perf_counter() - started)
            try:
                peak = max(peak, _peak_bytes(watched))
                if stage == "model" and done == total:
                    model_gib = watched.memory_info().rss / 2**30
            except psutil.Error:
                pass
        status = process.wait()
    seconds = time.perf_counter() - started
    if status != 0:
        raise P2SAMError(f"p2sam propagate failed: {other[-1] if other else f'exit status {status}'}")
    return ColdStartFindings(begins, seconds, model_gib, peak / 2**30 if peak else None)


def _peak_bytes(process: psutil.Process) -> int:
    """Largest resident memory so far; the present one where the system keeps no record of it."""
    try:
        for line in Path(f"/proc/{process.pid}/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return int(process.memory_info().rss)
