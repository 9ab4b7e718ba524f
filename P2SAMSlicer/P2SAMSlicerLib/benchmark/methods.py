"""The methods that are compared, each defined; the order is that of the tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from P2SAMSlicerLib.errors import InputError

COPY, RIGID, ELASTIX = "copy", "rigid", "elastix"
REGISTERED, BOX = "registered", "box"
PERSAM, FIXED, RETRIEVAL = "persam", "p2sam-fixed", "p2sam-retrieval"
PAPER, CLINICAL = "paper", "clinical"


@dataclass(frozen=True)
class Method:
    """One way to get a contour on the follow-up.

    :param id: as on the command line.
    :param title: for tables.
    :param definition: what exactly it does, in a sentence.
    """

    id: str
    title: str
    definition: str


METHODS = {
    method.id: method
    for method in (
        Method(COPY, "copy", "the prior contour at the scanner's coordinates, without registration"),
        Method(
            RIGID, "rigid (elastix)", "prior contour moved by the first stage of the next method; its time is not told apart"
        ),
        Method(
            ELASTIX,
            "elastix B-spline",
            "itk-elastix, default rigid and B-spline maps, 4 resolutions, 12 mm grid, nearest neighbour contour",
        ),
        Method(REGISTERED, "own registered contour", "the prior contour moved by P2SAMSlicer's own registration"),
        Method(
            BOX,
            "box-prompted model",
            "on each slice the model's answer to the box of the own registered contour, in its region of interest",
        ),
        Method(
            PERSAM,
            "PerSAM (one part)",
            "on each slice of the registered contour the model's answer to one part's point and the background points, in the"
            " region of interest; with the box where the model was not trained with points",
        ),
        Method(
            FIXED,
            "P2SAM without retrieval",
            "as PerSAM, with the largest number of parts that clinical mode tries, on every slice",
        ),
        Method(
            RETRIEVAL,
            "P2SAM with retrieval",
            "as PerSAM, with the number of parts whose answer has the smallest distribution distance, slice by slice",
        ),
        Method(PAPER, "P2SAM paper mode", "p2sam propagate --mode paper: the authors' steps on whole slices"),
        Method(CLINICAL, "clinical mode", "p2sam propagate: the product's default; without a contour if it gives none"),
    )
}

NEED_ELASTIX = frozenset({RIGID, ELASTIX})
#: These come out of one run of clinical mode: its registration, its candidates, its contour.
FROM_CLINICAL_RUN = frozenset({REGISTERED, BOX, PERSAM, FIXED, RETRIEVAL, CLINICAL})


def selected(ids: Sequence[str]) -> list[str]:
    """Methods in the order of the tables; all if none is named.

    :raises InputError: an unknown one.
    """
    for each in ids:
        if each not in METHODS:
            raise InputError(f"--method: '{each}' is none of {', '.join(METHODS)}")
    return [each for each in METHODS if not ids or each in ids]
