"""RTSTRUCT out: read back by this library and by others, accepted by a validator, never over anything else."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK
from dicom_contours import GRID, contour, dicom_errors, series_in, usual_contours, with_header, written_ct
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from P2SAMSlicerLib.dicom.ct_reference import CtReference, SliceReference
from P2SAMSlicerLib.dicom.export_contours import ExportContour
from P2SAMSlicerLib.dicom.series import read_ct_series
from P2SAMSlicerLib.dicom.structure_set_reader import read_structure_set
from P2SAMSlicerLib.dicom.structure_set_writer import write_structure_set
from P2SAMSlicerLib.errors import InputError, OutputError
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.result_files import is_comparison
from P2SAMSlicerLib.volume import BoolArray
from small_visits import ball


@pytest.fixture(scope="module")
def ct(tmp_path_factory: pytest.TempPathFactory) -> CtReference:
    return written_ct(tmp_path_factory.mktemp("ct") / "series")


def write(path: Path, ct: CtReference, contours: tuple[ExportContour, ...] | None = None, **options: Any) -> pydicom.Dataset:
    """Write contours, and the object as pydicom reads it."""
    write_structure_set(path, usual_contours(GRID) if contours is None else contours, GRID, ct, **options)
    return pydicom.dcmread(path)


def test_every_voxel_comes_back_without_a_remark(ct: CtReference, tmp_path: Path) -> None:
    contours = usual_contours(GRID)
    trips = write_structure_set(tmp_path / "rs.dcm", contours, GRID, ct)
    again = read_structure_set(tmp_path / "rs.dcm", GRID, ct)
    assert again.warnings == ()
    for trip, before, after in zip(trips, contours, again.segmentation.segments, strict=True):
        np.testing.assert_array_equal(before.mask, after.mask)
        assert (trip.name, trip.roi_name) == (before.name, after.name)
        assert (trip.change_percent, trip.dice) == (0.0, 1.0)
        assert trip.volume_ml == trip.read_back_ml == pytest.approx(before.mask.sum() * GRID.voxel_ml)
    assert [is_comparison(each) for each in again.segmentation.segments] == [False, False, True]


@given(st.integers(0, 2**32 - 1), st.floats(0.001, 0.999))
@settings(max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_mask_comes_back_voxel_for_voxel(ct: CtReference, tmp_path: Path, seed: int, share: float) -> None:
    mask = np.random.default_rng(seed).random(GRID.shape) < share
    mask[4, 11, 10] = True
    (trip,) = write_structure_set(tmp_path / "any.dcm", [contour("GTV", mask)], GRID, ct, overwrite=True)
    again = read_structure_set(tmp_path / "any.dcm", GRID, ct).segmentation.segments[0].mask
    places = np.flatnonzero(np.asarray(mask.any(axis=(1, 2))))
    np.testing.assert_array_equal(mask[places], again[places])
    assert trip.dice == 1.0 or len(places) <= places[-1] - places[0], "only a gap may have been closed"


def test_evenly_spaced_gaps_that_a_reader_closes_are_reported(ct: CtReference, tmp_path: Path) -> None:
    mask = np.zeros(GRID.shape, dtype=np.bool_)
    mask[2:8:2, 5:12, 5:12] = True
    (trip,) = write_structure_set(tmp_path / "rs.dcm", [contour("GTV", mask)], GRID, ct)
    assert trip.change_percent > 0


def test_it_says_whose_it_is_what_made_it_and_that_it_is_not_approved(ct: CtReference, tmp_path: Path) -> None:
    dataset = write(tmp_path / "rs.dcm", ct)
    assert dataset.Modality == "RTSTRUCT"
    assert dataset.ApprovalStatus == "UNAPPROVED"
    assert str(dataset.PatientName) == "Trial^Jürgen"
    assert dataset.PatientID == "TRIAL-1"
    assert dataset.StudyInstanceUID == ct.study_uid
    assert dataset.SeriesInstanceUID not in ("", ct.series_uid)
    assert dataset.SOPInstanceUID not in {each.sop_instance_uid for each in ct.slices}
    assert dataset.file_meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID
    assert dataset.ManufacturerModelName == "P2SAMSlicer"
    assert dataset.SoftwareVersions
    assert len(dataset.StructureSetLabel) <= 16
    assert "UNREVIEWED" in dataset.StructureSetLabel
    assert "UNREVIEWED" in dataset.SeriesDescription
    for name in ("InstanceCreationDate", "InstanceCreationTime", "StructureSetDate", "StructureSetTime"):
        assert dataset[name].value


def test_two_exports_share_no_identifier_of_their_own(ct: CtReference, tmp_path: Path) -> None:
    first, second = write(tmp_path / "a.dcm", ct), write(tmp_path / "b.dcm", ct)
    assert first.SOPInstanceUID != second.SOPInstanceUID
    assert first.SeriesInstanceUID != second.SeriesInstanceUID


def test_each_roi_is_described(ct: CtReference, tmp_path: Path) -> None:
    dataset = write(tmp_path / "rs.dcm", ct)
    rois = dataset.StructureSetROISequence
    assert [each.ROIName for each in rois] == ["GTV_primary", "Lung_L", "GTVPrim_regPrior"]
    assert [each.ROIGenerationAlgorithm for each in rois] == ["AUTOMATIC", "SEMIAUTOMATIC", "AUTOMATIC"]
    assert all("UNREVIEWED" in each.ROIDescription for each in rois)
    assert rois[0].ROIDescription.startswith("GTV primary.")
    assert "lite_medsam" in rois[0].ROIGenerationDescription
    assert [each.RTROIInterpretedType for each in dataset.RTROIObservationsSequence] == ["GTV", "ORGAN", "GTV"]
    assert dataset.ROIContourSequence[0].ROIDisplayColor == [255, 128, 0]
    assert len(dataset.ROIContourSequence[1].ROIDisplayColor) == 3


def test_it_refers_to_every_slice_and_each_contour_to_its_own(ct: CtReference, tmp_path: Path) -> None:
    dataset = write(tmp_path / "rs.dcm", ct)
    frame = dataset.ReferencedFrameOfReferenceSequence[0]
    assert frame.FrameOfReferenceUID == ct.frame_of_reference_uid
    study = frame.RTReferencedStudySequence[0]
    assert study.ReferencedSOPInstanceUID == ct.study_uid
    series = study.RTReferencedSeriesSequence[0]
    assert series.SeriesInstanceUID == ct.series_uid
    slices = [each.sop_instance_uid for each in ct.slices]
    assert [each.ReferencedSOPInstanceUID for each in series.ContourImageSequence] == slices
    for roi in dataset.ROIContourSequence:
        for each in roi.ContourSequence:
            points = np.array(each.ContourData, dtype=float).reshape(-1, 3)
            assert len(points) == each.NumberOfContourPoints
            place = slices.index(each.ContourImageSequence[0].ReferencedSOPInstanceUID)
            np.testing.assert_allclose(GRID.to_index(points)[:, 2], place, atol=1e-5)


def test_coordinates_take_at_most_16_bytes(ct: CtReference, tmp_path: Path) -> None:
    raw = pydicom.dcmread(write_path(tmp_path, ct)).ROIContourSequence[0].ContourSequence[0].get_item("ContourData").value
    assert max(len(each) for each in bytes(raw).strip().split(b"\\")) <= 16


def write_path(folder: Path, ct: CtReference) -> Path:
    write_structure_set(folder / "rs.dcm", usual_contours(GRID), GRID, ct)
    return folder / "rs.dcm"


def test_contours_lie_in_the_planes_of_slices_whose_positions_were_rounded(ct: CtReference, tmp_path: Path) -> None:
    moved = replace(
        ct,
        slices=tuple(
            replace(each, position=(*each.position[:2], each.position[2] + 0.04 * (-1) ** i))
            for i, each in enumerate(ct.slices)
        ),
    )
    dataset = write(tmp_path / "rs.dcm", moved)
    heights = {each.sop_instance_uid: each.position[2] for each in moved.slices}
    for each in dataset.ROIContourSequence[0].ContourSequence:
        assert float(each.ContourData[2]) == pytest.approx(
            heights[each.ContourImageSequence[0].ReferencedSOPInstanceUID], abs=1e-5
        )


def test_all_reviewed_contours_make_a_reviewed_label_but_no_approval(ct: CtReference, tmp_path: Path) -> None:
    reviewed = tuple(replace(each, reviewed=True, reviewer="Dr A = B^C") for each in usual_contours(GRID))
    dataset = write(tmp_path / "rs.dcm", ct, reviewed)
    assert "UNREVIEWED" not in dataset.StructureSetLabel + dataset.SeriesDescription
    assert dataset.ApprovalStatus == "UNAPPROVED"
    assert str(dataset.RTROIObservationsSequence[0].ROIInterpreter) == "Dr A B C"
    partly = (replace(reviewed[0], reviewed=False), *reviewed[1:])
    assert "UNREVIEWED" in write(tmp_path / "partly.dcm", ct, partly).StructureSetLabel


def test_the_structure_set_from_which_it_was_carried_is_named(ct: CtReference, tmp_path: Path) -> None:
    dataset = write(tmp_path / "rs.dcm", ct, predecessor="1.2.3.4")
    assert dataset.PredecessorStructureSetSequence[0].ReferencedSOPInstanceUID == "1.2.3.4"
    assert "PredecessorStructureSetSequence" not in write(tmp_path / "other.dcm", ct)


@pytest.mark.parametrize("charset", [None, "ISO_IR 100", "ISO_IR 192", ["", "ISO 2022 IR 87"]])
def test_any_name_is_kept_whatever_the_patients_character_set(ct: CtReference, tmp_path: Path, charset: Any) -> None:
    plain = with_header(ct, SpecificCharacterSet=charset, PatientName="Doe^Jane", PatientID="7")
    dataset = write(
        tmp_path / "rs.dcm", plain, (contour("腫瘍 Läsion", ball(GRID, 9, GRID.to_physical(np.array([[10.0, 11, 4]]))[0])),)
    )
    assert "腫瘍 Läsion" in dataset.StructureSetROISequence[0].ROIDescription
    assert str(dataset.PatientName) == "Doe^Jane"


def test_a_patients_name_in_another_character_set_is_the_same_when_that_set_changes(ct: CtReference, tmp_path: Path) -> None:
    name = pydicom.valuerep.PersonName("Müller^Jörg".encode("latin-1"), ["latin_1"])
    header = with_header(ct, SpecificCharacterSet="ISO_IR 100")
    header.header.PatientName = name
    kept = write(tmp_path / "kept.dcm", header)
    assert kept.SpecificCharacterSet == "ISO_IR 100"
    assert str(kept.PatientName) == "Müller^Jörg"
    changed = write(tmp_path / "changed.dcm", header, (contour("腫瘍", usual_contours(GRID)[0].mask),))
    assert changed.SpecificCharacterSet == "ISO_IR 192"
    assert str(changed.PatientName) == "Müller^Jörg"


def test_what_has_to_be_there_is_there_without_a_value(ct: CtReference, tmp_path: Path) -> None:
    names = (
        "PatientName",
        "PatientID",
        "PatientBirthDate",
        "PatientSex",
        "StudyDate",
        "StudyTime",
        "StudyID",
        "AccessionNumber",
    )
    dataset = write(tmp_path / "rs.dcm", with_header(ct, **dict.fromkeys((*names, "ReferringPhysicianName"))))
    for name in (*names, "ReferringPhysicianName"):
        assert name in dataset
        assert not dataset[name].value


def resampled(ct: CtReference) -> CtReference:
    """Slices at uneven distances, of which the grid was made."""
    heights = GRID.origin[2] + np.array([0.0, 4.0, 7.0, 12.0, 20.0, 27.0])
    slices = tuple(
        SliceReference("1.2.840.10008.5.1.4.1.1.2", f"1.2.3.{i}", None, (*GRID.origin[:2], float(z)))
        for i, z in enumerate(heights)
    )
    return replace(ct, slices=slices, resampled=True)


def test_contours_on_a_resampled_ct_refer_to_the_nearest_slice_and_say_so(ct: CtReference, tmp_path: Path) -> None:
    reference = resampled(ct)
    dataset = write(tmp_path / "rs.dcm", reference)
    assert "resampled" in dataset.StructureSetDescription
    assert "resampled" in dataset.StructureSetROISequence[0].ROIDescription
    for each in dataset.ROIContourSequence[0].ContourSequence:
        named = next(s for s in reference.slices if s.sop_instance_uid == each.ContourImageSequence[0].ReferencedSOPInstanceUID)
        distances = [abs(s.position[2] - float(each.ContourData[2])) for s in reference.slices]
        assert abs(named.position[2] - float(each.ContourData[2])) == min(distances)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda ct: replace(ct, slices=ct.slices[:-1]), "another series"),
        (lambda ct: replace(ct, slices=()), "not known"),
        (lambda ct: replace(ct, slices=ct.slices[::-1]), "another series"),
        (lambda ct: replace(ct, frame_of_reference_uid=""), "frame of reference"),
        (lambda ct: replace(ct, study_uid=""), "study"),
    ],
)
def test_a_ct_that_contours_cannot_refer_to_is_refused(
    ct: CtReference, tmp_path: Path, change: Callable[[CtReference], CtReference], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        write(tmp_path / "rs.dcm", change(ct))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("masks", "words"),
    [([], "no contour"), ([np.zeros(GRID.shape, dtype=np.bool_)], "empty"), ([np.ones((2, 2, 2), dtype=np.bool_)], "grid")],
)
def test_nothing_empty_is_written(ct: CtReference, tmp_path: Path, masks: list[BoolArray], words: str) -> None:
    with pytest.raises(InputError, match=words):
        write(tmp_path / "rs.dcm", ct, tuple(contour("GTV", each) for each in masks))
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_stays(ct: CtReference, tmp_path: Path) -> None:
    (tmp_path / "rs.dcm").write_bytes(b"precious")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="not replaced"):
            write(tmp_path / "rs.dcm", ct, overwrite=overwrite)
    assert (tmp_path / "rs.dcm").read_bytes() == b"precious"


def test_our_own_file_is_replaced_on_request_only(ct: CtReference, tmp_path: Path) -> None:
    first = write(tmp_path / "rs.dcm", ct)
    with pytest.raises(OutputError, match="not replaced"):
        write(tmp_path / "rs.dcm", ct)
    assert write(tmp_path / "rs.dcm", ct, overwrite=True).SOPInstanceUID != first.SOPInstanceUID


def test_a_slice_of_the_ct_is_never_replaced(tmp_path: Path) -> None:
    reference = written_ct(tmp_path / "ct")
    before = {path.name: path.read_bytes() for path in (tmp_path / "ct").iterdir()}
    with pytest.raises(OutputError, match="not replaced"):
        write(tmp_path / "ct" / sorted(before)[0], reference, overwrite=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "ct").iterdir()} == before


@pytest.mark.parametrize("fault", ["changed", "unreadable"])
def test_what_does_not_read_back_the_same_is_not_kept(
    ct: CtReference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    import P2SAMSlicerLib.dicom.structure_set_reader as reader

    real = reader.read_structure_set

    def worse(*arguments: Any) -> Any:
        if fault == "unreadable":
            raise InputError("/secret/Doe^Jane.dcm is damaged")
        found = real(*arguments)
        mask = found.segmentation.segments[0].mask
        mask[tuple(np.argwhere(mask)[0])] = False
        return found

    monkeypatch.setattr(reader, "read_structure_set", worse)
    with pytest.raises(OutputError) as caught:
        write(tmp_path / "rs.dcm", ct)
    assert "not kept" in str(caught.value)
    assert "Doe" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing(ct: CtReference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: Any, **_options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pydicom.Dataset, "save_as", full)
    with pytest.raises(OutputError, match="no space left"):
        write(tmp_path / "rs.dcm", ct)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["lung", "sarcoma"])
def test_contours_on_a_real_ct_are_valid_and_plastimatch_reads_the_same_volumes(
    shared_data: Path, tool: Callable[[str], str], tmp_path: Path, name: str
) -> None:
    folder = shared_data / "dicom" / f"{name}_ct_rtstruct" / "CT"
    ct = series_in(folder)
    contours = usual_contours(ct.volume.grid, 30.0)
    trips = write_structure_set(tmp_path / "rs.dcm", contours, ct.volume.grid, ct.reference)
    assert [each.change_percent for each in trips] == [0.0] * 3
    assert dicom_errors(tool("dciodvfy"), tmp_path / "rs.dcm") == []
    check_with_plastimatch(
        tool("plastimatch"), tmp_path, folder, ct.volume.grid, {each.roi_name: each.volume_ml for each in trips}
    )


def check_with_plastimatch(program: str, folder: Path, ct: Path, grid: Grid, volumes: Mapping[str, float]) -> None:
    """plastimatch's masks have the same volumes, in both of its ways to deal with several contours on a slice."""
    for way in ([], ["--xor-contours"]):
        out = folder / f"read{len(way)}"
        words = ["--input", folder / "rs.dcm", "--referenced-ct", ct, "--output-prefix", out, "--prefix-format", "nrrd"]
        subprocess.run([program, "convert", *map(str, words), *way], check=True, capture_output=True, timeout=120)
        found = {
            path.stem: np.count_nonzero(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))) for path in out.iterdir()
        }
        assert {name: count * grid.voxel_ml for name, count in found.items()} == pytest.approx(dict(volumes), rel=1e-9)


def test_contours_on_a_small_and_oblique_ct_are_valid(ct: CtReference, tool: Callable[[str], str], tmp_path: Path) -> None:
    write(tmp_path / "rs.dcm", ct)
    assert dicom_errors(tool("dciodvfy"), tmp_path / "rs.dcm") == []
    write(tmp_path / "resampled.dcm", resampled(ct), predecessor="1.2.3.4")
    assert dicom_errors(tool("dciodvfy"), tmp_path / "resampled.dcm") == []


def test_contours_on_a_multi_frame_ct_name_the_frames(shared_data: Path, tool: Callable[[str], str], tmp_path: Path) -> None:
    ct = read_ct_series([shared_data / "dicom" / "enhanced_multiframe_ct" / "eCT_Supplemental.dcm"], "ct")
    mask = np.zeros(ct.volume.grid.shape, dtype=np.bool_)
    mask[0, 100:120, 200:230] = True
    write_structure_set(tmp_path / "rs.dcm", [contour("GTV", mask)], ct.volume.grid, ct.reference)
    assert dicom_errors(tool("dciodvfy"), tmp_path / "rs.dcm") == []
    dataset = pydicom.dcmread(tmp_path / "rs.dcm")
    (image,) = dataset.ROIContourSequence[0].ContourSequence[0].ContourImageSequence
    assert image.ReferencedFrameNumber == ct.reference.slices[0].frame
    study = dataset.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
    (image,) = study.RTReferencedSeriesSequence[0].ContourImageSequence
    assert list(image.ReferencedFrameNumber) == [1, 2]
