"""The box-prompted model: what one gets from a MedSAM-like model and a registration, without P2SAM."""

from __future__ import annotations

import numpy as np

from P2SAMSlicerLib.candidates import bounding_box
from P2SAMSlicerLib.clinical import REGION_PIXELS
from P2SAMSlicerLib.contour import separate_lesions
from P2SAMSlicerLib.intensity import WINDOWS, to_rgb
from P2SAMSlicerLib.models.protocol import PromptableModel, PromptSet
from P2SAMSlicerLib.orientation import to_working_frame
from P2SAMSlicerLib.region import region_around
from P2SAMSlicerLib.segment_propagation import SEPARATE_LESIONS_MM
from P2SAMSlicerLib.volume import BoolArray, Volume


def box_contour(model: PromptableModel, followup: Volume, registered: BoolArray, margin_mm: float) -> BoolArray:
    """The model's answers to the boxes of the registered contour, slice by slice, as they are.

    :param registered: the registered prior contour ``(z, y, x)`` on the follow-up's stored grid.
    :param margin_mm: tissue that the region of interest shows around it.
    :returns: ``(z, y, x)`` on the same grid; empty where the registered contour is.
    """
    now, orientation, _ = to_working_frame(followup)
    carried = orientation.to_canonical(registered)
    found = np.zeros_like(carried)
    for lesion in separate_lesions(carried, now.grid, SEPARATE_LESIONS_MM) if carried.any() else ():
        region = region_around(lesion, now.grid, margin_mm, REGION_PIXELS)
        size = (region.pixels, region.pixels)
        for index in np.flatnonzero(lesion.any(axis=(1, 2))):
            shown = region.crop(lesion[index], now.grid, outside=0.0) > 0.5
            if not shown.any():  # thinner than a pixel of the region
                continue
            features = model.encode([to_rgb(region.crop(now.array[index], now.grid), WINDOWS["soft tissue"])])
            decoded = model.decode(features, [PromptSet(box=bounding_box(shown))], size)
            logits = model.upscale(decoded.logits, size)[0, 0].float().cpu().numpy()
            found[index] |= region.place(logits, now.grid, outside=-1.0) > 0
    return orientation.to_stored(found)
