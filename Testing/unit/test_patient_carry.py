"""Carrying contours to one visit: its folder, several references, chains, and what must never be written."""

from __future__ import annotations

from pathlib import Path

import pytest
from P2SAMSlicerLib.metrics import volumetric_dice
from P2SAMSlicerLib.patient.carry_visit import carry_visit
from P2SAMSlicerLib.patient.visit_folder import is_finished, read_visit_folder
from P2SAMSlicerLib.segmentation_file import read_segmentation
from patient_phantom import gtv, lesion, order, visit, write_visit
from stub_model import BrightnessModel


@pytest.fixture
def patient(tmp_path: Path) -> Path:
    write_visit(tmp_path / "a", 0.0, [gtv()])
    write_visit(tmp_path / "b", 2.0, [gtv(2.0)])
    write_visit(tmp_path / "c", 3.0)
    return tmp_path


def test_a_visit_gets_a_folder_of_its_own_whose_record_lists_every_file(patient: Path) -> None:
    one = order([visit(patient / "a", 1)], visit(patient / "c", 3), patient / "out")
    content = carry_visit(one, BrightnessModel())
    assert content == read_visit_folder(one.out)
    assert content["outcome"] == "done"
    assert sorted(content["files"]) == ["slices.csv", "summary.json", "visit_3.seg.nrrd"]
    assert is_finished(one.out, one)
    drawn = read_segmentation(one.out / "visit_3.seg.nrrd")
    assert volumetric_dice(drawn.segments[0].mask, lesion(3.0)) > 0.7
    print(content, volumetric_dice(drawn.segments[0].mask, lesion(3.0)))


def test_approved_references_are_combined_and_their_agreement_is_recorded(patient: Path) -> None:
    both = [visit(patient / "a", 1), visit(patient / "b", 2, approved=True)]
    one = order(both, visit(patient / "c", 3), patient / "out", carried_from="approved")
    content = carry_visit(one, BrightnessModel())
    print(content)
    assert content["references"] == ["visit_1", "visit_2"]
