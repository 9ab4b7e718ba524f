"""The exceptions that a user of P2SAMSlicer may see.

Each message is one line that names the file (or the segment, the option) and the fault. The command line
turns an :class:`InputError` into exit status 2 without a traceback.
"""

from __future__ import annotations

import re


def one_line(text: str) -> str:
    """The same without line ends and without letters that no screen shows as they are."""
    return "".join(
        letter if letter.isprintable() else " " if letter.isspace() else "\N{REPLACEMENT CHARACTER}" for letter in text
    )


class P2SAMError(Exception):
    """Base of every error that P2SAMSlicer raises on purpose."""

    def __str__(self) -> str:
        """One line, whatever letters the names of files and structures in it have: a line's end, or a terminal's commands."""
        return one_line(super().__str__())


class InputError(P2SAMError, ValueError):
    """What the user gave cannot be used: a file, a segment name, an option. Exit status 2."""


class ModelError(InputError):
    """A model is unknown, absent, damaged, or is not what its name says. Exit status 2."""


class OutputError(P2SAMError, OSError):
    """A result cannot be written (no space, no permission). Nothing half-written is left. Exit status 2."""


class Cancelled(P2SAMError):
    """The caller asked to stop. Nothing was written."""


def unexpected(error: Exception) -> str:
    """One line for an error that nobody foresaw, for a screen or a file that others may see.

    Its own words are left out, and its traceback is shown on request only: they may hold anything, such as a folder that is
    named after a patient.
    """
    kind = type(error).__name__
    # The system's own words for its errors name no file.
    told = f"{kind} ({error.strerror})" if isinstance(error, OSError) and isinstance(error.strerror, str) else kind
    return f"unexpected {told}: a fault of this program (p2sam --debug shows the traceback, which may name folders)"


def out_of_memory(error: BaseException) -> str | None:
    """One line for an error that says that memory is used up, the computer's or an accelerator's; None for any other."""
    if isinstance(error, MemoryError):
        return str(error) if str(error).startswith("not enough memory") else "not enough memory"
    # PyTorch's own error is not named, so that it need not be there.
    if type(error).__name__ == "OutOfMemoryError" or (
        isinstance(error, RuntimeError) and "out of memory" in str(error).lower()
    ):
        return "not enough memory on the device; close other programs that use it, or choose the processor (cpu)"
    if isinstance(error, RuntimeError) and re.search("not enough memory|can.t allocate memory", str(error)):
        return "not enough memory"
    return None
