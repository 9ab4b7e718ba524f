"""From a patient's visits to orders: which visit is the prior, which are follow-ups, and from which contours each is made.

``prior``: every follow-up from the prior. ``previous``: visit to visit; see :func:`_chain`. ``approved``: from all earlier
visits, from the prior on, whose contours a person approved; the prior is always one of them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.models.catalogue import default_model
from P2SAMSlicerLib.options import PropagationOptions
from P2SAMSlicerLib.patient.visit_order import ContourSource, PatientVisit, VisitOrder

CarriedFrom = Literal["prior", "previous", "approved"]
CARRIED_FROM: tuple[str, ...] = get_args(CarriedFrom)


@dataclass(frozen=True)
class PatientSettings:
    """What shall be carried through a patient's visits, and how.

    :param prior: number (``2``), label (``visit_2``) or date (``2024-05-31``, ``20240531``) of the visit to carry from; None
        for the earliest with contours.
    :param followups: visits to carry to, named likewise; empty for all that are later than the prior.
    :param segments: names of the structures; empty for all.
    :param carried_from: ``prior``, ``previous`` or ``approved``.
    :param checkpoint: weights file instead of the model's own.
    :param allow_unverified: accept weights of unknown hash.
    :param precision: of the encoder, see :mod:`P2SAMSlicerLib.models.precision`.
    :param threads: None for the usual number.
    :param resample: bring slices of a DICOM CT that are stacked at an angle or unevenly to a straight, even grid.
    :param dicom: write RTSTRUCT and SEG for follow-ups that are DICOM.
    :param identified: the report names the patient and the dates.
    """

    prior: str | None = None
    followups: tuple[str, ...] = ()
    segments: tuple[str, ...] = ()
    carried_from: str = "prior"
    options: PropagationOptions = field(default_factory=PropagationOptions)
    model: str = field(default_factory=default_model)
    checkpoint: Path | None = None
    allow_unverified: bool = False
    device: str = "auto"
    precision: str = "auto"
    threads: int | None = None
    resample: bool = False
    dicom: bool = True
    identified: bool = False

    def check(self) -> None:
        """Refuse settings that mean nothing.

        :raises InputError: names the setting and the fault.
        """
        self.options.check()
        if self.carried_from not in CARRIED_FROM:
            raise InputError(f"--from: '{self.carried_from}' is none of {', '.join(CARRIED_FROM)}")


def plan_orders(visits: Sequence[PatientVisit], settings: PatientSettings, out: Path) -> tuple[VisitOrder, ...]:
    """One order for each follow-up, by visit number: an order's references are there, or are written by an earlier one.

    :param visits: of one patient, by number.
    :param out: each follow-up gets the folder of its label in it.
    :raises InputError: no such visit, a prior without contours, no follow-up, or one that is older than the prior.
    """
    settings.check()
    visits = [replace(visit, ct=replace(visit.ct, resample=settings.resample)) for visit in visits]
    prior = prior_visit(visits, settings.prior)
    followups = _followups(visits, prior, settings)
    orders = tuple(_order(visits, prior, followups, each, settings, out) for each in followups)
    if settings.options.registration == "file" and (len(orders) > 1 or len(orders[0].references) > 1):
        raise InputError("--registration: a transform belongs to one prior and one follow-up; name the follow-up (--followup)")
    return orders


def prior_visit(visits: Sequence[PatientVisit], name: str | None = None) -> PatientVisit:
    """The visit to carry from.

    :param name: see :class:`PatientSettings`; None for the earliest visit with contours.
    :raises InputError: there is none, or it has no contours.
    """
    if name is None:
        prior = next((visit for visit in visits if visit.contours), None)
        if prior is None:
            raise InputError(f"no visit has contours that could be carried; there are: {_listed(visits)}")
        return prior
    prior = find_visit(visits, name, "--prior")
    if not prior.contours:
        others = _listed([visit for visit in visits if visit.contours]) or "none"
        raise InputError(f"--prior: {prior.label} has no contours that could be carried; with contours: {others}")
    return prior


def find_visit(visits: Sequence[PatientVisit], name: str, option: str) -> PatientVisit:
    """The visit of this number, label or date.

    :param option: what the name was given for, for the message. A date is never repeated in it.
    :raises InputError: none, or several on that date.
    """
    text = name.strip()
    digits = re.fullmatch(r"(\d{4})-?(\d{2})-?(\d{2})", text)
    if digits:
        date = "".join(digits.groups())
        found = [visit for visit in visits if (visit.acquired or "").startswith(date)]
        told = "of that date"
    else:
        found = [visit for visit in visits if text in (str(visit.number), visit.label)]
        told = f"'{text}'" if re.fullmatch(r"(visit_)?\d+", text) else "of that name (a number, visit_N or a date is wanted)"
    if not found:
        raise InputError(f"{option}: there is no visit {told}; there are: {_listed(visits)}")
    if len(found) > 1:
        raise InputError(f"{option}: {len(found)} visits have that date; name one of: {_listed(found)}")
    return found[0]


def _listed(visits: Sequence[PatientVisit]) -> str:
    """Visits in words, without dates."""
    return ", ".join(each.label if each.day is None else f"{each.label} (day {each.day})" for each in visits)


def _followups(visits: Sequence[PatientVisit], prior: PatientVisit, settings: PatientSettings) -> list[PatientVisit]:
    if not settings.followups:
        later = [visit for visit in visits if visit.number > prior.number]
        if not later:
            raise InputError(f"no visit is later than the prior, {prior.label}; there are: {_listed(visits)}")
        return later
    named = {visit.number: visit for visit in (find_visit(visits, name, "--followup") for name in settings.followups)}
    for visit in named.values():
        if visit.number == prior.number:
            raise InputError(f"--followup: {visit.label} is the prior itself")
        if visit.number < prior.number and not settings.options.allow_older_followup:
            raise InputError(
                f"--followup: {visit.label} is older than the prior, {prior.label}"
                " (--allow-older-followup carries on, and records it)"
            )
    return [named[number] for number in sorted(named)]


def _order(
    visits: Sequence[PatientVisit],
    prior: PatientVisit,
    followups: Sequence[PatientVisit],
    followup: PatientVisit,
    settings: PatientSettings,
    out: Path,
) -> VisitOrder:
    between = [visit for visit in visits if prior.number < visit.number < followup.number]
    references: tuple[PatientVisit, ...] = (prior,)
    unreviewed: tuple[str, ...] = ()
    if settings.carried_from == "previous":
        references, unreviewed = _chain(prior, between, {visit.number for visit in followups}, out)
    elif settings.carried_from == "approved":
        references = (prior, *(_approved_only(visit) for visit in between if any(each.approved for each in visit.contours)))
    return VisitOrder(
        references=references,
        followup=followup,
        out=out / followup.label,
        segments=settings.segments,
        carried_from=settings.carried_from,
        unreviewed=unreviewed,
        options=settings.options,
        model=settings.model,
        checkpoint=settings.checkpoint,
        allow_unverified=settings.allow_unverified,
        device=settings.device,
        precision=settings.precision,
        threads=settings.threads,
        dicom=settings.dicom,
    )


def _chain(
    prior: PatientVisit, between: Sequence[PatientVisit], carried_to: set[int], out: Path
) -> tuple[tuple[PatientVisit, ...], tuple[str, ...]]:
    """The links from the prior to a follow-up, the oldest first; a structure is carried from the last one that has it.

    A visit with contours of its own is a link with these; one to which contours are carried is a link with what this tool
    draws there, which nobody has reviewed; any other visit is passed over.
    """
    links, unreviewed = [prior], []
    for visit in between:
        if visit.contours:
            links.append(visit)
        elif visit.number in carried_to:
            links.append(replace(visit, contours=(ContourSource(drawn_contours(out / visit.label)),)))
            unreviewed.append(visit.label)
    return tuple(links), tuple(unreviewed)


def drawn_contours(folder: Path) -> Path:
    """The contours that this tool draws on a visit, in the visit's folder, which has the visit's label."""
    return folder / f"{folder.name}.seg.nrrd"


def _approved_only(visit: PatientVisit) -> PatientVisit:
    return replace(visit, contours=tuple(each for each in visit.contours if each.approved))
