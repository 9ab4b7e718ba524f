"""What all tests share: data, one loaded model, and rules that make every run the same and keep it off the network."""

from __future__ import annotations

import ipaddress
import os
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from P2SAMSlicerLib.models.protocol import PromptableModel

ROOT = Path(__file__).resolve().parents[1]

settings.register_profile("p2sam", derandomize=True, deadline=None, database=None)
settings.load_profile("p2sam")

# Read when matplotlib or a model is first asked for; child processes of tests inherit them.
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

#: Files of tests that take longest, the longest first. They are begun first: begun last, one of them would leave the other
#: process of tests without work.
LONGEST = (
    "test_engine_on_visits.py",
    "test_end_to_end_dicom.py",
    "test_module_real_worker.py",
    "test_adaptation_training.py",
    "test_propagation.py",
    "test_propagation_geometry.py",
    "test_fuzz_dicom.py",
    "test_benchmark_methods.py",
    "test_propagation_record.py",
    "test_model_default.py",
    "test_worker_client.py",
    "test_cli_cohort.py",
    "test_cohort_resume.py",
    "test_simulation.py",
    "test_registration_quality.py",
    "test_simulation_synthesis.py",
    "test_registration.py",
    "test_authors_loop.py",
    "test_model_loading.py",
    "test_cbct_scale.py",
    "test_cli.py",
    "test_model_authors_checkpoint.py",
    "test_model_lite_medsam.py",
    "test_host_strictness.py",
    "test_simulation_lesion.py",
    "test_worker_runs.py",
    "test_cli_adapt.py",
    "test_module_review.py",
    "test_module_strictness.py",
    "test_worker_streams.py",
    "test_packages.py",
    "test_packaging.py",
    "test_paper_visit.py",
    "test_commissioning_measure.py",
    "test_output_faults.py",
    "test_patient_run.py",
    "test_patient_report.py",
)


def pytest_configure(config: pytest.Config) -> None:
    """Give each process of tests its threads, before torch, the BLAS or ITK is imported; child processes inherit them.

    Processes that share two cores take one each: threads that wait for each other take twice as long. It is set here and not
    where this file is read: xdist's processes inherit what the first process has set before it knows of them.
    """
    alone = not config.getoption("numprocesses", None)
    for name in ("OMP_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"):
        os.environ.setdefault(name, "2" if alone else "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; the rest stays in its order."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


class NetworkUseError(RuntimeError):
    """A test reached for the network. Not an OSError, so that no code under test takes it for a failed connection."""


def is_address(host: str) -> bool:
    """Whether a host is given by number, so that it needs no look-up."""
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether a host is this machine."""
    return host == "localhost" or (is_address(host) and ipaddress.ip_address(host.partition("%")[0]).is_loopback)


def guarded(connect: Callable[..., Any]) -> Callable[..., Any]:
    """``connect`` or ``connect_ex`` that lets only loopback and non-internet sockets through."""

    def checked(self: socket.socket, address: Any, /) -> Any:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not is_loopback(address[0]):
            raise NetworkUseError(f"tests must not use the network: connection to {address[0]}")
        return connect(self, address)

    return checked


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse connections and look-ups of names beyond this machine."""
    look_up = socket.getaddrinfo

    def local_look_up(host: Any, *args: Any, **kwargs: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if name and name != "localhost" and not is_address(name):
            raise NetworkUseError(f"tests must not use the network: look-up of {name}")
        return look_up(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", local_look_up)
    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, guarded(getattr(socket.socket, name)))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real CTs that lies beside the checkout or is named by ``P2SAM_SHARED_DATA``."""
    named = os.environ.get("P2SAM_SHARED_DATA")
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no shared data: neither P2SAM_SHARED_DATA nor ../shared/data beside the checkout is a folder")
    return folder


@pytest.fixture(scope="session")
def visit_case(shared_data: Path) -> Callable[[str], Path]:
    """Function from a case's name to its folder with ``prior_ct``, ``prior_seg``, ``followup_ct`` and ``followup_seg``."""

    def folder_of(name: str) -> Path:
        folder = shared_data / "visits" / name
        if not folder.is_dir():
            pytest.skip(f"the shared data has no visits/{name}")
        return folder

    return folder_of


@pytest.fixture(scope="session")
def lite_medsam() -> PromptableModel:
    """LiteMedSAM with its real weights on the CPU, loaded once."""
    import torch
    from P2SAMSlicerLib.models import load_model

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    return load_model("lite_medsam", device="cpu")


@pytest.fixture(scope="session")
def demo_ct() -> tuple[Path, Path]:
    """A real lung CT and its tumour's label map, which every machine with a network once can have; see demo_data."""
    from P2SAMSlicerLib.demo_data import lung_ct
    from P2SAMSlicerLib.errors import P2SAMError

    try:
        # Before any test's own fixtures, so the network is still open here.
        return lung_ct()
    except P2SAMError as error:
        pytest.skip(str(error))


@pytest.fixture
def scene() -> Iterator[Any]:
    """An empty scene of 3D Slicer without the application; it is ``slicer.mrmlScene`` as well."""
    from headless_scene import new_scene

    made = new_scene()
    yield made
    made.Clear(True)


@pytest.fixture(scope="session")
def tool() -> Callable[[str], str]:
    """Function from the name of a program to its path. Where it is absent the test is skipped, or fails if
    ``REQUIRE_TOOLS=1``, as in CI, which installs these programs."""

    def find(name: str) -> str:
        # Some come with a Python package, and lie beside the interpreter.
        found = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
        if found is None:
            message = f"the program {name} is not installed"
            if os.environ.get("REQUIRE_TOOLS") == "1":
                pytest.fail(message)
            pytest.skip(message)
        return found

    return find
