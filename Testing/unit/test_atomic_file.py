"""Files and sets of files appear whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from P2SAMSlicerLib import atomic_file
from P2SAMSlicerLib.atomic_file import atomic_folder, atomic_write, check_writable
from P2SAMSlicerLib.errors import InputError, OutputError

LIBRARY = Path(atomic_file.__file__).parents[1]
needs_posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals and limits")


def no_space(*_args: object, **_kwargs: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def contents(folder: Path) -> dict[str, str]:
    """Relative name -> text of every file below a folder, hidden ones included."""
    return {str(p.relative_to(folder)): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


def write_set(folder: Path, *names: str) -> None:
    with atomic_folder(folder) as stage:
        for name in names:
            (stage / name).parent.mkdir(exist_ok=True)
            (stage / name).write_text("new")


def run_python(code: str, *arguments: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(LIBRARY)},
    )


def test_a_written_file_has_its_content_and_nothing_else_is_left(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "a.json") as temporary:
        assert temporary.parent == tmp_path
        assert temporary.name.startswith(".")
        temporary.write_text("new")
        assert not (tmp_path / "a.json").exists()
    assert contents(tmp_path) == {"a.json": "new"}


def test_an_existing_file_keeps_its_old_content_until_the_end_of_the_block(tmp_path: Path) -> None:
    target = tmp_path / "a.csv"
    target.write_text("old")
    with atomic_write(target) as temporary:
        temporary.write_text("new")
        assert target.read_text() == "old"
    assert contents(tmp_path) == {"a.csv": "new"}


@pytest.mark.parametrize("name", ["x.nii.gz", "x.seg.nrrd", "x.mha", "GTV 1.2024.nrrd"])
def test_the_temporary_file_ends_like_the_target(tmp_path: Path, name: str) -> None:
    with atomic_write(tmp_path / name) as temporary:
        assert temporary.name.endswith(Path(name).suffix)
        assert temporary.name.endswith(name[1:]) or not name.startswith("x")


@pytest.mark.parametrize("name", ["n" * 248 + ".nii.gz", "a." + "b" * 250, "." + "h" * 200, "é患者 ß.json"])
def test_the_longest_and_the_strangest_names_can_be_written(tmp_path: Path, name: str) -> None:
    with atomic_write(tmp_path / name) as temporary:
        temporary.write_text("new")
    assert contents(tmp_path) == {name: "new"}


@needs_posix
def test_a_result_has_the_permissions_of_an_ordinary_new_file(tmp_path: Path) -> None:
    (tmp_path / "ordinary").write_text("")
    with atomic_write(tmp_path / "result") as temporary:
        temporary.write_text("")
    assert stat.S_IMODE((tmp_path / "result").stat().st_mode) == stat.S_IMODE((tmp_path / "ordinary").stat().st_mode)


@pytest.mark.parametrize("exception", [ValueError, KeyboardInterrupt, SystemExit, MemoryError, InputError])
def test_any_exception_passes_unchanged_and_leaves_the_old_file_alone(tmp_path: Path, exception: type[BaseException]) -> None:
    (tmp_path / "a").write_text("old")

    def write_half() -> None:
        with atomic_write(tmp_path / "a") as temporary:
            temporary.write_text("half")
            raise exception

    with pytest.raises(exception) as raised:
        write_half()
    assert type(raised.value) is exception
    assert contents(tmp_path) == {"a": "old"}


@pytest.mark.parametrize("where", [(Path, "replace"), (os, "fsync")], ids=["replace", "fsync"])
def test_a_full_disk_at_the_last_moment_is_one_line_and_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: tuple[object, str]
) -> None:
    (tmp_path / "a.nrrd").write_text("old")
    monkeypatch.setattr(*where, no_space)
    with pytest.raises(OutputError) as raised, atomic_write(tmp_path / "a.nrrd") as temporary:
        temporary.write_text("new")
    assert str(raised.value) == "a.nrrd: cannot be written (no space left on device)"
    assert contents(tmp_path) == {"a.nrrd": "old"}


def test_a_full_disk_while_writing_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"^a: cannot be written \(no space left on device\)$"), atomic_write(tmp_path / "a"):
        no_space()
    assert contents(tmp_path) == {}


def test_a_missing_folder_is_an_output_error_without_the_path(tmp_path: Path) -> None:
    with pytest.raises(OutputError) as raised, atomic_write(tmp_path / "nowhere" / "a.json"):
        pytest.fail("the block must not run")
    assert str(raised.value).startswith("a.json: cannot be written (")
    assert str(tmp_path) not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_folder_in_place_of_the_file_is_an_output_error_and_stays(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "inside").write_text("old")
    with pytest.raises(OutputError, match=r"^a: cannot be written"), atomic_write(tmp_path / "a") as temporary:
        temporary.write_text("new")
    assert contents(tmp_path) == {str(Path("a") / "inside"): "old"}


@needs_posix
def test_a_process_killed_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    done = run_python(
        """
        import os, signal, sys
        from P2SAMSlicerLib.atomic_file import atomic_write
        with atomic_write(sys.argv[1]) as temporary:
            temporary.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
        """,
        tmp_path / "a",
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    visible = {name: text for name, text in contents(tmp_path).items() if not name.startswith(atomic_file.TEMPORARY_PREFIX)}
    assert visible == {"a": "old"}


@needs_posix
def test_a_really_full_file_system_leaves_what_was_there(tmp_path: Path) -> None:
    if not (shutil.which("unshare") and shutil.which("mount")):
        pytest.skip("no unshare or mount to make a small file system with")
    script = f"""
        set -e
        mount -t tmpfs -o size=64k tmpfs '{tmp_path}' || exit 77
        printf old > '{tmp_path}/a'
        '{sys.executable}' -c '
        import sys
        from P2SAMSlicerLib.atomic_file import atomic_folder, atomic_write
        from P2SAMSlicerLib.errors import OutputError
        for block in (lambda: atomic_write(sys.argv[1] + "/a"), lambda: atomic_folder(sys.argv[1])):
            try:
                with block() as place:
                    (place / "a" if place.is_dir() else place).write_bytes(bytes(1 << 20))
            except OutputError as error:
                print(error)
        ' '{tmp_path}'
        ls -A '{tmp_path}'; cat '{tmp_path}/a'
    """
    command = ["unshare", "--mount", "sh", "-c", textwrap.dedent(script)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=60, env={**os.environ, "PYTHONPATH": str(LIBRARY)}
    )
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("no right to mount a small file system")
    assert done.stdout.splitlines() == [
        "a: cannot be written (no space left on device)",
        f"{tmp_path.name}: cannot be written (no space left on device)",
        "a",
        "old",
    ], done.stderr


def test_a_new_folder_appears_with_all_its_files_at_the_end(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "er" / "out"
    with atomic_folder(out) as stage:
        (stage / "a").write_text("A")
        (stage / "sub").mkdir()
        (stage / "sub" / "b").write_text("B")
        assert not out.exists()
    assert contents(tmp_path / "deep") == {str(Path("er/out/a")): "A", str(Path("er/out/sub/b")): "B"}


def test_files_of_the_same_name_are_replaced_and_others_stay(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    (tmp_path / "other").write_text("other")
    with atomic_folder(tmp_path) as stage:
        (stage / "a").write_text("new")
        (stage / "sub").mkdir()
        (stage / "sub" / "b").write_text("B")
        assert (tmp_path / "a").read_text() == "old"
    assert contents(tmp_path) == {"a": "new", "other": "other", str(Path("sub") / "b"): "B"}


@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.parametrize("exception", [ValueError, KeyboardInterrupt, InputError])
def test_an_exception_leaves_the_folder_as_it_was(tmp_path: Path, exists: bool, exception: type[BaseException]) -> None:
    out = tmp_path / "made" / "out"
    if exists:
        out.mkdir(parents=True)
        (out / "a").write_text("old")
    before = sorted(tmp_path.rglob("*"))

    def write_half() -> None:
        with atomic_folder(out) as stage:
            (stage / "a").write_text("new")
            raise exception

    with pytest.raises(exception):
        write_half()
    assert sorted(tmp_path.rglob("*")) == before
    assert not exists or contents(out) == {"a": "old"}


@pytest.mark.parametrize("exception", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("fails_at", [1, 2, 3, 4])
@pytest.mark.parametrize("links", [True, False])
def test_a_failure_between_the_moves_puts_everything_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exception: BaseException, fails_at: int, links: bool
) -> None:
    for name in ("a", "c"):
        (tmp_path / name).write_text("old")
    before = sorted(tmp_path.rglob("*"))
    real, calls = Path.replace, 0

    def replace(source: Path, goal: Path) -> None:
        nonlocal calls
        calls += 1
        # At no moment is a file without either its old or its new content.
        assert {"a", "c"} <= {path.name for path in tmp_path.iterdir()}
        if calls == fails_at:
            raise exception
        real(source, goal)

    monkeypatch.setattr(Path, "replace", replace)
    if not links:
        monkeypatch.setattr(os, "link", no_space)
    expected = OutputError if isinstance(exception, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        write_set(tmp_path, "a", "b", "c", "sub/d")
    assert contents(tmp_path) == {"a": "old", "c": "old"}
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_where_a_file_must_go_is_an_output_error_and_nothing_changes(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    (tmp_path / "b").mkdir()
    with pytest.raises(OutputError, match="b is a folder there"):
        write_set(tmp_path, "a", "b")
    assert contents(tmp_path) == {"a": "old"}


def test_a_file_where_the_folder_must_go_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("old")
    with pytest.raises(OutputError, match=r"^out: cannot be written \("), atomic_folder(tmp_path / "out"):
        pytest.fail("the block must not run")
    assert contents(tmp_path) == {"out": "old"}


@needs_posix
def test_a_process_killed_while_filling_a_folder_leaves_it_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    done = run_python(
        """
        import os, signal, sys
        from P2SAMSlicerLib.atomic_file import atomic_folder
        with atomic_folder(sys.argv[1]) as stage:
            (stage / "a").write_text("new")
            os.kill(os.getpid(), signal.SIGKILL)
        """,
        tmp_path,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    visible = {name: text for name, text in contents(tmp_path).items() if not name.startswith(atomic_file.TEMPORARY_PREFIX)}
    assert visible == {"a": "old"}
    with atomic_folder(tmp_path) as stage:
        (stage / "a").write_text("second run")
    assert (tmp_path / "a").read_text() == "second run"


def test_a_folder_that_can_be_written_passes_the_check_and_stays_empty(tmp_path: Path) -> None:
    check_writable(tmp_path, need_bytes=1)
    check_writable(tmp_path / "not" / "yet", need_bytes=1)
    assert list(tmp_path.iterdir()) == []


def test_too_little_space_is_refused_with_both_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: shutil._ntuple_diskusage(10, 5, 7_000_000))
    check_writable(tmp_path, need_bytes=7_000_000)
    with pytest.raises(OutputError, match=r"not enough space, 12 MB needed and 7 MB free$"):
        check_writable(tmp_path / "out", need_bytes=12_000_000)


@pytest.mark.parametrize("below", ["file", "file/out"])
def test_a_file_in_the_way_fails_the_check(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        check_writable(tmp_path / below)


def test_a_folder_without_permission_fails_the_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_args: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(OutputError, match=r"^out: cannot be written \(permission denied\)$"):
        check_writable(tmp_path / "out")
