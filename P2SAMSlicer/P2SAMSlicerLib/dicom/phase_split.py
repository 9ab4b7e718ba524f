"""A CT series that holds several phases, each a whole stack at the same places: told apart by one element of the header."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from P2SAMSlicerLib.dicom.indexed_series import DicomFile

#: Elements that may tell phases of one series apart, the most telling first.
SPLITTING_TAGS = (
    *("NominalPercentageOfRespiratoryPhase", "NominalPercentageOfCardiacPhase", "TemporalPositionIdentifier"),
    *("TemporalPositionIndex", "TriggerTime", "SeriesDescription", "ImageComments", "AcquisitionNumber"),
    *("ImageType", "ContentTime", "AcquisitionTime"),
)


@dataclass(frozen=True)
class Placed:
    """A file of a series, where it lies, and what it says of its phase.

    :param position: LPS mm, rounded; empty if the header has none.
    :param values: of :data:`SPLITTING_TAGS`.
    """

    file: DicomFile
    position: tuple[float, ...]
    values: tuple[str, ...]


def split_by_phase(files: Sequence[Placed]) -> list[list[Placed]]:
    """The files of each phase; all in one where the series has one, or where nothing tells them apart cleanly.

    An element tells them apart if each of its values has exactly the same places, two or more, and each place once. Otherwise
    the series stays whole, and reading it is refused for its slices at the same position.
    """
    places = {each.position for each in files}
    if len(places) == len(files) or len(places) < 2 or () in places:
        return [list(files)]
    for tag in range(len(SPLITTING_TAGS)):
        groups: dict[str, list[Placed]] = defaultdict(list)
        for each in files:
            groups[each.values[tag]].append(each)
        if (
            len(groups) > 1
            and "" not in groups
            and all(len(group) == len(places) and {each.position for each in group} == places for group in groups.values())
        ):
            return list(groups.values())
    return [list(files)]
