"""Tells every worker of a cluster, also one that joins or starts again later, what it has to know of a run."""

from __future__ import annotations

from typing import Any

from distributed import WorkerPlugin

from P2SAMSlicerLib.cohort.visit_task import TaskSetup, begin_run, end_run


class RunPlugin(WorkerPlugin):
    """Dask calls :meth:`setup` in each worker before its first task.

    :param setup: for the run.
    """

    def __init__(self, setup: TaskSetup) -> None:
        self._setup = setup
        self.name = f"p2sam-{setup.run}"

    def setup(self, worker: Any) -> None:
        """Take part in the run."""
        del worker
        begin_run(self._setup)

    def teardown(self, worker: Any) -> None:
        """Forget the run."""
        del worker
        end_run(self._setup.run)
