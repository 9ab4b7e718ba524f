"""What is said of a contour: found, flagged and why, too small, or no lesion found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from P2SAMSlicerLib.contour import bounding_box
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.result import Outcome
from P2SAMSlicerLib.volume import BoolArray, Volume

#: Below this share of the registered contour's volume nothing worth the name was found.
GONE_SHARE = 0.03
#: Changes beyond these are possible, but a person has to look: treatment rarely does more between two visits.
MAX_GROWTH_PERCENT = 50.0
MAX_SHRINK_PERCENT = -60.0
MAX_SHIFT_MM = 12.0
#: Share of the segment that may lie outside the follow-up's field of view before the visit is flagged.
MAX_OUTSIDE_SHARE = 0.01
#: Share of the registered contour's slices that may be without a contour before a person has to look; a gap in the middle
#: always is a reason.
MAX_ABSENT_SHARE = 0.3
#: Fat, lung and air lie below this; a contour that holds more of them than the prior's lesion did, by more than this share of
#: its volume, has probably kept what the tumour left.
LOOSE_HU = -30
MAX_LOOSE_GAIN = 0.05
#: Share of the lesion's tissue that may look less like the prior's lesion, beyond what the surroundings changed. On simulated
#: second visits it stays below zero where the lesion is still there.
MAX_LOST_SHARE = 0.05
#: A lesion of one slice that loses more of its volume than this between the follow-up's voxels is hardly the same lesion.
MAX_BETWEEN_SHARE = 0.25
#: Scanners write values below any air where nothing was measured.
PADDING_HU = -1100


@dataclass(frozen=True)
class ContourFigures:
    """Figures of one contour against the registered prior contour.

    :param shift_lps_mm: from the registered contour's centroid to the result's.
    """

    volume_ml: float
    change_percent: float
    shift_lps_mm: tuple[float, float, float]


@dataclass(frozen=True)
class Piece:
    """One separate lesion of a segment.

    :param mask: what was found ``(z, y, x)``.
    :param registered: the registered prior contour.
    :param too_small: the model was not asked, because the lesion shows no shape at its resolution.
    :param thin: the lesion lies between the follow-up's voxel centres; ``registered`` marks the voxels that it touches.
    :param outside_share: share of it that was carried outside the follow-up's field of view.
    :param between_share: share of a lesion of one slice that falls between the follow-up's voxels.
    :param limits: limits of the search that the contour reaches, in words.
    :param loose_shares: :func:`loose_share` of the prior's lesion and of what was found; None where the follow-up's values are
        no HU, or nothing was found.
    :param lost_share: see :func:`P2SAMSlicerLib.lost_tissue.lost_share`; None where it could not be judged.
    """

    mask: BoolArray
    registered: BoolArray
    too_small: bool = False
    thin: bool = False
    outside_share: float = 0.0
    between_share: float = 0.0
    limits: tuple[str, ...] = ()
    loose_shares: tuple[float, float] | None = None
    lost_share: float | None = None

    def cropped(self) -> Piece:
        """The same piece without the volume around its masks, which need not be kept for every lesion."""
        both = self.mask | self.registered
        box = bounding_box(both) if both.any() else (slice(0, 1),) * 3
        return replace(self, mask=self.mask[box].copy(), registered=self.registered[box].copy())

    def reasons(self) -> list[str]:
        """What a person has to know of this piece; empty if nothing."""
        if self.thin:
            return ["it is thinner than the follow-up's voxels; the registered prior contour marks the voxels that it touches"]
        if not self.registered.any():
            return ["its registered prior contour lies outside the follow-up's field of view"]
        if self.too_small:
            return ["it covers too few feature cells for the model to see its shape"]
        if self.mask.sum() < GONE_SHARE * self.registered.sum():
            return ["nothing at the registered place looks like the prior's lesion"]
        found = []
        if self.outside_share > MAX_OUTSIDE_SHARE:
            found.append(f"{100 * self.outside_share:.0f} % of it lies outside the follow-up's field of view")
        if self.between_share > MAX_BETWEEN_SHARE:
            found.append(f"{100 * self.between_share:.0f} % of it falls between the follow-up's voxels")
        drawn, registered = (np.asarray(m.any(axis=(1, 2))) for m in (self.mask, self.registered))
        absent = int((registered & ~drawn).sum())
        inside = np.flatnonzero(drawn)
        gap = not drawn[inside[0] : inside[-1] + 1].all() and bool(registered[inside[0] : inside[-1] + 1].all())
        if gap or absent > MAX_ABSENT_SHARE * registered.sum():
            found.append(f"no lesion on {absent} of the {int(registered.sum())} slices of the registered contour")
        return [*found, *self.limits, *self._tissue_reasons()]

    def _tissue_reasons(self) -> list[str]:
        found = []
        if self.loose_shares is not None and self.loose_shares[1] > self.loose_shares[0] + MAX_LOOSE_GAIN:
            before, now = (100 * share for share in self.loose_shares)
            found.append(f"{now:.0f} % of the contour is fat, lung or air, against {before:.0f} % in the prior's lesion")
        if self.lost_share is not None and self.lost_share > MAX_LOST_SHARE:
            found.append(_lost_reason(self.lost_share))
        return found


def _lost_reason(share: float) -> str:
    return (
        f"{100 * share:.0f} % of it no longer looks like the prior's lesion, beyond what the surroundings changed (limit"
        f" {100 * MAX_LOST_SHARE:.0f} %): it may have shrunk, vanished or darkened"
    )


def figures(mask: BoolArray, registered: BoolArray, prior_ml: float, grid: Grid) -> ContourFigures:
    """Volume, change against the prior's volume, and centroid shift. Both masks are not empty."""
    volume = float(mask.sum()) * grid.voxel_ml
    centres = [grid.to_physical(np.argwhere(m)[:, ::-1].mean(axis=0, keepdims=True))[0] for m in (mask, registered)]
    shift = centres[0] - centres[1]
    return ContourFigures(volume, 100.0 * (volume / prior_ml - 1.0), (float(shift[0]), float(shift[1]), float(shift[2])))


def loose_share(volume: Volume, mask: BoolArray) -> float:
    """Share of a contour that is fat, lung or air; 0 for an empty one. Both lie on the same grid."""
    values = volume.array[mask]
    return float((values < LOOSE_HU).mean()) if values.size else 0.0


def decide(
    mask: BoolArray,
    registered: BoolArray,
    found: ContourFigures | None,
    pieces: Sequence[Piece],
    visit_reasons: tuple[str, ...],
    followup: Volume,
    lost_together: float | None = None,
) -> tuple[Outcome, tuple[str, ...]]:
    """Outcome and reasons of one segment.

    :param found: None if the mask is empty.
    :param pieces: the segment's separate lesions, at least one.
    :param visit_reasons: why the whole visit is doubtful (registration, modality, overrides).
    :param followup: on the masks' grid.
    :param lost_together: :func:`P2SAMSlicerLib.lost_tissue.lost_share` of those lesions together that are too small for it one
        by one; None where it could not be judged.
    """
    of_pieces = []
    for number, piece in enumerate(pieces, start=1):
        prefix = f"lesion {number} of {len(pieces)}: " if len(pieces) > 1 else "lesion: "
        of_pieces += [prefix + text for text in piece.reasons()]
    reasons = [*visit_reasons, *of_pieces]
    if all(piece.too_small or piece.thin for piece in pieces):
        return Outcome.TOO_SMALL, tuple(reasons)
    if found is None or mask.sum() < GONE_SHARE * registered.sum():
        return Outcome.NO_LESION, tuple(reasons)
    if found.change_percent > MAX_GROWTH_PERCENT or found.change_percent < MAX_SHRINK_PERCENT:
        reasons.append(f"volume changes by {found.change_percent:+.0f} %")
    shift = float(np.linalg.norm(found.shift_lps_mm))
    if shift > MAX_SHIFT_MM:
        reasons.append(f"centroid lies {shift:.0f} mm from the registered contour's")
    if lost_together is not None and lost_together > MAX_LOST_SHARE:
        reasons.append(f"small lesions together: {_lost_reason(lost_together)}")
    if _at_edge(mask, followup):
        reasons.append("the contour touches the edge of the follow-up's field of view")
    return (Outcome.FLAGGED if reasons else Outcome.FOUND), tuple(reasons)


def registration_only(pieces: Sequence[Piece], visit_reasons: tuple[str, ...]) -> tuple[Outcome, tuple[str, ...]]:
    """Outcome and reasons of a structure that no model was asked for.

    :param pieces: the structure as one piece; only its registered contour counts.
    """
    reasons = list(visit_reasons)
    for piece in pieces:
        if not piece.registered.any():
            reasons.append("its registered prior contour lies outside the follow-up's field of view")
        elif piece.outside_share > MAX_OUTSIDE_SHARE:
            reasons.append(f"{100 * piece.outside_share:.0f} % of it lies outside the follow-up's field of view")
    return Outcome.REGISTRATION_ONLY, tuple(reasons)


def _at_edge(mask: BoolArray, followup: Volume) -> bool:
    """Whether the contour reaches the volume's edge, or voxels that were never measured (padding)."""
    from scipy import ndimage

    for axis in range(3):
        ends = np.take(mask, [0, -1], axis=axis)
        if ends.any():
            return True
    rim = ndimage.binary_dilation(mask) & ~mask
    padding = followup.array < PADDING_HU
    return bool((rim & padding).sum() > 0.2 * rim.sum())
