"""A transform from a file: what is damaged is refused, where ITK would end the process or carry contours to nowhere.

ITK's reader dies of a text file that lacks a parameter, fills a truncated MATLAB file with whatever lies in memory, and takes
NaN and singular matrices from HDF5 and MATLAB files as they are. Text and MATLAB files are therefore checked before ITK sees
them, and every transform afterwards. An HDF5 file that is cut short is refused by the HDF5 library itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.registration import Registration

if TYPE_CHECKING:
    import SimpleITK as sitk

#: Parameters of ITK's 3-D transforms whose number is fixed.
PARAMETER_COUNTS = {
    "AffineTransform_3_3": 12,
    "Euler3DTransform_3_3": 6,
    "ScaleSkewVersor3DTransform_3_3": 15,
    "ScaleVersor3DTransform_3_3": 9,
    "Similarity3DTransform_3_3": 7,
    "TranslationTransform_3_3": 3,
    "VersorRigid3DTransform_3_3": 6,
}
#: No length in mm, angle or matrix element of a patient's transform is larger: a kilometre.
LARGEST_PARAMETER = 1e6
#: A matrix that changes volumes by more than this factor is no patient's motion; 0 is a singular one.
MOST_VOLUME_CHANGE = 1000.0


def read_transform(path: Path) -> Registration:
    """A transform from a file that SimpleITK reads (``.tfm``, ``.h5``, ``.txt``, ``.mat``), follow-up to prior, in LPS.

    :raises InputError: the file is missing, unreadable or damaged; it is not 3-D; its numbers are not finite or beyond
        :data:`LARGEST_PARAMETER`; it is a composite without parts; a matrix in it is singular; or its matrices together
        mirror the patient.
    """
    import SimpleITK as sitk

    if not path.is_file():
        raise InputError(f"{path.name}: no such transform file")
    try:
        if path.suffix.lower() in (".tfm", ".txt"):
            _check_text(path)
        elif path.suffix.lower() == ".mat":
            _check_matlab(path)
    except OSError as error:
        raise InputError(f"{path.name}: cannot be read ({(error.strerror or 'damaged').lower()})") from error
    try:
        transform = sitk.ReadTransform(str(path))
    except RuntimeError as error:
        raise _unreadable(path) from error
    if transform.GetDimension() != 3:
        raise InputError(f"{path.name}: a {transform.GetDimension()}-D transform; 3-D is needed")
    parts = _parts(transform)
    if not parts:
        raise InputError(f"{path.name}: a composite transform without parts")
    for part in parts:
        for values in _numbers(part):
            _check_values(path, values)
        if part.IsLinear():
            _check_volume_change(path, part)
    # Of the matrices alone: a displacement field beside them is smooth motion, and no composite with one is linear.
    if np.prod([np.sign(_determinant(part)) for part in parts if part.IsLinear()]) < 0:
        raise InputError(f"{path.name}: a transform that mirrors the patient")
    return Registration(transform, transform, "file")


def _unreadable(path: Path) -> InputError:
    return InputError(f"{path.name}: not a transform that SimpleITK can read")


def _check_text(path: Path) -> None:
    """Refuse a damaged text file: on a parameter that is missing or no finite number, ITK's reader ends the process."""
    kind = ""
    for line in path.read_text(encoding="latin-1").splitlines():
        key, _, rest = line.partition(":")
        if key.strip() == "Transform":
            kind = rest.strip()
        elif key.strip() in ("Parameters", "FixedParameters"):
            try:
                values = np.array([float(text) for text in rest.split()])
            except ValueError:
                values = np.array([np.nan])
            _check_values(path, values)
            if key.strip() == "Parameters":
                _check_count(path, kind, values.size)


def _check_matlab(path: Path) -> None:
    """Refuse a MATLAB file that is cut short, which ITK's reader does not notice, or lacks parameters."""
    from scipy.io import loadmat

    try:
        content = loadmat(path)
    except OSError:
        raise
    except Exception as error:  # the parser fails in many ways on a damaged file
        raise _unreadable(path) from error
    for name, values in content.items():
        if not name.startswith("__") and np.issubdtype(values.dtype, np.number):
            _check_count(path, name, values.size)


def _check_count(path: Path, kind: str, count: int) -> None:
    expected = PARAMETER_COUNTS.get(kind.replace("_double", "").replace("_float", ""), count)
    if count != expected:
        raise InputError(f"{path.name}: a damaged transform ({count} parameters of {expected})")


def _check_values(path: Path, values: NDArray[np.float64]) -> None:
    # Smallest and largest, because a field is large and its absolute values would be a second one. NaN is both of them.
    largest = float(max(values.max(), -values.min())) if values.size else 0.0
    if not np.isfinite(largest):
        raise InputError(f"{path.name}: a transform with parameters that are not finite numbers")
    if largest > LARGEST_PARAMETER:
        raise InputError(f"{path.name}: a transform with a parameter of {largest:.3g}, beyond any patient's size")


def _parts(transform: sitk.Transform) -> list[sitk.Transform]:
    """The transforms that a composite holds (ITK's files know no composite within another), or the one transform."""
    import SimpleITK as sitk

    if transform.GetTransformEnum() != sitk.sitkComposite:
        return [transform.Downcast()]
    composite = sitk.CompositeTransform(transform)
    return [composite.GetNthTransform(number).Downcast() for number in range(composite.GetNumberOfTransforms())]


def _numbers(part: sitk.Transform) -> list[NDArray[np.float64]]:
    """All numbers of one transform. Images of them are looked at in place: a field's list of parameters fills the memory."""
    import SimpleITK as sitk

    fixed = np.asarray(part.GetFixedParameters(), dtype=np.float64)
    if isinstance(part, sitk.DisplacementFieldTransform):
        return [fixed, sitk.GetArrayViewFromImage(part.GetDisplacementField())]
    if isinstance(part, sitk.BSplineTransform):
        return [fixed, *(sitk.GetArrayViewFromImage(image) for image in part.GetCoefficientImages())]
    return [fixed, np.asarray(part.GetParameters(), dtype=np.float64)]


def _determinant(linear: sitk.Transform) -> float:
    """How a linear transform changes volumes, from where it carries the corner of a unit cube."""
    origin = np.asarray(linear.TransformPoint([0.0, 0.0, 0.0]))
    axes = [np.asarray(linear.TransformPoint(axis.tolist())) - origin for axis in np.eye(3)]
    return float(np.linalg.det(np.stack(axes, axis=1)))


def _check_volume_change(path: Path, linear: sitk.Transform) -> None:
    change = abs(_determinant(linear))
    if not 1 / MOST_VOLUME_CHANGE < change < MOST_VOLUME_CHANGE:
        raise InputError(f"{path.name}: a singular transform (it changes volumes by the factor {change:.3g})")
