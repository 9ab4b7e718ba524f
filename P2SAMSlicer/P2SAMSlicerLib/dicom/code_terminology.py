"""DICOM's coded concepts and colours as 3D Slicer keeps them with a segment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from P2SAMSlicerLib.dicom.header import text, whole_items

if TYPE_CHECKING:
    from pydicom import Dataset

#: Names of Slicer's own lists, in which a terminology entry says that its codes are to be looked up.
CONTEXT = "Segmentation category and type - DICOM master list"
ANATOMY_CONTEXT = "Anatomic codes - DICOM master list"

ANATOMY = ("SCT", "123037004", "Anatomical Structure")
LESION = ("SCT", "49755003", "Morphologically Altered Structure")
TISSUE = ("SCT", "85756007", "Tissue")


def code(item: Dataset, keyword: str) -> list[str] | None:
    """Scheme, value and meaning of the first code of a code sequence; None if there is none.

    Characters that Slicer's text form of a terminology entry uses as dividers become spaces.
    """
    for entry in whole_items(item, keyword)[:1]:
        value = text(entry, "CodeValue") or text(entry, "LongCodeValue") or text(entry, "URNCodeValue")
        if value:
            words = (text(entry, "CodingSchemeDesignator"), value, text(entry, "CodeMeaning"))
            return [plain(word) for word in words]
    return None


def terminology(
    category: Sequence[str] | None, kind: Sequence[str] | None, type_item: Dataset | None = None, region: Dataset | None = None
) -> dict[str, Any] | None:
    """Slicer's terminology entry, or None without a type.

    :param category: code of the category; without one the type is a tissue, which says least.
    :param kind: code of the type.
    :param type_item: the type's own item, which may hold a modifier.
    :param region: what may hold an anatomic region.
    """
    if kind is None:
        return None
    entry: dict[str, Any] = {"contextName": CONTEXT, "category": list(category or TISSUE), "type": list(kind)}
    if type_item is not None and (modifier := code(type_item, "SegmentedPropertyTypeModifierCodeSequence")):
        entry["typeModifier"] = modifier
    if region is not None and (anatomy := code(region, "AnatomicRegionSequence")):
        entry |= {"anatomicContextName": ANATOMY_CONTEXT, "anatomicRegion": anatomy}
        if side := code(whole_items(region, "AnatomicRegionSequence")[0], "AnatomicRegionModifierSequence"):
            entry["anatomicRegionModifier"] = side
    return entry


def plain(words: str) -> str:
    """A text without the characters that divide tags and codes in a ``.seg.nrrd`` file."""
    return " ".join(words.translate(str.maketrans("~^|", "   ")).split())


def rgb_of_lab(values: Sequence[int]) -> tuple[float, float, float]:
    """Red, green and blue, each 0..1, of a ``RecommendedDisplayCIELabValue``.

    :param values: L*, a* and b* as DICOM scales them to 0..65535. The white is D65, as in dcmqi, which wrote most
        segmentations.
    """
    light, a, b = values[0] / 65535 * 100, values[1] / 65535 * 255 - 128, values[2] / 65535 * 255 - 128
    middle = (light + 16) / 116

    def linear(share: float) -> float:
        return share**3 if share > 6 / 29 else 3 * (6 / 29) ** 2 * (share - 4 / 29)

    x, y, z = 0.950456 * linear(middle + a / 500), linear(middle), 1.088754 * linear(middle - b / 200)
    red = 3.2404542 * x - 1.5371385 * y - 0.4985314 * z
    green = -0.9692660 * x + 1.8760108 * y + 0.0415560 * z
    blue = 0.0556434 * x - 0.2040259 * y + 1.0572252 * z

    def gamma(value: float) -> float:
        value = min(1.0, max(0.0, value))
        return 12.92 * value if value <= 0.0031308 else 1.055 * value ** (1 / 2.4) - 0.055

    return gamma(red), gamma(green), gamma(blue)
