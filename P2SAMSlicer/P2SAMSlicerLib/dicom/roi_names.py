"""Names that planning systems take: at most 16 characters, no blanks, told apart without upper and lower case.

AAPM TG-263 (Mayo et al. 2018) asks for this because some systems cut longer names, and some do not tell ``GTV`` from ``gtv``.
A name that fits already is kept as it is, whoever made it up; only others are rewritten. The full name is never lost: the
writers put it into ROIDescription or SegmentDescription.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

LONGEST_NAME = 16
#: What stands behind the name of a registered prior contour that is there for comparison.
DERIVED_SUFFIX = "_regPrior"
#: For a name of which no character can be kept.
NAMELESS = "Structure"

_FITTING = re.compile(r"[A-Za-z0-9_^~!+-]{1,16}")
_NOT_ALLOWED = re.compile(r"[^A-Za-z0-9_^~!+-]+")
#: TG-263 puts the side last: ``Lung_L``.
_SIDES = {"left": "L", "right": "R", "lt": "L", "rt": "R", "l": "L", "r": "R"}
#: Letters that do not fall apart into a plain one and an accent.
_LETTERS = str.maketrans({"ß": "ss", "ø": "o", "Ø": "O", "æ": "ae", "Æ": "Ae", "ł": "l", "Ł": "L", "đ": "d", "ı": "i"})


def roi_names(names: Sequence[str], derived: Sequence[bool] | None = None) -> tuple[str, ...]:
    """Short names for structures, in order.

    :param names: full names; they need not differ.
    :param derived: which of them are registered prior contours for comparison, given by the name of the structure from which
        they come; these end in :data:`DERIVED_SUFFIX`. None if none is.
    :returns: at most :data:`LONGEST_NAME` characters of ``A-Z a-z 0-9 _ - ^ ~ ! +``, all different when compared without case.
    """
    flags = [False] * len(names) if derived is None else list(derived)
    result: list[str | None] = [None] * len(names)
    taken: set[str] = set()
    # Those that fit come first: nobody else's rewritten name may take theirs away.
    for place, (name, flag) in enumerate(zip(names, flags, strict=True)):
        if not flag and _FITTING.fullmatch(name) and name.casefold() not in taken:
            result[place] = name
            taken.add(name.casefold())
    for place, (name, flag) in enumerate(zip(names, flags, strict=True)):
        if result[place] is None:
            result[place] = _unique(_plain(name), DERIVED_SUFFIX if flag else "", taken)
    return tuple(name for name in result if name is not None)


def _unique(name: str, suffix: str, taken: set[str]) -> str:
    """The name with its suffix, shortened, and numbered if it is taken; it is taken afterwards."""
    number = 1
    while True:
        end = suffix if number == 1 else f"{suffix}_{number}"
        found = f"{_shortened(name, LONGEST_NAME - len(end))}{end}"
        if found.casefold() not in taken:
            taken.add(found.casefold())
            return found
        number += 1


def _plain(name: str) -> str:
    """The name in allowed characters only, however long; a side that is written out goes to the end."""
    text = unicodedata.normalize("NFKD", name.translate(_LETTERS)).encode("ascii", "ignore").decode()
    words = [word for word in _NOT_ALLOWED.split(text) if word.strip("_")]
    if _FITTING.fullmatch(name) is None and len(words) > 1:
        sides = [word for word in words if word.lower() in _SIDES]
        if len(sides) == 1:
            words = [word for word in words if word not in sides] + [_SIDES[sides[0].lower()]]
    return "_".join(words) or NAMELESS


def _shortened(name: str, length: int) -> str:
    """The name in so many characters: underscores go first, then the end of the longest word; short endings stay (``_L``)."""
    if len(name) <= length:
        return name
    stem, underscore, end = name.rpartition("_")
    if underscore and 0 < len(end) <= 2 and length > len(end) + 2:
        return f"{_shortened(stem, length - len(end) - 1)}_{end}"
    words = [word for word in name.split("_") if word]
    joined = "".join(word[:1].upper() + word[1:] if place else word for place, word in enumerate(words))
    if len(joined) <= length:
        return joined
    # What is told by the first letters of every word tells more than the first word in full.
    while sum(map(len, words)) > length and any(len(word) > 3 for word in words):
        longest = max(range(len(words)), key=lambda place: (len(words[place]), place))
        words[longest] = words[longest][:-1]
    joined = "".join(word[:1].upper() + word[1:] if place else word for place, word in enumerate(words))
    return joined[:length]
