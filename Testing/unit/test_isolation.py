"""The rules of conftest.py hold: tests cannot reach the network, and hypothesis draws the same examples every time."""

from __future__ import annotations

import socket

import pytest
from hypothesis import settings


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
