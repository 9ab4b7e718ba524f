"""Draws P2SAMSlicer.png, the extension's icon: the prior CT behind, the follow-up in front with its contour and prompt points.

    python Testing/draw_icon.py [FILE]

Without FILE it is written to the root and to the module's own icons.

Draws on a square from 0 to 128 with y upwards. Few, thick shapes, because Slicer shows the icon as small as 24 pixels.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIDE = 128
INK = "#10202b"
BODY = "#7f95a3"
PRIOR = "#5fc8ff"
FOLLOW_UP = "#ffc61a"
POINT = "#ff4d3d"

#: The contour in polar form about its centre: radius as a sum of cosines, lobed like a tumour and not like a circle.
LOBES = ((1, 0.10, 0.4), (2, 0.14, 1.1), (3, 0.09, 2.6))


def contour(centre: tuple[float, float], radius: float) -> tuple[list[float], list[float]]:
    """A closed lobed outline, as x and y."""
    angle = np.linspace(0.0, 2.0 * np.pi, 181)
    scale = 1.0 + sum(height * np.cos(order * angle - phase) for order, height, phase in LOBES)
    return (centre[0] + radius * scale * np.cos(angle)).tolist(), (centre[1] + radius * scale * np.sin(angle)).tolist()


def draw_slice(axes: Axes, corner: tuple[float, float], line: str, fill: str) -> tuple[float, float]:
    """One CT slice: a dark plate, a grey body, a contour. Returns the contour's centre."""
    from matplotlib.patches import Ellipse, FancyBboxPatch

    x, y = corner
    plate = FancyBboxPatch((x + 10, y + 10), 68, 68, boxstyle="round,pad=9,rounding_size=12")
    plate.set(facecolor=INK, edgecolor="white", linewidth=4)
    axes.add_patch(plate)
    axes.add_patch(Ellipse((x + 44, y + 44), 74, 62, facecolor=BODY))
    centre = (x + 46.0, y + 45.0)
    axes.fill(*contour(centre, 22), facecolor=fill, edgecolor=line, linewidth=7, joinstyle="round")
    return centre


def draw(path: Path) -> None:
    """Write the icon, 128 x 128 pixels with a transparent ground."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(SIDE / 72, SIDE / 72), dpi=72)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, SIDE), ylim=(0, SIDE))
    axes.set_axis_off()
    draw_slice(axes, (2, 38), PRIOR, "none")
    x, y = draw_slice(axes, (38, 2), FOLLOW_UP, INK)
    axes.scatter([x - 9, x + 3, x + 10], [y - 1, y - 9, y + 6], s=52, color=POINT, zorder=3)
    figure.savefig(path, transparent=True, metadata={"Software": None})


if __name__ == "__main__":
    root = Path(__file__).resolve().parents[1]
    usual = [root / "P2SAMSlicer.png", root / "P2SAMSlicer" / "Resources" / "Icons" / "P2SAMSlicer.png"]
    for target in [Path(name) for name in sys.argv[1:2]] or usual:
        draw(target)
