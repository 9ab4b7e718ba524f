"""Measuring: every visit by itself, kept when a run ends, and no name of a patient in what is kept."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clinic_folder import PATIENTS, measured_visit, true_contours, write_clinic
from P2SAMSlicerLib.benchmark.case_contours import CaseContours
from P2SAMSlicerLib.benchmark.cases import CaseData, find_cases, read_case
from P2SAMSlicerLib.commissioning.clinic_cases import find_clinic_cases
from P2SAMSlicerLib.commissioning.measure import CARRYING, READING, SIMULATION, Measured, MeasureOptions, measure
from P2SAMSlicerLib.commissioning.measured_visit import key_of, read_visit, write_visit
from P2SAMSlicerLib.commissioning.registration_check import inverse_consistency_mm, registration_error_mm
from P2SAMSlicerLib.errors import Cancelled, InputError, OutputError
from P2SAMSlicerLib.options import PropagationOptions
from P2SAMSlicerLib.progress import ProgressEvent
from P2SAMSlicerLib.propagation import register_visits
from P2SAMSlicerLib.segmentation_file import write_segmentation
from P2SAMSlicerLib.simulation.visit import SimulationOptions, simulate_followup
from P2SAMSlicerLib.volume import Segmentation
from P2SAMSlicerLib.volume_file import write_volume
from small_body import prior_visit
from stub_model import BrightnessModel

STUB = BrightnessModel()


@pytest.fixture
def product(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A product that finds the truth at once; the visits that it was asked for, by the CT's name."""
    asked: list[str] = []

    def contours(model: Any, data: CaseData, *rest: Any) -> CaseContours:
        asked.append(data.prior.name)
        return true_contours(model, data, *rest)

    monkeypatch.setattr("P2SAMSlicerLib.commissioning.measure.own_contours", contours)
    monkeypatch.setattr("P2SAMSlicerLib.commissioning.measure._registration", lambda *_: {"folded_share": 0.0})
    return asked


def run(folder: Path, out: Path, **fields: Any) -> Measured:
    options = MeasureOptions(out, **{"methods": ("copy",), "changes": ("shrink",), **fields})
    return measure(find_clinic_cases(folder), options, STUB)


def test_every_case_change_and_visit_is_measured_once_and_a_second_run_measures_nothing(
    tmp_path: Path, product: list[str]
) -> None:
    clinic = write_clinic(tmp_path / "clinic", PATIENTS[:2])
    first = run(clinic, tmp_path / "out", changes=("shrink", "stable"), visits=2)
    assert list(first.visits) == [
        f"case_{case:03d}_{change}_{visit}" for case in (1, 2) for change in ("shrink", "stable") for visit in (1, 2)
    ]
    assert (len(product), first.kept, first.failures) == (8, 0, ())
    assert first.methods == ("copy", "clinical"), "the product is measured whatever is asked for"
    assert len({visit.simulated["seed"] for _, visit in first.visits.values()}) == 4, "the same for each change of a case"
    product.clear()
    second = run(clinic, tmp_path / "out", changes=("shrink", "stable"), visits=2)
    assert (product, second.kept) == ([], 8)
    for name, (_, visit) in second.visits.items():
        assert visit.methods == first.visits[name][1].methods
        assert visit.registration == first.visits[name][1].registration


def test_a_case_keeps_its_visits_when_another_comes_before_it(tmp_path: Path, product: list[str]) -> None:
    clinic = write_clinic(tmp_path / "clinic", PATIENTS[1:3])
    before = run(clinic, tmp_path / "out")
    product.clear()
    write_clinic(clinic, PATIENTS[:1])
    # The CT of the new case is that of the first: told apart by content, it would be the same.
    after = run(clinic, tmp_path / "out")
    assert product == []
    assert after.visits["case_003_shrink_1"][1].simulated == before.visits["case_002_shrink_1"][1].simulated


@pytest.mark.parametrize("changed", [{"seed": 1}, {"methods": ("copy", "registered")}, {"consistency": False}, {"threads": 2}])
def test_another_seed_method_or_computer_is_measured_anew(tmp_path: Path, product: list[str], changed: dict[str, Any]) -> None:
    clinic = write_clinic(tmp_path / "clinic", PATIENTS[:1])
    run(clinic, tmp_path / "out")
    assert run(clinic, tmp_path / "out", **changed).kept == 0
    assert len(product) == 2


@pytest.mark.parametrize(
    "damage", [b"", b"{}", b"[" * 100_000, b'{"format": "P2SAMSlicer commissioning visit"', b"\xff\xfe", None]
)
def test_a_damaged_file_of_figures_is_measured_again(tmp_path: Path, product: list[str], damage: bytes | None) -> None:
    clinic = write_clinic(tmp_path / "clinic", PATIENTS[:1])
    run(clinic, tmp_path / "out")
    (file,) = (tmp_path / "out" / "visits").iterdir()
    content = json.loads(file.read_bytes())
    del content["methods"]["clinical"]["metrics"]["hd95_mm"]
    file.write_bytes(json.dumps(content).encode() if damage is None else damage)
    assert run(clinic, tmp_path / "out").kept == 0
    assert run(clinic, tmp_path / "out").kept == 1
    assert len(product) == 2


def test_figures_come_back_from_their_file_as_they_were(tmp_path: Path) -> None:
    for number, visit in enumerate(
        (measured_visit(11.0), measured_visit(0.0), measured_visit(truth=0.0, folded_share=math.inf))
    ):
        file = tmp_path / f"{number}.json"
        write_visit(file, "key", visit)
        found = read_visit(file, "key")
        assert found is not None
        # NaN is not equal to itself, but what is written of it is.
        write_visit(tmp_path / "again.json", "key", found)
        assert (tmp_path / "again.json").read_bytes() == file.read_bytes()
        assert found.methods["copy"].metrics.hd95_mm == visit.methods["copy"].metrics.hd95_mm
        assert read_visit(file, "another key") is None
    assert read_visit(tmp_path / "none.json", "key") is None
    assert key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1}) != key_of({"a": 1, "b": 3})


# ---------------------------------------------------------------------------------------------------------------- failures
def test_a_case_that_fails_is_recorded_without_a_name_and_the_others_go_on(
    tmp_path: Path, product: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clinic = write_clinic(tmp_path / "clinic", PATIENTS[:4])
    (clinic / PATIENTS[0] / f"{PATIENTS[0]}_CT.nii.gz").write_bytes(b"no CT")

    def contours(model: Any, data: CaseData, *rest: Any) -> CaseContours:
        if data.prior.name == "case_002":
            raise InputError(f"{PATIENTS[1]}_CT.nii.gz: its values are not HU")
        if data.prior.name == "case_003":
            raise RuntimeError(f"a fault in /home/{PATIENTS[2]}")
        return true_contours(model, data, *rest)

    monkeypatch.setattr("P2SAMSlicerLib.commissioning.measure.own_contours", contours)
    found = run(clinic, tmp_path / "out")
    assert list(found.visits) == ["case_004_shrink_1"]
    assert [(each.name, each.stage) for each in found.failures] == [
        ("case_001", READING),
        ("case_002_shrink_1", CARRYING),
        ("case_003_shrink_1", CARRYING),
    ]
    assert found.failures[1].reason == "case_002: its values are not HU"
    assert "RuntimeError" in found.failures[2].reason
    for failure in found.failures:
        assert not any(part in failure.reason for part in ("Doe", "Muster", "Roe", str(tmp_path)))
    # What failed is tried again, and what is finished is not.
    monkeypatch.setattr("P2SAMSlicerLib.commissioning.measure.own_contours", true_contours)
    again = run(clinic, tmp_path / "out")
    assert (len(again.visits), len(again.failures), again.kept) == (3, 1, 1)
    assert product == []


def test_a_visit_that_cannot_be_simulated_is_told_apart_from_the_products_failures(
    tmp_path: Path, product: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clinic = write_clinic(tmp_path / "clinic", PATIENTS[:1])

    def refuse(*_: Any) -> Any:
        raise InputError("the deformation would fold tissue")

    monkeypatch.setattr("P2SAMSlicerLib.commissioning.measure.simulate_followup", refuse)
    (failure,) = run(clinic, tmp_path / "out").failures
    assert (failure.stage, failure.reason) == (SIMULATION, "the deformation would fold tissue")
    assert product == []


def test_elastix_that_gives_up_costs_its_own_rows_only(
    tmp_path: Path, product: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clinic = write_clinic(tmp_path / "clinic", PATIENTS[:1])

    def refuse(*_: Any) -> Any:
        raise InputError("elastix gave up on Doe_Jane_1948_CT")

    monkeypatch.setattr("P2SAMSlicerLib.commissioning.measure.elastix.is_installed", lambda: True)
    monkeypatch.setattr("P2SAMSlicerLib.commissioning.measure.elastix_contours", refuse)
    found = run(clinic, tmp_path / "out", methods=("copy", "elastix"))
    ((_, visit),) = found.visits.values()
    assert set(visit.methods) == {"copy", "clinical"}
    assert visit.peers_failed == "elastix gave up on case_001"
    assert len(product) == 1
    monkeypatch.setattr("P2SAMSlicerLib.commissioning.measure.elastix.is_installed", lambda: False)
    missing = run(clinic, tmp_path / "out", methods=("copy", "elastix"))
    assert missing.methods == ("copy", "clinical")
    assert "itk-elastix is not installed" in missing.notes[0]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, Cancelled, OutputError])
def test_a_run_that_ends_keeps_what_is_finished(
    tmp_path: Path, product: list[str], monkeypatch: pytest.MonkeyPatch, stop: type[BaseException]
) -> None:
    clinic = write_clinic(tmp_path / "clinic", PATIENTS[:3])

    def contours(model: Any, data: CaseData, *rest: Any) -> CaseContours:
        if data.prior.name == "case_002":
            raise stop
        return true_contours(model, data, *rest)

    with monkeypatch.context() as patched:
        patched.setattr("P2SAMSlicerLib.commissioning.measure.own_contours", contours)
        with pytest.raises(stop):
            run(clinic, tmp_path / "out")
    assert len(list((tmp_path / "out" / "visits").iterdir())) == 1
    found = run(clinic, tmp_path / "out")
    assert (len(found.visits), found.kept, product) == (3, 1, ["case_002", "case_003"])


# ------------------------------------------------------------------------------------------------------------------- files
def test_simulated_cts_are_left_only_where_asked_for_and_can_be_measured_by_the_benchmark(
    tmp_path: Path, product: list[str]
) -> None:
    clinic = write_clinic(tmp_path / "clinic", PATIENTS[:1])
    run(clinic, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["visits"]
    kept = run(clinic, tmp_path / "out", keep=True)
    assert (kept.kept, len(product)) == (0, 2), "figures alone are no reason not to make the files"
    (case,) = find_cases(tmp_path / "out" / "simulated")
    assert (case.name, case.change, case.simulated, case.patient) == ("case_001_shrink_1", "shrink", True, "1")
    assert read_case(case).truth.any()
    assert run(clinic, tmp_path / "out", keep=True).kept == 1
    for path in (tmp_path / "out").rglob("*"):
        assert "Doe" not in path.name
        if path.suffix == ".json":
            assert "Doe" not in path.read_text(encoding="utf-8")


def test_too_little_space_for_kept_visits_is_told_before_they_are_made(
    tmp_path: Path, product: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clinic = write_clinic(tmp_path / "clinic", PATIENTS[:1])

    def check(_out: Path, need: int = 0) -> None:
        if need > 50_000_000:
            raise OutputError("out: not enough space")

    monkeypatch.setattr("P2SAMSlicerLib.commissioning.measure.check_writable", check)
    with pytest.raises(OutputError, match="not enough space"):
        run(clinic, tmp_path / "out", keep=True)
    assert product == []


@pytest.mark.usefixtures("product")
def test_progress_tells_visits_by_number_and_names_nobody(tmp_path: Path) -> None:
    clinic = write_clinic(tmp_path / "clinic", PATIENTS[:2])
    events: list[ProgressEvent] = []
    options = MeasureOptions(tmp_path / "out", methods=("copy",), changes=("shrink",))
    measure(find_clinic_cases(clinic), options, STUB, events.append)
    assert [(each.stage, each.done, each.total) for each in events] == [("visits", 0, 2), ("visits", 1, 2), ("visits", 2, 2)]
    assert events[1].message == "visit 2 of 2"


@pytest.mark.parametrize("fields", [{"methods": ("magic",)}, {"changes": ("explode",)}])
def test_unknown_methods_and_changes_are_refused(tmp_path: Path, fields: dict[str, Any]) -> None:
    clinic = write_clinic(tmp_path / "clinic", PATIENTS[:1])
    with pytest.raises(InputError, match=r"magic|explode"):
        run(clinic, tmp_path / "out", **fields)


# ------------------------------------------------------------------------------------------------------------ registration
def test_the_registration_error_is_the_known_motion_where_nothing_is_registered() -> None:
    prior, segment = prior_visit()
    motion = SimulationOptions("stable", rotation_deg=0.0, shift_mm=6.0, deform_mm=0.0, seed=2)
    visit = simulate_followup(prior, segment.mask, motion)
    still = register_visits(prior, [segment], visit.followup, PropagationOptions(registration="none"))
    moved = float(np.linalg.norm(visit.record["shift_mm"]))
    assert moved > 1.0
    assert registration_error_mm(still, visit.mask, visit.followup, visit.followup_to_prior) == pytest.approx(moved, abs=1e-3)
    found = inverse_consistency_mm(still, prior, visit.mask, visit.followup, PropagationOptions(registration="none"))
    assert found == pytest.approx(0.0, abs=1e-6)
    nothing = np.zeros_like(visit.mask)
    assert math.isnan(registration_error_mm(still, nothing, visit.followup, visit.followup_to_prior))
    assert math.isnan(inverse_consistency_mm(still, prior, nothing, visit.followup, PropagationOptions(registration="none")))


def test_a_visit_is_measured_with_the_real_product_and_the_model_that_answers_from_brightness(tmp_path: Path) -> None:
    own = tmp_path / "clinic" / PATIENTS[0]
    own.mkdir(parents=True)
    prior, segment = prior_visit()
    write_volume(prior, own / "ct.nii.gz")
    write_segmentation(Segmentation(prior.grid, (segment,)), own / "gtv.seg.nrrd")
    found = run(
        tmp_path / "clinic",
        tmp_path / "out",
        methods=("copy", "registered"),
        propagation=PropagationOptions(max_parts=1),
    )
    assert not found.failures
    ((case, visit),) = found.visits.values()
    assert (case.name, case.patient) == ("case_001_shrink_1", "1")
    dice = {method: each.metrics.volumetric_dice for method, each in visit.methods.items()}
    assert dice["copy"] < dice["registered"] < dice["clinical"]
    assert visit.methods["clinical"].outcome in ("found", "flagged")
    assert visit.registration["folded_share"] == 0.0
    # Half a voxel along the body; without a registration it would be the motion of 7 mm.
    assert 0.0 < visit.registration["registration_error_mm"] < 2.0
    assert 0.0 < visit.registration["inverse_consistency_mm"] < 2.0
