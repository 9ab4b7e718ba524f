"""Visits' folders as a patient's run leaves them, made of small results without any model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from P2SAMSlicerLib.report.pictures import Picture, visit_pictures
from P2SAMSlicerLib.result import Outcome, SliceResult, VisitResult
from P2SAMSlicerLib.result_files import write_results
from P2SAMSlicerLib.volume import Segment
from small_visits import (
    FOLLOWUP_GRID,
    PRIOR_GRID,
    ball,
    candidate,
    phantom,
    segment,
    segment_result,
    visit_result,
    without_contour,
)

#: Slices of a contour of which two must be seen.
SLICES = (
    SliceResult(4, -4.0, (candidate("box"),), 0, 0.25, {"blurred border": 0.25, "small on this slice": 0.1}),
    SliceResult(5, 0.0, (candidate("box"),), 0, 0.75, {"blurred border": 0.9}),
    SliceResult(6, 4.0, (candidate("box"),), 0, 0.55, {"blurred border": 0.6}),
)


def small_result(name: str = "visit_2", segments: Sequence[Segment] | None = None, **fields: Any) -> VisitResult:
    """A result with a contour that was found; its ball of 9 mm shrank from 10 mm."""
    made = [segment_result(each, slices=SLICES, mask=ball(FOLLOWUP_GRID, 9.0)) for each in segments or [segment()]]
    return visit_result(*made, name=name, **fields)


def small_pictures(result: VisitResult) -> tuple[Picture, ...]:
    """Its pictures."""
    prior, followup = phantom(PRIOR_GRID), phantom(FOLLOWUP_GRID)
    return visit_pictures(prior, [each.source for each in result.segments], followup, result)


def write_visit_folder(
    out: Path, result: VisitResult, pictures: Sequence[Picture] = (), *, number: int = 2, day: int | None = 30, **facts: Any
) -> Path:
    """A finished visit's folder below ``out``."""
    folder = out / f"visit_{number}"
    write_results(folder, [result])
    (folder / "pictures").mkdir()
    for each in pictures:
        (folder / "pictures" / f"{each.name}.png").write_bytes(each.png)
    content = {
        **_common(number, day),
        "outcome": "done",
        "exports": [],
        "pictures": [each.as_dict(f"pictures/{each.name}.png") for each in pictures],
        "reference_agreement": None,
        "notes": [],
        "files": {
            path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        },
        **facts,
    }
    (folder / "visit.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def write_failed_visit(out: Path, number: int = 3, day: int | None = 60, reason: str = "slices 12 to 14 are missing") -> Path:
    """The folder of a visit to which nothing could be carried."""
    folder = out / f"visit_{number}"
    folder.mkdir(parents=True)
    content = {**_common(number, day), "outcome": "failed", "reason": reason}
    (folder / "visit.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def _common(number: int, day: int | None) -> Mapping[str, Any]:
    return {
        "format": "P2SAMSlicer visit folder",
        "format_version": 1,
        "key": "0" * 64,
        "label": f"visit_{number}",
        "day": day,
        "number": number,
        "carried_from": "prior",
        "references": ["visit_1"],
        "unreviewed_references": [],
    }


def write_patient(out: Path) -> list[Path]:
    """Four follow-ups: one found, one failed, one flagged with a second segment that is gone, one found again."""
    first = small_result("visit_2")
    gone = without_contour(segment("node", ball(PRIOR_GRID, 6.0)), Outcome.NO_LESION, "nothing like it is there")
    flagged = segment_result(
        segment(),
        outcome=Outcome.FLAGGED,
        reasons=("its volume changed by more than half",),
        mask=ball(FOLLOWUP_GRID, 7.0),
        slices=SLICES,
        volume_ml=1.4,
        volume_change_percent=-65.0,
        review_priority=0.8,
        centroid_shift_mm=(2.5, -1.25, 3.0),
    )
    third = visit_result(flagged, gone, name="visit_4", overrides=("visit_4: its patient id is not that of visit_1",))
    last = small_result("visit_5")
    trip = {"name": "GTV", "roi_name": "GTV", "volume_ml": 3.0, "read_back_ml": 2.98, "change_percent": -0.67, "dice": 0.996}
    exports = [{"file": f"visit_2_{kind}.dcm", "kind": kind, "round_trip": [trip]} for kind in ("RTSTRUCT", "SEG")]
    return [
        write_visit_folder(out, first, small_pictures(first), number=2, day=28, exports=exports),
        write_failed_visit(out, 3, 57),
        write_visit_folder(out, third, small_pictures(third), number=4, day=91),
        write_visit_folder(out, last, number=5, day=120, unreviewed_references=["visit_4"]),
    ]


PRIOR: Mapping[str, Any] = {"label": "visit_1", "day": 0, "segments": [{"name": "GTV", "volume_ml": 4.0}], "warnings": []}
