"""Tells every worker of a cluster, also one that joins or starts again later, what it has to know of a run."""

from __future__ import annotations

from typing import Any

from P2SAMSlicerLib.cohort.visit_task import TaskSetup, begin_run, end_run


def run_plugin(setup: TaskSetup) -> Any:
    """A plugin that Dask sets up in each worker before its first task.

    :param setup: for the run.
    """
    # Dask wants a class of its own kind, and is imported only where a cohort is run.
    from distributed import WorkerPlugin

    class RunPlugin(WorkerPlugin):  # type: ignore[misc]  # Dask has no types
        name = f"p2sam-{setup.run}"

        def setup(self, worker: Any) -> None:
            del worker
            begin_run(setup)

        def teardown(self, worker: Any) -> None:
            del worker
            end_run(setup.run)

    return RunPlugin()
