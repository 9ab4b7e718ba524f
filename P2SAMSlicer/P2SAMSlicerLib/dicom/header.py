"""What a DICOM header says: values that are there or not, never an error, as damaged files hold anything.

Files are read by :mod:`P2SAMSlicerLib.dicom.bounded_read`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from P2SAMSlicerLib.dicom.bounded_read import BoundedFile, ReadBudget

if TYPE_CHECKING:
    from pydicom import Dataset


def text(header: Dataset, tag: str) -> str:
    """A value as one line of text, empty if absent or unreadable."""
    try:
        value = header.get(tag)
        return "" if value is None else " ".join(str(value).replace("\0", " ").split())
    except Exception:  # the parser decodes values only now, and fails in many ways on damaged ones
        return ""


def code(header: Dataset, tag: str) -> str:
    """A coded word such as a modality, which may be shown; empty if there is anything else in its place.

    Where a file is damaged, the text of other elements may stand there, a patient's name among them.
    """
    word = text(header, tag)
    return word if re.fullmatch("[A-Z][A-Z0-9]{1,15}", word) else ""


def texts(header: Dataset, tag: str) -> tuple[str, ...]:
    """All values of a tag as text, none if absent or unreadable."""
    try:
        value = header.get(tag)
        if value is None or value == "":
            return ()
        values = [value] if isinstance(value, str) or not hasattr(value, "__iter__") else list(value)
        return tuple(str(each).strip() for each in values)
    except Exception:  # see above
        return ()


def number(header: Dataset, tag: str) -> float | None:
    """A value as a finite number, None if it is none."""
    try:
        value = float(text(header, tag))
    except ValueError:
        return None
    return value if abs(value) < float("inf") else None


def floats(header: Dataset, tag: str, count: int) -> NDArray[np.float64] | None:
    """``count`` finite numbers of a tag; None if it is absent, has another number of values, or they are no numbers."""
    try:
        values = np.array([float(value) for value in header.get(tag)], dtype=np.float64)
    except Exception:  # absent, or text that is no number; the parser decodes late and fails in many ways
        return None
    return values if values.shape == (count,) and bool(np.isfinite(values).all()) else None


def items(header: Dataset, tag: str, budget: ReadBudget | None = None) -> list[Dataset]:
    """The items of a sequence, none if it is absent, unreadable, or more than the budget allows.

    :param budget: shared by all sequences of one file; without one, this sequence alone has to be within the usual bounds.
    """
    try:
        return whole_items(header, tag, budget)
    except Exception:  # sequences may be damaged or nest too deep
        return []


def whole_items(header: Dataset, tag: str, budget: ReadBudget | None = None) -> list[Dataset]:
    """The same where a part must not be missing, as with contours: what cannot be read is an error.

    :returns: none if there is no such sequence.
    :raises Exception: of any kind, see :func:`~P2SAMSlicerLib.dicom.bounded_read.read_header`.
    """
    from pydicom import Dataset
    from pydicom.dataelem import DataElement, RawDataElement
    from pydicom.filereader import read_sequence

    if tag not in header:
        return []
    element = header.get_item(tag)
    if isinstance(element, RawDataElement):
        # The parser left it for later, and would do it without bounds. It looks at the beginning of each item twice.
        value = element.value or b""
        source: Any = BoundedFile(BytesIO(value), 4 * len(value), budget)
        parsed = read_sequence(
            source,
            element.is_implicit_VR,
            element.is_little_endian,
            len(value),
            header.original_character_set or "iso8859",
        )
        header[element.tag] = element = DataElement(element.tag, "SQ", parsed)
    return [each for each in element.value or () if isinstance(each, Dataset)]


def moment(header: Dataset, kinds: Sequence[str] = ("Acquisition", "Series", "Study")) -> str | None:
    """``YYYYMMDD`` or ``YYYYMMDDHHMMSS`` of the first of these events that has a date which is in the calendar."""
    for kind in kinds:
        date = "".join(filter(str.isdigit, text(header, f"{kind}Date")))
        time = text(header, f"{kind}Time").split(".")[0].replace(":", "")
        if not date and kind == "Acquisition":  # multi-frame objects have both in one
            both = text(header, "AcquisitionDateTime")
            date, time = both[:8], both[8:14]
        if _is_moment(date, "%Y%m%d", 8):
            return date + (time if _is_moment(time, "%H%M%S", 6) else "")
    return None


def _is_moment(digits: str, pattern: str, length: int) -> bool:
    if len(digits) != length or not (digits.isascii() and digits.isdigit()):
        return False
    try:
        datetime.strptime(digits, pattern)
    except ValueError:
        return False
    return True


def is_localizer(header: Dataset) -> bool:
    """Whether an image is a scout view."""
    return any("LOCALIZER" in each.upper() for each in texts(header, "ImageType"))


#: Third value of the image type of what is no CT but computed from it.
_MAPS = frozenset({"PERFUSION", "MATERIAL_MAP", "VELOCITY", "PROJECTION IMAGE"})


def map_kind(header: Dataset) -> str:
    """Of what an image is a map that was computed from a CT, such as ``PERFUSION``; empty for a CT itself."""
    kind = (*texts(header, "ImageType"), "", "", "")[2].upper()
    return kind if kind in _MAPS else ""
