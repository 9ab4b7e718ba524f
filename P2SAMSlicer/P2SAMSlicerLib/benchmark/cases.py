"""The cases of a benchmark: folders with a prior CT, its contour, a follow-up CT and the truth on it.

A folder holds ``prior_ct``, ``prior_seg``, ``followup_ct`` and ``followup_seg`` (CTs as NIfTI, NRRD, MHA or a folder of DICOM
slices; contours as ``.seg.nrrd`` or label map), and may hold ``case.json`` with any of ``change``, ``site``, ``patient`` (or
``source``) and ``segment``. What ``p2sam simulate`` writes is such a folder. A visit on which the lesion has vanished has no
``followup_seg``, or an empty one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from P2SAMSlicerLib.case_folder import UNKNOWN, find_file, patient_of, read_facts
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.resample import resample_mask, segments_on_grid
from P2SAMSlicerLib.segmentation_file import read_segmentation
from P2SAMSlicerLib.volume import BoolArray, Segment, Volume
from P2SAMSlicerLib.volume_file import read_volume

VANISHED = "vanish"
#: Words in a case's name or source that tell the site where case.json does not.
SITE_WORDS = {"lung": ("lung",), "sarcoma": ("sarcoma", "thigh", "limb", "trunk", "sts_")}


@dataclass(frozen=True)
class BenchmarkCase:
    """One case, not read yet.

    :param name: of the folder.
    :param truth: contour on the follow-up; None if the lesion has vanished.
    :param change: kind of change of the lesion, or ``unknown``.
    :param patient: the same for cases of one patient; used for grouping and never written.
    :param simulated: the follow-up is known to be simulated.
    :param segment: name of the structure where the prior's file holds several.
    """

    name: str
    prior_ct: Path
    prior_seg: Path
    followup_ct: Path
    truth: Path | None
    change: str
    site: str
    patient: str
    simulated: bool
    segment: str | None


@dataclass(frozen=True)
class CaseData:
    """One case as arrays.

    :param segment: mask on the prior's grid.
    :param truth: ``(z, y, x)`` on the follow-up's grid; all False if the lesion has vanished.
    """

    prior: Volume
    segment: Segment
    followup: Volume
    truth: BoolArray


def find_cases(folder: Path, names: Sequence[str] = ()) -> list[BenchmarkCase]:
    """All cases of a folder, by name.

    :param names: only these.
    :raises InputError: there are none, one of these names is not there, or a case lacks a file.
    """
    if not folder.is_dir():
        raise InputError(f"{folder.name or folder}: not a folder of cases")
    there = {
        path.name: path for path in sorted(folder.iterdir()) if path.is_dir() and find_file(path, "followup_ct") is not None
    }
    for name in names:
        if name not in there:
            raise InputError(f"{folder.name or folder}: no case named '{name}'; it has: {', '.join(there) or 'none'}")
    if not there:
        raise InputError(
            f"{folder.name or folder}: holds no case (a folder with prior_ct, prior_seg, followup_ct, followup_seg)"
        )
    return [_case(there[name]) for name in (dict.fromkeys(names) if names else there)]


def read_case(case: BenchmarkCase) -> CaseData:
    """Read the four files of a case.

    :raises InputError: one cannot be used; or it is not clear which structure is meant.
    """
    prior, followup = read_volume(case.prior_ct), read_volume(case.followup_ct)
    segmentation = read_segmentation(case.prior_seg)
    several = len(segmentation.segments) > 1
    if several and case.segment is None:
        raise InputError(f"{case.name}: {case.prior_seg.name} holds several structures; name one as 'segment' in case.json")
    # The name of a single one does not matter: a label map's only structure is named by the file, which may have been renamed.
    segments, _ = segments_on_grid(segmentation, [case.segment] if several and case.segment else None, prior.grid)
    return CaseData(prior, segments[0], followup, _truth(case, segments[0].name, followup))


def _truth(case: BenchmarkCase, name: str, followup: Volume) -> BoolArray:
    """The true contour on the follow-up's grid."""
    segmentation = None if case.truth is None else read_segmentation(case.truth)
    if segmentation is None or not segmentation.segments:
        return np.zeros(followup.grid.shape, dtype=np.bool_)
    same = [segment for segment in segmentation.segments if segment.name == name] or list(segmentation.segments)
    if len(same) > 1:
        raise InputError(f"{case.name}: of the structures of the truth none, or more than one, is named '{name}'")
    return resample_mask(same[0].mask, segmentation.grid, followup.grid)


def _case(folder: Path) -> BenchmarkCase:
    facts = read_facts(folder)
    truth = find_file(folder, "followup_seg")
    change = str(facts.get("change", UNKNOWN))
    if truth is None and change != VANISHED:
        raise InputError(f"{folder.name}: the case has no followup_seg, and its change is not '{VANISHED}'")
    patient = patient_of(folder, facts)
    segment = facts.get("segment")
    return BenchmarkCase(
        name=folder.name,
        prior_ct=_needed(folder, "prior_ct"),
        prior_seg=_needed(folder, "prior_seg"),
        followup_ct=_needed(folder, "followup_ct"),
        truth=truth,
        change=change,
        site=str(facts.get("site") or _site(folder.name) or _site(patient) or UNKNOWN),
        patient=patient,
        simulated="seed" in facts,
        segment=None if segment is None else str(segment),
    )


def _needed(folder: Path, stem: str) -> Path:
    path = find_file(folder, stem)
    if path is None:
        raise InputError(f"{folder.name}: the case has no {stem}")
    return path


def _site(text: str) -> str | None:
    return next((site for site, words in SITE_WORDS.items() if any(word in text.lower() for word in words)), None)
