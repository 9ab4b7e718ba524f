"""What a person decided on a visit's contours, from the segmentation that 3D Slicer saved.

The decision, the reviewer, the time and what the decision was about stand in tags of the segments, see
:mod:`P2SAMSlicerLib.mrml.review_nodes`. They are believed as far as they hold for the contour in the file: one that was changed
after it was accepted is unreviewed, as it is in the module's panel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.mrml import review_nodes as tags
from P2SAMSlicerLib.mrml.result_nodes import SOURCE_TAG
from P2SAMSlicerLib.mrml.segment_nodes import read_tag
from P2SAMSlicerLib.report.review_record import ReviewRecord, surface_change
from P2SAMSlicerLib.resample import resample_mask
from P2SAMSlicerLib.result_files import COMPARISON_SUFFIX, is_comparison
from P2SAMSlicerLib.segmentation_file import read_segmentation
from P2SAMSlicerLib.volume import BoolArray, Segment, Segmentation


@dataclass(frozen=True)
class DrawnVisit:
    """A visit's contours as the tool drew them.

    :param masks: by the name of the prior's segment; the registered prior contour where that is all there is.
    """

    label: str
    grid: Grid
    masks: Mapping[str, BoolArray]


def drawn_visit(folder: Path, label: str) -> DrawnVisit | None:
    """The contours of a visit's folder, or None where there are none.

    :raises InputError: the file is damaged.
    """
    path = folder / f"{label}.seg.nrrd"
    if not path.is_file():
        return None
    found = read_segmentation(path)
    masks = {each.name: each.mask for each in found.segments if not is_comparison(each)}
    for each in found.segments:
        if is_comparison(each):
            masks.setdefault(each.name.removesuffix(COMPARISON_SUFFIX), each.mask)
    return DrawnVisit(label, found.grid, masks)


def review_of_file(path: Path, visits: Mapping[str, DrawnVisit], label: str | None = None) -> tuple[str, list[ReviewRecord]]:
    """The visit to which a reviewed segmentation belongs, and what was decided on its contours.

    :param visits: by label.
    :param label: of the visit; None to tell it by the contours that the tool drew, which the file remembers.
    :raises InputError: unreadable, or of no visit of these.
    """
    reviewed = _read(path)
    if label is None:
        label = _visit_of(path, reviewed, visits)
    elif label not in visits:
        raise InputError(
            f"{path.name}: there are no contours of {label}; there are those of: {', '.join(visits) or 'no visit'}"
        )
    drawn = visits[label]
    records: dict[str, ReviewRecord] = {}
    for segment in reviewed.segments:
        name = segment.tags.get(SOURCE_TAG, segment.name)
        judged = tags.DRAWN_TAG in segment.tags or not is_comparison(segment)
        if judged and name in drawn.masks and name not in records:
            records[name] = _record(path, name, segment, reviewed.grid, drawn)
    if not records:
        raise InputError(f"{path.name}: holds no contour of {label}")
    return label, list(records.values())


def _read(path: Path) -> Segmentation:
    """The segmentation, with our own tags as they were meant."""
    found = read_segmentation(path)
    read = [{name: read_tag(name, text) for name, text in segment.tags.items()} for segment in found.segments]
    segments = [replace(segment, tags=own) for segment, own in zip(found.segments, read, strict=True)]
    return replace(found, segments=tuple(segments))


def _visit_of(path: Path, reviewed: Segmentation, visits: Mapping[str, DrawnVisit]) -> str:
    """The only visit of which the file remembers a contour as the tool drew it.

    :raises InputError: none or several.
    """
    remembered = {segment.tags[tags.DRAWN_TAG] for segment in reviewed.segments if tags.DRAWN_TAG in segment.tags}
    found = [
        label for label, visit in visits.items() if any(tags.fingerprint(mask) in remembered for mask in visit.masks.values())
    ]
    if len(found) == 1:
        return found[0]
    if not remembered:
        raise InputError(
            f"{path.name}: remembers no contour of this tool; say of which visit it is, such as visit_2={path.name}"
        )
    what = "no visit" if not found else f"several visits ({', '.join(found)})"
    raise InputError(f"{path.name}: its contours were drawn for {what} here; say which it is, such as visit_2={path.name}")


def _record(path: Path, name: str, segment: Segment, grid: Grid, drawn: DrawnVisit) -> ReviewRecord:
    """The review of one contour.

    :raises InputError: it lies outside of the visit's CT.
    """
    before = drawn.masks[name]
    after = segment.mask if grid.same_as(drawn.grid) else resample_mask(segment.mask, grid, drawn.grid)
    if segment.mask.any() and not after.any():
        raise InputError(f"{path.name}: '{segment.name}' lies outside of the CT of {drawn.label}; is it of another visit?")
    change = surface_change(before, after, drawn.grid)
    held = tags.TAKEN_BACK_TAG not in segment.tags and segment.tags.get(tags.DECIDED_TAG) == tags.fingerprint(after)
    reviewer = segment.tags.get(tags.REVIEWER_TAG, "").strip()
    known = {each.value for each in tags.Decision}
    decision = segment.tags.get(tags.DECISION_TAG, "")
    decided = held and bool(reviewer) and decision in known
    return ReviewRecord(
        segment=name,
        **({"decision": decision, "reviewer": reviewer, "time": segment.tags.get(tags.TIME_TAG, "")} if decided else {}),
        volume_before_ml=change.volume_before_ml,
        volume_after_ml=change.volume_after_ml,
        dice=change.dice,
        mean_surface_mm=change.mean_surface_mm,
        hd95_mm=change.hd95_mm,
        edited=bool((before != after).any()),
    )
