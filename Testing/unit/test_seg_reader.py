"""DICOM SEG to masks: as independent readers see it, and in words where it cannot be read."""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from P2SAMSlicerLib.dicom.code_terminology import rgb_of_lab
from P2SAMSlicerLib.dicom.seg_reader import read_dicom_seg
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.resample import resample_mask
from P2SAMSlicerLib.segmentation_file import read_segmentation, write_segmentation
from P2SAMSlicerLib.structure_role import is_margin_or_organ
from P2SAMSlicerLib.volume_file import read_image
from pydicom import Dataset, dcmread
from segmentations import frames_in_order, save, segmentation
from structure_sets import FRAME, NAME, PATIENT, SERIES, reference

GRID = Grid((5, 12, 10), (1.5, 1.25, 3.0), (-20.0, 12.5, -40.0))
OBLIQUE = (0.8, -0.48, 0.36, 0.6, 0.64, -0.48, 0.0, 0.6, 0.8)
REAL = [
    "seg_dcmqi_liver/SEG/liver.dcm",
    "seg_dcmqi_liver/SEG/partial_overlaps.dcm",
    "seg_highdicom_ct/seg_image_ct_binary.dcm",
    "seg_highdicom_ct/seg_image_ct_binary_fractional.dcm",
    "seg_highdicom_ct/seg_image_ct_binary_overlap.dcm",
    "seg_highdicom_ct/seg_image_ct_binary_single_frame.dcm",
]
RNG = np.random.default_rng(5)
FIRST, SECOND = RNG.random(GRID.shape) < 0.4, RNG.random(GRID.shape) < 0.4
FIRST[2] = False


def refusal(tmp_path: Path, dataset: Dataset, **options: Any) -> str:
    """Why it is refused: one line that tells nobody's name."""
    with pytest.raises(InputError) as caught:
        read_dicom_seg(save(dataset, tmp_path / "seg.dcm"), **options)
    message = str(caught.value)
    assert "\n" not in message
    for secret in (PATIENT, NAME, "Doe", "seg.dcm", FRAME, SERIES):
        assert secret not in message
    return message


# Against independent readers


@pytest.mark.parametrize("name", REAL)
def test_dcmqi_finds_the_same_voxels_and_colours(
    shared_data: Path, tool: Callable[[str], str], tmp_path: Path, name: str
) -> None:
    source = shared_data / "dicom" / name
    command = [tool("segimage2itkimage"), "--inputDICOM", str(source), "--outputDirectory", str(tmp_path), "-t", "nrrd"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    found = read_dicom_seg(source).segmentation
    described = {
        entry["labelID"]: entry
        for group in json.loads((tmp_path / "meta.json").read_text())["segmentAttributes"]
        for entry in group
    }
    assert len(found.segments) == len(described)
    for number, segment in enumerate(found.segments, 1):
        theirs, grid, _ = read_image(tmp_path / f"{number}.nrrd")
        np.testing.assert_array_equal(resample_mask(theirs > 0, grid, found.grid), segment.mask)
        assert np.count_nonzero(theirs) == segment.mask.sum()
        assert segment.name == described[number]["SegmentLabel"]
        if segment.color is not None:
            np.testing.assert_allclose(np.array(segment.color) * 255, described[number]["recommendedDisplayRGBValue"], atol=0.6)


@pytest.mark.parametrize("name", [*REAL, "seg_highdicom_ct/seg_image_ct_true_fractional.dcm"])
def test_highdicom_finds_the_same_voxels(shared_data: Path, name: str) -> None:
    source = shared_data / "dicom" / name
    found = read_dicom_seg(source).segmentation
    theirs = highdicom.seg.segread(source)
    volume = theirs.get_volume(combine_segments=False, rescale_fractional=True)
    assert volume.array.shape[:3] == found.grid.shape
    corner = volume.affine @ [0, 0, 0, 1]
    ours = found.grid.to_physical(np.array([[0.0, 0.0, 0.0]]))[0]
    flipped = not np.allclose(corner[:3], ours, atol=0.01)
    for index, segment in enumerate(found.segments):
        values = volume.array[..., index][::-1] if flipped else volume.array[..., index]
        np.testing.assert_array_equal(values >= 0.5, segment.mask)


# What is written comes back


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
@pytest.mark.parametrize(
    "direction", [GRID.direction, (-1.0, 0, 0, 0, 1.0, 0, 0, 0, -1.0), OBLIQUE], ids=["HFS", "FFS", "oblique"]
)
def test_masks_come_back_on_their_own_grid_in_any_orientation(tmp_path: Path, kind: str, direction: tuple[float, ...]) -> None:
    grid = Grid(GRID.shape, GRID.spacing, GRID.origin, direction)
    second = SECOND & ~FIRST if kind == "LABELMAP" else SECOND
    found = read_dicom_seg(save(segmentation([FIRST, second], grid, kind), tmp_path / "seg.dcm"))
    assert found.segmentation.names() == ["Segment 1", "Segment 2"]
    assert found.warnings == ()
    for segment, mask in zip(found.segmentation.segments, (FIRST, second), strict=True):
        np.testing.assert_array_equal(resample_mask(segment.mask, found.segmentation.grid, grid), mask)


def test_fractions_of_one_half_or_more_are_inside_and_that_is_said(tmp_path: Path) -> None:
    values = RNG.random(GRID.shape)
    dataset = segmentation([values], GRID, "FRACTIONAL", fractional_type="OCCUPANCY", max_fractional_value=100)
    found = read_dicom_seg(save(dataset, tmp_path / "seg.dcm"))
    np.testing.assert_array_equal(found.segmentation.segments[0].mask, np.rint(values * 100) >= 50)
    assert found.warnings == ("DICOM segmentation: holds occupancies; voxels of one half or more were taken as inside",)


def test_the_order_of_frames_does_not_matter_and_missing_ones_are_empty(tmp_path: Path) -> None:
    dataset = segmentation([FIRST, SECOND], GRID)
    order = list(range(int(dataset.NumberOfFrames)))
    random.Random(1).shuffle(order)
    found = read_dicom_seg(save(frames_in_order(dataset, order), tmp_path / "seg.dcm"))
    for segment, mask in zip(found.segmentation.segments, (FIRST, SECOND), strict=True):
        np.testing.assert_array_equal(segment.mask, mask)
    # Without the frame of slice 1: it lies between others, and is empty. Slice 2 never had one.
    dataset = segmentation([FIRST], GRID)
    heights = [each.PlanePositionSequence[0].ImagePositionPatient[2] for each in dataset.PerFrameFunctionalGroupsSequence]
    kept = [index for index, height in enumerate(heights) if height != GRID.origin[2] + GRID.spacing[2]]
    assert len(kept) == len(heights) - 1 == 3
    found = read_dicom_seg(save(frames_in_order(dataset, kept), tmp_path / "seg.dcm"))
    assert found.segmentation.grid.shape == GRID.shape
    expected = FIRST.copy()
    expected[1] = False
    np.testing.assert_array_equal(found.segmentation.segments[0].mask, expected)


def test_names_codes_colours_and_algorithm_are_carried(tmp_path: Path) -> None:
    dataset = segmentation([FIRST], GRID, names=["Läsion"])
    region = Dataset()
    region.CodeValue, region.CodingSchemeDesignator, region.CodeMeaning = "39607008", "SCT", "Lung"
    dataset.SegmentSequence[0].AnatomicRegionSequence = [region]
    found = read_dicom_seg(save(dataset, tmp_path / "seg.dcm")).segmentation
    (segment,) = found.segments
    assert segment.name == "Läsion"
    assert segment.terminology is not None
    assert segment.terminology["category"] == ["SCT", "49755003", "Morphologically Altered Structure"]
    assert segment.terminology["type"] == ["SCT", "4147007", "Mass"]
    assert segment.terminology["anatomicRegion"] == ["SCT", "39607008", "Lung"]
    assert segment.tags == {"DICOM.SegmentAlgorithmType": "MANUAL"}
    assert segment.color is not None
    # Its writer takes another white; Slicer and dcmqi mean the same colour by it within a few steps of 255.
    np.testing.assert_allclose(np.array(segment.color) * 255, (220, 130, 40), atol=12)
    assert not is_margin_or_organ(segment)
    write_segmentation(found, tmp_path / "again.seg.nrrd")
    assert read_segmentation(tmp_path / "again.seg.nrrd").segments[0].terminology == segment.terminology


def test_an_organ_in_the_older_coding_is_known_as_one(tmp_path: Path) -> None:
    dataset = segmentation([FIRST], GRID, names=["Structure"])
    category = dataset.SegmentSequence[0].SegmentedPropertyCategoryCodeSequence[0]
    category.CodeValue, category.CodingSchemeDesignator = "T-D000A", "SRT"
    (segment,) = read_dicom_seg(save(dataset, tmp_path / "seg.dcm")).segmentation.segments
    assert is_margin_or_organ(segment)


def test_white_black_and_red_have_the_colours_that_dcmqi_gives_them() -> None:
    for lab, rgb in (((65535, 32896, 32896), (1, 1, 1)), ((0, 32896, 32896), (0, 0, 0)), ((34871, 53484, 50171), (1, 0, 0))):
        np.testing.assert_allclose(rgb_of_lab(lab), rgb, atol=0.01)


def test_empty_segments_are_listed_and_not_carried(tmp_path: Path) -> None:
    nothing = np.zeros(GRID.shape, dtype=np.bool_)
    dataset = segmentation([FIRST, nothing], GRID)
    found = read_dicom_seg(save(dataset, tmp_path / "seg.dcm"))
    assert found.segmentation.names() == ["Segment 1"]
    assert found.warnings == ("DICOM segmentation: not carried, because empty: Segment 2",)
    assert "segment 'Segment 2' is empty" in refusal(tmp_path, dataset, names=["Segment 2"])
    assert "no structure named 'C'; it has: Segment 1, Segment 2" in refusal(tmp_path, dataset, names=["C"])


def test_two_segments_of_one_name_stay_apart_and_cannot_be_asked_for(tmp_path: Path) -> None:
    dataset = segmentation([FIRST, SECOND], GRID, names=["GTV", "GTV"])
    found = read_dicom_seg(save(dataset, tmp_path / "seg.dcm"))
    assert found.segmentation.names() == ["GTV", "GTV (2)"]
    assert "two segments are named 'GTV'" in refusal(tmp_path, dataset, names=["GTV"])


# To which CT it belongs


def test_another_patient_or_frame_of_reference_is_refused_unless_trusted(tmp_path: Path) -> None:
    dataset = segmentation([FIRST], GRID)
    path = save(dataset, tmp_path / "seg.dcm")
    assert read_dicom_seg(path, reference=reference(GRID)).warnings == ()
    other = reference(GRID, frame_of_reference_uid="1.9")
    assert "another frame of reference" in refusal(tmp_path, dataset, reference=other)
    assert "as asked for" in read_dicom_seg(path, reference=other, trust_geometry=True).warnings[0]
    stranger = reference(GRID, header=Dataset(), slices=())
    stranger.header.PatientID = "OTHER"
    assert "another patient" in refusal(tmp_path, dataset, reference=stranger)


# Geometry that is none


def moved(dataset: Dataset, shift: Callable[[int], tuple[float, float, float]]) -> Dataset:
    for index, group in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        position = group.PlanePositionSequence[0]
        position.ImagePositionPatient = [a + b for a, b in zip(position.ImagePositionPatient, shift(index), strict=True)]
    return dataset


@pytest.mark.parametrize(
    ("shift", "words"),
    [
        (lambda k: (0.5 * k, 0.0, 0.0), "tilted"),
        (lambda k: (0.3 * (k == 1), 0.0, 0.0), "shifted"),
        (lambda k: (0.0, 0.0, 1.0 * (k == 1)), "not evenly spaced"),
        (lambda k: (0.0, 0.0, 1e5 * k), "farther apart than any patient"),
        (lambda k: (0.0, 0.0, -3.0 * (k == 1)), "two frames of one segment at the same place"),
    ],
)
def test_tilted_shifted_and_uneven_frames_are_refused(
    tmp_path: Path, shift: Callable[[int], tuple[float, float, float]], words: str
) -> None:
    assert words in refusal(tmp_path, moved(segmentation([SECOND], GRID), shift))


def without(path: str) -> Callable[[Dataset], None]:
    def change(dataset: Dataset) -> None:
        target: Any = dataset
        *parents, last = path.split(".")
        for parent in parents:
            target = getattr(target, parent)[0]
        delattr(target, last)

    return change


def setting(**elements: Any) -> Callable[[Dataset], None]:
    def change(dataset: Dataset) -> None:
        for key, value in elements.items():
            setattr(dataset, key, value)

    return change


def foreign_frames(dataset: Dataset) -> None:
    dataset.SharedFunctionalGroupsSequence[0].SegmentIdentificationSequence[0].ReferencedSegmentNumber = 9


def skewed(dataset: Dataset) -> None:
    orientation = dataset.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
    orientation.ImageOrientationPatient = [1, 0, 0, 1, 0, 0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without("SegmentSequence"), "describes no segments"),
        (without("PerFrameFunctionalGroupsSequence"), "describes 0 frames"),
        (without("SharedFunctionalGroupsSequence"), "no usable ImageOrientationPatient"),
        (without("PerFrameFunctionalGroupsSequence.PlanePositionSequence"), "no usable ImagePositionPatient"),
        (without("SharedFunctionalGroupsSequence.SegmentIdentificationSequence"), "belong to no segment"),
        (without("SegmentationType"), "neither binary, fractional nor a label map"),
        (without("PixelData"), "fewer pixels than its header says"),
        (without("Rows"), "no usable size"),
        (setting(NumberOfFrames=99), "describes 5 frames and holds 99"),
        (setting(NumberOfFrames=0), "describes 5 frames and holds 1"),
        (setting(Rows=65535, Columns=65535), "no usable size"),
        (setting(Rows=40), "fewer pixels than its header says"),
        (setting(PixelData=b"\0\0"), "fewer pixels than its header says"),
        (setting(SOPClassUID="1.2.840.10008.5.1.4.1.1.2"), "another kind of DICOM object"),
        (setting(SegmentationType="FRACTIONAL"), "states no largest value"),
        (foreign_frames, "a segment that it does not describe"),
        (skewed, "not at right angles"),
    ],
)
def test_what_is_missing_or_contradicts_itself_is_one_line(
    tmp_path: Path, change: Callable[[Dataset], None], words: str
) -> None:
    dataset = segmentation([SECOND], GRID)
    change(dataset)
    assert words in refusal(tmp_path, dataset)


def test_label_maps_with_values_that_nobody_described_are_refused(tmp_path: Path) -> None:
    dataset = segmentation([FIRST, SECOND & ~FIRST], GRID, "LABELMAP")
    dataset.SegmentSequence = [each for each in dataset.SegmentSequence if each.SegmentNumber != 2]
    assert "voxels of a segment that it does not describe" in refusal(tmp_path, dataset)


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    content = save(segmentation([FIRST, SECOND], GRID), tmp_path / "whole.dcm").read_bytes()
    path = tmp_path / "seg.dcm"
    for length in range(0, len(content) - 8, max(1, len(content) // 120)):
        path.write_bytes(content[:length])
        with pytest.raises(InputError) as caught:
            read_dicom_seg(path)
        assert PATIENT not in str(caught.value)


@settings(max_examples=200)
@given(st.data())
def test_no_damage_to_a_file_ends_in_anything_but_masks_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp()
    template = folder / "template_seg.dcm"
    if not template.exists():
        save(segmentation([FIRST, SECOND], GRID), template)
    content = bytearray(template.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(132, len(content) - 1))
        if data.draw(st.booleans()):
            content[place] = data.draw(st.sampled_from([0, 1, 0x20, 0x30, 0x5C, 0x7F, 0xFE, 0xFF]))
        else:
            del content[place : place + data.draw(st.integers(1, 9))]
    path = folder / "damaged_seg.dcm"
    path.write_bytes(bytes(content))
    reason = ""
    try:
        read_dicom_seg(path)
    except InputError as error:
        reason = str(error)
    assert "\n" not in reason
    assert PATIENT not in reason


def test_the_real_files_say_what_they_are(shared_data: Path) -> None:
    found = read_dicom_seg(shared_data / "dicom" / "seg_dcmqi_liver/SEG/liver.dcm").segmentation
    (segment,) = found.segments
    assert segment.terminology is not None
    assert segment.terminology["type"] == ["SRT", "T-62000", "Liver"]
    assert segment.tags["DICOM.SegmentAlgorithmName"] == "SlicerEditor"
    assert is_margin_or_organ(segment)
    positions = [
        float(group.PlanePositionSequence[0].ImagePositionPatient[2])
        for group in dcmread(shared_data / "dicom" / "seg_dcmqi_liver/SEG/liver.dcm").PerFrameFunctionalGroupsSequence
    ]
    assert found.grid.origin[2] == min(positions)
