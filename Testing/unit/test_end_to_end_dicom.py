"""On the command line: a real DICOM CT with its RTSTRUCT and a simulated DICOM second visit to RTSTRUCT, SEG and report."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path

import numpy as np
import pydicom
import pytest
from P2SAMSlicerLib.cli import main
from P2SAMSlicerLib.dicom.ct_writer import WrittenPatient, write_ct_series
from P2SAMSlicerLib.dicom.seg_reader import read_dicom_seg
from P2SAMSlicerLib.dicom.series import dicom_ct_of
from P2SAMSlicerLib.dicom.structure_set_reader import read_structure_set
from P2SAMSlicerLib.metrics import evaluate
from P2SAMSlicerLib.resample import resample_mask
from P2SAMSlicerLib.segmentation_file import read_segmentation
from P2SAMSlicerLib.simulation.visit import SimulatedVisit, SimulationOptions, simulate_followup

FIRST_DAY, WEEKS = date(2000, 1, 3), timedelta(days=28)


@dataclass(frozen=True)
class CarriedPatient:
    """What the command wrote.

    :param second: folder of the second visit's CT.
    :param patient_id: must stand in no file that is meant to be shared.
    """

    second: Path
    out: Path
    visit: SimulatedVisit
    patient_id: str
    patient_name: str
    printed: str


def carry(
    data: Path, name: str, change: SimulationOptions, tmp_path: Path, capsys: pytest.CaptureFixture[str], *more: str
) -> CarriedPatient:
    folder = tmp_path / "export of the planning system"
    # One of the two CTs has no date in its header; then the folders' names tell it.
    first, second = folder / f"{FIRST_DAY:%Y-%m-%d}", folder / f"{FIRST_DAY + WEEKS:%Y-%m-%d}"
    shutil.copytree(data / "dicom" / name, first / "export")
    prior = dicom_ct_of(first / "export" / "CT")
    (structures,) = (first / "export" / "RTSTRUCT").iterdir()
    segment = read_structure_set(structures, prior.volume.grid, prior.reference).segmentation.segments[0]
    visit = simulate_followup(prior.volume, segment.mask, change)
    header = prior.reference.header
    patient = WrittenPatient(str(header.PatientID), str(header.PatientName))
    acquired = prior.volume.identity.acquired
    day = datetime.strptime(acquired[:8], "%Y%m%d").date() if acquired else FIRST_DAY
    write_ct_series(second, visit.followup, patient, day + WEEKS)
    out = tmp_path / "results"
    status = main(["patient", str(folder), "--prior", "1", "--out", str(out), "--threads", "1", *more])
    printed = capsys.readouterr()
    assert status == 0, printed.err
    return CarriedPatient(second, out, visit, patient.patient_id, patient.name, printed.out + printed.err)


def check(carried: CarriedPatient, tool: Callable[[str], str]) -> None:
    """Contours, exports and report are there, agree with each other, name nobody, and are better than registration alone."""
    followup = dicom_ct_of(carried.second)
    grid, truth = followup.volume.grid, carried.visit.mask
    result = carried.out / "visit_2"
    drawn = read_segmentation(result / "visit_2.seg.nrrd")
    contour, registered = (resample_mask(segment.mask, drawn.grid, grid) for segment in drawn.segments)
    dice = [evaluate(mask, truth, grid).volumetric_dice for mask in (contour, registered)]
    assert dice[0] > 0.8
    assert dice[0] > dice[1] - 0.01
    structures = read_structure_set(result / "visit_2_RTSTRUCT.dcm", grid, followup.reference).segmentation.segments
    np.testing.assert_array_equal(structures[0].mask, contour)
    segmentation = read_dicom_seg(result / "visit_2_SEG.dcm", reference=followup.reference).segmentation
    np.testing.assert_array_equal(resample_mask(segmentation.segments[0].mask, segmentation.grid, grid), contour)
    for kind in ("RTSTRUCT", "SEG"):
        file = result / f"visit_2_{kind}.dcm"
        said = subprocess.run([tool("dciodvfy"), str(file)], capture_output=True, text=True, check=False)
        assert "Error" not in said.stdout + said.stderr, said.stdout + said.stderr
        dataset = pydicom.dcmread(file)
        assert dataset.PatientID == carried.patient_id
        assert "UNREVIEWED" in dataset.SeriesDescription
    report = json.loads((carried.out / "report.json").read_text(encoding="utf-8"))
    page = (carried.out / "report.html").read_text(encoding="utf-8")
    assert "UNREVIEWED" in page
    assert "day 28" in page
    shared = [page, json.dumps(report), carried.printed]
    shared += [path.read_text(encoding="utf-8") for path in result.glob("*.json")]
    for text in shared:
        # One of the patients is called "1", which stands everywhere.
        assert len(carried.patient_id) < 3 or carried.patient_id not in text
        assert carried.patient_name not in text
        assert str(followup.reference.series_uid) not in text


def test_a_real_sarcoma_goes_from_dicom_to_dicom_and_report(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], tool: Callable[[str], str]
) -> None:
    change = SimulationOptions(change="shrink", seed=5, spacing=(1.0, 1.0, 6.0))
    # The lung below is carried with the usual number of parts.
    check(carry(shared_data, "sarcoma_ct_rtstruct", change, tmp_path, capsys, "--parts", "1"), tool)


@pytest.mark.long
def test_a_real_lung_tumour_goes_from_dicom_to_dicom_and_report(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], tool: Callable[[str], str]
) -> None:
    change = SimulationOptions(change="partial", seed=5)
    check(carry(shared_data, "lung_ct_rtstruct", change, tmp_path, capsys), tool)
