"""On a fresh Slicer, before anything was installed, the module opens and says what is missing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_the_panel_opens_without_any_package_and_names_what_is_missing(facts_folder: Path) -> None:
    script = Path(__file__).with_name("without_packages.py")
    environment = {**os.environ, "QT_QPA_PLATFORM": "offscreen"}
    done = subprocess.run(
        [sys.executable, str(script), str(facts_folder)],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told = dict(line.split(": ", 1) for line in done.stdout.splitlines() if ": " in line)
    assert told["section shown"] == "True"
    assert told["says"].startswith("missing: torch, torchvision, filelock")
    assert told["apply"] == f"False {told['says']}"
    assert (told["segments"], told["model"], told["faults"]) == (
        "1",
        "its weights can be looked for when the missing packages are there",
        "",
    )
