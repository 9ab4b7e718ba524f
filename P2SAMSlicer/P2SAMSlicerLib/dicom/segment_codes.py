"""What a structure is, in DICOM's words: the type of an ROI in a structure set, and SNOMED codes for a segmentation.

A structure's own terminology, where it has one, is carried over. Else its name decides, after TG-263. Of what is known by
neither, nothing is claimed: it is a tissue.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from P2SAMSlicerLib.structure_role import INTERPRETED_TYPE_TAG, LESION_CODE, is_margin_or_organ
from P2SAMSlicerLib.volume import Segment


@dataclass(frozen=True)
class Code:
    """One coded concept: value, coding scheme, meaning."""

    value: str
    scheme: str
    meaning: str


@dataclass(frozen=True)
class SegmentCodes:
    """Category and type of a structure, and where it is, as far as that is known."""

    category: Code
    type: Code
    type_modifiers: tuple[Code, ...] = ()
    region: Code | None = None
    region_modifiers: tuple[Code, ...] = ()


LESION = Code(LESION_CODE, "SCT", "Morphologically Abnormal Structure")
NEOPLASM = Code("108369006", "SCT", "Neoplasm")
TISSUE = Code("85756007", "SCT", "Tissue")
ANATOMY = Code("123037004", "SCT", "Anatomical Structure")
SIDES = {"l": Code("7771000", "SCT", "Left"), "r": Code("24028007", "SCT", "Right")}

#: SNOMED CT codes of organs at risk by the first word of their TG-263 name, in lower case.
ORGANS = {
    "aorta": ("15825003", "Aorta"),
    "bladder": ("89837001", "Urinary bladder"),
    "bone": ("272673000", "Bone"),
    "brain": ("12738006", "Brain"),
    "brainstem": ("15926001", "Brainstem"),
    "breast": ("76752008", "Breast"),
    "colon": ("71854001", "Colon"),
    "duodenum": ("38848004", "Duodenum"),
    "esophagus": ("32849002", "Esophagus"),
    "eye": ("81745001", "Eye"),
    "femur": ("71341001", "Femur"),
    "heart": ("80891009", "Heart"),
    "kidney": ("64033007", "Kidney"),
    "larynx": ("4596009", "Larynx"),
    "lens": ("78076003", "Lens"),
    "liver": ("10200004", "Liver"),
    "lung": ("39607008", "Lung"),
    "mandible": ("91609006", "Mandible"),
    "opticchiasm": ("244453006", "Optic chiasm"),
    "pancreas": ("15776009", "Pancreas"),
    "parotid": ("45289007", "Parotid gland"),
    "prostate": ("41216001", "Prostate"),
    "rectum": ("34402009", "Rectum"),
    "skin": ("39937001", "Skin"),
    "spinalcord": ("2748008", "Spinal cord"),
    "spleen": ("78961009", "Spleen"),
    "stomach": ("69695003", "Stomach"),
    "trachea": ("44567001", "Trachea"),
    "uterus": ("35039007", "Uterus"),
}

#: Tags in which a reader may have kept the type that a structure set gave.
TYPE_TAGS = (INTERPRETED_TYPE_TAG, "RTROIInterpretedType")
#: Types that DICOM defines for structures as this tool carries them.
DEFINED_TYPES = frozenset(
    {"EXTERNAL", "PTV", "CTV", "GTV", "TREATED_VOLUME", "IRRAD_VOLUME", "BOLUS", "AVOIDANCE", "ORGAN", "MARKER"}
    | {"REGISTRATION", "ISOCENTER", "CONTRAST_AGENT", "CAVITY", "SUPPORT", "FIXATION", "DOSE_REGION", "CONTROL"}
)


def interpreted_type(name: str, terminology: Mapping[str, Any] | None, tags: Mapping[str, str]) -> str:
    """RTROIInterpretedType of a structure; empty where DICOM has no word for it, as for an ITV.

    :param name: full name.
    :param tags: of the source; the type that a structure set gave is kept.
    """
    for tag in TYPE_TAGS:
        if tags.get(tag, "").strip().upper() in DEFINED_TYPES:
            return tags[tag].strip().upper()
    if match := re.match(r"z*_?(GTV|IGTV|CTV|ITV|ICTV|PTV)", name.strip(), re.IGNORECASE):
        return {"IGTV": "GTV", "ITV": "", "ICTV": ""}.get(match[1].upper(), match[1].upper())
    if re.match(r"(body|external|skin)\b", name.strip(), re.IGNORECASE):
        return "EXTERNAL" if not name.strip().lower().startswith("skin") else "ORGAN"
    return "ORGAN" if is_margin_or_organ(_segment(name, terminology)) else "GTV"


def segment_codes(name: str, terminology: Mapping[str, Any] | None) -> SegmentCodes:
    """Codes of a structure.

    :param name: full name.
    :param terminology: Slicer's entry as ``slicerio`` gives it, or None.
    """
    own = terminology or {}
    category, kind = _code(own.get("category")), _code(own.get("type"))
    if category is not None and kind is not None:
        return SegmentCodes(
            category,
            kind,
            _codes(own.get("typeModifier")),
            _code(own.get("anatomicRegion")),
            _codes(own.get("anatomicRegionModifier")),
        )
    words = [word.lower() for word in re.split(r"[^A-Za-z]+", name) if word]
    if re.match(r"z*_?(CTV|ITV|ICTV|PTV)", name.strip(), re.IGNORECASE):
        return SegmentCodes(TISSUE, TISSUE)
    if not is_margin_or_organ(_segment(name, terminology)):
        return SegmentCodes(LESION, NEOPLASM)
    organ = ORGANS.get(words[0]) or ORGANS.get(words[0].removesuffix("s")) if words else None
    if organ is None or len(words) > 2 or (len(words) == 2 and words[1] not in SIDES):
        return SegmentCodes(TISSUE, TISSUE)  # a part of an organ, or an organ without something, is not that organ
    side = (SIDES[words[1]],) if len(words) == 2 else ()
    return SegmentCodes(ANATOMY, Code(organ[0], "SCT", organ[1]), side)


def _segment(name: str, terminology: Mapping[str, Any] | None) -> Segment:
    return Segment(name, np.zeros((0, 0, 0), dtype=np.bool_), terminology=terminology)


def _codes(words: Any) -> tuple[Code, ...]:
    code = _code(words)
    return () if code is None else (code,)


def _code(words: Any) -> Code | None:
    """A code from Slicer's three words (scheme, value, meaning); None if one is missing, or DICOM cannot hold it."""
    if isinstance(words, str) or not isinstance(words, Sequence) or len(words) != 3:
        return None
    scheme, value, meaning = (str(word).strip() for word in words)
    fits = 0 < len(scheme) <= 16 and 0 < len(value) <= 16 and 0 < len(meaning) <= 64
    return Code(value, scheme, meaning) if fits and "\\" not in scheme + value + meaning else None
