"""Reading one DICOM CT series: classic slices or multi-frame objects to Hounsfield units on a grid.

Slices are ordered by where they lie; a series that is not one stack is refused in words, see :mod:`~.slice_stack`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.dicom.bounded_read import DICOM_SUFFIXES, looks_like_dicom, quiet, read_header, read_whole
from P2SAMSlicerLib.dicom.ct_reference import CtReference, CtSeries, SliceReference
from P2SAMSlicerLib.dicom.header import code, is_localizer, map_kind, moment, text
from P2SAMSlicerLib.dicom.multi_frame import frames_of, is_multi_frame
from P2SAMSlicerLib.dicom.pixels import has_padding_inside_tissue, hounsfield_frames, rescale
from P2SAMSlicerLib.dicom.slice_stack import SliceStack, stack_slices
from P2SAMSlicerLib.dicom.stored_slice import SLICE_TAGS, StoredSlice
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.volume import VisitIdentity, Volume

if TYPE_CHECKING:
    from pydicom import Dataset

#: Objects that planning systems keep beside the slices; they are no images of the series and are left aside.
BESIDE_MODALITIES = frozenset({"RTSTRUCT", "RTPLAN", "RTDOSE", "RTRECORD", "RTIMAGE", "REG", "SEG", "SR", "KO", "PR", "DOC"})

#: An empty slice of 512 x 512 voxels is compressed to a hundred bytes, beside a header of a thousand.
MOST_VOXELS_A_BYTE = 5000

#: What a file may hold beside its pixels.
_BESIDE_PIXELS_BYTES = 256 * 2**20


def read_dicom_series(folder: Path | str, *, resample: bool = False) -> Volume:
    """Read the one CT series in a folder; :func:`dicom_ct_of` without the reference."""
    return dicom_ct_of(folder, resample=resample).volume


def dicom_ct_of(folder: Path | str, *, resample: bool = False) -> CtSeries:
    """Read the one CT series in a folder.

    Structure sets, plans, doses and similar objects beside it, localizers, and files that are not DICOM are left aside with
    a warning. Sub-folders are not searched.

    :param folder: where the slices lie; neither names nor instance numbers matter.
    :param resample: see :func:`read_ct_series`.
    :raises InputError: no CT, several series, and all that :func:`read_ct_series` refuses. The message names the files.
    """
    folder = Path(folder)
    name = folder.name or folder.absolute().name
    with quiet():
        notes: list[str] = []
        return _ct_series(_image_slices(folder, name, notes), name, notes, resample)


def read_ct_series(paths: Sequence[Path], name: str, *, resample: bool = False) -> CtSeries:
    """Read one CT series of known files.

    :param paths: its files, in any order: classic slices, or multi-frame objects.
    :param name: the volume's name, and what messages call the series; they name no file, as its name may tell a patient's.
    :param resample: where a stack leans (gantry tilt) or is unevenly spaced, bring it to a straight, even grid; the volume's
        warnings and ``reference.resampled`` say so. Without it such a stack is refused.
    :returns: HU ``(z, y, x)``, int16 where they fit, else int32 or float32; padding is -1024; the z axis runs along
        row direction x column direction. ``identity`` holds patient id and date.
    :raises InputError: an unreadable file, no CT, several series, mixed sizes or orientations, missing, doubled, shifted
        slices, several stacks, pixel data absent or undecodable; unevenly spaced or tilted slices without ``resample``.
    """
    with quiet():
        slices = []
        for index, path in enumerate(sorted(map(Path, paths))):
            called = f"file {index + 1} of {len(paths)}"
            try:
                header = read_header(path, SLICE_TAGS)
            except OSError as error:
                reason = (error.strerror or "damaged").lower()
                raise InputError(f"{name}: {called} cannot be read ({reason})") from None
            except Exception:  # damaged files make the parser fail in many ways; its words may quote the patient's data
                raise InputError(f"{name}: {called} cannot be read as DICOM (damaged, or cut short)") from None
            if code(header, "Modality") != "CT":
                raise InputError(f"{name}: {called} is no CT image")
            slices.append(StoredSlice(path, header, called))
        if not slices:
            raise InputError(f"{name}: no DICOM CT slices")
        return _ct_series(slices, name, [], resample)


def _ct_series(files: Sequence[StoredSlice], name: str, notes: list[str], resample: bool) -> CtSeries:
    """One series from its files."""
    slices = _slices_of(_one_series(files, name), name, notes)
    stack = stack_slices(slices, name, notes, resample=resample)
    array, grid = _hounsfield(stack, name, notes), stack.grid()
    if stack.repairable:
        from P2SAMSlicerLib.dicom.straight_grid import straighten

        array, grid = straighten(array, stack)
        notes.append(f"resampled to a straight, even grid: {'; '.join(stack.repairable)}")
    grid.check(name)
    volume = Volume(array, grid, name, _identity(stack.slices), tuple(notes))
    return CtSeries(volume, _reference(stack, name))


def _image_slices(folder: Path, name: str, notes: list[str]) -> list[StoredSlice]:
    """The CT images of a folder, by file; what was left aside is told in ``notes``."""
    try:
        entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except FileNotFoundError:
        raise InputError(f"{name}: no such folder") from None
    except OSError as error:
        raise InputError(f"{name}: cannot be opened ({(error.strerror or 'unknown reason').lower()})") from error
    found: list[StoredSlice] = []
    beside: Counter[str] = Counter()
    for path in entries:
        header = _header(path, name) if path.is_file() else None
        if path.is_dir():
            beside["sub-folders"] += 1
        elif header is None:
            beside["other files"] += 1
        elif code(header, "Modality") in BESIDE_MODALITIES:
            beside[code(header, "Modality")] += 1
        elif is_localizer(header):
            beside["localizer"] += 1
        else:
            found.append(StoredSlice(path, header, path.name))
    if not found:
        held = f"; it holds {_counts(beside)}" if beside else ""
        raise InputError(f"{name}: no DICOM CT slices in this folder{held}")
    modalities = Counter(code(each.header, "Modality") or "objects without modality" for each in found)
    if set(modalities) != {"CT"}:
        raise InputError(f"{name}: not one CT series; the folder holds {_counts(modalities)}")
    if beside:
        notes.append(f"left aside in the DICOM folder: {_counts(beside)}")
    return found


def _header(path: Path, name: str) -> Dataset | None:
    """The file's header, or None for a file that is not DICOM.

    :raises InputError: the file's ending promises DICOM, but it cannot be read.
    """
    try:
        if looks_like_dicom(path):
            header = read_header(path, SLICE_TAGS)
            if text(header, "SOPClassUID") and code(header, "Modality"):
                return header
            if text(header, "SOPClassUID") or path.name.upper() == "DICOMDIR":
                return None
    except Exception:  # damaged files make the parser fail in many ways; its words may quote the patient's data
        header = None
    if path.suffix.lower() in DICOM_SUFFIXES:
        raise InputError(f"{name}: {path.name} cannot be read as DICOM (damaged, or cut short)")
    return None


def _one_series(files: Sequence[StoredSlice], name: str) -> Sequence[StoredSlice]:
    """The files, if they are one series of one patient."""
    series = Counter(text(each.header, "SeriesInstanceUID") for each in files)
    if len(series) > 1:
        sizes = ", ".join(str(count) for count in sorted(series.values(), reverse=True))
        what = "files" if any(is_multi_frame(each.header) for each in files) else "slices"
        raise InputError(
            f"{name}: {len(series)} CT series in one folder ({sizes} {what}); put the one to read in a folder of its own"
        )
    for tag, what in (("PatientID", "patient"), ("FrameOfReferenceUID", "frame of reference")):
        if len({text(each.header, tag) for each in files}) > 1:
            raise InputError(f"{name}: the slices belong to more than one {what}")
    return files


def _slices_of(files: Sequence[StoredSlice], name: str, notes: list[str]) -> list[StoredSlice]:
    """The slices of classic files and the frames of multi-frame objects."""
    slices: list[StoredSlice] = []
    for each in files:
        slices += frames_of(each.path, each.called, name) if is_multi_frame(each.header) else [each]
    if not slices:
        raise InputError(f"{name}: no DICOM CT slices")
    if len(slices) == 1:
        raise InputError(f"{name}: only one slice ({slices[0].called}); a volume needs at least two")
    identities = {(text(each.header, "SOPInstanceUID"), each.frame) for each in slices}
    if len(identities) < len(slices):
        notes.append("several slices have the same identifier, so contours that are written for this CT cannot name theirs")
    kinds = {kind for each in slices if (kind := map_kind(each.header))}
    if kinds:
        notes.append(f"the images are maps that were computed from a CT ({', '.join(sorted(kinds))}), not a CT")
    return slices


def _hounsfield(stack: SliceStack, name: str, notes: list[str]) -> NDArray[Any]:
    """HU of all slices ``(z, y, x)`` as they are stored."""
    slices = stack.slices
    scales = [rescale(each.header, each.path, name, each.called) for each in slices]
    whole = all(float(value).is_integer() for scale in scales for value in scale)
    array = _room(stack, np.dtype(np.int32 if whole else np.float32), name)
    if any("RescaleSlope" not in each.header or "RescaleIntercept" not in each.header for each in slices):
        notes.append("the header has no rescale slope or intercept; the stored values were taken as Hounsfield units")
    if text(slices[0].header, "RescaleType") not in ("", "HU"):
        notes.append("the header states another unit than Hounsfield units (RescaleType)")
    if any(has_padding_inside_tissue(each.header, *scale) for each, scale in zip(slices, scales, strict=True)):
        notes.append(
            "the padding value also occurs in tissue; only padding that touches the border of a slice was taken as air"
        )
    by_file: dict[Path, dict[int, int]] = {}
    for index, each in enumerate(slices):
        by_file.setdefault(each.path, {})[(each.frame or 1) - 1] = index
    for places in by_file.values():
        _fill(array, stack, scales, places, name)
    if whole and array.min() >= np.iinfo(np.int16).min and array.max() <= np.iinfo(np.int16).max:
        return array.astype(np.int16)
    return array


def _room(stack: SliceStack, dtype: np.dtype[Any], name: str) -> NDArray[Any]:
    """An array for all slices as they are stored.

    :raises InputError: the header says that there are more voxels than the files can hold, or than memory can.
    """
    shape = (len(stack.slices), *stack.size)
    try:
        stored = sum(path.stat().st_size for path in {each.path for each in stack.slices})
    except OSError as error:
        raise InputError(f"{name}: a file cannot be read ({(error.strerror or 'unknown reason').lower()})") from None
    if float(shape[0]) * shape[1] * shape[2] > MOST_VOXELS_A_BYTE * stored:
        raise InputError(f"{name}: its header says that there are more voxels than its files can hold")
    try:
        return np.empty(shape, dtype=dtype)
    except MemoryError:
        raise InputError(f"{name}: too large for this computer's memory") from None


def _fill(
    array: NDArray[Any], stack: SliceStack, scales: Sequence[tuple[float, float]], places: dict[int, int], name: str
) -> None:
    """HU of one file's slices into ``array``.

    :param places: from the number of a frame in the file, from 0, to the slice of the stack.
    """
    first = stack.slices[next(iter(places.values()))]
    called = first.called if first.frame is None else first.called.rpartition(", ")[0]
    frames = 1 if first.frame is None else int(first.header.get("NumberOfFrames", 1))
    try:
        dataset = read_whole(first.path, _BESIDE_PIXELS_BYTES + frames * stack.size[0] * stack.size[1] * 8)
    except MemoryError:
        raise
    except Exception:  # damaged files make the parser fail in many ways; its words may quote the patient's data
        raise InputError(f"{name}: {called} cannot be read as DICOM (damaged, or cut short)") from None
    # A frame that is no slice of the stack, as a scout view is, has a scale that nobody uses.
    frame_scales = [
        scales[places[frame]] if frame in places else scales[next(iter(places.values()))] for frame in range(frames)
    ]
    for frame, values in enumerate(hounsfield_frames(dataset, first.path, frame_scales, stack.size, name, called)):
        if frame in places:
            array[places[frame]] = values


def _identity(slices: Sequence[StoredSlice]) -> VisitIdentity:
    """Patient id, and the earliest date of the slices with its time."""
    moments = [when for each in slices if (when := moment(each.header))]
    return VisitIdentity(text(slices[0].header, "PatientID") or None, min(moments, default=None))


def _reference(stack: SliceStack, name: str) -> CtReference:
    """The images behind the volume."""
    first = stack.slices[0]
    try:
        header = read_header(first.path)
    except Exception:  # see above
        raise InputError(f"{name}: {first.called} cannot be read as DICOM (damaged, or cut short)") from None
    return CtReference(
        header=header,
        study_uid=text(first.header, "StudyInstanceUID"),
        series_uid=text(first.header, "SeriesInstanceUID"),
        frame_of_reference_uid=text(first.header, "FrameOfReferenceUID"),
        slices=tuple(
            SliceReference(
                text(each.header, "SOPClassUID"),
                text(each.header, "SOPInstanceUID"),
                each.frame,
                (float(each.position[0]), float(each.position[1]), float(each.position[2])),
            )
            for each in stack.slices
        ),
        resampled=bool(stack.repairable),
    )


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{what} ({count})" for what, count in sorted(counter.items()))
