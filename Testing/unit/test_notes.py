"""What is told of how the contours were made."""

from __future__ import annotations

from P2SAMSlicerLib.notes import method_notes
from P2SAMSlicerLib.options import PropagationOptions
from stub_model import BrightnessModel


def test_a_model_without_points_is_named_and_the_box_beside_the_points_is_said() -> None:
    told = " ".join(method_notes(BrightnessModel(("box",)).card, PropagationOptions()))
    assert "stub was not trained with points" in told
    assert "combined with a box" in told


def test_a_model_that_knows_points_needs_no_such_note() -> None:
    assert "points" not in " ".join(method_notes(BrightnessModel(("points", "box")).card, PropagationOptions()))


def test_what_the_border_and_the_figures_describe_is_said() -> None:
    told = " ".join(method_notes(BrightnessModel().card, PropagationOptions()))
    assert "between the chosen candidate and the expected contour" in told
    assert "at most 2 mm from the candidate" in told
    assert "describe the chosen candidate" in told
    assert "sarcomas and lung tumours only; nothing is known of it elsewhere" in told


def test_a_cbct_is_said_to_be_carried_without_an_expected_contour() -> None:
    told = " ".join(method_notes(BrightnessModel().card, PropagationOptions(modality="cbct")))
    assert "the registered contour stands for the expected one" in told
    assert "between the chosen candidate and the registered contour" in told


def test_paper_mode_has_its_own_note() -> None:
    (note,) = method_notes(BrightnessModel().card, PropagationOptions(mode="paper"))
    assert "growth beyond its ends" in note
