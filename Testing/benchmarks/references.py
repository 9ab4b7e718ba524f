"""What contours should be carried from: ``python Testing/benchmarks/references.py --cases DIR [--case NAME] [--rows FILE]``.

Between the prior and the follow-up of each case a third visit is simulated from the prior, with half of the case's change of
the lesion, with motion and noise of its own, and with exactly known contours: those that a physician would have drawn and
approved there. The contours on the case's own follow-up are then made in the ways that ``p2sam patient --from`` offers, and
compared with the truth:

* prior: from the prior alone
* previous: visit to visit, over what the tool drew on the third visit
* previous, corrected: from the third visit alone, with the contours approved there
* approved: from the prior and the third visit, combined

The tables are Markdown on standard output. With ``--rows`` a case that is measured is written to a file at once, and not
measured again.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from P2SAMSlicerLib.benchmark.cases import VANISHED, BenchmarkCase, find_cases, read_case
from P2SAMSlicerLib.benchmark.statistics import paired_difference
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.metrics import hd95_mm, volumetric_dice
from P2SAMSlicerLib.models.protocol import PromptableModel
from P2SAMSlicerLib.options import PropagationOptions
from P2SAMSlicerLib.patient.several_references import CarriedReference, combine_references
from P2SAMSlicerLib.propagation import propagate
from P2SAMSlicerLib.result import VisitResult
from P2SAMSlicerLib.simulation.visit import CHANGES, DEFAULT_FRACTION, SimulatedVisit, SimulationOptions, simulate_followup
from P2SAMSlicerLib.volume import BoolArray, Segment, Volume

PRIOR, PREVIOUS, CORRECTED, APPROVED = "prior", "previous", "previous, corrected", "approved"
WAYS = (PRIOR, PREVIOUS, CORRECTED, APPROVED)
#: The third visit has this share of the case's change; its random numbers are its own.
HALF_WAY = 0.5
SEED = 4100


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure all cases and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=Path, required=True, help="folder of cases, as for p2sam benchmark accuracy")
    parser.add_argument("--case", action="append", default=[], help="only this case; may be given again")
    parser.add_argument("--rows", type=Path, help="file for what is measured; cases in it are not measured again")
    parser.add_argument("--model", default=None, help="see p2sam models list")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=None)
    chosen = parser.parse_args(arguments)
    from P2SAMSlicerLib.models import load_model
    from P2SAMSlicerLib.threads import use_threads

    use_threads(chosen.threads)
    cases = [case for case in find_cases(chosen.cases, chosen.case) if case.change != VANISHED]
    rows: list[dict[str, Any]] = json.loads(chosen.rows.read_text()) if chosen.rows and chosen.rows.exists() else []
    left = [case for case in cases if case.name not in {row["case"] for row in rows}]
    model = load_model(chosen.model, chosen.device) if left else None
    for case in left:
        assert model is not None  # there is a case left
        print(f"{case.name} ...", file=sys.stderr, flush=True)
        rows += measure(model, case)
        if chosen.rows:
            chosen.rows.write_text(json.dumps(rows, indent=1))
    print(markdown(rows, {case.name: case.patient for case in cases}))
    return 0


def measure(model: PromptableModel, case: BenchmarkCase, options: PropagationOptions | None = None) -> list[dict[str, Any]]:
    """One row for each way to carry a case's contour.

    :raises InputError: the case cannot be read.
    """
    data = read_case(case)
    began = time.perf_counter()
    between = intermediate(data.prior, data.segment, case)
    third = replace(between.followup, name="third visit")
    from_prior = propagate(model, data.prior, [data.segment], data.followup, options)
    drawn = propagate(model, data.prior, [data.segment], third, options).segments[0].mask
    approved = replace(data.segment, mask=between.mask)
    from_third = propagate(model, third, [approved], data.followup, options)
    # Without a contour on the third visit, a chain starts from the prior again.
    over_drawn = from_prior
    if drawn is not None:
        over_drawn = propagate(model, third, [replace(data.segment, mask=drawn)], data.followup, options)
    both = [CarriedReference("visit_1", from_prior), CarriedReference("visit_2", from_third)]
    combined, agreements = combine_references(both)
    agreement = next(iter(agreements.values()))
    results = {PRIOR: from_prior, PREVIOUS: over_drawn, CORRECTED: from_third, APPROVED: combined}
    facts = {
        "case": case.name,
        "change": case.change,
        "third_visit_dice": volumetric_dice(np.zeros_like(between.mask) if drawn is None else drawn, between.mask),
        "agreement_dice": agreement.mean_dice,
        "seconds": round(time.perf_counter() - began, 1),
    }
    return [{**facts, "way": way, **figures(result, data.truth)} for way, result in results.items()]


def intermediate(prior: Volume, segment: Segment, case: BenchmarkCase) -> SimulatedVisit:
    """The third visit: half of the change, other motion, the same every time."""
    change: Any = case.change if case.change in CHANGES else "stable"
    seed = SEED + sum(case.name.encode())
    spacing = prior.grid.spacing
    return simulate_followup(
        prior, segment.mask, SimulationOptions(change, HALF_WAY * DEFAULT_FRACTION[change], seed=seed, spacing=spacing)
    )


def figures(result: VisitResult, truth: BoolArray) -> dict[str, Any]:
    """Dice and HD95 of a result; of one without a contour those of nothing."""
    (segment,) = result.segments
    mask = np.zeros_like(truth) if segment.mask is None else segment.mask
    return {
        "outcome": segment.outcome.value,
        "dice": volumetric_dice(mask, truth),
        "hd95_mm": _finite(hd95_mm(mask, truth, result.grid)),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def markdown(rows: Sequence[dict[str, Any]], patients: Mapping[str, str]) -> str:
    """Means of each way, and each case.

    :param patients: of each case that is to be told.
    :raises InputError: none of them was measured.
    """
    by = {(row["case"], row["way"]): row for row in rows}
    names = [name for name in patients if (name, PRIOR) in by]
    if not names:
        raise InputError("no case was measured")
    lines = [
        "| carried from | Dice | HD95 mm | flagged or without contour | Dice against prior alone |",
        "|---|---|---|---|---|",
    ]
    for way in WAYS:
        own, alone = ([by[name, each] for name in names] for each in (way, PRIOR))
        looked_at = sum(row["outcome"] != "found" for row in own)
        against = "-" if way == PRIOR else _difference(own, alone, [patients[name] for name in names])
        lines.append(
            f"| {way} | {_mean(own, 'dice'):.3f} | {_mean(own, 'hd95_mm'):.1f} | {looked_at} of {len(own)} | {against} |"
        )
    titles = [*(f"Dice {way}" for way in WAYS), *(f"HD95 mm {way}" for way in WAYS), "agreement"]
    lines += ["", f"| case | {' | '.join(titles)} |", "|---" * (len(titles) + 1) + "|"]
    for name in names:
        cells = [_cell(by[name, way]["dice"], 3) for way in WAYS] + [_cell(by[name, way]["hd95_mm"], 1) for way in WAYS]
        lines.append(f"| {name} | {' | '.join(cells)} | {_cell(by[name, PRIOR]['agreement_dice'], 3)} |")
    return "\n".join([*lines, "", CAPTION])


def _difference(own: Sequence[dict[str, Any]], alone: Sequence[dict[str, Any]], patients: Sequence[str]) -> str:
    """Mean difference of the Dice, with its interval where there are two patients."""
    pairs = paired_difference([row["dice"] for row in own], [row["dice"] for row in alone], patients, SEED)
    interval = "" if math.isnan(pairs.low) else f" ({pairs.low:+.3f} to {pairs.high:+.3f})"
    return f"{pairs.mean:+.3f}{interval}"


def _cell(value: float | None, decimals: int) -> str:
    return "-" if value is None else f"{value:.{decimals}f}"


CAPTION = (
    "Simulated visits of few patients: the follow-ups are those of the benchmark, the third visits are simulated from the prior"
    " with half of the change. Dice: volumetric; HD95: 3-D, voxel surfaces; an infinite one (no contour) is left out of the"
    " mean. In brackets: 95 % interval, bootstrap over patients. Agreement: Dice of the two contours that are combined."
)


def _mean(rows: Sequence[dict[str, Any]], figure: str) -> float:
    values = [row[figure] for row in rows if row[figure] is not None]
    return float(np.mean(values)) if values else math.nan


if __name__ == "__main__":
    sys.exit(main())
