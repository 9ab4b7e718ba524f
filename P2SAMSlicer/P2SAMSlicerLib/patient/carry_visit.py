"""Carries contours to one visit: from files to a folder of its own, which appears whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from P2SAMSlicerLib import review
from P2SAMSlicerLib.atomic_file import atomic_folder
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.options import PropagationOptions
from P2SAMSlicerLib.patient.contour_facts import contour_facts
from P2SAMSlicerLib.patient.reference_contours import ChosenReference, choose_contours, read_contours
from P2SAMSlicerLib.patient.several_references import Agreement, CarriedReference, combine_references
from P2SAMSlicerLib.patient.visit_ct import read_visit_ct, without_file_names
from P2SAMSlicerLib.patient.visit_folder import (
    DONE,
    VISIT_NAME,
    check_visit_folder,
    hashes_of,
    head_of,
    remove_files,
    written_files,
)
from P2SAMSlicerLib.patient.visit_key import visit_key
from P2SAMSlicerLib.patient.visit_order import VisitOrder
from P2SAMSlicerLib.progress import Progress, ProgressEvent, silent
from P2SAMSlicerLib.result import Outcome, SegmentResult, VisitResult
from P2SAMSlicerLib.result_files import plain, write_json, write_results
from P2SAMSlicerLib.volume import Segment, Volume

if TYPE_CHECKING:
    from P2SAMSlicerLib.dicom.ct_reference import CtReference
    from P2SAMSlicerLib.models.protocol import PromptableModel
    from P2SAMSlicerLib.report.pictures import Picture


@dataclass(frozen=True)
class CarriedVisit:
    """What came of one visit, before it is written.

    :param pictures: of each reference that is shown.
    :param warnings: about the reference visits.
    :param reference_of: labels of the references of each structure.
    :param predecessor: SOPInstanceUID of the one RTSTRUCT from which all structures came; None for other files, or several.
    """

    result: VisitResult
    agreements: Mapping[str, Agreement]
    pictures: tuple[Picture, ...]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    reference_of: Mapping[str, list[str]]
    predecessor: str | None = None


def carry_visit(order: VisitOrder, model: PromptableModel, progress: Progress = silent) -> dict[str, Any]:
    """Carry contours to one visit and write its folder, whole or not at all.

    A visit folder that is there already is replaced: whether it may be is the caller's to decide.

    :param model: the loaded model; the order's names of it are only part of the key.
    :param progress: may raise :class:`~P2SAMSlicerLib.errors.Cancelled`.
    :returns: the content of ``visit.json``, see :mod:`P2SAMSlicerLib.patient.visit_folder`.
    :raises InputError: an input cannot be used; messages name visits and structures, no file.
    :raises OutputError: the folder cannot be written; nothing was.
    """
    check_visit_folder(order.out)
    key = visit_key(order)
    followup, reference = read_visit_ct(order.followup)
    carried = _carry(order, model, followup, progress)
    progress(ProgressEvent("writing", 0, 1))
    content = _write(order, key, carried, followup, reference)
    progress(ProgressEvent("writing", 1, 1))
    return content


def _carry(order: VisitOrder, model: PromptableModel, followup: Volume, progress: Progress) -> CarriedVisit:
    """Carry from every reference, combine, and make the pictures."""
    chosen = choose_contours(order)
    order.options.check_names(chosen.names())
    parts: list[CarriedReference] = []
    warnings: list[str] = []
    # The oldest comes last: it is the one that is shown, and only one reference's volume is kept.
    for number, reference in enumerate(reversed(chosen.references), start=1):
        prior, segments = _read_reference(order, reference, warnings)
        told = _of_several(progress, number, len(chosen.references))
        carried = _propagate(model, order, reference, prior, segments, followup, told)
        parts.insert(0, CarriedReference(reference.visit.label, carried))
    result, agreements = combine_references(parts)
    result = replace(result, name=followup.name, warnings=tuple(dict.fromkeys((*result.warnings, *followup.warnings))))
    pictures = _pictures(prior, segments, followup, result)
    shown = {segment.name for segment in segments}
    for reference in chosen.references[1:]:
        if set(reference.sources) - shown:  # structures that the oldest does not have
            prior, segments = _read_reference(order, reference, [])
            pictures += _pictures(prior, [each for each in segments if each.name not in shown], followup, result)
            shown |= {segment.name for segment in segments}
    reference_of = {
        each.source.name: [part.label for part in parts if each.source.name in _names(part.result)] for each in result.segments
    }
    words = tuple(dict.fromkeys(warnings))
    return CarriedVisit(
        result, agreements, tuple(pictures), words, chosen.notes, reference_of, _predecessor(order, chosen.references)
    )


def _predecessor(order: VisitOrder, references: Sequence[ChosenReference]) -> str | None:
    if order.options.allow_other_patient:
        return None  # one patient's object must not refer to another's
    found = {contour_facts(source.path).structure_set_uid for each in references for source in each.sources.values()}
    return (found.pop() or None) if len(found) == 1 else None


def _names(result: VisitResult) -> list[str]:
    return [segment.source.name for segment in result.segments]


def _read_reference(order: VisitOrder, chosen: ChosenReference, warnings: list[str]) -> tuple[Volume, list[Segment]]:
    volume, reference = read_visit_ct(chosen.visit)
    segments, told = read_contours(chosen, volume, reference, order)
    warnings += [without_file_names(f"{volume.name}: {text}", [chosen.visit]) for text in (*volume.warnings, *told)]
    return volume, segments


def _propagate(
    model: PromptableModel,
    order: VisitOrder,
    chosen: ChosenReference,
    prior: Volume,
    segments: Sequence[Segment],
    followup: Volume,
    progress: Progress,
) -> VisitResult:
    """The engine's result from one reference, with what speaks against this reference."""
    from P2SAMSlicerLib.propagation import propagate

    result = propagate(model, prior, segments, followup, _options(order.options, segments), progress)
    label = chosen.visit.label
    if order.followup.number < chosen.visit.number and not any("acquired before" in text for text in result.overrides):
        # Files without a date: the visits' order is all that tells.
        text = f"{followup.name}: it was acquired before {label}"
        if not order.options.allow_older_followup:
            raise InputError(f"{text} (--allow-older-followup carries on, and records it)")
        result = replace(with_reason(result, text), overrides=(*result.overrides, text))
    if label in order.unreviewed:
        result = with_reason(result, f"it is carried from contours of {label} that nobody has reviewed")
    return result


def _options(options: PropagationOptions, segments: Sequence[Segment]) -> PropagationOptions:
    """The options as far as they are about structures that this reference has."""
    names = {segment.name for segment in segments}
    return replace(
        options,
        registration_only=tuple(name for name in options.registration_only if name in names),
        with_model=tuple(name for name in options.with_model if name in names),
    )


def with_reason(result: VisitResult, reason: str) -> VisitResult:
    """The result with a reason that speaks against every contour of it."""
    return replace(result, segments=tuple(_with_reason(each, reason) for each in result.segments))


def _with_reason(segment: SegmentResult, reason: str) -> SegmentResult:
    outcome = Outcome.FLAGGED if segment.outcome is Outcome.FOUND else segment.outcome
    reasons = (reason, *segment.reasons)
    priority = review.priority_of_segment(segment.slices, outcome, reasons)
    return replace(segment, outcome=outcome, reasons=reasons, review_priority=priority)


def _of_several(progress: Progress, number: int, total: int) -> Progress:
    """Progress that says which of several references it is about."""
    if total == 1:
        return progress
    return lambda event: progress(replace(event, message=f"reference {number} of {total} {event.message}".rstrip()))


def _pictures(prior: Volume, segments: Sequence[Segment], followup: Volume, result: VisitResult) -> list[Picture]:
    from P2SAMSlicerLib.report.pictures import visit_pictures

    names = {segment.name for segment in segments}
    own = replace(result, segments=tuple(each for each in result.segments if each.source.name in names))
    return list(visit_pictures(prior, segments, followup, own)) if own.segments else []


def _write(
    order: VisitOrder, key: str, carried: CarriedVisit, followup: Volume, reference: CtReference | None
) -> dict[str, Any]:
    """Write the folder; what an earlier run wrote there and this one does not is removed afterwards."""
    before = written_files(order.out)
    agreements = {name: asdict(each) for name, each in carried.agreements.items()}
    references = [each.label for each in order.references if any(each.label in used for used in carried.reference_of.values())]
    with atomic_folder(order.out, last=VISIT_NAME) as stage:
        inputs = {"followup": order.followup.label, "references": references, "carried_from": order.carried_from}
        write_results(stage, [carried.result], inputs=inputs, warnings=carried.warnings)
        exports, notes = _export(stage, order, carried, followup, reference)
        content: dict[str, Any] = plain(
            {
                **head_of(order),
                "key": key,
                "references": references,
                "unreviewed_references": [label for label in order.unreviewed if label in references],
                "reference_of": carried.reference_of,
                "outcome": DONE,
                "exports": exports,
                "pictures": _write_pictures(stage, carried.pictures),
                "reference_agreement": agreements or None,
                "notes": [*carried.notes, *notes],
            }
        )
        content["files"] = hashes_of(stage)
        write_json(stage / VISIT_NAME, content)
    remove_files(order.out, [name for name in before if name not in content["files"]])
    return content


def _write_pictures(stage: Path, pictures: Sequence[Picture]) -> list[dict[str, Any]]:
    """Write the pictures.

    :returns: what is told of each, with its file.
    """
    entries = []
    for number, picture in enumerate(pictures, start=1):
        file = f"pictures/{number:02d}.png"
        (stage / "pictures").mkdir(exist_ok=True)
        (stage / file).write_bytes(picture.png)
        entries.append({**{key: value for key, value in asdict(picture).items() if key != "png"}, "file": file})
    return entries


def _export(
    stage: Path, order: VisitOrder, carried: CarriedVisit, followup: Volume, reference: CtReference | None
) -> tuple[list[dict[str, Any]], list[str]]:
    """Write RTSTRUCT and SEG of a DICOM follow-up.

    :returns: what is told of each, and why there is none, in words.
    """
    if not order.dicom or reference is None:
        return [], []
    from P2SAMSlicerLib.dicom.export_contours import export_contours
    from P2SAMSlicerLib.dicom.seg_writer import write_dicom_seg
    from P2SAMSlicerLib.dicom.structure_set_writer import write_structure_set

    contours = export_contours(carried.result)
    if not contours:
        return [], ["no RTSTRUCT and no SEG was written, because there is no contour to write"]
    if reference.resampled:
        return [], ["no RTSTRUCT and no SEG was written, because the CT's slices are not the stored ones: it was resampled"]
    exports = []
    write_set = partial(write_structure_set, predecessor=carried.predecessor)
    for kind, write in (("RTSTRUCT", write_set), ("SEG", write_dicom_seg)):
        file = f"{order.followup.label}_{kind}.dcm"
        trips = write(stage / file, contours, followup.grid, reference)
        exports.append({"file": file, "kind": kind, "round_trip": [asdict(trip) for trip in trips]})
    return exports, []
