"""Small DICOM CTs and contours on them, for the tests of what is written."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from P2SAMSlicerLib.dicom.ct_reference import CtReference, CtSeries
from P2SAMSlicerLib.dicom.ct_writer import WrittenPatient, write_ct_series
from P2SAMSlicerLib.dicom.export_contours import ExportContour
from P2SAMSlicerLib.dicom.series import read_ct_series
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.volume import BoolArray, Volume
from small_visits import TERMINOLOGY, ball

#: Turned about the body's axis, with numbers that are not round; frames do not begin at whole bytes (23 x 21 voxels).
OBLIQUE = (0.8, 0.6, 0.0, -0.6, 0.8, 0.0, 0.0, 0.0, 1.0)
GRID = Grid((9, 23, 21), (1.9765625, 2.1, 3.3), (-21.123456, -19.3, -13.75), OBLIQUE)
PATIENT = WrittenPatient("TRIAL-1", "Trial^Jürgen")


def written_ct(folder: Path, grid: Grid = GRID) -> CtReference:
    """A CT of nothing on the disk, and what contours on it refer to."""
    return write_ct_series(
        folder, Volume(np.zeros(grid.shape, dtype=np.int16), grid, "ct"), PATIENT, date(2024, 1, 2), "simulated"
    )


def series_in(folder: Path) -> CtSeries:
    """A CT with its reference, from all files of a folder."""
    return read_ct_series(sorted(folder.iterdir()), "ct")


def centre_of(grid: Grid, offset_mm: float = 0.0) -> list[float]:
    """Its middle as an LPS point, moved along all axes."""
    return [float(each) + offset_mm for each in grid.to_physical((np.array([grid.shape[::-1]]) - 1) / 2)[0]]


def contour(name: str, mask: BoolArray, **fields: Any) -> ExportContour:
    """A contour as an unreviewed run gives it."""
    values: dict[str, Any] = {
        "color": (1.0, 0.5, 0.0),
        "terminology": TERMINOLOGY,
        "comparison": False,
        "algorithm": "AUTOMATIC",
        "description": f"{name}. UNREVIEWED. For research use only.",
        "source_tags": {"DICOM.SegmentAlgorithmName": "P2SAMSlicer 0.0 (lite_medsam)"},
    }
    return ExportContour(name=name, mask=mask, **{**values, **fields})


def usual_contours(grid: Grid, radius_mm: float = 14.0) -> tuple[ExportContour, ...]:
    """A tumour with a hole, an organ that overlaps it, and the registered prior contour."""
    middle = centre_of(grid)
    tumour = ball(grid, radius_mm, middle) & ~ball(grid, 0.45 * radius_mm, middle)
    registered = {"DICOM.SegmentAlgorithmName": "P2SAMSlicer 0.0 (registration)"}
    return (
        contour("GTV primary", tumour),
        contour(
            "Lung_L",
            ball(grid, 0.7 * radius_mm, centre_of(grid, radius_mm / 2)),
            terminology=None,
            algorithm="SEMIAUTOMATIC",
            color=None,
        ),
        contour(
            "GTV primary registered prior",
            ball(grid, radius_mm, centre_of(grid, 2.0)),
            comparison=True,
            terminology=None,
            source_tags=registered,
        ),
    )


def with_header(reference: CtReference, **values: Any) -> CtReference:
    """The same CT with other values in its header; None takes one away."""
    header = replace(reference).header.__class__(reference.header)
    for name, value in values.items():
        if value is None and name in header:
            del header[name]
        elif value is not None:
            setattr(header, name, value)
    return replace(reference, header=header)


def dicom_errors(program: str, path: Path) -> list[str]:
    """Lines of ``dciodvfy`` that name an error."""
    done = subprocess.run([program, str(path)], capture_output=True, text=True, timeout=60, check=False)
    said = (done.stdout + done.stderr).splitlines()
    assert any(word in line for line in said for word in ("RTStructureSet", "Segmentation")), "the object was not recognised"
    return [line for line in said if line.startswith("Error")]
