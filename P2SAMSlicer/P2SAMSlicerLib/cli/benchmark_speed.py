"""``p2sam benchmark speed``: this product against what it is built on, on this machine."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from P2SAMSlicerLib.benchmark.report import check_report
from P2SAMSlicerLib.cli.arguments import Commands, add_model_arguments, add_progress_argument, whole_number
from P2SAMSlicerLib.cli.arguments import add_command as add_named_command
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.progress import ProgressEvent, terminal_progress
from P2SAMSlicerLib.speed.findings import PARTS, SpeedFindings

if TYPE_CHECKING:
    from P2SAMSlicerLib.speed.case import SpeedCase

SPEED = """\
Measures speed side by side on this machine: the encoder against the model
package's own one in eager float32, and a follow-up in paper mode against a plain
re-statement of the authors' loop, each peer in a process of its own; the answer
to an edited prompt; a cold start with its memory; and how time and work grow with
slices, lesions, visits and parts. Ratios to a peer are medians of pairs taken in turns.

Nothing else should run on the machine meanwhile. On a processor all of it takes
long; --part measures less.

Written into the --out folder: speed.md (tables), speed.json (everything)."""


def add_speed(kinds: Commands) -> None:
    """Add ``speed`` to ``p2sam benchmark``."""
    parser = add_named_command(kinds, "speed", run_speed, "seconds and ratios, side by side with the peers", SPEED)
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder for the report; made if needed")
    parser.add_argument("--overwrite", action="store_true", help="replace a report that is there already")
    parser.add_argument(
        "--part", choices=PARTS, action="append", default=[], help="measure only this; may be given again (default: all)"
    )
    parser.add_argument(
        "--case",
        metavar="DIR",
        type=Path,
        help="a case as p2sam simulate writes it (default: the demo's lung CT, which is fetched once, and a simulated visit)",
    )
    parser.add_argument(
        "--encoder",
        metavar="ID",
        action="append",
        default=[],
        help="measure this model's encoder, too, with random weights where its own are not here; may be given again",
    )
    parser.add_argument(
        "--repeats", metavar="N", type=whole_number(1), default=5, help="pairs of each encoder (default: %(default)s)"
    )
    parser.add_argument(
        "--pairs", metavar="N", type=whole_number(1), default=3, help="pairs of the whole follow-up (default: %(default)s)"
    )
    add_model_arguments(parser)
    add_progress_argument(parser)


def run_speed(arguments: argparse.Namespace) -> int:
    """Run ``benchmark speed``.

    :returns: 1 if paper mode and the authors' loop with the same encoder do not agree, else 0.
    """
    from P2SAMSlicerLib.models import check_model
    from P2SAMSlicerLib.models.catalogue import catalogue_entry
    from P2SAMSlicerLib.speed.report import NAMES, markdown, write_report

    check_report(arguments.out, overwrite=arguments.overwrite, names=NAMES)
    check_model(arguments.model, arguments.checkpoint, allow_unverified=arguments.allow_unverified)
    for each in arguments.encoder:
        catalogue_entry(each)
    if arguments.precision not in ("auto", "float32"):
        raise InputError("--precision: the encoder is measured in every precision that the device has; leave it out")
    findings = _measure(arguments)
    files = write_report(arguments.out, findings)
    print(markdown(findings))
    print()
    for file in files:
        print(f"written: {file}")
    return 1 if findings.followup is not None and findings.followup.differing_voxels else 0


def _measure(arguments: argparse.Namespace) -> SpeedFindings:
    from P2SAMSlicerLib.models import load_model
    from P2SAMSlicerLib.speed.case import speed_case
    from P2SAMSlicerLib.threads import use_threads

    wanted = [part for part in PARTS if not arguments.part or part in arguments.part]
    threads = use_threads(arguments.threads)
    with terminal_progress(as_json=arguments.json_progress) as progress:
        case = speed_case(arguments.case, progress)
        model = load_model(
            arguments.model,
            arguments.device,
            arguments.checkpoint,
            allow_unverified=arguments.allow_unverified,
            precision="float32",
        )
        found: dict[str, Any] = {}
        for number, part in enumerate(wanted):

            def tell(text: str, number: int = number, part: str = part) -> None:
                progress(ProgressEvent(part, number, len(wanted), text))

            found.update(_measure_part(part, arguments, case, model, threads, tell))
        progress(ProgressEvent(wanted[-1], len(wanted), len(wanted)))
    return SpeedFindings(_provenance(model, threads), **found)


def _measure_part(
    part: str, arguments: argparse.Namespace, case: SpeedCase, model: Any, threads: int, tell: Callable[[str], None]
) -> dict[str, Any]:
    """One part, under its name in the findings."""
    from P2SAMSlicerLib.speed.cold_start import measure_cold_start
    from P2SAMSlicerLib.speed.encoder import measure_encoder
    from P2SAMSlicerLib.speed.followup import measure_followup
    from P2SAMSlicerLib.speed.growth import measure_growth
    from P2SAMSlicerLib.speed.prompt_edit import measure_edit

    own = arguments.checkpoint
    if part == "encoder":
        models = dict.fromkeys([arguments.model, *arguments.encoder])
        files = {each: own if each == arguments.model else None for each in models}
        return {
            "encoders": tuple(
                measure_encoder(each, arguments.device, threads, arguments.repeats, checkpoint=file, tell=tell)
                for each, file in files.items()
            )
        }
    if part == "followup":
        return {part: measure_followup(case, model, own, threads, arguments.pairs, tell=tell)}
    if part == "edit":
        return {part: measure_edit(case, model, arguments.repeats, tell=tell)}
    if part == "cold":
        return {part: measure_cold_start(case, arguments.model, arguments.device, own, threads, tell=tell)}
    return {part: measure_growth(model, tell=tell)}


def _provenance(model: Any, threads: int) -> dict[str, Any]:
    from P2SAMSlicerLib.result_files import versions
    from P2SAMSlicerLib.speed.hardware import device_name

    shown = [f"{name} {version}" for name, version in versions().items() if name in ("P2SAMSlicer", "torch")]
    return {
        "hardware": device_name(model.device),
        "device": str(model.device),
        "threads": threads,
        "model": model.card.id,
        "versions": ", ".join(shown),
    }
