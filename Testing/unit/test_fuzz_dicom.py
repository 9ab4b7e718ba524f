"""Hostile DICOM from a seed: every reader answers, or refuses in one line that names nobody, within time and memory."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import dicom_seeds
import pytest
from dicom_inputs import FAMILIES, HostileInput, hostile_input
from dicom_tree import walk
from fuzz_readers import fuzz
from P2SAMSlicerLib.dicom.folder_index import COPY, index_folder
from P2SAMSlicerLib.dicom.folder_walk import LOOPED, SPECIAL
from P2SAMSlicerLib.dicom.indexed_series import DAMAGED, SeriesKind
from P2SAMSlicerLib.dicom.series import read_ct_series
from P2SAMSlicerLib.dicom.structure_set_reader import read_structure_set
from P2SAMSlicerLib.errors import InputError, OutputError
from P2SAMSlicerLib.patient.visits import find_visits
from reader_check import GRID, ReaderCheck

#: Inputs of each family in the suite, 2,000 in all; those with bombs take longest. Any number: Testing/fuzz/fuzz_readers.py.
INPUTS = {"bytes": 750, "values": 750, "structure": 120, "folders": 380}


@pytest.mark.parametrize("family", FAMILIES)
def test_no_hostile_folder_is_more_than_the_readers_can_refuse(family: str) -> None:
    report = fuzz(INPUTS[family], seed=0, family=family)
    assert report.findings == []
    assert report.count == INPUTS[family]
    # The faults reach every reader, and are not so gross that none answers.
    for reader in ("read_ct_series", "read_structure_set", "read_dicom_seg", "segments_from", "find_visits"):
        for outcome in ("answered", "refused"):
            assert report.answers[f"{reader} {outcome}"] > 2, (reader, outcome)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_seed_gives_the_same_inputs_and_another_one_others(family: str) -> None:
    first, again, other = ([hostile_input(seed, number, family) for number in range(20)] for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_undamaged_files_are_read(tmp_path: Path) -> None:
    """Else all refusals would mean nothing."""
    check = ReaderCheck()
    for number, seed in enumerate(dicom_seeds.seeds()):
        if seed.name.startswith("real"):
            continue
        place = tmp_path / str(number)
        place.mkdir()
        made = HostileInput(seed.name, seed.files, ct=seed.ct)
        check.run(made, made.write(place))
        assert check.answers.get("read_ct_series answered", 0) == number + 1, seed.name
    assert check.findings == []
    assert check.answers["read_structure_set answered"] == 1
    assert check.answers["read_dicom_seg answered"] == 3
    assert check.answers["segments_from answered"] == 4


def test_what_readers_should_not_do_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def tells(_folder: Path, _progress: object) -> None:
        raise InputError(f"{dicom_seeds.PATIENT_NAME}: cannot be read")

    def fails(*_arguments: object, **_options: object) -> None:
        raise KeyError("x")

    def hangs(*_arguments: object) -> None:
        while True:
            pass

    for name, fault in (("index_folder", tells), ("find_visits", fails), ("read_structure_set", hangs)):
        monkeypatch.setattr(f"reader_check.{name}", fault)
    monkeypatch.setattr("reader_check.SECONDS", 0.05)
    (seed,) = [each for each in dicom_seeds.seeds() if each.name == "multi-frame ct"]
    made = HostileInput("", seed.files, ct=seed.ct)
    check = ReaderCheck()
    check.run(made, made.write(tmp_path))
    kinds = Counter((each.kind, each.reader) for each in check.findings)
    expected = {("identity", "index_folder"), ("KeyError", "find_visits")}
    expected |= {("slow", "read_structure_set")} if os.name == "posix" else set()
    assert set(kinds) == expected


def ct_files() -> dict[str, bytes]:
    (seed,) = [each for each in dicom_seeds.seeds() if each.name == "ct"]
    return seed.files


@pytest.mark.skipif(os.name != "posix", reason="links and pipes are POSIX's")
def test_loops_of_links_pipes_and_folders_called_dcm_end_soon_and_hide_nothing(tmp_path: Path) -> None:
    made = HostileInput(
        "",
        {f"deep/{name}": data for name, data in ct_files().items()},
        folders=["folder.dcm", "deep/er"],
        links={"loop": ".", "deep/up": "..", "self.dcm": "self.dcm", "gone.dcm": "/nowhere", "endless.dcm": "/dev/zero"},
        pipes=["pipe.dcm"],
    )
    folder = made.write(tmp_path)
    index = index_folder(folder)
    (series,) = index.of_kind(SeriesKind.CT)
    assert len(series.files) == dicom_seeds.SLICES
    assert index.left_aside == {LOOPED: 2, SPECIAL: 4}
    assert [visit.label for visit in find_visits(folder)] == ["visit_1"]


def test_two_patients_in_one_folder_are_told_by_number_and_never_mixed(tmp_path: Path) -> None:
    own = ct_files()
    other = {f"other/{name}": data.replace(b"FUZZ-4711", b"FUZZ-4712") for name, data in own.items()}
    made = HostileInput("", own | other)
    folder = made.write(tmp_path)
    with pytest.raises(InputError, match="the folder holds 2 patients") as raised:
        find_visits(folder)
    assert not any(secret in str(raised.value) for secret in dicom_seeds.secrets())
    with pytest.raises(InputError, match="more than one patient"):
        read_ct_series([folder / name for name in (*own, *other)], "visit_1")


# ------------------------------------------------------------------------------------------- what the inputs have found


def changed_ct(tmp_path: Path, values: dict[int, bytes], seed: str = "multi-frame ct") -> tuple[Path, ...]:
    """The CT of a seed with other values of elements of the outermost level; the paths of its files."""
    (found,) = [each for each in dicom_seeds.seeds() if each.name == seed]
    paths = []
    for name in found.ct:
        file = dicom_seeds.tree(seed, name).copy()
        for tag, value in values.items():
            element = file.named(tag)
            assert element is not None
            element.value = value
        paths.append(tmp_path / name)
        paths[-1].write_bytes(file.to_bytes())
    return tuple(paths)


def test_a_header_of_more_voxels_than_the_file_can_hold_takes_no_memory(tmp_path: Path) -> None:
    paths = changed_ct(tmp_path, {0x00280010: b"\xa0\x0f", 0x00280011: b"\xa0\x0f"})
    with pytest.raises(InputError, match="visit_1: its header says that there are more voxels than its files can hold"):
        read_ct_series(paths, "visit_1")


@pytest.mark.parametrize("syntax", [b"FUZZ", b"1.2.826.0.1.3680043.10.4711.9\0", b"1.2.840.10008.1.2.4.50\\1.2.840.10008.1.2"])
def test_a_transfer_syntax_that_is_none_is_refused_and_not_told(syntax: bytes, tmp_path: Path) -> None:
    paths = changed_ct(tmp_path, {0x00020010: syntax + b"\0" * (len(syntax) % 2)})
    with pytest.raises(InputError, match=r"cannot be (decoded \(unknown transfer syntax\)|read as DICOM)"):
        read_ct_series(paths, "visit_1")


def test_a_contour_of_a_type_that_is_none_is_left_out_and_the_type_is_not_told(tmp_path: Path) -> None:
    file = dicom_seeds.tree("rtstruct", "structures.dcm").copy()
    kinds = [held[place] for held, place in walk(file.elements) if held[place].tag == 0x30060042]
    kinds[0].value, kinds[1].value = b"FUZZ^PATIENT", b"POINT "
    (tmp_path / "structures.dcm").write_bytes(file.to_bytes())
    said = read_structure_set(tmp_path / "structures.dcm", GRID).warnings
    assert any("1 of an unknown type, 1 of type POINT" in each for each in said)
    assert not any(dicom_seeds.MARKER in each for each in said)


def test_a_message_is_one_line_whatever_a_file_is_called() -> None:
    assert str(InputError("a\nb\x1b[31m\u202e.dcm: é 患者 damaged")) == "a b\ufffd[31m\ufffd.dcm: é 患者 damaged"
    assert str(OutputError("a\r\nb: full")) == "a  b: full"


def many_files(folder: Path, count: int) -> None:
    """So many files: slices of one series, copies, damaged ones and others."""
    first = next(iter(ct_files().values()))
    instance, place = b"1.2.826.0.1.3680043.10.4711.4.1", b"-7.0\\-7.0\\0.0"
    assert first.count(instance) == 2
    assert first.count(place) == 1
    for number in range(count):
        sub_folder = folder / f"FUZZ {number // 1000}"
        if number % 1000 == 0:
            sub_folder.mkdir(parents=True)
        kind, slice_number = number % 4, number // 4
        if kind in (0, 1):  # twice
            data = first.replace(instance, instance[:-5] + b"%05d" % slice_number).replace(
                place, b"-7\\-7\\%07d" % slice_number
            )
        else:
            data = first[: 200 + number % 300] if kind == 2 else b"text"
        (sub_folder / f"{number}.dcm").write_bytes(data)


@pytest.mark.parametrize("count", [2000, pytest.param(100_000, marks=pytest.mark.long)])
def test_very_many_files_are_indexed_one_by_one(tmp_path: Path, count: int) -> None:
    folder = tmp_path / "many"
    many_files(folder, count)
    counted: list[int] = []
    index = index_folder(folder, lambda event: counted.append(event.done))
    (series,) = index.of_kind(SeriesKind.CT)
    assert len(series.files) == count // 4
    assert index.left_aside[COPY] == count // 4
    assert index.left_aside[DAMAGED] == count // 2
    assert counted == sorted(counted)
    assert len(counted) <= count // 200 + 2
    slices = [folder / "FUZZ 0" / f"{number}.dcm" for number in (0, 4, 8)]
    assert read_ct_series(slices, "visit_1").volume.grid.shape == (3, dicom_seeds.SIZE, dicom_seeds.SIZE)
