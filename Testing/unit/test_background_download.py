"""A download beside the program's own work: told, stopped, resumed, and never taken for one that succeeded."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from P2SAMSlicerLib.models import store, transfer
from P2SAMSlicerLib.models.background_download import BackgroundDownload
from P2SAMSlicerLib.models.catalogue import catalogue_entry
from weights_server import CONTENT, SHA256, Server, serving

MODEL = "sam_vit_b"
SECONDS = 30.0


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    """A server that has the weights of :data:`MODEL`; the store is empty."""
    monkeypatch.setenv("P2SAM_MODEL_DIR", str(tmp_path / "models"))
    monkeypatch.setattr(transfer, "RETRY_WAIT_S", 0.0)
    monkeypatch.setattr(transfer, "BLOCK", 50_000)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serving() as behaviour:
        entry = replace(catalogue_entry(MODEL), url=f"{behaviour.address}/weights.pth", sha256=SHA256, bytes=len(CONTENT))
        monkeypatch.setattr(store, "catalogue_entry", {MODEL: entry}.__getitem__)
        monkeypatch.setattr(store, "catalogue", lambda: (entry,))
        yield behaviour


def part() -> Path:
    return store.path(MODEL).with_name(f"{store.path(MODEL).name}.part")


def ended(download: BackgroundDownload) -> BackgroundDownload:
    download.wait(SECONDS)
    assert not download.running
    return download


class Gate:
    """Lets a download read so many blocks, and holds it then."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, blocks: int) -> None:
        self.reached, self.open = threading.Event(), threading.Event()
        self._blocks, self._read = blocks, transfer._read
        monkeypatch.setattr(transfer, "_read", self._gated)

    def _gated(self, stream: Any) -> bytes:
        if self._blocks == 0:
            self.reached.set()
            assert self.open.wait(SECONDS)
        self._blocks -= 1
        return self._read(stream)


def test_a_download_tells_how_far_it_is_and_ends_with_the_file(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch, 3)
    download = BackgroundDownload(MODEL)
    assert gate.reached.wait(SECONDS)
    assert download.running
    assert (download.model, download.done, download.total, download.error) == (MODEL, 150_000, 300_000, None)
    assert store.find(MODEL) is None
    gate.open.set()
    ended(download)
    assert (download.done, download.total, download.error) == (300_000, 300_000, None)
    assert store.path(MODEL).read_bytes() == CONTENT
    assert len(server.requests) == 1


def test_a_stopped_download_keeps_what_came_and_the_next_one_goes_on_there(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        gate = Gate(patched, 2)
        download = BackgroundDownload(MODEL)
        assert gate.reached.wait(SECONDS)
        download.cancel()
        download.cancel()
        assert download.running  # until the next piece
        gate.open.set()
        ended(download)
    assert download.error == "cancelled"
    assert part().read_bytes() == CONTENT[:150_000]
    assert store.find(MODEL) is None
    again = ended(BackgroundDownload(MODEL))
    assert again.error is None
    assert store.path(MODEL).read_bytes() == CONTENT
    assert [wanted for _, wanted in server.requests] == [None, "bytes=150000-"]


def test_one_that_is_stopped_before_the_first_piece_fetches_nothing(server: Server) -> None:
    server.delay_s = 0.3
    download = BackgroundDownload(MODEL)
    download.cancel()
    ended(download)
    assert download.error == "cancelled"
    assert store.find(MODEL) is None


def test_a_wrong_hash_is_told_and_leaves_nothing(server: Server) -> None:
    server.content = CONTENT[:-1] + b"!"
    download = ended(BackgroundDownload(MODEL))
    assert download.error is not None
    assert "it was deleted" in download.error
    assert "\n" not in download.error
    assert not part().exists()
    assert store.find(MODEL) is None


def test_a_server_that_refuses_and_one_that_breaks_off_are_told_and_the_next_try_succeeds(server: Server) -> None:
    server.status = 404
    assert "there is no such file" in str(ended(BackgroundDownload(MODEL)).error)
    server.status, server.cuts = 200, [120_000] + [0] * 20
    assert "keeps breaking off" in str(ended(BackgroundDownload(MODEL)).error)
    server.cuts = []
    assert ended(BackgroundDownload(MODEL)).error is None


def test_weights_that_are_there_are_not_fetched_again(server: Server) -> None:
    ended(BackgroundDownload(MODEL))
    download = ended(BackgroundDownload(MODEL))
    assert download.error is None
    assert len(server.requests) == 1


@pytest.mark.usefixtures("server")
def test_an_unknown_hash_is_refused_unless_it_is_allowed(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = replace(store.list_models()[0].entry, sha256=None)
    monkeypatch.setattr(store, "catalogue_entry", {MODEL: entry}.__getitem__)
    assert "no SHA-256 is known" in str(ended(BackgroundDownload(MODEL)).error)
    assert server.requests == []
    assert ended(BackgroundDownload(MODEL, allow_unverified=True)).error is None


def test_a_fault_of_the_program_is_told_without_a_path(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(*_args: Any, **_options: Any) -> None:
        raise ZeroDivisionError("/home/somebody")

    monkeypatch.setattr(store, "fetch", fault)
    download = ended(BackgroundDownload(MODEL))
    assert download.error is not None
    assert "unexpected ZeroDivisionError" in download.error
    assert "somebody" not in download.error
    assert server.requests == []
