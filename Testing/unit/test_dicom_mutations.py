"""Damaged DICOM CT is read or refused in one line that names nobody; never anything else."""

from __future__ import annotations

import pytest
from ct_mutations import run


@pytest.mark.parametrize("seed", range(7))
def test_damaged_files_are_read_or_refused_in_one_line(seed: int) -> None:
    said = run(100, seed)
    # The faults reach all depths: what opens a file, what lies in its header, and its pixels.
    assert said["read"] > 10
    assert sum(said.values()) >= 150
    for words in ("read as DICOM", "usable", "decoded"):
        assert any(words in each for each in said), words
