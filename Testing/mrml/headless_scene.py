"""A MRML scene as Slicer has it, without the application: what ``slicer.util`` expects to find."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any


def new_scene() -> Any:
    """A fresh scene with the logics that nodes, colours, segmentations and the subject hierarchy need."""
    import slicer

    scene = slicer.vtkMRMLScene()
    slicer.mrmlScene = scene
    application = slicer.vtkSlicerApplicationLogic()
    application.SetMRMLScene(scene)
    logics: dict[str, Any] = {}
    for name, logic_class in (
        ("colors", slicer.vtkSlicerColorLogic),
        ("volumes", slicer.vtkSlicerVolumesLogic),
        ("segmentations", slicer.vtkSlicerSegmentationsModuleLogic),
        ("subjecthierarchy", slicer.vtkSlicerSubjectHierarchyModuleLogic),
    ):
        logic = logic_class()
        logic.SetMRMLApplicationLogic(application)
        logic.SetMRMLScene(scene)
        application.SetModuleLogic(name.capitalize(), logic)
        logics[name] = logic
    logics["colors"].AddDefaultColorNodes()
    slicer.modules = SimpleNamespace(**{n: SimpleNamespace(logic=lambda held=held: held) for n, held in logics.items()})
    slicer.app = SimpleNamespace(
        testingEnabled=lambda: True,
        processEvents=lambda: None,
        applicationLogic=lambda: application,
        pauseRender=lambda: None,
        resumeRender=lambda: None,
    )
    return scene
