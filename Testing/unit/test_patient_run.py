"""A whole patient: checked before, one failure beside the others, kept after an interruption, never overwritten unasked."""

from __future__ import annotations

import json
import shutil
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from P2SAMSlicerLib.errors import Cancelled, InputError, ModelError, OutputError
from P2SAMSlicerLib.options import PropagationOptions
from P2SAMSlicerLib.patient.plan import PatientSettings
from P2SAMSlicerLib.patient.run import PatientResult, run_patient, run_visits
from P2SAMSlicerLib.patient.visit_folder import read_visit_folder
from P2SAMSlicerLib.patient.visits import find_visits
from P2SAMSlicerLib.progress import ProgressEvent
from patient_phantom import CopyEngine, gtv, write_dicom_visit, write_visit


@pytest.fixture
def patient(tmp_path: Path) -> Path:
    """Four visits in plain files, the first contoured."""
    folder = tmp_path / "Doe Jane"
    write_visit(folder / "2024-01-01", [gtv()])
    for month in (2, 3, 4):
        write_visit(folder / f"2024-0{month}-01")
    return folder


def run(patient: Path, *, overwrite: bool = False, progress: Any = None, **settings: Any) -> PatientResult:
    """Run the patient with results beside its folder."""
    out = patient.parent / "out"
    return run_patient(patient, PatientSettings(**settings), out, progress or (lambda _event: None), overwrite=overwrite)


def outcomes(result: PatientResult) -> list[str]:
    return [each.outcome for each in result.visits]


def written(patient: Path) -> dict[str, bytes]:
    """All files of the results with their content."""
    out = patient.parent / "out"
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_every_later_visit_gets_its_folder_and_all_of_them_a_report(copy_engine: CopyEngine, patient: Path) -> None:
    result = run(patient)
    assert outcomes(result) == ["done"] * 3
    assert (result.prior, result.found, copy_engine.loaded) == ("visit_1", 4, 1)
    assert [each.folder.name for each in result.visits] == ["visit_2", "visit_3", "visit_4"]
    report = json.loads((patient.parent / "out" / "report.json").read_text())
    assert [each["label"] for each in report["visits"]] == ["visit_2", "visit_3", "visit_4"]
    assert report["anonymous"]
    assert report["prior"]["label"] == "visit_1"
    assert report["prior"]["segments"][0]["name"] == "GTV"
    assert report["prior"]["segments"][0]["volume_ml"] > 1
    for name, content in written(patient).items():
        for secret in (b"Doe", b"2024-0", b"20240", str(patient).encode()):
            assert secret not in content, name


def test_an_identified_report_names_the_patient_and_the_dates(copy_engine: CopyEngine, tmp_path: Path) -> None:
    del copy_engine
    write_dicom_visit(tmp_path / "p" / "a", date(2024, 1, 10), [gtv()], ApprovalStatus="APPROVED")
    write_dicom_visit(tmp_path / "p" / "b", date(2024, 2, 20))
    run(tmp_path / "p", identified=True)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["patient"]["patient_id"] == "DOE-77"
    assert "Doe" in report["patient"]["patient_name"]
    assert (report["prior"]["date"], report["visits"][0]["date"]) == ("2024-01-10", "2024-02-20")
    assert report["prior"]["approved"]
    assert len(report["visits"][0]["exports"]) == 2


def test_one_failure_is_recorded_and_does_not_stop_the_others(copy_engine: CopyEngine, patient: Path) -> None:
    copy_engine.faults = {"visit_2": InputError("visit_2: another part of the body"), "visit_3": ZeroDivisionError("Doe")}
    result = run(patient)
    assert outcomes(result) == ["failed", "failed", "done"]
    assert [each.reason for each in result.failures] == [
        "another part of the body",
        "unexpected ZeroDivisionError: a fault of this program (p2sam --debug shows the traceback, which may name folders)",
    ]
    assert "ZeroDivisionError: Doe" in result.failures[1].details
    assert "Doe" not in (patient.parent / "out" / "visit_3" / "visit.json").read_text()
    assert read_visit_folder(patient.parent / "out" / "visit_2")["outcome"] == "failed"
    report = json.loads((patient.parent / "out" / "report.json").read_text())
    assert [each["outcome"] for each in report["visits"]] == ["failed", "failed", "done"]


def test_a_lack_of_memory_is_told_as_such(copy_engine: CopyEngine, patient: Path) -> None:
    copy_engine.faults = {"visit_2": MemoryError()}
    result = run(patient)
    assert result.failures[0].reason == "not enough memory"
    assert result.failures[0].out_of_memory


def test_a_failure_names_no_file_of_the_patient(copy_engine: CopyEngine, patient: Path) -> None:
    del copy_engine
    (patient / "2024-03-01" / "ct.nrrd").rename(patient / "2024-03-01" / "DoeJane.nrrd")
    content = (patient / "2024-03-01" / "DoeJane.nrrd").read_bytes()
    (patient / "2024-03-01" / "DoeJane.nrrd").write_bytes(content[: len(content) // 2])
    result = run(patient)
    assert outcomes(result) == ["done", "failed", "done"]
    assert "Doe" not in result.failures[0].reason
    assert "2024" not in result.failures[0].reason


def test_a_run_that_was_interrupted_is_completed_and_finished_visits_are_kept(copy_engine: CopyEngine, patient: Path) -> None:
    copy_engine.faults = {"visit_3": KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        run(patient)
    out = patient.parent / "out"
    assert [path.name for path in out.iterdir()] == ["visit_2"]
    before = written(patient)
    copy_engine.faults = {}
    result = run(patient)
    assert outcomes(result) == ["kept", "done", "done"]
    assert copy_engine.calls.count(("visit_1", ("GTV",), "visit_2")) == 1
    assert {name: written(patient)[name] for name in before} == before


def test_a_second_run_keeps_everything_and_loads_no_model(copy_engine: CopyEngine, patient: Path) -> None:
    run(patient)
    before = written(patient)
    assert outcomes(run(patient)) == ["kept"] * 3
    assert copy_engine.loaded == 1
    assert written(patient) == before


def test_a_failed_visit_is_tried_again(copy_engine: CopyEngine, patient: Path) -> None:
    copy_engine.faults = {"visit_3": InputError("no body")}
    run(patient)
    copy_engine.faults = {}
    assert outcomes(run(patient)) == ["kept", "done", "kept"]


def test_results_of_other_settings_or_files_are_not_replaced_unasked(copy_engine: CopyEngine, patient: Path) -> None:
    run(patient)
    before = written(patient)
    for settings in ({"options": PropagationOptions(seed=4)}, {"dicom": False}, {"carried_from": "approved"}):
        with pytest.raises(InputError, match="visit_2: there are results already, made from other files or with"):
            run(patient, **settings)
    (patient.parent / "out" / "visit_3" / "summary.json").write_text("edited")
    with pytest.raises(InputError, match="visit_3: there are results already"):
        run(patient)
    (patient.parent / "out" / "visit_3" / "summary.json").write_bytes(before["visit_3/summary.json"])
    assert written(patient) == before
    assert copy_engine.loaded == 1
    assert outcomes(run(patient, overwrite=True, dicom=False)) == ["done"] * 3


def test_asked_to_overwrite_what_is_finished_is_kept_all_the_same(copy_engine: CopyEngine, patient: Path) -> None:
    run(patient)
    (patient.parent / "out" / "visit_3" / "summary.json").write_text("edited")
    assert outcomes(run(patient, overwrite=True)) == ["kept", "done", "kept"]
    assert len(copy_engine.calls) == 4


def test_a_report_that_tells_of_more_is_not_replaced_unasked(copy_engine: CopyEngine, patient: Path) -> None:
    del copy_engine
    run(patient)
    with pytest.raises(OutputError, match=r"report.html: is there already and tells of other visits too"):
        run(patient, followups=("2",))
    assert outcomes(run(patient, followups=("2",), overwrite=True)) == ["kept"]
    assert outcomes(run(patient)) == ["kept"] * 3
    report = patient.parent / "out" / "report.json"
    content = json.loads(report.read_text())
    content["visits"][0]["segments"][0]["review"]["decision"] = "accepted"
    report.write_text(json.dumps(content))
    with pytest.raises(OutputError, match=r"report.html: is there already and holds a review"):
        run(patient)
    report.unlink()
    with pytest.raises(OutputError, match=r"report.html: there already"):
        run(patient)


def test_a_chain_goes_from_visit_to_visit_and_is_resumed_the_same(copy_engine: CopyEngine, patient: Path) -> None:
    copy_engine.faults = {"visit_4": KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        run(patient, carried_from="previous")
    copy_engine.faults = {}
    assert outcomes(run(patient, carried_from="previous")) == ["kept", "kept", "done"]
    assert [call[0] for call in copy_engine.calls] == ["visit_1", "visit_2", "visit_3", "visit_3"]
    assert outcomes(run(patient, carried_from="previous")) == ["kept"] * 3
    report = json.loads((patient.parent / "out" / "report.json").read_text())
    assert [each["unreviewed_references"] for each in report["visits"]] == [[], ["visit_2"], ["visit_3"]]


def test_a_link_that_is_mended_later_leaves_what_was_made_without_it_and_says_so(
    copy_engine: CopyEngine, patient: Path
) -> None:
    copy_engine.faults = {"visit_2": InputError("no body")}
    assert outcomes(run(patient, carried_from="previous")) == ["failed", "done", "done"]
    copy_engine.faults = {}
    before = written(patient)
    result = run(patient, carried_from="previous")
    assert outcomes(result) == ["done", "failed", "failed"]
    assert "made from other contours of an earlier visit" in result.failures[0].reason
    after = written(patient)
    assert {name for name in before if after[name] != before[name]} == {"visit_2/visit.json", "report.html", "report.json"}
    assert outcomes(run(patient, carried_from="previous", overwrite=True)) == ["kept", "done", "done"]


def test_the_patients_folder_may_hold_the_results(copy_engine: CopyEngine, tmp_path: Path) -> None:
    del copy_engine
    write_dicom_visit(tmp_path / "p" / "a", date(2024, 1, 10), [gtv()])
    write_dicom_visit(tmp_path / "p" / "b", date(2024, 2, 20))
    for expected in ("done", "kept"):
        result = run_patient(tmp_path / "p", PatientSettings(), tmp_path / "p" / "results")
        assert (outcomes(result), result.found) == ([expected], 2)


def test_a_visits_own_folder_is_never_taken_for_results(copy_engine: CopyEngine, tmp_path: Path) -> None:
    del copy_engine
    write_visit(tmp_path / "visit_1", [gtv()])
    write_visit(tmp_path / "visit_2")
    with pytest.raises(InputError, match="visit_2: is in the folder for the results already and is none of them"):
        run_patient(tmp_path, PatientSettings(), tmp_path)


FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"segments": ("PTV",)}, "no contour named 'PTV' to carry to visit_2; there are: GTV"),
    ({"options": PropagationOptions(with_model=("PTV",))}, "no segment named 'PTV' is carried"),
    ({"options": PropagationOptions(margin_mm=0.0)}, "margin-mm"),
    ({"prior": "9"}, "--prior: there is no visit '9'"),
    ({"prior": "2"}, "--prior: visit_2 has no contours"),
    ({"followups": ("1",)}, "--followup: visit_1 is the prior itself"),
    ({"model": "no_such_model"}, "no_such_model"),
    ({"checkpoint": Path("absent.pth")}, "absent.pth"),
]


@pytest.mark.parametrize(("settings", "message"), FAULTS)
def test_what_cannot_be_run_is_refused_before_the_model_is_loaded(
    copy_engine: CopyEngine, patient: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        run(patient, **settings)
    assert copy_engine.loaded == 0
    assert not (patient.parent / "out").exists()


def test_a_full_disk_is_refused_before_any_work(
    copy_engine: CopyEngine, patient: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(patient)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=15_000_000))
    with pytest.raises(OutputError, match="not enough space"):
        run(patient)
    assert copy_engine.loaded == 0
    assert outcomes(run(patient, followups=("2",))) == ["done"]


def test_a_disk_that_fills_ends_the_run_and_leaves_nothing_half_written(
    copy_engine: CopyEngine, patient: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del copy_engine
    from P2SAMSlicerLib.patient import visit_folder

    writes: list[str] = []

    def full(*_: object) -> None:
        writes.append("")
        raise OutputError("out: cannot be written (no space left on device)")

    monkeypatch.setattr("P2SAMSlicerLib.patient.carry_visit.write_json", full)
    monkeypatch.setattr(visit_folder, "write_json", full)
    with pytest.raises(OutputError, match="no space left"):
        run(patient)
    assert len(writes) == 2
    assert not (patient.parent / "out").exists()


def test_a_model_that_cannot_be_loaded_leaves_nothing(
    copy_engine: CopyEngine, patient: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del copy_engine

    def fails(*_arguments: object, **_options: object) -> None:
        raise ModelError("device 'cuda': PyTorch finds no CUDA device on this computer; use auto or cpu")

    monkeypatch.setattr("P2SAMSlicerLib.models.load_model", fails)
    with pytest.raises(ModelError, match="no CUDA device"):
        run(patient, device="cuda")
    assert not (patient.parent / "out").exists()


def test_progress_tells_which_follow_up_and_no_name(copy_engine: CopyEngine, patient: Path) -> None:
    del copy_engine
    events: list[ProgressEvent] = []
    run(patient, progress=events.append)
    stages = list(dict.fromkeys(event.stage for event in events))
    assert stages == ["index", "checking", "model", "registration", "writing"]
    assert [event.message for event in events if event.stage == "registration"] == [
        "follow-up 1 of 3",
        "follow-up 2 of 3",
        "follow-up 3 of 3",
    ]
    assert not any("Doe" in event.message or "GTV" in event.message for event in events)


def test_a_progress_that_cancels_ends_the_run(copy_engine: CopyEngine, patient: Path) -> None:
    del copy_engine

    def cancel(event: ProgressEvent) -> None:
        if event.stage == "writing" and "2 of 3" in event.message:
            raise Cancelled

    with pytest.raises(Cancelled):
        run(patient, progress=cancel)
    assert [path.name for path in (patient.parent / "out").iterdir()] == ["visit_2"]


def test_the_real_engine_carries_a_lesion_that_shrank_and_shows_it(tmp_path: Path) -> None:
    from P2SAMSlicerLib.metrics import volumetric_dice
    from P2SAMSlicerLib.segmentation_file import read_segmentation, write_segmentation
    from P2SAMSlicerLib.volume import Segment, Segmentation
    from P2SAMSlicerLib.volume_file import write_volume
    from small_body import GRID as BODY_GRID
    from small_body import LESION_RADII, body, ellipsoid
    from stub_model import BrightnessModel

    before = ellipsoid(BODY_GRID)
    now = ellipsoid(BODY_GRID, radii=[radius - 3.0 for radius in LESION_RADII])
    for name, lesion in (("a", before), ("c", now)):
        (tmp_path / name).mkdir()
        write_volume(body([lesion], BODY_GRID), tmp_path / name / "ct.nrrd")
    write_segmentation(Segmentation(BODY_GRID, (Segment("GTV", before),)), tmp_path / "a" / "contours.seg.nrrd")
    quick = PropagationOptions(registration="none", max_parts=1)
    (result,) = run_visits(
        find_visits(tmp_path), PatientSettings(options=quick), tmp_path / "out", model_of=lambda _order: BrightnessModel()
    ).visits
    (found, *_) = read_segmentation(result.folder / "visit_2.seg.nrrd").segments
    assert volumetric_dice(found.mask, now) > 0.85
    assert volumetric_dice(found.mask, before) < volumetric_dice(found.mask, now)
    assert result.record["pictures"]
    for each in result.record["pictures"]:
        assert (result.folder / each["file"]).read_bytes().startswith(b"\x89PNG")
