"""The parser of the command line, and the arguments that several commands share."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from P2SAMSlicerLib import __version__
from P2SAMSlicerLib.errors import InputError

if TYPE_CHECKING:
    from P2SAMSlicerLib.models.protocol import PromptableModel

PROGRAM = "p2sam"

DESCRIPTION = """\
Carries tumour contours from a prior CT to a follow-up CT with P2SAM
(Part-aware Prompted Segment Anything Model, Zhao and Shen, TMLR 2025).

For research use only. Every contour is unreviewed: a person must look at each
before it is used for anything. New lesions are not sought."""

EPILOGUE = """\
exit status: 0 done, 1 something failed on the way, 2 the input cannot be used
(nothing was written), 130 interrupted with Ctrl-C (nothing half-written is left)"""


class Parser(argparse.ArgumentParser):
    """Takes no shortened options, shows help as it is written, and tells a mistake in one line."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """:raises InputError: always; exit status 2 like all input that cannot be used."""
        raise InputError(f"{message} (see: {self.prog} --help)")


Commands = Any  # argparse's own type of a group of sub-commands is private


def build_parser() -> Parser:
    """The parser with all commands; each leaves its function as ``run``."""
    from P2SAMSlicerLib.cli import (
        adapt,
        benchmark,
        cohort,
        commission,
        demo,
        dicom,
        evaluate,
        feature_cache,
        image,
        patient,
        propagate,
        report,
        simulate,
        store,
        worker,
    )

    parser = Parser(prog=PROGRAM, description=DESCRIPTION, epilog=EPILOGUE)
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    parser.add_argument("--debug", action="store_true", help="with an error, show where in the program it arose")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    carrying, measuring = (propagate, patient, report, cohort, dicom, image), (evaluate, simulate, benchmark, commission)
    for command in (*carrying, *measuring, adapt, store, feature_cache, demo, worker):
        command.add_command(commands)
    return parser


def add_command(commands: Commands, name: str, run: Callable[[argparse.Namespace], int], summary: str, text: str) -> Parser:
    """Add one command.

    :param run: takes the parsed arguments and returns the exit status.
    :param summary: one line for the list of commands.
    :param text: what its own help says first.
    """
    parser: Parser = commands.add_parser(name, help=summary, description=text)
    parser.set_defaults(run=run)
    # Its own default would undo a --debug before the command's name.
    parser.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    return parser


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """``--model``, ``--checkpoint``, ``--allow-unverified``, ``--device``, ``--precision``, ``--threads``."""
    from P2SAMSlicerLib.models.catalogue import default_model
    from P2SAMSlicerLib.models.precision import PRECISIONS

    group = parser.add_argument_group("model")
    group.add_argument("--model", metavar="ID", default=default_model(), help="see 'p2sam models list' (default: %(default)s)")
    group.add_argument(
        "--checkpoint", metavar="FILE", type=Path, help="weights file of your own choice, of that model's architecture"
    )
    group.add_argument(
        "--allow-unverified",
        action="store_true",
        help="accept weights whose SHA-256 is not the one on record, such as weights that you adapted yourself",
    )
    group.add_argument(
        "--device", type=device, default="auto", help="auto, cuda, cuda:1, mps or cpu (default: auto, the fastest there is)"
    )
    group.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="auto",
        help="of the encoder; auto is float32; half precision changes contours, and flags them on CTs (default: %(default)s)",
    )
    group.add_argument(
        "--threads",
        metavar="N",
        type=whole_number(1),
        help="processor threads (default: OMP_NUM_THREADS if set, else one for each physical core)",
    )


def chosen_model(arguments: argparse.Namespace) -> PromptableModel:
    """The model that the arguments of :func:`add_model_arguments` name, loaded.

    :raises ModelError: see :func:`~P2SAMSlicerLib.models.load_model`.
    """
    from P2SAMSlicerLib.models import load_model

    return load_model(
        arguments.model,
        arguments.device,
        arguments.checkpoint,
        allow_unverified=arguments.allow_unverified,
        precision=arguments.precision,
    )


def add_progress_argument(parser: argparse.ArgumentParser) -> None:
    """``--json-progress``."""
    parser.add_argument(
        "--json-progress",
        action="store_true",
        help="progress as lines of JSON on standard error; always so where that is no terminal",
    )


def whole_number(least: int) -> Callable[[str], int]:
    """A type of argument: a whole number that is not below ``least``."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"[+-]?[0-9]+", text) or int(text) < least:
            raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of at least {least}")
        return int(text)

    return parse


def number_range(least: int) -> Callable[[str], tuple[int, int]]:
    """A type of argument: ``a:b`` with both ends included, or ``a`` alone; neither is below ``least``."""

    def parse(text: str) -> tuple[int, int]:
        match = re.fullmatch(r"([0-9]+)(?::([0-9]+))?", text)
        low, high = (int(match[1]), int(match[2] or match[1])) if match else (0, -1)
        if not least <= low <= high:
            raise argparse.ArgumentTypeError(f"'{text}' is not a number or a range a:b of at least {least}")
        return low, high

    return parse


def millimetres(text: str) -> float:
    """A type of argument: a finite length above zero."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"'{text}' is not a length above 0 mm")
    return value


def finite(text: str) -> float:
    """A type of argument: a finite number."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not abs(value) < float("inf"):
        raise argparse.ArgumentTypeError(f"'{text}' is not a number")
    return value


def device(text: str) -> str:
    """A type of argument: a device that PyTorch may know. Whether this computer has it is found out later."""
    from P2SAMSlicerLib.models import DEVICES

    if text not in DEVICES and not re.fullmatch(r"cuda:[0-9]+", text):
        raise argparse.ArgumentTypeError(f"unknown device '{text}'; known are: {', '.join(DEVICES)}")
    return text
