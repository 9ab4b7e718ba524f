"""``p2sam simulate``: a follow-up with exactly known truth, from any CT and contour."""

from __future__ import annotations

import argparse
import os
from dataclasses import fields
from pathlib import Path
from typing import Any

from P2SAMSlicerLib import __version__
from P2SAMSlicerLib.atomic_file import atomic_folder, check_writable
from P2SAMSlicerLib.cli.arguments import Commands, finite, millimetres, whole_number
from P2SAMSlicerLib.cli.arguments import add_command as add_named_command
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.intensity import check_hounsfield
from P2SAMSlicerLib.resample import segments_on_grid
from P2SAMSlicerLib.result_files import remove_stale, write_json
from P2SAMSlicerLib.segmentation_file import read_segmentation, write_segmentation
from P2SAMSlicerLib.simulation import CHANGES, SimulatedVisit, SimulationOptions, simulate_followup
from P2SAMSlicerLib.volume import Segment, Segmentation, Volume
from P2SAMSlicerLib.volume_file import read_volume, write_volume

CT_NAME, SEGMENTATION_NAME, RECORD_NAME = "followup_ct.nii.gz", "followup_seg.seg.nrrd", "simulation.json"

DESCRIPTION = """\
Makes a second visit out of a CT and a contour: a set-up error, a smooth
deformation, a tumour change that replaces tissue, another voxel grid, new noise.
The true contour on it is known exactly, so that propagation can be measured on
your own data, as for commissioning.

Written into the --out folder: followup_ct.nii.gz, followup_seg.seg.nrrd (the truth;
not for --change vanish, which leaves none) and simulation.json (all that was drawn).

A simulated visit is no second scan of the patient: figures from it say how the
program deals with these effects, and nothing about a clinic."""

#: Room for the CT, which noise keeps from being compressed well, in bytes a voxel of the prior.
BYTES_PER_VOXEL = 4


def add_command(commands: Commands) -> None:
    """Add ``simulate`` to the command line."""
    usual = SimulationOptions()
    parser = add_named_command(commands, "simulate", run, "make a follow-up whose true contour is known", DESCRIPTION)
    parser.add_argument("--ct", metavar="A", type=Path, required=True, help="CT file or DICOM folder")
    parser.add_argument("--seg", metavar="B", type=Path, required=True, help=".seg.nrrd or label map on it")
    parser.add_argument("--segment", metavar="NAME", help="the tumour, where the file holds several structures")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder for the files; made if needed")
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there already")
    parser.add_argument("--change", choices=CHANGES, default=usual.change, help="of the tumour (default: %(default)s)")
    parser.add_argument(
        "--fraction",
        metavar="F",
        type=finite,
        help="change of its volume: -0.35 takes 35 %% away (default: what is usual for the change)",
    )
    parser.add_argument(
        "--seed",
        metavar="N",
        type=whole_number(0),
        default=usual.seed,
        help="of everything that is drawn (default: %(default)s)",
    )
    for name, unit, text in (
        ("rotation-deg", "DEG", "largest set-up rotation about each axis"),
        ("shift-mm", "MM", "largest set-up shift along each axis"),
        ("deform-mm", "MM", "longest vector of the deformation"),
        ("deform-scale-mm", "MM", "scale on which the deformation varies"),
        ("noise-hu", "HU", "standard deviation of the added noise"),
        ("offset-hu", "HU", "added to every measured voxel"),
    ):
        default = getattr(usual, name.replace("-", "_"))
        parser.add_argument(f"--{name}", metavar=unit, type=finite, default=default, help=f"{text} (default: %(default)g)")
    parser.add_argument(
        "--spacing",
        metavar=("X", "Y", "Z"),
        type=millimetres,
        nargs=3,
        help="voxels of the follow-up in mm (default: drawn from the usual ones)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    options = _options(arguments)
    options.check()
    _check_output(arguments)
    ct = read_volume(arguments.ct)
    warnings = [*ct.warnings, *check_hounsfield(ct)]
    segment, more = _segment(arguments.seg, arguments.segment, ct)
    check_writable(arguments.out, BYTES_PER_VOXEL * int(ct.array.size))
    visit = simulate_followup(ct, segment.mask, options)
    record = {
        "format": "P2SAMSlicer simulation",
        "format_version": 1,
        "program": f"P2SAMSlicer {__version__}",
        "statement": "A simulated second visit, not a scan of a patient.",
        "ct": arguments.ct.name,
        "segmentation": arguments.seg.name,
        "segment": segment.name,
        **visit.record,
    }
    write_visit(arguments.out, visit, segment, record)
    _print(arguments.out, record, warnings + more)
    return 0


def _options(arguments: argparse.Namespace) -> SimulationOptions:
    same = {field.name for field in fields(SimulationOptions)} - {"change_fraction", "spacing"}
    spacing = None if arguments.spacing is None else tuple(arguments.spacing)
    values: dict[str, Any] = {name: getattr(arguments, name) for name in same}
    return SimulationOptions(change_fraction=arguments.fraction, spacing=spacing, **values)


def _check_output(arguments: argparse.Namespace) -> None:
    """Refuse to write over an input, ever, and over other files, unless asked to."""
    for name in (CT_NAME, SEGMENTATION_NAME, RECORD_NAME):
        path = arguments.out / name
        if not os.path.lexists(path):
            continue
        if path.exists() and any(each.exists() and path.samefile(each) for each in (arguments.ct, arguments.seg)):
            raise InputError(f"{name}: is an input, and would be replaced; choose another folder for --out")
        if not arguments.overwrite:
            raise InputError(f"{name}: there already in the folder for the files; use --overwrite to replace")
    check_writable(arguments.out)


def _segment(path: Path, name: str | None, ct: Volume) -> tuple[Segment, list[str]]:
    """The tumour on the CT's grid.

    :raises InputError: it is not there, not usable, or it is not clear which one is meant.
    """
    segmentation = read_segmentation(path, None if name is None else [name])
    if name is None and len(segmentation.segments) > 1:
        raise InputError(
            f"{segmentation.name}: which structure is the tumour? Name one with --segment: {', '.join(segmentation.names())}"
        )
    segments, warnings = segments_on_grid(segmentation, None if name is None else [name], ct.grid)
    return segments[0], warnings


def write_visit(out: Path, visit: SimulatedVisit, segment: Segment, record: dict[str, Any]) -> None:
    """Write a simulated visit: all files or none. An empty truth is not written, and one of an earlier run is removed.

    :param segment: gives the truth its name, colour and terminology.
    :raises OutputError: no space, no permission.
    """
    with atomic_folder(out) as stage:
        write_volume(visit.followup, stage / CT_NAME)
        if visit.mask.any():
            truth = Segment(segment.name, visit.mask, segment.color, segment.terminology)
            write_segmentation(Segmentation(visit.followup.grid, (truth,), "truth"), stage / SEGMENTATION_NAME)
        write_json(stage / RECORD_NAME, record)
    if not visit.mask.any():
        remove_stale(out / SEGMENTATION_NAME)


def _print(out: Path, record: dict[str, Any], warnings: list[str]) -> None:
    for warning in warnings:
        print(f"- {warning}")
    print(f"tumour: {record['prior_ml']:.2f} ml on the prior, {record['followup_ml']:.2f} ml on the simulated follow-up")
    for name in (CT_NAME, SEGMENTATION_NAME, RECORD_NAME):
        if (out / name).exists():
            print(f"written: {out / name}")
    print(record["statement"])
