"""How the host says no: what Slicer does not have, and what Slicer has but the host does not."""

from __future__ import annotations


class RefusedNameError(AttributeError):
    """A name that the class does not have in the Slicer release that the host plays."""


class RefusedSignalError(AssertionError):
    """A signal or slot signature that the class does not have. In Slicer ``connect`` only returns False, which nobody reads."""


class HostLacksError(NotImplementedError):
    """Slicer has the name, but the host has not learnt it yet. No AttributeError, so that ``hasattr`` does not hide it."""
