"""The verdicts in words, for the report, the tables and the command line."""

from __future__ import annotations

import math
from collections.abc import Sequence

from P2SAMSlicerLib.commissioning.verdict import FAIL, NOT_JUDGED, PASS, Verdict, overall, unjudged_sites

STATEMENT = (
    "All figures come from simulated second visits of the clinic's own cases, not from scans of patients. They say how the"
    " program dealt with the effects that were simulated (set-up error, smooth deformation, a tumour that changed, noise,"
    " another voxel grid) and nothing about a real second visit, a patient, or a clinical outcome.",
    "For research use only. Keeping the tolerances is no statement that a contour is right or that the program is fit for a"
    " purpose: every contour still needs a person's review. New lesions are not sought.",
    "The tolerances are the physicist's own. Those that the program brings are starting points and no endorsement.",
)
HEADLINES = {
    PASS: "PASS: every tolerance was kept on these simulated visits",
    FAIL: "FAIL: at least one tolerance was not kept",
    NOT_JUDGED: "NOT JUDGED: nothing failed, but not every tolerance could be judged",
}


def headline(verdicts: Sequence[Verdict]) -> str:
    """The outcome in a sentence."""
    sites = unjudged_sites(verdicts)
    more = f"; not judged for the site{'s' if len(sites) > 1 else ''} {', '.join(sites)}" if sites else ""
    return f"{HEADLINES[overall(verdicts)]}{more}."


def verdict_cells(verdicts: Sequence[Verdict]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of verdicts."""
    header = ["visits", "tolerance", "value", "verdict", "simulated visits", "patients"]
    rows = []
    for each in verdicts:
        judged = f"{each.judgement} ({each.why})" if each.why else each.judgement
        rows.append([each.group, each.tolerance.text(), value_text(each), judged, str(each.visits), str(each.cases)])
    return header, rows


def value_text(verdict: Verdict) -> str:
    """The figure of a verdict with its unit."""
    value, unit = verdict.value, verdict.tolerance.about.unit
    if value is None:
        return "-"
    if math.isinf(value):
        return "infinite"
    # With as many digits as it takes to be seen on its own side of the limit.
    met = verdict.tolerance.met_by(value)
    shown = repr(value)
    for digits in (3, 4, 5, 6):
        if verdict.tolerance.met_by(float(f"{value:.{digits}g}")) == met:
            shown = f"{value:.{digits}g}"
            break
    return f"{shown} {unit}".rstrip()
