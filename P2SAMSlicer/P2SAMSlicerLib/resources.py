"""The one locator of the files in ``Resources/`` that the program reads while it runs."""

from __future__ import annotations

from pathlib import Path

from P2SAMSlicerLib.errors import InputError

#: Inside the package in a built wheel; beside it in the checkout and in Slicer, which keeps a module's Resources there.
FOLDERS = (Path(__file__).resolve().parent / "Resources", Path(__file__).resolve().parent.parent / "Resources")


def resource_path(name: str) -> Path:
    """Where a resource lies.

    :param name: path below ``Resources/`` with forward slashes, for example ``Models.json``.
    :raises InputError: it is in neither place: the installation is incomplete.
    """
    for folder in FOLDERS:
        path = folder.joinpath(*name.split("/"))
        if path.exists():
            return path
    raise InputError(f"Resources/{name}: missing, the installation of P2SAMSlicer is incomplete; install it again")
