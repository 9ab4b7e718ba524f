"""Slices ordered by where they lie, and every doubt about the geometry of their stack said in words.

Readers commonly average the slice spacing, or order slices by name or number, and so shift tissue without a word. Here a
stack that is not evenly spaced and straight is refused, with the slices that show it. What has all its tissue and only lies
on another grid (a gantry tilt, an uneven spacing) can be brought to a straight, even one, when the caller asks for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.dicom.header import number
from P2SAMSlicerLib.dicom.plane_axes import plane_axes
from P2SAMSlicerLib.dicom.stored_slice import StoredSlice, called
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.geometry import ORTHONORMAL_TOLERANCE, Grid

#: A slice may lie this far (mm) from its place on an even grid: rounded positions do, and no contour notices.
SPACING_TOLERANCE_MM = 0.05

#: A distance beyond this multiple of the usual one is a gap, not unevenness ...
GAP_RATIO = 1.5
#: ... unless the distances form blocks, each of at least this many equal distances, as where a scan goes on with thicker
#: slices; and no distance is more than this multiple of the smallest.
BLOCK_LENGTH = 3
BLOCK_RATIO = 4.5

#: A stack may lean sideways by this much (mm) over its whole length, as directions are rounded ...
LEAN_TOLERANCE_MM = 0.5
#: ... unless it leans by more than this angle (degrees) and by more than ``SPACING_TOLERANCE_MM``.
LEAN_TOLERANCE_DEGREES = 0.5
#: No gantry tilts farther than this.
MOST_TILT_DEGREES = 45.0

#: More than the largest CT has ten times over; a damaged header may ask for any number.
MOST_VOXELS = 2**33

EXPORT_ADVICE = "export the series again, whole and with nothing but its own slices"
RESAMPLING_ADVICE = "to bring them to a straight, even grid, see: p2sam dicom convert --resample"


@dataclass(frozen=True)
class SliceStack:
    """Slices in the order of their positions.

    :param slices: along the normal, row direction x column direction.
    :param axes: LPS unit vectors of x, y and z as the columns of a matrix.
    :param pixel_mm: distance of voxel centres along x and y.
    :param size: rows and columns.
    :param along: mm of each slice along the normal, from the first.
    :param sideways: mm of each slice along x and y, ``(n, 2)``, from the first; exactly zero for a straight stack.
    :param repairable: what keeps it from being even and straight though all its tissue is there, in words.
    """

    slices: tuple[StoredSlice, ...]
    axes: NDArray[np.float64]
    pixel_mm: tuple[float, float]
    size: tuple[int, int]
    along: NDArray[np.float64]
    sideways: NDArray[np.float64]
    repairable: tuple[str, ...] = ()

    def grid(self) -> Grid:
        """The grid of an even, straight stack."""
        origin = self.slices[0].position
        return Grid(
            shape=(len(self.slices), *self.size),
            spacing=(*self.pixel_mm, float(self.along[-1]) / (len(self.slices) - 1)),
            origin=(float(origin[0]), float(origin[1]), float(origin[2])),
            direction=tuple(float(value) for value in self.axes.ravel()),
        )


def stack_slices(slices: Sequence[StoredSlice], name: str, notes: list[str], *, resample: bool = False) -> SliceStack:
    """The slices as one stack.

    :param name: the series, for messages.
    :param notes: gets remarks on a geometry that can be used but should be known.
    :param resample: take a stack that has to be resampled.
    :raises InputError: they are not one even, straight stack, nor one that can be resampled where that was asked for; the
        message lists every fault.
    """
    for each in slices:
        each.position = each.floats("ImagePositionPatient", 3, name)
    orientation = _common(
        slices, lambda s: s.floats("ImageOrientationPatient", 6, name), ORTHONORMAL_TOLERANCE, "orientation", name
    )
    pixel = _common(slices, lambda s: s.floats("PixelSpacing", 2, name), 1e-4, "pixel spacing", name)
    size = _common(
        slices, lambda s: np.array([number(s.header, tag) or 0 for tag in ("Rows", "Columns")], float), 0, "size", name
    )
    if not (size >= 1).all() or len(slices) * size.prod() > MOST_VOXELS:
        raise InputError(f"{name}: {len(slices)} slices of {size[0]:.0f} x {size[1]:.0f} pixels are no CT")
    axes = plane_axes(orientation, f"{name}: the rows and columns of the slices")
    normal = axes[:, 2]
    ordered = sorted(slices, key=lambda s: float(s.position @ normal))
    hopeless, repairable = _position_faults(ordered, normal)
    if hopeless or (repairable and not resample):
        advice = [EXPORT_ADVICE] if hopeless else [RESAMPLING_ADVICE]
        raise InputError(f"{name}: {'; '.join([*hopeless, *repairable, *advice])}")
    offsets = np.array([each.position for each in ordered]) - ordered[0].position
    stack = SliceStack(
        slices=tuple(ordered),
        axes=axes,
        # DICOM gives the distance of rows (along y) first.
        pixel_mm=(float(pixel[1]), float(pixel[0])),
        size=(int(size[0]), int(size[1])),
        along=offsets @ normal,
        sideways=offsets @ axes[:, :2] if repairable else np.zeros((len(ordered), 2)),
        repairable=tuple(repairable),
    )
    _note_geometry(stack, notes)
    return stack


def _common(
    slices: Sequence[StoredSlice], get: Callable[[StoredSlice], NDArray[np.float64]], tolerance: float, what: str, name: str
) -> NDArray[np.float64]:
    """The value that all slices share.

    :raises InputError: they do not; those that differ from the most frequent value are named.
    """
    values = [get(each) for each in slices]
    keys = [tuple(np.round(value, 3)) for value in values]
    usual = values[keys.index(Counter(keys).most_common(1)[0][0])]
    odd = [each for each, value in zip(slices, values, strict=True) if np.abs(value - usual).max() > tolerance]
    if odd:
        raise InputError(f"{name}: {len(odd)} of {len(slices)} slices have another {what} than the others ({called(odd)})")
    return usual


def _position_faults(slices: Sequence[StoredSlice], normal: NDArray[np.float64]) -> tuple[list[str], list[str]]:
    """What keeps sorted slices from being one even, straight stack, in words: what cannot be helped, and what resampling
    can; each item names slices and positions."""
    positions = np.array([each.position for each in slices])
    along = positions @ normal
    gaps = np.diff(along)
    hopeless: list[str] = []
    repairable: list[str] = []
    doubled = np.flatnonzero(gaps <= SPACING_TOLERANCE_MM)
    if doubled.size:
        hopeless.append(f"slices at the same position: {_pairs(slices, doubled, normal)} (several phases or reconstructions?)")
    apart = gaps[gaps > SPACING_TOLERANCE_MM]
    if apart.size:
        # The lower median: where one of two distances is a gap, the other one is the usual.
        usual = float(np.quantile(apart, 0.5, method="lower"))
        missing = np.flatnonzero(gaps > GAP_RATIO * usual)
        even = along[0] + np.arange(len(along)) * (along[-1] - along[0]) / (len(along) - 1)
        if missing.size and not _in_blocks(gaps):
            hopeless.append(f"slices are missing, as the usual distance is {usual:.4g} mm: {_pairs(slices, missing, normal)}")
        elif not doubled.size and np.abs(along - even).max() > SPACING_TOLERANCE_MM:
            uneven = np.flatnonzero(np.abs(gaps - usual) > SPACING_TOLERANCE_MM)
            shown = uneven if uneven.size else np.array([int(np.abs(along - even).argmax()) - 1])
            kind = repairable if apart.min() * BLOCK_RATIO >= usual else hopeless
            kind.append(f"the slices are not evenly spaced (usually {usual:.4g} mm): {_pairs(slices, shown, normal)}")
        leaning, beside = _lean_faults(slices, positions - along[:, None] * normal, along)
        repairable += leaning
        hopeless += beside
    return hopeless, repairable


def _in_blocks(gaps: NDArray[np.float64]) -> bool:
    """Whether the distances are a few runs of equal ones, long enough that none is a single lost slice."""
    if gaps.min() <= SPACING_TOLERANCE_MM or gaps.max() > BLOCK_RATIO * gaps.min():
        return False
    starts = np.flatnonzero(np.abs(np.diff(gaps)) > SPACING_TOLERANCE_MM) + 1
    lengths = np.diff([0, *starts, len(gaps)])
    return bool(lengths.min() >= BLOCK_LENGTH)


def _lean_faults(
    slices: Sequence[StoredSlice], sideways: NDArray[np.float64], along: NDArray[np.float64]
) -> tuple[list[str], list[str]]:
    """Whether the stack leans (gantry tilt), and whether single slices lie beside it."""
    lean = sideways[-1] - sideways[0]
    length = float(along[-1] - along[0])
    lean_mm = float(np.linalg.norm(lean))
    degrees = float(np.degrees(np.arctan2(lean_mm, length)))
    straight = sideways[0] + np.outer((along - along[0]) / length, lean)
    off = np.linalg.norm(sideways - straight, axis=1)
    strays = [each for each, distance in zip(slices, off, strict=True) if distance > LEAN_TOLERANCE_MM]
    beside = [f"slices lie beside the stack: {called(strays)}"] if strays else []
    if lean_mm > LEAN_TOLERANCE_MM or (degrees > LEAN_TOLERANCE_DEGREES and lean_mm > SPACING_TOLERANCE_MM):
        ends = f"{slices[0].called} to {slices[-1].called}"
        tilt = [f"the slices are stacked at {degrees:.1f} degrees to their normal (gantry tilt; {ends})"]
        return (tilt, beside) if degrees <= MOST_TILT_DEGREES else ([], tilt + beside)
    return [], beside


def _note_geometry(stack: SliceStack, notes: list[str]) -> None:
    """Remark on a geometry that can be used but should be known."""
    step = float(np.diff(stack.along).max())
    first = stack.slices[0].header
    thickness = number(first, "SliceThickness")
    if thickness is not None and 0 < thickness < step - max(SPACING_TOLERANCE_MM, 0.1 * step):
        notes.append(
            f"the slices are {step:.4g} mm apart but only {thickness:.4g} mm thick: tissue between them was not imaged"
        )
    if stack.repairable:
        return
    step = float(stack.along[-1]) / (len(stack.slices) - 1)
    stated = number(first, "SpacingBetweenSlices")
    if stated is not None and abs(abs(stated) - step) > 0.1 * step:
        notes.append(
            f"the header states {abs(stated):.4g} mm between slices, their positions say {step:.4g} mm; the positions were used"
        )
    tilt = number(first, "GantryDetectorTilt")
    if tilt is not None and abs(tilt) > LEAN_TOLERANCE_DEGREES:
        notes.append(
            f"the header states a gantry tilt of {tilt:.4g} degrees, but the slices form a straight stack; taken as corrected"
        )


def _pairs(slices: Sequence[StoredSlice], places: NDArray[Any], normal: NDArray[np.float64], most: int = 4) -> str:
    """Neighbours in words: slice numbers, files, positions on the patient axis nearest the normal, and distances."""
    axis = int(np.abs(normal).argmax())
    texts = []
    for i in places[:most]:
        a, b = slices[i], slices[i + 1]
        distance = float((b.position - a.position) @ normal)
        texts.append(
            f"slices {i + 1} and {i + 2} ({a.called} at {a.position[axis]:.2f} mm, {b.called} at "
            f"{b.position[axis]:.2f} mm) are {distance:.4g} mm apart"
        )
    more = f" and {len(places) - most} more" if len(places) > most else ""
    return ", ".join(texts) + more
