"""Pictures for the report: where contours are most doubtful and at their centre, prior and follow-up side by side.

A picture shows the contours as the tool drew them, and says so. It holds no name and no date; neither does its file's name.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.intensity import percentile_window
from P2SAMSlicerLib.orientation import Orientation, canonical_orientation
from P2SAMSlicerLib.overlay import (
    LUNG_WINDOW,
    PRIOR_COLOR,
    REGISTERED_COLOR,
    RESULT_COLOR,
    SOFT_TISSUE_WINDOW,
    TRUTH_COLOR,
    Contour,
    Panel,
    largest_slice,
    overlay_png,
)
from P2SAMSlicerLib.result import Outcome, SegmentResult, VisitResult
from P2SAMSlicerLib.review import must_be_seen
from P2SAMSlicerLib.volume import BoolArray, Segment, Volume

Why = Literal["central", "most doubtful"]

#: So many of a segment's doubtful slices are shown, the most doubtful first.
MOST_DOUBTFUL = 3
#: What stands in the picture itself, which may be looked at alone.
IN_PICTURE = "Research use only. As the tool drew it, before any review."
IN_EDITED_PICTURE = "Research use only. Result: as the tool drew it, before any review. Thin line: as a person changed it."
#: Of the contour that a person changed.
EDITED_COLOR, EDITED_POINTS = TRUTH_COLOR, 1.0
#: Tissue that is shown around the contours.
MARGIN_MM = 25.0
#: Air in lung and not around the patient; with this share of it around a lesion the lung window shows more.
LUNG_HU = (-960.0, -500.0)
LUNG_SHARE = 0.2
#: A picture is stored with these greys and with its outlines' colours in these shares, which takes a third of the space.
GREYS = 96
SHARES = (0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Picture:
    """One picture of one slice: prior, registered prior contour, and result if there is one.

    :param name: of its file, without the ending ``.png``; unique within a visit.
    :param segment: name of the prior's segment.
    :param slice_index: slice of the follow-up as in :class:`~P2SAMSlicerLib.result.SliceResult`.
    :param position_mm: LPS coordinate of that slice along the patient axis nearest to the slice normal.
    :param why: why this slice is shown.
    :param review_priority: of the slice; None where it was not judged.
    :param caption: what is seen, in words.
    """

    name: str
    png: bytes
    segment: str
    slice_index: int
    position_mm: float
    why: Why
    review_priority: float | None
    caption: str

    def as_dict(self, file: str | None = None) -> dict[str, Any]:
        """Everything but the pixels, for ``visit.json``.

        :param file: where the pixels lie, relative to the visit's folder.
        """
        values = asdict(self)
        del values["png"]
        return values if file is None else {**values, "file": file}


def visit_pictures(
    prior: Volume,
    segments: Sequence[Segment],
    followup: Volume,
    result: VisitResult,
    edited: Mapping[str, BoolArray] | None = None,
) -> tuple[Picture, ...]:
    """Pictures of all segments of a visit: of each the central slice and up to three that are most doubtful.

    :param prior: the CT from which the contours were carried.
    :param segments: on the prior's grid; those of the result are found by name.
    :param followup: the CT on which the result lies.
    :param edited: contours that a person changed, by the segment's name, on the follow-up's grid; drawn as a thin line.
    :returns: in the order of the segments, the most doubtful slice first. A segment of which nothing lies within the follow-up
        has none.
    """
    known = {segment.name: segment for segment in segments}
    view = _Visit.of(prior, followup, result)
    made: list[Picture] = []
    for number, each in enumerate(result.segments, 1):
        source = known.get(each.source.name, each.source)
        masks = _Masks.of(view, source.mask, each, (edited or {}).get(each.source.name))
        made += _segment_pictures(view, masks, each, number)
    return tuple(made)


@dataclass(frozen=True)
class _Visit:
    """Prior and follow-up in canonical order, nothing copied."""

    prior: Volume
    followup: Volume
    prior_orientation: Orientation
    orientation: Orientation
    window: tuple[float, float] | None

    @classmethod
    def of(cls, prior: Volume, followup: Volume, result: VisitResult) -> _Visit:
        """:param result: says whether the follow-up's values are HU."""
        first, second = canonical_orientation(prior.grid), canonical_orientation(followup.grid)
        options = result.provenance.get("options")
        is_ct = not isinstance(options, dict) or options.get("modality", "ct") == "ct"
        return cls(
            Volume(first.canonical_view(prior.array), first.grid),
            Volume(second.canonical_view(followup.array), second.grid),
            first,
            second,
            None if is_ct else _percentiles(followup.array),
        )


def _percentiles(array: NDArray[Any]) -> tuple[float, float]:
    window = percentile_window(array)
    return (window.low + window.high) / 2, window.high - window.low


@dataclass(frozen=True)
class _Masks:
    """Contours of one segment in canonical order: on the prior, registered, as the tool drew it, as a person changed it."""

    prior: BoolArray
    registered: BoolArray
    drawn: BoolArray | None
    edited: BoolArray | None

    @classmethod
    def of(cls, view: _Visit, prior: BoolArray, result: SegmentResult, edited: BoolArray | None) -> _Masks:
        """:param edited: on the follow-up's stored grid."""
        turned = [None if each is None else view.orientation.canonical_view(each) for each in (result.mask, edited)]
        registered = view.orientation.canonical_view(result.registered_mask)
        return cls(view.prior_orientation.canonical_view(prior), registered, *turned)

    @property
    def shown(self) -> BoolArray:
        """What the pictures are about."""
        return self.registered if self.drawn is None else self.drawn


def _segment_pictures(view: _Visit, masks: _Masks, result: SegmentResult, number: int) -> list[Picture]:
    """Pictures of one segment."""
    if not masks.shown.any():
        return []
    central = _central_slice(masks.shown)
    doubtful = [view.orientation.canonical_slice_index(index) for index in must_be_seen(result.slices)[:MOST_DOUBTFUL]]
    window = _window(view, masks.shown)
    made = []
    for z in dict.fromkeys([*doubtful, central]):
        if not 0 <= z < masks.shown.shape[0]:
            continue  # recorded on another volume; nothing can be shown of it
        why: Why = "most doubtful" if z in doubtful else "central"
        made.append(_picture(view, masks, result, number, z, why, z == central, window))
    return made


def _picture(
    view: _Visit,
    masks: _Masks,
    result: SegmentResult,
    number: int,
    z: int,
    why: Why,
    is_central: bool,
    window: tuple[float, float],
) -> Picture:
    """One slice, side by side."""
    prior_z, matched = _prior_slice(view, masks.prior, masks.registered if masks.registered.any() else masks.drawn, z)
    index = view.orientation.stored_slice_index(z)
    priorities = [each.review_priority for each in result.slices if each.index == index]
    priority = max(priorities, default=None)
    words = IN_PICTURE if masks.edited is None else IN_EDITED_PICTURE
    return Picture(
        name=f"segment_{number}_slice_{index:04d}",
        png=_small(overlay_png(_panels(view, masks, z, prior_z), words, window, MARGIN_MM)),
        segment=result.source.name,
        slice_index=index,
        position_mm=_position_mm(view.followup.grid, z),
        why=why,
        review_priority=priority,
        caption=_caption(view, result, (z, prior_z), why, is_central, priority, matched, window),
    )


def _panels(view: _Visit, masks: _Masks, z: int, prior_z: int) -> list[Panel]:
    """Prior; follow-up with the registered prior contour; follow-up with the result, if there is one."""
    registered = Contour("registered prior contour", masks.registered, REGISTERED_COLOR)
    panels = [
        Panel("Prior", view.prior, [Contour("prior contour", masks.prior, PRIOR_COLOR)], prior_z),
        Panel("Follow-up, registered prior contour", view.followup, [registered], z),
    ]
    outlines = [] if masks.drawn is None else [Contour("result", masks.drawn, RESULT_COLOR)]
    if masks.edited is not None:
        outlines.append(Contour("as a person changed it", masks.edited, EDITED_COLOR, EDITED_POINTS))
    if outlines:
        title = "Follow-up, result" if masks.drawn is not None else "Follow-up, as a person changed it"
        panels.append(Panel(title, view.followup, outlines, z))
    return panels


def _caption(
    view: _Visit,
    result: SegmentResult,
    places: tuple[int, int],
    why: Why,
    is_central: bool,
    priority: float | None,
    matched: bool,
    window: tuple[float, float],
) -> str:
    z, prior_z = places
    words = "central slice" if why == "central" else "one of the most doubtful slices"
    if why != "central" and is_central:
        words += ", and the central one"
    judged = "not judged slice by slice" if priority is None else f"review priority {priority:.2f}"
    how = "the slice at the same relative place within the contour" if matched else "the slice with the largest contour"
    nothing = "; no contour was made, so only the registered prior contour is shown" if result.mask is None else ""
    if result.outcome is Outcome.REGISTRATION_ONLY:
        nothing = "; no model was asked, so only the registered prior contour is shown"
    index = view.orientation.stored_slice_index(z)
    return (
        f"Follow-up slice {index} at {_place(view.followup.grid, z)}, {words} ({judged}){nothing}."
        f" Prior: {how}, at {_place(view.prior.grid, prior_z)}; it is not matched through the registration."
        f" Window: level {window[0]:.0f}, width {window[1]:.0f}."
    )


def _central_slice(mask: BoolArray) -> int:
    """The slice nearest to the middle of the contour's volume that holds some of it."""
    areas = mask.sum(axis=(1, 2))
    present = np.flatnonzero(areas)
    middle = int(np.searchsorted(np.cumsum(areas), areas.sum() / 2))
    return int(present[np.argmin(np.abs(present - middle))])


def _prior_slice(view: _Visit, on_prior: BoolArray, reference: BoolArray | None, z: int) -> tuple[int, bool]:
    """The slice of the prior to show, and whether it lies at the same relative place within the contour.

    The contour's first slice is carried to its first, its last to its last. Where the visits' slices run along different axes
    of the patient, that means nothing, and the largest is shown.
    """
    ours, theirs = _normal_axis(view.followup.grid), _normal_axis(view.prior.grid)
    there = np.flatnonzero(on_prior.any(axis=(1, 2)))
    here = np.flatnonzero(reference.any(axis=(1, 2))) if reference is not None else there[:0]
    if ours != theirs or not len(there) or len(here) < 2:
        return largest_slice(on_prior), False
    share = min(1.0, max(0.0, (z - here[0]) / (here[-1] - here[0])))
    wanted = there[0] + share * (there[-1] - there[0])
    return int(there[np.argmin(np.abs(there - wanted))]), True


def _window(view: _Visit, mask: BoolArray) -> tuple[float, float]:
    """Level and width by what lies around the contour."""
    if view.window is not None:
        return view.window
    box = []
    spacing = view.followup.grid.spacing_zyx
    for axis in range(3):
        inside = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        beyond = round(MARGIN_MM / 2 / spacing[axis])
        box.append(slice(max(0, int(inside[0]) - beyond), int(inside[-1]) + beyond + 1))
    values = view.followup.array[tuple(box)][~mask[tuple(box)]]
    in_lung = (values > LUNG_HU[0]) & (values < LUNG_HU[1])
    return LUNG_WINDOW if values.size and in_lung.mean() >= LUNG_SHARE else SOFT_TISSUE_WINDOW


def _normal_axis(grid: Grid) -> int:
    """Patient axis (0 left, 1 posterior, 2 superior) nearest to the slices' normal."""
    return int(np.argmax(np.abs(grid.direction_matrix[:, 2])))


def _position_mm(grid: Grid, z: int) -> float:
    """LPS coordinate of a canonical slice's centre along that axis."""
    _, rows, columns = grid.shape
    centre = grid.to_physical(np.array([[(columns - 1) / 2, (rows - 1) / 2, z]]))[0]
    return float(centre[_normal_axis(grid)])


def _place(grid: Grid, z: int) -> str:
    """Where a slice lies, for example ``S -12.5 mm``; as the picture's own title says it."""
    return f"{'LPS'[_normal_axis(grid)]} {round(_position_mm(grid, z), 1) + 0.0:.1f} mm"


def _small(png: bytes) -> bytes:
    """The same picture with few colours, each pixel with the nearest."""
    from PIL import Image

    with Image.open(io.BytesIO(png)) as image:
        pixels = np.asarray(image.convert("RGB"), dtype=np.int32)
    palette = np.array(_palette(), dtype=np.int32)
    grey = (pixels == pixels[..., :1]).all(axis=-1)
    nearest = _nearest(np.repeat(np.arange(256)[:, None], 3, axis=1), palette)[pixels[..., 0]]
    # Few pixels are no greys, and most of these have the same colours.
    colors, place = np.unique(pixels[~grey], axis=0, return_inverse=True)
    nearest[~grey] = _nearest(colors, palette)[place.reshape(-1)]
    few = Image.fromarray(nearest)
    few.putpalette([int(value) for color in palette for value in color])
    content = io.BytesIO()
    few.save(content, format="png", optimize=True)
    return content.getvalue()


def _nearest(colors: NDArray[np.integer], palette: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Number of the palette's colour that is nearest to each of ``colors`` ``(n, 3)``."""
    nearest: NDArray[np.uint8] = ((colors[:, None] - palette[None]) ** 2).sum(axis=-1).argmin(axis=1).astype(np.uint8)
    return nearest


def _palette() -> list[tuple[int, ...]]:
    """Greys, and the outlines' colours as they are and as they blend with black and white at their rims."""
    colors: list[tuple[int, ...]] = [(round(255 * k / (GREYS - 1)),) * 3 for k in range(GREYS)]
    for color in (PRIOR_COLOR, REGISTERED_COLOR, RESULT_COLOR, EDITED_COLOR):
        red, green, blue = (int(color[k : k + 2], 16) for k in (1, 3, 5))
        for share in SHARES:
            for other in (0, 255):
                colors.append(tuple(round(share * value + (1 - share) * other) for value in (red, green, blue)))
    return colors
