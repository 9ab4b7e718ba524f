"""Fixtures of the command line's tests."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from fake_engine import Engine
    from P2SAMSlicerLib.report.pictures import Picture
    from P2SAMSlicerLib.volume import Segment, Volume
    from patient_phantom import CopyEngine


@pytest.fixture
def own_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep commands from setting the number of threads of the whole process; that is tested by itself."""
    for module in ("benchmark.accuracy", "cli.commission", "cli.job", "cli.image", "demo", "patient.run"):
        monkeypatch.setattr(f"P2SAMSlicerLib.{module}.use_threads", lambda count: count or 1)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, own_threads: None) -> Engine:
    """The fake engine in the place of the real one."""
    from fake_engine import Engine

    del own_threads
    fake = Engine()
    monkeypatch.setattr("P2SAMSlicerLib.models.load_model", fake.load_model)
    monkeypatch.setattr("P2SAMSlicerLib.propagation.propagate", fake.propagate)
    return fake


@pytest.fixture
def visits(tmp_path: Path) -> list[str]:
    """The good command line on small visits in ``tmp_path``, with results going to ``tmp_path / "out"``."""
    from small_visits import write_visits

    return [*write_visits(tmp_path), "--out", str(tmp_path / "out")]


@pytest.fixture
def copy_engine(monkeypatch: pytest.MonkeyPatch, own_threads: None) -> CopyEngine:
    """The engine that copies contours in the place of the real one, a small picture a segment, and a model that is nothing."""
    from P2SAMSlicerLib.report.pictures import Picture
    from patient_phantom import CopyEngine

    del own_threads
    fake = CopyEngine()

    def pictures(_prior: Volume, segments: list[Segment], _followup: Volume, result: Any) -> tuple[Picture, ...]:
        assert {each.name for each in segments} >= {each.source.name for each in result.segments}
        return tuple(Picture("p", b"\x89PNG\r\n\x1a\n", each.name, 3, 1.5, "central", 0.5, "seen") for each in segments)

    monkeypatch.setattr("P2SAMSlicerLib.models.load_model", fake.load_model)
    monkeypatch.setattr("P2SAMSlicerLib.propagation.propagate", fake.propagate)
    monkeypatch.setattr("P2SAMSlicerLib.report.pictures.visit_pictures", pictures)
    return fake
