"""``p2sam propagate``: from a prior CT with contours and follow-up CTs to contours on the follow-ups."""

from __future__ import annotations

import argparse
import sys
import textwrap
from pathlib import Path

from P2SAMSlicerLib.cli.arguments import (
    Commands,
    add_model_arguments,
    add_progress_argument,
    millimetres,
    number_range,
    whole_number,
)
from P2SAMSlicerLib.cli.arguments import (
    add_command as add_named_command,
)
from P2SAMSlicerLib.cli.feature_cache import add_cache_arguments, opened_cache, report_cache, with_cache
from P2SAMSlicerLib.cli.job import JobResult, PropagationJob, load_job_model, run_job
from P2SAMSlicerLib.cli.table import figure, format_table
from P2SAMSlicerLib.definitions import SLICE
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.options import USUAL_PARTS, PropagationOptions
from P2SAMSlicerLib.progress import terminal_progress
from P2SAMSlicerLib.result import VisitResult
from P2SAMSlicerLib.result_files import SLICES_NAME, STATEMENT, SUMMARY_NAME, FailedVisit

DESCRIPTION = """\
Carries contoured structures from a prior CT to one or more follow-up CTs of the
same patient. The result lies exactly on each follow-up's own voxel grid.

CTs are NIfTI, NRRD or MetaImage files, or a folder with one DICOM CT series.
Segments are a .seg.nrrd of 3D Slicer, a label map, a DICOM structure set
(RTSTRUCT) or a DICOM SEG, told by content; or a folder with one such DICOM file.
A DICOM structure set or SEG must belong to the prior CT's frame of reference,
which is checked if that CT is DICOM, too. All inputs are read and checked before
any work begins; if one cannot be used, nothing is written.

Written into the --out folder:
  NAME.seg.nrrd  for each follow-up file NAME: the contours, and the registered
                 prior contours beside them for comparison (to be switched off
                 in 3D Slicer, whose file format cannot store that)
  summary.json   outcome, reasons, volumes, review priority, and every candidate
  slices.csv     one row for each follow-up, segment and slice

Outcome of a segment: found; flagged (a contour, and what speaks against it); too
small, or no lesion found (then only the registered prior contour is written);
registration only (a CTV, PTV or organ at risk, told by its TG-263 name or its
terminology: no model is asked, the registered prior contour is written).

For research use only. All contours are unreviewed: look at every slice, those of
high review priority first. A low priority does not say that a contour is right.
New lesions are not sought: what was not contoured on the prior is not looked for."""


#: Of the commands that search folders for DICOM.
RESAMPLE_HELP = (
    "bring DICOM slices that are stacked at an angle (gantry tilt) or at different distances to a straight, even grid;"
    " such a CT is refused otherwise"
)


def add_command(commands: Commands) -> None:
    """Add ``propagate`` to the command line."""
    usual = PropagationOptions()
    parser = add_named_command(commands, "propagate", run, "carry contours from a prior CT to follow-up CTs", DESCRIPTION)
    files = parser.add_argument_group("files")
    files.add_argument("--prior-ct", metavar="A", type=Path, required=True, help="CT of the prior visit")
    files.add_argument(
        "--prior-seg",
        metavar="B",
        type=Path,
        required=True,
        help="the structures contoured on it (.seg.nrrd, label map, RTSTRUCT or DICOM SEG)",
    )
    files.add_argument(
        "--segment", metavar="NAME", action="append", default=[], help="carry only this structure; may be given again"
    )
    files.add_argument(
        "--followup-ct", metavar="C", type=Path, action="append", required=True, help="CT of a later visit; may be given again"
    )
    files.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder for the results; made if needed")
    files.add_argument("--overwrite", action="store_true", help="replace results that are there already")
    add_method_arguments(parser.add_argument_group("method"), usual)
    add_structure_arguments(parser.add_argument_group("margins and organs"))
    add_model_arguments(parser)
    add_cache_arguments(parser)
    add_progress_argument(parser)
    parser.epilog = _columns()


def _columns() -> str:
    """What the columns of the table of slices are; the summary defines all its figures itself."""
    lines = [f"columns of {SLICES_NAME} (the other figures are defined in {SUMMARY_NAME}):"]
    for name, meaning in SLICE.items():
        lines += textwrap.wrap(f"{name}: {meaning}", 80, initial_indent="  ", subsequent_indent="      ")
    return "\n".join(lines)


def add_method_arguments(group: argparse._ArgumentGroup, usual: PropagationOptions) -> None:
    """How contours are carried; :func:`options_of` reads these and those of :func:`add_structure_arguments`."""
    group.add_argument(
        "--mode",
        choices=("clinical", "paper"),
        default=usual.mode,
        help="clinical: region of interest, location prior, 3-D clean-up; paper: the authors' steps (default: %(default)s)",
    )
    group.add_argument(
        "--registration",
        metavar="rigid|deformable|none|FILE",
        default=usual.registration,
        help="how the prior is brought to the follow-up; none trusts the scanners' coordinates; FILE is a transform"
        " from follow-up to prior points, in LPS, that SimpleITK reads (default: %(default)s)",
    )
    group.add_argument(
        "--modality",
        choices=("ct", "cbct"),
        default=usual.modality,
        help="cbct: grey values need not be HU; such visits are always flagged (default: %(default)s)",
    )
    group.add_argument(
        "--parts",
        metavar="N",
        type=whole_number(1),
        default=usual.max_parts,
        help="split the lesion's features into 1 to N parts, a point for each"
        f" (default: {USUAL_PARTS['clinical']} in clinical mode, {USUAL_PARTS['paper']} in paper mode)",
    )
    group.add_argument(
        "--negatives",
        metavar="A[:B]",
        type=number_range(0),
        default=None,
        help="numbers of points in the background to try (default: 1 in clinical mode, 45 in paper mode)",
    )
    group.add_argument(
        "--margin-mm",
        metavar="MM",
        type=millimetres,
        default=usual.margin_mm,
        help="tissue that the model sees around the propagated contour (default: %(default)g)",
    )
    group.add_argument(
        "--plausible-mm",
        metavar="MM",
        type=millimetres,
        default=usual.plausible_mm,
        help="no contour reaches farther than this from the propagated one (default: %(default)g)",
    )
    group.add_argument(
        "--seed", metavar="N", type=whole_number(0), default=usual.seed, help="of all random choices (default: %(default)s)"
    )
    group.add_argument(
        "--allow-other-patient", action="store_true", help="go on although the patients' ids differ; it is recorded"
    )
    group.add_argument(
        "--allow-older-followup", action="store_true", help="go on although a follow-up is older than the prior; it is recorded"
    )


def add_structure_arguments(group: argparse._ArgumentGroup) -> None:
    """Which structures are carried by the registration alone."""
    group.add_argument(
        "--registration-only",
        metavar="NAME",
        action="append",
        default=[],
        help="carry this structure by the registration alone, as margins and organs at risk; may be given again",
    )
    group.add_argument(
        "--with-model",
        metavar="NAME",
        action="append",
        default=[],
        help="ask the model for this structure although it is called as a margin or an organ is; may be given again",
    )


def options_of(arguments: argparse.Namespace) -> PropagationOptions:
    """The options of the command line.

    :raises InputError: ``--registration`` is neither a known word nor a file.
    """
    registration, transform = arguments.registration, None
    if registration not in ("rigid", "deformable", "none"):
        transform = Path(registration)
        if not transform.is_file():
            raise InputError(f"--registration {transform.name}: neither rigid, deformable or none, nor a file that is there")
        registration = "file"
    return PropagationOptions(
        mode=arguments.mode,
        registration=registration,
        transform_file=transform,
        modality=arguments.modality,
        max_parts=arguments.parts,
        negatives=None if arguments.negatives is None else tuple(range(arguments.negatives[0], arguments.negatives[1] + 1)),
        margin_mm=arguments.margin_mm,
        plausible_mm=arguments.plausible_mm,
        registration_only=tuple(arguments.registration_only),
        with_model=tuple(arguments.with_model),
        seed=arguments.seed,
        allow_other_patient=arguments.allow_other_patient,
        allow_older_followup=arguments.allow_older_followup,
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the command.

    :returns: 1 if a follow-up failed on the way, else 0.
    """
    job = PropagationJob(
        prior_ct=arguments.prior_ct,
        prior_seg=arguments.prior_seg,
        followups=tuple(arguments.followup_ct),
        out=arguments.out,
        segments=tuple(arguments.segment),
        options=options_of(arguments),
        model=arguments.model,
        checkpoint=arguments.checkpoint,
        allow_unverified=arguments.allow_unverified,
        device=arguments.device,
        precision=arguments.precision,
        threads=arguments.threads,
        overwrite=arguments.overwrite,
    )
    disk = opened_cache(arguments)
    with terminal_progress(as_json=arguments.json_progress) as progress:
        result = run_job(job, progress, model_of=with_cache(load_job_model, disk))
    report_cache(disk)
    report_failures(result, debug=arguments.debug)
    print_results(result)
    return 1 if result.failures else 0


def report_failures(result: JobResult, *, debug: bool) -> None:
    """Say on standard error which follow-ups failed."""
    for failure in result.failures:
        if debug:
            print(failure.details, file=sys.stderr)
        print(f"p2sam: error: {failure.name}: {failure.reason}", file=sys.stderr)


def print_results(result: JobResult) -> None:
    """Print a line for each segment, what is to be known about it, and the files."""
    rows, notes = [], list(result.warnings)
    method: list[str] = []
    for visit in result.visits:
        if isinstance(visit, FailedVisit):
            rows.append([visit.name, "failed", "-", "-", "-", "-"])
            continue
        rows += _rows(visit)
        method += visit.notes
        notes += [f"{visit.name}: {note}" for note in (*visit.overrides, *visit.warnings)]
        notes += [
            f"{visit.name}, {each.source.name}: {note}" for each in visit.segments for note in (*each.reasons, *each.removals)
        ]
    print(format_table(["follow-up, segment", "outcome", "prior ml", "now ml", "change", "review priority"], rows))
    for note in dict.fromkeys(notes):
        print(f"- {note}")
    for note in dict.fromkeys(method):
        print(f"note: {note}")
    print()
    for file in result.files:
        print(f"written: {file}")
    for line in STATEMENT:
        print(line)


def _rows(visit: VisitResult) -> list[list[str]]:
    return [
        [
            f"{visit.name}, {each.source.name}",
            each.outcome.value,
            figure(each.prior_volume_ml, 2),
            figure(each.volume_ml, 2),
            figure(each.volume_change_percent, 1, " %"),
            figure(each.review_priority, 2),
        ]
        for each in visit.segments
    ]
