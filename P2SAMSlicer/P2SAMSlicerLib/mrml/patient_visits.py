"""The visits of a patient in Slicer's subject hierarchy: which CT was contoured, and which came later."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.mrml.result_nodes import is_result


@dataclass(frozen=True)
class PatientVisits:
    """What is to be carried where.

    :param prior: volume node of the prior visit.
    :param segmentation: segmentation node on it.
    :param followups: volume nodes of the later visits, by date.
    """

    prior: Any
    segmentation: Any
    followups: tuple[Any, ...]


@dataclass(frozen=True)
class _Study:
    name: str
    date: str
    volumes: tuple[Any, ...]
    segmentations: tuple[Any, ...]


def visits_of(patient: int | str) -> PatientVisits:
    """The visits of a patient: the earliest contoured one is the prior, all later ones are follow-ups.

    :param patient: item of the subject hierarchy, or its name.
    :raises InputError: no such patient; nothing contoured; no later visit; a visit without a date, of the day of the contoured
        one, or with several CTs, so that a person has to say which is meant.
    """
    import slicer

    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    item = patient if isinstance(patient, int) else _patient_named(hierarchy, patient)
    studies = [study for study in _studies(hierarchy, item) if study.volumes]
    undated = [study.name for study in studies if not study.date]
    if undated:
        raise InputError(f"no study date for: {', '.join(undated)}; name the prior and the follow-ups yourself")
    studies.sort(key=lambda study: study.date)
    contoured = next((study for study in studies if study.segmentations), None)
    if contoured is None:
        raise InputError("none of the patient's visits has a segmentation")
    same_day = [study.name for study in studies if study.date == contoured.date and study is not contoured]
    if same_day:
        raise InputError(
            f"{', '.join(same_day)}: of the same day as the contoured visit ({contoured.name});"
            " name the prior and the follow-ups yourself"
        )
    later = [study for study in studies if study.date > contoured.date]
    if not later:
        raise InputError(f"no visit is later than the contoured one ({contoured.name})")
    for study in (contoured, *later):
        if len(study.volumes) > 1:
            names = ", ".join(node.GetName() for node in study.volumes)
            raise InputError(f"{study.name}: several volumes ({names}); name the prior and the follow-ups yourself")
    if len(contoured.segmentations) > 1:
        names = ", ".join(node.GetName() for node in contoured.segmentations)
        raise InputError(f"{contoured.name}: several segmentations ({names}); name the one to carry")
    return PatientVisits(contoured.volumes[0], contoured.segmentations[0], tuple(study.volumes[0] for study in later))


def _patient_named(hierarchy: Any, name: str) -> int:
    import slicer

    constants = slicer.vtkMRMLSubjectHierarchyConstants
    found = [item for item in _below(hierarchy, hierarchy.GetSceneItemID(), recursive=True) if _is(hierarchy, item, constants)]
    matching = [item for item in found if hierarchy.GetItemName(item) == name]
    if len(matching) != 1:
        raise InputError(f"{len(matching)} patients of that name in the scene; give the item's number")
    return matching[0]


def _is(hierarchy: Any, item: int, constants: Any) -> bool:
    return bool(hierarchy.GetItemLevel(item) == constants.GetDICOMLevelPatient())


def _studies(hierarchy: Any, patient: int) -> list[_Study]:
    import slicer

    constants = slicer.vtkMRMLSubjectHierarchyConstants
    if not patient or not _is(hierarchy, patient, constants):
        raise InputError("the chosen item of the subject hierarchy is no patient")
    return [
        _study(hierarchy, item, constants)
        for item in _below(hierarchy, patient)
        if hierarchy.GetItemLevel(item) == constants.GetDICOMLevelStudy()
    ]


def _study(hierarchy: Any, item: int, constants: Any) -> _Study:
    nodes = [hierarchy.GetItemDataNode(each) for each in _below(hierarchy, item, recursive=True)]
    volumes = [node for node in nodes if node is not None and node.GetClassName() == "vtkMRMLScalarVolumeNode"]
    contours = [node for node in nodes if node is not None and node.GetClassName() == "vtkMRMLSegmentationNode"]
    return _Study(
        str(hierarchy.GetItemName(item)),
        str(hierarchy.GetItemAttribute(item, constants.GetDICOMStudyDateAttributeName()) or ""),
        tuple(volumes),
        # Contours that were carried here are results, not what a physician drew.
        tuple(node for node in contours if not is_result(node)),
    )


def _below(hierarchy: Any, item: int, recursive: bool = False) -> list[int]:
    import vtk

    found = vtk.vtkIdList()
    hierarchy.GetItemChildren(item, found, recursive)
    return [found.GetId(number) for number in range(found.GetNumberOfIds())]
