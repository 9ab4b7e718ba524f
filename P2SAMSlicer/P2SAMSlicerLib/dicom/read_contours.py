"""Contours from whatever holds them: RTSTRUCT, DICOM SEG, 3D Slicer's ``.seg.nrrd`` or a label map, told by content."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from P2SAMSlicerLib.dicom.bounded_read import (
    LABEL_MAP_CLASS,
    SEGMENTATION_CLASS,
    STRUCTURE_SET_CLASS,
    class_of,
    looks_like_dicom,
)
from P2SAMSlicerLib.dicom.ct_reference import CtReference
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.resample import segments_on_grid
from P2SAMSlicerLib.result_files import is_comparison
from P2SAMSlicerLib.segmentation_file import read_segmentation
from P2SAMSlicerLib.volume import Segment, Segmentation, Volume

#: Masks of one file in memory.
MOST_MASK_BYTES = 4_000_000_000

#: Files of a folder that are looked at in search of contours.
MOST_FILES = 20_000

CONTOUR_CLASSES = (STRUCTURE_SET_CLASS, SEGMENTATION_CLASS, LABEL_MAP_CLASS)


@dataclass(frozen=True)
class ReadContours:
    """Contours from a DICOM object.

    :param segmentation: without empty structures.
    :param warnings: what was left out, assumed or done, in words, each with the object that it is about.
    """

    segmentation: Segmentation
    warnings: tuple[str, ...]


def segments_from(
    path: Path | str, volume: Volume, reference: CtReference | None = None, names: Sequence[str] = ()
) -> tuple[list[Segment], list[str]]:
    """The structures to carry, on the CT's grid, from a file of any kind that holds contours.

    :param path: RTSTRUCT, DICOM SEG, ``.seg.nrrd`` or a label map, told by content; or a folder that holds (itself or in those
        below it) exactly one RTSTRUCT or DICOM SEG.
    :param volume: the CT on which they were drawn.
    :param reference: the CT's images, to which an RTSTRUCT or SEG must belong; None where the CT is not DICOM.
    :param names: only these, in this order; all if empty, but those that an earlier run added for comparison only.
    :returns: segments with masks on the volume's grid, none empty; and warnings in words.
    :raises InputError: unreadable, another kind of file, another patient's or frame of reference, no structure of a given
        name, or one that is empty, mostly outside of the CT or too small for its voxels.
    """
    path = Path(path)
    names = list(dict.fromkeys(names))
    kind, file = contour_file(path)
    if kind == STRUCTURE_SET_CLASS:
        from P2SAMSlicerLib.dicom.structure_set_reader import read_structure_set

        drawn = read_structure_set(file, volume.grid, reference, names)
        return list(drawn.segmentation.segments), list(drawn.warnings)
    if kind:
        from P2SAMSlicerLib.dicom.seg_reader import read_dicom_seg

        read = read_dicom_seg(file, names, reference=reference)
        segmentation, told = read.segmentation, list(read.warnings)
    else:
        segmentation, told = read_segmentation(file, names), []
    segments, warnings = carried_segments(segmentation, names, volume.grid)
    return segments, [*told, *warnings]


def carried_segments(segmentation: Segmentation, names: Sequence[str], grid: Grid) -> tuple[list[Segment], list[str]]:
    """Segments of these names on a grid; without names all but those for comparison only.

    :raises InputError: see :func:`~P2SAMSlicerLib.resample.segments_on_grid`.
    """
    chosen = list(dict.fromkeys(names))
    warnings = []
    if not chosen:
        chosen = [segment.name for segment in segmentation.segments if not is_comparison(segment)]
        left_out = len(segmentation.segments) - len(chosen)
        if left_out and chosen:
            warnings.append(f"{segmentation.name}: not carried, because for comparison only: {left_out} of the segments")
    segments, more = segments_on_grid(segmentation, chosen or None, grid)
    return segments, warnings + more


def is_structure_set(path: Path) -> bool:
    """Whether these contours are an RTSTRUCT, which has no voxels of its own.

    :raises InputError: see :func:`contour_file`.
    """
    return contour_file(path)[0] == STRUCTURE_SET_CLASS


def read_on_own_grid(path: Path, names: Sequence[str] = ()) -> ReadContours:
    """Contours of any kind but RTSTRUCT, on the grid on which they lie.

    :raises InputError: an RTSTRUCT, or see :func:`segments_from`.
    """
    kind, file = contour_file(path)
    if kind == STRUCTURE_SET_CLASS:
        raise InputError("structure set: it has no voxels of its own; the CT on which it was drawn is needed")
    if kind:
        from P2SAMSlicerLib.dicom.seg_reader import read_dicom_seg

        return read_dicom_seg(file, names)
    return ReadContours(read_segmentation(file, names), ())


def read_on_grid(path: Path, grid: Grid, names: Sequence[str] = ()) -> ReadContours:
    """The contours of an RTSTRUCT on a grid.

    :raises InputError: see :func:`~P2SAMSlicerLib.dicom.structure_set_reader.read_structure_set`.
    """
    from P2SAMSlicerLib.dicom.structure_set_reader import read_structure_set

    return read_structure_set(contour_file(path)[1], grid, None, names)


def contour_file(path: Path) -> tuple[str, Path]:
    """SOP class of the contours' file, or an empty text if it is not DICOM; and the file.

    :param path: a file, or a folder with exactly one RTSTRUCT or SEG.
    :raises InputError: missing, a DICOM object without contours, or a folder with none or several.
    """
    if path.is_dir():
        return _only_one(path)
    try:
        if not looks_like_dicom(path):
            return "", path
    except FileNotFoundError:
        raise InputError(f"{path.name}: no such file or folder") from None
    except OSError as error:
        raise InputError(f"{path.name}: cannot be opened ({(error.strerror or 'unknown reason').lower()})") from error
    kind = class_of(path, "DICOM file with contours")
    if kind not in CONTOUR_CLASSES:
        raise InputError("DICOM file with contours: a DICOM object of another kind; an RTSTRUCT or SEG is needed")
    return kind, path


def _only_one(folder: Path) -> tuple[str, Path]:
    """The one RTSTRUCT or SEG in a folder and those below it; links to other folders are not followed."""
    found: list[tuple[str, Path]] = []
    count = 0
    for where, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            count += 1
            if count > MOST_FILES:
                raise InputError(f"folder with contours: more than {MOST_FILES} files; give the RTSTRUCT or SEG itself")
            file = Path(where) / name
            try:
                if file.is_file() and looks_like_dicom(file) and (kind := class_of(file, "DICOM file")) in CONTOUR_CLASSES:
                    found.append((kind, file))
            except (InputError, OSError):
                continue  # damaged: whether it is the one that is sought cannot be told
    if len(found) != 1:
        held = f"{len(found)} objects with contours; give the one to use" if found else "no RTSTRUCT and no DICOM SEG"
        raise InputError(f"folder with contours: holds {held}")
    return found[0]


def check_memory(structures: int, grid: Grid, what: str) -> None:
    """Refuse more masks than fit into memory.

    :raises InputError: says what to do instead.
    """
    size = structures * float(grid.shape[0]) * grid.shape[1] * grid.shape[2]
    if size > MOST_MASK_BYTES:
        raise InputError(
            f"{what}: its {structures} structures would take {size / 1e9:.1f} GB on this CT; name those to carry (--segment)"
        )


def unknown_name(what: str, name: str, there: Sequence[str], most: int = 40) -> InputError:
    """The error that a structure is not there, with those that are."""
    more = f" and {len(there) - most} more" if len(there) > most else ""
    return InputError(f"{what}: no structure named '{name}'; it has: {', '.join(there[:most]) or 'none'}{more}")


def unique_names(names: Sequence[str], what: str) -> tuple[list[str], list[str]]:
    """Names of which no two are the same: the second of a name gets a number; and warnings that say so."""
    taken = set(names)
    seen: Counter[str] = Counter()
    called, warnings = [], []
    for name in names:
        seen[name] += 1
        new, number = name, seen[name]
        while number > 1 and new in taken:
            new = f"{name} ({number})"
            number += 1
        if new != name:
            taken.add(new)
            warnings.append(f"{what}: two structures are named '{name}'; the later one is called '{new}' here")
        called.append(new)
    return called, warnings
