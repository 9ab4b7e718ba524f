"""The files of a case's folder, by their names, and what ``case.json`` tells of it; for the benchmark and for training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from P2SAMSlicerLib.errors import InputError

#: Endings in the order in which they are looked for; "" is a DICOM folder.
ENDINGS = (".nii.gz", ".seg.nrrd", ".nrrd", ".nii", ".mha", ".mhd", "")

#: What ``p2sam simulate`` writes where it was told nothing.
UNKNOWN = "unknown"


def find_file(folder: Path, stem: str) -> Path | None:
    """The file, or folder of DICOM slices, of this name; None if there is none."""
    return next((path for ending in ENDINGS if (path := folder / f"{stem}{ending}").exists()), None)


def read_facts(folder: Path) -> dict[str, Any]:
    """What ``case.json`` tells of a case; nothing if it is not there.

    :raises InputError: the file is no JSON object.
    """
    path = folder / "case.json"
    if not path.is_file():
        return {}
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{folder.name}: {path.name} cannot be read as JSON") from error
    if not isinstance(facts, dict):
        raise InputError(f"{folder.name}: {path.name} holds no JSON object")
    return facts


def patient_of(folder: Path, facts: dict[str, Any]) -> str:
    """Whose case it is: what ``case.json`` names as patient, or else as source; a folder that says neither is a patient."""
    named = (facts.get(key) for key in ("patient", "source"))
    return next((str(each) for each in named if each not in (None, "", UNKNOWN)), folder.name)
