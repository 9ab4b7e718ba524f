"""What is checked before a patient's contours are carried anywhere: everything that can be known without a model."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from P2SAMSlicerLib.atomic_file import check_writable
from P2SAMSlicerLib.cli.job import BYTES_PER_VOXEL, LEAST_BYTES
from P2SAMSlicerLib.errors import InputError, OutputError
from P2SAMSlicerLib.models import check_model
from P2SAMSlicerLib.patient.plan import PatientSettings
from P2SAMSlicerLib.patient.reference_contours import choose_contours
from P2SAMSlicerLib.patient.visit_folder import check_visit_folder, is_done, is_finished
from P2SAMSlicerLib.patient.visit_order import VisitOrder
from P2SAMSlicerLib.progress import Progress, ProgressEvent

REPORT_NAMES = ("report.html", "report.json")


def check_orders(
    orders: Sequence[VisitOrder], settings: PatientSettings, out: Path, *, overwrite: bool, progress: Progress
) -> None:
    """Refuse what cannot be carried, or would replace results.

    :raises InputError: options, contours, or results of something else in the folder for the results.
    :raises ModelError: the model's weights are not there, or are others.
    :raises OutputError: the results could not be written.
    """
    check_writable(out, LEAST_BYTES)
    for order in orders:
        _check_there(order)
    if not overwrite:
        _check_report(out, {order.followup.label for order in orders})
    check_model(settings.model, settings.checkpoint, allow_unverified=settings.allow_unverified)
    if settings.options.transform_file is not None:
        from P2SAMSlicerLib.transform_file import read_transform

        read_transform(settings.options.transform_file)
    need = 0.0
    for number, order in enumerate(orders):
        progress(ProgressEvent("checking", number, len(orders)))
        names = choose_contours(order).names()
        settings.options.check_names(names)
        finished = is_finished(order.out, order)
        if not finished and not overwrite and is_done(order.out):
            raise InputError(
                f"{order.followup.label}: there are results already, made from other files or with other settings, or changed"
                " since; use --overwrite to replace them, or choose another folder"
            )
        if not finished:
            need += LEAST_BYTES + BYTES_PER_VOXEL * _bytes_of(order) * len(names)
    progress(ProgressEvent("checking", len(orders), len(orders)))
    check_writable(out, int(need))


def _check_there(order: VisitOrder) -> None:
    """Refuse a folder in the way that is no visit's: nothing of another kind is ever replaced."""
    check_visit_folder(order.out)
    inputs = {path.absolute().parent for visit in (*order.references, order.followup) for path in visit.ct.paths}
    if order.out.absolute() in inputs:
        raise InputError(f"{order.followup.label}: its CT lies where the results would be written; choose another --out")


def _bytes_of(order: VisitOrder) -> int:
    total = 0
    for path in order.followup.ct.paths:
        try:
            total += path.stat().st_size
        except OSError as error:
            reason = (error.strerror or "unknown reason").lower()
            raise InputError(f"{order.followup.label}: one of its files cannot be read ({reason})") from error
    return total


def _check_report(out: Path, labels: set[str]) -> None:
    """Refuse to replace a report that tells of more than this run will: of other visits, or of a person's review."""
    there = [out / name for name in REPORT_NAMES if os.path.lexists(out / name)]
    if not there:
        return
    told = "use --overwrite to replace it, or choose another folder"
    content = _json(out / REPORT_NAMES[1])
    visits = content.get("visits") if content else None
    if not isinstance(visits, list) or not all(isinstance(each, dict) for each in visits):
        raise OutputError(f"{there[0].name}: there already in the folder for the results; {told}")
    if not {each.get("label") for each in visits} <= labels:
        raise OutputError(f"{there[0].name}: is there already and tells of other visits too; {told}")
    reviews = [segment.get("review") for each in visits for segment in each.get("segments") or () if isinstance(segment, dict)]
    if any(isinstance(review, dict) and review.get("decision") != "unreviewed" for review in reviews):
        raise OutputError(f"{there[0].name}: is there already and holds a review; {told}")


def _json(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None
