"""``p2sam dicom export``: contours of an earlier run as RTSTRUCT and DICOM SEG."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from P2SAMSlicerLib.atomic_file import atomic_folder
from P2SAMSlicerLib.cli.arguments import Commands
from P2SAMSlicerLib.cli.arguments import add_command as add_named_command
from P2SAMSlicerLib.cli.table import figure, format_table
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.result_files import STATEMENT

DESCRIPTION = """\
Writes contours that an earlier run carried to a follow-up as DICOM objects that
refer to the follow-up's CT: an RT structure set and a segmentation.

Written into the --out folder:
  NAME_RTSTRUCT.dcm  closed contours along the edges of the voxels, holes as keyholes
  NAME_SEG.dcm       the voxels themselves, one segment each

Both are read back at once and compared: a file that does not give exactly the same
voxels is not kept. Contours that nobody accepted in review say UNREVIEWED, and every
structure set is UNAPPROVED: a review in this program is no approval. A rejected
contour is left out. ROI names have at most 16 characters (TG-263); the full name
stands in the description."""


def add_export(actions: Commands) -> None:
    """Add ``export`` to the actions of ``p2sam dicom``."""
    parser = add_named_command(actions, "export", run, "write contours of a run as RTSTRUCT and SEG", DESCRIPTION)
    parser.add_argument(
        "--result", metavar="R", type=Path, required=True, help=".seg.nrrd of a run, or the folder with its summary.json"
    )
    parser.add_argument("--followup", metavar="NAME", help="which follow-up, where the folder has several")
    parser.add_argument("--ct", metavar="DIR", type=Path, required=True, help="DICOM folder of the CT that was contoured")
    parser.add_argument("--resample", action="store_true", help="the run resampled this CT, see 'p2sam dicom convert --help'")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder for the files; made if needed")
    parser.add_argument("--overwrite", action="store_true", help="replace what an earlier export wrote")


def run(arguments: argparse.Namespace) -> int:
    """Run ``dicom export``."""
    from P2SAMSlicerLib.dicom.earlier_result import contours_on_ct, read_earlier_result
    from P2SAMSlicerLib.dicom.new_object import check_replaceable
    from P2SAMSlicerLib.dicom.seg_writer import write_dicom_seg
    from P2SAMSlicerLib.dicom.series import dicom_ct_of
    from P2SAMSlicerLib.dicom.slice_places import reference_warnings
    from P2SAMSlicerLib.dicom.structure_set_writer import write_structure_set

    result = read_earlier_result(arguments.result, arguments.followup)
    if not arguments.ct.is_dir():
        raise InputError(f"--ct {arguments.ct.name}: is no folder of DICOM slices")
    ct = dicom_ct_of(arguments.ct, resample=arguments.resample)
    grid, reference = ct.volume.grid, ct.reference
    contours, warnings = contours_on_ct(result, ct)
    writers = {f"{result.name}_RTSTRUCT.dcm": write_structure_set, f"{result.name}_SEG.dcm": write_dicom_seg}
    for name in writers:
        check_replaceable(arguments.out / name, reference, arguments.overwrite)
    rows = []
    with atomic_folder(arguments.out) as stage:
        for name, write in writers.items():
            for trip in write(stage / name, contours, grid, reference):
                rows.append([f"{name}, {trip.roi_name}", figure(trip.volume_ml, 2), figure(trip.change_percent, 2, " %")])
    print(format_table(["file, name in it", "ml", "change when read back"], rows))
    for warning in (*warnings, *ct.volume.warnings, *reference_warnings(reference)):
        print(f"p2sam: warning: {warning}", file=sys.stderr)
    print()
    for name in writers:
        print(f"written: {arguments.out / name}")
    for line in STATEMENT[1:]:
        print(line)
    unreviewed = sum(not each.reviewed for each in contours)
    print(f"For research use only. {unreviewed} of {len(contours)} contours are UNREVIEWED; none is approved.")
    return 0
