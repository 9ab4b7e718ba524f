"""What every reader of a result has to know of how it was made, and what is no objection to it."""

from __future__ import annotations

from P2SAMSlicerLib.contour import BLEND_LIMIT_MM, EXPECTED_WEIGHT
from P2SAMSlicerLib.models.protocol import ModelCard
from P2SAMSlicerLib.options import PropagationOptions

#: Sites of the benchmark's cases, see the README. A contour's name does not tell its site reliably, so every run says this.
MEASURED_SITES = "soft-tissue sarcomas and lung tumours"


def method_notes(card: ModelCard, options: PropagationOptions) -> tuple[str, ...]:
    """Notes on one run, in words; they flag nothing.

    :param card: of the model that was asked.
    """
    if options.mode == "paper":
        return ("paper mode looks at the slices of the registered contour only, so growth beyond its ends is not found",)
    notes = []
    if "points" not in card.trained_prompts:
        notes.append(f"{card.id} was not trained with points, so P2SAM's points are always combined with a box")
    expected, exception = "expected contour", "; a registered contour that was preferred to it stays where it is"
    if options.modality != "ct":
        notes.append("a CBCT's values are not compared with the prior's: the registered contour stands for the expected one")
        expected, exception = "registered contour", ""
    notes.append(
        f"the written border lies between the chosen candidate and the {expected} (weight of the latter "
        f"{EXPECTED_WEIGHT:g}), at most {BLEND_LIMIT_MM:g} mm from the candidate{exception}"
    )
    notes.append("distance, score, predicted IoU and the signals of a slice describe the chosen candidate")
    notes.append(
        f"accuracy was measured with the default model on simulated second CTs of {MEASURED_SITES} only; nothing is known of it"
        " elsewhere"
    )
    return tuple(notes)
