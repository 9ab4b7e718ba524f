"""All files below a folder, however it is linked."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

#: Reasons why something below a folder is not looked at.
HIDDEN = "hidden files and folders"
LOOPED = "links to folders that are searched already"
CLOSED_FOLDER = "folders that cannot be opened"
SPECIAL = "broken links and other things that are no files"


def files_below(folder: Path, left_aside: Counter[str]) -> list[str]:
    """Paths of the files of a folder and its sub-folders, sorted.

    Links are followed; a folder that is met again, as in a loop of links, is not searched again.

    :param left_aside: gets what was not looked at, by reason.
    :raises OSError: the folder itself cannot be opened.
    """
    found: list[str] = []
    known: set[tuple[int, int] | str] = set()
    waiting = [str(folder)]
    while waiting:
        place = waiting.pop()
        try:
            status = os.stat(place)  # noqa: PTH116 - strings: a hundred thousand paths as objects are slow
            # Some file systems number nothing.
            identity = (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(place)
            if identity in known:
                left_aside[LOOPED] += 1
                continue
            known.add(identity)
            with os.scandir(place) as entries:
                for entry in entries:
                    _sort(entry, found, waiting, left_aside)
        except OSError:
            if place == str(folder):
                raise
            left_aside[CLOSED_FOLDER] += 1
    return sorted(found)


def _sort(entry: os.DirEntry[str], files: list[str], folders: list[str], left_aside: Counter[str]) -> None:
    """One entry to the files, or to the folders that wait."""
    try:
        if entry.name.startswith("."):
            left_aside[HIDDEN] += 1
        elif entry.is_dir():
            folders.append(entry.path)
        elif entry.is_file():
            files.append(entry.path)
        else:  # a pipe or a device, which might never end, or a link to nothing
            left_aside[SPECIAL] += 1
    except OSError:  # a link to itself
        left_aside[SPECIAL] += 1
