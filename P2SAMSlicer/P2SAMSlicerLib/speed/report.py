"""The findings as Markdown, ratios first, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from P2SAMSlicerLib.atomic_file import atomic_folder
from P2SAMSlicerLib.result_files import plain, write_json
from P2SAMSlicerLib.speed.cold_start import ColdStartFindings
from P2SAMSlicerLib.speed.encoder import COMPILED, EncoderFindings
from P2SAMSlicerLib.speed.findings import SpeedFindings
from P2SAMSlicerLib.speed.followup import FollowupFindings
from P2SAMSlicerLib.speed.growth import SIZES, GrowthRow, steepness
from P2SAMSlicerLib.speed.prompt_edit import EditFindings

TABLE_NAME, RECORD_NAME = "speed.md", "speed.json"
NAMES = (TABLE_NAME, RECORD_NAME)

PLAIN = "the package's own encoder, eager float32, in a process of its own"


def write_report(out: Path, findings: SpeedFindings) -> list[Path]:
    """Write tables and record.

    :returns: the files.
    :raises OutputError: no space, no permission.
    """
    with atomic_folder(out) as stage:
        (stage / TABLE_NAME).write_text(markdown(findings) + "\n", encoding="utf-8")
        write_json(stage / RECORD_NAME, record(findings))
    return [out / name for name in NAMES]


def record(findings: SpeedFindings) -> dict[str, Any]:
    """The content of the JSON file."""
    content = plain(asdict(findings))
    assert isinstance(content, dict)
    return {"format": "P2SAMSlicer benchmark speed", "format_version": 1, **content}


def markdown(findings: SpeedFindings) -> str:
    """All tables."""
    facts = findings.provenance
    parts = [f"Measured on {facts['hardware']} ({facts['device']}, {facts['threads']} threads), {facts['versions']}."]
    parts += [_encoder(each) for each in findings.encoders]
    parts += [_followup(findings.followup)] if findings.followup is not None else []
    parts += [_edit(findings.edit)] if findings.edit is not None else []
    parts += [_cold(findings.cold)] if findings.cold is not None else []
    parts += [_growth(findings.growth)] if findings.growth else []
    return "\n\n".join(parts)


def _encoder(found: EncoderFindings) -> str:
    flops = found.hardware.flops["float32"]
    rate = found.hardware.bytes_per_second
    least, moved = found.flop / flops, found.moved_bytes / rate
    rows = [[PLAIN, "1", "1.00", _seconds(found.plain_seconds), "", ""]]
    for each in found.timings:
        setup = f"{each.setup_seconds:.1f} s" if each.setup_seconds else ""
        rows.append([each.way, str(each.batch), f"{each.ratio:.2f}", _seconds(each.seconds), setup, f"{each.difference:.0e}"])
    text = f"""\
### Encoder of {found.model} ({found.weights} weights)

{_table(["", "batch", "times as fast", "an image", "set up before", "largest difference"], rows)}

{found.flop / 1e9:.0f} GFLOP an image. The device multiplies large float32 matrices with {flops / 1e9:.0f} GFLOP/s, so that
{_seconds(least)} an image is the limit; {found.best.way} reaches {least / found.best.seconds:.0%} of it. The operators read
and write {found.moved_bytes / 1e9:.1f} GB one by one, which takes {_seconds(moved)} at the {rate / 1e9:.1f} GB/s of a copy."""
    compiled = next((each for each in found.timings if each.way == COMPILED), None)
    if compiled is not None and compiled.seconds < found.best.seconds:
        images = compiled.setup_seconds / (found.best.seconds - compiled.seconds)
        text += f"\n\n{COMPILED} has paid for its setting up after {images:.0f} images."
    if found.left_out:
        text += "\n\nLeft out: " + "; ".join(found.left_out) + "."
    return text


def _followup(found: FollowupFindings) -> str:
    rows = [[step, _seconds(seconds), _seconds(found.paper_steps[step])] for step, seconds in found.authors_steps.items()]
    rows.append(["all", _seconds(found.authors_seconds), _seconds(found.paper_seconds)])
    rows.append(["registration, which the loop does not have", "", _seconds(found.registration_seconds)])
    same = "the masks are the same" if not found.differing_voxels else f"MASKS DIFFER in {found.differing_voxels} voxels"
    pairs = f"{found.pairs} pair{'s' if found.pairs > 1 else ''}"
    clinical = ", ".join(f"{name} {_seconds(value)}" for name, value in found.clinical.items())
    return f"""\
### One follow-up: {found.case}, {found.model} on {found.device}

Paper mode is **{found.ratio:.2f} times** as fast as the authors' loop with the model's package alone; {found.slices} slices,
paired with {found.references} slices of the prior; medians of {pairs}. Measured once, it is
{found.shared_ratio:.2f} times as fast as that loop with this product's encoder, decoder and k-means
({_seconds(found.shared_seconds)}): {same}.
{_rounding(found)}

{_table(["step", "the authors' loop", "paper mode"], rows)}

Clinical mode, registration and every candidate included: {clinical}."""


def _rounding(found: FollowupFindings) -> str:
    if not found.differing_slices:
        return "With the package's encoder and decoder, which differ by rounding, the masks are the same, too."
    text = (
        f"With the package's encoder and decoder, which differ by rounding, {found.differing_slices} of {found.slices} slices"
    )
    return f"{text} have another mask (k-means may draw another cell for a rounding)."


def _edit(found: EditFindings) -> str:
    rows = [
        ["the follow-up before", _seconds(found.first_seconds)],
        ["a point moved on one slice", _seconds(found.seconds)],
        ["the same after the features were forgotten", _seconds(found.forgotten_seconds)],
        ["the follow-up again with one part fewer, features remembered", _seconds(found.again_seconds)],
    ]
    return f"### Again after a prompt edit\n\n{_table(['', 'seconds'], rows)}\n\nMedians of {found.edits} slices."


def _cold(found: ColdStartFindings) -> str:
    rows = [[f"{name} begins", _seconds(value)] for name, value in found.begins.items()]
    rows.append(["contours in their file", _seconds(found.seconds)])
    memory = ""
    if found.peak_gib is not None and found.model_gib is not None:
        above = found.peak_gib - found.model_gib
        memory = (
            f"\n\nMemory: {found.model_gib:.2f} GiB with both CTs and the model loaded, {found.peak_gib:.2f} GiB at most:"
            f" {above:.2f} GiB above."
        )
    return f"### `p2sam propagate` in a new process\n\n{_table(['', 'after the start'], rows)}{memory}"


def _growth(rows: Sequence[GrowthRow]) -> str:
    cells = []
    for each in rows:
        counts = (each.encoded, each.distinct, each.prompt_sets, each.decode_calls)
        cells.append([each.grows, str(each.size), _seconds(each.seconds), *map(str, counts)])
    table = _table(["grows", "to", "time", "images encoded", "different ones", "prompt sets", "decode calls"], cells)
    return f"### Growth\n\n{table}\n\n" + "\n".join(_steepness(rows))


def _steepness(rows: Sequence[GrowthRow]) -> Iterator[str]:
    for grows in SIZES:
        own = [row for row in rows if row.grows == grows]
        time, work = steepness(own, lambda row: row.seconds), steepness(own, lambda row: row.prompt_sets)
        yield (
            f"- {grows}: for each unit the last step took {time:.2f} times as long as the step before (timed once), with"
            f" {work:.2f} times as many prompt sets."
        )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column runs left, the others right."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _seconds(value: float) -> str:
    return f"{value * 1000:.0f} ms" if value < 0.1 else f"{value:.2f} s" if value < 10 else f"{value:.0f} s"
