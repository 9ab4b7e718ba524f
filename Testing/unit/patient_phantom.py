"""A small patient: visits in plain files and as DICOM, orders on them, and an engine that carries contours at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from P2SAMSlicerLib.dicom.ct_writer import WrittenPatient, write_ct_series
from P2SAMSlicerLib.dicom.export_contours import ExportContour
from P2SAMSlicerLib.dicom.structure_set_writer import write_structure_set
from P2SAMSlicerLib.options import PropagationOptions
from P2SAMSlicerLib.patient.visit_order import ContourSource, CtSource, PatientVisit, VisitOrder
from P2SAMSlicerLib.progress import Progress, ProgressEvent
from P2SAMSlicerLib.result import SegmentResult, VisitResult
from P2SAMSlicerLib.segmentation_file import write_segmentation
from P2SAMSlicerLib.visit_checks import check_visits
from P2SAMSlicerLib.volume import Segment, Segmentation, Volume
from P2SAMSlicerLib.volume_file import write_volume
from small_visits import PRIOR_GRID, ball, phantom, segment_result, visit_result

#: All visits lie on one grid, so that a contour is carried by copying it.
GRID = PRIOR_GRID
#: Name and id of the patient; no message and no record may hold either.
PATIENT = WrittenPatient("DOE-77", "Doe^Jane")


class CopyEngine:
    """Stands for the engine: the contour on the follow-up is the reference's, unless the test says otherwise.

    :ivar calls: label of the reference, names of the segments, label of the follow-up.
    :ivar answer: makes the result of one segment.
    :ivar faults: what is raised for a follow-up, by its label.
    :ivar loaded: how often the model was loaded.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[str, ...], str]] = []
        self.faults: dict[str, BaseException] = {}
        self.loaded = 0
        self.answer: Callable[[str, Segment, Volume], SegmentResult] = self.copied

    @staticmethod
    def copied(_reference: str, source: Segment, followup: Volume) -> SegmentResult:
        volume = float(source.mask.sum()) * followup.grid.voxel_ml
        return segment_result(
            source,
            followup.grid,
            mask=source.mask,
            registered_mask=source.mask,
            prior_volume_ml=volume,
            volume_ml=volume,
            volume_change_percent=0.0,
            registration={"local_correlation": 0.9, "reasons": []},
        )

    def load_model(self, *_arguments: Any, **_options: Any) -> Any:
        self.loaded += 1
        return SimpleNamespace(device="cpu")

    def propagate(
        self,
        _model: Any,
        prior: Volume,
        segments: Sequence[Segment],
        followup: Volume,
        options: PropagationOptions,
        progress: Progress,
    ) -> VisitResult:
        self.calls.append((prior.name, tuple(each.name for each in segments), followup.name))
        progress(ProgressEvent("registration", 0, 2))
        overrides = check_visits(prior, followup, options)
        if followup.name in self.faults:
            raise self.faults[followup.name]
        found = [self.answer(prior.name, each, followup) for each in segments]
        return visit_result(
            *found,
            name=followup.name,
            grid=followup.grid,
            overrides=overrides,
            registration={"kind": "deformable", "body_correlation": 0.9, "reasons": []},
        )


def gtv(radius_mm: float = 10.0, name: str = "GTV", **fields: Any) -> Segment:
    """A ball around the phantom's lesion."""
    return Segment(name, ball(GRID, radius_mm), **fields)


def write_visit(folder: Path, contours: Sequence[Segment] = (), name: str = "contours.seg.nrrd") -> Path:
    """Write ``ct.nrrd``, and contours if there are any, into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_volume(phantom(GRID), folder / "ct.nrrd")
    if contours:
        write_segmentation(Segmentation(GRID, tuple(contours)), folder / name)
    return folder


def write_dicom_visit(
    folder: Path, day: date, contours: Sequence[Segment] = (), *, patient: WrittenPatient = PATIENT, **tags: Any
) -> Path:
    """Write a CT as DICOM, and contours as a planning system would have drawn them.

    :param tags: of the structure set; without any it is a physician's that nobody has approved.
    """
    reference = write_ct_series(folder / "ct", phantom(GRID), patient, day, "simulated")
    if contours:
        drawn = [
            ExportContour(each.name, each.mask, (1.0, 0.0, 0.0), None, False, "AUTOMATIC", "drawn by hand") for each in contours
        ]
        write_structure_set(folder / "rs.dcm", drawn, GRID, reference)
        edit_dicom(
            folder / "rs.dcm",
            **{"ManufacturerModelName": "TPS", "StructureSetLabel": "PLAN", "SeriesDescription": "plan", **tags},
        )
    return folder


def edit_dicom(path: Path, **tags: Any) -> None:
    """Change a file's header as somebody else's program would."""
    import pydicom

    dataset = pydicom.dcmread(path)
    for name, value in tags.items():
        setattr(dataset, name, value)
    dataset.save_as(path)


def visit(folder: Path, number: int, *, approved: bool = False, **fields: Any) -> PatientVisit:
    """The visit of a folder that :func:`write_visit` has written."""
    path = folder / "contours.seg.nrrd"
    values: dict[str, Any] = {
        "number": number,
        "label": f"visit_{number}",
        "day": 28 * (number - 1),
        "acquired": f"2024{number:02d}01",
        "ct": CtSource((folder / "ct.nrrd",), dicom=False),
        "contours": (ContourSource(path, approved),) if path.exists() else (),
        **fields,
    }
    return PatientVisit(**values)


def order(references: Sequence[PatientVisit], followup: PatientVisit, out: Path, **fields: Any) -> VisitOrder:
    """An order with the usual options."""
    return replace(VisitOrder(tuple(references), followup, out / followup.label), **fields)
