"""Segmentations: every voxel, name and tag comes through files and onto the CT's grid."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import nrrd
import numpy as np
import pytest
import SimpleITK
import slicerio
from numpy.typing import NDArray
from P2SAMSlicerLib.errors import InputError, OutputError
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.segmentation_file import read_segmentation, write_segmentation
from P2SAMSlicerLib.volume import BoolArray, Segment, Segmentation, Volume
from P2SAMSlicerLib.volume_file import write_volume
from scipy.spatial.transform import Rotation

SLICER_FILES = Path(slicerio.__file__).parent / "data"

OBLIQUE = Grid(
    (5, 6, 7),
    (0.7, 0.9, 2.5),
    (-120.5, 33.25, 810.125),
    tuple(Rotation.from_euler("xyz", [0.2, -0.5, 1.1]).as_matrix().ravel().tolist()),
)
TERMINOLOGY = {
    "contextName": "Segmentation category and type - 3D Slicer General Anatomy list",
    "category": ["SCT", "49755003", "Morphologically Altered Structure"],
    "type": ["SCT", "4147007", "Mass"],
    "typeModifier": ["SCT", "24028007", "Right"],
    "anatomicContextName": "Anatomic codes - DICOM master list",
    "anatomicRegion": ["SCT", "39607008", "Lung"],
    "anatomicRegionModifier": ["SCT", "7771000", "Left"],
}
TAGS = {
    "DICOM.SegmentAlgorithmType": "SEMIAUTOMATIC",
    "DICOM.SegmentAlgorithmName": "P2SAM",
    "Segmentation.Status": "inprogress",
}


def box(grid: Grid, *slices: slice) -> BoolArray:
    mask = np.zeros(grid.shape, dtype=np.bool_)
    mask[slices] = True
    return mask


def make_segmentation(grid: Grid = OBLIQUE) -> Segmentation:
    """Two segments side by side, one that overlaps both, and an empty one."""
    return Segmentation(
        grid,
        (
            Segment("GTV", box(grid, slice(1, 3), slice(1, 4), slice(1, 3)), (1.0, 0.25, 0.0), TERMINOLOGY, TAGS),
            Segment("cord", box(grid, slice(0, 5), slice(4, 5), slice(4, 6)), (0.1, 0.2, 0.3)),
            Segment("PTV", box(grid, slice(0, 4), slice(0, 5), slice(0, 5))),
            Segment("empty", box(grid, slice(0, 0))),
        ),
        "plan",
    )


def assert_same(one: Segmentation, other: Segmentation, with_looks: bool = True) -> None:
    assert one.names() == other.names()
    np.testing.assert_allclose(one.grid.corners(), other.grid.corners(), atol=1e-9)
    for a, b in zip(one.segments, other.segments, strict=True):
        np.testing.assert_array_equal(a.mask, b.mask, strict=True)
        assert a.mask.flags.c_contiguous
        if with_looks:
            assert (a.color, a.terminology, dict(a.tags)) == (b.color, b.terminology, dict(b.tags))


def refusal(path: Path, names: list[str] | None = None) -> str:
    with pytest.raises(InputError) as raised:
        read_segmentation(path, names)
    message = str(raised.value)
    assert message.startswith((f"{path.name}: ", f"{path.name.split('.')[0]}: "))
    assert "\n" not in message
    assert str(path.parent) not in message
    return message


def write_labels(path: Path, labels: NDArray[Any]) -> Path:
    write_volume(Volume(labels, Grid((labels.shape[0], labels.shape[1], labels.shape[2]), (0.5, 0.75, 2.0))), path)
    return path


def edit(path: Path, old: bytes, new: bytes) -> Path:
    data = path.read_bytes()
    assert data.count(old) == 1
    path.write_bytes(data.replace(old, new))
    return path


@pytest.mark.parametrize(
    "grid", [OBLIQUE, Grid((5, 6, 7)), Grid((5, 6, 7), (1.0, 2.0, 3.0), (0, 0, 0), (0, 0, 1, -1, 0, 0, 0, 1, 0))]
)
def test_a_segmentation_is_the_same_after_writing_and_reading(tmp_path: Path, grid: Grid) -> None:
    segmentation = make_segmentation(grid)
    write_segmentation(segmentation, tmp_path / "plan.seg.nrrd")
    back = read_segmentation(tmp_path / "plan.seg.nrrd")
    assert_same(back, segmentation)
    assert back.name == "plan"
    assert [path.name for path in tmp_path.iterdir()] == ["plan.seg.nrrd"]


def test_other_libraries_find_the_same_masks_at_the_same_place(tmp_path: Path) -> None:
    segmentation = make_segmentation()
    path = tmp_path / "plan.seg.nrrd"
    write_segmentation(segmentation, path)
    image: Any = SimpleITK.ReadImage(str(path))
    layers = SimpleITK.GetArrayFromImage(image)
    np.testing.assert_allclose(image.GetOrigin(), OBLIQUE.origin)
    np.testing.assert_allclose(image.GetSpacing(), OBLIQUE.spacing)
    np.testing.assert_allclose(image.GetDirection(), OBLIQUE.direction, atol=1e-12)
    content = slicerio.read_segmentation(str(path))
    np.testing.assert_allclose(content["ijkToLPS"], OBLIQUE.index_to_physical, atol=1e-12)
    for segment, entry in zip(segmentation.segments, content["segments"], strict=True):
        assert entry["name"] == segment.name
        np.testing.assert_array_equal(slicerio.segment_mask(content, entry["id"]).transpose(2, 1, 0), segment.mask)
        np.testing.assert_array_equal(layers[..., entry["layer"]] == entry["labelValue"], segment.mask)
    assert content["segments"][0]["terminology"] == TERMINOLOGY
    assert content["segments"][0]["status"] == "inprogress"


def test_only_overlapping_segments_need_another_layer(tmp_path: Path) -> None:
    full = make_segmentation()
    write_segmentation(full, tmp_path / "a.seg.nrrd")
    assert [s["layer"] for s in slicerio.read_segmentation(str(tmp_path / "a.seg.nrrd"))["segments"]] == [0, 0, 1, 0]
    write_segmentation(Segmentation(OBLIQUE, full.segments[:2]), tmp_path / "b.seg.nrrd")
    assert nrrd.read_header(str(tmp_path / "b.seg.nrrd"))["dimension"] == 3


def test_more_segments_than_one_layer_can_number_are_kept(tmp_path: Path) -> None:
    grid = Grid((5, 8, 8))
    masks = np.eye(300, 320, dtype=np.bool_).reshape(300, *grid.shape)
    segmentation = Segmentation(grid, tuple(Segment(f"s{i}", mask) for i, mask in enumerate(masks)))
    write_segmentation(segmentation, tmp_path / "a.seg.nrrd")
    assert_same(read_segmentation(tmp_path / "a.seg.nrrd"), segmentation)


def test_a_segmentation_without_segments_is_kept(tmp_path: Path) -> None:
    write_segmentation(Segmentation(OBLIQUE, ()), tmp_path / "a.seg.nrrd")
    back = read_segmentation(tmp_path / "a.seg.nrrd")
    assert back.segments == ()
    assert back.grid.shape == OBLIQUE.shape


@pytest.mark.parametrize(
    "name", ["GTV-Lungenflügel", "患者 腫瘍", "a := b: c", "it's 100 % #1 | x", "two\nlines", "back\\slash \\n", "é" * 300]
)
def test_every_name_survives_and_slicer_would_see_it_too(tmp_path: Path, name: str) -> None:
    tags = {"Prüfer": "Ärztin \\ Arzt", "time": "12:30"}
    segmentation = Segmentation(
        OBLIQUE, (Segment(name, box(OBLIQUE, slice(0, 2)), tags=tags), Segment("other", box(OBLIQUE, slice(3, 4))))
    )
    path = tmp_path / "Plan ü 患.seg.nrrd"
    write_segmentation(segmentation, path)
    assert_same(read_segmentation(path), segmentation)
    # ITK reads NRRD with the same library as Slicer.
    reader: Any = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    assert reader.GetMetaData("Segment0_Name") == name


def test_terminology_in_another_language_survives(tmp_path: Path) -> None:
    terminology = TERMINOLOGY | {"type": ["SCT", "4147007", "Raumforderung (größer)"], "contextName": "Verzeichnis für Ärzte"}
    segmentation = Segmentation(OBLIQUE, (Segment("GTV", box(OBLIQUE, slice(0, 2)), terminology=terminology),))
    write_segmentation(segmentation, tmp_path / "a.seg.nrrd")
    assert_same(read_segmentation(tmp_path / "a.seg.nrrd"), segmentation)


@pytest.mark.parametrize(
    "segment",
    [
        {"tags": {"a": "b|c"}},
        {"tags": {"a:b": "c"}},
        {"tags": {"": "c"}},
        {"terminology": TERMINOLOGY | {"type": ["SCT", "1", "a~b"]}},
        {"terminology": {"category": ["SCT", "1", "x"]}},
    ],
)
def test_what_the_format_cannot_hold_is_refused_and_nothing_is_written(tmp_path: Path, segment: dict[str, Any]) -> None:
    segmentation = Segmentation(OBLIQUE, (Segment("GTV", box(OBLIQUE, slice(0, 2)), **segment),))
    with pytest.raises(OutputError, match=r"^a\.seg\.nrrd: the .*'GTV'"):
        write_segmentation(segmentation, tmp_path / "a.seg.nrrd")
    assert list(tmp_path.iterdir()) == []


def test_the_same_segmentation_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_segmentation(make_segmentation(), tmp_path / f"{name}.seg.nrrd")
    data = (tmp_path / "a.seg.nrrd").read_bytes()
    assert data == (tmp_path / "b.seg.nrrd").read_bytes()
    assert b"# on " not in data[:300]


def test_wrong_endings_masks_and_grids_are_refused_on_writing(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"^a\.nii\.gz: a segmentation is written as \.seg\.nrrd$"):
        write_segmentation(make_segmentation(), tmp_path / "a.nii.gz")
    small = Segment("GTV", np.zeros((1, 2, 3), dtype=np.bool_))
    with pytest.raises(InputError, match="'GTV' is not on the segmentation's grid"):
        write_segmentation(Segmentation(OBLIQUE, (small,)), tmp_path / "a.seg.nrrd")
    with pytest.raises(InputError, match="not positive"):
        write_segmentation(make_segmentation(Grid((5, 6, 7), (1.0, 1.0, 0.0))), tmp_path / "a.seg.nrrd")
    with pytest.raises(OutputError, match=r"^a\.seg\.nrrd: cannot be written"):
        write_segmentation(make_segmentation(), tmp_path / "nowhere" / "a.seg.nrrd")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.seg.nrrd").write_text("old")

    def no_space(*_args: object, **_kwargs: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("nrrd.write", no_space)
    with pytest.raises(OutputError, match=r"^a\.seg\.nrrd: cannot be written \(no space left on device\)$"):
        write_segmentation(make_segmentation(), tmp_path / "a.seg.nrrd")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.seg.nrrd", "old")]


@pytest.mark.parametrize("file", ["Segmentation.seg.nrrd", "SegmentationOverlapping.seg.nrrd"])
def test_a_file_that_slicer_wrote_is_read_and_written_without_loss(tmp_path: Path, file: str) -> None:
    original = SLICER_FILES / file
    if not original.is_file():
        pytest.skip("this slicerio package brings no example files")
    segmentation = read_segmentation(original)
    content = slicerio.read_segmentation(str(original))
    assert segmentation.names() == slicerio.segment_names(content)
    assert segmentation.segments[0].terminology == content["segments"][0]["terminology"]
    assert segmentation.segments[0].tags == {"Segmentation.Status": "inprogress"}
    assert segmentation.segments[0].color == (0.992157, 0.909804, 0.619608)
    image: Any = SimpleITK.ReadImage(str(original))
    np.testing.assert_allclose(segmentation.grid.index_to_physical[:3, 3], image.GetOrigin())
    np.testing.assert_allclose(segmentation.grid.direction, image.GetDirection())
    labels = SimpleITK.GetArrayFromImage(image).reshape(*segmentation.grid.shape, -1)
    for segment, entry in zip(segmentation.segments, content["segments"], strict=True):
        np.testing.assert_array_equal(segment.mask, labels[..., entry["layer"]] == entry["labelValue"])
        assert segment.mask.any()
    write_segmentation(segmentation, tmp_path / file)
    assert_same(read_segmentation(tmp_path / file), segmentation)


def test_a_file_in_ras_lies_at_the_same_place_as_in_lps(tmp_path: Path) -> None:
    segmentation = make_segmentation()
    path = tmp_path / "a.seg.nrrd"
    write_segmentation(segmentation, path)
    data, header = nrrd.read(str(path))
    header["space"] = "right-anterior-superior"
    header["space directions"] = header["space directions"] * np.array([-1, -1, 1])
    header["space origin"] = header["space origin"] * np.array([-1, -1, 1])
    nrrd.write(str(path), data, header)
    assert_same(read_segmentation(path), segmentation)


def test_segments_of_an_old_slicer_have_one_layer_each(tmp_path: Path) -> None:
    data = np.zeros((2, 3, 4, 5), np.uint8, order="F")
    data[0, 1], data[1, :, 2] = 1, 1
    header = {
        "kinds": ["list", "domain", "domain", "domain"],
        "space": "left-posterior-superior",
        "space directions": np.vstack([[np.nan] * 3, np.eye(3)]),
        "space origin": [0, 0, 0],
    }
    names = {"Segment0_ID": "A", "Segment0_Name": "GTV", "Segment1_ID": "B", "Segment1_Name": "cord"}
    nrrd.write(str(tmp_path / "a.seg.nrrd"), data, header | names)
    segmentation = read_segmentation(tmp_path / "a.seg.nrrd")
    assert segmentation.names() == ["GTV", "cord"]
    for segment, layer in zip(segmentation.segments, data, strict=True):
        np.testing.assert_array_equal(segment.mask, layer.transpose(2, 1, 0) == 1)


def test_segments_with_numbers_beyond_nine_keep_their_own_names(tmp_path: Path) -> None:
    grid = Grid((3, 4, 5))
    masks = np.eye(12, 60, dtype=np.bool_).reshape(12, *grid.shape)
    segmentation = Segmentation(grid, tuple(Segment(f"größe {i}", mask) for i, mask in enumerate(masks)))
    write_segmentation(segmentation, tmp_path / "a.seg.nrrd")
    assert_same(read_segmentation(tmp_path / "a.seg.nrrd"), segmentation)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b"Segment0_Layer:=0", b"Segment0_Layer:=7", "cannot be read as a segmentation"),
        (b"Segment0_LabelValue:=1", b"Segment0_LabelValue:=x", "cannot be read as a segmentation"),
        (b"kinds: list", b"kinds: 4-vector", "cannot be read as a segmentation"),
        (b"space: left-posterior-superior", b"space: left-anterior-superior", "cannot be read as a segmentation"),
        (b"MasterRepresentation:=Binary", b"MasterRepresentation:=Fractional", "fractional"),
        (b"space directions: none (1,0,0)", b"space directions: none (1,0.5,0)", "not orthonormal"),
        (b"space directions: none (1,0,0)", b"space directions: none (0,0,0)", "not positive"),
        (b"NRRD0005", b"XRRD0005", "not a NRRD file"),
    ],
)
def test_damaged_and_unusual_segmentations_are_refused(tmp_path: Path, old: bytes, new: bytes, words: str) -> None:
    write_segmentation(make_segmentation(Grid((5, 6, 7))), tmp_path / "a.seg.nrrd")
    path = tmp_path / "a.seg.nrrd"
    assert words in refusal(edit(path, old, new))


@pytest.mark.parametrize("keep", [0.5, 0.9, 0.99])
def test_a_segmentation_cut_short_is_refused(tmp_path: Path, keep: float) -> None:
    path = tmp_path / "a.seg.nrrd"
    grid = Grid((20, 30, 40))
    noise = np.random.default_rng(0).random(grid.shape) > 0.5
    write_segmentation(Segmentation(grid, (Segment("GTV", noise),)), path)
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    assert "cannot be read as a segmentation" in refusal(path)


def test_only_the_wanted_segments_are_read_and_unknown_ones_refused(tmp_path: Path) -> None:
    write_segmentation(make_segmentation(), tmp_path / "plan.seg.nrrd")
    assert read_segmentation(tmp_path / "plan.seg.nrrd", ["PTV", "GTV"]).names() == ["GTV", "PTV"]
    assert refusal(tmp_path / "plan.seg.nrrd", ["CTV"]) == "plan: no segment named 'CTV'; it has: GTV, cord, PTV, empty"


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha", ".seg.nrrd"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int64, np.float32, np.float64])
def test_a_label_map_gives_a_segment_for_each_value(tmp_path: Path, suffix: str, dtype: Any) -> None:
    labels = np.zeros((4, 5, 6), dtype)
    labels[1, 2, 3] = 1
    labels[2] = 7
    segmentation = read_segmentation(write_labels(tmp_path / f"rs{suffix}", labels))
    assert segmentation.names() == ["Segment_1", "Segment_7"]
    assert segmentation.grid.spacing == pytest.approx((0.5, 0.75, 2.0))
    for segment, value in zip(segmentation.segments, (1, 7), strict=True):
        np.testing.assert_array_equal(segment.mask, labels == value)
        assert segment.mask.dtype == np.bool_


@pytest.mark.parametrize("value", [1, 255])
def test_a_single_label_is_named_by_its_file(tmp_path: Path, value: int) -> None:
    labels = np.zeros((4, 5, 6), np.uint8)
    labels[2] = value
    assert read_segmentation(write_labels(tmp_path / "GTV 1.nii.gz", labels)).names() == ["GTV 1"]


def test_an_empty_label_map_has_no_segments(tmp_path: Path) -> None:
    assert read_segmentation(write_labels(tmp_path / "a.nii.gz", np.zeros((4, 5, 6), np.uint8))).segments == ()


def test_images_are_not_taken_for_label_maps(tmp_path: Path) -> None:
    values = np.arange(2000.0).reshape(10, 10, 20)
    assert "1999 different values" in refusal(write_labels(tmp_path / "a.nii.gz", values.astype(np.int16)))
    assert "negative values" in refusal(write_labels(tmp_path / "b.nii.gz", (values - 1).astype(np.int16)))
    assert "not whole numbers" in refusal(write_labels(tmp_path / "c.nii.gz", (values / 2000).astype(np.float32)))


def test_other_files_and_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "rs.dcm").write_bytes(b"\0" * 128 + b"DICM")
    assert "DICOM contours are read by p2sam propagate" in refusal(tmp_path / "rs.dcm")
    assert "no such file" in refusal(tmp_path / "nothing.seg.nrrd")
    (tmp_path / "folder").mkdir()
    assert "cannot be opened" in refusal(tmp_path / "folder")


def test_real_masks_are_read(shared_data: Path, tmp_path: Path) -> None:
    segmentation = read_segmentation(shared_data / "visits" / "lung_i_shrink" / "prior_seg.nii.gz")
    assert segmentation.names() == ["prior_seg"]
    assert segmentation.segments[0].mask.sum() * segmentation.grid.voxel_ml == pytest.approx(358.68, abs=0.01)
    shutil.copy(shared_data / "dicom" / "seg_dcmqi_liver" / "nrrd" / "partial_overlaps-1.nrrd", tmp_path / "liver.nrrd")
    assert read_segmentation(tmp_path / "liver.nrrd").segments
