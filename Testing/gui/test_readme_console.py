"""The README's example for the Python console runs as it stands there, on small visits of these names; the worker is a fake."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from P2SAMSlicerLib.worker.messages import Request
from phantom_results import add_visits, carried
from scripted_worker import FakeWorker, answer

ROOT = Path(__file__).resolve().parents[2]


def console_example() -> str:
    """The block of code in the section of the Python console."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.partition("### Tutorial: many visits from the Python console")[2]
    found = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert found, "the README has no example for the Python console"
    return found[1]


def test_the_example_for_the_console_carries_a_contour(
    host: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import slicer
    from P2SAMSlicerLib.worker import client

    host.load_module(ROOT / "P2SAMSlicer" / "P2SAMSlicer.py")
    prior, contours, (followup,) = add_visits()
    names = ("Lung prior CT", "Lung prior contours", "Lung follow-up CT (simulated)")
    for node, name in zip((prior, contours, followup), names, strict=True):
        node.SetName(name)

    class AnsweringWorker(FakeWorker):
        """Answers a run at once; test_module_real_worker.py has the real one."""

        def send(self, request: Request) -> int:
            number = super().send(request)
            self.progress("encode", 1, 4)
            answer(self, carried(followup))
            return number

    monkeypatch.setattr(client, "WorkerClient", lambda *_words: AnsweringWorker())
    # The console of the application knows slicer already.
    exec(compile(console_example(), "README.md", "exec"), {"slicer": slicer})
    told = capsys.readouterr().out.splitlines()
    assert any(line.startswith("encoding slices") for line in told)
    assert re.match(r"Lung follow-up CT \(simulated\) propagated tumour (found|flagged) 0\.\d+ \d", told[-1]), told[-1]
