"""The CT of a visit, under the visit's name, which tells neither patient nor date."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.patient.visit_order import PatientVisit
from P2SAMSlicerLib.volume import VisitIdentity, Volume
from P2SAMSlicerLib.volume_header import short_name

if TYPE_CHECKING:
    from P2SAMSlicerLib.dicom.ct_reference import CtReference

#: Names that files and folders have because of what they are; a message that tells of contours needs the word.
PLAIN_WORDS = frozenset(
    (
        *("prior", "followup", "follow-up", "visit", "image", "images", "mask", "segmentation", "seg", "contour", "contours"),
        *("series", "dicom", "slice", "slices", "scan", "file", "files", "folder"),
    )
)


def read_visit_ct(visit: PatientVisit) -> tuple[Volume, CtReference | None]:
    """The CT in HU, named by the visit's label, and the DICOM images behind it; None for another format.

    :raises InputError: it cannot be used; the message names the visit and no file.
    """
    reference = None
    with named_by_label([visit]):
        if visit.ct.dicom:
            from P2SAMSlicerLib.dicom.series import read_ct_series

            series = read_ct_series(visit.ct.paths, visit.label, resample=visit.ct.resample)
            volume, reference = series.volume, series.reference
        else:
            from P2SAMSlicerLib.volume_file import read_volume

            volume = read_volume(visit.ct.paths[0])
    known = volume.identity
    return replace(
        volume, name=visit.label, identity=VisitIdentity(known.patient_id, known.acquired or visit.acquired)
    ), reference


@contextmanager
def named_by_label(visits: Iterable[PatientVisit]) -> Iterator[None]:
    """In messages of input that cannot be used, visits are named by their labels: files' names may hold a patient's."""
    try:
        yield
    except InputError as error:
        told = without_file_names(str(error), visits)
        if told == str(error):
            raise
        raise type(error)(told) from error


def without_file_names(text: str, visits: Iterable[PatientVisit]) -> str:
    """A message with the names of visits' files and folders replaced by what they are."""
    names: dict[str, str] = {}
    for visit in visits:
        for source in visit.contours:
            names[source.path.name] = names[short_name(source.path)] = f"contours of {visit.label}"
            names[source.path.parent.name] = visit.label
        for path in visit.ct.paths:
            names[path.name] = names[short_name(path)] = f"a file of {visit.label}" if visit.ct.dicom else visit.label
            names[path.parent.name] = visit.label
    # The longest first: a name may be part of another. Very short ones, and folders called what they hold, are words of any
    # message; and a name within a word is none.
    hidden = [name for name in names if len(name) > 2 and name.lower() not in PLAIN_WORDS and name not in names.values()]
    if not hidden:
        return text
    pattern = "|".join(re.escape(name) for name in sorted(hidden, key=len, reverse=True))
    return re.sub(rf"(?<![^\W_])(?:{pattern})(?![^\W_])", lambda found: names[found[0]], text)
