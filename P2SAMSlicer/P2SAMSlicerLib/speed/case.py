"""What the speed is measured on: one prior with one contoured structure and one follow-up."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from P2SAMSlicerLib.benchmark.cases import find_cases, read_case
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.progress import Progress, silent
from P2SAMSlicerLib.simulation.visit import Change
from P2SAMSlicerLib.volume import Segment, Volume

#: Change and seed of the simulated visit when no case is named.
CHANGE: Change = "stable"
SEED = 1


@dataclass(frozen=True)
class SpeedCase:
    """One patient.

    :param name: for people.
    :param segment: contoured on the prior.
    """

    name: str
    prior: Volume
    segment: Segment
    followup: Volume

    @property
    def slices(self) -> int:
        """Slices of the prior that show the structure."""
        return int(self.segment.mask.any(axis=(1, 2)).sum())


def speed_case(folder: Path | None, progress: Progress = silent) -> SpeedCase:
    """A case's folder as ``p2sam simulate`` writes it, or else the demo's lung CT with a simulated second visit.

    :raises InputError: the folder is no case, or the demo's CT cannot be had.
    """
    if folder is None:
        return _demo_case(progress)
    if not folder.is_dir():
        raise InputError(f"{folder.name}: no such folder")
    found = read_case(find_cases(folder.absolute().parent, [folder.absolute().name])[0])
    return SpeedCase(folder.name, found.prior, found.segment, found.followup)


def _demo_case(progress: Progress) -> SpeedCase:
    from P2SAMSlicerLib.demo_data import lung_ct
    from P2SAMSlicerLib.segmentation_file import read_segmentation
    from P2SAMSlicerLib.simulation.visit import SimulationOptions, simulate_followup
    from P2SAMSlicerLib.volume_file import read_volume

    ct, label = lung_ct(progress)
    prior, mask = read_volume(ct), read_segmentation(label).segments[0].mask
    visit = simulate_followup(prior, mask, SimulationOptions(change=CHANGE, seed=SEED))
    return SpeedCase("demo lung CT, simulated visit", prior, Segment("tumour", mask), visit.followup)
