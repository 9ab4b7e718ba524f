"""The findings as a picture: what every method reaches on every case, and how far clinical mode is ahead."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from P2SAMSlicerLib.benchmark import methods as m
from P2SAMSlicerLib.benchmark.findings import AccuracyFindings, Row, caption, groups
from P2SAMSlicerLib.benchmark.statistics import mean

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Okabe and Ito's colours, which people who see few colours can tell apart; one for each kind of change.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000", "#999999")
#: One for each site.
MARKERS = "os^DvP*X"
WIDTH_INCHES, HEIGHT_INCHES, ROW_INCHES, DPI = 13.0, 2.4, 0.42, 110


def write_plot(path: Path, findings: AccuracyFindings) -> None:
    """Draw Dice, volume error and the paired Dice difference of all methods to a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    methods = [method for method in findings.methods if findings.of(method)]
    figure = Figure(figsize=(WIDTH_INCHES, HEIGHT_INCHES + ROW_INCHES * len(methods)), layout="constrained")
    FigureCanvasAgg(figure)
    dice, volume, ahead = figure.subplots(1, 3, sharey=True, width_ratios=(1.3, 1.0, 1.0))
    _dots(dice, findings, methods, "Dice", lambda row: row.metrics.volumetric_dice)
    _dots(volume, findings, methods, "volume error, % of the truth", lambda row: row.metrics.volume_error_percent)
    volume.axvline(0.0, color="0.6", linewidth=0.8, zorder=0)
    _intervals(ahead, findings, methods)
    dice.set_yticks(range(len(methods)), [m.METHODS[method].title for method in methods])
    dice.set_ylim(len(methods) - 0.5, -0.5)
    _legend(figure, findings)
    figure.suptitle(caption(findings.cases), fontsize=9)
    figure.savefig(path, dpi=DPI, metadata={"Software": None})


def _dots(axes: Axes, findings: AccuracyFindings, methods: Sequence[str], title: str, value: Callable[[Row], float]) -> None:
    """A dot for each case and a line at their mean."""
    changes, sites = _looks(findings)
    for place, method in enumerate(methods):
        rows = findings.of(method)
        for number, row in enumerate(rows):
            # Spread a little up and down, so that dots at one place are all seen.
            height = place + 0.5 * ((number + 0.5) / len(rows) - 0.5)
            axes.plot(value(row), height, sites[row.case.site], color=changes[row.case.change], markersize=5, alpha=0.8)
        middle = mean([value(row) for row in rows])
        if math.isfinite(middle):
            axes.plot([middle, middle], [place - 0.34, place + 0.34], color="black", linewidth=1.6)
    axes.set_xlabel(f"{title} (line: mean)")
    axes.grid(axis="x", color="0.9")


def _intervals(axes: Axes, findings: AccuracyFindings, methods: Sequence[str]) -> None:
    """Clinical mode minus each other method, with its interval."""
    axes.axvline(0.0, color="0.6", linewidth=0.8, zorder=0)
    for place, method in enumerate(methods):
        found = findings.dice_difference(m.CLINICAL, method) if method != m.CLINICAL else None
        if found is None:
            continue
        if not math.isnan(found.low):
            axes.plot([found.low, found.high], [place, place], color="black", linewidth=1.2)
        axes.plot(found.mean, place, "o", color="black", markersize=5)
    axes.set_xlabel("Dice of clinical mode minus that of the method\n(95 % bootstrap interval over patients)")
    axes.grid(axis="x", color="0.9")


def _legend(figure: Figure, findings: AccuracyFindings) -> None:
    from matplotlib.lines import Line2D

    changes, sites = _looks(findings)
    shown = [Line2D([], [], color=colour, marker="o", linestyle="", label=change) for change, colour in changes.items()]
    shown += [Line2D([], [], color="0.4", marker=marker, linestyle="", label=site) for site, marker in sites.items()]
    # Below the plots, where it hides no dot.
    figure.legend(handles=shown, fontsize=8, loc="outside lower center", ncols=len(shown), frameon=False)


def _looks(findings: AccuracyFindings) -> tuple[dict[str, str], dict[str, str]]:
    """Colour of each kind of change, marker of each site."""
    changes = groups(findings.cases, lambda case: case.change)
    sites = groups(findings.cases, lambda case: case.site)
    return (
        {change: COLOURS[k % len(COLOURS)] for k, change in enumerate(changes)},
        {site: MARKERS[k % len(MARKERS)] for k, site in enumerate(sites)},
    )
