"""What the report needs to know besides the visits' folders: the prior, and who the patient is where that is asked for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from P2SAMSlicerLib.patient.reference_contours import choose_contours
from P2SAMSlicerLib.patient.visit_order import PatientVisit, VisitOrder
from P2SAMSlicerLib.result_files import SUMMARY_NAME

if TYPE_CHECKING:
    from P2SAMSlicerLib.report.patient_report import ReportIdentity


def write_report(
    out: Path, prior: PatientVisit, orders: Sequence[VisitOrder], visits: Sequence[PatientVisit], *, identified: bool
) -> tuple[Path, Path]:
    """Write ``report.html`` and ``report.json`` on all of a patient's follow-ups; a report that is there is replaced.

    :param identified: name the patient and the dates.
    :raises OutputError: it cannot be written.
    """
    from P2SAMSlicerLib.report.patient_report import write_patient_report

    folders = [order.out for order in orders]
    facts = {
        "label": prior.label,
        "day": prior.day,
        "approved": any(source.approved for source in prior.contours),
        "segments": [{"name": name} for name in choose_contours(orders[0]).names()],
        "warnings": _warnings(folders, prior.label),
    }
    identity = identity_of(prior, visits) if identified else None
    return write_patient_report(out, folders, prior=facts, identity=identity, overwrite=True)


def _warnings(folders: Sequence[Path], label: str) -> list[str]:
    """What the visits' summaries say of the prior."""
    found: list[str] = []
    for folder in folders:
        with suppress(OSError, ValueError):
            told: Any = json.loads((folder / SUMMARY_NAME).read_text(encoding="utf-8")).get("warnings", ())
            found += [text for text in told if isinstance(text, str) and text.startswith(f"{label}: ")]
    return list(dict.fromkeys(text.removeprefix(f"{label}: ") for text in found))


def identity_of(prior: PatientVisit, visits: Sequence[PatientVisit]) -> ReportIdentity:
    """Who the patient is and when the visits were, from the prior's DICOM files; dates alone where it has none."""
    from P2SAMSlicerLib.report.patient_report import ReportIdentity

    dates = {visit.label: _date(visit.acquired) for visit in visits if visit.acquired}
    if not prior.ct.dicom:
        return ReportIdentity(visits=dates)
    import pydicom

    tags = ("PatientName", "PatientID", "PatientBirthDate")
    header: Any = pydicom.dcmread(prior.ct.paths[0], stop_before_pixels=True, specific_tags=list(tags), force=True)
    name, identifier, born = (str(header.get(tag, "") or "") for tag in tags)
    return ReportIdentity(patient_name=name, patient_id=identifier, birth_date=_date(born), visits=dates)


def _date(text: str) -> str:
    day = text[:8]
    return f"{day[:4]}-{day[4:6]}-{day[6:]}" if len(day) == 8 and day.isdigit() else text
