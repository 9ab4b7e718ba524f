"""Every kind of bad input for ``p2sam propagate``, and a program that runs the command on all of them in one process.

Run as a program it reads a JSON list of argument lists from standard input and writes, for each, the exit status, what was
printed, and whether torch had been imported by then.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from P2SAMSlicerLib.geometry import Grid
from P2SAMSlicerLib.segmentation_file import write_segmentation
from P2SAMSlicerLib.volume import Segmentation, Volume
from P2SAMSlicerLib.volume_file import write_volume
from scipy.io import savemat
from small_visits import FOLLOWUP_GRID, PRIOR_GRID, phantom, segment, write_dicom

#: Options that are replaced in the good command line, and what the error must say.
Case = tuple[dict[str, Any], str]


def cases(folder: Path) -> dict[str, Case]:
    """Make the bad files in a folder that :func:`write_visits` filled; the names are used as parts of sentences."""
    groups = (_unreadable, _wrong_geometry, _wrong_content, _wrong_visit, _options)
    return {kind: case for group in groups for kind, case in group(folder).items()}


def _unreadable(folder: Path) -> dict[str, Case]:
    (folder / "garbage.nii.gz").write_bytes(b"no volume at all")
    (folder / "notes.txt").write_text("hello")
    (folder / "empty_folder").mkdir()
    return {
        "a missing prior CT": ({"--prior-ct": "absent.nii.gz"}, r"absent\.nii\.gz: no such file"),
        "a missing segmentation": ({"--prior-seg": "absent.seg.nrrd"}, r"absent\.seg\.nrrd: no such file"),
        "a missing follow-up": ({"--followup-ct": "absent.nii.gz"}, r"absent\.nii\.gz: no such file"),
        "a missing second follow-up": (
            {"--followup-ct": ["followup.nii.gz", "absent.nii.gz"]},
            r"absent\.nii\.gz: no such file",
        ),
        "a damaged follow-up": ({"--followup-ct": "garbage.nii.gz"}, r"garbage\.nii\.gz: "),
        "a file of another kind": ({"--prior-ct": "notes.txt"}, r"notes\.txt: not a known kind of volume file"),
        "an empty folder": ({"--prior-ct": "empty_folder"}, r"empty_folder: no DICOM CT slices"),
    }


def _wrong_geometry(folder: Path) -> dict[str, Case]:
    import SimpleITK

    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.zeros((9, 9), np.int16)), str(folder / "flat.nii.gz"))
    series = SimpleITK.GetImageFromArray(np.zeros((2, 4, 5, 6), np.int16), isVector=False)
    SimpleITK.WriteImage(series, str(folder / "series.nii.gz"))
    write_volume(phantom(PRIOR_GRID), folder / "plain.nrrd")
    header, _, data = (folder / "plain.nrrd").read_bytes().partition(b"\n\n")
    for name, directions in (("flattened", b"(3,0,0) (0,3,0) (0,0,0)"), ("sheared", b"(3,0,0) (1.5,3,0) (0,0,5)")):
        lines = [b"space directions: " + directions if b"directions" in line else line for line in header.split(b"\n")]
        (folder / f"{name}.nrrd").write_bytes(b"\n".join(lines) + b"\n\n" + data)
    elsewhere = Grid(PRIOR_GRID.shape, PRIOR_GRID.spacing, (500.0, 0.0, 0.0))
    write_segmentation(Segmentation(elsewhere, (segment(),)), folder / "elsewhere.seg.nrrd")
    write_dicom(folder / "gap", phantom(FOLLOWUP_GRID), "A", "20240101", missing=[4])
    return {
        "a 2-D image": ({"--prior-ct": "flat.nii.gz"}, r"flat\.nii\.gz: .*not a 3-D volume"),
        "a 4-D series": ({"--followup-ct": "series.nii.gz"}, r"series\.nii\.gz: .*not one 3-D volume"),
        "a grid of zero spacing": ({"--prior-ct": "flattened.nrrd"}, r"flattened\.nrrd: .*spacing|flattened\.nrrd: .*size"),
        "a sheared grid": ({"--followup-ct": "sheared.nrrd"}, r"sheared\.nrrd: .*(orthonormal|sheared|right angles)"),
        "a mask of another patient's geometry": (
            {"--prior-seg": "elsewhere.seg.nrrd"},
            r"elsewhere: segment 'GTV' lies wholly outside of the CT",
        ),
        "a missing DICOM slice": ({"--followup-ct": "gap"}, r"gap: slices are missing.*003\.dcm.*005\.dcm"),
    }


def _wrong_content(folder: Path) -> dict[str, Case]:
    import SimpleITK

    values = phantom(FOLLOWUP_GRID).array.astype(np.float32)
    values[0, 0, 0] = np.nan
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(values), str(folder / "nan.nrrd"))
    write_volume(Volume(phantom(FOLLOWUP_GRID).array + np.int16(1100), FOLLOWUP_GRID), folder / "mr.nii.gz")
    nothing = segment(mask=np.zeros(PRIOR_GRID.shape, dtype=np.bool_))
    write_segmentation(Segmentation(PRIOR_GRID, (nothing,)), folder / "empty.seg.nrrd")
    write_segmentation(Segmentation(PRIOR_GRID, (segment("A"), segment("B"))), folder / "two.seg.nrrd")
    return {
        "NaN voxels": ({"--followup-ct": "nan.nrrd"}, r"nan\.nrrd: 1 voxels are NaN or infinite"),
        "values that are not HU": ({"--followup-ct": "mr.nii.gz"}, r"mr: the values are not Hounsfield units"),
        "an empty segment": ({"--prior-seg": "empty.seg.nrrd"}, r"empty: segment 'GTV' is empty"),
        "an unknown segment": (
            {"--prior-seg": "two.seg.nrrd", "--segment": "C"},
            r"two: no segment named 'C'; it has: A, B",
        ),
        "a CT as segmentation": ({"--prior-seg": "prior_ct.nii.gz"}, r"prior_ct\.nii\.gz: .*not a label map"),
        "a segmentation as CT": ({"--prior-ct": "prior.seg.nrrd"}, r"prior\.seg\.nrrd: .*segmentation"),
    }


def _wrong_visit(folder: Path) -> dict[str, Case]:
    write_dicom(folder / "prior_dicom", phantom(PRIOR_GRID), "SECRET-1", "20240301")
    write_dicom(folder / "stranger", phantom(FOLLOWUP_GRID), "SECRET-2", "20240401")
    write_dicom(folder / "older", phantom(FOLLOWUP_GRID), "SECRET-1", "20240201")
    return {
        "another patient's follow-up": ({"--prior-ct": "prior_dicom", "--followup-ct": "stranger"}, r"stranger.*patient"),
        "a follow-up older than the prior": ({"--prior-ct": "prior_dicom", "--followup-ct": "older"}, r"older"),
    }


def _options(folder: Path) -> dict[str, Case]:
    (folder / "weights.pth").write_bytes(b"PK" + bytes(1000))
    (folder / "file").write_text("in the way")
    (folder / "bad.tfm").write_text("no transform")
    numbers = {"Euler3DTransform_double_3_3": np.full((6, 1), np.nan), "fixed": np.zeros((4, 1))}
    savemat(folder / "nan.mat", numbers, format="4")
    return {
        "an unknown model": ({"--model": "sam3"}, r"unknown model 'sam3'; known are: lite_medsam_ct, lite_medsam"),
        "a checkpoint of another hash": ({"--checkpoint": "weights.pth"}, r"weights\.pth: SHA-256 is .*, expected"),
        "a missing checkpoint": ({"--checkpoint": "absent.pth"}, r"absent\.pth: weights file not found"),
        "weights that are not on this computer": ({"--model": "sam_vit_h"}, r"sam_vit_h: its weights are not on this computer"),
        "an unknown device": ({"--device": "tpu"}, r"--device: unknown device 'tpu'"),
        "an unknown registration": ({"--registration": "affine"}, r"--registration affine: neither rigid, deformable or none"),
        "a transform that is none": ({"--registration": "bad.tfm"}, r"bad\.tfm: not a transform"),
        "a damaged binary transform": ({"--registration": "nan.mat"}, r"nan\.mat: .* parameters that are not finite numbers"),
        "no parts": ({"--parts": "0"}, r"--parts: '0' is not a whole number of at least 1"),
        "a reversed range": ({"--negatives": "3:1"}, r"--negatives: '3:1' is not a number or a range"),
        "a margin beyond any body": ({"--margin-mm": "900"}, r"margin-mm: 900 is not a length above 0 and below 500 mm"),
        "a margin of no length": ({"--margin-mm": "0"}, r"--margin-mm: '0' is not a length"),
        "a negative seed": ({"--seed": "-1"}, r"--seed: '-1' is not a whole number of at least 0"),
        "a number of threads that is none": ({"--threads": "two"}, r"--threads: 'two' is not a whole number"),
        "an unknown option": ({"--sgement": "A"}, r"unrecognized arguments: --sgement"),
        "a folder for the results below a file": ({"--out": "file/results"}, r"results: cannot be written"),
    }


def command_line(folder: Path, out: Path, options: dict[str, Any]) -> list[str]:
    """The good command line with some options replaced; values that are names of files become paths."""
    words: dict[str, Any] = {
        "--prior-ct": "prior_ct.nii.gz",
        "--prior-seg": "prior.seg.nrrd",
        "--followup-ct": "followup.nii.gz",
        "--out": str(out),
        **options,
    }
    line = ["propagate"]
    for option, values in words.items():
        for value in values if isinstance(values, list) else [values]:
            is_file = option in ("--prior-ct", "--prior-seg", "--followup-ct", "--checkpoint") or "." in value or "/" in value
            line += [option, str(folder / value) if is_file else value]
    return line


def run_all(argument_lists: list[list[str]], main: Callable[[list[str]], int]) -> list[dict[str, Any]]:
    """Run the command on each list of arguments."""
    answers = []
    for arguments in argument_lists:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main(arguments)
        answers.append({"status": status, "out": out.getvalue(), "err": err.getvalue(), "torch": "torch" in sys.modules})
    return answers


if __name__ == "__main__":
    from P2SAMSlicerLib.cli import main as p2sam

    json.dump(run_all(json.load(sys.stdin), p2sam), sys.stdout)
