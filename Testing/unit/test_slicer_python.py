"""A child process is started with Slicer's own Python where there is one."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from P2SAMSlicerLib.mrml.slicer_python import python_executable


def test_pythonslicer_is_taken_where_the_path_has_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    launcher = tmp_path / ("PythonSlicer.exe" if os.name == "nt" else "PythonSlicer")
    launcher.write_text("")
    launcher.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert Path(python_executable()) == launcher


def test_outside_of_the_application_it_is_the_python_that_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert python_executable() == sys.executable
