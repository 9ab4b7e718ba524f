"""Tells every worker of a cluster, also one that joins or starts again later, what it has to know of a run."""

from __future__ import annotations

from typing import Any

from P2SAMSlicerLib.cohort.visit_task import TaskSetup, begin_run, end_run


def run_plugin(run_setup: TaskSetup) -> Any:
    """A plugin for Dask, which calls its ``setup`` in each worker before the worker's first task.

    :param run_setup: for the run.
    """
    # Dask has to be there for the class, and is an optional part.
    from distributed import WorkerPlugin

    class RunPlugin(WorkerPlugin):  # type: ignore[misc]
        name = f"p2sam-{run_setup.run}"

        def setup(self, worker: Any) -> None:
            del worker
            begin_run(run_setup)

        def teardown(self, worker: Any) -> None:
            del worker
            end_run(run_setup.run)

    return RunPlugin()
