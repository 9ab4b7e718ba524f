"""A person moved, added or removed points or the box on a slice: the model's new answer there, and on the slices beside it.

An edited slice is asked with its points and its box (that of its present contour if the person gave none), and, for a model
that was trained with masks, with its present contour, as interactive training does. Where a point is not obeyed then, it is
asked without each of the two as well, because they may be what holds the model back; of the answers that obey most points the
one nearest to the present contour is taken. A point that the present contour does not obey speaks of its own surroundings: the
new contour follows the answer there, and farther away it stays what the person did not object to.

The slice on either side is asked with the same points and, as a mask, the mean of its own and the new contour, if its own does
not obey these points. A model without mask prompts leaves it as it is, and so does a slice without a contour, or one that a
person has edited before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib import review
from P2SAMSlicerLib.candidates import EXPECTED_MASK, REGISTERED, Proposal, bounding_box, mask_prompt
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.expected import signed_pixels_mm
from P2SAMSlicerLib.models.protocol import PromptableModel, PromptSet
from P2SAMSlicerLib.result import Candidate, SliceResult
from P2SAMSlicerLib.slice_plane import slice_hu, working_grid
from P2SAMSlicerLib.volume import BoolArray, Volume

if TYPE_CHECKING:
    import torch

#: Names of the candidates that edited prompts make: on the slice itself, and on a slice beside one.
EDITED, BESIDE_EDITED = "edited prompts", "beside edited prompts"
#: Name of the signal that says which share of a slice's edited points the model does not follow.
NOT_OBEYED = "edited points not obeyed"
#: The signal that paper mode has instead of all others.
LOW_IOU = "low predicted IoU"
#: How far a point that asks for a change reaches, in mm: there the new contour is halfway between answer and present.
#: Without it one click on slices of real tumours took more of a good contour away than it mended.
POINT_REACH_MM = 17.0
#: Distances to a contour are told apart up to here, in mm, when the mean of two is taken.
REACH_MM = 1000.0

#: What tells a slice of a segment from its others: lesion and stored number.
SliceKey = tuple[int, int]


@dataclass(frozen=True)
class EditedPrompts:
    """What a person wants the model to be asked on one slice of one lesion.

    :param index: stored number of the slice, as of :class:`~P2SAMSlicerLib.result.SliceResult`.
    :param points: ``(n, 2)`` as ``(x, y)`` in pixels of the image on which the slice's candidates lie; may be empty.
    :param labels: ``(n,)``, 1 for a point that lies in the lesion, 0 for one that does not.
    :param box: ``(x0, y0, x1, y1)`` in the same pixels, or None.
    :param lesion: number of the separate lesion.
    """

    index: int
    points: NDArray[np.float32]
    labels: NDArray[np.int64]
    box: NDArray[np.float32] | None = None
    lesion: int = 1


@dataclass(frozen=True)
class _Seen:
    """One slice as the model sees it again."""

    hu: NDArray[np.float32]
    features: torch.Tensor


def redecode(
    model: PromptableModel,
    followup: Volume,
    slices: Sequence[SliceResult],
    edits: Sequence[EditedPrompts],
    shown: Mapping[SliceKey, BoolArray] | None = None,
) -> tuple[SliceResult, ...]:
    """The slices that change when the model is asked with edited prompts.

    The new answer is added to a slice's candidates, in the place of an earlier one of its kind, and chosen. Signals and
    priority are those of the new contour; only how much the visits differ along it stays where the record does not keep what
    changed between them.

    :param model: the one that made the slices, usually; one that remembers what it encoded saves most of the time.
    :param followup: the CT of the slices.
    :param slices: all slices of the segment as they are now.
    :param edits: of one slice each.
    :param shown: the segment's contour on the image of slices where it is not the chosen one, because parts were removed or
        somebody painted (:func:`P2SAMSlicerLib.edited_contour.shown_contours`): it is the present contour then.
    :returns: the edited slices and those beside them that changed, in the order of ``slices``.
    :raises InputError: an edit of a slice that is not there, without anything to find a lesion by, or outside the image; a
        record that does not say how the model saw the slice; a volume of other slices.
    """
    recorded = {(each.lesion, each.index): each for each in slices}
    known = {key: _as_shown(each, (shown or {}).get(key)) for key, each in recorded.items()}
    wanted = _checked(edits, known)
    beside = _beside(model, wanted, known)
    seen = _see(model, followup, [known[key] for key in (*wanted, *beside)])
    changed: dict[SliceKey, SliceResult] = {}
    for key, candidate in zip(wanted, _edited_answers(model, wanted, known, seen, followup), strict=True):
        changed[key] = _with(recorded[key], candidate)
    prompts: dict[SliceKey, PromptSet] = {}
    for key, sources in beside.items():
        prompt = _beside_prompt(model, key, sources, wanted, known, changed, followup)
        if prompt is not None:
            prompts[key] = prompt
    for key, answer in zip(prompts, _decode(model, [(seen[key], each) for key, each in prompts.items()]), strict=True):
        candidate = _candidate(BESIDE_EDITED, prompts[key], *answer)
        changed[key] = _with(recorded[key], _near_points(candidate, _present(known[key]), _pixel_mm(known[key], followup)))
    now = {**recorded, **changed}
    return tuple(_judged(now[key], now, seen[key].hu, followup) for key in known if key in changed)


def judged_beside(slices: Sequence[SliceResult], changed: Sequence[SliceResult]) -> tuple[SliceResult, ...]:
    """The slices beside changed ones whose contour stays, and whose review changes with their neighbour's.

    :param slices: all slices of the segment as they were before.
    :param changed: what :func:`redecode` gave.
    :returns: those whose signal did change, in the order of ``slices``.
    """
    now = {(each.lesion, each.index): each for each in (*slices, *changed)}
    done = {(each.lesion, each.index) for each in changed}
    beside = {(lesion, index + step) for lesion, index in done for step in (-1, 1)} - done
    result = []
    for key, each in now.items():
        if key not in beside or review.NEIGHBOURS not in each.signals or not each.candidates:
            continue
        own = np.zeros_like(each.candidates[0].mask) if each.best is None else each.best.mask
        signals = {**each.signals, review.NEIGHBOURS: review.differs_from(own, _masks_beside(each, now))}
        if signals != each.signals:
            result.append(replace(each, signals=signals, review_priority=_priority(signals)))
    return tuple(result)


def points_not_obeyed(candidate: Candidate) -> tuple[int, ...]:
    """Numbers of the points that a candidate's contour does not follow: positive ones outside, negative ones inside."""
    height, width = candidate.mask.shape
    found = []
    for number, ((x, y), label) in enumerate(zip(np.rint(candidate.points).astype(int), candidate.labels, strict=True)):
        inside = 0 <= y < height and 0 <= x < width and bool(candidate.mask[y, x])
        if inside != bool(label == 1):
            found.append(number)
    return tuple(found)


def notes_of(changed: Sequence[SliceResult]) -> tuple[str, ...]:
    """What the model did not follow, in words, one line a slice."""
    notes = []
    for each in changed:
        best = each.best
        if best is None or best.origin != EDITED:
            continue
        if not best.mask.any():
            notes.append(f"slice {each.index}: the model finds no lesion with these prompts")
        elif refused := points_not_obeyed(best):
            positive = sum(int(best.labels[number]) for number in refused)
            words = [f"{positive} in the lesion"] if positive else []
            words += [f"{len(refused) - positive} outside it"] if len(refused) > positive else []
            notes.append(f"slice {each.index}: the contour does not follow {' and '.join(words)} of {len(best.labels)} points")
    return tuple(notes)


def _checked(edits: Sequence[EditedPrompts], known: Mapping[SliceKey, SliceResult]) -> dict[SliceKey, EditedPrompts]:
    """The edits by slice, in order.

    :raises InputError: see :func:`redecode`.
    """
    if not edits:
        raise InputError("no edited prompts")
    wanted: dict[SliceKey, EditedPrompts] = {}
    for edit in edits:
        key, name = (edit.lesion, edit.index), f"slice {edit.index}, lesion {edit.lesion}"
        if key not in known or not known[key].candidates:
            raise InputError(f"{name}: the model was not asked there, so that there are no prompts to edit")
        if key in wanted:
            raise InputError(f"{name}: it is edited twice")
        if known[key].greys is None:
            raise InputError(f"{name}: its record does not tell how the model saw it; carry the contours again")
        _check_numbers(edit, known[key].candidates[0].mask.shape, name)
        wanted[key] = edit
    return wanted


def _check_numbers(edit: EditedPrompts, shape: tuple[int, ...], name: str) -> None:
    height, width = shape
    points, labels = np.asarray(edit.points), np.asarray(edit.labels)
    if points.ndim != 2 or points.shape[1:] != (2,) or labels.shape != points.shape[:1]:
        raise InputError(f"{name}: {points.shape} points and {labels.shape} labels do not fit")
    if not np.isin(labels, (0, 1)).all():
        raise InputError(f"{name}: a label is neither 1 (in the lesion) nor 0")
    corners = points if edit.box is None else np.concatenate([points, np.asarray(edit.box).reshape(-1, 2)])
    if not np.isfinite(corners).all():
        raise InputError(f"{name}: a point or the box is no number")
    if len(corners) and (corners.min() < -0.5 or (corners > [width - 0.5, height - 0.5]).any()):
        raise InputError(f"{name}: a point or the box lies outside of what the model sees")
    if edit.box is not None and not (edit.box[0] < edit.box[2] and edit.box[1] < edit.box[3]):
        raise InputError(f"{name}: the box is empty")
    if edit.box is None and not (labels == 1).any():
        raise InputError(f"{name}: without a point in the lesion or a box the model has nothing to look for")


def _beside(
    model: PromptableModel, wanted: Mapping[SliceKey, EditedPrompts], known: Mapping[SliceKey, SliceResult]
) -> dict[SliceKey, list[SliceKey]]:
    """The slices that are asked because of an edit beside them, with the edited ones."""
    found: dict[SliceKey, list[SliceKey]] = {}
    if "mask" not in model.card.trained_prompts:
        return found
    for key in wanted:
        for other in ((key[0], key[1] - 1), (key[0], key[1] + 1)):
            result = known.get(other)
            if other in wanted or result is None or result.greys is None:
                continue
            if result.best is None or result.best.origin == EDITED or not result.best.mask.any():
                continue
            points = replace(result.best, points=wanted[key].points, labels=wanted[key].labels)
            if len(points.labels) and not points_not_obeyed(points):
                continue  # nothing was said against its contour
            found.setdefault(other, []).append(key)
    return found


def _see(model: PromptableModel, followup: Volume, slices: Sequence[SliceResult]) -> dict[SliceKey, _Seen]:
    """The slices' values, and their features."""
    hu = [slice_hu(followup, each) for each in slices]
    images = []
    for each, plane in zip(slices, hu, strict=True):
        if each.candidates[0].mask.shape != plane.shape:
            raise InputError(f"slice {each.index}: {followup.name} has {plane.shape} pixels there; is it another volume?")
        assert each.greys is not None  # checked
        images.append(each.greys.image(plane))
    if len({image.shape for image in images}) > 1:
        raise InputError("slices that the model saw in different sizes; edit those of one lesion at a time")
    features = model.encode(images)
    return {(each.lesion, each.index): _Seen(plane, row) for each, plane, row in zip(slices, hu, features, strict=True)}


def _edited_answers(
    model: PromptableModel,
    wanted: Mapping[SliceKey, EditedPrompts],
    known: Mapping[SliceKey, SliceResult],
    seen: Mapping[SliceKey, _Seen],
    followup: Volume,
) -> list[Candidate]:
    """The answer on every edited slice, see the module's text."""
    ways = {key: _edited_prompts(model, edit, known[key], followup) for key, edit in wanted.items()}
    offered: dict[SliceKey, list[Candidate]] = {key: [] for key in wanted}
    for usual in (True, False):
        # The other ways only where the usual one is not obeyed: every one takes as long again.
        asked = [
            (key, prompt)
            for key, prompts in ways.items()
            for prompt in (prompts[:1] if usual else prompts[1:])
            if usual or points_not_obeyed(offered[key][0])
        ]
        for (key, prompt), answer in zip(asked, _decode(model, [(seen[key], prompt) for key, prompt in asked]), strict=True):
            offered[key].append(_candidate(EDITED, prompt, *answer))
    result = []
    for key, answers in offered.items():
        present = _present(known[key])
        best = min(answers, key=lambda each: (len(points_not_obeyed(each)), _difference(each.mask, present)))
        result.append(_near_points(best, present, _pixel_mm(known[key], followup)))
    return result


def _as_shown(result: SliceResult, shown: BoolArray | None) -> SliceResult:
    """A slice with what the segment shows as its chosen contour; one that was judged absent stays so."""
    if shown is None or result.chosen is None:
        return result
    candidates = list(result.candidates)
    candidates[result.chosen] = replace(candidates[result.chosen], mask=shown)
    return replace(result, candidates=tuple(candidates))


def _present(result: SliceResult) -> BoolArray | None:
    """A slice's present contour, if it has one."""
    return None if result.best is None or not result.best.mask.any() else result.best.mask


def _difference(mask: BoolArray, present: BoolArray | None) -> float:
    """Share of pixels, of those in either, that are not in both; 0 where there is nothing to compare with."""
    return 0.0 if present is None else float((mask ^ present).sum() / max(1, (mask | present).sum()))


def _near_points(answer: Candidate, present: BoolArray | None, pixel_mm: float) -> Candidate:
    """The answer near the points that the present contour does not obey, and the present contour farther away.

    Where there are no such points, as when the box was moved, the whole answer.
    """
    if present is None or not answer.mask.any():
        return answer
    asking = answer.points[list(points_not_obeyed(replace(answer, mask=present)))]
    if not len(asking):
        return answer
    rows, columns = np.indices(present.shape)
    nearest = np.min([np.hypot(columns - x, rows - y) for x, y in asking], axis=0) * pixel_mm
    weight = np.exp2(-((nearest / POINT_REACH_MM) ** 2))
    new, old = (signed_pixels_mm(mask, pixel_mm, REACH_MM) for mask in (answer.mask, present))
    return replace(answer, mask=np.asarray(weight * new + (1.0 - weight) * old > 0, dtype=bool))


def _edited_prompts(model: PromptableModel, edit: EditedPrompts, result: SliceResult, followup: Volume) -> list[PromptSet]:
    """The ways to ask about an edited slice, the usual one first."""
    points = np.asarray(edit.points, dtype=np.float32) if len(edit.points) else None
    labels = np.asarray(edit.labels, dtype=np.int64) if len(edit.points) else None
    box = None if edit.box is None else np.asarray(edit.box, dtype=np.float32)
    present = _present(result)
    alone = "points" in model.card.trained_prompts and points is not None
    if box is None and not (alone and present is None):
        box = _box_around(edit, present, result.candidates[0].mask.shape)
    ways = [PromptSet(points, labels, box)]
    mask = None
    if present is not None:
        mask = _mask_logits(model, signed_pixels_mm(present, _pixel_mm(result, followup), REACH_MM))
    if mask is not None:
        ways = [replace(ways[0], mask_logits=mask), *ways]
        if alone and edit.box is None:
            ways.append(PromptSet(points, labels, mask_logits=mask))
    return ways


def _box_around(edit: EditedPrompts, present: BoolArray | None, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """A box for a model that needs one: around the present contour and the points that lie in the lesion."""
    covered = np.zeros(shape, dtype=bool) if present is None else present.copy()
    columns, rows = np.rint(edit.points[edit.labels == 1]).astype(int).T
    covered[np.clip(rows, 0, shape[0] - 1), np.clip(columns, 0, shape[1] - 1)] = True
    return bounding_box(covered)


def _beside_prompt(
    model: PromptableModel,
    key: SliceKey,
    sources: Sequence[SliceKey],
    wanted: Mapping[SliceKey, EditedPrompts],
    known: Mapping[SliceKey, SliceResult],
    changed: Mapping[SliceKey, SliceResult],
    followup: Volume,
) -> PromptSet | None:
    """What is asked about a slice beside edited ones; None where there is nothing new to ask."""
    own = known[key].best
    new = [best for source in sources if (best := changed[source].best) is not None and best.mask.any()]
    if own is None or not new:
        return None
    pixel_mm = _pixel_mm(known[key], followup)
    distances = np.stack([signed_pixels_mm(each.mask, pixel_mm, REACH_MM) for each in (own, *new)])
    mean: NDArray[np.float32] = np.asarray(distances.mean(axis=0), dtype=np.float32)
    logits = _mask_logits(model, mean)
    if logits is None or not (mean > 0).any():
        return None
    box = bounding_box(np.asarray(mean > 0))
    if "points" not in model.card.trained_prompts:
        return PromptSet(box=box, mask_logits=logits)
    points = np.concatenate([np.asarray(wanted[source].points, dtype=np.float32) for source in sources])
    labels = np.concatenate([np.asarray(wanted[source].labels, dtype=np.int64) for source in sources])
    if not len(points):  # the box alone was edited
        return PromptSet(box=box, mask_logits=logits)
    return PromptSet(points, labels, box, logits)


def _mask_logits(model: PromptableModel, distance_mm: NDArray[np.float32]) -> torch.Tensor | None:
    """A contour as a mask prompt; None where the model takes none of this size."""
    import torch

    side = 4 * model.card.feature_size
    if "mask" not in model.card.trained_prompts or distance_mm.shape != (side, side):
        return None
    return torch.from_numpy(mask_prompt(distance_mm))[None]


def _pixel_mm(result: SliceResult, followup: Volume) -> float:
    if result.region is not None:
        return result.region.pixel_mm
    sx, sy, _ = working_grid(followup.grid)[1].spacing
    return float(np.sqrt(sx * sy))


def _decode(model: PromptableModel, asked: Sequence[tuple[_Seen, PromptSet]]) -> list[tuple[BoolArray, float]]:
    """Contour and predicted IoU of every prompt."""
    import torch

    if not asked:
        return []
    height, width = asked[0][0].hu.shape
    features = torch.stack([seen.features for seen, _ in asked])
    decoded = model.decode(features, [prompt for _, prompt in asked], (height, width))
    masks = (model.upscale(decoded.logits, (height, width))[:, 0] > 0).cpu().numpy()
    return list(zip(masks, decoded.predicted_iou[:, 0].float().cpu().tolist(), strict=True))


def _candidate(origin: str, prompt: PromptSet, mask: BoolArray, predicted_iou: float) -> Candidate:
    nothing = float("nan")
    points = np.zeros((0, 2), dtype=np.float32) if prompt.points is None else prompt.points
    labels = np.zeros(0, dtype=np.int64) if prompt.labels is None else prompt.labels
    return Candidate(origin, mask, points, labels, prompt.box, distance=nothing, score=nothing, predicted_iou=predicted_iou)


def _with(result: SliceResult, candidate: Candidate) -> SliceResult:
    """A slice with a new candidate, which is chosen; an earlier one that edited prompts made gives way."""
    others = tuple(each for each in result.candidates if each.origin not in (EDITED, BESIDE_EDITED))
    return replace(result, candidates=(*others, candidate), chosen=len(others))


def _judged(result: SliceResult, now: Mapping[SliceKey, SliceResult], hu: NDArray[np.float32], followup: Volume) -> SliceResult:
    """A changed slice with its signals and its priority."""
    best = result.best
    assert best is not None  # it was just chosen
    registered = next((each.mask for each in result.candidates if each.origin == REGISTERED), None)
    if registered is None:
        signals = {LOW_IOU: float(np.clip(1.0 - best.predicted_iou, 0.0, 1.0))}
    else:
        masks = _masks_beside(result, now)
        proposals = [_proposal(each) for each in result.candidates if each.origin not in (EDITED, BESIDE_EDITED)]
        change = None if result.change is None else review.recorded_change(result.change, best.mask.shape)
        signals = review.slice_signals(best.mask, proposals, masks, registered, hu, _pixel_mm(result, followup), change)
        if change is None and review.VISITS_DIFFER in result.signals:
            signals[review.VISITS_DIFFER] = result.signals[review.VISITS_DIFFER]
    if best.origin == EDITED and len(best.labels):
        signals[NOT_OBEYED] = len(points_not_obeyed(best)) / len(best.labels)
    return replace(result, signals=signals, review_priority=_priority(signals))


def _priority(signals: Mapping[str, float]) -> float:
    """The priority of a slice that a person may have edited: what the model does not follow comes first."""
    usual = review.priority({name: value for name, value in signals.items() if name != NOT_OBEYED})
    return 1.0 if signals.get(NOT_OBEYED) else usual


def _masks_beside(result: SliceResult, now: Mapping[SliceKey, SliceResult]) -> list[BoolArray]:
    """The chosen contours on the slices before and after, of the same lesion."""
    beside = [now.get((result.lesion, result.index + step)) for step in (-1, 1)]
    empty = np.zeros_like(result.candidates[0].mask)
    return [empty if each.best is None else each.best.mask for each in beside if each is not None]


def _proposal(candidate: Candidate) -> Proposal:
    """A recorded candidate as far as its review needs it."""
    points, labels = (candidate.points, candidate.labels) if len(candidate.points) else (None, None)
    # Whether there was a mask besides the box is told by the name alone; without its box it counts as no answer to one.
    box = None if candidate.origin == EXPECTED_MASK else candidate.box
    logits = np.where(candidate.mask, np.float32(1.0), np.float32(-1.0))
    return Proposal(candidate.origin, PromptSet(points, labels, box), logits, candidate.predicted_iou)
