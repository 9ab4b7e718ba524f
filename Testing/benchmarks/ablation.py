"""What each piece of clinical mode adds: ``python Testing/benchmarks/ablation.py --train DIR --work DIR --out FILE.md``.

Second visits of the training patients are simulated, one a patient. The patients are split into two halves; the default
model's adaptation is trained on the visits of one half and measured on those of the other, so nothing that is measured was
trained on. Base and adapted model carry every contour once, with all numbers of background points; from the candidates of
that run the choice is made again without one piece after the other, and P2SAM's own ways to pick among the numbers of parts
are followed. What is in ``--work`` already (visits, adapters, rows) is not made again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from P2SAMSlicerLib.benchmark.candidate_contours import contour_of, pick_parts, pick_retrieved
from P2SAMSlicerLib.benchmark.cases import CaseData, find_cases, read_case
from P2SAMSlicerLib.benchmark.choice_quality import choice_quality
from P2SAMSlicerLib.benchmark.ranking_quality import RankedSlice, ranked_slices, ranking_quality
from P2SAMSlicerLib.benchmark.statistics import paired_difference
from P2SAMSlicerLib.candidates import EXPECTED, REGISTERED, WITHOUT_MODEL, Proposal
from P2SAMSlicerLib.choice import ABSENT_COST, REGISTERED_CREDIT, SWITCH_COST, Scored, choose_sequence
from P2SAMSlicerLib.cli import main as p2sam
from P2SAMSlicerLib.metrics import hd95_mm, volumetric_dice
from P2SAMSlicerLib.models.protocol import PromptSet
from P2SAMSlicerLib.options import PropagationOptions
from P2SAMSlicerLib.result import Candidate, SliceResult
from P2SAMSlicerLib.review import OWN_DOUBT, priority
from P2SAMSlicerLib.slice_plane import canonical_index, working_grid
from P2SAMSlicerLib.thin_parts import thinness_of, without_thin_parts
from P2SAMSlicerLib.volume import BoolArray

#: Kinds of change in the order in which the patients get them, and the HU offsets of their visits.
CHANGES = ("shrink", "partial", "grow", "shrink", "partial", "stable", "grow", "shrink", "necrosis")
OFFSETS_HU = (-6, 0, 6)
SHRINKS_BY = -0.5
FIRST_SEED = 100
FOLDS = 2
BASE, ADAPTED = "lite_medsam", "adapted"
#: Contours of one run, in the order in which they come to be.
CARRIED, CHOSEN, TRIMMED, FINISHED = "registered", "as chosen", "without thin parts", "clinical mode"
PARTS = 5
#: As in the training of the shipped adapter (see the README), but for one epoch less.
TRAINING = (
    "--method",
    "decoder",
    "--epochs",
    "3",
    "--iterations",
    "1",
    "--batch",
    "6",
    "--learning-rate",
    "3e-4",
    "--seed",
    "1",
)

Keep = Callable[[str], bool]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the ablation."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--train", type=Path, required=True, metavar="DIR", help="patients' CTs with contours")
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="folder for visits, adapters and rows")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the report (Markdown)")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="measure every N-th visit of each half only")
    parser.add_argument("--fold", type=int, choices=range(FOLDS), help="make the rows of this half only, and no report")
    parser.add_argument("--negatives", type=int, nargs="+", default=[1, 8, 45], help="background points (adapted model)")
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16"), help="of the training")
    arguments = parser.parse_args(argv)
    arguments.work.mkdir(parents=True, exist_ok=True)
    visits = simulated(arguments.train, arguments.work / "visits")
    gone = simulated(arguments.train, arguments.work / "vanished", "vanish", 2 * arguments.every)
    rows, outcomes = [], []
    for fold in range(FOLDS) if arguments.fold is None else [arguments.fold]:
        adapter = adapted(arguments.work, visits, fold, arguments.precision)
        for visit in held_out(visits, fold)[:: arguments.every]:
            rows.append(measured(visit, BASE, None, [1], arguments.work))
            rows.append(measured(visit, ADAPTED, adapter, arguments.negatives, arguments.work))
        outcomes += [outcome_of(visit, adapter, arguments.work) for visit in held_out(gone, fold) if visit.exists()]
    if arguments.fold is not None:
        return 0
    command = f"Testing/benchmarks/ablation.py --every {arguments.every} --precision {arguments.precision}"
    text = report(rows, outcomes, arguments.negatives, len(visits), command)
    arguments.out.write_text(text, encoding="utf-8")
    print(f"written: {arguments.out}")
    return 0


def held_out(visits: Sequence[Path], fold: int) -> list[Path]:
    """The visits that a fold measures: every other patient, so that each fold has all kinds of change."""
    return list(visits[fold::FOLDS])


def simulated(train: Path, folder: Path, only: str | None = None, every: int = 1) -> list[Path]:
    """A second visit of every patient.

    :param only: the same change for all.
    :param every: make every n-th visit of each fold only.
    :returns: where the visits of all patients lie, or would lie.
    """
    found = []
    for number, patient in enumerate(sorted(each for each in train.iterdir() if each.is_dir())):
        change = only or CHANGES[number % len(CHANGES)]
        visit = folder / f"{patient.name}_{change}"
        found.append(visit)
        if (visit / "case.json").exists() or number // FOLDS % every:
            continue
        words = ["--ct", str(patient / "CT_image.nii.gz"), "--seg", str(patient / "CT_mask.nii.gz"), "--source", patient.name]
        words += ["--change", change, "--seed", str(FIRST_SEED + number), "--out", str(visit)]
        words += ["--offset-hu", str(OFFSETS_HU[number % len(OFFSETS_HU)])]
        words += ["--fraction", str(SHRINKS_BY)] if change == "shrink" else []
        run("simulate", *words)
    return found


def adapted(work: Path, visits: Sequence[Path], fold: int, precision: str) -> Path:
    """The adapter that was trained without a fold's patients."""
    adapter = work / f"fold{fold}.safetensors"
    if not adapter.exists():
        words = [word for visit in held_out(visits, fold) for word in ("--hold-out", visit.name.rpartition("_")[0])]
        words += ["--features", str(work / "features"), "--precision", precision]
        run("adapt", "--train", str(work / "visits"), "--out", str(adapter), "--base", BASE, *TRAINING, *words)
    return adapter


def run(*words: str) -> None:
    """One ``p2sam`` command, which must succeed."""
    if p2sam(list(words)) != 0:
        raise SystemExit(f"p2sam {words[0]} failed")


def measured(visit: Path, name: str, adapter: Path | None, negatives: Sequence[int], work: Path) -> dict[str, Any]:
    """All figures of one visit and one model; read if they are there already."""
    from P2SAMSlicerLib.models import load_model
    from P2SAMSlicerLib.propagation import propagate

    (work / "rows").mkdir(exist_ok=True)
    file = work / "rows" / f"{visit.name}_{name}.json"
    if file.exists():
        row: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return row
    (case,) = find_cases(visit.parent, (visit.name,))
    data = read_case(case)
    model = load_model(BASE, "cpu", adapter)
    options = PropagationOptions(max_parts=PARTS, negatives=tuple(negatives))
    segment = propagate(model, data.prior, [data.segment], data.followup, options).segments[0]
    result = np.zeros_like(segment.registered_mask) if segment.mask is None else segment.mask
    row = {"visit": visit.name, "patient": case.patient, "change": case.change, "model": name, "outcome": segment.outcome.value}
    row["registered"] = volumetric_dice(segment.registered_mask, data.truth)
    row["result"] = volumetric_dice(result, data.truth)
    row["dice"] = variants(segment.slices, data, negatives)
    row["finish"] = {
        CARRIED: agreement(segment.registered_mask, data),
        **finishing(segment.slices, data, negatives),
        FINISHED: agreement(result, data),
    }
    for key, slices in (("ranked", segment.slices), ("ranked without own doubt", without_own_doubt(segment.slices))):
        found = ranked_slices(slices, result, data.truth, data.followup.grid)
        row[key] = [[each.index, each.priority, each.dice] for each in found]
    file.write_text(json.dumps(row, indent=1), encoding="utf-8")
    print(f"{visit.name} {name}: registered {row['registered']:.3f}, result {row['result']:.3f}", file=sys.stderr, flush=True)
    return row


def without_own_doubt(slices: Sequence[SliceResult]) -> list[SliceResult]:
    """The slices with the review priority that they would have if the model's own doubt did not count."""
    signals = [{name: value for name, value in each.signals.items() if name != OWN_DOUBT} for each in slices]
    return [replace(each, review_priority=priority(own)) for each, own in zip(slices, signals, strict=True)]


def outcome_of(visit: Path, adapter: Path, work: Path) -> str:
    """What clinical mode says of a lesion that has vanished."""
    from P2SAMSlicerLib.models import load_model
    from P2SAMSlicerLib.propagation import propagate

    file = work / "rows" / f"{visit.name}.json"
    if not file.exists():
        (case,) = find_cases(visit.parent, (visit.name,))
        data = read_case(case)
        segment = propagate(load_model(BASE, "cpu", adapter), data.prior, [data.segment], data.followup).segments[0]
        file.write_text(json.dumps({"outcome": segment.outcome.value, "reasons": segment.reasons}), encoding="utf-8")
        print(f"{visit.name}: {segment.outcome.value}", file=sys.stderr, flush=True)
    return str(json.loads(file.read_text(encoding="utf-8"))["outcome"])


def pieces(negatives: Sequence[int]) -> dict[str, Keep]:
    """Name of a variant -> the kinds of candidates that it keeps. All but the last have one number of background points."""
    first = f"negatives {negatives[0]}"

    def usual(origin: str) -> bool:
        return not origin.startswith("parts") or first in origin

    return {
        "everything": usual,
        "no candidate of the model": lambda origin: origin in WITHOUT_MODEL,
        "no registered contour": lambda origin: usual(origin) and origin != REGISTERED,
        "no expected contour": lambda origin: usual(origin) and origin != EXPECTED,
        "candidates of the model alone": lambda origin: usual(origin) and origin not in WITHOUT_MODEL,
        "no boxes": lambda origin: usual(origin) and not origin.startswith("box"),
        "no parts": lambda origin: not origin.startswith("parts"),
        "one part at most": lambda origin: usual(origin) and (not origin.startswith("parts") or origin.startswith("parts 1,")),
        "no mask prompts": lambda origin: usual(origin) and "expected mask" not in origin,
        "all numbers of background points": lambda _origin: True,
    }


def variants(slices: Sequence[SliceResult], data: CaseData, negatives: Sequence[int]) -> dict[str, float]:
    """Dice of the chosen candidates as the model gave them, for every variant."""
    grid = data.followup.grid

    def dice(pick: Callable[[SliceResult], Candidate | None]) -> float:
        return volumetric_dice(contour_of(slices, grid, pick), data.truth)

    if not slices:
        return {}
    found = {name: dice(choice(slices, keep)) for name, keep in pieces(negatives).items()}
    usual = pieces(negatives)["everything"]
    found["each slice on its own"] = dice(choice(slices, usual, switch_cost=0.0))
    found["no credit for the registered contour"] = dice(choice(slices, usual, credit=0.0))
    quality = choice_quality(slices, data.truth, grid)
    found["oracle, one kind a lesion"] = quality.lesion_oracle_dice
    found["oracle, best of every slice"] = quality.slice_oracle_dice
    for count in negatives:
        for parts in range(1, PARTS + 1):
            found[f"parts {parts}, negatives {count}"] = dice(pick_parts(parts, count))
            found[f"1 to {parts} parts by retrieval, negatives {count}"] = dice(pick_retrieved(parts, count))
    return found


def agreement(contour: BoolArray, data: CaseData) -> list[float]:
    """Volumetric Dice, and HD95 in mm, against the truth."""
    return [volumetric_dice(contour, data.truth), hd95_mm(contour, data.truth, data.followup.grid)]


def finishing(slices: Sequence[SliceResult], data: CaseData, negatives: Sequence[int]) -> dict[str, list[float]]:
    """The chosen candidates as they are, and without parts that are thinner than the prior's lesion."""
    if not slices:
        return {}
    grid = data.followup.grid
    pick = choice(slices, pieces(negatives)["everything"])
    chosen = contour_of(slices, grid, pick)
    orientation, working = working_grid(grid)
    preferred = [canonical_index(grid, each) for each in slices if (one := pick(each)) and one.origin == REGISTERED]
    prior_orientation, prior_grid = working_grid(data.prior.grid)
    thinness = thinness_of(prior_orientation.to_canonical(data.segment.mask), prior_grid)
    trimmed = without_thin_parts(orientation.to_canonical(chosen), working, thinness, preferred)
    return {CHOSEN: agreement(chosen, data), TRIMMED: agreement(orientation.to_stored(trimmed), data)}


def choice(
    slices: Sequence[SliceResult], keep: Keep, switch_cost: float = SWITCH_COST, credit: float = REGISTERED_CREDIT
) -> Callable[[SliceResult], Candidate | None]:
    """Clinical mode's choice among the candidates that are kept."""
    chosen: dict[int, Candidate | None] = {}
    for lesion in {each.lesion for each in slices}:
        own = [each for each in slices if each.lesion == lesion]
        offered = [[c for c in each.candidates if keep(c.origin)] for each in own]
        areas = [float(next(c for c in each.candidates if c.origin == EXPECTED).mask.sum()) for each in own]
        typical = float(np.median([area for area in areas if area] or [1.0]))
        costs = [ABSENT_COST * area / typical for area in areas]
        taken_back = [(REGISTERED_CREDIT - credit) * area / typical for area in areas]
        candidates = [[scored(c, back) for c in some] for some, back in zip(offered, taken_back, strict=True)]
        numbers = choose_sequence(candidates, costs, switch_cost)
        for each, some, number in zip(own, offered, numbers, strict=True):
            chosen[id(each)] = None if number is None else some[number]
    return lambda each: chosen[id(each)]


def scored(candidate: Candidate, taken_back: float) -> Scored:
    """A candidate as the choice sees it.

    :param taken_back: of the registered contour's credit.
    """
    logits = candidate.mask.astype(np.float32) - 0.5
    score = candidate.score + (taken_back if candidate.origin == REGISTERED else 0.0)
    return Scored(Proposal(candidate.origin, PromptSet(), logits, candidate.predicted_iou), candidate.distance, score)


def report(rows: Sequence[dict[str, Any]], outcomes: Sequence[str], negatives: Sequence[int], visits: int, command: str) -> str:
    """The tables."""
    by = {name: [row for row in rows if row["model"] == name] for name in (BASE, ADAPTED)}
    new = by[ADAPTED]
    patients = [row["patient"] for row in new]
    lines = [
        "# What each piece of clinical mode adds",
        "",
        f"Made by `{command}`: {len(new)} of {visits} simulated second visits of {len(set(patients))} patients with"
        f" soft-tissue sarcoma (the training set; the fill `borrow`), in {FOLDS} halves by patient. The adapted model of each"
        " half was trained on the other. No clinical claim.",
        "Dice is volumetric, the mean over the visits; the interval is a bootstrap over patients.",
        "",
        "| contour | Dice | minus the registered contour | 95 % interval |",
        "|---|---:|---:|---:|",
    ]
    registered = [row["registered"] for row in new]
    lines.append(f"| own registered contour | {np.mean(registered):.3f} | | |")
    for name in (BASE, ADAPTED):
        lines.append(difference_line(f"clinical mode, {name}", [row["result"] for row in by[name]], registered, patients))
    lines += ["", "By kind of change (registered contour, clinical mode with the base, with the adapted model):", ""]
    lines += ["| change | visits | registered | base | adapted |", "|---|---:|---:|---:|---:|"]
    for change in sorted({row["change"] for row in new}):
        some = [[row[key] for row in by[name] if row["change"] == change] for name, key in FIGURES]
        lines.append(f"| {change} | {len(some[0])} | " + " | ".join(f"{np.mean(values):.3f}" for values in some) + " |")
    lines += [
        "",
        *choice_table(new),
        "",
        *finish_table(new),
        "",
        *parts_table(new, negatives),
        "",
        *ranking_lines(by),
        *gone_lines(outcomes),
        "",
    ]
    return "\n".join(lines)


FIGURES = ((ADAPTED, "registered"), (BASE, "result"), (ADAPTED, "result"))


def difference_line(name: str, values: Sequence[float], others: Sequence[float], patients: Sequence[str]) -> str:
    """A row of a table with a paired difference."""
    found = paired_difference(values, others, patients, seed=0)
    return f"| {name} | {np.mean(values):.3f} | {found.mean:+.3f} | {found.low:+.3f} to {found.high:+.3f} |"


def choice_table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The choice without one piece after the other."""
    some = [row for row in rows if row["dice"]]
    patients = [row["patient"] for row in some]
    whole = [row["dice"]["everything"] for row in some]
    lines = ["The choice of the adapted model's run, candidates as they are (not smoothed, not weighed):", ""]
    lines += ["| candidates | Dice | minus everything | 95 % interval |", "|---|---:|---:|---:|"]
    names = [
        *pieces([1]),
        "no credit for the registered contour",
        "each slice on its own",
        "oracle, one kind a lesion",
        "oracle, best of every slice",
    ]
    return lines + [difference_line(name, [row["dice"][name] for row in some], whole, patients) for name in names]


def finish_table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What becomes of the chosen candidates: thin parts are taken away; clinical mode also smooths and weighs them before."""
    some = [row["finish"] for row in rows if row["dice"]]
    patients = [row["patient"] for row in rows if row["dice"]]
    chosen = [each[CHOSEN][0] for each in some]
    lines = ["From the chosen candidates to the contour (adapted model), HD95 in mm:", ""]
    lines += ["| contour | HD95 | Dice | minus as chosen | 95 % interval |", "|---|---:|---:|---:|---:|"]
    for name in (CARRIED, CHOSEN, TRIMMED, FINISHED):
        hd95 = np.mean([each[name][1] for each in some])
        lines.append(difference_line(f"{name} | {hd95:.1f}", [each[name][0] for each in some], chosen, patients))
    return lines


def parts_table(rows: Sequence[dict[str, Any]], negatives: Sequence[int]) -> list[str]:
    """P2SAM on its own: points alone, in the region of interest, on the registered contour's slices."""
    some = [row for row in rows if row["dice"]]
    patients = [row["patient"] for row in some]
    lines = ["P2SAM's prompts alone (adapted model, points without box or mask), against PerSAM (one part):", ""]
    lines += ["| background points | parts | Dice | minus one part | 95 % interval |", "|---:|---|---:|---:|---:|"]
    for count in negatives:
        one = [row["dice"][f"parts 1, negatives {count}"] for row in some]
        for parts in range(1, PARTS + 1):
            values = [row["dice"][f"parts {parts}, negatives {count}"] for row in some]
            lines.append(f"| {count} " + difference_line(f"{parts}", values, one, patients))
        for parts in range(2, PARTS + 1):
            values = [row["dice"][f"1 to {parts} parts by retrieval, negatives {count}"] for row in some]
            lines.append(f"| {count} " + difference_line(f"1 to {parts}, by retrieval", values, one, patients))
    return lines


def ranking_lines(by: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Whether the review priority sorts the slices of all visits by their error."""
    lines = []
    kinds = [(BASE, "ranked", ""), (ADAPTED, "ranked", "")]
    for name, key, what in [*kinds, (ADAPTED, "ranked without own doubt", " without the model's own doubt")]:
        rows = by[name]
        if rows:
            lines.append(ranking_line(f"{name}{what}", [RankedSlice(*each) for row in rows for each in row[key]]))
    return lines


def ranking_line(name: str, slices: Sequence[RankedSlice]) -> str:
    """How well one priority sorts the slices."""
    found = ranking_quality(slices)
    return (
        f"Review priority, {name}: rank correlation with the slice's error {found.spearman:.2f} over {found.slices} slices;"
        f" the first fifth holds {100 * found.held:.0f} % of the {found.bad} slices below Dice 0.7 (at most"
        f" {100 * found.attainable:.0f} %).\n"
    )


def gone_lines(outcomes: Sequence[str]) -> list[str]:
    """What became of lesions that had vanished."""
    counts = ", ".join(f"{name} {outcomes.count(name)}" for name in sorted(set(outcomes)))
    return [f"Lesions that had vanished (adapted model, {len(outcomes)} other visits), outcome: {counts or 'none simulated'}."]


if __name__ == "__main__":
    sys.exit(main())
