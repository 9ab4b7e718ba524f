"""The script that draws the README's picture: the panel, and slice views with contour, points and box."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from P2SAMSlicerLib.mrml.prompt_nodes import BOX_COLOUR, GREEN, RED
from phantom_results import add_visits, carried
from screenshots import PANEL_WIDTH, VIEW, add_points, draw, look_at_largest


def pixels_like(view: Any, colour: tuple[float, float, float]) -> int:
    """How many pixels of a picture have a colour, but for smoothed edges."""
    return int((np.abs(view.astype(int) - np.array([round(255 * value) for value in colour])) < 24).all(axis=-1).sum())


def test_the_picture_shows_the_panel_and_the_contour_with_its_points_in_the_views(user: Any, tmp_path: Path) -> None:
    from PIL import Image

    prior, segmentation, (followup,) = add_visits()
    user.choose(prior, segmentation, followup)
    user.run(carried(followup))
    user.click("editPromptsButton")
    look_at_largest(user.widget)
    draw(user.host, user.widget, tmp_path)
    before = np.asarray(Image.open(tmp_path / "review.png"))
    add_points()
    draw(user.host, user.widget, tmp_path)
    picture = np.asarray(Image.open(tmp_path / "review.png"))
    assert picture.shape == before.shape
    assert picture.shape[1] == PANEL_WIDTH + 4 + VIEW
    panel, axial = picture[:, :PANEL_WIDTH], picture[:VIEW, -VIEW:]
    assert len(np.unique(panel.reshape(-1, 3), axis=0)) > 20
    assert pixels_like(axial, GREEN) > pixels_like(before[:VIEW, -VIEW:], GREEN)
    assert pixels_like(axial, RED) > pixels_like(before[:VIEW, -VIEW:], RED)
    assert pixels_like(axial, BOX_COLOUR) > 50
