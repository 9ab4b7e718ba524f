"""One result out of what several reference visits say of the same follow-up.

Each structure's contours are combined as the weighted mean of their signed distances in mm, cut off at
:data:`BAND_MM` and positive inside: a voxel belongs to the combined contour where the mean is at least 0. A reference weighs as
much as the grey values around the lesion correlate after its registration, at least :data:`LEAST_WEIGHT`.

What is said of the combined contour is the worst that any reference gives reason for:

* a contour is given if more than half of the references give one; it is *found* only if all of them found it, none objected,
  and they agree; else it is *flagged*, with each reference's reasons;
* else the worst of the outcomes without a contour is taken (no lesion found, then too small, then registration only), and
  there is only the registered prior contour, combined likewise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib import review
from P2SAMSlicerLib.contour import bounding_box
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.metrics import hd95_mm, volumetric_dice
from P2SAMSlicerLib.outcome import figures
from P2SAMSlicerLib.registration import signed_distance
from P2SAMSlicerLib.result import Outcome, SegmentResult, SliceResult, VisitResult
from P2SAMSlicerLib.volume import BoolArray

#: Farther from a border than this, a contour's distance says no more: one that is far off must not outweigh the others.
BAND_MM = 20.0
#: Weight of a reference whose registration cannot be judged, or fits nothing.
LEAST_WEIGHT = 0.05
#: References that agree less than this give a person reason to look; two physicians' contours of a tumour agree about as much.
LEAST_DICE = 0.7
MOST_HD95_MM = 10.0

#: Outcomes without a contour, the worst first.
_WITHOUT_CONTOUR = (Outcome.NO_LESION, Outcome.TOO_SMALL, Outcome.REGISTRATION_ONLY)


@dataclass(frozen=True)
class CarriedReference:
    """What came of one reference.

    :param label: of the reference visit.
    :param result: every result of one follow-up has the same grid.
    """

    label: str
    result: VisitResult


@dataclass(frozen=True)
class Agreement:
    """How far the references agree on one structure.

    :param references: labels of the visits that it was carried from.
    :param outcomes: of each of them.
    :param weights: of each of them; they add up to 1.
    :param contours: how many of them gave a contour; these are compared, or else the registered prior contours.
    :param mean_dice: mean volumetric Dice of all pairs; None for fewer than two contours.
    :param mean_hd95_mm: mean 95 % Hausdorff distance of all pairs; None likewise.
    """

    references: tuple[str, ...]
    outcomes: tuple[str, ...]
    weights: tuple[float, ...]
    contours: int
    mean_dice: float | None
    mean_hd95_mm: float | None

    def reasons(self) -> list[str]:
        """Why a person has to look; empty if nothing speaks for it."""
        if self.mean_dice is None or self.mean_hd95_mm is None:
            return []
        if self.mean_dice >= LEAST_DICE and self.mean_hd95_mm <= MOST_HD95_MM:
            return []
        return [
            f"its contours from {len(self.references)} references agree little (mean Dice {self.mean_dice:.2f}, limit"
            f" {LEAST_DICE:g}; mean HD95 {self.mean_hd95_mm:.1f} mm, limit {MOST_HD95_MM:g} mm)"
        ]


def combine_references(parts: Sequence[CarriedReference]) -> tuple[VisitResult, dict[str, Agreement]]:
    """One result out of several references' results on the same follow-up.

    :param parts: the oldest reference first, at least one; a structure need not be in each. Volumes and changes are told
        against the oldest that has it.
    :returns: the result, and for each structure that several references have how far they agree.
    """
    if len(parts) == 1:
        return parts[0].result, {}
    grid = parts[0].result.grid
    by_name: dict[str, list[tuple[str, SegmentResult]]] = {}
    for part in parts:
        for segment in part.result.segments:
            by_name.setdefault(segment.source.name, []).append((part.label, segment))
    agreements: dict[str, Agreement] = {}
    segments = []
    for name, found in by_name.items():
        if len(found) == 1:
            segments.append(found[0][1])
            continue
        combined, agreements[name] = _combined([label for label, _ in found], [each for _, each in found], grid)
        segments.append(combined)
    return _visit(parts, segments, combined=bool(agreements)), agreements


def _combined(labels: Sequence[str], found: Sequence[SegmentResult], grid: Grid) -> tuple[SegmentResult, Agreement]:
    """One structure out of several references' results."""
    weights = _weights(found)
    contours = [(each.mask, weight) for each, weight in zip(found, weights, strict=True) if each.mask is not None]
    registered = [(each.registered_mask, w) for each, w in zip(found, weights, strict=True) if each.registered_mask.any()]
    agreement = _agreement(labels, found, weights, contours or registered, len(contours), grid)
    reasons = [*_shared_reasons(labels, found), *agreement.reasons()]
    registered_mask = mean_contour(registered, grid)
    mask = mean_contour(contours, grid) if 2 * len(contours) > len(found) else None
    if contours and mask is None:
        reasons.append(f"only {len(contours)} of {len(found)} references give a contour")
    elif mask is not None and len(contours) < len(found):
        reasons.append(f"{len(found) - len(contours)} of {len(found)} references give no contour")
    if mask is not None and not mask.any():
        mask = None
        reasons.append("the references' contours lie apart, so they have no contour in common")
    outcome = _outcome(found, mask, reasons)
    return _segment(found, outcome, tuple(reasons), mask, registered_mask, grid), agreement


def _outcome(found: Sequence[SegmentResult], mask: BoolArray | None, reasons: Sequence[str]) -> Outcome:
    if mask is not None:
        return Outcome.FLAGGED if reasons or any(each.outcome is not Outcome.FOUND for each in found) else Outcome.FOUND
    outcomes = {each.outcome for each in found}
    return next((outcome for outcome in _WITHOUT_CONTOUR if outcome in outcomes), Outcome.NO_LESION)


def _segment(
    found: Sequence[SegmentResult],
    outcome: Outcome,
    reasons: tuple[str, ...],
    mask: BoolArray | None,
    registered: BoolArray,
    grid: Grid,
) -> SegmentResult:
    oldest = found[0]
    slices = _most_doubtful(found)
    told = None if mask is None or not registered.any() else figures(mask, registered, oldest.prior_volume_ml, grid)
    lost = [each.lost_tissue_share for each in found if each.lost_tissue_share is not None]
    return SegmentResult(
        source=oldest.source,
        outcome=outcome,
        reasons=reasons,
        review_priority=review.priority_of_segment(slices, outcome, reasons),
        mask=mask,
        registered_mask=registered,
        prior_volume_ml=oldest.prior_volume_ml,
        volume_ml=None if mask is None else float(mask.sum()) * grid.voxel_ml,
        volume_change_percent=None if told is None else told.change_percent,
        centroid_shift_mm=None if told is None else told.shift_lps_mm,
        slices=slices,
        removals=tuple(dict.fromkeys(removal for each in found for removal in each.removals)),
        registration=_worst_registration([each.registration for each in found], "local_correlation"),
        lost_tissue_share=max(lost, default=None),
    )


def mean_contour(masks: Sequence[tuple[BoolArray, float]], grid: Grid) -> BoolArray:
    """The contour where the weighted mean of the signed distances is at least 0.

    :param masks: masks ``(z, y, x)`` on the grid, none of them empty, with their weights; all False if there is none.
    """
    union = np.zeros(grid.shape, dtype=np.bool_)
    for mask, _ in masks:
        union |= mask
    if not masks:
        return union
    pad = [math.ceil(BAND_MM / spacing) for spacing in grid.spacing_zyx]
    box = bounding_box(union, pad)
    total: NDArray[np.float64] = np.zeros(union[box].shape)
    for mask, weight in masks:
        total += weight * np.clip(signed_distance(mask[box], grid.spacing_zyx), -BAND_MM, BAND_MM)
    result = np.zeros(grid.shape, dtype=np.bool_)
    result[box] = total >= 0.0
    return result


def _weights(found: Sequence[SegmentResult]) -> list[float]:
    values = []
    for each in found:
        correlation = each.registration.get("local_correlation")
        known = isinstance(correlation, (int, float)) and math.isfinite(correlation)
        values.append(max(LEAST_WEIGHT, float(correlation)) if known and correlation is not None else LEAST_WEIGHT)
    return [value / sum(values) for value in values]


def _agreement(
    labels: Sequence[str],
    found: Sequence[SegmentResult],
    weights: Sequence[float],
    compared: Sequence[tuple[BoolArray, float]],
    contours: int,
    grid: Grid,
) -> Agreement:
    pairs = [(first, second) for (first, _), (second, _) in combinations(compared, 2)]
    dice = [volumetric_dice(first, second) for first, second in pairs]
    distances = [hd95_mm(first, second, grid) for first, second in pairs]
    return Agreement(
        references=tuple(labels),
        outcomes=tuple(each.outcome.value for each in found),
        weights=tuple(round(weight, 4) for weight in weights),
        contours=contours,
        mean_dice=float(np.mean(dice)) if dice else None,
        mean_hd95_mm=float(np.mean(distances)) if distances else None,
    )


def _shared_reasons(labels: Sequence[str], found: Sequence[SegmentResult]) -> list[str]:
    """The reasons of all references; those that not all of them give say from which they are."""
    everybody = set(found[0].reasons).intersection(*(each.reasons for each in found[1:]))
    reasons = [reason for reason in found[0].reasons if reason in everybody]
    for label, each in zip(labels, found, strict=True):
        reasons += [f"from {label}: {reason}" for reason in each.reasons if reason not in everybody]
    return reasons


def _most_doubtful(found: Sequence[SegmentResult]) -> tuple[SliceResult, ...]:
    """The slices of all references; one that several of them show, as the one that doubts it most."""
    best: dict[int, tuple[float, list[SliceResult]]] = {}
    for each in found:
        own: dict[int, list[SliceResult]] = {}
        for one in each.slices:
            own.setdefault(one.index, []).append(one)
        for index, slices in own.items():
            doubt = max(one.review_priority for one in slices)
            if index not in best or doubt > best[index][0]:
                best[index] = (doubt, slices)
    return tuple(one for index in sorted(best) for one in best[index][1])


def _worst_registration(entries: Sequence[Mapping[str, Any]], figure: str) -> dict[str, Any]:
    """The figures of the registration that fits least, and the reasons of all."""

    def fit(entry: Mapping[str, Any]) -> float:
        value = entry.get(figure)
        return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else -math.inf

    worst: dict[str, Any] = dict(sorted(entries, key=fit)[0])
    worst["reasons"] = list(dict.fromkeys(reason for entry in entries for reason in entry.get("reasons", ())))
    return worst


def _visit(parts: Sequence[CarriedReference], segments: Sequence[SegmentResult], *, combined: bool) -> VisitResult:
    first = parts[0].result
    results = [part.result for part in parts]
    registration = _worst_registration([result.registration for result in results], "body_correlation")
    registration["references"] = {part.label: dict(part.result.registration) for part in parts}
    seconds: dict[str, float] = {}
    for result in results:
        for stage, value in result.stage_seconds.items():
            seconds[stage] = round(seconds.get(stage, 0.0) + value, 3)
    notes = list(dict.fromkeys(note for result in results for note in result.notes))
    if combined:
        notes.append(
            f"contours from several references are combined by the mean of their signed distances (cut off at {BAND_MM:g} mm),"
            " weighted by how well the registration fits around the lesion; a slice's figures are those of the reference that"
            " doubts it most; volume changes are told against the oldest reference"
        )
    return replace(
        first,
        segments=tuple(segments),
        registration=registration,
        stage_seconds=seconds,
        warnings=tuple(dict.fromkeys(text for result in results for text in result.warnings)),
        overrides=tuple(dict.fromkeys(text for result in results for text in result.overrides)),
        notes=tuple(notes),
    )
