"""The rules of conftest.py hold: no network, the same examples of hypothesis every time, the longest files of tests first."""

from __future__ import annotations

import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import settings

TESTING = Path(__file__).resolve().parents[1]


def test_a_connection_beyond_this_machine_is_refused() -> None:
    # 192.0.2.0/24 and 2001:db8::/32 are reserved for documentation.
    with pytest.raises(RuntimeError, match=r"network: connection to 192\.0\.2\.1"):
        socket.create_connection(("192.0.2.1", 80), timeout=1)
    with socket.socket() as client, pytest.raises(RuntimeError, match="network"):
        client.connect_ex(("192.0.2.1", 80))


def test_an_ipv6_connection_beyond_this_machine_is_refused() -> None:
    try:
        client = socket.socket(socket.AF_INET6)
    except OSError:
        pytest.skip("this machine has no IPv6")
    with client, pytest.raises(RuntimeError, match="network"):
        client.connect(("2001:db8::1", 80))


def test_the_look_up_of_a_name_beyond_this_machine_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"look-up of example\.org"):
        socket.create_connection(("example.org", 80), timeout=1)


def test_a_connection_to_this_machine_goes_through() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        for host in ("127.0.0.1", "localhost"):
            with socket.create_connection((host, port), timeout=10):
                server.accept()[0].close()


def test_hypothesis_draws_the_same_examples_every_time_and_takes_its_time() -> None:
    assert settings.default is not None
    assert settings.default.derandomize
    assert settings.default.deadline is None


def test_the_longest_files_of_tests_exist_and_are_begun_first(pytestconfig: pytest.Config) -> None:
    rules: Any = pytestconfig.pluginmanager.get_plugin(str(TESTING / "conftest.py"))
    assert len(set(rules.LONGEST)) == len(rules.LONGEST) > 5
    assert {path.name for path in TESTING.rglob("test_*.py")} >= set(rules.LONGEST)
    names = ["test_isolation.py", rules.LONGEST[1], "test_volume_file.py", rules.LONGEST[0], rules.LONGEST[1]]
    items = [SimpleNamespace(path=TESTING / name, number=number) for number, name in enumerate(names)]
    rules.pytest_collection_modifyitems(items)
    assert [item.number for item in items] == [3, 1, 4, 0, 2]
