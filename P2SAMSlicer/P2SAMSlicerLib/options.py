"""What the user may choose when a contour is carried to a follow-up; every default is the recommended one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.registration import CARRY_MARGIN_MM

Mode = Literal["clinical", "paper"]
RegistrationChoice = Literal["deformable", "rigid", "none", "file"]
ModalityChoice = Literal["ct", "cbct"]

#: Longest margin and plausible distance that mean anything in a body, mm.
LONGEST_MM = 500.0
#: Parts and negative points by mode. Paper mode: the authors' range on CT with a SAM that was not adapted (appendix C, table
#: 10). Clinical mode: the box tells more than points do, and every candidate costs a decode.
USUAL_PARTS: dict[str, int] = {"clinical": 5, "paper": 2}
USUAL_NEGATIVES: dict[str, tuple[int, ...]] = {"clinical": (1,), "paper": (45,)}


@dataclass(frozen=True)
class PropagationOptions:
    """Options of :func:`P2SAMSlicerLib.propagation.propagate`.

    :param mode: ``clinical`` (registration, region of interest, location prior, 3-D) or ``paper`` (the authors' steps on
        whole slices; slice pairing comes from the registered extent because a clinic has no follow-up contour).
    :param registration: ``deformable`` (rigid, then a local displacement around the lesion), ``rigid``, ``none`` (trust the
        scanners' coordinates) or ``file``.
    :param transform_file: follow-up to prior transform in LPS, for ``file``.
    :param modality: ``ct``, or ``cbct`` (percentile window; the visit is always flagged).
    :param max_parts: largest number of parts N in the 1..N search (section 3.2); None for :data:`USUAL_PARTS`.
    :param negatives: numbers of negative points to try, each 0 or more; None for :data:`USUAL_NEGATIVES`.
    :param margin_mm: tissue that the region of interest shows around the propagated contour.
    :param plausible_mm: points farther than this from the propagated contour are rejected, and no contour may leave it.
    :param registration_only: names of structures that no model is asked for, besides margins and organs
        (:mod:`P2SAMSlicerLib.structure_role`).
    :param with_model: names of structures that a model is asked for although they are called as margins or organs are.
    :param seed: of every random choice.
    :param allow_other_patient: carry on although the two CTs name different patients; recorded in the result.
    :param allow_older_followup: carry on although the follow-up is older than the prior; recorded in the result.
    """

    mode: Mode = "clinical"
    registration: RegistrationChoice = "deformable"
    transform_file: Path | None = None
    modality: ModalityChoice = "ct"
    max_parts: int | None = None
    negatives: tuple[int, ...] | None = None
    margin_mm: float = 25.0
    plausible_mm: float = 15.0
    registration_only: tuple[str, ...] = ()
    with_model: tuple[str, ...] = ()
    seed: int = 0
    allow_other_patient: bool = False
    allow_older_followup: bool = False

    @property
    def parts(self) -> int:
        """Largest number of parts that is tried."""
        return USUAL_PARTS[self.mode] if self.max_parts is None else self.max_parts

    @property
    def negative_counts(self) -> tuple[int, ...]:
        """Numbers of negative points that are tried."""
        return USUAL_NEGATIVES[self.mode] if self.negatives is None else self.negatives

    def check_names(self, names: Sequence[str]) -> None:
        """Refuse the name of a structure that is not carried: a slip of the pen must not decide how an organ is drawn.

        :param names: of the structures that are carried.
        :raises InputError: names the one that is not there, and those that are.
        """
        for name in (*self.registration_only, *self.with_model):
            if name not in names:
                raise InputError(f"no segment named '{name}' is carried; there are: {', '.join(names)}")

    def check(self) -> None:
        """Refuse options that contradict themselves.

        :raises InputError: names the option and the fault.
        """
        for name, known in (("mode", Mode), ("registration", RegistrationChoice), ("modality", ModalityChoice)):
            if getattr(self, name) not in get_args(known):
                raise InputError(f"{name}: '{getattr(self, name)}' is none of {', '.join(get_args(known))}")
        if self.parts < 1:
            raise InputError(f"parts: {self.parts} is less than 1")
        if not self.negative_counts or min(self.negative_counts) < 0:
            raise InputError(f"negatives: {self.negative_counts} must be numbers of at least 0")
        for option, length in (("margin-mm", self.margin_mm), ("plausible-mm", self.plausible_mm)):
            if not 0 < length < LONGEST_MM:
                raise InputError(f"{option}: {length:g} is not a length above 0 and below {LONGEST_MM:g} mm")
        if self.plausible_mm > CARRY_MARGIN_MM:
            raise InputError(f"plausible-mm: {self.plausible_mm:g} is more than {CARRY_MARGIN_MM:g} mm, where the search ends")
        for name in self.registration_only:
            if name in self.with_model:
                raise InputError(f"segment '{name}': either with the model or by registration only")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"seed: {self.seed} is not within 0 to 2**32 - 1")
        if (self.registration == "file") != (self.transform_file is not None):
            raise InputError("registration: 'file' needs a transform file, and only 'file' takes one")
