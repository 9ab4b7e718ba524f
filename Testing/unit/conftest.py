"""Fixtures of the command line's tests."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from fake_engine import Engine


@pytest.fixture
def own_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep commands from setting the number of threads of the whole process; that is tested by itself."""
    for module in ("benchmark.accuracy", "cli.commission", "cli.job", "cli.image", "demo"):
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
