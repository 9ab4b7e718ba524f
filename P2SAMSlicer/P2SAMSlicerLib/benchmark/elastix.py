"""The peer: rigid and B-spline registration by elastix, with its own default settings.

``itk-elastix`` is not a dependency of the library; without it these methods are left out, and the report says so. It works in
a process of its own, because it has been seen to end the one that it works in, with all that had been measured there.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.volume import BoolArray, Volume

#: elastix's default parameter maps, with this many resolutions and this spacing of the B-spline's control points.
RESOLUTIONS = 4
BSPLINE_GRID_MM = 12.0
#: Values beyond are padding or metal.
HU_RANGE = (-1024, 3071)

MISSING = "itk-elastix is not installed (pip install itk-elastix): no rows for elastix"


@dataclass(frozen=True)
class ElastixContours:
    """The prior contour on the follow-up's stored grid ``(z, y, x)``, nearest neighbour.

    :param rigid: moved by the rigid stage alone.
    :param bspline: moved by both stages.
    :param seconds: of both stages, without the start of the process that they ran in.
    """

    rigid: BoolArray
    bspline: BoolArray
    seconds: float


def is_installed() -> bool:
    """Whether elastix can be asked."""
    try:
        return importlib.util.find_spec("itk.itkElastixRegistrationMethodPython") is not None
    except ModuleNotFoundError:
        return False


def register_with_elastix(prior: Volume, mask: BoolArray, followup: Volume, threads: int) -> ElastixContours:
    """Register the prior to the follow-up (rigid, then B-spline) in a process of its own and carry the contour along.

    :param mask: on the prior's grid.
    :param threads: of ITK.
    :raises InputError: elastix gave up, as where the images do not overlap, or its process ended.
    """
    from concurrent.futures.process import BrokenProcessPool

    try:
        found = _in_own_process(_register, prior, mask, followup, threads)
    except BrokenProcessPool as error:
        raise InputError(f"{followup.name}: the process of elastix ended before it had registered the prior to it") from error
    if found is None:
        raise InputError(f"{followup.name}: elastix could not register the prior to it")
    return found


def _in_own_process(
    work: Callable[..., ElastixContours | None], prior: Volume, mask: BoolArray, followup: Volume, threads: int
) -> ElastixContours | None:
    """What the work returns in a fresh interpreter: a forked one would share this one's threads and locks.

    :raises BrokenProcessPool: the process ended without an answer.
    """
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, prior, mask, followup, threads).result()


def _register(prior: Volume, mask: BoolArray, followup: Volume, threads: int) -> ElastixContours | None:
    """The work of the process; None if elastix gave up."""
    import itk

    started = time.perf_counter()
    itk.MultiThreaderBase.SetGlobalDefaultNumberOfThreads(threads)
    fixed, moving = _image(_clipped(followup), followup.grid), _image(_clipped(prior), prior.grid)
    contour = _image(mask.astype(np.float32), prior.grid)
    try:
        # Its own option number_of_threads ends the process in the B-spline stage (itk-elastix 0.25.4); the default does not.
        _, found = itk.elastix_registration_method(fixed, moving, parameter_object=settings(), log_to_console=False)
        rigid, bspline = _carried(contour, found, 1), _carried(contour, found, 2)
    except RuntimeError:
        return None  # ITK's own text names source files of its build and nothing of use
    return ElastixContours(rigid, bspline, time.perf_counter() - started)


def settings() -> Any:
    """elastix's default parameter maps of both stages."""
    import itk

    maps: Any = itk.ParameterObject.New()
    maps.AddParameterMap(maps.GetDefaultParameterMap("rigid", RESOLUTIONS))
    maps.AddParameterMap(maps.GetDefaultParameterMap("bspline", RESOLUTIONS, BSPLINE_GRID_MM))
    return maps


def _carried(contour: Any, found: Any, stages: int) -> BoolArray:
    """The contour moved by the first stages of a registration."""
    import itk

    transforms: Any = itk.ParameterObject.New()
    for number in range(stages):
        transforms.AddParameterMap(found.GetParameterMap(number))
    # Order 0: the nearest voxel.
    transforms.SetParameter("FinalBSplineInterpolationOrder", "0")
    moved = itk.transformix_filter(contour, transform_parameter_object=transforms, log_to_console=False)
    inside: BoolArray = np.asarray(itk.array_from_image(moved)) > 0.5
    return inside


def _clipped(volume: Volume) -> NDArray[np.float32]:
    values: NDArray[np.float32] = np.clip(volume.array, *HU_RANGE).astype(np.float32)
    return values


def _image(array: NDArray[np.float32], grid: Grid) -> Any:
    import itk

    image: Any = itk.image_from_array(np.ascontiguousarray(array))
    image.SetSpacing(grid.spacing)
    image.SetOrigin(grid.origin)
    image.SetDirection(itk.matrix_from_array(grid.direction_matrix))
    return image
