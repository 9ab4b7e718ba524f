"""RTSTRUCT to masks: right wherever the contours are clear, and in words wherever they are not."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from P2SAMSlicerLib.dicom.contour_stack import contours_to_mask
from P2SAMSlicerLib.dicom.ct_reference import SliceReference
from P2SAMSlicerLib.dicom.series import read_dicom_series
from P2SAMSlicerLib.dicom.structure_set_reader import read_structure_set
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.resample import resample_mask
from P2SAMSlicerLib.segmentation_file import read_segmentation, write_segmentation
from P2SAMSlicerLib.structure_role import is_margin_or_organ
from P2SAMSlicerLib.volume import BoolArray
from P2SAMSlicerLib.volume_file import read_image
from structure_set_reading import GRID, boxes, only, read, refusal
from structure_sets import Roi, item, outlines_on, rectangle, reference, structure_set, write

REAL = [
    ("lung_ct_rtstruct", "lung_i_shrink", "GTV-1"),
    ("sarcoma_ct_rtstruct", "limb_f_stable", "GTV_Mass_CT"),
]
DIRECTIONS = {
    "head first supine": (1, 0, 0, 0, 1, 0, 0, 0, 1),
    "head first prone": (-1, 0, 0, 0, -1, 0, 0, 0, 1),
    "feet first supine": (-1, 0, 0, 0, 1, 0, 0, 0, -1),
    "feet first prone": (1, 0, 0, 0, -1, 0, 0, 0, -1),
    "head first decubitus right": (0, 1, 0, -1, 0, 0, 0, 0, 1),
    "slices in reversed order": (1, 0, 0, 0, 1, 0, 0, 0, -1),
    "sagittal": (0, 0, 1, 1, 0, 0, 0, -1, 0),
    "oblique": (0.8, -0.48, 0.36, 0.6, 0.64, -0.48, 0.0, 0.6, 0.8),
}


# Real structure sets


@pytest.mark.parametrize(("folder", "visit", "name"), REAL)
def test_the_real_structure_set_gives_the_known_mask_voxel_for_voxel(
    shared_data: Path, visit_case: Callable[[str], Path], folder: str, visit: str, name: str
) -> None:
    ct = read_dicom_series(shared_data / "dicom" / folder / "CT")
    (file,) = (shared_data / "dicom" / folder / "RTSTRUCT").iterdir()
    truth = read_segmentation(visit_case(visit) / "prior_seg.nii.gz")
    found = read_structure_set(file, ct.grid)
    assert found.segmentation.names() == [name]
    np.testing.assert_array_equal(resample_mask(only(found), ct.grid, truth.grid), truth.segments[0].mask)
    assert "headers are not at hand" in found.warnings[0]


@pytest.mark.parametrize(("folder", "visit", "name"), REAL)
def test_plastimatch_finds_the_same_voxels(
    shared_data: Path, tool: Callable[[str], str], tmp_path: Path, folder: str, visit: str, name: str
) -> None:
    del visit
    source = shared_data / "dicom" / folder
    (tmp_path / "in").mkdir()
    for file in (*(source / "CT").iterdir(), *(source / "RTSTRUCT").iterdir()):
        shutil.copy(file, tmp_path / "in")
    command = [tool("plastimatch"), "convert", "--input", "in", "--output-prefix", "out", "--prefix-format", "nrrd"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=120)
    theirs, grid, _ = read_image(tmp_path / "out" / f"{name}.nrrd")
    (file,) = (source / "RTSTRUCT").iterdir()
    ours = only(read_structure_set(file, grid))
    # Centres on an edge are a matter of convention: at most one voxel in a thousand may differ. None does.
    assert np.count_nonzero(ours != (theirs > 0)) <= 0.001 * np.count_nonzero(theirs)


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("rt.dcm", "name another frame of reference than the CT, but each of them names an image of the CT and lies on it"),
        ("invalid_reference_rt.dcm", "images that are not among the CT's 2; the coordinates were used"),
        ("non_existent_reference_rt.dcm", "images that are not among the CT's 2; the coordinates were used"),
    ],
)
def test_other_writers_references_are_judged_in_words(shared_data: Path, file: str, words: str) -> None:
    folder = shared_data / "dicom" / "rt_utils_mock"
    ct = read_dicom_series(folder)
    headers = sorted((pydicom.dcmread(each) for each in folder.glob("ct_*.dcm")), key=lambda h: h.ImagePositionPatient[2])
    images = reference(
        ct.grid,
        header=headers[0],
        series_uid=headers[0].SeriesInstanceUID,
        frame_of_reference_uid=headers[0].FrameOfReferenceUID,
        slices=tuple(SliceReference(h.SOPClassUID, h.SOPInstanceUID, None, tuple(h.ImagePositionPatient)) for h in headers),
    )
    found = read_structure_set(folder / file, ct.grid, images)
    assert any(words in each for each in found.warnings)
    assert "ROI-1" in found.segmentation.names()


# What lies inside


@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS.keys())
def test_a_mask_comes_back_exactly_from_its_outlines_in_any_orientation(tmp_path: Path, direction: tuple[float, ...]) -> None:
    grid = Grid((6, 9, 8), (1.5, 1.25, 3.0), (-20.0, 12.5, -40.0), direction)
    mask = np.random.default_rng(3).random(grid.shape) < 0.5
    mask[[0, -1]] = True
    assert not (only(read(tmp_path, Roi("GTV", outlines_on(mask, grid)), grid=grid)) ^ mask).any()


@settings(max_examples=25)
@given(
    arrays(np.bool_, (3, 5, 6)).filter(lambda mask: bool(mask.any())),
    arrays(np.float64, (3, 3), elements=st.floats(-1, 1)).filter(lambda m: abs(np.linalg.det(m)) > 0.05),
    st.permutations(range(40)),
)
def test_a_mask_comes_back_exactly_from_shuffled_outlines_on_any_grid(
    mask: BoolArray, matrix: NDArray[np.float64], order: list[int]
) -> None:
    direction = np.linalg.qr(matrix)[0]
    grid = Grid(mask.shape, (0.9, 1.1, 2.5), (-300.0, 217.3, 1001.5), tuple(direction.ravel()))
    contours = outlines_on(mask, grid)
    shuffled = [contours[index][:: 1 if index % 2 else -1] for index in order if index < len(contours)]
    shuffled += contours[len(order) :]
    np.testing.assert_array_equal(contours_to_mask(shuffled, grid).mask, mask)


def test_holes_islands_and_several_contours_on_a_slice(tmp_path: Path) -> None:
    contours = [
        *boxes(1.5, 20.5, [4]),
        *boxes(3.5, 15.5, [4]),
        *boxes(6.5, 9.5, [4]),
        rectangle(GRID, (22.5, 1.5), (26.5, 5.5), 4),
    ]
    found = read(tmp_path, Roi("GTV", contours))
    mask = only(found)[4]
    assert [mask[2, 2], mask[5, 5], mask[8, 8], mask[3, 24]] == [True, False, True, True]
    assert only(found).sum() == 19**2 - 12**2 + 3**2 + 4**2
    assert not found.warnings


def test_contours_that_cross_themselves_or_each_other_are_named(tmp_path: Path) -> None:
    twice = np.concatenate([boxes(2.5, 12.5, [3])[0], boxes(2.5, 12.5, [3])[0][:1], boxes(4.5, 8.5, [3])[0]])
    found = read(tmp_path, Roi("A", [twice]), Roi("B", [*boxes(2.5, 8.5, [3, 4]), *boxes(5.5, 12.5, [3])]))
    assert any("'A': one of its contours crosses itself" in each for each in found.warnings)
    assert any("'B': on 1 planes contours overlap" in each for each in found.warnings)
    assert found.segmentation.segments[1].mask[3].sum() == 36 + 49 - 2 * 9


def test_a_contour_that_is_there_twice_does_not_cancel_itself_out(tmp_path: Path) -> None:
    found = read(tmp_path, Roi("GTV", boxes(2.5, 8.5, [3, 3, 4])))
    assert only(found).sum() == 72
    assert "1 contours are in the file twice" in found.warnings[0]


def test_a_structure_below_the_voxels_vanishes_and_is_named(tmp_path: Path) -> None:
    speck = Roi("Marker", boxes(5.2, 5.8, [3]))
    found = read(tmp_path, Roi("GTV", [*boxes(2.5, 8.5, [3]), *boxes(5.2, 5.8, [4])]), speck)
    assert found.segmentation.names() == ["GTV"]
    assert any("'Marker' is too small for the CT's voxels" in each and "not carried" in each for each in found.warnings)
    assert any("'GTV': on 1 of its planes the contours hold no voxel's centre" in each for each in found.warnings)
    assert "'Marker' is too small" in refusal(tmp_path, Roi("GTV", boxes(2.5, 8.5, [3])), speck, names=("Marker",))


# Which slices


def test_each_plane_goes_to_the_nearest_slice_and_that_is_said(tmp_path: Path) -> None:
    found = read(tmp_path, Roi("GTV", boxes(2.5, 8.5, [2.3, 3.3, 4.3])))
    assert np.flatnonzero(only(found).any(axis=(1, 2))).tolist() == [2, 3, 4]
    assert "3 of its planes lie between the CT's slices (up to 0.9 mm off)" in found.warnings[0]


def test_planes_halfway_between_slices_give_one_slice_each(tmp_path: Path) -> None:
    for jitter in (0.0, 2e-4, -2e-4):
        found = read(tmp_path, Roi("GTV", boxes(2.5, 8.5, [2.5 + jitter, 3.5 - jitter, 4.5])))
        assert np.flatnonzero(only(found).any(axis=(1, 2))).tolist() == [3, 4, 5]


def test_of_finer_planes_each_slice_takes_the_nearest(tmp_path: Path) -> None:
    places = [2 + step / 3 for step in range(7)]
    contours = [rectangle(GRID, (2.5, 2.5), (8.5 + index, 8.5), place) for index, place in enumerate(places)]
    found = read(tmp_path, Roi("GTV", contours))
    assert [int(plane.sum()) for plane in only(found)[2:5]] == [6 * 6, 6 * 9, 6 * 12]
    assert "finer planes than the CT's slices: 4 of 7 planes were left out" in found.warnings[0]


def test_evenly_spaced_coarser_planes_are_interpolated_and_that_is_said(tmp_path: Path) -> None:
    # A pyramid, drawn on every third slice: the slices between have the sizes between.
    contours = [rectangle(GRID, (2.5 + k / 3, 2.5 + k / 3), (20.5 - k / 3, 20.5 - k / 3), k) for k in (0, 3, 6, 9)]
    found = read(tmp_path, Roi("GTV", contours))
    sides = [np.sqrt(plane.sum()) for plane in only(found)]
    assert sides == sorted(sides, reverse=True)
    assert sides[::3] == [18, 16, 14, 12]
    assert "drawn on planes 9 mm apart" in found.warnings[0]
    assert "6 slices between them were interpolated" in found.warnings[0]


def test_a_gap_in_coarser_planes_stays_a_gap(tmp_path: Path) -> None:
    found = read(tmp_path, Roi("GTV", boxes(2.5, 8.5, [0, 2, 4, 8])))
    assert np.flatnonzero(only(found).any(axis=(1, 2))).tolist() == [0, 1, 2, 3, 4, 8]
    assert any("3 slices between its contours have none and stay empty (slices 6-8 of the CT)" in w for w in found.warnings)


def test_a_slice_that_was_not_contoured_stays_empty_and_is_named(tmp_path: Path) -> None:
    found = read(tmp_path, Roi("GTV", boxes(2.5, 8.5, [2, 3, 5, 6])))
    assert np.flatnonzero(only(found).any(axis=(1, 2))).tolist() == [2, 3, 5, 6]
    assert "1 slices between its contours have none and stay empty (slices 5 of the CT)" in found.warnings[0]


def test_two_planes_far_apart_do_not_make_a_spacing(tmp_path: Path) -> None:
    found = read(tmp_path, Roi("GTV", boxes(2.5, 8.5, [2, 5])))
    assert np.flatnonzero(only(found).any(axis=(1, 2))).tolist() == [2, 5]


def test_what_lies_outside_of_the_ct_is_named_or_refused(tmp_path: Path) -> None:
    gtv = Roi("GTV", boxes(2.5, 8.5, [2]))
    found = read(tmp_path, gtv, Roi("A", boxes(2.5, 8.5, [8, 9, 10, 11])), Roi("B", boxes(2.5, 8.5, [14])))
    assert found.segmentation.names() == ["GTV", "A"]
    assert any("'A': 50% of it lies outside of the CT" in each for each in found.warnings)
    assert any("'B' lies wholly outside of the CT" in each for each in found.warnings)
    beside = Roi("GTV", [rectangle(GRID, (-12.5, 2.5), (7.5, 8.5), 3)])
    assert "'GTV' lies mostly (60%) outside of the CT" in refusal(tmp_path, beside)


def test_contours_that_are_not_parallel_to_the_slices_are_refused(tmp_path: Path) -> None:
    tilted = boxes(2.5, 12.5, [4])[0]
    tilted[2:, 2] += 2.0
    sagittal = GRID.to_physical(np.array([[5, 2, 2], [5, 12, 2], [5, 12, 6], [5, 2, 6]], dtype=float))
    for odd in (tilted, sagittal):
        assert "1 of 2 contours in planes that are not parallel" in refusal(tmp_path, Roi("GTV", [*boxes(2.5, 8.5, [3]), odd]))
    hardly = boxes(2.5, 12.5, [4])[0]
    hardly[2:, 2] += 0.15
    assert only(read(tmp_path, Roi("GTV", [hardly]))).sum() == 100


def test_open_contours_and_points_are_left_out_and_named(tmp_path: Path) -> None:
    dataset = structure_set([Roi("GTV", boxes(2.5, 8.5, [3, 4, 5])), Roi("Iso", boxes(2.5, 8.5, [3])), Roi("Line", [])])
    kinds = ("OPEN_PLANAR", "POINT", None)
    for contour, kind in zip(dataset.ROIContourSequence[0].ContourSequence, ("CLOSED_PLANAR", *kinds), strict=False):
        contour.ContourGeometricType = kind
    dataset.ROIContourSequence[1].ContourSequence[0].ContourGeometricType = "POINT"
    path = write(dataset, tmp_path / "rs.dcm")
    found = read_structure_set(path, GRID, reference(GRID))
    assert found.segmentation.names() == ["GTV"]
    assert only(found).sum() == 36
    assert any("1 of type OPEN_PLANAR, 1 of type POINT" in each for each in found.warnings)
    assert any("'Iso' has no closed contours (only: 1 of type POINT)" in each for each in found.warnings)
    assert any("not carried, because without contours: Line" in each for each in found.warnings)
    for name, reason in (("Iso", "has no closed contours"), ("Line", "has no contours")):
        with pytest.raises(InputError, match=f"'{name}' {reason}"):
            read_structure_set(path, GRID, reference(GRID), [name])


# To which CT they belong


def test_another_frame_of_reference_is_refused_unless_the_geometry_is_trusted(tmp_path: Path) -> None:
    roi = Roi("GTV", boxes(2.5, 8.5, [3]), frame="1.9.9")
    images = [each.sop_instance_uid for each in reference(GRID).slices]
    for named in ([], [images[4]], ["1.7.7"], images[3:5]):
        roi.images = named  # none, not the one it lies on, one of another CT, or two
        assert "another frame of reference than the CT" in refusal(tmp_path, roi)
    roi.images = []
    assert "another frame of reference than the CT" in refusal(tmp_path, roi)
    path = write(structure_set([roi]), tmp_path / "rs.dcm")
    found = read_structure_set(path, GRID, reference(GRID), trust_geometry=True)
    assert "as asked for" in found.warnings[0]
    assert only(found).any()


def test_a_structure_of_another_frame_of_reference_is_left_out_beside_others(tmp_path: Path) -> None:
    found = read(tmp_path, Roi("GTV", boxes(2.5, 8.5, [3])), Roi("MR", boxes(2.5, 8.5, [3]), frame="1.9.9"))
    assert found.segmentation.names() == ["GTV"]
    assert any("'MR' cannot be carried" in each for each in found.warnings)


def test_another_series_of_the_same_frame_of_reference_is_a_warning(tmp_path: Path) -> None:
    found = read_structure_set(
        write(structure_set([Roi("GTV", boxes(2.5, 8.5, [3]))]), tmp_path / "rs.dcm"), GRID, reference(GRID, series_uid="1.8")
    )
    assert found.warnings == ("structure set: it was drawn on another series than this CT, in the same frame of reference",)


def test_references_to_images_that_are_not_there_are_a_warning(tmp_path: Path) -> None:
    known = reference(GRID).slices[3].sop_instance_uid
    found = read(tmp_path, Roi("GTV", boxes(2.5, 8.5, [3]), images=[known, "1.7.7", "1.7.8"]))
    assert found.warnings == ("structure set: it refers to 2 images that are not among the CT's 10; the coordinates were used",)


def test_another_patients_contours_are_refused_unless_they_refer_to_the_cts_images(tmp_path: Path) -> None:
    gtv = Roi("GTV", boxes(2.5, 8.5, [3]))
    assert "another patient" in refusal(tmp_path, gtv, PatientID="OTHER")
    gtv.images = [reference(GRID).slices[3].sop_instance_uid]
    assert read(tmp_path, gtv, PatientID="OTHER").warnings == ("structure set: it has another patient id than the CT",)


# What is carried beside the mask


def test_name_colour_type_and_code_are_carried(tmp_path: Path) -> None:
    tg263 = item(CodeValue="GTVp", CodingSchemeDesignator="99AAPM^TG263", CodeMeaning="Primary~tumour")
    category = item(CodeValue="49755003", CodingSchemeDesignator="SCT", CodeMeaning="Morphologically Altered Structure")
    tg263.SegmentedPropertyCategoryCodeSequence = [category]
    roi = Roi(
        "Läsion 1",
        boxes(2.5, 8.5, [3]),
        color=(255, 0, 51),
        roi={"ROIGenerationAlgorithm": "MANUAL"},
        observation={"RTROIInterpretedType": "GTV", "RTROIIdentificationCodeSequence": [tg263]},
    )
    (segment,) = read(tmp_path, roi, SpecificCharacterSet="ISO_IR 192").segmentation.segments
    assert segment.name == "Läsion 1"
    assert segment.color == (1.0, 0.0, 0.2)
    assert segment.tags == {"DICOM.RTROIInterpretedType": "GTV", "DICOM.ROIGenerationAlgorithm": "MANUAL"}
    assert segment.terminology is not None
    assert segment.terminology["type"] == ["99AAPM TG263", "GTVp", "Primary tumour"]
    assert segment.terminology["category"][1] == "49755003"


def test_what_was_read_can_be_written_for_slicer_and_read_again(tmp_path: Path) -> None:
    code = item(CodeValue="10200004", CodingSchemeDesignator="SCT", CodeMeaning="Liver|^")
    observed = {"RTROIInterpretedType": "ORGAN", "RTROIIdentificationCodeSequence": [code]}
    found = read(tmp_path, Roi("Liver", boxes(2.5, 8.5, [3]), observation=observed))
    write_segmentation(found.segmentation, tmp_path / "again.seg.nrrd")
    (again,) = read_segmentation(tmp_path / "again.seg.nrrd").segments
    (segment,) = found.segmentation.segments
    assert again.terminology == segment.terminology
    assert again.tags == segment.tags
    np.testing.assert_array_equal(again.mask, segment.mask)


@pytest.mark.parametrize(
    ("name", "kind", "margin_or_organ"),
    [
        ("Target", "CTV", True),
        ("Target", "PTV", True),
        ("GTV_old", "PTV", True),
        ("Struct 1", "ORGAN", True),
        ("Body_1", "EXTERNAL", True),
        ("Lung_L", "GTV", False),
        ("PTV", "GTV", True),
        ("Struct 1", "GTV", False),
        ("Struct 1", "CONTROL", False),
        ("Struct 1", "", False),
        # Some planning systems call every structure an organ.
        ("GTV", "ORGAN", False),
    ],
)
def test_the_interpreted_type_tells_margins_and_organs(tmp_path: Path, name: str, kind: str, margin_or_organ: bool) -> None:
    roi = Roi(name, boxes(2.5, 8.5, [3]), observation={"RTROIInterpretedType": kind})
    (segment,) = read(tmp_path, roi).segmentation.segments
    assert is_margin_or_organ(segment) is margin_or_organ


def test_two_structures_of_one_name_stay_apart(tmp_path: Path) -> None:
    rois = [Roi("GTV", boxes(2.5, 8.5, [3])), Roi("GTV", boxes(2.5, 4.5, [3])), Roi("GTV", [])]
    found = read(tmp_path, *rois)
    assert found.segmentation.names() == ["GTV", "GTV (2)"]
    assert any("the later one is called 'GTV (2)' here" in each for each in found.warnings)
    assert "two structures are named 'GTV'" in refusal(tmp_path, *rois, names=("GTV",))
    assert only(read(tmp_path, rois[0], rois[2], names=("GTV",))).sum() == 36


def test_only_the_structures_asked_for_are_read_in_the_order_asked_for(tmp_path: Path) -> None:
    broken = Roi("Broken", ["1\\2"])
    rois = [broken, Roi("A", boxes(2.5, 8.5, [3])), Roi("B", boxes(2.5, 4.5, [3]))]
    assert read(tmp_path, *rois, names=("B", "A")).segmentation.names() == ["B", "A"]
    assert "no structure named 'C'; it has: Broken, A, B" in refusal(tmp_path, *rois, names=("C",))
