"""Every figure that a run leaves behind is defined, and nothing is defined that it does not."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from P2SAMSlicerLib import cli
from P2SAMSlicerLib.definitions import DEFINITIONS, SLICE
from P2SAMSlicerLib.options import PropagationOptions
from P2SAMSlicerLib.propagation import propagate
from P2SAMSlicerLib.result_files import write_results
from small_body import body, ellipsoid, prior_visit
from stub_model import BrightnessModel


def test_every_figure_of_the_files_is_defined_in_the_summary(tmp_path: Path) -> None:
    prior, segment = prior_visit()
    followup = body([ellipsoid(prior.grid)], seed=6)
    visit = propagate(BrightnessModel(), prior, [segment], followup, PropagationOptions(registration="none"))
    write_results(tmp_path, [visit])
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["definitions"] == DEFINITIONS
    (entry,) = summary["followups"]
    (told,) = entry["segments"]
    assert told.keys() - {"segment", "slices", "registration"} == DEFINITIONS["segment"].keys()
    with (tmp_path / "slices.csv").open(newline="") as file:
        columns = csv.DictReader(file).fieldnames
    assert columns == list(SLICE)
    assert {*told["slices"][0], "followup", "segment"} == DEFINITIONS["slice"].keys()
    assert entry["registration"].keys() | told["registration"].keys() == DEFINITIONS["registration"].keys()


def test_definitions_are_sentences_of_their_own() -> None:
    texts = [text for group in DEFINITIONS.values() for text in group.values()]
    assert all(len(text) > 15 and "\n" not in text and not text.endswith(".") for text in texts)
    assert "relative to the prior's volume" in DEFINITIONS["segment"]["volume_change_percent"]
    assert "from the registered prior contour's centroid" in DEFINITIONS["segment"]["centroid_shift_mm"]


def test_the_help_says_what_each_column_of_the_slices_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["propagate", "--help"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    for name, meaning in SLICE.items():
        assert f"{name}: {meaning}" in told
