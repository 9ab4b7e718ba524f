"""What to train, on what, and how."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.models.adapter import SUFFIX

#: A wider margin shows more than any body.
LARGEST_MARGIN_MM = 500.0

#: The model that the shipped adapter, too, was made from.
USUAL_BASE = "lite_medsam"

Method = Literal["decoder", "lora", "full"]
METHODS: tuple[Method, ...] = get_args(Method)
Precision = Literal["float32", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


@dataclass(frozen=True)
class AdaptationOptions:
    """Options of a training.

    :param train: folder of training cases, see :mod:`P2SAMSlicerLib.adaptation.annotated_ct`.
    :param out: adapter file to write.
    :param base: id of the model to adapt.
    :param checkpoint: weights file of the base, if it is not the catalogue's own.
    :param method: ``decoder``: prompt encoder and mask decoder, on features that are computed once; ``lora``: these and
        low-rank factors on the encoder's attention; ``full``: everything.
    :param rank: of LoRA.
    :param iterations: rounds of correction after the first answer of each step; the paper has 10.
    :param keep: weight of the base's own answers to boxes, which the adapted model shall not lose; 0 for none.
    :param share: of the way from the base's weights to the trained ones at which the adapter lies, see
        :mod:`P2SAMSlicerLib.adaptation.interpolation`; 1 for the trained ones.
    :param validation: share of the patients that is not trained on.
    :param hold_out: these patients, and no others, are not trained on.
    :param features: folder of encoder features that several trainings share, for the method ``decoder``; None for one of
        this training's own beside ``out``.
    :param precision: of the arithmetic on a CPU; CUDA always mixes float16 in.
    :param margin_mm: tissue around the lesion in the usual region of interest.
    :param resume: go on from the state that an interrupted training left beside ``out``.
    """

    train: Path
    out: Path
    base: str = USUAL_BASE
    checkpoint: Path | None = None
    allow_unverified: bool = False
    method: Method = "decoder"
    rank: int = 1
    epochs: int = 10
    batch: int = 8
    learning_rate: float = 2e-4
    iterations: int = 10
    keep: float = 1.0
    share: float = 0.75
    validation: float = 0.15
    hold_out: tuple[str, ...] = ()
    features: Path | None = None
    precision: Precision = "float32"
    margin_mm: float = 25.0
    seed: int = 0
    device: str = "auto"
    threads: int | None = None
    resume: bool = False
    data: str = ""
    licence: str = "NOASSERTION"
    title: str = ""

    @property
    def state_file(self) -> Path:
        """What an interrupted training leaves."""
        return self.out.with_suffix(".state.pt")

    @property
    def curve_file(self) -> Path:
        """The training curve, a row an epoch."""
        return self.out.with_suffix(".curve.csv")

    @property
    def cache_folder(self) -> Path:
        """Where the encoder's features of all training slices lie, for the method ``decoder``."""
        return self.features or self.out.with_suffix(".features")

    def check(self) -> None:
        """Refuse what means nothing.

        :raises InputError: an option is out of its range.
        """
        for name, value, least in (
            ("rank", self.rank, 1),
            ("epochs", self.epochs, 1),
            ("batch", self.batch, 1),
            ("iterations", self.iterations, 0),
            ("seed", self.seed, 0),
        ):
            if value < least:
                raise InputError(f"--{name} is {value}, must be {least} or more")
        if self.method not in METHODS:
            raise InputError(f"--method: '{self.method}' is none of {', '.join(METHODS)}")
        if self.precision not in PRECISIONS:
            raise InputError(f"--precision: '{self.precision}' is none of {', '.join(PRECISIONS)}")
        if not 0 < self.learning_rate < 1:
            raise InputError(f"--learning-rate is {self.learning_rate:g}, must lie between 0 and 1")
        if not 0 <= self.validation < 1:
            raise InputError(f"--validation is {self.validation:g}, must lie between 0 and 1")
        if not 0 < self.share <= 1:
            raise InputError(f"--share is {self.share:g}, must lie above 0 and not above 1")
        if not 0 <= self.keep < float("inf"):
            raise InputError(f"--keep is {self.keep:g}, must be 0 or more")
        if not 0 < self.margin_mm < LARGEST_MARGIN_MM:
            raise InputError(f"--margin-mm is {self.margin_mm:g}, must lie between 0 and {LARGEST_MARGIN_MM:g}")
        if self.out.suffix.lower() != SUFFIX:
            raise InputError(f"{self.out.name}: the adapter's file name must end with {SUFFIX}")
