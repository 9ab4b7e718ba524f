"""Which structures a model may segment: tumours. Margins and organs at risk are carried by the registration alone.

A CTV or PTV is no visible object, it is drawn by a rule; an organ at risk is not what this tool was made and measured for.
They are told by their names after AAPM TG-263 (Mayo et al. 2018), by what a structure set says of them
(``RTROIInterpretedType``), or by their terminology; the user may say otherwise for any structure. Whatever is not known is
taken for a tumour, because that is what this tool is asked to carry.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from P2SAMSlicerLib.volume import Segment

#: Beginnings of the names of targets that are no visible tumour (TG-263: target type, classifier and number follow directly).
DRAWN_BY_RULE = ("CTV", "ITV", "ICTV", "IGTV", "PTV")
#: Beginnings of words that say that a structure is a tumour, also where an organ is named: "Lung tumour", "Liver metastases".
TUMOUR_WORDS = (
    *("gtv", "tumo", "lesion", "metast", "cancer", "sarcom", "carcinom", "adenocarcinom", "nodul", "neoplas"),
    *("lymphom", "melanom", "gliom", "hcc", "nsclc", "sclc"),
)
#: Such words as a whole: a masseter is no mass.
WHOLE_TUMOUR_WORDS = ("met", "mets", "ca", "mass", "masses")
_ORGANS = """
    anus aorta bag bladder body bone bowel brachialplex brain brainstem breast bronchus carina cartilage caudaequina cavity
    cerebellum cerebrum chestwall cochlea colon cornea cricoid duodenum ear esophagus external eye femur gallbladder genitals
    glnd glottis greatves heart hemisphere hippocampus hypothalamus ileum jejunum joint kidney larynx lens lips liver lung
    mandible mediastinum musc nasalconcha opticchiasm opticnrv ovary palate pancreas parotid pelvis penilebulb penis
    pericardium pharynx pharynxconst pituitary pons prostate rectum retina rib sacralplex sacrum scalp seminalves sigmoid
    skin skull spinalcanal spinalcord spleen spongbone sternum stomach testis thymus thyroid tmjoint tongue trachea ureter
    urethra uterus vagina vb ventricle vocalcord vulva
"""
#: First words of TG-263's names of normal structures, in lower case; what follows ("_L", "_R", "s") narrows them.
ORGANS = frozenset(_ORGANS.split())
#: SNOMED CT code of the category of normal anatomy in Slicer's terminologies ("Anatomical Structure"), and of lesions
#: ("Morphologically Altered Structure").
ANATOMY_CODE, LESION_CODE = "123037004", "49755003"
#: The same in the older coding (SRT), which many DICOM segmentations still use.
OLD_ANATOMY_CODE, OLD_LESION_CODE = "T-D000A", "M-01000"
#: Segment tag with the ``RTROIInterpretedType`` of a DICOM structure set, in capitals.
INTERPRETED_TYPE_TAG = "DICOM.RTROIInterpretedType"
#: Its values for targets that are drawn by a rule, and for what is no tumour. ``GTV`` is one; ``CONTROL``, ``REGISTRATION`` and
#: the others say nothing of it, and some planning systems give them to every structure.
MARGIN_TYPES = frozenset({"CTV", "PTV", "ITV", "TREATED_VOLUME", "IRRAD_VOLUME"})
OTHER_TYPES = frozenset({"ORGAN", "AVOIDANCE", "EXTERNAL", "CAVITY", "BOLUS", "SUPPORT", "FIXATION", "DOSE_REGION"})


def by_registration_only(segment: Segment, chosen: Collection[str] = (), with_model: Collection[str] = ()) -> bool:
    """Whether a structure is carried by the registration alone.

    :param chosen: names of structures that the user wants to be carried so.
    :param with_model: names of structures that a model is to segment whatever they are called.
    """
    if segment.name in with_model:
        return False
    return segment.name in chosen or is_margin_or_organ(segment)


def is_margin_or_organ(segment: Segment) -> bool:
    """Whether name, interpreted type or terminology say that a structure is a margin around a tumour, or an organ.

    A name that says that it is a tumour counts more than the type ``ORGAN``, which some planning systems give to every
    structure.
    """
    name = segment.name.strip()
    kind = segment.tags.get(INTERPRETED_TYPE_TAG, "").strip().upper()
    if kind in MARGIN_TYPES or re.match(rf"z*_?({'|'.join(DRAWN_BY_RULE)})", name, re.IGNORECASE):
        return True
    words = [word.lower() for word in re.split(r"[^A-Za-z]+", name) if word]
    if _is_organ(words) and re.search(r"\w-(GTV|IGTV|CTV|ITV|PTV)", name, re.IGNORECASE):
        return True  # what is left of an organ without the target: TG-263's "Lungs-GTV"
    if any(word.startswith(TUMOUR_WORDS) or word in WHOLE_TUMOUR_WORDS for word in words):
        return False
    category = (segment.terminology or {}).get("category") or ["", "", ""]
    if kind == "GTV" or LESION_CODE in category or OLD_LESION_CODE in category:
        return False
    if kind in OTHER_TYPES or ANATOMY_CODE in category or OLD_ANATOMY_CODE in category:
        return True
    return _is_organ(words)


def _is_organ(words: Sequence[str]) -> bool:
    return bool(words) and (words[0] in ORGANS or words[0].removesuffix("s") in ORGANS)
