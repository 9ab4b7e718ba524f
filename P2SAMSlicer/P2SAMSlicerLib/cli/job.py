"""One run from files to files: everything is read and checked first, then the model is loaded once, then each follow-up."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from P2SAMSlicerLib.atomic_file import check_writable
from P2SAMSlicerLib.dicom.read_contours import carried_segments, contour_file, segments_from
from P2SAMSlicerLib.errors import Cancelled, InputError, P2SAMError, out_of_memory, unexpected
from P2SAMSlicerLib.handover_file import is_handed_over, read_handed_segmentation, read_handed_volume
from P2SAMSlicerLib.intensity import Modality, check_hounsfield
from P2SAMSlicerLib.models import check_model
from P2SAMSlicerLib.models.catalogue import default_model
from P2SAMSlicerLib.options import PropagationOptions
from P2SAMSlicerLib.progress import Progress, ProgressEvent, numbered, silent
from P2SAMSlicerLib.result import VisitResult
from P2SAMSlicerLib.result_files import FailedVisit, result_names, write_results
from P2SAMSlicerLib.threads import use_threads
from P2SAMSlicerLib.volume import Segment, Volume
from P2SAMSlicerLib.volume_file import read_volume
from P2SAMSlicerLib.volume_header import short_name

if TYPE_CHECKING:
    from P2SAMSlicerLib.dicom.ct_reference import CtReference
    from P2SAMSlicerLib.models.protocol import PromptableModel

#: Follow-ups stay in memory between check and use as long as all of them together are not larger; the others are read twice.
KEPT_BYTES = 1_000_000_000

#: Room that results need: compressed masks take far less than this share of a byte a voxel.
BYTES_PER_VOXEL = 0.05
LEAST_BYTES = 5_000_000


#: From a path to the CT there.
CtReader = Callable[[Path], Volume]


def read_ct(path: Path) -> Volume:
    """A CT from a file, a DICOM folder or what was handed over.

    :raises InputError: see :func:`~P2SAMSlicerLib.volume_file.read_volume`.
    """
    return read_handed_volume(path) if is_handed_over(path) else read_volume(path)


@dataclass(frozen=True)
class PropagationJob:
    """What shall be carried where.

    :param prior_ct: file or DICOM folder, or a volume that was handed over (:mod:`P2SAMSlicerLib.handover_file`).
    :param prior_seg: the segments on it: what :func:`~P2SAMSlicerLib.dicom.read_contours.segments_from` reads, or what was
        handed over.
    :param followups: at least one, as the prior CT.
    :param out: folder for the results.
    :param segments: names; empty for all but those that an earlier run added for comparison only.
    :param checkpoint: weights file instead of the model's own.
    :param allow_unverified: accept weights of unknown hash.
    :param precision: of the encoder, see :mod:`P2SAMSlicerLib.models.precision`.
    :param threads: None for the usual number.
    :param overwrite: replace results of an earlier run.
    """

    prior_ct: Path
    prior_seg: Path
    followups: tuple[Path, ...]
    out: Path
    segments: tuple[str, ...] = ()
    options: PropagationOptions = field(default_factory=PropagationOptions)
    model: str = field(default_factory=default_model)
    checkpoint: Path | None = None
    allow_unverified: bool = False
    device: str = "auto"
    precision: str = "auto"
    threads: int | None = None
    overwrite: bool = False


@dataclass
class Followup:
    """A follow-up that was read and found usable.

    :param volume: None where memory is to be spared; read again when its turn comes.
    """

    path: Path
    name: str
    warnings: tuple[str, ...]
    volume: Volume | None

    def take(self, read: CtReader) -> Volume:
        """The CT; it is given away and not kept.

        :raises InputError: it was changed or removed since it was checked.
        """
        volume, self.volume = self.volume, None
        return replace(read(self.path), name=self.name) if volume is None else volume


@dataclass(frozen=True)
class CheckedJob:
    """A job whose every input is usable."""

    job: PropagationJob
    prior: Volume
    segments: tuple[Segment, ...]
    followups: tuple[Followup, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class JobResult:
    """What came of a job.

    :param visits: one a follow-up, in order.
    :param files: what was written.
    """

    visits: tuple[VisitResult | FailedVisit, ...]
    files: tuple[Path, ...]
    warnings: tuple[str, ...]

    @property
    def failures(self) -> list[FailedVisit]:
        """The follow-ups to which nothing could be carried."""
        return [visit for visit in self.visits if isinstance(visit, FailedVisit)]


def load_job_model(job: PropagationJob) -> PromptableModel:
    """The job's model, loaded.

    :raises ModelError: see :func:`~P2SAMSlicerLib.models.load_model`.
    """
    from P2SAMSlicerLib.models import load_model

    return load_model(job.model, job.device, job.checkpoint, allow_unverified=job.allow_unverified, precision=job.precision)


def run_job(
    job: PropagationJob,
    progress: Progress = silent,
    *,
    model_of: Callable[[PropagationJob], PromptableModel] = load_job_model,
    read: CtReader = read_ct,
    visit_done: Callable[[int, VisitResult | FailedVisit], None] = lambda _number, _visit: None,
) -> JobResult:
    """Carry the segments to every follow-up and write the results.

    A follow-up that fails on the way is recorded as failed, and the results of the others are written.

    :param model_of: gives the job's model; a caller that runs several jobs may keep it.
    :param read: reads a CT; a caller may keep it too.
    :param visit_done: called with each follow-up's number, from 0, and what came of it, before anything is written.
    :raises InputError: an input cannot be used; nothing was written, and no model was loaded.
    :raises ModelError: the weights do not fit, or the device is not there; nothing was written.
    :raises OutputError: the results cannot be written; nothing was.
    """
    use_threads(job.threads)
    checked = check_job(job, progress, read)
    progress(ProgressEvent("model", 0, 1))
    model = model_of(job)
    progress(ProgressEvent("model", 1, 1, str(model.device)))
    visits: list[VisitResult | FailedVisit] = []
    for number in range(len(checked.followups)):
        visits.append(_carry(model, checked, number, progress, read))
        visit_done(number, visits[-1])
    files = write_results(job.out, visits, inputs=_input_names(job), warnings=checked.warnings)
    return JobResult(tuple(visits), tuple(files), checked.warnings)


def check_job(job: PropagationJob, progress: Progress = silent, read: CtReader = read_ct) -> CheckedJob:
    """Read and check everything that the job needs; does not import torch.

    :raises InputError: names the file, segment or option, and the fault.
    :raises OutputError: the results could not be written.
    """
    from P2SAMSlicerLib.propagation import check_visits

    job.options.check()
    names = [_followup_name(path) for path in job.followups]
    _check_output(job, names)
    check_model(job.model, job.checkpoint, allow_unverified=job.allow_unverified)
    if job.options.transform_file is not None:
        from P2SAMSlicerLib.transform_file import read_transform

        read_transform(job.options.transform_file)
    steps = _reading(progress, 2 + len(job.followups))
    next(steps)
    prior = _believed(read(job.prior_ct), Modality.CT)
    next(steps)
    segments, warnings = _read_segments(job, prior)
    job.options.check_names([segment.name for segment in segments])
    next(steps)
    followups: list[Followup] = []
    voxels = kept = 0
    for path, name in zip(job.followups, names, strict=True):
        volume = _believed(read(path), Modality(job.options.modality))
        check_visits(prior, volume, job.options)
        voxels += int(volume.array.size)
        kept += volume.array.nbytes
        named = replace(volume, name=name)
        followups.append(Followup(path, name, volume.warnings, named if kept <= KEPT_BYTES else None))
        next(steps)
    check_writable(job.out, int(LEAST_BYTES + BYTES_PER_VOXEL * voxels * len(segments)))
    told = (*(f"{prior.name}: {warning}" for warning in prior.warnings), *warnings)
    return CheckedJob(job, prior, tuple(segments), tuple(followups), told)


def _followup_name(path: Path) -> str:
    """The follow-up's name in the results: its file's, or its folder's."""
    if is_handed_over(path):
        return path.stem
    return short_name(path.resolve() if path.name in ("", "..") else path)


def _check_output(job: PropagationJob, names: Sequence[str]) -> None:
    """Refuse to write over an input, ever, and over other files, unless asked to."""
    if not names:
        raise InputError("--followup-ct: at least one follow-up is needed")
    inputs = [job.prior_ct, job.prior_seg, *job.followups]
    inputs += [path for path in (job.checkpoint, job.options.transform_file) if path is not None]
    there = [path for name in result_names(names) if os.path.lexists(path := job.out / name)]
    for path in there:
        if any(_same_file(path, each) for each in inputs):
            raise InputError(f"{path.name}: is an input, and the results would replace it; choose another folder for --out")
    if there and not job.overwrite:
        others = f" and {len(there) - 1} more" if len(there) > 1 else ""
        raise InputError(f"{there[0].name}{others}: there already in the folder for the results; use --overwrite to replace")
    check_writable(job.out, LEAST_BYTES)


def _same_file(path: Path, other: Path) -> bool:
    try:
        return path.samefile(other)
    except OSError:
        return False


def _reading(progress: Progress, total: int) -> Iterator[None]:
    """Tells the progress of reading at each step."""
    for done in range(total + 1):
        progress(ProgressEvent("reading", done, total))
        yield


def _believed(volume: Volume, modality: Modality) -> Volume:
    """A CT whose values can be Hounsfield units. What else they tell is the engine's to say."""
    check_hounsfield(volume, modality)
    return volume


def _read_segments(job: PropagationJob, prior: Volume) -> tuple[list[Segment], list[str]]:
    """The segments to carry, on the prior CT's grid, and warnings."""
    if is_handed_over(job.prior_seg):
        return carried_segments(read_handed_segmentation(job.prior_seg), job.segments, prior.grid)
    return segments_from(job.prior_seg, prior, _prior_reference(job), job.segments)


def _prior_reference(job: PropagationJob) -> CtReference | None:
    """The images behind the prior CT, to which contours from DICOM must belong; None if either is not DICOM."""
    if is_handed_over(job.prior_ct) or not job.prior_ct.is_dir() or not contour_file(job.prior_seg)[0]:
        return None
    from P2SAMSlicerLib.dicom.series import dicom_ct_of

    return dicom_ct_of(job.prior_ct).reference


def _carry(
    model: PromptableModel, checked: CheckedJob, number: int, progress: Progress, read: CtReader
) -> VisitResult | FailedVisit:
    """Carry the segments to one follow-up; its failure must not take the others' results away."""
    from P2SAMSlicerLib.propagation import propagate

    followup = checked.followups[number]
    try:
        volume = followup.take(read)
        told = numbered(progress, "follow-up", number + 1, len(checked.followups))
        result = propagate(model, checked.prior, checked.segments, volume, checked.job.options, told)
    except (Cancelled, KeyboardInterrupt):
        raise
    except P2SAMError as error:
        return FailedVisit(followup.name, " ".join(str(error).split()), traceback.format_exc())
    except Exception as error:
        reason = out_of_memory(error) or unexpected(error)
        return FailedVisit(followup.name, reason, traceback.format_exc(), out_of_memory(error) is not None)
    own = tuple(warning for warning in followup.warnings if warning not in result.warnings)
    return replace(result, name=followup.name, warnings=(*result.warnings, *own))


def _input_names(job: PropagationJob) -> dict[str, object]:
    """The inputs' names, without their folders."""
    transform = job.options.transform_file
    return {
        "prior_ct": job.prior_ct.name,
        "prior_seg": job.prior_seg.name,
        "followups": [path.name for path in job.followups],
        "transform": None if transform is None else transform.name,
        "checkpoint": None if job.checkpoint is None else job.checkpoint.name,
    }
