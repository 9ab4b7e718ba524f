"""How many processor threads a run uses."""

from __future__ import annotations

import os
import sys
import warnings

#: Read by the numerical libraries when they are loaded.
VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")


def use_threads(count: int | None) -> int:
    """Set the number of threads of everything that computes, whether it is loaded already or not.

    :param count: None for ``OMP_NUM_THREADS`` if the user has set it, else the number of physical cores that this process
        may use: two threads on one core only wait for each other here.
    :returns: the number.
    """
    number = count or _from_environment() or physical_cores()
    for name in VARIABLES:
        os.environ[name] = str(number)
    import SimpleITK
    import threadpoolctl  # type: ignore[import-untyped]

    # BLAS libraries never get more threads than they were loaded with: the OpenBLAS in NumPy's and SciPy's last packages for
    # Python 3.10 ends the process then. The work here is in OpenMP and ITK.
    loaded = [each["num_threads"] for each in threadpoolctl.threadpool_info() if each["user_api"] == "blas"]
    threadpoolctl.threadpool_limits({"openmp": number, "blas": min([number, *loaded])})
    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(number)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(number)
    return number


def physical_cores() -> int:
    """Number of physical cores, not more than the process may use; at least 1."""
    import joblib  # type: ignore[import-untyped]

    with warnings.catch_warnings():
        # Where the system does not tell, all logical cores count; nothing that the user could change.
        warnings.simplefilter("ignore")
        return max(1, int(joblib.cpu_count(only_physical_cores=True)))


def _from_environment() -> int | None:
    text = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(text) if text.isdigit() and int(text) > 0 else None
