"""The embedded cluster: workers as processes of this computer, which nobody else can reach.

Everything listens on 127.0.0.1 alone, over TLS with certificates that exist only in memory and as long as the run: on a
computer that is shared, another user can neither give the workers tasks nor read what they say. There is no dashboard and no
page. The workers end with the program, however that ends: each watches a pipe that the system closes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from P2SAMSlicerLib.cohort.cluster import GPU, Cluster, quiet_logs
from P2SAMSlicerLib.cohort.visit_task import TaskSetup
from P2SAMSlicerLib.errors import InputError, OutputError
from P2SAMSlicerLib.threads import VARIABLES, physical_cores

HOST = "127.0.0.1"
#: What becomes of the visit of a worker that is gone is the schedule's to say, so the scheduler does not try again by itself.
ALLOWED_FAILURES = 0
START_SECONDS = 120
#: How long a worker that is asked to end may take for it.
END_SECONDS = 5
GPU_QUERY = "import torch; print(torch.cuda.device_count())"


@dataclass(frozen=True)
class LocalWorkers:
    """How many workers, and what each computes on.

    :param gpus: the values of ``CUDA_VISIBLE_DEVICES``, one a worker; empty where workers compute on the processor.
    :param threads: processor threads of each.
    """

    count: int
    threads: int
    gpus: tuple[str, ...] = ()


def plan_workers(count: int | None, threads: int | None, device: str) -> LocalWorkers:
    """Share this computer among workers: one a GPU, else one for all cores unless told otherwise.

    :param count: wanted number; None for one a GPU, or one.
    :param threads: of each; None for the physical cores divided among them.
    :param device: ``auto``, ``cuda``, ``cuda:1``, ``mps`` or ``cpu``.
    :raises InputError: more workers than GPUs, or no such GPU.
    """
    gpus = find_gpus() if device == "auto" or device.startswith("cuda") else ()
    if device.startswith("cuda:"):
        number = int(device.partition(":")[2])
        if number >= len(gpus):
            raise InputError(f"--device {device}: this computer has {len(gpus)} CUDA device(s)")
        gpus = gpus[number : number + 1]
    if device.startswith("cuda") and not gpus:
        raise InputError(f"--device {device}: PyTorch finds no CUDA device on this computer; use auto or cpu")
    if gpus and count is not None and count > len(gpus):
        raise InputError(f"--workers {count}: one worker a GPU, and there are {len(gpus)}; use fewer, or --device cpu")
    number = count or len(gpus) or 1
    return LocalWorkers(number, threads or max(1, physical_cores() // number), gpus[:number])


def find_gpus() -> tuple[str, ...]:
    """The CUDA devices that PyTorch can use here, as ``CUDA_VISIBLE_DEVICES`` names them."""
    if shutil.which("nvidia-smi") is None:
        return ()
    # In a process of its own: PyTorch would stay in this one's memory, and hold on to the GPU.
    done = subprocess.run([sys.executable, "-c", GPU_QUERY], capture_output=True, text=True, timeout=120, check=False)
    text = done.stdout.strip()
    count = int(text) if done.returncode == 0 and text.isdigit() else 0
    shown = [each.strip() for each in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if each.strip()]
    return tuple((shown or [str(number) for number in range(count)])[:count])


@contextmanager
def local_cluster(workers: LocalWorkers, setup: TaskSetup, *, quiet: bool = True) -> Iterator[Cluster]:
    """Workers for the length of a ``with`` block.

    :param quiet: let nothing that the workers' libraries print reach the terminal.
    :raises OutputError: they do not start.
    """
    import dask
    from distributed import Client, Nanny, Scheduler, SpecCluster
    from distributed.security import Security

    from P2SAMSlicerLib.cohort.worker_plugin import run_plugin
    from P2SAMSlicerLib.worker.private_folder import PrivateFolder

    if quiet:
        quiet_logs()
    with PrivateFolder() as scratch, dask.config.set(_settings(workers, quiet=quiet)):
        security = Security.temporary()
        # Dask opens a port for web pages in any case; here it has no page.
        common = {"host": HOST, "protocol": "tls://", "security": security, "dashboard_address": f"{HOST}:0"}
        common["dashboard"] = False
        scheduler = {"cls": Scheduler, "options": {**common, "allowed_failures": ALLOWED_FAILURES}}
        options = {**common, "nthreads": 1, "memory_limit": 0, "local_directory": str(scratch.path), "silence_logs": 50}
        processes = {
            number: {"cls": Nanny, "options": _of_worker(options, workers.gpus, number)} for number in range(workers.count)
        }
        try:
            cluster = SpecCluster(scheduler=scheduler, workers=processes, security=security, silence_logs=50)
        except (OSError, RuntimeError, TimeoutError) as error:
            raise OutputError(f"the workers cannot be started on this computer ({type(error).__name__})") from error
        try:
            client = Client(cluster, set_as_default=False)
            try:
                client.register_plugin(run_plugin(replace(setup, quiet=quiet)))
                resources = {GPU: 1.0} if workers.gpus else {}
                device = "cuda" if workers.gpus else None
                yield Cluster(client, setup, workers.count, resources, device, workers.threads)
            finally:
                client.close(timeout=END_SECONDS)
        finally:
            cluster.close(timeout=2 * END_SECONDS)


def _settings(workers: LocalWorkers, *, quiet: bool) -> dict[str, Any]:
    """Dask's settings, for this process and its workers."""
    threads = dict.fromkeys(VARIABLES, workers.threads)
    return {
        "distributed.scheduler.http.routes": [],
        "distributed.worker.http.routes": [],
        "distributed.worker.profile.enabled": False,
        "distributed.scheduler.active-memory-manager.start": False,
        # What it keeps for somebody who looks into it later.
        "distributed.admin.low-level-log-length": 100,
        # A registration may not answer for minutes; that a process has ended is noticed in any case.
        "distributed.scheduler.worker-ttl": None,
        "distributed.nanny.pre-spawn-environ": {"MALLOC_TRIM_THRESHOLD_": 65536, **threads},
        "distributed.comm.timeouts.connect": START_SECONDS,
        **({"logging": {"distributed": "critical", "tornado": "critical"}} if quiet else {}),
    }


def _of_worker(options: dict[str, Any], gpus: Sequence[str], number: int) -> dict[str, Any]:
    """One worker's options: with GPUs, it sees one of them."""
    if not gpus:
        return dict(options)
    return {**options, "env": {"CUDA_VISIBLE_DEVICES": gpus[number]}, "resources": {GPU: 1}}
