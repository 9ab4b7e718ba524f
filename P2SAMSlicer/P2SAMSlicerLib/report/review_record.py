"""What a person decided on one contour, and how far the contour was changed by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.metrics import surface_distances, volume_ml, volumetric_dice
from P2SAMSlicerLib.volume import BoolArray

#: What a reviewer may say, and what holds while nobody said anything, or of a contour that was changed after it was decided on.
ACCEPTED, REJECTED, FLAGGED, UNREVIEWED = "accepted", "rejected", "flagged", "unreviewed"
DECISIONS = (ACCEPTED, REJECTED, FLAGGED, UNREVIEWED)

#: What each figure of a record means.
REVIEW_DEFINITIONS = {
    "decision": "accepted, rejected or flagged by the reviewer; unreviewed without a decision, or if the contour was changed"
    " after it; only an accepted contour counts as reviewed",
    "reviewer": "name or initials, as the reviewer entered them",
    "time": "of the decision, ISO 8601, UTC",
    "volume_before_ml": "volume of the contour as the tool drew it, voxels times voxel volume; null if that is not known",
    "volume_after_ml": "volume of the contour on which the reviewer decided",
    "dice": "3-D Dice of the two: twice the common voxels over the sum of both; 1 if nothing was changed",
    "mean_surface_mm": "mean distance from each surface voxel of both contours to the other's surface, mm, voxel centres;"
    " null if one is empty",
    "hd95_mm": "larger of the two directed 95th percentiles of these distances, mm; null if one is empty",
    "edited": "whether the contour is another than the tool drew",
}


@dataclass(frozen=True)
class SurfaceChange:
    """How far a contour was changed; distances are None where one of the two is empty."""

    volume_before_ml: float
    volume_after_ml: float
    dice: float
    mean_surface_mm: float | None
    hd95_mm: float | None


@dataclass(frozen=True)
class ReviewRecord:
    """The review of one contour; :data:`REVIEW_DEFINITIONS` says what each field means.

    :param segment: name of the prior's segment that was carried.
    :param decision: one of :data:`DECISIONS`.
    :param volume_before_ml: and all figures after it: None where it is not known.
    """

    segment: str
    decision: str = UNREVIEWED
    reviewer: str = ""
    time: str = ""
    volume_before_ml: float | None = None
    volume_after_ml: float | None = None
    dice: float | None = None
    mean_surface_mm: float | None = None
    hd95_mm: float | None = None
    edited: bool = False

    def __post_init__(self) -> None:
        if self.decision not in DECISIONS:
            raise InputError(f"review of '{self.segment}': '{self.decision}' is none of {', '.join(DECISIONS)}")
        if self.decision != UNREVIEWED and not self.reviewer.strip():
            raise InputError(f"review of '{self.segment}': {self.decision}, but nobody's name stands there")

    @property
    def accepted(self) -> bool:
        """A person accepted this very contour: the only state that is not called unreviewed."""
        return self.decision == ACCEPTED

    def as_dict(self) -> dict[str, Any]:
        """Plain values for strict JSON; a figure that is not finite becomes None."""
        values = asdict(self)
        return {name: None if isinstance(each, float) and not math.isfinite(each) else each for name, each in values.items()}

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> ReviewRecord:
        """The record that :meth:`as_dict` made plain; fields of a newer version are left out.

        :raises InputError: a field is not what it should be.
        """
        try:
            known = {each.name: entry[each.name] for each in fields(cls) if each.name in entry}
            for name in ("segment", "decision", "reviewer", "time"):
                known[name] = _text(known.get(name, ""))
            for name in ("volume_before_ml", "volume_after_ml", "dice", "mean_surface_mm", "hd95_mm"):
                known[name] = _number(known.get(name))
            if not isinstance(known.setdefault("edited", False), bool):
                raise TypeError("edited")
            known["decision"] = known["decision"] or UNREVIEWED
            return cls(**known)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError("the record of a review cannot be read (damaged)") from error


def surface_change(before: BoolArray, after: BoolArray, grid: Grid) -> SurfaceChange:
    """How far a contour was changed, by the figures of :mod:`P2SAMSlicerLib.metrics`.

    :param before: as the tool drew it, ``(z, y, x)`` on ``grid``.
    :param after: as the person left it.
    :raises InputError: a mask is not boolean or not on the grid.
    """
    distances = surface_distances(after, before, grid)
    return SurfaceChange(
        volume_before_ml=volume_ml(before, grid),
        volume_after_ml=volume_ml(after, grid),
        dice=volumetric_dice(after, before),
        mean_surface_mm=_finite(distances.mean_mm()),
        hd95_mm=_finite(distances.percentile_mm(95)),
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("text")
    return value


def _number(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise TypeError("number")
    return float(value)
