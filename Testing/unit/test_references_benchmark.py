"""The script that measures what contours are best carried from: each way starts from what it says, and the tables hold it."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from benchmark_cases import write_case
from P2SAMSlicerLib.benchmark.cases import find_cases
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.resample import resample_mask
from P2SAMSlicerLib.result import Outcome
from P2SAMSlicerLib.volume import Segment, Volume
from small_visits import segment_result, visit_result, without_contour

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "references.py"


@pytest.fixture
def references(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script with an engine that copies contours where they are."""
    spec = importlib.util.spec_from_file_location("references", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "references", module)
    spec.loader.exec_module(module)
    calls: list[Any] = []
    lost: set[str] = set()
    scripted: Any = module
    scripted.calls, scripted.lost = calls, lost

    def propagate(_model: Any, prior: Volume, segments: list[Segment], followup: Volume, _options: Any) -> Any:
        (source,) = segments
        calls.append((prior, source.mask, followup))
        mask = resample_mask(source.mask, prior.grid, followup.grid)
        if followup.name in lost:
            found = without_contour(source, Outcome.NO_LESION, "gone", registered_mask=mask)
        else:
            found = segment_result(source, followup.grid, mask=mask, registered_mask=mask)
        return visit_result(found, name=followup.name, grid=followup.grid)

    scripted.propagate = propagate
    return module


@pytest.fixture
def cases(tmp_path: Path) -> Path:
    write_case(tmp_path / "cases" / "a_shrink", change="shrink", seed=1, patient="Doe")
    write_case(tmp_path / "cases" / "b_gone", 0.0, change="vanish", seed=1)
    return tmp_path / "cases"


def test_each_way_starts_from_what_it_says(references: Any, cases: Path) -> None:
    (case,) = find_cases(cases, ["a_shrink"])
    rows = references.measure(SimpleNamespace(), case)
    assert [row["way"] for row in rows] == ["prior", "previous", "previous, corrected", "approved"]
    (first, prior_mask, followup), (_, _, third), (_, approved, _), (_, drawn, _) = references.calls
    assert references.calls[2][0] is references.calls[3][0] is third
    assert references.calls[1][0] is first
    assert references.calls[2][2] is references.calls[3][2] is followup
    between = references.intermediate(first, Segment("GTV", prior_mask), case)
    assert np.array_equal(approved, between.mask)
    assert not np.array_equal(drawn, approved)
    assert third.name != followup.name
    assert all(0.0 <= row["dice"] <= 1.0 for row in rows)
    assert "Doe" not in json.dumps(rows)


def test_the_third_visit_has_half_of_the_change_and_is_the_same_every_time(references: Any, cases: Path) -> None:
    from P2SAMSlicerLib.benchmark.cases import read_case

    (case,) = find_cases(cases, ["a_shrink"])
    data = read_case(case)
    first, again = (references.intermediate(data.prior, data.segment, case) for _ in range(2))
    assert np.array_equal(first.followup.array, again.followup.array)
    assert 0.0 < first.mask.sum() < data.segment.mask.sum()


def test_a_chain_without_a_contour_on_the_third_visit_starts_from_the_prior_again(references: Any, cases: Path) -> None:
    references.lost.add("third visit")
    (case,) = find_cases(cases, ["a_shrink"])
    rows = {row["way"]: row for row in references.measure(SimpleNamespace(), case)}
    assert len(references.calls) == 3
    assert rows["previous"]["dice"] == rows["prior"]["dice"]
    assert rows["prior"]["third_visit_dice"] == 0.0


def test_tables_are_printed_and_measured_cases_are_not_measured_again(
    references: Any, cases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded: list[Any] = []

    def load(*_: object) -> Any:
        loaded.append("")
        return SimpleNamespace()

    monkeypatch.setattr("P2SAMSlicerLib.models.load_model", load)
    monkeypatch.setattr("P2SAMSlicerLib.threads.use_threads", lambda count: count or 1)
    arguments = ["--cases", str(cases), "--rows", str(tmp_path / "rows.json")]
    for _ in range(2):
        assert references.main(arguments) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].startswith("| carried from | Dice | HD95 mm |")
        assert [line.split(" | ")[0] for line in lines[2:6]] == ["| prior", "| previous", "| previous, corrected", "| approved"]
        assert lines[9].startswith("| a_shrink | 0.")
        assert not any("b_gone" in line or "Doe" in line or "nan" in line for line in lines)
    assert (len(loaded), len(references.calls)) == (1, 4)
    with pytest.raises(InputError, match="no case was measured"):
        references.markdown([], {"a": "p"})
