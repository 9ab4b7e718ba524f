"""Which structure is carried from which reference visit, and its contours there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.patient.contour_facts import contour_facts, is_changed_since_accepted, is_drawn_here
from P2SAMSlicerLib.patient.visit_ct import named_by_label
from P2SAMSlicerLib.patient.visit_order import ContourSource, PatientVisit, VisitOrder
from P2SAMSlicerLib.result_files import is_comparison
from P2SAMSlicerLib.volume import Segment, Volume

if TYPE_CHECKING:
    from P2SAMSlicerLib.dicom.ct_reference import CtReference


@dataclass(frozen=True)
class ChosenReference:
    """What is carried from one reference.

    :param sources: where each structure's contours lie, by name.
    """

    visit: PatientVisit
    sources: Mapping[str, ContourSource]


@dataclass(frozen=True)
class ChosenContours:
    """What is carried from where.

    :param references: the oldest first, each with at least one structure.
    :param notes: what was passed over, in words.
    """

    references: tuple[ChosenReference, ...]
    notes: tuple[str, ...] = ()

    def names(self) -> list[str]:
        """The structures, in the order of the references' files."""
        return list(dict.fromkeys(name for reference in self.references for name in reference.sources))


def choose_contours(order: VisitOrder) -> ChosenContours:
    """Which structure is carried from which of an order's references; reads headers only, but of label maps.

    :raises InputError: a structure that no reference has, one that stands in several files of a visit, unreadable contours.
    """
    notes: list[str] = []
    there = {visit.label: _sources_of(visit, order, notes) for visit in order.references}
    known = list(dict.fromkeys(name for sources in there.values() for name in sources))
    wanted = list(dict.fromkeys(order.segments)) or known
    for name in wanted:
        if name not in known:
            raise InputError(f"no contour named '{name}' to carry to {order.followup.label}; there are: {', '.join(known)}")
    if not wanted:
        raise InputError(f"{order.references[0].label}: its contours hold no structure")
    last = {name: label for label, sources in there.items() for name in sources}
    chosen = []
    for visit in order.references:
        own = {name: source for name, source in there[visit.label].items() if name in wanted}
        if order.carried_from == "previous":
            own = {name: source for name, source in own.items() if last[name] == visit.label}
        if own:
            chosen.append(ChosenReference(visit, own))
    if order.carried_from == "previous":
        latest = order.references[-1].label
        notes += [
            f"{latest} has no contour of '{name}' to carry on; it is carried from {last[name]}"
            for name in wanted
            if last[name] != latest
        ]
    return ChosenContours(tuple(chosen), tuple(dict.fromkeys(notes)))


def _sources_of(visit: PatientVisit, order: VisitOrder, notes: list[str]) -> dict[str, ContourSource]:
    """Where each structure of a visit lies; of several files with the same structure, the approved one.

    Contours of this tool need not be there: nothing was found on that visit, or it failed.
    """
    found: dict[str, ContourSource] = {}
    drawn_here = visit.label in order.unreviewed
    for source in sorted(visit.contours, key=lambda each: not each.approved):
        if drawn_here and not source.path.exists():
            notes.append(f"{visit.label} has no contours to carry on")
            continue
        with named_by_label([visit]):
            names = contour_facts(source.path).names
        for name in dict.fromkeys(names):
            wanted = not order.segments or name in order.segments
            if names.count(name) > 1 and wanted:
                if order.segments:
                    raise InputError(f"{visit.label}: two structures are named '{name}'; rename one")
                notes.append(f"{visit.label}: not carried, because two structures are named '{name}'")
            elif name not in found:
                found[name] = source
            elif found[name].approved == source.approved and wanted:
                raise InputError(f"{visit.label}: '{name}' is in several files; leave only one, or approve one")
    return found


def read_contours(
    chosen: ChosenReference, volume: Volume, reference: CtReference | None, order: VisitOrder
) -> tuple[list[Segment], list[str]]:
    """The contours that are carried from one reference, on its CT's grid, and warnings.

    What this tool drew and nobody accepted as it is now is left out, unless the order says that it is carried on. Structures
    that cannot be used are left out with a warning, unless they were asked for by name.

    :raises InputError: contours cannot be read, or do not lie in the CT, or there is none that can be used.
    """
    from P2SAMSlicerLib.dicom.read_contours import segments_from

    by_source: dict[ContourSource, list[str]] = {}
    for name, source in chosen.sources.items():
        by_source.setdefault(source, []).append(name)
    segments: list[Segment] = []
    warnings: list[str] = []
    drawn_here = chosen.visit.label in order.unreviewed
    with named_by_label([chosen.visit]):
        for source, names in by_source.items():
            found, told = segments_from(source.path, volume, reference, names if order.segments else ())
            usable = [each for each in found if each.name in names and not is_comparison(each)]
            changed = [each for each in usable if not drawn_here and is_changed_since_accepted(each)]
            warnings += [*told, *(f"'{each.name}' was changed after it was accepted and is not carried" for each in changed)]
            left_out = {each.name for each in changed}
            usable = [each for each in usable if drawn_here or not is_drawn_here(each.tags)]
            segments += [each for each in usable if each.name not in left_out]
    if not segments and any("after it was accepted" in each for each in warnings):
        raise InputError(f"{chosen.visit.label}: its contours were changed after they were accepted; accept them again")
    if not segments:
        raise InputError(f"{chosen.visit.label}: its contours were drawn by this tool, and nobody has accepted them")
    return _in_order(segments, list(chosen.sources)), warnings


def _in_order(segments: Sequence[Segment], names: Sequence[str]) -> list[Segment]:
    places = {name: place for place, name in enumerate(names)}
    return sorted(segments, key=lambda segment: places.get(segment.name, len(places)))
