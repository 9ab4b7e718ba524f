"""DICOM SEG out: read back by this library, highdicom and dcmqi, accepted by a validator."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK
from dicom_contours import GRID, contour, dicom_errors, series_in, usual_contours, with_header, written_ct
from P2SAMSlicerLib.dicom.ct_reference import CtReference, SliceReference
from P2SAMSlicerLib.dicom.seg_reader import read_dicom_seg
from P2SAMSlicerLib.dicom.seg_writer import write_dicom_seg
from P2SAMSlicerLib.dicom.series import read_ct_series
from P2SAMSlicerLib.errors import InputError, OutputError
from P2SAMSlicerLib.resample import resample_mask
from P2SAMSlicerLib.result_files import is_comparison
from P2SAMSlicerLib.volume import BoolArray


@pytest.fixture(scope="module")
def ct(tmp_path_factory: pytest.TempPathFactory) -> CtReference:
    return written_ct(tmp_path_factory.mktemp("ct") / "series")


@pytest.fixture(scope="module")
def written(ct: CtReference, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The usual contours in a file."""
    path = tmp_path_factory.mktemp("seg") / "seg.dcm"
    trips = write_dicom_seg(path, usual_contours(GRID), GRID, ct)
    assert [(each.change_percent, each.dice) for each in trips] == [(0.0, 1.0)] * 3
    return path


def test_every_voxel_comes_back_with_overlaps_and_without_a_remark(ct: CtReference, written: Path) -> None:
    again = read_dicom_seg(written, reference=ct)
    assert again.warnings == ()
    masks = [resample_mask(each.mask, again.segmentation.grid, GRID) for each in again.segmentation.segments]
    for before, after in zip(usual_contours(GRID), masks, strict=True):
        np.testing.assert_array_equal(before.mask, after)
    assert (masks[0] & masks[1]).any(), "the contours of this test overlap"
    assert [is_comparison(each) for each in again.segmentation.segments] == [False, False, True]


def test_highdicom_reads_the_same_voxels_for_the_same_slices(ct: CtReference, written: Path) -> None:
    seg = highdicom.seg.segread(written)
    slices = [each.sop_instance_uid for each in ct.slices]
    found = seg.get_pixels_by_source_instance(slices, assert_missing_frames_are_empty=True)
    for number, each in enumerate(usual_contours(GRID)):
        np.testing.assert_array_equal(found[..., number] > 0, each.mask)


def dcmqi_masks(program: str, path: Path, out: Path) -> list[tuple[SimpleITK.Image, BoolArray]]:
    """dcmqi's image of each segment, in order."""
    out.mkdir()
    subprocess.run(
        [program, "--inputDICOM", str(path), "--outputDirectory", str(out)], check=True, capture_output=True, timeout=120
    )
    images = [SimpleITK.ReadImage(str(file)) for file in sorted(out.glob("*.nrrd"), key=lambda each: int(each.stem))]
    return [(image, SimpleITK.GetArrayFromImage(image) > 0) for image in images]


def test_dcmqi_reads_the_same_volumes_at_the_same_place(written: Path, tool: Callable[[str], str], tmp_path: Path) -> None:
    found = dcmqi_masks(tool("segimage2itkimage"), written, tmp_path / "out")
    for (image, mask), before in zip(found, usual_contours(GRID), strict=True):
        assert mask.sum() == before.mask.sum()
        assert np.prod(image.GetSpacing()) / 1000 == pytest.approx(GRID.voxel_ml)
        middle = np.argwhere(mask).mean(axis=0)[::-1]
        expected = GRID.to_physical(np.argwhere(before.mask).mean(axis=0)[None, ::-1])[0]
        np.testing.assert_allclose(image.TransformContinuousIndexToPhysicalPoint(middle.tolist()), expected, atol=1e-3)


def test_each_segment_says_what_it_is_and_what_made_it(written: Path) -> None:
    dataset = pydicom.dcmread(written)
    segments = dataset.SegmentSequence
    assert dataset.SegmentationType == "BINARY"
    assert [each.SegmentLabel for each in segments] == ["GTV_primary", "Lung_L", "GTVPrim_regPrior"]
    assert segments[0].SegmentDescription.startswith("GTV primary.")
    assert [each.SegmentAlgorithmType for each in segments] == ["AUTOMATIC", "SEMIAUTOMATIC", "AUTOMATIC"]
    assert [each.SegmentedPropertyTypeCodeSequence[0].CodeMeaning for each in segments] == ["Mass", "Lung", "Neoplasm"]
    assert segments[0].AnatomicRegionSequence[0].CodeMeaning == "Lung"
    families = [
        each.SegmentationAlgorithmIdentificationSequence[0].AlgorithmFamilyCodeSequence[0].CodeMeaning for each in segments
    ]
    assert families == ["Artificial Intelligence", "Artificial Intelligence", "Deformable Models"]
    assert all(each.SegmentationAlgorithmIdentificationSequence[0].AlgorithmVersion for each in segments)
    assert "lite_medsam" in segments[0].SegmentAlgorithmName
    assert len({each.TrackingUID for each in segments}) == 3
    assert "RecommendedDisplayCIELabValue" in segments[0]


def test_it_says_whose_it_is_and_that_nobody_reviewed_it(ct: CtReference, written: Path) -> None:
    dataset = pydicom.dcmread(written)
    assert (str(dataset.PatientName), dataset.PatientID) == ("Trial^Jürgen", "TRIAL-1")
    assert (dataset.StudyInstanceUID, dataset.FrameOfReferenceUID) == (ct.study_uid, ct.frame_of_reference_uid)
    assert dataset.SeriesInstanceUID != ct.series_uid
    assert dataset.file_meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID
    assert dataset.ContentLabel == "UNREVIEWED_P2SAM"
    assert "UNREVIEWED" in dataset.SeriesDescription
    assert all("UNREVIEWED" in each.SegmentDescription for each in dataset.SegmentSequence)


def test_reviewed_contours_say_so(ct: CtReference, tmp_path: Path) -> None:
    reviewed = [replace(each, reviewed=True, reviewer="Dr A") for each in usual_contours(GRID)]
    write_dicom_seg(tmp_path / "seg.dcm", reviewed, GRID, ct)
    dataset = pydicom.dcmread(tmp_path / "seg.dcm")
    assert dataset.ContentLabel == "P2SAM_REVIEWED"
    assert "not approved" in dataset.SeriesDescription


def test_it_refers_to_every_slice_and_each_frame_to_its_own(ct: CtReference, written: Path) -> None:
    dataset = pydicom.dcmread(written)
    (series,) = dataset.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == ct.series_uid
    slices = [each.sop_instance_uid for each in ct.slices]
    assert [each.ReferencedSOPInstanceUID for each in series.ReferencedInstanceSequence] == slices
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        (source,) = frame.DerivationImageSequence[0].SourceImageSequence
        place = GRID.to_index(np.array([frame.PlanePositionSequence[0].ImagePositionPatient], dtype=float))[0]
        np.testing.assert_allclose(place, [0, 0, slices.index(source.ReferencedSOPInstanceUID)], atol=1e-5)
    for uid in slices_of_stand_ins(dataset) - set(slices):
        pytest.fail(f"refers to {uid}, which is no slice of the CT")


def slices_of_stand_ins(dataset: pydicom.Dataset) -> set[str]:
    """Every object that is referred to anywhere."""
    return {str(each.value) for each in dataset.iterall() if each.keyword == "ReferencedSOPInstanceUID"}


def test_a_multi_frame_ct_is_referred_to_by_frame(shared_data: Path, tool: Callable[[str], str], tmp_path: Path) -> None:
    ct = read_ct_series([shared_data / "dicom" / "enhanced_multiframe_ct" / "eCT_Supplemental.dcm"], "ct")
    mask = np.zeros(ct.volume.grid.shape, dtype=np.bool_)
    mask[0, 100:120, 200:230] = mask[1, 100:110, 200:230] = True
    write_dicom_seg(tmp_path / "seg.dcm", [contour("GTV", mask)], ct.volume.grid, ct.reference)
    assert dicom_errors(tool("dciodvfy"), tmp_path / "seg.dcm") == []
    frames = pydicom.dcmread(tmp_path / "seg.dcm").PerFrameFunctionalGroupsSequence
    sources = [each.DerivationImageSequence[0].SourceImageSequence[0] for each in frames]
    by_place: dict[tuple[float, ...], int | None] = {each.position: each.frame for each in ct.reference.slices}
    for frame, source in zip(frames, sources, strict=True):
        assert source.ReferencedSOPInstanceUID == ct.reference.slices[0].sop_instance_uid
        place = tuple(float(each) for each in frame.PlanePositionSequence[0].ImagePositionPatient)
        assert source.ReferencedFrameNumber == by_place[place]
    assert slices_of_stand_ins(pydicom.dcmread(tmp_path / "seg.dcm")) == {ct.reference.slices[0].sop_instance_uid}


@pytest.mark.parametrize("name", ["lung", "sarcoma"])
def test_segments_on_a_real_ct_are_valid_and_dcmqi_reads_the_same_volumes(
    shared_data: Path, tool: Callable[[str], str], tmp_path: Path, name: str
) -> None:
    ct = series_in(shared_data / "dicom" / f"{name}_ct_rtstruct" / "CT")
    contours = usual_contours(ct.volume.grid, 30.0)
    trips = write_dicom_seg(tmp_path / "seg.dcm", contours, ct.volume.grid, ct.reference)
    assert [each.change_percent for each in trips] == [0.0] * 3
    assert dicom_errors(tool("dciodvfy"), tmp_path / "seg.dcm") == []
    found = dcmqi_masks(tool("segimage2itkimage"), tmp_path / "seg.dcm", tmp_path / "out")
    assert [int(mask.sum()) for _, mask in found] == [int(each.mask.sum()) for each in contours]


def test_segments_on_small_oblique_and_resampled_cts_are_valid(
    ct: CtReference, written: Path, tool: Callable[[str], str]
) -> None:
    assert dicom_errors(tool("dciodvfy"), written) == []
    heights = GRID.origin[2] + np.array([0.0, 4.0, 7.0, 12.0, 20.0, 27.0])
    slices = tuple(
        SliceReference("1.2.840.10008.5.1.4.1.1.2", f"1.2.3.{i}", None, (*GRID.origin[:2], float(z)))
        for i, z in enumerate(heights)
    )
    path = written.parent / "resampled.dcm"
    write_dicom_seg(path, usual_contours(GRID), GRID, replace(ct, slices=slices, resampled=True))
    assert dicom_errors(tool("dciodvfy"), path) == []
    dataset = pydicom.dcmread(path)
    assert slices_of_stand_ins(dataset) == {each.sop_instance_uid for each in slices}
    sources = [each.DerivationImageSequence[0].SourceImageSequence[0] for each in dataset.PerFrameFunctionalGroupsSequence]
    assert {each.SpatialLocationsPreserved for each in sources} == {"NO"}
    assert "resampled" in dataset.SegmentSequence[0].SegmentDescription


def test_a_patient_whose_header_breaks_rules_is_copied_all_the_same(ct: CtReference, tmp_path: Path) -> None:
    odd = with_header(ct, PatientName="Two Words No Caret", PatientSex="X", PatientBirthDate="", StudyID="S" * 20)
    write_dicom_seg(tmp_path / "seg.dcm", usual_contours(GRID), GRID, odd)
    dataset = pydicom.dcmread(tmp_path / "seg.dcm")
    assert str(dataset.PatientName) == "Two Words No Caret"
    assert dataset.PatientSex == "X"
    assert dataset.StudyID == "S" * 16


def test_nothing_that_is_there_is_replaced_and_nothing_empty_written(ct: CtReference, written: Path, tmp_path: Path) -> None:
    before = written.read_bytes()
    with pytest.raises(OutputError, match="not replaced"):
        write_dicom_seg(written, usual_contours(GRID), GRID, ct)
    assert written.read_bytes() == before
    with pytest.raises(InputError, match="empty"):
        write_dicom_seg(tmp_path / "seg.dcm", [contour("GTV", np.zeros(GRID.shape, dtype=np.bool_))], GRID, ct)
    assert list(tmp_path.iterdir()) == []


def test_what_does_not_read_back_the_same_is_not_kept(ct: CtReference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import P2SAMSlicerLib.dicom.seg_reader as reader

    real = reader.read_dicom_seg

    def worse(*arguments: object, **options: object) -> object:
        found = real(*arguments, **options)  # type: ignore[arg-type]
        found.segmentation.segments[0].mask[:] = True
        return found

    monkeypatch.setattr(reader, "read_dicom_seg", worse)
    with pytest.raises(OutputError, match="not kept"):
        write_dicom_seg(tmp_path / "seg.dcm", usual_contours(GRID), GRID, ct)
    assert list(tmp_path.iterdir()) == []
