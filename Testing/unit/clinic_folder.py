"""A clinic's folder of small cases, and visits as commissioning measures them, for its tests."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from benchmark_cases import case_named
from P2SAMSlicerLib.benchmark.case_contours import CaseContours, MethodContour
from P2SAMSlicerLib.benchmark.cases import CaseData
from P2SAMSlicerLib.commissioning.clinic_cases import ClinicCase
from P2SAMSlicerLib.commissioning.measure import Measured, VisitFailure
from P2SAMSlicerLib.commissioning.measured_visit import MeasuredVisit, MethodFigures
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.metrics import evaluate
from P2SAMSlicerLib.patient.visit_order import CtSource
from P2SAMSlicerLib.resample import resample_mask
from P2SAMSlicerLib.segmentation_file import write_segmentation
from P2SAMSlicerLib.volume import Segment, Segmentation, Volume
from P2SAMSlicerLib.volume_file import write_volume
from small_visits import PRIOR_GRID, ball, phantom

#: Names that no output may hold.
PATIENTS = ("Doe_Jane_1948", "Muster_Max", "Roe_Rick", "Svensson_Ida", "Zappa_Zoe")


def write_clinic(folder: Path, patients: Sequence[str] = PATIENTS, site: str | None = None) -> Path:
    """A sub-folder for each patient with a CT and its contour; no two CTs are the same."""
    for number, patient in enumerate(patients):
        own = folder / patient
        own.mkdir(parents=True)
        ct = phantom(PRIOR_GRID)
        write_volume(Volume((ct.array + number).astype(np.int16), ct.grid, "ct"), own / f"{patient}_CT.nii.gz")
        tumour = Segment("GTVp", ball(PRIOR_GRID, 10.0))
        organ = Segment("Heart", ball(PRIOR_GRID, 8.0, (0.0, 20.0, 0.0)))
        write_segmentation(Segmentation(PRIOR_GRID, (tumour, organ)), own / f"{patient}.seg.nrrd")
        if site is not None:
            (own / "case.json").write_text(json.dumps({"site": site}))
    return folder


def clinic_case(number: int = 1, site: str = "lung") -> ClinicCase:
    file = Path("nowhere") / "Doe_Jane_1948" / "ct.nii.gz"
    return ClinicCase(f"case_{number:03d}", str(number), site, CtSource((file,), False), (file,), "Doe_Jane_1948")


@cache
def measured_visit(radius: float = 12.0, truth: float = 12.0, outcome: str = "found", **registration: float) -> MeasuredVisit:
    """The product's ball against a true ball; radius 0 for no contour, truth 0 for a tumour that has vanished."""
    grid = Grid((12, 16, 16), (3.0, 3.0, 3.0), (-22.5, -22.5, -16.5))
    result, true, copied = (ball(grid, each or -1.0) for each in (radius, truth, 15.0))
    figures = {"registration_error_mm": 1.0, "inverse_consistency_mm": 0.5, "folded_share": 0.0, **registration}
    if not truth:
        figures = {"folded_share": figures["folded_share"]}
    return MeasuredVisit(
        {
            "copy": MethodFigures(evaluate(copied, true, grid), 0.1, None),
            "clinical": MethodFigures(evaluate(result, true, grid), 20.0, outcome),
        },
        figures,
        {"seed": 7, "prior_ml": 4.0},
    )


def measured_of(
    visits: Sequence[MeasuredVisit],
    failures: Sequence[VisitFailure] = (),
    sites: Mapping[int, str] | None = None,
    **fields: Any,
) -> Measured:
    """Each visit of a patient of its own, at the site lung unless told otherwise by number from 0."""
    named = {
        f"case_{n + 1:03d}_shrink_1": (
            case_named(f"case_{n + 1:03d}_shrink_1", "shrink", (sites or {}).get(n, "lung"), str(n + 1)),
            visit,
        )
        for n, visit in enumerate(visits)
    }
    values: dict[str, Any] = {"methods": ("copy", "clinical"), "provenance": {"model": {"id": "stub"}, "seed": 0}, **fields}
    return Measured(named, tuple(failures), **values)


def true_contours(_model: Any, data: CaseData, methods: Sequence[str], *_: Any) -> CaseContours:
    """In place of the product: it finds the truth, and all others leave the contour where it was."""
    moved = resample_mask(data.segment.mask, data.prior.grid, data.followup.grid)
    contours = {method: MethodContour(moved, 1.0) for method in methods}
    contours["clinical"] = MethodContour(data.truth, 2.0, "found" if data.truth.any() else "no lesion found")
    return CaseContours(contours)
