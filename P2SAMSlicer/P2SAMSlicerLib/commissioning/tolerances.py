"""The tolerances that a physicist sets, read from a file in which nothing is guessed: an unknown word is refused."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from P2SAMSlicerLib.commissioning.figures import FAILED, FIGURES, Figure, is_statistic
from P2SAMSlicerLib.errors import InputError

#: With fewer patients than this nothing is judged, unless the file says otherwise.
LEAST_CASES = 5
#: What the file may ask for as the least number; of fewer, no statistic means anything.
FEWEST_CASES, MOST_CASES = 3, 10000
#: A file larger than this is something else.
LARGEST_BYTES = 100_000

SITE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _-]{0,39}")

#: The statistic of a figure of which there is one for all visits.
TOTAL = "total"


@dataclass(frozen=True)
class Tolerance:
    """A limit on one statistic of one figure.

    :param figure: id in :data:`~P2SAMSlicerLib.commissioning.figures.FIGURES`.
    :param statistic: ``mean``, ``median``, ``worst``, ``p90``, or ``total`` for a figure of all visits together.
    """

    figure: str
    statistic: str
    limit: float

    @property
    def about(self) -> Figure:
        """The figure that it limits."""
        return FIGURES[self.figure]

    def met_by(self, value: float) -> bool:
        """Whether a value keeps the limit; one that is not known does not."""
        return value >= self.limit if self.about.better == "more" else value <= self.limit

    def text(self) -> str:
        """For people."""
        figure = self.about
        name = figure.title if self.statistic == TOTAL else f"{figure.title}, {self.statistic}"
        return f"{name} {figure.word.replace('_', ' ')} {self.limit:g}{f' {figure.unit}' if figure.unit else ''}"


@dataclass(frozen=True)
class Tolerances:
    """All that is asked for.

    :param least_cases: with fewer patients a tolerance is not judged.
    :param usual: for all visits together, and for a site without others.
    :param sites: for a site, those that replace or add to the usual ones.
    """

    least_cases: int
    usual: tuple[Tolerance, ...]
    sites: Mapping[str, tuple[Tolerance, ...]] = field(default_factory=dict)

    def for_site(self, site: str) -> tuple[Tolerance, ...]:
        """The tolerances for the visits of one site."""
        found = {(each.figure, each.statistic): each for each in (*self.usual, *self.sites.get(site, ()))}
        return tuple(found.values())

    def ask_for(self, figure: str) -> bool:
        """Whether any limit on a figure is set."""
        return any(each.figure == figure for group in (self.usual, *self.sites.values()) for each in group)


EXAMPLE = f"""\
# Tolerances for 'p2sam commission'.
#
# These are starting points and no endorsement: whoever commissions the tool sets them for the own clinic, sites and
# use, and signs for them. Where a figure is as AAPM TG-132 (Brock et al., Med Phys 44, e43, 2017) recommends it for
# registration, that is said; TG-132 gives none for contours of a tumour that changed.
#
# Each table is a figure, each entry in it a limit on a statistic of the visits:
#   mean, median, worst, or p1 to p99 (p90: at least 90 % of the visits are that good or better),
# followed by _at_least or _at_most. Tables that are left out are not judged. 'p2sam commission --help' defines all
# figures. [site.lung.dice] holds for the cases of the site 'lung' alone, in place of the same limit here.

# Fewer patients than this judge nothing.
least_cases = {LEAST_CASES}

[dice]                      # TG-132: within the contouring uncertainty of the structure, about 0.80 to 0.90
mean_at_least = 0.80
worst_at_least = 0.60

[mean_surface_distance_mm]  # TG-132: mean distance to agreement of about 2 to 3 mm
mean_at_most = 3.0

[hd95_mm]
mean_at_most = 10.0
worst_at_most = 20.0

[volume_error_percent]      # absolute: growth that is missed counts as much as tissue that is added
mean_at_most = 20.0

[missed_fraction]           # of the true tumour
mean_at_most = 0.15
worst_at_most = 0.35

[registration_error_mm]     # TG-132: target registration error of about 2 to 3 mm
mean_at_most = 3.0

[inverse_consistency_mm]    # TG-132: about 2 to 3 mm. Needs a second registration of every visit.
mean_at_most = 3.0

[folded_share]              # TG-132: no negative Jacobian determinant
worst_at_most = 0.0

[seconds]                   # on this computer
worst_at_most = 600

[flagged_share]             # of the contours; a flag is no fault, but each wants time
at_most = 0.5

[called_gone_share]         # tumours that are there
at_most = 0.0

[failed_visits]
at_most = 0
"""


def default_tolerances() -> Tolerances:
    """Those of :data:`EXAMPLE`."""
    return _tolerances(_parse(EXAMPLE, "the example"), "the example")


def read_tolerances(path: Path | str) -> Tolerances:
    """Read a tolerance file.

    :raises InputError: it cannot be read; an unknown figure or statistic; a limit that is no number or that no clinic means;
        one in the wrong direction.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_BYTES + 1)
        if len(content) > LARGEST_BYTES:
            raise InputError(f"{path.name}: too large for a file of tolerances")
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path.name}: cannot be read ({(error.strerror or 'no such file').lower()})") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path.name}: not a text file in UTF-8") from error
    return _tolerances(_parse(text, path.name), path.name)


def _parse(text: str, name: str) -> dict[str, Any]:
    # Python has its own reader of TOML from 3.11 on.
    toml: Any = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        found: dict[str, Any] = toml.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name}: not TOML ({' '.join(str(error).split())})") from error
    return found


def _tolerances(content: dict[str, Any], name: str) -> Tolerances:
    least = content.pop("least_cases", LEAST_CASES)
    if isinstance(least, bool) or not isinstance(least, int) or not FEWEST_CASES <= least <= MOST_CASES:
        raise InputError(f"{name}: least_cases must be a whole number from {FEWEST_CASES} to {MOST_CASES}")
    tables = content.pop("site", {})
    if not isinstance(tables, dict):
        raise InputError(f"{name}: [site] must hold a table for each site, such as [site.lung.dice]")
    usual = _limits(content, name)
    sites = {}
    for site, limits in tables.items():
        if not SITE_NAME.fullmatch(site) or not isinstance(limits, dict):
            raise InputError(f"{name}: [site.{_short(site)}] is no site with tables of figures, such as [site.lung.dice]")
        sites[site] = _limits(limits, f"{name}: site {site}")
    if not usual and not any(sites.values()):
        raise InputError(f"{name}: holds no tolerance")
    if not any(each.figure == FAILED for each in usual):
        usual = (*usual, Tolerance(FAILED, TOTAL, 0.0))
    return Tolerances(least, usual, sites)


def _limits(tables: Mapping[str, Any], name: str) -> tuple[Tolerance, ...]:
    found = []
    for key, entries in tables.items():
        figure = FIGURES.get(key)
        if figure is None:
            raise InputError(f"{name}: '{_short(key)}' is no figure; known: {', '.join(FIGURES)}")
        if not isinstance(entries, dict) or not entries:
            raise InputError(f"{name}: [{key}] must be a table with a limit, such as {_usual_key(figure)} = ...")
        found += [_limit(figure, entry, value, name) for entry, value in entries.items()]
    order = list(FIGURES)
    return tuple(sorted(found, key=lambda each: order.index(each.figure)))


def _limit(figure: Figure, entry: str, value: Any, name: str) -> Tolerance:
    statistic, _, word = entry.rpartition("_at_")
    where = f"{name}: [{figure.id}] '{_short(entry)}'"
    if figure.each:
        known = is_statistic(statistic) and word in ("least", "most")
    else:
        known, statistic, word = entry in ("at_least", "at_most"), TOTAL, entry.removeprefix("at_")
    if not known:
        raise InputError(f"{where} is no limit; it is written {_usual_key(figure)}")
    if f"at_{word}" != figure.word:
        raise InputError(f"{where}: {figure.better} is better here, so a limit is written {_usual_key(figure)}")
    # Also true of NaN and of an integer that no float can hold.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not figure.low <= value <= figure.high:
        raise InputError(f"{where} must be a number from {figure.low:g} to {figure.high:g}")
    return Tolerance(figure.id, statistic, float(value))


def _usual_key(figure: Figure) -> str:
    return f"mean_{figure.word} (or median_, worst_, p90_)" if figure.each else figure.word


def _short(text: str) -> str:
    """A word of the user's, for a message of one line."""
    return "".join(character if character.isprintable() else "?" for character in text)[:40]
