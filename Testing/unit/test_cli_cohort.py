"""``p2sam cohort``: what it refuses before anything is begun, and small patients carried with the real engine."""

from __future__ import annotations

import csv
import importlib.util
import json
import re
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cohort_stand_ins import write_patients
from P2SAMSlicerLib.cli import main
from P2SAMSlicerLib.cohort import remote_cluster
from P2SAMSlicerLib.cohort import run as cohort_run
from P2SAMSlicerLib.cohort.private_orders import PrivateOrders
from P2SAMSlicerLib.cohort.remote_cluster import SchedulerAddress, is_loopback
from P2SAMSlicerLib.cohort.visit_task import TaskSetup, VisitFunctions, holds_review
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.options import PropagationOptions
from P2SAMSlicerLib.patient import plan
from P2SAMSlicerLib.patient.visit_order import VisitOrder
from P2SAMSlicerLib.segmentation_file import write_segmentation
from P2SAMSlicerLib.volume import Segmentation
from P2SAMSlicerLib.volume_file import write_volume
from small_visits import PRIOR_GRID, phantom, segment


def brightness(order: VisitOrder) -> Any:
    """A model without weights, in a worker."""
    from stub_model import BrightnessModel

    assert order.threads == 1
    return BrightnessModel()


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Two patients, one of them without contours, and the table of them."""
    for name in ("Doe^Jane", "Roe^Rick"):
        for date in ("2024-01-10", "2024-02-07"):
            (tmp_path / name / date).mkdir(parents=True)
            write_volume(phantom(PRIOR_GRID), tmp_path / name / date / "ct.nii.gz")
    write_segmentation(Segmentation(PRIOR_GRID, (segment(),)), tmp_path / "Doe^Jane" / "2024-01-10" / "contours.seg.nrrd")
    path = tmp_path / "patients.csv"
    path.write_text("patient,folder\nMRN1,Doe^Jane\nMRN2,Roe^Rick\n")
    return path


def test_patients_are_carried_recorded_and_kept_when_the_run_is_resumed(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = PropagationOptions(registration="none", max_parts=2)
    monkeypatch.setattr(plan, "PatientSettings", partial(plan.PatientSettings, options=quick))
    real = cohort_run.run_cohort
    monkeypatch.setattr(cohort_run, "run_cohort", partial(real, functions=VisitFunctions(load=brightness)))
    out = tmp_path / "out"
    command = ["cohort", str(table), "--out", str(out), "--threads", "1", "--device", "cpu"]
    assert main([*command, "--identified"]) == 1
    told = capsys.readouterr()
    assert "patients of whom nothing could be carried       1" in told.out
    assert "unreviewed" in told.out
    with (out / "results.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["patient"], first["key"], first["visit"], first["day"]) == ("p0001", "MRN1", "visit_2", "28")
    assert (first["outcome"], first["segment"], first["segment_outcome"]) == ("done", "GTV", "found")
    assert float(first["volume_ml"]) > 0
    assert (second["patient"], second["outcome"], second["segment"]) == ("p0002", "failed", "")
    assert "no visit has contours" in second["reasons"]
    pages = [(out / name).read_text(encoding="utf-8") for name in ("cohort.html", "p0001/report.html", "p0001/report.json")]
    assert 'href="p0001/report.html"' in pages[0]
    for shown in (told.err, *pages):
        words = re.sub(r"base64,[A-Za-z0-9+/=]+", "", shown)
        for secret in ("Doe", "Roe", "MRN", "2024-0", "202401"):
            assert secret not in words
    written = out / "p0001" / "visit_2" / "visit_2.seg.nrrd"
    before = written.stat().st_mtime_ns
    assert main(command) == 2
    assert "--resume goes on with them, --overwrite replaces them" in capsys.readouterr().err
    monkeypatch.setattr(cohort_run, "run_cohort", partial(real, functions=VisitFunctions(load=never)))
    assert main([*command, "--resume"]) == 1
    assert "follow-ups kept from an earlier run             1" in capsys.readouterr().out
    assert written.stat().st_mtime_ns == before
    assert "MRN" not in (out / "results.csv").read_text()


def never(_order: VisitOrder) -> Any:
    """No model is needed."""
    raise AssertionError("a model was loaded for visits that are finished")


@pytest.mark.parametrize("package", ["distributed", "pyarrow", "cryptography"])
def test_a_missing_package_is_told_with_the_way_to_install_it(
    tmp_path: Path, package: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == package else find(name, *more))
    assert main(["cohort", str(write_patients(tmp_path, 1)), "--out", str(tmp_path / "out")]) == 2
    told = capsys.readouterr()
    assert told.err == (
        f"p2sam: error: p2sam cohort needs packages that are not installed ({package}): pip install 'p2sam-slicer[cohort]'\n"
    )
    assert not (tmp_path / "out").exists()


def test_nothing_of_dask_is_imported_by_other_commands_or_by_a_refusal() -> None:
    code = (
        "import sys\nfrom P2SAMSlicerLib.cli import main\n"
        "assert main(['cohort', '--help']) == 0\nassert main(['cohort', 'none.csv', '--out', 'nowhere']) == 2\n"
        "assert not {'dask', 'distributed', 'pyarrow', 'torch'} & set(sys.modules), sorted(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "p2sam: error: none.csv: cannot be read (no such file or directory)\n"


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("10.0.0.7:8786", "is no address of the kind tls://HOST:PORT"),
        ("ucx://10.0.0.7:8786", "is no address"),
        ("tls://10.0.0.7", "is no address"),
        ("tls://10.0.0.7:99999", "is no address"),
        ("tls://a b:1", "is no address"),
        ("tcp://10.0.0.7:8786", "is neither encrypted nor does it check who connects"),
        ("tcp://localhost.example.org:8786", "start the scheduler with --tls-ca-file, --tls-cert and --tls-key"),
        ("tcp://127.0.0.1.example.org:8786", "taken on this computer only"),
        ("tcp://[2001:db8::1]:8786", "taken on this computer only"),
        ("tls://10.0.0.7:8786", "tls:// needs --tls-ca, --tls-cert and --tls-key; --tls-ca is missing"),
    ],
)
def test_a_scheduler_that_others_could_use_or_read_is_refused(
    tmp_path: Path, address: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    table = write_patients(tmp_path, 1)
    assert main(["cohort", str(table), "--out", str(tmp_path / "out"), "--scheduler", address]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
    assert not (tmp_path / "out").exists()


def test_loopback_is_told_without_a_look_up() -> None:
    assert all(is_loopback(host) for host in ("127.0.0.1", "127.8.8.8", "localhost", "LOCALHOST", "[::1]"))
    assert not any(is_loopback(host) for host in ("0.0.0.0", "10.0.0.1", "example.org", "[::]", "127.0.0.1.example.org"))
    SchedulerAddress("tcp://[::1]:8786").check()
    with pytest.raises(InputError, match=r"--tls-ca: goes with a tls:// address only"):
        SchedulerAddress("tcp://127.0.0.1:8786", tls_ca=Path("ca.pem")).check()
    with pytest.raises(InputError, match=r"--tls-ca: ca\.pem is not there"):
        SchedulerAddress("tls://h:1", *(Path(name) for name in ("ca.pem", "cert.pem", "key.pem"))).check()


def test_options_that_contradict_each_other_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["cohort", str(write_patients(tmp_path, 1)), "--out", str(tmp_path / "out")]
    for more in (["--resume", "--overwrite"], ["--workers", "2", "--scheduler", "tcp://127.0.0.1:1"], ["--workers", "0"]):
        assert main([*command, *more]) == 2
    assert main([*command, "--tls-ca", "ca.pem"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith("go with --scheduler tls://HOST:PORT")
    assert not (tmp_path / "out").exists()


class Workers:
    """Dask's client of a cluster with two workers, one of which may be as a test wants it."""

    def __init__(self, **other: Any) -> None:
        self.other = other

    def wait_for_workers(self, _count: int, timeout: float) -> None:
        if self.other.get("count") == 0:
            raise TimeoutError(timeout)

    def nthreads(self) -> dict[str, int]:
        return {"a": 1, "b": self.other.get("threads", 1)}

    def run(self, function: Any, *arguments: Any) -> dict[str, Any]:
        if function is remote_cluster.read_probe:
            return {"a": function(*arguments), "b": "" if "blind" in self.other else function(*arguments)}
        if "missing" in self.other:
            raise ModuleNotFoundError("No module named 'P2SAMSlicerLib'")
        facts = function()
        return {"a": facts, "b": replace(facts, **self.other.get("facts", {}))}

    def run_on_scheduler(self, function: Any) -> Any:
        return function()


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"count": 0}, "it has no worker; start some: dask worker ADDRESS --nworkers N --nthreads 1"),
        ({"threads": 2}, "a worker has several threads, and a visit needs one for itself; start them as dask worker"),
        ({"missing": True}, "P2SAMSlicer is missing in its Python or that of its workers"),
        ({"facts": {"version": "9.9"}}, "it or a worker has P2SAMSlicer 9.9, and this computer"),
        ({"facts": {"python": "3.8"}}, "it or a worker has Python 3.8, and this computer"),
        ({"facts": {"distributed": "1.0"}}, "it or a worker has distributed 1.0, and this computer"),
        ({"blind": True}, "1 of 2 workers cannot read the folder for the results; all workers need the folders"),
    ],
)
def test_workers_that_would_fail_are_refused_with_what_to_do(tmp_path: Path, other: dict[str, Any], words: str) -> None:
    setup = TaskSetup("0" * 32, PrivateOrders(tmp_path).path)
    assert remote_cluster._check_workers(Workers(), setup) == 2
    with pytest.raises(InputError) as refused:
        remote_cluster._check_workers(Workers(**other), setup)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)
    assert str(tmp_path) not in str(refused.value)
    assert not list(setup.orders.iterdir())


@pytest.mark.parametrize(
    ("visits", "held"),
    [
        ([{"segments": [{"review": {"decision": "unreviewed"}}]}], False),
        (
            [{"segments": []}, {"segments": [{"review": {"decision": "unreviewed"}}, {"review": {"decision": "rejected"}}]}],
            True,
        ),
        ("damaged", False),
    ],
)
def test_a_report_with_a_persons_review_is_known(tmp_path: Path, visits: Any, held: bool) -> None:
    path = tmp_path / "report.json"
    assert not holds_review(path)
    path.write_text(json.dumps({"visits": visits}))
    assert holds_review(path) is held
