"""Accuracy of the default mode on simulated second visits: ``python3 dev.py bench``.

For every case of ``../shared/data/visits`` (or ``--cases DIR``) the prior contour is carried to the follow-up with the default
model and options, on CPU, and compared with the known truth and with the figures of the peers in ``peers.json`` there. Prints
a Markdown table and writes it with a JSON file of all figures to ``--out``.

The second visits are simulated from real CT. The figures say nothing about a clinic.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
CASES = REPOSITORY.parent / "shared" / "data" / "visits"


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; exit status 1 if there are no cases."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--cases", type=Path, default=CASES, help="folder of cases")
    parser.add_argument("--case", action="append", help="only this case (may be repeated)")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmark-output", help="folder for the results")
    parser.add_argument("--threads", type=int, default=2, help="processor threads")
    arguments = parser.parse_args(argv)
    folders = sorted(folder.parent for folder in arguments.cases.glob("*/followup_seg.nii.gz"))
    folders = [folder for folder in folders if not arguments.case or folder.name in arguments.case]
    if not folders:
        print(f"no cases in {arguments.cases}", file=sys.stderr)
        return 1
    from P2SAMSlicerLib.cli.threads import use_threads
    from P2SAMSlicerLib.models import load_model

    use_threads(arguments.threads)
    model = load_model(device="cpu")
    peers_file = arguments.cases / "peers.json"
    peers = json.loads(peers_file.read_text())["cases"] if peers_file.is_file() else {}
    rows = []
    for folder in folders:
        rows.append(measure(model, folder, peers.get(folder.name, {})))
        print(f"{folder.name}: {json.dumps(rows[-1])}", file=sys.stderr, flush=True)
    table = markdown(rows, arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "accuracy.md").write_text(table + "\n")
    (arguments.out / "accuracy.json").write_text(json.dumps({"cases": rows, "mean": mean(rows)}, indent=1) + "\n")
    print(table)
    return 0


def measure(model: Any, folder: Path, peers: dict[str, Any]) -> dict[str, Any]:
    """All figures of one case."""
    from P2SAMSlicerLib.candidates import WITHOUT_MODEL
    from P2SAMSlicerLib.metrics import evaluate
    from P2SAMSlicerLib.propagation import propagate
    from P2SAMSlicerLib.resample import segments_on_grid
    from P2SAMSlicerLib.segmentation_file import read_segmentation
    from P2SAMSlicerLib.volume_file import read_volume

    prior, followup = read_volume(folder / "prior_ct.nii.gz"), read_volume(folder / "followup_ct.nii.gz")
    segments, _ = segments_on_grid(read_segmentation(folder / "prior_seg.nii.gz"), None, prior.grid)
    truth = segments_on_grid(read_segmentation(folder / "followup_seg.nii.gz"), None, followup.grid)[0][0].mask
    started = time.perf_counter()
    visit = propagate(model, prior, segments[:1], followup)
    seconds = time.perf_counter() - started
    segment = visit.segments[0]
    contour = segment.mask if segment.mask is not None else segment.registered_mask & False
    result = evaluate(contour, truth, followup.grid)
    registered = evaluate(segment.registered_mask, truth, followup.grid)
    chosen = Counter(s.best.origin for s in segment.slices if s.best is not None)
    return {
        "case": folder.name,
        "outcome": segment.outcome.value,
        "rigid_dice": peers.get("rigid", {}).get("dice"),
        "elastix_dice": peers.get("elastix_bspline", {}).get("dice"),
        "registered_dice": registered.as_dict()["volumetric_dice"],
        "dice": result.as_dict()["volumetric_dice"],
        "slice_dice": result.as_dict()["slice_mean_dice"],
        "elastix_hd95_mm": peers.get("elastix_bspline", {}).get("hd95_mm"),
        "registered_hd95_mm": registered.as_dict()["hd95_mm"],
        "hd95_mm": result.as_dict()["hd95_mm"],
        "volume_error_percent": result.as_dict()["volume_error_percent"],
        "missed_fraction": result.as_dict()["missed_fraction"],
        "chosen": dict(chosen),
        "model_share": 1 - sum(chosen[name] for name in WITHOUT_MODEL) / max(1, sum(chosen.values())),
        "seconds": round(seconds, 1),
        "stage_seconds": dict(visit.stage_seconds),
        "peak_memory_gib": round(peak_memory_gib(), 2),
    }


def peak_memory_gib() -> float:
    """Largest resident memory of this process so far, model and libraries included."""
    if platform.system() == "Windows":
        import psutil

        info: Any = psutil.Process().memory_info()  # this figure exists on Windows only
        return float(info.peak_wset) / 2**30
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if platform.system() == "Darwin" else 1024) / 2**30


def mean(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Means over the cases; the peak memory and the longest time are maxima. A figure that is missing makes no mean."""
    result = {}
    for key in COLUMNS.values():
        values = [row[key] for row in rows]
        if all(isinstance(v, int | float) for v in values):
            result[key] = max(values) if key in ("seconds", "peak_memory_gib") else sum(values) / len(values)
    return result


COLUMNS = {
    "rigid Dice (peer)": "rigid_dice",
    "elastix B-spline Dice (peer)": "elastix_dice",
    "own registered contour Dice": "registered_dice",
    "**result Dice**": "dice",
    "result slice Dice": "slice_dice",
    "elastix HD95 mm (peer)": "elastix_hd95_mm",
    "registered HD95 mm": "registered_hd95_mm",
    "result HD95 mm": "hd95_mm",
    "volume error %": "volume_error_percent",
    "missed fraction": "missed_fraction",
    "slices won by the model": "model_share",
    "seconds": "seconds",
    "peak memory GiB": "peak_memory_gib",
}


def markdown(rows: list[dict[str, Any]], threads: int) -> str:
    """The table, its means, and what it must not be taken for."""
    lines = ["| case | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for row in rows:
        lines.append(f"| {row['case']} | " + " | ".join(_cell(key, row[key]) for key in COLUMNS.values()) + " |")
    means = mean(rows)
    cells = [_cell(key, means.get(key)) for key in COLUMNS.values()]
    lines.append("| **mean** (seconds, memory: largest) | " + " | ".join(cells) + " |")
    lines.append("")
    lines.append(
        f"{len(rows)} second visits, simulated from real CT of few patients (case names give the sites). No clinical claim. "
        f"LiteMedSAM on {threads} CPU threads."
    )
    lines.append("")
    lines += [f"- {'met' if met else 'NOT MET'}: {text}" for text, met in goals(means)]
    return "\n".join(lines)


def goals(means: dict[str, float]) -> list[tuple[str, bool]]:
    """What the engine set out to reach on these cases, and whether it did."""
    gain = means["dice"] - means["registered_dice"]
    found = [(f"mean Dice at least 0.02 above the own registered contour ({gain:+.3f})", gain >= 0.02)]
    if "rigid_dice" in means:
        ahead = means["dice"] - means["rigid_dice"]
        found.append((f"mean Dice above rigid registration ({ahead:+.3f})", ahead > 0))
    found.append((f"every follow-up under 180 s ({means['seconds']:.0f} s)", means["seconds"] < 180))
    found.append((f"peak memory under 4 GiB ({means['peak_memory_gib']:.1f} GiB)", means["peak_memory_gib"] < 4))
    return found


def _cell(key: str, value: Any) -> str:
    if value is None:
        return "-"
    if key == "model_share":
        return f"{100 * value:.0f} %"
    if key in ("seconds", "volume_error_percent"):
        return f"{value:.0f}"
    if key.endswith(("hd95_mm", "gib")):
        return f"{value:.1f}"
    return f"{value:.3f}"


if __name__ == "__main__":
    sys.exit(main())
