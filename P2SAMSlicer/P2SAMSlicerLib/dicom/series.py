"""Reading one DICOM CT series: slices ordered by where they lie, and every doubt about the geometry said in words.

Readers commonly average the slice spacing, or order slices by name or number, and so shift tissue without a word. Here a
series that is not one evenly spaced, untilted stack is refused, with the slices that show it.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.dicom.pixels import has_padding_inside_tissue, hounsfield_slice, rescale
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.geometry import ORTHONORMAL_TOLERANCE, Grid
from P2SAMSlicerLib.volume import VisitIdentity, Volume

if TYPE_CHECKING:
    from pydicom import Dataset

#: A slice may lie this far (mm) from its place on an even grid: rounded positions do, and no contour notices.
SPACING_TOLERANCE_MM = 0.05

#: A distance beyond this multiple of the usual one is a gap, not unevenness.
GAP_RATIO = 1.5

#: A stack may lean sideways by this much (mm) over its whole length, as directions are rounded ...
LEAN_TOLERANCE_MM = 0.5
#: ... unless it leans by more than this angle (degrees) and by more than ``SPACING_TOLERANCE_MM``.
LEAN_TOLERANCE_DEGREES = 0.5

#: Objects that planning systems keep beside the slices; they are no images of the series and are left aside.
BESIDE_MODALITIES = frozenset({"RTSTRUCT", "RTPLAN", "RTDOSE", "RTRECORD", "RTIMAGE", "REG", "SEG", "SR", "KO", "PR", "DOC"})

MULTI_FRAME_CLASSES = frozenset({"1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2"})

#: Group 2 (file meta information) or 8, in either byte order.
_FIRST_GROUPS = (b"\x02\x00", b"\x08\x00", b"\x00\x02", b"\x00\x08")

#: File endings that promise DICOM; a file with one of them that cannot be read may be a slice, so it is not passed over.
DICOM_SUFFIXES = frozenset({".dcm", ".dicom", ".ima", ".dic"})


@dataclass
class _Slice:
    """One file of the series, header only."""

    path: Path
    header: Dataset
    position: NDArray[np.float64] = field(default_factory=lambda: np.zeros(3))


def read_dicom_series(folder: Path | str) -> Volume:
    """Read the one classic (single-frame) CT series in a folder.

    Structure sets, plans, doses and similar objects beside it, localizers, and files that are not DICOM are left aside with
    a warning. Sub-folders are not searched.

    :param folder: where the slices lie; neither names nor instance numbers matter.
    :returns: HU ``(z, y, x)``, int16 where they fit, else int32 or float32; padding is -1024; the z axis runs along
        row direction x column direction. ``identity`` holds patient id and date.
    :raises InputError: no CT, several series, enhanced multi-frame objects, mixed sizes or orientations, missing, doubled,
        unevenly spaced, shifted or tilted slices, pixel data absent or undecodable. The message names the files.
    """
    folder = Path(folder)
    name = folder.name or folder.absolute().name
    with _quiet():
        notes: list[str] = []
        slices = _one_series(_image_slices(folder, name, notes), name)
        slices, grid = _stack(slices, name, notes)
        array = _hounsfield(slices, grid, name, notes)
        identity = _identity(slices)
    grid.check(name)
    return Volume(array, grid, name, identity, tuple(notes))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep pydicom's remarks off the terminal; they may quote the patient's data."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _image_slices(folder: Path, name: str, notes: list[str]) -> list[_Slice]:
    """The CT images of a folder; what was left aside is told in ``notes``."""
    try:
        entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except FileNotFoundError:
        raise InputError(f"{name}: no such folder") from None
    except OSError as error:
        raise InputError(f"{name}: cannot be opened ({(error.strerror or 'unknown reason').lower()})") from error
    found: list[_Slice] = []
    beside: Counter[str] = Counter()
    for path in entries:
        header = _header(path, name) if path.is_file() else None
        if path.is_dir():
            beside["sub-folders"] += 1
        elif header is None:
            beside["other files"] += 1
        elif _text(header, "Modality") in BESIDE_MODALITIES:
            beside[_text(header, "Modality")] += 1
        elif "LOCALIZER" in str(header.get("ImageType", "")).upper():
            beside["localizer"] += 1
        else:
            found.append(_Slice(path, header))
    if not found:
        held = f"; it holds {_counts(beside)}" if beside else ""
        raise InputError(f"{name}: no DICOM CT slices in this folder{held}")
    modalities = Counter(_text(each.header, "Modality") or "objects without modality" for each in found)
    if set(modalities) != {"CT"}:
        raise InputError(f"{name}: not one CT series; the folder holds {_counts(modalities)}")
    if beside:
        notes.append(f"left aside in the DICOM folder: {_counts(beside)}")
    return found


def _header(path: Path, name: str) -> Dataset | None:
    """The file's header, or None for a file that is not DICOM.

    :raises InputError: the file's ending promises DICOM, but it cannot be read.
    """
    import pydicom

    try:
        with path.open("rb") as file:
            start = file.read(132)
        # Old planning systems write slices without the preamble: these begin with the first group at once.
        if start[128:] == b"DICM" or start[:2] in _FIRST_GROUPS:
            header = pydicom.dcmread(path, stop_before_pixels=True, force=True)
            if _text(header, "SOPClassUID") and _text(header, "Modality"):
                return header
            if _text(header, "SOPClassUID") or path.name.upper() == "DICOMDIR":
                return None
    except Exception:  # damaged files make the parser fail in many ways; its words may quote the patient's data
        header = None
    if path.suffix.lower() in DICOM_SUFFIXES:
        raise InputError(f"{name}: {path.name} cannot be read as DICOM (damaged, or cut short)")
    return None


def _one_series(slices: list[_Slice], name: str) -> list[_Slice]:
    """The slices, if they are one classic series of one patient."""
    multi = [
        each
        for each in slices
        if _text(each.header, "SOPClassUID") in MULTI_FRAME_CLASSES or (_number(each.header, "NumberOfFrames") or 1) > 1
    ]
    if multi:
        raise InputError(f"{name}: enhanced multi-frame CT ({_names(multi)}) is not supported yet; export single-frame slices")
    series = Counter(_text(each.header, "SeriesInstanceUID") for each in slices)
    if len(series) > 1:
        sizes = ", ".join(str(count) for count in sorted(series.values(), reverse=True))
        raise InputError(
            f"{name}: {len(series)} CT series in one folder ({sizes} slices); put the one to read in a folder of its own"
        )
    for tag, what in (("PatientID", "patient"), ("FrameOfReferenceUID", "frame of reference")):
        if len({_text(each.header, tag) for each in slices}) > 1:
            raise InputError(f"{name}: the slices belong to more than one {what}")
    if len(slices) == 1:
        raise InputError(f"{name}: only one slice ({slices[0].path.name}); a volume needs at least two")
    return slices


def _stack(slices: list[_Slice], name: str, notes: list[str]) -> tuple[list[_Slice], Grid]:
    """The slices in the order of their positions along the normal, and their grid.

    :raises InputError: they are not one even, straight stack; the message lists every fault.
    """
    for each in slices:
        each.position = _floats(each, "ImagePositionPatient", 3, name)
    orientation = _common(
        slices, lambda s: _floats(s, "ImageOrientationPatient", 6, name), ORTHONORMAL_TOLERANCE, "orientation", name
    )
    pixel = _common(slices, lambda s: _floats(s, "PixelSpacing", 2, name), 1e-4, "pixel spacing", name)
    size = _common(
        slices, lambda s: np.array([s.header.get("Rows") or 0, s.header.get("Columns") or 0], float), 0, "size", name
    )
    row, column = orientation[:3], orientation[3:]
    if abs(row @ column) > ORTHONORMAL_TOLERANCE or np.abs([row @ row - 1, column @ column - 1]).max() > ORTHONORMAL_TOLERANCE:
        raise InputError(f"{name}: the rows and columns of the slices are not at right angles, or not of unit length")
    # Exactly orthonormal from here on: headers round to six decimals.
    row = row / np.linalg.norm(row)
    column = column - (column @ row) * row
    column = column / np.linalg.norm(column)
    normal = np.cross(row, column)
    slices = sorted(slices, key=lambda s: float(s.position @ normal))
    faults = _position_faults(slices, normal)
    if faults:
        raise InputError(f"{name}: {'; '.join(faults)}")
    along = np.array([each.position @ normal for each in slices])
    step = float(along[-1] - along[0]) / (len(slices) - 1)
    _note_geometry(slices, step, notes)
    grid = Grid(
        shape=(len(slices), int(size[0]), int(size[1])),
        # DICOM gives the distance of rows (along y) first.
        spacing=(float(pixel[1]), float(pixel[0]), step),
        origin=(float(slices[0].position[0]), float(slices[0].position[1]), float(slices[0].position[2])),
        direction=tuple(float(value) for value in np.stack([row, column, normal], axis=1).ravel()),
    )
    return slices, grid


def _common(
    slices: Sequence[_Slice], get: Callable[[_Slice], NDArray[np.float64]], tolerance: float, what: str, name: str
) -> NDArray[np.float64]:
    """The value that all slices share.

    :raises InputError: they do not; those that differ from the most frequent value are named.
    """
    values = [get(each) for each in slices]
    keys = [tuple(np.round(value, 3)) for value in values]
    usual = values[keys.index(Counter(keys).most_common(1)[0][0])]
    odd = [each for each, value in zip(slices, values, strict=True) if np.abs(value - usual).max() > tolerance]
    if odd:
        raise InputError(f"{name}: {len(odd)} of {len(slices)} slices have another {what} than the others ({_names(odd)})")
    return usual


def _position_faults(slices: Sequence[_Slice], normal: NDArray[np.float64]) -> list[str]:
    """What keeps sorted slices from being one even, straight stack, in words; each item names files and positions."""
    positions = np.array([each.position for each in slices])
    along = positions @ normal
    gaps = np.diff(along)
    faults = []
    doubled = np.flatnonzero(gaps <= SPACING_TOLERANCE_MM)
    if doubled.size:
        faults.append(f"slices at the same position: {_pairs(slices, doubled, normal)} (several phases or reconstructions?)")
    apart = gaps[gaps > SPACING_TOLERANCE_MM]
    if apart.size:
        # The lower median: where one of two distances is a gap, the other one is the usual.
        usual = float(np.quantile(apart, 0.5, method="lower"))
        missing = np.flatnonzero(gaps > GAP_RATIO * usual)
        even = along[0] + np.arange(len(along)) * (along[-1] - along[0]) / (len(along) - 1)
        if missing.size:
            faults.append(f"slices are missing, as the usual distance is {usual:.4g} mm: {_pairs(slices, missing, normal)}")
        elif not doubled.size and np.abs(along - even).max() > SPACING_TOLERANCE_MM:
            uneven = np.flatnonzero(np.abs(gaps - usual) > SPACING_TOLERANCE_MM)
            shown = uneven if uneven.size else np.array([int(np.abs(along - even).argmax()) - 1])
            faults.append(f"the slices are not evenly spaced (usually {usual:.4g} mm): {_pairs(slices, shown, normal)}")
        faults += _lean_faults(slices, positions - along[:, None] * normal, along)
    return faults


def _lean_faults(slices: Sequence[_Slice], sideways: NDArray[np.float64], along: NDArray[np.float64]) -> list[str]:
    """Whether the stack leans (gantry tilt), or single slices lie beside it."""
    lean = sideways[-1] - sideways[0]
    length = float(along[-1] - along[0])
    lean_mm = float(np.linalg.norm(lean))
    degrees = float(np.degrees(np.arctan2(lean_mm, length)))
    if lean_mm > LEAN_TOLERANCE_MM or (degrees > LEAN_TOLERANCE_DEGREES and lean_mm > SPACING_TOLERANCE_MM):
        ends = f"{slices[0].path.name} to {slices[-1].path.name}"
        return [f"the slices are stacked at {degrees:.1f} degrees to their normal (gantry tilt; {ends})"]
    straight = sideways[0] + np.outer((along - along[0]) / length, lean)
    off = np.linalg.norm(sideways - straight, axis=1)
    beside = [each for each, distance in zip(slices, off, strict=True) if distance > LEAN_TOLERANCE_MM]
    return [f"slices lie beside the stack: {_names(beside)}"] if beside else []


def _note_geometry(slices: Sequence[_Slice], step: float, notes: list[str]) -> None:
    """Remark on a geometry that can be used but should be known."""
    first = slices[0].header
    thickness = _number(first, "SliceThickness")
    if thickness is not None and 0 < thickness < step - max(SPACING_TOLERANCE_MM, 0.1 * step):
        notes.append(
            f"the slices are {step:.4g} mm apart but only {thickness:.4g} mm thick: tissue between them was not imaged"
        )
    stated = _number(first, "SpacingBetweenSlices")
    if stated is not None and abs(abs(stated) - step) > 0.1 * step:
        notes.append(
            f"the header states {abs(stated):.4g} mm between slices, their positions say {step:.4g} mm; the positions were used"
        )
    tilt = _number(first, "GantryDetectorTilt")
    if tilt is not None and abs(tilt) > LEAN_TOLERANCE_DEGREES:
        notes.append(
            f"the header states a gantry tilt of {tilt:.4g} degrees, but the slices form a straight stack; taken as corrected"
        )


def _hounsfield(slices: Sequence[_Slice], grid: Grid, name: str, notes: list[str]) -> NDArray[Any]:
    """HU of all slices ``(z, y, x)``."""
    import pydicom

    scales = [rescale(each.header, each.path, name) for each in slices]
    whole = all(float(number).is_integer() for scale in scales for number in scale)
    array: NDArray[Any] = np.empty(grid.shape, dtype=np.int32 if whole else np.float32)
    if any("RescaleSlope" not in each.header or "RescaleIntercept" not in each.header for each in slices):
        notes.append("the header has no rescale slope or intercept; the stored values were taken as Hounsfield units")
    if _text(slices[0].header, "RescaleType") not in ("", "HU"):
        notes.append("the header states another unit than Hounsfield units (RescaleType)")
    if any(has_padding_inside_tissue(each.header, *scale) for each, scale in zip(slices, scales, strict=True)):
        notes.append(
            "the padding value also occurs in tissue; only padding that touches the border of a slice was taken as air"
        )
    for index, (each, scale) in enumerate(zip(slices, scales, strict=True)):
        dataset = pydicom.dcmread(each.path, force=True)
        array[index] = hounsfield_slice(dataset, each.path, scale, grid.shape[1:], name)
    if whole and array.min() >= np.iinfo(np.int16).min and array.max() <= np.iinfo(np.int16).max:
        return array.astype(np.int16)
    return array


def _identity(slices: Sequence[_Slice]) -> VisitIdentity:
    """Patient id, and the earliest date of the slices with its time."""
    moments = [moment for each in slices if (moment := _moment(each.header))]
    return VisitIdentity(_text(slices[0].header, "PatientID") or None, min(moments, default=None))


def _moment(header: Dataset) -> str | None:
    """``YYYYMMDD`` or ``YYYYMMDDHHMMSS`` of acquisition, else of series, else of study."""
    for kind in ("Acquisition", "Series", "Study"):
        date = "".join(filter(str.isdigit, _text(header, f"{kind}Date")))
        if len(date) == 8:
            time = _text(header, f"{kind}Time").split(".")[0].replace(":", "")
            return date + (time if len(time) == 6 and time.isdigit() else "")
    return None


def _text(header: Dataset, tag: str) -> str:
    try:
        return str(header.get(tag) or "").strip()
    except Exception:  # the parser decodes values only now, and fails in many ways on damaged ones
        return ""


def _number(header: Dataset, tag: str) -> float | None:
    try:
        return float(_text(header, tag))
    except ValueError:
        return None


def _floats(each: _Slice, tag: str, count: int, name: str) -> NDArray[np.float64]:
    """``count`` finite numbers of a tag.

    :raises InputError: absent, too few, or no numbers.
    """
    try:
        values = np.array([float(value) for value in each.header.get(tag)], dtype=np.float64)
    except Exception:  # absent, or text that is no number; the parser decodes late and fails in many ways
        values = np.empty(0)
    if values.shape != (count,) or not np.isfinite(values).all():
        raise InputError(f"{name}: {each.path.name} has no usable {tag}")
    return values


def _names(slices: Sequence[_Slice], most: int = 4) -> str:
    shown = ", ".join(each.path.name for each in slices[:most])
    return shown if len(slices) <= most else f"{shown} and {len(slices) - most} more"


def _pairs(slices: Sequence[_Slice], places: NDArray[Any], normal: NDArray[np.float64], most: int = 4) -> str:
    """Neighbours in words: slice numbers, files, positions on the patient axis nearest the normal, and distances."""
    axis = int(np.abs(normal).argmax())
    texts = []
    for i in places[:most]:
        a, b = slices[i], slices[i + 1]
        distance = float((b.position - a.position) @ normal)
        texts.append(
            f"slices {i + 1} and {i + 2} ({a.path.name} at {a.position[axis]:.2f} mm, {b.path.name} at "
            f"{b.position[axis]:.2f} mm) are {distance:.4g} mm apart"
        )
    more = f" and {len(places) - most} more" if len(places) > most else ""
    return ", ".join(texts) + more


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{what} ({count})" for what, count in sorted(counter.items()))
