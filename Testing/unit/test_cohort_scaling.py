"""The benchmark of many patients runs, and the program adds little to a visit."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def benchmark() -> Any:
    """The benchmark as a module."""
    path = Path(__file__).resolve().parents[1] / "benchmarks" / "cohort_scaling.py"
    spec = importlib.util.spec_from_file_location("cohort_scaling", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_little_is_added_to_a_visit(benchmark: Any) -> None:
    found = benchmark.measured(30, 1, 0.0)
    assert found["visits"] == 60
    # Four times the goal: tests share their processors with others.
    assert 0 < found["ms"] < 4 * benchmark.MOST_MS


@pytest.mark.long
def test_a_thousand_patients_take_the_memory_of_a_hundred(benchmark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark.main(["--workers"]) == 0
    assert "| 1000 | 2000 |" in capsys.readouterr().out
