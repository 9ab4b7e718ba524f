"""Paper mode on a visit: the authors' steps on whole slices, one slice pair at a time.

The authors pair slices by their distance from the middle of the contoured range on both visits. A clinic has no contour on
the follow-up, so that range comes from the registered prior contour - the one thing that differs from the paper.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from P2SAMSlicerLib.clinical import LesionContour, LesionSlice, Step
from P2SAMSlicerLib.intensity import GreyScale, Window, to_rgb
from P2SAMSlicerLib.models.protocol import PromptableModel
from P2SAMSlicerLib.options import PropagationOptions
from P2SAMSlicerLib.prompts import Reference, fit_parts
from P2SAMSlicerLib.segmentation import PRESETS, PaperOptions, segment_with_reference
from P2SAMSlicerLib.volume import BoolArray, Volume


def paper_options(options: PropagationOptions) -> PaperOptions:
    """The search range: positives 1..N, negatives from the smallest to the largest number asked for."""
    return replace(
        PRESETS["ct_unadapted"],
        positive=(1, options.parts),
        negative=(min(options.negative_counts), max(options.negative_counts)),
        seed=options.seed,
    )


def paired_slice(position: int, followup_count: int, prior_count: int) -> int:
    """Prior slice for a follow-up slice, both counted within their contoured range: equal distance from the middle, clamped."""
    return int(np.clip(position - followup_count // 2 + prior_count // 2, 0, prior_count - 1))


def segment_in_paper_mode(
    model: PromptableModel,
    prior: Volume,
    lesion: BoolArray,
    followup: Volume,
    carried: BoolArray,
    windows: tuple[Window, Window],
    options: PropagationOptions,
    step: Step,
) -> LesionContour:
    """Segment every slice of the carried contour's range by itself.

    :param carried: the registered prior contour on the follow-up's grid; only its range of slices is used.
    :param windows: windows of the prior's and of the follow-up's images.
    """
    search = paper_options(options)
    prior_slices = np.flatnonzero(lesion.any(axis=(1, 2)))
    present = np.flatnonzero(carried.any(axis=(1, 2)))
    indices = range(int(present[0]), int(present[-1]) + 1)
    sources = [int(prior_slices[paired_slice(each, len(indices), len(prior_slices))]) for each in range(len(indices))]
    # Slices of both visits count: the references are half of the work.
    total = len(set(sources)) + len(indices)
    references: dict[int, Reference] = {}
    for source in dict.fromkeys(sources):
        image = to_rgb(prior.array[source], windows[0])
        references[source] = Reference.from_image(model, image, lesion[source], options.seed)
        step("segment", len(references), total)
    fit_parts(list(references.values()), *(range(low, high + 1) for low, high in (search.positive, search.negative)))
    greys = GreyScale(windows[1])
    mask = np.zeros(followup.grid.shape, dtype=bool)
    slices = []
    for position, (index, source) in enumerate(zip(indices, sources, strict=True)):
        result = segment_with_reference(model, references[source], greys.image(followup.array[index]), search)
        mask[index] = result.best.mask
        slices.append(
            LesionSlice(index, result.candidates, result.chosen, {"low predicted IoU": _doubt(result.best.predicted_iou)})
        )
        step("segment", len(references) + position + 1, total)
    return LesionContour(mask, tuple(slices), greys=greys)


def _doubt(predicted_iou: float) -> float:
    return float(np.clip(1.0 - predicted_iou, 0.0, 1.0))
