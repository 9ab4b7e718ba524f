"""A DICOM patient to try the tool on: the demo's real CT with its contour, and simulated later visits with known truth."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from P2SAMSlicerLib import demo_data
from P2SAMSlicerLib.atomic_file import atomic_folder, atomic_write, check_writable
from P2SAMSlicerLib.dicom.ct_reference import CtReference
from P2SAMSlicerLib.dicom.ct_writer import WrittenPatient, write_ct_series
from P2SAMSlicerLib.dicom.export_contours import ExportContour
from P2SAMSlicerLib.dicom.structure_set_writer import write_structure_set
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.progress import Progress, ProgressEvent, silent
from P2SAMSlicerLib.segmentation_file import read_segmentation, write_segmentation
from P2SAMSlicerLib.simulation.visit import SimulationOptions, simulate_followup
from P2SAMSlicerLib.volume import BoolArray, Segment, Segmentation, Volume
from P2SAMSlicerLib.volume_file import read_volume

#: No person: the CT is public and without identity.
PATIENT = WrittenPatient("P2SAM-DEMO", "Demo^Lung")
FIRST_DAY = date(2024, 1, 8)
DAYS_BETWEEN = 21
#: What the tumour does on the later visits.
LATER = (SimulationOptions(change="partial", seed=1), SimulationOptions(change="shrink", change_fraction=-0.55, seed=2))

SEGMENT_NAME, SEGMENT_COLOR = "GTVp", (0.90, 0.62, 0.0)
DICOM_FOLDER, TRUTH_FOLDER = "dicom", "truth"
STRUCTURE_SET_NAME = "RS.dcm"
CONVERTED, SIMULATED = "public CT, converted", "simulated, no scan of a patient"

#: Room for three CTs.
NEED_BYTES = 150_000_000


def write_demo_patient(out: Path | str, progress: Progress = silent) -> tuple[Path, ...]:
    """Write ``dicom/visit_1`` (CT and RTSTRUCT), ``dicom/visit_2``, ``dicom/visit_3`` (CTs), and their ``truth``.

    :param out: made if needed; all appears or nothing.
    :returns: the visits' folders, in order.
    :raises InputError: the data cannot be had, or the folder holds files already.
    :raises OutputError: the files cannot be written.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out.name}: there already; choose another folder for the patient")
    check_writable(out, NEED_BYTES)
    ct_file, label_file = demo_data.lung_ct(progress)
    prior = replace(read_volume(ct_file), name="prior")
    mask = read_segmentation(label_file).segments[0].mask
    with atomic_folder(out) as stage:
        return tuple(out / DICOM_FOLDER / name for name in write_patient(stage, prior, mask, LATER, progress))


def write_patient(
    out: Path,
    prior: Volume,
    mask: BoolArray,
    later: tuple[SimulationOptions, ...],
    progress: Progress = silent,
) -> list[str]:
    """Write a contoured CT and simulated later visits of it as a DICOM patient.

    :param out: an existing folder; nothing in it is all-or-nothing but the files themselves.
    :param mask: the lesion on the prior's grid.
    :param later: one for each later visit.
    :returns: the visits' names, which are those of their folders.
    """
    names = []
    for number, options in enumerate((None, *later)):
        progress(ProgressEvent("simulation", number, 1 + len(later)))
        name = f"visit_{number + 1}"
        volume, truth, how = prior, mask, CONVERTED
        if options is not None:
            visit = simulate_followup(prior, mask, options)
            volume, truth, how = replace(visit.followup, name=name), visit.mask, SIMULATED
        day = FIRST_DAY + timedelta(days=DAYS_BETWEEN * number)
        folder = out / DICOM_FOLDER / name
        reference = write_ct_series(folder, volume, PATIENT, day, how)
        if number == 0:
            _write_drawn(folder / STRUCTURE_SET_NAME, truth, volume.grid, reference)
        else:
            (out / TRUTH_FOLDER).mkdir(exist_ok=True)
            segments = (Segment(SEGMENT_NAME, truth, SEGMENT_COLOR),) if truth.any() else ()
            if segments:
                write_segmentation(Segmentation(volume.grid, segments, name), out / TRUTH_FOLDER / f"{name}.seg.nrrd")
        names.append(name)
    progress(ProgressEvent("simulation", 1 + len(later), 1 + len(later)))
    return names


def _write_drawn(path: Path, mask: BoolArray, grid: Grid, reference: CtReference) -> None:
    """The prior's contour as a planning system would have exported it: drawn and approved by a person, not by this tool."""
    import pydicom

    contour = ExportContour(SEGMENT_NAME, mask, SEGMENT_COLOR, None, False, "SEMIAUTOMATIC", CONVERTED)
    with atomic_write(path) as temporary:
        with TemporaryDirectory() as folder:
            written = Path(folder) / path.name
            write_structure_set(written, (contour,), grid, reference)
            dataset = pydicom.dcmread(written)
        dataset.Manufacturer, dataset.ManufacturerModelName = "converted", "public data"
        dataset.StructureSetLabel = dataset.SeriesDescription = "RT contours"
        dataset.StructureSetDescription = CONVERTED
        dataset.ApprovalStatus, dataset.ReviewerName = "APPROVED", "Demo"
        for name in ("ReviewDate", "StructureSetDate", "SeriesDate", "InstanceCreationDate"):
            setattr(dataset, name, FIRST_DAY.strftime("%Y%m%d"))
        dataset.ReviewTime = dataset.StructureSetTime
        for roi in dataset.StructureSetROISequence:
            roi.ROIGenerationAlgorithm, roi.ROIGenerationDescription, roi.ROIDescription = "MANUAL", "", ""
        dataset.save_as(temporary, enforce_file_format=True)
