"""``p2sam simulate``: second visits with exactly known truth, from any CT and contour."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from P2SAMSlicerLib.atomic_file import check_writable
from P2SAMSlicerLib.case_folder import UNKNOWN
from P2SAMSlicerLib.cli.arguments import Commands, finite, millimetres, whole_number
from P2SAMSlicerLib.cli.arguments import add_command as add_named_command
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.intensity import check_hounsfield
from P2SAMSlicerLib.resample import segments_on_grid
from P2SAMSlicerLib.segmentation_file import read_segmentation
from P2SAMSlicerLib.simulation.case_files import BYTES_PER_VOXEL, FILE_NAMES, STATEMENT, case_record, write_case
from P2SAMSlicerLib.simulation.lesion import LESIONS, SMALL_DIAMETER_MM, make_prior
from P2SAMSlicerLib.simulation.visit import CHANGES, FILLS, SimulationOptions, simulate_followup
from P2SAMSlicerLib.volume import Segment, Volume
from P2SAMSlicerLib.volume_file import read_volume

DESCRIPTION = """\
Makes a second visit out of a CT and a contour: a set-up error, a smooth
deformation, a tumour change that replaces tissue, another voxel grid, new noise.
The true contour on it is known exactly, so that propagation can be measured on
your own data, as for commissioning.

Written into the --out folder: prior_ct.nii.gz, prior_seg.nii.gz, followup_ct.nii.gz,
followup_seg.nii.gz (the truth; an empty label map where the tumour vanished) and
case.json (all that was asked for and drawn). With several --change or with --count,
each case gets a folder of its own in there, such as shrink_3 for seed 3.

--lesion puts a difficult lesion into both visits:
  own          the tumour as it is (default)
  isodense     the tumour within a few HU of the soft tissue around it
  pair         a mirrored copy of the tumour in like tissue; both are contoured
  distractor   the same, but the copy is not contoured and does not change
  small        a lesion of 5 to 10 mm in soft tissue; only that is contoured, and
  small_lung   in the lung; the CT's own tumour stays, and does not change
A copy of a large tumour takes the largest inner part of it for which there is room.

--fill says how tissue is made that replaces other tissue:
  borrow       patches from elsewhere in the same CT (default)
  synthesis    the surroundings continued smoothly, with synthetic texture. It is held
               out: never train a model on it, and report figures on it apart. They
               tell whether a model learned the lesion or the traces of a simulation.

A simulated visit is no second scan of the patient: figures from it say how the
program deals with these effects, and nothing about a clinic."""


def add_command(commands: Commands) -> None:
    """Add ``simulate`` to the command line."""
    usual = SimulationOptions()
    parser = add_named_command(commands, "simulate", run, "make follow-ups whose true contour is known", DESCRIPTION)
    parser.add_argument("--ct", metavar="A", type=Path, required=True, help="CT file or DICOM folder")
    parser.add_argument("--seg", metavar="B", type=Path, required=True, help=".seg.nrrd or label map on it")
    parser.add_argument("--segment", metavar="NAME", help="the tumour, where the file holds several structures")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder for the files; made if needed")
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there already")
    _add_case_arguments(parser, usual)
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


def _add_case_arguments(parser: argparse.ArgumentParser, usual: SimulationOptions) -> None:
    """What kind of cases, and how many."""
    parser.add_argument(
        "--change",
        choices=CHANGES,
        action="append",
        help=f"of the tumour; may be given several times (default: {usual.change})",
    )
    parser.add_argument(
        "--fraction",
        metavar="F",
        type=finite,
        help="change of its volume: -0.35 takes 35 %% away (default: what is usual for the change)",
    )
    parser.add_argument("--lesion", choices=LESIONS, default=LESIONS[0], help="see above (default: %(default)s)")
    low, high = SMALL_DIAMETER_MM
    parser.add_argument(
        "--diameter-mm", metavar="MM", type=finite, help=f"of a small lesion, {low:g} to {high:g} (default: drawn)"
    )
    parser.add_argument("--fill", choices=FILLS, default=usual.fill, help="see above (default: %(default)s)")
    parser.add_argument(
        "--seed",
        metavar="N",
        type=whole_number(0),
        default=usual.seed,
        help="of everything that is drawn (default: %(default)s)",
    )
    parser.add_argument(
        "--count",
        metavar="N",
        type=whole_number(1),
        default=1,
        help="cases of each change, with seeds from --seed on (default: 1)",
    )
    parser.add_argument(
        "--site", metavar="NAME", default=UNKNOWN, help="body site, such as lung, for figures by site (default: %(default)s)"
    )
    parser.add_argument(
        "--source",
        metavar="LABEL",
        default=UNKNOWN,
        help="label of the patient, for figures by patient: a number of your own, never a name or an id (default: %(default)s)",
    )


@dataclass(frozen=True)
class _Case:
    """One case to be made.

    :param folder: for its files.
    :param name: of the folder within ``--out``, or empty.
    """

    folder: Path
    name: str
    options: SimulationOptions


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    cases = _cases(arguments)
    for case in cases:
        case.options.check()
        _check_output(arguments, case.folder)
    ct = read_volume(arguments.ct)
    warnings = [*ct.warnings, *check_hounsfield(ct)]
    segment, more = _segment(arguments.seg, arguments.segment, ct)
    check_writable(arguments.out, len(cases) * BYTES_PER_VOXEL * int(ct.array.size))
    for warning in warnings + more:
        print(f"- {warning}")
    for case in cases:
        try:
            prior = make_prior(ct, segment.mask, arguments.lesion, case.options.seed, arguments.diameter_mm)
            visit = simulate_followup(prior.ct, prior.mask, case.options, prior.others)
        except InputError as error:
            raise InputError(f"{case.name}: {error}" if case.name else str(error)) from error
        told = {"source": arguments.source, "site": arguments.site, "ct": arguments.ct.name}
        told |= {"segmentation": arguments.seg.name, "segment": segment.name}
        lesion, diameter = arguments.lesion, arguments.diameter_mm
        record = case_record(prior, visit, case.options, lesion=lesion, diameter_mm=diameter, told=told)
        write_case(case.folder, prior, visit, record)
        _print(case.folder, record)
    print(STATEMENT)
    return 0


def _cases(arguments: argparse.Namespace) -> list[_Case]:
    """The cases that are asked for; a single one lies in the --out folder itself."""
    changes = list(dict.fromkeys(arguments.change or [SimulationOptions().change]))
    same = {field.name for field in fields(SimulationOptions)} - {"change", "change_fraction", "spacing", "seed"}
    values: dict[str, Any] = {name: getattr(arguments, name) for name in same}
    spacing = None if arguments.spacing is None else tuple(arguments.spacing)
    cases = []
    for change in changes:
        for seed in range(arguments.seed, arguments.seed + arguments.count):
            options = SimulationOptions(change, arguments.fraction, spacing=spacing, seed=seed, **values)
            single = len(changes) == arguments.count == 1
            name = "" if single else _case_name(arguments, options)
            cases.append(_Case(arguments.out / name, name, options))
    return cases


def _case_name(arguments: argparse.Namespace, options: SimulationOptions) -> str:
    """What differs from the usual case is named, so that the cases of several commands fit into one folder."""
    usual = SimulationOptions()
    words = ["" if arguments.source == UNKNOWN else "".join(c if c.isalnum() or c in "-_" else "_" for c in arguments.source)]
    words += ["" if arguments.lesion == LESIONS[0] else arguments.lesion, options.change]
    words += ["" if options.fill == usual.fill else options.fill, str(options.seed)]
    return "_".join(word for word in words if word)


def _check_output(arguments: argparse.Namespace, folder: Path) -> None:
    """Refuse to write over an input, ever, and over other files, unless asked to."""
    for name in FILE_NAMES:
        path = folder / name
        if not os.path.lexists(path):
            continue
        if path.exists() and any(each.exists() and path.samefile(each) for each in (arguments.ct, arguments.seg)):
            raise InputError(f"{name}: is an input, and would be replaced; choose another folder for --out")
        if not arguments.overwrite:
            raise InputError(f"{name}: there already in the folder for the files; use --overwrite to replace")
    check_writable(folder)


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


def _print(folder: Path, record: dict[str, Any]) -> None:
    volumes = f"{record['prior_ml']:.2f} ml on the prior, {record['followup_ml']:.2f} ml on the simulated follow-up"
    print(f"{record['change']}, seed {record['seed']}: tumour {volumes}")
    print(f"written: {folder}")
