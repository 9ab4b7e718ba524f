"""Carrying contours to one visit: its folder, references and chains, and what must never be written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pydicom
import pytest
from P2SAMSlicerLib.errors import Cancelled, InputError, OutputError
from P2SAMSlicerLib.mrml import review_nodes
from P2SAMSlicerLib.options import PropagationOptions
from P2SAMSlicerLib.patient.carry_visit import carry_visit
from P2SAMSlicerLib.patient.visit_ct import read_visit_ct, without_file_names
from P2SAMSlicerLib.patient.visit_folder import (
    check_visit_folder,
    is_finished,
    read_visit_folder,
    write_failed_visit,
)
from P2SAMSlicerLib.patient.visit_key import visit_key
from P2SAMSlicerLib.patient.visit_order import ContourSource, VisitOrder
from P2SAMSlicerLib.patient.visits import find_visits
from P2SAMSlicerLib.result import Outcome
from P2SAMSlicerLib.result_files import ALGORITHM_NAME_TAG
from P2SAMSlicerLib.segmentation_file import read_segmentation
from P2SAMSlicerLib.volume import Segment, Volume
from patient_phantom import GRID, CopyEngine, edit_dicom, gtv, order, visit, write_dicom_visit, write_visit
from small_visits import ball, without_contour

MODEL: Any = SimpleNamespace(device="cpu")

pytestmark = pytest.mark.usefixtures("copy_engine")


@pytest.fixture
def patient(tmp_path: Path) -> Path:
    """Visits a, b and c; a and b are contoured."""
    write_visit(tmp_path / "a", [gtv(10.0), gtv(6.0, "GTVn")])
    write_visit(tmp_path / "b", [gtv(8.0)])
    write_visit(tmp_path / "c")
    return tmp_path


def drawn(folder: Path) -> dict[str, int]:
    """Voxels of each contour of a visit's folder, without those for comparison."""
    segments = read_segmentation(folder / f"{folder.name}.seg.nrrd").segments
    return {each.name: int(each.mask.sum()) for each in segments if not each.name.endswith("registered prior")}


def summary(folder: Path) -> dict[str, Any]:
    entry: dict[str, Any] = json.loads((folder / "summary.json").read_text())["followups"][0]
    return entry


def size(radius: float) -> int:
    return int(ball(GRID, radius).sum())


def test_a_visit_gets_a_folder_whose_record_lists_every_file(copy_engine: CopyEngine, patient: Path) -> None:
    one = order([visit(patient / "a", 1)], visit(patient / "c", 3), patient / "out")
    content = carry_visit(one, MODEL)
    assert content == read_visit_folder(one.out)
    assert content["outcome"] == "done"
    assert (content["label"], content["number"], content["day"]) == ("visit_3", 3, 56)
    assert content["references"] == ["visit_1"]
    assert content["reference_of"] == {"GTV": ["visit_1"], "GTVn": ["visit_1"]}
    assert content["reference_agreement"] is None
    assert content["exports"] == []
    assert [each["file"] for each in content["pictures"]] == ["pictures/01.png", "pictures/02.png"]
    there = {path.relative_to(one.out).as_posix() for path in one.out.rglob("*") if path.is_file()}
    assert there == {*content["files"], "visit.json"}
    assert drawn(one.out) == {"GTV": size(10.0), "GTVn": size(6.0)}
    assert copy_engine.calls == [("visit_1", ("GTV", "GTVn"), "visit_3")]


def test_what_was_decided_when_visits_were_found_is_in_the_record(patient: Path) -> None:
    followup = visit(patient / "c", 3, notes=("one of 2 CT series was taken",))
    content = carry_visit(order([visit(patient / "a", 1)], followup, patient / "out"), MODEL)
    assert content["notes"] == ["visit_3: one of 2 CT series was taken"]


def test_nothing_in_the_folder_tells_a_name_a_date_or_a_path(tmp_path: Path) -> None:
    write_dicom_visit(tmp_path / "Doe" / "x", date(2024, 1, 10), [gtv()])
    write_dicom_visit(tmp_path / "Doe" / "y", date(2024, 2, 20))
    first, second = find_visits(tmp_path / "Doe")
    one = order([first], second, tmp_path / "out")
    carry_visit(one, MODEL)
    for path in one.out.rglob("*"):
        if path.suffix in (".json", ".csv", ".nrrd"):
            content = path.read_bytes()
            for secret in (b"Doe", b"DOE", b"20240", b"2024-0", str(tmp_path).encode()):
                assert secret not in content, path.name


def test_a_dicom_visit_is_exported_and_its_round_trip_is_told(tmp_path: Path) -> None:
    import pydicom

    write_dicom_visit(tmp_path / "p" / "x", date(2024, 1, 10), [gtv()])
    write_dicom_visit(tmp_path / "p" / "y", date(2024, 2, 20))
    first, second = find_visits(tmp_path / "p")
    one = order([first], second, tmp_path / "out")
    content = carry_visit(one, MODEL)
    assert [(each["kind"], each["file"]) for each in content["exports"]] == [
        ("RTSTRUCT", "visit_2_RTSTRUCT.dcm"),
        ("SEG", "visit_2_SEG.dcm"),
    ]
    for each in content["exports"]:
        assert each["file"] in content["files"]
        assert [trip["name"] for trip in each["round_trip"]] == ["GTV", "GTV registered prior"]
        assert all(abs(trip["change_percent"]) < 1.0 for trip in each["round_trip"])
    header = pydicom.dcmread(one.out / "visit_2_RTSTRUCT.dcm")
    assert header.PatientID == "DOE-77"
    assert header.ApprovalStatus == "UNAPPROVED"
    prior = pydicom.dcmread(tmp_path / "p" / "x" / "rs.dcm").SOPInstanceUID
    assert [each.ReferencedSOPInstanceUID for each in header.PredecessorStructureSetSequence] == [prior]
    other = replace(one, out=tmp_path / "other" / "visit_2", options=PropagationOptions(allow_other_patient=True))
    carry_visit(other, MODEL)
    assert "PredecessorStructureSetSequence" not in pydicom.dcmread(other.out / "visit_2_RTSTRUCT.dcm")
    without = replace(one, out=tmp_path / "plain" / "visit_2", dicom=False)
    assert carry_visit(without, MODEL)["exports"] == []
    # What was written beside the patient's own files is no physician's contour there.
    shutil.copytree(one.out, tmp_path / "p" / "results")
    assert [len(each.contours) for each in find_visits(tmp_path / "p")] == [1, 0]


def test_only_the_named_structures_are_carried(patient: Path) -> None:
    one = order([visit(patient / "a", 1)], visit(patient / "c", 3), patient / "out", segments=("GTVn",))
    carry_visit(one, MODEL)
    assert list(drawn(one.out)) == ["GTVn"]
    with pytest.raises(InputError, match="no contour named 'PTV' to carry to visit_3; there are: GTV, GTVn"):
        carry_visit(replace(one, segments=("PTV",)), MODEL)


def test_approved_references_are_combined_and_their_agreement_is_recorded(copy_engine: CopyEngine, patient: Path) -> None:
    both = [visit(patient / "a", 1), visit(patient / "b", 2, approved=True)]
    one = order(both, visit(patient / "c", 3), patient / "out", carried_from="approved")
    content = carry_visit(one, MODEL)
    assert content["references"] == ["visit_1", "visit_2"]
    assert content["reference_of"] == {"GTV": ["visit_1", "visit_2"], "GTVn": ["visit_1"]}
    agreement = content["reference_agreement"]
    assert list(agreement) == ["GTV"]
    assert 0.5 < agreement["GTV"]["mean_dice"] < 1.0
    assert size(8.0) <= drawn(one.out)["GTV"] <= size(10.0)
    assert sorted(copy_engine.calls) == [("visit_1", ("GTV", "GTVn"), "visit_3"), ("visit_2", ("GTV",), "visit_3")]
    assert len(content["pictures"]) == 2


def chain(patient: Path, **fields: Any) -> VisitOrder:
    """From visit_1 over what was drawn on visit_2 to visit_3."""
    link = visit(patient / "b", 2, contours=(ContourSource(patient / "out" / "visit_2" / "visit_2.seg.nrrd"),))
    values: dict[str, Any] = {"carried_from": "previous", "unreviewed": ("visit_2",), **fields}
    return order([visit(patient / "a", 1), link], visit(patient / "c", 3), patient / "out", **values)


def carry_second(patient: Path, copy_engine: CopyEngine, answer: Callable[..., Any] | None = None) -> VisitOrder:
    """Draw on visit_2."""
    one = order([visit(patient / "a", 1)], visit(patient / "b", 2), patient / "out", carried_from="previous")
    copy_engine.answer = answer or copy_engine.copied
    carry_visit(one, MODEL)
    copy_engine.answer = copy_engine.copied
    return one


def shrinking(_reference: str, source: Segment, followup: Volume) -> Any:
    return CopyEngine.copied("", replace(source, mask=source.mask & ball(GRID, 7.0)), followup)


def test_a_chain_goes_on_from_what_was_drawn_and_the_result_says_that_nobody_reviewed_it(
    copy_engine: CopyEngine, patient: Path
) -> None:
    carry_second(patient, copy_engine, shrinking)
    content = carry_visit(chain(patient), MODEL)
    assert copy_engine.calls[-1] == ("visit_2", ("GTV", "GTVn"), "visit_3")
    assert (content["references"], content["unreviewed_references"]) == (["visit_2"], ["visit_2"])
    assert drawn(patient / "out" / "visit_3")["GTV"] == size(7.0)
    for segment in summary(patient / "out" / "visit_3")["segments"]:
        assert segment["outcome"] == "flagged"
        assert "it is carried from contours of visit_2 that nobody has reviewed" in segment["reasons"]
        assert segment["review_priority"] >= 0.5


def test_a_link_without_a_contour_falls_back_to_the_last_that_has_one(copy_engine: CopyEngine, patient: Path) -> None:
    def one_is_gone(reference: str, source: Segment, followup: Volume) -> Any:
        if source.name == "GTVn":
            return without_contour(source, Outcome.NO_LESION, "gone", registered_mask=source.mask)
        return copy_engine.copied(reference, source, followup)

    carry_second(patient, copy_engine, one_is_gone)
    content = carry_visit(chain(patient), MODEL)
    assert content["reference_of"] == {"GTV": ["visit_2"], "GTVn": ["visit_1"]}
    assert content["notes"] == ["visit_2 has no contour of 'GTVn' to carry on; it is carried from visit_1"]
    outcomes = {each["segment"]: each["outcome"] for each in summary(patient / "out" / "visit_3")["segments"]}
    assert outcomes == {"GTV": "flagged", "GTVn": "found"}
    assert len(content["pictures"]) == 2


def test_a_chain_over_a_failed_visit_starts_from_the_prior_again(patient: Path) -> None:
    content = carry_visit(chain(patient), MODEL)
    assert content["references"] == ["visit_1"]
    assert content["unreviewed_references"] == []
    assert "visit_2 has no contours to carry on" in content["notes"]
    assert summary(patient / "out" / "visit_3")["segments"][0]["outcome"] == "found"


def test_what_this_tool_drew_is_not_carried_as_a_physicians(tmp_path: Path) -> None:
    tags = {ALGORITHM_NAME_TAG: "P2SAMSlicer 1.0 (stub)"}
    write_visit(tmp_path / "a", [gtv(tags=tags)])
    write_visit(tmp_path / "c")
    with pytest.raises(InputError, match="visit_1: its contours were drawn by this tool, and nobody has accepted them"):
        carry_visit(order([visit(tmp_path / "a", 1)], visit(tmp_path / "c", 2), tmp_path / "out"), MODEL)
    write_visit(tmp_path / "b", [gtv(tags=tags), gtv(6.0, "own")])
    one = order([visit(tmp_path / "b", 1)], visit(tmp_path / "c", 2), tmp_path / "out")
    assert list(carry_visit(one, MODEL)["reference_of"]) == ["own"]


def test_what_was_changed_after_it_was_accepted_is_not_carried_as_a_physicians(tmp_path: Path) -> None:
    now = gtv()
    earlier = now.mask.copy()
    earlier[tuple(np.argwhere(earlier)[0])] = False
    drawn = {ALGORITHM_NAME_TAG: "P2SAMSlicer 1.0 (stub)", review_nodes.DECISION_TAG: "accepted"}
    held = gtv(tags={**drawn, review_nodes.DECIDED_TAG: review_nodes.fingerprint(now.mask)})
    changed = gtv(tags={**drawn, review_nodes.DECIDED_TAG: review_nodes.fingerprint(earlier)})
    write_visit(tmp_path / "c")
    for name, segments in (("a", [held]), ("b", [changed]), ("d", [changed, gtv(6.0, "own")])):
        write_visit(tmp_path / name, segments)
    followup = visit(tmp_path / "c", 2)
    assert list(carry_visit(order([visit(tmp_path / "a", 1)], followup, tmp_path / "one"), MODEL)["reference_of"]) == ["GTV"]
    with pytest.raises(InputError, match="visit_1: its contours were changed after they were accepted; accept them again"):
        carry_visit(order([visit(tmp_path / "b", 1)], followup, tmp_path / "two"), MODEL)
    mixed = order([visit(tmp_path / "d", 1)], followup, tmp_path / "three")
    assert list(carry_visit(mixed, MODEL)["reference_of"]) == ["own"]
    told = json.loads((mixed.out / "summary.json").read_text())["warnings"]
    assert any("changed after it was accepted" in each for each in told)


def test_a_tilted_ct_is_refused_unless_resampling_is_asked_for(tmp_path: Path) -> None:
    write_dicom_visit(tmp_path, date(2024, 1, 10))
    for number, path in enumerate(sorted((tmp_path / "ct").iterdir())):
        x, y, z = pydicom.dcmread(path).ImagePositionPatient
        edit_dicom(path, ImagePositionPatient=[x, y + 0.6 * number, z])
    (tilted,) = find_visits(tmp_path)
    with pytest.raises(InputError, match="gantry tilt"):
        read_visit_ct(tilted)
    volume, reference = read_visit_ct(replace(tilted, ct=replace(tilted.ct, resample=True)))
    assert reference is not None
    assert reference.resampled
    assert any("straight" in each for each in volume.warnings)


def test_an_older_follow_up_is_refused_or_recorded_with_and_without_dates(patient: Path) -> None:
    allowed = PropagationOptions(allow_older_followup=True)
    for acquired in (None, "20240101"):
        prior = visit(patient / "a", 2, acquired=acquired and "20240201")
        one = order([prior], visit(patient / "c", 1, acquired=acquired), patient / "out")
        with pytest.raises(InputError, match=r"visit_1: it was acquired before visit_2 \(--allow-older-followup"):
            carry_visit(one, MODEL)
        assert not one.out.exists()
        carry_visit(replace(one, options=allowed), MODEL)
        entry = summary(one.out)
        assert entry["overrides"] == ["visit_1: it was acquired before visit_2"]
        shutil.rmtree(patient / "out")


def test_another_patient_is_refused_or_recorded(tmp_path: Path) -> None:
    from P2SAMSlicerLib.dicom.ct_writer import WrittenPatient

    write_dicom_visit(tmp_path / "p" / "x", date(2024, 1, 10), [gtv()])
    write_dicom_visit(tmp_path / "p" / "y", date(2024, 2, 20), patient=WrittenPatient("ROE", "Roe"))
    first, second = find_visits(tmp_path / "p", allow_other_patient=True)
    one = order([first], second, tmp_path / "out")
    with pytest.raises(InputError, match="visit_2: its patient id is not that of visit_1"):
        carry_visit(one, MODEL)
    carry_visit(replace(one, options=PropagationOptions(allow_other_patient=True)), MODEL)
    assert summary(one.out)["overrides"] == ["visit_2: its patient id is not that of visit_1"]


def test_one_structure_in_two_files_is_refused_until_one_is_approved(patient: Path) -> None:
    second = patient / "a" / "again.seg.nrrd"
    shutil.copy(patient / "b" / "contours.seg.nrrd", second)
    prior = visit(patient / "a", 1)
    both = replace(prior, contours=(*prior.contours, ContourSource(second)))
    one = order([both], visit(patient / "c", 3), patient / "out")
    with pytest.raises(InputError, match="visit_1: 'GTV' is in several files; leave only one, or approve one"):
        carry_visit(one, MODEL)
    approved = replace(prior, contours=(*prior.contours, ContourSource(second, approved=True)))
    carry_visit(replace(one, references=(approved,)), MODEL)
    assert drawn(one.out) == {"GTV": size(8.0), "GTVn": size(6.0)}


def test_options_for_a_structure_that_one_reference_lacks_do_not_stop_it(patient: Path) -> None:
    both = [visit(patient / "a", 1), visit(patient / "b", 2, approved=True)]
    options = PropagationOptions(registration_only=("GTVn",))
    one = order(both, visit(patient / "c", 3), patient / "out", carried_from="approved", options=options)
    carry_visit(one, MODEL)
    with pytest.raises(InputError, match="no segment named 'PTV' is carried"):
        carry_visit(replace(one, options=PropagationOptions(registration_only=("PTV",))), MODEL)


@pytest.mark.parametrize("fault", [OutputError("disk full"), KeyboardInterrupt(), Cancelled(), MemoryError()])
def test_a_visit_that_cannot_be_written_whole_leaves_nothing(
    patient: Path, monkeypatch: pytest.MonkeyPatch, fault: BaseException
) -> None:
    def fails(*_: object) -> None:
        raise fault

    monkeypatch.setattr("P2SAMSlicerLib.patient.carry_visit.hashes_of", fails)
    one = order([visit(patient / "a", 1)], visit(patient / "c", 3), patient / "out")
    with pytest.raises(type(fault)):
        carry_visit(one, MODEL)
    assert not (patient / "out").exists()


def test_a_new_run_replaces_the_folder_whole_and_leaves_foreign_files(patient: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = order([visit(patient / "a", 1)], visit(patient / "c", 3), patient / "out")
    carry_visit(one, MODEL)
    (one.out / "my notes.txt").write_text("keep")
    monkeypatch.setattr("P2SAMSlicerLib.report.pictures.visit_pictures", lambda *_: ())
    content = carry_visit(replace(one, segments=("GTV",)), MODEL)
    assert not (one.out / "pictures").exists()
    assert (one.out / "my notes.txt").read_text() == "keep"
    assert content["pictures"] == []


def test_a_folder_of_something_else_is_never_written_into(patient: Path) -> None:
    one = order([visit(patient / "a", 1)], visit(patient / "c", 3), patient / "out")
    one.out.mkdir(parents=True)
    (one.out / "visit.json").write_text('{"format": "another"}')
    told = "visit_3: is in the folder for the results already and is none of them"
    with pytest.raises(InputError, match=told):
        carry_visit(one, MODEL)
    with pytest.raises(InputError, match=told):
        write_failed_visit(one, "x")
    assert [path.name for path in one.out.iterdir()] == ["visit.json"]
    (one.out / "visit.json").unlink()
    check_visit_folder(one.out)


def test_a_finished_visit_is_finished_as_long_as_nothing_changes(patient: Path) -> None:
    one = order([visit(patient / "a", 1)], visit(patient / "c", 3), patient / "out")
    assert not is_finished(one.out, one)
    carry_visit(one, MODEL)
    assert is_finished(one.out, one)
    for other in (
        replace(one, segments=("GTV",)),
        replace(one, carried_from="approved"),
        replace(one, options=PropagationOptions(seed=1)),
        replace(one, model="sam_vit_b"),
        replace(one, dicom=False),
        replace(one, references=(visit(patient / "b", 1),)),
        replace(one, followup=visit(patient / "c", 4)),
        replace(one, followup=visit(patient / "c", 3, day=57)),
    ):
        assert not is_finished(one.out, other)
    assert is_finished(one.out, replace(one, device="cuda", threads=3))


def test_a_patient_that_was_moved_is_still_finished(patient: Path) -> None:
    one = order([visit(patient / "a", 1)], visit(patient / "c", 3), patient / "out")
    carry_visit(one, MODEL)
    for name in ("a", "c"):
        shutil.copytree(patient / name, patient / "moved" / name)
    there = order([visit(patient / "moved" / "a", 1)], visit(patient / "moved" / "c", 3), patient / "out")
    assert is_finished(there.out, there)


@pytest.mark.parametrize("file", ["a/ct.nrrd", "a/contours.seg.nrrd", "c/ct.nrrd", "out/visit_3/slices.csv"])
def test_a_changed_file_makes_a_visit_unfinished(patient: Path, file: str) -> None:
    one = order([visit(patient / "a", 1)], visit(patient / "c", 3), patient / "out")
    carry_visit(one, MODEL)
    with (patient / file).open("ab") as stream:
        stream.write(b" ")
    assert not is_finished(one.out, one)
    if file.startswith("out"):
        (patient / file).unlink()
        assert not is_finished(one.out, one)


def test_an_input_that_is_gone_is_named_by_its_visit_only(patient: Path) -> None:
    one = order([visit(patient / "a", 1)], visit(patient / "c", 3), patient / "out")
    (patient / "c" / "ct.nrrd").unlink()
    with pytest.raises(InputError, match=r"^visit_3: one of its files cannot be read \(no such file or directory\)$"):
        visit_key(one)


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"format": 3}', "{" * 100_000, '{"format": "P2SAMSlicer visit folder", "outcome": "done"}'],
)
def test_a_damaged_record_is_no_finished_visit(patient: Path, content: str) -> None:
    one = order([visit(patient / "a", 1)], visit(patient / "c", 3), patient / "out")
    carry_visit(one, MODEL)
    (one.out / "visit.json").write_text(content)
    assert not is_finished(one.out, one)
    with pytest.raises(InputError, match="visit_3: "):
        read_visit_folder(one.out)


@pytest.mark.parametrize("name", ["../a/ct.nrrd", "/etc/passwd", "C:\\x", ""])
def test_a_record_that_names_files_elsewhere_is_refused_and_nothing_there_is_touched(patient: Path, name: str) -> None:
    one = order([visit(patient / "a", 1)], visit(patient / "c", 3), patient / "out")
    content = carry_visit(one, MODEL)
    (one.out / "visit.json").write_text(json.dumps({**content, "files": {name: "0"}}))
    with pytest.raises(InputError, match="damaged"):
        read_visit_folder(one.out)
    with pytest.raises(InputError, match="is none of them"):
        carry_visit(one, MODEL)
    assert (patient / "a" / "ct.nrrd").exists()


def test_a_failure_is_recorded_alone_and_a_later_success_replaces_it(patient: Path) -> None:
    one = order([visit(patient / "a", 1)], visit(patient / "c", 3), patient / "out")
    carry_visit(one, MODEL)
    content = write_failed_visit(one, "it is\nanother part of the body")
    assert content == read_visit_folder(one.out)
    assert (content["outcome"], content["reason"]) == ("failed", "it is another part of the body")
    assert [path.name for path in one.out.iterdir()] == ["visit.json"]
    assert not is_finished(one.out, one)
    carry_visit(one, MODEL)
    assert is_finished(one.out, one)


def test_hiding_files_names_leaves_the_words_of_a_message_alone(tmp_path: Path) -> None:
    """Folders are called by what they hold: ``contours``, ``lesion``, or ``the``."""
    folder = write_visit(tmp_path / "contours", [gtv()])
    one, two = visit(folder, 1), visit(write_visit(tmp_path / "the"), 2)
    text = "contours.seg.nrrd: the contours lie in other slices (Doe_the.nrrd), as there is no lesion"
    told = without_file_names(text, [one, two])
    assert told == "contours of visit_1: visit_2 contours lie in other slices (Doe_visit_2.nrrd), as there is no lesion"
    named = visit(write_visit(tmp_path / "Doe"), 3)
    assert without_file_names("Doe/Doe_1.nrrd, DOES", [named]) == "visit_3/visit_3_1.nrrd, DOES"


def test_messages_name_visits_and_not_their_files(copy_engine: CopyEngine, tmp_path: Path) -> None:
    folder = write_visit(tmp_path / "Doe 2024-01-01", [gtv()])
    first = visit(folder, 1)
    later = write_visit(tmp_path / "Doe 2024-02-01")
    bad = later / "Doe_ct.nrrd"
    bad.write_bytes((later / "ct.nrrd").read_bytes()[:300])
    one = order([first], visit(later, 2, ct=replace(first.ct, paths=(bad,))), tmp_path / "out")
    with pytest.raises(InputError) as caught:
        carry_visit(one, MODEL)
    assert "Doe" not in str(caught.value)
    assert str(caught.value).startswith("visit_2")
    assert copy_engine.calls == []
