"""What the embedded and a remote cluster have in common: a client, and how many visits they take at once."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from P2SAMSlicerLib.cohort.visit_task import TaskSetup
from P2SAMSlicerLib.errors import InputError

#: A task that wants a GPU asks for one of these.
GPU = "GPU"
#: Import name and name on PyPI of what the command needs beyond the library.
PACKAGES = {"distributed": "distributed", "pyarrow": "pyarrow", "cryptography": "cryptography"}
INSTALL = "pip install 'p2sam-slicer[cohort]'"
LOGGERS = ("distributed", "tornado", "asyncio")


@dataclass
class Cluster:
    """Workers that take tasks.

    :param client: Dask's.
    :param setup: what the workers know of the run.
    :param workers: how many there were at the start.
    :param task_resources: what a task that carries a visit asks for.
    :param device: on which it computes; None for what the user chose.
    :param threads: of one worker; None for the usual number.
    """

    client: Any
    setup: TaskSetup
    workers: int
    task_resources: Mapping[str, float] = field(default_factory=dict)
    device: str | None = None
    threads: int | None = None

    def count_workers(self) -> int:
        """How many workers there are now.

        :raises OSError: the scheduler cannot be reached.
        """
        return len(self.client.nthreads())

    @property
    def lost(self) -> bool:
        """Whether the scheduler is gone, or was for a moment, so that it no longer knows of our tasks."""
        return str(self.client.status) != "running"


def check_packages() -> None:
    """Refuse to begin without the packages of the optional part.

    :raises InputError: names them, and how they are installed.
    """
    import importlib.util

    missing = [package for module, package in PACKAGES.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise InputError(f"p2sam cohort needs packages that are not installed ({', '.join(missing)}): {INSTALL}")


def quiet_logs() -> None:
    """Keep Dask's own log off the terminal: what concerns the user is said by the command itself."""
    import distributed  # it sets the levels of its loggers when it is imported

    del distributed
    # Each of its modules has a logger with a level of its own.
    for name in (*LOGGERS, *logging.root.manager.loggerDict):
        if name.partition(".")[0] in LOGGERS:
            logging.getLogger(name).setLevel(logging.CRITICAL)
