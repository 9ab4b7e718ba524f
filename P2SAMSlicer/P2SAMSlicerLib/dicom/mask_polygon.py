"""From one slice of a mask to closed planar contours that give exactly these voxels back, whoever fills them.

The contours run along the edges of the voxels, never through a centre, so a reader that asks whether a voxel's centre lies
inside cannot be in doubt, and the area is the voxels' own. Each separate part (4-connected) is one contour. A hole is joined
to its surroundings by a keyhole: a channel of no width, drawn along voxel edges. That is what DICOM prescribes for
CLOSED_PLANAR contours (PS3.3, C.8.8.6.3), and it is right under every rule of filling that is in use: even-odd, non-zero
winding, and adding up one contour after the other, as plastimatch does by default, which would fill holes that are contours of
their own.

Where two voxels touch at a corner only, the outline passes this corner twice. There it is cut into two, so that no polygon
crosses or touches itself anywhere but at its keyholes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.volume import BoolArray

#: A corner of voxels ``(x, y)``: the corner of voxel (x, y) that is nearest to voxel (0, 0).
_Corner = tuple[int, int]

#: Directions of edges in index coordinates, each left of the one before: +x, +y, -x, -y.
_STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))


def slice_contours(mask: BoolArray) -> list[NDArray[np.float64]]:
    """The contours of one slice.

    :param mask: ``(y, x)``.
    :returns: one polygon ``(n, 2)`` of index coordinates ``(x, y)`` for each 4-connected part, with its holes as keyholes.
        Voxel centres are whole numbers, so all coordinates end in .5. The first point does not come again at the end.
        Nothing for an empty slice.
    """
    padded = np.pad(np.asarray(mask, dtype=np.bool_), 1)
    loops = [simple for loop in _trace(padded) for simple in _split(loop)]
    outer = [loop for loop in loops if _doubled_area(loop) > 0]
    holes = [loop for loop in loops if _doubled_area(loop) < 0]
    # From left to right: what a hole's channel meets has been joined already.
    owners = {corner: loop for loop in outer for corner in loop}
    for hole in sorted(_from_leftmost(loop) for loop in holes):
        _join(hole, owners, padded)
    # Corner (x, y) of the padded mask lies half a voxel before that voxel, which is voxel (x - 1, y - 1) of the mask.
    return [np.array(_corners_only(loop), dtype=np.float64) - 1.5 for loop in outer]


def _trace(mask: BoolArray) -> list[list[_Corner]]:
    """The outlines of a mask with an empty border: closed walks along voxel edges, unit by unit, with the mask on the left."""
    leaving: dict[_Corner, list[int]] = {}
    # Left of an edge along +x is the side of larger y.
    inside = mask[1:, :] & ~mask[:-1, :]
    _add(leaving, inside, (1, 0), 0)
    inside = mask[:-1, :] & ~mask[1:, :]
    _add(leaving, inside, (1, 1), 2)
    inside = mask[:, :-1] & ~mask[:, 1:]
    _add(leaving, inside, (0, 1), 1)
    inside = mask[:, 1:] & ~mask[:, :-1]
    _add(leaving, inside, (1, 1), 3)
    loops = []
    for start in sorted(leaving, key=lambda corner: (corner[1], corner[0])):
        while leaving[start]:
            loops.append(_walk(leaving, start))
    return loops


def _add(leaving: dict[_Corner, list[int]], edges: BoolArray, offset: tuple[int, int], direction: int) -> None:
    """Add edges of one direction; they begin at the corners ``(y, x)`` that lie by the offset from where there is an edge."""
    for y, x in (np.argwhere(edges) + np.array(offset)).tolist():
        leaving.setdefault((x, y), []).append(direction)


def _walk(leaving: dict[_Corner, list[int]], start: _Corner) -> list[_Corner]:
    """One closed walk; its edges are taken out. Where two ways lead on, it stays with the voxel it comes along."""
    loop: list[_Corner] = []
    here, way = start, leaving[start][0]
    while True:
        leaving[here].remove(way)
        loop.append(here)
        here = (here[0] + _STEPS[way][0], here[1] + _STEPS[way][1])
        if here == start:
            return loop
        left = (way + 1) % 4
        way = left if left in leaving[here] else leaving[here][0]


def _split(loop: list[_Corner]) -> list[list[_Corner]]:
    """The walk in pieces that come to no corner twice."""
    pieces: list[list[_Corner]] = []
    path: list[_Corner] = []
    place: dict[_Corner, int] = {}
    for corner in loop:
        if corner in place:
            first = place[corner]
            pieces.append(path[first:])
            for each in path[first:]:
                del place[each]
            del path[first:]
        place[corner] = len(path)
        path.append(corner)
    return [*pieces, path]


def _doubled_area(loop: list[_Corner]) -> int:
    """Twice the signed area: above 0 around the mask, below 0 around a hole."""
    following = [*loop[1:], loop[0]]
    return sum(a[0] * b[1] - b[0] * a[1] for a, b in zip(loop, following, strict=True))


def _from_leftmost(loop: list[_Corner]) -> list[_Corner]:
    """The same loop, beginning at its leftmost corner, the one of smallest y if there are several."""
    first = loop.index(min(loop))
    return loop[first:] + loop[:first]


def _join(hole: list[_Corner], owners: dict[_Corner, list[_Corner]], mask: BoolArray) -> None:
    """Join a hole to what lies left of it by a channel there and back along voxel edges.

    :param owners: the outline that passes each corner; that of the hole's corners is added.
    """
    x, y = hole[0]
    channel: list[_Corner] = []
    if mask[y - 1, x - 1]:  # else another outline passes this very corner
        channel.append((x, y))
        x -= 1
        # As long as all four voxels around the corner are inside, no other outline passes.
        while mask[y - 1 : y + 1, x - 1 : x + 1].all():
            channel.append((x, y))
            x -= 1
    met = (x, y)
    outline = owners[met]
    place = outline.index(met)
    outline[place:place] = [met, *reversed(channel[1:]), *hole, *channel] if channel else hole
    for corner in hole:
        owners.setdefault(corner, outline)


def _corners_only(loop: list[_Corner]) -> list[_Corner]:
    """The loop without points between two edges of the same direction."""
    kept = []
    for before, here, after in zip([loop[-1], *loop[:-1]], loop, [*loop[1:], loop[0]], strict=True):
        if (here[0] - before[0], here[1] - before[1]) != (after[0] - here[0], after[1] - here[1]):
            kept.append(here)
    return kept
