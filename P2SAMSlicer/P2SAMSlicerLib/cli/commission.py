"""``p2sam commission``: simulated second visits of the clinic's own cases, measured and compared with tolerances."""

from __future__ import annotations

import argparse
import csv
import io
import os
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from P2SAMSlicerLib.atomic_file import atomic_write
from P2SAMSlicerLib.benchmark.methods import METHODS, selected
from P2SAMSlicerLib.benchmark.tables import table
from P2SAMSlicerLib.cli.arguments import (
    Commands,
    add_model_arguments,
    add_progress_argument,
    chosen_model,
    whole_number,
)
from P2SAMSlicerLib.cli.arguments import add_command as add_named_command
from P2SAMSlicerLib.cli.output import check_output_file
from P2SAMSlicerLib.commissioning.clinic_cases import ClinicCase, check_site, find_clinic_cases
from P2SAMSlicerLib.commissioning.figures import FIGURES, STATISTICS
from P2SAMSlicerLib.commissioning.measure import USUAL_CHANGES, USUAL_METHODS, MeasureOptions, measure
from P2SAMSlicerLib.commissioning.tolerances import EXAMPLE, default_tolerances, read_tolerances
from P2SAMSlicerLib.commissioning.verdict import PASS, judge, overall
from P2SAMSlicerLib.commissioning.verdict_text import STATEMENT, headline, verdict_cells
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.progress import terminal_progress
from P2SAMSlicerLib.simulation.visit import CHANGES
from P2SAMSlicerLib.threads import use_threads

if TYPE_CHECKING:
    from P2SAMSlicerLib.models.protocol import PromptableModel

PRIVATE_NAME = "private_case_names.csv"

DESCRIPTION = """\
Measures the program on a clinic's own cases before it is used there: simulates second
visits whose true contour is known, carries the contour to them with the peers and
with the product, and compares the figures with tolerances that the physicist sets.

A case is a sub-folder of DIR with one CT and its contours (.nii.gz, .nrrd, .mha,
.seg.nrrd; the name of a file with contours says so: seg, mask, contour, gtv), or a
DICOM CT series anywhere in DIR with the RTSTRUCT or SEG that was drawn on it. A
sub-folder may hold case.json with its site, such as {"site": "lung"}: every site is
judged by itself as well.

Written into the --out folder:
  commissioning.html   the report to sign: verdicts, accuracy, definitions, settings
  commissioning.json   the same for programs
  accuracy.csv, .md    a row for each visit and method; the tables
  visits/              figures of each visit; a run that was ended goes on from them
The CTs of simulated visits are not written, unless --keep asks for them.

Cases are case_001, case_002, ... in all of these; no name of a file, folder or patient
is in them. With --identified the file private_case_names.csv says which is which.

Without --tolerances those that --write-tolerances writes are used: starting points,
and no endorsement. Figures of simulated visits say nothing about a patient."""

EPILOGUE = """\
exit status: 0 every tolerance on all visits together was judged and kept, and none
failed at a site; 1 a tolerance failed or could not be judged (too few patients);
2 the input cannot be used; 130 interrupted (finished visits are kept)"""


def add_command(commands: Commands) -> None:
    """Add ``commission`` to the command line."""
    parser = add_named_command(commands, "commission", run, "measure on your own cases, against tolerances", DESCRIPTION)
    parser.add_argument("cases", metavar="DIR", type=Path, nargs="?", help="folder with the clinic's cases")
    parser.add_argument("--out", metavar="DIR", type=Path, help="folder for the report; made if needed")
    parser.add_argument("--tolerances", metavar="FILE", type=Path, help="limits, in TOML; see --write-tolerances")
    parser.add_argument("--write-tolerances", metavar="FILE", type=Path, help="write an example of such a file, and end")
    parser.add_argument(
        "--visits", metavar="N", type=whole_number(1), default=1, help="of each case and change (default: %(default)s)"
    )
    parser.add_argument(
        "--change",
        choices=CHANGES,
        action="append",
        help=f"of the tumour; may be given several times (default: {', '.join(USUAL_CHANGES)})",
    )
    parser.add_argument(
        "--segment",
        metavar="NAME",
        action="append",
        default=[],
        help="the tumour's structure; may be given several times, and the first that a case has is taken",
    )
    parser.add_argument("--site", metavar="NAME", help="body site of all cases (default: what their case.json says)")
    parser.add_argument(
        "--methods",
        metavar="A,B",
        default=",".join(USUAL_METHODS),
        help="to compare; clinical, the product, always is (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", metavar="N", type=whole_number(0), default=0, help="of everything that is drawn (default: %(default)s)"
    )
    parser.add_argument("--keep", action="store_true", help="leave the simulated visits in the --out folder (large)")
    parser.add_argument("--identified", action="store_true", help=f"also write {PRIVATE_NAME}; it names patients")
    parser.add_argument("--overwrite", action="store_true", help="replace a report; finished visits are not measured again")
    add_model_arguments(parser)
    add_progress_argument(parser)
    lines = ["figures that tolerances may be set on:"]
    for figure in FIGURES.values():
        lines += _wrapped(f"{figure.id} ({figure.word}): {figure.meaning}")
    lines += ["statistics of them:", *_wrapped(STATISTICS), "methods (--methods):"]
    for method in METHODS.values():
        lines += _wrapped(f"{method.id}: {method.definition}")
    parser.epilog = "\n".join([*lines, "", EPILOGUE])


def run(arguments: argparse.Namespace) -> int:
    """Run the command.

    :returns: 0 if the tolerances were kept, 1 if not or if they could not be judged.
    """
    if arguments.write_tolerances is not None:
        return _write_tolerances(arguments.write_tolerances, overwrite=arguments.overwrite)
    if arguments.cases is None or arguments.out is None:
        raise InputError("the folder of cases DIR and --out are needed (see: p2sam commission --help)")
    from P2SAMSlicerLib.commissioning.commissioning_report import check_report, write_report

    check_report(arguments.out, overwrite=arguments.overwrite)
    if arguments.identified and os.path.lexists(arguments.out / PRIVATE_NAME) and not arguments.overwrite:
        raise InputError(f"{PRIVATE_NAME}: there already in the folder for the report; use --overwrite to replace")
    _check_apart(arguments.cases, arguments.out)
    site = None if arguments.site is None else check_site(arguments.site, "--site")
    tolerances = default_tolerances() if arguments.tolerances is None else read_tolerances(arguments.tolerances)
    methods = tuple(each.strip() for each in arguments.methods.split(",") if each.strip())
    selected(methods)
    with terminal_progress(as_json=arguments.json_progress) as progress:
        cases = find_clinic_cases(arguments.cases, site, progress)
        options = MeasureOptions(
            out=arguments.out,
            visits=arguments.visits,
            changes=tuple(dict.fromkeys(arguments.change or USUAL_CHANGES)),
            segments=tuple(arguments.segment),
            methods=methods,
            seed=arguments.seed,
            consistency=tolerances.ask_for("inverse_consistency_mm"),
            keep=arguments.keep,
            threads=use_threads(arguments.threads),
        )
        measured = measure(cases, options, _model(arguments), progress)
    files = write_report(arguments.out, measured, tolerances)
    if arguments.identified:
        files.append(_write_names(arguments.out / PRIVATE_NAME, cases))
    verdicts = judge(measured, tolerances)
    print(table(*verdict_cells(verdicts)))
    print()
    for line in (headline(verdicts), *STATEMENT):
        print(line)
    print()
    for file in files:
        print(f"written: {file}")
    for failure in measured.failures:
        if getattr(arguments, "debug", False):
            print(failure.details, file=sys.stderr)
        print(f"p2sam: error: {failure.name}: {failure.stage}: {failure.reason}", file=sys.stderr)
    return 0 if overall(verdicts) == PASS else 1


def _model(arguments: argparse.Namespace) -> PromptableModel:
    from P2SAMSlicerLib.models import check_model
    from P2SAMSlicerLib.models.precision import encoder_precision

    if encoder_precision(arguments.precision) != "float32":
        raise InputError("--precision: half precision flags every contour, so that the figures would say nothing; leave it out")
    check_model(arguments.model, arguments.checkpoint, allow_unverified=arguments.allow_unverified)
    return chosen_model(arguments)


def _check_apart(cases: Path, out: Path) -> None:
    """The clinic's folder is only read: what is written there would be taken for a case by the next run."""
    inside, outside = out.absolute().resolve(), cases.absolute().resolve()
    if inside == outside or outside in inside.parents:
        raise InputError("--out: lies in the folder of cases, which is only read; choose a folder elsewhere")


def _write_tolerances(path: Path, *, overwrite: bool) -> int:
    if os.path.lexists(path) and not overwrite:
        raise InputError(f"{path.name}: there already; use --overwrite to replace")
    check_output_file(path, ())
    with atomic_write(path) as temporary:
        temporary.write_text(EXAMPLE, encoding="utf-8", newline="\n")
    print(f"written: {path}")
    return 0


def _write_names(path: Path, cases: Sequence[ClinicCase]) -> Path:
    """Which case is which, for the clinic alone; readable by its writer only, where the system knows such rights."""
    content = io.StringIO(newline="")
    writer = csv.writer(content)
    writer.writerow(["case", "patient", "folder, and DICOM patient id"])
    # Text that a spreadsheet would take for a formula is marked as text.
    places = [f"'{case.place}" if case.place[:1] in ("=", "+", "-", "@") else case.place for case in cases]
    writer.writerows([case.name, case.patient, place] for case, place in zip(cases, places, strict=True))
    with atomic_write(path) as temporary:
        temporary.chmod(0o600)
        temporary.write_text(content.getvalue(), encoding="utf-8", errors="backslashreplace", newline="")
    return path


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 80, initial_indent="  ", subsequent_indent="      ")
