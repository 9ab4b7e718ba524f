"""Contours from any kind of file, told by content; and the commands that take them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from P2SAMSlicerLib.cli import main
from P2SAMSlicerLib.dicom.read_contours import contour_file, segments_from, unique_names
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.result_files import COMPARISON_TAG
from P2SAMSlicerLib.segmentation_file import read_segmentation, write_segmentation
from P2SAMSlicerLib.volume import Segmentation, Volume
from P2SAMSlicerLib.volume_file import write_volume
from segmentations import save
from segmentations import segmentation as dicom_seg
from small_visits import FOLLOWUP_GRID, PRIOR_GRID, ball, phantom, segment, write_dicom
from structure_sets import PATIENT, Roi, outlines_on, reference, structure_set, write

if TYPE_CHECKING:
    from fake_engine import Engine

LESION = ball(PRIOR_GRID, 10.0)
PRIOR = phantom(PRIOR_GRID, "prior")


def rtstruct(path: Path, *more: Roi) -> Path:
    return write(structure_set([Roi("GTV", outlines_on(LESION, PRIOR_GRID)), *more]), path)


def seg(path: Path) -> Path:
    return save(dicom_seg([LESION], PRIOR_GRID, names=["GTV"]), path)


def label_map(path: Path) -> Path:
    write_volume(Volume(LESION, PRIOR_GRID), path)
    return path


def slicer_file(path: Path) -> Path:
    comparison = segment("GTV (registered prior)", tags={COMPARISON_TAG: "1"})
    write_segmentation(Segmentation(PRIOR_GRID, (segment("GTV"), comparison)), path)
    return path


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("rs.dcm", rtstruct),
        ("contours", rtstruct),
        ("rs.nii.gz", rtstruct),
        ("seg.dcm", seg),
        ("noending", seg),
        ("seg.seg.nrrd", seg),
        ("GTV.nii.gz", label_map),
        ("prior.seg.nrrd", slicer_file),
    ],
)
def test_the_kind_is_told_by_content_and_all_give_the_same_mask(tmp_path: Path, name: str, make: object) -> None:
    path = make(tmp_path / name)  # type: ignore[operator]
    segments, warnings = segments_from(path, PRIOR, reference(PRIOR_GRID))
    assert [each.name for each in segments] == ["GTV"]
    np.testing.assert_array_equal(segments[0].mask, LESION)
    assert [each for each in warnings if "comparison only" not in each] == []


def test_a_folder_with_one_rtstruct_or_seg_among_images_will_do(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    write_dicom(folder / "CT", PRIOR, PATIENT, "20240101")
    (folder / "RT").mkdir()
    rtstruct(folder / "RT" / "1.2.3")
    (folder / "notes.txt").write_text("hello")
    (folder / "broken.dcm").write_bytes(bytes(128) + b"DICM" + b"\xff" * 40)
    segments, _ = segments_from(folder, PRIOR, reference(PRIOR_GRID))
    np.testing.assert_array_equal(segments[0].mask, LESION)
    seg(folder / "RT" / "second")
    with pytest.raises(InputError, match="2 objects with contours; give the one to use"):
        segments_from(folder, PRIOR)


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_a_folder_that_links_to_itself_ends(tmp_path: Path) -> None:
    rtstruct(tmp_path / "rs.dcm")
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    assert contour_file(tmp_path)[1] == tmp_path / "rs.dcm"


def test_what_holds_no_contours_is_refused_in_one_line(tmp_path: Path) -> None:
    write_dicom(tmp_path / "CT", PRIOR, PATIENT, "20240101")
    (tmp_path / "garbage").write_bytes(bytes(128) + b"DICM" + b"\xff" * 40)
    (tmp_path / "noise.dcm").write_bytes(os.urandom(500))
    write_volume(PRIOR, tmp_path / "ct.nii.gz")
    for name, words in (
        ("CT", "holds no RTSTRUCT and no DICOM SEG"),
        ("CT/000.dcm", "an RTSTRUCT or SEG is needed"),
        ("garbage", "cannot be read|an RTSTRUCT or SEG is needed"),
        ("noise.dcm", "not a known kind|cannot be read|an RTSTRUCT or SEG"),
        ("absent.dcm", "no such file"),
        ("ct.nii.gz", "not a label map"),
    ):
        with pytest.raises(InputError, match=words) as caught:
            segments_from(tmp_path / name, PRIOR)
        assert "\n" not in str(caught.value)
        assert PATIENT not in str(caught.value)


def test_a_seg_on_another_grid_comes_to_the_cts(tmp_path: Path) -> None:
    path = save(dicom_seg([ball(FOLLOWUP_GRID, 10.0)], FOLLOWUP_GRID, names=["GTV"]), tmp_path / "seg.dcm")
    segments, _ = segments_from(path, PRIOR, reference(PRIOR_GRID))
    assert segments[0].mask.shape == PRIOR_GRID.shape
    assert (segments[0].mask & LESION).sum() > 0.8 * LESION.sum()


@pytest.mark.parametrize("make", [rtstruct, seg])
def test_contours_of_another_frame_of_reference_are_refused(tmp_path: Path, make: object) -> None:
    path = make(tmp_path / "it")  # type: ignore[operator]
    with pytest.raises(InputError, match="another frame of reference"):
        segments_from(path, PRIOR, reference(PRIOR_GRID, frame_of_reference_uid="1.9"))


def test_only_the_names_asked_for_are_carried(tmp_path: Path) -> None:
    path = rtstruct(tmp_path / "rs.dcm", Roi("Broken", [np.full((4, 3), 9e4)]))
    segments, warnings = segments_from(path, PRIOR, reference(PRIOR_GRID), ["GTV"])
    assert [each.name for each in segments] == ["GTV"]
    assert warnings == []
    with pytest.raises(InputError, match="no structure named 'gtv'; it has: GTV, Broken"):
        segments_from(path, PRIOR, reference(PRIOR_GRID), ["gtv"])


def test_names_become_unique() -> None:
    assert unique_names(["A", "B", "A", "A (2)", "A"], "x")[0] == ["A", "B", "A (3)", "A (2)", "A (4)"]
    assert unique_names(["A", "B"], "x") == (["A", "B"], [])


@pytest.mark.parametrize("make", [rtstruct, seg])
def test_propagate_carries_contours_from_dicom(
    tmp_path: Path, visits: list[str], engine: Engine, capsys: pytest.CaptureFixture[str], make: object
) -> None:
    make(tmp_path / "contours")  # type: ignore[operator]
    visits[visits.index("--prior-seg") + 1] = str(tmp_path / "contours")
    assert main(visits) == 0, capsys.readouterr().err
    (written,) = read_segmentation(tmp_path / "out" / "followup.seg.nrrd", ["GTV"]).segments
    assert written.name == "GTV"
    del engine


def test_propagate_with_a_dicom_prior_checks_the_frame_of_reference(
    tmp_path: Path, visits: list[str], engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    del engine
    write_dicom(tmp_path / "CT", PRIOR, PATIENT, "20240101")
    visits[visits.index("--prior-ct") + 1] = str(tmp_path / "CT")
    visits[visits.index("--prior-seg") + 1] = str(rtstruct(tmp_path / "rs.dcm"))
    assert main(visits) == 0, capsys.readouterr().err
    assert "not at hand" not in capsys.readouterr().out
    write(structure_set([Roi("GTV", outlines_on(LESION, PRIOR_GRID), frame="1.9")]), tmp_path / "rs.dcm")
    assert main([*visits, "--overwrite"]) == 2
    error = capsys.readouterr().err
    assert "another frame of reference" in error
    assert PATIENT not in error


def test_evaluate_compares_a_structure_set_with_what_has_voxels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drawn, voxels, stored = rtstruct(tmp_path / "rs.dcm"), label_map(tmp_path / "GTV.nii.gz"), seg(tmp_path / "seg.dcm")
    for result, truth in ((drawn, voxels), (voxels, drawn), (stored, drawn), (stored, voxels)):
        assert main(["evaluate", "--result", str(result), "--truth", str(truth)]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert next(line for line in lines if line.startswith("Dice")).split()[-1].startswith("1.0")
    assert main(["evaluate", "--result", str(drawn), "--truth", str(drawn)]) == 2
    assert "both are structure sets" in capsys.readouterr().err


def test_a_real_study_folder_gives_its_contour(shared_data: Path, tmp_path: Path) -> None:
    from P2SAMSlicerLib.dicom.series import read_dicom_series

    folder = tmp_path / "study"
    shutil.copytree(shared_data / "dicom" / "sarcoma_ct_rtstruct", folder)
    segments, warnings = segments_from(folder, read_dicom_series(folder / "CT"))
    assert [(each.name, int(each.mask.sum())) for each in segments] == [("GTV_Mass_CT", 8862)]
    assert len(warnings) == 1
