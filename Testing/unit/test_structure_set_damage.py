"""RTSTRUCT that is damaged or malicious: a mask or one line, and soon."""

from __future__ import annotations

import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from P2SAMSlicerLib.dicom import bounded_read, structure_set_reader
from P2SAMSlicerLib.dicom.structure_set_reader import read_structure_set
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.geometry import Grid
from pydicom import Dataset
from small_visits import PRIOR_GRID, ball
from structure_set_reading import GRID, boxes, one_line, only, read, refusal
from structure_sets import NAME, Roi, item, outlines_on, reference, structure_set, write

SQUARE = "0\\20\\-31\\5\\20\\-31\\5\\26\\-31\\0\\26\\-31"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (SQUARE + "\\7", "13 numbers"),
        (SQUARE.replace("5", "NaN", 1), "not finite"),
        (SQUARE.replace("5", "1e300", 1), "farther away than any patient"),
        (SQUARE.replace("5", "1e999", 1), "not finite"),
        (SQUARE.replace("5", "-1e7", 1), "farther away than any patient"),
        (SQUARE.replace("5", "five", 1), "no numbers"),
        (SQUARE.replace("5", "", 1), "no numbers"),
        ("", "fewer than 3 points"),
        ("1\\2\\3\\4\\5\\6", "fewer than 3 points"),
        ("\\", "no numbers"),
    ],
)
def test_absurd_coordinates_are_one_line(tmp_path: Path, data: str, words: str) -> None:
    dataset = structure_set([Roi("GTV", [SQUARE])])
    dataset.ROIContourSequence[0].ContourSequence[0]["ContourData"] = pydicom.dataelem.RawDataElement(
        pydicom.tag.Tag("ContourData"), "DS", len(data), data.encode(), 0, False, True
    )
    path = write(dataset, tmp_path / "rs.dcm")
    with pytest.raises(InputError) as caught:
        read_structure_set(path, GRID, reference(GRID))
    assert words in one_line(str(caught.value))


@pytest.mark.parametrize(
    ("elements", "words"),
    [
        ({"StructureSetROISequence": None}, "no structures with contours"),
        ({"ROIContourSequence": None}, "no structures with contours"),
        ({"StructureSetROISequence": []}, "no structures with contours"),
        ({"ROIContourSequence": [item(ReferencedROINumber=77)]}, "a structure that it does not name"),
        ({"ROIContourSequence": [item(ReferencedROINumber=1)]}, "none of its 1 structures has contours"),
        ({"StructureSetROISequence": [item(ROINumber=1, ROIName="A"), item(ROINumber=1, ROIName="B")]}, "the same number"),
        ({"SOPClassUID": "1.2.3", "Modality": "CT"}, "another kind of DICOM object"),
    ],
)
def test_missing_and_contradicting_elements_are_one_line(tmp_path: Path, elements: dict[str, Any], words: str) -> None:
    assert words in refusal(tmp_path, Roi("GTV", boxes(2.5, 8.5, [3])), **elements)


@pytest.mark.parametrize("absent", ["RTROIObservationsSequence", "ReferencedFrameOfReferenceSequence", "PatientID"])
def test_what_is_not_needed_may_be_missing(tmp_path: Path, absent: str) -> None:
    elements: dict[str, Any] = {absent: None}
    assert only(read(tmp_path, Roi("GTV", boxes(2.5, 8.5, [3])), **elements)).sum() == 36


def test_a_structure_set_that_names_no_frame_of_reference_is_a_warning(tmp_path: Path) -> None:
    found = read(tmp_path, Roi("GTV", boxes(2.5, 8.5, [3]), frame=None), ReferencedFrameOfReferenceSequence=None)
    assert "no frame of reference is named" in found.warnings[0]


def test_a_cut_file_is_refused_or_gives_the_whole_mask(tmp_path: Path) -> None:
    whole = write(
        structure_set([Roi("GTV", outlines_on(ball(PRIOR_GRID, 12.0), PRIOR_GRID))]), tmp_path / "whole.dcm"
    ).read_bytes()
    refused = 0
    for length in range(0, len(whole), max(1, len(whole) // 150)):
        (tmp_path / "rs.dcm").write_bytes(whole[:length])
        try:
            found = read_structure_set(tmp_path / "rs.dcm", PRIOR_GRID, reference(PRIOR_GRID))
        except InputError as error:
            one_line(str(error))
            refused += 1
        else:
            np.testing.assert_array_equal(only(found), ball(PRIOR_GRID, 12.0))
    assert refused > 140


def test_whatever_the_parser_raises_on_coordinates_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_contour: Dataset) -> NDArray[np.float64]:
        raise NotImplementedError(f"Unknown Value Representation in the data of {NAME}")

    monkeypatch.setattr(structure_set_reader, "_points", fail)
    assert "cannot be read (damaged" in refusal(tmp_path, Roi("GTV", boxes(2.5, 8.5, [3])))


def test_a_deflated_file_is_read_and_a_zip_bomb_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = structure_set([Roi("GTV", boxes(2.5, 8.5, [3]))])
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    path = write(dataset, tmp_path / "rs.dcm")
    assert only(read_structure_set(path, GRID, reference(GRID))).sum() == 36
    dataset.StructureSetROISequence[0].add_new(0x00091010, "UN", bytes(60_000))
    write(dataset, path)
    monkeypatch.setattr(bounded_read, "MOST_INFLATED_BYTES", 50_000)
    with pytest.raises(InputError, match="holds more than any real object of its kind"):
        read_structure_set(path, GRID, reference(GRID))


def nested(depth: int) -> bytes:
    """Sequences of undefined length within each other, never closed."""
    level = bytes.fromhex("06303900") + b"SQ\0\0" + b"\xff" * 4 + bytes.fromhex("feff00e0") + b"\xff" * 4
    return level * depth


@pytest.mark.parametrize(
    "bomb",
    [nested(100_000), bytes.fromhex("06303900") + b"SQ\0\0" + b"\xff" * 4 + bytes.fromhex("feff00e000000000") * 1_100_000],
    ids=["nested without end", "a million empty items"],
)
def test_a_bomb_of_sequences_is_refused_quickly(tmp_path: Path, bomb: bytes) -> None:
    path = write(structure_set([Roi("GTV", boxes(2.5, 8.5, [3]))], ROIContourSequence=None), tmp_path / "rs.dcm")
    with path.open("ab") as file:
        file.write(bomb)
    started = time.monotonic()
    with pytest.raises(InputError) as caught:
        read_structure_set(path, GRID, reference(GRID))
    one_line(str(caught.value))
    assert time.monotonic() - started < 10


def test_rejected_contours_are_read_with_a_warning(tmp_path: Path) -> None:
    dataset = structure_set([Roi("GTV", boxes(2.5, 8.5, [3]))], ApprovalStatus="REJECTED")
    found = read_structure_set(write(dataset, tmp_path / "rs.dcm"), GRID, reference(GRID))
    assert any("rejected by whoever reviewed them" in each for each in found.warnings)


def test_a_name_in_the_place_of_a_contours_type_is_not_repeated(tmp_path: Path) -> None:
    dataset = structure_set([Roi("GTV", boxes(2.5, 8.5, [3, 4]))])
    dataset.ROIContourSequence[0].ContourSequence[0].ContourGeometricType = "DOE JANE"
    found = read_structure_set(write(dataset, tmp_path / "rs.dcm"), GRID, reference(GRID))
    assert any("1 of an unknown type" in each for each in found.warnings)
    assert not any("DOE" in each for each in found.warnings)


def test_a_million_points_are_read_in_seconds(tmp_path: Path) -> None:
    angles = np.linspace(0, 2 * np.pi, 1000, endpoint=False)
    corners = [f"{10 * np.cos(angle):.5f}\\{27 + 10 * np.sin(angle):.5f}\\-31\\" for angle in angles]
    data = "".join(corner * 1000 for corner in corners).encode()[:-1]
    dataset = structure_set([Roi("GTV")], ROIContourSequence=None)
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    path = write(dataset, tmp_path / "rs.dcm")

    def element(tag: str, value: bytes) -> bytes:
        return bytes.fromhex(tag) + struct.pack("<I", len(value)) + value

    closed = element("06304200", b"CLOSED_PLANAR ") + element("06305000", data + b" " * (len(data) % 2))
    contours = element("06304000", element("feff00e0", closed)) + element("06308400", b"1 ")
    with path.open("ab") as file:
        file.write(element("06303900", element("feff00e0", contours)))
    started = time.monotonic()
    found = read_structure_set(path, GRID, reference(GRID))
    assert time.monotonic() - started < 15
    assert only(found).sum() == pytest.approx(np.pi * 100 / (1.5 * 1.25), rel=0.03)


@pytest.mark.parametrize(
    ("limit", "value", "words"),
    [
        ("MOST_STRUCTURES", 2, "3 structures, more than any real one"),
        ("MOST_CONTOURS", 5, "6 contours, more than any real one"),
        ("MOST_WORK", 500, "more and larger than any real one's"),
    ],
)
def test_more_than_any_real_structure_set_has_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: int, words: str
) -> None:
    monkeypatch.setattr(structure_set_reader, limit, value)
    rois = [Roi(name, boxes(2.5, 8.5, [3, 4])) for name in "ABC"]
    assert words in refusal(tmp_path, *rois)


def test_more_masks_than_memory_holds_are_refused_with_advice(tmp_path: Path) -> None:
    large = Grid((500, 2000, 2000), (0.5, 0.5, 1.0))
    rois = [Roi(name, boxes(2.5, 8.5, [3], large)) for name in "ABC"]
    assert "its 3 structures would take 6.0 GB on this CT; name those to carry" in refusal(tmp_path, *rois, grid=large)


@settings(max_examples=300)
@given(st.data())
def test_no_damage_to_a_file_ends_in_anything_but_a_mask_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp()
    template = folder / "template.dcm"
    if not template.exists():
        observed = {"RTROIInterpretedType": "GTV"}
        write(structure_set([Roi("GTV", boxes(2.5, 8.5, [3, 4, 5]), images=["1.2.9"], observation=observed)]), template)
    content = bytearray(template.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(132, len(content) - 1))
        change = data.draw(st.sampled_from(["set", "drop", "double"]))
        if change == "set":
            content[place] = data.draw(st.sampled_from([0, 1, 0x20, 0x30, 0x5C, 0x7F, 0xFE, 0xFF]))
        elif change == "drop":
            del content[place : place + data.draw(st.integers(1, 9))]
        else:
            content[place:place] = content[place : place + data.draw(st.integers(1, 40))]
    path = folder / "damaged.dcm"
    path.write_bytes(bytes(content))
    try:
        found = read_structure_set(path, GRID, reference(GRID))
    except InputError as error:
        one_line(str(error))
    else:
        assert all(segment.mask.any() for segment in found.segmentation.segments)
