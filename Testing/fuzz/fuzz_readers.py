"""Runs the DICOM readers on hostile folders made from a seed, and prints what they should not have done.

    python Testing/fuzz/fuzz_readers.py --count 100000 --seed 0 [--jobs 2] [--family FAMILY] [--start N] [--keep DIR]

Readers run in child processes with a bound on time and memory; a child that dies is a finding as well, and the next one goes
on behind it. The exit status is 1 if there is a finding.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
#: What a child may use of memory, as addresses: the readers' bounds have to keep within.
MEMORY_BYTES = 6 * 2**30
#: A child that says nothing for so long hangs where no alarm reaches it.
SILENT_SECONDS = 300.0
#: Inputs that one child takes.
BATCH = 2500


@dataclass
class Report:
    """What came of inputs.

    :param findings: as dictionaries with number, family, what, kind, reader and detail.
    :param slowest: seconds of the slowest reader.
    """

    count: int = 0
    findings: list[dict[str, Any]] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0

    def add(self, line: dict[str, Any]) -> None:
        """What a child told of one input."""
        self.count += 1
        self.findings += line["findings"]
        self.answers.update(line["answers"])
        self.slowest = max(self.slowest, line["slowest"])


def limit_memory() -> None:
    """Bound this process, where the system can."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def child(seed: int, start: int, stop: int, family: str | None, keep: Path | None) -> None:
    """Take inputs one by one; each is told on standard output as a line of JSON before and after."""
    from dicom_inputs import hostile_input
    from dicom_seeds import secrets
    from reader_check import Finding, ReaderCheck

    limit_memory()
    told = os.fdopen(os.dup(1), "w", encoding="utf-8")
    printed = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
    for stream in (1, 2):
        os.dup2(printed.fileno(), stream)
    faulthandler.enable(told)
    with tempfile.TemporaryDirectory(prefix="fuzz") as place:
        for number in range(start, stop):
            made = hostile_input(seed, number, family)
            print(json.dumps({"begins": number, "what": made.what}), file=told, flush=True)
            check = ReaderCheck()
            folder = made.write(Path(place))
            try:
                check.run(made, folder)
            except Exception:
                print(traceback.format_exc(), file=told, flush=True)
                raise
            finally:
                words = _printed(printed)
                # Decoders in C++ say what they do not understand; they quote no header.
                if "Traceback" in words or any(secret in words for secret in secrets()):
                    check.findings.append(Finding("printed", "any", repr(words[-200:])))
                if keep is not None and check.findings:
                    shutil.copytree(folder, keep / f"{seed}_{family or 'all'}_{number}", symlinks=True, dirs_exist_ok=True)
                shutil.rmtree(folder)
            found = [{"number": number, "what": made.what, **vars(each)} for each in check.findings]
            line = {"ends": number, "findings": found, "answers": check.answers, "slowest": round(check.slowest, 3)}
            print(json.dumps(line), file=told, flush=True)


def _printed(file: Any) -> str:
    """What was printed since the last time, by compiled code too."""
    sys.stdout.flush()
    sys.stderr.flush()
    file.seek(0)
    words = file.read().decode(errors="replace")
    file.seek(0)
    file.truncate()
    return str(words)


def run(seed: int, start: int, stop: int, family: str | None, keep: Path | None) -> Report:
    """Inputs from ``start`` to ``stop`` in a child, and in another one where one dies."""
    report = Report()
    while start < stop:
        options = [*("--seed", str(seed), "--start", str(start), "--count", str(stop - start)), "--child"]
        options += [*(["--family", family] if family else []), *(["--keep", str(keep)] if keep else [])]
        with subprocess.Popen(
            [sys.executable, __file__, *options], stdout=subprocess.PIPE, text=True, env=_environment()
        ) as process:
            begun, start = _listen(process, report, start)
        if start < stop:
            status = process.returncode
            words = {"number": start, "what": begun, "kind": "died", "reader": "any", "detail": f"status {status}"}
            report.findings.append(words)
            report.count += 1
            start += 1
    return report


def _listen(process: subprocess.Popen[str], report: Report, start: int) -> tuple[str, int]:
    """Take what a child tells until it ends.

    :returns: what the last input is that it began, and the first one that it did not finish.
    """
    import threading

    last = [time.monotonic()]
    over = threading.Event()

    def watch() -> None:
        while not over.wait(1.0):
            if time.monotonic() - last[0] > SILENT_SECONDS:
                process.kill()

    threading.Thread(target=watch, daemon=True).start()
    begun = ""
    assert process.stdout is not None
    for text in process.stdout:
        last[0] = time.monotonic()
        try:
            line = json.loads(text)
        except ValueError:
            print(text, end="", file=sys.stderr)  # of faulthandler
            continue
        if "begins" in line:
            begun = line["what"]
        else:
            report.add(line)
            start = line["ends"] + 1
    over.set()
    return begun, start


def _environment() -> dict[str, str]:
    library = HERE.parents[1] / "P2SAMSlicer"
    paths = [str(HERE), str(library), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}


def fuzz(count: int, seed: int, family: str | None = None, jobs: int = 1, keep: Path | None = None, start: int = 0) -> Report:
    """Read so many inputs, some at a time."""
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
    whole = Report()
    with ThreadPoolExecutor(jobs) as pool:
        parts = [(first, min(first + BATCH, start + count)) for first in range(start, start + count, BATCH)]
        for part in pool.map(lambda ends: run(seed, ends[0], ends[1], family, keep), parts):
            whole.count += part.count
            whole.findings += part.findings
            whole.answers += part.answers
            whole.slowest = max(whole.slowest, part.slowest)
            if whole.count < count:
                print(f"{whole.count} of {count} inputs, {len(whole.findings)} findings", file=sys.stderr, flush=True)
    return whole


def main(arguments: Sequence[str]) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000, help="inputs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=int, default=0, help="number of the first input")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--family", choices=("bytes", "values", "structure", "folders"), help="all by turns if not given")
    parser.add_argument("--keep", type=Path, help="folder for the inputs of findings")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.child:
        child(given.seed, given.start, given.start + given.count, given.family, given.keep)
        return 0
    began = time.monotonic()
    report = fuzz(given.count, given.seed, given.family, given.jobs, given.keep, given.start)
    for each in report.findings:
        print(f"{each['kind']} in {each['reader']}, input {each['number']} ({each['what']}): {each['detail']}")
    for what, times in sorted(report.answers.items()):
        print(f"{times:8} {what}")
    kinds = Counter(f"{each['kind']} in {each['reader']}" for each in report.findings)
    seconds = time.monotonic() - began
    print(f"{report.count} inputs, {len(report.findings)} findings, {seconds:.0f} s, slowest reader {report.slowest:.2f} s")
    for kind, times in kinds.most_common():
        print(f"{times:8} {kind}")
    return 1 if report.findings else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
