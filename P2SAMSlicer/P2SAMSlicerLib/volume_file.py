"""Reading and writing CT volumes: NIfTI, NRRD and MetaImage files, or a folder with one DICOM series."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.atomic_file import atomic_write
from P2SAMSlicerLib.errors import InputError, OutputError
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.volume import Volume
from P2SAMSlicerLib.volume_header import HeaderFacts, check_header, check_nifti, short_name, volume_suffix

#: Formats that can be written: those of one file, so that a volume appears whole or not at all.
WRITABLE_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha")

#: A corner of the volume may lie this far (mm) from where the file's own header puts it: NIfTI keeps single precision.
AFFINE_TOLERANCE_MM = 0.1


def read_volume(path: Path | str) -> Volume:
    """Read a CT volume.

    Spacing, origin and direction are kept as stored, in LPS millimetres. Floating-point values become float32, integers
    int16, or int32 where the stored type is wider. The array is C-contiguous ``(z, y, x)``.

    :param path: a ``.nii``, ``.nii.gz``, ``.nrrd``, ``.nhdr``, ``.mha`` or ``.mhd`` file, or a folder with one DICOM CT series
        (:func:`P2SAMSlicerLib.dicom.series.read_dicom_series`).
    :raises InputError: missing, unreadable, damaged or cut short; not one 3-D volume with one value a voxel (a 4-D file
        with one frame is taken as 3-D); NaN or infinite values; a grid on which millimetres mean nothing.
    """
    path = Path(path)
    if _is_folder(path):
        from P2SAMSlicerLib.dicom.series import read_dicom_series

        return read_dicom_series(path)
    array, grid, facts = read_image(path)
    if facts.segmentation:
        raise InputError(f"{path.name}: a segmentation, where a CT volume is needed")
    return Volume(_plain_type(array, path.name), grid, short_name(path), warnings=facts.warnings)


def read_image(path: Path) -> tuple[NDArray[Any], Grid, HeaderFacts]:
    """Read any scalar 3-D image file, a CT or a label map, with its values as stored.

    :param path: see :func:`read_volume`; not a folder.
    :returns: array ``(z, y, x)``, its grid, and what the header said besides.
    :raises InputError: see :func:`read_volume`.
    """
    check_readable(path)
    facts = check_header(path)
    image = _read_with_itk(path)
    if image.GetNumberOfComponentsPerPixel() > 1 or "complex" in image.GetPixelIDTypeAsString():
        raise InputError(f"{path.name}: more than one value a voxel (a vector, colour or complex image), not a CT volume")
    size, dimension = image.GetSize(), image.GetDimension()
    if dimension < 3:
        raise InputError(f"{path.name}: a {dimension}-D image, not a 3-D volume")
    if max(size[3:], default=1) > 1:
        raise InputError(f"{path.name}: a {dimension}-D series of {int(np.prod(size[3:]))} volumes, not one 3-D volume")
    shape = (size[2], size[1], size[0])
    direction = np.reshape(image.GetDirection(), (dimension, dimension))[:3, :3]
    spacing, origin = image.GetSpacing(), image.GetOrigin()
    grid = Grid(
        shape,
        (spacing[0], spacing[1], spacing[2]),
        (origin[0], origin[1], origin[2]),
        tuple(float(v) for v in direction.ravel()),
    )
    grid.check(path.name)
    if facts.affine is not None:
        _check_affine(grid, facts.affine, path.name)

    import SimpleITK

    array = np.ascontiguousarray(SimpleITK.GetArrayFromImage(image).reshape(shape))
    _check_finite(array, path.name)
    return array, grid, facts


def write_volume(volume: Volume, path: Path | str) -> None:
    """Write a volume with its geometry; the file appears whole or not at all.

    :param volume: values of any numeric type; booleans are written as 0 and 1. NIfTI keeps the geometry in single precision.
    :param path: ends in ``.nii.gz``, ``.nii``, ``.nrrd`` or ``.mha``.
    :raises OutputError: another ending, no space, no permission, no such folder.
    :raises InputError: the volume's grid is not valid, or voxels are NaN or infinite.
    """
    import SimpleITK

    path = Path(path)
    suffix = volume_suffix(path)
    if suffix not in WRITABLE_SUFFIXES:
        raise OutputError(f"{path.name}: cannot write this kind of file; use one of {', '.join(WRITABLE_SUFFIXES)}")
    volume.grid.check(volume.name)
    array = volume.array
    _check_finite(array, volume.name)
    if array.dtype.kind == "b" or array.dtype == np.float16:
        array = array.astype(np.uint8 if array.dtype.kind == "b" else np.float32)
    image: Any = SimpleITK.GetImageFromArray(array)
    image.SetSpacing(volume.grid.spacing)
    image.SetOrigin(volume.grid.origin)
    image.SetDirection(volume.grid.direction)
    with atomic_write(path) as temporary, _quiet():
        try:
            SimpleITK.WriteImage(image, str(temporary), suffix != ".nii")
            if suffix in (".nii", ".nii.gz"):
                # ITK's NIfTI writer reports success when the disk is full.
                check_nifti(temporary)
        except (RuntimeError, InputError) as error:
            raise OutputError(f"{path.name}: could not be written completely (is there enough space?)") from error


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name that the system does not even look for
        return False


def check_readable(path: Path, dicom_advice: str = "give the folder with all slices of the series") -> None:
    """Refuse a path that is no readable file of a known kind, and say why.

    :param dicom_advice: what to do with a DICOM file instead, in words.
    :raises InputError: missing, no permission, a DICOM file, an unknown ending, empty.
    """
    try:
        with path.open("rb") as file:
            start = file.read(132)
    except FileNotFoundError:
        raise InputError(f"{path.name}: no such file or folder") from None
    except OSError as error:
        raise InputError(f"{path.name}: cannot be opened ({(error.strerror or 'unknown reason').lower()})") from error
    if start[128:] == b"DICM":
        raise InputError(f"{path.name}: a single DICOM file; {dicom_advice}")
    if not volume_suffix(path):
        raise InputError(
            f"{path.name}: not a known kind of volume file (.nii, .nii.gz, .nrrd, .nhdr, .mha, .mhd, or a DICOM folder)"
        )
    if not start:
        raise InputError(f"{path.name}: the file is empty")


def _read_with_itk(path: Path) -> Any:
    """The file as a SimpleITK image."""
    import SimpleITK

    suffix = volume_suffix(path)
    # Named, because ITK chooses the reader by endings in lower case only.
    reader = {".nii": "NiftiImageIO", ".nii.gz": "NiftiImageIO", ".nrrd": "NrrdImageIO", ".nhdr": "NrrdImageIO"}.get(
        suffix, "MetaImageIO"
    )
    try:
        with _quiet():
            return SimpleITK.ReadImage(str(path), imageIO=reader)
    except RuntimeError as error:
        raise InputError(
            f"{path.name}: cannot be read as {reader.removesuffix('ImageIO')} (damaged, or data missing)"
        ) from error


def _check_affine(grid: Grid, affine: NDArray[np.float64], name: str) -> None:
    """Refuse a grid that is not the one the header states."""
    nz, ny, nx = grid.shape
    ends = np.array([[x, y, z] for z in (0, nz - 1) for y in (0, ny - 1) for x in (0, nx - 1)], dtype=np.float64)
    stated = ends @ affine[:3, :3].T + affine[:3, 3]
    if np.abs(grid.to_physical(ends) - stated).max() > AFFINE_TOLERANCE_MM:
        raise InputError(f"{name}: the NIfTI header contradicts itself (sform against pixdim or qform)")


def _check_finite(array: NDArray[Any], name: str) -> None:
    if array.dtype.kind == "f" and not (finite := np.isfinite(array)).all():
        raise InputError(f"{name}: {int((~finite).sum())} voxels are NaN or infinite")


def _plain_type(array: NDArray[Any], name: str) -> NDArray[Any]:
    """float32, int16 or int32, whichever holds the stored type.

    :raises InputError: integers beyond 32 bits, or numbers beyond float32.
    """
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):
            plain = array.astype(np.float32, copy=False)
        if not np.isfinite(plain).all():
            raise InputError(f"{name}: values too large for single precision")
        return plain
    if array.dtype in (np.int8, np.uint8, np.int16):
        return array.astype(np.int16, copy=False)
    limits = np.iinfo(np.int32)
    if array.min() < limits.min or array.max() > limits.max:
        raise InputError(f"{name}: values too large for 32-bit integers")
    return array.astype(np.int32, copy=False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep ITK's warnings off the terminal: what matters in them is checked here and said in one line."""
    import SimpleITK

    process: Any = SimpleITK.ProcessObject
    before = process.GetGlobalWarningDisplay()
    process.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        process.SetGlobalWarningDisplay(before)
