"""From volumes and segments in memory to a request that the worker can do: the files that it reads, in a private folder."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from P2SAMSlicerLib.cli.job import PropagationJob
from P2SAMSlicerLib.handover_file import (
    SEGMENTATION_SUFFIX,
    VOLUME_SUFFIX,
    hand_over_segmentation,
    hand_over_volume,
)
from P2SAMSlicerLib.volume import Segmentation, Volume
from P2SAMSlicerLib.worker.messages import Propagate


def hand_over_job(
    folder: Path, prior: Volume, segmentation: Segmentation, followups: Sequence[Volume], **choices: Any
) -> Propagate:
    """Write what a job needs, and make the request.

    The files stay until the folder is removed: an update of edited prompts names the same follow-up.

    :param folder: private (:class:`~P2SAMSlicerLib.worker.private_folder.PrivateFolder`), and there already; the results
        (``results``) and the records (``records``) go into it too, unless ``out`` is given.
    :param choices: further fields of :class:`~P2SAMSlicerLib.cli.job.PropagationJob`.
    :raises OutputError: no space, no permission; none of the files is left.
    :raises InputError: values that are no numbers, or masks off their grid.
    """
    prior_ct, prior_seg = folder / f"prior{VOLUME_SUFFIX}", folder / f"prior{SEGMENTATION_SUFFIX}"
    paths = tuple(folder / f"followup_{number}{VOLUME_SUFFIX}" for number in range(1, len(followups) + 1))
    try:
        hand_over_volume(prior, prior_ct)
        hand_over_segmentation(segmentation, prior_seg)
        for followup, path in zip(followups, paths, strict=True):
            hand_over_volume(followup, path)
    except BaseException:
        for path in (prior_ct, prior_seg, *paths):
            with suppress(OSError):
                path.unlink(missing_ok=True)
        raise
    job = PropagationJob(
        **{"prior_ct": prior_ct, "prior_seg": prior_seg, "followups": paths, "out": folder / "results", **choices}
    )
    return Propagate(job, folder / "records")
