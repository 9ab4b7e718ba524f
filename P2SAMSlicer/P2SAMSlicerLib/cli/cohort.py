"""``p2sam cohort``: the visits of many patients, side by side on the workers of a cluster."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from P2SAMSlicerLib.cli.arguments import Commands, add_model_arguments, add_progress_argument, whole_number
from P2SAMSlicerLib.cli.arguments import add_command as add_named_command
from P2SAMSlicerLib.cli.propagate import RESAMPLE_HELP, add_method_arguments, add_structure_arguments, options_of
from P2SAMSlicerLib.cli.table import format_table
from P2SAMSlicerLib.cohort.manifest import CARRIED_FROM, read_manifest
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.options import PropagationOptions
from P2SAMSlicerLib.progress import terminal_progress
from P2SAMSlicerLib.result_files import STATEMENT

if TYPE_CHECKING:
    from P2SAMSlicerLib.patient.plan import PatientSettings

DESCRIPTION = """\
Carries contours through the visits of many patients, one task a visit, and writes a
folder for each patient (p0001 is in row 2 of the table), results.csv and
results.parquet with a row for each visit and structure, and cohort.html.

MANIFEST.csv has a row for each patient and these columns, in any order:
  patient    the clinic's own key; it is in no result unless --identified
  folder     the patient's files, see p2sam patient; relative to the table
  prior      if wanted: visit to carry from (a number, visit_2 or a date)
  segments   if wanted: structures to carry, with ; between them
  from       if wanted: prior, previous or approved
  followups  if wanted: visits to carry to, with ; between them

What fails is recorded with its reason and stops nothing else. After an interruption of
any kind, the same command with --resume keeps the visits that are finished. Results of
other files or settings are replaced only if asked to (--resume --overwrite).

Workers are processes of this computer that nobody else can reach, or those of an
existing Dask cluster (--scheduler), which needs TLS unless it is on this computer, and
P2SAMSlicer and the patients' folders on all of its machines. Tasks name no patient.

Needs: pip install 'p2sam-slicer[cohort]'

For research use only. All contours are unreviewed. New lesions are not sought."""


def add_command(commands: Commands) -> None:
    """Add ``cohort`` to the command line."""
    parser = add_named_command(commands, "cohort", run, "carry contours through the visits of many patients", DESCRIPTION)
    parser.add_argument("manifest", metavar="MANIFEST.csv", type=Path, help="table of patients")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder for the results; made if needed")
    parser.add_argument("--resume", action="store_true", help="go on with an earlier run; what is finished is kept")
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace the results of an earlier run; with --resume only those made from other files or settings, or changed"
        " since, which are left as they are and reported otherwise",
    )
    parser.add_argument(
        "--identified", action="store_true", help="put the column 'patient' of the table into the results as 'key'"
    )
    what = parser.add_argument_group("what is carried, where the table does not say otherwise")
    what.add_argument("--prior", metavar="VISIT", help="visit to carry from (default: the earliest with contours)")
    what.add_argument("--from", dest="carried_from", choices=CARRIED_FROM, default="prior", help="see p2sam patient")
    what.add_argument("--segment", metavar="NAME", action="append", default=[], help="only this structure; may be given again")
    what.add_argument("--resample", action="store_true", help=RESAMPLE_HELP)
    where = parser.add_argument_group("workers")
    either = where.add_mutually_exclusive_group()
    either.add_argument(
        "--workers", metavar="N", type=whole_number(1), help="processes on this computer (default: one a GPU, or one)"
    )
    either.add_argument(
        "--scheduler", metavar="ADDRESS", help="of an existing cluster: tls://HOST:PORT, tcp:// on this computer"
    )
    where.add_argument("--tls-ca", metavar="FILE", type=Path, help="certificate of the authority, for tls://")
    where.add_argument("--tls-cert", metavar="FILE", type=Path, help="own certificate, for tls://")
    where.add_argument("--tls-key", metavar="FILE", type=Path, help="its key")
    add_method_arguments(parser.add_argument_group("method"), PropagationOptions())
    add_structure_arguments(parser.add_argument_group("margins and organs"))
    add_model_arguments(parser)
    add_progress_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the command.

    :returns: 1 if anything failed on the way, else 0.
    """
    from P2SAMSlicerLib.cohort.cluster import check_packages

    check_packages()
    from P2SAMSlicerLib.cohort.remote_cluster import SchedulerAddress
    from P2SAMSlicerLib.cohort.run import CohortJob, run_cohort
    from P2SAMSlicerLib.cohort.schedule import SchedulerLostError

    scheduler = None
    if arguments.scheduler is not None:
        scheduler = SchedulerAddress(arguments.scheduler, arguments.tls_ca, arguments.tls_cert, arguments.tls_key)
        scheduler.check()
    elif arguments.tls_ca or arguments.tls_cert or arguments.tls_key:
        raise InputError("--tls-ca, --tls-cert and --tls-key go with --scheduler tls://HOST:PORT")
    settings = _settings(arguments)
    job = CohortJob(
        rows=read_manifest(arguments.manifest),
        out=arguments.out,
        settings=settings,
        workers=arguments.workers,
        scheduler=scheduler,
        resume=arguments.resume,
        overwrite=arguments.overwrite,
        identified=arguments.identified,
        quiet=not arguments.debug,
    )
    try:
        with terminal_progress(as_json=arguments.json_progress) as progress:
            result = run_cohort(job, progress)
    except SchedulerLostError as error:
        print(f"p2sam: error: {error}", file=sys.stderr)
        return 1
    record = result.record
    outcomes = Counter(str(row.segment_outcome) for row in result.rows if row.segment is not None)
    rows = [
        ["patients", str(record.patients)],
        ["patients of whom nothing could be carried", str(record.failed_patients)],
        ["follow-ups", str(record.visits)],
        ["follow-ups kept from an earlier run", str(record.kept)],
        ["follow-ups that failed", str(record.failed)],
        *([f"structures, {name}", str(count)] for name, count in outcomes.most_common()),
    ]
    print(format_table(["", "number"], rows))
    for note in record.notes:
        print(f"- {note}")
    print()
    for file in result.files:
        print(f"written: {file}")
    for line in STATEMENT:
        print(line)
    return 1 if result.failed else 0


def _settings(arguments: argparse.Namespace) -> PatientSettings:
    """What all patients have in common.

    :raises InputError: a transform, which belongs to two CTs.
    """
    from P2SAMSlicerLib.patient.plan import PatientSettings

    options = options_of(arguments)
    if options.transform_file is not None:
        raise InputError("--registration: a transform belongs to one prior and one follow-up, and not to a cohort")
    return PatientSettings(
        prior=arguments.prior,
        segments=tuple(arguments.segment),
        carried_from=arguments.carried_from,
        options=options,
        model=arguments.model,
        checkpoint=None if arguments.checkpoint is None else arguments.checkpoint.absolute(),
        allow_unverified=arguments.allow_unverified,
        device=arguments.device,
        precision=arguments.precision,
        threads=arguments.threads,
        resample=arguments.resample,
    )
