"""Output files that the user names one by one."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from P2SAMSlicerLib.atomic_file import check_writable
from P2SAMSlicerLib.errors import InputError, OutputError


def check_output_file(path: Path, inputs: Iterable[Path], need_bytes: int = 0) -> None:
    """Refuse, before any work, a file that cannot be written or would replace an input. Other files may be replaced.

    :param inputs: what the command reads.
    :param need_bytes: room that the file will need.
    :raises InputError: it is an input.
    :raises OutputError: it is a folder, its folder is not there, or there is no permission or no space.
    """
    if path.is_dir():
        raise OutputError(f"{path.name or path}: is a folder, where a file is to be written")
    if not path.parent.is_dir():
        raise OutputError(f"{path.name}: the folder {path.parent.name}, in which it is to be written, is not there")
    if path.exists() and any(each.exists() and path.samefile(each) for each in inputs):
        raise InputError(f"{path.name}: is an input, and would be replaced; choose another name")
    check_writable(path.parent, need_bytes)
