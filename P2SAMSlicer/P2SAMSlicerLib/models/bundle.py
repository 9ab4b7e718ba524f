"""Weights from a folder that was prepared on another computer, for a clinic without network."""

from __future__ import annotations

import shutil
from pathlib import Path

from P2SAMSlicerLib.atomic_file import atomic_write, check_writable
from P2SAMSlicerLib.errors import ModelError
from P2SAMSlicerLib.models import store
from P2SAMSlicerLib.models.catalogue import CatalogueEntry, catalogue
from P2SAMSlicerLib.models.checkpoint import check_file, hash_file


def take_weights(folder: Path) -> list[str]:
    """Copy the weights that a folder holds under the catalogue's file names to where downloaded weights lie.

    Weights that are on this computer already are left alone. A model whose hash nobody knows is not taken: such a file is
    chosen by hand, so that somebody answers for it.

    :returns: ids of the models that were taken.
    :raises ModelError: a file is not what its name says; nothing of it was kept.
    :raises OutputError: no space, no permission.
    """
    taken = []
    for entry in _downloadable():
        source = folder / entry.file_name
        if store.find(entry.id) is None and source.is_file():
            check_file(source, entry.sha256)
            target = store.path(entry.id)
            check_writable(target.parent, source.stat().st_size)
            target.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(target) as temporary:
                shutil.copyfile(source, temporary)
                # What was read a second time from a bad medium need not be what was checked.
                if hash_file(temporary) != entry.sha256:
                    raise ModelError(f"{source.name}: the copy has another SHA-256 than the file; copy the folder again")
            taken.append(entry.id)
    return taken


def _downloadable() -> list[CatalogueEntry]:
    return [entry for entry in catalogue() if entry.url is not None and entry.sha256 is not None]
