"""Weights between the base's and the trained ones: what the base could do is kept, at little cost of what was learned.

Fine-tuning on few patients takes away from what a model could do elsewhere; the weights half way between both lose less of
either than the mean of their answers would suggest (Wortsman et al., Robust fine-tuning of zero-shot models, CVPR 2022).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from P2SAMSlicerLib.models.lora import PREFIX

if TYPE_CHECKING:
    import torch

#: Ending of the LoRA factor that is zero where nothing was learned.
SECOND_FACTOR = ".b"


def interpolate(learned: Mapping[str, torch.Tensor], base: Mapping[str, torch.Tensor], share: float) -> None:
    """Move what was learned, in place, towards the base.

    :param learned: by the names that the adapter gives them; LoRA factors change the base by their product.
    :param base: the base's weights by the same names.
    :param share: of the way from the base to what was learned; 1 changes nothing.
    """
    import torch

    with torch.no_grad():
        for name, tensor in learned.items():
            if name.startswith(PREFIX):
                if name.endswith(SECOND_FACTOR):
                    tensor.mul_(share)
            else:
                tensor.lerp_(base[name].to(tensor), 1.0 - share)
