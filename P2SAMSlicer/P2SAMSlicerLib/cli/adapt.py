"""``p2sam adapt``: a model trained further on CTs with contours."""

from __future__ import annotations

import argparse
from pathlib import Path

from P2SAMSlicerLib.adaptation.options import METHODS, PRECISIONS, USUAL_BASE, AdaptationOptions
from P2SAMSlicerLib.cli.arguments import Commands, add_progress_argument, device, finite, whole_number
from P2SAMSlicerLib.cli.arguments import add_command as add_named_command
from P2SAMSlicerLib.cli.table import format_table
from P2SAMSlicerLib.errors import OutputError
from P2SAMSlicerLib.models.adapter import AdapterCard
from P2SAMSlicerLib.progress import terminal_progress

DESCRIPTION = """\
Trains a model further, so that it can be asked with points, parts, background points
and the expected contour, and writes what it learned into a small adapter file.

A training case is a folder below --train that holds pairs of a CT and its contour
(CTs: .nii.gz, .nrrd, .mha, or a folder of DICOM slices; contours: .seg.nrrd or label
map), named CT_image and CT_mask, ct and seg, prior_ct and prior_seg, or followup_ct
and followup_seg. What p2sam simulate writes is such a folder; visits with the fill
'synthesis' are refused, they are kept for testing. case.json may name the patient.

Each step is the paper's interactive training: a first prompt, then --iterations
rounds of points on what the answer has wrong, with the last answer fed back. Written
beside FILE: FILE's .curve.csv (a row an epoch), .state.pt until the training is done
(for --resume), and for the method decoder .features, a folder that may be deleted.

Use the adapter with --model BASE --checkpoint FILE. Cases are split by patient, and
the adapter's card says what it reaches on those that were not trained on."""


def add_command(commands: Commands) -> None:
    """Add ``adapt`` to the command line."""
    usual = AdaptationOptions(Path(), Path())
    parser = add_named_command(commands, "adapt", run, "train a model further on your own CTs", DESCRIPTION)
    parser.add_argument("--train", metavar="DIR", type=Path, required=True, help="folder of training cases")
    parser.add_argument("--out", metavar="FILE", type=Path, required=True, help="adapter to write (.safetensors)")
    parser.add_argument("--overwrite", action="store_true", help="replace an adapter that is there already")
    parser.add_argument("--resume", action="store_true", help="go on where an interrupted training stopped")
    parser.add_argument(
        "--method",
        choices=METHODS,
        default=usual.method,
        help="decoder: prompt encoder and mask decoder; lora: these and low-rank factors on the encoder's attention; full:"
        " everything (default: %(default)s, the only one that is quick without a GPU)",
    )
    for name, value, least, text in (
        ("rank", usual.rank, 1, "of the low-rank factors"),
        ("epochs", usual.epochs, 1, "passes over all training slices"),
        ("batch", usual.batch, 1, "slices in a step"),
        ("iterations", usual.iterations, 0, "rounds of correction in a step; the paper has 10"),
        ("seed", usual.seed, 0, "of everything that is drawn"),
    ):
        kind = whole_number(least)
        parser.add_argument(f"--{name}", metavar="N", type=kind, default=value, help=f"{text} (default: %(default)s)")
    for name, number, text in (
        ("learning-rate", usual.learning_rate, "the largest one"),
        ("keep", usual.keep, "weight of the base's own answers to boxes, which shall not be lost"),
        ("share", usual.share, "of the way from the base's weights to the trained ones at which the adapter lies"),
        ("validation", usual.validation, "share of the patients that is not trained on"),
    ):
        parser.add_argument(f"--{name}", metavar="X", type=finite, default=number, help=f"{text} (default: %(default)s)")
    parser.add_argument(
        "--hold-out",
        metavar="PATIENT",
        action="append",
        default=[],
        help="keep this patient for validation, and no others than those that are named; may be given again",
    )
    parser.add_argument(
        "--features", metavar="DIR", type=Path, help="encoder features that several trainings share, for the method decoder"
    )
    parser.add_argument("--title", default="", help="name of the adapted model, for its card")
    parser.add_argument("--data", default="", help="what it is trained on, with attribution, for its card")
    parser.add_argument("--licence", default=usual.licence, help="SPDX identifier for its card (default: %(default)s)")
    _add_base(parser)
    add_progress_argument(parser)


def _add_base(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model")
    group.add_argument("--base", metavar="ID", default=USUAL_BASE, help="see 'p2sam models list' (default: %(default)s)")
    group.add_argument("--checkpoint", metavar="FILE", type=Path, help="weights file of the base, if it is not the usual one")
    group.add_argument("--allow-unverified", action="store_true", help="accept weights whose SHA-256 is not the one on record")
    group.add_argument("--device", type=device, default="auto", help="auto, cuda, cuda:1, mps or cpu (default: auto)")
    group.add_argument(
        "--precision",
        choices=PRECISIONS,
        default=PRECISIONS[0],
        help="of the arithmetic on a CPU; bfloat16 is quicker on one that computes in it (default: %(default)s)",
    )
    group.add_argument("--threads", metavar="N", type=whole_number(1), help="processor threads (default: physical cores)")


def run(arguments: argparse.Namespace) -> int:
    """Run ``adapt``."""
    from P2SAMSlicerLib.adaptation.training import adapt

    if arguments.out.exists() and not arguments.overwrite:
        raise OutputError(f"{arguments.out.name}: is there already; take another name or --overwrite")
    names = [name for name in AdaptationOptions.__dataclass_fields__ if hasattr(arguments, name)]
    options = AdaptationOptions(**{**{name: getattr(arguments, name) for name in names}, "hold_out": tuple(arguments.hold_out)})
    with terminal_progress(as_json=arguments.json_progress) as progress:
        card = adapt(options, progress)
    _print(card)
    print(f"written: {options.out}")
    return 0


def _print(card: AdapterCard) -> None:
    """What the adapted model reaches on patients that it was not trained on."""
    figures = card.training["validation_slice_dice"]
    if not figures:
        print("no patient was kept for validation: nothing is known of what the adapter reaches")
        return
    rows = [[name, f"{each['base']:.3f}", f"{each['adapted']:.3f}"] for name, each in figures.items()]
    print(format_table(["prompt", "base", "adapted"], rows))
    print(f"mean slice Dice with the true contour's prompts, {card.training['validation_patients']} patient(s) not trained on")
