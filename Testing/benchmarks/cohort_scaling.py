"""Cost of many patients: ``python Testing/benchmarks/cohort_scaling.py [--patients 100 1000] [--workers 1 2]``.

First ``p2sam cohort`` runs on patients of two follow-ups whose visits take no time: what is measured is what the program itself
adds to a visit (time of the driver, less the time in which a worker was busy with a visit or a report), and the driver's peak
memory. Then one, two, ... workers share visits that burn processor time for a while each. Every run is a process of its own.
Prints Markdown; exit status 1 if a goal is missed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

UNIT = Path(__file__).resolve().parents[1] / "unit"
LIBRARY = UNIT.parents[1] / "P2SAMSlicer"
#: Goals: what the program adds to a visit, ms; growth of the driver's peak memory from the fewest patients to the most, %.
MOST_MS, MOST_GROWTH = 20.0, 10.0
VISITS = 2
#: One measured run, in a process of its own: folder, patients, workers, seconds of processor time of a visit.
RUN = """
import json, sys, time
from pathlib import Path

def measure(folder, patients, workers, burn):
    from cohort_stand_ins import functions, planner_for, record_failure, write_patients
    from P2SAMSlicerLib.benchmark.memory import peak_memory_gib
    from P2SAMSlicerLib.cohort.manifest import read_manifest
    from P2SAMSlicerLib.cohort.run import CohortJob, run_cohort
    from P2SAMSlicerLib.cohort.schedule import Schedule
    from P2SAMSlicerLib.patient.plan import PatientSettings

    words = f"burn {burn}" if burn else ""
    table = write_patients(folder, patients, VISITS, lambda _patient, _visit: words)
    (folder / "notes").mkdir()
    seconds = []
    run = Schedule.run
    def timed(self, plans):
        started = time.perf_counter()
        try:
            return run(self, plans)
        finally:
            seconds.append(time.perf_counter() - started)
    Schedule.run = timed
    job = CohortJob(read_manifest(table), folder / "out", PatientSettings(device="cpu", threads=1), workers=workers)
    result = run_cohort(job, planner_for=planner_for, functions=functions(folder / "notes"), record_failure=record_failure)
    assert not result.failed
    visits, busy = result.record.visits, result.record.task_seconds
    peak = peak_memory_gib()
    print(json.dumps({
        "visits": visits,
        "seconds": seconds[0],
        "ms": 1000 * (seconds[0] - busy / workers) / visits,
        "mib": None if peak is None else peak * 1024,
    }))

if __name__ == "__main__":
    VISITS = int(sys.argv[5])
    measure(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
"""


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; exit status 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--patients", type=int, nargs="+", default=[100, 1000], help="numbers of patients; none: 0")
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2], help="numbers of workers that share the burning")
    parser.add_argument("--burn", type=float, default=2.0, help="processor seconds of a visit in the second part")
    arguments = parser.parse_args(argv)
    met = simulated([each for each in arguments.patients if each])
    if arguments.workers:
        shared(arguments.workers, arguments.burn)
    return 0 if met else 1


def simulated(patients: list[int]) -> bool:
    """What the program adds; whether the goals are met."""
    if not patients:
        return True
    found = [measured(each, 1, 0.0) for each in patients]
    print("| patients | follow-ups | seconds | added to a visit, ms | peak memory of the driver, MiB |")
    print("|---:|---:|---:|---:|---:|")
    for count, each in zip(patients, found, strict=True):
        print(f"| {count} | {each['visits']} | {each['seconds']:.1f} | {each['ms']:.1f} | {_number(each['mib'])} |")
    growth = None
    if found[0]["mib"] is not None:
        growth = 100.0 * (found[-1]["mib"] / found[0]["mib"] - 1.0)
        print(f"\nMemory from {patients[0]} to {patients[-1]} patients: {growth:+.1f} % (goal: at most {MOST_GROWTH:g} %).")
    print(f"Added to a visit: goal at most {MOST_MS:g} ms.\n")
    return max(each["ms"] for each in found) <= MOST_MS and (growth is None or growth <= MOST_GROWTH)


def shared(workers: list[int], burn: float) -> None:
    """How much faster several workers are."""
    found = [measured(6, each, burn) for each in workers]
    print(f"| workers | seconds for {found[0]['visits']} follow-ups of {burn:g} s each | times as fast |")
    print("|---:|---:|---:|")
    for count, each in zip(workers, found, strict=True):
        print(f"| {count} | {each['seconds']:.1f} | {found[0]['seconds'] / each['seconds']:.2f} |")


def measured(patients: int, workers: int, burn: float) -> dict[str, Any]:
    """One run in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "run.py"  # a file, because worker processes read the program again
        script.write_text(f"import sys\nsys.path[:0] = [{str(LIBRARY)!r}, {str(UNIT)!r}]\n{RUN}", encoding="utf-8")
        command = [
            sys.executable,
            str(script),
            str(Path(folder) / "cohort"),
            str(patients),
            str(workers),
            str(burn),
            str(VISITS),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


if __name__ == "__main__":
    sys.exit(main())
