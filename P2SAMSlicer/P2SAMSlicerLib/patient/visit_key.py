"""What a visit's results were made from, as one hash: the same key means that carrying again would give the same.

It is made of what the files hold and not of where they lie or what they are called, so that a moved patient is still the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

from P2SAMSlicerLib import __version__
from P2SAMSlicerLib.errors import InputError, ModelError
from P2SAMSlicerLib.models import check_model
from P2SAMSlicerLib.models.checkpoint import hash_file
from P2SAMSlicerLib.models.precision import encoder_precision
from P2SAMSlicerLib.patient.visit_order import PatientVisit, VisitOrder

#: Changed when the same inputs would give another folder.
KEY_VERSION = 2


def visit_key(order: VisitOrder) -> str:
    """SHA-256 of everything that decides what is written: contents of the files, options, weights, version.

    Contours that an earlier order writes are part of it as they are now; absent ones too.

    :raises InputError: a file cannot be read; the message names the visit.
    """
    transform = order.options.transform_file
    options = {**asdict(order.options), "transform_file": None if transform is None else file_hash(transform)}
    content = {
        "key_version": KEY_VERSION,
        "version": __version__,
        "references": [_visit(visit, visit.label in order.unreviewed) for visit in order.references],
        "followup": _visit(order.followup, False, contours=False),
        "segments": order.segments,
        "carried_from": order.carried_from,
        "unreviewed": order.unreviewed,
        "options": options,
        "model": model_fingerprint(order.model, order.checkpoint, allow_unverified=order.allow_unverified),
        "precision": encoder_precision(order.precision),
        "dicom": order.dicom,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _visit(visit: PatientVisit, may_lack: bool, *, contours: bool = True) -> dict[str, object]:
    sources = [(_hashes([each.path], visit, may_lack=may_lack), each.approved) for each in (visit.contours if contours else ())]
    return {
        "label": visit.label,
        "number": visit.number,
        "day": visit.day,
        "ct": _hashes(visit.ct.paths, visit, may_lack=False),
        "resample": visit.ct.resample,
        "contours": sources,
    }


def _hashes(paths: Iterable[Path], visit: PatientVisit, *, may_lack: bool) -> list[str]:
    """Hashes of files, in an order that their names do not decide."""
    found = []
    for path in paths:
        try:
            found.append(file_hash(path))
        except OSError as error:
            if may_lack and isinstance(error, FileNotFoundError):
                found.append("absent")
                continue
            reason = (error.strerror or "unknown reason").lower()
            raise InputError(f"{visit.label}: one of its files cannot be read ({reason})") from error
    return sorted(found)


def file_hash(path: Path) -> str:
    """SHA-256 of a file; hashed again only if its size or time changed.

    :raises OSError: it cannot be read.
    """
    status = path.stat()
    return _file_hash(str(path), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=20_000)
def _file_hash(path: str, size: int, modified_ns: int) -> str:
    del size, modified_ns  # they are there for the cache's key
    return hash_file(Path(path))


def model_fingerprint(model: str, checkpoint: Path | None = None, *, allow_unverified: bool = False) -> str:
    """What tells one model from another: its name and the hashes of its weights; a model that is not here has its name only."""
    try:
        base = check_model(model, checkpoint, allow_unverified=allow_unverified)
        hashes = [file_hash(base)]
        if checkpoint is not None and checkpoint != base:
            hashes.append(file_hash(checkpoint))
    except (ModelError, OSError):
        return f"{model}: not on this computer"
    return " ".join([model, *hashes])
