"""Pictures of a report: the right slices in the right order, the patient turned the right way, and no name anywhere."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.overlay import LUNG_WINDOW, PRIOR_COLOR, REGISTERED_COLOR, RESULT_COLOR, SOFT_TISSUE_WINDOW, Panel
from P2SAMSlicerLib.report import pictures
from P2SAMSlicerLib.report.pictures import visit_pictures
from P2SAMSlicerLib.result import Outcome, SliceResult, VisitResult
from P2SAMSlicerLib.volume import Segment, VisitIdentity, Volume
from small_body import stored_grid
from small_visits import (
    FOLLOWUP_GRID,
    PRIOR_GRID,
    ball,
    candidate,
    phantom,
    segment,
    segment_result,
    visit_result,
    without_contour,
)
from visit_folders import SLICES, small_pictures, small_result


def judged(*priorities: float, first: int = 3) -> tuple[SliceResult, ...]:
    """Slices in their order with these priorities."""
    return tuple(SliceResult(first + k, 0.0, (candidate("box"),), 0, value) for k, value in enumerate(priorities))


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> list[list[Panel]]:
    """The panels that would be drawn; drawing takes most of the time, and is shown by other tests."""
    asked: list[list[Panel]] = []

    def keep(panels: Sequence[Panel], *_: Any) -> bytes:
        asked.append(list(panels))
        return b"\x89PNG\r\n\x1a\n"

    monkeypatch.setattr(pictures, "overlay_png", keep)
    monkeypatch.setattr(pictures, "_small", lambda png: png)
    return asked


def pixels(png: bytes) -> NDArray[np.uint8]:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def share_of(png: bytes, color: str, panel: int) -> int:
    """Pixels of exactly this colour within one panel."""
    wanted = [int(color[k : k + 2], 16) for k in (1, 3, 5)]
    return int((pixels(png)[60:450, 6 + panel * 406 : 400 + panel * 406] == wanted).all(axis=-1).sum())


@pytest.mark.usefixtures("undrawn")
def test_the_most_doubtful_slices_come_first_and_then_the_central_one() -> None:
    result = visit_result(segment_result(segment(), slices=judged(0.1, 0.9, 0.55, 0.6, 0.51)))
    made = visit_pictures(phantom(PRIOR_GRID), [segment()], phantom(FOLLOWUP_GRID), result)
    assert [(each.slice_index, each.why) for each in made] == [
        (4, "most doubtful"),
        (6, "most doubtful"),
        (5, "most doubtful"),
    ]
    assert [each.review_priority for each in made] == [0.9, 0.6, 0.55]
    assert "and the central one" in made[2].caption
    calm = visit_result(segment_result(segment(), slices=judged(0.1, 0.2, 0.05)))
    made = visit_pictures(phantom(PRIOR_GRID), [segment()], phantom(FOLLOWUP_GRID), calm)
    assert [(each.slice_index, each.why) for each in made] == [(4, "most doubtful"), (5, "central")]


@pytest.mark.usefixtures("undrawn")
def test_at_most_three_doubtful_slices_are_shown() -> None:
    result = visit_result(segment_result(segment(), slices=judged(0.9, 0.9, 0.9, 0.8, 0.95, 0.9, first=2)))
    made = visit_pictures(phantom(PRIOR_GRID), [segment()], phantom(FOLLOWUP_GRID), result)
    assert [each.slice_index for each in made if each.why == "most doubtful"] == [6, 2, 3]
    assert [each.slice_index for each in made if each.why == "central"] == [5]


@pytest.mark.usefixtures("undrawn")
def test_a_picture_says_where_it_is_and_why_and_what_the_prior_slice_is() -> None:
    first = small_pictures(small_result())[0]
    assert (first.slice_index, first.position_mm, first.segment) == (5, 0.0, "GTV")
    for words in ("slice 5 at S 0.0 mm", "review priority 0.75", "same relative place", "level 40, width 400"):
        assert words in first.caption
    assert first.png.startswith(b"\x89PNG")


def test_outlines_have_their_colours_each_in_its_panel() -> None:
    png = small_pictures(visit_result(segment_result(segment(), slices=SLICES[1:2])))[0].png
    for panel, color in enumerate((PRIOR_COLOR, REGISTERED_COLOR, RESULT_COLOR)):
        assert [share_of(png, color, each) > 50 for each in range(3)] == [each == panel for each in range(3)]
    assert (pixels(png)[2, 2] == 255).all()


def test_a_picture_is_small_and_the_same_again() -> None:
    one_slice = visit_result(segment_result(segment(), slices=SLICES[1:2]))
    first, again = (small_pictures(one_slice)[0].png for _ in range(2))
    assert first == again
    assert len(first) < 60_000


def test_without_a_contour_the_registered_one_is_shown_alone(undrawn: Any) -> None:
    for outcome, words in ((Outcome.NO_LESION, "no contour was made"), (Outcome.REGISTRATION_ONLY, "no model was asked")):
        result = visit_result(without_contour(segment(), outcome, "why"))
        (only,) = visit_pictures(phantom(PRIOR_GRID), [segment()], phantom(FOLLOWUP_GRID), result)
        assert words in only.caption
        assert only.review_priority is None
        assert [each.title for each in undrawn[-1]] == ["Prior", "Follow-up, registered prior contour"]


def test_a_segment_that_lies_outside_of_the_follow_up_has_no_picture() -> None:
    nothing = np.zeros(FOLLOWUP_GRID.shape, dtype=np.bool_)
    gone = without_contour(segment(), Outcome.NO_LESION, "out of view", registered_mask=nothing)
    assert visit_pictures(phantom(PRIOR_GRID), [segment()], phantom(FOLLOWUP_GRID), visit_result(gone)) == ()


def test_the_prior_is_shown_at_the_same_relative_place(undrawn: Any) -> None:
    # The registered contour has slices 3 to 7, the prior's 2 to 6.
    result = visit_result(segment_result(segment(), slices=judged(0.9, 0.1, 0.1, 0.1, 0.8)))
    made = visit_pictures(phantom(PRIOR_GRID), [segment()], phantom(FOLLOWUP_GRID), result)
    assert [(panels[1].slice_index, panels[0].slice_index) for panels in undrawn] == [(3, 2), (7, 6), (5, 4)]
    assert [each.caption.rpartition("at S ")[2].partition(";")[0] for each in made] == ["-10.0 mm", "10.0 mm", "0.0 mm"]


@pytest.mark.usefixtures("undrawn")
def test_where_slices_run_along_other_axes_the_largest_of_the_prior_is_shown() -> None:
    coronal = Grid((12, 20, 24), (3.0, 3.0, 6.0), (-36.0, -33.0, 30.0), (1, 0, 0, 0, 0, 1, 0, -1, 0))
    prior = phantom(coronal)
    source = segment(mask=ball(coronal, 10.0))
    made = visit_pictures(prior, [source], phantom(FOLLOWUP_GRID), small_result(segments=[source]))
    assert all("the slice with the largest contour" in each.caption for each in made)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
@pytest.mark.parametrize("flipped", [(True, True, True), (False, True, False)])
def test_however_the_follow_up_is_stored_the_same_is_shown(
    order: tuple[int, ...], flipped: tuple[bool, ...], undrawn: list[list[Panel]]
) -> None:
    grid = Grid((10, 28, 26), (2.5, 2.5, 4.0), (-33.0, -35.0, -20.0))  # square pixels, so that the slices' axis is known

    def turned(array: NDArray[Any]) -> NDArray[Any]:
        return np.flip(array.transpose(order), tuple(axis for axis in range(3) if flipped[axis]))

    followup, made = phantom(grid), []
    for stored in (False, True):
        masks = [ball(grid, 9.0, (4.0, 0.0, 4.0)), ball(grid, 10.0)]
        here = Volume(turned(followup.array), stored_grid(grid, order, flipped)) if stored else followup
        mask, registered = (turned(each) if stored else each for each in masks)
        turned_over = stored and flipped[order.index(0)]
        slices = tuple(replace(each, index=9 - each.index) if turned_over else each for each in SLICES)
        result = visit_result(segment_result(segment(), mask=mask, registered_mask=registered, slices=slices), grid=here.grid)
        made.append(visit_pictures(phantom(PRIOR_GRID), [segment()], here, result))
    assert [each.position_mm for each in made[0]] == pytest.approx([each.position_mm for each in made[1]])
    number = len(made[0])
    for plain, other in zip(undrawn[:number], undrawn[number:], strict=True):
        for first, second in zip(plain, other, strict=True):
            assert first.slice_index == second.slice_index
            assert first.volume.grid.same_as(second.volume.grid)
            np.testing.assert_array_equal(first.volume.array, second.volume.array)
            np.testing.assert_array_equal(first.contours[0].mask, second.contours[0].mask)


@pytest.mark.usefixtures("undrawn")
def test_the_window_is_that_of_what_lies_around_the_lesion() -> None:
    followup = phantom(FOLLOWUP_GRID)
    lung = followup.array.copy()
    lung[(lung > -50) & ~ball(FOLLOWUP_GRID, 11.0)] = -800
    for array, window in ((followup.array, SOFT_TISSUE_WINDOW), (lung, LUNG_WINDOW)):
        made = visit_pictures(phantom(PRIOR_GRID), [segment()], Volume(array, FOLLOWUP_GRID), small_result())
        assert f"level {window[0]:.0f}, width {window[1]:.0f}." in made[0].caption
    small = ball(FOLLOWUP_GRID, 3.0, (24.0, 0.0, 0.0))  # at the skin: the air around the patient is no lung
    result = visit_result(segment_result(segment(), mask=small, registered_mask=small, slices=SLICES[1:2]))
    made = visit_pictures(phantom(PRIOR_GRID), [segment()], followup, result)
    assert "level 40" in made[0].caption


def test_values_that_are_no_hu_are_shown_by_their_percentiles() -> None:
    raw = Volume((phantom(FOLLOWUP_GRID).array + 5000).astype(np.int16), FOLLOWUP_GRID)
    result = visit_result(segment_result(segment(), slices=SLICES[1:2]), provenance={"options": {"modality": "cbct"}})
    made = visit_pictures(phantom(PRIOR_GRID), [segment()], raw, result)
    assert "level 40," not in made[0].caption
    assert pixels(made[0].png)[60:450, 420:800].std() > 20


def test_names_identities_and_hostile_words_never_get_into_a_picture_or_its_files_name() -> None:
    hostile = "<script>$x^2$/../../etc/passwd\x00 Doe^Jane"
    identity = VisitIdentity("PID-4711", "20260101")
    prior = replace(phantom(PRIOR_GRID, "Doe Jane"), identity=identity)
    followup = replace(phantom(FOLLOWUP_GRID, "Doe Jane"), identity=identity)

    def made(name: str, first: Volume, second: Volume) -> tuple[pictures.Picture, ...]:
        result = visit_result(segment_result(segment(name), slices=SLICES[1:2]))
        return visit_pictures(first, [segment(name)], second, result)

    found = made(hostile, prior, followup)
    plain = made("GTV", phantom(PRIOR_GRID), phantom(FOLLOWUP_GRID))
    assert [(each.png, each.name, each.caption) for each in found] == [(each.png, each.name, each.caption) for each in plain]
    assert all(each.name.replace("_", "").isalnum() for each in found)
    assert {each.segment for each in found} == {hostile}


@pytest.mark.usefixtures("undrawn")
def test_two_segments_of_one_name_have_pictures_of_their_own() -> None:
    first, second = segment(), Segment("GTV", ball(PRIOR_GRID, 6.0))
    result: VisitResult = visit_result(segment_result(first, slices=SLICES), segment_result(second, slices=SLICES))
    made = visit_pictures(phantom(PRIOR_GRID), [first, second], phantom(FOLLOWUP_GRID), result)
    assert len({each.name for each in made}) == len(made) == 4


@pytest.mark.usefixtures("undrawn")
def test_slices_that_were_recorded_on_another_volume_are_left_out() -> None:
    result = visit_result(segment_result(segment(), slices=(*SLICES, SliceResult(99, 0.0, (candidate("box"),), 0, 0.99))))
    made = visit_pictures(phantom(PRIOR_GRID), [segment()], phantom(FOLLOWUP_GRID), result)
    assert 99 not in [each.slice_index for each in made]
    assert made


def test_a_contour_that_a_person_changed_is_a_thin_line_beside_the_tools(undrawn: list[list[Panel]]) -> None:
    result = visit_result(segment_result(segment(), slices=SLICES[1:2]))
    changed = {"GTV": ball(FOLLOWUP_GRID, 6.0)}
    visit_pictures(phantom(PRIOR_GRID), [segment()], phantom(FOLLOWUP_GRID), result, changed)
    drawn, edited = undrawn[0][2].contours
    assert (drawn.label, edited.label) == ("result", "as a person changed it")
    assert edited.linewidth < drawn.linewidth
    np.testing.assert_array_equal(edited.mask, changed["GTV"])
    gone = visit_result(without_contour(segment(), Outcome.NO_LESION, "gone"))
    visit_pictures(phantom(PRIOR_GRID), [segment()], phantom(FOLLOWUP_GRID), gone, changed)
    assert [contour.label for contour in undrawn[-1][2].contours] == ["as a person changed it"]
