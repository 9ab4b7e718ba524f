"""Pictures of slice views: the volume by the slice logic, contours and markups by Slicer's own displayable managers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

MANAGERS = (
    "vtkMRMLVolumeGlyphSliceDisplayableManager",
    "vtkMRMLSegmentationsDisplayableManager2D",
    "vtkMRMLMarkupsDisplayableManager",
    "vtkMRMLCrosshairDisplayableManager",
)


class OffscreenView:
    """A slice view without a window.

    :param logic: slice logic of the view.
    :param size: width and height in pixels; the slice node takes them over.
    """

    def __init__(self, logic: Any, application_logic: Any, size: tuple[int, int] = (512, 512)) -> None:
        import slicer
        import vtk

        self._logic = logic
        node = logic.GetSliceNode()
        fit_size(logic, size)
        self._window = vtk.vtkRenderWindow()
        self._window.SetOffScreenRendering(True)
        self._window.SetMultiSamples(0)
        self._window.SetSize(*size)
        self._renderer = vtk.vtkRenderer()
        self._renderer.GetActiveCamera().ParallelProjectionOn()
        self._window.AddRenderer(self._renderer)
        self._interactor = vtk.vtkGenericRenderWindowInteractor()
        self._interactor.SetRenderWindow(self._window)
        self._mapper = vtk.vtkImageMapper()
        self._mapper.SetColorWindow(255)
        self._mapper.SetColorLevel(127.5)
        actor = vtk.vtkActor2D()
        actor.SetMapper(self._mapper)
        actor.GetProperty().SetDisplayLocationToBackground()
        self._renderer.AddViewProp(actor)
        self._factory = slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance()
        self._factory.SetMRMLApplicationLogic(application_logic)
        for name in MANAGERS:
            if hasattr(slicer, name) and not self._factory.IsDisplayableManagerRegistered(name):
                self._factory.RegisterDisplayableManager(name)
        self._group = self._factory.InstantiateDisplayableManagers(self._renderer)
        self._group.SetMRMLDisplayableNode(node)

    def save(self, path: Path) -> None:
        """Draw, and write a PNG picture."""
        import vtk

        pipeline = self._logic.GetBlend()
        self._logic.UpdatePipeline()
        pipeline.Update()
        self._mapper.SetInputConnection(pipeline.GetOutputPort())
        self._window.Render()
        grabber = vtk.vtkWindowToImageFilter()
        grabber.SetInput(self._window)
        grabber.ReadFrontBufferOff()
        grabber.Update()
        writer = vtk.vtkPNGWriter()
        writer.SetFileName(str(path))
        writer.SetInputConnection(grabber.GetOutputPort())
        writer.Write()

    def close(self) -> None:
        """Free the window."""
        self._group.SetMRMLDisplayableNode(None)
        self._interactor.SetRenderWindow(None)
        self._window.RemoveRenderer(self._renderer)
        self._window.Finalize()


def fit_size(logic: Any, size: tuple[int, int]) -> None:
    """Bring the slice node to a picture's size; the same width of the patient stays in view."""
    node = logic.GetSliceNode()
    width = node.GetFieldOfView()[0]
    logic.ResizeSliceNode(*size)
    field = node.GetFieldOfView()
    scale = width / field[0]
    node.SetFieldOfView(width, field[1] * scale, field[2])


def slice_picture(name: str, path: Path, size: tuple[int, int] = (512, 512)) -> None:
    """Write a picture of the slice view ``Red``, ``Green`` or ``Yellow``, at its present offset."""
    import slicer

    logic = slicer.app.layoutManager().sliceWidget(name).sliceLogic()
    view = OffscreenView(logic, slicer.app.applicationLogic(), size)
    try:
        view.save(path)
    finally:
        view.close()


def panel_picture(widget: Any, path: Path, width: int = 460) -> None:
    """Write a picture of a panel, as high as it needs to be."""
    from PySide6 import QtWidgets

    QtWidgets.QWidget.resize(widget, width, QtWidgets.QWidget.sizeHint(widget).height())
    QtWidgets.QApplication.processEvents()
    if not QtWidgets.QWidget.grab(widget).save(str(path)):
        raise OSError(f"can not write {path}")
