"""The command line ``p2sam``: one file for each command, and here what they share: exit statuses and one-line errors."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

from P2SAMSlicerLib.cli.arguments import PROGRAM, build_parser
from P2SAMSlicerLib.errors import Cancelled, P2SAMError, unexpected

#: Exit statuses. Bad input is found before any model is loaded, and nothing is written then.
SUCCESS, FAILURE, BAD_INPUT = 0, 1, 2
INTERRUPTED = 128 + signal.SIGINT
TERMINATED = 128 + signal.SIGTERM
#: What a shell reports of a program whose reader went away (128 + SIGPIPE, which Windows does not know).
BROKEN_PIPE = 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    :param argv: arguments without the program's name; those of the process if None.
    :returns: 0 if all went well, 1 if something failed on the way, 2 for input that cannot be used, 130 after Ctrl-C.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    # Segment names may hold letters that the terminal's encoding lacks.
    with suppress(AttributeError, OSError, ValueError):
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        with _termination_as_exit():
            options = build_parser().parse_args(arguments)
            status = int(options.run(options))
            sys.stdout.flush()
            return status
    except SystemExit as stop:  # --help and --version end like this, and so does termination
        return stop.code if isinstance(stop.code, int) else SUCCESS
    except BrokenPipeError:
        _silence_stdout()
        return BROKEN_PIPE
    except (KeyboardInterrupt, Cancelled):
        _say("interrupted; nothing half-written is left")
        return INTERRUPTED
    except P2SAMError as error:
        return _report(str(error), arguments, BAD_INPUT)
    except MemoryError:
        return _report("not enough memory", arguments, FAILURE)
    except Exception as error:
        return _report(unexpected(error), arguments, FAILURE)


def _report(message: str, arguments: Sequence[str], status: int) -> int:
    """Print an error in one line, or on request with its traceback."""
    if "--debug" in arguments:
        with suppress(OSError, ValueError):
            traceback.print_exc()
    _say(f"error: {' '.join(message.split())}")
    return status


def _say(line: str) -> None:
    # Standard error may be gone, and there is nobody to tell then.
    with suppress(OSError, ValueError, AttributeError):
        print(f"{PROGRAM}: {line}", file=sys.stderr, flush=True)


def _silence_stdout() -> None:
    """Keep Python from complaining about the lost reader once more when it ends."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _termination_as_exit() -> Iterator[None]:
    """Let a termination signal clean up as Ctrl-C does, so that it leaves no half-written file."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise SystemExit(TERMINATED)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        # A handler that was not set from Python shows as None and cannot be put back.
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)
