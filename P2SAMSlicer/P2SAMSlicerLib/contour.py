"""From chosen slices to one 3-D contour on the follow-up's grid, and a clean-up that keeps the prior's topology."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.expected import signed_pixels_mm
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.region import Region
from P2SAMSlicerLib.volume import BoolArray

#: Chosen masks are blended with their neighbours over this distance along the slices (standard deviation), in mm: enough to
#: take out single-slice jumps, too little to move an end.
SLICE_BLEND_MM = 1.5
#: Distances beyond this many mm from a mask's border do not take part in the blending.
BLEND_REACH_MM = 8.0
#: Weight of the expected contour against the chosen one where the border is drawn (0 would follow the model alone). Between
#: the two lies, on average, a better border than either: the model is sharp where there is contrast, the registration
#: where there is none. With the blending along the slices it moves a border by BLEND_LIMIT_MM at most, so growth and
#: shrinkage stay possible.
EXPECTED_WEIGHT = 0.35
BLEND_LIMIT_MM = 2.0
#: A separate piece that the prior did not have is dropped if it is less than this share of the contour, or does not touch the
#: carried contour; one of as many as the prior had, if both hold.
SMALLEST_PIECE = 0.05
#: A cavity of the prior counts (and stays open) from this volume on.
CAVITY_ML = 0.05


@dataclass(frozen=True)
class CleanedContour:
    """A contour after clean-up.

    :param mask: True inside ``(z, y, x)``.
    :param removals: what was taken away or filled, in words with its volume.
    """

    mask: BoolArray
    removals: tuple[str, ...]


def assemble(
    masks: Sequence[BoolArray],
    expected_mm: Sequence[NDArray[np.float32]],
    stays: Sequence[bool],
    indices: Sequence[int],
    region: Region,
    grid: Grid,
) -> BoolArray:
    """Masks on the region of interest as one mask on the slices' grid ``(z, y, x)``.

    :param masks: the chosen one of every slice ``(pixels, pixels)``, empty where the lesion is absent.
    :param expected_mm: signed distance to the expected contour, positive inside, of every slice.
    :param stays: whether a slice's border is not drawn towards the expected contour.
    :param indices: their slice indices, ascending without gaps.
    """
    from scipy import ndimage

    distance = np.stack([signed_pixels_mm(mask, region.pixel_mm, BLEND_REACH_MM) for mask in masks])
    chosen = distance.copy()
    for row, mask in enumerate(masks):
        if not stays[row] and (mask & (expected_mm[row] > 0)).any():
            expected = np.clip(expected_mm[row], -BLEND_REACH_MM, BLEND_REACH_MM)
            pull = EXPECTED_WEIGHT * (expected - distance[row])
            distance[row] += np.clip(pull, -BLEND_LIMIT_MM, BLEND_LIMIT_MM)
    present = np.array([mask.any() for mask in masks], dtype=np.float32)
    # Absent slices do not take part: they would shrink the lesion's ends, the more so the thinner the slices are.
    sigma = SLICE_BLEND_MM / grid.spacing[2]
    weight = ndimage.gaussian_filter1d(present, sigma, mode="constant")
    blended = ndimage.gaussian_filter1d(distance * present[:, None, None], sigma, axis=0, mode="constant")
    smooth = blended / np.maximum(weight, 1e-6)[:, None, None]
    # Neighbours move a border no farther than the expected contour may.
    smooth = np.clip(smooth, chosen - BLEND_LIMIT_MM, chosen + BLEND_LIMIT_MM)
    result = np.zeros(grid.shape, dtype=bool)
    for row, z in enumerate(indices):
        if masks[row].any():  # an absent slice stays absent: blending must not bring the lesion back
            result[z] = region.place(smooth[row], grid, outside=-BLEND_REACH_MM) > 0
    return result


def cavities(mask: BoolArray) -> BoolArray:
    """Background enclosed by a mask: in 3-D, or within slices (a cavity that opens at a lesion's end is still one)."""
    from scipy import ndimage

    enclosed = np.zeros_like(mask)
    if mask.any():
        box = bounding_box(mask)
        inner = mask[box]
        filled = np.stack([ndimage.binary_fill_holes(plane) for plane in inner])
        enclosed[box] = (filled | ndimage.binary_fill_holes(inner)) & ~inner
    return enclosed


def bounding_box(mask: BoolArray, pad: Sequence[int] = (0, 0, 0)) -> tuple[slice, ...]:
    """Slices of the smallest box around a mask that is not empty, ``pad`` voxels wider where the volume allows."""
    box = []
    for axis in range(3):
        found = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        box.append(slice(max(0, int(found[0]) - pad[axis]), int(found[-1]) + 1 + pad[axis]))
    return tuple(box)


def clean(mask: BoolArray, carried: BoolArray, prior_pieces: int, prior_cavity: BoolArray | None, grid: Grid) -> CleanedContour:
    """Drop specks, fill holes that the prior did not have, keep cavities that it had.

    The largest piece always stays.

    :param mask: the assembled contour.
    :param carried: the registered prior contour on the same grid.
    :param prior_pieces: connected pieces of the prior's lesion; as many may stay, see :data:`SMALLEST_PIECE`.
    :param prior_cavity: the prior's cavities carried to the follow-up, or None if it had none.
    """
    from scipy import ndimage

    removals = []
    if prior_cavity is not None:
        # A model fills cavities; the prior says there is one, so it is opened again where it was carried to.
        taken = mask & prior_cavity
        if taken.any():
            mask = mask & ~prior_cavity
            removals.append(f"cavity of the prior kept open: {taken.sum() * grid.voxel_ml:.2f} ml")
    holes = _apart_from(cavities(mask), prior_cavity)
    if holes.any():
        mask = mask | holes
        removals.append(f"holes filled that the prior did not have: {holes.sum() * grid.voxel_ml:.2f} ml")
    pieces, count = ndimage.label(mask)
    if count > 1:
        sizes = np.bincount(pieces.ravel())[1:]
        order = np.argsort(-sizes, kind="stable")
        touching = np.bincount(pieces[carried], minlength=count + 1)[1:] > 0
        large = sizes >= SMALLEST_PIECE * sizes.sum()
        keep = [
            k
            for rank, k in enumerate(order)
            if rank == 0 or (touching[k] and large[k]) or (rank < prior_pieces and (touching[k] or large[k]))
        ]
        dropped = [k for k in range(count) if k not in keep]
        if dropped:
            volume = sizes[dropped].sum() * grid.voxel_ml
            removals.append(f"{len(dropped)} separate piece{'s' if len(dropped) > 1 else ''} removed: {volume:.2f} ml")
            mask = np.isin(pieces, np.asarray(keep) + 1)
    return CleanedContour(mask, tuple(removals))


def _apart_from(holes: BoolArray, cavity: BoolArray | None) -> BoolArray:
    """The holes that do not touch the prior's cavity: it may have grown, and what it grew to belongs to it."""
    from scipy import ndimage

    if cavity is None or not (holes & cavity).any():
        return holes
    labels, _ = ndimage.label(holes, np.ones((3, 3, 3)))
    result: BoolArray = holes & ~np.isin(labels, np.unique(labels[cavity & holes]))
    return result


def separate_lesions(mask: BoolArray, grid: Grid, apart_mm: float) -> Iterator[BoolArray]:
    """The pieces of a segment that lie farther apart than ``apart_mm``; nearer ones share a window and stay together.

    :returns: masks in a fixed order (by their first voxel), together equal to ``mask``; one at a time, because each is as
        large as the volume.
    """
    from scipy import ndimage

    box = bounding_box(mask, [int(np.ceil(apart_mm / s)) for s in grid.spacing_zyx])
    distance = ndimage.distance_transform_edt(~mask[box], grid.spacing_zyx)
    groups, count = ndimage.label(distance <= apart_mm / 2, np.ones((3, 3, 3)))
    del distance
    labels = np.where(mask[box], groups, 0).astype(np.min_scalar_type(count))
    del groups
    found, first = np.unique(labels, return_index=True)
    for k in found[np.argsort(first)]:
        if k:
            lesion = np.zeros_like(mask)
            lesion[box] = labels == k
            yield lesion
