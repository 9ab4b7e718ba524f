"""The report from the panel: the button, where it is written, and what the person is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from phantom_results import add_visits, carried


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is drawn; other tests show that."""
    png = b"\x89PNG\r\n\x1a\n"
    monkeypatch.setattr("P2SAMSlicerLib.report.trends._draw", lambda *_: png)
    monkeypatch.setattr("P2SAMSlicerLib.report.pictures.overlay_png", lambda *_: png)
    monkeypatch.setattr("P2SAMSlicerLib.report.pictures._small", lambda content: content)


@pytest.fixture
def reviewed(user: Any) -> Any:
    """Finished runs to two follow-ups."""
    prior, segmentation, followups = add_visits(2)
    user.choose(prior, segmentation, *followups)
    user.run(*(carried(node) for node in followups))
    return user


def test_without_a_result_the_button_says_why_it_cannot_be_clicked(user: Any) -> None:
    import slicer

    assert not user.ui.reportButton.enabled
    assert "carry contours to a follow-up first" in user.ui.reportButton.toolTip
    prior, segmentation, (followup,) = add_visits()
    user.choose(prior, segmentation, followup)
    user.run(carried(followup))
    assert user.ui.reportButton.enabled
    assert "report to sign" in user.ui.reportButton.toolTip
    slicer.mrmlScene.RemoveNode(user.widget.panel._review.row.node)
    user.host.process_events()
    assert not user.ui.reportButton.enabled


def test_the_report_is_written_into_the_chosen_folder_and_the_person_is_told(reviewed: Any, tmp_path: Path) -> None:
    for _ in range(3):
        reviewed.click("nextDoubtfulButton")
    reviewed.ui.reviewerEdit.text = "A. B."
    reviewed.click("acceptButton")
    reviewed.host.dialogs.answer("path", str(tmp_path / "out"))
    reviewed.click("reportButton")
    content = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert (content["contours"], content["unreviewed"]) == (2, 1)
    review = content["visits"][0]["segments"][0]["review"]
    assert (review["decision"], review["reviewer"], review["edited"]) == ("accepted", "A. B.", False)
    told = reviewed.host.dialogs.texts()[-1]
    assert "report.html" in told
    assert "UNREVIEWED" in told
    assert "no RTSTRUCT and no SEG was written" in told
    assert (tmp_path / "out" / "visit_3" / "pictures").is_dir()


def test_a_dialog_that_is_closed_writes_nothing(reviewed: Any, tmp_path: Path) -> None:
    before = len(reviewed.host.dialogs.texts())
    reviewed.host.dialogs.answer("path", "")
    reviewed.click("reportButton")
    assert len(reviewed.host.dialogs.texts()) == before + 1
    assert not list(tmp_path.rglob("report.html"))


def test_a_folder_with_a_report_is_left_as_it_is(reviewed: Any, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("mine", encoding="utf-8")
    reviewed.host.dialogs.answer("path", str(tmp_path))
    reviewed.click("reportButton")
    assert "is in that folder already" in reviewed.refused()
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == "mine"
    assert not (tmp_path / "visit_2").exists()


def test_a_script_writes_the_same_report(reviewed: Any, tmp_path: Path) -> None:
    nodes = list(dict.fromkeys(row.node for row in reviewed.widget.panel._review.rows))
    made = reviewed.logic.exportReport(nodes, tmp_path / "out", dicom=False)
    assert made.report[0].exists()
    assert made.notes == ()
    with pytest.raises(ValueError, match="no result to report on"):
        reviewed.logic.exportReport([], tmp_path / "other")
    with pytest.raises(OSError, match="already"):
        reviewed.logic.exportReport(nodes[0], tmp_path / "out")
    assert len(reviewed.logic.exportReport(nodes[0], tmp_path / "out", overwrite=True).visits) == 1
