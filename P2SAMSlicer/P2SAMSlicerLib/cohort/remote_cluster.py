"""An existing cluster, by the address of its scheduler.

Beyond this computer only TLS with certificates of both ends is taken: who reaches a scheduler can run any program on its
workers, and what goes to them must not be read on the way. The workers need the same version of this program, the same files
under the same paths, and one thread each.
"""

from __future__ import annotations

import ipaddress
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from P2SAMSlicerLib import __version__
from P2SAMSlicerLib.cohort.cluster import GPU, Cluster, quiet_logs
from P2SAMSlicerLib.cohort.visit_task import TaskSetup
from P2SAMSlicerLib.errors import InputError

CONNECT_SECONDS = 15
WORKERS_SECONDS = 30
PROBE = "probe"
START_WORKERS = "dask worker ADDRESS --nworkers N --nthreads 1"


@dataclass(frozen=True)
class SchedulerAddress:
    """Where a scheduler is, and what proves who is who.

    :param address: ``tls://HOST:PORT``, or ``tcp://HOST:PORT`` on this computer.
    :param tls_ca: certificate of the authority that signed both ends' certificates.
    :param tls_cert: our own certificate.
    :param tls_key: its key.
    """

    address: str
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None

    def check(self) -> None:
        """Refuse an address that is none, and a connection that others could read or use.

        :raises InputError: with what to do.
        """
        found = re.fullmatch(r"(tcp|tls)://(\[[0-9A-Fa-f:.%]+\]|[^:/@\s\[\]]+):([0-9]{1,5})", self.address)
        if not found or not 0 < int(found[3]) < 2**16:
            raise InputError(
                "--scheduler: is no address of the kind tls://HOST:PORT (or tcp://127.0.0.1:PORT on this computer)"
            )
        files = {"--tls-ca": self.tls_ca, "--tls-cert": self.tls_cert, "--tls-key": self.tls_key}
        if found[1] == "tcp":
            if not is_loopback(found[2]):
                raise InputError(
                    "--scheduler: tcp:// is neither encrypted nor does it check who connects, so it is taken on this computer"
                    " only; start the scheduler with --tls-ca-file, --tls-cert and --tls-key, and give tls://HOST:PORT"
                )
            given = [name for name, path in files.items() if path is not None]
            if given:
                raise InputError(f"{given[0]}: goes with a tls:// address only")
            return
        for name, path in files.items():
            if path is None:
                raise InputError(f"--scheduler: tls:// needs --tls-ca, --tls-cert and --tls-key; {name} is missing")
            if not path.is_file():
                raise InputError(f"{name}: {path.name} is not there")


def is_loopback(host: str) -> bool:
    """Whether a host is this computer; names are not looked up, so that nobody else can say what they mean."""
    with suppress(ValueError):
        return ipaddress.ip_address(host.strip("[]").partition("%")[0]).is_loopback
    return host.lower() == "localhost"


@dataclass(frozen=True)
class WorkerFacts:
    """What has to be the same everywhere, and whether the folder for the results can be seen."""

    version: str
    python: str
    distributed: str


def worker_facts() -> WorkerFacts:
    """The facts of the process in which it is called."""
    return WorkerFacts(__version__, ".".join(platform.python_version_tuple()[:2]), version("distributed"))


def read_probe(path: str) -> str:
    """What a worker reads there; empty if it cannot."""
    try:
        return Path(path).read_text(encoding="ascii")
    except (OSError, ValueError):
        return ""


@contextmanager
def remote_cluster(address: SchedulerAddress, setup: TaskSetup, device: str) -> Iterator[Cluster]:
    """The workers of an existing scheduler for the length of a ``with`` block; they stay when it ends.

    :param device: what visits shall be computed on; ``cuda`` asks for workers that were started with a GPU as resource.
    :raises InputError: no scheduler or no worker is there, or they cannot be used; with what to do.
    """
    from distributed import Client
    from distributed.security import Security

    from P2SAMSlicerLib.cohort.worker_plugin import run_plugin

    address.check()
    quiet_logs()
    security = None
    if address.address.startswith("tls://"):
        security = Security(
            tls_ca_file=str(address.tls_ca),
            tls_client_cert=str(address.tls_cert),
            tls_client_key=str(address.tls_key),
            require_encryption=True,
        )
    try:
        client = Client(address.address, security=security, timeout=CONNECT_SECONDS, set_as_default=False)
    except Exception as error:  # among them those of ssl, for files that are no certificates
        raise InputError(
            f"--scheduler: no scheduler answers there within {CONNECT_SECONDS} s ({type(error).__name__}); is it running,"
            " and do address and certificates belong to it?"
        ) from error
    plugin = run_plugin(setup)
    try:
        count = _check_workers(client, setup)
        client.register_plugin(plugin)
        has_gpus = any(each.get("resources", {}).get(GPU) for each in _workers(client).values())
        if device.startswith("cuda") and not has_gpus:
            raise InputError(f"--device {device}: no worker has a GPU as resource; start them with --resources {GPU}=1")
        uses_gpus = has_gpus and (device == "auto" or device.startswith("cuda"))
        yield Cluster(client, setup, count, {GPU: 1.0} if uses_gpus else {}, "cuda" if uses_gpus else None)
    finally:
        # A scheduler that is gone is not waited for.
        if client.status == "running":
            with suppress(Exception):
                client.unregister_worker_plugin(plugin.name)
        with suppress(Exception):
            client.close(timeout=CONNECT_SECONDS if client.status == "running" else 1)
        # When it is collected it closes itself again, and prints a traceback where the scheduler does not answer in time.
        client.close = lambda *_args, **_kwargs: None


def _workers(client: Any) -> dict[str, Any]:
    """What the scheduler says of all workers."""
    try:
        found: dict[str, Any] = client.scheduler_info(n_workers=-1)["workers"]
    except TypeError:  # before 2025 it always told of all
        found = client.scheduler_info()["workers"]
    return found


def _check_workers(client: Any, setup: TaskSetup) -> int:
    """Refuse workers that would fail, or do something else than this program.

    :returns: how many there are.
    """
    try:
        client.wait_for_workers(1, timeout=WORKERS_SECONDS)
    except TimeoutError as error:
        raise InputError(f"--scheduler: it has no worker; start some: {START_WORKERS}") from error
    threads: dict[str, int] = dict(client.nthreads())
    if any(count != 1 for count in threads.values()):
        raise InputError(
            f"--scheduler: a worker has several threads, and a visit needs one for itself; start them as {START_WORKERS}"
        )
    own = worker_facts()
    try:
        found = [*client.run(worker_facts).values(), client.run_on_scheduler(worker_facts)]
    except Exception as error:
        raise InputError(
            "--scheduler: P2SAMSlicer is missing in its Python or that of its workers, or is another version:"
            f" install {own.version} with the extra 'cohort' there"
        ) from error
    for facts in found:
        for name, theirs, ours in (
            ("P2SAMSlicer", facts.version, own.version),
            ("Python", facts.python, own.python),
            ("distributed", facts.distributed, own.distributed),
        ):
            if theirs != ours:
                raise InputError(
                    f"--scheduler: it or a worker has {name} {theirs}, and this computer {ours}; make them the same"
                )
    probe = setup.orders / PROBE
    probe.write_text(setup.run, encoding="ascii")
    try:
        seen = client.run(read_probe, str(probe))
    finally:
        probe.unlink(missing_ok=True)
    blind = sum(text != setup.run for text in seen.values())
    if blind:
        raise InputError(
            f"--scheduler: {blind} of {len(seen)} workers cannot read the folder for the results; all workers need the folders"
            " of the patients and of the results under the same paths as here, as the same user"
        )
    return len(threads)
