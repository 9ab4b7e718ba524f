"""Volume, its change and the centroid's shift of every segment, drawn against the day or the visit."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from P2SAMSlicerLib.patient.visit_folder import DONE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Okabe and Ito's colours, which people who see few colours can tell apart, and marks that are told apart without any colour:
#: the plot's own and the sign that stands for it in the text.
LOOKS = (
    ("#0072B2", "o", "●"),
    ("#D55E00", "s", "■"),
    ("#009E73", "^", "▲"),
    ("#CC79A7", "D", "◆"),
    ("#56B4E9", "v", "▼"),
    ("#000000", "P", "✚"),
)
WIDTH_INCHES, HEIGHT_INCHES, DOTS_PER_INCH = 11.0, 3.5, 130


@dataclass(frozen=True)
class TrendPoint:
    """A segment on one visit.

    :param place: day or number of the visit.
    :param volume_ml: as reviewed if it was accepted, else as the tool drew it; None without a contour.
    :param accepted: a person stands for it: the prior's contour, or one that a reviewer accepted.
    """

    place: float
    volume_ml: float | None
    change_percent: float | None
    shift_mm: float | None
    accepted: bool


@dataclass(frozen=True)
class TrendPlot:
    """One picture of up to six segments.

    :param key: colour, sign and name of each; names never get into the picture.
    """

    png: bytes
    key: tuple[tuple[str, str, str], ...]
    alternative: str


def trend_plots(content: Mapping[str, Any]) -> tuple[TrendPlot, ...]:
    """The plots of a report.

    :param content: see :func:`P2SAMSlicerLib.report.report_content.report_content`.
    """
    by_day = _by_day(content)
    failed = [_place(visit, by_day) for visit in content["visits"] if visit["outcome"] != DONE]
    series = trends(content)
    names = list(series)
    plots = []
    for first in range(0, len(names), len(LOOKS)):
        chosen = names[first : first + len(LOOKS)]
        png = _draw([series[name] for name in chosen], [place for place in failed if place is not None], by_day)
        key = tuple((color, sign, name) for (color, _, sign), name in zip(LOOKS, chosen, strict=False))
        axis = "days since the first visit" if by_day else "visit"
        alternative = (
            f"Three plots against {axis}: volume in ml, change of the volume in percent, length of the centroid shift in mm."
            " The figures stand in the summary table."
        )
        plots.append(TrendPlot(png, key, alternative))
    return tuple(plots)


def trends(content: Mapping[str, Any]) -> dict[str, list[TrendPoint]]:
    """The points of every segment, the prior first."""
    by_day = _by_day(content)
    prior = content["prior"]
    begin = _place(prior, by_day)
    found: dict[str, list[TrendPoint]] = {}
    for each in prior["segments"]:
        found[each["name"]] = [TrendPoint(1.0 if begin is None else begin, each["volume_ml"], 0.0, 0.0, True)]
    for visit in content["visits"]:
        place = _place(visit, by_day)
        for each in visit["segments"]:
            if place is not None:
                found.setdefault(each["segment"], []).append(_point(each, place))
    return found


def _point(segment: Mapping[str, Any], place: float) -> TrendPoint:
    review, shift = segment["review"], segment["centroid_shift_mm"]
    volume = segment["volume_ml"]
    if review["accepted"] and review["volume_after_ml"] is not None:
        volume = review["volume_after_ml"]
    length = None if shift is None else float(sum(value * value for value in shift) ** 0.5)
    return TrendPoint(place, volume, segment["change_from_prior_percent"], length, bool(review["accepted"]))


def _by_day(content: Mapping[str, Any]) -> bool:
    """Whether every visit's day is known."""
    return all(visit["day"] is not None for visit in (content["prior"], *content["visits"]))


def _place(visit: Mapping[str, Any], by_day: bool) -> float | None:
    if by_day:
        return float(visit["day"])
    number = visit.get("number")
    label = str(visit["label"]).rpartition("_")[2]
    return float(number) if number is not None else float(label) if label.isdigit() else None


def _draw(series: Sequence[Sequence[TrendPoint]], failed: Sequence[float], by_day: bool) -> bytes:
    """Three plots side by side."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    figure = Figure(figsize=(WIDTH_INCHES, HEIGHT_INCHES), dpi=DOTS_PER_INCH, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    volume, change, shift = figure.subplots(1, 3)
    for axes, title, name in (
        (volume, "Volume, ml", "volume_ml"),
        (change, "Change from the prior, %", "change_percent"),
        (shift, "Centroid shift, mm", "shift_mm"),
    ):
        for points, (color, marker, _) in zip(series, LOOKS, strict=False):
            _line(axes, [(each.place, getattr(each, name), each) for each in points], color, marker)
        places = [each.place for points in series for each in points]
        _axes(axes, title, [*places, *failed], by_day)
        for place in failed:
            axes.axvline(place, color="0.45", linestyle=":", linewidth=1.4)
            axes.annotate(
                "failed", (place, 0.97), xycoords=("data", "axes fraction"), rotation=90, ha="right", va="top", fontsize=8
            )
    change.axhline(0.0, color="0.6", linewidth=0.8, zorder=0)
    for axes in (volume, shift):
        axes.set_ylim(bottom=0.0)
    marks = [
        Line2D([], [], color="0.3", marker="o", linestyle="", label="prior, or accepted by a reviewer"),
        Line2D([], [], color="0.3", marker="o", markerfacecolor="white", linestyle="", label="unreviewed"),
        Line2D([], [], color="0.3", marker="x", linestyle="", label="no contour"),
    ]
    figure.legend(handles=marks, fontsize=8, loc="outside lower center", ncols=len(marks), frameon=False)
    content = io.BytesIO()
    figure.savefig(content, format="png", metadata={"Software": None})
    return content.getvalue()


def _line(axes: Axes, points: Sequence[tuple[float, float | None, TrendPoint]], color: str, marker: str) -> None:
    """One segment's points; the line has a gap where there is no contour."""
    # A figure that is not there is a gap, which matplotlib makes of NaN.
    axes.plot(
        [place for place, _, _ in points], [float("nan") if y is None else y for _, y, _ in points], color=color, linewidth=1.3
    )
    for place, value, point in points:
        if value is None:
            axes.plot(place, 0.03, "x", color=color, transform=axes.get_xaxis_transform(), markersize=7, clip_on=False)
        else:
            face = color if point.accepted else "white"
            # Whole where it lies on an axis, as a shift of zero does.
            looks: dict[str, Any] = {"color": color, "markerfacecolor": face, "markersize": 6.5, "markeredgewidth": 1.5}
            axes.plot(place, value, marker, **looks, clip_on=False, zorder=3)


def _axes(axes: Axes, title: str, places: Sequence[float], by_day: bool) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_title(title, fontsize=10)
    axes.set_xlabel("days since the first visit" if by_day else "visit", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(color="0.9")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    low, high = min(places, default=0.0), max(places, default=1.0)
    room = 0.06 * (high - low) or 0.5
    axes.set_xlim(low - room, high + room)
