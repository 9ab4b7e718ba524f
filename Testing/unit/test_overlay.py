"""Pictures: the right colour at the right millimetre, the patient's left on the right, nobody's name, the same bytes again."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from P2SAMSlicerLib import overlay
from P2SAMSlicerLib.errors import InputError, OutputError
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.overlay import Contour, Panel, comparison_panels, largest_slice, write_overlay
from P2SAMSlicerLib.volume import BoolArray, VisitIdentity, Volume

LIBRARY = Path(__file__).resolve().parents[2] / "P2SAMSlicer"
SIDE_PIXELS = 400


def volume(
    shape: tuple[int, int, int] = (7, 90, 100), spacing: tuple[float, float, float] = (1.0, 1.0, 3.0), **grid: Any
) -> Volume:
    return Volume(np.zeros(shape, dtype=np.int16), Grid(shape, spacing, **grid))


def box(shape: tuple[int, ...], *ranges: tuple[int, int]) -> BoolArray:
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(*ends) for ends in ranges)] = True
    return mask


def read(path: Path) -> NDArray[np.float64]:
    from matplotlib.image import imread

    return np.asarray(imread(path)[..., :3], dtype=np.float64)


def panel_pixels(image: NDArray[np.float64], number: int = 0) -> NDArray[np.float64]:
    """The square of one panel: below the title, six pixels of gap between panels."""
    top, left = 55, 6 + number * (SIDE_PIXELS + 6)
    return image[top : top + SIDE_PIXELS, left : left + SIDE_PIXELS]


def places_of(image: NDArray[np.float64], color: str) -> NDArray[np.int64]:
    from matplotlib.colors import to_rgb

    return np.argwhere(np.abs(image - to_rgb(color)).max(axis=-1) < 0.02)


def drawn_texts(monkeypatch: pytest.MonkeyPatch, path: Path, panels: list[Panel], **options: Any) -> list[str]:
    """All words of the picture that would be written."""
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    seen: list[str] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: seen.extend(t.get_text() for t in figure.findobj(Text)))
    write_overlay(path, panels, **options)
    return [text for text in seen if text]


def test_the_file_is_a_png_of_the_expected_size(tmp_path: Path) -> None:
    ct = volume()
    mask = box(ct.array.shape, (2, 5), (30, 50), (30, 50))
    path = tmp_path / "overlay.png"
    write_overlay(path, comparison_panels(ct, mask, ct, mask, result=mask, truth=mask))
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", content[16:24])
    assert width == 4 * 406 + 6
    assert 480 < height < 560
    assert [entry.name for entry in tmp_path.iterdir()] == ["overlay.png"]


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 3.0), (0.5, 1.5, 3.0), (2.0, 0.8, 1.0)])
def test_a_square_mask_is_outlined_at_its_millimetres(tmp_path: Path, spacing: tuple[float, float, float]) -> None:
    ct = volume((3, 200, 200), spacing)
    mask = box((3, 200, 200), (1, 2), (90, 110), (80, 130))
    path = tmp_path / "overlay.png"
    write_overlay(path, [Panel("A", ct, [Contour("square", mask, "#FF0000")])], margin_mm=12.0)
    high, wide = 20 * spacing[1], 50 * spacing[0]
    scale = SIDE_PIXELS / (max(high, wide) + 24.0)
    found = places_of(panel_pixels(read(path)), "#FF0000")
    top, left = SIDE_PIXELS / 2 - high * scale / 2, SIDE_PIXELS / 2 - wide * scale / 2
    expected = [top, left, top + high * scale, left + wide * scale]
    np.testing.assert_allclose([*found.min(axis=0), *found.max(axis=0)], expected, atol=3.0)
    # It is an outline: nothing of its colour deep inside.
    inside = (found > [top + 8, left + 8]).all(axis=1) & (found < [top + high * scale - 8, left + wide * scale - 8]).all(axis=1)
    assert not inside.any()


def test_image_and_outline_lie_on_each_other(tmp_path: Path) -> None:
    # Large pixels, so that half a pixel too far to one side would be seen: a pixel is 29 pixels of the picture.
    ct = volume((3, 60, 60), (2.0, 2.0, 2.0))
    mask = box((3, 60, 60), (1, 2), (20, 24), (25, 31))
    ct.array[mask] = 1000
    ct.array[~mask] = -1000
    write_overlay(tmp_path / "plain.png", [Panel("A", ct, [Contour("none", mask, "none")])], margin_mm=8.0)
    write_overlay(tmp_path / "red.png", [Panel("A", ct, [Contour("lesion", mask, "#FF0000")])], margin_mm=8.0)
    bright = panel_pixels(read(tmp_path / "plain.png")).mean(axis=-1) > 0.5
    bright[:40] = bright[-40:] = bright[:, :40] = bright[:, -40:] = False  # the letters on the edges
    lesion, outline = np.argwhere(bright), places_of(panel_pixels(read(tmp_path / "red.png")), "#FF0000")
    np.testing.assert_allclose(lesion.mean(axis=0), outline.mean(axis=0), atol=2.0)
    np.testing.assert_allclose(np.ptp(lesion, axis=0), np.ptp(outline, axis=0), atol=8.0)


def test_the_patients_left_is_on_the_right_and_posterior_is_below(tmp_path: Path) -> None:
    ct = volume((3, 60, 60))
    ct.array[:, 10:20, 40:50] = 1000  # left, anterior
    ct.array[:, 40:50, 10:20] = -1000  # right, posterior
    write_overlay(tmp_path / "a.png", [Panel("A", ct)])
    grey = panel_pixels(read(tmp_path / "a.png")).mean(axis=-1)
    # The whole slice is shown with the margin of 25 mm: 110 mm on 400 pixels.
    at = [int(400 * (25 + mm) / 110) for mm in (15, 45)]
    assert grey[at[0], at[1]] > 0.95
    assert grey[at[1], at[0]] < 0.05
    assert grey[at[0], at[0]] == pytest.approx(grey[at[1], at[1]], abs=0.01)


@pytest.mark.parametrize(
    ("direction", "letters"),
    [
        ((1, 0, 0, 0, 1, 0, 0, 0, 1), ["R", "L", "A", "P"]),
        ((-1, 0, 0, 0, 1, 0, 0, 0, -1), ["L", "R", "A", "P"]),
        ((1, 0, 0, 0, 0, 1, 0, -1, 0), ["R", "L", "S", "I"]),
        ((0.96, -0.28, 0, 0.28, 0.96, 0, 0, 0, 1), ["R", "L", "A", "P"]),
    ],
)
def test_letters_say_what_the_grids_directions_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, direction: tuple[float, ...], letters: list[str]
) -> None:
    texts = drawn_texts(monkeypatch, tmp_path / "a.png", [Panel("A", volume(direction=direction))])
    assert [text for text in texts if len(text) == 1 and text != "A"] == [letter for letter in letters if letter != "A"]
    assert texts.count("A") == letters.count("A")


def test_the_title_has_the_slices_position_in_millimetres(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    axial = volume(origin=(0.0, 0.0, -100.5))
    coronal = volume(origin=(0.0, 20.0, 0.0), direction=(1, 0, 0, 0, 0, 1, 0, -1, 0))
    panels = [
        Panel("Axial", axial, slice_index=4),
        Panel("Coronal", coronal, slice_index=1),
        Panel("Zero", volume(origin=(0.0, 0.0, -0.04)), slice_index=0),
    ]
    texts = drawn_texts(monkeypatch, tmp_path / "a.png", panels)
    assert {"Axial\nS -88.5 mm", "Coronal\nP 23.0 mm", "Zero\nS 0.0 mm"} <= set(texts)


def test_the_position_of_an_oblique_slice_is_that_of_its_centre(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Rows rise by 0.28 mm a millimetre: half of 89 rows is 12.46 mm.
    tilted = volume(direction=(1, 0, 0, 0, 0.96, -0.28, 0, 0.28, 0.96))
    texts = drawn_texts(monkeypatch, tmp_path / "a.png", [Panel("A", tilted, slice_index=0)])
    assert "A\nS 12.5 mm" in texts


def test_the_slice_of_the_largest_area_is_shown_unless_one_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ct = volume()
    mask = box(ct.array.shape, (1, 4), (30, 40), (30, 40)) | box(ct.array.shape, (4, 5), (30, 60), (30, 60))
    contours = [Contour("lesion", mask, "red")]
    assert largest_slice(mask) == 4
    texts = drawn_texts(monkeypatch, tmp_path / "a.png", [Panel("A", ct, contours), Panel("B", ct, contours, slice_index=2)])
    assert {"A\nS 12.0 mm", "B\nS 6.0 mm"} <= set(texts)


def test_the_largest_slice_of_an_empty_mask_is_the_middle_one() -> None:
    assert largest_slice(np.zeros((9, 4, 4), dtype=bool)) == 4


def test_all_follow_up_panels_show_the_slice_of_the_truth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ct = volume()
    prior, registered = box(ct.array.shape, (0, 1), (30, 50), (30, 50)), box(ct.array.shape, (1, 2), (30, 50), (30, 50))
    truth, result = box(ct.array.shape, (3, 4), (30, 50), (30, 50)), box(ct.array.shape, (5, 6), (30, 50), (30, 50))
    panels = comparison_panels(ct, prior, ct, registered, result=result, truth=truth)
    assert [panel.slice_index for panel in panels] == [None, 3, 3, 3]
    assert [contour.label for contour in panels[-1].contours] == ["result", "truth"]
    assert panels[-1].contours[1].linewidth < panels[-1].contours[0].linewidth
    texts = drawn_texts(monkeypatch, tmp_path / "a.png", panels)
    assert "Prior\nS 0.0 mm" in texts
    assert "not on this slice: registered prior contour" in texts
    assert "not on this slice: result" in texts


def test_without_truth_or_result_there_is_no_panel_of_them() -> None:
    ct = volume()
    registered, result = box(ct.array.shape, (1, 2), (3, 5), (3, 5)), box(ct.array.shape, (5, 6), (3, 5), (3, 5))
    assert len(comparison_panels(ct, registered, ct, registered)) == 2
    panels = comparison_panels(ct, registered, ct, registered, result=result)
    assert [panel.slice_index for panel in panels] == [None, 5, 5]
    assert [contour.label for contour in panels[-1].contours] == ["result"]
    none = np.zeros_like(result)
    assert comparison_panels(ct, registered, ct, registered, result=none)[-1].slice_index == 1


def test_each_panel_has_its_own_contours_color(tmp_path: Path) -> None:
    ct = volume()
    mask = box(ct.array.shape, (2, 5), (30, 60), (30, 60))
    shrunk = box(ct.array.shape, (2, 5), (36, 54), (36, 54))
    write_overlay(tmp_path / "a.png", comparison_panels(ct, mask, ct, mask, result=shrunk, truth=mask))
    image = read(tmp_path / "a.png")
    colors = [overlay.PRIOR_COLOR, overlay.REGISTERED_COLOR, overlay.TRUTH_COLOR, overlay.RESULT_COLOR]
    for number in range(4):
        counts = [len(places_of(panel_pixels(image, number), color)) for color in colors]
        assert counts[number] > 300
        assert sum(counts) - counts[number] - (counts[2] if number == 3 else 0) == 0
    legend = image[55 + SIDE_PIXELS : 55 + SIDE_PIXELS + 35]
    assert all(len(places_of(legend, color)) > 10 for color in colors)


def test_contours_at_the_border_of_the_image_are_closed(tmp_path: Path) -> None:
    ct = volume((1, 40, 40))
    mask = np.ones((1, 40, 40), dtype=bool)
    write_overlay(tmp_path / "a.png", [Panel("A", ct, [Contour("all", mask, "#FF0000")])], margin_mm=10.0)
    found = places_of(panel_pixels(read(tmp_path / "a.png")), "#FF0000")
    np.testing.assert_allclose([*found.min(axis=0), *found.max(axis=0)], [67, 67, 333, 333], atol=3)


def test_a_lesion_at_the_edge_of_a_large_image_is_shown_without_empty_space(tmp_path: Path) -> None:
    ct = volume((1, 200, 200))
    ct.array[:] = 1000
    mask = box((1, 200, 200), (0, 1), (0, 10), (150, 160))
    write_overlay(tmp_path / "a.png", [Panel("A", ct, [Contour("edge", mask, "#FF0000")])])
    pixels = panel_pixels(read(tmp_path / "a.png"))
    assert pixels[3:-3, 3:-3].mean(axis=-1).max(axis=1).min() > 0.95
    assert pixels[-20:-3, 20:180].mean() > 0.98


def test_a_panel_whose_contour_is_elsewhere_is_centred_on_it_all_the_same(tmp_path: Path) -> None:
    ct = volume((3, 200, 200))
    ct.array[0, 150:160, 30:40] = 1000
    mask = box((3, 200, 200), (2, 3), (150, 160), (30, 40))
    write_overlay(tmp_path / "a.png", [Panel("A", ct, [Contour("elsewhere", mask, "#FF0000")], slice_index=0)])
    pixels = panel_pixels(read(tmp_path / "a.png"))
    assert len(places_of(pixels, "#FF0000")) == 0
    assert pixels[190:210, 190:210].min() > 0.95


def test_the_window_maps_level_to_mid_grey_and_clips_outside(tmp_path: Path) -> None:
    ct = volume((1, 60, 90))
    ct.array[0, :, :30], ct.array[0, :, 30:60], ct.array[0, :, 60:] = -1400, -600, 200
    write_overlay(tmp_path / "a.png", [Panel("A", ct)], window=overlay.LUNG_WINDOW, margin_mm=0.0)
    row = panel_pixels(read(tmp_path / "a.png"))[150].mean(axis=-1)
    assert row[60] == pytest.approx(0.0, abs=0.01)
    assert row[170] == pytest.approx(0.5, abs=0.01)
    assert row[340] == pytest.approx(1.0, abs=0.01)


def test_two_runs_write_the_same_bytes_whatever_the_volumes_are_called(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    ct = volume((3, 60, 60))
    ct.array[:] = rng.integers(-200, 300, ct.array.shape)
    mask = box((3, 60, 60), (1, 2), (20, 40), (20, 40))
    named = replace(ct, name="DOE^JANE", identity=VisitIdentity("MRN-123456", "20240131"))
    for name, shown in (("a.png", ct), ("b.png", ct), ("DOE^JANE.png", named)):
        write_overlay(tmp_path / name, comparison_panels(shown, mask, shown, mask, result=mask))
    contents = [(tmp_path / name).read_bytes() for name in ("a.png", "b.png", "DOE^JANE.png")]
    assert contents[0] == contents[1] == contents[2]
    assert b"tEXt" not in contents[0]
    assert b"tIME" not in contents[0]


def test_the_caption_stands_below_and_says_unreviewed_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Research use only. Unreviewed." in drawn_texts(monkeypatch, tmp_path / "a.png", [Panel("A", volume())])


def test_a_long_caption_is_wrapped_and_not_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    caption = " ".join(f"word{number}" for number in range(60))
    texts = drawn_texts(monkeypatch, tmp_path / "a.png", [Panel("A", volume())], caption=caption)
    lines = [text for text in texts if text.startswith("word")]
    assert len(lines) > 3
    assert " ".join(lines) == caption


@pytest.mark.parametrize("label", ["_GTV", "$GTV_{1}$", r"$\frac{$", "GTV\nnodal", "x" * 300, ""])
def test_any_segment_name_can_be_drawn_and_is_in_the_legend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, label: str
) -> None:
    ct = volume((1, 60, 60))
    mask = box((1, 60, 60), (0, 1), (20, 40), (20, 40))
    panel = Panel(label, ct, [Contour(label, mask, "#FF0000")])
    write_overlay(tmp_path / "a.png", [panel])
    legend = read(tmp_path / "a.png")[55 + SIDE_PIXELS : 55 + SIDE_PIXELS + 35]
    assert len(places_of(legend, "#FF0000")) > 10
    texts = drawn_texts(monkeypatch, tmp_path / "b.png", [panel])
    assert any(text.strip()[:40] == " ".join(label.split())[:40] for text in texts)
    assert max(len(line) for text in texts for line in text.split("\n")) <= 50


def test_holes_and_single_voxels_are_outlined(tmp_path: Path) -> None:
    ct = volume((1, 41, 41))
    ring = box((1, 41, 41), (0, 1), (5, 36), (5, 36)) & ~box((1, 41, 41), (0, 1), (15, 26), (15, 26))
    dot = box((1, 41, 41), (0, 1), (20, 21), (20, 21))
    write_overlay(
        tmp_path / "a.png", [Panel("A", ct, [Contour("r", ring, "#FF0000"), Contour("d", dot, "#00FF00")])], margin_mm=0
    )
    pixels = panel_pixels(read(tmp_path / "a.png"))
    red, green = places_of(pixels, "#FF0000"), places_of(pixels, "#00FF00")
    inner = red[(np.abs(red - 200) < 100).all(axis=1)]
    np.testing.assert_allclose(np.ptp(inner, axis=0), 11 / 31 * 400, atol=6)
    assert len(green) > 10
    np.testing.assert_allclose(green.mean(axis=0), 200, atol=3)


def test_values_that_are_not_finite_are_drawn_black(tmp_path: Path) -> None:
    ct = Volume(np.full((1, 60, 60), 40.0, dtype=np.float32), Grid((1, 60, 60)))
    ct.array[0, 20:40, 20:40] = np.nan
    write_overlay(tmp_path / "a.png", [Panel("A", ct)], margin_mm=0.0)
    pixels = panel_pixels(read(tmp_path / "a.png"))
    assert pixels[180:220, 180:220].max() < 0.05
    assert pixels[60:100, 60:100].mean() == pytest.approx(0.5, abs=0.01)


def bad_calls() -> list[tuple[str, dict[str, Any]]]:
    ct = volume((3, 20, 20))
    good = np.ones((3, 20, 20), dtype=bool)
    return [
        ("no panel", {"panels": []}),
        ("there is no slice 3; the volume has slices 0 to 2", {"panels": [Panel("A", ct, slice_index=3)]}),
        ("there is no slice -1", {"panels": [Panel("A", ct, slice_index=-1)]}),
        ("contour 'GTV'", {"panels": [Panel("A", ct, [Contour("GTV", good[:2], "red")])]}),
        ("contour 'GTV'", {"panels": [Panel("A", ct, [Contour("GTV", good.astype(np.uint8), "red")])]}),
        ("window", {"panels": [Panel("A", ct)], "window": (40.0, 0.0)}),
        ("window", {"panels": [Panel("A", ct)], "window": (float("nan"), 400.0)}),
        ("margin", {"panels": [Panel("A", ct)], "margin_mm": -1.0}),
        ("spacing", {"panels": [Panel("A", volume((3, 20, 20), (0.0, 1.0, 1.0)))]}),
    ]


@pytest.mark.parametrize(("fault", "call"), bad_calls())
def test_what_cannot_be_drawn_is_refused_in_one_line_and_writes_nothing(
    tmp_path: Path, fault: str, call: dict[str, Any]
) -> None:
    with pytest.raises(InputError, match=fault) as caught:
        write_overlay(tmp_path / "a.png", **call)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there_is_an_output_error_that_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"^a\.png: "):
        write_overlay(tmp_path / "absent" / "a.png", [Panel("A", volume())])


def test_drawing_leaves_the_host_applications_plots_alone(tmp_path: Path) -> None:
    code = (
        "import sys, numpy as np\n"
        "from P2SAMSlicerLib import overlay\n"
        "from P2SAMSlicerLib.volume import Volume\n"
        "from P2SAMSlicerLib.geometry import Grid\n"
        "assert 'matplotlib' not in sys.modules\n"
        "ct = Volume(np.zeros((2, 9, 9)), Grid((2, 9, 9)))\n"
        "overlay.write_overlay(sys.argv[1], [overlay.Panel('A', ct, [overlay.Contour('c', ct.array == 0, 'red')])])\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(LIBRARY)}
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.png")], env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "a.png").stat().st_size > 1000
