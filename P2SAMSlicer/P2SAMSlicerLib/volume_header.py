"""What a volume file's own header says, where the reading library would hide a fault.

SimpleITK fills a truncated NIfTI file with zeros, turns a missing, zero or negative voxel size into some positive one, and
takes another orientation where the stated one is sheared. None of this may pass unseen, so the raw header is checked first.
"""

from __future__ import annotations

import gzip
import io
import math
import re
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.geometry import ORTHONORMAL_TOLERANCE

#: Endings of the volume files that can be read, the longer ones first.
READABLE_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])

_NIFTI_HEADER_BYTES = 348
_NO_ORIENTATION = "the header has no orientation: the axes are taken as right to left, front to back, feet to head"

#: Spaces of the patient, as NRRD headers name them, and none at all.
_NRRD_SPACES = (
    *("left-posterior-superior", "right-anterior-superior", "left-anterior-superior"),
    *("lps", "ras", "las", "lpst", "rast", "last", ""),
)
_CHUNK = 1 << 22


@dataclass(frozen=True)
class HeaderFacts:
    """What a header said beyond what the reading library reports.

    :param warnings: what can be lived with, in words.
    :param affine: index ``(x, y, z, 1)`` to LPS millimetres as the header states it, where the reading library may silently
        take something else instead; None where it does not.
    :param segmentation: the header describes segments.
    """

    warnings: tuple[str, ...] = ()
    affine: NDArray[np.float64] | None = None
    segmentation: bool = False


def volume_suffix(path: Path) -> str:
    """The ending that tells the format, in lower case (``.nii.gz``, ``.mha``, ...), or an empty string for none known."""
    name = path.name.lower()
    return next((suffix for suffix in READABLE_SUFFIXES if name.endswith(suffix)), "")


def short_name(path: Path) -> str:
    """The file's name without the format's ending (``ct.2024.nii.gz`` -> ``ct.2024``); a folder's name as it is."""
    name = path.name or path.absolute().name
    for suffix in (".seg.nrrd", *READABLE_SUFFIXES):
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return name


def check_header(path: Path) -> HeaderFacts:
    """Refuse a file whose header, or length, is not what a volume in millimetres needs.

    :param path: an existing file with one of :data:`READABLE_SUFFIXES`.
    :raises InputError: not of its kind, cut short, damaged, no or impossible voxel size, sheared axes.
    """
    suffix = volume_suffix(path)
    try:
        if suffix in (".nii", ".nii.gz"):
            return check_nifti(path)
        if suffix in (".mha", ".mhd"):
            return _check_meta(path)
        return _check_nrrd(path)
    except OSError as error:
        raise InputError(f"{path.name}: cannot be read ({(error.strerror or 'damaged').lower()})") from error


def check_nifti(path: Path) -> HeaderFacts:
    """Check a NIfTI-1 file's header, and that all its voxels are there and are numbers; see :func:`check_header`."""
    with path.open("rb") as raw:
        compressed = raw.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(path) if compressed else path.open("rb") as file:
            header = file.read(_NIFTI_HEADER_BYTES)
            order = _nifti_byte_order(path, header)
            facts = _check_nifti_header(path, header, order)
            _check_nifti_voxels(path, file, header, order)
            # Reading to the end verifies the checksum.
            while file.read(_CHUNK):
                pass
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path.name}: the compressed data is cut short or damaged") from error
    return facts


def _nifti_byte_order(path: Path, header: bytes) -> str:
    """``<`` or ``>``, as the header's stated length shows."""
    lengths = {order + version: struct.pack(order + "i", int(version)) for order in "<>" for version in ("348", "540")}
    stated = next((name for name, packed in lengths.items() if header[:4] == packed), "")
    if stated.endswith("540"):
        raise InputError(f"{path.name}: NIfTI-2 files cannot be read; save it as NIfTI-1")
    if not stated or header[344:347] != b"n+1":
        raise InputError(f"{path.name}: not a NIfTI file, or cut short")
    return stated[0]


def _check_nifti_header(path: Path, header: bytes, order: str) -> HeaderFacts:
    """Refuse dimensions and geometry that are not valid."""
    dims = struct.unpack_from(order + "8h", header, 40)
    if not 1 <= dims[0] <= 7 or min(dims[1 : dims[0] + 1]) < 1:
        raise InputError(f"{path.name}: the NIfTI header's dimensions are not valid")
    pixdim = struct.unpack_from(order + "8f", header, 76)
    _check_spacing(path, pixdim[1 : min(dims[0], 3) + 1])
    if header[123] & 7 in (1, 3):
        raise InputError(f"{path.name}: the NIfTI header does not give the voxel size in millimetres")
    qform_code, sform_code = struct.unpack_from(order + "2h", header, 252)
    if sform_code > 0:
        affine = np.eye(4)
        affine[:3] = np.reshape(struct.unpack_from(order + "12f", header, 280), (3, 4))
        _check_axes(path, affine[:3, :3])
        return HeaderFacts(affine=RAS_TO_LPS @ affine)
    return HeaderFacts() if qform_code > 0 else HeaderFacts(warnings=(_NO_ORIENTATION,))


def _check_nifti_voxels(path: Path, file: io.BufferedIOBase, header: bytes, order: str) -> None:
    """Refuse missing voxels, and values that are no numbers (the reading library turns those into zeros).

    :param file: stands behind the header.
    """
    dims = struct.unpack_from(order + "8h", header, 40)
    datatype, bits = struct.unpack_from(order + "2h", header, 70)
    offset = int(struct.unpack_from(order + "f", header, 108)[0])
    kind = {16: np.dtype(order + "f4"), 64: np.dtype(order + "f8")}.get(datatype)
    file.seek(offset)
    left = math.prod(dims[1 : dims[0] + 1]) * bits // 8
    bad = 0
    while left > 0:
        chunk = file.read(min(left, _CHUNK))
        if not chunk:
            raise InputError(f"{path.name}: cut short, voxels are missing at the end")
        left -= len(chunk)
        if kind:
            bad += int((~np.isfinite(np.frombuffer(chunk, kind, len(chunk) // kind.itemsize))).sum())
    if bad:
        raise InputError(f"{path.name}: {bad} voxels are NaN or infinite")


def _check_meta(path: Path) -> HeaderFacts:
    """Check a MetaImage header (``.mha``, ``.mhd``); see :func:`check_header`."""
    fields: dict[str, str] = {}
    with path.open("rb") as file:
        while "ElementDataFile" not in fields:
            key, equals, value = file.readline(1 << 16).decode("latin-1").partition("=")
            if not equals or file.tell() > 1 << 20:
                raise InputError(f"{path.name}: not a MetaImage file, or cut short")
            fields[key.strip()] = value.strip()
        start = file.tell()
    spacing = fields.get("ElementSpacing") or fields.get("ElementSize")
    if not spacing:
        raise InputError(f"{path.name}: the header has no voxel spacing")
    _check_spacing(path, _numbers(spacing)[:3])
    matrix = _numbers(fields.get("TransformMatrix") or fields.get("Rotation") or fields.get("Orientation") or "")
    if len(matrix) == 9:
        _check_axes(path, np.reshape(matrix, (3, 3)).T)
    if fields.get("CompressedData", "").lower() == "true":
        local = fields["ElementDataFile"].upper() == "LOCAL"
        _check_zlib(path, path if local else path.parent / fields["ElementDataFile"], start if local else 0)
    return HeaderFacts()


def _check_zlib(path: Path, data_file: Path, start: int) -> None:
    """Refuse compressed data that does not unpack to its end with the right checksum."""
    unpack = zlib.decompressobj()
    try:
        with data_file.open("rb") as file:
            file.seek(start)
            while not unpack.eof and (chunk := file.read(_CHUNK)):
                unpack.decompress(chunk)
    except zlib.error as error:
        raise InputError(f"{path.name}: the compressed data is damaged") from error
    if not unpack.eof:
        raise InputError(f"{path.name}: the compressed data is cut short")


def nrrd_header(path: Path) -> dict[str, Any]:
    """The parsed header of a NRRD file, with its texts decoded as UTF-8, as 3D Slicer writes them.

    :raises InputError: not a NRRD header.
    """
    import nrrd

    # pynrrd decodes a file as ASCII and drops what is not; lines that it need not decode keep every character.
    lines = []
    with path.open("rb") as file:
        for line in file:
            if not line.strip():
                break
            lines.append(line.decode("utf-8", errors="replace"))
    try:
        return dict(nrrd.read_header([*lines, "\n"]))
    except Exception as error:  # the parser fails in many ways on a damaged header
        raise InputError(f"{path.name}: not a NRRD file, or its header is damaged") from error


def _check_nrrd(path: Path) -> HeaderFacts:
    """Check a NRRD header; see :func:`check_header`."""
    header = nrrd_header(path)
    if "dimension" not in header or "sizes" not in header:
        raise InputError(f"{path.name}: not a NRRD file, or its header is damaged")
    kinds = header.get("kinds") or ["domain"] * int(header["dimension"])
    spatial = [axis for axis, kind in enumerate(kinds) if kind in ("domain", "space", "???", "none")]
    directions = header.get("space directions")
    warnings: tuple[str, ...] = ()
    space = str(header.get("space", "")).lower().removesuffix("-time")
    if space not in _NRRD_SPACES:
        raise InputError(f"{path.name}: the header's space '{space}' is not one of the patient's")
    if not space:
        warnings = (_NO_ORIENTATION,)
    if directions is not None:
        rows = [np.asarray(directions[axis], dtype=float) for axis in spatial if axis < len(directions)]
        _check_spacing(path, [float(np.linalg.norm(row)) for row in rows])
        if len(rows) == 3 and all(row.size == 3 for row in rows):
            _check_axes(path, np.stack(rows, axis=1))
    elif (spacings := header.get("spacings")) is not None:
        _check_spacing(path, [float(spacings[axis]) for axis in spatial[:3]])
    else:
        raise InputError(f"{path.name}: the header has no voxel spacing")
    return HeaderFacts(warnings=warnings, segmentation=any(re.match(r"Segment\d+_", key) for key in header))


def _numbers(text: str) -> list[float]:
    """The numbers in a header's text; a word that is none becomes NaN, which no check lets pass."""
    values = []
    for word in text.split():
        try:
            values.append(float(word))
        except ValueError:
            values.append(math.nan)
    return values


def _check_spacing(path: Path, spacing: list[float] | tuple[float, ...]) -> None:
    if not spacing or not all(math.isfinite(value) and value > 0 for value in spacing):
        stated = " x ".join(f"{value:g}" for value in spacing)
        raise InputError(f"{path.name}: the voxel spacing in the header ({stated or 'none'} mm) is not positive")


def _check_axes(path: Path, matrix: NDArray[np.float64]) -> None:
    """Refuse columns that are not at right angles to each other; their lengths do not matter here."""
    lengths = np.linalg.norm(matrix, axis=0)
    if not np.isfinite(matrix).all() or lengths.min() <= 0:
        raise InputError(f"{path.name}: the axis directions in the header are not finite, or zero")
    unit = matrix / lengths
    if np.abs(unit.T @ unit - np.eye(3)).max() > ORTHONORMAL_TOLERANCE:
        raise InputError(f"{path.name}: the axis directions are not orthonormal (sheared or gantry-tilted grid)")
