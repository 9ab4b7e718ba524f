"""A simulated case as files: both visits with their contours and, in ``case.json``, all that was asked for and drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from P2SAMSlicerLib import __version__
from P2SAMSlicerLib.atomic_file import atomic_folder
from P2SAMSlicerLib.result_files import write_json
from P2SAMSlicerLib.simulation.lesion import SimulatedPrior
from P2SAMSlicerLib.simulation.visit import HELD_OUT_FILLS, SimulatedVisit, SimulationOptions
from P2SAMSlicerLib.volume import Volume
from P2SAMSlicerLib.volume_file import write_volume

PRIOR_CT, PRIOR_SEGMENTATION = "prior_ct.nii.gz", "prior_seg.nii.gz"
FOLLOWUP_CT, FOLLOWUP_SEGMENTATION = "followup_ct.nii.gz", "followup_seg.nii.gz"
RECORD_NAME = "case.json"
FILE_NAMES = (PRIOR_CT, PRIOR_SEGMENTATION, FOLLOWUP_CT, FOLLOWUP_SEGMENTATION, RECORD_NAME)

STATEMENT = "A simulated second visit, not a scan of a patient."

#: Room for both CTs, which noise keeps from being compressed well, in bytes a voxel of the prior and case.
BYTES_PER_VOXEL = 8


def case_record(
    prior: SimulatedPrior,
    visit: SimulatedVisit,
    options: SimulationOptions,
    *,
    lesion: str,
    diameter_mm: float | None,
    told: Mapping[str, Any],
) -> dict[str, Any]:
    """What case.json holds: what was asked for, what was drawn, and what came out.

    :param lesion, diameter_mm: as they were given to :func:`~P2SAMSlicerLib.simulation.lesion.make_prior`.
    :param told: where the case comes from, such as ``source``, ``site``, ``segment``.
    """
    return {
        "format": "P2SAMSlicer simulated case",
        "format_version": 2,
        "program": f"P2SAMSlicer {__version__}",
        "statement": STATEMENT,
        **told,
        "lesion": lesion,
        "lesion_details": prior.details,
        "fill_held_out": options.fill in HELD_OUT_FILLS,
        **visit.record,
        "options": {**asdict(options), "lesion": lesion, "diameter_mm": diameter_mm},
    }


def write_case(out: Path, prior: SimulatedPrior, visit: SimulatedVisit, record: Mapping[str, Any]) -> None:
    """Write a simulated case: all files or none.

    :raises OutputError: no space, no permission.
    """
    with atomic_folder(out) as stage:
        write_volume(prior.ct, stage / PRIOR_CT)
        write_volume(Volume(prior.mask, prior.ct.grid, "prior_seg"), stage / PRIOR_SEGMENTATION)
        write_volume(visit.followup, stage / FOLLOWUP_CT)
        write_volume(Volume(visit.mask, visit.followup.grid, "followup_seg"), stage / FOLLOWUP_SEGMENTATION)
        write_json(stage / RECORD_NAME, dict(record))
