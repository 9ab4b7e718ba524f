"""Mix-ups between visits: another patient, or a follow-up that is older than the prior."""

from __future__ import annotations

from P2SAMSlicerLib.errors import InputError
from P2SAMSlicerLib.options import PropagationOptions
from P2SAMSlicerLib.volume import Volume


def check_visits(prior: Volume, followup: Volume, options: PropagationOptions) -> tuple[str, ...]:
    """Refuse a mix-up that the files themselves show; files without identity (NIfTI, NRRD) show none.

    :returns: what the user overrode, in words, for the record.
    :raises InputError: another patient id, or a follow-up acquired before the prior, without its override.
    """
    overridden = []
    # Folders of two visits are often called alike.
    earlier, later = (prior.name, followup.name) if prior.name != followup.name else ("the prior CT", "the follow-up CT")
    ids = (prior.identity.patient_id, followup.identity.patient_id)
    if all(ids) and ids[0] != ids[1]:
        text = f"{later}: its patient id is not that of {earlier}"
        if not options.allow_other_patient:
            raise InputError(f"{text} (--allow-other-patient carries on, and records it)")
        overridden.append(text)
    first, second = prior.identity.acquired, followup.identity.acquired
    if first and second:
        digits = min(len(first), len(second))
        if second[:digits] < first[:digits]:
            text = f"{later}: it was acquired before {earlier}"
            if not options.allow_older_followup:
                raise InputError(f"{text} (--allow-older-followup carries on, and records it)")
            overridden.append(text)
    return tuple(overridden)
