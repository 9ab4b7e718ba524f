"""``p2sam benchmark``: what the methods reach on cases with a known truth; how fast, see :mod:`.benchmark_speed`."""

from __future__ import annotations

import argparse
import sys
import textwrap
from pathlib import Path

from P2SAMSlicerLib.benchmark.accuracy import AccuracyOptions, measure_accuracy
from P2SAMSlicerLib.benchmark.methods import METHODS
from P2SAMSlicerLib.benchmark.report import check_report, write_report
from P2SAMSlicerLib.benchmark.tables import summary, targets
from P2SAMSlicerLib.cli.arguments import (
    Commands,
    add_model_arguments,
    add_progress_argument,
    number_range,
    whole_number,
)
from P2SAMSlicerLib.cli.arguments import (
    add_command as add_named_command,
)
from P2SAMSlicerLib.cli.benchmark_speed import add_speed
from P2SAMSlicerLib.progress import terminal_progress

DESCRIPTION = "Measures what the methods reach on cases with a known truth, and how fast this product is."

ACCURACY = """\
Carries the prior contour of every case to its follow-up with every method, and
compares it with the truth.

A case is a folder below --cases with prior_ct, prior_seg, followup_ct and
followup_seg (CTs: .nii.gz, .nrrd, .mha, or a folder of DICOM slices; contours:
.seg.nrrd or label map). It may hold case.json with any of: change (kind of change of
the lesion), site, patient (the same for cases of one patient), segment (name of the
structure, where prior_seg holds several). p2sam simulate makes such
folders; the followup_seg of a lesion that has vanished is empty, or is not there.

Written into the --out folder:
  accuracy.md    tables: all cases, sites, kinds of change, every case; intervals of
                 the differences; the choice among candidates; review priority; targets
  accuracy.csv   a row for each case and method
  accuracy.json  everything
  accuracy.png   Dice, volume error and differences

Registration and encoding are done once for the methods that share them. elastix needs
the Python package itk-elastix; without it its rows are left out, which is said.

Figures from simulated visits of few patients say nothing about a clinic."""


def add_command(commands: Commands) -> None:
    """Add ``benchmark`` to the command line."""
    parser = commands.add_parser(
        "benchmark", help="measure accuracy on cases with a known truth, and speed", description=DESCRIPTION
    )
    kinds = parser.add_subparsers(title="what to measure", metavar="WHAT", required=True)
    _add_accuracy(kinds)
    add_speed(kinds)


def _add_accuracy(kinds: Commands) -> None:
    parser = add_named_command(kinds, "accuracy", run_accuracy, "contours of all methods against the truth", ACCURACY)
    parser.add_argument("--cases", metavar="DIR", type=Path, required=True, help="folder of cases")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder for the report; made if needed")
    parser.add_argument("--overwrite", action="store_true", help="replace a report that is there already")
    parser.add_argument("--case", metavar="NAME", action="append", default=[], help="only this case; may be given again")
    parser.add_argument("--method", metavar="NAME", action="append", default=[], help="only this method; may be given again")
    parser.add_argument("--parts", metavar="N", type=whole_number(1), help="as of p2sam propagate")
    parser.add_argument("--negatives", metavar="A[:B]", type=number_range(0), help="as of p2sam propagate")
    parser.add_argument(
        "--seed",
        metavar="N",
        type=whole_number(0),
        default=0,
        help="of the methods and of the intervals (default: %(default)s)",
    )
    add_model_arguments(parser)
    add_progress_argument(parser)
    lines = ["methods (--method):"]
    for method in METHODS.values():
        lines += textwrap.wrap(f"{method.id}: {method.definition}", 80, initial_indent="  ", subsequent_indent="      ")
    parser.epilog = "\n".join(lines)


def run_accuracy(arguments: argparse.Namespace) -> int:
    """Run ``benchmark accuracy``.

    :returns: 1 if a case could not be measured with every method, else 0.
    """
    check_report(arguments.out, overwrite=arguments.overwrite)
    options = AccuracyOptions(
        cases=arguments.cases,
        names=tuple(arguments.case),
        methods=tuple(arguments.method),
        model=arguments.model,
        checkpoint=arguments.checkpoint,
        allow_unverified=arguments.allow_unverified,
        device=arguments.device,
        precision=arguments.precision,
        threads=arguments.threads,
        parts=arguments.parts,
        negatives=None if arguments.negatives is None else tuple(range(arguments.negatives[0], arguments.negatives[1] + 1)),
        seed=arguments.seed,
    )
    with terminal_progress(as_json=arguments.json_progress) as progress:
        findings = measure_accuracy(options, progress)
    files = write_report(arguments.out, findings)
    print(summary(findings))
    print()
    print(targets(findings))
    print()
    for file in files:
        print(f"written: {file}")
    for failure in findings.failures:
        if arguments.debug:
            print(failure.details, file=sys.stderr)
        print(f"p2sam: error: {failure.name}: {failure.reason}", file=sys.stderr)
    return 1 if findings.failures else 0
