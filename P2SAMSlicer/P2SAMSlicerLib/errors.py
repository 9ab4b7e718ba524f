"""The exceptions that a user of P2SAMSlicer may see.

Each message is one line that names the file (or the segment, the option) and the fault. The command line
turns an :class:`InputError` into exit status 2 without a traceback.
"""

from __future__ import annotations


class P2SAMError(Exception):
    """Base of every error that P2SAMSlicer raises on purpose."""


class InputError(P2SAMError, ValueError):
    """What the user gave cannot be used: a file, a segment name, an option. Exit status 2."""


class ModelError(InputError):
    """A model is unknown, absent, damaged, or is not what its name says. Exit status 2."""


class OutputError(P2SAMError, OSError):
    """A result cannot be written (no space, no permission). Nothing half-written is left. Exit status 2."""


class Cancelled(P2SAMError):
    """The caller asked to stop. Nothing was written."""
