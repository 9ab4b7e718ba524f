"""A folder of DICOM files is indexed whatever lies in it; what cannot be used is counted and never named."""

from __future__ import annotations

import os
import shutil
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ct_files import PATIENT, SECRETS, make_series, make_slice, save
from multi_frame_files import make_multi_frame
from P2SAMSlicerLib.dicom import bounded_read, folder_index, indexed_series
from P2SAMSlicerLib.dicom.folder_index import index_folder
from P2SAMSlicerLib.dicom.indexed_series import DicomIndex, SeriesKind
from P2SAMSlicerLib.dicom.series import read_ct_series
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.progress import ProgressEvent
from pydicom import Dataset
from pydicom.dataset import FileDataset
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, RTStructureSetStorage, SegmentationStorage, generate_uid


def item(**tags: Any) -> Dataset:
    made = Dataset()
    for tag, value in tags.items():
        setattr(made, tag, value)
    return made


def contour_object(sop_class: str, modality: str, **tags: Any) -> FileDataset:
    """A structure set or segmentation, header only, in a series of its own."""
    made = make_slice(np.zeros((2, 2), np.uint16), np.zeros(3), 1, Modality=modality, SeriesInstanceUID=generate_uid())
    for tag in ("PixelData", "Rows", "Columns", "ImagePositionPatient", "FrameOfReferenceUID"):
        delattr(made, tag)
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = UID(sop_class)
    for tag, value in tags.items():
        setattr(made, tag, value)
    return made


def structure_set(images: list[FileDataset], *, of_contours: bool = False, **tags: Any) -> FileDataset:
    """One that names its images in its frame of reference, or only at each contour."""
    named = [item(ReferencedSOPInstanceUID=each.SOPInstanceUID) for each in images]
    series = item(SeriesInstanceUID="1.2.3.4", **({} if of_contours else {"ContourImageSequence": named}))
    study = item(RTReferencedSeriesSequence=[series])
    frame = item(FrameOfReferenceUID="1.2.3.5", RTReferencedStudySequence=[study])
    contours = [item(ContourSequence=[item(ContourImageSequence=[each]) for each in named])] if of_contours else []
    return contour_object(
        RTStructureSetStorage,
        "RTSTRUCT",
        StructureSetLabel="Plan A",
        StructureSetDate="20240305",
        StructureSetTime="080910",
        ApprovalStatus="APPROVED",
        ReferencedFrameOfReferenceSequence=[frame],
        ROIContourSequence=contours,
        **tags,
    )


def kinds(index: DicomIndex) -> list[tuple[str, int]]:
    return [(each.kind.value, len(each.files)) for each in index.series]


def test_nested_patients_studies_and_series_are_told_apart(tmp_path: Path) -> None:
    save(tmp_path / "a", make_series())
    save(tmp_path / "a" / "b", make_series(count=3, SeriesInstanceUID="1.9", AcquisitionDate="20240131"))
    save(tmp_path / "c", make_series(count=2, StudyInstanceUID="1.7", PatientID="SECRET-2", AcquisitionDate="20231231"))
    save(tmp_path / "c", make_series(count=4, Modality="MR", SeriesInstanceUID="1.8"), [f"m{k}.dcm" for k in range(4)])
    index = index_folder(tmp_path)
    assert kinds(index) == [("ct", 2), ("ct", 3), ("ct", 5), ("other", 4)]
    assert index.patient_ids() == ("SECRET-2", PATIENT)
    assert [each.acquired for each in index.series[:3]] == ["20231231101530", "20240131101530", "20240229101530"]
    assert index.series[0].frame_of_reference_uid == "1.2.3.5"
    assert index.left_aside == {}


def test_slices_of_two_patients_or_frames_that_share_a_series_uid_are_two_series(tmp_path: Path) -> None:
    slices = make_series(count=6)
    for each in slices[:2]:
        each.PatientID = "SECRET-2"
    for each in slices[2:4]:
        each.FrameOfReferenceUID = "1.2.3.6"
    assert kinds(index_folder(save(tmp_path / "s", slices))) == [("ct", 2)] * 3


def test_a_series_without_a_patient_or_a_date_comes_last(tmp_path: Path) -> None:
    save(tmp_path / "a", make_series(count=2, PatientID=None, AcquisitionDate="20240231"))
    save(tmp_path / "b", make_series(count=3))
    index = index_folder(tmp_path)
    assert kinds(index) == [("ct", 3), ("ct", 2)]
    assert (index.series[1].patient_id, index.series[1].acquired) == (None, None)


def test_a_multi_frame_object_is_one_file_of_many_frames(tmp_path: Path) -> None:
    (series,) = index_folder(save(tmp_path / "s", [make_multi_frame(make_series())])).series
    assert series.kind is SeriesKind.CT
    assert [file.frames for file in series.files] == [5]
    assert read_ct_series(series.paths, "visit_1").volume.grid.shape == (5, 7, 6)


def test_a_map_that_was_computed_from_a_ct_is_no_ct(tmp_path: Path) -> None:
    save(tmp_path / "s", make_series(ImageType=["DERIVED", "PRIMARY", "PERFUSION", "RCBF"]))
    assert kinds(index_folder(tmp_path)) == [("other", 5)]


@pytest.mark.parametrize("of_contours", [False, True])
def test_a_structure_set_says_what_it_was_drawn_on(tmp_path: Path, of_contours: bool) -> None:
    slices = make_series()
    save(tmp_path / "ct", slices)
    save(tmp_path / "rs", [structure_set(slices[1:3], of_contours=of_contours)])
    index = index_folder(tmp_path)
    (found,) = index.of_kind(SeriesKind.STRUCTURE_SET)
    assert found.referenced_series == {"1.2.3.4"}
    assert found.referenced_instances == {each.SOPInstanceUID for each in slices[1:3]}
    assert (found.frame_of_reference_uid, found.approval, found.label) == ("1.2.3.5", "APPROVED", "Plan A")
    assert found.acquired == "20240305080910"
    assert index.contours_on(index.of_kind(SeriesKind.CT)[0]) == (found,)


@pytest.mark.parametrize("of_frames", [False, True])
def test_a_segmentation_says_what_it_was_drawn_on(tmp_path: Path, of_frames: bool) -> None:
    slices = make_series()
    named = [item(ReferencedSOPInstanceUID=each.SOPInstanceUID) for each in slices]
    if of_frames:
        frames = [item(DerivationImageSequence=[item(SourceImageSequence=[each])]) for each in named]
        tags: dict[str, Any] = {"PerFrameFunctionalGroupsSequence": frames}
    else:
        tags = {"ReferencedSeriesSequence": [item(SeriesInstanceUID="1.2.3.4", ReferencedInstanceSequence=named)]}
    save(tmp_path / "ct", slices)
    save(tmp_path / "seg", [contour_object(SegmentationStorage, "SEG", FrameOfReferenceUID="1.2.3.5", Rows=7, **tags)])
    index = index_folder(tmp_path)
    (found,) = index.of_kind(SeriesKind.SEGMENTATION)
    assert found.referenced_instances == {each.SOPInstanceUID for each in slices}
    assert found.referenced_series == (frozenset() if of_frames else {"1.2.3.4"})
    assert index.contours_on(index.of_kind(SeriesKind.CT)[0]) == (found,)


def test_each_structure_set_of_a_series_stands_for_itself_even_with_one_identifier(tmp_path: Path) -> None:
    slices = make_series()
    first, second = structure_set(slices), structure_set(slices[:2], SOPInstanceUID="1.5.5")
    first.SOPInstanceUID, first.SeriesInstanceUID, second.SeriesInstanceUID = "1.5.5", "1.6", "1.6"
    folder = save(tmp_path / "s", [first, second])
    shutil.copy(folder / "001.dcm", folder / "copy.dcm")
    index = index_folder(folder)
    assert kinds(index) == [("rtstruct", 1)] * 2
    assert [len(each.referenced_instances) for each in index.series] == [5, 2]
    assert index.left_aside == {folder_index.COPY: 1}


def damaged_files(folder: Path) -> None:
    whole = (save(folder.parent / "whole", make_series(count=1)) / "001.dcm").read_bytes()
    (folder / "empty.dcm").write_bytes(b"")
    (folder / "text.dcm").write_text("Doe^Jane")
    (folder / "cut").write_bytes(whole[:200])
    (folder / "cut_later").write_bytes(whole[: whole.index(b"1.2.3.4")])
    (folder / "magic").write_bytes(bytes(128) + b"DICM" + b"\xff" * 50)
    shutil.rmtree(folder.parent / "whole")


def test_what_cannot_be_used_is_counted_by_reason(tmp_path: Path) -> None:
    folder = save(tmp_path / "s", make_series())
    damaged_files(folder)
    scout = make_slice(np.zeros((4, 4), np.uint16), np.zeros(3), 1, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    report = contour_object("1.2.840.10008.5.1.4.1.1.88.11", "SR")
    directory = contour_object("1.2.840.10008.1.3.10", "")
    save(folder, [scout, report, directory], ["scout.dcm", "report.dcm", "DICOMDIR"])
    (folder / "notes.txt").write_text("Doe^Jane")
    (folder / ".hidden.dcm").write_bytes((folder / "001.dcm").read_bytes())
    shutil.copytree(folder, folder / "again", ignore=lambda _folder, names: set(names) - {"001.dcm", "002.dcm"})
    index = index_folder(folder)
    assert kinds(index) == [("ct", 5)]
    assert index.left_aside == {
        folder_index.COPY: 2,
        indexed_series.DAMAGED: 5,
        folder_index.DIRECTORY: 1,
        folder_index.NO_DICOM: 1,
        folder_index.NO_IMAGE: 1,
        folder_index.SCOUT: 1,
        "hidden files and folders": 1,
    }


def test_a_whole_slice_is_taken_rather_than_its_cut_copy(tmp_path: Path) -> None:
    folder = save(tmp_path / "s", make_series())
    whole = (folder / "003.dcm").read_bytes()
    (folder / "000.dcm").write_bytes(whole[:-10])
    (series,) = index_folder(folder).series
    assert [path.name for path in series.paths] == ["001.dcm", "002.dcm", "003.dcm", "004.dcm", "005.dcm"]
    read_ct_series(series.paths, "visit_1")


def test_slices_that_all_have_one_identifier_are_no_copies(tmp_path: Path) -> None:
    (series,) = index_folder(save(tmp_path / "s", make_series(SOPInstanceUID="1.2.3.9"))).series
    volume = read_ct_series(series.paths, "visit_1").volume
    assert volume.grid.shape == (5, 7, 6)
    assert any("same identifier" in warning for warning in volume.warnings)


def test_a_damaged_slice_shows_as_a_gap_when_its_series_is_read(tmp_path: Path) -> None:
    folder = save(tmp_path / "s", make_series())
    path = folder / "003.dcm"
    path.write_bytes(path.read_bytes()[:300])
    index = index_folder(folder)
    assert index.left_aside == {indexed_series.DAMAGED: 1}
    with pytest.raises(InputError, match="slices are missing"):
        read_ct_series(index.series[0].paths, "visit_1")


def test_a_slice_whose_pixels_are_cut_is_refused_when_its_series_is_read(tmp_path: Path) -> None:
    folder = save(tmp_path / "s", make_series())
    path = folder / "003.dcm"
    path.write_bytes(path.read_bytes()[:-20])
    (series,) = index_folder(folder).series
    with pytest.raises(InputError, match="file 3 of 5 has pixel data that cannot be decoded"):
        read_ct_series(series.paths, "visit_1")


def linked(link: Path, target: Path) -> None:
    try:
        link.symlink_to(target)
    except OSError:
        pytest.skip("this system makes no links")


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    folder = save(tmp_path / "s", make_series())
    (folder / "sub").mkdir()
    linked(folder / "sub" / "up", folder)
    linked(folder / "sub" / "self", folder / "sub" / "self")
    linked(folder / "nowhere", folder / "absent")
    index = index_folder(folder)
    assert kinds(index) == [("ct", 5)]
    assert index.left_aside == {
        "broken links and other things that are no files": 2,
        "links to folders that are searched already": 1,
    }


def test_a_linked_folder_is_searched(tmp_path: Path) -> None:
    save(tmp_path / "elsewhere", make_series())
    (tmp_path / "s").mkdir()
    linked(tmp_path / "s" / "ct", tmp_path / "elsewhere")
    assert kinds(index_folder(tmp_path / "s")) == [("ct", 5)]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes among its files")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    folder = save(tmp_path / "s", make_series(count=2))
    os.mkfifo(folder / "pipe.dcm")
    assert index_folder(folder).left_aside == {"broken links and other things that are no files": 1}


def test_a_name_in_the_place_of_an_approval_is_none(tmp_path: Path) -> None:
    named = structure_set([])
    named.ApprovalStatus = "SMITH"
    save(tmp_path / "s", [named])
    assert [each.approval for each in index_folder(tmp_path).series] == [""]


def test_a_file_that_cannot_be_opened_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save(tmp_path / "s", make_series())
    looks_like_dicom = bounded_read.looks_like_dicom

    def closed(path: Path) -> bool:
        if path.name == "002.dcm":
            raise PermissionError(13, "Permission denied", str(path))
        return looks_like_dicom(path)

    monkeypatch.setattr(folder_index, "looks_like_dicom", closed)
    index = index_folder(folder)
    assert kinds(index) == [("ct", 4)]
    assert index.left_aside == {indexed_series.UNREADABLE: 1}


def test_a_folder_that_is_not_there_is_refused_without_its_name(tmp_path: Path) -> None:
    (tmp_path / "Doe_Jane").write_text("a file")
    for name in ("Doe_John", "Doe_Jane", "Doe\0"):
        with pytest.raises((InputError, ValueError)) as raised:
            index_folder(tmp_path / name)
        assert "Doe" not in str(raised.value)


def test_progress_counts_files_and_names_nothing(tmp_path: Path) -> None:
    events: list[ProgressEvent] = []
    index_folder(save(tmp_path / "Doe", make_series()), events.append)
    assert [(event.stage, event.done, event.total) for event in events] == [("index", 0, 5), ("index", 5, 5)]
    assert not any(event.message for event in events)


def test_the_parsers_remarks_reach_neither_terminal_nor_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    folder = save(tmp_path / "s", make_series())
    path = folder / "002.dcm"
    path.write_bytes(path.read_bytes().replace(b"20240229", b"Doe^Jane").replace(b"DS\x02\x001 ", b"DS\x02\x00x "))
    damaged_files(folder)
    with caplog.at_level(0):
        index_folder(folder)
    assert capsys.readouterr() == ("", "")
    assert not caplog.records
    assert not recwarn.list


# --- hostile files ----------------------------------------------------------------------------------------------------------


def start_of_file() -> bytes:
    """Preamble, meta information and the first elements of a segmentation; sequences can follow."""

    def element(group: int, number: int, vr: bytes, value: bytes) -> bytes:
        return struct.pack("<HH2sH", group, number, vr, len(value)) + value

    meta = element(2, 0x10, b"UI", b"1.2.840.10008.1.2.1\0")
    sop_class = element(8, 0x16, b"UI", b"1.2.840.10008.5.1.4.1.1.66.4")
    return bytes(128) + b"DICM" + meta + sop_class + element(8, 0x18, b"UI", b"1.2.3.4\0") + element(8, 0x60, b"CS", b"SEG ")


SEQUENCE = struct.pack("<HH2sH", 8, 0x1115, b"SQ", 0)
ENDLESS = 0xFFFFFFFF
ITEM = struct.pack("<HH", 0xFFFE, 0xE000)
SERIES_UID = struct.pack("<HH2sH", 0x20, 0x0E, b"UI", 8) + b"1.2.3.4\0"


def nested(levels: int) -> bytes:
    return start_of_file() + (SEQUENCE + struct.pack("<I", ENDLESS) + ITEM + struct.pack("<I", ENDLESS)) * levels


def nested_with_lengths(levels: int) -> bytes:
    content = b""
    for _ in range(levels):
        content = SEQUENCE + struct.pack("<I", len(content) + 8) + ITEM + struct.pack("<I", len(content)) + content
    return start_of_file() + content + SERIES_UID


def many_items(count: int, *, endless: bool) -> bytes:
    items = (ITEM + bytes(4)) * count
    return start_of_file() + SEQUENCE + struct.pack("<I", ENDLESS if endless else len(items)) + items + SERIES_UID


def long_value(tag: tuple[int, int]) -> bytes:
    return start_of_file() + struct.pack("<HH2sHI", *tag, b"UT", 0, 0x7FFFFFF0) + SERIES_UID


def deflated(size: int) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    head, _, rest = start_of_file().partition(b"1.2.840.10008.1.2.1\0")
    head = head[:-2] + struct.pack("<H", 22) + DeflatedExplicitVRLittleEndian.encode()
    packed = packer.compress(rest) + packer.compress(struct.pack("<HH2sHI", 9, 0x1001, b"OB", 0, size))
    packed += b"".join(packer.compress(bytes(2**22)) for _ in range(size // 2**22)) + packer.flush()
    return head + packed


HOSTILE: dict[str, Callable[[], bytes]] = {
    "sequences nested without end": lambda: nested(100_000),
    "sequences nested with lengths": lambda: nested_with_lengths(3000),
    "a sequence of empty items": lambda: many_items(60_000, endless=True),
    "a sequence of empty items with a length": lambda: many_items(60_000, endless=False),
    "a value that claims two gigabytes": lambda: long_value((8, 0x1030)),
    "a patient id that claims two gigabytes": lambda: long_value((0x10, 0x20)),
    "a small file that unpacks to a large one": lambda: deflated(2**26),
}


@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_file_ends_soon_and_harms_no_other(
    tmp_path: Path, make: Callable[[], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A fraction of the bounds, so that reaching them is quick here, too.
    monkeypatch.setattr(
        bounded_read.ReadBudget.__init__,
        "__defaults__",
        (bounded_read.MOST_READS // 50, bounded_read.MOST_ITEMS, bounded_read.MOST_EMPTY),
    )
    monkeypatch.setattr(bounded_read, "MOST_HEADER_BYTES", bounded_read.MOST_HEADER_BYTES // 50)
    folder = save(tmp_path / "s", make_series(count=3))
    (folder / "000.dcm").write_bytes(make())
    began = time.process_time()
    index = index_folder(folder)
    assert time.process_time() - began < 5
    assert [(each.kind, len(each.files)) for each in index.of_kind(SeriesKind.CT)] == [(SeriesKind.CT, 3)]
    assert len(index.series) + sum(index.left_aside.values()) == 2


def test_a_deflated_slice_is_indexed_and_read_like_any_other(tmp_path: Path) -> None:
    slices = make_series()
    for each in slices:
        each.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    (series,) = index_folder(save(tmp_path / "s", slices)).series
    plain = read_ct_series(sorted(save(tmp_path / "t", make_series()).iterdir()), "visit_1")
    np.testing.assert_array_equal(read_ct_series(series.paths, "visit_1").volume.array, plain.volume.array)


@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_many_files_take_little_time_each_and_each_is_found(tmp_path: Path) -> None:
    (original,) = save(tmp_path / "one", make_series(count=1, SOPInstanceUID="1.2.4.00000")).iterdir()
    content = original.read_bytes()
    for number in range(600):
        folder = tmp_path / "many" / str(number // 100)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / str(number)).write_bytes(content.replace(b"1.2.4.00000", b"1.2.4.%05d" % number))
    began = time.process_time()
    index = index_folder(tmp_path / "many")
    assert (time.process_time() - began) / 600 < 0.01
    assert kinds(index) == [("ct", 600)]
    assert index.left_aside == {}


def test_the_real_folders_are_indexed_in_full(shared_data: Path) -> None:
    index = index_folder(shared_data / "dicom")
    assert len(index.of_kind(SeriesKind.STRUCTURE_SET)) == 5
    assert len(index.of_kind(SeriesKind.SEGMENTATION)) == 7
    for folder, slices in (("lung_ct_rtstruct", 60), ("sarcoma_ct_rtstruct", 51)):
        part = index_folder(shared_data / "dicom" / folder)
        (ct,), (contours,) = part.of_kind(SeriesKind.CT), part.of_kind(SeriesKind.STRUCTURE_SET)
        assert len(ct.files) == slices
        assert part.contours_on(ct) == (contours,)
        volume = read_ct_series(ct.paths, "visit_1").volume
        assert volume.grid.shape[0] == slices
        assert not [secret for secret in SECRETS if any(secret in warning for warning in volume.warnings)]
