"""A picture of contours on CT slices, side by side, for the demo and for reports.

Drawn with matplotlib's object interface alone, so that nothing of a host application's plots changes. A picture shows what the
caller names and positions in millimetres; the volumes' names and identities never reach it.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.atomic_file import atomic_write
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.volume import BoolArray, Volume

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patheffects import AbstractPathEffect

#: Windows as (level, width) in HU.
SOFT_TISSUE_WINDOW = (40.0, 400.0)
LUNG_WINDOW = (-600.0, 1500.0)

#: Colours that remain apart in the common kinds of colour blindness and on grey (Okabe and Ito's palette, without its green).
PRIOR_COLOR = "#E69F00"
REGISTERED_COLOR = "#56B4E9"
TRUTH_COLOR = "#F0E442"
RESULT_COLOR = "#CC79A7"

CAPTION = "Research use only. Unreviewed."

DOTS_PER_INCH = 100
PANEL_INCHES = 4.0
GAP_INCHES = 0.06
TITLE_INCHES = 0.55
LEGEND_INCHES = 0.35
LINE_INCHES = 0.22

#: Width in points of the dark rim around outlines and letters, without which yellow and white vanish on bright tissue.
RIM_POINTS = 1.2

#: Letters that fit across a panel's title; more would run into the next one.
TITLE_LETTERS = 44
CAPTION_LETTERS_PER_PANEL = 62

#: Directions along the L, P and S axes and against them.
_ALONG, _AGAINST = "LPS", "RAI"


@dataclass(frozen=True)
class Contour:
    """One outline.

    :param label: its name in the legend.
    :param mask: True inside, on the volume's grid; an outline appears where the shown slice meets it.
    :param color: any colour that matplotlib knows.
    :param linewidth: in points (1/72 inch).
    """

    label: str
    mask: BoolArray
    color: str
    linewidth: float = 2.0


@dataclass(frozen=True)
class Panel:
    """One slice with its outlines.

    :param title: what is shown; never a patient's name. The slice's position is added.
    :param volume: HU in canonical axis order: axis 0 across slices, rows to posterior, columns to the patient's left, so that
        the patient's left is on the right side of the picture. Letters on the edges say what the grid's directions are.
    :param contours: drawn in order, the last on top.
    :param slice_index: along axis 0; None for the slice on which the outlines together cover most.
    """

    title: str
    volume: Volume
    contours: Sequence[Contour] = ()
    slice_index: int | None = None


def comparison_panels(
    prior: Volume,
    prior_mask: BoolArray,
    followup: Volume,
    registered_mask: BoolArray,
    *,
    result: BoolArray | None = None,
    truth: BoolArray | None = None,
    slice_index: int | None = None,
    prior_slice_index: int | None = None,
) -> list[Panel]:
    """The usual picture: prior; registered prior contour; truth; result with the truth as a thin line.

    :param prior: the prior CT, and ``prior_mask`` its contour, in canonical axis order.
    :param followup: the follow-up CT; the other masks lie on its grid.
    :param result: None where no contour was made: no panel of it.
    :param truth: None where it is not known, as in all clinical use: no panel of it.
    :param slice_index: slice of the follow-up in all its panels; None for that of the largest area of the truth, else of the
        result, else of the registered contour.
    :param prior_slice_index: slice of the prior; None for that of its largest area.
    """
    if slice_index is None:
        known = [mask for mask in (truth, result, registered_mask) if mask is not None and mask.any()]
        slice_index = largest_slice(known[0]) if known else None
    panels = [
        Panel("Prior", prior, [Contour("prior contour", prior_mask, PRIOR_COLOR)], prior_slice_index),
        Panel(
            "Follow-up, registered prior contour",
            followup,
            [Contour("registered prior contour", registered_mask, REGISTERED_COLOR)],
            slice_index,
        ),
    ]
    if truth is not None:
        panels.append(Panel("Follow-up, truth", followup, [Contour("truth", truth, TRUTH_COLOR)], slice_index))
    if result is not None:
        outlines = [Contour("result", result, RESULT_COLOR)]
        if truth is not None:
            outlines.append(Contour("truth", truth, TRUTH_COLOR, linewidth=0.8))
        panels.append(Panel("Follow-up, result", followup, outlines, slice_index))
    return panels


def largest_slice(mask: BoolArray) -> int:
    """Index along axis 0 of the slice with the most voxels; the first of several, the middle slice for an empty mask."""
    areas = mask.sum(axis=(1, 2))
    return int(np.argmax(areas)) if areas.any() else len(areas) // 2


def write_overlay(
    path: Path | str,
    panels: Sequence[Panel],
    caption: str = CAPTION,
    window: tuple[float, float] = SOFT_TISSUE_WINDOW,
    margin_mm: float = 25.0,
) -> None:
    """Write the panels side by side as a PNG; the same input gives the same bytes.

    All panels show the same side length in mm: that of the largest outline with ``margin_mm`` around it, each centred on its
    own outlines. A panel without an outline on its slice is centred on the outlines' voxels on other slices, else on the slice.

    :param path: the file to write, usually ``*.png``; it is a PNG in any case.
    :param panels: at least one.
    :param caption: below the panels; say what the picture is and that nobody has reviewed it.
    :param window: level and width in HU.
    :param margin_mm: tissue to show on each side.
    :raises InputError: no panel, a mask that is not on its volume's grid, a slice that is not there, a window without width.
    :raises OutputError: the file cannot be written.
    """
    content = overlay_png(panels, caption, window, margin_mm)
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


def overlay_png(
    panels: Sequence[Panel],
    caption: str = CAPTION,
    window: tuple[float, float] = SOFT_TISSUE_WINDOW,
    margin_mm: float = 25.0,
) -> bytes:
    """The picture of :func:`write_overlay` as the content of a PNG file.

    :raises InputError: as there.
    """
    _check(panels, window, margin_mm)
    indices = [_slice_index(panel) for panel in panels]
    boxes = [_outline_box(panel, index) for panel, index in zip(panels, indices, strict=True)]
    side_mm = max(float((box[1] - box[0]).max()) for box in boxes) + 2 * margin_mm
    figure = _draw(panels, indices, boxes, side_mm, caption, window)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
    return content.getvalue()


def _draw(
    panels: Sequence[Panel],
    indices: Sequence[int],
    boxes: Sequence[NDArray[np.float64]],
    side_mm: float,
    caption: str,
    window: tuple[float, float],
) -> Figure:
    """Lay the panels, the legend and the caption out on a figure of its own."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    lines = textwrap.wrap(" ".join(caption.split()), CAPTION_LETTERS_PER_PANEL * len(panels))
    width = len(panels) * (PANEL_INCHES + GAP_INCHES) + GAP_INCHES
    below = LEGEND_INCHES + LINE_INCHES * (len(lines) + 0.5)
    height = below + PANEL_INCHES + TITLE_INCHES
    # Whole pixels, and a trace more: matplotlib before 3.11 cuts 1629.9999 dots down to 1629.
    width, height = ((round(inches * DOTS_PER_INCH) + 1e-6) / DOTS_PER_INCH for inches in (width, height))
    figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, facecolor="white")
    FigureCanvasAgg(figure)
    entries: dict[tuple[str, str], Line2D] = {}
    for number, (panel, index, box) in enumerate(zip(panels, indices, boxes, strict=True)):
        left = GAP_INCHES + number * (PANEL_INCHES + GAP_INCHES)
        axes = figure.add_axes((left / width, below / height, PANEL_INCHES / width, PANEL_INCHES / height))
        _draw_panel(axes, panel, index, _view(panel.volume.grid, box, side_mm), window)
        for contour in panel.contours:
            entry = Line2D([], [], color=contour.color, linewidth=contour.linewidth, path_effects=_rim(contour.linewidth))
            entries.setdefault((contour.label, contour.color), entry)
    if entries:
        # A leading space, because matplotlib leaves labels that begin with an underscore out of a legend.
        legend = figure.legend(
            list(entries.values()),
            [" " + _shorten(label) for label, _ in entries],
            loc="center",
            bbox_to_anchor=(0.5, (below - LEGEND_INCHES / 2) / height),
            ncols=len(entries),
            frameon=False,
            fontsize=10,
        )
        for text in legend.get_texts():
            text.set_parse_math(False)
    for number, line in enumerate(lines):
        at = (below - LEGEND_INCHES - LINE_INCHES * (number + 0.5)) / height
        figure.text(0.5, at, line, ha="center", va="center", fontsize=9, color="black", parse_math=False)
    return figure


def _draw_panel(axes: Axes, panel: Panel, index: int, view: NDArray[np.float64], window: tuple[float, float]) -> None:
    """Draw one slice and its outlines in millimetres along the rows and columns of the slice."""
    grid = panel.volume.grid
    (_, rows, columns), (across, down, _) = grid.shape, grid.spacing
    level, width = window
    axes.imshow(
        panel.volume.array[index],
        cmap="gray",
        vmin=level - width / 2,
        vmax=level + width / 2,
        extent=(-0.5 * across, (columns - 0.5) * across, (rows - 0.5) * down, -0.5 * down),
        interpolation="bilinear",
        aspect="equal",
    )
    x, y = (np.arange(columns + 2) - 1) * across, (np.arange(rows + 2) - 1) * down
    for contour in panel.contours:
        # One empty pixel around the slice closes outlines that touch its border.
        mask = np.pad(contour.mask[index], 1)
        if mask.any():
            lines = axes.contour(x, y, mask.astype(float), levels=[0.5], colors=[contour.color], linewidths=[contour.linewidth])
            lines.set_path_effects(_rim(contour.linewidth))
    axes.set_xlim(view[0, 1], view[1, 1])
    axes.set_ylim(view[1, 0], view[0, 0])
    axes.set_facecolor("black")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(f"{_shorten(panel.title)}\n{_position(grid, index)}", fontsize=10, color="black", parse_math=False)
    absent = [contour.label for contour in panel.contours if not contour.mask[index].any()]
    if absent:
        note = _shorten(f"not on this slice: {', '.join(absent)}")
        place = axes.text(0.03, 0.06, note, transform=axes.transAxes, color="white", fontsize=9, parse_math=False)
        place.set_path_effects(_rim())
    _draw_letters(axes, grid)


def _draw_letters(axes: Axes, grid: Grid) -> None:
    """Name the patient directions on the four edges as the grid has them, whatever the caller believes."""
    columns, rows = grid.direction_matrix[:, 0], grid.direction_matrix[:, 1]
    places = ((0.02, 0.5, -columns), (0.98, 0.5, columns), (0.5, 0.98, -rows), (0.5, 0.02, rows))
    for x, y, direction in places:
        horizontal = {0.02: "left", 0.5: "center", 0.98: "right"}[x]
        vertical = {0.02: "bottom", 0.5: "center", 0.98: "top"}[y]
        style: dict[str, Any] = {"color": "white", "fontsize": 10, "ha": horizontal, "va": vertical, "path_effects": _rim()}
        axes.text(x, y, _letter(direction), transform=axes.transAxes, **style)


def _rim(linewidth: float = 0.0) -> list[AbstractPathEffect]:
    """A dark rim around a line of this width in points, or around a letter."""
    from matplotlib.patheffects import Normal, Stroke

    return [Stroke(linewidth=linewidth + RIM_POINTS, foreground="black"), Normal()]


def _letter(direction: NDArray[np.float64]) -> str:
    """The patient direction (L, R, P, A, S or I) that an LPS vector is nearest to."""
    axis = int(np.argmax(np.abs(direction)))
    return (_ALONG if direction[axis] > 0 else _AGAINST)[axis]


def _position(grid: Grid, index: int) -> str:
    """LPS coordinate of the slice's centre along the patient axis nearest the slice normal, for example ``S -12.5 mm``."""
    _, rows, columns = grid.shape
    centre = grid.to_physical(np.array([[(columns - 1) / 2, (rows - 1) / 2, index]]))[0]
    axis = int(np.argmax(np.abs(grid.direction_matrix[:, 2])))
    # Rounded first and plus zero, so that no slice lies at -0.0 mm.
    return f"{_ALONG[axis]} {round(float(centre[axis]), 1) + 0.0:.1f} mm"


def _slice_index(panel: Panel) -> int:
    """The slice to show."""
    if panel.slice_index is not None:
        return panel.slice_index
    covered = np.zeros(panel.volume.grid.shape, dtype=bool)
    for contour in panel.contours:
        covered |= contour.mask
    return largest_slice(covered)


def _outline_box(panel: Panel, index: int) -> NDArray[np.float64]:
    """Corners ``[[top, left], [bottom, right]]`` in mm along rows and columns of what the panel is about."""
    _, rows, columns = panel.volume.grid.shape
    here, anywhere = np.zeros((rows, columns), dtype=bool), np.zeros((rows, columns), dtype=bool)
    for contour in panel.contours:
        here |= contour.mask[index]
        anywhere |= contour.mask.any(axis=0)
    shown = next((mask for mask in (here, anywhere) if mask.any()), np.ones((rows, columns), dtype=bool))
    pixels = np.argwhere(shown)
    across, down, _ = panel.volume.grid.spacing
    return np.array([pixels.min(axis=0) - 0.5, pixels.max(axis=0) + 0.5]) * [down, across]


def _view(grid: Grid, box: NDArray[np.float64], side_mm: float) -> NDArray[np.float64]:
    """The square to show, like the box but of ``side_mm``; moved into the slice where the slice is large enough."""
    _, rows, columns = grid.shape
    across, down, _ = grid.spacing
    sides = np.array([rows * down, columns * across])
    first = np.array([-0.5 * down, -0.5 * across])
    low = box.mean(axis=0) - side_mm / 2
    inside = np.clip(low, first, np.maximum(first, first + sides - side_mm))
    low = np.where(sides >= side_mm, inside, low)
    return np.array([low, low + side_mm])


def _shorten(text: str) -> str:
    """One line that fits across a panel."""
    line = " ".join(text.split())
    return line if len(line) <= TITLE_LETTERS else line[: TITLE_LETTERS - 1] + "…"


def _check(panels: Sequence[Panel], window: tuple[float, float], margin_mm: float) -> None:
    """Refuse what cannot be drawn, before anything is drawn."""
    if not panels:
        raise InputError("overlay: no panel to draw")
    if not (np.isfinite(window).all() and window[1] > 0):
        raise InputError(f"overlay: a window of level {window[0]} and width {window[1]} HU shows nothing")
    if not (np.isfinite(margin_mm) and margin_mm >= 0):
        raise InputError(f"overlay: a margin of {margin_mm} mm is not a distance")
    for panel in panels:
        shape = tuple(panel.volume.grid.shape)
        panel.volume.grid.check("overlay")
        if panel.slice_index is not None and not 0 <= panel.slice_index < shape[0]:
            raise InputError(f"overlay: there is no slice {panel.slice_index}; the volume has slices 0 to {shape[0] - 1}")
        for contour in panel.contours:
            if contour.mask.shape != shape or contour.mask.dtype != np.bool_:
                raise InputError(
                    f"overlay: contour '{contour.label}' ({contour.mask.dtype}, shape {contour.mask.shape}) is no mask"
                    f" on the volume's grid of shape {shape}"
                )
