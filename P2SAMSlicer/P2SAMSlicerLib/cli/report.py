"""``p2sam report``: a patient's report again, with what was decided in the review since."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from P2SAMSlicerLib.cli.arguments import Commands
from P2SAMSlicerLib.cli.arguments import add_command as add_named_command
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.patient.patient_report import identity_of
from P2SAMSlicerLib.patient.visit_folder import VISIT_NAME
from P2SAMSlicerLib.report.patient_report import JSON_NAME, write_patient_report
from P2SAMSlicerLib.report.report_content import FORMAT, RESEARCH_USE, ReportIdentity
from P2SAMSlicerLib.report.review_record import ReviewRecord
from P2SAMSlicerLib.report.reviewed_file import DrawnVisit, drawn_visit, review_of_file
from P2SAMSlicerLib.report.visit_content import read_visit_content

DESCRIPTION = """\
Writes a patient's report again from the visits' folders that p2sam patient left,
with what was decided in the review since. Nothing is computed again, and the
contours and DICOM files in the folders stay as they are.

A reviewed contour is one that 3D Slicer saved (.seg.nrrd) after the review in the
module P2SAMSlicer. A decision counts for the contour that it was made on: one that
was changed afterwards is UNREVIEWED. Name the files each time: a report does not
take over what an earlier one said.

For research use only."""

_FOLDER = re.compile(r"visit_([0-9]+)")
_REVIEWED = re.compile(r"(visit_[0-9]+)=(.+)", re.DOTALL)


def add_command(commands: Commands) -> None:
    """Add ``report`` to the command line."""
    parser = add_named_command(commands, "report", run, "a patient's report again, with the review", DESCRIPTION)
    parser.add_argument("folder", metavar="OUT_DIR", type=Path, help="folder that p2sam patient wrote")
    parser.add_argument(
        "--reviewed",
        metavar="[VISIT=]FILE",
        action="append",
        default=[],
        help="segmentation that 3D Slicer saved after the review; may be given again. Its visit is told by the contours that"
        " the tool drew, which the file remembers, unless it is named (visit_2=FILE)",
    )
    parser.add_argument(
        "--identified",
        metavar="DIR",
        type=Path,
        help="name the patient and the dates, from the DICOM files in the folder that p2sam patient read; anonymous without",
    )
    parser.add_argument("--out", metavar="DIR", type=Path, help="where to write report.html and report.json (default: OUT_DIR)")
    parser.add_argument("--overwrite", action="store_true", help="replace a report that is there")


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    folders = visit_folders(arguments.folder)
    prior = _prior(arguments.folder)
    identity = None if arguments.identified is None else _identity(arguments.identified, prior, folders)
    reviews = read_reviews(arguments.reviewed, folders)
    files = write_patient_report(
        arguments.out or arguments.folder,
        list(folders.values()),
        prior=prior,
        identity=identity,
        reviews=reviews,
        overwrite=arguments.overwrite,
    )
    for label, records in reviews.items():
        for record in records:
            by = f" by {record.reviewer}" if record.reviewer else ""
            print(f"{label}, {record.segment}: {record.decision}{by}{', edited' if record.edited else ''}")
    for file in files:
        print(f"{file} ({file.stat().st_size / 1e6:.1f} MB)")
    print(RESEARCH_USE)
    return 0


def visit_folders(folder: Path) -> dict[str, Path]:
    """The visits' folders by label, in the order of the visits.

    :raises InputError: there is none.
    """
    try:
        found = {int(match[1]): path for path in folder.iterdir() if (match := _FOLDER.fullmatch(path.name))}
        here = {path.name: path for _, path in sorted(found.items()) if (path / VISIT_NAME).is_file()}
    except OSError:
        raise InputError(f"{folder.name}: no such folder, or it cannot be read") from None
    if not here:
        raise InputError(f"{folder.name}: holds no visit's folder that p2sam patient wrote (visit_2/{VISIT_NAME})")
    return here


def read_reviews(given: Sequence[str], folders: Mapping[str, Path]) -> dict[str, list[ReviewRecord]]:
    """What the reviewed segmentations say, by the visit's label.

    :param given: files, each perhaps after a visit's label and ``=``.
    :raises InputError: a file that cannot be used, or two of one visit.
    """
    visits: dict[str, DrawnVisit] = {}
    for label, folder in folders.items() if given else ():
        drawn = drawn_visit(folder, label)
        if drawn is not None:
            visits[label] = drawn
    reviews: dict[str, list[ReviewRecord]] = {}
    for word in given:
        named = _REVIEWED.fullmatch(word)
        path = Path(named[2] if named and not Path(word).exists() else word)
        label, records = review_of_file(path, visits, named[1] if named and str(path) != word else None)
        if label in reviews:
            raise InputError(f"{path.name}: is the second reviewed segmentation of {label}; name one for each visit")
        reviews[label] = records
    return reviews


def _prior(folder: Path) -> dict[str, Any]:
    """What the report that is there says of the first visit; nothing if there is none that can be read."""
    try:
        content = json.loads((folder / JSON_NAME).read_text(encoding="utf-8"))
        prior = content["prior"] if content["format"] == FORMAT else {}
        return dict(prior)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}


def _identity(folder: Path, prior: Mapping[str, Any], folders: Mapping[str, Path]) -> ReportIdentity:
    """Who the patient is, from the DICOM files.

    :raises InputError: there are other visits in the folder than those that were carried.
    """
    from P2SAMSlicerLib.patient.visits import find_visits

    visits = {visit.label: visit for visit in find_visits(folder)}
    label = prior.get("label")
    first = visits.get(label if isinstance(label, str) else "visit_1")
    days = {each.label: each.day for each in map(read_visit_content, folders.values())}
    if first is None or any(each not in visits or visits[each].day != day for each, day in days.items() if day is not None):
        raise InputError("the folder that --identified names holds other visits than those of this report")
    return identity_of(first, list(visits.values()))
