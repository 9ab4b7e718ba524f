"""A patient's visits below a folder: found, dated, ordered, and of each the CT and the contours that are meant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from P2SAMSlicerLib.dicom.ct_writer import WrittenPatient
from P2SAMSlicerLib.dicom.indexed_series import DicomFile, DicomIndex, IndexedSeries, SeriesKind
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.patient import dicom_visits
from P2SAMSlicerLib.patient.dicom_visits import choose_ct, key_of
from P2SAMSlicerLib.patient.visit_order import ContourSource
from P2SAMSlicerLib.patient.visits import find_visits
from P2SAMSlicerLib.result_files import ALGORITHM_NAME_TAG, STATUS_TAG
from patient_phantom import PATIENT, edit_dicom, gtv, write_dicom_visit, write_visit

DRAWN_HERE = {ALGORITHM_NAME_TAG: "P2SAMSlicer 1.0 (stub)", STATUS_TAG: "inprogress"}


def told_nothing(error: pytest.ExceptionInfo[InputError], *secrets: str) -> None:
    """No name, date or folder is in the message."""
    for secret in ("Doe", "DOE", "2024", *secrets):
        assert secret not in str(error.value)


def test_sub_folders_called_by_date_are_visits_in_order_of_their_dates(tmp_path: Path) -> None:
    write_visit(tmp_path / "second 2024-03-01")
    write_visit(tmp_path / "20240101 first", [gtv()])
    write_visit(tmp_path / "2024-02-29")
    found = find_visits(tmp_path)
    assert [(each.label, each.day, each.acquired) for each in found] == [
        ("visit_1", 0, "20240101"),
        ("visit_2", 59, "20240229"),
        ("visit_3", 60, "20240301"),
    ]
    assert [len(each.contours) for each in found] == [1, 0, 0]
    assert not found[0].ct.dicom


def test_sub_folders_without_dates_are_in_order_of_their_names_and_have_no_day(tmp_path: Path) -> None:
    for name in ("fraction 10", "Fraction 2", "baseline"):
        write_visit(tmp_path / name)
    found = find_visits(tmp_path)
    assert [each.ct.paths[0].parent.name for each in found] == ["baseline", "Fraction 2", "fraction 10"]
    assert {(each.day, each.acquired) for each in found} == {(None, None)}


def test_folders_with_and_without_date_have_no_order(tmp_path: Path) -> None:
    write_visit(tmp_path / "2024-01-01")
    write_visit(tmp_path / "Doe later")
    with pytest.raises(InputError, match="some visits have a date and others none") as caught:
        find_visits(tmp_path)
    told_nothing(caught)


def test_visits_of_one_date_need_a_time(tmp_path: Path) -> None:
    write_visit(tmp_path / "2024-01-01 b")
    write_visit(tmp_path / "2024-01-01_1530 a")
    with pytest.raises(InputError, match="two visits have the same date, and no time tells") as caught:
        find_visits(tmp_path)
    told_nothing(caught)
    (tmp_path / "2024-01-01 b").rename(tmp_path / "2024-01-01_0930 b")
    assert [each.acquired for each in find_visits(tmp_path)] == ["20240101093000", "20240101153000"]


@pytest.mark.parametrize("name", ["visit 2024-13-01", "123456789", "id 20240199", "1.2.840"])
def test_numbers_that_are_no_date_are_none(tmp_path: Path, name: str) -> None:
    write_visit(tmp_path / name)
    (found,) = find_visits(tmp_path)
    assert found.day is None


@pytest.mark.parametrize(
    "name", ["my contours.nii.gz", "Mask.nrrd", "tumor_seg.mha", "x.seg.nrrd", "SEGMENTATION approved.nrrd"]
)
def test_contours_are_told_by_the_files_name(tmp_path: Path, name: str) -> None:
    from P2SAMSlicerLib.volume import Volume
    from P2SAMSlicerLib.volume_file import write_volume
    from patient_phantom import GRID

    write_visit(tmp_path / "a", [gtv()] if name.endswith(".seg.nrrd") else [], name)
    if not name.endswith(".seg.nrrd"):
        write_volume(Volume(gtv().mask.astype("uint8"), GRID), tmp_path / "a" / name)
    (found,) = find_visits(tmp_path)
    assert [(source.path.name, source.approved) for source in found.contours] == [(name, "approved" in name)]


def test_two_cts_or_none_in_a_visits_folder_are_refused_without_names(tmp_path: Path) -> None:
    write_visit(tmp_path / "Doe 2024-01-01", [gtv()])
    ct = tmp_path / "Doe 2024-01-01" / "ct.nrrd"
    (ct.parent / "ct2.nrrd").write_bytes(ct.read_bytes())
    with pytest.raises(InputError, match="sub-folder 1 of 1: holds 2 CT files") as caught:
        find_visits(tmp_path)
    told_nothing(caught, "ct2")
    (ct.parent / "ct2.nrrd").unlink()
    ct.unlink()
    with pytest.raises(InputError, match="sub-folder 1 of 1: holds contours and no CT file") as caught:
        find_visits(tmp_path)
    told_nothing(caught)


def test_contours_that_cannot_be_read_are_refused_without_their_name(tmp_path: Path) -> None:
    write_visit(tmp_path / "a")
    (tmp_path / "a" / "Doe.seg.nrrd").write_bytes(b"NRRD0004\nno header")
    with pytest.raises(InputError, match="sub-folder 1 of 1, contours") as caught:
        find_visits(tmp_path)
    told_nothing(caught)


def test_what_this_tool_drew_is_no_physicians_contour_until_somebody_accepts_it(tmp_path: Path) -> None:
    write_visit(tmp_path / "a", [gtv(tags=DRAWN_HERE)])
    write_visit(tmp_path / "b", [gtv(tags={**DRAWN_HERE, STATUS_TAG: "completed"})])
    write_visit(tmp_path / "c", [gtv(tags={**DRAWN_HERE, STATUS_TAG: "completed", "P2SAM.Decision": "rejected"})])
    write_visit(tmp_path / "d", [gtv(tags={"P2SAM.Decision": "accepted", "P2SAM.DecisionTakenBack": "1", **DRAWN_HERE})])
    write_visit(tmp_path / "e", [gtv(tags=DRAWN_HERE), gtv(8.0, "GTV2")])
    assert [[source.approved for source in each.contours] for each in find_visits(tmp_path)] == [[], [True], [], [], [False]]


def test_folders_of_results_and_hidden_ones_are_no_visits(tmp_path: Path) -> None:
    write_visit(tmp_path / "a")
    write_visit(tmp_path / "visit_2")
    (tmp_path / "visit_2" / "visit.json").write_text("{}")
    write_visit(tmp_path / ".p2sam-1")
    (tmp_path / "notes").mkdir()
    assert len(find_visits(tmp_path)) == 1


def test_a_folder_without_any_ct_is_refused_with_the_layout_that_is_wanted(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a sub-folder for each visit"):
        find_visits(tmp_path)
    with pytest.raises(InputError, match="is not there, or is no folder"):
        find_visits(tmp_path / "absent")


def test_dicom_visits_are_told_by_study_and_date_however_they_lie(tmp_path: Path) -> None:
    write_dicom_visit(tmp_path / "z" / "deep", date(2024, 1, 10), [gtv()])
    write_dicom_visit(tmp_path / "a", date(2024, 2, 20))
    write_dicom_visit(tmp_path / "m", date(2024, 1, 31), [gtv()], ApprovalStatus="APPROVED")
    found = find_visits(tmp_path)
    assert [(each.label, each.day) for each in found] == [("visit_1", 0), ("visit_2", 21), ("visit_3", 41)]
    assert [[source.approved for source in each.contours] for each in found] == [[False], [True], []]
    assert all(each.ct.dicom and len(each.ct.paths) == 8 for each in found)


@pytest.mark.parametrize("tags", [{"StructureSetLabel": "UNREVIEWED P2SAM"}, {"ManufacturerModelName": "P2SAMSlicer"}])
def test_a_structure_set_of_this_tool_is_never_a_physicians(tmp_path: Path, tags: dict[str, Any]) -> None:
    write_dicom_visit(tmp_path, date(2024, 1, 10), [gtv()], ApprovalStatus="APPROVED", **tags)
    (found,) = find_visits(tmp_path)
    assert found.contours == ()


def test_two_patients_are_refused_unless_that_is_allowed(tmp_path: Path) -> None:
    write_dicom_visit(tmp_path / "a", date(2024, 1, 10), [gtv()])
    write_dicom_visit(tmp_path / "b", date(2024, 2, 10), patient=WrittenPatient("OTHER", "Roe^Richard"))
    with pytest.raises(InputError, match="the folder holds 2 patients") as caught:
        find_visits(tmp_path)
    told_nothing(caught, "OTHER", "Roe")
    assert len(find_visits(tmp_path, allow_other_patient=True)) == 2


def test_dicom_without_dates_is_ordered_by_its_folders_or_refused(tmp_path: Path) -> None:
    for name in ("2024-02-01", "2024-01-01"):
        write_dicom_visit(tmp_path / "p" / name, date(2024, 6, 1))
        for path in (tmp_path / "p" / name).rglob("*.dcm"):
            edit_dicom(path, **{f"{kind}Date": "" for kind in ("Study", "Series", "Acquisition", "Content")})
    assert [(each.day, each.acquired) for each in find_visits(tmp_path / "p")] == [(0, "20240101"), (31, "20240201")]
    with pytest.raises(InputError, match="not every visit has a date, so their order cannot be told") as caught:
        find_visits(tmp_path)
    told_nothing(caught)


def test_dicom_and_plain_visits_in_one_folder_are_refused(tmp_path: Path) -> None:
    write_dicom_visit(tmp_path / "a", date(2024, 1, 10))
    write_visit(tmp_path / "pictures")
    assert len(find_visits(tmp_path)) == 1
    write_visit(tmp_path / "2024-02-01")
    with pytest.raises(InputError, match="both DICOM CTs and visits as CT files of other formats"):
        find_visits(tmp_path)


def series(name: str, slices: int = 100, *, label: str = "", phase: float | None = None) -> IndexedSeries:
    """A CT series of a visit."""
    files = tuple(DicomFile(Path(name) / str(number), "", f"{name}.{number}") for number in range(slices))
    group = "4D" if phase is not None else ""
    return IndexedSeries(
        SeriesKind.CT, "CT", PATIENT.patient_id, "1", "1.2", "1.3", "20240101", label, files, phase=phase, phase_group=group
    )


def chosen(
    group: Sequence[IndexedSeries], drawn: Sequence[str] = (), approved: Sequence[str] = (), phase: float | None = None
) -> str:
    """Which series is taken, if there are contours on those of these names."""
    names = {key_of(each): each.paths[0].parent.name for each in group}
    contours = {
        key: [ContourSource(Path("rs"), name in approved)] if name in (*drawn, *approved) else [] for key, name in names.items()
    }
    return names[key_of(choose_ct(group, contours, phase))]


def test_the_contoured_series_is_meant_and_of_several_the_approved_one() -> None:
    group = [series("a", 200), series("b"), series("c")]
    assert chosen(group, drawn=["b"]) == "b"
    assert chosen(group, drawn=["b"], approved=["c"]) == "c"
    with pytest.raises(InputError, match="contours on 2 CT series; leave only the one that is meant"):
        chosen(group, drawn=["b", "c"])


def test_without_contours_the_longest_series_is_meant_if_the_others_are_clearly_less() -> None:
    assert chosen([series("scout", 2), series("ct", 120), series("thick", 60)]) == "ct"
    with pytest.raises(InputError, match="3 CT series that could be meant, with 120, 110 and 2 slices; leave only"):
        chosen([series("scout", 2), series("lung", 120), series("soft", 110)])


def test_of_a_4d_study_the_average_is_meant_else_the_contoured_phase() -> None:
    phases = [series(f"p{phase}", phase=phase) for phase in (0.0, 30.0, 50.0)]
    average, mip = series("ave", label="4D AVG"), series("mip", label="4D MIP")
    assert chosen([*phases, average, mip]) == "ave"
    assert chosen([*phases, average], drawn=["p50.0"]) == "p50.0"
    assert chosen([*phases, average], drawn=["p50.0", "ave"]) == "ave"
    assert chosen([*phases, mip, series("breath hold", 90)]) == "breath hold"
    for without in (phases, [*phases, mip]):
        with pytest.raises(InputError, match="4D study of 3 phases and no one average"):
            chosen(without)


def test_the_phase_that_was_contoured_on_another_visit_is_taken_on_this_one() -> None:
    phases = [series(f"p{phase}", phase=phase) for phase in (0.0, 30.0, 50.0)]
    average = series("ave", label="4D average")
    assert chosen([*phases, average], phase=50.0) == "p50.0"
    assert chosen([*phases, average], phase=99.0) == "p0.0"
    assert chosen([*phases, average], phase=70.0) == "ave"


def noted(group: Sequence[IndexedSeries], prior: Sequence[IndexedSeries] = (), drawn: Sequence[str] = ()) -> tuple[str, ...]:
    """What is noted of a visit with these series, after one whose last series is contoured."""
    first = [replace(each, acquired="20231201", study_uid="0") for each in prior]
    contours = {
        key_of(each): [ContourSource(Path("rs"))] if each in first[-1:] or each.paths[0].parent.name in drawn else []
        for each in (*first, *group)
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dicom_visits, "_contours_of", lambda _index, ct: contours[key_of(ct)])
        return dicom_visits.dicom_visits(DicomIndex((*first, *group)), Path())[-1].notes


def test_which_of_several_series_was_taken_is_noted() -> None:
    assert noted([series("ct")]) == ()
    assert noted([series("pet", 300), series("ct", 120)]) == (
        "one of 2 CT series on this date was taken: the one with most slices, of 300 and 120",
    )
    assert noted([series("pet", 300), series("ct", 120)], drawn=["ct"])[0].endswith("the one that has contours")


def test_another_phase_than_the_contoured_one_is_noted() -> None:
    phases = [series(f"p{phase}", phase=phase) for phase in (0.0, 30.0, 50.0)]
    prior = [series(f"prior {phase}", phase=phase) for phase in (0.0, 30.0, 50.0)]
    average = series("ave", label="4D average")
    assert noted([*phases, average], prior)[0].endswith("phase 50 % of a 4D study, as the contours are on 50 %")
    assert noted([*phases[:2], average], prior)[0].endswith(
        "the average of a 4D study, though the contours are on phase 50 %: its 4D study has no such phase"
    )
    assert noted([*phases, average])[0].endswith("the average of a 4D study")


def test_a_ct_that_names_no_patient_is_noted_where_others_name_one(tmp_path: Path) -> None:
    write_dicom_visit(tmp_path / "a", date(2024, 1, 10), [gtv()])
    write_dicom_visit(tmp_path / "b", date(2024, 2, 10), patient=WrittenPatient("", ""))
    first, second = find_visits(tmp_path)
    assert first.notes == ()
    assert second.notes == ("its CT names no patient, others do: whether they are of the same one was not checked",)


def test_visits_that_only_the_time_of_day_tells_apart_are_noted(tmp_path: Path) -> None:
    for time in ("0930", "1530"):
        write_visit(tmp_path / f"2024-01-01_{time}")
    assert [bool(each.notes) for each in find_visits(tmp_path)] == [False, True]


def test_a_damaged_file_that_may_have_been_a_slice_is_noted_with_every_visit(tmp_path: Path) -> None:
    write_dicom_visit(tmp_path / "a", date(2024, 1, 10), [gtv()])
    last = sorted((tmp_path / "a").rglob("CT*.dcm"))[-1]
    assert find_visits(tmp_path)[0].notes == ()
    last.write_bytes(last.read_bytes()[:300])
    (found,) = find_visits(tmp_path)
    assert len(found.ct.paths) == 7
    assert found.notes == ("below the patient's folder left aside: 1 damaged DICOM files; slices or contours may be missing",)


def test_contours_that_a_physician_rejected_are_not_carried_and_that_is_noted(tmp_path: Path) -> None:
    write_dicom_visit(tmp_path / "a", date(2024, 1, 10), [gtv()], ApprovalStatus="REJECTED")
    (found,) = find_visits(tmp_path)
    assert found.contours == ()
    assert found.notes == ("1 of its structure sets not used, because rejected (ApprovalStatus)",)


def test_contours_that_were_cut_short_name_their_visit_and_no_file(tmp_path: Path) -> None:
    write_dicom_visit(tmp_path / "Doe^Jane", date(2024, 1, 10), [gtv()])
    write_dicom_visit(tmp_path / "Doe^Jane" / "later", date(2024, 2, 10), [gtv()])
    structures = tmp_path / "Doe^Jane" / "later" / "rs.dcm"
    structures.write_bytes(structures.read_bytes()[:-200])
    with pytest.raises(InputError, match="visit 2 of 2 by date, its contours: ") as caught:
        find_visits(tmp_path)
    told_nothing(caught)
