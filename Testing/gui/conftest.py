"""Fixtures of the tests that run the Slicer module in the headless host."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from host.facts import reference_folder


@pytest.fixture(scope="session")
def facts_folder() -> Path:
    """Where the tables of Slicer's names lie."""
    folder = reference_folder()
    if folder is None:
        pytest.skip("no tables of Slicer's names: there is no folder reference beside the shared data")
    return folder


@pytest.fixture
def start_host(tmp_path: Path, facts_folder: Path) -> Iterator[Callable[..., Any]]:
    """Function that starts the host with options of :class:`host.session.Host`; it ends with the test.

    An exception in a slot, timer or observer fails the test, unless the test takes it with ``host.errors.take()``.
    """
    from host.session import Host

    started: list[Any] = []

    def start(**options: Any) -> Any:
        assert not started, "one application at a time"
        folder = tmp_path / "Slicer settings"
        folder.mkdir()
        started.append(Host(folder, facts_folder, **options))
        return started[0]

    yield start
    for one in started:
        one.process_events()
        one.close()
        if one.errors.caught:
            pytest.fail(f"an exception in a slot:\n{one.errors.text()}")


@pytest.fixture
def host(start_host: Callable[..., Any]) -> Any:
    """The application at the oldest release that the module supports."""
    return start_host()


@pytest.fixture
def user(host: Any) -> Any:
    """A person at the panel of the module, with a worker that tells what the test says."""
    from panel_user import PanelUser

    return PanelUser(host)
