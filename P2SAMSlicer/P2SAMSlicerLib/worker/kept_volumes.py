"""CTs that were read for one request and serve the next, as long as their files are as they were."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

from P2SAMSlicerLib.cli.job import read_ct
from P2SAMSlicerLib.volume import Volume

#: What tells that a file, or a folder's files, changed: names, sizes, times of change, and the system's numbers of the files,
#: which differ where a file was replaced within what the disk takes for one moment.
Signature = tuple[tuple[str, int, int, int], ...]


class KeptVolumes:
    """Reads CTs and keeps those that were used last.

    :param limit_bytes: most room for their voxels.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._volumes: OrderedDict[Path, tuple[Signature, Volume]] = OrderedDict()

    def read(self, path: Path) -> Volume:
        """The CT there; read again only if its files changed.

        :raises InputError: see :func:`P2SAMSlicerLib.cli.job.read_ct`.
        """
        key = path.absolute()
        signature = signature_of(key)
        kept = self._volumes.pop(key, None)
        if kept is None or signature is None or kept[0] != signature:
            kept = (signature or (), read_ct(path))
        if signature is not None:
            self._volumes[key] = kept
        while sum(volume.array.nbytes for _, volume in self._volumes.values()) > self._limit:
            self._volumes.popitem(last=False)
        return kept[1]

    def clear(self) -> None:
        """Forget them all."""
        self._volumes.clear()


def signature_of(path: Path) -> Signature | None:
    """What tells whether a file or a folder is as it was; None where it cannot be told."""
    try:
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        return tuple((str(each), (told := each.stat()).st_size, told.st_mtime_ns, told.st_ino) for each in files)
    except OSError:
        return None
