"""Progress for a terminal, for a program and for nobody; a reader that goes away stops nothing."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from P2SAMSlicerLib.progress import Progress, ProgressEvent, json_progress, silent, terminal_progress

LIBRARY = Path(__file__).resolve().parents[2] / "P2SAMSlicer"


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


class Gone(io.StringIO):
    """A pipe whose reader has closed it."""

    def write(self, text: str, /) -> int:
        raise BrokenPipeError(32, f"nobody reads these {len(text)} characters")


class GoneTerminal(Gone):
    def isatty(self) -> bool:
        return True


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def walk(progress: Progress, stage: str, total: int) -> None:
    for done in range(total + 1):
        progress(ProgressEvent(stage, done, total))


def test_json_progress_writes_one_object_a_line() -> None:
    stream = io.StringIO()
    walk(json_progress(stream), "encode", 2)
    assert stream.getvalue().endswith("}\n")
    assert lines(stream) == [{"event": "progress", "stage": "encode", "done": done, "total": 2} for done in range(3)]


def test_a_message_is_a_key_only_where_there_is_one() -> None:
    stream = io.StringIO()
    progress = json_progress(stream)
    progress(ProgressEvent("encode", 0, 2))
    progress(ProgressEvent("encode", 1, 2, "slice 1"))
    assert ["message" in line for line in lines(stream)] == [False, True]
    assert lines(stream)[1]["message"] == "slice 1"


def test_a_message_of_several_lines_stays_on_one_line_of_ascii() -> None:
    stream = io.StringIO()
    json_progress(stream)(ProgressEvent("encode", 1, 2, 'a "b"\nµ\u2028c'))
    assert stream.getvalue().count("\n") == 1
    assert stream.getvalue().isascii()
    assert lines(stream)[0]["message"] == 'a "b"\nµ\u2028c'


def test_each_json_line_is_flushed_before_the_next_step() -> None:
    flushed: list[str] = []

    class Buffered(io.StringIO):
        def flush(self) -> None:
            flushed.append(self.getvalue())

    stream = Buffered()
    progress = json_progress(stream)
    for done in range(3):
        progress(ProgressEvent("encode", done, 2))
        assert flushed[-1] == stream.getvalue()
    assert len(flushed[-1].splitlines()) == 3


def test_progress_goes_to_standard_error_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    json_progress()(ProgressEvent("encode", 1, 2))
    with terminal_progress() as progress:
        progress(ProgressEvent("decode", 2, 2))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert [json.loads(line)["stage"] for line in captured.err.splitlines()] == ["encode", "decode"]


def test_silent_progress_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    walk(silent, "encode", 3)
    assert capsys.readouterr() == ("", "")


def test_a_stream_that_is_no_terminal_gets_json() -> None:
    stream = io.StringIO()
    with terminal_progress(stream) as progress:
        walk(progress, "encode", 1)
    assert [line["done"] for line in lines(stream)] == [0, 1]


def test_json_can_be_asked_for_on_a_terminal() -> None:
    stream = Terminal()
    with terminal_progress(stream, as_json=True) as progress:
        walk(progress, "encode", 1)
    assert [line["done"] for line in lines(stream)] == [0, 1]


def test_a_terminal_gets_a_bar_for_each_stage_and_finished_ones_stay() -> None:
    stream = Terminal()
    with terminal_progress(stream) as progress:
        walk(progress, "registration", 2)
        walk(progress, "encode", 3)
    text = stream.getvalue()
    assert "event" not in text
    kept = [part.rsplit("\r", 1)[-1] for part in text.split("\n")[:-1]]
    assert len(kept) == 2
    assert "registration: 100%" in kept[0]
    assert "2/2" in kept[0]
    assert "encode: 100%" in kept[1]
    assert "3/3" in kept[1]


def test_a_stage_that_comes_again_after_its_end_gets_a_new_bar() -> None:
    stream = Terminal()
    with terminal_progress(stream) as progress:
        walk(progress, "encode", 3)
        walk(progress, "encode", 2)
    kept = [part.rsplit("\r", 1)[-1] for part in stream.getvalue().split("\n")[:-1]]
    assert ["3/3" in kept[0], "2/2" in kept[1]] == [True, True]


def test_an_unfinished_bar_is_wiped_when_an_error_leaves() -> None:
    stream = Terminal()
    kept: list[Progress] = []

    def fail() -> None:
        with terminal_progress(stream) as progress:
            kept.append(progress)  # as the engine may: the bar must not wait for the garbage collector
            progress(ProgressEvent("encode", 0, 4))
            progress(ProgressEvent("encode", 2, 4))
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    text = stream.getvalue()
    assert "encode" in text
    assert "\n" not in text
    assert text.endswith("\r")
    assert text.split("\r")[-2].strip() == ""


def test_a_stage_of_unknown_length_and_one_that_overruns_are_shown() -> None:
    stream = Terminal()
    with terminal_progress(stream) as progress:
        progress(ProgressEvent("download", 0, 0))
        progress(ProgressEvent("download", 7, 0))
        progress(ProgressEvent("encode", 5, 4))
    kept = [part.rsplit("\r", 1)[-1] for part in stream.getvalue().split("\n")[:-1]]
    assert len(kept) == 1
    assert "encode: 100%" in kept[0]
    assert "5/5" in kept[0]


def test_a_message_cannot_break_the_bars_line() -> None:
    stream = Terminal()
    with terminal_progress(stream) as progress:
        progress(ProgressEvent("encode", 1, 1, "slice\n12\rof 20"))
    assert "slice 12 of 20" in stream.getvalue()
    assert stream.getvalue().count("\n") == 1


@pytest.mark.parametrize("stream", [Gone(), GoneTerminal()])
def test_a_reader_that_has_gone_away_stops_nothing(stream: Gone) -> None:
    with terminal_progress(stream) as progress:
        walk(progress, "encode", 2)
        walk(progress, "decode", 2)


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_a_stream_that_is_closed_on_the_way_stops_nothing(kind: type[io.StringIO]) -> None:
    stream = kind()
    with terminal_progress(stream) as progress:
        progress(ProgressEvent("encode", 1, 2))
        stream.close()
        walk(progress, "decode", 2)


def test_a_program_without_standard_error_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    with terminal_progress() as progress:
        assert progress is silent
        walk(progress, "encode", 2)


def test_importing_progress_loads_no_library_for_bars() -> None:
    code = "import sys, P2SAMSlicerLib.progress; sys.exit('tqdm' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(LIBRARY)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0
