"""The clinic's cases: found in files and in DICOM, told by number, never by a name."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from clinic_folder import PATIENTS, write_clinic
from P2SAMSlicerLib.commissioning.clinic_cases import TUMOUR, find_clinic_cases, read_clinic_case
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.result_files import ALGORITHM_NAME_TAG
from P2SAMSlicerLib.segmentation_file import write_segmentation
from P2SAMSlicerLib.volume import Segment, Segmentation, VisitIdentity, Volume
from P2SAMSlicerLib.volume_file import write_volume
from small_visits import PRIOR_GRID, ball, phantom, write_dicom

TUMOUR_MASK = ball(PRIOR_GRID, 10.0)


def structures(path: Path, *names: str) -> None:
    segments = tuple(Segment(name, TUMOUR_MASK) for name in names)
    write_segmentation(Segmentation(PRIOR_GRID, segments), path)


def test_cases_are_numbered_by_their_folders_names_and_bear_none(tmp_path: Path) -> None:
    cases = find_clinic_cases(write_clinic(tmp_path, tuple(reversed(PATIENTS)), site="lung"))
    assert [case.name for case in cases] == [f"case_{n:03d}" for n in range(1, 6)]
    assert [case.place for case in cases] == list(PATIENTS)
    assert [case.patient for case in cases] == ["1", "2", "3", "4", "5"]
    assert {case.site for case in cases} == {"lung"}
    data = read_clinic_case(cases[0])
    assert (data.ct.name, data.segment.name, data.ct.identity) == ("case_001", TUMOUR, VisitIdentity())
    assert np.array_equal(data.segment.mask, TUMOUR_MASK), "the tumour, and not the heart beside it"
    assert {case.site for case in find_clinic_cases(tmp_path, "brain")} == {"brain"}


def test_of_several_tumours_one_has_to_be_named_and_of_several_names_the_first_counts(tmp_path: Path) -> None:
    write_clinic(tmp_path, PATIENTS[:1])
    structures(tmp_path / PATIENTS[0] / f"{PATIENTS[0]}.seg.nrrd", "GTVn", "GTVp", "PTV")
    (case,) = find_clinic_cases(tmp_path)
    with pytest.raises(InputError, match=r"which structure is the tumour.*--segment: GTVn, GTVp$"):
        read_clinic_case(case)
    assert read_clinic_case(case, ["tumour", "GTVp"]).segment.mask.any()
    with pytest.raises(InputError, match="no structure named tumour or mass; it has: GTVn, GTVp, PTV"):
        read_clinic_case(case, ["tumour", "mass"])
    with pytest.raises(InputError, match="'PTV' is a margin or an organ"):
        read_clinic_case(case, ["PTV"])


def test_a_label_map_is_the_tumour_whatever_its_file_is_called(tmp_path: Path) -> None:
    own = tmp_path / "Doe_Jane"
    own.mkdir()
    write_volume(phantom(PRIOR_GRID), own / "ct.nii.gz")
    write_volume(Volume(TUMOUR_MASK, PRIOR_GRID, "x"), own / "heart_seg.nii.gz")
    (case,) = find_clinic_cases(tmp_path)
    assert np.array_equal(read_clinic_case(case).segment.mask, TUMOUR_MASK)


def test_what_this_tool_drew_is_no_truth(tmp_path: Path) -> None:
    write_clinic(tmp_path, PATIENTS[:1])
    own = Segment("GTV drawn here", TUMOUR_MASK, tags={ALGORITHM_NAME_TAG: "P2SAMSlicer 0.1 (lite_medsam)"})
    write_segmentation(Segmentation(PRIOR_GRID, (own,)), tmp_path / PATIENTS[0] / "followup.seg.nrrd")
    write_segmentation(Segmentation(PRIOR_GRID, (own,)), tmp_path / PATIENTS[0] / "carried.seg.nrrd")
    (case,) = find_clinic_cases(tmp_path)
    assert len(case.contours) == 2, "a simulated case's follow-up is no contour of the prior"
    assert read_clinic_case(case).segment.mask.any()
    with pytest.raises(InputError, match="no structure named GTV drawn here"):
        read_clinic_case(case, ["GTV drawn here"])


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (("a_CT.nii.gz",), "holds 1 image files that may be the CT and 0 with contours"),
        (("a_CT.nii.gz", "b_CT.nii.gz", "gtv.nii.gz"), "holds 2 image files that may be the CT and 1 with contours"),
        (("a_mask.nii.gz", "b_seg.nrrd"), "holds 0 image files that may be the CT and 2 with contours"),
    ],
)
def test_a_folder_in_which_it_is_not_clear_which_file_is_which_is_told_by_number(
    tmp_path: Path, files: tuple[str, ...], words: str
) -> None:
    write_clinic(tmp_path, PATIENTS[1:3])
    own = tmp_path / PATIENTS[0]
    own.mkdir()
    for name in files:
        (own / name).write_bytes(b"")
    with pytest.raises(InputError, match=rf"^sub-folder 1 \(by name\): {words}") as refused:
        find_clinic_cases(tmp_path)
    assert "Doe" not in str(refused.value)


def test_folders_without_a_case_and_sites_that_are_no_word_are_refused(tmp_path: Path) -> None:
    for folder in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(InputError, match=r"not a folder of cases|holds none: it needs sub-folders"):
            find_clinic_cases(folder)
    write_clinic(tmp_path, PATIENTS[:1], site="<script>")
    with pytest.raises(InputError, match=r"case\.json: the site must be a short word"):
        find_clinic_cases(tmp_path)
    (tmp_path / PATIENTS[0] / "case.json").write_text("{")
    with pytest.raises(InputError, match=r"^sub-folder 1 \(by name\): case.json is not readable"):
        find_clinic_cases(tmp_path)


@pytest.mark.parametrize("damaged", ["CT.nii.gz", "seg.nrrd"])
def test_no_message_holds_the_name_of_a_file_or_folder(tmp_path: Path, damaged: str) -> None:
    write_clinic(tmp_path, PATIENTS[:1])
    for file in (tmp_path / PATIENTS[0]).glob(f"*{damaged}"):
        file.write_bytes(file.read_bytes()[:300])
    (case,) = find_clinic_cases(tmp_path)
    with pytest.raises(InputError) as refused:
        read_clinic_case(case)
    assert "case_001" in str(refused.value)
    for part in ("Doe", "Jane", "1948", str(tmp_path)):
        assert part not in str(refused.value)


# ------------------------------------------------------------------------------------------------------------------- DICOM
def test_a_dicom_ct_with_its_structure_set_is_a_case_wherever_it_lies(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "dicom" / "sarcoma_ct_rtstruct"
    if not source.is_dir():
        pytest.skip("the shared data has no dicom/sarcoma_ct_rtstruct")
    shutil.copytree(source, tmp_path / "Doe_Jane" / "2020" / "dump")
    write_dicom(tmp_path / "Roe_Rick", phantom(PRIOR_GRID), "Roe^Rick", "20200101")  # nobody contoured it
    write_clinic(tmp_path, PATIENTS[3:4], site="lung")
    cases = find_clinic_cases(tmp_path)
    assert [(case.name, case.ct.dicom, case.site) for case in cases] == [
        ("case_001", False, "lung"),
        ("case_002", True, "unknown"),
    ]
    assert cases[1].place.startswith("Doe_Jane/2020/dump")
    names = ["GTV_Mass", "GTV", "GTVp"]
    try:
        data = read_clinic_case(cases[1])
    except InputError as error:
        data = read_clinic_case(cases[1], [*names, *str(error).rpartition(": ")[2].split(", ")])
    assert data.ct.name == "case_002"
    assert data.segment.mask.sum() > 1000
    assert data.ct.identity == VisitIdentity()
