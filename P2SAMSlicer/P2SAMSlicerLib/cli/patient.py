"""``p2sam patient``: a patient's contours carried through all visits below a folder."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from P2SAMSlicerLib.cli.arguments import Commands, add_model_arguments, add_progress_argument
from P2SAMSlicerLib.cli.arguments import add_command as add_named_command
from P2SAMSlicerLib.cli.feature_cache import add_cache_arguments, opened_cache, report_cache, with_cache
from P2SAMSlicerLib.cli.propagate import RESAMPLE_HELP, add_method_arguments, add_structure_arguments, options_of
from P2SAMSlicerLib.cli.table import figure, format_table
from P2SAMSlicerLib.options import PropagationOptions
from P2SAMSlicerLib.patient.plan import CARRIED_FROM, PatientSettings
from P2SAMSlicerLib.patient.run import FAILED, KEPT, PatientResult, VisitOutcome, load_order_model, run_patient
from P2SAMSlicerLib.progress import terminal_progress
from P2SAMSlicerLib.result_files import STATEMENT, SUMMARY_NAME

DESCRIPTION = """\
Carries a patient's contours from one visit to all later ones, and writes a
report on them.

DIR is searched for visits. DICOM may lie in it in any way: a visit is a study on
a date, its contours are the RTSTRUCT and SEG that say they were drawn on its CT
(never those that this program wrote). Files of other formats lie in a sub-folder
for each visit, called by its date (2024-05-31): one CT file (.nii.gz, .nrrd,
.mha), and perhaps contours (.seg.nrrd, or a label map with 'seg', 'contour' or
'mask' in its name). Visits are called visit_1, visit_2 and so on, by date.

Written into the --out folder, for each follow-up in a folder of its own:
  visit_2/visit_2.seg.nrrd      the contours, and the registered prior contours
  visit_2/visit_2_RTSTRUCT.dcm  the contours as DICOM, where the visit is DICOM
  visit_2/visit_2_SEG.dcm
  visit_2/summary.json          as of p2sam propagate; also slices.csv
  visit_2/pictures/             the central and the most doubtful slices
  visit_2/visit.json            what it was made from, and what is in the folder
and, on all visits, report.html and report.json.

A visit that fails is recorded in its folder and does not stop the others. The
same command run again, after an interruption for example, keeps the visits that
are finished. Results of other files or settings are replaced only if asked to.

For research use only. All contours are unreviewed: look at every slice, those of
high review priority first. New lesions are not sought."""


def add_command(commands: Commands) -> None:
    """Add ``patient`` to the command line."""
    parser = add_named_command(commands, "patient", run, "carry a patient's contours through all visits", DESCRIPTION)
    parser.add_argument("folder", metavar="DIR", type=Path, help="folder with the patient's visits")
    visits = parser.add_argument_group("visits")
    visits.add_argument(
        "--prior",
        metavar="VISIT",
        help="number, name (visit_2) or date of the visit to carry from (default: the earliest with contours)",
    )
    visits.add_argument(
        "--followup",
        metavar="VISIT",
        action="append",
        default=[],
        help="carry only to this visit; may be given again (default: all that are later than the prior)",
    )
    visits.add_argument(
        "--segment", metavar="NAME", action="append", default=[], help="carry only this structure; may be given again"
    )
    visits.add_argument(
        "--from",
        dest="carried_from",
        choices=CARRIED_FROM,
        default=PatientSettings().carried_from,
        help="prior: each follow-up from the prior; previous: visit to visit, from a visit's own contours where it has them,"
        " else from those that were carried to it, which nobody has reviewed (such results are flagged); approved: from the"
        " prior and all visits between whose contours were approved, combined (default: %(default)s)",
    )
    visits.add_argument("--resample", action="store_true", help=RESAMPLE_HELP)
    out = parser.add_argument_group("results")
    out.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder for the results; made if needed")
    out.add_argument("--no-dicom", action="store_true", help="write no RTSTRUCT and no SEG")
    out.add_argument(
        "--identified", action="store_true", help="name the patient and the dates in the report, which is anonymous otherwise"
    )
    out.add_argument("--overwrite", action="store_true", help="replace results that were made from other files or settings")
    add_method_arguments(parser.add_argument_group("method"), PropagationOptions())
    add_structure_arguments(parser.add_argument_group("margins and organs"))
    add_model_arguments(parser)
    add_cache_arguments(parser)
    add_progress_argument(parser)


def settings_of(arguments: argparse.Namespace) -> PatientSettings:
    """The settings of the command line.

    :raises InputError: see :func:`P2SAMSlicerLib.cli.propagate.options_of`.
    """
    return PatientSettings(
        prior=arguments.prior,
        followups=tuple(arguments.followup),
        segments=tuple(arguments.segment),
        carried_from=arguments.carried_from,
        options=options_of(arguments),
        model=arguments.model,
        checkpoint=arguments.checkpoint,
        allow_unverified=arguments.allow_unverified,
        device=arguments.device,
        precision=arguments.precision,
        threads=arguments.threads,
        resample=arguments.resample,
        dicom=not arguments.no_dicom,
        identified=arguments.identified,
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the command.

    :returns: 1 if a follow-up failed, else 0.
    """
    settings = settings_of(arguments)
    disk = opened_cache(arguments)
    with terminal_progress(as_json=arguments.json_progress) as progress:
        result = run_patient(
            arguments.folder,
            settings,
            arguments.out,
            progress,
            overwrite=arguments.overwrite,
            model_of=with_cache(load_order_model, disk),
        )
    report_cache(disk)
    for visit in result.failures:
        if arguments.debug and visit.details:
            print(visit.details, file=sys.stderr)
        print(f"p2sam: error: {visit.label}: {visit.reason}", file=sys.stderr)
    print_result(result)
    return 1 if result.failures else 0


def print_result(result: PatientResult) -> None:
    """Print a line for each structure of each follow-up, what is to be known about it, and where the files are."""
    rows, notes = [], []
    method: list[str] = []
    for visit in result.visits:
        if visit.outcome == FAILED:
            rows.append([visit.label, "failed", "-", "-", "-", "-"])
            continue
        summary = _summary(visit)
        entry = summary["followups"][0]
        notes += summary["warnings"]
        rows += [_row(visit, segment) for segment in entry["segments"]]
        method += entry["notes"]
        notes += [f"{visit.label}: {note}" for note in (*entry["overrides"], *entry["warnings"], *visit.record["notes"])]
        for segment in entry["segments"]:
            told = (*segment["reasons"], *segment["removals"])
            notes += [f"{visit.label}, {segment['segment']}: {note}" for note in told]
    print(f"{result.found} visits found; carried from {result.prior}")
    print(format_table(["follow-up, segment", "outcome", "prior ml", "now ml", "change", "review priority"], rows))
    for note in dict.fromkeys(notes):
        print(f"- {note}")
    for note in dict.fromkeys(method):
        print(f"note: {note}")
    print()
    for visit in result.visits:
        words = {KEPT: "kept, finished by an earlier run", FAILED: "failed"}.get(visit.outcome, "written")
        print(f"{words}: {visit.folder}")
    for file in result.report:
        print(f"written: {file}")
    for line in STATEMENT:
        print(line)


def _summary(visit: VisitOutcome) -> dict[str, Any]:
    """The summary in a visit's folder."""
    content: dict[str, Any] = json.loads((visit.folder / SUMMARY_NAME).read_text(encoding="utf-8"))
    return content


def _row(visit: VisitOutcome, segment: Mapping[str, Any]) -> list[str]:
    return [
        f"{visit.label}, {segment['segment']}",
        segment["outcome"],
        figure(segment["prior_volume_ml"], 2),
        figure(segment["volume_ml"], 2),
        figure(segment["volume_change_percent"], 1, " %"),
        figure(segment["review_priority"], 2),
    ]
