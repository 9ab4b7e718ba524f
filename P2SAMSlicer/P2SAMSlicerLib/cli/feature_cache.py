"""``p2sam cache``, and the option of other commands that keeps features on disk from one run to the next."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from P2SAMSlicerLib.cli.arguments import Commands
from P2SAMSlicerLib.cli.arguments import add_command as add_named_command
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.models.disk_cache import USUAL_BYTES, DiskCache

if TYPE_CHECKING:
    from P2SAMSlicerLib.models.protocol import PromptableModel

Wish = TypeVar("Wish")

DESCRIPTION = """\
Tells how many images a folder of features holds (see --feature-cache of p2sam
propagate and p2sam patient), and clears it. Features of a CT are derived patient
data: clear the folder when they are not needed any more."""


def add_command(commands: Commands) -> None:
    """Add ``cache`` to the command line."""
    parser = add_named_command(commands, "cache", run, "features that are kept on disk: how many, and clear them", DESCRIPTION)
    parser.add_argument("folder", metavar="DIR", type=Path, help="that --feature-cache named")
    parser.add_argument("--clear", action="store_true", help="remove all features from it, and nothing else")


def run(arguments: argparse.Namespace) -> int:
    """Run ``cache``.

    :raises InputError: the folder is not there.
    """
    if not arguments.folder.is_dir():
        raise InputError(f"{arguments.folder.name}: no such folder")
    cache = DiskCache(arguments.folder)
    use = cache.clear() if arguments.clear else cache.use()
    print(f"{use.images} images, {use.bytes / 1e6:.0f} MB{' removed' if arguments.clear else ''}")
    return 0


def add_cache_arguments(parser: argparse.ArgumentParser) -> None:
    """``--feature-cache``, ``--feature-cache-gib``."""
    group = parser.add_argument_group("features on disk")
    group.add_argument(
        "--feature-cache",
        metavar="DIR",
        type=Path,
        help="keep the encoder's features there, so that a run with other settings need not encode again; they are derived"
        " patient data: only you can look into the folder, and p2sam cache clears it (default: nothing is kept)",
    )
    group.add_argument(
        "--feature-cache-gib",
        metavar="GIB",
        type=_room,
        default=USUAL_BYTES / 2**30,
        help="most room for them; the oldest go first (default: %(default)g)",
    )


def opened_cache(arguments: argparse.Namespace) -> DiskCache | None:
    """The folder that the command line names, if it does.

    :raises OutputError: see :class:`~P2SAMSlicerLib.models.disk_cache.DiskCache`.
    """
    if arguments.feature_cache is None:
        return None
    return DiskCache(arguments.feature_cache, int(arguments.feature_cache_gib * 2**30))


def with_cache(load: Callable[[Wish], PromptableModel], disk: DiskCache | None) -> Callable[[Wish], PromptableModel]:
    """A function that loads a model which encodes no image of the run twice, with the disk behind it if there is one.

    Segments of one CT and visits that are carried from one prior may show the model the same images.
    """

    def loaded(wish: Wish) -> PromptableModel:
        from P2SAMSlicerLib.models.encode_cache import RUN_BYTES, EncodeCache

        return EncodeCache(load(wish), RUN_BYTES, disk)

    return loaded


def report_cache(disk: DiskCache | None) -> None:
    """Say on standard error if features could not be kept."""
    if disk is not None and disk.failure is not None:
        print(f"p2sam: features could not be kept on disk: {disk.failure}", file=sys.stderr)


def _room(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of GiB above 0")
    return value
