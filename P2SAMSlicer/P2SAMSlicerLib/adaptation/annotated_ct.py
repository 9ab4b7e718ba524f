"""The training data: CTs with a contour of the tumour, in folders.

A folder of one patient, or of one case of ``p2sam simulate``, holds pairs of files: ``CT_image`` and ``CT_mask``, ``ct`` and
``seg``, ``prior_ct`` and ``prior_seg``, ``followup_ct`` and ``followup_seg``. Each pair is one annotated CT.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from P2SAMSlicerLib.case_folder import find_file, patient_of, read_facts
from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.simulation.visit import HELD_OUT_FILLS

#: Names of a CT and of its contour, without their endings.
PAIRS = (("CT_image", "CT_mask"), ("ct", "seg"), ("prior_ct", "prior_seg"), ("followup_ct", "followup_seg"))


@dataclass(frozen=True)
class AnnotatedCT:
    """One CT and its contour, not read yet.

    :param name: of its folder and of the CT's file.
    :param patient: the same for all CTs of one patient; training and validation never share a patient.
    :param segment: name of the tumour, for contours that hold several structures.
    """

    name: str
    patient: str
    ct: Path
    contour: Path
    segment: str | None = None


def find_annotated_cts(folder: Path) -> list[AnnotatedCT]:
    """All annotated CTs of the folders in a folder, by name.

    :raises InputError: there is none; or one was made in a way that is kept for testing, see
        :data:`~P2SAMSlicerLib.simulation.visit.HELD_OUT_FILLS`.
    """
    if not folder.is_dir():
        raise InputError(f"{folder.name or folder}: not a folder of training cases")
    found = [each for path in sorted(folder.iterdir()) if path.is_dir() for each in _in_folder(path)]
    if not found:
        names = ", ".join(f"{ct} and {contour}" for ct, contour in PAIRS)
        raise InputError(f"{folder.name or folder}: no folder in it holds a CT with its contour (named {names})")
    return found


def split_by_patient(
    cts: Sequence[AnnotatedCT], share: float, seed: int, hold_out: Sequence[str] = ()
) -> tuple[list[AnnotatedCT], list[AnnotatedCT]]:
    """Training and validation CTs without a common patient.

    :param share: of the patients that validate; at least one does if it is above 0.
    :param hold_out: patients that validate, instead of a share that is drawn.
    :raises InputError: nobody would be left to train on, or a patient to hold out is not there.
    """
    import numpy as np

    patients = sorted({each.patient for each in cts})
    for patient in hold_out:
        if patient not in patients:
            raise InputError(f"--hold-out: there is no patient '{patient}'; there are: {', '.join(patients)}")
    count = max(1, round(share * len(patients))) if share > 0 else 0
    drawn = np.random.default_rng(seed).permutation(len(patients))[:count]
    held = set(hold_out) or {patients[i] for i in drawn}
    if len(held) >= len(patients):
        option = "--hold-out" if hold_out else "--validation"
        raise InputError(f"{option}: with {len(patients)} patient(s) nobody would be left to train on")
    return [c for c in cts if c.patient not in held], [c for c in cts if c.patient in held]


def _in_folder(folder: Path) -> list[AnnotatedCT]:
    facts = {name: str(value) for name, value in read_facts(folder).items() if value is not None}
    fill, segment = facts.get("fill"), facts.get("segment")
    if fill in HELD_OUT_FILLS:
        raise InputError(f"{folder.name}: was simulated with the fill '{fill}', which is kept for testing and never trained on")
    found = []
    for ct_name, contour_name in PAIRS:
        ct, contour = find_file(folder, ct_name), find_file(folder, contour_name)
        vanished = ct_name == "followup_ct" and facts.get("change") == "vanish"
        if ct is not None and contour is not None and not vanished:
            found.append(AnnotatedCT(f"{folder.name}/{ct.name}", patient_of(folder, facts), ct, contour, segment))
    return found
