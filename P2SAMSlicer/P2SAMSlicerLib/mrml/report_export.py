"""From results in the scene to a patient's report and DICOM: visits' folders, as ``p2sam patient`` leaves them, and the report.

Each visit's folder holds the contours as the tool drew them, with the figures of the run; the contours as they are now, with
what was decided on them (``visit_2_reviewed.seg.nrrd``); and these as RTSTRUCT and SEG, where the follow-up came from Slicer's
DICOM database. What nobody accepted says UNREVIEWED in all of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from P2SAMSlicerLib.atomic_file import atomic_folder
from P2SAMSlicerLib.errors import InputError, OutputError, P2SAMError
from P2SAMSlicerLib.mrml.result_nodes import PRIOR_ROLE, SOURCE_TAG, is_result
from P2SAMSlicerLib.mrml.result_visit import SceneVisit, renamed, scene_visit
from P2SAMSlicerLib.mrml.review_nodes import REVIEW_TAGS, contours_to_review
from P2SAMSlicerLib.mrml.segment_nodes import segments_from_node, tag_of, written_tag
from P2SAMSlicerLib.mrml.volume_chart import results_by_visit
from P2SAMSlicerLib.mrml.volume_nodes import grid_from_matrix, identity_of, own_matrix, volume_from_node
from P2SAMSlicerLib.patient.visit_folder import DONE, FORMAT, FORMAT_VERSION, VISIT_NAME
from P2SAMSlicerLib.report.patient_report import HTML_NAME, JSON_NAME, write_patient_report
from P2SAMSlicerLib.report.pictures import Picture, visit_pictures
from P2SAMSlicerLib.report.report_content import ReportIdentity
from P2SAMSlicerLib.resample import resample_mask
from P2SAMSlicerLib.result_files import (
    COMPARISON_SUFFIX,
    followup_segments,
    is_comparison,
    plain,
    write_json,
    write_results,
)
from P2SAMSlicerLib.segmentation_file import write_segmentation
from P2SAMSlicerLib.volume import BoolArray, Segmentation

if TYPE_CHECKING:
    from P2SAMSlicerLib.dicom.ct_reference import CtSeries

#: The prior; follow-ups are counted from here.
PRIOR_LABEL = "visit_1"
#: Attribute of a volume's node that Slicer loaded from its DICOM database.
INSTANCES_ATTRIBUTE = "DICOM.instanceUIDs"
#: Corners of the volume in the scene and of its DICOM files lie so near to each other.
LARGEST_SHIFT_MM = 0.05


@dataclass(frozen=True)
class ExportedReport:
    """What was written.

    :param report: ``report.html`` and ``report.json``.
    :param visits: the visits' folders.
    :param notes: what was left out, and why, in words.
    """

    report: tuple[Path, Path]
    visits: tuple[Path, ...]
    notes: tuple[str, ...]


def export_report(
    nodes: Sequence[Any], folder: Path | str, *, dicom: bool = True, identified: bool = False, overwrite: bool = False
) -> ExportedReport:
    """Write visits' folders, DICOM and the report on results of one prior: everything or nothing.

    :param nodes: segmentation nodes of results. Of several on one follow-up the last of the scene counts.
    :param folder: made if needed.
    :param dicom: write RTSTRUCT and SEG of follow-ups that came from the DICOM database.
    :param identified: name the patient and the dates; anonymous otherwise.
    :param overwrite: replace what an earlier export left there.
    :raises InputError: no result, results of several priors, a follow-up that is gone or bent.
    :raises OutputError: there is a report or a visit already, no space, no permission.
    """
    folder = Path(folder)
    chosen, notes = _chosen(nodes)
    labels = [f"visit_{number}" for number in range(2, len(chosen) + 2)]
    prior_node = _prior_volume(chosen[0])
    names = _names(prior_node, chosen, labels)
    visits = [scene_visit(node, label, names) for node, label in zip(chosen, labels, strict=True)]
    days = _days(prior_node, visits)
    taken = [name for name in (HTML_NAME, JSON_NAME, *labels) if (folder / name).exists()]
    if taken and not overwrite:
        raise OutputError(f"{taken[0]}: is in that folder already; choose another folder")
    with atomic_folder(folder) as stage:
        for number, visit in enumerate(visits, start=2):
            notes += _write_visit(stage, visit, number, days, dicom)
        told = [renamed(text, names) for text in notes]
        prior: dict[str, Any] = {"label": PRIOR_LABEL, "day": None if days is None else 0, "warnings": []}
        write_patient_report(
            stage,
            [stage / label for label in labels],
            prior=prior,
            identity=_identity(prior_node, visits) if identified else None,
            reviews={label: list(visit.reviews.values()) for label, visit in zip(labels, visits, strict=True)},
        )
    return ExportedReport(
        (folder / HTML_NAME, folder / JSON_NAME), tuple(folder / label for label in labels), tuple(dict.fromkeys(told))
    )


def _chosen(nodes: Sequence[Any]) -> tuple[list[Any], list[str]]:
    """The results to export by visit, one for each follow-up, and what was left out.

    :raises InputError: none, or of several priors.
    """
    import slicer.util

    given = {node.GetID() for node in nodes if node is not None}
    # In the order of the scene, where the latest result comes last.
    results = [each for each in slicer.util.getNodesByClass("vtkMRMLSegmentationNode") if each.GetID() in given]
    results = [node for node in results if is_result(node)]
    if not results:
        raise InputError("no result to report on: carry contours to a follow-up first")
    for node in results:
        if node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole()) is None:
            raise InputError(f"{node.GetName()}: its follow-up volume is no longer in the scene")
    ordered = results_by_visit(results, results[0])
    if len(ordered) != len(results):
        raise InputError("the results stem from several priors: report on those of one prior at a time")
    by_followup: dict[str, Any] = {}
    notes = []
    for node in ordered:
        followup = node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole())
        if followup.GetID() in by_followup:
            notes.append(f"{followup.GetName()}: has several results, of which the last is reported")
        by_followup[followup.GetID()] = node
    return list(by_followup.values()), notes


def _prior_volume(node: Any) -> Any:
    """Volume node of the prior, or None if it is no longer in the scene."""
    segmentation = node.GetNodeReference(PRIOR_ROLE)
    return (
        None if segmentation is None else segmentation.GetNodeReference(segmentation.GetReferenceImageGeometryReferenceRole())
    )


def _names(prior: Any, nodes: Sequence[Any], labels: Sequence[str]) -> dict[str, str]:
    """Labels by the names of the nodes."""
    names: dict[str, str] = {}
    for node, label in zip(nodes, labels, strict=True):
        for each in (node, node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole())):
            names[str(each.GetName())] = label
    if prior is not None:
        names[str(prior.GetName())] = PRIOR_LABEL
        names[str(nodes[0].GetNodeReference(PRIOR_ROLE).GetName())] = PRIOR_LABEL
    return names


def _days(prior: Any, visits: Sequence[SceneVisit]) -> list[int] | None:
    """Days of the visits since the prior; None unless all dates are known."""
    dates = [_date(prior), *(_date(visit.followup_node) for visit in visits)]
    first = dates[0]
    if first is None:
        return None
    days = [(each - first).days for each in dates if each is not None]
    return days[1:] if len(days) == len(dates) else None


def _date(node: Any) -> date | None:
    text = "" if node is None else identity_of(node).acquired or ""
    with suppress(ValueError):
        return date(int(text[:4]), int(text[4:6]), int(text[6:8]))
    return None


def _identity(prior: Any, visits: Sequence[SceneVisit]) -> ReportIdentity:
    """Who the patient is, as the subject hierarchy has it from DICOM."""
    import slicer

    node = visits[0].followup_node if prior is None else prior
    constants = slicer.vtkMRMLSubjectHierarchyConstants
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    item = hierarchy.GetItemByDataNode(node)
    patient = hierarchy.GetItemAncestorAtLevel(item, constants.GetDICOMLevelPatient()) if item else 0

    def told(attribute: str) -> str:
        return str(hierarchy.GetItemAttribute(patient, attribute) or "") if patient else ""

    dates = {PRIOR_LABEL: _date(prior), **{visit.result.name: _date(visit.followup_node) for visit in visits}}
    return ReportIdentity(
        patient_name=told(constants.GetDICOMPatientNameAttributeName()),
        patient_id=told(constants.GetDICOMPatientIDAttributeName()),
        birth_date=told(constants.GetDICOMPatientBirthDateAttributeName()),
        visits={label: each.isoformat() for label, each in dates.items() if each is not None},
    )


def _write_visit(stage: Path, visit: SceneVisit, number: int, days: list[int] | None, dicom: bool) -> list[str]:
    """Write a visit's folder.

    :returns: what was left out, in words.
    """
    label = visit.result.name
    folder = stage / label
    notes = list(visit.notes)
    write_results(folder, [visit.result], inputs={"followup": label, "references": [PRIOR_LABEL]})
    write_segmentation(_present(visit), folder / f"{label}_reviewed.seg.nrrd")
    exports, more = _export(folder, visit) if dicom else ([], [])
    pictures, still = _pictures(visit)
    notes += [*more, *still]
    entries = []
    for each in pictures:
        (folder / "pictures").mkdir(exist_ok=True)
        (folder / "pictures" / f"{each.name}.png").write_bytes(each.png)
        entries.append(each.as_dict(f"pictures/{each.name}.png"))
    content: dict[str, Any] = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "key": "exported from 3D Slicer",
        "label": label,
        "number": number,
        "day": None if days is None else days[number - 2],
        "carried_from": "prior",
        "references": [PRIOR_LABEL],
        "unreviewed_references": [],
        "outcome": DONE,
        "exports": exports,
        "pictures": entries,
        "reference_agreement": None,
        "notes": notes,
    }
    content["files"] = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    write_json(folder / VISIT_NAME, plain(content))
    return [f"{label}: {text}" for text in notes]


def _present(visit: SceneVisit) -> Segmentation:
    """The contours as they are now, with what was decided on them; nothing empty."""
    tags: dict[str, Mapping[str, str]] = {}
    for identifier in contours_to_review(visit.node):
        segment = visit.node.GetSegmentation().GetSegment(identifier)
        told = [(name, tag_of(segment, name)) for name in (SOURCE_TAG, *REVIEW_TAGS)]
        found = {name: text for name, text in told if text is not None}
        tags.setdefault(found.get(SOURCE_TAG) or str(segment.GetName()), found)
    segments = []
    for each in followup_segments(visit.result):
        source = _judged(visit, each.name, is_comparison(each))
        if source is not None:
            own = {SOURCE_TAG: source, **tags.get(source, {})}
            own = {**each.tags, **{name: written_tag(text) for name, text in own.items()}}
            each = replace(each, mask=visit.present[source], tags=own)
        segments.append(each)
    return Segmentation(visit.followup.grid, tuple(each for each in segments if each.mask.any()), visit.result.name)


def _judged(visit: SceneVisit, name: str, comparison: bool) -> str | None:
    """The structure of which this is the contour that a person judges; None for one that is there for comparison only.

    Where there is no contour of the tool's own, the registered prior contour is the one to judge.
    """
    source = name.removesuffix(COMPARISON_SUFFIX) if comparison else name
    without = {each.source.name for each in visit.result.segments if each.mask is None}
    return source if source in visit.present and (not comparison or source in without) else None


def _pictures(visit: SceneVisit) -> tuple[tuple[Picture, ...], list[str]]:
    """Pictures, or why there are none."""
    contours, node = visit.node.GetNodeReference(PRIOR_ROLE), _prior_volume(visit.node)
    if contours is None or node is None:
        return (), ["no pictures, because the prior is no longer in the scene"]
    try:
        prior = volume_from_node(node)
        wanted = [result.source.name for result in visit.result.segments]
        ids = [each for each in _ids(contours) if contours.GetSegmentation().GetSegment(each).GetName() in wanted]
        segments, _ = segments_from_node(contours, node, prior, ids)
    except InputError:
        return (), ["no pictures, because the prior or its contours cannot be read"]
    found = {segment.name for segment in segments}
    own = replace(visit.result, segments=tuple(each for each in visit.result.segments if each.source.name in found))
    missing = [name for name in wanted if name not in found]
    notes = [f"no picture of {name}, because its contour is no longer on the prior" for name in missing]
    return visit_pictures(prior, segments, visit.followup, own, visit.edited), notes


def _ids(node: Any) -> list[str]:
    return [str(each) for each in node.GetSegmentation().GetSegmentIDs()]


def _export(folder: Path, visit: SceneVisit) -> tuple[list[dict[str, Any]], list[str]]:
    """Write RTSTRUCT and SEG of the present contours.

    :returns: what is told of each, and why there is none, in words.
    """
    why = "no RTSTRUCT and no SEG was written, because"
    files = dicom_files(visit.followup_node)
    if not files:
        return [], [f"{why} the follow-up did not come from Slicer's DICOM database"]
    from P2SAMSlicerLib.dicom.export_contours import export_contours
    from P2SAMSlicerLib.dicom.seg_writer import write_dicom_seg
    from P2SAMSlicerLib.dicom.series import read_ct_series
    from P2SAMSlicerLib.dicom.structure_set_writer import write_structure_set

    try:
        series = read_ct_series(files, visit.result.name)
    except P2SAMError:
        return [], [f"{why} the follow-up's DICOM files cannot be read as one series"]
    contours = []
    for each in export_contours(visit.result, visit.reviews):
        source = _judged(visit, each.name, each.comparison)
        mask = each.mask if source is None else visit.present[source]
        if not mask.any():
            continue
        placed = _on_series(mask, visit.followup_node, series)
        if placed is None:
            return [], [f"{why} the follow-up in the scene does not have the voxels of its DICOM files"]
        contours.append(replace(each, mask=placed))
    if not contours:
        return [], [f"{why} there is no contour to write"]
    exports = []
    for kind, write in (("RTSTRUCT", write_structure_set), ("SEG", write_dicom_seg)):
        file = f"{visit.result.name}_{kind}.dcm"
        trips = write(folder / file, contours, series.volume.grid, series.reference)
        exports.append({"file": file, "kind": kind, "round_trip": [asdict(trip) for trip in trips]})
    return exports, []


def dicom_files(node: Any) -> list[Path]:
    """The files of a volume that Slicer loaded from its DICOM database; empty if it did not, or if one of them is gone."""
    import slicer

    database = getattr(slicer, "dicomDatabase", None)
    instances = (node.GetAttribute(INSTANCES_ATTRIBUTE) or "").split()
    if database is None or not instances:
        return []
    files = [Path(str(database.fileForInstance(each) or "")) for each in instances]
    # One file may hold several frames, and then it is named as often.
    return list(dict.fromkeys(files)) if all(each.is_file() for each in files) else []


def _on_series(mask: BoolArray, node: Any, series: CtSeries) -> BoolArray | None:
    """A mask on the voxels of the DICOM series, wherever the volume was moved to; None if the voxels are other ones."""
    own = grid_from_matrix(own_matrix(node), mask.shape, node.GetName())
    theirs = series.volume.grid
    apart = np.linalg.norm(own.corners()[:, None] - theirs.corners()[None], axis=-1)
    if sorted(own.shape) != sorted(theirs.shape) or apart.min(axis=1).max() > LARGEST_SHIFT_MM:
        return None
    placed = resample_mask(mask, own, theirs)
    return placed if np.count_nonzero(placed) == np.count_nonzero(mask) else None
